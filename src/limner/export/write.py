"""The files of an export, by target: an adapter, a whole network, or a control beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from limner.errors import ExportError
from limner.export import folder, header, lora
from limner.export.adapter import Adapter
from limner.export.original import checkpoint_tensors
from limner.priors.base import Prior

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Result:
    """What of a run is written.

    what: 'adapter', 'network' (all its weights) or 'control'. pipeline: the stock class that shall open the folder,
    where it is not the base's own. widened: whether the network reads more planes than the base's. beside: modules that
    stand beside the network and that no stock program knows.
    """

    what: str
    kind: str
    prior: Prior
    adapter: Adapter | None = None
    pipeline: str | None = None
    widened: bool = False
    beside: dict[str, nn.Module] = field(default_factory=dict)


def refuse(result: Result, target: str, proven: bool) -> None:
    """Stop, before anything is written, at a target that cannot hold the result.

    Raises:
        ExportError: so it is.
    """
    family = result.prior.family
    if result.what == "adapter":
        lora.refuse(target, result.kind, family, proven)
    elif target == "peft":
        raise ExportError("peft holds adapters, and here every weight is written.", "use --to diffusers")
    elif result.what == "control" and target == "kohya":
        raise ExportError("kohya's programs have no layout for a ControlNet.", "use --to diffusers or comfyui")


def write(out: Path, target: str, result: Result, about: header.About, dtype: torch.dtype) -> None:
    """Write the folder ``out``, which does not exist.

    Raises:
        ExportError: the layout has no place for a part of the model.
    """
    if result.what == "adapter":
        _write_adapter(out, target, result, about, dtype)
    elif result.what == "control":
        _write_control(out, target, result, about, dtype)
    else:
        _write_network(out, target, result, about, dtype)
    for name, module in result.beside.items():
        header.write(out / f"{name}.safetensors", module.state_dict(), {"format": "pt", "limner.what": name})


def single_file(out: Path, about: header.About) -> Path:
    """Where the one file of kohya's and ComfyUI's targets lies."""
    return out / f"{about.title}.safetensors"


def _write_adapter(out: Path, target: str, result: Result, about: header.About, dtype: torch.dtype) -> None:
    adapter, prior = result.adapter, result.prior
    assert adapter is not None
    baked = target == "diffusers" or (target == "comfyui" and prior.family not in ("sd", "sdxl"))
    alpha = adapter.rank * (1.0 if baked else adapter.scale)
    fields = header.header(about, header.Kind(adapter.kind, target, adapter.rank, alpha))
    out.mkdir(parents=True)
    if target == "diffusers":
        tensors, own = lora.diffusers_layout(adapter)
        fields["lora_adapter_metadata"] = json.dumps(own, indent=2, sort_keys=True)
        file = out / ADAPTER_FILE
    elif target == "peft":
        tensors, config = lora.peft_layout(adapter)
        config["base_model_name_or_path"] = about.base
        (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        file = out / "adapter_model.safetensors"
    else:
        layout = lora.kohya_layout if target == "kohya" else lora.comfyui_layout
        tensors = layout(adapter, prior.family, *facts(prior.network))
        file = single_file(out, about)
    header.write(file, folder.held_in(tensors, dtype), fields)


def _write_network(out: Path, target: str, result: Result, about: header.About, dtype: torch.dtype) -> None:
    prior = result.prior
    fields = header.header(about, header.Kind("full", target))
    if target == "diffusers":
        folder.write_pipeline(out, prior.source, prior.component, prior.network, fields, dtype, result.pipeline)
        return
    tensors = checkpoint_tensors(prior.family, prior.network, prior.parts.__getitem__)
    out.mkdir(parents=True)
    header.write(single_file(out, about), folder.held_in(tensors, dtype), fields)


def _write_control(out: Path, target: str, result: Result, about: header.About, dtype: torch.dtype) -> None:
    control: Any = result.prior.control
    fields = header.header(about, header.Kind("control", target))
    if target == "diffusers":
        folder.write_model(out, control, fields, dtype)
        return
    out.mkdir(parents=True)
    header.write(single_file(out, about), folder.held_in(control.state_dict(), dtype), fields)


def facts(network: nn.Module) -> tuple[Callable[[str], int], list[str]]:
    """(number of outputs of a module, all modules that own weights) of a network, as if it had no adapter."""
    own = shapes(network)
    return lambda module: own[f"{module}.weight"][0], list(dict.fromkeys(name.rpartition(".")[0] for name in own))


def shapes(network: nn.Module) -> dict[str, torch.Size]:
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
