"""Ten steps of a run or more, to see what the rest of it will cost; nothing of them is kept but what they encoded.

Pictures that are encoded go into the cache, where the run will find them. All else lies in a folder that is deleted.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from limner.config import MethodConfig
from limner.data.load import Loader
from limner.run import class_pictures
from limner.run.job import Job, build
from limner.run.training import GRID_PICTURES, trainer_of
from limner.train.cost import metered, peak_mb, total
from limner.train.memory import keep_freed
from limner.train.optim import hand_over
from limner.train.trainer import Trainer

T = TypeVar("T")

STEPS, WARM_UP = 10, 2
SECONDS, MOST = 10.0, 200  # for which steps are taken if ten are over sooner: a machine's speed comes and goes
FEW, MORE = 8, 64  # pictures encoded to warm up, and then to see how long one takes
LONG_S = 20.0  # a warm-up that takes so long is measure enough
WRITTEN = 64_000_000  # bytes written to see how fast the disk is


@dataclass(frozen=True)
class Probe:
    """What was measured of a run, in seconds, watts and bytes.

    start_s: until the run is built and has what it encodes with. picture_s: one picture read and encoded, in all of its
    views. step_s: first step of a stage -> one of its steps. draw_s: a sample grid. score_s: a score. byte_s: one byte
    of a checkpoint. watts: while it learns. kg_co2e_per_kwh: where the machine is taken to stand. peak: most memory
    held. num_train, num_held_out: pictures, 0 for a stream; num_read: those of them that are in the cache now.
    """

    start_s: float
    picture_s: float
    step_s: dict[int, float]
    draw_s: float
    score_s: float
    byte_s: float
    watts: float
    kg_co2e_per_kwh: float
    peak: int
    num_train: int
    num_held_out: int
    num_read: int


def probe(config: MethodConfig, device: torch.device) -> Probe:
    """Build the run and take ten steps of each of its stages.

    Raises:
        LimnerError: what training would raise.
    """
    accelerator = Accelerator(cpu=device.type == "cpu")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    keep_freed()
    start = time.monotonic()
    job = build(config, accelerator.device)
    start_s = time.monotonic() - start
    learnt, picture_s, warm_s = _read(job)
    start_s += warm_s + _time(job.method.read_ahead)
    job.method.prior.parts.release()
    held_out = job.validation
    some = held_out.samples[: max(job.at_once, GRID_PICTURES)]
    shown = Loader(some, held_out.recipe, held_out.encoder, held_out.seed, held_out.device)
    beside = learnt if class_pictures.wanted(config) else None  # as many pictures, whatever they show
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        trainer = trainer_of(replace(job, train=learnt, validation=shown, kept=beside), out, accelerator)
        draw_s = _time(lambda: trainer._on_main(lambda: trainer.sample(0)))
        with metered(out / "energy.jsonl", "probe"):
            step_s = {first: _steps(trainer, first) for first in sorted({0} | job.method.hand_over_at)}
        score_s = _time(lambda: trainer._on_main(lambda: _score(trainer)))
        used = total(out / "energy.jsonl", "probe")
    return Probe(
        start_s=start_s,
        picture_s=picture_s,
        step_s=step_s,
        draw_s=draw_s,
        score_s=score_s * len(held_out.samples) / len(shown.samples),
        byte_s=_byte_s(),
        watts=3.6e6 * used["kwh"] / used["seconds"],
        kg_co2e_per_kwh=used["kg_co2e"] / max(used["kwh"], 1e-12),
        peak=int(peak_mb() * 1e6),
        num_train=len(job.train),
        num_held_out=len(held_out.samples),
        num_read=len(learnt),
    )


def _read(job: Job) -> tuple[Loader, float, float]:
    """(evenly spaced training pictures, all of them encoded; seconds a picture; seconds more for the first).

    A stream is encoded while it is learnt from.
    """
    loader, num = job.train, len(job.train)
    picture_s, done, whole_s = 0.0, 0, 0.0
    for wanted in (FEW, MORE) if num else ():
        share = job.config.fraction * min(1.0, wanted / num)
        loader = build(job.config.model_copy(update={"fraction": share}), loader.device, job.method).train
        seconds = _time(functools.partial(list, loader.encode_all()))
        picture_s, whole_s = seconds / max(1, len(loader) - done), whole_s + seconds
        done = len(loader)
        if seconds > LONG_S:
            break
    return loader, picture_s, max(0.0, whole_s - picture_s * done)


def _steps(trainer: Trainer, first: int) -> float:
    """Seconds of a step of the stage that begins with step ``first``; takes the first ten, or as many as fit."""
    if first in trainer.method.hand_over_at:
        hand_over(trainer.learners.values())
    times_s: list[float] = []
    micro_batches = trainer.batches(first, first + MOST)
    for trainer.step in range(first, first + MOST):
        if len(times_s) >= STEPS and sum(times_s) > SECONDS:
            break
        times_s.append(_time(lambda: trainer._one_step(micro_batches)))
    return statistics.fmean(times_s[WARM_UP:])  # as the run's own sum will have its slow ones, too


def _score(trainer: Trainer) -> None:
    with trainer.method.prior.computing():
        trainer.score(trainer.step)


def _byte_s() -> float:
    """Seconds that the disk takes to write a byte for good, where temporary files lie."""
    with tempfile.TemporaryFile() as file:

        def write() -> None:
            file.write(bytes(WRITTEN))
            file.flush()
            os.fsync(file.fileno())

        return _time(write) / WRITTEN


def timed(do: Callable[[], T]) -> tuple[T, float]:
    """(what it gives, the seconds it takes), with what it has an accelerator do."""
    start = time.monotonic()
    given = do()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return given, time.monotonic() - start


def _time(do: Callable[[], object]) -> float:
    return timed(do)[1]
