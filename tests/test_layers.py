"""The architecture, as tests: imports point down only, and files stay short enough to be read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "limner"
# From the top of the house to the bottom. A part may import parts on lower floors, and itself; not its neighbours.
FLOORS = [
    {"cli", "studio"},
    {"run"},
    {"train", "export"},
    {"methods"},
    {"rewards"},
    {"evaluate"},
    {"sampling"},
    {"priors", "data"},
    {"find"},
    {"config"},
    {"types", "errors", "tensors", "assets"},
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 250, 60


def part_of(path: Path) -> str:
    """The first folder or file below limner: 'priors' for priors/sd.py, 'run' for run.py."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all imports, those inside functions too; ``from x import y`` counts as x.y."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imports_of(path: Path) -> list[tuple[int, str]]:
    package = ".".join(["limner", *path.parent.relative_to(SOURCE).parts])
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def complaints(part: str, names: list[tuple[int, str]]) -> list[str]:
    """What an import list of one part of the house does that it must not."""
    found = []
    for line, name in names:
        root, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if root != "limner" or target.startswith("_") or target == part:
            continue
        assert target in FLOOR, f"limner.{target} has no floor in FLOORS"
        if FLOOR[target] <= FLOOR[part]:
            found.append(f"line {line}: {part} imports {name}, which is not below it")
        if part == "train" and target == "methods" and not rest.startswith("methods.base"):
            found.append(f"line {line}: the trainer knows the contract, no method: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part.startswith("__"):  # the package's own front door opens onto run and cli
        return
    assert complaints(part, imports_of(path)) == []


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("data", "from limner.priors.base import Prior"),
        ("priors", "import limner.data.read"),
        ("priors", "from ..data import read"),
        ("methods", "def late():\n    from limner.train import trainer"),
        ("train", "from limner.methods.piti import Piti"),
        ("train", "from limner import run"),
        ("find", "from limner import methods"),
    ],
)
def test_the_check_catches_an_import_upward_or_sideways(part: str, code: str) -> None:
    assert complaints(part, list(imports(ast.parse(code), f"limner.{part}")))


def test_the_check_allows_what_the_contracts_need() -> None:
    code = "from limner.methods.base import Method\nfrom limner.types import Batch\nfrom limner import errors"
    assert complaints("train", list(imports(ast.parse(code), "limner.train"))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_house_rules(path: Path) -> None:
    """Short files and functions; no torchvision (its wheel does not import beside a CPU torch); no hasattr."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    num_lines = len(text.splitlines())
    assert num_lines <= MAX_FILE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "hasattr", f"line {node.lineno}: ask the contract, not the object"
    assert not any(name.partition(".")[0] == "torchvision" for _, name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_file_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))
