"""Additions to a network that learn in its place, through peft: which layers, which kind, at which scale.

``adapt`` puts one in, from zero or from a user's file; ``merge`` adds files to the weights for good; ``rescale`` makes
a trained one stronger or weaker.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from limner.config import AdapterConfig
from limner.errors import PriorError, did_you_mean
from limner.priors.lora_files import AdapterFile, read
from limner.priors.lora_layers import plain_layers
from limner.priors.lora_start import NAME, Start

# The attention of transformers, of pictures and text in one, as diffusers names its projections.
JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
# Of these, what is made of the text.
TEXT_KEYS = ("add_k_proj", "add_v_proj")
# The attention of a CLIP text encoder, as transformers names its projections.
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def adapt(network: nn.Module, config: AdapterConfig, default_targets: Sequence[str], family: str) -> nn.Module:
    """The network with what shall learn marked by requires_grad: everything, or an adapter's weights alone, in fp32.

    Its output does not change, unless the adapter starts from a file.

    Raises:
        PriorError: a target that is no layer, a layer that cannot have this kind of adapter, or a file that does not
            fit or is of another kind, rank or alpha than the configuration.
    """
    network.requires_grad_(config.adapter == "full")
    if config.adapter == "full":
        return network
    from peft import inject_adapter_in_model

    from limner.priors.lora_fused import fuse

    layers = plain_layers(network)
    options: dict[str, Any] = {}
    start = Start.of(read(config.start_from, network, family)) if config.start_from else None
    if start:
        start.refuse_another(config)
        targets, options = list(start.layers), start.options(layers)
    else:
        targets = targeted(layers, config.adapter_targets or default_targets)
    refuse_layers({name: layers[name] for name in targets}, config)
    inject_adapter_in_model(_peft_config(config, targets, options), network, NAME)
    for weight in network.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if start:
        start.fill(network)
    fuse(network)
    return network


def targeted(layers: Mapping[str, nn.Module], targets: Sequence[str]) -> list[str]:
    """The names of the layers that are, or end in, one of the targets.

    Raises:
        PriorError: a target that names none.
    """
    ends = {name: [name.split(".", i)[-1] for i in range(name.count(".") + 1)] for name in layers}
    for target in targets:
        if not any(target in own for own in ends.values()):
            usual = {end for own in ends.values() for end in own if not end.partition(".")[0].isdigit()}
            inner = [end for end in usual if end.startswith(f"{target}.")]
            hint = did_you_mean(target, inner or {end for end in usual if end.count(".") < 3})
            raise PriorError(f"adapter_targets: no layer of the network is called '{target}'.", hint)
    return [name for name, own in ends.items() if not {*own}.isdisjoint(targets)]


def refuse_layers(layers: Mapping[str, nn.Module], config: AdapterConfig) -> None:
    """Stop at a layer that peft would break, or would change the meaning of the rank for.

    Raises:
        PriorError: names the layer.
    """
    kind = config.adapter
    for name, layer in layers.items():
        if quantised(layer) and kind in ("lokr", "loha"):
            raise PriorError(
                f"'{name}' is quantised, and {kind} needs whole weights.", "take base_precision bf16, or lora or oft"
            )
        if kind == "dora" and type(layer.weight).__name__ == "Int8Params" and str(layer.weight.device) == "cpu":
            # peft moves the weight to where it is already, and bitsandbytes loses its scales there.
            raise PriorError("dora over int8 weights does not run on a CPU.", "take base_precision nf4, or lora")
        if kind == "oft" and isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            raise PriorError(
                f"'{name}' is a convolution of {layer.kernel_size[0]} x {layer.kernel_size[1]}, which oft cannot turn.",
                "leave it out of adapter_targets, or take lora",
            )
    if kind != "oft":
        return
    inputs = {name: _num_inputs(layer) for name, layer in layers.items()}
    odd = [name for name, num in inputs.items() if config.rank == 1 or num % config.rank]
    if odd:
        common = math.gcd(*inputs.values())
        fit = [side for side in range(2, min(common, 128) + 1) if common % side == 0]
        raise PriorError(
            f"oft turns blocks of rank {config.rank}, which must be above 1 and divide the {inputs[odd[0]]} inputs of "
            f"'{odd[0]}'.",
            f"ranks that fit all layers: {', '.join(map(str, fit)) or 'none'}",
        )


def quantised(layer: nn.Module) -> bool:
    """Whether a layer's weight is held in something else than plain numbers, or will be once it is on its device."""
    return type(layer.weight) is not nn.Parameter


def _num_inputs(layer: nn.Module) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels  # type: ignore[return-value]


def _peft_config(config: AdapterConfig, targets: list[str], options: dict[str, Any]) -> Any:
    """The configuration of peft for a kind, a rank and the very names of the layers."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig

    scale: Any = config.alpha or config.rank  # peft says int, and takes a float
    if config.adapter == "oft":
        return OFTConfig(r=0, oft_block_size=config.rank, target_modules=targets, **options)
    if config.adapter in ("loha", "lokr"):
        kind = LoHaConfig if config.adapter == "loha" else LoKrConfig
        return kind(r=config.rank, alpha=scale, target_modules=targets, **options)
    return LoraConfig(r=config.rank, lora_alpha=scale, target_modules=targets, use_dora=config.adapter == "dora")


@torch.no_grad()
def merge(network: nn.Module, files: Sequence[tuple[AdapterFile, float]]) -> None:
    """Add adapters, each times its scale, to the weights, below any adapter that the network has.

    All are measured against the weights as they are now, so their order does not matter. Of what is not linear in the
    scale (DoRA, OFT) the whole change is multiplied: half of it leads half of the way.

    Raises:
        PriorError: a layer that is quantised, or a file with numbers that are not finite.
    """
    layers = plain_layers(network)
    for name in {name: None for file, _ in files for name in file.layers}:
        weight: Any = layers[name].weight.data
        if not weight.is_floating_point():
            raise PriorError(f"'{name}' is quantised, so nothing can be added to it.", "take base_precision bf16")
        whole = weight.float()
        for file, scale in files:
            if name not in file.layers:
                continue
            delta = file.layers[name].delta(weight)
            if not delta.isfinite().all():
                raise PriorError(f"{file.path}: what it adds to '{name}' is not finite.", "fetch the file again")
            whole = whole + scale * delta
        weight.copy_(whole)


@torch.no_grad()
def rescale(network: nn.Module, scale: float) -> None:
    """Make the adapter that a network has weaker or stronger: 0 is without it, 1 as it was trained.

    Raises:
        PriorError: the network has none, or one whose change is not linear in the scale over quantised weights.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned: list[Any] = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    if not tuned:
        raise PriorError("there is no adapter to scale: every weight was trained.", "leave --scale out")
    config: Any = network.peft_config[NAME]  # type: ignore[index]
    linear = config.peft_type.value != "OFT" and not getattr(config, "use_dora", False)
    for layer in tuned:
        if linear:
            layer.scale_layer(scale)
            continue
        base = layer.get_base_layer()
        if quantised(base):
            raise PriorError("a DoRA or OFT over quantised weights cannot be scaled.", "leave --scale out")
        before = base.weight.clone()
        layer.merge()
        base.weight.copy_(before + scale * (base.weight - before))


@contextlib.contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Within, the network computes without its adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in tuned:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in tuned:
            layer.enable_adapters(True)


def summary(network: nn.Module, config: AdapterConfig) -> str:
    """What learns, in one line: kind, layers, weights, rank and the scale that comes of it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    num_layers = sum(isinstance(layer, BaseTunerLayer) for layer in network.modules())
    learned = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in network.parameters() if not weight.requires_grad)
    for layer in plain_layers(network).values():  # nf4 keeps two weights in a byte
        if quantised(layer):
            frozen += layer.in_features * layer.out_features - layer.weight.numel()  # type: ignore[operator,assignment]
    strength = f"blocks of {config.rank}"
    if config.adapter != "oft":
        alpha = config.alpha or config.rank
        strength = f"rank {config.rank}, alpha {alpha:g}, scale {alpha / config.rank:g}"
    return f"{config.adapter}: {num_layers} layers, {_count(learned)} of {_count(frozen)} weights learn, {strength}"


def _count(num: int) -> str:
    return f"{num / 1e6:,.1f} M" if num >= 100_000 else f"{num:,}"
