"""Frechet distance between two sets of features, each seen as a Gaussian (Heusel et al. 2017; FID with any embedder).

    d^2 = |mu_1 - mu_2|^2 + tr(C_1) + tr(C_2) - 2 tr((C_1 C_2)^(1/2))

Covariances are the plain sample ones, nothing added to their diagonal. The last trace is taken without squaring
anything: with C_i = R_i' R_i (QR of the centred features) it is the sum of the singular values of R_1 R_2'. That is
exact also where there are fewer pictures than dimensions and C is singular, which is where matrix square roots break.

With few pictures the distance is biased upwards (Binkowski et al. 2018): compare sets of the same size only, and read
it beside the distance of real from real.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(x_ND: Tensor, y_MD: Tensor) -> float:
    """The squared distance d^2, as FID is reported; at least two pictures a set. Symmetric, 0 for equal sets."""
    x, y = x_ND.double(), y_MD.double()
    between = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    r_x, r_y = _root(x), _root(y)
    overlap = torch.linalg.svdvals(r_x @ r_y.T).sum()
    return max(0.0, float(between + r_x.square().sum() + r_y.square().sum() - 2 * overlap))


def _root(x_ND: Tensor) -> Tensor:
    """R with R' R = the sample covariance, (min(N, D), D)."""
    centred = (x_ND - x_ND.mean(dim=0)) / (len(x_ND) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R
