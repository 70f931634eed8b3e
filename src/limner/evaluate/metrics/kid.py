"""Kernel distance between two sets of features (Binkowski et al. 2018, arXiv 1801.01401).

The unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3: zero on average for two sets of one distribution
whatever their size, so it may come out negative, and small sets can be compared with large ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_RESAMPLES = 500


def kid(x_ND: Tensor, y_MD: Tensor) -> float:
    """MMD^2, unbiased; at least two pictures a set."""
    return float(_mmd(*_kernels(x_ND, y_MD), torch.ones(1, len(x_ND)), torch.ones(1, len(y_MD))))


def interval(x_ND: Tensor, y_MD: Tensor, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of ``kid`` over the pictures of both sets: the ``level`` percentiles of 500 resamples.

    A picture that is drawn twice is not compared with itself, else every resample would lie above the estimate; the
    rare resample of a small set that holds one picture only has no value, and is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = (_counts(NUM_RESAMPLES, len(set_), generator) for set_ in (x_ND, y_MD))
    values = _mmd(*_kernels(x_ND, y_MD), *counts)
    low, high = values.nanquantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)).tolist()
    return low, high


def _kernels(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = x_ND.double(), y_MD.double()
    return tuple((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))  # type: ignore[return-value]


def _mmd(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor, w_RN: Tensor, v_RM: Tensor) -> Tensor:
    """MMD^2 with each picture counted w (v) times, (R,); pairs of a picture with itself are left out."""
    w, v = w_RN.double(), v_RM.double()
    cross = torch.einsum("rn,nm,rm->r", w, k_xy, v) / (w.sum(1) * v.sum(1))
    return _mean_of_pairs(k_xx, w) + _mean_of_pairs(k_yy, v) - 2 * cross


def _mean_of_pairs(k_NN: Tensor, w_RN: Tensor) -> Tensor:
    pairs = k_NN - torch.diag(k_NN.diagonal())
    return torch.einsum("rn,nm,rm->r", w_RN, pairs, w_RN) / (w_RN.sum(1) ** 2 - w_RN.square().sum(1))


def _counts(num: int, size: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` pictures is drawn in each of ``num`` resamples with replacement, (num, size)."""
    drawn = torch.randint(size, (num, size), generator=generator)
    return torch.zeros(num, size).scatter_add_(1, drawn, torch.ones(num, size))
