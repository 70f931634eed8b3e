"""A condition by name, with its options: what turns a picture into the picture that a model is told to follow.

A condition is a function of one file (``conditions/edges.py``; or a user's own, by path or dotted name):
``name(image_BCHW, *, option=default, ...) -> BCHW``, pictures in [-1, 1] of the same size, each row by itself. Two
names of options are no options but filled in by whoever calls: ``alpha_B1HW``, opacity in [0, 1], and ``seed``.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from limner import find
from limner.data import palettes
from limner.errors import ConfigError, DataError, did_you_mean

FILLED_IN = ("alpha_B1HW", "seed")
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def options_of(function: Callable[..., Tensor]) -> dict[str, Any]:
    """The options of a condition and their defaults, in the order of its signature.

    Raises:
        ConfigError: an option without a default, which nobody could fill in.
    """
    _, *rest = inspect.signature(function).parameters.values()
    options = {}
    for parameter in rest:
        if parameter.name in FILLED_IN or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise ConfigError(
                f"condition '{function.__name__}': option '{parameter.name}' has no default.", "give it one in the file"
            )
        options[parameter.name] = parameter.default
    return options


@dataclass(frozen=True)
class Condition:
    """A condition with its options chosen: to be called with pictures in [-1, 1].

    options: all of them, defaults too. wants_alpha, wants_seed: whether opacity and a seed make a difference to it.
    """

    name: str
    function: Callable[..., Tensor]
    options: Mapping[str, Any]
    wants_alpha: bool
    wants_seed: bool

    def __call__(self, image_BCHW: Tensor, alpha_B1HW: Tensor | None = None, seed: int = 0) -> Tensor:
        """The condition pictures, BCHW in [-1, 1].

        Raises:
            DataError: the function gave something of another shape, or it lacks the weights it needs.
        """
        asked = ({"alpha_B1HW": alpha_B1HW} if self.wants_alpha else {}) | ({"seed": seed} if self.wants_seed else {})
        made_BCHW = self.function(image_BCHW, **self.options, **asked)
        if made_BCHW.shape != image_BCHW.shape:
            raise DataError(
                f"condition '{self.name}' made {tuple(made_BCHW.shape)} of pictures of {tuple(image_BCHW.shape)}.",
                "a condition keeps the number of pictures, their three planes, their height and width",
            )
        return made_BCHW

    @functools.cached_property
    def text(self) -> str:
        """What its pictures depend on beside picture, opacity, seed, in one line for a cache: name, options, code, and
        the files that an option names, such as a network's."""
        digest = hashlib.blake2b(digest_size=8)
        own = Path(inspect.getfile(self.function)).parent
        for file in sorted({*own.glob("*.py"), Path(palettes.__file__)}):  # it may take something from its neighbours
            digest.update(file.read_bytes())
        for option in self.options.values():
            digest.update(repr(_files(Path(option)) if isinstance(option, str) and option else None).encode())
        return f"{self.name} {json.dumps(dict(self.options), sort_keys=True)} {digest.hexdigest()}"


def bind(name: str, options: Mapping[str, Any] | None = None) -> Condition:
    """The condition of a name with some of its options changed; text is turned into the type of the default.

    Raises:
        ConfigError: no such condition or option, or a value of another type.
    """
    function = find.load("condition", name)
    defaults = options_of(function)
    chosen = dict(defaults)
    for option, value in (options or {}).items():
        if option not in defaults:
            known = did_you_mean(option, defaults) if defaults else "it has none"
            raise ConfigError(f"condition '{name}' has no option '{option}'.", known)
        chosen[option] = _typed(name, option, value, defaults[option])
    asked = inspect.signature(function).parameters
    return Condition(name, function, chosen, "alpha_B1HW" in asked, "seed" in asked)


def _files(path: Path) -> list[tuple[str, int, int]]:
    """What would tell that a file, or those of a folder, are no longer the same."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _typed(name: str, option: str, value: Any, default: Any) -> Any:
    """A value, maybe written as text, as the type of the default; a whole number will do for a fraction."""
    kind: Any = str if default is None else type(default)
    try:
        if kind is bool:
            return WORDS[str(value).lower()]
        if kind in (int, float) and not isinstance(value, bool):
            number = kind(value)
            if math.isfinite(number) and (isinstance(value, str) or number == value):
                return number
        elif isinstance(value, kind):
            return value
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    wanted = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}.get(kind, f"a {kind.__name__}")
    raise ConfigError(f"condition '{name}': {option} needs {wanted}, not '{value}'.", f"the default is {default}")
