"""``limner plan`` against the runs that it plans: memory, time and energy, predicted and then measured.

    python benchmarks/plan.py
    python benchmarks/plan.py --runs "finetune --batch-size 4" "piti --steps 400" --json plan.json

Each run is planned twice, by counting alone and with a probe, and then trained, each in a process of its own. Compared
are

    memory     the most that the process held (on an accelerator: that was allocated there), in MB
    training   seconds from the first sample grid to the last checkpoint
    all        seconds of the whole process, with reading and encoding the pictures that are not in the cache
    energy     Wh while it trained, by codecarbon

Times are worth something on a quiet machine only: a probe lasts seconds, and what runs beside it counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GRID = [
    f"{method} --adapter {adapter} --batch-size {batch_size}{checkpointing}"
    for method, adapter, batch_size, checkpointing in itertools.product(
        ("finetune", "piti", "concat"), ("full", "lora"), (4, 16), ("", " --gradient-checkpointing")
    )
]
WITHIN = 15  # per cent


def limner(words: list[str], cache: Path) -> tuple[str, float]:
    """(what a command prints, the seconds it takes)."""
    start = time.monotonic()
    environment = {**os.environ, "LIMNER_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "limner", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"limner {shlex.join(words)}\n{done.stdout}{done.stderr[-3000:]}")
    return done.stdout, time.monotonic() - start


def compare(run: str, common: list[str], folder: Path) -> dict[str, Any]:
    """{quantity: {planned, measured}} of one run; memory has ``counted`` too."""
    words = [*shlex.split(run), *common, "--out", str(folder / "run")]
    cache = folder / "cache"
    counted = json.loads(limner(["plan", *words, "--no-probe", "--json"], cache)[0])
    planned = json.loads(limner(["plan", *words, "--json"], cache)[0])
    _, wall_s = limner(["train", *words], cache)
    row = json.loads((folder / "run" / "energy.jsonl").read_text().splitlines()[-1])
    seconds, whole = planned["seconds"], sum(planned["seconds"].values())
    training = whole - seconds["start"] - seconds["pictures"]
    return {
        "run": run,
        "memory_mb": {"counted": counted["peak"] / 1e6, "planned": planned["peak"] / 1e6, "measured": row["peak_mb"]},
        "training_s": {"planned": training, "measured": row["seconds"]},
        "all_s": {"planned": whole, "measured": wall_s},
        "energy_wh": {"planned": 1000 * planned["kwh"] * training / whole, "measured": 1000 * row["kwh"]},
    }


def off(figures: dict[str, float], which: str = "planned") -> float:
    """By how many per cent the prediction is above what was measured."""
    return 100 * (figures[which] / figures["measured"] - 1)


def show(row: dict[str, Any]) -> None:
    cells = [f"{row['memory_mb']['measured']:8.0f} {off(row['memory_mb'], 'counted'):+8.1f}"]
    for name in ("memory_mb", "training_s", "all_s", "energy_wh"):
        measured = "" if name == "memory_mb" else f"{row[name]['measured']:9.3g} "
        cells.append(f"{measured}{off(row[name]):+7.1f}")
    print(f"{row['run']:<62} " + "  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=GRID, help="METHOD and its options, quoted")
    parser.add_argument("--common", default="--data fluent --fraction 0.1 --steps 60 --sample-every 60 "
                        "--evaluate-every 60 --save-every 60", help="options of all runs")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    print(f"{'':<62} memory MB: measured, % off: counted, planned; training s, all s, energy Wh: measured, % off")
    rows = []
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(run, shlex.split(arguments.common), Path(folder)))
        show(rows[-1])
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    for name, which in (("memory_mb", "counted"), *itertools.product(rows[0].keys() - {"run"}, ("planned",))):
        errors = sorted(abs(off(row[name], which)) for row in rows)
        within = sum(error <= WITHIN for error in errors)
        middle = errors[len(errors) // 2]
        print(f"{name}, {which}: {within} of {len(errors)} within {WITHIN} %, {middle:.1f} % in the middle, "
              f"{errors[-1]:.1f} % at most")  # fmt: skip


if __name__ == "__main__":
    main()
