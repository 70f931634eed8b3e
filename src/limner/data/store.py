"""Where limner keeps what it can make again: latents, embedded captions, condition pictures, rendered data sets.

$LIMNER_CACHE, else $XDG_CACHE_HOME/limner, else ~/.cache/limner. Nothing in it is needed: whatever is deleted is made
anew. ``$LIMNER_CACHE_GB`` bounds what the cache of tensors takes there (default 20).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from limner.errors import ConfigError

DEFAULT_GB = 20.0
STALE_SECONDS = 24 * 3600  # an unfinished file this old belongs to a process that was killed


def folder() -> Path:
    """The folder; it need not exist yet."""
    if own := os.environ.get("LIMNER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limner"


def tensors() -> Path:
    """Where the shards of the cache of tensors lie: KIND/MAKER/*.safetensors."""
    return folder() / "tensors"


def limit_bytes() -> int:
    """How much the tensors may take.

    Raises:
        ConfigError: $LIMNER_CACHE_GB is no positive number.
    """
    given = os.environ.get("LIMNER_CACHE_GB", str(DEFAULT_GB))
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ConfigError(f"LIMNER_CACHE_GB is '{given}'.", "set it to a number of gigabytes, such as 20")
    return int(gigabytes * 1e9)


def shards() -> list[tuple[Path, int]]:
    """All shards of all kinds, and their bytes; those used longest ago first."""
    found = []
    for file in tensors().glob("*/*/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another process has just made room
            about = file.stat()
            found.append((about.st_mtime_ns, file, about.st_size))
    return [(file, size) for _, file, size in sorted(found)]


def make_room(num_bytes: int, keep: set[Path]) -> bool:
    """Delete the shards used longest ago until so many more bytes fit below the limit; False, and nothing is deleted,
    where they cannot.

    ``keep`` are shards that stay. One that another process still reads stays readable to it.
    """
    files = shards()
    over = sum(size for _, size in files) + num_bytes - limit_bytes()
    can_go = [(file, size) for file, size in files if file not in keep]
    if over > sum(size for _, size in can_go):
        return False
    for file, size in can_go:
        if over <= 0:
            break
        file.unlink(missing_ok=True)
        over -= size
    return True
