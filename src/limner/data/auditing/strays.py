"""Files of a folder or zip that belong to no record, though somebody may think so; and what a folder that cannot be
read as a data set holds all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from limner.data.findings import Finding
from limner.data.formats.files import PICTURES, Folder, Tree, open_zip
from limner.data.formats.folder import ROLES, Half, Pictures, is_picture
from limner.data.formats.index import hashes
from limner.data.read import METADATA
from limner.errors import DataError
from limner.types import Sample

# Pictures to a person, and to other programs.
FOREIGN = (
    *(".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".jfif", ".psd", ".xcf", ".svg", ".eps", ".pdf", ".tga"),
    *(".dds", ".exr", ".hdr", ".ppm", ".pgm", ".ico", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
CAPTIONS = (".txt", ".caption")
NO_CAPTIONS = ("readme", "license", "licence", "notice", "requirements", "changelog", "classes", "labels")


def tree_of(name: str) -> Tree | None:
    """The folder or zip that a data set's name means; None for any other kind."""
    path = Path(name)
    if path.is_dir():
        return Folder(path)
    try:
        return open_zip(path) if path.suffix.lower() == ".zip" else None
    except DataError:
        return None


def strays(tree: Tree, used_N: np.ndarray | None) -> Iterator[Finding]:
    """Files that are passed over; ``used_N`` are the hashes of the names of all files that belong to a record, None
    where these are not known."""
    paths = [path for path in tree.paths() if path.lower().endswith((*PICTURES, *FOREIGN, *CAPTIONS))]
    known = [path for path in paths if is_picture(path)]
    if used_N is not None:
        unused = ~np.isin(hashes(str(tree.file(path)) for path in known), used_N)
        for path in (known[i] for i in np.flatnonzero(unused)):
            yield _stray(tree, "unused", path, "belongs to no record", "list it in the metadata, or move it away")
    for path in (path for path in paths if path.lower().endswith(FOREIGN)):
        cause = f"is not read: pictures end in {', '.join(PICTURES)}"
        yield _stray(tree, "unknown-kind", path, cause, "save it as PNG or JPEG")
    if any(PurePosixPath(path).name in METADATA for path in tree.paths()):
        return  # captions come from there
    stems = {_stem(path) for path in known}
    for path in (path for path in paths if path.lower().endswith(CAPTIONS)):
        stem = _stem(path)
        beside = stem in stems or any(f"{stem}_{role}" in stems for role in ROLES)
        if not beside and not PurePosixPath(stem).name.lower().startswith(NO_CAPTIONS):
            remedy = "give it the name of its picture (fox.png, fox.txt)"
            yield _stray(tree, "lone-caption", path, "lies beside no picture of its name", remedy)


def rescue(tree: Tree) -> Sequence[Sample]:
    """Every picture in a folder that cannot be read as a data set, each alone with its caption."""
    return Pictures(tree, Half(tree, ((path, path) for path in tree.paths() if is_picture(path))))


def in_roles(tree: Tree) -> bool:
    """Whether pictures seem to be halves of pairs, of which one half has captions."""
    return any(tree.folder(role) or any(f"_{role}." in path for path in tree.paths()) for role in ROLES)


def alone(tree: Tree) -> Iterator[Finding]:
    """Every source without a target and every target without a source, in source/ and target/."""
    halves = {role: tree.folder(role) for role in ("source", "target")}
    stems = {
        role: {_stem(path): path for path in half.paths() if is_picture(path)} if half else {}
        for role, half in halves.items()
    }
    for role, other in (("source", "target"), ("target", "source")):
        for stem in sorted(stems[role].keys() - stems[other].keys()):
            remedy = "give both halves the same name, or move the single ones away"
            finding = _stray(tree, "half-missing", f"{role}/{stems[role][stem]}", f"has no {other}", remedy)
            yield Finding("error", finding.code, finding.file, finding.cause, finding.remedy)


def _stray(tree: Tree, code: str, path: str, cause: str, remedy: str) -> Finding:
    return Finding("warning", code, str(tree.file(path)), cause, remedy)


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
