"""Energy of a run by codecarbon: measured where the machine tells, else estimated from the processor's rating.

Each session of a run (a start, a resume) adds a row to ``energy.jsonl``; a session that is killed leaves none. codecarbon
works offline; the country only sets the grams of CO2e a kWh, and is written beside them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COUNTRY = "USA"


@contextmanager
def metered(file: Path, what: str) -> Iterator[None]:
    """Append a row {what, seconds, kwh, kg_co2e, country} to ``file`` when the block ends, however it ends."""
    logging.getLogger("codecarbon").disabled = True  # it sets its own level, and talks to the terminal
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code=COUNTRY, output_methods=[], log_level="error", allow_multiple_runs=True
    )
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
            rows.write(json.dumps({**row, "country": COUNTRY}) + "\n")


def total(file: Path, what: str) -> dict[str, float]:
    """Seconds, kWh and kg of CO2e of all sessions of ``what``."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    mine = [row for row in rows if row["what"] == what]
    return {key: sum(row[key] for row in mine) for key in ("seconds", "kwh", "kg_co2e")}
