"""From a name to records. What may be given, and what a folder may hold, in this order of precedence:

    a folder, or a zip of one     metadata.jsonl | metadata.csv | metadata.parquet   a row a picture
                                  train/ validation/ (or val/) test/                 each a folder of any kind here
                                  source/ target/ (mask/)                            pairs
                                  pictures, named *_source, *_target or not
                                  *.tar, else *.parquet
    such a file itself            photos/metadata.csv, photos/my_captions.jsonl, shard.tar, rows.parquet
    several of them               shards/{000..012}.tar, data/train-*.parquet
    hub:OWNER/NAME[:CONFIG]       a data set of the Hugging Face hub, through ``datasets``

``formats`` has a file for each, and ``formats/fields.py`` the names of columns.

Order never depends on the file system: files that list pictures keep their order, all else is sorted by relative path.
``read`` goes through the data once, before any training: each row must parse, each picture that it names must be there
(asked of the file system, not opened), each shard must be whole. What is kept then is an index of a few bytes a record;
samples, and the captions beside pictures, are read when they are asked for. ``stream`` looks at nothing in advance:
what is wrong with a record is said when it comes. A zip is for what can be listed in memory, a kilobyte a file.
"""

from __future__ import annotations

import difflib
import functools
import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from limner.data.formats import folder, hub, metadata, parquet, shards
from limner.data.formats.fields import SPLIT_FOLDERS
from limner.data.formats.files import PICTURES, Folder, Tree, open_zip
from limner.data.formats.index import Joined, Renamed, Shard, ShardStream, Strings, renamed
from limner.data.records import Stream
from limner.errors import DataError
from limner.types import Sample

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TABLES = (".jsonl", ".csv")
TARS = (".tar", *shards.COMPRESSED)


def read(name: str | Path) -> Sequence[Sample]:
    """All records of a folder, a zip, files, or a data set of the hub, by number.

    Raises:
        DataError: nothing there, no pictures, halves of pairs missing, a list of pictures that is wrong.
    """
    if str(name).startswith("hub:"):
        return hub.read_hub(str(name).removeprefix("hub:"))
    records = _records(_find(name))
    if not len(records):
        raise DataError(f"{name} holds no pictures.", "known kinds: " + ", ".join(sorted(PICTURES)))
    return records


def stream(name: str | Path) -> Stream:
    """The same, in an order drawn by a seed and never by number: for tars, parquet, jsonl, csv, and the hub.

    Raises:
        DataError: nothing there, or nothing that can be streamed.
    """
    if str(name).startswith("hub:"):
        return ShardStream(hub.shards_of(str(name).removeprefix("hub:")))
    return ShardStream(_shards(_find(name)))


@dataclass(frozen=True)
class Found:
    """One thing that can be read: its kind, where it lies, and its files."""

    kind: str  # "metadata", "splits", "pairs", "pictures", "tar", "parquet"
    tree: Tree
    files: Sequence[str] = ()

    def paths(self) -> list[Path]:
        if not isinstance(self.tree, Folder):
            raise DataError(
                f"{self.tree} holds {self.files[0]}, which is not read from within a zip.", "unpack the zip"
            )
        return [Path(str(self.tree.file(file))) for file in self.files]


def _records(found: Found) -> Sequence[Sample]:
    match found.kind:
        case "metadata":
            return metadata.Table(found.tree, found.files[0])
        case "splits":
            parts = ((part, found.tree.folder(part)) for part in found.files)
            return Joined([Renamed(_records(_look(tree)), part, SPLIT_FOLDERS[part]) for part, tree in parts if tree])
        case "pairs":
            return folder.pairs(found.tree)
        case "pictures":
            return folder.pictures(found.tree, found.files)
        case "tar":
            return shards.Shards(found.paths())
        case _:
            return parquet.read_parquet(found.paths())


def _shards(found: Found) -> list[Shard]:
    match found.kind:
        case "metadata":
            return metadata.shards_of(found.tree, found.files[0])
        case "splits":
            parts = [(part, tree) for part in found.files if (tree := found.tree.folder(part))]
            return [functools.partial(_part, shard, part) for part, tree in parts for shard in _shards(_look(tree))]
        case "tar":
            return shards.shards_of(found.paths())
        case "parquet":
            return parquet.shards_of(found.paths())
        case _:
            hint = "read it by number, without streaming; or list its pictures in metadata.jsonl"
            raise DataError(f"{found.tree} is a folder of pictures: there is nothing to stream.", hint)


def _part(shard: Shard, name: str) -> Iterator[Sample]:
    return renamed(shard(), name, SPLIT_FOLDERS[name])


def _find(name: str | Path) -> Found:
    """What a name stands for on this machine."""
    paths = _expand(str(name))
    if len(paths) == 1 and paths[0].is_dir():
        return _look(Folder(paths[0]))
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1 or (len(paths) > 1 and kinds.isdisjoint(("tar", "parquet"))):
        raise DataError(f"{name} means several files that are not all tars or all parquet.", "give one kind of file")
    kind = kinds.pop()
    if kind == "zip":
        return _look(open_zip(paths[0]))
    if len(paths) == 1:
        return Found(kind, Folder(paths[0].parent), [paths[0].name])
    return Found(kind, Folder(Path()), [str(path) for path in paths])


def _look(tree: Tree) -> Found:
    """What a folder holds."""
    lists = [name for name in METADATA if tree.has(name)]
    if len(lists) > 1:
        raise DataError(f"{tree} has both {lists[0]} and {lists[1]}.", "keep one, or give the path of the one you mean")
    if lists:
        return Found(_kind(Path(lists[0])), tree, lists)
    if tree.folder("source") or tree.folder("target"):
        return Found("pairs", tree)
    parts = [part for part in SPLIT_FOLDERS if tree.folder(part)]
    pictures, others = Strings(), []
    for path in tree.paths():
        if folder.is_picture(path):
            pictures.append(path)
        elif path.lower().endswith((*TARS, ".parquet")) or Path(path).name in METADATA:
            others.append(path)
    if parts:
        outside = (path for path in itertools.chain(pictures, others) if path.partition("/")[0] not in SPLIT_FOLDERS)
        if stray := next(outside, None):
            raise DataError(f"{tree} has {parts[0]}/ and, outside of it, {stray}.", "move it into one of the splits")
        return Found("splits", tree, parts)
    if nested := next((path for path in others if Path(path).name in METADATA), None):
        raise DataError(f"{tree} has a list of pictures further down, {nested}.", "give the folder that it lies in")
    if len(pictures):
        return Found("pictures", tree, pictures)
    tars = [path for path in others if not path.lower().endswith(".parquet")]
    return Found("tar" if tars else "parquet", tree, tars or others) if others else Found("pictures", tree, pictures)


def _kind(path: Path) -> str:
    name = path.name.lower()
    return next(
        (
            kind
            for kind, endings in (("metadata", TABLES), ("tar", TARS), ("parquet", (".parquet",)))
            if name.endswith(endings)
        ),
        "zip",
    )


def _expand(name: str) -> list[Path]:
    """The path that a name is; else the files that a pattern with {000..012}, {a,b}, *, ? or [] means, sorted."""
    if Path(name).exists():
        return [Path(name)]
    found: list[Path] = []
    for path in _braces(name):
        some = sorted(map(Path, glob.iglob(path, recursive=True))) if glob.has_magic(path) else [Path(path)]  # noqa: PTH207
        if not some or not some[0].exists():
            raise _missing(Path(path))
        found += some
    return sorted(set(found), key=lambda path: path.as_posix())


def _braces(name: str) -> list[str]:
    inside = re.search(r"\{([^{}]*)\}", name)
    if not inside:
        return [name]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside[1])
    if numbers:
        first, last = numbers.groups()
        words = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        words = inside[1].split(",")
    return [path for word in words for path in _braces(name[: inside.start()] + word + name[inside.end() :])]


def _missing(path: Path) -> DataError:
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, sorted(siblings), n=1)
    known = "give a folder, a zip of one, shards, hub:OWNER/NAME, or a name from 'limner list'"
    return DataError(f"{path} does not exist.", f"did you mean '{path.parent / near[0]}'?" if near else known)
