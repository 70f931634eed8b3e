"""What can be said only of many records at once: duplicates, leaks, buckets, halves that are swapped, odd ones out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limner.data.auditing import duplicates, facts
from limner.data.auditing.examine import CAPTIONED, SIDED, SOURCE_DRAWN, SOURCE_TAKEN, Rules
from limner.data.buckets import EXTREME_CUT, Table, assign
from limner.data.findings import Finding, Severity
from limner.data.formats.index import Strings
from limner.data.records import SPLITS

TRAIN = SPLITS.index("train")
SOME_CUT = 0.1
MOST, FEW = 0.8, 0.2  # shares of a set that say what the rule is in it, and what the exception
SHOWN = 5
COPIES = {
    "duplicate": "is the same file as",
    "same-pixels": "holds the same pixels as",
    "near-duplicate": "shows almost the same as",
    "mirrored-copy": "is almost the mirror image of",
}


@dataclass
class Looked:
    """What is kept of the records, in their order: arrays and names, no pictures."""

    row_N: np.ndarray  # of examine.RECORD
    names: Strings
    split_N: np.ndarray  # place in SPLITS, the validation records chosen as training chooses them
    findings: list[Finding]
    used_N: np.ndarray  # hashes of the names of all files that belong to a record
    whole: bool = True  # whether these are all records that there are

    def has(self, trait: int) -> np.ndarray:
        """Whether each record's picture could be read and has a trait (facts.READ: any)."""
        return (self.row_N["traits"] & trait) > 0


def everything(name: str, looked: Looked, rules: Rules) -> Iterator[Finding]:
    """All findings about several records; ``name`` is the set's."""
    if looked.whole and not (looked.split_N == TRAIN).any():
        remedy = "set split to 'train' for some of them"
        yield Finding("error", "no-pictures", name, "has no training pictures", remedy)
    yield from _duplicates(looked, rules)
    yield from _sizes(looked, rules)
    yield from _colours(name, looked, rules)
    yield from _halves(name, looked)
    yield from _captions(name, looked, rules)


def _duplicates(looked: Looked, rules: Rules) -> Iterator[Finding]:
    """Copies, each named with the first that it is a copy of; and those that lie on both sides of a split."""
    number_M = np.flatnonzero(looked.has(facts.READ))
    row_M = looked.row_N[number_M]
    same_bytes_M, same_pixels_M = duplicates.equal(row_M["bytes"]), duplicates.equal(row_M["pixels"])
    # Of equal pictures only the first takes part in the search for alike ones.
    first_U = np.flatnonzero(same_pixels_M == np.arange(len(row_M)))
    kept_U = row_M["kept"][first_U]
    pairs = {
        "duplicate": _with_first(same_bytes_M),
        "same-pixels": _with_first(same_pixels_M),
        "near-duplicate": first_U[duplicates.near(kept_U, mirrored=False)],
        "mirrored-copy": first_U[duplicates.near(kept_U, mirrored=True)],
    }
    told: set[int] = set()
    held_out_M = looked.split_N[number_M] != TRAIN
    for leaks in (True, False):
        for code, pair_P2 in pairs.items():
            for one, other in pair_P2[(held_out_M[pair_P2].sum(axis=1) == 1) == leaks].tolist():
                copy, original = (one, other) if leaks and held_out_M[one] else (other, one)
                if copy not in told:
                    told.add(copy)
                    tell = _leak if leaks else _copy
                    yield tell(looked, code, int(number_M[copy]), int(number_M[original]), rules)


def _with_first(first_M: np.ndarray) -> np.ndarray:
    """(first of the same, copy) of each that is not the first itself."""
    pair_M2 = np.stack([first_M, np.arange(len(first_M))], axis=1)
    return pair_M2[pair_M2[:, 0] != pair_M2[:, 1]]


def _leak(looked: Looked, code: str, number: int, original: int, rules: Rules) -> Finding:
    cause = f"is held out, but {COPIES[code]} {looked.names[original]}, which is trained on"
    remedy = "keep one, or put both into the same split: as it is, scores measure memory"
    return Finding("warning", "leak", looked.names[number], cause, remedy, number)


def _copy(looked: Looked, code: str, number: int, original: int, rules: Rules) -> Finding:
    cause = f"{COPIES[code]} {looked.names[original]}"
    if looked.row_N["caption"][number] != looked.row_N["caption"][original]:
        cause += ", under another caption"
    severity: Severity = "warning" if code != "mirrored-copy" or rules.recipe.flip else "note"
    remedy = "keep one of them, unless the picture is meant to count twice"
    return Finding(severity, code, looked.names[number], cause, remedy, number)


def table_of(looked: Looked, rules: Rules, splits: Sequence[int]) -> tuple[np.ndarray, Table]:
    """Numbers of the records of these splits that could be read, and which of these goes into which bucket."""
    number_M = np.flatnonzero(looked.has(facts.READ) & np.isin(looked.split_N, splits))
    return number_M, assign(looked.row_N["size"][number_M], rules.buckets, rules.resolutions_px)


def _sizes(looked: Looked, rules: Rules) -> Iterator[Finding]:
    """Pictures of which much is cut off, or that are made larger than they are."""
    if not rules.buckets:
        return
    number_M, table = table_of(looked, rules, range(len(SPLITS)))
    square = len({bucket.width_px * bucket.height_px for bucket in rules.buckets}) == len(rules.buckets)
    wider = "train on several shapes: --aspect buckets" if square else "crop it yourself, to what matters"
    for place in np.flatnonzero((table.cut_N > SOME_CUT) | (table.enlarged_N > 1)).tolist():
        number = int(number_M[place])
        (width, height), file = looked.row_N["size"][number].tolist(), looked.names[number]
        cut, enlarged = float(table.cut_N[place]), float(table.enlarged_N[place])
        if cut > SOME_CUT:
            much = cut > EXTREME_CUT
            severity: Severity = "warning" if much else "note"
            cause = f"is {width} x {height} pixels, of which {cut:.0%} would be cut off"
            yield Finding(severity, "much-cropped" if much else "cropped", file, cause, wider, number)
        if enlarged > 1:
            cause = f"is {width} x {height} pixels and would be enlarged {enlarged:.2g} times"
            remedy = "find it larger, or train at a smaller size: --resolutions-px"
            yield Finding("warning", "enlarged", file, cause, remedy, number)


def _colours(name: str, looked: Looked, rules: Rules) -> Iterator[Finding]:
    """Grey pictures among coloured ones, or the other way round, where few enough to be a mistake."""
    read_N, grey_N = looked.has(facts.READ), looked.has(facts.GREY)
    share = grey_N.sum() / max(1, read_N.sum())
    if rules.recipe.style.grey or share in (0, 1):
        return
    odd, rule = ("grey", "in colour") if share <= 0.5 else ("in colour", "grey")
    number_M = np.flatnonzero(read_N & (grey_N == (odd == "grey")))
    remedy = "take them out, or train on grey alone: --grey"
    cause = f"has {len(number_M)} of {read_N.sum()} pictures {odd} and the others {rule}: {_some(looked, number_M)}"
    yield Finding("warning", "mixed-colour", name, cause, remedy)


def _halves(name: str, looked: Looked) -> Iterator[Finding]:
    """Sources and targets that look as if they had changed places: all of them, or the exceptions."""
    paired_N = looked.has(facts.READ) & np.isin(looked.row_N["source"], (SOURCE_TAKEN, SOURCE_DRAWN))
    if not paired_N.any():
        return
    drawn_N = looked.has(facts.DRAWING)
    wrong_N = paired_N & drawn_N & (looked.row_N["source"] == SOURCE_TAKEN)
    right_N = paired_N & ~drawn_N & (looked.row_N["source"] == SOURCE_DRAWN)
    wrong, right = (float(which_N.sum() / paired_N.sum()) for which_N in (wrong_N, right_N))
    remedy = "the source is what the model is given, the target what it is to paint: swap the two"
    if wrong >= MOST:
        cause = f"has drawings as targets and pictures as sources, in {wrong:.0%} of its pairs: are they swapped?"
        yield Finding("warning", "swapped-halves", name, cause, remedy)
    elif right >= MOST and wrong <= FEW:
        for number in np.flatnonzero(wrong_N).tolist():
            cause = "is a drawing and its source a picture, the other way round than the other pairs"
            yield Finding("warning", "swapped-halves", looked.names[number], cause, remedy, number)


def _captions(name: str, looked: Looked, rules: Rules) -> Iterator[Finding]:
    captioned_N = (looked.row_N["said"] & CAPTIONED) > 0
    captions_M = looked.row_N["caption"][captioned_N]
    if len(captions_M) > 1 and (captions_M == captions_M[0]).all() and captioned_N.all():
        remedy = "say what differs between the pictures, lest the model takes it for part of the subject"
        yield Finding("note", "one-caption", name, "has the same caption for every picture", remedy)
    sided_M = np.flatnonzero(rules.recipe.flip * (looked.row_N["said"] & SIDED))
    if len(sided_M):
        cause = (
            f"has {len(sided_M)} captions that name a side or something to read: these pictures are not mirrored: "
            f"{_some(looked, sided_M)}"
        )
        yield Finding("note", "not-mirrored", name, cause, "nothing to do; --no-flip mirrors none")


def _some(looked: Looked, number_M: np.ndarray) -> str:
    more = f" and {len(number_M) - SHOWN} more" if len(number_M) > SHOWN else ""
    return ", ".join(looked.names[number] for number in number_M[:SHOWN].tolist()) + more
