"""Twelve subjects in 22 to 25 scenes each, six to learn from, the others held out, with masks (variants: the names)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limner.data.builtin.variants import refuse_unknown
from limner.data.read import read
from limner.types import Sample

ASSETS = Path(__file__).parents[2] / "assets"


def subjects(variant: str = "all") -> Sequence[Sample]:
    """Pictures (256 px) of things that the built-in prior never saw, each in white, in places and in company; of one
    subject, such as ``tiger``, or of ``all``. The mask is white where the subject is; see assets/subjects.md.

    Raises:
        ConfigError: an unknown subject.
    """
    samples = read(ASSETS / "subjects.zip")
    if variant == "all":
        return samples
    refuse_unknown("subjects", variant, {"all", *(sample.meta["subject"] for sample in samples)})
    return [sample for sample in samples if sample.meta["subject"] == variant]
