"""Colour layout: a few large patches, each the mean colour of its place (the colour map of T2I-Adapter)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limner.errors import ConfigError


def colour_layout(image_BCHW: Tensor, *, cells: int = 8, smooth: bool = False) -> Tensor:
    """Pictures in [-1, 1] -> which colour lies where, and nothing finer.

    Args:
        cells: patches along the shorter side; the longer one gets as many as keep them about square.
        smooth: blend from patch to patch instead of showing squares.

    Source: Mou et al., "T2I-Adapter", 2023 (arXiv 2302.08453): 64-fold reduction of 512 px, shown in squares.
    """
    if cells < 1:
        raise ConfigError(f"colour_layout cannot have {cells} cells.", "give 1 or more")
    height_px, width_px = image_BCHW.shape[-2:]
    cell_px = max(1.0, min(height_px, width_px) / cells)
    coarse = F.adaptive_avg_pool2d(image_BCHW, (round(height_px / cell_px), round(width_px / cell_px)))
    if smooth:
        return F.interpolate(coarse, (height_px, width_px), mode="bilinear", align_corners=False)
    return F.interpolate(coarse, (height_px, width_px), mode="nearest-exact")
