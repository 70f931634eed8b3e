"""Which part of a picture is looked at, and that part as pixels: the same for a picture, its source and its mask.

A window of the view's shape is laid on the upright picture, as large as fits (turned, if the view is turned), and
scaled to the view's size. Everything is a fraction of the file's own size, so that files of one shape but of different
sizes are cut at the same places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from limner.data.imaging.decode import Decoded

# torch's Lanczos is Pillow's, to two levels, at five times its speed; torch 2.13 has it.
TORCH_HAS_LANCZOS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)
# A JPEG may be decoded at a fraction that still holds so many times the pixels of the view. Measured on photographs:
# from 1.15 times, Lanczos is as near to that of the whole picture (47 dB) as the whole picture's bilinear is (45 dB).
ENOUGH, ENOUGH_TURNED = 1.15, 2.0
FARTHEST_OFF_PX = 0.25


@dataclass(frozen=True)
class View:
    """One way of looking at a picture.

    width_px, height_px: of what comes out. flip: mirrored left to right, after all else. x, y: where the window lies
    in what it leaves over, 0 (left, top) to 1. zoom: at least 1; a window smaller by this factor. rotate_degrees: how
    far the picture is turned, counter-clockwise, under the window, which is smaller then so that no empty corner shows.
    jitter: factors of brightness, contrast and saturation, and a shift of hue in turns; pictures only.
    """

    width_px: int
    height_px: int
    flip: bool = False
    x: float = 0.5
    y: float = 0.5
    zoom: float = 1.0
    rotate_degrees: float = 0.0
    jitter: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)

    def text(self) -> str:
        """Equal for equal views, for keys of caches."""
        return repr(tuple(vars(self).values()))


class Window(NamedTuple):
    """Centre, size and turn of a window on a picture, in its pixels; radians, clockwise."""

    x: float
    y: float
    width: float
    height: float
    turn: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a window that is not turned."""
        return (
            self.x - self.width / 2,
            self.y - self.height / 2,
            self.x + self.width / 2,
            self.y + self.height / 2,
        )


def window(view: View, extent: tuple[float, float, float, float]) -> Window:
    """Where the view's window lies on a picture that fills ``extent`` (left, top, right, bottom)."""
    left, top, right, bottom = extent
    turn = math.radians(view.rotate_degrees)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    # The upright box around a turned window of the view's own size.
    around_x, around_y = view.width_px * cos + view.height_px * sin, view.width_px * sin + view.height_px * cos
    scale = min((right - left) / around_x, (bottom - top) / around_y) / view.zoom
    x = left + scale * around_x / 2 + view.x * (right - left - scale * around_x)
    y = top + scale * around_y / 2 + view.y * (bottom - top - scale * around_y)
    return Window(x, y, scale * view.width_px, scale * view.height_px, turn)


def needed_px(view: View, width_px: int, height_px: int) -> tuple[float, float]:
    """The size, at most that of the file, at which it shows enough more pixels than the view needs."""
    here = window(view, (0, 0, width_px, height_px))
    reduction = max(1.0, here.width / view.width_px / (ENOUGH_TURNED if here.turn else ENOUGH))
    return width_px / reduction, height_px / reduction


def cut(decoded: Decoded, view: View, resample: Image.Resampling) -> Tensor:
    """What the view shows of a picture of mode L, RGB or F: CHW, uint8 or float32.

    Resampled once. Where it is turned, once more (bicubic), at twice the size if the file has as much.
    """
    picture, here = decoded.picture, window(view, decoded.extent)
    size = (view.width_px, view.height_px)
    if here.turn and resample == Image.Resampling.NEAREST:
        x_CHW = tensor_of(_turned(picture, here, size, resample))
    elif here.turn:
        picture = _straight(decoded, view, resample)
        x_CHW = _resized(picture, (0, 0, *picture.size), size, resample)
    else:
        x_CHW = _resized(picture, here.box, size, resample)
    return x_CHW.flip(-1) if view.flip else x_CHW


def _straight(decoded: Decoded, view: View, resample: Image.Resampling) -> Image.Image:
    """What a turned window shows, at up to twice the view's size."""
    picture, here = decoded.picture, window(view, decoded.extent)
    shrink = here.width / view.width_px / 2
    if shrink > 1:  # bicubic sampling would skip pixels
        size = (math.ceil(picture.width / shrink), math.ceil(picture.height / shrink))
        scale_x, scale_y = size[0] / picture.width, size[1] / picture.height
        left, top, right, bottom = decoded.extent
        x_CHW = _resized(picture, (0, 0, *picture.size), size, resample)
        picture = picture_of(x_CHW)
        here = window(view, (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y))
    size = (max(view.width_px, round(here.width)), max(view.height_px, round(here.height)))
    return _turned(picture, here, size, Image.Resampling.BICUBIC)


def _turned(picture: Image.Image, here: Window, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """The pixels of a turned window, ``size`` of them."""
    cos, sin = math.cos(here.turn), math.sin(here.turn)
    step_x, step_y = here.width / size[0], here.height / size[1]
    matrix = (
        *(step_x * cos, -step_y * sin, here.x - here.width / 2 * cos + here.height / 2 * sin),
        *(step_x * sin, step_y * cos, here.y - here.width / 2 * sin - here.height / 2 * cos),
    )
    return picture.transform(size, Image.Transform.AFFINE, matrix, resample)


def _resized(
    picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int], resample: Image.Resampling
) -> Tensor:
    """A part of a picture, scaled; CHW.

    torch cuts between two pixels alone: its way is taken where that is off by a quarter of a pixel of the view at most.
    """
    left, top, right, bottom = (round(side) for side in box)
    off_px = max(abs(round(side) - side) for side in box) * size[0] / (box[2] - box[0])
    smaller = right - left >= size[0] and bottom - top >= size[1]
    if resample == Image.Resampling.LANCZOS and TORCH_HAS_LANCZOS and smaller and off_px <= FARTHEST_OFF_PX:
        part_CHW = tensor_of(picture, (slice(top, bottom), slice(left, right)))
        # Made a batch of one before the planes come first: after it, torch no longer sees that the planes of a pixel
        # lie together, and takes a slower way.
        part_1CHW = part_CHW.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        return F.interpolate(part_1CHW, size[::-1], mode="lanczos", antialias=True)[0]
    # The box may be outside by a rounding error.
    inside = (max(0.0, box[0]), max(0.0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]))
    return tensor_of(picture.resize(size, resample, inside))


def tensor_of(picture: Image.Image, part: tuple[slice, slice] = (slice(None), slice(None))) -> Tensor:
    """CHW of a picture of mode L, RGB or F, or of a part of it: rows, columns."""
    values = torch.from_numpy(np.array(np.asarray(picture)[part]))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def picture_of(x_CHW: Tensor) -> Image.Image:
    """A tensor of one plane (L, F) or three (RGB) as a picture."""
    return Image.fromarray(x_CHW[0].numpy() if len(x_CHW) == 1 else x_CHW.permute(1, 2, 0).contiguous().numpy())
