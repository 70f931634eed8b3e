"""Canny edges (Canny 1986, through kornia): dark lines on white."""

from __future__ import annotations

import kornia
from torch import Tensor


def edges(image_BCHW: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> edge maps in [-1, 1] of the same shape: -1 on an edge, 1 elsewhere."""
    _, edge_B1HW = kornia.filters.canny(image_BCHW * 0.5 + 0.5)
    return (1 - 2 * edge_B1HW).expand_as(image_BCHW)
