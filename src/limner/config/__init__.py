"""One typed, closed configuration a method. ``resolve`` is the only way in. Needs no torch."""

from limner.config.fields import AdapterConfig, DataConfig, MethodConfig, PriorConfig, TranslateConfig
from limner.config.personalize import Concept, PersonalizeConfig
from limner.config.resolve import dump, read_yaml, resolve

__all__ = [
    "AdapterConfig", "Concept", "DataConfig", "MethodConfig", "PersonalizeConfig", "PriorConfig", "TranslateConfig",
    "dump", "read_yaml", "resolve",
]  # fmt: skip
