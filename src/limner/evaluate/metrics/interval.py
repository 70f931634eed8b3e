"""The percentile bootstrap (Efron 1979): how far a mean would move with other pictures of the same kind."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_RESAMPLES = 2000


def interval(values_N: Tensor, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of one number a picture (a condition, where a condition has several samples)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values_N), (NUM_RESAMPLES, len(values_N)), generator=generator)
    means = values_N.double()[drawn].mean(dim=1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high
