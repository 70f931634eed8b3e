"""The modules of a UNet2DConditionModel under the names of latent-diffusion and SGM (Stable Diffusion 1, 2 and XL).

There every resnet with its attention, and every change of resolution, is one entry of ``input_blocks`` or
``output_blocks``; the numbers therefore follow from how many of them a network has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from limner.errors import ExportError

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
PART = re.compile(r"((?:down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")


def unet_homes(modules: Iterable[str]) -> dict[str, str]:
    """Module of diffusers' -> module of the original.

    Raises:
        ExportError: a module that the original layout has no place for.
    """
    modules = list(modules)
    places = _places({part[0] for module in modules if (part := PART.match(module))})
    homes = {}
    for module in modules:
        part = PART.match(module)
        if part is None:
            if module not in TOP:
                raise ExportError(
                    f"the original layout of Stable Diffusion has no place for '{module}'.", "use --to diffusers"
                )
            homes[module] = TOP[module]
            continue
        within = module[part.end() + 1 :]
        if part[3] == "resnets":
            within = RESNET[within]
        elif part[3] == "downsamplers":
            within = "op"
        homes[module] = f"{places[part[0]]}.{within}"
    return homes


def _places(parts: set[str]) -> dict[str, str]:
    """'down_blocks.1.resnets.0' and its like -> 'input_blocks.4.0' and its like."""
    places = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1  # conv_in is 0
    for block in _blocks("down_blocks", parts):
        for i in range(len(_blocks(f"{block}.resnets", parts))):
            places[f"{block}.resnets.{i}"] = f"input_blocks.{number}.0"
            places[f"{block}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        if f"{block}.downsamplers.0" in parts:
            places[f"{block}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    number = 0
    for block in _blocks("up_blocks", parts):
        for i in range(len(_blocks(f"{block}.resnets", parts))):
            places[f"{block}.resnets.{i}"] = f"output_blocks.{number}.0"
            places[f"{block}.attentions.{i}"] = f"output_blocks.{number}.1"
            number += 1
        if f"{block}.upsamplers.0" in parts:
            after = 2 if f"{block}.attentions.0" in parts else 1
            places[f"{block}.upsamplers.0"] = f"output_blocks.{number - 1}.{after}"
    return places


def _blocks(stem: str, parts: set[str]) -> list[str]:
    """stem.0, stem.1, ... as far as there are any."""
    numbers = {int(part[len(stem) + 1 :].partition(".")[0]) for part in parts if part.startswith(f"{stem}.")}
    return [f"{stem}.{i}" for i in sorted(numbers)]
