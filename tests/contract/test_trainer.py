"""What a run promises: kills, Ctrl-C, accumulation, several processes, players that leave each other alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from test_methods import HERE, configure, ground, same, weights

from limner import run
from limner.config import dump
from limner.data.load import Schedule
from limner.errors import LimnerError
from limner.train import checkpoint
from limner.train.trainer import Trainer

__all__ = ["ground"]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1] / "src")}


def command(config: Any, folder: Path, *launcher: str) -> list[str]:
    """``python -m limner train`` of this configuration, through a YAML file as a user would."""
    file = folder / f"{config.out.name}.yaml"
    values = dump(config.model_copy(update={"out": None}))
    file.write_text(values)
    return [
        sys.executable, *launcher, "-m", "limner", "train", config.method,
        "--config", str(file), "--out", str(config.out),
    ]  # fmt: skip


def test_killed_at_random_moments_the_run_ends_as_if_it_had_not_been(ground: Path, tmp_path: Path) -> None:
    more = {"steps": 30, "save_every": 5, "evaluate_every": 10, "sample_every": 30}
    whole = run.train(configure(ground, tmp_path / "whole", "piti", "v", **more))
    config = configure(ground, tmp_path / "killed", "piti", "v", **more)
    dice = random.Random(7)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(command(config, tmp_path), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        first = checkpoint.all_of(config.out / "checkpoints")
        deadline = time.monotonic() + 90
        # Wait until it has written something new, so that each life gets further; then a random moment later: kill.
        while process.poll() is None and checkpoint.all_of(config.out / "checkpoints") == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(dice.random() * 0.3)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills
    run.train(config)
    assert same(weights(whole, 30), weights(config.out, 30))


def test_ctrl_c_saves_and_says_how_to_go_on(ground: Path, tmp_path: Path) -> None:
    more = {"steps": 2000, "save_every": 2000, "evaluate_every": 2000, "sample_every": 2000}
    config = configure(ground, tmp_path / "run", "finetune", "v", **more)
    process = subprocess.Popen(command(config, tmp_path), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len((config.out / "log.jsonl").read_text().splitlines() if (config.out / "log.jsonl").exists() else []) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in " ".join(said.split())
    saved = checkpoint.all_of(config.out / "checkpoints")
    assert len(saved) == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("method", ["concat", str(HERE / "methods" / "policy_gradient.py")], ids=["once", "often"])
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(ground: Path, tmp_path: Path, method: str) -> None:
    one = run.train(configure(ground, tmp_path / "one", method, "flow", batch_size=8, steps=2))
    four = run.train(configure(ground, tmp_path / "four", method, "flow", batch_size=2, accumulate=4, steps=2))
    right = weights(four, 2)
    for name, tensor in weights(one, 2).items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=5e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    ("method", "path"),
    [("piti", "flow"), ("two_player", "eps"), ("policy_gradient", "v"), ("reward_gradient", "flow")],
)
def test_two_processes_equal_one_with_twice_the_batch(ground: Path, tmp_path: Path, method: str, path: str) -> None:
    own = HERE / "methods" / f"{method}.py"
    method = str(own) if own.is_file() else method
    more = {"steps": 2, "save_every": 2, "sample_every": 2, "evaluate_every": 2, "learning_rate": 1e-4}
    if method == "piti":
        more["encoder_steps"] = 1
    if path == "v":  # new low-rank weights must be the same on both
        more |= {"adapter": "lora", "rank": 2}
    one = run.train(configure(ground, tmp_path / "one", method, path, batch_size=4, **more))
    config = configure(ground, tmp_path / "two", method, path, batch_size=2, **more)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(29500 + os.getpid() % 400)]
    subprocess.run(command(config, tmp_path, *torchrun), env=ENVIRONMENT, check=True, timeout=120)
    left, right = weights(one, 2), weights(tmp_path / "two", 2)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if name.endswith("exp_avg"):  # the averaged gradients
            torch.testing.assert_close(
                right[name], tensor, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
            )
        elif name.startswith("weights/"):
            # AdamW turns a gradient that is zero but for rounding into a whole step of either sign; so: on average.
            assert (right[name] - tensor).abs().mean() < 1e-5, name


def test_a_players_update_leaves_no_gradient_in_the_other(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", str(HERE / "methods" / "two_player.py"), "v")
    job = run.build(config, torch.device("cpu"))
    trainer = Trainer(job.method, config, tmp_path, None, None, None, Accelerator(cpu=True))  # type: ignore[arg-type]
    seen = []
    for update in job.method.step(job.train.batch(0, Schedule(2), 0)):
        for learner in trainer.learners.values():
            for weight in learner.weights:
                weight.grad = None
        trainer._backward(update, {})
        touched = [n for n, player in trainer.learners.items() if any(w.grad is not None for w in player.weights)]
        seen.append((update.what, touched))
    assert seen == [("generator", ["generator"]), ("discriminator", ["discriminator"])]


def test_a_checkpoint_cut_short_is_named_and_the_one_before_it_still_serves(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "finetune", "v")
    run.train(config)
    last = config.out / "checkpoints" / "step-000004"
    whole = (last / "weights.safetensors").read_bytes()
    (last / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LimnerError, match=r"weights\.safetensors is missing or damaged") as caught:
        run.train(config)
    assert str(last) in caught.value.hint


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_leaves_the_last_checkpoint_whole(ground: Path, tmp_path: Path, kind: type[Exception]) -> None:
    config = configure(ground, tmp_path / "run", "finetune", "v")
    original = checkpoint._sync

    def full(path: Path) -> None:
        if "step-000004" in str(path) and path.name == "optimizer.safetensors":
            raise kind("No space left on device")
        original(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(LimnerError, match="No space left"):
        patch.setattr(checkpoint, "_sync", full)
        run.train(config)
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["step-000002"]
    run.train(config)
    assert checkpoint.all_of(config.out / "checkpoints")[-1].name == "step-000004"


def test_the_best_checkpoint_is_kept_and_opened(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "finetune", "v", steps=6, save_every=1, evaluate_every=1, keep=1)
    scores = iter([1.0, 3.0, 2.0, 0.0, 1.0, 2.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limner.run.training._score", lambda job, step: {"score": next(scores)})
        run.train(config)
    assert [path.name for path in checkpoint.all_of(config.out / "checkpoints")] == ["step-000002", "step-000006"]
    assert run.open_run(config.out, torch.device("cpu"))[2] == 2


def test_another_number_of_processes_is_refused(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "finetune", "v")
    run.train(config)
    job = run.build(config, torch.device("cpu"))
    trainer = Trainer(job.method, config, config.out, None, None, None, Accelerator(cpu=True))  # type: ignore[arg-type]
    trainer.pictures_per_step *= 2
    with pytest.raises(LimnerError, match="has had 2 pictures a step, not 4"):
        trainer.resume()
