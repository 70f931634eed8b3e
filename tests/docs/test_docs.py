"""What the documentation says is so: its example method works, its commands parse, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch

from limner import find
from limner.cli import flags
from limner.cli.main import app
from limner.data.condition import bind

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\s*(limner [^#\n]+)", re.MULTILINE)
COMMANDS = sorted(
    {
        line.strip()
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in COMMAND.findall(block)
    }
)


def example(number: int) -> str:
    """A file that docs/adding.md shows."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding.md").read_text(encoding="utf-8"), re.DOTALL)[number]


def test_the_example_method_is_found_by_its_path(tmp_path: Path) -> None:
    from limner.config import resolve

    file = tmp_path / "soft.py"
    file.write_text(example(0), encoding="utf-8")
    method = find.load("method", str(file))
    assert resolve(method.Config, {"method": str(file), "cap": "0.5"}).cap == 0.5


def test_the_example_condition_is_found_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "threshold.py"
    file.write_text(example(1), encoding="utf-8")
    made_BCHW = bind(str(file), {"level": "0.5"})(torch.linspace(-1, 1, 12).view(1, 3, 2, 2))
    assert set(made_BCHW.flatten().tolist()) == {-1.0}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    """Every command shown exists, and so do its options and, for train, the fields of its method."""
    _, name, *words = shlex.split(line)
    command = app.commands[name]
    if name != "train":
        command.make_context(name, words, resilient_parsing=False)
        return
    positional, given = flags.parse(words)
    own = {"config", "dry_run", "help"}
    if positional and not positional[0].endswith(".py"):
        assert set(given) - own <= set(find.load("method", positional[0]).Config.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_command_is_in_the_start_page() -> None:
    text = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    assert isinstance(app, click.Group)
    assert not [name for name in app.commands if f"limner {name}" not in text]
