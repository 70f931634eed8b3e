"""From a folder, or a zip of one, to samples. Three layouts, in this order of precedence:

    metadata.jsonl   one JSON object a line: file_name, and optionally caption (or text), source, split
    source/ target/  two folders of pictures with equal names, and optional .txt captions beside the targets
    *.png ...        a folder of pictures, each with an optional .txt caption of the same name

Order is by name, never by what the file system happens to say. Pictures of the training split are kept for validation
(one in ten, at most 32) where the data does not say which; the choice depends on the names alone.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path

from limner.errors import DataError
from limner.types import Sample

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SPLITS = ("train", "validation", "test")


def read(root: str | Path) -> list[Sample]:
    """All samples of a folder or a zip of one, sorted by key.

    Raises:
        DataError: nothing there, no pictures, halves of pairs missing, metadata that cannot be read.
    """
    path = Path(root)
    if not path.exists():
        raise DataError(f"{path} does not exist.", "give a folder, a zip of one, or a name from 'limner list'")
    folder = _open(path)
    if (folder / "metadata.jsonl").is_file():
        samples = list(_from_metadata(folder))
    elif (folder / "target").is_dir() or (folder / "source").is_dir():
        samples = list(_from_pairs(folder))
    else:
        samples = [_sample(name, file, None) for name, file in _pictures(folder).items()]
    if not samples:
        raise DataError(f"{path} holds no pictures.", "known kinds: " + ", ".join(sorted(SUFFIXES)))
    return _with_validation(sorted(samples, key=lambda sample: sample.key))


def _open(path: Path) -> Traversable:
    if path.is_dir():
        return path
    try:
        inside = zipfile.Path(zipfile.ZipFile(path))
        tops = [top for top in inside.iterdir() if top.name != "__MACOSX"]
        # Many programs put the zipped folder itself at the top.
        return tops[0] if len(tops) == 1 and tops[0].is_dir() else inside  # type: ignore[return-value]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is neither a folder nor a zip: {error}.", "give the folder of pictures") from None


def _from_metadata(folder: Traversable) -> Iterator[Sample]:
    file = folder / "metadata.jsonl"
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}.", "save it as UTF-8") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row.pop("file_name")
            if not all(isinstance(row.get(key, ""), str) for key in ("source", "caption", "text", "split")):
                raise TypeError("source, caption and split are strings")
            if not isinstance(name, str):
                raise TypeError("file_name is a string")
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: {error if str(error) else type(error).__name__}.",
                'each line is a JSON object such as {"file_name": "fox.png", "caption": "a fox"}',
            ) from None
        if name in seen:
            raise DataError(f"{file}, line {number}: {name} is listed twice.", "keep one of the two lines")
        seen.add(name)
        source, split = row.pop("source", None), row.pop("split", "train")
        if split not in SPLITS:
            raise DataError(f"{file}, line {number}: split '{split}'.", "known: " + ", ".join(SPLITS))
        caption = row.pop("caption", None) or row.pop("text", None) or ""
        for half in filter(None, (name, source)):
            if not folder.joinpath(half).is_file():
                raise DataError(f"{file}, line {number}: {half} does not exist.", "add the file or drop the line")
        picture = folder.joinpath(name)
        yield Sample(name, caption, picture, folder.joinpath(source) if source else None, split, row)


def _from_pairs(folder: Traversable) -> Iterator[Sample]:
    halves = {}
    for name in ("source", "target"):
        if not (folder / name).is_dir():
            raise DataError(f"{folder} has no folder {name}/.", "pairs lie in source/ and target/, under equal names")
        halves[name] = _pictures(folder / name)
    alone = sorted(halves["source"].keys() ^ halves["target"].keys())
    if alone:
        side = "source" if alone[0] in halves["source"] else "target"
        raise DataError(
            f"{folder}: {len(alone)} pictures have no other half, first {side}/{halves[side][alone[0]].name}.",
            "give both halves the same name, or move the single ones away",
        )
    for name, picture in halves["target"].items():
        yield _sample(name, picture, halves["source"][name])


def _pictures(folder: Traversable) -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        stem, dot, suffix = file.name.rpartition(".")
        if f"{dot}{suffix}".lower() not in SUFFIXES or not file.is_file():
            continue
        if stem in found:
            raise DataError(f"{folder}: {found[stem].name} and {file.name} share a name.", "rename one of them")
        found[stem] = file
    return found


def _sample(name: str, picture: Traversable, source: Traversable | None) -> Sample:
    # zipfile.Path offers .parent; Traversable's protocol does not name it, though every implementation has it.
    sidecar = picture.parent / f"{name}.txt"  # type: ignore[attr-defined]
    try:
        caption = sidecar.read_text(encoding="utf-8-sig").strip() if sidecar.is_file() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{sidecar} is not UTF-8: {error}.", "save it as UTF-8") from None
    return Sample(name, caption, picture, source)


def _with_validation(samples: list[Sample]) -> list[Sample]:
    train = [sample for sample in samples if sample.split == "train"]
    if any(sample.split == "validation" for sample in samples) or len(train) < 10:
        return samples
    order = sorted(train, key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
    kept = {sample.key for sample in order[: min(32, len(train) // 10)]}
    return [replace(sample, split="validation") if sample.key in kept else sample for sample in samples]
