"""What follows the colon in a data set's name: one of what the set knows, or an error that says so."""

from __future__ import annotations

from collections.abc import Iterable

from limner.errors import ConfigError, did_you_mean


def refuse_unknown(data_set: str, variant: str, known: Iterable[str]) -> None:
    """Stop at a variant that the data set does not have.

    Raises:
        ConfigError: with the nearest one that it has.
    """
    if variant not in (known := set(known)):
        raise ConfigError(f"data set {data_set} has no variant '{variant}'.", did_you_mean(variant, known))
