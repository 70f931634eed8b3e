"""Has the run learnt its subjects? Other pictures than those that chose its checkpoint, between floor and ceiling."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from limner.config import PersonalizeConfig
from limner.evaluate import subject, subject_report
from limner.methods.finetune import Finetune
from limner.run.job import Job, build, device, load_prior, open_run
from limner.run.scoring import METRICS, SEED, Scorer
from limner.train import cost
from limner.train.log import read as read_log

EVALUATION_SEED = SEED + 100  # of other noise than the scores during training, which chose the checkpoint


def evaluate_subjects(run: Path) -> dict[str, Any]:
    """Score a run that learnt subjects; writes report.json, report.html and README.md into its folder.

    For each subject the scores of the run's best checkpoint, in the run's own contexts but from noise that chose
    nothing; the floor, the untrained prior told the class word alone; and the ceiling, real pictures against real ones.
    Of several subjects also how far they bleed into one another.

    Raises:
        RunError: no such run, or nothing saved yet.
    """
    config, method, step = open_run(run, device())
    assert isinstance(config, PersonalizeConfig)
    job = build(config, device(), method)
    scorer, plain = Scorer(job, run, EVALUATION_SEED), Scorer(untrained(job), run, EVALUATION_SEED)
    drawn = [scorer.drawn(number) for number in range(len(scorer.real))]
    subjects: dict[str, Any] = {}
    for number, concept in enumerate(config.subjects):
        held_out = _held_out(job, number)
        subjects[concept.words] = {
            **scorer.worth(number, drawn[number]),
            "floor": plain.worth(number, plain.drawn(number, trained=False)),
            "ceiling": subject.reference(scorer.real[number], held_out, scorer.embed),
        }
    result = {
        "method": config.method,
        "prior": config.prior,
        "data": ", ".join(concept.data for concept in config.subjects),
        "adapter": config.adapter,
        "step": step,
        "subjects": subjects,
        **cost.total(run / "energy.jsonl", "train"),
    }
    if len(drawn) > 1:
        result["bleed"] = subject.bleed(drawn, scorer.real, scorer.embed).tolist()
    sheets = [(int(file.stem.rpartition("-")[2]), file) for file in sorted((run / "samples").glob("score-*.png"))]
    subject_report.write(run, result, read_log(run / "log.jsonl"), sheets)
    _card(run, job, result)
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def untrained(job: Job) -> Job:
    """The same with the prior as it was before the run."""
    plain = job.config.model_copy(update={"adapter": "full", "base_precision": "fp32", "start_from": None})
    return replace(job, method=Finetune(load_prior(plain).to(device()), plain))


def _held_out(job: Job, number: int) -> torch.Tensor | None:
    """Pictures of a subject that it did not learn from, uint8 (L, 3, H, W), if there are any."""
    side = job.method.prior.image_px
    own = [one for one in job.test.samples if one.meta["concept"] == number and one.split != "train"]
    return torch.stack([job.test.truth(one, side) for one in own]) if own else None


def _card(run: Path, job: Job, result: dict[str, Any]) -> None:
    """README.md: what this model is, what it came from, what it cost, how good it is."""
    config = job.config
    assert isinstance(config, PersonalizeConfig)
    taught = ", ".join(f"`{concept.words}` from `{concept.data}`" for concept in config.subjects)
    lines = [
        f"# {run.name}",
        "",
        f"The prior `{config.prior}`, taught by limner's method `{config.method}` ({config.adapter}, {result['step']} "
        f"of {config.steps} steps, seed {config.seed}): {taught}.",
        "It inherits the licence of its prior and of its pictures. Every setting is in `config.yaml`.",
        "",
        f"Scored by `limner evaluate {run}`; the pictures are in `report.html`. Floor: the prior before the run, told "
        "the class word; ceiling: real pictures.",
    ]
    for words, one in result["subjects"].items():
        lines += ["", f"| {words} | floor | this run | ceiling |", "|---|---|---|---|"]
        for key in METRICS:
            cells = [part.get(key) for part in (one["floor"], one, one["ceiling"])]
            if cells[1] is not None:
                lines.append(f"| {key} | " + " | ".join("" if c is None else f"{c:.4f}" for c in cells) + " |")
    lines += [
        "",
        f"Training took {result['seconds']:.0f} s, {result['kwh']:.4f} kWh ({result['kg_co2e']:.4f} kg CO2e at the "
        f"grid of {cost.COUNTRY}) and {result['peak_mb']:.0f} MB at most.",
    ]
    (run / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
