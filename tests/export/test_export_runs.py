"""The real command on real runs at toy size: what is proven, what is refused, and what a broken layout gets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from families import pipeline
from safetensors import safe_open
from safetensors.torch import load_file

import limner
from limner.cli import export as command
from limner.cli.main import main
from limner.export import lora, proof, verify

QUICK = ["--steps=3", "--warmup-steps=0", "--batch-size=2", "--sample-steps=2", "--evaluate-every=10000"]
QUICK += ["--sample-every=10000", "--image-px=16", "--learning-rate=0.02", "--rank=4"]
PITI = ["--encoder-steps=1", "--token-grid=4", "--encoder-layers=1"]
Train = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def no_meter() -> Iterator[None]:
    """The energy meter takes two seconds to start; ``test_the_header`` writes down what it would have."""
    from contextlib import nullcontext

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limner.run.training.metered", lambda file, what: nullcontext())
        patch.setattr("limner.run.training.find_meters", lambda: None)
        yield


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Train:
    """A trained run of a family, a method and options; each is trained once."""
    root = tmp_path_factory.mktemp("runs")
    tiny.pairs_folder(root / "pairs")
    pipeline(folders["sdxl"]).to(torch.bfloat16).save_pretrained(root / "half")  # a base in 16 bits
    bases = {
        **folders,
        "half": root / "half",
        "v": tiny.prior_folder(root / "v", "v"),
        "flow": tiny.prior_folder(root / "flow", "flow"),
    }

    def run(family: str, method: str, *options: str) -> Path:
        out = root / "-".join([family, method, *(option.strip("-").replace("=", "_") for option in options)])
        if not out.exists():
            words = ["--prior", str(bases[family]), "--data", str(root / "pairs"), "--out", str(out)]
            assert main(["train", method, *words, *QUICK, *options]) == 0
        return out

    return run


def export(run: Path, to: str, out: Path, *options: str) -> int:
    return main(["export", str(run), "--to", to, "--out", str(out), *options])


def fields(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def said(out: Path) -> str:
    """The sentence under Proof of the model card."""
    return (out / "README.md").read_text(encoding="utf-8").partition("## Proof\n\n")[2].partition("\n")[0]


@pytest.mark.parametrize(
    ("family", "method", "options", "to", "more", "who"),
    [
        ("v", "finetune", ["--adapter=lora", "--alpha=2"], "diffusers", [], "StableDiffusionPipeline"),
        ("v", "finetune", ["--adapter=dora"], "diffusers", [], "StableDiffusionPipeline"),
        ("v", "finetune", ["--adapter=oft"], "peft", [], "StableDiffusionPipeline"),
        ("sdxl", "finetune", ["--adapter=lora", "--alpha=2"], "kohya", [], "StableDiffusionXLPipeline"),
        ("sdxl", "finetune", ["--adapter=lora", "--alpha=2"], "comfyui", ["--merge"], "StableDiffusionXLPipeline"),
        ("v", "finetune", ["--adapter=lokr"], "diffusers", ["--merge"], "StableDiffusionPipeline"),
        ("v", "finetune", [], "diffusers", ["--dtype=bf16"], "StableDiffusionPipeline"),
        ("sdxl", "concat", [], "diffusers", [], "StableDiffusionXLInstructPix2PixPipeline"),
        ("sdxl", "concat", ["--adapter=lora"], "kohya", ["--merge"], "StableDiffusionXLInstructPix2PixPipeline"),
        ("v", "concat", [], "diffusers", [], "StableDiffusionInstructPix2PixPipeline"),
        ("sdxl", "controlnet", [], "diffusers", [], "StableDiffusionXLControlNetPipeline"),
        ("sdxl", "controlnet", [], "comfyui", [], "StableDiffusionXLControlNetPipeline"),
        ("flux", "finetune", ["--adapter=lora", "--alpha=2"], "comfyui", [], "FluxPipeline"),
        ("flux", "concat", [], "diffusers", [], "FluxControlPipeline"),
        ("z_image", "finetune", ["--adapter=lokr"], "comfyui", [], "ZImagePipeline"),
        ("qwen_image", "finetune", [], "comfyui", [], "QwenImagePipeline"),
        ("sd3", "finetune", [], "kohya", [], "StableDiffusion3Pipeline"),
        ("flux2", "finetune", ["--adapter=lora"], "kohya", [], "Flux2KleinPipeline"),
        ("flow", "concat", [], "diffusers", [], "No pipeline"),
        ("v", "piti", PITI, "diffusers", [], "No pipeline"),
        ("v", "piti", [*PITI, "--adapter=lora"], "diffusers", [], "No pipeline"),
        ("qwen_image", "concat", [], "comfyui", [], "No pipeline"),
        ("half", "finetune", [], "diffusers", [], "StableDiffusionXLPipeline"),
    ],
)
def test_proven(
    train: Train, tmp_path: Path, family: str, method: str, options: list[str], to: str, more: list[str], who: str
) -> None:
    run = train(family, method, *options)
    assert export(run, to, tmp_path / "out", *more) == 0
    assert said(tmp_path / "out").startswith(f"{who} of diffusers")
    assert not (tmp_path / "out.unverified").exists()


def test_the_planes_of_instruct_pix2pix_have_the_scale_of_its_latents(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's toy has latents times 0.13025: were that forgotten, the pictures would be others."""
    monkeypatch.setitem(verify.ALLOWED, "fp32", (1e-5, 1e-5))  # three steps do not teach much
    assert export(train("sdxl", "concat"), "diffusers", tmp_path / "right") == 0
    monkeypatch.setattr("limner.run.exporting._rescale_planes", lambda prior: None)
    assert export(train("sdxl", "concat"), "diffusers", tmp_path / "wrong") == 1


def test_a_layer_that_is_left_out_is_noticed(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lora.kohya_layout

    def without_one(*given: Any) -> dict[str, torch.Tensor]:
        tensors = whole(*given)
        lost = next(iter(tensors)).partition(".")[0]
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{lost}.")}

    monkeypatch.setattr(lora, "kohya_layout", without_one)
    assert export(train("sdxl", "finetune", "--adapter=lora", "--alpha=2"), "kohya", tmp_path / "out") == 1
    assert "1 of 64 layers were skipped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "out.unverified").glob("*.safetensors"))


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_half_a_layer_that_is_left_out_is_noticed(
    train: Train, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lora.diffusers_layout

    def without_one(adapter: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, about = whole(adapter)
        tensors.pop(next(name for name in tensors if part in name))
        return tensors, about

    monkeypatch.setattr(lora, "diffusers_layout", without_one)
    assert export(train("v", "finetune", "--adapter=dora"), "diffusers", tmp_path / "out") == 1


def test_a_wrong_scale_is_noticed(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lora.kohya_layout

    def doubled(*given: Any) -> dict[str, torch.Tensor]:
        return {name: tensor * 2 if "alpha" in name else tensor for name, tensor in whole(*given).items()}

    monkeypatch.setattr(lora, "kohya_layout", doubled)
    run = train("sdxl", "finetune", "--adapter=lora", "--alpha=2")
    assert export(run, "kohya", tmp_path / "out") == 1
    monkeypatch.setattr(verify, "check_adapter", lambda *given: None)  # then the picture alone must tell
    assert export(run, "kohya", tmp_path / "out") == 1


def test_a_wrong_weight_of_a_whole_model_is_noticed(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.export import folder

    whole = folder.held_in

    def broken(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        held = whole(tensors, dtype)
        return {name: tensor * 3 if name == "conv_out.weight" else tensor for name, tensor in held.items()}

    monkeypatch.setattr(folder, "held_in", broken)
    assert export(train("v", "finetune"), "diffusers", tmp_path / "out") == 1
    assert "conv_out.weight was read otherwise" in capsys.readouterr().err
    monkeypatch.setattr(verify, "check_weights", lambda *given: None)
    assert export(train("v", "finetune"), "diffusers", tmp_path / "out") == 1
    assert "draws another picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "options", "to", "more", "word"),
    [
        ("finetune", ["--adapter=lokr"], "kohya", [], "--no-verify"),
        ("finetune", ["--adapter=oft"], "comfyui", ["--no-verify"], "--merge"),
        ("finetune", [], "peft", [], "--to diffusers"),
        ("finetune", [], "diffusers", ["--merge"], "no adapter to merge"),
        ("finetune", [], "kohya", [], "has no place for 'add_embedding"),
        ("concat", ["--adapter=lora"], "diffusers", [], "--merge"),
        ("controlnet", [], "kohya", [], "no layout for a ControlNet"),
        ("finetune", [], "difusers", [], "did you mean 'diffusers'"),
    ],
)
def test_refused_before_anything_is_written(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    options: list[str],
    to: str,
    more: list[str],
    word: str,
) -> None:
    assert export(train("v", method, *options), to, tmp_path / "out", *more) in (1, 2)
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_planes_that_the_stock_class_cannot_have(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(train("z_image", "concat"), "diffusers", tmp_path / "out") == 1
    assert "ZImageTransformer2DModel has no configuration" in capsys.readouterr().err


def test_unproven_where_asked_for(train: Train, tmp_path: Path) -> None:
    run = train("v", "finetune", "--adapter=lokr")
    assert export(run, "kohya", tmp_path / "out", "--no-verify") == 0
    assert said(tmp_path / "out") == "It was not verified."
    names = load_file(tmp_path / "out" / f"{run.name}.safetensors")
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lokr_w1" in names


def test_what_is_there_is_kept_unless_overwritten(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("v", "finetune", "--adapter=lora", "--alpha=2")
    assert main(["export", str(run), "--to", "peft", "--no-verify"]) == 0
    assert capsys.readouterr().out.split() == [str(run / "export" / "peft")]
    (run / "export" / "peft" / "mine.txt").write_text("mine")
    assert main(["export", str(run), "--to", "peft", "--no-verify"]) == 1
    assert (run / "export" / "peft" / "mine.txt").exists()
    assert main(["export", str(run), "--to", "peft", "--no-verify", "--overwrite"]) == 0
    assert not (run / "export" / "peft" / "mine.txt").exists()


def test_a_folder_is_whole_and_the_base_as_it_was(train: Train, tmp_path: Path, folders: dict[str, Path]) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests(folders["sdxl"])
    assert export(train("sdxl", "concat"), "diffusers", tmp_path / "out") == 0
    assert digests(folders["sdxl"]) == before
    after = digests(tmp_path / "out")
    same = {name for name in before if before[name] == after.get(name)}
    assert before.keys() - same == {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    opened = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(opened).__name__ == "StableDiffusionXLInstructPix2PixPipeline"
    assert opened.unet.config.in_channels == 8


def test_the_encoder_of_piti_lies_beside(train: Train, tmp_path: Path) -> None:
    assert export(train("v", "piti", *PITI), "diffusers", tmp_path / "out") == 0
    assert "summary_1D" in load_file(tmp_path / "out" / "encoder.safetensors")
    assert "encoder is limner's own" in said(tmp_path / "out")


def test_the_header(train: Train, tmp_path: Path) -> None:
    run = train("sdxl", "finetune", "--adapter=lora", "--alpha=2", "--trigger=sks", "--class-word=disc")
    row = {"what": "train", "seconds": 1, "kwh": 0.25, "kg_co2e": 0.1, "peak_mb": 1}
    (run / "energy.jsonl").write_text(json.dumps(row) + "\n")
    assert export(run, "kohya", tmp_path / "out") == 0
    file = tmp_path / "out" / f"{run.name}.safetensors"
    said_there = fields(file)
    data = json.loads((run / "data.json").read_text())
    wanted = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": run.name,
        "modelspec.resolution": "16x16",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "sks",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_output_name": run.name,
        "ss_max_train_steps": "3",
        "ss_num_train_images": str(data["records"]),
        "ss_seed": "0",
        "limner.version": limner.__version__,
        "limner.class_word": "disc",
        "limner.data_sha256": data["sha256"],
        "limner.energy_kwh": "0.25",
    }
    assert {name: said_there.get(name) for name in wanted} == wanted
    assert json.loads(said_there["ss_tag_frequency"]) == {"pairs": {"sks": data["records"]}}
    assert "adapter: lora" in said_there["limner.config"]
    content = file.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert said_there["modelspec.hash_sha256"] == f"0x{digest}"
    assert said_there["sshs_model_hash"] == digest


def test_alpha_is_within_the_weights_where_readers_differ(train: Train, tmp_path: Path) -> None:
    run = train("v", "finetune", "--adapter=lora", "--alpha=2")
    assert export(run, "diffusers", tmp_path / "out") == 0
    about = fields(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert about["ss_network_alpha"] == about["ss_network_dim"] + ".0" == "4.0"
    assert json.loads(about["lora_adapter_metadata"])["unet.lora_alpha"] == 4


def test_without_its_data(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.errors import DataError

    run = train("v", "concat")

    def gone(*given: Any) -> None:
        raise DataError("gone.")

    monkeypatch.setattr("limner.run.exporting.build", gone)
    assert export(run, "diffusers", tmp_path / "out") == 0
    assert said(tmp_path / "out").startswith("StableDiffusionInstructPix2PixPipeline")


def test_an_accelerator_that_is_too_small(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tried = proof.prove, []

    def too_large(*given: Any) -> str:
        tried.append(1)
        if len(tried) == 1:
            raise torch.OutOfMemoryError
        return whole(*given)

    monkeypatch.setattr(proof, "prove", too_large)
    assert export(train("v", "finetune", "--adapter=lora", "--alpha=2"), "diffusers", tmp_path / "out") == 0
    assert "exporting on the CPU" in capsys.readouterr().err
    assert said(tmp_path / "out").startswith("StableDiffusionPipeline")


def test_the_python_verb(train: Train, tmp_path: Path) -> None:
    made = limner.export(train("v", "finetune", "--adapter=lora", "--alpha=2"), target="kohya", out=tmp_path / "out")
    assert made.folder == tmp_path / "out"
    assert made.proof == said(tmp_path / "out")


def test_the_command_knows_what_the_code_knows() -> None:
    assert command.TARGETS == lora.TARGETS
    assert command.DTYPES == tuple(verify.DTYPES) == tuple(verify.ALLOWED) == tuple(verify.ROUNDING)
    help_text = " ".join((command.export.help or "").split())
    for dtype, (most, mean) in verify.ALLOWED.items():
        assert f"{most * 255:g}/255" in help_text, dtype
        assert f"{mean * 255:g}/255" in help_text, dtype
