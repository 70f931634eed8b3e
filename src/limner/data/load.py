"""Batches as a pure function of (seed, step): the same on one process or eight, in a first run or a resumed one.

Pictures are numbered in the order in which the run meets them: position p belongs to epoch p // N and is the
(p mod N)-th of that epoch's shuffle. A step takes batch_size * processes * accumulate positions in a row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limner.data.cache import Cache
from limner.data.prepare import load, open_picture
from limner.errors import DataError
from limner.types import Batch, Dice, Sample


@dataclass(frozen=True)
class Recipe:
    """How samples become tensors. ``condition``: None reads the pair's source, else it is computed from the picture."""

    image_px: int
    condition_px: int | None = None
    condition: Callable[[Tensor], Tensor] | None = None
    flip: bool = False


class Loader:
    """Turns samples into batches; encodes through the cache, reads condition pictures a batch ahead."""

    def __init__(
        self, samples: Sequence[Sample], recipe: Recipe, cache: Cache, seed: int, device: torch.device
    ) -> None:
        self.samples, self.recipe, self.cache, self.seed, self.device = samples, recipe, cache, seed, device
        self._digests: dict[str, bytes] = {}

    def batch(self, step: int, positions: range, first_in_step: int) -> Batch:
        """The batch at these positions; ``first_in_step`` is the position at which its step begins."""
        chosen, flips = [], []
        for position in positions:
            epoch, place = divmod(position, len(self.samples))
            chosen.append(self.samples[self._order(epoch)[place]])
            coin = np.random.default_rng([self.seed, position, 1]).random()
            flips.append(self.recipe.flip and coin < 0.5)
        return self.collate(chosen, flips, step, [position - first_in_step for position in positions])

    def collate(
        self,
        samples: Sequence[Sample],
        flips: Sequence[bool],
        step: int,
        indices: Sequence[int],
        seed: int | None = None,
    ) -> Batch:
        """These samples as a batch, each mirrored or not; ``indices`` number them within the step for the dice."""
        keys = [self._digest(sample) + bytes([flip]) for sample, flip in zip(samples, flips, strict=True)]
        mean, std = self.cache.latents(keys, lambda i: self._picture(samples[i], flips[i]).to(self.device))
        captions = [sample.caption for sample in samples]
        condition = None
        if self.recipe.condition_px:
            pairs = zip(samples, flips, strict=True)
            condition = torch.stack([self._condition(*pair) for pair in pairs]).to(self.device)
        return Batch(
            step=step,
            keys=[sample.key for sample in samples],
            captions=captions,
            meta=[sample.meta for sample in samples],
            mean_BCHW=mean.to(self.device),
            std_BCHW=std.to(self.device),
            text=self.cache.texts(captions).map(lambda part: part.to(self.device)),
            condition_BCHW=condition,
            dice=Dice(self.seed if seed is None else seed, step, indices, self.device),
        )

    def encode_all(self) -> Iterator[int]:
        """Read every file and fill the cache with every picture (and its mirror image) and caption.

        Yields how many samples are done.

        Raises:
            DataError: a picture that cannot be read, or a pair whose halves differ in shape.
        """
        for first in range(0, len(self.samples), 32):
            some = self.samples[first : first + 32]
            for flip in (False, True) if self.recipe.flip else (False,):
                keys = [self._digest(sample) + bytes([flip]) for sample in some]
                self.cache.latents(
                    keys,
                    lambda i, some=some, flip=flip: self._picture(some[i], flip).to(self.device),  # type: ignore
                )
            self.cache.texts([sample.caption for sample in some])
            for sample in some:
                self._check_pair(sample)
            yield first + len(some)

    def condition(self, sample: Sample) -> Tensor:
        """The condition picture of a sample, float CHW in [-1, 1]."""
        return self._condition(sample, False)

    def _picture(self, sample: Sample, flip: bool, side_px: int | None = None) -> Tensor:
        picture = load(sample.image, side_px or self.recipe.image_px)
        return picture.flip(-1) if flip else picture

    def _condition(self, sample: Sample, flip: bool) -> Tensor:
        assert self.recipe.condition_px is not None
        if self.recipe.condition is not None:
            return self.recipe.condition(self._picture(sample, flip, self.recipe.condition_px)[None])[0]
        assert sample.source is not None  # run.py has refused samples without one
        condition = load(sample.source, self.recipe.condition_px)
        return condition.flip(-1) if flip else condition

    def _check_pair(self, sample: Sample) -> None:
        if not self.recipe.condition_px or self.recipe.condition or sample.source is None:
            return
        (w, h), (v, g) = open_picture(sample.image).size, open_picture(sample.source).size
        if abs(w * g - v * h) > 0.05 * v * h:
            raise DataError(
                f"{sample.source} is {v} x {g} pixels and its other half {w} x {h}: they cannot lie on each other.",
                "cut both to the same shape",
            )

    def _digest(self, sample: Sample) -> bytes:
        if sample.key not in self._digests:
            self._digests[sample.key] = hashlib.sha256(sample.image.read_bytes()).digest()
        return self._digests[sample.key]

    @functools.lru_cache(maxsize=2)  # noqa: B019  (two epochs' orders; the loader lives as long as the run)
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))


@dataclass(frozen=True)
class Schedule:
    """Which positions each process sees in each micro-step of each step."""

    batch_size: int
    accumulate: int = 1
    num_processes: int = 1
    process: int = 0

    @property
    def pictures_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.num_processes

    def positions(self, step: int, micro: int) -> tuple[range, int]:
        """(this process's positions, the step's first position)."""
        first = step * self.pictures_per_step
        mine = first + (micro * self.num_processes + self.process) * self.batch_size
        return range(mine, mine + self.batch_size), first


def batches(loader: Loader, schedule: Schedule, start: int, stop: int) -> Iterator[Batch]:
    """Every micro-batch of steps start..stop-1 in order, made one ahead in a thread."""
    jobs = [(step, micro) for step in range(start, stop) for micro in range(schedule.accumulate)]
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = None
        for step, micro in jobs:
            coming = thread.submit(loader.batch, step, *schedule.positions(step, micro))
            if ahead is not None:
                yield ahead.result()
            ahead = coming
        if ahead is not None:
            yield ahead.result()
