"""Grey: the picture without its colours, for colouring in."""

from __future__ import annotations

import kornia
from torch import Tensor


def grey(image_BCHW: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> their luma (0.299 R + 0.587 G + 0.114 B), in three equal planes.

    Source: ITU-R BT.601, as in JPEG.
    """
    return kornia.color.rgb_to_grayscale(image_BCHW).expand_as(image_BCHW)
