"""log.jsonl: one row a step, always; TensorBoard beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Log:
    """Appends rows {step, name: number} to a JSONL file. On resume, rows of steps to be done again are dropped."""

    def __init__(self, file: Path, done_steps: int) -> None:
        self.file = file
        rows = [row for row in read(file) if row["step"] <= done_steps]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def write(self, step: int, row: dict[str, float]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line cut short by a kill is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
