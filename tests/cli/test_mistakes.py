"""What a mistyped command line or configuration gets: one sentence, one hint, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from limner.cli.main import main


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr; there must be a sentence and a hint."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("limner: ") and lines[1].startswith("hint: "), captured.err
    return lines


@pytest.mark.parametrize(
    ("words", "wrong", "hint"),
    [
        (["trian", "piti"], "unknown command 'trian'", "'train'"),
        (["train", "fintune"], "unknown method 'fintune'", "'finetune'"),
        (["train", "finetune", "--stepps", "3"], "'stepps'", "'steps'"),
        (["train", "finetune", "--set", "batchsize=3"], "'batchsize'", "'batch_size'"),
        (["train", "finetune", "--steps", "many"], "'steps'", "optimiser steps"),
        (["train", "finetune", "--steps", "0"], "'steps'", "optimiser steps"),
        (["train", "finetune", "--data", "x", "--steps"], "'steps' needs a value", "optimiser steps"),
        (["train", "finetune", "--no-seed"], "'seed' needs a value", "noise"),
        (["train", "finetune", "--learning-rate", "inf"], "'learning_rate'", "AdamW"),
        (["train", "finetune", "--decay", "linear"], "'decay'", "after warm-up"),
        (["train", "finetune", "--flip", "maybe"], "'flip'", "mirrored"),
        (["train", "finetune", "--set", "steps"], "--set needs name=value", "steps=200"),
        (["train", "finetune", "piti"], "not also 'piti'", "--name value"),
        (["train", "finetune", "-x"], "unknown option '-x'", "--name value"),
        (["train", "--steps", "5"], "which method?", "limner list"),
        (["train"], "which method?", "limner list"),
        (["train", "finetune", "--config"], "--config needs a file", "run.yaml"),
        (["train", "finetune", "--config", "nowhere.yaml"], "nowhere.yaml does not exist", "YAML"),
        (["train", "finetune", "--warmup-steps", "9", "--steps", "9"], "warmup_steps (9)", "change"),
        (["train", "concat", "--condition-options", "low=1"], "computed condition", "change"),
        (["train", "concat", "--condition", "edges", "--source-kind", "labels"], "'edges' reads none", "change"),
        (["train", "my_method.py"], "my_method.py does not exist", ".py"),
        (["train", "no_such.module.Method"], "no_such.module.Method", "module.Class"),
        (["sample"], "Missing argument 'RUN'", "limner sample --help"),
        (["sample", "runs/x", "--sed", "1"], "unknown option '--sed'", "'--seed'"),
        (["sample", "runs/x"], "nothing to draw", "--prompt"),
        (["sample", "runs/x", "--input", "sketch.png"], "sketch.png does not exist", "picture"),
        (["sample", "runs/x", "--input", "."], ". is a folder", "picture"),
        (["sample", "runs/x", "--prompt", "a", "--n", "0"], "--n", "limner sample --help"),
        (["list", "--jsn"], "unknown option '--jsn'", "'--json'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_line(words: list[str], wrong: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    sentence, remedy = said(capsys)
    assert wrong in sentence
    assert hint in remedy


@pytest.mark.parametrize(
    ("text", "wrong", "hint"),
    [
        ("stepps: 3", "'stepps'", "'steps'"),
        ("steps: many", "'steps'", "optimiser steps"),
        ("steps: yes", "'steps'", "optimiser steps"),
        ("ema: 1.5", "'ema'", "averaged"),
        ("just words", "holds no 'key: value' lines", "recipes/"),
        ("steps: [3", "cannot be read as YAML", "line"),
    ],
)
def test_yaml_file_and_key_are_named(
    text: str, wrong: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    assert main(["train", "finetune", "--config", str(file)]) == 2
    sentence, remedy = said(capsys)
    assert wrong in sentence and str(file) in sentence
    assert hint in remedy


def test_a_run_folder_that_is_missing_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "none")]) == 1
    sentence, _ = said(capsys)
    assert "none" in sentence


def test_exit_code_reaches_the_shell() -> None:
    words = [sys.executable, "-m", "limner", "trian"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
