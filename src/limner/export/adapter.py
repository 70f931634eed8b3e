"""A trained low-rank adapter, taken out of its network: tensors under peft's names, and what peft says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from limner.errors import ExportError

KINDS = {"LORA": "lora", "LOKR": "lokr", "LOHA": "loha", "OFT": "oft"}
PART = re.compile(r"(.+)\.((?:lora_|lokr_|hada_|oft_).+)")


@dataclass(frozen=True)
class Adapter:
    """What was added to a network.

    kind: 'lora', 'dora', 'lokr', 'loha' or 'oft'. component: what pipelines call the network, 'unet' or 'transformer'.
    scale: alpha / rank, by which the addition is multiplied (1 for 'oft', which rotates). layers: module -> part
    ('lora_A.weight', 'lokr_w1' ...) -> tensor. config: peft's own, as plain values.
    """

    kind: str
    component: str
    rank: int
    scale: float
    layers: dict[str, dict[str, Tensor]]
    config: dict[str, Any] = field(default_factory=dict)

    def baked(self) -> Adapter:
        """The same addition with a scale of 1: right in every reader, whatever it does with alpha."""
        first = ("lora_B.weight", "lokr_w1", "lokr_w1_a", "hada_w1_a")  # the factor that takes the scale
        layers = {
            module: {part: tensor * self.scale if part in first else tensor for part, tensor in parts.items()}
            for module, parts in self.layers.items()
        }
        return Adapter(self.kind, self.component, self.rank, 1.0, layers, self.config)


def adapter_of(network: nn.Module, component: str) -> Adapter:
    """The adapter that ``prior.adapt`` put into a network.

    Raises:
        ExportError: there is none, or it is of a kind not known here.
    """
    from peft import get_peft_model_state_dict

    configs = getattr(network, "peft_config", {})
    if "default" not in configs:
        raise ExportError("the run has no adapter: every weight was trained.", "use --to diffusers, kohya or comfyui")
    config = configs["default"]
    kind = KINDS.get(config.peft_type.value)
    if kind is None:
        raise ExportError(f"adapters of the kind {config.peft_type.value} are not exported.", "use --merge")
    if kind == "lora" and config.use_dora:
        kind = "dora"
    rank = config.r
    alpha = {"lora": "lora_alpha", "dora": "lora_alpha", "oft": ""}.get(kind, "alpha")
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in get_peft_model_state_dict(network, adapter_name="default", save_embedding_layers=False).items():
        found = PART.fullmatch(name)
        if found:
            part = found[2].removesuffix(".weight") if "magnitude" in found[2] else found[2]
            layers.setdefault(found[1], {})[part] = tensor.detach().float().cpu()
    return Adapter(kind, component, rank, getattr(config, alpha) / rank if alpha else 1.0, layers, plain(config))


def fold(network: nn.Module) -> nn.Module:
    """The network with its adapter folded into the weights, as the class it was before; in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, module.get_base_layer())
    if "peft_config" in network.__dict__:
        del network.peft_config
    return network


def plain(config: Any) -> dict[str, Any]:
    """A peft configuration as JSON can hold it."""
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return {name: getattr(value, "value", value) for name, value in values.items()}
