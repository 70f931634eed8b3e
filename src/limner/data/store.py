"""Where limner keeps what it can make again: latents, embedded captions, condition pictures, rendered data sets.

$LIMNER_CACHE, else $XDG_CACHE_HOME/limner, else ~/.cache/limner. Nothing in it is needed: whatever is deleted is made
anew. ``$LIMNER_CACHE_GB`` bounds what the cache of tensors takes there (default 20).
"""

from __future__ import annotations

import os
from pathlib import Path

from limner.errors import ConfigError

DEFAULT_GB = 20.0


def folder() -> Path:
    """The folder; it need not exist yet."""
    if own := os.environ.get("LIMNER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limner"


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
