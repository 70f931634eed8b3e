"""Everything limner raises on purpose.

    LimnerError
    ├── ConfigError      a flag, a YAML key, an unknown name, an impossible combination
    ├── DataError        a picture, a caption, a folder
    ├── PriorError       a model folder that is missing a part
    ├── RunError         a run folder that is missing, damaged or of another configuration
    ├── TrainingError    the run cannot go on (a non-finite loss)
    └── ExportError      a layout that cannot hold the model, or a written file that does not do what the run did

One sentence says what is wrong and names the file; ``hint`` says what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimnerError(Exception):
    """Base of all errors that are the user's to mend: a sentence and, beside it, the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(LimnerError):
    """A flag, a YAML key, an unknown name, or a combination that cannot work."""


class DataError(LimnerError):
    """A picture, a caption or a folder that cannot be used as it is."""


class PriorError(LimnerError):
    """A model folder that is missing a part or holds one that is not supported."""


class RunError(LimnerError):
    """A run folder that is missing, damaged, or belongs to another configuration."""


class TrainingError(LimnerError):
    """Training cannot go on."""


class ExportError(LimnerError):
    """A layout that cannot hold the model, or a written file that does not do what the run did."""


def first_line(error: BaseException) -> str:
    """What an exception says first, without its final stop; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, else the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
