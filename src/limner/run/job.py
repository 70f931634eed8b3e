"""A configuration made real: the one place where it becomes data, prior and method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limner import find
from limner.config import MethodConfig, PriorConfig, read_yaml
from limner.config import resolve as resolve_config
from limner.data import store
from limner.data.encode import Encoder
from limner.data.load import Loader
from limner.data.order import Streamed
from limner.data.prepare import to_uint8
from limner.errors import ConfigError, RunError
from limner.methods.base import Method
from limner.priors import placing
from limner.priors.base import Prior
from limner.priors.folder import Loading
from limner.priors.open import open_prior
from limner.run import adapters
from limner.run.data import load_splits, needs_of, recipe_of, refuse
from limner.train import checkpoint, progress
from limner.train.optim import buffers_of
from limner.types import Dice, Sample

VALIDATION_SEED = 1_000_003


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def resolve(method: str, flags: dict[str, Any], file: Path | None = None) -> MethodConfig:
    """The whole configuration of a run, checked; ``out`` is filled in.

    Raises:
        ConfigError: an unknown method or option, a value out of range, an impossible combination.
    """
    kind = find.load("method", method).Config
    config = resolve_config(kind, {**flags, "method": method}, file)
    if config.out is None:
        config = config.model_copy(update={"out": Path("runs") / f"{Path(method).stem}-{Path(config.data).stem}"})
    return adapters.settle(config, lambda: load_prior(config, meta=True))


@dataclass
class Job:
    """A configuration made real: what learns, and what it learns from and is measured on.

    kept: what the prior shall go on drawing as before, where that is given as pictures; only in training.
    """

    config: MethodConfig
    method: Method
    train: Loader
    validation: Loader
    test: Loader
    kept: Loader | None = None

    @property
    def at_once(self) -> int:
        """Pictures drawn or scored together: no more than a training step takes, which is known to fit."""
        return min(32, self.config.batch_size)


def load_prior(config: PriorConfig, meta: bool = False) -> Prior:
    """The prior of a configuration, its weights held as that says; with ``meta`` without weights."""
    loading = Loading(config.base_precision, config.precision, meta, config.image_px)
    prior = open_prior(config.prior, loading, config.prior_config, store.folder() / "priors")
    prior.precision = config.precision
    return prior


def build_method(config: MethodConfig, device: torch.device) -> Method:
    """The prior and the method of a configuration, on a device; new weights are those of the configuration's seed.

    On the device 'meta' nothing has weights: enough for what a method and a prior say of themselves.
    """
    meta = device.type == "meta"
    prior = load_prior(config, meta)
    adapters.merge(prior, config.adapters)
    placed = not meta and placing.place(prior, config, device)
    if config.from_scratch and not meta:
        prior.reinitialise(config.seed)
    with torch.random.fork_rng(devices=[]), device if meta else nullcontext():
        torch.manual_seed(config.seed)
        method: Method = find.load("method", config.method)(prior, config)
    for module in method.learns().values():
        if not (placed and module is prior.network):
            module.to(device)
    if not meta:
        placing.save_memory(prior, config, device)
    return method


def build(config: MethodConfig, device: torch.device, method: Method | None = None) -> Job:
    """Data and method of a configuration, on a device.

    Raises:
        LimnerError: whatever of them cannot be had, before any training.
    """
    method = method or build_method(config, device)
    prior = method.prior
    refuse_shapes(config, method)
    encoder = Encoder(prior.encode_image, prior.encode_text, prior.fingerprint(), device, not method.learns_text)
    recipe = recipe_of(config, prior.image_px, method.condition_px)
    needs = needs_of(config, method.condition_px)
    training, held_out, test, groups = load_splits(
        config, prior.image_px, prior.multiple_px, lambda sample: refuse([sample], needs, recipe)
    )
    for part in (training.held_out if isinstance(training, Streamed) else training, held_out, test):
        refuse(part, needs, recipe)

    def upright(samples: Sequence[Sample]) -> Loader:
        return Loader(samples, recipe.upright(), encoder, VALIDATION_SEED, device)

    train = Loader(training, recipe, encoder, config.seed, device, groups)
    return Job(config, method, train, upright(held_out), upright(test))


def refuse_shapes(config: MethodConfig, method: Method) -> None:
    """Stop where the configuration asks for shapes or sizes that the method cannot take."""
    own_px = method.prior.image_px
    if method.fixed_size and (config.aspect == "buckets" or set(config.resolutions_px) - {own_px}):
        raise ConfigError(
            f"{config.method} takes square pictures of {own_px} px only.",
            "leave aspect and resolutions_px as they are, or take concat",
        )


def config_of(run: Path) -> MethodConfig:
    """The configuration that a run was begun with.

    Raises:
        RunError: no such run.
    """
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run} is not a run folder.", "give the folder that 'limner train' wrote")
    values = read_yaml(run / "config.yaml")
    return resolve(values.pop("method", ""), values)


def open_run(run: Path, device: torch.device, plain: bool = False) -> tuple[MethodConfig, Method, int]:
    """A run at its best checkpoint (the last, if none was scored), averaged weights in place: (config, method, step).

    Needs none of the run's data. ``plain``: all weights in fp32, whatever the run held them in.

    Raises:
        RunError: no such run, nothing saved in it yet, or weights that its method does not have.
    """
    config = config_of(run)
    adapters.refuse_changed(run, config)
    chosen = checkpoint.to_open(run / "checkpoints")
    if chosen is None:
        raise RunError(f"{run} has no checkpoint yet.", "let the training reach its first save_every steps")
    files, state = checkpoint.read(chosen, files=("ema",))
    held = {"base_precision": "fp32", "precision": "fp32", "offload": False, "device_map": "off"} if plain else {}
    method = build_method(config.model_copy(update=held), device)
    for name, module in method.learns().items():
        saved = files["ema"].get(name, {})
        wanted = {key for key, weight in module.named_parameters() if weight.requires_grad}
        if strange := sorted(saved.keys() ^ (wanted | buffers_of(module).keys())):
            raise RunError(
                f"{run}: weight '{name}/{strange[0]}' fits not.", "use the limner and the method it was made by"
            )
        module.load_state_dict(saved, strict=False)
    return config, method, state["step"]


def pictures(job: Job, loader: Loader, samples: list[Sample], seed: int, title: str = "") -> torch.Tensor:
    """One generated picture for each sample's caption and condition, uint8 BCHW, at the run's own settings.

    With a ``title`` a progress bar is shown.
    """
    made = []
    with progress.bar(title, len(samples), 0, 1, shown=bool(title)) as advance:
        for first in range(0, len(samples), job.at_once):
            some = samples[first : first + job.at_once]
            condition = None
            if job.method.condition_px:
                condition = torch.stack([loader.condition(sample) for sample in some]).to(loader.device)
            dice = Dice(seed, 0, range(first, first + len(some)), loader.device)
            captions = [loader.caption(sample) for sample in some]
            drawn = job.method.generate(
                job.method.prior.encode_text(captions) if job.method.learns_text else loader.texts(captions),
                condition,
                dice.normal(*job.method.prior.latent_CHW),
                num_steps=job.config.sample_steps,
                guidance_scale=job.method.guidance_scale,
                guidance=job.method.guidance,
            )
            made.append(to_uint8(drawn))
            advance(first + len(some))
    return torch.cat(made)
