"""The benchmark of subjects in contexts: runs that each learnt one or several, drawn and scored alike.

On DreamBooth's pictures and prompts (``evaluate.dreambench``) with DINO and CLIP, as its paper; for runs on the
built-in ``subjects`` with the eye, where each held-out scene of a subject is a prompt, and the scene itself its truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.config import PersonalizeConfig
from limner.config.personalize import Concept, class_prompt
from limner.data.prepare import open_picture, to_float, to_uint8
from limner.errors import ConfigError, DataError, PriorError, RunError
from limner.evaluate import dreambench, features, subject_report
from limner.evaluate.dreambench import PICTURES_EACH, Row, Subject
from limner.run.class_pictures import draw
from limner.run.data import load_data
from limner.run.job import Job, build, config_of, device, open_run
from limner.run.protocol_scores import Judges, Task, bleed, by_kind, mean_kinds, on_dreambooth, on_own
from limner.run.scoring import NUM_CLASS
from limner.run.subject_judging import untrained
from limner.sampling.images import contact_sheet, to_pil
from limner.train import progress
from limner.types import Sample

SEED = 5_000_011  # of noise that chose nothing
OWN = "subjects"  # the built-in data set
DINO, CLIP = "facebook/dino-vits16", "openai/clip-vit-base-patch32"
SHOWN_PX = 96


def evaluate_protocol(
    runs: Sequence[Path],
    *,
    benchmark: Path | None = None,
    dino: str = DINO,
    clip: str = CLIP,
    out: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Score runs on the benchmark: its report, and the file it was written to (and, as a page, beside it).

    That is dreambench.json in ``out``; default: in the run's folder, where there is one run.

    Args:
        benchmark: the folder of google/dreambooth; None for runs on the built-in ``subjects``.
        dino, clip: folders, or names on the hub, of the models that compare; for the benchmark's folder alone.

    Raises:
        RunError: no such run, or one that learnt no subject.
        ConfigError: runs of unlike data, two of one subject, or several without ``out``.
        DataError: the benchmark's folder is another, or lacks a run's subject.
        PriorError: the models that compare cannot be had.
    """
    if len(runs) > 1 and out is None:
        raise ConfigError("several runs have no folder in common for their report.", "give --out FOLDER")
    known = None if benchmark is None else dreambench.read(benchmark)
    taught = [_names(run, known) for run in runs]  # what is wrong with one is said before the first is drawn
    flat = [name for names in taught for name in names]
    if double := {name for name in flat if flat.count(name) > 1}:
        raise ConfigError(f"two of them learnt {min(double)}.", "score them one by one")
    judges = Judges(features.eye()) if known is None else _judges(clip, dino)
    judges.clip.model.to(device())
    if judges.dino:
        judges.dino.model.to(device())
    rows, sheets = list[Row](), dict[str, Image.Image]()
    kinds, bleeds = list[dict[str, dict[str, Tensor]]](), list[dict[str, Any]]()
    for run, names in zip(runs, taught, strict=True):
        found = _one_run(run, names, known, judges)
        rows += found.rows
        sheets |= found.sheets
        kinds += found.kinds
        if len(names) > 1:
            bleeds.append({"run": str(run), "subjects": names, "matrix": found.bleed.tolist()})
    everything = list(known) if known is not None else _own_subjects()
    report = {
        "protocol": "dreambench",
        "benchmark": "google/dreambooth" if known is not None else f"limner's {OWN}",
        "num_subjects": len(everything),
        "embedders": ", ".join(one.name for one in (judges.dino, judges.clip) if one),
        "subjects": rows,
        "mean": dreambench.mean(rows) | ({"kinds": mean_kinds(kinds)} if known is None else {}),
        "missing": [name for name in everything if name not in flat],
        "bleed": bleeds,
    }
    file = (out or runs[0]) / "dreambench.json"
    subject_report.write_protocol(file, report, sheets)
    return json.loads(file.read_text(encoding="utf-8")), file


def _judges(clip: str, dino: str) -> Judges:
    try:
        return Judges(features.load(clip), features.load_dino(dino))
    except PriorError as error:
        raise PriorError(
            str(error),
            f"two models compare, {clip} and {dino}: fetch both where there is a network (hf download NAME), or give "
            "their folders with --clip and --dino",
        ) from None


@dataclass(frozen=True)
class Found:
    rows: list[Row]
    sheets: dict[str, Image.Image]
    kinds: list[dict[str, dict[str, Tensor]]]
    bleed: Tensor


def _names(run: Path, known: dict[str, Subject] | None) -> list[str]:
    """Which subjects of the benchmark a run has learnt, in the order of its concepts."""
    config = config_of(run)
    if not isinstance(config, PersonalizeConfig):
        raise RunError(f"{run} is a run of {config.method}, which learns no subject.", "give a run of dreambooth")
    found = []
    for concept in config.subjects:
        data, _, variant = concept.data.partition(":")
        if known is None and (data != OWN or variant in ("", "all")):
            raise ConfigError(
                f"{run} learnt from {concept.data}, which is no subject of the built-in data.",
                "for DreamBooth's give --benchmark and the folder of github.com/google/dreambooth",
            )
        name = variant if known is None else Path(concept.data).name
        if known is not None and name not in known:
            raise DataError(
                f"{run} learnt from {concept.data}, and the benchmark has no subject '{name}'.",
                "the folder's name is the subject's; known: " + ", ".join(known),
            )
        found.append(name)
    return found


def _own_subjects() -> list[str]:
    return list(dict.fromkeys(sample.meta["subject"] for sample in load_data(OWN)))


def _one_run(run: Path, names: Sequence[str], known: dict[str, Subject] | None, judges: Judges) -> Found:
    config, method, step = open_run(run, device())
    assert isinstance(config, PersonalizeConfig)
    job = build(config, device(), method)
    tasks = [
        _own_task(job, number) if known is None else _task(known[name], concept)
        for number, (name, concept) in enumerate(zip(names, config.subjects, strict=True))
    ]
    drawn = [_draw_all(job, task.prompts, f"drawing {task.name}") for task in tasks]
    bare = [_draw_class(job, task) for task in tasks]
    del job, method
    plain = untrained(config)
    found = Found([], {}, [], bleed(tasks, drawn, judges))
    for task, made, its_class in zip(tasks, drawn, bare, strict=True):
        floor = _draw_all(plain, task.looks, f"drawing {task.name}, untrained") if task.looks else None
        worth = on_dreambooth if judges.dino else on_own
        scores, ends = worth(task, made, its_class, floor, _draw_class(plain, task), judges)
        row = Row(
            subject=task.name,
            run=str(run),
            method=config.method,
            step=step,
            scores=scores,
            untrained=ends["untrained"],
            real=ends["real"],
        )
        found.rows.append(row)
        found.kinds.append(by_kind(task, made, judges))
        found.sheets[f"{task.name}: {', '.join(task.prompts)}"] = _sheet(task, made, floor)
    return found


def _task(known: Subject, concept: Concept) -> Task:
    asked, plain = (
        [prompt.replace("{}", words) for prompt in known.prompts] for words in (concept.words, known.class_word)
    )
    real = [torch.from_numpy(np.array(open_picture(file).convert("RGB"))).permute(2, 0, 1) for file in known.pictures]
    return Task(known.name, known.class_word, asked, plain, real)


def _own_task(job: Job, number: int) -> Task:
    config, side = job.config, job.method.prior.image_px
    assert isinstance(config, PersonalizeConfig)
    train, test = (
        [one for one in loader.samples if one.meta["concept"] == number and one.split == split]
        for loader, split in ((job.train, "train"), (job.test, "test"))
    )
    word = test[0].meta["subject"]

    def told(sample: Sample, words: str) -> str:
        return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: words, sample.meta["said"], count=1)

    truth_NCHW = torch.stack([job.test.truth(one, side) for one in test])
    return Task(
        word,
        word,
        [told(one, config.subjects[number].words) for one in test],
        [one.meta["said"] for one in test],
        [job.train.truth(one, side) for one in train],
        [told(one, one.meta["looks"]) for one in test],
        [one.meta["kind"] for one in test],
        truth_NCHW,
        _decoded(job, truth_NCHW),
    )


@torch.no_grad()
def _decoded(job: Job, x_NCHW: Tensor) -> Tensor:
    """Pictures through the prior's autoencoder, uint8: what it could draw at best."""
    prior = job.method.prior
    some = (prior.encode_image(to_float(part.to(job.train.device)))[0] for part in x_NCHW.split(job.at_once))
    return torch.cat([to_uint8(prior.decode(mean_BCHW)) for mean_BCHW in some])


def _draw_all(job: Job, prompts: Sequence[str], title: str) -> Tensor:
    """Four pictures of each prompt, uint8 (N, 4, 3, H, W): from the same noise for every run."""
    made = []
    with progress.bar(title, len(prompts), 0, 1, shown=True) as advance:
        for place, prompt in enumerate(prompts):
            made.append(draw(job, prompt, SEED, range(place * PICTURES_EACH, (place + 1) * PICTURES_EACH)))
            advance(place + 1)
    return torch.stack(made).cpu()


def _draw_class(job: Job, task: Task) -> Tensor:
    assert isinstance(job.config, PersonalizeConfig)
    return draw(job, class_prompt(job.config.caption_template, task.class_word), SEED + 1, range(NUM_CLASS)).cpu()


def _sheet(task: Task, made: Tensor, floor: Tensor | None) -> Image.Image:
    """A row a prompt: what was drawn, and where there are such the untrained prior's and the true picture."""
    ends = [one for one in (None if floor is None else floor[:, 0], task.truth_NCHW) if one is not None]
    rows = [[*row, *(end[place] for end in ends)] for place, row in enumerate(made)]
    titles = [*(f"sample {number + 1}" for number in range(PICTURES_EACH)), *["untrained", "truth"][: len(ends)]]
    small = [[to_pil(one[None])[0].resize((SHOWN_PX, SHOWN_PX)) for one in row] for row in rows]
    return contact_sheet(small, titles, blocks=2 if len(rows) < 20 else 3)
