"""Flags parsed by hand: ``limner train`` takes any field of a method's config, which only the method knows.

``--name value``, ``--name=value``, ``--name`` (true), ``--no-name`` (false), ``--set name=value``; dashes and
underscores are alike. Types and ranges are the config's business: values stay text here. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limner.errors import ConfigError

Flags = dict[str, str | bool]
# Of a click command that takes any field.
ANY_FIELD: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False},
}


def parse(words: Sequence[str]) -> tuple[list[str], Flags]:
    """The words that are no flags, in order, and the flags; of a flag given twice the last counts.

    Raises:
        ConfigError: a ``--set`` without ``name=value``, or a ``-x`` that is no flag of limner's.
    """
    positional: list[str] = []
    flags: Flags = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            positional.append(word)
        elif not word.startswith("--") or word == "--":
            raise ConfigError(f"unknown option '{word}'.", "options are written --name value")
        elif word == "--set" or word.startswith("--set="):
            name, value = _assignment(word, rest)
            flags[_field(name)] = value
        else:
            name, has_value, given = word[2:].partition("=")
            if has_value:
                flags[_field(name)] = given
            elif rest and not rest[0].startswith("--"):
                flags[_field(name)] = rest.pop(0)
            elif name.startswith("no-"):
                flags[_field(name.removeprefix("no-"))] = False
            else:
                flags[_field(name)] = True
    return positional, flags


def _assignment(word: str, rest: list[str]) -> tuple[str, str]:
    pair = word[len("--set=") :] if word != "--set" else rest.pop(0) if rest else ""
    name, has_value, value = pair.partition("=")
    if not name or not has_value:
        raise ConfigError(f"--set needs name=value (given: '{pair}').", "for example --set steps=200")
    return name, value


def _field(name: str) -> str:
    return name.replace("-", "_")
