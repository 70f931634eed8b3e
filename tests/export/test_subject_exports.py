"""Runs that have learnt text (new words, text encoders) for stock diffusers, and for programs that are not at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from limner import run
from limner.errors import ExportError
from limner.export import stock, verify, words

SMALL: dict[str, Any] = {
    "steps": 4, "batch_size": 2, "warmup_steps": 0, "image_px": 16, "rank": 2, "learning_rate": 0.02,
    "evaluate_every": 10000, "sample_every": 10000, "sample_steps": 2, "score_pictures": 2, "prompts": "a {}",
    "caption_template": "a {trigger}", "ema": 0.0,
}  # fmt: skip
OFF = {"preservation": "off"}
TEXT = {"text_encoder": True, "text_learning_rate": 0.02, **OFF}
Train = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def no_meter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limner.run.training.metered", lambda file, what: nullcontext())
        patch.setattr("limner.run.training.find_meters", lambda: None)
        yield


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Train:
    """A run of a family, a method and options; each is trained once."""
    root = tmp_path_factory.mktemp("subjects")
    tiny.pairs_folder(root / "pairs")
    tiny.pairs_folder(root / "others", side_px=20)
    bases = {**folders, "flow": tiny.prior_folder(root / "flow", "flow")}
    done: dict[str, Path] = {}

    def trained(family: str, method: str, **options: Any) -> Path:
        key = f"{family} {method} {options}"
        if key not in done:
            values = {"prior": str(bases[family]), "out": root / f"run{len(done)}", **SMALL, **options}
            if "concepts" in options:
                values["concepts"] = options["concepts"].replace("ROOT", str(root))
            else:
                values |= {"data": str(root / "pairs" / "target"), "class_word": "disc"}
            if method == "textual_inversion":
                values.pop("rank")
            done[key] = run.train(run.resolve(method, values))
        return done[key]

    return trained


def export(folder: Path, target: str, out: Path, **options: Any) -> str:
    return run.export(folder, target=target, out=out, **options).proof


@pytest.mark.parametrize(
    ("family", "method", "options", "target", "said"),
    [
        ("sd", "textual_inversion", {"num_vectors": 3}, "diffusers", "3 vectors of <sks>"),
        ("sd", "textual_inversion", {"num_vectors": 1}, "comfyui", "1 vectors of <sks>"),
        ("sdxl", "textual_inversion", {"num_vectors": 2}, "diffusers", "2 vectors of <sks>"),
        ("sdxl", "textual_inversion", {"num_vectors": 2}, "kohya", "2 vectors of <sks>"),
        ("flux", "textual_inversion", {"num_vectors": 2}, "diffusers", "2 vectors of <sks>"),
        ("sd", "pivotal", OFF, "diffusers", "layers and 2 vectors of <sks>"),
        ("sdxl", "pivotal", OFF, "comfyui", "layers and 2 vectors of <sks>"),
        ("flux", "pivotal", OFF, "peft", "layers and 2 vectors of <sks>"),
        ("sd", "custom_diffusion", OFF, "diffusers", "weights and 1 vectors of <sks>"),
        ("sdxl", "custom_diffusion", OFF, "diffusers", "weights and 1 vectors of <sks>"),
        ("sd", "dreambooth", TEXT, "diffusers", "layers and 4 layers of text_encoder"),
        ("sdxl", "dreambooth", TEXT, "diffusers", "8 layers of text_encoder and 8 layers of text_encoder_2"),
        ("sd3", "dreambooth", TEXT, "diffusers", "8 layers of text_encoder and 8 layers of text_encoder_2"),
        ("flux", "dreambooth", TEXT, "diffusers", "layers and 8 layers of text_encoder"),
        ("sd", "dreambooth", {**TEXT, "alpha": 1.0}, "kohya", "layers and 4 layers of text_encoder"),
        ("sdxl", "dreambooth", {**TEXT, "alpha": 1.0}, "kohya", "8 layers of text_encoder_2"),
        # Not kohya's: diffusers reads that of FLUX at its true widths alone.
        ("flux", "dreambooth", TEXT, "comfyui", "layers and 8 layers of text_encoder"),
        ("sd3", "dreambooth", TEXT, "comfyui", "8 layers of text_encoder_2"),
        ("sdxl", "dreambooth", {**TEXT, "adapter": "oft"}, "peft", "8 layers of text_encoder_2"),
        ("sd", "dreambooth", {**TEXT, "adapter": "dora"}, "peft", "layers and 4 layers of text_encoder"),
        ("sdxl", "dreambooth", {**TEXT, "adapter": "full", "learning_rate": 1e-3}, "diffusers", "of text_encoder_2"),
    ],
)  # fmt: skip
def test_stock_diffusers_draws_and_reads_alike(
    train: Train, tmp_path: Path, family: str, method: str, options: dict[str, Any], target: str, said: str
) -> None:
    proof = export(train(family, method, **options), target, tmp_path / "out")
    assert said in proof
    assert "understood its caption alike and drew the run's first sample again" in proof
    assert not proof.startswith("No pipeline")


@pytest.mark.parametrize(
    ("family", "method", "options", "why"),
    [
        ("sd3", "textual_inversion", {"num_vectors": 2}, "take no new words): limner read all 2 vectors of <sks>"),
        ("flow", "dreambooth", TEXT, "know no flow): its parts read all"),
    ],
)
def test_where_no_pipeline_draws(
    train: Train, tmp_path: Path, family: str, method: str, options: dict[str, Any], why: str
) -> None:
    proof = export(train(family, method, **options), "comfyui", tmp_path / "out")
    assert proof.startswith("No pipeline of diffusers")
    assert why in proof


@pytest.mark.parametrize("merged", [False, True])
def test_a_merged_model_has_its_text_encoders_and_words(train: Train, tmp_path: Path, merged: bool) -> None:
    method, options = ("dreambooth", TEXT) if merged else ("pivotal", OFF)
    proof = export(train("sdxl", method, **options), "comfyui", tmp_path / "out", merged=True)
    assert ("weights of text_encoder_2" if merged else "2 vectors of <sks>") in proof


def test_the_calls_in_the_card_are_what_opens_it(train: Train, tmp_path: Path, folders: dict[str, Path]) -> None:
    """Whoever does as the card says reads a caption as the run does, to its pooled vector."""
    folder = train("sdxl", "pivotal", **OFF)
    export(folder, "diffusers", tmp_path / "out")
    code = re.search(r"```python\n(.+?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    done: dict[str, Any] = {}
    exec(code[1].replace("THIS FOLDER", str(tmp_path / "out")), done)
    _, method, _ = run.open_run(folder, torch.device("cpu"), plain=True)
    with torch.no_grad():
        own = method.prior.encode_text(["a <sks> in a box"])
        theirs = done["pipe"].encode_prompt("a <sks> in a box", device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(own.tokens_BLD, theirs[0])
    torch.testing.assert_close(own.pooled_BD, theirs[2])
    assert any("lora" in name for name, _ in done["pipe"].unet.named_parameters())


def test_each_of_several_words_has_a_file(train: Train, tmp_path: Path) -> None:
    folder = train(
        "sd", "textual_inversion", concepts="<a> disc=ROOT/pairs/target, <b> ring=ROOT/others/target", num_vectors=2
    )
    assert "2 vectors of <a> and 2 vectors of <b>" in export(folder, "diffusers", tmp_path / "out")
    held = {file.name: list(load_file(file)) for file in (tmp_path / "out").glob("*.safetensors")}
    assert held == {"learned_embeds-a.safetensors": ["<a>"], "learned_embeds-b.safetensors": ["<b>"]}
    pipe = stock.open_pipeline(Path(prior_of(folder)))
    pipe.load_textual_inversion(tmp_path / "out", weight_name="learned_embeds-b.safetensors")
    assert pipe.tokenizer.convert_tokens_to_ids("<b>_1") == len(pipe.tokenizer) - 1


def prior_of(folder: Path) -> str:
    return run.job.config_of(folder).prior


def test_names_of_files() -> None:
    assert words.files(["<sks>"], "diffusers") == {"<sks>": "learned_embeds.safetensors"}
    assert words.files(["<my cat>", "<mycat>", "!"], "comfyui") == {
        "<my cat>": "mycat-1.safetensors",
        "<mycat>": "mycat-2.safetensors",
        "!": "word.safetensors",
    }


@pytest.mark.parametrize(
    ("family", "method", "options", "target", "said"),
    [
        ("z_image", "textual_inversion", {}, "diffusers", "new words of the family z_image"),
        ("sd3", "textual_inversion", {"num_vectors": 2}, "diffusers", "new words of the family sd3"),
        ("sd", "textual_inversion", {"num_vectors": 3}, "peft", "peft holds adapters"),
        ("sdxl", "dreambooth", {**TEXT, "adapter": "oft"}, "diffusers", "oft adapter"),
        ("sd", "dreambooth", {**TEXT, "adapter": "dora"}, "diffusers", "magnitudes"),
        ("flux", "dreambooth", {**TEXT, "adapter": "full"}, "comfyui", "text encoders have learnt"),
    ],
)  # fmt: skip
def test_what_no_file_holds_is_refused_before_anything_is_written(
    train: Train, tmp_path: Path, family: str, method: str, options: dict[str, Any], target: str, said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        export(train(family, method, **options), target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a vector", "an encoder's layer"])
def test_what_came_changed_is_noticed(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "a vector":
        folder = train("sd", "textual_inversion", num_vectors=3)
        whole = words.write

        def changed(out: Path, *given: Any) -> None:
            whole(out, *given)
            file = out / "learned_embeds.safetensors"
            save_file({name: tensor.flip(-1).contiguous() for name, tensor in load_file(file).items()}, file)

        monkeypatch.setattr(words, "write", changed)
        said = "has read the word <sks> otherwise"
    else:
        folder = train("sd", "dreambooth", **TEXT)
        from limner.export import lora

        layout = lora.diffusers_layout

        def without(adapter: Any) -> Any:
            tensors, about = layout(adapter)
            return {name: t * 2 if "text_encoder" in name else t for name, t in tensors.items()}, about

        monkeypatch.setattr(lora, "diffusers_layout", without)
        said = "was read otherwise"
    with pytest.raises(ExportError, match=said):
        export(folder, "diffusers", tmp_path / "out")
    monkeypatch.setattr(verify, "check_words", lambda *given: None)
    monkeypatch.setattr(verify, "check_adapter", lambda *given: None)
    with pytest.raises(ExportError, match="reads the caption otherwise"):
        export(folder, "diffusers", tmp_path / "out")
