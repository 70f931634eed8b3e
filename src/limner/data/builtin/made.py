"""Data sets that are made once from the files of an installed package, and then lie in the store as image folders.

Idea: every file is written beside and renamed, the index last. So a making that was cut off goes on where it stopped,
two processes at once write the same bytes twice, and what is deleted from the store is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from limner.data import store
from limner.data.read import read
from limner.errors import DataError
from limner.types import Sample

Rows = list[dict[str, Any]]


def package(name: str, extra: str) -> Distribution:
    """An installed package, which need not be imported.

    Raises:
        DataError: it is not installed.
    """
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise DataError(f"this data set needs the package {name}.", f'pip install "limner[{extra}]"') from None


def once(name: str, plan: Callable[[], tuple[Rows, Callable[[str], bytes]]]) -> Sequence[Sample]:
    """The data set in the store's folder ``name``, made there if it is not whole. What is made otherwise in a later
    version of limner needs another name.

    Args:
        plan: gives the rows of metadata.jsonl, each with a file_name and a source, and the function from either name to
            the file's bytes, which must be the same each time.

    Raises:
        DataError: the store cannot be written.
    """
    folder = store.folder() / "data" / name
    if not _is_whole(folder):
        try:
            _make(folder, *plan())
        except OSError as error:
            hint = "set LIMNER_CACHE to a folder with a few hundred megabytes of room"
            raise DataError(f"{folder} cannot be written: {error}.", hint) from error
    return read(folder)


def _is_whole(folder: Path) -> bool:
    index = folder / "metadata.jsonl"
    if not index.is_file():
        return False
    rows = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    return all((folder / row[half]).is_file() for row in rows for half in ("file_name", "source"))


def _make(folder: Path, rows: Rows, draw: Callable[[str], bytes]) -> None:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    title, hidden = f"making the data set {folder.name}, once", not console.is_terminal
    for row in track(rows, title, console=console, disable=hidden, transient=True):
        for name in (row["file_name"], row["source"]):
            if not (folder / name).is_file():
                _write(folder / name, draw(name))
    index = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # One time for all: to a reader, an index that a second process writes once more has not changed.
    _write(folder / "metadata.jsonl", index.encode(), time_s=0)


def _write(path: Path, data: bytes, time_s: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    if time_s is not None:
        os.utime(beside, (time_s, time_s))
    beside.replace(path)
