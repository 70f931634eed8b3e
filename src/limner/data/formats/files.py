"""Where bytes lie: members of zips and shards, cells in memory; and folders, on disk or zipped, seen alike.

Each file is read whole, from its own handle or under the zip's lock, so any number of threads may read at once.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Protocol

from limner.errors import DataError
from limner.types import File

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
COPY_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Bytes:
    """A file whose bytes are at hand. ``label`` names it to a person."""

    label: str
    data: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return self.label.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Span:
    """A run of bytes within a file: a member of an uncompressed tar."""

    path: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        with self.path.open("rb") as handle:
            handle.seek(self.offset)
            data = handle.read(self.size)
        if len(data) < self.size:
            raise DataError(f"{self.path} ends within {self.member}.", COPY_AGAIN)
        return data

    def __str__(self) -> str:
        return f"{self.path}/{self.member}"


@dataclass(frozen=True)
class Member:
    """A member of a zip."""

    archive: Archive = field(repr=False)
    member: str

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        try:
            with self.archive.lock:
                return self.archive.zip.read(self.member)
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self} cannot be unpacked: {error}.", COPY_AGAIN + ", or zip it anew") from None

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.member}"


class Tree(Protocol):
    """Files by relative posix path, on disk or in a zip; str(tree) names it to a person."""

    def has(self, path: str) -> bool:
        """Whether there is a file of this path."""

    def file(self, path: str) -> File:
        """The file of this path, whether it is there or not."""

    def folder(self, path: str) -> Tree | None:
        """The folder of this path; None where there is none."""

    def paths(self) -> Iterator[str]:
        """All files below, sorted by path; without hidden ones and what an Apple zip adds."""


class Folder(Tree):
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def has(self, path: str) -> bool:
        return os.path.isfile(f"{self.path}/{path}")  # noqa: PTH113  (a third of Path's time, a million times)

    def file(self, path: str) -> Path:
        return self.path / path

    def folder(self, path: str) -> Folder | None:
        return Folder(self.path / path) if (self.path / path).is_dir() else None

    def paths(self) -> Iterator[str]:
        return self._walk("", ())

    def _walk(self, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Paths that begin with ``below``; ``above`` are the folders passed through, lest a link lead back into one."""
        here = self.path / below
        try:
            about = here.stat()
            with os.scandir(here) as entries:
                # With its slash a folder falls where its files' whole paths do.
                names = sorted(entry.name + "/" * entry.is_dir() for entry in entries if _shown(entry.name))
        except OSError as error:
            raise DataError(
                f"{here} cannot be listed: {error.strerror}.", "allow reading it, or move it away"
            ) from None
        if unreadable := [name for name in names if not is_utf8(name)]:
            raise DataError(f"{here} holds a file whose name is not UTF-8: {unreadable[0]!a}.", "rename it")
        identity = (about.st_dev, about.st_ino)
        if identity in above:
            return
        for name in names:
            if name.endswith("/"):
                yield from self._walk(below + name, (*above, identity))
            else:
                yield below + name


class Archive(Tree):
    """A zip, or a folder within one."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, lock: Lock, prefix: str = "") -> None:
        # A ZipFile counts its open members without a lock of its own, so that two threads can close it under a third.
        self.path, self.zip, self.lock, self.prefix = path, archive, lock, prefix

    def __str__(self) -> str:
        return f"{self.path}/{self.prefix}".rstrip("/")

    def has(self, path: str) -> bool:
        return self.prefix + path in self.zip.NameToInfo

    def file(self, path: str) -> Member:
        return Member(self, self.prefix + path)

    def folder(self, path: str) -> Archive | None:
        below = f"{self.prefix}{path}/"
        some = any(name.startswith(below) for name in self.zip.NameToInfo)
        return Archive(self.path, self.zip, self.lock, below) if some else None

    def paths(self) -> Iterator[str]:
        for name in sorted(self.zip.NameToInfo):
            path = name.removeprefix(self.prefix)
            if name.startswith(self.prefix) and not name.endswith("/") and all(map(_shown, path.split("/"))):
                yield path


def open_zip(path: Path) -> Archive:
    """The zip as a folder; many programs put the zipped folder itself at the top, which is passed through.

    Raises:
        DataError: no zip, one that is cut short, one with a password.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        hint = f"give the folder of pictures; if it should be a zip, {COPY_AGAIN}"
        raise DataError(f"{path} is neither a folder nor a zip: {error}.", hint) from None
    locked = next((info for info in archive.infolist() if info.flag_bits & 1), None)
    if locked:
        raise DataError(f"{path} asks for a password ({locked.filename}).", "unpack it and give the folder")
    tree = Archive(path, archive, Lock())
    tops = {path.rpartition("/")[0].partition("/")[0] for path in tree.paths()}
    return Archive(path, archive, tree.lock, f"{tops.pop()}/") if len(tops) == 1 and "" not in tops else tree


def _shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def is_utf8(text: str) -> bool:
    """False of a text that cannot be written: bytes of a name that make no sense, half a character out of JSON."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
