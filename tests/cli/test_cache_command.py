"""``limner cache``: shows what is there, frees what it says, and touches nothing that limner has not made."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch

from limner.cli.main import main
from limner.data.cache import Shelf, key

DAY = 24 * 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is not there yet."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIMNER_CACHE_GB", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed without complaint: what it prints."""

    def run(*words: str) -> str:
        assert main(["cache", *words]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def shard(kind: str, num: int, days_old: float = 0) -> Path:
    """A shard of as many entries of 4 kB, as a run writes it; one maker each, as a run touches all of its maker's."""
    shelf = Shelf(kind, f"maker{days_old}")
    shelf.get([key(kind, str(i), str(days_old)) for i in range(num)], lambda made: [{"x": torch.zeros(1000)}] * num)
    shelf.flush()
    (made,) = shelf.folder.iterdir()
    used = time.time() - days_old * DAY
    os.utime(made, (used, used))
    return made


def data_set(folder: Path, days_old: float = 0) -> Path:
    """A built-in data set, as it lies there once it was made."""
    made = folder / "data" / "openmoji-15.1"
    (made / "source").mkdir(parents=True)
    for name, used in (("metadata.jsonl", 0.0), ("source/fox.png", time.time() - days_old * DAY)):
        (made / name).write_bytes(b"x" * 100)
        os.utime(made / name, (used, used))
    return made


def prior(folder: Path, base: Path) -> Path:
    """A prior made from a single file, whose text encoder is a link to its base's, as it lies there."""
    (base / "text_encoder").mkdir(parents=True)
    (base / "text_encoder" / "model.safetensors").write_bytes(b"x" * 1000)
    made = folder / "priors" / "fox-v2.1-0123456789abcdef"
    (made / "unet").mkdir(parents=True)
    for name in ("model_index.json", "unet/weights.safetensors"):
        (made / name).write_bytes(b"x" * 100)
    (made / "text_encoder").symlink_to(base / "text_encoder", target_is_directory=True)
    return made


def test_a_prior_made_from_a_file(folder: Path, tmp_path: Path, say: Callable) -> None:
    made = prior(folder, tmp_path / "base")
    own = folder / "priors" / "mine"
    own.mkdir()
    (kind,) = json.loads(say("show", "--json"))["kinds"]
    assert (kind["kind"], kind["entries"], kind["bytes"]) == ("prior fox-v2.1-0123456789abcdef", 2, 200)
    say("clear", "--yes")
    assert not made.exists() and own.is_dir()
    assert (tmp_path / "base" / "text_encoder" / "model.safetensors").is_file()


def test_an_empty_cache(folder: Path, say: Callable) -> None:
    assert say("show").startswith(f"{folder}: 0.0 MB; tensors may take 20,000.0 MB")
    assert json.loads(say("show", "--json"))["kinds"] == []
    assert say("clear", "--yes") == f"{folder}: nothing to delete\n"
    assert not folder.exists()


def test_show_counts_what_is_there(folder: Path, say: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [shard("latents", 3, days_old=2), shard("latents", 4, days_old=1), shard("texts", 5)]
    data_set(folder)
    monkeypatch.setenv("LIMNER_CACHE_GB", "0.5")
    shown = json.loads(say("show", "--json"))
    kinds = {kind["kind"]: kind for kind in shown["kinds"]}
    assert {name: kind["entries"] for name, kind in kinds.items()} == {
        "latents": 7,
        "texts": 5,
        "data set openmoji-15.1": 2,
    }
    assert kinds["latents"]["bytes"] == sum(file.stat().st_size for file in files[:2])
    assert shown["bytes"] == sum(file.stat().st_size for file in files) + 200
    assert shown["tensors_limit_bytes"] == 500_000_000 and shown["folder"] == str(folder)
    used = datetime.fromtimestamp(files[1].stat().st_mtime)
    assert kinds["latents"]["last_used"] == f"{used:%Y-%m-%d %H:%M}"
    table = say("show")
    assert "latents" in table and "last used" in table and "500.0 MB" in table


def test_clear_frees_what_it_says(folder: Path, say: Callable) -> None:
    files = [shard("latents", 300), shard("texts", 300)]
    made = data_set(folder)
    num_bytes = sum(file.stat().st_size for file in files) + 200
    assert say("clear", "--yes") == f"{folder}: {num_bytes / 1e6:,.1f} MB freed\n"
    assert not any(file.exists() for file in files) and not made.exists()
    assert json.loads(say("show", "--json"))["bytes"] == 0
    shard("latents", 2)  # and what is cleared is made again
    assert json.loads(say("show", "--json"))["kinds"][0]["entries"] == 2


def test_only_what_is_old(folder: Path, say: Callable) -> None:
    old, new, made = shard("latents", 2, days_old=40), shard("latents", 3, days_old=20), data_set(folder, days_old=29)
    say("clear", "--older-than", "30", "--yes")
    assert not old.exists() and new.exists() and made.exists()
    say("clear", "--older-than", "28.5", "--yes")
    assert new.exists() and not made.exists()


def test_a_shard_in_use_stays_readable(folder: Path, say: Callable) -> None:
    shard("latents", 3)
    shelf = Shelf("latents", "maker0")
    say("clear", "--yes")
    entry = shelf.find(key("latents", "1", "0"))
    assert entry is not None and entry["x"].shape == (1000,)


def test_unfinished_and_damaged_files(folder: Path, say: Callable) -> None:
    whole = shard("latents", 3)
    damaged = whole.with_name("0" * 32 + ".safetensors")
    damaged.write_bytes(whole.read_bytes()[:50])
    fresh, stale = (whole.with_name(digit * 32 + ".tmp") for digit in "12")
    for file in (fresh, stale):
        file.write_bytes(b"half")
    os.utime(stale, (time.time() - 2 * DAY,) * 2)
    assert json.loads(say("show", "--json"))["kinds"][0]["entries"] == 3
    say("clear", "--yes")
    assert fresh.exists() and not stale.exists() and not damaged.exists() and not whole.exists()


def test_what_is_not_limners_stays(folder: Path, tmp_path: Path, say: Callable) -> None:
    """As if LIMNER_CACHE were a folder of the user's own, with links out of it."""
    elsewhere = tmp_path / "elsewhere"
    mine = [
        folder / "thesis.txt",
        folder / "data" / "photos" / "fox.png",
        folder / "data" / "notes.txt",
        folder / "tensors" / "latents" / "maker" / "weights.safetensors",
        folder / "tensors" / "a.safetensors",
        elsewhere / "maker" / ("a" * 32 + ".safetensors"),
        elsewhere / ("b" * 32 + ".safetensors"),
        elsewhere / "set" / "metadata.jsonl",
    ]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
    (folder / "tensors" / "texts").symlink_to(elsewhere)
    (folder / "tensors" / "latents" / "maker" / ("c" * 32 + ".safetensors")).symlink_to(mine[-2])
    (folder / "data" / "openmoji-15.1").symlink_to(elsewhere / "set")
    (folder / "data" / "relief").mkdir()
    (folder / "data" / "relief" / "link").symlink_to(elsewhere)
    assert [kind["kind"] for kind in json.loads(say("show", "--json"))["kinds"]] == ["data set relief"]
    say("clear", "--yes")
    assert all(file.read_bytes() == b"mine" for file in mine)
    assert not (folder / "data" / "relief").exists()


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False)])
def test_it_asks(answer: str, gone: bool, folder: Path, say: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shard("latents", 1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: answer)
    assert ("freed" in say("clear")) == gone
    assert file.exists() != gone


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        (["shwo"], "unknown command 'shwo'", "'show'"),
        (["clear", "--older", "3"], "'--older'", "'--older-than'"),
        (["clear", "--older-than", "-1"], "--older-than", "--help"),
        (["clear", "--older-than", "x"], "--older-than", "--help"),
        (["clear", "--yse"], "'--yse'", "'--yes'"),
        (["clear"], "no one to answer", "--yes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(words: list[str], sentence: str, hint: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = shard("latents", 1)
    assert main(["cache", *words]) == 2
    captured = capsys.readouterr()
    what, remedy = captured.err.splitlines()
    assert captured.out == "" and sentence in what and hint in remedy
    assert file.exists()


def test_it_needs_no_torch(folder: Path) -> None:
    shard("latents", 1)
    code = "import sys; from limner.cli.cache import cache; cache(['show'], standalone_mode=False); "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "latents" in done.stdout, done.stderr


def test_without_a_word_it_says_what_it_can_do(say: Callable) -> None:
    assert "show" in (text := say()) and "clear" in text
