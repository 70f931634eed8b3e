"""From a row of named columns (a line of JSON or CSV, a row of a table, the JSON of a shard's record) to a sample.

    picture   file_name, target, edited_image, image         source   source, conditioning_image, input_image,
    caption   caption, text, prompt, edit_prompt                      original_image
    mask      mask                                           split    train, validation (or val), test

Where a row has several columns of one meaning, the first in this order that is not empty counts; a column of a picture
may also be called after it with ``_file_name`` at the end. All that is left of a row becomes ``meta``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from limner.data.formats.files import Tree, is_utf8
from limner.data.formats.index import first_repeat
from limner.data.records import SPLITS
from limner.errors import DataError, did_you_mean
from limner.types import File, Sample

CAPTION = ("caption", "text", "prompt", "edit_prompt")
IMAGE = ("file_name", "target", "edited_image", "image")
SOURCE = ("source", "conditioning_image", "input_image", "original_image")
MASK = ("mask",)
PICTURE_COLUMNS = [[name + end for name in names for end in ("", "_file_name")] for names in (IMAGE, SOURCE, MASK)]
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # of Windows
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}

Opener = Callable[[Any, str], File]


def sample(row: dict[str, Any], where: str, open_cell: Opener, key: str = "", split: str | None = None) -> Sample:
    """The sample of a row, which is used up.

    Args:
        row: values by column.
        where: what errors call the row: its file and line.
        open_cell: (value, where) of a picture's column -> its file.
        key: the sample's, where its picture has no name that can be it.
        split: the sample's, where the row has none; else the first folder of its picture may tell.

    Raises:
        DataError: no picture named, or a value that is not of its column's kind.
    """
    picture, source, mask = (_pop(row, columns) for columns in PICTURE_COLUMNS)
    if picture is None:
        raise DataError(
            f"{where}: 'file_name' is missing.",
            'each row names its picture, such as {"file_name": "fox.png", "caption": "a fox"}',
        )
    image = open_cell(picture, where)
    key = clean(picture) if isinstance(picture, str) else key
    caption, said = words(row, where)
    other, counts = (None if cell is None else open_cell(cell, where) for cell in (source, mask))
    return Sample(key, caption, image, other, counts, said or split or split_in(key), row)


def split_in(path: str) -> str:
    """The split of a picture of which nothing else is said: its first folder, where that is called after one."""
    folder, slash, _ = path.partition("/")
    return SPLIT_FOLDERS.get(folder, "train") if slash else "train"


def names_picture(columns: Iterable[str]) -> bool:
    """Whether one of these columns says which picture a row is about."""
    return not {column.removesuffix("_file_name") for column in columns}.isdisjoint(IMAGE)


def refuse_without_picture(columns: Iterable[str], label: str) -> None:
    """A table that is not one of pictures."""
    if not names_picture(columns):
        hint = f"a picture's column is called {', '.join(IMAGE[:-1])} or {IMAGE[-1]}"
        raise DataError(f"{label} has no column of pictures, only {', '.join(columns)}.", hint)


def words(row: dict[str, Any], where: str) -> tuple[str, str | None]:
    """(caption, split or None), taken out of the row."""
    caption, split = _pop(row, CAPTION), _pop(row, ("split",))
    for name, value in (("caption", caption), ("split", split)):
        if not isinstance(value, str | None):
            raise DataError(f"{where}: the {name} is no text but {value!r:.40}.", "write it in quotes, as one text")
        if not is_utf8(value or ""):
            raise DataError(
                f"{where}: the {name} is not UTF-8: {value!a:.40}.", "write a character whole, not its half"
            )
    if split is not None and split not in SPLIT_FOLDERS:
        raise DataError(f"{where}: split '{split}'.", did_you_mean(split, SPLITS))
    return caption or "", split and SPLIT_FOLDERS[split]


def named_in(tree: Tree) -> Opener:
    """Opens pictures that a row names by their path within the folder."""
    return lambda name, where: tree.file(inside(name, where))


def present_in(tree: Tree) -> Opener:
    """The same, for rows that are met for the first time: refuses what is not there."""

    def open_cell(name: Any, where: str) -> File:
        path = inside(name, where)
        if not tree.has(path):
            hint = "write / between folders" if "\\" in path else "add the file or drop the line"
            raise DataError(f"{where}: {path} does not exist.", hint)
        return tree.file(path)

    return open_cell


def inside(name: Any, where: str) -> str:
    """The path of a picture as a row gives it, without detours; never one that leads out of the folder."""
    if not isinstance(name, str):
        raise DataError(f"{where}: the name of a picture is no text but {name!r:.40}.", "write it in quotes")
    if name.startswith("/") or ".." in name.split("/") or DRIVE.match(name):
        raise DataError(f"{where}: {name} lies outside of the folder.", "name pictures relative to it, without '..'")
    return clean(name)


def refuse_repeats(hash_N: np.ndarray, key: Callable[[int], str], where: Callable[[int], str]) -> None:
    """Each picture is listed once; ``hash_N`` are the hashes of the records' keys."""
    if repeat := first_repeat(hash_N, key):
        raise DataError(f"{where(repeat[1])}: {key(repeat[1])} is listed twice.", "keep one of the two lines")


def _pop(row: dict[str, Any], columns: Iterable[str]) -> Any:
    """The first of these columns that is not empty, taken out of the row, and the empty ones with it."""
    found = None
    for column in columns:
        if column in row and (found is None or row[column] in (None, "")):
            value = row.pop(column)
            found = found if value in (None, "") else value
    return found


def clean(path: str) -> str:
    """Without detours, as pathlib would have it, in a fifth of its time."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))
