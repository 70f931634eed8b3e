"""Batches as a function of (seed, step): the same on one process or eight, in a first run or a resumed one.

Everything a batch holds is found by content (``cache``): the latents by the picture's bytes and its view, the caption's
tokens by the caption, the condition by its own bytes and the same view. What is not known yet is read, cut and encoded
on the way, a batch ahead of the training, by several threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from limner.data import prepare, views
from limner.data.buckets import Bucket
from limner.data.encode import Encoder
from limner.data.findings import misfit
from limner.data.order import Shuffled, Streamed
from limner.data.pixels import Look, Pixels, Recipe
from limner.types import Batch, Cond, Dice, Sample

NUM_THREADS = min(8, os.cpu_count() or 1)
CHUNK = 32  # pictures encoded at once


@dataclass(frozen=True)
class Schedule:
    """Which places of a step each process sees in each micro-step."""

    batch_size: int
    accumulate: int = 1
    num_processes: int = 1
    process: int = 0

    @property
    def pictures_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.num_processes

    def places(self, micro: int) -> range:
        """This process's places within a step, 0 to pictures_per_step - 1."""
        mine = (micro * self.num_processes + self.process) * self.batch_size
        return range(mine, mine + self.batch_size)


class Loader:
    """Turns records into batches.

    Args:
        samples: the records, or a stream of them; ``Loader.samples`` is empty for a stream.
        recipe: how they become tensors.
        encoder: of pictures and captions.
        seed: of the order, the mirroring and the choice of views.
        device: where batches go.
        groups: buckets, each with the numbers of its records; default: all of them, cut square.
    """

    def __init__(
        self,
        samples: Sequence[Sample] | Streamed,
        recipe: Recipe,
        encoder: Encoder,
        seed: int,
        device: torch.device,
        groups: Sequence[tuple[Bucket, np.ndarray]] = (),
    ) -> None:
        self.recipe, self.encoder, self.seed, self.device = recipe, encoder, seed, device
        self._stream = samples if isinstance(samples, Streamed) else None
        self.samples: Sequence[Sample] = () if isinstance(samples, Streamed) else samples
        groups = groups or [(Bucket(recipe.image_px, recipe.image_px), np.arange(len(self.samples) or 1))]
        self.buckets = [bucket for bucket, _ in groups]
        self._order = Shuffled([numbers_N for _, numbers_N in groups], seed)
        self._pixels = Pixels(recipe)
        self._threads = ThreadPoolExecutor(NUM_THREADS, initializer=_on_one_core)

    def __len__(self) -> int:
        """Pictures an epoch; 0 for a stream, whose end is not known."""
        return sum(map(len, self._order.groups)) if self.samples else 0

    def batch(self, step: int, schedule: Schedule, micro: int) -> Batch:
        """This process's batch of a micro-step."""
        group = self._order.group(step)
        turn = self._order.turns_before(step)
        looks = []
        for place in schedule.places(micro):
            position = step * schedule.pictures_per_step + place
            if self._stream is not None:
                sample = self._stream.at(position)
            else:
                sample = self.samples[self._order.number(group, turn * schedule.pictures_per_step + place)]
            dice = np.random.default_rng([self.seed, position, 1])
            flip = self.recipe.flip and dice.random() < 0.5
            looks.append(
                self._look(sample, self.buckets[group], int(dice.integers(self.recipe.augment.num_views)), flip)
            )
        return self.collate(looks, step, list(schedule.places(micro)))

    def _look(self, sample: Sample, bucket: Bucket, number: int, flip: bool) -> Look:
        # Decided on the caption as the data has it: which of its tags this view keeps does not matter.
        flip = flip and views.keeps_sides(sample.caption)
        return Look(sample, number, flip, bucket.width_px, bucket.height_px)

    def upright(self, samples: Sequence[Sample]) -> list[Look]:
        """These records cut square, not mirrored, in their first view."""
        side = self.recipe.image_px
        return [Look(sample, 0, False, side, side) for sample in samples]

    def collate(self, looks: Sequence[Look], step: int, indices: Sequence[int], seed: int | None = None) -> Batch:
        """These looks, of one size, as a batch; ``indices`` number them within the step for the dice."""
        captions = [self.recipe.captioner.caption(look.sample, look.number) for look in looks]
        mean_BCHW, std_BCHW = self._latents(looks)
        condition_BCHW = weight_B1HW = None
        if self.recipe.condition_px:
            condition_BCHW = torch.stack(list(self._threads.map(self._pixels.condition, looks))).to(self.device)
        if self.recipe.masked != "off":
            grid = mean_BCHW.shape[-2], mean_BCHW.shape[-1]
            weight_B1HW = torch.stack([self._pixels.weight(look, grid) for look in looks]).to(self.device)
        return Batch(
            step=step,
            keys=[look.sample.key for look in looks],
            captions=captions,
            meta=[look.sample.meta for look in looks],
            mean_BCHW=mean_BCHW.to(self.device),
            std_BCHW=std_BCHW.to(self.device),
            text=self._told(captions, torch.tensor([self._pixels.framing(look) for look in looks])),
            condition_BCHW=condition_BCHW,
            dice=Dice(self.seed if seed is None else seed, step, indices, self.device),
            weight_B1HW=weight_B1HW,
        )

    def texts(self, captions: Sequence[str], framing_B6: torch.Tensor | None = None) -> Cond:
        """Captions as the method is told them."""
        return replace(self.encoder.texts(captions), framing_B6=framing_B6).map(lambda part: part.to(self.device))

    def _told(self, captions: Sequence[str], framing_B6: torch.Tensor) -> Cond:
        """As ``texts``; without tokens where the text encoder learns, and the method reads the captions itself."""
        if self.encoder.frozen_text:
            return self.texts(captions, framing_B6)
        return Cond(torch.empty(len(captions), 0, 0), framing_B6=framing_B6).map(lambda part: part.to(self.device))

    def _latents(self, looks: Sequence[Look]) -> tuple[torch.Tensor, torch.Tensor]:
        def pictures(places: list[int]) -> Iterator[torch.Tensor]:  # read on while the first are encoded
            return self._threads.map(lambda place: self._pixels.picture(looks[place]), places)

        return self.encoder.latents(list(self._threads.map(self._pixels.picture_key, looks)), pictures)

    def encode_all(self, process: int = 0, num_processes: int = 1) -> Iterator[int]:
        """Read every file of numbered records and fill the cache with every view of every picture and caption.

        Several processes share the work. Yields how many pictures are done, of ``len(self)``.

        Raises:
            DataError: a picture that cannot be read, or a pair whose halves differ in shape.
        """
        if not self.samples:
            return
        done = 0
        try:
            for bucket, numbers_N in zip(self.buckets, self._order.groups, strict=True):
                for chunk, first in enumerate(range(0, len(numbers_N), CHUNK)):
                    numbers = numbers_N[first : first + CHUNK]
                    if chunk % num_processes == process:
                        self._encode([self.samples[int(number)] for number in numbers], bucket)
                    done += len(numbers)
                    yield done
        finally:  # what was encoded before a bad picture, or Ctrl-C, is kept
            self.flush()

    def _encode(self, samples: Sequence[Sample], bucket: Bucket) -> None:
        for sample in samples:
            self._check_pair(sample)
        for number in range(self.recipe.augment.num_views):
            if self.encoder.frozen_text:
                self.encoder.texts([self.recipe.captioner.caption(sample, number) for sample in samples])
            for flip in (False, True) if self.recipe.flip else (False,):
                looks = [self._look(sample, bucket, number, flip) for sample in samples]
                mean_BCHW, _ = self._latents(looks)
                first = number == 0 and not flip  # the other halves are read once, to find what is damaged
                if self.recipe.condition_px and (first or self.recipe.condition is not None):
                    list(self._threads.map(self._pixels.condition, looks))
                if self.recipe.masked != "off" and first:
                    grid = mean_BCHW.shape[-2], mean_BCHW.shape[-1]
                    list(self._threads.map(lambda look, grid=grid: self._pixels.weight(look, grid), looks))

    def flush(self) -> None:
        """Write to disk what was made and not yet written."""
        self.encoder.flush()
        self._pixels.shelf.flush()

    def refresh(self) -> None:
        """Take in what other processes have made."""
        self.encoder.refresh()
        self._pixels.shelf.refresh()

    def caption(self, sample: Sample) -> str:
        """What is said of a record."""
        return self.recipe.captioner.caption(sample, 0)

    def condition(self, sample: Sample) -> torch.Tensor:
        """The condition picture of a record, float CHW in [-1, 1]."""
        return self._pixels.condition(self.upright([sample])[0])

    def truth(self, sample: Sample, side_px: int) -> torch.Tensor:
        """The record's picture as it is now, cut square, uint8 CHW."""
        view = self._pixels.view(Look(sample, 0, False, side_px, side_px))
        return prepare.picture(sample.image, view, self.recipe.style)

    def _check_pair(self, sample: Sample) -> None:
        for name, other in (("source", sample.source), ("mask", sample.mask)):
            wanted = self.recipe.condition_px and not self.recipe.condition
            if other is None or not (wanted if name == "source" else self.recipe.masked == "mask"):
                continue
            if wrong := misfit(other, prepare.size(sample.image), prepare.size(other)):
                raise wrong.error()


def _on_one_core() -> None:
    """Of a thread that reads or prepares while others compute.

    Else each would have a team of threads, and with more of them than cores OpenMP lets those of a training step sleep
    between operations: on two cores a step with conditions took a tenth longer.
    """
    torch.set_num_threads(1)


def batches(loader: Loader, schedule: Schedule, start: int, stop: int, kept: Loader | None = None) -> Iterator[Batch]:
    """Every micro-batch of steps start..stop-1 in order, made one ahead in a thread; with one of ``kept`` beside."""

    def make(step: int, micro: int) -> Batch:
        batch = loader.batch(step, schedule, micro)
        return batch if kept is None else replace(batch, kept=kept.batch(step, schedule, micro))

    jobs = [(step, micro) for step in range(start, stop) for micro in range(schedule.accumulate)]
    ahead = None
    try:
        with ThreadPoolExecutor(max_workers=1, initializer=_on_one_core) as thread:
            for step, micro in jobs:
                coming = thread.submit(make, step, micro)
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()
    finally:
        loader.flush()
