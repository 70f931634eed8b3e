"""Grey levels (luma of ITU-R BT.601): colourisation is its inverse."""

from __future__ import annotations

import kornia
from torch import Tensor


def grey(image_BCHW: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> the same without colour, three equal channels in [-1, 1]."""
    grey_B1HW = kornia.color.rgb_to_grayscale(image_BCHW * 0.5 + 0.5)
    return (grey_B1HW * 2 - 1).expand_as(image_BCHW)
