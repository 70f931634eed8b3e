"""Two drawings for the report, as inline SVG: a curve over steps, and arms on the scale from chance to ceiling.

Colours are CSS classes of the page, so that they follow its light and dark modes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 170, 52, 22, 12
MAX_POINTS = 150


def curve(
    title: str,
    points: Sequence[tuple[float, float]],
    levels: Mapping[str, float] | None = None,
    intervals: Sequence[tuple[float, float, float]] = (),
) -> str:
    """A line through (step, value); more than 150 points are averaged in equal spans. Not finite: left out.

    ``levels`` are values to compare with, such as what real pictures reach, each a line across with its name;
    ``intervals`` (step, low, high), each a line up and down.
    """
    points, levels = _averaged([point for point in points if isfinite(point[1])]), levels or {}
    if not points:
        return ""
    x_0, x_1 = _range([x for x, _ in points])
    y_0, y_1 = _range([*(y for _, y in points), *levels.values(), *(end for _, *ends in intervals for end in ends)])

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_0) / (x_1 - x_0) * (WIDTH - LEFT - 8)
        down = HEIGHT - BOTTOM - (y - y_0) / (y_1 - y_0) * (HEIGHT - BOTTOM - TOP)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(*point) for point in points)
    dots = "".join(
        '<circle cx="{}" cy="{}" r="2.5"/>'.format(*at.split(",")) for at in line.split() if len(points) < 30
    )
    marks = ""
    for name, value in levels.items():
        _, y = place(x_0, value).split(",")
        marks += f'<path class="mark" d="M{LEFT},{y}H{WIDTH - 8}"/>'
        marks += (
            f'<text x="{WIDTH - 8}" y="{float(y) - 3:.1f}" text-anchor="end">{html.escape(name)} {value:.3g}</text>'
        )
    for x, low, high in intervals:
        marks += f'<path class="interval" d="M{place(x, low)}L{place(x, high)}"/>'
    axis = f"M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - 8}"
    labels = [(LEFT - 5, TOP + 8, "end", y_1), (LEFT - 5, HEIGHT - BOTTOM, "end", y_0)]
    labels += [(LEFT, HEIGHT - 6, "start", x_0), (WIDTH - 8, HEIGHT - 6, "end", x_1)]
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} over steps"><path class="axis" d="{axis}"/>{marks}'
        f'<polyline class="line" points="{line}"/><g class="dots">{dots}</g>{_texts(labels)}</svg></figure>'
    )


def scale(arms: Mapping[str, Mapping[str, Any]], chance: float, ceiling: float) -> str:
    """Edge F1 of each arm with its interval, between the lines of chance and ceiling."""
    values = [chance, ceiling, *(arm["edge_f1"] for arm in arms.values())]
    values += [end for arm in arms.values() for end in arm.get("edge_f1_interval") or ()]
    low, high = _range(values)
    width, row, left = 640, 26, 110

    def across(value: float) -> float:
        return left + 20 + (value - low) / (high - low) * (width - left - 60)

    bottom = row * len(arms) + 8
    parts = []
    for name, value in (("chance", chance), ("ceiling", ceiling)):
        x = across(value)
        parts.append(f'<path class="mark" d="M{x:.1f},4V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{name} {value:.3f}</text>')
    for i, (name, arm) in enumerate(arms.items()):
        y = row * i + row / 2 + 6
        begin, end = arm.get("edge_f1_interval") or (arm["edge_f1"], arm["edge_f1"])
        parts.append(f'<text x="0" y="{y + 4}">{html.escape(name)}</text>')
        parts.append(f'<path class="interval" d="M{across(begin):.1f},{y}H{across(end):.1f}"/>')
        parts.append(f'<circle class="arm" cx="{across(arm["edge_f1"]):.1f}" cy="{y}" r="5"/>')
    return (
        f'<svg viewBox="0 0 {width} {bottom + 20}" role="img" aria-label="edge F1 of each arm between chance and '
        f'ceiling">{"".join(parts)}</svg>'
    )


def _averaged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // MAX_POINTS) or 1
    spans = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in span) / len(span), sum(y for _, y in span) / len(span)) for span in spans]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, made a little apart where they are one."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _texts(labels: Sequence[tuple[float, float, str, float]]) -> str:
    return "".join(f'<text x="{x}" y="{y}" text-anchor="{side}">{value:.4g}</text>' for x, y, side, value in labels)
