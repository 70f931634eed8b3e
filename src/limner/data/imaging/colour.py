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

MODE_OF = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # what a profile is made for
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
HINT = "save it with a correct profile, or convert it to sRGB and save it without one"


def to_srgb(picture: Image.Image, file: File) -> Image.Image:
    """An 8-bit picture in sRGB: RGBA where the file knows transparency, else RGB.

    Raises:
        DataError: as ``plain`` and ``transform``.
    """
    shown = plain(picture, file)
    space = (picture.info.get("icc_profile") or b"")[16:20]
    if shown.mode in ("L", "LA") and space not in (b"", b"GRAY"):
        shown = _coloured(shown)  # grey of a colour profile is colour of equal parts
    change = transform(picture, shown.mode.removesuffix("A"), file)
    if change is None:
        return _coloured(shown)
    if shown.mode not in ("LA", "RGBA"):
        return change.apply(shown)
    changed = change.apply(shown.convert(shown.mode.removesuffix("A")))
    changed.putalpha(shown.getchannel("A"))
    return changed


def transform(picture: Image.Image, mode: str, file: File) -> ImageCms.ImageCmsTransform | None:
    """What turns the colours of a picture's profile, as pixels of mode L, RGB or CMYK, into sRGB; None where nothing is
    to be done.

    Raises:
        DataError: a profile that is damaged or made for other pixels.
    """
    profile = picture.info.get("icc_profile", b"")
    if profile is None:  # Pillow's word for one of which parts are missing
        raise DataError(f"{file} has a damaged colour profile: parts of it are missing.", HINT)
    if not profile:
        return None
    space = profile[16:20]
    if space in MODE_OF and MODE_OF[space] != mode:
        raise DataError(f"{file} has {mode} pixels and a colour profile for {space.decode().strip()}.", HINT)
    try:
        return _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} has a damaged colour profile: {str(error).rstrip('.')}.", HINT) from None


def on_background(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """An RGBA picture laid on a colour, mixed in gamma; one of another mode as it is."""
    if picture.mode != "RGBA":
        return picture
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture, mask=picture)
    return canvas


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
