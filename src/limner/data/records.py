"""Samples by number, made when asked for; or one after the other, where they cannot be numbered.

A data set is a ``Sequence[Sample]`` that holds an index and makes each sample anew, so that a million records cost no
more than their index; or a ``Stream``, for data that is read as it comes (from the network, or larger than any index).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, overload

import numpy as np

from limner.types import Sample

SPLITS = ("train", "validation", "test")
NUM_HELD_OUT = 32


class Stream(Protocol):
    """Records that can only be read in order."""

    def samples(self, seed: int) -> Iterator[Sample]:
        """All records once, shuffled as far as can be (whole shards, and within a buffer); the same seed, the same
        order."""


class Subset(Sequence[Sample]):
    """Some of a data set's records, by number; as of one split."""

    def __init__(self, records: Sequence[Sample], numbers_N: np.ndarray, split: str) -> None:
        self.records, self.numbers_N, self.split = records, numbers_N, split

    def __len__(self) -> int:
        return len(self.numbers_N)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Subset: ...
    def __getitem__(self, index: int | slice) -> Sample | Subset:
        if isinstance(index, slice):
            return self.take(index)
        return replace(self.records[int(self.numbers_N[index])], split=self.split)

    def take(self, which: slice | np.ndarray) -> Subset:
        """Some of these."""
        return Subset(self.records, self.numbers_N[which], self.split)


def splits(records: Sequence[Sample]) -> dict[str, Subset]:
    """The records of each split. Where none is marked as validation, one training record in ten, at most 32, is kept
    for it (none of fewer than ten); the choice depends on the keys alone."""
    code_N = np.empty(len(records), dtype=np.int8)
    nearest: list[tuple[int, int]] = []  # the 32 smallest digests of training keys, as a heap of (-digest, number)
    for number, sample in enumerate(records):
        code_N[number] = SPLITS.index(sample.split)
        if sample.split == "train":
            digest = int.from_bytes(hashlib.sha256(sample.key.encode()).digest(), "big")
            (heapq.heappush if len(nearest) < NUM_HELD_OUT else heapq.heappushpop)(nearest, (-digest, number))
    num_train = int((code_N == 0).sum())
    if not (code_N == 1).any() and num_train >= 10:
        held_out = sorted(nearest, reverse=True)[: min(NUM_HELD_OUT, num_train // 10)]
        code_N[[number for _, number in held_out]] = 1
    return {split: Subset(records, np.flatnonzero(code_N == code), split) for code, split in enumerate(SPLITS)}
