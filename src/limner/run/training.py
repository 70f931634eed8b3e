"""A run from its first step to its last, in a folder that is its whole story.

RUN/  config.yaml  data.json  adapters.json  log.jsonl  energy.jsonl  tensorboard/  samples/  checkpoints/
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from limner.config import MethodConfig, PersonalizeConfig, dump
from limner.data.load import Schedule, batches
from limner.data.prepare import to_uint8
from limner.errors import ConfigError, RunError
from limner.evaluate.report import write_text
from limner.priors import placing
from limner.priors.adapters import summary
from limner.run import adapters, checking, class_pictures
from limner.run.job import VALIDATION_SEED, Job, build, config_of, device, pictures
from limner.run.scoring import Scorer
from limner.sampling.images import contact_sheet, save_png, to_pil
from limner.train import checkpoint, progress
from limner.train.cost import find_meters, metered
from limner.train.memory import keep_freed
from limner.train.trainer import Trainer
from limner.types import Sample

# A change of these does not make a run another run: they say how often to look, not what to learn.
FREE = {"save_every", "keep", "sample_every", "evaluate_every", "guidance_scale", "guidance", "sample_steps", "out"}
GRID_PICTURES = 8
CAPTIONS = 10_000  # looked at for their length before a run
VALIDATION_ROUNDS = 4  # each with other noise and times

console = Console(stderr=True)


def train(config: MethodConfig) -> Path:
    """Train a run to its end, or go on with it; returns its folder.

    Raises:
        LimnerError: bad data, another run's folder, a non-finite loss, a full disk.
        KeyboardInterrupt: Ctrl-C, after saving and saying how to go on.
    """
    assert config.out is not None
    folder = config.out
    _refuse_another(folder, config)
    adapters.refuse_changed(folder, config)
    cpu = device().type == "cpu"
    accelerator = Accelerator(cpu=cpu, log_with="tensorboard", project_dir=folder)
    main = accelerator.is_main_process
    keep_freed()
    if main:
        find_meters()
    if config.device_map == "auto" and accelerator.num_processes > 1:
        raise ConfigError("device_map auto is for one process, which takes all accelerators.", "start one process")
    job = build(config, accelerator.device)
    if main:
        _tell(job, accelerator.device)
    _read_all(job, accelerator)
    if main:
        _begin(folder, config, job.train.samples)
        class_pictures.ready(job, folder)
    accelerator.wait_for_everyone()
    for loader in (job.train, job.validation):
        loader.refresh()
    job = replace(job, kept=class_pictures.kept(job, folder))
    job.method.read_ahead()
    job.method.prior.parts.release()
    if main and job.train.encoder.full:
        console.print(
            "the cache takes no more, so some pictures are encoded again each time: "
            "set LIMNER_CACHE_GB higher, or LIMNER_CACHE to a folder that can be written"
        )
    accelerator.init_trackers("tensorboard")
    trainer = trainer_of(job, folder, accelerator)
    try:
        with metered(folder / "energy.jsonl", "train") if main else nullcontext():
            trainer.run()
    except KeyboardInterrupt:
        if main:
            console.print(f"saved at step {trainer.saved_step} of {config.steps}; the same command goes on from there")
        raise
    finally:
        accelerator.end_training()
    if main:
        _tell_end(trainer)
        console.print(f"trained: {folder}; score it with: limner evaluate {folder}", soft_wrap=True)
    return folder


def trainer_of(job: Job, folder: Path, accelerator: Accelerator) -> Trainer:
    """What trains a job, and now and then scores it and draws with it."""
    config = job.config
    schedule = Schedule(config.batch_size, config.accumulate, accelerator.num_processes, accelerator.process_index)
    score: Callable[[int], dict[str, float]] = functools.partial(_score, job)
    look: Callable[[int], None] = functools.partial(_grid, job, folder)
    if isinstance(config, PersonalizeConfig):
        score, look = (scorer := Scorer(job, folder)).score, scorer.look
    return Trainer(
        job.method,
        config,
        folder,
        functools.partial(batches, job.train, schedule, kept=job.kept),
        functools.partial(_borrowing, job, score),
        functools.partial(_borrowing, job, look),
        accelerator,
    )


def _tell_end(trainer: Trainer) -> None:
    """Which checkpoint is the best, and why the run ended early, if it did."""
    if trainer.best is None:
        return
    best = int(trainer.best["step"])
    if trainer.step < trainer.config.steps:
        console.print(f"ended at step {trainer.step} of {trainer.config.steps}: no better score since step {best}")
    elif best < trainer.step:
        console.print(f"the best score is that of step {best}, which is what is drawn and exported from here on")


def _read_all(job: Job, accelerator: Accelerator) -> None:
    """Every picture once, into the cache, so that what is wrong with one is known before any compute is spent."""
    main = accelerator.is_main_process
    try:
        for title, loader in (("reading pictures", job.train), ("reading held-out pictures", job.validation)):
            with progress.bar(title, len(loader), 0, 1, shown=main and len(loader) > 0) as advance:
                for done in loader.encode_all(accelerator.process_index, accelerator.num_processes):
                    advance(done)
    except KeyboardInterrupt:
        if main:
            console.print("what was read is kept in the cache; the same command goes on from there")
        raise


def _begin(folder: Path, config: MethodConfig, samples: Sequence[Sample]) -> None:
    """config.yaml and data.json; says so where a run goes on with other data than it began with."""
    file, now = folder / "data.json", _about(samples)
    goes_on = file.is_file() and bool(checkpoint.all_of(folder / "checkpoints"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", dump(config))
        adapters.record(folder, config)
        if samples and not goes_on:  # of a stream they are not known
            write_text(file, json.dumps(now) + "\n")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}.", "choose another --out") from None
    if goes_on and (before := json.loads(file.read_text())) != now:
        fewer_or_more = f"{before['records']} records then, {now['records']} now"
        how = fewer_or_more if before["records"] != now["records"] else "some names or captions are others"
        console.print(f"the data has changed since this run began ({how}): it goes on with what is there now")


def _about(samples: Sequence[Sample]) -> dict[str, Any]:
    """What stands for records and their captions."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.key}\n{sample.caption}\n".encode())
    return {"records": len(samples), "sha256": digest.hexdigest()}


def _tell(job: Job, on: torch.device) -> None:
    """Before a run: what is merged and what learns, what is asked for and does nothing, what is cut off."""
    adapters.tell(job.config.adapters, job.config.start_from)
    if job.config.adapter != "full":
        console.print(summary(job.method.prior.network, job.config), highlight=False)
    if isinstance(job.config, PersonalizeConfig):
        checking.warn(job.config, job.method.prior, job.train.samples, console)
    if idle := placing.idle(job.config, on):
        console.print(idle)
    _tell_of_cut_captions(job)


def _tell_of_cut_captions(job: Job) -> None:
    """A prior cuts long captions off without a word; here is the word."""
    samples = job.train.samples or job.validation.samples
    read = [job.method.prior.count_tokens(job.train.caption(sample)) for sample in itertools.islice(samples, CAPTIONS)]
    if num := sum(bool(tokens.cut_off) for tokens in read):
        console.print(
            f"captions longer than the {read[0].room} tokens that the prior reads, and cut off there: {num}; "
            "'limner check' with the same options names them"
        )


def _refuse_another(folder: Path, config: MethodConfig) -> None:
    """A folder that holds checkpoints of another run is not overwritten; nor is a file."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file and no run folder.", "choose another --out")
    if not checkpoint.all_of(folder / "checkpoints"):
        return
    before = config_of(folder).model_dump(mode="json")
    now = config.model_dump(mode="json")
    changed = [key for key in now if key not in FREE and before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise RunError(
            f"{folder} holds a run with {key}: {before.get(key)}, not {now[key]}.",
            f"choose another --out, or delete {folder} to begin anew",
        )


def _borrowing(job: Job, look: Callable[..., Any], *args: Any) -> Any:
    """What a look at the state loads (a decoder) is gone for the steps after it; what the steps use stays."""
    with job.method.prior.parts.borrowed():
        return look(*args)


@torch.no_grad()
def _score(job: Job, step: int) -> dict[str, float]:
    """The method's own score on the validation pictures, with the same noise every time; the mean over pictures."""
    samples, totals = job.validation.samples, dict[str, float]()
    for number in range(VALIDATION_ROUNDS):
        for first in range(0, len(samples), job.at_once):
            some = samples[first : first + job.at_once]
            indices = range(first, first + len(some))
            batch = job.validation.collate(job.validation.upright(some), number, indices)
            for key, value in job.method.score(batch).items():
                totals[key] = totals.get(key, 0.0) + value * len(some) / len(samples) / VALIDATION_ROUNDS
    return totals


def _grid(job: Job, folder: Path, step: int) -> None:
    """samples/step-NNNNNN.png: condition (if any), sample, truth, for a few validation pictures."""
    samples = list(job.validation.samples[:GRID_PICTURES])
    made = pictures(job, job.validation, samples, seed=VALIDATION_SEED)
    side = made.shape[-1]
    truth = torch.stack([job.validation.truth(sample, side) for sample in samples])
    columns = {"sample": to_pil(made), "truth": to_pil(truth)}
    if job.method.condition_px:
        shown = to_uint8(torch.stack([job.validation.condition(sample) for sample in samples]))
        columns = {"condition": to_pil(shown), **columns}
    sheet = contact_sheet(list(zip(*columns.values(), strict=True)), list(columns))
    save_png(sheet, folder / "samples" / f"step-{step:06d}.png", {"step": str(step)})
