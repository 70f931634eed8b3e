"""From a file to a tensor: upright, in sRGB, on a stated background, cut and scaled as a view says.

Pictures, and what belongs to them (masks, label maps, depth, normals), all pass through ``imaging/geometry.py``, so
that one view lies on all of them alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from limner.data import palettes
from limner.data.imaging import colour, geometry
from limner.data.imaging.decode import Decoded, decode
from limner.data.imaging.decode import size as size  # part of what this module offers, as is View
from limner.data.imaging.geometry import View as View
from limner.errors import DataError
from limner.types import File

VERSION = 2  # counts up when the same file and view give other pixels, so that caches are made anew
RESAMPLE = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}


@dataclass(frozen=True)
class Style:
    """How files become pixels, the same for a whole run.

    background: on which transparency is laid, sRGB; mixed in gamma, as browsers and editors do. grey: brightness alone
    (ITU-R 601 luma), in three equal planes. resample: 'lanczos', or 'area' (the mean of what a pixel covers).
    linear_light: scaled in linear light, which keeps the brightness of fine texture, instead of in gamma.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    grey: bool = False
    resample: str = "lanczos"
    linear_light: bool = False

    def text(self) -> str:
        """Equal where files become the same pixels, for keys of caches."""
        return f"{VERSION} {self.background} {self.grey} {self.resample} {self.linear_light}"


PLAIN = Style()
NO_JITTER = View(1, 1).jitter
# Linear light in [0, 1] of each level of sRGB (IEC 61966-2-1).
CODE = np.arange(256) / 255
LIGHT = np.where(CODE <= 0.04045, CODE / 12.92, ((CODE + 0.055) / 1.055) ** 2.4).astype(np.float32)


def open_picture(file: File) -> Image.Image:
    """The whole picture, upright, 8-bit sRGB: RGBA where the file knows transparency, else RGB.

    Raises:
        DataError: a file that is missing, empty, no picture, damaged, animated or too large; pixels of unknown range;
            a damaged colour profile.
    """
    return colour.to_srgb(decode(file).picture, file)


def picture(file: File, view: View, style: Style = PLAIN) -> Tensor:
    """What the view shows of a picture, uint8 CHW of three planes.

    Raises:
        DataError: as ``open_picture``.
    """
    # Decoding at a fraction takes means in gamma.
    decoded = decode(file) if style.linear_light else decode(file, partial(geometry.needed_px, view))
    shown, change = colour.plain(decoded.picture, file), None
    if shown.mode == "RGB" and not style.linear_light:
        change = colour.transform(decoded.picture, "RGB", file)  # for later: fewer pixels are left after scaling
    else:
        shown = colour.on_background(colour.to_srgb(decoded.picture, file), style.background)
    x_CHW = _scaled(Decoded(shown, decoded.extent), view, style)
    if change is None and view.jitter == NO_JITTER and not style.grey:
        return x_CHW
    cut = geometry.picture_of(x_CHW)
    return geometry.tensor_of(_coloured(cut if change is None else change.apply(cut), view, style))


def alpha(file: File, view: View) -> Tensor:
    """How opaque the picture is where the view looks, uint8 1HW: 255 is opaque.

    Raises:
        DataError: as ``open_picture``.
    """
    decoded = decode(file, partial(geometry.needed_px, view))
    opacity = colour.plain(decoded.picture, file)
    if opacity.mode not in ("LA", "RGBA"):
        return torch.full((1, view.height_px, view.width_px), 255, dtype=torch.uint8)
    return geometry.cut(Decoded(opacity.getchannel("A"), decoded.extent), view, Image.Resampling.LANCZOS)


def labels(file: File, view: View) -> Tensor:
    """A label map, uint8 CHW of three planes: each pixel is one of the file's, no colours are mixed.

    Files of one channel hold the labels' numbers, and get the colours of ``palettes.make``; others hold colours.

    Raises:
        DataError: as ``open_picture``.
    """
    decoded = decode(file)
    stored = colour.plain(decoded.picture, file)
    codes = stored if stored.mode == "L" else stored.convert("RGB")
    x_CHW = geometry.cut(Decoded(codes, decoded.extent), view, Image.Resampling.NEAREST)
    return x_CHW if len(x_CHW) == 3 else palettes.make(256)[x_CHW[0].long()].permute(2, 0, 1)


def mask(file: File, view: View) -> Tensor:
    """Where a picture counts (white), uint8 1HW, not smoothed; what is transparent is black.

    Raises:
        DataError: as ``open_picture``.
    """
    decoded = decode(file)
    where = colour.plain(decoded.picture, file)
    if where.mode in ("LA", "RGBA"):
        where = colour.on_background(where.convert("RGBA"), (0, 0, 0))
    return geometry.cut(Decoded(where.convert("L"), decoded.extent), view, Image.Resampling.NEAREST)


def normals(file: File, view: View) -> Tensor:
    """A map of surface normals, uint8 CHW: x to the right in red, y upward in green, z to the viewer in blue.

    A flip mirrors x, a turn turns x and y; lengths are made 1 again. Where the file says (0, 0, 0) there is no surface,
    and so it stays.

    Raises:
        DataError: as ``open_picture``.
    """
    decoded = decode(file)
    values_HW3 = np.asarray(colour.plain(decoded.picture, file).convert("RGB"))
    known_HW = np.asarray(values_HW3.any(axis=-1))
    planes = [(values_HW3[..., i] / 127.5 - 1) * known_HW for i in range(3)]
    x, y, z, known = _cut_floats([*planes, known_HW], decoded.extent, view)
    cos, sin = math.cos(math.radians(view.rotate_degrees)), math.sin(math.radians(view.rotate_degrees))
    x, y = cos * x - sin * y, sin * x + cos * y
    normal_3HW = np.stack([-x if view.flip else x, y, z])
    length_HW = np.maximum(np.linalg.norm(normal_3HW, axis=0), 1e-6)
    code_3HW = np.where(known > 0.5, (normal_3HW / length_HW + 1) * 127.5, 0)
    return torch.from_numpy(code_3HW.round().astype(np.uint8))


def depth(file: File, view: View) -> Tensor:
    """A map of depth, uint8 CHW of three equal planes: the nearest point of the file is 255, the farthest 0.

    Files of 16 or 32 bits or of floats hold distances: what is larger is farther, what is 0, infinite or not a number
    is unknown and stays 0. Files of 8 bits hold nearness, as drawn by most programs: what is brighter is nearer.

    Raises:
        DataError: as ``open_picture``; a file in colour.
    """
    decoded = decode(file)
    stored = decoded.picture
    if stored.mode in ("I", "F") or stored.mode.startswith("I;16"):
        with np.errstate(invalid="ignore"):  # a NaN of the signalling kind
            distance_HW = np.asarray(stored).astype(np.float64)
        known_HW = np.isfinite(distance_HW) & (distance_HW != 0)
        near_HW = -np.where(known_HW, distance_HW, 0)
    else:
        planes_HW3 = np.asarray(colour.plain(stored, file).convert("RGB"))
        if int(np.ptp(planes_HW3, axis=-1).max()) > 16:  # JPEG makes grey a little coloured
            raise DataError(f"{file} is in colour and no depth map.", "save depth as one channel of grey")
        near_HW, known_HW = planes_HW3[..., 1].astype(np.float64), np.ones(planes_HW3.shape[:2], bool)
    if not known_HW.any():
        return torch.zeros(3, view.height_px, view.width_px, dtype=torch.uint8)
    farthest, nearest = near_HW[known_HW].min(), near_HW[known_HW].max()
    near_HW = np.where(known_HW, (near_HW - farthest) / max(nearest - farthest, 1e-12), 0)
    near, known = _cut_floats([near_HW, known_HW], decoded.extent, view)
    near = np.where(known > 0.5, near / np.maximum(known, 0.5), 0)
    return torch.from_numpy((near * 255).round().clip(0, 255).astype(np.uint8)).expand(3, -1, -1).clone()


def to_float(uint8: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1], any shape."""
    return uint8.float().div_(127.5).sub_(1)  # in place: these are large


def to_uint8(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] (clamped), any shape, as uint8, rounded, on the CPU; the inverse of ``to_float``."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def load_uint8(file: File, side_px: int) -> Tensor:
    """The largest square at the picture's centre, uint8 CHW."""
    return picture(file, View(side_px, side_px))


def load(file: File, side_px: int) -> Tensor:
    """The largest square at the picture's centre, float CHW in [-1, 1]."""
    return to_float(load_uint8(file, side_px))


def _scaled(decoded: Decoded, view: View, style: Style) -> Tensor:
    """What the view shows of an RGB picture, uint8 CHW."""
    resample = RESAMPLE[style.resample]
    if not style.linear_light:
        return geometry.cut(decoded, view, resample)
    values_HW3 = np.asarray(decoded.picture)
    light_CHW = _cut_floats((LIGHT[values_HW3[..., i]] for i in range(3)), decoded.extent, view, resample).clip(0, 1)
    code_CHW = np.where(light_CHW <= 0.0031308, 12.92 * light_CHW, 1.055 * light_CHW ** (1 / 2.4) - 0.055)
    return torch.from_numpy((code_CHW * 255).round().astype(np.uint8))


def _cut_floats(
    planes: Iterable[np.ndarray],
    extent: tuple[float, float, float, float],
    view: View,
    resample: Image.Resampling = Image.Resampling.BOX,
) -> np.ndarray:
    """What the view shows of planes of numbers, CHW."""
    pictures = (Image.fromarray(plane.astype(np.float32)) for plane in planes)
    return np.concatenate([geometry.cut(Decoded(picture, extent), view, resample).numpy() for picture in pictures])


def _coloured(picture: Image.Image, view: View, style: Style) -> Image.Image:
    """Brightness, contrast, saturation, hue, in this order; then grey, if the run is."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, view.jitter[:3], strict=True):
        picture = enhancer(picture).enhance(factor)
    if view.jitter[3]:
        hue, saturation, value = picture.convert("HSV").split()
        hue = hue.point([round(level + 256 * view.jitter[3]) % 256 for level in range(256)])
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return picture.convert("L").convert("RGB") if style.grey else picture
