"""Flags parsed by hand, and what they become in the resolved configuration."""

from pathlib import Path

import pytest
import yaml

from limner.cli.flags import parse
from limner.cli.main import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--batch-size 8", {"batch_size": "8"}),
        ("--batch_size=8", {"batch_size": "8"}),
        ("--set batch_size=8", {"batch_size": "8"}),
        ("--set=batch-size=8", {"batch_size": "8"}),
        ("--set out=a=b", {"out": "a=b"}),
        ("--flip", {"flip": True}),
        ("--no-flip --steps 2", {"flip": False, "steps": "2"}),
        ("--from-scratch --steps 2", {"from_scratch": True, "steps": "2"}),
        ("--flip false", {"flip": "false"}),
        ("--eta -1", {"eta": "-1"}),
        ("--steps 1 --steps 2", {"steps": "2"}),
        ("--out=", {"out": ""}),
    ],
)
def test_parse(line: str, expected: dict[str, str | bool]) -> None:
    assert parse(["piti", *line.split()]) == (["piti"], expected)


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["train", *words, "--dry-run"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_dry_run_prints_every_field_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["finetune", "--out", str(out), "--no-flip", "--set", "steps=77", "--learning-rate=2e-4", "--from-scratch"]
    shown = dry_run(capsys, *words)
    assert shown["method"] == "finetune" and shown["steps"] == 77 and shown["learning_rate"] == 2e-4
    assert shown["flip"] is False and shown["from_scratch"] is True
    assert {"prior", "data", "seed", "ema", "accumulate", "rank"} <= set(shown)
    assert not out.exists()


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: finetune\nsteps: 70\nbatch_size: 3\n", encoding="utf-8")
    shown = dry_run(capsys, "--config", str(file), "--steps", "80")
    assert (shown["method"], shown["steps"], shown["batch_size"]) == ("finetune", 80, 3)


def test_what_dry_run_prints_is_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = dry_run(capsys, "piti", "--steps", "123", "--out", str(tmp_path / "run"))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(first), encoding="utf-8")
    assert dry_run(capsys, "--config", str(file)) == first


@pytest.mark.parametrize("method", ["finetune", "concat", "piti"])
def test_help_of_a_method_lists_all_of_its_fields(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    from limner import find

    assert main(["train", method, "--help"]) == 0
    shown = capsys.readouterr().out
    for name in find.load("method", method).Config.model_fields:
        assert name == "method" or "--" + name.replace("_", "-") in shown


def test_choices_are_those_of_the_sampler() -> None:
    from limner.cli import main as command_line
    from limner.sampling import guidance, sampler

    assert command_line.SOLVERS == sampler.SOLVERS
    assert command_line.GUIDANCE_MODES == guidance.MODES
