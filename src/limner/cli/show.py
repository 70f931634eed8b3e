"""What the command line prints: lists, tables, errors. Rich is imported where it is used, to keep start-up short."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from limner.errors import ConfigError, LimnerError

if TYPE_CHECKING:
    from limner.config import MethodConfig


def error(error: LimnerError) -> int:
    """One sentence and one hint on stderr; the exit code."""
    print(f"limner: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1


def names(found: Mapping[str, Mapping[str, str]]) -> None:
    """Kinds of things, each with its names and one line on each."""
    width = max((len(name) for group in found.values() for name in group), default=0)
    columns = shutil.get_terminal_size((120, 24)).columns
    for kind, group in found.items():
        print(kind)
        for name, summary in group.items():
            text = f"  {name:<{width}}  {summary}"
            print(textwrap.fill(text, columns, subsequent_indent=" " * (width + 4)))


def fields(method: str, config: type[MethodConfig]) -> None:
    """All fields of a method's configuration: name, type, default, meaning."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("option", no_wrap=True)
    for title in ("type", "default", "meaning"):
        table.add_column(title, overflow="fold")
    for name, field in config.model_fields.items():
        if name != "method":
            derived = field.default_factory is not None  # from other fields; the description says how
            default = "(required)" if field.is_required() else "" if derived else _plain(field.get_default())
            table.add_row("--" + name.replace("_", "-"), _type(field.annotation), default, field.description or "")
    console = Console()
    console.print(f"limner train {method} [--FIELD VALUE]...\n", markup=False, highlight=False)
    console.print(table)


def _type(annotation: Any) -> str:
    """A type as a reader would say it: 'int', 'full | lora', 'Path | None'."""
    if isinstance(annotation, type):
        return annotation.__name__
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    return str(annotation).replace("pathlib.", "")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def report(report: Mapping[str, Any], page: Path) -> None:
    """A report's arms side by side, with what chance reaches and what the truth itself does (ceiling, floor)."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from limner.evaluate.report import METRICS

    arms: Mapping[str, Mapping[str, Any]] = report["arms"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for title in [*arms, "chance", "ceiling/floor"]:
        table.add_column(title, justify="right")
    for metric, (title, note, chance, best) in METRICS.items():
        if any(arm.get(metric) is not None for arm in arms.values()):
            cells = [_number(arm.get(metric), arm.get(f"{metric}_interval")) for arm in arms.values()]
            levels = [report.get(level) if isinstance(level, str) else level for level in (chance, best)]
            table.add_row(f"{title} ({note})", *cells, *map(_number, levels))
    console = Console()
    console.print(table)
    costs = (("seconds", "s"), ("kwh", "kWh"), ("peak_mb", "MB at most"))
    print("training: " + ", ".join(f"{report[key]:.4g} {unit}" for key, unit in costs if report.get(key) is not None))
    print(f"pictures and curves: {page}")


def benchmark(report: Mapping[str, Any], page: Path) -> None:
    """The mean over a benchmark's subjects, beside what the untrained prior and real pictures reach."""
    mean = report["mean"]
    _scores("", mean["untrained"], mean["scores"], mean["real"])
    print(f"mean of {len(report['subjects'])} of {report['num_subjects']} subjects; each one's, and pictures: {page}")


def subjects(report: Mapping[str, Any], page: Path) -> None:
    """Each subject that a run has learnt, beside what the untrained prior and real pictures reach."""
    for words, found in report["subjects"].items():
        _scores(words, found["floor"], found, found["ceiling"])
    print(f"pictures and curves: {page}")


def _scores(title: str, *ends: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from limner.evaluate.subject_report import METRICS

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(title)
    for name in ("untrained", "trained", "real"):
        table.add_column(name, justify="right")
    for key, (name, _) in METRICS.items():
        if any(values.get(key) is not None for values in ends):
            table.add_row(name, *(_number(values.get(key), values.get(f"{key}_interval")) for values in ends))
    Console().print(table)


def _number(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A number and its interval; a value that is not there or not finite (too few pictures) is left empty."""
    if value is None or not math.isfinite(value):
        return ""
    ends = [_number(end) for end in interval or ()]
    return f"{value:.3f} [{', '.join(ends)}]" if ends and all(ends) else f"{value:.3f}"
