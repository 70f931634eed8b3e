"""The numbers of a data set, as plain Python that becomes JSON: sizes, formats, colours, captions, buckets."""

from __future__ import annotations

from typing import Any

import numpy as np

from limner.data.auditing import facts
from limner.data.auditing.examine import CAPTIONED, SIDED, TOO_LONG, Rules
from limner.data.auditing.judge import TRAIN, Looked, table_of
from limner.data.imaging.decode import FORMATS
from limner.data.records import SPLITS


def summarise(looked: Looked, rules: Rules) -> dict[str, Any]:
    """The numbers of all records that could be read."""
    row_M = looked.row_N[looked.has(facts.READ)]
    return {
        "pictures": len(row_M),
        "splits": {split: int((looked.split_N == code).sum()) for code, split in enumerate(SPLITS)},
        "pairs": int((looked.row_N["source"] >= 0).sum()),
        "formats": _counts(row_M["format"], FORMATS),
        "handled": {said: _num(row_M, trait) for trait, said in facts.HANDLED.items() if _num(row_M, trait)},
        "sizes_px": _sizes(row_M["size"]) if len(row_M) else {},
        "colours": _colours(row_M) if len(row_M) else {},
        "captions": _captions(looked.row_N),
        "buckets": _buckets(looked, rules) if rules.buckets else [],
    }


def _num(row_M: np.ndarray, trait: int) -> int:
    return int(((row_M["traits"] & trait) > 0).sum())


def _counts(code_M: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return {names[code]: int(num) for code, num in zip(*np.unique(code_M, return_counts=True), strict=True)}


def _sizes(size_M2: np.ndarray) -> dict[str, list[int]]:
    """The picture of least, middle and most area, each as width and height."""
    order_M = np.argsort(size_M2.astype(np.int64).prod(axis=1), kind="stable")
    places = {"smallest": 0, "middle": len(order_M) // 2, "largest": -1}
    return {which: size_M2[order_M[place]].tolist() for which, place in places.items()}


def _colours(row_M: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation over all pixels, each picture counting alike, in 0..255; shares of pictures."""
    mean_M3, std_M3 = row_M["mean"].astype(np.float64), row_M["std"].astype(np.float64)
    std_3 = np.sqrt(np.maximum(0, (mean_M3**2 + std_M3**2).mean(axis=0) - mean_M3.mean(axis=0) ** 2))
    shares = {"grey": facts.GREY, "very_dark": facts.DARK, "very_bright": facts.BRIGHT, "drawings": facts.DRAWING}
    return {
        "mean_rgb": mean_M3.mean(axis=0).round(1).tolist(),
        "std_rgb": std_3.round(1).tolist(),
        **{name: round(_num(row_M, trait) / len(row_M), 4) for name, trait in shares.items()},
    }


def _captions(row_N: np.ndarray) -> dict[str, Any]:
    told_N = (row_N["said"] & CAPTIONED) > 0
    counts = {
        "captioned": int(told_N.sum()),
        "without": int((~told_N).sum()),
        "different": len(np.unique(row_N["caption"][told_N])),
        "too_long": int(((row_N["said"] & TOO_LONG) > 0).sum()),
        "not_mirrored": int(((row_N["said"] & SIDED) > 0).sum()),
    }
    tokens_M = row_N["tokens"][row_N["tokens"] > 0]
    if len(tokens_M):
        counts |= {"tokens_median": int(np.median(tokens_M)), "tokens_most": int(tokens_M.max())}
    return counts


def _buckets(looked: Looked, rules: Rules) -> list[dict[str, int]]:
    """Each bucket that training pictures fall into, with what an epoch of it takes."""
    _, table = table_of(looked, rules, [TRAIN])
    return [
        {
            "width_px": bucket.width_px,
            "height_px": bucket.height_px,
            "pictures": len(numbers_N),
            "batches": -(-len(numbers_N) // rules.batch_size),
        }
        for bucket, numbers_N in table.groups
        if len(numbers_N)
    ]
