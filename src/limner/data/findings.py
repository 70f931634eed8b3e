"""What can be said against a record, one sentence and one remedy each; and the rules that training itself refuses by.

``limner check`` gathers findings of every record; ``limner train`` stops at the first that is an error. Both ask the
functions here, so that what the one passes the other takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from limner.errors import DataError, LimnerError
from limner.types import File, Sample

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# What a reader's sentence is about -> its code, which stays when the sentence is put better. The first that fits.
CODES = (
    (r"not UTF-8", "not-utf8"),
    (r"cannot be read: |cannot be unpacked|ends within", "unreadable"),
    (r"it is empty", "empty-file"),
    (r"animated", "animated"),
    (r"million pixels", "enormous"),
    (r"truncated|cut short|premature|unexpected end|incomplete|broken data stream", "truncated"),
    (r"it is none of", "no-picture"),
    (r"colour profile", "colour-profile"),
    (r"32-bit|pixels of the kind", "pixel-kind"),
    (r"cannot be read as a picture", "damaged"),
    (r"no words in its name|caption", "caption"),
    (r"other half", "half-missing"),
    (r"share a name|is listed twice|two records are called", "same-name"),
    (r"does not exist", "missing-file"),
    (r"holds no pictures|no training pictures|lists no pictures", "no-pictures"),
    (r", line \d+|, record \d+", "metadata"),
)
SUBJECT = re.compile(r":? (?=is |has |have |cannot |does |holds |lists |ends |asks |was )|: |, (?=line |record )")
PAIR_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one file, or about the set as a whole, whose name is the file's then.

    ``cause`` goes on from the file's name ("fox.png", "is animated"); ``number`` is the record's, -1 for the set.
    """

    severity: Severity
    code: str
    file: str
    cause: str
    remedy: str
    number: int = -1

    def error(self) -> DataError:
        """What training says of it."""
        return DataError(f"{self.file} {self.cause}.", self.remedy)


def refused(error: LimnerError, file: str = "", number: int = -1) -> Finding:
    """A reader's error as a finding; ``file`` is what it was about, where the caller knows it."""
    said = str(error).removesuffix(".")
    file = file or SUBJECT.split(said, maxsplit=1)[0]
    code = next((code for pattern, code in CODES if re.search(pattern, said, re.IGNORECASE)), "unusable")
    return Finding("error", code, file, said.removeprefix(file).strip(":, "), error.hint, number)


@dataclass(frozen=True)
class Needs:
    """What a method asks of each record beside its picture."""

    source: bool = False
    caption: bool = False
    mask: bool = False


def lacks(sample: Sample, caption: str, needs: Needs, number: int = -1) -> Iterator[Finding]:
    """What this record does not have and the method cannot do without; ``caption`` is what training would say of it."""
    file = str(sample.image)
    if needs.source and sample.source is None:
        remedy = "give pairs (source/ and target/ with equal names), or a computed condition: --condition edges"
        yield Finding("error", "no-source", file, "has no source picture beside it", remedy, number)
    if needs.mask and sample.mask is None:
        remedy = "add a mask/ folder with equal names, or train with --masked-loss off"
        yield Finding("error", "no-mask", file, "has no mask", remedy, number)
    if not caption.strip():
        remedy = "write one beside it (fox.png, fox.txt) or into its row, or see 'limner caption'"
        severity: Severity = "error" if needs.caption else "warning"
        yield Finding(severity, "no-caption", file, "has no caption", remedy, number)


def misfit(other: File, image_px: tuple[int, int], other_px: tuple[int, int], number: int = -1) -> Finding | None:
    """A source or mask whose shape is not its picture's, so that the two cannot lie on each other; sizes upright."""
    (w, h), (v, g) = image_px, other_px
    if abs(w * g - v * h) <= PAIR_TOLERANCE * v * h:
        return None
    cause = f"is {v} x {g} pixels and its other half {w} x {h}: they cannot lie on each other"
    return Finding("error", "pair-shape", str(other), cause, "cut both to the same shape", number)
