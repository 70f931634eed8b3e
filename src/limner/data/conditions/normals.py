"""Normals: which way each surface faces, from the slope of a depth network's output."""

from __future__ import annotations

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.data.conditions.depth import MODEL, nearness
from limner.data.conditions.lines import blur
from limner.errors import ConfigError


def normals(
    image_BCHW: Tensor, *, model: str = MODEL, distance: bool = False, relief: float = 0.5, sigma: float = 1.0
) -> Tensor:
    """Pictures in [-1, 1] -> surface normals of the same size; R is x to the right, G is y up, B is z to the viewer.

    The components, each from -1 to 1, are the picture's values: a wall that faces the viewer is (0, 0, 1).

    Args:
        model: a depth network of transformers, by hub name or folder.
        distance: the network gives distances, not nearness. Those that say so in their configuration need it not.
        relief: how deep the scene is taken to be, as a share of the picture's shorter side; more tilts the surfaces.
        sigma: blur of the depth before its slope is taken, in pixels.

    Raises:
        DataError: the network cannot be loaded.
    """
    if relief <= 0 or sigma <= 0:
        raise ConfigError("normals needs relief and sigma above 0.", "for example --relief 0.5 --sigma 1")
    return facing(nearness(image_BCHW, model, distance), relief, sigma)


def facing(near_B1HW: Tensor, relief: float, sigma: float) -> Tensor:
    """Unit normals B3HW of a height map in [0, 1] that rises towards the viewer."""
    height = blur(near_B1HW, sigma) * relief * min(near_B1HW.shape[-2:])
    right, down = kornia.filters.spatial_gradient(height).squeeze(1).split(1, dim=1)
    return F.normalize(torch.cat([-right, down, torch.ones_like(down)], dim=1), dim=1)
