"""The only place where a configuration becomes data, prior, method and trainer; and the life of a run folder.

    RUN/  config.yaml  log.jsonl  energy.jsonl  samples/  checkpoints/  report.json  report.html  contact_sheet.png  README.md
"""

from __future__ import annotations

import functools
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from rich.console import Console

from limner import find
from limner.config import MethodConfig, TranslateConfig, dump, read_yaml
from limner.config import resolve as resolve_config
from limner.data.cache import Cache
from limner.data.load import Loader, Recipe, Schedule, batches
from limner.data.prepare import load_uint8
from limner.data.read import read
from limner.errors import ConfigError, DataError, RunError
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.priors.sd import StableDiffusion
from limner.sampling.images import contact_sheet, save_png, to_pil, to_uint8
from limner.train import checkpoint, progress
from limner.train.energy import metered
from limner.train.trainer import Trainer
from limner.types import Dice, Sample

# A change of these does not make a run another run: they say how often to look, not what to learn.
FREE = {"save_every", "keep", "sample_every", "evaluate_every", "guidance_scale", "sample_steps", "out"}
VALIDATION_SEED = 1_000_003
GRID_PICTURES = 8

console = Console(stderr=True)


def resolve(method: str, flags: dict[str, Any], file: Path | None = None) -> MethodConfig:
    """The whole configuration of a run, checked; ``out`` is filled in.

    Raises:
        ConfigError: an unknown method or option, a value out of range, an impossible combination.
    """
    kind = find.load("method", method).Config
    config = resolve_config(kind, {**flags, "method": method}, file)
    if config.out is None:
        config = config.model_copy(update={"out": Path("runs") / f"{Path(method).stem}-{Path(config.data).stem}"})
    return config


@dataclass
class Job:
    """A configuration made real: what learns, and what it learns from."""

    config: MethodConfig
    method: Method
    train: Loader
    validation: Loader
    test: Loader


def build(config: MethodConfig, device: torch.device) -> Job:
    """Prior, method and data of a configuration, on a device.

    Raises:
        LimnerError: whatever of them cannot be had, before any training.
    """
    samples = load_data(config.data)
    prior = load_prior(config.prior).to(device)
    if config.from_scratch:
        prior.reinitialise(config.seed)
    method: Method = find.load("method", config.method)(prior, config)
    for module in method.learns().values():
        module.to(device)
    _refuse(samples, method, config)
    computed = config.condition if isinstance(config, TranslateConfig) and config.condition != "source" else None
    condition = find.load("condition", computed) if computed else None
    recipe = Recipe(prior.image_px, method.condition_px, condition, config.flip)
    upright = Recipe(prior.image_px, method.condition_px, condition, flip=False)
    cache = Cache(prior.encode_image, prior.encode_text)
    split = {name: [sample for sample in samples if sample.split == name] for name in ("train", "validation", "test")}
    # Order by name says nothing about content, so a share of the list is a fair share; it is the same for every seed.
    split["train"] = split["train"][:: round(1 / config.fraction)]
    held_out = split["validation"] or split["train"][:32]
    return Job(
        config,
        method,
        Loader(split["train"], recipe, cache, config.seed, device),
        Loader(held_out, upright, cache, VALIDATION_SEED, device),
        Loader(split["test"] or held_out, upright, cache, VALIDATION_SEED, device),
    )


def load_data(name: str) -> list[Sample]:
    """A built-in data set by name, else a folder or zip."""
    if name in find.names("data set"):
        return find.load("data set", name)()
    try:
        return read(name)
    except DataError as error:
        if not Path(name).exists():
            known = ", ".join(find.names("data set"))
            raise DataError(str(error), f"give a folder, a zip of one, or a built-in name ({known})") from None
        raise


def load_prior(name: str) -> Prior:
    """A prior by name, else a diffusers folder."""
    if Path(name).is_dir():
        return StableDiffusion.from_folder(name)
    return find.load("prior", name)()


def _refuse(samples: list[Sample], method: Method, config: MethodConfig) -> None:
    """Data that this method cannot learn from, before any compute is spent."""
    if not any(sample.split == "train" for sample in samples):
        raise DataError(f"{config.data} has no training pictures.", "set split to 'train' for some of them")
    needs_source = method.condition_px and getattr(config, "condition", "source") == "source"
    for sample in samples:
        if needs_source and sample.source is None:
            raise DataError(
                f"{sample.image} has no source picture beside it.",
                "give pairs (source/ and target/ with equal names), or a computed condition: --condition edges",
            )
        if method.condition_px is None and not sample.caption:
            raise DataError(f"{sample.image} has no caption.", "write one into a .txt file of the same name beside it")


def train(config: MethodConfig) -> Path:
    """Train a run to its end, or go on with it; returns its folder.

    Raises:
        LimnerError: bad data, another run's folder, a non-finite loss, a full disk.
        KeyboardInterrupt: Ctrl-C, after saving and saying how to go on.
    """
    assert config.out is not None
    folder = config.out
    _claim(folder, config)
    no_gpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    mixed = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(mixed_precision=mixed, cpu=no_gpu, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("tensorboard")
    job = build(config, accelerator.device)
    main = accelerator.is_main_process
    with progress.bar("encoding pictures", len(job.train.samples), 0, 1, shown=main) as advance:
        for done in job.train.encode_all():
            advance(done)
    schedule = Schedule(
        config.batch_size, config.accumulate, accelerator.num_processes, accelerator.process_index
    )
    trainer = Trainer(
        job.method,
        config,
        folder,
        functools.partial(batches, job.train, schedule),
        functools.partial(_score, job),
        functools.partial(_grid, job, folder),
        accelerator,
    )
    try:
        if main:
            with metered(folder / "energy.jsonl", "train"):
                trainer.run()
        else:
            trainer.run()
    except KeyboardInterrupt:
        if main:
            console.print(f"saved at step {trainer.step} of {config.steps}; the same command goes on from there")
        raise
    finally:
        accelerator.end_training()
    return folder


def _claim(folder: Path, config: MethodConfig) -> None:
    """Write config.yaml, or see that the folder's run is this one."""
    file = folder / "config.yaml"
    if file.is_file():
        before, now = read_yaml(file), config.model_dump(mode="json")
        changed = [key for key in now if key not in FREE and before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise RunError(
                f"{folder} holds a run with {key}: {before.get(key)}, not {now[key]}.",
                f"choose another --out, or delete {folder} to begin anew",
            )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(config), encoding="utf-8")


def open_run(run: Path, device: torch.device) -> tuple[Job, int]:
    """A run as it was at its best checkpoint (the last, if none was scored), averaged weights in place, and its step.

    Raises:
        RunError: no such run, or nothing saved in it yet.
    """
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run} is not a run folder.", "give the folder that 'limner train' wrote")
    values = read_yaml(run / "config.yaml")
    config = resolve(values.pop("method", ""), values)
    done = checkpoint.all_of(run / "checkpoints")
    if not done:
        raise RunError(f"{run} has no checkpoint yet.", "let the training reach its first save_every steps")
    _, state = checkpoint.read(done[-1], files=())
    best = run / "checkpoints" / f"step-{int(state['best']['step']):06d}" if state["best"] else done[-1]
    files, state = checkpoint.read(best, files=("ema",))
    job = build(config, device)
    for name, module in job.method.learns().items():
        module.load_state_dict(files["ema"][name], strict=False)
    return job, state["step"]


@torch.no_grad()
def _score(job: Job) -> dict[str, float]:
    """The method's own score on the validation pictures, with the same noise every time."""
    loader = job.validation
    totals: dict[str, float] = {}
    rounds = 4
    for number in range(rounds):
        batch = loader.collate(loader.samples, [False] * len(loader.samples), number, range(len(loader.samples)))
        for key, value in job.method.score(batch).items():
            totals[key] = totals.get(key, 0.0) + value / rounds
    return totals


def pictures(job: Job, loader: Loader, samples: list[Sample], seed: int, guidance: str = "off") -> torch.Tensor:
    """One generated picture for each sample's caption and condition, uint8 BCHW, at the run's own settings."""
    made = []
    for first in range(0, len(samples), 32):
        some = samples[first : first + 32]
        condition = None
        if job.method.condition_px:
            condition = torch.stack([loader.condition(sample) for sample in some]).to(loader.device)
        dice = Dice(seed, 0, range(first, first + len(some)), loader.device)
        made.append(
            job.method.generate(
                [sample.caption for sample in some],
                condition,
                dice.normal(*job.method.prior.latent_CHW),
                num_steps=job.config.sample_steps,
                guidance_scale=job.config.guidance_scale,
                guidance=guidance,
            )
        )
    return to_uint8(torch.cat(made)).cpu()


def _grid(job: Job, folder: Path, step: int) -> None:
    """samples/step-NNNNNN.png: condition (if any), sample, truth, for a few validation pictures."""
    samples = job.validation.samples[:GRID_PICTURES]
    made = pictures(job, job.validation, list(samples), seed=VALIDATION_SEED)
    side = made.shape[-1]
    truth = torch.stack([load_uint8(sample.image, side) for sample in samples])
    columns = {"sample": to_pil(made), "truth": to_pil(truth)}
    if job.method.condition_px:
        shown = to_uint8(torch.stack([job.validation.condition(sample) for sample in samples]))
        columns = {"condition": to_pil(shown), **columns}
    sheet = contact_sheet(list(zip(*columns.values(), strict=True)), list(columns))
    save_png(sheet, folder / "samples" / f"step-{step:06d}.png", {"step": str(step)})


def peak_mb() -> float:
    """The most memory held so far: of the accelerator if there is one, else of the process. In MB (1e6 bytes)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
