"""A prior in one safetensors file does what its diffusers folder does, bit for bit, or a sentence says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny import prior_folder
from tiny_families import family_folder
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from limner.errors import ConfigError, PriorError
from limner.export.original import autoencoder_tensors, checkpoint_tensors, clip_tensors, network_tensors
from limner.priors.base import Prior
from limner.priors.folder import DiffusersFolder, Loading
from limner.priors.open import open_prior
from limner.priors.paths import Eps, V
from limner.priors.single_file import SafetensorsFile

META = Loading(meta=True)
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sd has a plain autoencoder here; sd2 is its like with OpenCLIP's text encoder."""
    root = tmp_path_factory.mktemp("single")
    made = {family: family_folder(root / family, family) for family in ("sdxl", "sd3", "flux", "z_image", "qwen_image")}
    made["sd"] = prior_folder(root / "sd", "eps")
    shutil.rmtree(made["sd"] / "vae")
    shutil.copytree(made["sdxl"] / "vae", made["sd"] / "vae")
    index = json.loads((made["sd"] / "model_index.json").read_text())
    (made["sd"] / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderKL"]}))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write(file: Path, tensors: Tensors, **about: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt", **about})
    return file


def parts_of(folder: Path) -> dict[str, Any]:
    """All modules of a folder, in fp32."""
    diffusers_folder = DiffusersFolder(folder)
    return {part: diffusers_folder.part(part)() for part in diffusers_folder.models()}


def checkpoint(folder: Path, family: str) -> Tensors:
    """The whole prior as its authors or ComfyUI publish it."""
    parts = parts_of(folder)
    net = parts.get("unet") or parts["transformer"]
    if family in ("sd", "sdxl"):
        return checkpoint_tensors(family, net, parts.__getitem__)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in network_tensors(family, net).items()}
    return tensors | {f"first_stage_model.{name}": each for name, each in autoencoder_tensors(parts["vae"]).items()}


def with_texts(tensors: Tensors, folder: Path) -> Tensors:
    """SD3's three text encoders beside the rest."""
    parts = parts_of(folder)
    for name, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        own = clip_tensors(parts[part]) | {"text_projection.weight": parts[part].text_projection.weight.data}
        tensors |= {f"text_encoders.{name}.transformer.{key}": tensor for key, tensor in own.items()}
    t5 = {name: tensor for name, tensor in parts["text_encoder_3"].state_dict().items() if "embed_tokens" not in name}
    return tensors | {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.items()}


def same(ours: Prior, theirs: Prior) -> None:
    """Every weight, and what is made with them."""
    for left, right in [
        (ours.network, theirs.network),
        *((ours.parts[n], theirs.parts[n]) for n in ours.parts._loaders),
    ]:
        assert_equal(left, right)
    x_BCHW = torch.rand(1, 3, ours.image_px, ours.image_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for prior in (ours, theirs):  # weights in a memory map may lie otherwise, and sums then run otherwise
            for module in (prior.network, *(prior.parts[name] for name in prior.parts._loaders)):
                for weight in module.parameters():
                    weight.data = weight.data.clone()
        z = ours.encode_image(x_BCHW)[0]
        assert torch.equal(z, theirs.encode_image(x_BCHW)[0])
        assert torch.equal(ours.decode(z), theirs.decode(z))
        told = [prior.encode_text(["a red fox", ""]) for prior in (ours, theirs)]
        t_B = torch.tensor([0.3, 0.8])
        made = [
            prior.predict(z.repeat(2, 1, 1, 1), t_B, cond) for prior, cond in zip((ours, theirs), told, strict=True)
        ]
        assert torch.equal(*made)


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def open_file(file: Path, base: Path | None, store: Path, loading: Loading | None = None) -> Prior:
    return open_prior(str(file), loading or Loading(), None if base is None else str(base), store)


def settings_of(folder: Path, to: Path) -> Path:
    """A base without weights."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_checkpoint_is_the_folder(folders: dict[str, Path], tmp_path: Path, store: Path, family: str) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders[family], family))
    same(open_file(file, settings_of(folders[family], tmp_path / "base"), store), open_prior(str(folders[family])))


@pytest.mark.parametrize("texts", [True, False])
def test_sd3_with_its_text_encoders_and_without(
    folders: dict[str, Path], tmp_path: Path, store: Path, texts: bool
) -> None:
    tensors = checkpoint(folders["sd3"], "sd3")
    base = folders["sd3"]
    if texts:
        tensors, base = with_texts(tensors, base), settings_of(base, tmp_path / "base")
    same(open_file(write(tmp_path / "model.safetensors", tensors), base, store), open_prior(str(folders["sd3"])))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("family", ["sd", "sd3", "flux", "z_image", "qwen_image"])
def test_a_denoiser_alone_in_the_layout_of_diffusers(
    folders: dict[str, Path], tmp_path: Path, store: Path, family: str, prefix: str
) -> None:
    parts = parts_of(folders[family])
    net = parts.get("unet") or parts["transformer"]
    file = write(tmp_path / "net.safetensors", {prefix + name: each for name, each in net.state_dict().items()})
    assert_equal(open_file(file, folders[family], store).network, net)


@pytest.mark.parametrize("family", ["sd3", "z_image", "qwen_image"])
def test_a_denoiser_alone_in_its_authors_layout(
    folders: dict[str, Path], tmp_path: Path, store: Path, family: str
) -> None:
    net = parts_of(folders[family])["transformer"]
    file = write(tmp_path / "net.safetensors", network_tensors(family, net))
    assert_equal(open_file(file, folders[family], store).network, net)


def test_the_text_encoder_of_version_2_is_open_clips(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    base = Path(shutil.copytree(folders["sd"], tmp_path / "base"))
    tokens = CLIPTextConfig.from_pretrained(base / "text_encoder").to_dict()
    sizes = {"hidden_size": 1024, "intermediate_size": 64, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = CLIPTextModel(CLIPTextConfig(**{**tokens, **sizes}))
    text.save_pretrained(base / "text_encoder")
    file = write(tmp_path / "model.safetensors", checkpoint(base, "sd"))
    assert "cond_stage_model.model.token_embedding.weight" in load_file(file)
    assert_equal(open_file(file, base, store).parts["text_encoder"], text)


@pytest.mark.slow
def test_flux_in_its_authors_layout(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    """At its true width, which diffusers' converter takes for granted: 0.5 billion weights."""
    torch.manual_seed(0)
    base = Path(shutil.copytree(folders["flux"], tmp_path / "base"))
    net = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True).bfloat16()
    net.save_config(base / "transformer")
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in network_tensors("flux", net).items()}
    file = write(tmp_path / "net.safetensors", tensors)
    opened = open_file(file, base, store, Loading(network="bf16", text="bf16"))
    assert_equal(opened.network, net)


def test_half_precision_and_8_bits_are_read(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    tensors = checkpoint(folders["sd"], "sd")
    for dtype, kept in ((torch.float16, torch.float16), (torch.float8_e4m3fn, torch.bfloat16)):
        file = write(tmp_path / f"{dtype}.safetensors", {name: tensor.to(dtype) for name, tensor in tensors.items()})
        prior = open_file(file, folders["sd"], store)
        weight = prior.network.get_submodule("mid_block.resnets.0.conv1").weight
        expected = tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"].to(dtype).float()
        assert torch.equal(weight, expected)
        stored = load_file(prior.source / "unet" / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {kept}


# The folder that a file becomes.


def test_it_is_made_once_and_for_each_content(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    tensors = checkpoint(folders["sd"], "sd")
    file = write(tmp_path / "model.safetensors", tensors)
    first = open_file(file, folders["sd"], store).source
    when = (first / "model_index.json").stat().st_mtime_ns
    assert open_file(file, folders["sd"], store).source == first
    assert (first / "model_index.json").stat().st_mtime_ns == when
    about = file.stat()
    write(file, {**tensors, "model.diffusion_model.out.2.bias": torch.ones(4)})
    assert file.stat().st_size == about.st_size
    second = open_file(file, folders["sd"], store)
    assert second.source != first
    assert torch.equal(second.network.get_submodule("conv_out").bias, torch.ones(4))


def test_what_a_killed_process_left_is_no_folder(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    made = open_file(file, folders["sd"], store).source
    left = made.rename(made.with_name(f"{made.name}.making"))
    (left / "model_index.json").unlink()
    assert open_file(file, folders["sd"], store).source == made
    assert not left.exists()


def test_a_full_disk(folders: dict[str, Path], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(PriorError, match="No space left on device") as caught:
        open_file(file, folders["sd"], store)
    assert "LIMNER_CACHE" in caught.value.hint
    assert not [path for path in store.iterdir() if path.is_dir()]


def test_sizes_are_the_bases_and_nothing_is_made(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    prior = open_file(file, settings_of(folders["sd"], tmp_path / "base"), store, META)
    assert prior.latent_CHW == open_prior(str(folders["sd"]), META).latent_CHW
    assert not store.exists()


# What it predicts.


def sd2(folder: Path, tensors: Tensors) -> Tensors:
    """The mark by which diffusers knows version 2: text tokens of 1024 numbers."""
    name = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    return {**tensors, name: torch.zeros(8, 1024)}


@pytest.mark.parametrize(
    ("mark", "about", "kind"),
    [
        ({}, {}, Eps),
        ({"v_pred": torch.tensor([])}, {}, V),
        ({}, {"modelspec.prediction_type": "v"}, V),
        ({}, {"modelspec.prediction_type": "epsilon"}, Eps),
    ],
)
def test_what_the_file_says_of_its_prediction_counts(
    folders: dict[str, Path], tmp_path: Path, store: Path, mark: Tensors, about: dict[str, str], kind: type
) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd") | mark, **about)
    assert type(open_file(file, folders["sd"], store).path) is kind


def test_the_bases_scheduler_says_it_where_the_file_does_not(
    folders: dict[str, Path], tmp_path: Path, store: Path
) -> None:
    base = Path(shutil.copytree(folders["sd"], tmp_path / "base"))
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"epsilon"', '"v_prediction"'))
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    assert type(open_file(file, base, store).path) is V


def test_version_2_that_does_not_say_it_is_refused(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    tensors = sd2(folders["sd"], checkpoint(folders["sd"], "sd"))
    file = write(tmp_path / "model.safetensors", tensors)
    refused(file, None, store, "Stable Diffusion 2 and does not say whether it predicts eps or v", "prior_config")
    stated = write(tmp_path / "stated.safetensors", tensors, **{"modelspec.prediction_type": "v"})
    assert SafetensorsFile(stated).kind() == "v2"
    refused(stated, None, store, "stable-diffusion-2", "the hub cannot be asked")


# The base.


def refused(file: Path, base: Path | None, store: Path, *says: str) -> None:
    with pytest.raises(PriorError) as caught:
        open_file(file, base, store)
    told = f"{caught.value} {caught.value.hint}"
    for each in says:
        assert each in told, told


def marked(name: str, *shape: int) -> Tensors:
    """A toy that has the mark by which diffusers knows a kind, at its true size where that counts."""
    return {f"model.diffusion_model.{name}": torch.zeros(*shape)}


@pytest.mark.parametrize(
    ("tensors", "repository"),
    [
        (marked("input_blocks.0.0.weight", 320, 4, 3, 3), "stable-diffusion-v1-5"),
        (
            {
                **marked("input_blocks.0.0.weight", 320, 4, 3, 3),
                "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1),
            },
            "stable-diffusion-xl-base-1.0",
        ),
        (
            {
                **marked("joint_blocks.0.context_block.adaLN_modulation.1.bias", 9216),
                **marked("pos_embed", 1, 36864, 1),
            },
            "stable-diffusion-3-medium",
        ),
        (
            {
                **marked("joint_blocks.0.context_block.adaLN_modulation.1.bias", 9216),
                **marked("pos_embed", 1, 147456, 1),
            },
            "stable-diffusion-3.5-medium",
        ),
        (marked("joint_blocks.37.x_block.mlp.fc1.weight", 1), "stable-diffusion-3.5-large"),
        (marked("double_blocks.0.img_attn.norm.key_norm.scale", 1), "FLUX.1-schnell"),
        (
            {
                **marked("double_blocks.0.img_attn.norm.key_norm.scale", 1),
                **marked("guidance_in.in_layer.bias", 1),
                **marked("img_in.weight", 1, 64),
            },
            "FLUX.1-dev",
        ),
        (marked("layers.0.adaLN_modulation.0.weight", 1), "Z-Image-Turbo"),
    ],
)
def test_the_family_is_told_by_the_keys_and_its_base_is_asked_of_the_hub(
    tmp_path: Path, store: Path, tensors: Tensors, repository: str
) -> None:
    refused(
        write(tmp_path / "model.safetensors", tensors),
        None,
        store,
        repository,
        "the hub cannot be asked",
        "or give with prior_config",
    )


def test_a_base_from_the_hubs_cache(
    folders: dict[str, Path], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    settings_of(folders["sd"], repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    same(open_file(file, None, store), open_prior(str(folders["sd"])))
    given = open_prior(str(file), Loading(), "stable-diffusion-v1-5/stable-diffusion-v1-5", store)
    assert given.source == open_file(file, None, store).source


def test_what_neither_has_is_named(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    net = parts_of(folders["sd3"])["transformer"]
    file = write(tmp_path / "net.safetensors", network_tensors("sd3", net))
    base = settings_of(folders["sd3"], tmp_path / "base")
    refused(file, base, store, f"{file} has no text_encoder", f"{base / 'text_encoder'} has no weights", "prior_config")


def test_a_base_of_another_family(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    refused(file, folders["sdxl"], store, "does not fit")
    assert not [path for path in store.iterdir() if path.is_dir()]


def test_no_such_base(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    refused(file, tmp_path / "none", store, "prior_config: there is no folder")
    with pytest.raises(ConfigError, match="prior_config is for a prior in a single file"):
        open_prior(str(folders["sd"]), Loading(), str(folders["sd"]), store)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.diffusion_model.out.2.bias", "unet"),
        ("first_stage_model.decoder.conv_out.bias", "vae"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder"),
    ],
)
def test_a_missing_weight(folders: dict[str, Path], tmp_path: Path, store: Path, name: str, part: str) -> None:
    tensors = checkpoint(folders["sd"], "sd")
    del tensors[name]
    file = write(tmp_path / "model.safetensors", tensors)
    refused(file, folders["sd"], store, f"{file} lacks a weight of its {part}")


# Files of another kind.


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": 1},
            ["adapter (LoRA)", "--adapters", "--start-from"],
        ),
        ({"transformer.x.lora_A.weight": 1}, ["adapter (LoRA)"]),
        ({"lycoris_unet_mid_block.lokr_w1": 1}, ["adapter (LoRA)"]),
        ({"control_model.input_blocks.0.0.weight": 1}, ["a ControlNet"]),
        ({"emb_params": 1}, ["an embedding (textual inversion)"]),
        ({"encoder.conv_in.weight": 1, "decoder.conv_in.weight": 1}, ["an autoencoder alone"]),
        ({"text_model.embeddings.token_embedding.weight": 1}, ["a text encoder alone"]),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": 1, "shared.weight": 1}, ["a text encoder alone"]),
        (
            {"model.diffusion_model.x.weight": 1, "model.diffusion_model.x.scale_weight": 1},
            ["quantised already", "fp16"],
        ),
        ({"conv_in.weight": 1}, ["does not say of which family", "prior_config"]),
        ({"model.diffusion_model.input_blocks.0.0.weight": 9}, ["is a inpainting", "known: v1"]),
        ({"txtfusion.projector.weight": 1}, ["is a krea2, of no family for it"]),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, store: Path, tensors: dict[str, int], says: list[str]) -> None:
    made = {name: torch.zeros(1, num) for name, num in tensors.items()}
    refused(write(tmp_path / "x.safetensors", made), None, store, *says)


def test_a_file_within_a_folder_names_the_folder(folders: dict[str, Path], store: Path) -> None:
    refused(
        folders["sd"] / "unet" / "diffusion_pytorch_model.safetensors", None, store, f"give the folder: {folders['sd']}"
    )


def test_a_file_cut_short(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    file = write(tmp_path / "model.safetensors", checkpoint(folders["sd"], "sd"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(PriorError, match=r"model\.safetensors"):
        open_file(file, folders["sd"], store)


def test_a_pickle_is_refused(tmp_path: Path, store: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "v1-5.ckpt")
    refused(tmp_path / "v1-5.ckpt", None, store, "is no safetensors file")
