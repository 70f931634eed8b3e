"""Make each latent, embedded caption and condition picture once; keys are content, never position.

    STORE/tensors/KIND/MAKER/*.safetensors       KIND: latents, texts, pictures      MAKER: hash of what made them

An entry is a few tensors under a key of 16 bytes: the hash of the file's bytes (or of the caption) and of everything
that was done to it. So however a loader shuffles, no picture can meet another's caption, and a changed picture,
crop, size or encoder is another entry. Entries lie in shards that are written beside, renamed, and never changed:
any number of processes may read and write, and a kill at any moment loses at most what was not yet flushed. Shards
are read through the memory map. When the limit is reached, the shards of which an entry was used longest ago go, never
those that this process has used; where that is not enough, new entries are made again each time instead of kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.data import store
from limner.errors import DataError
from limner.tensors import save

Entry = dict[str, Tensor]

KEY_BYTES = 16
SHARD_BYTES = 64_000_000
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def key(*parts: str | bytes) -> bytes:
    """A key from all of the parts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()[:KEY_BYTES]


@dataclass
class Index:
    """Which shard and row hold a key: 16 bytes an entry, sorted by the key's first eight bytes."""

    prefix_N: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    shard_N: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    row_N: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def with_shard(self, shard: int, keys_N16: np.ndarray) -> Index:
        num = len(keys_N16)
        prefix_N = np.concatenate([self.prefix_N, keys_N16[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)])
        order = np.argsort(prefix_N, kind="stable")
        shard_N = np.concatenate([self.shard_N, np.full(num, shard, dtype=np.int32)])
        row_N = np.concatenate([self.row_N, np.arange(num, dtype=np.int32)])
        return Index(prefix_N[order], shard_N[order], row_N[order])

    def find(self, wanted: bytes) -> Iterator[tuple[int, int]]:
        """(shard, row) of every entry whose key begins as this one does."""
        prefix = np.uint64(int.from_bytes(wanted[:8], "big"))
        first, last = np.searchsorted(self.prefix_N, prefix, "left"), np.searchsorted(self.prefix_N, prefix, "right")
        for place in range(first, last):
            yield int(self.shard_N[place]), int(self.row_N[place])

    def without(self, gone: list[int]) -> Index:
        stays_N = ~np.isin(self.shard_N, gone)
        return Index(self.prefix_N[stays_N], self.shard_N[stays_N], self.row_N[stays_N])


@dataclass
class Shard:
    """A file of entries. rows: memory-mapped, by name. used: by this process, which has written it or found entries."""

    file: Path
    rows: dict[str, Any]
    keys_N16: np.ndarray
    used: bool

    def use(self) -> None:
        """What was used longest ago goes first."""
        if not self.used:
            self.used = True
            with contextlib.suppress(OSError):  # gone already, though still mapped; or a folder that is only read
                os.utime(self.file)


_shelves: weakref.WeakSet[Shelf] = weakref.WeakSet()  # of this process
_shelves_lock = threading.Lock()


class Shelf:
    """The entries of one kind and one maker."""

    def __init__(self, kind: str, maker: str) -> None:
        self.folder = store.tensors() / kind / maker
        self.full = False  # the limit is reached, or the folder is read-only: new entries are not kept
        self._lock = threading.RLock()
        self._pending: dict[bytes, Entry] = {}
        self._pending_bytes = 0
        self._shards: list[Shard] = []
        self._index = Index()
        self._seen: set[str] = set()
        store.limit_bytes()  # a limit that is no number is said now
        self.refresh()
        with _shelves_lock:
            _shelves.add(self)

    def refresh(self) -> None:
        """Take in the shards that other processes have written."""
        with self._lock:
            try:
                files = sorted(self.folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):  # nothing was written yet, or all was deleted
                return
            for file in files:
                if file.suffix == ".tmp":
                    with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                        if time.time() - file.stat().st_mtime > store.STALE_SECONDS:
                            file.unlink()
                elif file.suffix == ".safetensors" and file.name not in self._seen:
                    self._take_in(file)

    def _take_in(self, file: Path, used: bool = False) -> None:
        self._seen.add(file.name)
        try:
            handle = safe_open(file, "pt")
            keys_N16 = handle.get_tensor("key").numpy()
            rows = {name: handle.get_slice(name) for name in handle.keys() if name != "key"}  # noqa: SIM118
        except FileNotFoundError:  # another process has just made room
            return
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is damaged: {error}.", "delete that file; what it held is made again") from None
        self._index = self._index.with_shard(len(self._shards), keys_N16)
        self._shards.append(Shard(file, rows, keys_N16, used))

    def in_use(self) -> set[Path]:
        """The shards that stay when room is made."""
        return {shard.file for shard in self._shards if shard.used}

    def _forget_deleted(self) -> None:
        """Let go of what was deleted and not used: its disk is free only when nobody maps it."""
        gone = [number for number, shard in enumerate(self._shards) if not (shard.used or shard.file.exists())]
        for number in gone:
            self._shards[number] = Shard(self._shards[number].file, {}, self._shards[number].keys_N16[:0].copy(), True)
        self._index = self._index.without(gone)

    def find(self, wanted: bytes) -> Entry | None:
        """The entry, or None where it is not known."""
        if wanted in self._pending:
            return self._pending[wanted]
        for number, row in self._index.find(wanted):
            shard = self._shards[number]
            if shard.keys_N16[row].tobytes() == wanted:
                shard.use()
                return {name: part[row] for name, part in shard.rows.items()}
        return None

    def get(self, key_B: Sequence[bytes], make: Callable[[list[int]], list[Entry]]) -> list[Entry]:
        """An entry for each key; ``make`` is asked once for those not known, by their places in ``key_B``.

        What ``make`` gives for a key must not depend on the others it is asked for: which are known already depends on
        other runs, on other processes and on when this one was interrupted.
        """
        with self._lock:
            found = {wanted: self.find(wanted) for wanted in key_B}
        first_place = {wanted: place for place, wanted in reversed(list(enumerate(key_B)))}
        missing = sorted(first_place[wanted] for wanted, entry in found.items() if entry is None)
        if missing:
            # Contiguous copies: a view of a batch would keep the whole batch alive.
            made = [{name: part.detach().cpu().clone() for name, part in entry.items()} for entry in make(missing)]
            found |= {key_B[place]: entry for place, entry in zip(missing, made, strict=True)}
            with self._lock:
                self._pending |= {key_B[place]: entry for place, entry in zip(missing, made, strict=True)}
                self._pending_bytes += sum(part.nbytes for entry in made for part in entry.values())
                if self._pending_bytes >= SHARD_BYTES:
                    self.flush()
        return [found[wanted] for wanted in key_B]  # type: ignore[misc]

    def flush(self) -> None:
        """Write what is new to disk.

        Raises:
            DataError: the disk is full, or the folder cannot be written.
        """
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        groups: dict[Hashable, list[bytes]] = {}
        for wanted, entry in self._pending.items():
            form = tuple(sorted((name, part.dtype, tuple(part.shape)) for name, part in entry.items()))
            groups.setdefault(form, []).append(wanted)  # rows of a shard have one shape
        with _shelves_lock:
            keep = {file for shelf in _shelves for file in shelf.in_use()}
        self.full = not store.make_room(self._pending_bytes, keep)
        self._forget_deleted()
        if not self.full:
            for keys in groups.values():
                self._write(keys)
        self._pending, self._pending_bytes = {}, 0

    def _write(self, keys: list[bytes]) -> None:
        names = self._pending[keys[0]]
        tensors = {name: torch.stack([self._pending[wanted][name] for wanted in keys]) for name in names}
        tensors["key"] = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        name = key(*keys, str(os.getpid()), str(time.time_ns())).hex()
        beside = self.folder / f"{name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(tensors, beside)
            with beside.open("rb+") as written:
                os.fsync(written.fileno())
            beside.replace(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):  # what cannot be written to cannot be deleted from
                beside.unlink()
            if isinstance(error, OSError) and error.errno in READ_ONLY:  # as a cluster's shared cache may be
                self.full = True
                return
            raise DataError(
                f"{self.folder} cannot be written: {error}.", "free some disk, or set LIMNER_CACHE to another folder"
            ) from None
        self._take_in(self.folder / f"{name}.safetensors", used=True)
