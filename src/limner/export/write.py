"""The files of an export, by target: an adapter, a whole network, or a control beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from limner.errors import ExportError
from limner.export import folder, header, lora, words
from limner.export.adapter import Adapter
from limner.export.original import checkpoint_tensors
from limner.export.result import Result, facts

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def refuse(result: Result, target: str, proven: bool) -> None:
    """Stop, before anything is written, at a target that cannot hold the result.

    Raises:
        ExportError: so it is.
    """
    family, target_is_file = result.prior.family, target in ("kohya", "comfyui")
    if result.words:
        words.refuse(target, family, alone=result.what == "words")
    if result.encoders and target_is_file and family not in ("sd", "sdxl"):
        raise ExportError(
            f"a file of the family {family} holds the transformer alone, and the run's text encoders have learnt.",
            "use --to diffusers",
        )
    if result.text and (target, result.kind) == ("diffusers", "dora"):
        raise ExportError(
            "stock diffusers reads no magnitudes for a text encoder's DoRA, and would draw something else.",
            "--to peft takes it; --merge writes the whole model",
        )
    if result.what == "adapter":
        lora.refuse(target, result.kind, family, proven)
    elif target == "peft" and result.what != "words":
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
    elif result.what == "network":
        _write_network(out, target, result, about, dtype)
    if result.words:
        fields = header.header(about, header.Kind("words", target))
        words.write(out, target, result.prior.family, result.words, fields, dtype)
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
        for part in result.text.values():
            more, about_part = lora.diffusers_layout(part)
            tensors, own = tensors | more, own | about_part
        fields["lora_adapter_metadata"] = json.dumps(own, indent=2, sort_keys=True)
        file = out / ADAPTER_FILE
    elif target == "peft":
        _write_peft(out, adapter, fields, about, dtype)
        for name, part in result.text.items():
            (out / name).mkdir()
            _write_peft(out / name, part, fields, about, dtype)
        return
    else:
        layout = lora.kohya_layout if target == "kohya" else lora.comfyui_layout
        tensors = layout(adapter, prior.family, *facts(prior.network))
        for part in result.text.values():
            as_kohya = target == "kohya" or prior.family in ("sd", "sdxl")
            tensors |= lora.kohya_text_layout(part, prior.family) if as_kohya else lora.diffusers_layout(part)[0]
        file = single_file(out, about)
    header.write(file, folder.held_in(tensors, dtype), fields)


def _write_peft(out: Path, adapter: Adapter, fields: dict[str, str], about: header.About, dtype: torch.dtype) -> None:
    tensors, config = lora.peft_layout(adapter)
    config["base_model_name_or_path"] = about.base
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    header.write(out / "adapter_model.safetensors", folder.held_in(tensors, dtype), fields)


def _write_network(out: Path, target: str, result: Result, about: header.About, dtype: torch.dtype) -> None:
    prior = result.prior
    fields = header.header(about, header.Kind("full", target))
    if target == "diffusers":
        folder.write_pipeline(out, prior.source, prior.component, prior.network, fields, dtype, result.pipeline)
        for name, encoder in result.encoders.items():
            folder.write_encoder(out / name, encoder, dtype)
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
