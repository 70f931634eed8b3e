"""How many altered copies `limner check` finds, and how many distinct pictures it takes for copies.

    python benchmarks/duplicates.py          a minute or two; needs the package of the data set ``relief``

Each picture of a set is altered in one way and put beside the originals; found are the copies that are paired with
their own original. False alarms are pairs among the originals alone; on ``fluent`` some of them are true twins.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from limner.data.auditing import duplicates
from limner.data.builtin.fluent import fluent
from limner.data.builtin.relief import relief
from limner.data.imaging.colour import on_background
from limner.data.prepare import PLAIN, open_picture
from limner.types import File

NUM = 400


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    saved = io.BytesIO()
    picture.save(saved, "JPEG", quality=quality)
    return Image.open(saved).convert("RGB")


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    edge = picture.width * share / 2
    box = (edge, edge, picture.width - edge, picture.height - edge)
    return picture.resize(picture.size, Image.Resampling.LANCZOS, box)


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": lambda picture: jpeg(picture, 60),
    "half the size": lambda picture: scaled(picture, 0.5),
    "0.8 of the size, JPEG of quality 75": lambda picture: jpeg(scaled(picture, 0.8), 75),
    "15 % darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.85),
    "10 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "2 % cropped": lambda picture: cropped(picture, 0.02),
    "mirrored, JPEG of quality 60": lambda picture: jpeg(ImageOps.mirror(picture), 60),
}


def opened(file: File) -> Image.Image:
    return on_background(open_picture(file), PLAIN.background)


def described(pictures: list[Image.Image]) -> np.ndarray:
    return np.array([duplicates.describe(picture) for picture in pictures])


def main() -> None:
    renders = list(fluent())
    sets = {
        "renders": [sample.image for sample in renders],
        "line art": [sample.source for sample in renders if sample.source is not None],
        "relief": [sample.image for sample in relief()],
    }
    found: dict[str, list[str]] = {name: [] for name in [*ALTERED, "false alarms, pairs of all"]}
    for files in sets.values():
        every = described([opened(file) for file in files])
        some = [opened(file) for file in files[:: max(1, len(files) // NUM)]]
        originals = described(some)
        for name, alter in ALTERED.items():
            both = np.concatenate([originals, described([alter(picture) for picture in some])])
            pairs_P2 = duplicates.near(both, name.startswith("mirrored"))
            num = int((pairs_P2[:, 1] - pairs_P2[:, 0] == len(some)).sum())
            found[name].append(f"{100 * num / len(some):.0f} % of {len(some)}")
        found["false alarms, pairs of all"].append(f"{len(duplicates.near(every, False))} of {len(every)}")
    print(f"{'':<38}" + "".join(f"{name:>16}" for name in sets))
    for name, cells in found.items():
        print(f"{name:<38}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
