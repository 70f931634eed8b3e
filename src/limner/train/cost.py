"""What a run costs: time, memory, and energy by codecarbon (measured where the machine tells, else estimated).

Each session of a run (a start, a resume) adds a row to ``energy.jsonl``; a session that is killed leaves none.
codecarbon works offline; the country only sets the grams of CO2e a kWh, and is written beside them.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

COUNTRY = "USA"


def find_meters() -> None:
    """Have codecarbon look for the machine's meters in a thread: once a process it does, and mostly waits (1.6 s)."""
    tracker = _tracker()

    def look() -> None:
        tracker.start()
        tracker.stop()

    threading.Thread(target=look, daemon=True).start()


def _tracker() -> Any:
    logging.getLogger("codecarbon").disabled = True  # it sets its own level, and talks to the terminal
    from codecarbon import OfflineEmissionsTracker

    return OfflineEmissionsTracker(
        country_iso_code=COUNTRY, output_methods=[], log_level="error", allow_multiple_runs=True
    )


@contextmanager
def metered(file: Path, what: str) -> Iterator[None]:
    """Append a row {what, seconds, kwh, kg_co2e, country, peak_mb} to ``file`` when the block ends, however it ends."""
    tracker = _tracker()
    tracker.start()
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        tracker.stop()
        used = tracker.final_emissions_data
        row = {"what": what, "seconds": seconds, "kwh": used.energy_consumed, "kg_co2e": used.emissions}
        with file.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps({**row, "country": COUNTRY, "peak_mb": peak_mb()}) + "\n")


def total(file: Path, what: str) -> dict[str, float]:
    """Seconds, kWh and kg of CO2e of all sessions of ``what``, and the most memory one of them held, in MB."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    mine = [row for row in rows if row["what"] == what]
    costs = {key: sum(row[key] for row in mine) for key in ("seconds", "kwh", "kg_co2e")}
    return {**costs, "peak_mb": max((row["peak_mb"] for row in mine), default=0.0)}


def peak_mb() -> float:
    """The most memory held so far: of the accelerator if there is one, else of the process. In MB (1e6 bytes)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "linux":  # whose getrusage also counts the process that started this one
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1e6
    # macOS counts in bytes, others in kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
