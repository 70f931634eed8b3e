"""Diversity: how far apart the samples of one condition are.

Read it beside faithfulness: a model that ignores its condition is diverse too, and one that has collapsed is near 0.
"""

from __future__ import annotations

from torch import Tensor


def diversity(features_NKD: Tensor) -> Tensor:
    """Mean distance between pairs of the K samples of each condition, in units of one feature: (N,). K >= 2.

    The distance is divided by sqrt(D), so for features on the sphere of radius sqrt(D) it lies between 0 and 2.
    """
    num, dim = features_NKD.shape[1:]
    distance_NKK = (features_NKD.unsqueeze(2) - features_NKD.unsqueeze(1)).float().norm(dim=-1)
    return distance_NKK.sum(dim=(1, 2)) / (num * (num - 1) * dim**0.5)
