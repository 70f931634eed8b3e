"""Which method runs on which family of priors, in which precision: the table of docs/priors.md, made by running it.

    python benchmarks/matrix.py [--only sdxl,flux] [--json matrix.json]       ten minutes on two cores

Each cell is a run of two steps, and a picture drawn from it, on a folder of the family in its real layout with the real
classes at toy size and random weights (tests/tiny_families.py). It says that the code runs there, not how good the
result is with real weights. What is refused before training shows the number of its reason below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "priors")]
for name, value in {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}.items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402
from test_glide_prior import openai_state, write_sizes  # noqa: E402
from tiny import PATHS, pairs_folder, prior_folder  # noqa: E402
from tiny_families import FAMILIES, family_folder  # noqa: E402

from limner import find, run  # noqa: E402
from limner.errors import LimnerError  # noqa: E402

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp32, LoRA": {"adapter": "lora", "rank": 2},
    "bf16 base, LoRA": {"adapter": "lora", "rank": 2, "precision": "bf16", "base_precision": "bf16"},
    "int8 base, LoRA": {"adapter": "lora", "rank": 2, "precision": "bf16", "base_precision": "int8"},
    "nf4 base, LoRA": {"adapter": "lora", "rank": 2, "precision": "bf16", "base_precision": "nf4"},
}
# Beside a prior that is left as it is there is no adapter; the network may be held in bf16 all the same.
BESIDE = {"fp32": {}, "bf16": {"precision": "bf16"}, "bf16 base": {"precision": "bf16", "base_precision": "bf16"}}
SMALL: dict[str, dict[str, Any]] = {"piti": {"encoder_steps": 1, "token_grid": 4, "encoder_layers": 1}}


def glide_folder(folder: Path) -> Path:
    from test_glide import TINY

    folder.mkdir()
    write_sizes(folder)
    torch.save(openai_state(TINY), folder / "base.pt")
    return folder


def cell(prior: Path, data: Path, out: Path, method: str, options: dict[str, Any]) -> str:
    """'' where it ran, else why it did not."""
    small = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "sample_steps": 2, "image_px": 16, **SMALL.get(method, {})}
    try:
        config = run.resolve(method, {"prior": str(prior), "data": str(data), "out": out, **small, **options})
        folder = run.train(config)
        sketch = [data / "source" / "disc00.png"] if method != "finetune" else []
        run.sample(folder, prompts=["disc"], inputs=sketch, num_images=1, steps=2)
    except LimnerError as error:
        return str(error).replace(str(prior), "the folder")
    except Exception as error:  # a fault of ours: shown as such, and the other cells still run
        return f"FAULT: {type(error).__name__}: {error}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="families, with commas between")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    makers: dict[str, Any] = {f"sd ({path})": lambda folder, path=path: prior_folder(folder, path) for path in PATHS}
    makers |= {family: lambda folder, family=family: family_folder(folder, family) for family in FAMILIES}
    makers["glide"] = glide_folder
    families = [family for family in makers if not options.only or family in options.only.split(",")]
    methods = list(find.names("method"))
    results: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as ground:
        data = pairs_folder(Path(ground) / "data")
        for i, family in enumerate(families):
            prior = makers[family](Path(ground) / f"prior{i}")
            for method in methods:
                for precision, fields in (BESIDE if method == "controlnet" else PRECISIONS).items():
                    out = Path(ground) / f"run-{i}-{method}-{precision}"
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        said = cell(prior, data, out, method, fields)
                    results.setdefault(family, {}).setdefault(method, {})[precision] = said
                    print(f"{family}: {method}: {precision}: {said or 'ran'}", file=sys.stderr)
    show(results, methods)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def show(results: dict[str, dict[str, dict[str, str]]], methods: list[str]) -> None:
    """One row a family, one column a method; what did not run stands with the number of its reason."""
    reasons: list[str] = []
    print(f"| family | {' | '.join(f'`{method}`' for method in methods)} |\n|{'---|' * (len(methods) + 1)}")
    for family, of in results.items():
        cells = []
        for method in methods:
            reasons += [said for said in dict.fromkeys(of[method].values()) if said and said not in reasons]
            why = sorted({reasons.index(said) + 1 for said in of[method].values() if said})
            ran = [precision for precision, said in of[method].items() if not said]
            what = "all" if {*ran} == {*PRECISIONS} else "; ".join(ran) or "no"
            cells.append(what + "".join(f" ({number})" for number in why))
        print(f"| {family} | {' | '.join(cells)} |")
    print(f"\nall: {'; '.join(PRECISIONS)}.\n")
    for number, reason in enumerate(reasons, 1):
        print(f"({number}) {reason}")
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    print(f"\non {device}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
