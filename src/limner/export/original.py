"""A whole network in its authors' layout: one file that ComfyUI, kohya's trainers and ``from_single_file`` read.

Stable Diffusion and SDXL carry their autoencoder and text encoders in it, as their checkpoints always did. Of the
transformer families the file holds the transformer alone, which is how their authors publish it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import ExportError
from limner.priors.names import Home, homes

Tensors = dict[str, Tensor]

OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
AUTOENCODER = [  # diffusers' name, the original's; the decoder's levels are counted from the other end
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.", r"decoder.up.\1.block."),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
]


def network_tensors(family: str, network: nn.Module) -> Tensors:
    """The network's weights under the original names, fused where the original fuses.

    Raises:
        ExportError: the original layout has no place for one of its modules.
    """
    state = network.state_dict()
    places = homes(family, dict.fromkeys(name.rpartition(".")[0] for name in state))
    fused: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        place = places[module]
        if place.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        fused.setdefault(_name(place, leaf), {})[place.part] = tensor
    return {
        name: torch.cat([parts[part] for part in sorted(parts)]) if len(parts) > 1 else next(iter(parts.values()))
        for name, parts in fused.items()
    }


def _name(place: Home, leaf: str) -> str:
    if place.module.endswith(("query_norm", "key_norm")):
        leaf = "scale"
    return f"{place.module}.{leaf}" if place.module else leaf


def checkpoint_tensors(family: str, network: nn.Module, part: Callable[[str], Any]) -> Tensors:
    """What the one file holds.

    Args:
        part: gives the frozen modules of the pipeline by their names there.

    Raises:
        ExportError: a part that the layout has no place for.
    """
    own = network_tensors(family, network)
    if family not in ("sd", "sdxl"):
        return own
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in own.items()}
    tensors |= {f"first_stage_model.{name}": tensor for name, tensor in autoencoder_tensors(part("vae")).items()}
    text = part("text_encoder")
    if family == "sdxl":
        tensors |= _prefixed("conditioner.embedders.0.transformer", clip_tensors(text))
        return tensors | _prefixed("conditioner.embedders.1.model", open_clip_tensors(part("text_encoder_2")))
    if text.config.hidden_act == "gelu" and text.config.hidden_size == 1024:  # OpenCLIP's ViT-H, of version 2
        return tensors | _prefixed("cond_stage_model.model", open_clip_tensors(text))
    return tensors | _prefixed("cond_stage_model.transformer", clip_tensors(text))


def autoencoder_tensors(vae: Any) -> Tensors:
    """An AutoencoderKL in latent-diffusion's names; its attention is of 1 x 1 convolutions there."""
    if type(vae).__name__ != "AutoencoderKL":
        raise ExportError(
            f"the original layout has no place for an autoencoder of the kind {type(vae).__name__}.",
            "use --to diffusers",
        )
    last = len(vae.config.block_out_channels) - 1
    tensors = {}
    for name, tensor in vae.state_dict().items():
        for ours, theirs in AUTOENCODER:
            name = re.sub(ours, theirs, name)
        name = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{last - int(found[1])}.", name)
        is_projection = ".attn_1." in name and ".norm." not in name and tensor.ndim == 2
        tensors[name] = tensor[..., None, None] if is_projection else tensor
    return tensors


def clip_tensors(text: nn.Module) -> Tensors:
    """A CLIP text model as OpenAI's and transformers' checkpoints name it."""
    return {f"text_model.{name}": tensor for name, tensor in _text_state(text).items() if "projection" not in name}


def open_clip_tensors(text: Any) -> Tensors:
    """A CLIP text model in OpenCLIP's names, with queries, keys and values in one matrix."""
    state = _text_state(text)
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        tensors["text_projection"] = state["text_projection.weight"].T
    num_layers = text.config.num_hidden_layers
    for i in range(num_layers):
        own = f"encoder.layers.{i}"
        block = f"transformer.resblocks.{i}"
        for leaf in ("weight", "bias"):
            parts = [state[f"{own}.self_attn.{which}_proj.{leaf}"] for which in "qkv"]
            tensors[f"{block}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for ours, theirs in OPEN_CLIP.items():
                tensors[f"{block}.{theirs}.{leaf}"] = state[f"{own}.{ours}.{leaf}"]
    if num_layers == 23:  # version 2 reads the last layer but one, so diffusers left it out; readers look for it
        twins = {name.replace("resblocks.22.", "resblocks.23."): t for name, t in tensors.items() if ".22." in name}
        tensors |= {name: tensor.clone() for name, tensor in twins.items()}
    return tensors


def _text_state(text: nn.Module) -> Tensors:
    """The state of a CLIPTextModel(WithProjection) as transformers 5 names it, whichever wrote it.

    New words are left out: there is no room in the vocabulary, so they have files of their own.
    """
    state = {name: t for name, t in text.state_dict().items() if not name.endswith(("position_ids", "new_KD"))}
    return {name.removeprefix("text_model."): t for name, t in state.items()}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
