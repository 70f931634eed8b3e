"""One typed, closed configuration a method. ``resolve`` is the only way in. Needs no torch."""

from limner.config.fields import AdapterConfig, DataConfig, MethodConfig, PriorConfig, TranslateConfig
from limner.config.resolve import dump, read_yaml, resolve

__all__ = [
    "AdapterConfig", "DataConfig", "MethodConfig", "PriorConfig", "TranslateConfig", "dump", "read_yaml", "resolve",
]  # fmt: skip
