"""An adapter that goes on from a user's file: of which kind and rank it is, and its numbers put where peft has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.config import AdapterConfig
from limner.errors import PriorError
from limner.priors.lora_files import AdapterFile
from limner.priors.lora_layers import Layer, block_side

NAME = "default"  # what peft calls an adapter that is given no name; it stands in the names of checkpoints' tensors
FIRST = ("lora_B", "hada_w1_a", "lokr_w1", "lokr_w1_a")  # the factor that takes a scale


@dataclass(frozen=True)
class Start:
    """A file's adapter as one of a single kind, rank and scale.

    Layers of a lower rank are filled up with zeros on one side; where scales differ, they go into the weights.
    """

    path: Path
    kind: str
    rank: int
    alpha: float | None
    layers: dict[str, Layer]

    @classmethod
    def of(cls, file: AdapterFile) -> Start:
        """
        Raises:
            PriorError: the file's layers are of several kinds.
        """
        kinds = sorted({layer.kind for layer in file.layers.values()})
        if len(kinds) > 1:
            raise PriorError(f"{file.path} holds layers of several kinds: {', '.join(kinds)}.", "use it in adapters")
        rank = max(_rank(layer) for layer in file.layers.values())
        scales = [layer.scale for layer in file.layers.values()]
        if kinds[0] == "oft":
            return cls(file.path, "oft", rank, None, file.layers)
        if not isclose(min(scales), max(scales), rel_tol=1e-3):
            return cls(file.path, kinds[0], rank, rank, {name: _baked(layer) for name, layer in file.layers.items()})
        return cls(file.path, kinds[0], rank, scales[0] * rank, file.layers)

    def refuse_another(self, config: AdapterConfig) -> None:
        """Stop where the configuration asks for something else than the file is.

        Raises:
            PriorError: says what.
        """
        if config.adapter != self.kind:
            raise PriorError(
                f"{self.path} is a {self.kind}, and adapter is {config.adapter}.", f"--adapter {self.kind}"
            )
        hint = "leave rank and alpha out: start_from brings its own"
        if config.rank != self.rank:
            raise PriorError(f"{self.path} has rank {self.rank}, not {config.rank}.", hint)
        if self.alpha is not None and not isclose(config.alpha or config.rank, self.alpha, rel_tol=1e-3):
            raise PriorError(f"{self.path} has alpha {self.alpha:g}, not {config.alpha or config.rank:g}.", hint)

    def options(self, layers: Mapping[str, nn.Module]) -> dict[str, Any]:
        """What peft's configuration needs beside rank and alpha, so that its tensors get the file's shapes.

        Raises:
            PriorError: a LoKr whose factors peft does not make.
        """
        if self.kind == "oft":
            return dict(next(iter(self.layers.values())).oft)
        if self.kind != "lokr":
            return {}
        from peft.tuners.lokr.layer import factorization

        sides = {name: _first_factor(layer) for name, layer in self.layers.items()}
        for factor in (-1, max(side for pair in sides.values() for side in pair)):
            made = {name: tuple(factorization(num, factor)[0] for num in _sizes(layers[name])) for name in sides}
            if made == sides:
                both = any("lokr_w1_a" in layer.parts for layer in self.layers.values())
                return {"decompose_factor": factor, "decompose_both": both}
        raise PriorError(f"{self.path} is a LoKr whose factors peft does not make.", "use it in adapters")

    @torch.no_grad()
    def fill(self, network: nn.Module) -> None:
        """Put the file's numbers into the adapter that peft has made for them; on the meta device nothing is put.

        Raises:
            PriorError: one does not fit there.
        """
        for name, layer in self.layers.items():
            for part, given in layer.parts.items():
                own = _place(network.get_submodule(name), part)
                given = given if own is None else _shaped(part, given, own)
                may_grow = self.kind in ("lora", "dora", "loha")
                if (
                    own is None
                    or given.ndim != own.ndim
                    or not (_inside(given, own) if may_grow else _same(given, own))
                ):
                    raise PriorError(
                        f"{self.path}: {part} of '{name}', {tuple(given.shape)}, has no place in peft's {self.kind}.",
                        "use it in adapters, which are merged",
                    )
                if own.is_meta:
                    continue
                if part in FIRST:
                    own.zero_()
                own[tuple(map(slice, given.shape))] = given.to(own.device)


def _rank(layer: Layer) -> int:
    """The rank; of a LoKr with nothing factored one at which peft factors nothing; of an OFT the side of its blocks."""
    parts = layer.parts
    if layer.kind == "oft":
        return block_side(parts["oft_R"].shape[1])
    factors = [parts[name] for name in ("lora_A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts]
    return len(factors[0]) if factors else (max(parts["lokr_w2"].shape[:2]) + 1) // 2


def _baked(layer: Layer) -> Layer:
    """The same addition with a scale of 1."""
    parts = {name: part.float() * layer.scale if name in FIRST else part for name, part in layer.parts.items()}
    return Layer(parts, 1.0)


def _first_factor(layer: Layer) -> tuple[int, int]:
    """Rows and columns of a LoKr's first factor."""
    if "lokr_w1" in layer.parts:
        return layer.parts["lokr_w1"].shape[0], layer.parts["lokr_w1"].shape[1]
    return layer.parts["lokr_w1_a"].shape[0], layer.parts["lokr_w1_b"].shape[1]


def _sizes(layer: Any) -> tuple[int, int]:
    """Outputs and inputs, of a convolution its channels."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels


def _place(layer: Any, part: str) -> Tensor | None:
    """peft's own tensor for a part, None where it has none."""
    own: Any = dict(getattr(layer, part, {})).get(NAME)
    weight: Any = own.weight if isinstance(own, nn.Module) else own
    return weight


def _shaped(part: str, given: Tensor, own: Tensor) -> Tensor:
    """Files disagree on whether a 1 x 1 convolution is one; a magnitude is a vector to some."""
    if part == "lora_A":
        return given.reshape(len(given), *own.shape[1:])
    if part == "lora_B":
        return given.reshape(*given.shape[:2], *own.shape[2:])
    return given.view(own.shape) if part == "lora_magnitude_vector" else given


def _inside(given: Tensor, own: Tensor) -> bool:
    return all(small <= large for small, large in zip(given.shape, own.shape, strict=True))


def _same(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape
