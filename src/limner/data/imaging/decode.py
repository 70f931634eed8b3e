"""From a file to an upright picture, its pixel values untouched; everything that can be wrong with a file, named.

The header is judged before any pixel is decoded, so that a small file that claims to be enormous costs no memory.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops, UnidentifiedImageError

from limner.errors import DataError
from limner.types import File

# Those that hold one flat picture and that Pillow decodes by itself, without starting another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM")
# What turns a stored picture upright, by its EXIF orientation (1 is upright); and which sides it mirrors.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIRRORS_X, MIRRORS_Y, SWAPS = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of damaged files, it also raises
HUSH = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
PNG_LATE = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")  # orientation may be told after the pixels


class Decoded(NamedTuple):
    """An upright picture and where in it the shown part lies: left, top, right, bottom, in its pixels.

    The two differ where a JPEG was decoded at a fraction of its size that leaves a remainder.
    """

    picture: Image.Image
    extent: tuple[float, float, float, float]


def decode(file: File, enough: Callable[[int, int], tuple[float, float]] | None = None) -> Decoded:
    """The whole picture, upright, in the mode in which it is stored.

    ``enough``: from the picture's width and height to those that suffice; a larger JPEG then comes at 1/2, 1/4 or 1/8
    of its size, never below.

    Raises:
        DataError: a file that is missing, empty, no picture, cut short, damaged, animated or too large.
    """
    data = read_bytes(file)
    with _named(file):
        picture = _open(data, file)
        stored_px: tuple[float, float] = picture.size
        if enough is not None and picture.format in ("JPEG", "MPO"):
            stored_px = _shrink(picture, enough)
        picture.load()
        orientation = _orientation(picture)
        if picture.format in ("JPEG", "MPO") and picture.mode == "CMYK" and "adobe" not in picture.info:
            picture = _like(
                ImageChops.invert(picture), picture
            )  # Pillow takes all for Adobe's, which store the inverse
        if orientation in UPRIGHT:
            picture = picture.transpose(UPRIGHT[orientation])
    width_px, height_px = stored_px[::-1] if orientation in SWAPS else stored_px
    left = picture.width - width_px if orientation in MIRRORS_X else 0
    top = picture.height - height_px if orientation in MIRRORS_Y else 0
    return Decoded(picture, (left, top, left + width_px, top + height_px))


def _shrink(picture: Image.Image, enough: Callable[[int, int], tuple[float, float]]) -> tuple[float, float]:
    """Ask for a JPEG at a fraction of its size; what that fraction of its width and height is, exactly."""
    width_px, height_px = picture.size
    if _orientation(picture) in SWAPS:
        wanted_y, wanted_x = enough(height_px, width_px)
    else:
        wanted_x, wanted_y = enough(width_px, height_px)
    draft = picture.draft(None, (math.ceil(wanted_x), math.ceil(wanted_y)))
    return draft[1][2:] if draft else picture.size


def size(file: File) -> tuple[int, int]:
    """(width, height) of a picture as it is shown upright, from its header alone.

    Raises:
        DataError: as ``decode``, but for damage behind the header.
    """
    if isinstance(file, Path) and (known := _size_of_jpeg(file)):
        return known
    data = read_bytes(file)
    with _named(file):
        picture = _open(data, file)
        if picture.format == "PNG":
            pixels = max(0, data.find(b"IDAT"))
            if any(data.find(name, pixels) >= 0 for name in PNG_LATE):
                picture.load()
        return _upright_size(picture)


def _size_of_jpeg(file: Path) -> tuple[int, int] | None:
    """The same without reading on behind the header; None for all that is not whole there or no plain JPEG."""
    _hush()
    try:
        with Image.open(file, formats=("JPEG",)) as picture:
            return _upright_size(picture) if picture.format == "JPEG" else None
    except Exception:  # of as many kinds as below; what is wrong is said when the whole is read
        return None


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    return picture.size[::-1] if _orientation(picture) in SWAPS else picture.size


def read_bytes(file: File) -> bytes:
    """All of a file.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    try:
        data = file.read_bytes()
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # a folder's, a zip's and a shard's ways to say it
        raise DataError(f"{file} cannot be read: {_words(error)}.", "see that the file is there and whole") from None
    if not data:
        raise DataError(f"{file} cannot be read as a picture: it is empty.", "replace the file or move it away")
    return data


def _open(data: bytes, file: File) -> Image.Image:
    """A picture of which only the header has been read."""
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # Pillow's own way to ask for an animation
        raise DataError(f"{file} is animated or holds several pages.", "save the frame you mean as a PNG")
    return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation that is still to be obeyed (Pillow turns a TIFF by itself); upright where the EXIF data
    cannot be read, as every viewer shows it then."""
    if picture.format == "TIFF":
        return 1
    try:
        # The method of the class, as that of PNG would decode the pixels to look behind them.
        return Image.Image.getexif(picture).get(0x0112, 1)
    except Exception:  # of as many kinds as below
        return 1


def _like(changed: Image.Image, picture: Image.Image) -> Image.Image:
    changed.info = picture.info
    return changed


@contextmanager
def _named(file: File) -> Iterator[None]:
    """Whatever Pillow says of a file, as a DataError that names it.

    Its plugins trip over a damaged file in many ways (struct.error, KeyError, MemoryError, ...); hence nothing but
    Pillow may be called inside.
    """
    _hush()
    hint = "replace the file or move it away"
    try:
        yield
    except DataError:
        raise
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DataError(f"{file} has more than {most} million pixels.", "scale it down before training") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        cause = f"it is none of {kinds}, or its header is damaged"
        raise DataError(f"{file} cannot be read as a picture: {cause}.", hint) from None
    except Exception as error:
        raise DataError(f"{file} cannot be read as a picture: {_words(error)}.", hint) from None


def _words(error: BaseException) -> str:
    """What an exception says, on one line without its final stop; its name where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _hush() -> None:
    """Silence what Pillow's plugins warn of (a large picture, a damaged tag), as the pixels are right all the same.

    A filter that stays, as warnings.catch_warnings is for one thread alone.
    """
    if warnings.filters[:1] != [HUSH]:
        warnings.filterwarnings("ignore", module=HUSH[3].pattern)
