"""The real commands, end to end, on real classes at toy size: train, resume, sample, evaluate, Ctrl-C."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from limner.cli import show
from limner.cli.main import main
from limner.data import load

QUICK = ["--warmup-steps=0", "--batch-size=2", "--sample-steps=2", "--evaluate-every=10000", "--sample-every=10000"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prior and pairs, of which the last four are for testing."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.prior_folder(folder / "prior", "v")
    names = sorted(path.name for path in (tiny.pairs_folder(folder / "pairs") / "target").glob("*.png"))
    rows = [
        {"file_name": f"target/{name}", "source": f"source/{name}", "caption": "disc", "split": split}
        for name, split in zip(names, ["train"] * (len(names) - 4) + ["test"] * 4, strict=True)
    ]
    (folder / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def command(place: Path, out: str, steps: int) -> list[str]:
    paths = ["--prior", str(place / "prior"), "--data", str(place / "pairs"), "--out", str(place / out)]
    return ["train", "concat", *paths, "--steps", str(steps), *QUICK]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A trained run's folder."""
    assert main(command(place, "run", 3)) == 0
    return place / "run"


def steps_logged(folder: Path) -> list[int]:
    """Steps with a loss in the log, in the order of writing."""
    file = folder / "log.jsonl"
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [row["step"] for row in rows if any(key.startswith("loss") for key in row)]


def test_train_writes_a_run_folder(run: Path) -> None:
    assert steps_logged(run) == [1, 2, 3]
    assert (run / "config.yaml").is_file()
    assert list((run / "checkpoints").rglob("*.safetensors"))
    assert list((run / "samples").glob("*.png"))


def test_the_same_command_again_has_nothing_to_do(run: Path, place: Path) -> None:
    assert main(command(place, "run", 3)) == 0
    assert steps_logged(run) == [1, 2, 3]


def test_another_configuration_in_the_same_folder_is_refused(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(place, "run", 3), "--learning-rate", "0.5"]) == 1
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/run"])
def test_a_run_folder_that_cannot_be_is_named(place: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "notes.txt").write_text("no folder", encoding="utf-8")
    assert main(command(place, out, 3)) == 1
    said = capsys.readouterr().err
    assert "notes.txt" in said and "choose another --out" in said


def test_sample_draws_and_says_where(run: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sketch = place / "pairs" / "source" / "disc01.png"
    words = ["sample", str(run), "--input", str(sketch), "--prompt", "disc", "--n", "2", "--steps", "2"]
    assert main([*words, "--out", str(place / "drawn")]) == 0
    paths = capsys.readouterr().out.split()
    assert paths
    assert all(Path(path).is_file() and Path(path).is_relative_to(place / "drawn") for path in paths)


def test_evaluate_json_is_json_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["evaluate", str(run), "--limit", "4", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    arms = json.loads(captured.out)["arms"]
    assert all({"edge_f1", "kid", "frechet"} <= set(arm) for arm in arms.values())


def test_evaluate_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--limit", "4"]) == 0
    shown = capsys.readouterr().out
    assert "ceiling" in shown and "chance" in shown and "KID" in shown


def test_a_report_is_shown_with_chance_and_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    arm = {"faithfulness": 0.81, "edge_f1": 0.58, "kid": 0.1234, "kid_interval": [0.11, 0.13], "diversity": None}
    report = {
        "arms": {"prior": arm, "before": {"edge_f1": 0.4, "kid": 9.5, "kid_interval": [math.nan] * 2}},
        "ceiling": 0.63,
        "chance": 0.38,
        "kwh": 0.0125,
    }
    show.report(report, Path("runs/x/report.html"))
    shown = capsys.readouterr().out
    for text in (
        "0.810",
        "0.580",
        "0.123",
        "[0.110,",
        "0.630",
        "0.380",
        "0.0125 kWh",
        "prior",
        "before",
        "report.html",
    ):
        assert text in shown
    assert "diversity" not in shown and "nan" not in shown


def test_data_that_has_changed_since_a_run_began_is_told(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place / "pairs" / "metadata.jsonl"
    before = table.read_text()
    for text, told in ((before, False), (before.replace('"disc"', '"ring"'), True), (before, False)):
        table.write_text(text)
        assert main(command(place, run.name, 3)) == 0
        assert (
            "the data has changed since this run began (some names or captions"
            in " ".join(capsys.readouterr().err.split())
        ) == told


def test_ctrl_c_while_pictures_are_read_keeps_what_was_read(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "CHUNK", 1)
    encode, encoded = load.Loader._encode, []

    def encode_three(*given: Any) -> None:
        encode(*given)
        encoded.append(given)
        if len(encoded) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(load.Loader, "_encode", encode_three)
    words = [*command(place, "reading", 1), "--background", "grey"]  # of which nothing is in the cache yet
    assert main(words) == 130
    assert "kept in the cache; the same command goes on" in " ".join(capsys.readouterr().err.split())
    assert not (place / "reading").exists()

    monkeypatch.setattr(load.Loader, "_encode", encode)
    assert main(words) == 0


def wait_for(num_logged: int, folder: Path, alive: Callable[[], bool]) -> None:
    """Until the log holds more than so many steps, or training has ended."""
    deadline = time.monotonic() + 200
    while len(steps_logged(folder)) <= num_logged and alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_saves_and_the_same_command_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once in a process of its own, as a shell sees it; then, to see it go on, here."""
    words, folder = command(place, "stopped", 100_000), place / "stopped"
    shell = [sys.executable, "-m", "limner", *words]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for(3, folder, lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "the same command goes on" in " ".join(said.split())
    assert "Traceback" not in said

    done = len(steps_logged(folder))
    ended = threading.Event()

    def press() -> None:
        wait_for(done + 3, folder, lambda: not ended.is_set())
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    code = main(words)
    ended.set()
    finger.join()
    assert code == 130
    assert "the same command goes on" in " ".join(capsys.readouterr().err.split())
    logged = steps_logged(folder)
    assert len(logged) > done + 3
    assert logged == list(range(1, len(logged) + 1))
