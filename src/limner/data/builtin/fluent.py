"""1,300 emoji concepts, drawn -> 3D render, with captions (Fluent Emoji, MIT); variants line, flat, mask, text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from limner.data.builtin.variants import refuse_unknown
from limner.data.read import read
from limner.types import Sample

ASSETS = Path(__file__).parents[2] / "assets"
VARIANTS = ("line", "flat", "mask", "text")


def fluent(variant: str = "line") -> Sequence[Sample]:
    """3D renders (target, 128 px, with alpha) of 1,339 concepts, 128 of them held out; see assets/fluent.md.

    The source is designers' ``line`` art, the ``flat`` drawing, the silhouette as a ``mask``, or for ``text`` none.

    Raises:
        ConfigError: an unknown variant.
    """
    refuse_unknown("fluent", variant, VARIANTS)
    samples = read(ASSETS / "fluent.zip")
    if variant == "line":
        return samples
    if variant == "text":
        return [replace(sample, source=None) for sample in samples]
    layer = {Path(sample.image.name).stem: sample.image for sample in read(ASSETS / f"fluent_{variant}.zip")}
    return [replace(sample, source=layer[sample.meta["id"]]) for sample in samples]
