"""``limner check DATA``: everything that would go wrong in training, before it does; torch is needed once it runs."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limner.cli import flags
from limner.cli.start import importing
from limner.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from limner.data.check import Audit
    from limner.data.findings import Finding

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN = 5  # files of one kind of finding
BUCKETS_SHOWN = 12
OWN = ("for", "json", "sheet", "limit")


@click.command(options_metavar="DATA", **flags.ANY_FIELD)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--FIELD VALUE]...")
@click.pass_context
def check(ctx: click.Context, words: tuple[str, ...]) -> int:
    """Look a data set over: every bad file by name, and what to do.

    Reads every file as training would, and changes none. Exit code 1 if training would go wrong.

    \b
    --for METHOD     what it is to be trained with: does each picture have what that needs?
    --prior P        the prior: size of the pictures, length of the captions   (default: mini)
    --json           everything as one JSON object
    --sheet FILE     also a contact sheet, as PNG: what is wrong first
    --limit N        look at N records only, at equal distances
    --config FILE    a YAML file of fields; any field of 'limner train' may be given
    --help           this text

    \b
    limner check pictures/
    limner check pairs.zip --for concat --aspect buckets --resolutions-px 512
    limner check photos/ --for finetune --trigger sks --class-word dog --sheet sheet.png
    """
    data, given, options = _parse(words)
    if options["help"]:
        click.echo(ctx.get_help())
        return 0
    file, method = given.pop("config", None), given.pop("for", None)
    if isinstance(file, bool) or isinstance(method, bool):
        raise ConfigError("--config needs a file, --for a method.", "for example --for finetune --config run.yaml")
    if data is None and not given.keys() & {"data", "concepts"} and not file:
        raise ConfigError("which data?", "limner check DATA; 'limner list' names what is built in")
    with importing():
        from limner.data.auditing.sheet import write_sheet
        from limner.run import checking

    config = checking.resolve_check(method, given | ({"data": data} if data else {}), Path(file) if file else None)
    shown = sys.stdout.isatty() and not options["json"]
    audit, records = checking.check(config, options["limit"], shown)
    if options["sheet"]:
        write_sheet(options["sheet"], audit, records, options["limit"])
    if options["json"]:
        click.echo(json.dumps(_plain(audit), indent=2, ensure_ascii=False))
    else:
        _page(audit, f"for {config.method or 'any method'} on {config.prior}", options["sheet"])
    return int(audit.failed)


def _parse(words: Sequence[str]) -> tuple[str | None, flags.Flags, dict[str, Any]]:
    """(DATA, fields of the configuration, the command's own options)."""
    own = {"--json": False, "--help": False}
    for name in own:
        own[name] = name in words or (name == "--help" and "-h" in words)
    positional, given = flags.parse([word for word in words if word not in (*own, "-h")])
    if len(positional) > 1:
        raise ConfigError(f"one data set at a time, not also '{positional[1]}'.", "options are written --name value")
    sheet, limit = given.pop("sheet", None), given.pop("limit", None)
    if isinstance(sheet, bool) or (sheet and not sheet.lower().endswith(".png")):
        raise ConfigError("--sheet needs the name of a PNG.", "for example --sheet sheet.png")
    if sheet and not Path(sheet).parent.is_dir():  # said before the work, not after
        raise DataError(f"{sheet} cannot be written: there is no such folder.", "give another --sheet")
    if limit is not None and not (isinstance(limit, str) and limit.isdecimal() and int(limit) > 0):
        raise ConfigError("--limit needs a number of records.", "for example --limit 1000")
    from limner.config import TranslateConfig

    for name in given.keys() - TranslateConfig.model_fields.keys() - {*OWN, "config"}:
        if near := difflib.get_close_matches(name, OWN, n=1):
            raise ConfigError(f"unknown option '--{name}'.", f"did you mean '--{near[0]}'?")
    options = {"json": own["--json"], "help": own["--help"], "sheet": sheet and Path(sheet)}
    return positional[0] if positional else None, given, {**options, "limit": int(limit) if limit else None}


def _plain(audit: Audit) -> dict[str, Any]:
    """All of an audit as what JSON can say."""
    return {
        "data": audit.name,
        "ok": not audit.failed,
        "records": audit.num_records,
        "findings": [
            {key: value for key, value in asdict(finding).items() if value != -1} for finding in audit.findings
        ],
        **audit.summary,
        "seconds": round(audit.seconds, 2),
        "records_per_second": round(audit.num_records / max(audit.seconds, 1e-9), 1),
    }


def _page(audit: Audit, what_for: str, sheet: Path | None) -> None:
    """The audit for a person: findings by kind, a few of each, then the numbers, then the verdict."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    base = _base(audit)
    for group in audit.by_code().values():
        _group(console, group, base)
    for line in _numbers(audit.summary, audit.num_records):
        console.print(line, style="dim", soft_wrap=True)
    _buckets(console, audit.summary.get("buckets", []))
    counts = {severity: len([f for f in audit.findings if f.severity == severity]) for severity in STYLES}
    said = ", ".join(_count(counts[severity], severity) for severity in ("error", "warning") if counts[severity])
    verdict = "training would stop or go wrong" if audit.failed else "ready to train" + " all the same" * bool(said)
    rate = f"{audit.num_records / max(audit.seconds, 1e-9):.0f} records/s"
    verdict = f"{audit.name} {what_for}: {said or 'nothing wrong'}; {verdict}"
    console.print(verdict, style="red" if audit.failed else "green", soft_wrap=True)
    looked = f"looked at {audit.num_records} in {audit.seconds:.1f} s, {rate}" + f"; see {sheet}" * bool(sheet)
    console.print(looked, style="dim", soft_wrap=True)


def _group(console: Console, group: Sequence[Finding], base: str) -> None:
    """Findings of one code: how many, the remedy, and the first few files."""
    from rich.text import Text

    first = group[0]
    title = Text.assemble((f"{first.severity:8} ", STYLES[first.severity]), (first.code, "bold"))
    title.append(f"  {len(group)} x" if len(group) > 1 else "")
    console.print(title.append(f"  {first.remedy}", "dim"), soft_wrap=True)
    few = group[: 1 if first.severity == "note" else SHOWN]
    for finding in few:
        line = Text.assemble((finding.file.replace(base, "", 1), "bold"), "  ", finding.cause.replace(base, ""))
        _indented(console, line)
    if len(group) > len(few):
        _indented(console, Text(f"… and {len(group) - len(few)} more (see --json)", "dim"))


def _indented(console: Console, line: Text) -> None:
    """A line under its title; where nobody sees it as it comes, it is not wrapped."""
    from rich.padding import Padding

    if console.is_terminal:
        console.print(Padding(line, (0, 0, 0, 9)))
    else:
        console.print(" " * 9, line, sep="", soft_wrap=True)


def _base(audit: Audit) -> str:
    """The folder that all the files lie in, which need not be said with each."""
    files = [finding.file for finding in audit.findings if finding.number >= 0]
    if all(file.startswith(f"{audit.name}/") for file in files):
        return f"{audit.name}/"
    folder = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120  (files may lie in a zip)
    return f"{folder}/" if folder else ""


def _numbers(summary: Mapping[str, Any], num_records: int) -> Iterator[str]:
    """What the set is like, a line each."""
    if not summary.get("pictures"):
        return
    splits = ", ".join(f"{num} {split}" for split, num in summary["splits"].items() if num)
    kinds = ", ".join(f"{num} {kind}" for kind, num in summary["formats"].items())
    small, middle, large = (" x ".join(map(str, size)) for size in summary["sizes_px"].values())
    pairs = f"{summary['pairs']} pairs" if summary["pairs"] else "no pairs"
    yield f"pictures  {summary['pictures']} of {num_records} ({splits}), {pairs}; {kinds}"
    yield f"pixels    {small} the smallest, {middle} in the middle, {large} the largest"
    if summary["handled"]:
        yield "handled   " + "; ".join(f"{num} {said}" for said, num in summary["handled"].items())
    colours = summary["colours"]
    mean, std = ("/".join(f"{value:.0f}" for value in colours[key]) for key in ("mean_rgb", "std_rgb"))
    names = {"grey": "grey", "very_dark": "very dark", "very_bright": "very bright", "drawings": "drawings"}
    shares = "".join(f"; {colours[key]:.0%} {name}" for key, name in names.items() if colours[key] >= 0.005)
    yield f"colours   mean {mean}, std {std} of 255{shares}"
    captions = summary["captions"]
    tokens = ""
    if "tokens_most" in captions:
        tokens = f"; {captions['tokens_median']} tokens in the middle, {captions['tokens_most']} at most"
    told, different, without = (captions[key] for key in ("captioned", "different", "without"))
    yield f"captions  {told}, {different} of them different; {without} missing{tokens}"


def _buckets(console: Console, buckets: Sequence[Mapping[str, int]]) -> None:
    """The sizes that training pictures are cut to."""
    for bucket in buckets[:BUCKETS_SHOWN]:
        size = f"{bucket['width_px']} x {bucket['height_px']} px"
        takes = f"{_count(bucket['pictures'], 'picture')}, {_count(bucket['batches'], 'batch')} an epoch"
        console.print(f"size      {size:<14}  {takes}", style="dim")
    if len(buckets) > BUCKETS_SHOWN:
        console.print(f"          … and {len(buckets) - BUCKETS_SHOWN} more (see --json)", style="dim")


def _count(num: int, word: str) -> str:
    return f"{num} {word}" if num == 1 else f"{num} {word}es" if word.endswith("ch") else f"{num} {word}s"
