"""A contact sheet of a data set: what was complained of first, then the rest at equal distances, each with its name."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from limner.data.check import Audit, numbers
from limner.data.prepare import open_picture
from limner.data.records import Stream
from limner.errors import DataError, LimnerError
from limner.types import File, Sample

MOST = 64
COLUMNS = {1: 10, 2: 6}  # of single pictures, of pairs
CELL_PX, GAP_PX, LINE_PX, LINES, FRAME_PX = 128, 8, 12, 3, 3
COLOURS = {"error": "#c62828", "warning": "#ef6c00", "": "#dddddd"}
BEHIND, BLANK = ("#ffffff", "#e4e4e4"), "#f4f4f4"


def write_sheet(file: Path, audit: Audit, data: Sequence[Sample] | Stream, limit: int | None) -> None:
    """Save the contact sheet of audited data as a PNG; ``limit`` is the audit's.

    Raises:
        DataError: the file cannot be written.
    """
    said = _complaints(audit)
    rest = [number for number in numbers(audit.num_records, MOST) if number not in said]
    chosen = [*said, *rest][:MOST]
    samples = _samples(data, chosen, limit)
    halves = 2 if any(sample and sample.source for sample in samples.values()) else 1
    cells = [_cell(samples.get(number), *said.get(number, ("", "", "")), halves) for number in chosen]
    encoded = io.BytesIO()
    _grid(cells, COLUMNS[halves]).save(encoded, "PNG")
    try:
        file.write_bytes(encoded.getvalue())
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror}.", "give another --sheet") from None


def _complaints(audit: Audit) -> dict[int, tuple[str, str, str]]:
    """Record -> (severity of its gravest finding, codes of all, its file), a few of each code before more of it."""
    about = [finding for finding in audit.findings if finding.severity != "note" and finding.number >= 0]
    rank: dict[str, itertools.count[int]] = {}
    order = {finding: next(rank.setdefault(finding.code, itertools.count())) // 8 for finding in about}
    about.sort(key=lambda finding: (finding.severity != "error", order[finding]))
    said: dict[int, tuple[str, str, str]] = {}
    for finding in about:
        severity, codes, _ = said.get(finding.number, (finding.severity, "", ""))
        said[finding.number] = (severity, f"{codes}, {finding.code}" if codes else finding.code, finding.file)
    return said


def _samples(data: Sequence[Sample] | Stream, chosen: Sequence[int], limit: int | None) -> dict[int, Sample | None]:
    """The records of these numbers, as the audit numbered them; None for one that cannot be made."""
    if not isinstance(data, Sequence):
        wanted, some = set(chosen), itertools.islice(data.samples(0), max(chosen, default=-1) + 1)
        return {number: sample for number, sample in enumerate(some) if number in wanted}
    places = numbers(len(data), limit)
    return {number: _try(lambda number=number: data[places[number]]) for number in chosen}  # type: ignore[misc]


def _try(make: Callable[[], Sample]) -> Sample | None:
    try:
        return make()
    except LimnerError:
        return None


def _cell(sample: Sample | None, severity: str, codes: str, file: str, halves: int) -> Image.Image:
    """One record: its source, its picture, its name and what is to be said of it."""
    width = halves * CELL_PX
    cell = Image.new("RGB", (width + 2 * FRAME_PX, CELL_PX + LINES * LINE_PX + 3 * FRAME_PX), "white")
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(size=10)
    draw.rectangle((0, 0, cell.width - 1, CELL_PX + 2 * FRAME_PX - 1), COLOURS[severity])
    files = (sample.source, sample.image) if sample else (None, None)
    for place, half in enumerate(files[2 - halves :]):
        cell.paste(_picture(half), (FRAME_PX + place * CELL_PX, FRAME_PX))
    name = sample.image.name if sample else file.rpartition("/")[2]
    letters = width // 6
    lines = [name if len(name) <= letters else f"{name[: letters // 2 - 1]}…{name[-letters // 2 + 1 :]}"]
    lines += textwrap.wrap(codes or (sample.caption if sample else ""), letters)
    for line, text in enumerate(lines[:LINES]):
        colour = COLOURS[severity] if line and severity else "black" if not line else "#777777"
        draw.text((FRAME_PX, CELL_PX + 2 * FRAME_PX + line * LINE_PX), text, colour, font)
    return cell


def _picture(file: File | None) -> Image.Image:
    """A picture whole within a square, on a chequered ground where it is transparent; a cross if it cannot be read."""
    square = Image.new("RGB", (CELL_PX, CELL_PX), BLANK)
    draw = ImageDraw.Draw(square)
    try:
        if file is None:
            return square
        picture = ImageOps.contain(open_picture(file), (CELL_PX, CELL_PX))
    except DataError:
        for ends in ((0, 0, CELL_PX, CELL_PX), (0, CELL_PX, CELL_PX, 0)):
            draw.line(ends, COLOURS["error"], 2)
        return square
    corner = ((CELL_PX - picture.width) // 2, (CELL_PX - picture.height) // 2)
    if picture.mode == "RGBA":
        for x, y in itertools.product(range(0, CELL_PX, 8), repeat=2):
            draw.rectangle((x, y, x + 7, y + 7), BEHIND[(x + y) // 8 % 2])
    square.paste(picture, corner, picture if picture.mode == "RGBA" else None)
    return square


def _grid(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    width, height = cells[0].size if cells else (CELL_PX, CELL_PX)
    rows = max(1, -(-len(cells) // columns))
    columns = min(columns, max(1, len(cells)))
    sheet = Image.new("RGB", (GAP_PX + columns * (width + GAP_PX), GAP_PX + rows * (height + GAP_PX)), "white")
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(cell, (GAP_PX + column * (width + GAP_PX), GAP_PX + row * (height + GAP_PX)))
    return sheet
