"""Which record stands at which place of a run: a pure function of (seed, place), or as near to one as a stream allows.

Records that become pictures of one shape form a group (a bucket; all of them, where every picture is cut square). A
step takes its pictures from one group. Which one: step s falls at u + s * golden ratio on the unit circle (Weyl's
sequence), of which each group holds an arc as long as its share; so after any number of steps each group has had its
share of them, to within a few, and no picture is left out because its bucket does not fill a batch. Within a group,
place p is the (p mod N)-th record of the (p div N)-th shuffle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from limner.data.records import NUM_HELD_OUT, Stream
from limner.errors import DataError
from limner.types import Sample

GOLDEN = (5**0.5 - 1) / 2


class Shuffled:
    """Numbered records in groups.

    Args:
        groups: numbers of the records of each group; a record may be in several.
        seed: of the shuffles.
    """

    def __init__(self, groups: Sequence[np.ndarray], seed: int) -> None:
        self.groups, self.seed = list(groups), seed
        sizes = np.array([len(numbers_N) for numbers_N in groups], dtype=np.float64)
        self._ends = np.cumsum(sizes / sizes.sum())
        self._ends[-1] = 1.0
        self._counted, self._turns = 0, np.zeros(len(groups), dtype=np.int64)  # steps so far, and whose they were
        self._shuffles: dict[int, tuple[int, np.ndarray]] = {}  # group -> the epoch asked for last, and its order

    def group(self, step: int) -> int:
        """The group whose turn step ``step`` is."""
        return int(self._whose(np.array([step]))[0])

    def turns_before(self, step: int) -> int:
        """How many of the earlier steps were of the same group."""
        if step < self._counted:
            self._counted, self._turns = 0, np.zeros_like(self._turns)
        new = self._whose(np.arange(self._counted, step))
        self._turns += np.bincount(new, minlength=len(self.groups))
        self._counted = step
        return int(self._turns[self.group(step)])

    def _whose(self, step_S: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, (0.5 + step_S * GOLDEN) % 1.0, side="right")

    def number(self, group: int, place: int) -> int:
        """The record at a place of a group's endless sequence."""
        numbers_N = self.groups[group]
        epoch, at = divmod(place, len(numbers_N))
        return int(numbers_N[self._shuffle(group, epoch)[at]])

    def _shuffle(self, group: int, epoch: int) -> np.ndarray:
        known = self._shuffles.get(group)
        if known is None or known[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, group]).permutation(len(self.groups[group]))
            known = self._shuffles[group] = epoch, order
        return known[1]


class Streamed:
    """A stream, shuffled anew each time it is gone through; places are asked for in rising order.

    A resumed run skips what was read before. The first 32 records of the stream's order of seed 0 are held out.
    ``check`` is shown each of the others as it comes, and raises where there is nothing to learn from it.
    """

    def __init__(self, stream: Stream, seed: int, check: Callable[[Sample], None] = lambda _: None) -> None:
        self._stream, self._seed, self._check, self._next_place = stream, seed, check, 0
        first = itertools.islice(stream.samples(0), NUM_HELD_OUT)
        self.held_out = [replace(one, split="validation") if one.split == "train" else one for one in first]
        self._held_out_keys = {sample.key for sample in self.held_out}
        self._samples = self._endless()

    def at(self, place: int) -> Sample:
        """The record at a place.

        Raises:
            DataError: the stream holds nothing to train on, or a record that ``check`` refuses.
        """
        assert place >= self._next_place, "a stream is read forwards"
        sample = next(itertools.islice(self._samples, place - self._next_place, None))
        self._next_place = place + 1
        return sample

    def _endless(self) -> Iterator[Sample]:
        for epoch in itertools.count():
            empty = True
            for sample in self._stream.samples(self._seed + epoch):
                if sample.split == "train" and sample.key not in self._held_out_keys:
                    empty = False
                    self._check(sample)
                    yield sample
            if empty:
                raise DataError(f"the stream has no training pictures beyond {NUM_HELD_OUT}.", "train without --stream")
