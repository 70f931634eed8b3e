"""limner fine-tunes pretrained diffusion models on a small set of pictures, and proves that the result is good.

The verbs of the command line are functions here::

    import limner

    run = limner.train(limner.resolve("piti", {"data": "fluent", "prior": "mini"}, None))
    print(limner.evaluate(run)["arms"])

They are loaded on first use: ``import limner`` itself needs no torch.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0.dev0"
__all__ = ["demo", "evaluate", "export", "resolve", "sample", "train"]


class _Limner(ModuleType):
    """This package, with its verbs as attributes.

    Three verbs, ``train``, ``evaluate`` and ``export``, share their names with subpackages, and importing a subpackage
    would put it in the verb's place. So each verb is a property that ignores being set; ``from limner.train.x import
    y`` is untouched by this.
    """


def _verb(name: str) -> property:
    def get(package: ModuleType) -> Any:
        return getattr(importlib.import_module("limner.run"), name)

    def ignore(package: ModuleType, subpackage: Any) -> None:
        """The import system offers the subpackage of the same name."""

    return property(get, ignore)


for _name in __all__:
    setattr(_Limner, _name, _verb(_name))
sys.modules[__name__].__class__ = _Limner
