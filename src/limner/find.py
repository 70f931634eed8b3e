"""A name is a file.

``piti`` is the class ``Piti`` in ``methods/piti.py``; ``edges`` is the function ``edges`` in
``data/conditions/edges.py``. A file that defines the object of its own name is found, listed and tested; there is no
list to edit. A name that contains a dot is imported as it is (``my_package.module.MyMethod``), and one that ends in
``.py`` is a file of the user's own. Listing reads files as text, so that it needs no torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from limner.errors import ConfigError, did_you_mean

FOLDERS = {
    "method": "methods",
    "prior": "priors",
    "condition": "data/conditions",
    "data set": "data/builtin",
}


def names(kind: str) -> dict[str, str]:
    """All names of a kind ('method', 'prior', 'condition', 'data set') -> the first line of each file's docstring."""
    found = {}
    for path in sorted((Path(__file__).parent / FOLDERS[kind]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        if defined & {path.stem, _class_name(path.stem)}:
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def load(kind: str, name: str) -> Any:
    """The class or function a name stands for.

    Raises:
        ConfigError: no such name, no such file, or a file that does not define the object of its own name.
    """
    if name.endswith(".py"):
        return _member(_import_file(Path(name)), Path(name).stem, name)
    if "." in name:
        module_name, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{kind} '{name}' is neither there nor can it be imported: {error}.",
                "give a name from 'limner list', module.Class, or a path that ends in .py",
            ) from error
    known = names(kind)
    if name not in known:
        raise ConfigError(f"unknown {kind} '{name}'.", did_you_mean(name, known))
    module = importlib.import_module(f"limner.{FOLDERS[kind].replace('/', '.')}.{name}")
    return _member(module, name, name)


@functools.cache
def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"limner_user_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"{path} does not exist.", "give the path of a .py file, or a name from 'limner list'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _member(module: Any, stem: str, shown: str) -> Any:
    for attribute in (_class_name(stem), stem):
        if attribute in vars(module):
            return vars(module)[attribute]
    raise ConfigError(f"{shown} defines neither '{_class_name(stem)}' nor '{stem}'.", "name it after its file")


def _class_name(stem: str) -> str:
    return "".join(word.capitalize() for word in stem.split("_"))
