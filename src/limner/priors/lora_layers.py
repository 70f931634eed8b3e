"""One layer's adapter: what its tensors are, which layers of a network they belong to, and what they add to a weight.

    LoRA  W + s B A                      Hu et al. 2021, arXiv 2106.09685
    DoRA  m (W + s B A) / |W + s B A|    Liu et al. 2024, arXiv 2402.09353; m and the norm have one number an output
    LoHa  W + s (A1 B1) * (A2 B2)        Hyeon-Woo et al. 2021, arXiv 2108.06098; Yeh et al. 2023, arXiv 2309.14859
    LoKr  W + s kron(W1, W2)             Yeh et al. 2023
    OFT   W R, R orthogonal, of blocks   Qiu et al. 2023, arXiv 2306.07280

s is alpha / rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limner.errors import ExportError
from limner.priors.names import homes

KINDS = ("lora", "dora", "lokr", "loha", "oft")
OFT_OPTIONS = ("use_cayley_neumann", "num_cayley_neumann_terms", "coft", "eps", "block_share")


@dataclass(frozen=True)
class Layer:
    """What one layer gets: tensors under peft's names (lora_A, hada_w1_a, oft_R ...), and alpha / rank.

    ``oft`` are the fields of peft's OFTConfig that say how an OFT's numbers become a rotation.
    """

    parts: Mapping[str, Tensor]
    scale: float
    oft: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        if "lora_magnitude_vector" in self.parts:
            return "dora"
        return {"lora": "lora", "lokr": "lokr", "hada": "loha", "oft_": "oft"}[min(self.parts)[:4]]

    def delta(self, weight: Tensor) -> Tensor:
        """What is to be added to a weight, fp32, of its shape and on its device.

        Raises:
            ValueError: the tensors do not make a weight of that shape.
        """
        parts = {name: part.to(weight.device, torch.float32) for name, part in self.parts.items()}
        weight = weight.float()
        try:
            return _DELTAS[self.kind](parts, self.scale, weight, self.oft).view(weight.shape)
        except (RuntimeError, KeyError) as error:
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())
            raise ValueError(f"does not fit a weight of {tuple(weight.shape)}: {shapes}") from error


def _lora(parts: Mapping[str, Tensor], scale: float, weight: Tensor, _: Any) -> Tensor:
    added = scale * (parts["lora_B"].flatten(1) @ parts["lora_A"].flatten(1)).view(weight.shape)
    if "lora_magnitude_vector" not in parts:
        return added
    whole = (weight + added).flatten(1)
    return whole * (parts["lora_magnitude_vector"].view(-1) / whole.norm(dim=1)).view(-1, 1) - weight.flatten(1)


def _loha(parts: Mapping[str, Tensor], scale: float, weight: Tensor, _: Any) -> Tensor:
    from peft.tuners.loha.layer import make_weight, make_weight_cp

    w1_a, w1_b, w2_a, w2_b = (parts[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "hada_t1" in parts:
        return make_weight_cp(parts["hada_t1"], w1_a, w1_b, parts["hada_t2"], w2_a, w2_b, torch.tensor(scale))
    return make_weight(w1_a, w1_b, w2_a, w2_b, torch.tensor(scale))


def _lokr(parts: Mapping[str, Tensor], scale: float, weight: Tensor, _: Any) -> Tensor:
    from peft.tuners.lokr.layer import make_kron, make_weight_cp

    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_t2" in parts:
        w2 = make_weight_cp(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    else:
        w2 = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"] @ parts["lokr_w2_b"]
    if w2.ndim == 2 and weight.ndim == 4:  # what peft flattens for a convolution
        w2 = w2.view(w2.shape[0], -1, *weight.shape[2:])
    return make_kron(w1, w2, scale)


def _oft(parts: Mapping[str, Tensor], _: float, weight: Tensor, options: Mapping[str, Any]) -> Tensor:
    from peft.tuners.oft.layer import OFTRotationModule

    num, numbers = parts["oft_R"].shape
    side = block_side(numbers)
    with weight.device:
        module = OFTRotationModule(num, numbers, side, weight[0].numel(), **options)
    module.weight = nn.Parameter(parts["oft_R"], requires_grad=False)
    flat = weight.flatten(1)
    return flat @ module.get_weight().T - flat


def block_side(numbers: int) -> int:
    """Side of the blocks of an OFT from how many numbers each has: side * (side - 1) / 2."""
    return (1 + math.isqrt(1 + 8 * numbers)) // 2


_DELTAS = {"lora": _lora, "dora": _lora, "loha": _loha, "lokr": _lokr, "oft": _oft}


class Place(NamedTuple):
    """A layer of the network, and whether its halves are swapped in the file (see ``names``)."""

    name: str
    weight: Tensor
    swapped: bool = False


def plain_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolutional layers by name, without what an adapter has put around or into them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, nn.Module] = {}
    wrapped: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer):
            found[name], wrapped = module.get_base_layer(), (*wrapped, f"{name}.")
        elif isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith(wrapped):
            found[name] = module
    return found


def places(network: nn.Module, family: str) -> dict[str, list[Place]]:
    """Every name that a file may give to a layer -> the layers it stands for, from its first row to its last.

    Names are diffusers' or those of the model's authors, with dots or with underscores.
    """
    layers = plain_layers(network)
    own = {name: [Place(name, _shaped(layer))] for name, layer in layers.items()}
    own |= {name[:-2]: place for name, place in own.items() if name.endswith(".0") and name[:-2] not in own}
    try:
        original = homes(family, layers)
    except ExportError:  # no such layout is known: files name layers as diffusers does
        original = {}
    theirs: dict[str, list[Place]] = {}
    for name, home in sorted(original.items(), key=lambda item: item[1].part):
        theirs.setdefault(home.module, []).append(own[name][0]._replace(swapped=home.swapped))
    names = {**theirs, **own}
    return {name.replace(".", "_"): place for name, place in names.items()} | names


def _shaped(layer: nn.Module) -> Tensor:
    """A weight's shape, on the meta device: a quantised one is stored in another."""
    shape = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else layer.weight.shape
    return torch.empty(shape, device="meta")  # type: ignore[arg-type]


def split(layer: Layer, into: Sequence[Place], about: Mapping[str, Any]) -> dict[str, Layer]:
    """The layer's adapter as those of the layers that it stands for; one, but for fused projections.

    Raises:
        ValueError: the tensors do not fit, or cannot be taken apart.
    """
    weight = torch.cat([place.weight for place in into])
    oft = {name: about[name] for name in OFT_OPTIONS if name in about} if layer.kind == "oft" else {}
    layer = Layer(layer.parts, layer.scale, oft)
    Layer({name: part.to("meta") for name, part in layer.parts.items()}, layer.scale, oft).delta(weight)
    if len(into) == 1 and not into[0].swapped:
        return {into[0].name: layer}
    by_row = ("lora_B", "lora_magnitude_vector", "hada_w1_a", "hada_w2_a")
    if layer.kind in ("lokr", "oft") or "hada_t1" in layer.parts:
        raise ValueError(f"is a {layer.kind} of fused projections, which cannot be taken apart")
    made, row = {}, 0
    for place in into:
        rows = slice(row, row := row + len(place.weight))
        parts = {name: part[rows] if name in by_row else part for name, part in layer.parts.items()}
        if place.swapped:
            parts |= {name: torch.cat(parts[name].chunk(2)[::-1]) for name in by_row if name in parts}
        if len(into) > 1 and layer.kind in ("lora", "dora"):
            used = parts["lora_B"].flatten(1).any(dim=0)  # the rest belongs to the other projections
            parts |= {"lora_B": parts["lora_B"][:, used], "lora_A": parts["lora_A"][used]}
        made[place.name] = Layer(parts, layer.scale)
    return made
