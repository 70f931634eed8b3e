"""Folders of pictures without a list of them, subfolders and all. Three layouts:

    source/ target/        folders of pictures with equal names, and optionally mask/
    fox_source.png ...     the same side by side: fox_target.png, and optionally fox_mask.png
    *.png ...              pictures alone

A caption lies beside its picture (beside the target, in pairs): fox.txt, or fox.caption where there is no fox.txt. In
pictures fox_target.png it may be called fox.txt or fox_target.txt. Pictures in a subfolder train/, validation/ (or
val/) or test/ belong to that split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limner.data.formats.fields import split_in
from limner.data.formats.files import PICTURES, Tree
from limner.data.formats.index import Lookup, Records, Strings, first_repeat, hashes
from limner.errors import DataError
from limner.types import Sample

ROLES = ("source", "target", "mask")
ENDINGS = (".txt", ".TXT", ".caption")  # of captions, the first that is there


class Half:
    """The pictures of one role: their paths, and the keys under which they meet the others."""

    def __init__(self, tree: Tree, keyed: Iterable[tuple[str, str]]) -> None:
        """``keyed``: (key, path) of each.

        Raises:
            DataError: two pictures of one key.
        """
        self.keys, self.paths = Strings(), Strings()
        for key, path in keyed:
            self.keys.append(key)
            self.paths.append(path)
        if repeat := first_repeat(hashes(self.keys), self.keys.__getitem__):
            first, second = (self.paths[number] for number in repeat)
            raise DataError(f"{tree}: {first} and {second.rpartition('/')[2]} share a name.", "rename one of them")
        self.lookup = Lookup(self.keys)

    def path(self, key: str) -> str | None:
        place = self.lookup.place(key)
        return None if place is None else self.paths[place]


class Pictures(Records):
    """Pictures in the order of their paths, each with what lies beside it."""

    def __init__(self, tree: Tree, image: Half, source: Half | None = None, mask: Half | None = None) -> None:
        self.tree, self.image, self.source, self.mask = tree, image, source, mask

    def __len__(self) -> int:
        return len(self.image.keys)

    def sample(self, number: int) -> Sample:
        key, path = self.image.keys[number], self.image.paths[number]
        source, mask = (half and half.path(key) for half in (self.source, self.mask))
        return Sample(
            key,
            self._caption(_stem(path), key),
            self.tree.file(path),
            self.tree.file(source) if source else None,
            self.tree.file(mask) if mask else None,
            split_in(key),
        )

    def _caption(self, *stems: str) -> str:
        for path in (stem + ending for ending in ENDINGS for stem in stems):
            if self.tree.has(path):
                file = self.tree.file(path)
                try:
                    return file.read_bytes().decode("utf-8-sig").strip()
                except UnicodeDecodeError as error:
                    raise DataError(f"{file} is not UTF-8: {error}.", "save it as UTF-8") from None
        return ""


def is_picture(path: str) -> bool:
    return path.lower().endswith(PICTURES)


def pairs(tree: Tree) -> Pictures:
    """The layout of source/ and target/.

    Raises:
        DataError: a folder is missing, a picture has no other half, or two of them share a name.
    """
    folders = {role: tree.folder(role) for role in ROLES}
    for role in ("source", "target"):
        if folders[role] is None:
            raise DataError(f"{tree} has no folder {role}/.", "pairs lie in source/ and target/, under equal names")
    halves = {
        role: Half(tree, ((_stem(path), f"{role}/{path}") for path in folder.paths() if is_picture(path)))
        for role, folder in folders.items()
        if folder is not None
    }
    return _joined(tree, halves)


def pictures(tree: Tree, paths: Sequence[str]) -> Pictures:
    """The layouts without folders of their own; ``paths`` are the pictures below the folder.

    Raises:
        DataError: a picture has no other half, or two of them share a name.
    """
    if not all(_role(path) for path in paths) or all(_role(path) == "mask" for path in paths):
        return Pictures(tree, Half(tree, ((_stem(path), path) for path in paths)))
    halves = {
        role: Half(tree, ((_stem(path).removesuffix(f"_{role}"), path) for path in paths if _role(path) == role))
        for role in ROLES
    }
    return _joined(tree, halves)


def _joined(tree: Tree, halves: dict[str, Half]) -> Pictures:
    source, target, mask = halves["source"], halves["target"], halves.get("mask")
    lookups = [(source, target), (target, source), *([(mask, target)] if mask else [])]
    alone = [half.paths[number] for half, other in lookups for number in half.lookup.missing_in(other.lookup)]
    if alone:
        raise DataError(
            f"{tree}: {len(alone)} pictures have no other half, first {min(alone)}.",
            "give both halves the same name, or move the single ones away",
        )
    return Pictures(tree, target, source, mask)


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _role(path: str) -> str:
    """What a file's name ends in: 'source', 'target', 'mask', or '' for none of them."""
    ending = _stem(path).rpartition("_")[2]
    return ending if ending in ROLES and _stem(path) != ending else ""
