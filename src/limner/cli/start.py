"""Imports that take seconds, made in two thirds of their time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Inside, Python's garbage collector rests; what was imported it leaves alone from then on.

    torch, transformers and diffusers make a million objects, all of which stay. The collector walks them again and
    again while they are made, and once more when the process ends.
    """
    if "diffusers" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
