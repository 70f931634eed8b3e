"""Low-rank additions to a network, through peft: which layers, which kind, at which scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from limner.config import AdapterConfig


def adapt(network: nn.Module, config: AdapterConfig, default_targets: Sequence[str]) -> nn.Module:
    """The network with what shall learn marked by requires_grad: everything, or an adapter's weights alone."""
    network.requires_grad_(config.adapter == "full")
    if config.adapter == "full":
        return network
    from peft import LoraConfig, inject_adapter_in_model

    scale: Any = config.alpha or config.rank  # peft says int, and takes a float
    targets = list(config.adapter_targets or default_targets)
    return inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=scale, target_modules=targets), network)
