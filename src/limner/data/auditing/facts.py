"""What one look at a picture tells: decoded once, exactly as training decodes it, and kept as a few hundred bytes."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from limner.data.auditing import duplicates
from limner.data.formats.files import Bytes
from limner.data.imaging import colour
from limner.data.imaging.decode import FORMATS, SWAPS, decode, read_bytes
from limner.types import File

SIDE_PX = 128  # of the reduction that statistics are taken from
ENOUGH_PX = 2 * SIDE_PX  # short side at which a large JPEG is decoded; its whole stream is read all the same

# Bits of ``traits``. Those of KINDS training handles as it should; they are counted, not complained of.
CMYK, SIXTEEN, PALETTE, ALPHA, ROTATED, PROFILE = KINDS = tuple(1 << bit for bit in range(6))
GREY, DARK, BRIGHT, PLAIN, DRAWING, GREY_TAIL = (1 << bit for bit in range(6, 12))
READ = 1 << 15  # could be read at all
HANDLED = dict(
    zip(
        KINDS,
        (
            "CMYK (converted to sRGB)",
            "with 16 bits a channel (the upper 8 count)",
            "with indexed colours",
            "transparent (laid on the background)",
            "turned upright (EXIF)",
            "with a colour profile (converted to sRGB)",
        ),
        strict=True,
    )
)

FACTS = np.dtype(
    [
        ("bytes", np.uint64),  # the first 8 bytes of SHA-256 of the file
        ("pixels", np.uint64),  # and of a hash of its pixels
        ("size", np.int32, 2),  # width, height, upright
        ("mean", np.float32, 3),  # of red, green, blue in 0..255, on the background
        ("std", np.float32, 3),
        ("traits", np.uint16),
        ("format", np.int8),  # place in FORMATS; of a multi-picture JPEG that of JPEG
        ("kept", duplicates.DTYPE),
    ]
)


def held(file: File) -> Bytes:
    """The file with its bytes in memory, so that it is read once however often it is decoded.

    Raises:
        DataError: it cannot be read.
    """
    return Bytes(str(file), read_bytes(file))


def look(file: Bytes, background: tuple[int, int, int] = (255, 255, 255)) -> np.void:
    """The FACTS of a picture.

    Raises:
        DataError: as training would, for a picture that it cannot use.
    """
    shown = decode(file, _enough).picture
    whole = colour.to_srgb(shown, file)
    facts = np.zeros(1, FACTS)[0]
    facts["bytes"], facts["pixels"] = digest(file.data), digest(whole.tobytes())
    with Image.open(io.BytesIO(file.data), formats=FORMATS) as header:
        facts["format"], facts["size"], traits = _header(header)
    if whole.mode == "RGBA" and np.asarray(whole.getchannel("A")).min() < 255:
        traits |= ALPHA
    if header.format == "JPEG" and _ends_in_mid_grey(whole):
        traits |= GREY_TAIL
    small = reduced(whole, background)
    facts["kept"] = duplicates.describe(small)
    x_CHW = np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
    facts["mean"], facts["std"] = x_CHW.mean(axis=(1, 2)), x_CHW.std(axis=(1, 2))
    facts["traits"] = traits | _appearance(x_CHW, float(facts["std"].max())) | READ
    return facts


def reduced(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """An RGB or RGBA picture within SIDE_PX squared, on the background."""
    small = picture.copy()
    small.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return colour.on_background(small, background)


def _enough(width_px: int, height_px: int) -> tuple[float, float]:
    share = min(1.0, ENOUGH_PX / min(width_px, height_px))
    return width_px * share, height_px * share


def digest(data: bytes) -> int:
    """Eight bytes that stand for these."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _header(picture: Image.Image) -> tuple[int, tuple[int, int], int]:
    """(place in FORMATS, upright size, traits that the header tells)."""
    orientation = 1 if picture.format == "TIFF" else Image.Image.getexif(picture).get(0x0112, 1)
    traits = ROTATED if orientation in range(2, 9) else 0
    traits |= CMYK * (picture.mode == "CMYK") | PALETTE * (picture.mode in ("P", "PA"))
    traits |= SIXTEEN * picture.mode.startswith("I;16") | PROFILE * bool(picture.info.get("icc_profile"))
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    return FORMATS.index(kind), picture.size[::-1] if orientation in SWAPS else picture.size, traits


def _appearance(x_CHW: np.ndarray, std: float) -> int:
    """What the pixels show, as traits; shares of them, so that a few odd ones do not count."""
    luma_HW, chroma_HW = x_CHW.mean(axis=0), x_CHW.max(axis=0) - x_CHW.min(axis=0)
    traits = GREY * bool((chroma_HW <= 3).mean() >= 0.995) | PLAIN * bool(std < 1.5)
    traits |= DARK * bool((luma_HW < 40).mean() >= 0.95) | BRIGHT * bool((luma_HW > 225).mean() >= 0.99)
    # Drawn rather than taken: little ink, without colour, on an even ground, black or white.
    ground = int(np.bincount((luma_HW / 8).astype(int).ravel(), minlength=32).argmax()) * 8 + 4
    even = (np.abs(luma_HW - ground) < 16).mean() > 0.6 and not 32 < ground < 224
    return traits | DRAWING * bool(even and std > 2 and (chroma_HW < 16).mean() >= 0.995)


def _ends_in_mid_grey(picture: Image.Image) -> bool:
    """Whether the lowest rows are what a decoder leaves where the stream gave it nothing: exactly 128.

    Such a file was cut short and then closed by a program that did not notice; none of it can be told by decoding.
    """
    rows = picture.crop((0, picture.height - max(2, picture.height // 25), *picture.size))
    values_HW3 = np.asarray(rows.convert("RGB"))
    return bool(values_HW3.min() >= 127 and values_HW3.max() <= 129)
