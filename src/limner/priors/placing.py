"""Networks larger than an accelerator: blocks that visit it in their turn, or that are spread over several.

What learns stays where it is computed. A frozen weight lies in main memory; for the time that its block computes there
is a copy of it on the accelerator. In training each block is a checkpoint (Chen et al. 2016, arXiv 1604.06174): its
activations are computed again in the backward pass, for which its weights come a second time. Hooks that move weights
before and after a forward pass, as in diffusers and accelerate, are for inference: the backward pass would find the
weights of norms and convolutions gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from limner.config import PriorConfig
from limner.errors import ConfigError
from limner.priors.base import Prior


def place(prior: Prior, config: PriorConfig, device: torch.device) -> bool:
    """Move a prior to a device; True where its network has a way of its own, and shall not be moved as a whole."""
    if idle(config, device) or not (config.offload or config.device_map == "auto"):
        prior.to(device)
        return False
    prior.parts.to(device)
    if config.device_map == "auto":
        spread(prior.network)
    return True


def save_memory(prior: Prior, config: PriorConfig, device: torch.device) -> None:
    """What spares memory in training, once it is known what learns.

    Raises:
        ConfigError: offload, and no frozen weights.
    """
    offloaded = config.offload and not idle(config, device)
    if offloaded:
        offload(prior.network, device)
    modules: list[Any] = [prior.network] if not offloaded else []  # whose blocks are checkpoints already
    modules += [prior.control] if prior.control is not None else []
    if config.gradient_checkpointing:
        for module in modules:
            module.enable_gradient_checkpointing()


def idle(config: PriorConfig, device: torch.device) -> str:
    """What is asked for and does nothing on this machine, in a sentence; '' if there is nothing of the kind."""
    if config.offload and device.type == "cpu":
        return "offload does nothing here: there is no accelerator, and the network is in main memory anyway"
    if config.device_map == "auto" and (num := torch.accelerator.device_count()) < 2:
        return f"device_map auto does nothing here: this machine has {num} accelerator{'s' * (num != 1)}"
    return ""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """What a network repeats: the members of its own lists, such as down_blocks or transformer_blocks."""
    return [block for child in network.children() if isinstance(child, nn.ModuleList) for block in child]


def offload(network: nn.Module, device: torch.device) -> None:
    """Keep the frozen weights of the blocks in main memory, all else on the device.

    Raises:
        ConfigError: none of them is frozen.
    """
    blocks = blocks_of(network)
    staying = {id(weight) for block in blocks for weight in block.parameters() if not weight.requires_grad}
    if not staying:
        raise ConfigError("offload needs frozen weights, and all of the network's learn.", "take an adapter")
    with torch.no_grad():
        for weight in network.parameters():
            if id(weight) not in staying:
                weight.data = weight.data.to(device)
            elif device.type == "cuda":
                weight.data = weight.data.pin_memory()  # from where copies are made without waiting
        for module in network.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)
    for block in blocks:
        block.forward = visiting(block, block.forward, device)


def visiting(block: nn.Module, forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A block's ``forward`` with its frozen weights on the device for as long as it takes; a checkpoint in training."""

    def there(*args: Any, **kwargs: Any) -> Any:
        with _copies(block, device):
            return forward(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(there, *args, use_reentrant=False, **kwargs)
        return there(*args, **kwargs)

    return run


@contextlib.contextmanager
def _copies(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Copies of the frozen weights in their places. A backward pass that needs them holds on to them."""
    places = [
        (module._parameters, name, weight)
        for module in block.modules()
        for name, weight in module._parameters.items()
        if weight is not None and not weight.requires_grad
    ]
    for parameters, name, weight in places:
        parameters[name] = weight.data.to(device, non_blocking=True, copy=True)  # type: ignore[assignment]
    try:
        yield
    finally:
        for parameters, name, weight in places:
            parameters[name] = weight


def spread(network: Any) -> None:
    """Lay a network over all accelerators, block by block; inputs travel to where they are needed."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = network._no_split_modules
    memory = get_balanced_memory(network, no_split_module_classes=whole)
    dispatch_model(network, infer_auto_device_map(network, memory, no_split_module_classes=whole))
