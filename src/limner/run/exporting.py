"""``limner export``: a run's result in a layout that other programs read, proven by stock diffusers before it counts.

Everything is written to FOLDER.unverified, opened from there by stock diffusers, compared layer by layer, and drawn
with: the run's first sample, from the same noise. Only then does the folder get its name.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from limner.config import MethodConfig, PersonalizeConfig, dump
from limner.errors import ConfigError, DataError, ExportError, did_you_mean
from limner.export import proof, words
from limner.export import write as writing
from limner.export.adapter import fold
from limner.export.card import card
from limner.export.header import About, Kind
from limner.export.lora import TARGETS
from limner.export.result import Result, prediction, result_of
from limner.export.verify import DTYPES
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.run.job import VALIDATION_SEED, build, device, open_run
from limner.train import cost
from limner.types import Dice

console = Console(stderr=True)


@dataclass(frozen=True)
class Exported:
    """Where the result lies, and the sentence that says what was proven of it."""

    folder: Path
    proof: str


def export(
    run: Path,
    *,
    target: str,
    out: Path | None = None,
    merged: bool = False,
    proven: bool = True,
    overwrite: bool = False,
    dtype: str = "fp32",
) -> Exported:
    """Write a run's best checkpoint for ``target``, and prove that stock diffusers draws with it what limner draws.

    Args:
        target: 'diffusers', 'peft', 'kohya' or 'comfyui'.
        out: the folder to write; default RUN/export/TARGET.
        merged: fold the adapter into the base, and write the whole model.
        proven: False writes without opening what was written.
        dtype: 'fp32', 'fp16' or 'bf16', of the weights in the files.

    Raises:
        ConfigError: no such target.
        ExportError: the layout cannot hold the run, the folder exists, or the proof fails; the files are then left in
            FOLDER.unverified.
        RunError: no such run, or nothing saved yet.
    """
    run = Path(run)
    if target not in TARGETS:
        raise ConfigError(f"unknown target '{target}'.", did_you_mean(target, TARGETS))
    out = out or run / "export" / (f"{target}-merged" if merged else target)
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists.", "--overwrite replaces it; --out writes elsewhere")
    written = out.with_name(f"{out.name}.unverified")
    try:
        said = _write(run, written, target, merged, proven, dtype, device())
    except torch.OutOfMemoryError:
        console.print("the accelerator has too little memory for fp32: exporting on the CPU")
        said = _write(run, written, target, merged, proven, dtype, torch.device("cpu"))
    if out.exists():
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    written.replace(out)
    return Exported(out, said)


def _write(run: Path, out: Path, target: str, merged: bool, proven: bool, dtype: str, device: torch.device) -> str:
    """Write ``out``, whatever was there, and prove it; what was proven."""
    config, method, step = open_run(run, device, plain=True)
    result = result_of(config, method, merged)
    writing.refuse(result, target, proven)
    about = _about(run, config, method.prior, step)
    seen = _example(config, method, device) if proven else None
    if merged:
        method.prior.network = fold(method.prior.network)
        for encoder in result.encoders.values():
            fold(encoder)
    if result.pipeline and result.widened:
        _rescale_planes(method.prior)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    writing.write(out, target, result, about, DTYPES[dtype])
    said = "It was not verified."
    if seen is not None:
        said = proof.prove(out, target, result, method, seen, about, dtype)
    _describe(out, target, result, about, said)
    return said


def _example(config: MethodConfig, method: Method, device: torch.device) -> proof.Example:
    """The first held-out sample of the run, from the noise of its sample grids; without its data something simple."""
    caption, condition = _words_of(config) or "a picture", None
    if method.condition_px:
        condition = _disc(method.condition_px)
    with contextlib.suppress(DataError):  # the data may be gone
        if not config.stream:
            loader = build(config, device, method).validation
            first = loader.samples[0]
            caption = loader.caption(first)
            condition = loader.condition(first)[None] if method.condition_px else None
    noise = Dice(VALIDATION_SEED, 0, range(1), device).normal(*method.prior.latent_CHW)
    return proof.example(method, caption, None if condition is None else condition.to(device), noise)


def _words_of(config: MethodConfig) -> str:
    """What the run calls what it has learnt, the first of several: 'sks dog'."""
    if isinstance(config, PersonalizeConfig):
        return config.subjects[0].words
    return " ".join(filter(None, [config.trigger, config.class_word]))


def _disc(side_px: int) -> Tensor:
    """A black ring on white, (1, 3, side, side): a condition picture where there is no other."""
    place = torch.linspace(-1, 1, side_px)
    radius = (place[:, None] ** 2 + place**2).sqrt()
    return torch.where((radius - 0.6).abs() < 0.1, -1.0, 1.0).expand(1, 3, side_px, side_px).clone()


@torch.no_grad()
def _rescale_planes(prior: Prior) -> None:
    """InstructPix2Pix' pipelines give the condition's latent without the scale that limner's planes have."""
    if prior.family in ("sd", "sdxl"):
        network: Any = prior.network
        network.conv_in.weight[:, prior.latent_CHW[0] :] *= prior.latent_scale


def _about(run: Path, config: MethodConfig, prior: Prior, step: int) -> About:
    """What is known of the run."""
    used = cost.total(run / "energy.jsonl", "train")
    subjects = config.subjects if isinstance(config, PersonalizeConfig) else ()
    data = json.loads((run / "data.json").read_text()) if (run / "data.json").is_file() else {}
    network: Any = prior.network
    return About(
        title=re.sub(r"[^\w.-]+", "-", run.resolve().name),
        family=prior.family,
        prediction=prediction(prior),
        width=prior.token_dim,
        guided=bool(network.config.get("guidance_embeds")),
        resolution_px=prior.image_px,
        base=config.prior,
        base_license=_license(prior.source),
        method=config.method,
        trigger=", ".join(one.trigger for one in subjects) or config.trigger,
        class_word=", ".join(one.class_word for one in subjects) or config.class_word,
        data=", ".join(one.data for one in subjects) or config.data,
        data_sha256=data.get("sha256", ""),
        num_images=data.get("records", 0),
        steps=config.steps,
        step=step,
        batch_size=config.batch_size * config.accumulate,
        learning_rate=config.learning_rate,
        seed=config.seed,
        kwh=used["kwh"],
        kg_co2e=used["kg_co2e"],
        config=dump(config),
        date=datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat(),
    )


def _license(source: Path) -> str:
    """What the base's model card says of its licence."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = re.search(r"^license:\s*(\S+)\s*$", (source / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else ""
    return ""


def _describe(out: Path, target: str, result: Result, about: About, said: str) -> None:
    adapter = result.adapter
    kind = (
        Kind(result.kind, target, adapter.rank, adapter.rank * adapter.scale) if adapter else Kind(result.kind, target)
    )
    index = json.loads((result.prior.source / "model_index.json").read_text(encoding="utf-8"))
    pipeline = result.pipeline or index["_class_name"]
    file = writing.single_file(out, about).name
    component = result.prior.component
    more = [
        f'pipe.{name} = PeftModel.from_pretrained(pipe.{name}, "THIS FOLDER/{name}")'
        for name in (result.text if target == "peft" else ())
    ]
    if result.words:
        more += words.use(target, result.prior.family, result.names)
    (out / "README.md").write_text(card(about, kind, component, pipeline, file, said, more), encoding="utf-8")
