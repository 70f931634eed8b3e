"""What of a run is written, and what no layout can hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import init_empty_weights
from torch import Size, Tensor, nn

from limner.config import MethodConfig
from limner.errors import ExportError
from limner.export import stock
from limner.export.adapter import Adapter, adapter_of
from limner.methods.base import Method
from limner.priors import paths
from limner.priors.base import Prior
from limner.priors.new_words import learnt

PREDICTIONS = ((paths.V, "v"), (paths.Eps, "epsilon"), (paths.Flow, "flow"))
# Modules that have a place of their own in what is written.
PLACED = ("network", "control", "text", "words")


@dataclass(frozen=True)
class Result:
    """What of a run is written.

    what: 'adapter', 'network' (all its weights), 'control', or 'words' where nothing else has learnt. pipeline: the
    stock class that shall open the folder, where it is not the base's own. widened: whether the network reads more
    planes than the base's. beside: modules that stand beside the network and that no stock program knows. text: text
    encoder -> the adapter that it learnt through; encoders: those that learnt whole, or are merged. words: text
    encoder -> new word -> its vectors, (k, D).
    """

    what: str
    kind: str
    prior: Prior
    adapter: Adapter | None = None
    pipeline: str | None = None
    widened: bool = False
    beside: dict[str, nn.Module] = field(default_factory=dict)
    text: dict[str, Adapter] = field(default_factory=dict)
    encoders: dict[str, nn.Module] = field(default_factory=dict)
    words: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The new words."""
        return list(next(iter(self.words.values()), {}))

    @property
    def learnt_text(self) -> bool:
        """Whether captions mean something else than they did to the base."""
        return bool(self.text or self.encoders or self.words)


def result_of(config: MethodConfig, method: Method, merged: bool) -> Result:
    """What of the run is written.

    Raises:
        ExportError: what an adapter's file cannot hold, or what no pipeline of diffusers is made of.
    """
    prior, learns = method.prior, method.learns()
    if not (prior.source / "model_index.json").is_file():
        raise ExportError(
            f"{config.prior} is no diffusers folder, and nothing else can be written or proven.",
            "use a diffusers folder as prior",
        )
    if merged and config.adapter == "full":
        raise ExportError("the run has no adapter to merge.", "leave --merge out")
    beside = {name: module for name, module in learns.items() if name not in PLACED}
    if "control" in learns:
        return Result("control", "control", prior, pipeline=stock.CONTROLS.get(prior.family), beside=beside)
    words = learnt(learns["words"]) if "words" in learns else {}
    if "network" not in learns:
        return Result("words", "words", prior, words=words)
    result = replace(_of_network(config, prior, merged), beside=beside, words=words)
    encoders = dict(learns["text"].named_children()) if "text" in learns else {}
    if result.adapter is None:
        return replace(result, encoders=encoders)
    return replace(result, text={name: adapter_of(encoder, name) for name, encoder in encoders.items()})


def _of_network(config: MethodConfig, prior: Prior, merged: bool) -> Result:
    network: Any = prior.network
    base = json.loads((prior.source / prior.component / "config.json").read_text(encoding="utf-8"))
    own, kind = shapes(network), type(network)
    widened = own != shapes(bare(kind, base))
    if widened and own != shapes(bare(kind, network.config)):
        raise ExportError(
            f"diffusers' {kind.__name__} has no configuration for the wider input of this run.",
            "train on another prior, or with controlnet",
        )
    drawable = widened and stock.can_draw(prior.family, prediction(prior))
    pipeline = stock.PLANES.get(prior.family) if drawable else None
    if config.adapter == "full" or merged:
        return Result("network", "full", prior, None, pipeline, widened)
    if widened:
        raise ExportError(
            "an adapter's file cannot hold the wider input of this run.", "--merge writes the whole model"
        )
    if config.adapters:
        raise ExportError(
            f"the run's adapter stands on {config.adapters[0]}, which was merged into the base before.",
            "--merge writes the whole model",
        )
    adapter = adapter_of(network, prior.component)
    return Result("adapter", adapter.kind, prior, adapter)


def prediction(prior: Prior) -> str:
    """'v', 'epsilon' or 'flow': what the network says."""
    return next(name for kind, name in PREDICTIONS if isinstance(prior.path, kind))


def facts(network: nn.Module) -> tuple[Callable[[str], int], list[str]]:
    """(number of outputs of a module, all modules that own weights) of a network, as if it had no adapter."""
    own = shapes(network)
    return lambda module: own[f"{module}.weight"][0], list(dict.fromkeys(name.rpartition(".")[0] for name in own))


def shapes(network: nn.Module) -> dict[str, Size]:
    """Weight -> shape, as if the network had no adapter."""
    return {
        name.replace(".base_layer.", "."): weight.shape
        for name, weight in network.named_parameters()
        if not any(part in name for part in (".lora_", ".lokr_", ".hada_", ".oft_"))
    }


def bare(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """A network of a configuration, without weights."""
    with init_empty_weights():
        return kind.from_config(config)
