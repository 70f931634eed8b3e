"""metadata.jsonl and metadata.csv: one picture a line, with what is said of it (columns: ``fields.py``).

    {"file_name": "fox.png", "caption": "a fox", "source": "sketches/fox.png", "split": "train"}

``read`` goes through the file once: every line must parse, every picture it names must exist and be named once. What
it keeps is eight bytes a line: where the line begins. Each sample is parsed anew when it is asked for.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from limner.data.formats import fields
from limner.data.formats.files import Tree
from limner.data.formats.index import Records, Shard
from limner.errors import DataError
from limner.types import Sample

BOM = b"\xef\xbb\xbf"


class Lines(ABC):
    """A file of rows: what is the same for JSON and CSV."""

    def __init__(self, tree: Tree, name: str) -> None:
        self.file = tree.file(name)
        # A member of a zip cannot be read from its middle, so that its bytes are kept.
        self._bytes = None if isinstance(self.file, Path) else self.file.read_bytes()

    def open(self) -> BinaryIO:
        if not isinstance(self.file, Path):
            return io.BytesIO(self._bytes or b"")
        try:
            return self.file.open("rb")
        except OSError as error:
            raise DataError(f"{self.file} cannot be read: {error.strerror}.", "allow reading it") from None

    def state(self) -> tuple[int, int]:
        """Differs once the file has been changed."""
        if not isinstance(self.file, Path):
            return 0, 0
        about = self.file.stat()
        return about.st_size, about.st_mtime_ns

    def rows(self) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        """(line, first byte, byte past the last, row) of each."""
        with self.open() as handle:
            first = 0
            for line, raw, row in self.parse(handle):
                if row is not None:
                    yield line, first, first + len(raw), row
                first += len(raw)

    def where(self, line: int) -> str:
        return f"{self.file}, line {line}"

    @abstractmethod
    def parse(self, handle: BinaryIO) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
        """(line, bytes, row) from the beginning, without a gap; None for lines without a row."""

    @abstractmethod
    def row(self, raw: bytes) -> dict[str, Any]:
        """The row of bytes that ``parse`` has passed."""

    def text(self, raw: bytes, line: int) -> str:
        try:
            return (raw.removeprefix(BOM) if line == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file} is not UTF-8: line {line}: {error}.", "save it as UTF-8") from None


class JsonLines(Lines):
    """One JSON object a line."""

    def parse(self, handle: BinaryIO) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
        for line, raw in enumerate(handle, start=1):
            text = self.text(raw, line)
            try:
                row = json.loads(text) if text.strip() else None
                problem = "" if isinstance(row, dict | None) else f"{text.strip():.40} is no object"
            except (json.JSONDecodeError, RecursionError) as error:
                problem = str(error)
            if problem:
                raise DataError(
                    f"{self.where(line)}: {problem}.",
                    'each line is a JSON object such as {"file_name": "fox.png", "caption": "a fox"}',
                )
            yield line, raw, row

    def row(self, raw: bytes) -> dict[str, Any]:
        return json.loads(raw.removeprefix(BOM))


class Csv(Lines):
    """A line of column names, then one picture a line; quoted cells may hold line breaks."""

    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name)
        with self.open() as handle:
            self.columns = next((cells for _, _, cells in self._records(handle) if cells), [])
        if not fields.names_picture(self.columns):
            hint = "its first line names the columns, with commas between, such as: file_name,caption"
            raise DataError(f"{self.file} has no column file_name.", hint)
        if twice := [column for i, column in enumerate(self.columns) if column in self.columns[:i]]:
            raise DataError(f"{self.file} has two columns {twice[0]}.", "rename one of them")

    def parse(self, handle: BinaryIO) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
        header = True
        for line, raw, cells in self._records(handle):
            if not cells or header:
                header = header and not cells
                yield line, raw, None
                continue
            if len(cells) != len(self.columns):
                raise DataError(
                    f"{self.where(line)}: {len(cells)} cells under {len(self.columns)} columns.",
                    "put cells that hold a comma in double quotes",
                )
            yield line, raw, dict(zip(self.columns, cells, strict=True))

    def row(self, raw: bytes) -> dict[str, Any]:
        cells = next(csv.reader([raw.decode()], strict=True))
        return dict(zip(self.columns, cells, strict=True))

    def _records(self, handle: BinaryIO) -> Iterator[tuple[int, bytes, list[str]]]:
        """(line, bytes, cells); the reader itself says which lines make a record, by asking for as many."""
        taken: list[bytes] = []
        line = 1

        def lines() -> Iterator[str]:
            for raw in handle:
                taken.append(raw)
                yield self.text(raw, line + len(taken) - 1)

        reader = csv.reader(lines(), strict=True)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{self.where(line)}: {error}.", "look for a double quote too many") from None
            yield line, b"".join(taken), cells
            line += len(taken)
            taken.clear()


class Table(Records):
    """The rows of a file, by number.

    Raises:
        DataError: a line that does not parse, a picture that does not exist or is named twice.
    """

    def __init__(self, tree: Tree, name: str) -> None:
        self._lines, self._open_cell = lines_of(tree, name), fields.named_in(tree)
        first_N, hash_N = array("q"), array("q")
        stop, self._state = 0, self._lines.state()
        check = fields.present_in(tree)
        for line, first, stop, row in self._lines.rows():  # noqa: B007  (the last stop is kept)
            first_N.append(first)
            hash_N.append(hash(fields.sample(row, self._lines.where(line), check).key))
        if not first_N:
            raise DataError(f"{self._lines.file} lists no pictures.", "add a line for each")
        self._first_N = np.append(np.frombuffer(first_N, np.int64), stop)
        fields.refuse_repeats(
            np.frombuffer(hash_N, np.int64),
            lambda number: self[number].key,
            lambda number: self._lines.where(self._line(number)),
        )

    def __len__(self) -> int:
        return len(self._first_N) - 1

    def __iter__(self) -> Iterator[Sample]:
        for line, _, _, row in self._lines.rows():
            yield fields.sample(row, self._lines.where(line), self._open_cell)

    def sample(self, number: int) -> Sample:
        first, stop = self._first_N[number : number + 2].tolist()
        if self._lines.state() != self._state:
            raise DataError(f"{self._lines.file} was changed while it was being used.", "start again")
        with self._lines.open() as handle:
            handle.seek(first)
            row = self._lines.row(handle.read(stop - first))
        return fields.sample(row, f"{self._lines.file}, record {number + 1}", self._open_cell)

    def _line(self, number: int) -> int:
        with self._lines.open() as handle:
            return handle.read(int(self._first_N[number])).count(b"\n") + 1


def lines_of(tree: Tree, name: str) -> Lines:
    """The file by what its name ends in."""
    return (Csv if name.lower().endswith(".csv") else JsonLines)(tree, name)


def shards_of(tree: Tree, name: str) -> list[Shard]:
    """The file as the one shard of a stream: its lines in order, checked as they come."""
    lines, open_cell = lines_of(tree, name), fields.named_in(tree)

    def samples() -> Iterator[Sample]:
        for line, _, _, row in lines.rows():
            yield fields.sample(row, lines.where(line), open_cell)

    return [samples]
