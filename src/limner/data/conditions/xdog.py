"""XDoG (Winnemoeller et al. 2012): an ink drawing with brush lines and filled shadows, dark on white; no network."""

from __future__ import annotations

import torch
from torch import Tensor

from limner.data.conditions import lines
from limner.errors import ConfigError


def xdog(
    image_BCHW: Tensor, *, sigma: float = 1.0, sharpness: float = 30.0, ink: float = 0.3, softness: float = 0.1
) -> Tensor:
    """Pictures in [-1, 1] -> ink drawings in [-1, 1] of the same shape: -1 is ink, 1 is paper.

    Args:
        sigma: about half the width of a line, in pixels.
        sharpness: how much edges count beside mere brightness; more draws fainter edges.
        ink: brightness, 0 to 1, below which plain surfaces are filled with ink; 0 leaves lines only.
        softness: how gradually ink turns to paper; 0 is pure black and white.

    Source: Winnemoeller, Kyprianidis, Olsen, "XDoG: An eXtended difference-of-Gaussians compendium", 2012, with the
    difference taken across the lines and smoothed along them, as there.
    """
    if sigma <= 0 or sharpness < 0 or softness < 0:
        raise ConfigError("xdog needs sigma above 0, and sharpness and softness of at least 0.", "leave them out")
    flow = lines.flow(image_BCHW, 2 * sigma)
    narrow, wide = lines.across(lines.luma(image_BCHW), flow, sigma)
    sharp = lines.along((1 + sharpness) * narrow - sharpness * wide, flow, 3 * sigma)
    lack = (ink - sharp).clamp(min=0)
    inked = torch.tanh(lack / softness) if softness else (lack > 0).to(lack)
    return (1 - 2 * inked).expand_as(image_BCHW)
