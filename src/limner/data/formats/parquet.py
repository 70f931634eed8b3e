"""Parquet files, whose cells may be the pictures themselves.

Columns are those of ``fields.py``; a picture is a cell of bytes, or of bytes and path as ``datasets.Image`` stores it,
or the name of a file beside the parquet file. Other columns of bytes are left alone. ``read`` leaves it to ``datasets``
to turn the files into Arrow files in its own cache folder, once: those are mapped into memory, and any row is at hand.
A file called train-..., validation-... (or val-...) or test-... is of that split, unless a row says otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from limner.data.formats import fields
from limner.data.formats.files import COPY_AGAIN, Bytes, Folder
from limner.data.formats.index import Joined, Records, Shard
from limner.data.formats.shards import prefixes, split_of
from limner.errors import DataError, first_line
from limner.types import File, Sample

BLOCK = 1000


@dataclass(frozen=True)
class Cell:
    """A picture in a table. ``label`` names it to a person."""

    table: Any = field(repr=False, compare=False)
    number: int
    column: str
    label: str

    @property
    def name(self) -> str:
        return f"{self.number}.{self.column}"

    def read_bytes(self) -> bytes:
        return _content(self.table.column(self.column)[self.number].as_py(), self.label)

    def __str__(self) -> str:
        return self.label


class Table(Records):
    """The rows of an Arrow table, by number.

    Args:
        table: columns as in ``fields.py``.
        prefix: what keys begin with, where a picture has no name of its own.
        label: what errors call the table.
        split: of rows that do not say.
        folder: where pictures lie that a cell names.
    """

    def __init__(self, table: Any, prefix: str, label: str, split: str, folder: Folder) -> None:
        self._table, self._prefix, self._label, self._split = table, prefix, label, split
        fields.refuse_without_picture(table.column_names, label)
        pictures = [column.name for column in table.schema if _is_picture(column.type)]
        self._words, self._pictures = table.drop_columns(pictures), [name for name in pictures if _has_role(name)]
        self._open_name = fields.present_in(folder)
        hash_N = np.fromiter((hash(sample.key) for sample in self), np.int64, len(self))
        fields.refuse_repeats(hash_N, lambda number: self[number].key, self._where)
        self._open_name = fields.named_in(folder)

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[Sample]:
        for first in range(0, len(self), BLOCK):
            yield from self._block(first, min(BLOCK, len(self) - first))

    def sample(self, number: int) -> Sample:
        return next(self._block(number, 1))

    def _block(self, first: int, num: int) -> Iterator[Sample]:
        there = {name: self._table.column(name).slice(first, num).is_valid() for name in self._pictures}
        words = self._words.slice(first, num).to_pylist() or [{} for _ in range(num)]  # no column, no row
        for number, row in enumerate(words, first):
            where = self._where(number)
            for name, valid in there.items():
                if valid[number - first].as_py():
                    row[name] = Cell(self._table, number, name, f"{where}, {name}")
            yield sample_of(row, where, self._open_name, f"{self._prefix}/{number}", self._split)

    def _where(self, number: int) -> str:
        return f"{self._label}, row {number + 1}"


def read_parquet(paths: Sequence[Path]) -> Sequence[Sample]:
    """The rows of parquet files, by number.

    Raises:
        DataError: a damaged file, no column of pictures, a named file that does not exist or is named twice.
    """
    import datasets

    tables = []
    for path, prefix in zip(paths, prefixes(paths), strict=True):
        with _opened(path):
            pass  # it is whole, and a table of pictures
        try:
            table = datasets.Dataset.from_parquet(str(path)).data.table
        except Exception as error:  # a library over many readers: what it raises has no common kind
            raise DataError(f"{path} cannot be read: {first_line(error)}.", COPY_AGAIN) from None
        tables.append(Table(table, prefix, str(path), split_of(path), Folder(path.parent)))
    return Joined(tables)


def shards_of(paths: Sequence[Path]) -> list[Shard]:
    """Parquet files as the shards of a stream, one a row group."""
    shards: list[Shard] = []
    for path, prefix in zip(paths, prefixes(paths), strict=True):
        first = 0
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                shards.append(functools.partial(_row_group, path, prefix, group, first))
                first += file.metadata.row_group(group).num_rows
    return shards


def _row_group(path: Path, prefix: str, group: int, first: int) -> Iterator[Sample]:
    open_name, number = fields.named_in(Folder(path.parent)), first
    with _opened(path) as file:
        for batch in file.iter_batches(64, [group]):
            for row in batch.to_pylist():
                where = f"{path}, row {number + 1}"
                yield sample_of(with_bytes(row, where), where, open_name, f"{prefix}/{number}", split_of(path))
                number += 1


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile`` that has a column of pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            fields.refuse_without_picture(file.schema_arrow.names, str(path))
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged: {first_line(error)}.", COPY_AGAIN) from None


def sample_of(row: dict[str, Any], where: str, open_name: fields.Opener, key: str, split: str) -> Sample:
    """The sample of a row whose pictures are files already, or names for ``open_name``."""

    def open_cell(cell: Any, where: str) -> File:
        return cell if isinstance(cell, Cell | Bytes) else open_name(cell, where)

    sample = fields.sample(row, where, open_cell, key, split)
    unused = [name for name, value in sample.meta.items() if isinstance(value, Cell | Bytes) or _holds_picture(value)]
    return replace(sample, meta={name: value for name, value in sample.meta.items() if name not in unused})


def with_bytes(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row with its pictures as files that hold their bytes."""
    pictures = [name for name in row if _has_role(name) and _holds_picture(row[name])]
    return row | {name: Bytes(f"{where}, {name}", _content(row[name], where)) for name in pictures}


def _is_picture(kind: Any) -> bool:
    import pyarrow as pa

    fields_of = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "bytes" in fields_of


def _holds_picture(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value)


def _has_role(column: str) -> bool:
    return column.removesuffix("_file_name") in (*fields.IMAGE, *fields.SOURCE, *fields.MASK)


def _content(value: Any, label: str) -> bytes:
    """The bytes of a cell: bytes, or {"bytes": ..., "path": ...} of which one may be missing."""
    if isinstance(value, bytes):
        return value
    if value["bytes"] is not None:
        return value["bytes"]
    import fsspec  # what ``datasets`` itself opens paths with: of this machine, of the hub, within zips

    try:
        with fsspec.open(value["path"] or "?", "rb") as handle:
            return handle.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{label}: {value['path']} cannot be read: {error}.", "store the pictures' bytes") from None
