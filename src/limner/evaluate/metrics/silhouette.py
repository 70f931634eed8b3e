"""Silhouette IoU: does the picture fill the outline of its sketch?

For pictures of one object on a white ground. The silhouette of a picture is what is not white; of a sketch, its
strokes; in both, holes that the outline closes are filled. An outline with a gap does not close: its silhouette is the
stroke.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes
from torch import Tensor

SIDE_PX = 128
NOT_WHITE = 0.05
"""How far the furthest channel must be from white, of 1: above what a lossy autoencoder leaves on a white ground."""


def picture_silhouette(uint8_BCHW: Tensor) -> Tensor:
    """What is not background, holes filled: bool (B, 128, 128)."""
    # Resized after the decision: a soft border counted as ink would swell the silhouette of a small picture.
    ink = (1 - uint8_BCHW.float() / 255).amax(dim=1, keepdim=True) > NOT_WHITE
    return _fill(_fit(ink.float()).squeeze(1) >= 0.5)


def sketch_silhouette(uint8_BCHW: Tensor) -> Tensor:
    """The dark strokes and what they enclose: bool (B, 128, 128)."""
    return _fill(_fit(uint8_BCHW.float() / 255).mean(dim=1) < 0.5)


def iou(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """Intersection over union of each pair of masks, (B,); 0 where both are empty."""
    both = (a_BHW & b_BHW).flatten(1).sum(1)
    return both / (a_BHW | b_BHW).flatten(1).sum(1).clamp(min=1)


def iou_matrix(a_NHW: Tensor, b_MHW: Tensor) -> Tensor:
    """Intersection over union of every mask with every other, (N, M)."""
    a, b = a_NHW.flatten(1).float(), b_MHW.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1).unsqueeze(1) + b.sum(1).unsqueeze(0) - both).clamp(min=1)


def _fill(mask_BHW: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(binary_fill_holes(mask.numpy())) for mask in mask_BHW])


def _fit(x_BCHW: Tensor) -> Tensor:
    if x_BCHW.shape[-2:] == (SIDE_PX, SIDE_PX):
        return x_BCHW
    return F.interpolate(x_BCHW, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
