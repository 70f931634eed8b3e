"""What a large data set is made of here: an index of a few bytes a record, and samples made anew when asked for."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from limner.types import Sample

NUM_SHUFFLED = 1000
Shard = Callable[[], Iterator[Sample]]


class Records(Sequence[Sample]):
    """A data set by number; a kind of data says how many there are and how to make one."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.sample(number) for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.sample(number)

    @abstractmethod
    def sample(self, number: int) -> Sample:
        """The record of this number, 0 <= number < len(self)."""


class Joined(Records):
    """Data sets one after the other."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self.parts = parts
        self.stop_P = np.cumsum([len(records) for records in parts])

    def __len__(self) -> int:
        return int(self.stop_P[-1])

    def __iter__(self) -> Iterator[Sample]:
        return itertools.chain.from_iterable(self.parts)

    def sample(self, number: int) -> Sample:
        part = int(np.searchsorted(self.stop_P, number, side="right"))
        return self.parts[part][number - int(self.stop_P[part])]  # negative: from the part's end


class Renamed(Records):
    """A data set as part ``name`` of a larger one, all of one split; keys begin with the name."""

    def __init__(self, records: Sequence[Sample], name: str, split: str) -> None:
        self.records, self.name, self.split = records, name, split

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        return renamed(self.records, self.name, self.split)

    def sample(self, number: int) -> Sample:
        return next(renamed([self.records[number]], self.name, self.split))


def renamed(samples: Iterable[Sample], name: str, split: str) -> Iterator[Sample]:
    """The samples as part ``name`` of something larger, all of one split."""
    return (replace(sample, key=f"{name}/{sample.key}", split=split) for sample in samples)


@dataclass(frozen=True)
class ShardStream:
    """A ``records.Stream``: shards in an order that is drawn, their records shuffled within a buffer of 1,000."""

    shards: Sequence[Shard]

    def samples(self, seed: int) -> Iterator[Sample]:
        """All records once; the same seed, the same order."""
        rng = np.random.default_rng(seed)
        buffer: list[Sample] = []
        for shard in rng.permutation(len(self.shards)):
            for sample in self.shards[shard]():
                if len(buffer) < NUM_SHUFFLED:
                    buffer.append(sample)
                    continue
                place = int(rng.integers(NUM_SHUFFLED))
                yield buffer[place]
                buffer[place] = sample
        yield from (buffer[place] for place in rng.permutation(len(buffer)))


class Strings(Sequence[str]):
    """A list of strings as one run of bytes and where each ends: a million file names in some 30 MB."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._bytes, self._stops = bytearray(), array("q", [0])
        for string in strings:
            self.append(string)

    def append(self, string: str) -> None:
        self._bytes += string.encode()
        self._stops.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._stops) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # numbers only: all that is needed here
        return self._bytes[self._stops[index] : self._stops[index + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))


class Lookup:
    """From a string to its place in a list, by sorted eight-byte hashes: 16 bytes a string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        hash_N = hashes(strings)
        self._order_N = np.argsort(hash_N, kind="stable")
        self._hash_N = hash_N[self._order_N]

    def place(self, string: str) -> int | None:
        """Where the string stands; None where it does not."""
        first, stop = (np.searchsorted(self._hash_N, hash(string), side) for side in ("left", "right"))
        return next((i for i in self._order_N[first:stop].tolist() if self.strings[i] == string), None)

    def missing_in(self, other: Lookup) -> list[int]:
        """Where strings stand that ``other`` has not."""
        return self._order_N[~np.isin(self._hash_N, other._hash_N)].tolist()


def hashes(strings: Iterable[str]) -> np.ndarray:
    """Python's own hash of each string, int64; the same within a process only."""
    return np.fromiter(map(hash, strings), dtype=np.int64)


def first_repeat(hash_N: np.ndarray, string: Callable[[int], str]) -> tuple[int, int] | None:
    """(number of a string, number of the first that repeats it), by the strings' hashes; None where all differ."""
    order_N = np.argsort(hash_N, kind="stable")
    same_M = np.flatnonzero(hash_N[order_N[1:]] == hash_N[order_N[:-1]])
    for place in same_M[np.argsort(order_N[same_M + 1])].tolist():
        first, second = order_N[place : place + 2].tolist()
        if string(first) == string(second):  # else two strings share a hash: one in 10^7 data sets of a million has any
            return first, second
    return None
