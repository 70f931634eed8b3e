"""Every method that learns a subject, on the built-in subjects, between floor and ceiling.

    python benchmarks/subjects.py --out scratch/subjects --at-once 2
    python benchmarks/subjects.py --out scratch/subjects --subjects dog,ghost --methods "dreambooth lora,pivotal"
    python benchmarks/subjects.py --out scratch/subjects --methods "dreambooth lora" --sheet docs/images/subjects.png

Each run is the real command in a process of its own, timed from start to end, class pictures and scores included; then
``limner evaluate RUN ... --protocol dreambench`` scores all runs of a method. What is there already is not run again.
The settings are those of recipes/personalize/drawn.yaml, chosen on tiger and taxi, and on other contexts than the
benchmark's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from limner.config import PersonalizeConfig
from limner.config.personalize import class_prompt, told
from limner.evaluate.metrics.interval import interval
from limner.evaluate.subject import place
from limner.run.class_pictures import draw
from limner.run.job import build, device, open_run
from limner.run.subject_judging import untrained
from limner.sampling.images import contact_sheet, save_png, to_pil

SUBJECTS = (
    "dog", "peacock", "bee", "butterfly", "avocado", "eggplant", "ghost", "snowman", "telescope", "toolbox",
)  # fmt: skip
GROUNDS, SHEET_PX = ("blue", "green", "orange", "dark blue"), 96  # on which no subject was given
RECIPE = yaml.safe_load((Path(__file__).parents[1] / "recipes/personalize/drawn.yaml").read_text(encoding="utf-8"))
STEPS, TEMPLATE = RECIPE["steps"], RECIPE["caption_template"]
FLAGS = {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in RECIPE.items()}
LAYERS = {key: FLAGS.pop(key) for key in ("adapter_targets", "rank", "alpha", "learning_rate")}
APART = ("method", "adapter", "steps", "evaluate_every")  # what differs from run to run
COMMON = {key: value for key, value in FLAGS.items() if key not in APART}
COMMON |= {"save_every": "100000", "sample_every": "100000"}
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "dreambooth lora": ("dreambooth", {"adapter": "lora", **LAYERS}),
    "dreambooth lora, teacher": ("dreambooth", {"adapter": "lora", "preservation": "teacher", **LAYERS}),
    "dreambooth lora, nothing kept": ("dreambooth", {"adapter": "lora", "preservation": "off", **LAYERS}),
    "dreambooth dora": ("dreambooth", {"adapter": "dora", **LAYERS}),
    "dreambooth full": ("dreambooth", {"adapter": "full", "learning_rate": "1e-3"}),
    "textual inversion": ("textual_inversion", {"num_vectors": "2"}),
    "pivotal": ("pivotal", {"inversion_share": "0.3", **LAYERS}),
    "custom diffusion": ("custom_diffusion", {"learning_rate": "1e-3"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where runs and figures go")
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--methods", default=",".join(METHODS).replace(", ", "; "), help="; stands for a comma")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side, which share the cores between them")
    parser.add_argument(
        "--sheet", type=Path, help="also a sheet of pictures of the first method, on grounds of the test"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    subjects = options.subjects.split(",")
    names = [name.strip().replace(";", ",") for name in options.methods.split(",")]
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // options.at_once))
    with ThreadPoolExecutor(options.at_once) as pool:
        found = {name: scored(pool, options.out, name, subjects, options.steps) for name in names}
        reports = {name: report.result() for name, report in found.items()}
    print(table(reports))
    for name, report in reports.items():
        print(
            f"{name}, less the untrained prior:", "; ".join(gain(report, key) for key in ("subject", "prompt", "drift"))
        )
    if options.sheet:
        draw_sheet([folder_of(options.out, names[0]) / subject for subject in subjects], options.sheet)


def train(out: Path, name: str, subject: str, steps: int, **more: str) -> float:
    """Train one run, unless it is there; seconds from the start of the command to its end."""
    method, flags = METHODS[name]
    fields = {**COMMON, **flags, "data": f"subjects:{subject}", "class_word": subject, "steps": str(steps)}
    fields |= {"evaluate_every": str(-(-steps // 2)), "out": str(out), **more}
    words = [word for key, value in fields.items() for word in (f"--{key.replace('_', '-')}", value)]
    return timed(out, words, lambda: limner("train", method, *words))


def timed(out: Path, asked: list[str], run: Callable[[], object]) -> float:
    """Seconds of what fills the folder ``out``: of an earlier call, if that was asked the same and ended."""
    clock, begun = out / "seconds.txt", out.with_name(f"{out.name}.asked.json")
    if begun.is_file() and json.loads(begun.read_text()) != asked:
        raise SystemExit(f"{out} was begun with other settings: choose another --out")
    if not clock.is_file():
        if out.exists():
            shutil.rmtree(out)  # interrupted, and what is timed is a whole run
        out.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps(asked))
        start = time.monotonic()
        run()
        clock.write_text(str(time.monotonic() - start))
    return float(clock.read_text())


def limner(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "limner", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"limner {' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}\nfailed")


def scored(pool: ThreadPoolExecutor, out: Path, name: str, subjects: list[str], steps: int) -> Future[dict[str, Any]]:
    """The runs of a method over the subjects: the protocol's report, seconds and megabytes (means)."""
    folder = folder_of(out, name)
    runs = [folder / subject for subject in subjects]
    trained = [pool.submit(train, run, name, subject, steps) for run, subject in zip(runs, subjects, strict=True)]

    def report() -> dict[str, Any]:  # asked for last, so that what it waits for has begun
        seconds = [one.result() for one in trained]
        return protocol(folder, runs) | {"seconds": seconds, "megabytes": megabytes(runs[0])}

    return pool.submit(report)


def folder_of(out: Path, name: str) -> Path:
    return out / name.replace(" ", "-").replace(",", "")


def protocol(folder: Path, runs: list[Path]) -> dict[str, Any]:
    """The report of ``limner evaluate ... --protocol dreambench`` on these runs."""
    file = folder / "+".join(run.parent.name if run.name == "opened" else run.name for run in runs) / "dreambench.json"
    if not (file.is_file() and all(file.stat().st_mtime > clock_of(run).stat().st_mtime for run in runs)):
        limner("evaluate", *map(str, runs), "--protocol", "dreambench", "--out", str(file.parent))
    return json.loads(file.read_text(encoding="utf-8"))


def clock_of(run: Path) -> Path:
    return (run.parent if run.name == "opened" else run) / "seconds.txt"


def megabytes(run: Path) -> float:
    """Of what was learnt, in 32 bit."""
    return next(iter(sorted((run / "checkpoints").glob("step-*/ema.safetensors")))).stat().st_size / 1e6


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, a row a method: means over the subjects; place is 0 at the floor and 1 at the ceiling."""
    first = next(iter(found.values()))["mean"]
    lines = ["| | subject | place | prompt | drift | copied | diversity | minutes | MB |", "|---|" + "---|" * 8]
    real, decoded = first["real"], {"subject": first["real"]["decoded"]}
    ends = {"untrained, told its looks": first["untrained"], "real pictures": real}
    for name, end in (ends | {"real pictures through the prior's autoencoder": decoded}).items():
        lines.append(row(name, end, first, "", ""))
    for name, report in found.items():
        mean, seconds = report["mean"], report["seconds"]
        minutes = f"{sum(seconds) / len(seconds) / 60:.1f}"
        lines.append(row(name, mean["scores"], mean, minutes, f"{report['megabytes']:.2f}"))
    return "\n".join(lines)


def gain(report: dict[str, Any], metric: str) -> str:
    """Paired, a number a subject: mean, 95 % bootstrap interval over subjects, and of how many it is below zero."""
    pairs = [(one["scores"][metric], one["untrained"][metric]) for one in report["subjects"]]
    gain_S = torch.tensor([after - before for after, before in pairs])
    low, high = interval(gain_S)
    below = f"below 0 on {int((gain_S < 0).sum())} of {len(pairs)}"
    return f"{metric} {gain_S.mean():+.3f} ({low:+.3f} to {high:+.3f}), {below}"


def row(name: str, scores: dict[str, Any], mean: dict[str, Any], minutes: str, megabytes: str) -> str:
    where = place(scores["subject"], mean["untrained"]["subject"], mean["real"]["subject"])
    low_high = scores.get("subject_interval")
    ends = f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
    keys = ("prompt", "drift", "copied", "diversity")
    cells = [
        f"{scores['subject']:.3f}{ends}",
        f"{where:.0%}",
        *(f"{scores[k]:.3f}" if k in scores else "" for k in keys),
    ]
    return f"| {name} | " + " | ".join([*cells, minutes, megabytes]) + " |"


def draw_sheet(runs: list[Path], file: Path) -> None:
    """A row a subject: three of the given pictures, the prior before the run, and the run on grounds that are new; the
    first picture of each prompt, none chosen, each from noise of its own."""
    rows = []
    for path in runs:
        config, method, _ = open_run(path, device())
        assert isinstance(config, PersonalizeConfig)
        job = build(config, device(), method)
        word, given = path.name, [job.train.samples[number] for number in (0, 2, 3)]
        pictures = [job.train.truth(sample, SHEET_PX) for sample in given]
        templates = [f"{TEMPLATE} on a {ground} background" for ground in GROUNDS]
        drawn = [draw(untrained(config), class_prompt(templates[0], word), 0, [0])]
        asked = [told(template, config.subjects[0].words) for template in templates]
        drawn += [draw(job, prompt, 0, [place]) for place, prompt in enumerate(asked)]
        shown = [to_pil(one[None])[0] for one in pictures] + [to_pil(one)[0] for one in drawn]
        rows.append([one.resize((SHEET_PX, SHEET_PX)) for one in shown])
    titles = ["given"] * 3 + ["before"] + [f"on {ground}" for ground in GROUNDS]
    save_png(contact_sheet(rows, titles), file, {})


if __name__ == "__main__":
    main()
