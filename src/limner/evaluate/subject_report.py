"""The evidence of a run that learnt a subject: report.json (numbers) and report.html (the same, curves and pictures).

As ``report``, for other numbers: each subject's scores between what the untrained prior and real pictures reach, the
curve of each score over the checkpoints, the pictures of each score, and how far several subjects run into each other.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from limner.evaluate import chart
from limner.evaluate.report import cell, data_url, finite, page, write_text

# Metric: its title and what to think of it.
METRICS = {
    "score": ("score", "subject times prompt; higher is better"),
    "dino": ("DINO", "likeness to the real pictures; higher is better"),
    "clip_i": ("CLIP-I", "likeness to the real pictures; higher is better"),
    "clip_t": ("CLIP-T", "agreement with the prompt; higher is better"),
    "subject": ("subject", "likeness to the real pictures; higher is better"),
    "decoded": ("decoded", "subject, of real pictures through the prior's autoencoder: what it can draw at best"),
    "context": ("context", "likeness to the true picture of the prompt; higher is better"),
    "prompt": ("prompt", "agreement with the prompt; higher is better"),
    "drift": ("drift", "likeness of the whole class to the subject; lower is better"),
    "diversity": ("diversity", "between the pictures of a prompt; 0: all alike"),
    "copying": ("copying", "likeness to the nearest training picture"),
    "copied": ("copied", "share nearer to a training picture than these are to each other"),
}
ENDS = ("_low", "_high")  # of a score's interval, in the log
NOTE = (
    "Small figures are 95 % bootstrap intervals: of a run over prompts (drift and real pictures: over pictures), of a "
    "mean of several over subjects; where there are fewer than five they are hardly more than the range. They do not "
    "cover other training seeds. Numbers of different embedders, and of different real pictures, do not compare."
)


def write(
    folder: Path, report: Mapping[str, Any], log: Sequence[Mapping[str, Any]], sheets: Sequence[tuple[int, Path]]
) -> None:
    """Write report.json and report.html into ``folder``, each atomically.

    Args:
        report: ``subjects`` (name -> the dict of ``subject.score``, and in it ``floor``, the same of the untrained
            prior, and ``ceiling``, the dict of ``subject.reference``; both may be left out); ``bleed``, rows of numbers
            in the order of the subjects, where there are several; every other plain value is shown as a fact.
        log: the rows of log.jsonl; ``validation/...`` and ``loss/...`` are drawn.
        sheets: (step, PNG of the pictures drawn for that step's score), in order.
    """
    report = finite(report)
    subjects, facts = report["subjects"], _facts(report)
    sections = {f"Score: {name}" if len(subjects) > 1 else "Score": _scores(one) for name, one in subjects.items()}
    if report.get("bleed"):
        sections["How much the pictures of one subject are like another"] = bleed_html(list(subjects), report["bleed"])
    sections["Training"] = f'<div class="curves">{_curves(log, _levels(subjects))}</div>'
    sections["Pictures of each score"] = "\n".join(_sheet(step, file) for step, file in reversed(sheets))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    said = [str(report[key]) for key in ("method", "prior", "data") if key in report]
    write_text(folder / "report.html", page("limner: " + (" / ".join(said) or "report"), facts, sections))


def write_protocol(file: Path, report: Mapping[str, Any], sheets: Mapping[str, Image.Image]) -> None:
    """Write ``file`` (.json) and the page of the same name (.html): a benchmark's table, a row a subject.

    Args:
        report: ``subjects`` (a list of ``dreambench.Row``), ``mean`` (``dreambench.mean`` of them), ``missing`` (names)
            and plain values.
        sheets: pictures to show, by title.
    """
    report = finite(report)
    rows, mean = report["subjects"], report["mean"]
    metrics = [name for name in METRICS if any(name in mean[end] for end in ("scores", "untrained", "real"))]
    heads = "".join(f'<th scope="col">{text}</th>' for text in ["", *(METRICS[name][0] for name in metrics)])
    lines = [f"<tr>{heads}</tr>"]
    for row in rows:
        lines.append(_line(f"{row['subject']} ({row['method']}, step {row['step']})", row["scores"], metrics))
    lines.append(_line(f"mean of {len(rows)} of {report['num_subjects']} subjects", mean["scores"], metrics))
    for name in ("untrained", "real"):
        lines.append(_line({"real": "real pictures", "untrained": "untrained prior"}[name], mean[name], metrics))
    notes = "".join(f"<p>{html.escape(METRICS[name][0])}: {METRICS[name][1]}.</p>" for name in metrics)
    missing = html.escape("not scored: " + ", ".join(report["missing"])) if report["missing"] else ""
    sections = {
        "Scores": f'<div class="wide"><table>{"".join(lines)}</table></div><p>{missing}</p><p>{NOTE}</p>{notes}',
        "By kind of context": _kinds(mean.get("kinds", {}), metrics),
        "By subject: untrained prior and real pictures": _ends(rows, metrics),
    }
    for one in report.get("bleed", []):
        sections[f"How much the pictures of one subject are like another: {one['run']}"] = bleed_html(
            one["subjects"], one["matrix"]
        )
    shown = [
        f"<figure><figcaption>{html.escape(name)}</figcaption>{_img(one, name)}</figure>"
        for name, one in sheets.items()
    ]
    sections["Pictures"] = "\n".join(shown)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    title = f"limner: {report['protocol']} on {report['benchmark']}"
    write_text(file.with_suffix(".html"), page(title, _facts(report), sections))


def bleed_html(names: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """Drawn for the subject of the row, like the real pictures of the column's; the last column is what keeps it apart
    from the nearest other."""
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["drawn as", *names, "margin"])
    lines = [f"<tr>{heads}</tr>"]
    for place, (name, row) in enumerate(zip(names, matrix, strict=True)):
        margin = row[place] - max(value for other, value in enumerate(row) if other != place)
        cells = "".join(cell(value) for value in [*row, margin])
        lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div><p>Above zero, a margin keeps a subject apart.</p>'


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if isinstance(value, str | int | float)}


def _scores(found: Mapping[str, Any]) -> str:
    """Metrics down; the untrained prior, this run and real pictures across."""
    floor, ceiling = found.get("floor") or {}, found.get("ceiling") or {}
    heads = "".join(f'<th scope="col">{name}</th>' for name in ["", "untrained prior", "this run", "real pictures"])
    lines = [f"<tr>{heads}</tr>"]
    for metric, (title, note) in METRICS.items():
        if any(one.get(metric) is not None for one in (floor, found, ceiling)):
            cells = "".join(cell(one.get(metric), one.get(f"{metric}_interval")) for one in (floor, found, ceiling))
            lines.append(f'<tr><th scope="row">{title} <small>{note}</small></th>{cells}</tr>')
    said = (
        f"{found['num_prompts']} prompts, {found['num_pictures']} pictures of each; features of '{found['embedder']}'."
    )
    return f'<div class="wide"><table>{"".join(lines)}</table></div><p>{html.escape(said)} {NOTE}</p>'


def _line(title: str, values: Mapping[str, Any], metrics: Sequence[str]) -> str:
    cells = "".join(cell(values.get(name), values.get(f"{name}_interval")) for name in metrics)
    return f'<tr><th scope="row">{html.escape(title)}</th>{cells}</tr>'


def _kinds(kinds: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Means over the contexts of a kind."""
    metrics = [name for name in metrics if any(name in one for one in kinds.values())]
    if not metrics:
        return ""
    heads = "".join(f'<th scope="col">{text}</th>' for text in ["", *(METRICS[name][0] for name in metrics)])
    lines = "".join(_line(kind, values, metrics) for kind, values in kinds.items())
    return f'<div class="wide"><table><tr>{heads}</tr>{lines}</table></div>'


def _ends(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    metrics = [name for name in metrics if any(name in row[end] for row in rows for end in ("untrained", "real"))]
    heads = "".join(f'<th scope="col">{text}</th>' for text in ["", *(METRICS[name][0] for name in metrics)])
    lines = "".join(
        _line(f"{row['subject']}, {end}", row[end], metrics)
        for row in rows
        for end in ("untrained", "real")
        if row[end]
    )
    return f'<div class="wide"><table><tr>{heads}</tr>{lines}</table></div>' if lines else ""


def _levels(subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """metric -> what the untrained prior and real pictures reach; means over the subjects, as the log has them."""
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        for end, title in (("floor", "untrained"), ("ceiling", "real")):
            found_here = [(one.get(end) or {}).get(metric) for one in subjects.values()]
            values = [value for value in found_here if value is not None]
            if values and len(values) == len(subjects):
                found.setdefault(metric, {})[title] = sum(values) / len(values)
    return found


def _curves(log: Sequence[Mapping[str, Any]], levels: Mapping[str, Mapping[str, float]]) -> str:
    keys = dict.fromkeys(key for row in log for key in row if key.startswith(("validation/", "loss/")))
    keys = {key: None for key in keys if not key.endswith(ENDS)}
    drawn = []
    for key in sorted(keys, key=lambda key: key.startswith("loss/")):
        metric = key.removeprefix("validation/")
        points = [(row["step"], row[key]) for row in log if row.get(key) is not None]
        low, high = (key + end for end in ENDS)
        intervals = [(row["step"], row[low], row[high]) for row in log if row.get(low) is not None]
        drawn.append(chart.curve(METRICS.get(metric, (key,))[0], points, levels.get(metric), intervals))
    return "\n".join(drawn) or "<p>No training log.</p>"


def _sheet(step: int, file: Path) -> str:
    with Image.open(file) as image:
        shown = _img(image.convert("RGB"), f"pictures at step {step}")
    return f"<figure><figcaption>step {step}</figcaption>{shown}</figure>"


def _img(image: Image.Image, about: str) -> str:
    return f'<img style="max-width: 100%" src="{data_url(image, "webp")}" alt="{html.escape(about)}">'
