"""1,300 emoji concepts, line art -> 3D render, with captions (Fluent Emoji, MIT); 128 concepts held out."""

from __future__ import annotations

from pathlib import Path

from limner.data.read import read
from limner.types import Sample

ASSETS = Path(__file__).parents[2] / "assets"


def fluent() -> list[Sample]:
    """Pairs of designers' line art (source) and 3D render (target), 128 px; see assets/fluent.md."""
    return read(ASSETS / "fluent.zip")
