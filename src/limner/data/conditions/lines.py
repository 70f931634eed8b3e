"""What the line conditions share: brightness, blur, and filters that follow the lines of a picture."""

from __future__ import annotations

import math

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

WIDER = 1.6
"""How much wider the second Gaussian of a difference is: then it is nearly a Laplacian (Marr & Hildreth 1980)."""
STEP = 0.1117
"""The depth of that difference beside a step of 1."""


def luma(image_BCHW: Tensor) -> Tensor:
    """Brightness B1HW in [0, 1] of pictures in [-1, 1]."""
    return kornia.color.rgb_to_grayscale(image_BCHW * 0.5 + 0.5)


def blur(x_BCHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``sigma`` pixels; the border is repeated outwards, so that any size of picture will do."""
    side_px = 2 * math.ceil(3 * sigma) + 1
    return kornia.filters.gaussian_blur2d(x_BCHW, (side_px, side_px), (sigma, sigma), border_type="replicate")


def flow(image_BCHW: Tensor, sigma: float) -> Tensor:
    """Unit vectors (x, y) along the lines of a picture, B2HW: the direction in which the neighbourhood changes least.

    The smoothed structure tensor of Kyprianidis & Doellner, "Image Abstraction by Structure Adaptive Filtering", 2008.
    """
    dx, dy = kornia.filters.spatial_gradient(image_BCHW).unbind(2)
    tensor = torch.cat([(a * b).sum(1, keepdim=True) for a, b in ((dx, dx), (dx, dy), (dy, dy))], dim=1)
    xx, xy, yy = blur(tensor, sigma).unbind(1)
    angle = (torch.atan2(2 * xy, xx - yy) + math.pi) / 2  # the tensor holds twice the angle across; along is 90 on
    return torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)


def across(x_BCHW: Tensor, flow_B2HW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Gaussian blur across the lines, and the same 1.6 times as wide: their difference is negative in a line, and on
    the dark side of an edge."""
    normal = torch.stack([-flow_B2HW[:, 1], flow_B2HW[:, 0]], dim=1)
    here, radius = _places(x_BCHW), math.ceil(3 * WIDER * sigma)
    sums = [torch.zeros_like(x_BCHW), torch.zeros_like(x_BCHW)]
    totals = [0.0, 0.0]
    for offset in range(-radius, radius + 1):
        value = _at(x_BCHW, here + offset * normal)
        for which, width in enumerate((sigma, WIDER * sigma)):
            weight = math.exp(-((offset / width) ** 2) / 2)
            sums[which] = sums[which] + weight * value
            totals[which] += weight
    return sums[0] / totals[0], sums[1] / totals[1]


def along(x_BCHW: Tensor, flow_B2HW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur that walks along the lines: it closes their gaps and does not thicken them."""
    total, weights = x_BCHW, 1.0
    for sign in (1, -1):
        at, heading = _places(x_BCHW).expand_as(flow_B2HW), sign * flow_B2HW
        for number in range(1, math.ceil(2 * sigma) + 1):
            at = at + heading
            ahead = F.normalize(_at(flow_B2HW, at), dim=1)
            heading = torch.where((ahead * heading).sum(1, keepdim=True) < 0, -ahead, ahead)  # a line has no arrow
            weight = math.exp(-((number / sigma) ** 2) / 2)
            total, weights = total + weight * _at(x_BCHW, at), weights + weight
    return total / weights


def joined(weak_B1HW: Tensor, strong_B1HW: Tensor, min_length_px: float) -> Tensor:
    """Of the connected weak marks, those that hold a strong one and are at least so long (diagonal of their box)."""
    rows = []
    for weak, strong in zip(weak_B1HW.squeeze(1).cpu().numpy(), strong_B1HW.squeeze(1).cpu().numpy(), strict=True):
        labels, num = ndimage.label(weak, structure=np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        long = [math.hypot(*(side.stop - side.start for side in box)) >= min_length_px for box in boxes]
        is_strong = np.zeros(num + 1, dtype=bool)
        is_strong[labels[strong & weak]] = True
        rows.append(torch.from_numpy((is_strong & [False, *long])[labels]))
    return torch.stack(rows).unsqueeze(1).to(weak_B1HW.device)


def _places(x_BCHW: Tensor) -> Tensor:
    """The position (x, y) of each pixel, 12HW."""
    rows, columns = (torch.arange(side_px, dtype=x_BCHW.dtype, device=x_BCHW.device) for side_px in x_BCHW.shape[-2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y]).unsqueeze(0)


def _at(x_BCHW: Tensor, places_B2HW: Tensor) -> Tensor:
    """``x`` at positions in pixels, bilinear; outside, the border's value."""
    size = torch.tensor(x_BCHW.shape[:1:-1], dtype=x_BCHW.dtype, device=x_BCHW.device)  # width, height
    grid = (2 * places_B2HW.permute(0, 2, 3, 1) + 1) / size - 1
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
