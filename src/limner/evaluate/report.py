"""The evidence of a run, in three files: report.json (numbers), contact_sheet.png, report.html (both, and the curves).

The page is one file that needs nothing else: pictures, drawings and style are inside. Every number in its table is an
element ``<data value=...>`` that holds the same digits as report.json.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from limner.evaluate import chart
from limner.sampling.images import contact_sheet, save_png

# Metric: its title, what to think of it, and the report's keys (or numbers) for what chance and the truth reach.
METRICS: dict[str, tuple[str, str, str | float, str | float]] = {
    "likeness": ("likeness to the truth", "0 another's, 1 the truth", 0.0, 1.0),
    "faithfulness": ("faithfulness", "0 chance, 1 truth", 0.0, 1.0),
    "edge_f1": ("edge F1", "higher is better", "chance", "ceiling"),
    "edge_margin": ("edge F1 less another sketch's", "higher is better", 0.0, "margin_ceiling"),
    "iou": ("silhouette IoU", "higher is better", "iou_chance", "iou_ceiling"),
    "kid": ("KID", "lower is better", "", "kid_floor"),
    "frechet": ("Frechet distance", "lower is better", "", "frechet_floor"),
    "diversity": ("diversity", "0: all samples alike", "", ""),
}
UNITS = {"seconds": "s", "kwh": "kWh", "peak_mb": "MB"}
LEVELS = {key for _, _, *keys in METRICS.values() for key in keys}

Picture = Image.Image | np.ndarray
Row = tuple[str, Picture | None, Sequence[Picture], Picture]
"""(title, sketch or None, samples, truth); arrays are uint8, (H, W, 3)."""


def write(folder: Path, report: Mapping[str, Any], rows: Sequence[Row], log: Sequence[Mapping[str, Any]]) -> None:
    """Write the three files into ``folder``, each atomically.

    Args:
        report: ``arms`` (name -> the dict of ``translation.score`` or ``generation.score``) and what the module's
            ``reference`` or ``floors`` gives; every other plain value at the top (method, steps, seconds, kwh,
            peak_mb) is shown as a fact. Numbers that are not finite become null.
        rows: the pictures to show, in order; all with the same number of samples.
        log: the rows of log.jsonl; ``loss/...`` and ``validation/score`` are drawn.
    """
    report = finite(report)
    pictures = [[_pil(one) for one in (sketch, *made, truth) if one is not None] for _, sketch, made, truth in rows]
    titles = _titles(rows[0]) if rows else []
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if rows:
        save_png(contact_sheet(pictures, titles, blocks=2), folder / "contact_sheet.png", _facts(report))
    sections = {
        "Scores on held-out pictures": _scores(report, len(rows)),
        "Pictures": _pictures_html([row[0] for row in rows], titles, pictures),
        "Training": f'<div class="curves">{_curves(log)}</div>',
    }
    filled = page(_title(report), _facts(report), sections, columns=max(1, len(titles)))
    write_text(folder / "report.html", filled)


def page(title: str, facts: Mapping[str, Any], sections: Mapping[str, str], columns: int = 1) -> str:
    """A whole page: plain values at the top, then HTML under headings; ``columns`` of pictures in a row."""
    body = "\n".join(f"<h2>{html.escape(name)}</h2>\n{content}" for name, content in sections.items() if content)
    frame = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return frame.substitute(title=html.escape(title), facts=_facts_html(facts), body=body, columns=columns)


def _scores(report: Mapping[str, Any], num_rows: int) -> str:
    scale = chart.scale(report["arms"], report["chance"], report["ceiling"]) if "ceiling" in report else ""
    caption = html.escape(_caption(report, num_rows))
    return f'{scale}<div class="wide"><table>{_table(report)}</table></div>\n<p>{caption}</p>'


def _titles(row: Row) -> list[str]:
    _, sketch, samples, _ = row
    return [*(["sketch"] if sketch is not None else []), *(f"sample {i + 1}" for i in range(len(samples))), "truth"]


def _title(report: Mapping[str, Any]) -> str:
    said = [str(report[key]) for key in ("method", "prior", "data") if key in report]
    return "limner: " + (" / ".join(said) or "report")


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values at the top of the report, less those that the table shows."""
    return {
        key: value
        for key, value in report.items()
        if isinstance(value, str | int | float) and key not in LEVELS and not isinstance(value, bool)
    }


def _facts_html(facts: Mapping[str, Any]) -> str:
    parts = []
    for key, value in facts.items():
        name = html.escape(key.removesuffix("_mb").replace("_", " "))
        text = number(value) if isinstance(value, float) else html.escape(str(value))
        parts.append(f"<div><dt>{name}</dt><dd>{text} {UNITS.get(key, '')}</dd></div>")
    return "".join(parts)


def _table(report: Mapping[str, Any]) -> str:
    """Metrics down, arms across, then what chance and the truth reach."""
    arms = report["arms"]
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["", *arms, "chance", "truth"])
    lines = [f"<tr>{heads}</tr>"]
    for metric, (title, note, *levels) in METRICS.items():
        if all(arm.get(metric) is None for arm in arms.values()):
            continue
        cells = [cell(arm.get(metric), arm.get(f"{metric}_interval")) for arm in arms.values()]
        cells += [cell(report.get(level) if isinstance(level, str) else level) for level in levels]
        lines.append(f'<tr><th scope="row">{title} <small>{note}</small></th>{"".join(cells)}</tr>')
    return "\n".join(lines)


def cell(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A number with its interval as a cell of a table; empty where there is none."""
    if value is None:
        return "<td></td>"
    ends = f"<small>{number(interval[0])} to {number(interval[1])}</small>" if interval else ""
    return f"<td>{number(value)}{ends}</td>"


def number(value: float) -> str:
    """A number for the eye (three digits), with all its digits for a program."""
    size = abs(value)
    text = f"{value:,.0f}" if size >= 100 else f"{value:.3f}" if 0.1 <= size < 10 or size == 0 else f"{value:.3g}"
    return f'<data value="{value!r}">{text}</data>'


def _caption(report: Mapping[str, Any], num_rows: int) -> str:
    """What the numbers do and do not say."""
    arm = next(iter(report["arms"].values()))
    said = []
    if "num_concepts" in arm:
        num, each = arm["num_concepts"], arm["num_samples"]
        said.append(f"{num} held-out pictures, samples scored of each: {each}; {num_rows} are shown.")
    if "before" in report["arms"]:
        said.append("'prior': the prior after this fine-tune; 'before': the prior as it was, told the caption alone.")
    said.append("Small figures are 95 % bootstrap intervals over pictures: they do not cover other training seeds.")
    if "ceiling" in report:
        said.append("Chance is the true picture of another sketch; truth is the true picture of the sketch itself.")
    if "diversity" in arm and num_rows:
        said.append("Diversity is between the samples that are shown, over all rows that are shown.")
    if "embedder" in arm:
        said.append(f"Likeness, KID and Frechet distance are in features of '{arm['embedder']}', not of Inception.")
    if "frechet_floor" in report:
        said.append("Their value for the truth is real against real, half the pictures each, so Frechet looks larger.")
    return " ".join(said)


def _pictures_html(names: Sequence[str], titles: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> str:
    heads = "".join(f"<span>{title}</span>" for title in titles)
    parts = [f'<div class="row heads"><div>{heads}</div></div>'] if titles else []
    for name, row in zip(names, pictures, strict=True):
        name = html.escape(name)
        shown = "".join(
            f'<img src="{data_url(one)}" alt="{title}: {name}">' for title, one in zip(titles, row, strict=True)
        )
        parts.append(f'<figure class="row"><div>{shown}</div><figcaption>{name}</figcaption></figure>')
    return "\n".join(parts)


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(key for row in log for key in row if key.startswith("loss/") or key == "validation/score")
    drawn = [chart.curve(name, [(row["step"], row[name]) for row in log if name in row]) for name in names]
    return "\n".join(drawn) or "<p>No training log.</p>"


def data_url(image: Image.Image, kind: str = "png") -> str:
    """A picture inside a page: 'png', or 'webp' for what need not be exact."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pil(picture: Picture) -> Image.Image:
    return (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")


def finite(value: Any) -> Any:
    """The same for JSON: numbers that are not finite become None, tuples lists."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write_text(file: Path, text: str) -> None:
    """Atomic: the file is either what it was before or the whole new text."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
