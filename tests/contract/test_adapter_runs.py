"""Runs with adapters: every kind resumes and is opened again; files are merged, gone on from, and missed when gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import ground_folder

from limner import run
from limner.cli.main import main
from limner.config import MethodConfig
from limner.errors import LimnerError
from limner.train import checkpoint
from limner.train.trainer import Trainer

KINDS = ("lora", "dora", "lokr", "loha", "oft")
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ground_folder(tmp_path_factory.mktemp("adapters"), "eps")


@pytest.fixture(scope="session")
def trained(ground: Path) -> Path:
    """A run of four steps with a LoRA."""
    return run.train(configure(ground, ground / "trained", adapter="lora", alpha=2.0, learning_rate=0.05))


@pytest.fixture(scope="session")
def bare(ground: Path) -> Path:
    """A run whose LoRA has learned nothing."""
    return run.train(configure(ground, ground / "bare", adapter="lora", learning_rate=1e-12, ema=0.0))


@pytest.fixture(scope="session")
def plain(bare: Path) -> list[bytes]:
    """What the prior alone draws."""
    return pictures(bare, bare / "plain")


def configure(ground: Path, out: Path, method: str = "finetune", **more: Any) -> MethodConfig:
    values = {
        "prior": str(ground / "prior"),
        "data": str(ground / "data"),
        "out": out,
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 1,
        "save_every": 2,
        "sample_every": 4,
        "evaluate_every": 4,
        "sample_steps": 2,
        "learning_rate": 1e-2,
        **({} if "start_from" in more else {"rank": 4}),
        **more,
    }
    return run.resolve(method, values)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    last = checkpoint.all_of(folder / "checkpoints")[-1]
    return {
        f"{file}/{name}": tensor
        for file in checkpoint.FILES
        for name, tensor in load_file(last / f"{file}.safetensors").items()
    }


def pictures(folder: Path, out: Path, **more: Any) -> list[bytes]:
    inputs = more.pop("inputs", [])
    made = run.sample(folder, prompts=["disc 1"], inputs=inputs, num_images=2, steps=2, out=out, **more)
    return [Image.open(file).tobytes() for file in made]


@pytest.mark.parametrize("method", ["finetune", "concat"])
@pytest.mark.parametrize("kind", KINDS)
def test_resumes_bit_for_bit_and_is_opened_again(ground: Path, tmp_path: Path, kind: str, method: str) -> None:
    whole = run.train(configure(ground, tmp_path / "whole", method, adapter=kind))

    class EnoughError(Exception):
        pass

    original = Trainer._one_step

    def cut(self: Trainer, batches: Any) -> None:
        if self.step == 2:
            raise EnoughError
        original(self, batches)

    config = configure(ground, tmp_path / "halves", method, adapter=kind)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnoughError):
        patch.setattr(Trainer, "_one_step", cut)
        run.train(config)
    halves = run.train(config)
    left, right = tensors(whole), tensors(halves)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)

    learned = {name.removeprefix("weights/network/") for name in left if name.startswith("weights/")}
    assert all(".default" in name or (method == "concat" and name.startswith("conv_in.")) for name in learned)
    assert method == "finetune" or "conv_in.weight" in learned
    inputs = [ground / "data" / "source" / "disc00.png"] if method == "concat" else []
    again = [pictures(folder, tmp_path / name, inputs=inputs) for name, folder in {"a": whole, "b": halves}.items()]
    assert again[0] == again[1]


def test_the_effective_scale_is_said(ground: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run.train(configure(ground, tmp_path / "run", adapter="lora", alpha=2.0))
    told = capfd.readouterr().err
    assert "lora: 32 layers, 9,216 of 0.3 M weights learn, rank 4, alpha 2, scale 0.5" in told
    for words in (["--adapter", "lora", "--rank", "8"], ["--adapter", "lora", "--rank", "8", "--alpha", "8"]):
        assert main(["train", "finetune", *words, "--dry-run"]) == 0
        assert "alpha: 8.0\n" in capfd.readouterr().out
    assert main(["train", "finetune", "--adapter", "oft", "--alpha", "8", "--dry-run"]) == 2
    assert "has no alpha" in capfd.readouterr().err


def test_a_run_goes_on_from_another_ones_adapter(ground: Path, trained: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "on", adapter="lora", start_from=trained, learning_rate=1e-9, ema=0.0)
    assert (config.rank, config.alpha) == (4, 2.0)
    assert config.start_from == trained / "checkpoints" / "step-000004" / "ema.safetensors"
    on = run.train(config)
    before, after = (load_file(folder / "checkpoints" / "step-000004" / "ema.safetensors") for folder in (trained, on))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-7, rtol=0)
    assert pictures(on, tmp_path / "a") == pictures(trained, tmp_path / "b")
    with pytest.raises(LimnerError, match="has rank 4, not 8"):
        run.train(configure(ground, tmp_path / "x", adapter="lora", start_from=trained, rank=8))
    with pytest.raises(LimnerError, match="has alpha 2, not 4"):
        run.train(configure(ground, tmp_path / "x", adapter="lora", start_from=trained, alpha=4))
    with pytest.raises(LimnerError, match="is a lora, and adapter is dora"):
        configure(ground, tmp_path / "x", adapter="dora", start_from=trained)


def test_merged_and_drawn_from_is_as_the_run_itself(
    ground: Path, trained: Path, bare: Path, plain: list[bytes], tmp_path: Path
) -> None:
    merged = configure(ground, tmp_path / "merged", adapters=(f"{trained}:1",), learning_rate=1e-12, ema=0.0)
    assert merged.adapters == (f"{trained / 'checkpoints' / 'step-000004' / 'ema.safetensors'}:1.0",)
    own = pictures(trained, tmp_path / "own")
    assert _far(plain, own) > 3
    assert _far(pictures(run.train(merged), tmp_path / "m"), own) <= 1
    assert _far(pictures(bare, tmp_path / "added", adapters=[str(trained)]), own) <= 1
    assert pictures(bare, tmp_path / "zero", adapters=[f"{trained}:0"]) == plain
    assert pictures(trained, tmp_path / "off", scale=0.0) == plain
    half = pictures(bare, tmp_path / "half", adapters=[f"{trained}:0.5"])
    assert _far(half, pictures(trained, tmp_path / "s", scale=0.5)) <= 1
    assert _far(half, own) > 1
    twice = pictures(trained, tmp_path / "twice", adapters=[str(trained)])
    assert _far(twice, pictures(trained, tmp_path / "two", scale=2.0)) <= 1


def _far(left: list[bytes], right: list[bytes]) -> int:
    """The largest difference of two lists of pictures, in grey levels."""
    return max(abs(a - b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["dora", "oft"])
def test_what_is_not_linear_in_its_scale_can_be_weakened(
    ground: Path, bare: Path, plain: list[bytes], tmp_path: Path, kind: str
) -> None:
    folder = run.train(configure(ground, tmp_path / "run", adapter=kind, learning_rate=0.05))
    assert _far(pictures(folder, tmp_path / "0", scale=0.0), plain) <= 1
    added = pictures(bare, tmp_path / "added", adapters=[f"{folder}:0.5"])
    assert _far(pictures(folder, tmp_path / "half", scale=0.5), added) <= 1
    assert _far(added, plain) > 1


def test_a_file_that_is_gone_or_changed_is_named(ground: Path, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    shutil.copy(trained / "checkpoints" / "step-000004" / "ema.safetensors", file)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 2}')
    for name, more in {"merged": {"adapters": (str(file),)}, "on": {"adapter": "lora", "start_from": file}}.items():
        folder = run.train(configure(ground, tmp_path / name, **more))
        assert json.loads((folder / "adapters.json").read_text()).keys() == {str(file)}
        assert pictures(folder, tmp_path / "pictures")
        kept = file.read_bytes()
        weights = load_file(file)
        save_file({key: tensor + 1 for key, tensor in weights.items()}, file)
        with pytest.raises(LimnerError, match=r"style\.safetensors is not the file that"):
            run.open_run(folder, CPU)
        with pytest.raises(LimnerError, match=r"style\.safetensors is not the file that"):
            run.train(configure(ground, tmp_path / name, **more))
        file.unlink()
        with pytest.raises(LimnerError, match=r"style\.safetensors does not exist"):
            run.open_run(folder, CPU)
        file.write_bytes(kept)
        assert run.open_run(folder, CPU)[2] == 4


def test_a_run_that_learned_more_than_an_adapter_is_none(ground: Path, tmp_path: Path, trained: Path) -> None:
    whole = run.train(configure(ground, tmp_path / "whole", learning_rate=1e-3))
    with pytest.raises(LimnerError, match="holds no adapter"):
        pictures(trained, tmp_path / "x", adapters=[str(whole)])
    widened = run.train(configure(ground, tmp_path / "concat", "concat", adapter="lora"))
    with pytest.raises(LimnerError, match=r"'network/conv_in\.weight' is no part of a LoRA"):
        pictures(trained, tmp_path / "x", adapters=[str(widened)])
    with pytest.raises(LimnerError, match="no adapter to scale"):
        pictures(whole, tmp_path / "x", scale=0.5)


def test_at_the_command_line(ground: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(trained), "--prompt", "disc", "--n", "1", "--steps", "1", "--out", str(tmp_path)]
    assert main([*words, "--adapter", f"{trained}:0.5", "--adapter", str(trained), "--scale", "0.5"]) == 0
    out, told = capfd.readouterr()
    assert "merged:" in told
    assert "times 0.5" in told
    with Image.open(out.strip()) as picture:
        settings = json.loads(picture.text["limner"])
    assert settings["adapters"] == f"{trained}:0.5, {trained}"
    assert settings["scale"] == 0.5
    for given, said in {
        "nowhere.safetensors": "nowhere.safetensors does not exist",
        "nowhere.safetensors:0.3": "nowhere.safetensors does not exist",
        f"{trained}:nan": "the scale of",
        f"{trained}:strong": "strong does not exist",
        str(ground): "holds no .safetensors file",
    }.items():
        assert main([*words, "--adapter", given]) in (1, 2)
        told = capfd.readouterr().err
        assert said in told.replace("\n", " ")
        assert "hint:" in told
    assert main([*words, "--adaptr", "x"]) == 2
    assert "did you mean '--adapter'?" in capfd.readouterr().err
    assert main([*words, "--scale", "strong"]) == 2


def test_impossible_combinations(ground: Path, trained: Path, tmp_path: Path) -> None:
    for more, said in (
        ({"start_from": trained}, "adapter is 'full'"),
        ({"start_from": trained, "adapter": "lora", "adapter_targets": "to_q"}, "brings its own layers"),
        ({"adapters": str(trained), "from_scratch": True}, "throws those away"),
    ):
        with pytest.raises(LimnerError, match=said):
            configure(ground, tmp_path / "x", **more)
    with pytest.raises(LimnerError, match="has an adapter, and is to be widened"):
        run.train(configure(ground, tmp_path / "x", "concat", adapter="lora", adapter_targets="to_q,conv_in"))
