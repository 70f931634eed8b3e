"""``limner evaluate``: how good a run is; and several runs on a benchmark. Needs torch only once it runs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from limner.cli import show
from limner.cli.start import importing
from limner.errors import ConfigError


@click.command()
@click.argument("run_folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, type=click.Choice(["validation", "test"]))
@click.option("--limit", type=click.IntRange(min=1), help="use only so many held-out pictures")
@click.option("--protocol", type=click.Choice(["dreambench"]), help="score runs that learnt a subject on a benchmark")
@click.option("--benchmark", type=click.Path(path_type=Path), help="the folder of github.com/google/dreambooth")
@click.option("--dino", metavar="NAME|FOLDER", help="for --benchmark; default: facebook/dino-vits16")
@click.option("--clip", metavar="NAME|FOLDER", help="for --benchmark; default: openai/clip-vit-base-patch32")
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="for --protocol; default: RUN, if it is one"
)
@click.option("--json", "as_json", is_flag=True, help="print the report instead of a table")
def evaluate(
    run_folders: tuple[Path, ...], split: str, limit: int | None, protocol: str | None, as_json: bool, **options: Any
) -> None:
    """Score a trained RUN on held-out pictures.

    Faithfulness to the input, realism and diversity, each beside what chance and the truth itself reach; a run that
    learnt a subject: likeness to it and agreement with the prompt, beside the untrained prior and real pictures.

    With --protocol dreambench one run or several, each of another subject: the 25 prompts of DreamBooth's benchmark
    (--benchmark), or of runs on the built-in data 'subjects' its held-out scenes.

    \b
    limner evaluate runs/piti-fluent
    limner evaluate runs/tiger --protocol dreambench
    limner evaluate runs/dog6 runs/vase --protocol dreambench --benchmark dreambooth/ --out runs/bench
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not protocol and given:
        raise ConfigError(f"--{min(given)} is for --protocol.", "add --protocol dreambench")
    if not protocol and len(run_folders) > 1:
        raise ConfigError("one run at a time.", "several are scored together with --protocol dreambench")
    if protocol and {"dino", "clip"} & given.keys() and "benchmark" not in given:
        raise ConfigError("--dino and --clip are for --benchmark.", "the built-in data is scored with limner's own eye")
    if protocol and limit:
        raise ConfigError("--limit is for held-out pictures.", "leave it out: the protocol draws all its prompts")
    with importing():
        from limner import run

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        if protocol:
            report, file = run.evaluate_protocol(run_folders, **given)
        else:
            report, file = run.evaluate(run_folders[0], split=split, limit=limit), run_folders[0] / "report.json"
    if as_json:
        click.echo(file.read_text(encoding="utf-8"), nl=False)
    elif protocol:
        show.benchmark(report, file.with_suffix(".html"))
    elif "subjects" in report:
        show.subjects(report, file.with_suffix(".html"))
    else:
        show.report(report, file.with_suffix(".html"))
