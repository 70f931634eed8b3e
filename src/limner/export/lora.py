"""The key layouts of adapter files.

    diffusers  unet.MODULE.lora_A.weight               as Pipeline.save_lora_weights writes, alpha within the weights
    peft       base_model.model.MODULE.lora_A.weight   what PeftModel.from_pretrained reads, with adapter_config.json
    kohya      lora_unet_MODULE.lora_down.weight       SD 1/2 by diffusers' modules, SDXL by SGM's, FLUX and SD3 with
               their fused projections; Z-Image and Qwen-Image by diffusers' modules
    comfyui    as kohya for UNets; transformer.MODULE.lora_A.weight for transformers

A fused projection gets one adapter that is exactly the sum of its parts': downs one below the other, ups along the
diagonal. Its rank is the sum of ranks, and alpha grows with it, so that the scale stays alpha / rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limner.errors import ExportError
from limner.export.adapter import Adapter
from limner.priors.names import Home, homes

Tensors = dict[str, Tensor]

TARGETS = ("diffusers", "peft", "kohya", "comfyui")
CLIP = "text_model."  # around the layers of a CLIP text encoder; transformers 5 leaves it out
FUSED = ("sd3", "flux", "flux2")
# Kinds that stock diffusers reads from a file of the target, so that the file can be proven. None: of every family.
PROVEN: dict[tuple[str, str], tuple[str, ...] | None] = {
    ("diffusers", "lora"): None,
    ("diffusers", "dora"): None,
    ("diffusers", "lokr"): ("flux2", "z_image"),
    ("kohya", "lora"): ("sd", "sdxl", "flux", "flux2", "z_image", "qwen_image"),
    ("comfyui", "lora"): None,
    ("comfyui", "lokr"): ("flux2", "z_image"),
    **{("peft", kind): None for kind in ("lora", "dora", "lokr", "loha", "oft")},
}
# What the target's own programs read beyond that.
UNPROVEN: dict[tuple[str, str], tuple[str, ...] | None] = {
    ("kohya", "lora"): ("sd3",),
    ("kohya", "dora"): ("sd", "sdxl"),
    ("kohya", "lokr"): ("sd", "sdxl"),
    ("kohya", "loha"): ("sd", "sdxl"),
    ("comfyui", "lokr"): None,
    ("comfyui", "loha"): None,
}


def refuse(target: str, kind: str, family: str, verify: bool) -> None:
    """Stop, before anything is written, at a layout that cannot hold the adapter, or cannot be proven to.

    Raises:
        ExportError: so it is.
    """
    if _holds(PROVEN, target, kind, family):
        return
    other = "--merge writes a whole model of any kind; --to peft takes every adapter"
    if not _holds(UNPROVEN, target, kind, family):
        why = "ComfyUI divides by another norm" if (target, kind) == ("comfyui", "dora") else "there is no such layout"
        raise ExportError(f"a {kind} adapter of the family {family} cannot be written for {target}: {why}.", other)
    if verify:
        raise ExportError(
            f"stock diffusers does not read {kind} adapters of the family {family} in {target}'s layout, "
            "so the file could not be proven.",
            f"--no-verify writes it nevertheless; {other}",
        )


def _holds(table: Mapping[tuple[str, str], tuple[str, ...] | None], target: str, kind: str, family: str) -> bool:
    families = table.get((target, kind), ())
    return families is None or family in families


def diffusers_layout(adapter: Adapter) -> tuple[Tensors, dict[str, Any]]:
    """Tensors for ``pytorch_lora_weights.safetensors``, and what diffusers' ``lora_adapter_metadata`` says of them.

    The scale is in the weights: readers older than that header, and readers of other programs, take it for 1.
    """
    adapter = in_clip_text_model(adapter.baked())
    tensors = {f"{adapter.component}.{name}": tensor for name, tensor in _flat(adapter).items()}
    kind = "alpha" if adapter.kind == "lokr" else "lora_alpha"
    about: dict[str, Any] = {"r": adapter.rank, kind: adapter.rank, "target_modules": _targets(adapter)}
    if adapter.kind == "dora":
        about["use_dora"] = True
    if adapter.kind == "lokr":
        about |= {name: adapter.config[name] for name in ("decompose_both", "decompose_factor")}
    return tensors, {f"{adapter.component}.{name}": value for name, value in about.items()}


def peft_layout(adapter: Adapter) -> tuple[Tensors, dict[str, Any]]:
    """Tensors for ``adapter_model.safetensors``, and ``adapter_config.json``."""
    return {f"base_model.model.{name}": tensor for name, tensor in _flat(adapter).items()}, {
        **adapter.config,
        "inference_mode": True,
    }


def in_clip_text_model(adapter: Adapter) -> Adapter:
    """The adapter of a text encoder under the names of all transformers before 5, which readers of both take."""
    if not adapter.component.startswith("text_encoder"):
        return adapter
    layers = {f"{CLIP}{module.removeprefix(CLIP)}": parts for module, parts in adapter.layers.items()}
    return replace(adapter, layers=layers)


def _targets(adapter: Adapter) -> list[str]:
    """The names by which peft finds the layers: their ends are enough, and hold for every transformers."""
    return sorted(module.removeprefix(CLIP) for module in adapter.layers)


def kohya_text_layout(adapter: Adapter, family: str) -> Tensors:
    """An adapter of a CLIP text encoder under the names of kohya's trainers: lora_te_ for SD, lora_te1_, lora_te2_."""
    number = "" if family == "sd" else "2" if adapter.component == "text_encoder_2" else "1"
    adapter = in_clip_text_model(adapter if adapter.kind == "lora" else adapter.baked())
    tensors: Tensors = {}
    for module, own in adapter.layers.items():
        parts = _lycoris(own) | {"alpha": torch.tensor(adapter.scale * adapter.rank)}
        name = f"lora_te{number}_" + module.replace(".", "_")
        tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    return tensors


def comfyui_layout(adapter: Adapter, family: str, rows: Callable[[str], int], modules: list[str]) -> Tensors:
    """Tensors under keys of ComfyUI's map; see ``kohya_layout`` for the arguments."""
    if family in ("sd", "sdxl"):
        return kohya_layout(adapter, family, rows, modules)
    return {f"transformer.{name}": tensor for name, tensor in _flat(adapter.baked()).items()}


def kohya_layout(adapter: Adapter, family: str, rows: Callable[[str], int], modules: list[str]) -> Tensors:
    """Tensors under the names of kohya's trainers, each with its alpha.

    Args:
        rows: the number of outputs of a module of the network.
        modules: all modules of the network that own weights.
    """
    if adapter.kind != "lora":
        adapter = adapter.baked()
    if family in FUSED or family == "sdxl":
        places = homes(family, modules)
    else:
        places = {module: Home(module) for module in modules}
    grouped: dict[str, list[str]] = {}
    for module in modules:
        grouped.setdefault(places[module].module, []).append(module)
    tensors: Tensors = {}
    for theirs, ours in grouped.items():
        ours.sort(key=lambda module: places[module].part)
        learned = [module for module in ours if module in adapter.layers]
        if not learned:
            continue
        name = "lora_unet_" + theirs.replace(".", "_")
        if adapter.kind == "lora":
            down, up = _fuse(adapter, ours, rows)
            if any(places[module].swapped for module in learned):
                up = torch.cat(up.chunk(2)[::-1])
            parts = {"lora_down.weight": down, "lora_up.weight": up}
        else:
            parts = _lycoris(adapter.layers[learned[0]])
        parts["alpha"] = torch.tensor(adapter.scale * adapter.rank * len(learned))
        tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    return tensors


def _fuse(adapter: Adapter, modules: list[str], rows: Callable[[str], int]) -> tuple[Tensor, Tensor]:
    """(down, up) of one module whose outputs are those of ``modules``, one below the other; not all need an adapter."""
    pairs = {m: adapter.layers[m] for m in modules if m in adapter.layers}
    downs = [parts["lora_A.weight"] for parts in pairs.values()]
    if len(modules) == 1:
        return downs[0], pairs[modules[0]]["lora_B.weight"]
    up = torch.zeros(sum(map(rows, modules)), sum(map(len, downs)))
    row = column = 0
    for module in modules:
        if module in pairs:
            own = pairs[module]["lora_B.weight"]
            up[row : row + own.shape[0], column : column + own.shape[1]] = own
            column += own.shape[1]
        row += rows(module)
    return torch.cat(downs), up


def _lycoris(parts: Tensors) -> Tensors:
    """A layer's DoRA, LoKr or LoHa under LyCORIS' names and in its shapes."""
    names = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
    named = {names.get(name, name): tensor for name, tensor in parts.items()}
    magnitude = named.pop("lora_magnitude_vector", None)
    if magnitude is not None:  # a number for each output, broadcast over the weight
        named["dora_scale"] = magnitude.reshape(-1, *[1] * (named["lora_down.weight"].ndim - 1))
    return named


def _flat(adapter: Adapter) -> Tensors:
    return {
        f"{module}.{part}": tensor.contiguous()
        for module, parts in adapter.layers.items()
        for part, tensor in parts.items()
    }
