"""From the pixel values of a file to 8-bit sRGB: profiles, CMYK, 16 bits, palettes, transparency.

An embedded ICC profile is obeyed: relative colorimetric with black point compensation, the default of most editors. It
keeps every colour that sRGB can show as it is. A picture without a profile is taken for sRGB, one of CMYK for the plain
(1 - ink)(1 - black). Sixteen bits keep their upper eight.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from limner.errors import DataError
from limner.types import File

# What a profile is made for, and the modes of pictures that it can be for: grey is colour of equal parts.
MODES_OF = {"RGB": ("RGB", "RGBA", "L", "LA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",)}
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
HINT = "save it with a correct profile, or convert it to sRGB and save it without one"


def to_srgb(picture: Image.Image, file: File) -> Image.Image:
    """An 8-bit picture in sRGB: RGBA where the file knows transparency, else RGB.

    Raises:
        DataError: 32-bit pixels, whose range is unknown; a profile that is damaged or made for other pixels.
    """
    profile = picture.info.get("icc_profile", b"")
    picture = plain(picture, file)
    if profile is None:  # Pillow's word for one of which parts are missing
        raise DataError(f"{file} has a damaged colour profile: parts of it are missing.", HINT)
    if profile:
        picture = _apply(profile, picture, file)
    return _coloured(picture)


def plain(picture: Image.Image, file: File) -> Image.Image:
    """The pixel values in one of the modes L, LA, RGB, RGBA, CMYK, no profile applied.

    Raises:
        DataError: 32-bit pixels, or another mode that is no picture's.
    """
    mode = picture.mode
    if mode.startswith("I;16"):
        return _upper_byte(picture)
    if mode in ("I", "F"):
        raise DataError(f"{file} has 32-bit pixels of unknown range.", "save it with 8 or 16 bits a channel")
    if mode == "CMYK":
        return picture
    if mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        return _as(picture, "RGBA" if picture.has_transparency_data else "RGB")
    if mode in ("1", "L", "LA", "La"):
        return _as(picture, "LA" if picture.has_transparency_data else "L")
    raise DataError(f"{file} has pixels of the kind {mode}.", "save it as RGB")


def _as(picture: Image.Image, mode: str) -> Image.Image:
    """In this mode; no copy of what is so already."""
    return picture if picture.mode == mode else picture.convert(mode)


def _coloured(picture: Image.Image) -> Image.Image:
    return _as(picture, "RGBA" if picture.mode in ("LA", "RGBA") else "RGB")


def _upper_byte(picture: Image.Image) -> Image.Image:
    """Sixteen bits of grey as eight, with alpha where the file names a transparent grey."""
    values_HW = np.asarray(picture)
    grey = Image.fromarray((values_HW >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(np.where(values_HW == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _apply(profile: bytes, picture: Image.Image, file: File) -> Image.Image:
    try:
        space = _space(profile)
        fits = picture.mode in MODES_OF.get(space, ())
        if fits and space == "RGB":
            picture = _coloured(picture)
        transform = _transform(profile, picture.mode.removesuffix("A")) if fits else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} has a damaged colour profile: {str(error).rstrip('.')}.", HINT) from None
    if not fits:
        raise DataError(f"{file} has {picture.mode} pixels and a colour profile for {space}.", HINT)
    if transform is None:
        return picture
    if picture.mode in ("RGBA", "LA"):
        alpha = picture.getchannel("A")
        changed = transform.apply(picture.convert(picture.mode.removesuffix("A")))
        changed.putalpha(alpha)
        return changed
    return transform.apply(picture)


@functools.lru_cache(maxsize=32)
def _space(profile: bytes) -> str:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where that changes no colour by more than one level, as with sRGB itself."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", INTENT, FLAGS)
    if mode != "RGB":
        return transform
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    cube_HW3 = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    shift_HW3 = np.asarray(transform.apply(Image.fromarray(cube_HW3))).astype(int) - cube_HW3
    return transform if abs(shift_HW3).max() > 1 else None
