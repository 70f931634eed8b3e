"""Run every combination of a recipe's grid, score each on held-out concepts, and write a page: table and curves.

A recipe is a YAML file: ``title`` and ``about``, ``method``, ``fields`` (of its configuration), ``grid`` (field ->
values; ``seed`` is averaged over), ``limit`` (held-out pictures to score on), ``out``, and ``page`` and ``curves``, the
files to write. Runs that are done are not done again, so the same command goes on after an interruption.

    python recipes/sweep.py recipes/translate/pretraining.yaml
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml

from limner import run
from limner.train.log import read as read_log

METRICS = {
    "likeness": "likeness",
    "edge_margin": "edge margin",
    "faithfulness": "faithfulness",
    "iou": "silhouette IoU",
    "kid": "KID",
    "frechet": "Frechet",
}
STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % quantile of Student's t for so many runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    file = parser.parse_args().recipe
    if not file.is_file():
        parser.error(f"{file} is not there")
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    arms: dict[tuple[Any, ...], list[Path]] = defaultdict(list)
    grid = recipe["grid"]
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        folder = Path(recipe["out"]) / "_".join(f"{key}-{value}" for key, value in point.items())
        if not (folder / "report.json").is_file():
            run.train(run.resolve(recipe["method"], {**recipe["fields"], **point, "out": folder}))
            run.evaluate(folder, limit=recipe["limit"], before=False)
        arms[tuple(value for key, value in point.items() if key != "seed")].append(folder)
    names = [key for key in grid if key != "seed"]
    page, curves = Path(recipe["page"]), Path(recipe["curves"])
    draw(names, arms, curves)
    parts = [
        f"# {recipe['title']}",
        recipe["about"].strip(),
        table(names, arms),
        f"Mean over the seeds, with the 95 % interval of that mean (Student's t); {recipe['limit']} held-out concepts.",
        f"![Loss on validation concepts over steps]({curves.relative_to(page.parent)})",
        f"Made by `python recipes/sweep.py {file}`.",
    ]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


def table(names: list[str], arms: dict[tuple[Any, ...], list[Path]]) -> str:
    """Markdown: an arm a row, the mean over its seeds with the 95 % interval of that mean (Student's t)."""
    heads = [*names, *METRICS.values(), "best step", "training, minutes", "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm, folders in arms.items():
        reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
        cells = [_mean([report["arms"]["prior"][metric] for report in reports]) for metric in METRICS]
        cells.append(_mean([report["step"] for report in reports], digits=0))
        cells.append(_mean([report["seconds"] / 60 for report in reports], digits=1))
        lines.append("| " + " | ".join([*map(str, arm), *cells, str(len(folders))]) + " |")
    return "\n".join(lines)


def _mean(values: list[float], digits: int = 3) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = STUDENT_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def draw(names: list[str], arms: dict[tuple[Any, ...], list[Path]], file: Path) -> None:
    """Loss on validation concepts over steps, a line a run, a colour an arm."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, (arm, folders) in enumerate(arms.items()):
        label = ", ".join(f"{name} {value}" for name, value in zip(names, arm, strict=True))
        for folder in folders:
            rows = [row for row in read_log(folder / "log.jsonl") if "validation/loss" in row]
            steps, losses = [row["step"] for row in rows], [row["validation/loss"] for row in rows]
            axes.plot(steps, losses, color=f"C{number}", alpha=0.7, label=label if folder == folders[0] else None)
    axes.set(xlabel="step", ylabel="denoising loss on validation concepts", yscale="log")
    axes.legend(fontsize=8)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


if __name__ == "__main__":
    main()
