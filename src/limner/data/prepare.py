"""From a file to a tensor: one orientation, RGB, a stated background, a square of one size.

A picture and its condition get the same geometry: scaled so that the short side fits, cut at the centre.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from importlib.resources.abc import Traversable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from limner.errors import DataError

BACKGROUND = (255, 255, 255)


def open_picture(file: Traversable) -> Image.Image:
    """An upright RGB picture; transparency is laid on white.

    Raises:
        DataError: a file that is empty, cut short, or no picture.
    """
    try:
        picture = Image.open(io.BytesIO(file.read_bytes()))
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # PIL's own way to ask for an animation
            raise DataError(f"{file} is animated.", "save the frame you mean as a PNG")
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))  # else conversion cuts at 255
        if picture.mode in ("I", "F"):
            raise DataError(f"{file} has 32-bit pixels of unknown range.", "save it with 8 or 16 bits a channel")
        if picture.has_transparency_data:
            alpha = picture.convert("RGBA")
            picture = Image.new("RGBA", alpha.size, (*BACKGROUND, 255))
            picture.alpha_composite(alpha)
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}.", "replace the file or move it away") from None


def square(picture: Image.Image, side_px: int) -> Image.Image:
    """Scaled (Lanczos) and centre-cropped to side_px x side_px."""
    return ImageOps.fit(picture, (side_px, side_px), Image.Resampling.LANCZOS)


def to_uint8(picture: Image.Image) -> Tensor:
    """uint8 CHW."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def to_float(uint8: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1], any shape."""
    return uint8.float() / 127.5 - 1


def load(file: Traversable, side_px: int) -> Tensor:
    """A file as a float CHW square in [-1, 1]."""
    return to_float(load_uint8(file, side_px))


def load_uint8(file: Traversable, side_px: int) -> Tensor:
    """A file as a uint8 CHW square."""
    return to_uint8(square(open_picture(file), side_px))
