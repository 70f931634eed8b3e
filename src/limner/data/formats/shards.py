"""WebDataset shards: tar files whose members belong together where they share a name up to its first dot.

    fox.png (jpg, webp ...)   the picture           fox.txt    its caption
    fox.source.png            its other half        fox.json   what else is said of it, columns as in ``fields.py``
    fox.mask.png              where it counts

Members of any other ending are left alone. Read by number, the shards are gone through once; what is kept is eight
bytes a record: where its first member begins. Nothing is ever unpacked to disk. A shard called train-...,
validation-... (or val-...) or test-... is of that split, unless a record's JSON says otherwise.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import os
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limner.data.formats import fields
from limner.data.formats.files import COPY_AGAIN, PICTURES, Bytes, Span
from limner.data.formats.index import Records, Shard, first_repeat
from limner.errors import DataError
from limner.types import File, Sample

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
UNPACK: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ENDING = re.compile(r"\.(tar|tgz|tar\.\w+|parquet)$", re.IGNORECASE)
TEXTS = ("txt", "caption")
ROLES = {"image": ("", *fields.IMAGE), "source": fields.SOURCE, "mask": fields.MASK}


class Shards(Records):
    """The records of uncompressed tar files, by number.

    Raises:
        DataError: a damaged or compressed shard, a record without a picture, two records of one name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if packed := next((path for path in paths if path.name.lower().endswith(COMPRESSED)), None):
            raise DataError(f"{packed} is compressed: it has no places to go to.", "unpack it to a .tar, or stream it")
        self.paths, self.prefixes = paths, prefixes(paths)
        first_N, hash_N, self._stops = array("q"), array("q"), array("q")
        for path, prefix in zip(paths, self.prefixes, strict=True):
            for first, sample in _records(path, prefix):
                first_N.append(first)
                hash_N.append(hash(sample.key))
            self._stops.append(len(first_N))
        self._first_N = np.frombuffer(first_N, np.int64)
        if repeat := first_repeat(np.frombuffer(hash_N, np.int64), lambda number: self[number].key):
            raise _twice(self[repeat[1]])

    def __len__(self) -> int:
        return len(self._first_N)

    def __iter__(self) -> Iterator[Sample]:
        for path, prefix in zip(self.paths, self.prefixes, strict=True):
            yield from (sample for _, sample in _records(path, prefix))

    def sample(self, number: int) -> Sample:
        shard = int(np.searchsorted(self._stops, number, side="right"))
        return next(_records(self.paths[shard], self.prefixes[shard], int(self._first_N[number])))[1]


def shards_of(paths: Sequence[Path]) -> list[Shard]:
    """The tar files, compressed or not, as the shards of a stream."""

    def samples(path: Path, prefix: str) -> Iterator[Sample]:
        seen = set()
        for _, sample in _records(path, prefix):
            if sample.key in seen:
                raise _twice(sample)
            seen.add(sample.key)
            yield sample

    return [functools.partial(samples, *both) for both in zip(paths, prefixes(paths), strict=True)]


def prefixes(paths: Sequence[Path]) -> list[str]:
    """What the keys of each file's records begin with: its path from the folder common to all, without ending."""
    common = os.path.commonpath([path.parent for path in paths])
    return [re.sub(ENDING, "", path.relative_to(common).as_posix()) for path in paths]


def split_of(path: Path) -> str:
    """The split that a shard's name begins with."""
    word = re.match("[a-z]*", path.name.lower())
    return fields.SPLIT_FOLDERS.get(word[0] if word else "", "train")


def _records(path: Path, prefix: str, start: int = 0) -> Iterator[tuple[int, Sample]]:
    """(first byte, sample) of each record from the byte ``start`` on."""
    try:
        first, key = start, ""
        files: dict[str, File] = {}
        for member, file in _members(path, start):
            folder, slash, name = fields.clean(member.name).rpartition("/")
            stem, _, ending = name.partition(".")
            if not member.isreg() or not (stem and ending) or "__MACOSX" in folder:
                continue
            mine, ending = folder + slash + stem, ending.lower()
            if mine != key:
                if files:
                    yield first, _sample(path, prefix, key, files)
                first, key, files = member.offset, mine, {}
            if ending in files:
                raise DataError(f"{path} holds two members {mine}.{ending}.", "remove one of them")
            files[ending] = file
        if files:
            yield first, _sample(path, prefix, key, files)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is damaged: {error}.", COPY_AGAIN) from None


def _members(path: Path, start: int) -> Iterator[tuple[tarfile.TarInfo, File]]:
    """Each member and its bytes: where they lie, or (of a compressed tar, which has no way back) they themselves."""
    if path.name.lower().endswith(COMPRESSED):
        with UNPACK[path.suffix.lower()](path) as handle, tarfile.open(fileobj=handle, mode="r|") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                inside = tar.extractfile(member) if member.isreg() else None
                yield member, Bytes(f"{path}/{member.name}", inside.read() if inside else b"")
            while handle.read(1 << 20):  # only at its very end does it know itself to be whole
                pass
        return
    with path.open("rb") as handle:
        handle.seek(start)
        with tarfile.open(fileobj=handle, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                yield member, Span(path, member.name, member.offset_data, member.size)
            handle.seek(tar.offset)
            if handle.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile itself takes damage for the end
                raise tarfile.ReadError(f"no member and no end at byte {tar.offset}")


def _sample(path: Path, prefix: str, key: str, files: dict[str, File]) -> Sample:
    where = f"{path}, record {key}"
    pictures: dict[str, File] = {}
    for ending, file in files.items():
        name, _, kind = ending.rpartition(".")
        role = next((role for role, names in ROLES.items() if name in names and f".{kind}" in PICTURES), None)
        if role in pictures:
            raise DataError(f"{pictures[role]} and {file.name} share a name.", "remove one of them")
        if role:
            pictures[role] = file
    if "image" not in pictures:
        hint = f"members of a record lie side by side; here are {', '.join(files)}; pictures are {', '.join(PICTURES)}"
        raise DataError(f"{where} has no picture.", hint)
    row = _json(files["json"]) if "json" in files else {}
    caption, split = fields.words(row, where)
    texts = [_text(files[ending]).strip() for ending in TEXTS if ending in files]
    caption = next(filter(None, texts), caption)
    return Sample(f"{prefix}/{key}", caption, **pictures, split=split or split_of(path), meta=row)


def _twice(sample: Sample) -> DataError:
    return DataError(f"{sample.image}: two records are called {sample.key}.", "rename one of them")


def _json(file: File) -> dict[str, Any]:
    try:
        row = json.loads(_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{file}: {error}.", "it should be a JSON object") from None
    if not isinstance(row, dict):
        raise DataError(f"{file}: no JSON object but {row!r:.40}.", "write it as {...}")
    return row


def _text(file: File) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}.", "save it as UTF-8") from None
