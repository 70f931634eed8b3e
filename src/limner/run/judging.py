"""Is the result good? A run's pictures of held-out concepts, before and after, against the truth; and the demo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from limner import find
from limner.config import PersonalizeConfig, TranslateConfig
from limner.data.load import Loader
from limner.data.prepare import to_uint8
from limner.errors import ConfigError, DataError
from limner.evaluate import features, generation, report, translation
from limner.evaluate.metrics.diversity import diversity
from limner.evaluate.metrics.edges import SIDE_PX
from limner.methods.finetune import Finetune
from limner.run.job import Job, build, config_of, device, load_prior, open_run, pictures, resolve
from limner.run.subject_judging import evaluate_subjects
from limner.run.training import train
from limner.train import cost
from limner.train.log import read as read_log
from limner.types import Sample

NUM_SHOWN = 16
SAMPLES_SHOWN = 3

console = Console(stderr=True)


def evaluate(run: Path, *, split: str = "test", limit: int | None = None, before: bool = True) -> dict[str, Any]:
    """Score a run on pictures it never saw; writes report.json, report.html and contact_sheet.png into its folder.

    Two arms: ``prior``, the prior after this fine-tune, and ``before``, the same prior as it was, told the caption
    alone (left out if ``before`` is False). Each makes one picture of every held-out sample, and two more of 16 at
    equal distances, for diversity and for show. Lines are compared at 128 px; truth and samples are at the prior's
    own size. A run that learnt subjects is scored by ``evaluate_subjects``, in contexts instead of held-out pictures.

    Raises:
        RunError: no such run, or nothing saved yet.
        DataError: fewer than four held-out pictures.
    """
    run = Path(run)
    if isinstance(config_of(run), PersonalizeConfig):
        if limit:
            raise ConfigError("limit is for held-out pictures, and this run is scored in contexts.", "leave it out")
        return evaluate_subjects(run)
    config, method, step = open_run(run, device())
    job = build(config, device(), method)
    loader = job.test if split == "test" else job.validation
    samples = _held_out(loader, split, limit, config.data)
    embed = features.eye()
    side = job.method.prior.image_px
    truth = torch.stack([loader.truth(sample, side) for sample in samples])
    sketch = None
    if isinstance(job.config, TranslateConfig):
        recipe = replace(loader.recipe, condition_px=SIDE_PX)  # the sketch as it is compared, not as the method sees it
        sharp = Loader(samples, recipe, loader.encoder, loader.seed, loader.device)
        sketch = torch.cat([to_uint8(sharp.condition(sample)[None]) for sample in samples])
    made = {"prior": _make(job, loader, samples, "after")}
    if before:
        plain = replace(job, method=Finetune(load_prior(job.config).to(device()), job.config))
        made["before"] = _make(plain, loader, samples, "before")

    arms = {}
    for name, (firsts, more) in made.items():
        if sketch is None:
            arms[name] = generation.score(truth, firsts[:, None], embed)
        else:
            arms[name] = translation.score(sketch, truth, firsts[:, None], embed)
        num, each = more.shape[:2]
        arms[name]["diversity"] = float(diversity(embed(more.flatten(0, 1)).view(num, each, -1)).mean())
    ends = generation.floors(truth, embed) if sketch is None else translation.reference(sketch, truth, embed)
    result = {
        "method": job.config.method,
        "prior": job.config.prior,
        "data": job.config.data,
        "from_scratch": str(job.config.from_scratch).lower(),
        "split": samples[0].split,
        "pictures": len(samples),
        "step": step,
        "arms": arms,
        **ends,
        **cost.total(run / "energy.jsonl", "train"),
    }
    shown = _rows(samples, sketch, made["prior"][1], truth)
    report.write(run, result, shown, read_log(run / "log.jsonl"))
    _card(run, job, result)
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def _held_out(loader: Loader, split: str, limit: int | None, data: str) -> list[Sample]:
    """The pictures to score on; says so where they are not of the split that was asked for."""
    samples = list(loader.samples[:limit])
    if samples[0].split == "train":
        raise DataError(
            f"{data} holds no picture back.", "give ten pictures or more, or mark some as validation or test"
        )
    if len(samples) < 4:
        raise DataError(f"{len(samples)} held-out pictures are too few to score.", "hold out at least 4, better 100")
    if samples[0].split != split:
        console.print(f"no {split} pictures: scored on the {samples[0].split} ones, which chose the best checkpoint")
    return samples


def _make(job: Job, loader: Loader, samples: Sequence[Sample], title: str) -> tuple[Tensor, Tensor]:
    """(one picture of each sample, NCHW; three of each that is shown, NKCHW), uint8."""
    firsts = pictures(job, loader, list(samples), seed=0, title=f"drawing, {title}")
    shown = _shown(len(samples))
    more = [pictures(job, loader, [samples[i] for i in shown], seed=seed) for seed in range(1, SAMPLES_SHOWN)]
    return firsts, torch.stack([firsts[shown], *more], dim=1)


def _shown(num: int) -> list[int]:
    """Which rows are shown: neighbours are often of one kind, so at equal distances over all."""
    few = min(num, NUM_SHOWN)
    return [i * num // few for i in range(few)]


def _rows(samples: Sequence[Sample], sketch: Tensor | None, made: Tensor, truth: Tensor) -> list[report.Row]:
    def array(uint8_CHW: Tensor) -> Any:
        return uint8_CHW.permute(1, 2, 0).numpy()

    return [
        (
            samples[i].caption or samples[i].key,
            None if sketch is None else array(sketch[i]),
            [array(one) for one in some],
            array(truth[i]),
        )
        for i, some in zip(_shown(len(samples)), made, strict=True)
    ]


def _card(run: Path, job: Job, result: dict[str, Any]) -> None:
    """README.md: what this model is, what it came from, what it cost, how good it is."""
    config, arm = job.config, result["arms"]["prior"]
    figures = {key: value for key, value in arm.items() if isinstance(value, float)}
    lines = [
        f"# {run.name}",
        "",
        f"The prior `{config.prior}`, fine-tuned by limner's method `{config.method}` on `{config.data}` "
        f"({len(job.train)} pictures, {config.steps} steps, seed {config.seed}).",
        "It inherits the licence of its prior and of its data. Every setting is in `config.yaml`.",
        "",
        f"Scored at step {result['step']} on {arm['num_concepts']} {result['split']} pictures it never learned from "
        f"(`limner evaluate {run}`); the pictures are in `report.html`.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in figures.items()),
        "",
        f"Training took {result['seconds']:.0f} s, {result['kwh']:.4f} kWh ({result['kg_co2e']:.4f} kg CO2e at the "
        f"grid of {cost.COUNTRY}) and {result['peak_mb']:.0f} MB at most.",
    ]
    (run / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def demo(out: Path = Path("runs/demo")) -> dict[str, Any]:
    """The main job on the built-in prior and data: line drawings become pictures. See DEMO for its settings."""
    method = "concat"
    assert method in find.names("method")
    train(resolve(method, {**DEMO, "out": out}))
    return evaluate(out)


# Chosen on the validation concepts; docs/log.md says how.
DEMO: dict[str, Any] = {
    "data": "fluent",
    "steps": 480,
    "batch_size": 16,
    "guidance_scale": 1.5,
    "guidance": "off",
    "learning_rate": 1.5e-3,
    "noise_bias": 2.0,
    "save_every": 160,
    "evaluate_every": 160,
    "sample_every": 240,
}
