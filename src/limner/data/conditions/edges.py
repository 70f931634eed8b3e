"""Canny edges (Canny 1986, through kornia): dark lines on white."""

from __future__ import annotations

import math

import kornia
from torch import Tensor

from limner.errors import ConfigError


def edges(image_BCHW: Tensor, *, low: float = 0.1, high: float = 0.2, sigma: float = 1.0) -> Tensor:
    """Pictures in [-1, 1] -> edge maps in [-1, 1] of the same shape: -1 on an edge, 1 elsewhere.

    Args:
        low: how strong a line must be where it goes on from a strong one. A step from black to white is 2.6.
        high: how strong a line must be somewhere, to be one.
        sigma: blur before looking, in pixels; more leaves out finer lines.

    Source: Canny, "A Computational Approach to Edge Detection", 1986.
    """
    if not (0 < low <= high and sigma > 0):
        raise ConfigError(
            f"edges cannot have low {low:g}, high {high:g}, sigma {sigma:g}.", "0 < low <= high, and sigma above 0"
        )
    side_px = 2 * math.ceil(2 * sigma) + 1
    _, edge_B1HW = kornia.filters.canny(image_BCHW * 0.5 + 0.5, low, high, (side_px, side_px), (sigma, sigma))
    return (1 - 2 * edge_B1HW).expand_as(image_BCHW)
