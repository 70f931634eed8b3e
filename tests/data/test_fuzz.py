"""Damaged files: whatever is done to a picture's bytes, it opens as a picture or is named, and nothing else happens."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import Blob, cmyk_profile, grey_profile, png_of_16_bits, rgb_profile, saved, turned

from limner.data import prepare
from limner.data.prepare import View, open_picture, size
from limner.errors import DataError

NUM_FILES = 500
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)


@functools.cache
def seeds() -> list[Blob]:
    """Sound files of every kind."""
    patches = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    colour = Image.fromarray(patches).resize((40, 30), Image.Resampling.BICUBIC)
    clear = colour.copy()
    clear.putalpha(colour.convert("L"))
    deep = np.asarray(colour.convert("L")).astype(np.uint16) * 200
    stored, exif = turned(colour, 6)
    return [
        saved(colour, "PNG", "colour.png"),
        saved(clear, "PNG", "clear.png"),
        saved(colour.quantize(16), "PNG", "palette.png", transparency=3),
        saved(colour.convert("1"), "PNG", "bits.png"),
        saved(clear.convert("LA"), "PNG", "grey_clear.png", icc_profile=grey_profile(1.8)),
        saved(Image.fromarray(deep), "PNG", "deep.png"),
        Blob(png_of_16_bits(np.asarray(colour).astype(np.uint16) * 200).data, "deep_colour.png"),
        saved(colour, "PNG", "profile.png", icc_profile=rgb_profile(), exif=exif),
        saved(colour, "JPEG", "colour.jpg"),
        saved(stored, "JPEG", "turned.jpg", exif=exif, progressive=True),
        saved(colour.convert("L"), "JPEG", "grey.jpg"),
        saved(colour, "JPEG", "profile.jpg", icc_profile=rgb_profile()),
        saved(colour.convert("CMYK"), "JPEG", "inks.jpg", icc_profile=cmyk_profile()),
        saved(colour, "MPO", "two.mpo", save_all=True, append_images=[colour]),
        saved(colour, "WEBP", "colour.webp", exif=exif),
        saved(clear, "WEBP", "clear.webp", lossless=True, icc_profile=rgb_profile()),
        saved(colour, "BMP", "colour.bmp"),
        saved(colour.quantize(16), "BMP", "palette.bmp"),
        saved(colour, "TIFF", "colour.tif", icc_profile=rgb_profile()),
        saved(colour, "TIFF", "packed.tif", compression="tiff_lzw", tiffinfo={0x0112: 6}),
        saved(colour, "TIFF", "jpeg.tif", compression="jpeg"),
        saved(colour.convert("CMYK"), "TIFF", "inks.tif", compression="tiff_deflate"),
        saved(Image.fromarray(deep), "TIFF", "deep.tif"),
        saved(colour.convert("F"), "TIFF", "numbers.tif"),
        saved(colour.quantize(16), "GIF", "palette.gif", transparency=2),
        saved(clear, "AVIF", "clear.avif", exif=exif),
        saved(colour, "PPM", "colour.ppm"),
    ]


def flip_bytes(data: bytearray, dice: np.random.Generator) -> None:
    for place in dice.integers(0, len(data), dice.integers(1, 12)):
        data[place] = dice.integers(0, 256)


def flip_header_bytes(data: bytearray, dice: np.random.Generator) -> None:
    for place in dice.integers(0, min(len(data), 200), dice.integers(1, 6)):
        data[place] = dice.choice([0, 1, 127, 128, 255, int(dice.integers(0, 256))])


def cut_short(data: bytearray, dice: np.random.Generator) -> None:
    del data[int(dice.integers(0, len(data))) :]


def cut_out(data: bytearray, dice: np.random.Generator) -> None:
    first, num = int(dice.integers(0, len(data))), int(dice.integers(1, 60))
    del data[first : first + num]


def repeat(data: bytearray, dice: np.random.Generator) -> None:
    first, num = int(dice.integers(0, len(data))), int(dice.integers(1, 60))
    data[first:first] = data[first : first + num]


def claim_another_length(data: bytearray, dice: np.random.Generator) -> None:
    """A number of two or four bytes, where lengths and sizes stand, becomes an extreme one."""
    kind = dice.choice([">I", "<I", ">H", "<H"])
    value = dice.choice([0, 1, 2**8, 2**15, 2**16 - 1] if kind[1] == "H" else [0, 1, 2**16, 2**31 - 1, 2**32 - 1])
    place = int(dice.integers(0, min(len(data), 400)))
    data[place : place + struct.calcsize(kind)] = struct.pack(kind, int(value))


def graft(data: bytearray, dice: np.random.Generator) -> None:
    """The end of another file."""
    other = seeds()[dice.integers(len(seeds()))].data
    data[int(dice.integers(8, len(data))) :] = other[int(dice.integers(0, len(other))) :]


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [
    *(flip_bytes, flip_header_bytes, cut_short, cut_out, repeat, claim_another_length, graft),
]


def damaged(number: int) -> Blob:
    dice = np.random.default_rng([7, number])
    seed = seeds()[number % len(seeds())]
    data = bytearray(seed.data)
    DAMAGES[dice.integers(len(DAMAGES))](data, dice)
    return Blob(bytes(data), f"{number} {seed.name}")


@pytest.mark.parametrize("seed", seeds(), ids=str)
def test_sound_seeds_open(seed: Blob) -> None:
    if seed.name == "numbers.tif":
        assert prepare.depth(seed, View(8, 8)).shape == (3, 8, 8)
    else:
        assert open_picture(seed).size == size(seed)


def attempt(use: Callable[[Any], Any], file: Blob | Path) -> Any:
    """What comes of a file; None where it is refused as it should be."""
    try:
        return use(file)
    except DataError as error:
        assert str(file) in str(error)
        assert "<_io" not in str(error)
        assert "\n" not in str(error)
        assert error.hint
        return None


def test_the_size_of_a_file_on_disk_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Of a JPEG on disk only the header is read: sound or damaged, that makes no difference."""
    compared = 0
    for number, blob in enumerate([*seeds(), *map(damaged, range(200))]):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(blob.data)
        assert attempt(size, file) == attempt(size, blob)
        compared += blob.data.startswith(b"\xff\xd8")
    assert compared > 20


def test_damaged_files_open_or_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    num_opened = 0
    for number in range(NUM_FILES):
        file = damaged(number)
        told, shown = attempt(size, file), attempt(open_picture, file)
        x_CHW = attempt(lambda file: prepare.picture(file, View(16, 12)), file)
        assert told is None or 0 < told[0] * told[1] <= MAX_PIXELS
        if shown is not None:
            num_opened += 1
            assert shown.mode in ("RGB", "RGBA")
            assert shown.size == told
            assert x_CHW.shape == (3, 12, 16)
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err == "" or file.name.endswith(".tif")  # libtiff itself writes to the terminal
    assert NUM_FILES / 10 < num_opened < NUM_FILES * 9 / 10


def test_other_readings_of_damaged_files_fail_as_cleanly() -> None:
    for number in range(0, NUM_FILES, 3):
        for read in (prepare.mask, prepare.alpha, prepare.labels, prepare.normals, prepare.depth):
            made = attempt(lambda file, read=read: read(file, View(9, 7, rotate_degrees=5)), damaged(number))
            assert made is None or made.shape[1:] == (7, 9)
