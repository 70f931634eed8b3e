"""Depth: near is bright, far is dark; from a depth network (Depth Anything, DPT, MiDaS, ZoeDepth, ...)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.data.conditions import networks

MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
IN_METRES = ("chmv2", "depth_pro", "glpn", "zoedepth")
"""Networks whose output grows with distance; that of the others grows with nearness."""


def depth(image_BCHW: Tensor, *, model: str = MODEL, distance: bool = False) -> Tensor:
    """Pictures in [-1, 1] -> inverse depth of the same size, three equal planes: 1 is the nearest, -1 the farthest.

    Args:
        model: a depth network of transformers, by hub name or folder.
        distance: the network gives distances, not nearness. Those that say so in their configuration need it not.

    Raises:
        DataError: the network cannot be loaded.

    Source: Ranftl et al., MiDaS, 2020, for inverse depth up to scale and shift, taken here from each picture's own
    nearest and farthest point; the default network is Yang et al., "Depth Anything V2", 2024.
    """
    return (2 * nearness(image_BCHW, model, distance) - 1).expand_as(image_BCHW)


def nearness(image_BCHW: Tensor, model: str, distance: bool) -> Tensor:
    """Inverse depth B1HW, scaled so that each picture spans [0, 1]; 0 where a picture is all equally far."""
    network, processor = networks.load("depth estimation", model, image_BCHW.device)
    raw_BHW = networks.look(network, processor, image_BCHW).predicted_depth.float()
    config = network.config
    metric = getattr(config, "depth_estimation_type", "relative") == "metric"
    if distance or metric or config.model_type in IN_METRES:
        raw_BHW = 1 / raw_BHW.clamp(min=1e-3)
    height_px, width_px = image_BCHW.shape[-2:]
    near_B1HW = F.interpolate(raw_BHW.unsqueeze(1), (height_px, width_px), mode="bicubic", align_corners=False)
    far_B = near_B1HW.amin(dim=(1, 2, 3), keepdim=True)
    span_B = near_B1HW.amax(dim=(1, 2, 3), keepdim=True) - far_B
    return torch.where(span_B > 0, (near_B1HW - far_B) / span_B.clamp(min=1e-12), 0).to(image_BCHW)
