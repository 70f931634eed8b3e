"""A folder or a hub name becomes a prior, or one sentence says what it is or lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from tiny import prior_folder
from tiny_families import family_folder

from limner.errors import ConfigError, PriorError
from limner.priors import hub
from limner.priors.folder import Loading
from limner.priors.open import open_prior

META = Loading(meta=True)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prior_folder(tmp_path_factory.mktemp("priors") / "sd", "eps")


@pytest.fixture
def copy(sd: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(sd, tmp_path / "sd"))


def unet_file(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def predicted(folder: Path | str) -> torch.Tensor:
    prior = open_prior(str(folder))
    with torch.no_grad():
        cond = prior.encode_text(["a fox"])
        return prior.predict(torch.ones(1, *prior.latent_CHW), torch.tensor([0.4]), cond)


def refused(name: Path | str, *says: str, loading: Loading | None = None) -> None:
    with pytest.raises(PriorError) as caught:
        open_prior(str(name), loading or Loading())
    told = f"{caught.value} {caught.value.hint}"
    for each in says:
        assert each in told, told


def test_nothing_of_that_name() -> None:
    with pytest.raises(ConfigError) as caught:
        open_prior("minni")
    assert "mini" in caught.value.hint and "OWNER/NAME" in caught.value.hint
    refused("models/sd15.safetensors", "models/sd15.safetensors does not exist")


# What a folder lacks.


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    refused(copy, f"has no {part}/")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_named_at_once(copy: Path, part: str) -> None:
    """Not only when the part is first used, which may be an hour later."""
    next((copy / part).glob("*.safetensors")).unlink()
    refused(copy, f"{copy / part} has no weights")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_file_cut_short_is_named(copy: Path, part: str) -> None:
    file = next((copy / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    refused(copy, f"{file} is damaged", "fetch it again")


def test_a_missing_weight_is_named(copy: Path) -> None:
    """diffusers would fill it with random numbers and log a line."""
    tensors = load_file(unet_file(copy))
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, unet_file(copy), {"format": "pt"})
    refused(copy, "lacks the weight 'mid_block.resnets.0.conv1.weight' (1 missing)")


def test_a_weight_of_another_shape_is_named(copy: Path) -> None:
    tensors = load_file(unet_file(copy))
    tensors["conv_out.bias"] = torch.zeros(7)
    save_file(tensors, unet_file(copy), {"format": "pt"})
    refused(copy, "conv_out.bias")


def test_a_missing_text_weight_is_named(copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("final_layer_norm.weight"))
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(PriorError, match=r"final_layer_norm.weight"):
        open_prior(str(copy)).encode_text(["a"])


def sharded(folder: Path) -> list[Path]:
    """The unet in two files and an index."""
    tensors = load_file(unet_file(folder))
    unet_file(folder).unlink()
    names = sorted(tensors)
    weight_map = {}
    files = []
    for i, some in enumerate((names[::2], names[1::2]), 1):
        files.append(folder / "unet" / f"diffusion_pytorch_model-{i:05d}-of-00002.safetensors")
        save_file({name: tensors[name] for name in some}, files[-1], {"format": "pt"})
        weight_map |= dict.fromkeys(some, files[-1].name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return files


def test_shards_are_read_and_a_missing_one_is_named(sd: Path, copy: Path) -> None:
    files = sharded(copy)
    assert torch.equal(predicted(copy), predicted(sd))
    files[1].unlink()
    refused(copy, f"lacks {files[1].name}")


def test_the_fp16_variant_is_used_where_there_is_no_other(copy: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(unet_file(copy)).items()}
    save_file({name: tensor.float() for name, tensor in tensors.items()}, unet_file(copy), {"format": "pt"})
    expected = dict(open_prior(str(copy)).network.named_parameters())
    unet_file(copy).unlink()
    save_file(tensors, copy / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    encoder = copy / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    prior = open_prior(str(copy))
    assert all(torch.equal(weight, expected[name]) for name, weight in prior.network.named_parameters())
    prior.encode_text(["a"])


def test_a_pickle_is_refused_with_the_way_to_convert_it(copy: Path) -> None:
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    unet_file(copy).unlink()
    refused(copy, "diffusion_pytorch_model.bin, a pickle", "save_pretrained")


# Folders of another kind.


def lora(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    save_file({"x.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")


def run(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text("method: finetune")


def controlnet(folder: Path) -> None:
    (folder / "config.json").write_text('{"_class_name": "ControlNetModel"}')


def transformers_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')


def one_file(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")


def one_deeper(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "model_index.json").write_text("{}")


def pickled(folder: Path) -> None:
    (folder / "v1-5.ckpt").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lora, ["adapter (LoRA)", "--adapters", "--start-from"]),
        (run, ["is a run folder", "--start-from"]),
        (controlnet, ["one part of a model, a ControlNetModel"]),
        (transformers_model, ["LlamaForCausalLM of transformers"]),
        (one_file, ["no model_index.json", "give the file: ", "model.safetensors"]),
        (one_deeper, ["no model_index.json", "inner"]),
        (pickled, ["v1-5.ckpt is not read"]),
        (lambda folder: None, ["no model_index.json"]),
    ],
)
def test_what_a_folder_is_instead(tmp_path: Path, make: Callable[[Path], None], says: list[str]) -> None:
    make(tmp_path)
    refused(tmp_path, *says)


def test_a_part_of_a_folder_names_the_folder(sd: Path) -> None:
    refused(sd / "unet", "one part of a model, a UNet2DConditionModel", f"give {sd}")


def test_an_inpainting_unet_is_refused(copy: Path) -> None:
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    refused(copy, "inpainting", loading=META)


def test_an_unknown_denoiser_is_refused(copy: Path) -> None:
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DConditionModel", "UNetSpatioTemporalConditionModel"))
    refused(copy, "UNetSpatioTemporalConditionModel, of no known family")


# What sizes are asked for needs no weights.


@pytest.mark.parametrize("family", ["sd", "flux2_klein", "z_image", "qwen_image"])
def test_sizes_need_no_weights(sd: Path, tmp_path: Path, family: str) -> None:
    folder = shutil.copytree(sd, tmp_path / "sd") if family == "sd" else family_folder(tmp_path / family, family)
    whole = open_prior(str(folder))
    for file in Path(folder).rglob("*.safetensors"):
        file.unlink()
    prior = open_prior(str(folder), META)
    assert (prior.image_px, prior.latent_CHW, prior.num_tokens) == (whole.image_px, whole.latent_CHW, whole.num_tokens)
    assert prior.count_tokens("a fox") == whole.count_tokens("a fox")
    refused(folder, "has no weights")


# The hub.


@pytest.fixture
def cache(tmp_path: Path, sd: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as huggingface_hub lays it out, with 'artist/fox' at two revisions, of which one lacks its unet."""
    repository = tmp_path / "hub" / "models--artist--fox"
    (repository / "refs").mkdir(parents=True)
    for revision, commit in (("main", "a" * 40), ("old", "b" * 40)):
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(sd, repository / "snapshots" / commit)
    shutil.rmtree(repository / "snapshots" / ("b" * 40) / "unet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_name_is_read_from_the_cache_without_a_network(cache: Path, sd: Path) -> None:
    assert torch.equal(predicted("artist/fox"), predicted(sd))
    assert torch.equal(predicted("artist/fox@main"), predicted(sd))
    assert open_prior("artist/fox", META).image_px == 16


def test_a_part_that_the_cache_lacks_is_named(cache: Path) -> None:
    refused("artist/fox@old", "has no unet/")


def test_neither_cached_nor_a_network(cache: Path) -> None:
    refused("artist/wolf", "there is no folder artist/wolf, and the hub cannot be asked", "hf download artist/wolf")
    refused("artist/fox@other", "the hub cannot be asked")


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError])  # the hub's own library knows many others
def test_no_network_is_no_crash(cache: Path, sd: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Offline by accident rather than by HF_HUB_OFFLINE: the address cannot be reached."""

    def unreachable(*_: object, **__: object) -> None:
        raise error("Name or service not known")

    monkeypatch.setattr(hub, "list_repo_files", unreachable)
    assert torch.equal(predicted("artist/fox"), predicted(sd))
    refused("artist/wolf", "the hub cannot be asked: Name or service not known")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (GatedRepoError, ["accepted its licence", "https://huggingface.co/artist/fox", "hf auth login"]),
        (RepositoryNotFoundError, ["there is no folder artist/fox, and no model", "hf auth login"]),
    ],
)
def test_a_repository_that_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], says: list[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error.__new__(error)

    monkeypatch.setattr(hub, "list_repo_files", refuse)
    refused("artist/fox", *says)


def test_a_repository_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "list_repo_files", lambda *_, **__: ["README.md", "fox.safetensors"])
    refused("artist/fox", "is no diffusers model", "hf download artist/fox fox.safetensors")


REPOSITORY = """README.md model_index.json fox.safetensors fox.ckpt
unet/config.json unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.non_ema.safetensors unet/model.onnx unet/model.onnx_data
unet/openvino_model.xml unet/openvino_model.bin unet/diffusion_flax_model.msgpack
text_encoder/config.json text_encoder/model.fp16.safetensors text_encoder/pytorch_model.bin
text_encoder_3/config.json text_encoder_3/model-00001-of-00002.safetensors
text_encoder_3/model-00002-of-00002.safetensors text_encoder_3/model.safetensors.index.json
text_encoder_3/model.fp16-00001-of-00002.safetensors text_encoder_3/model.safetensors.index.fp16.json
vae/config.json vae/diffusion_pytorch_model.bin
tokenizer/vocab.json tokenizer/merges.txt tokenizer/chat_template.jinja tokenizer_3/spiece.model
scheduler/scheduler_config.json safety_checker/config.json safety_checker/model.safetensors
feature_extractor/preprocessor_config.json image_encoder/model.safetensors vae_1_0/diffusion_pytorch_model.safetensors
unet/old/diffusion_pytorch_model.safetensors
"""
SETTINGS = """model_index.json unet/config.json text_encoder/config.json text_encoder_3/config.json vae/config.json
tokenizer/vocab.json tokenizer/merges.txt tokenizer/chat_template.jinja tokenizer_3/spiece.model
scheduler/scheduler_config.json"""


WEIGHTS = """unet/diffusion_pytorch_model.safetensors text_encoder/model.fp16.safetensors
text_encoder_3/model-00001-of-00002.safetensors text_encoder_3/model-00002-of-00002.safetensors
text_encoder_3/model.safetensors.index.json"""


def test_of_a_repository_only_what_is_used_is_fetched() -> None:
    there, settings = REPOSITORY.split(), set(SETTINGS.split())
    assert set(hub.wanted(there)) == settings | set(WEIGHTS.split())
    assert set(hub.wanted(there, ())) == settings
    assert set(hub.wanted(there, ("unet",))) == settings | {"unet/diffusion_pytorch_model.safetensors"}
