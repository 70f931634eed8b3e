"""A configuration from defaults, a YAML file, then flags; an unknown key is answered with the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from limner.config.fields import MethodConfig
from limner.errors import ConfigError, did_you_mean


def resolve(kind: type[MethodConfig], flags: dict[str, Any], file: Path | None = None) -> MethodConfig:
    """Defaults, then the YAML ``file``, then ``flags`` (None values are not given), checked.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value out of range, an impossible combination.
    """
    values = {**(read_yaml(file) if file else {}), **{key: value for key, value in flags.items() if value is not None}}
    _refuse_bare(kind, values, file)
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str((*first["loc"], "the configuration")[0])  # of a list's item, the list
        where = f" (from {file})" if file and first["loc"] and name not in flags else ""
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown option '{name}'{where}.", did_you_mean(name, kind.model_fields)) from None
        if not first["loc"]:
            said, *hints = first["ctx"]["error"].args
            raise ConfigError(f"{said}.", *(hints or ["change one of the two"])) from None
        description = kind.model_fields[str(first["loc"][0])].description or ""
        given = "" if first["type"] == "missing" else f" (given: {first['input']!r})"
        said = first["msg"].removeprefix("Value error, ").lower()
        raise ConfigError(f"option '{name}'{where}: {said}{given}.", f"{name}: {description}") from None


def _refuse_bare(kind: type[MethodConfig], values: dict[str, Any], file: Path | None) -> None:
    """Yes or no where a number or a word belongs: a flag whose value was forgotten, which would pass for 1."""
    for name in [name for name, value in values.items() if isinstance(value, bool)]:
        field = kind.model_fields.get(name)
        if field is not None and bool not in (field.annotation, *get_args(field.annotation)):
            raise ConfigError(
                f"option '{name}' needs a value{f' (see {file})' if file else ''}.",
                f"{name} is {field.description or ''}",
            )


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it does not exist, is not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist.", "give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}.", "mend that line") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file} holds no 'key: value' lines.", "see recipes/ for examples")
    return values


def dump(config: MethodConfig) -> str:
    """The resolved configuration as YAML: the method and the prior, then the other fields in their order."""
    values = config.model_dump(mode="json")
    ordered = {"method": values.pop("method"), "prior": values.pop("prior"), **values}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True)
