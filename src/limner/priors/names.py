"""Where a module of a diffusers network lies in the layout that its authors published, family by family.

Kohya's trainers, ComfyUI and single checkpoint files name modules as the original code did; diffusers renamed them,
split the fused projections (q, k, v) and, in the last norm, put scale before shift. The tables say it one way; read
from right to left they are the inverse. Sources: the converters in diffusers' ``loaders/single_file_utils.py``, and
the modules of kohya's sd-scripts.

In a table "x#1" is the second part, counted from the first row, of the fused module x; "~x" is x with swapped halves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from limner.errors import ExportError
from limner.priors.unet_names import unet_homes

Table = dict[str, str]


class Home(NamedTuple):
    """A place in the original layout: a module, which part of its rows, and whether their halves are swapped."""

    module: str
    part: int = 0
    swapped: bool = False


def _qkv(theirs: str, *ours: str) -> Table:
    return {module: f"{theirs}#{part}" for part, module in enumerate(ours)}


_FLUX_ATTENTION = {
    **_qkv("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    **_qkv("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_FLUX_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "~final_layer.adaLN_modulation.1",
}
_SD3_BLOCK = {
    **_qkv("x_block.attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    **_qkv("context_block.attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    **_qkv("x_block.attn2.qkv", "attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_Z_IMAGE_BLOCK = {
    **_qkv("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}

# Family -> (modules outside of blocks, {diffusers' blocks: (the original's blocks, modules within one)}).
# What a table leaves out has the same name in both.
TABLES: dict[str, tuple[Table, dict[str, tuple[str, Table]]]] = {
    "sd3": (
        {
            "pos_embed": "",  # a bare tensor there
            "pos_embed.proj": "x_embedder.proj",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "proj_out": "final_layer.linear",
            "norm_out.linear": "~final_layer.adaLN_modulation.1",
        },
        {"transformer_blocks": ("joint_blocks", _SD3_BLOCK)},
    ),
    "flux": (
        {
            **_FLUX_TOP,
            "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
            "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
            "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        },
        {
            "transformer_blocks": (
                "double_blocks",
                {
                    **_FLUX_ATTENTION,
                    "norm1.linear": "img_mod.lin",
                    "norm1_context.linear": "txt_mod.lin",
                    "ff.net.0.proj": "img_mlp.0",
                    "ff.net.2": "img_mlp.2",
                    "ff_context.net.0.proj": "txt_mlp.0",
                    "ff_context.net.2": "txt_mlp.2",
                },
            ),
            "single_transformer_blocks": (
                "single_blocks",
                {
                    **_qkv("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
                    "proj_out": "linear2",
                    "norm.linear": "modulation.lin",
                    "attn.norm_q": "norm.query_norm",
                    "attn.norm_k": "norm.key_norm",
                },
            ),
        },
    ),
    "flux2": (
        {
            **_FLUX_TOP,
            "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
            "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
            "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
            "single_stream_modulation.linear": "single_stream_modulation.lin",
        },
        {
            "transformer_blocks": (
                "double_blocks",
                {
                    **_FLUX_ATTENTION,
                    "ff.linear_in": "img_mlp.0",
                    "ff.linear_out": "img_mlp.2",
                    "ff_context.linear_in": "txt_mlp.0",
                    "ff_context.linear_out": "txt_mlp.2",
                },
            ),
            "single_transformer_blocks": (
                "single_blocks",
                {
                    "attn.to_qkv_mlp_proj": "linear1",
                    "attn.to_out": "linear2",
                    "attn.norm_q": "norm.query_norm",
                    "attn.norm_k": "norm.key_norm",
                },
            ),
        },
    ),
    "z_image": (
        {},
        {blocks: (blocks, _Z_IMAGE_BLOCK) for blocks in ("layers", "noise_refiner", "context_refiner")},
    ),
    "qwen_image": ({}, {}),
}


def homes(family: str, modules: Iterable[str]) -> dict[str, Home]:
    """Each module's place in the original layout. ``modules`` are all those of the network that own weights.

    Raises:
        ExportError: a module that the original layout has no place for.
    """
    modules = list(modules)
    if family in ("sd", "sdxl"):
        return {module: Home(place) for module, place in unet_homes(modules).items()}
    if family not in TABLES:
        raise ExportError(f"the original layout of the family '{family}' is not known.", "use --to diffusers")
    places = {module: _home(family, module) for module in modules}
    if family == "sd3":  # the last block's text half is normed as the network's end is
        last = max(int(module.split(".")[1]) for module in modules if module.startswith("transformer_blocks."))
        ends = f"transformer_blocks.{last}.norm1_context.linear"
        if ends in places:
            places[ends] = places[ends]._replace(swapped=True)
    return places


def _home(family: str, module: str) -> Home:
    top, blocks = TABLES[family]
    first, _, rest = module.partition(".")
    if first in blocks:
        number, _, within = rest.partition(".")
        theirs, table = blocks[first]
        return _parse(f"{theirs}.{number}.", table.get(within, within))
    if family == "z_image":  # one final layer and one embedder for each patch size; the original has the one
        module = re.sub(r"^all_(final_layer|x_embedder)\.2-1", r"\1", module)
    return _parse("", top.get(module, module))


def _parse(prefix: str, entry: str) -> Home:
    name, _, part = entry.removeprefix("~").partition("#")
    return Home(prefix + name, int(part or 0), entry.startswith("~"))
