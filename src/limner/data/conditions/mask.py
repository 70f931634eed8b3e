"""Mask: where the subject is, white on black; from the picture's own transparency, else from a plain background."""

from __future__ import annotations

import kornia
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def mask(image_BCHW: Tensor, *, alpha_B1HW: Tensor | None = None, tolerance: float = 10.0) -> Tensor:
    """Pictures in [-1, 1] -> masks in [-1, 1] of the same shape: 1 is the subject, -1 what is around it.

    A picture with transparency keeps it, soft border and all. In one without, the background is what has the colour
    of the border and can be reached from it; a picture without a plain background comes out (nearly) all white.

    Args:
        tolerance: how far a colour may be from the border's and still be background, in CIE Lab units (2.3 can just
            be told apart, black and white are 100).
    """
    rows = []
    for number, image_CHW in enumerate(image_BCHW):
        alpha_1HW = None if alpha_B1HW is None else alpha_B1HW[number]
        if alpha_1HW is None or bool((alpha_1HW == 1).all()):
            alpha_1HW = _subject(image_CHW, tolerance)
        rows.append(alpha_1HW.to(image_BCHW) * 2 - 1)
    return torch.stack(rows).expand_as(image_BCHW)


def _subject(image_CHW: Tensor, tolerance: float) -> Tensor:
    """What cannot be reached from the border over pixels of the border's (median) colour; bool 1HW."""
    lab_CHW = kornia.color.rgb_to_lab(image_CHW.float().clamp(-1, 1) * 0.5 + 0.5).cpu().numpy()
    border = np.concatenate([lab_CHW[:, [0, -1], :].reshape(3, -1), lab_CHW[:, :, [0, -1]].reshape(3, -1)], axis=1)
    plain = np.linalg.norm(lab_CHW - np.median(border, axis=1)[:, None, None], axis=0) <= tolerance
    labels, _ = ndimage.label(plain)
    reached = np.unique(np.concatenate([labels[[0, -1], :].ravel(), labels[:, [0, -1]].ravel()]))
    return torch.from_numpy(~np.isin(labels, reached[reached > 0])).unsqueeze(0)
