"""What the command line prints: lists, tables, errors. Rich is imported where it is used, to keep start-up short."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from limner.errors import ConfigError, LimnerError

if TYPE_CHECKING:
    from limner.config import MethodConfig

# Of a report's numbers: what the reader should call them, and which way is better.
METRICS = {
    "faithfulness": "faithfulness, higher is better (0 = chance, 1 = ceiling)",
    "edge_f1": "edge F1, higher",
    "iou": "silhouette IoU, higher",
    "kid": "KID, lower",
    "frechet": "Frechet distance, lower",
    "diversity": "diversity, higher",
}


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
            default = "(required)" if field.is_required() else _plain(field.get_default())
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


def report(report: Mapping[str, Any]) -> None:
    """A report's arms side by side, with the level that chance reaches and the ceiling that truth reaches."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    arms: Mapping[str, Mapping[str, Any]] = report["arms"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for arm in [*arms, "chance", "ceiling"]:
        table.add_column(arm, justify="right")
    for metric, title in METRICS.items():
        if any(metric in arm for arm in arms.values()):
            cells = [_number(arm.get(metric), arm.get(f"{metric}_interval")) for arm in arms.values()]
            table.add_row(title, *cells, *(_number(_level(report, level, metric)) for level in ("chance", "ceiling")))
    console = Console()
    console.print(table)
    for key, unit in (("seconds", "s"), ("kwh", "kWh"), ("peak_mb", "MB")):
        if report.get(key) is not None:
            console.print(f"{key.removesuffix('_mb')}: {report[key]:.4g} {unit}", highlight=False)


def _level(report: Mapping[str, Any], level: str, metric: str) -> Any:
    """Chance or ceiling of a metric; a plain number is the edge F1's."""
    value = report.get(level)
    if isinstance(value, Mapping):
        return value.get(metric)
    return value if metric == "edge_f1" else None


def _number(value: Any, interval: Any = None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
