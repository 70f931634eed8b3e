"""Has the run learnt its subjects? Other pictures than those that chose its checkpoint, between floor and ceiling."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch

from limner.config import PersonalizeConfig
from limner.evaluate import subject, subject_report
from limner.run.job import Job, build, device, open_run
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
    scorer = Scorer(job, run, EVALUATION_SEED)
    drawn = [scorer.drawn(number) for number in range(len(scorer.real))]
    subjects: dict[str, Any] = {
        concept.words: {
            **scorer.worth(number, drawn[number]),
            "ceiling": subject.reference(scorer.real[number], _held_out(job, number), scorer.embed),
        }
        for number, concept in enumerate(config.subjects)
    }
    bleed = subject.bleed(drawn, scorer.real, scorer.embed).tolist() if len(drawn) > 1 else None
    del scorer, job, method
    plain = Scorer(untrained(config), run, EVALUATION_SEED)
    for number, one in enumerate(subjects.values()):
        one["floor"] = plain.worth(number, plain.drawn(number, trained=False))
    result = {
        "method": config.method,
        "prior": config.prior,
        "data": ", ".join(concept.data for concept in config.subjects),
        "adapter": config.adapter,
        "step": step,
        "subjects": subjects,
        **cost.total(run / "energy.jsonl", "train"),
    }
    if bleed:
        result["bleed"] = bleed
    sheets = [(int(file.stem.rpartition("-")[2]), file) for file in sorted((run / "samples").glob("score-*.png"))]
    subject_report.write(run, result, read_log(run / "log.jsonl"), sheets)
    _card(run, config, result)
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def untrained(config: PersonalizeConfig) -> Job:
    """The job of a run with the prior as it was before: held as the run holds it, with what was merged into it.

    Its LoRA is the one that a fine-tune begins with, which adds nothing. To be called when the run's own network is
    gone: two at once may be more than there is room for.
    """
    gc.collect()
    fresh = {"method": "finetune", "adapter": "lora", "adapter_targets": (), "start_from": None}
    return build(config.model_copy(update=fresh), device())


def _held_out(job: Job, number: int) -> torch.Tensor | None:
    """Pictures of a subject that it did not learn from, uint8 (L, 3, H, W), if there are any."""
    side = job.method.prior.image_px
    own = [one for one in job.test.samples if one.meta["concept"] == number and one.split != "train"]
    return torch.stack([job.test.truth(one, side) for one in own]) if own else None


def _card(run: Path, config: PersonalizeConfig, result: dict[str, Any]) -> None:
    """README.md: what this model is, what it came from, what it cost, how good it is."""
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
