"""One record under the rules of a run: all of its files read once, and everything to be said of it.

What is an error here is what would stop ``limner train``; a source or mask that the run does not use can only be
warned of.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from limner.data import prepare
from limner.data.auditing import facts
from limner.data.buckets import Bucket
from limner.data.captions import missing_words
from limner.data.findings import Finding, Needs, Severity, lacks, misfit, refused
from limner.data.formats.files import Bytes
from limner.data.pixels import SOURCES, Recipe
from limner.data.prepare import View
from limner.data.views import keeps_sides
from limner.errors import DataError, LimnerError
from limner.types import File, Sample, Tokens

# Bits of a record's ``said``.
CAPTIONED, TOO_LONG, SIDED = 1, 2, 4
NO_SOURCE, SOURCE_TAKEN, SOURCE_DRAWN, SOURCE_MAP = -1, 0, 1, 2
QUOTED = 100  # letters of what is cut off a caption

RECORD = np.dtype(
    [
        *((name, facts.FACTS[name]) for name in facts.FACTS.names or ()),
        ("caption", np.uint64),  # a hash
        ("tokens", np.int32),
        ("said", np.uint8),
        ("source", np.int8),
    ]
)


@dataclass(frozen=True)
class Rules:
    """What a run would do with the data.

    recipe: how records become tensors. needs: what every record must have. uses_sources, uses_masks: whether it reads
    them where they are there. buckets, resolutions_px: the sizes of its pictures. tokens: how its prior reads a
    caption; None where there is no prior to ask.
    """

    recipe: Recipe
    needs: Needs = field(default_factory=Needs)
    uses_sources: bool = True
    uses_masks: bool = True
    buckets: Sequence[Bucket] = ()
    resolutions_px: Sequence[int] = ()
    batch_size: int = 16
    tokens: Callable[[str], Tokens] | None = None


@dataclass
class Examined:
    """A record's names, its row, of RECORD (zero where there was nothing to see), and what is to be said."""

    name: str
    split: str
    key: str
    row: np.void
    beside: tuple[str, ...] = ()  # names of its source and mask
    findings: list[Finding] = field(default_factory=list)


def examine(number: int, load: Callable[[], Sample], rules: Rules) -> Examined:
    """Everything about one record; ``load`` makes it, and may raise."""
    done = Examined("", "", "", np.zeros(1, RECORD)[0])
    done.row["source"] = NO_SOURCE
    try:
        sample = load()
    except LimnerError as error:
        done.findings.append(refused(error, "", number))
        return done
    done.name, done.split, done.key = str(sample.image), sample.split, sample.key
    done.beside = tuple(str(file) for file in (sample.source, sample.mask) if file is not None)
    _caption(number, sample, rules, done)
    size = _image(number, sample.image, rules, done)
    if sample.source is not None:
        _source(number, sample.source, size, rules, done)
    if sample.mask is not None:
        _mask(number, sample.mask, size, rules, done)
    return done


def _caption(number: int, sample: Sample, rules: Rules, done: Examined) -> None:
    captioner, add = rules.recipe.captioner, done.findings.append
    try:
        caption = captioner.caption(sample, 0)
    except LimnerError as error:
        add(refused(error, done.name, number))
        return
    done.findings += lacks(sample, caption, rules.needs, number)
    if not caption.strip():
        return
    done.row["said"] |= CAPTIONED | SIDED * (not keeps_sides(sample.caption))
    done.row["caption"] = facts.digest(caption.encode())
    # Of several subjects the words are with each picture.
    words = (sample.meta.get(name, getattr(captioner, name)) for name in ("trigger", "class_word"))
    if missing := missing_words(caption, *words):
        lost = " and ".join(f"'{word}'" for word in missing)
        remedy = "write it into the caption, or put captions into a template: --caption-from template"
        add(Finding("warning", "no-trigger", done.name, f"is captioned without {lost}", remedy, number))
    if rules.tokens is not None:
        read = rules.tokens(caption)
        done.row["tokens"] = read.num
        if read.num > read.room:
            done.row["said"] |= TOO_LONG
            lost = textwrap.shorten(read.cut_off, QUOTED, placeholder=" …")
            cause = f'has a caption of {read.num} tokens, of which {read.room} are read; cut off: "{lost}"'
            add(Finding("warning", "caption-too-long", done.name, cause, "say what matters first, or less", number))


def _image(number: int, image: File, rules: Rules, done: Examined) -> tuple[int, int] | None:
    """The picture's size, upright; None where it cannot be read."""
    try:
        seen = facts.look(facts.held(image), rules.recipe.style.background)
    except DataError as error:
        done.findings.append(refused(error, done.name, number))
        return None
    for name in facts.FACTS.names or ():
        done.row[name] = seen[name]
    if seen["traits"] & facts.GREY_TAIL:
        cause = "ends in plain grey, as a file does that was cut short and closed again"
        done.findings.append(Finding("warning", "grey-tail", done.name, cause, "look at it; copy it again", number))
    elif seen["traits"] & facts.PLAIN:
        cause = "is of one plain colour"
        done.findings.append(Finding("warning", "plain", done.name, cause, "look at it; move it away", number))
    return int(seen["size"][0]), int(seen["size"][1])


def _source(number: int, source: File, size: tuple[int, int] | None, rules: Rules, done: Examined) -> None:
    def read(file: Bytes) -> None:
        if rules.recipe.source_kind != "picture":
            SOURCES[rules.recipe.source_kind](file, View(facts.SIDE_PX, facts.SIDE_PX))
            done.row["source"] = SOURCE_MAP
            return
        seen = facts.look(file, rules.recipe.style.background)
        done.row["source"] = SOURCE_DRAWN if seen["traits"] & facts.DRAWING else SOURCE_TAKEN
        if size and seen["pixels"] == done.row["pixels"]:
            cause, remedy = "is the same picture as its other half", "see which of the two is the wrong one"
            done.findings.append(Finding("warning", "same-halves", str(source), cause, remedy, number))

    _beside(number, source, size, rules.uses_sources, read, done)


def _mask(number: int, mask: File, size: tuple[int, int] | None, rules: Rules, done: Examined) -> None:
    def read(file: Bytes) -> None:
        where = prepare.mask(file, View(facts.SIDE_PX, facts.SIDE_PX))
        if not where.any():
            cause, remedy = "is black all over: nothing of its picture counts", "paint what counts in white"
            done.findings.append(Finding("warning", "empty-mask", str(mask), cause, remedy, number))

    _beside(number, mask, size, rules.uses_masks, read, done)


def _beside(
    number: int,
    other: File,
    size: tuple[int, int] | None,
    used: bool,
    read: Callable[[Bytes], None],
    done: Examined,
) -> None:
    """What is wrong with a source or mask; no more than a warning where the run does not use it."""
    severity: Severity = "error" if used else "warning"
    try:
        file = facts.held(other)
        read(file)
        finding = misfit(other, size, prepare.size(file), number) if size else None
    except DataError as error:
        finding = refused(error, str(other), number)
    if finding:
        done.findings.append(replace(finding, severity=severity))
