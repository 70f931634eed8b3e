"""The cheapest change that makes a run fit: configurations in the order of what they cost the user, each one counted.

First what costs time alone: fewer pictures at once with gradients summed, so that a step learns from as many as before;
activations computed again. Then what changes the result, the least first; each with the cheapest of those that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from limner.config import MethodConfig
from limner.errors import LimnerError
from limner.run import weighing
from limner.run.job import load_prior, resolve

Changes = dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """Changes to a configuration, and the bytes that it needs with them."""

    changes: Changes
    needed: int

    def flags(self) -> str:
        """The changes as they are typed."""
        return " ".join(_flag(name, value) for name, value in self.changes.items())


def cheapest(
    config: MethodConfig, on: torch.device, room: int, libraries: int, tell: Callable[[str], None] = lambda _: None
) -> tuple[Fit | None, Fit | None]:
    """(the cheapest changes with which a run fits into ``room`` bytes, those with which it needs least).

    Args:
        libraries: bytes that are held besides what is counted.
        tell: is told what is tried.
    """
    weighed: dict[str, Fit | None] = {}

    def weigh(changes: Changes) -> Fit | None:
        flags = Fit(changes, 0).flags()
        if flags not in weighed:
            tell(flags)
            try:
                values = config.model_dump(exclude={"method"}) | changes
                peaks = weighing.weigh(resolve(config.method, values), on).peaks
                weighed[flags] = Fit(changes, max(peaks.values()) + libraries)
            except LimnerError:  # a combination that there is not, for this method or prior or on this machine
                weighed[flags] = None
        return weighed[flags]

    def smallest() -> Fit | None:
        return min(filter(None, weighed.values()), key=lambda fit: fit.needed, default=None)

    def first(ways: list[Changes]) -> Fit | None:
        """The first that fits; each needs less than the one before it."""
        best = weigh(ways[-1]) if ways else None
        if best is None or best.needed > room:
            return None
        low, high = 0, len(ways) - 1
        while low < high:
            middle = (low + high) // 2
            found = weigh(ways[middle])
            if found is not None and found.needed <= room:
                best, high = found, middle
            else:
                low = middle + 1
        return best

    for drastic in _drastic(config, on):
        fewer, sparing = ([drastic | way for way in ways if drastic | way] for ways in _patient(config))
        least = weigh((sparing or fewer)[-1]) if sparing or fewer else None
        if least is not None and least.needed <= room:
            return first(fewer) or first(sparing), smallest()
    return None, smallest()


def _patient(config: MethodConfig) -> tuple[list[Changes], list[Changes]]:
    """What takes more time and changes no result: fewer pictures at once; the same with activations computed again."""
    pictures = config.batch_size * config.accumulate
    smaller = [size for size in range(config.batch_size - 1, 0, -1) if config.batch_size % size == 0]
    fewer: list[Changes] = [{}, *({"batch_size": size, "accumulate": pictures // size} for size in smaller)]
    again: Changes = {"gradient_checkpointing": True}
    return fewer, [] if config.gradient_checkpointing else [again | way for way in fewer]


def _drastic(config: MethodConfig, on: torch.device) -> Iterator[Changes]:
    """What changes the result as well, each on top of those before it; the last are smaller pictures."""
    changes: Changes = {}
    yield changes
    accelerated = on.type != "cpu"
    if accelerated and config.precision == "fp32":
        changes = changes | {"precision": "bf16"}
        yield changes
    if config.adapter == "full" and not config.base_frozen:
        changes = changes | {"adapter": "lora"}
        yield changes
    for held in ("bf16", "int8", "nf4")[("fp32", "bf16", "int8", "nf4").index(config.base_precision) :]:
        # Nothing computes in fp32 with weights in bf16; that is slow on a CPU.
        changes = changes | {"base_precision": held} | ({"precision": "bf16"} if config.precision == "fp32" else {})
        yield changes
    if accelerated and not config.offload:
        yield changes | {"base_precision": "bf16", "offload": True}
    prior = load_prior(config, meta=True)
    for share in (0.75, 0.5):
        side = int(prior.image_px * share) // prior.multiple_px * prior.multiple_px
        if side and not config.resolutions_px:
            yield changes | {"image_px": side}


def _flag(name: str, value: Any) -> str:
    name = name.replace("_", "-")
    return f"--{name}" if value is True else f"--{name} {value}"
