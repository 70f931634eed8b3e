"""Data sets of the Hugging Face hub, through ``datasets``; columns as in ``fields.py``, pictures decoded by limner.

``read`` keeps the data set where ``datasets`` keeps it, as Arrow files mapped into memory. ``stream`` keeps nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limner.data.formats import fields
from limner.data.formats.files import Folder
from limner.data.formats.index import Joined, Shard
from limner.data.formats.parquet import Table, sample_of, with_bytes
from limner.errors import DataError, first_line
from limner.types import Sample


def read_hub(name: str) -> Sequence[Sample]:
    """A data set of the hub, ``OWNER/NAME`` or ``OWNER/NAME:CONFIG`` (or a folder that ``datasets`` can load).

    Raises:
        DataError: it cannot be loaded, has no column of pictures, or splits of unknown names.
    """
    parts = []
    for split, standard, dataset in _splits(name, streaming=False):
        label = f"hub:{name} {split}"
        parts.append(Table(dataset.data.table, split, label, standard, Folder(Path())))
    return Joined(parts)


def shards_of(name: str) -> list[Shard]:
    """The same as the shards of a stream, as the data set itself is cut.

    Raises:
        DataError: it cannot be loaded, has no column of pictures, or splits of unknown names.
    """
    shards: list[Shard] = []
    for split, standard, dataset in _splits(name, streaming=True):
        fields.refuse_without_picture(dataset.column_names or fields.IMAGE, f"hub:{name} {split}")
        for index in range(dataset.num_shards):
            shard = dataset.decode(False).shard(dataset.num_shards, index)
            prefix = split if dataset.num_shards == 1 else f"{split}/{index}"
            shards.append(functools.partial(_shard, shard, prefix, f"hub:{name} {prefix}", standard))
    return shards


def _shard(rows: Any, prefix: str, label: str, split: str) -> Iterator[Sample]:
    open_name = fields.named_in(Folder(Path()))
    for number, row in enumerate(rows):
        where = f"{label}, row {number + 1}"
        yield sample_of(with_bytes(row, where), where, open_name, f"{prefix}/{number}", split)


def _splits(name: str, streaming: bool) -> list[tuple[str, str, Any]]:
    """(name, standard name, data set) of each split."""
    import datasets

    repository, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(repository, config or None, streaming=streaming)
    except Exception as error:  # a library over many others: what it raises has no common kind
        raise DataError(
            f"hub:{name} cannot be loaded: {first_line(error)}.",
            "check its name and the network; offline, give a folder that holds its parquet files",
        ) from None
    # One split is all there is, whatever it is called.
    unknown = [split for split in found if split not in fields.SPLIT_FOLDERS]
    if unknown and len(found) > 1:
        known = ", ".join(fields.SPLIT_FOLDERS)
        raise DataError(f"hub:{name} has a split '{unknown[0]}'.", f"known: {known}; or download the files you mean")
    return [(split, fields.SPLIT_FOLDERS.get(split, "train"), found[split]) for split in found]
