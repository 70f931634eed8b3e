"""Toy pipelines of every family with a trained-looking adapter in their network, for the tests of export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, inject_adapter_in_model
from torch import nn

from limner.export.adapter import Adapter, adapter_of

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff.linear_in", "ff_context.linear_out"]
FEED_FORWARD += [
    "feed_forward.w1",
    "feed_forward.w2",
    "proj_mlp",
    "attn.to_qkv_mlp_proj",
    "single_transformer_blocks.0.attn.to_out",
]
FEED_FORWARD += ["proj_in"]
FEED_FORWARD += ["img_mlp.net.0.proj", "txt_mlp.net.2"]
PARTS = ("lora_A", "lora_B", "lora_magnitude", "lokr_", "hada_", "oft_")
COMPONENT = {"sd": "unet", "sdxl": "unet"}


def pipeline(folder: Path) -> Any:
    """The stock pipeline of a folder, in fp32 and silent."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def component(family: str) -> str:
    return COMPONENT.get(family, "transformer")


def network(pipe: Any, family: str) -> nn.Module:
    return getattr(pipe, component(family))


def facts(net: nn.Module) -> tuple[Callable[[str], int], list[str]]:
    """(number of outputs of a module, all modules that own weights), as if there were no adapter."""
    own = {name.replace(".base_layer.", "."): weight for name, weight in net.named_parameters()}
    plain = {name: weight for name, weight in own.items() if not any(part in name for part in PARTS)}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in plain))
    return lambda module: len(plain[f"{module}.weight"]), modules


def adapt(net: nn.Module, kind: str, targets: list[str], rank: int = 3, alpha: float = 2.0) -> None:
    """Inject an adapter of random weights, none of them zero."""
    config: Any
    if kind in ("lora", "dora"):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, use_dora=kind == "dora")  # type: ignore[arg-type]
    elif kind == "lokr":
        config = LoKrConfig(r=rank, alpha=alpha, target_modules=targets)  # type: ignore[arg-type]
    elif kind == "loha":
        config = LoHaConfig(r=rank, alpha=alpha, target_modules=targets)  # type: ignore[arg-type]
    else:
        config = OFTConfig(r=0, oft_block_size=4, target_modules=targets)
    inject_adapter_in_model(config, net)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "magnitude" in name:
                weight.mul_(torch.rand(weight.shape, generator=generator) + 0.5)
            elif any(part in name for part in PARTS):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)


def adapter(net: nn.Module, family: str) -> Adapter:
    return adapter_of(net, component(family))


def deltas(net: nn.Module) -> dict[str, torch.Tensor]:
    """What each adapted module adds to its weight."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    for name, module in net.named_modules():
        if isinstance(module, BaseTunerLayer):
            active = module.active_adapters[0]
            found[name] = module.get_delta_weight(active).detach()
    return found


def effective(net: nn.Module) -> dict[str, torch.Tensor]:
    """The weight that each adapted module acts by."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    for name, module in net.named_modules():
        if isinstance(module, BaseTunerLayer):
            one = copy.deepcopy(module)
            one.merge()
            found[name] = one.get_base_layer().weight.detach()
    return found


def latents(pipe: Any) -> torch.Tensor:
    """What the pipeline makes in two steps, before decoding."""
    made = pipe(
        prompt="a fox",
        guidance_scale=1.0,
        height=16,
        width=16,
        num_inference_steps=2,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
    )
    return made.images
