"""Whole networks in the original layout, read by the stock ``from_single_file``: every weight comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from families import component, latents, network, pipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from limner.errors import ExportError
from limner.export.original import checkpoint_tensors, network_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:The configuration file of this scheduler"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]


def shaken(net: nn.Module) -> nn.Module:
    """As if it had been trained: no weight is what the base folder has."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)) * 0.02)
    return net


def write(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})
    return file


def same(ours: nn.Module, theirs: nn.Module) -> None:
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def eps_pipeline(folders: dict[str, Path], family: str, tmp_path: Path) -> tuple[Any, Path]:
    """Stable Diffusion's toy has a tiny autoencoder, which has no original layout; here it gets a plain one."""
    pipe = pipeline(folders[family])
    if family == "sd":
        pipe.vae = type(pipeline(folders["sdxl"]).vae).from_pretrained(folders["sdxl"] / "vae")
        pipe.register_modules(vae=pipe.vae)
        pipe.save_pretrained(tmp_path / "base")
        return pipe, tmp_path / "base"
    return pipe, folders[family]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_checkpoint_is_read_with_all_its_parts(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    pipe, base = eps_pipeline(folders, family, tmp_path)
    shaken(pipe.unet)
    shaken(pipe.vae)
    shaken(pipe.text_encoder)
    if family == "sdxl":
        shaken(pipe.text_encoder_2)
    tensors = checkpoint_tensors(family, pipe.unet, lambda part: getattr(pipe, part))
    file = write(tmp_path / "model.safetensors", tensors)
    read = type(pipe).from_single_file(file, config=str(base), local_files_only=True)
    read.set_progress_bar_config(disable=True)
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if family == "sdxl" else [])):
        same(getattr(pipe, part), getattr(read, part))
    torch.testing.assert_close(latents(read), latents(pipe), atol=1e-3, rtol=1e-3)  # the same sums in another order


@pytest.mark.parametrize("family", ["sd3", "flux2", "z_image", "qwen_image"])
def test_a_transformer_is_read(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    net = shaken(network(pipeline(folders[family]), family))
    file = write(tmp_path / "model.safetensors", network_tensors(family, net))
    config = str(folders[family] / component(family))
    read = type(net).from_single_file(file, config=config, local_files_only=True)
    same(net, read)


def test_flux_at_its_true_widths() -> None:
    """diffusers' converter knows FLUX.1 by its widths alone; on the meta device they weigh nothing."""
    with torch.device("meta"):
        net = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    read = convert_flux_transformer_checkpoint_to_diffusers(network_tensors("flux", net))
    shapes = {name: weight.shape for name, weight in net.state_dict().items()}
    assert {name: weight.shape for name, weight in read.items()} == shapes


def test_the_text_encoder_of_version_2_is_open_clips(folders: dict[str, Path], tmp_path: Path) -> None:
    pipe, base = eps_pipeline(folders, "sd", tmp_path)
    sizes = {"hidden_size": 1024, "intermediate_size": 64, "num_attention_heads": 4, "hidden_act": "gelu"}
    pipe.text_encoder = CLIPTextModel(CLIPTextConfig(**{**pipe.text_encoder.config.to_dict(), **sizes}))
    pipe.text_encoder.save_pretrained(base / "text_encoder")
    tensors = checkpoint_tensors("sd", pipe.unet, lambda part: getattr(pipe, part))
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in tensors
    file = write(tmp_path / "model.safetensors", tensors)
    read = type(pipe).from_single_file(file, config=str(base), local_files_only=True)
    same(pipe.text_encoder, read.text_encoder)


def test_a_tiny_autoencoder_has_no_place(folders: dict[str, Path]) -> None:
    pipe = pipeline(folders["sd"])
    with pytest.raises(ExportError, match="AutoencoderTiny"):
        checkpoint_tensors("sd", pipe.unet, lambda part: getattr(pipe, part))
