"""Small pictures of every kind that a user may bring, and colour profiles, made by the book."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# Adobe RGB (1998): its primaries as XYZ, adapted to D50, and its gamma.
ADOBE_RGB = np.array([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]])
ADOBE_GAMMA = 563 / 256
WHITE_D50 = np.array([0.9642, 1.0, 0.8249])
XYZ_TO_SRGB = np.array(  # D50
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)


@dataclass(frozen=True)
class Blob:
    """A file that lies in memory."""

    data: bytes
    name: str = "blob"

    def read_bytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return f"basket/{self.name}"


def saved(picture: Image.Image, kind: str, name: str = "blob", **options: Any) -> Blob:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return Blob(file.getvalue(), name)


def srgb_of_xyz(xyz_N3: np.ndarray) -> np.ndarray:
    """Levels 0..255, rounded and clipped, of colours in XYZ of D50."""
    light = (xyz_N3 @ XYZ_TO_SRGB.T).clip(0, 1)
    return (255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).round()


def xyz_of_lab(lab_N3: np.ndarray) -> np.ndarray:
    f_y = (lab_N3[..., 0] + 16) / 116
    f = np.stack([f_y + lab_N3[..., 1] / 500, f_y, f_y - lab_N3[..., 2] / 200], axis=-1)
    return np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE_D50


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(WHITE_D50),
        **tags,
    }
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += padded
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    white = struct.pack(">3i", *(round(v * 65536) for v in WHITE_D50))
    header = struct.pack(">I", offset + len(body)) + bytes(4) + b"\2\x40\0\0" + kind + space + pcs + date + b"acsp"
    header += bytes(24) + bytes(4) + white
    return header + bytes(128 - len(header)) + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(v) * 65536) for v in values))


def _gamma(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(primaries_33: np.ndarray = ADOBE_RGB, gamma: float = ADOBE_GAMMA) -> bytes:
    tags = {name + b"XYZ": _xyz(primaries_33[i]) for i, name in enumerate((b"r", b"g", b"b"))}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {name + b"TRC": _gamma(gamma) for name in (b"r", b"g", b"b")})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def inks_lab(inks: tuple[int, ...]) -> tuple[float, float, float]:
    """Lab of full inks (cyan, magenta, yellow, black: 0 or 1) as ``cmyk_profile`` has them: cyan looks green."""
    lab = {(0, 0, 0, 0): (100.0, 0.0, 0.0), (1, 0, 0, 0): (60.0, -30.0, 20.0), (0, 1, 0, 0): (50.0, 40.0, 0.0)}
    return lab.get(inks, (0.0, 0.0, 0.0) if inks[3] or sum(inks) > 2 else (40.0, 10.0, 10.0))


def cmyk_profile() -> bytes:
    """A printer's profile with a table of the sixteen corners."""
    ramp = bytes(range(256))
    corners = b"".join(
        bytes([round(level * 2.55), round(a) + 128, round(b) + 128])
        for level, a, b in map(inks_lab, itertools.product((0, 1), repeat=4))
    )
    one = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + one + ramp * 4 + corners + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"A2B1": table, b"A2B2": table})


def png_of_16_bits(values_HWC: np.ndarray) -> Blob:
    """A PNG of 1 to 4 channels of 16 bits, which Pillow reads but does not write."""
    height, width, channels = values_HWC.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values_HWC)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return Blob(png_of(parts))


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    made = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


def turned(picture: Image.Image, orientation: int) -> tuple[Image.Image, bytes]:
    """A picture as a camera held otherwise stores it, and the EXIF data that says so."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (picture.transpose(undo[orientation]) if orientation in undo else picture), exif.tobytes()
