"""Line art: thin clean contours that follow the forms (flow-based DoG, Kang et al. 2007), dark on white; no network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.data.conditions import lines
from limner.errors import ConfigError


def line_art(
    image_BCHW: Tensor, *, sigma: float = 1.0, low: float = 0.07, high: float = 0.18, min_length_px: int = 6
) -> Tensor:
    """Pictures in [-1, 1] -> line drawings in [-1, 1] of the same shape: -1 is a line, 1 paper, little between.

    Lines are equally thin whatever the contrast, and are found in colour too, where brightness alone shows none.

    Args:
        sigma: half the width of what counts as a line, in pixels; more leaves out finer lines.
        low: how high a step in colour, 0 to 1, must be for a line to go on along it.
        high: how high it must be somewhere, for there to be a line.
        min_length_px: shorter marks are left out.

    Source: Kang, Lee, Chui, "Coherent Line Drawing", 2007; kept as in Canny 1986: weak where they join strong.
    """
    if not (0 < low <= high and sigma > 0):
        raise ConfigError(
            f"line_art cannot have low {low:g}, high {high:g}, sigma {sigma:g}.", "0 < low <= high, and sigma above 0"
        )
    flow = lines.flow(image_BCHW, 2.5 * sigma)
    narrow, wide = lines.across(torch.cat([image_BCHW * 0.5 + 0.5, lines.luma(image_BCHW)], dim=1), flow, sigma)
    depth = lines.along(wide - narrow, flow, 3 * sigma).amax(dim=1, keepdim=True) / lines.STEP
    # A share of the deepest nearby, not a depth: this is what makes faint and strong lines equally thin.
    radius = math.ceil(2 * sigma)
    share = depth / F.max_pool2d(depth, 2 * radius + 1, stride=1, padding=radius).clamp(min=1e-6)
    ridge = share > 0.55
    kept = lines.joined(ridge & (depth > low), ridge & (depth > high), min_length_px)
    drawn = kept * ((share - 0.55) / 0.3).clamp(max=1)
    return (1 - 2 * drawn).expand_as(image_BCHW)
