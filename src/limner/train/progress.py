"""What a person at the terminal sees and does while a run goes on: a bar, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(title: str, total: int, done: int, pictures_per_step: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with pictures a second and the time left; call what it gives with the number of done steps."""
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    with Progress(TextColumn("{task.description}"), *columns, disable=not shown) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="")
        start = time.monotonic()

        def advance(now: int) -> None:
            rate = (now - done) * pictures_per_step / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=now, rate=f"{rate:.1f} pictures/s")

        yield advance


@contextmanager
def on_stop(ask: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM calls ``ask``; a second one does what it always does."""

    def handle(kind: int, frame: FrameType | None) -> None:
        ask()
        signal.signal(kind, before[signal.Signals(kind)])

    in_main_thread = threading.current_thread() is threading.main_thread()  # Python lets only that one handle signals
    kinds = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    before = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
