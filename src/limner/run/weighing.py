"""The memory of a run, counted with no weights loaded; what the machine has; and how much data there is."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from limner.config import MethodConfig
from limner.data.order import Streamed
from limner.methods.base import Method
from limner.priors import placing
from limner.priors.base import fastest_layout
from limner.priors.folder import DTYPES
from limner.run.data import load_splits, recipe_of, sizes_of
from limner.run.job import build_method, refuse_shapes
from limner.run.training import GRID_PICTURES
from limner.train.counting import BareParts, Count, weightless
from limner.train.forecast import Forecast, Sizes, forecast

# Bytes of a weight: int8 has a scale a row, which is nothing beside it; nf4 one of a byte for 64 weights.
QUANTISED = {"int8": 1.0, "nf4": 0.5 + 1 / 64}
CGROUP = Path("/sys/fs/cgroup")


def weigh(config: MethodConfig, on: torch.device) -> Forecast:
    """Count what a run holds.

    Raises:
        LimnerError: what training would refuse of the configuration.
    """
    method = build_method(config, torch.device("meta"))
    refuse_shapes(config, method)
    prior, count = method.prior, Count(on)
    prior.parts = BareParts(prior.parts, count)
    prior.network.to(memory_format=fastest_layout(on))  # type: ignore[call-overload]
    frozen = DTYPES.get(config.base_precision) or DTYPES[config.precision]
    with count:
        weightless(count, prior.network, frozen)
        for module in _modules(method):
            weightless(count, module)
        if config.base_precision in QUANTISED:
            count.spare(_spared(prior.network, QUANTISED[config.base_precision]))
        if config.offload and not placing.idle(config, on):
            count.spare(_offloaded(prior.network, on))
        placing.save_memory(prior, config.model_copy(update={"offload": False}), on)
        return forecast(count, method, config, _sizes(config, method))


def _modules(method: Method) -> Iterable[nn.Module]:
    """Everything with weights that a run has beside the parts of its prior."""
    own = [*vars(method.prior).values(), *vars(method).values(), *method.learns().values()]
    return [module for module in own if isinstance(module, nn.Module)]


def _spared(network: nn.Module, weight_bytes: float) -> int:
    """By how much the quantised layers are smaller than they are counted; the layers that ``quantised`` chooses."""
    weights: list[Any] = [
        module.weight
        for name, module in network.named_modules()
        if type(module) is nn.Linear and any(part.isdigit() for part in name.split("."))
    ]
    return sum(int(weight.numel() * (weight.itemsize - weight_bytes)) for weight in weights if not weight.requires_grad)


def _offloaded(network: nn.Module, on: torch.device) -> int:
    """As ``placing.offload``: each block takes copies of its frozen weights; the bytes that lie elsewhere."""
    blocks = placing.blocks_of(network)
    for block in blocks:
        block.forward = placing.visiting(block, block.forward, on)
    staying = {weight for block in blocks for weight in block.parameters() if not weight.requires_grad}
    return sum(weight.nbytes for weight in staying)


def _sizes(config: MethodConfig, method: Method) -> Sizes:
    """Of the largest pictures that the configuration allows."""
    buckets, _ = sizes_of(config, method.prior.image_px, method.prior.multiple_px)
    largest = max(buckets, key=lambda bucket: bucket.width_px * bucket.height_px)
    at_once = min(32, config.batch_size)
    return Sizes(largest.width_px, largest.height_px, min(GRID_PICTURES, at_once), at_once)


@dataclass(frozen=True)
class Amount:
    """How much data a run has: pictures to learn from, those held out, and different captions; zeros for a stream."""

    train: int
    held_out: int
    captions: int


def amount(config: MethodConfig, image_px: int, multiple_px: int) -> Amount:
    """Look at the records, at none of the pictures.

    Raises:
        DataError: it cannot be read.
    """
    any_size = config.model_copy(update={"aspect": "square", "resolutions_px": ()})
    training, held_out, _, _ = load_splits(any_size, image_px, multiple_px)
    if isinstance(training, Streamed):
        return Amount(0, 0, 0)
    captioner = recipe_of(config, image_px, None).captioner
    captions = {captioner.caption(sample, 0) for sample in training}
    return Amount(len(training), len(held_out), len(captions))


def cached(config: MethodConfig, counted: Forecast, data: Amount) -> int:
    """Bytes of all that the run reads from its cache, which are mapped into memory, and given back if need be."""
    looks = config.views * (2 if config.flip else 1)
    return data.train * looks * counted.latent + data.captions * counted.text


def libraries() -> int:
    """Bytes that this process holds with all that a run imports, and with what the kernels keep once they are used.

    To be called when nothing is held besides, and after ``weigh``, which imports what the method and the prior need.
    """
    for module in ("codecarbon", "torch.utils.tensorboard"):
        importlib.import_module(module)
    x_BCHW = torch.ones(2, 8, 16, 16, requires_grad=True)
    (nn.functional.conv2d(x_BCHW, x_BCHW[:, :, :3, :3]).flatten(1) @ torch.ones(2 * 14 * 14, 8)).sum().backward()
    return int(psutil.Process().memory_info().rss)


def free(on: torch.device) -> int:
    """Bytes that a run may take here. On a CPU what this process holds is free by then; a container may set a limit."""
    if on.type == "cuda":
        return int(torch.cuda.mem_get_info(on)[0])
    room = [psutil.virtual_memory().available + psutil.Process().memory_info().rss]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # of another version; or "max", which is none
            room.append(int((CGROUP / limit).read_text()))
    return int(min(room))
