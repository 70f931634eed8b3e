"""A whole pipeline as a diffusers folder: the trained network, and everything else as the base has it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn

from limner.export import header

WEIGHTS = "diffusion_pytorch_model"
# Other forms of weights that stand beside the ones that are read.
PASSED_OVER = (".bin", ".ckpt", ".msgpack", ".onnx", ".pb", ".h5", ".fp16.safetensors", ".bf16.safetensors")


def write_pipeline(
    out: Path,
    source: Path,
    component: str,
    network: nn.Module,
    fields: Mapping[str, str],
    dtype: torch.dtype,
    pipeline: str | None,
) -> None:
    """Write ``out``: every part of the pipeline in ``source``, with ``network`` in place of ``component``.

    Large files are hard links to the base's where the file system can; nothing of the base is changed.

    Args:
        fields: the header of the network's files.
        pipeline: the class that shall open the folder, where it is not the base's own.
    """
    index: dict[str, Any] = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    if pipeline:
        index["_class_name"] = pipeline
    out.mkdir(parents=True)
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for part in (name for name in index if name != component and (source / name).is_dir()):
        for file in sorted(path for path in (source / part).rglob("*") if path.is_file()):
            if not file.name.endswith(PASSED_OVER):
                _link(file, out / file.relative_to(source))
    write_model(out / component, network, fields, dtype)


def write_model(folder: Path, model: Any, fields: Mapping[str, str], dtype: torch.dtype) -> None:
    """A model of diffusers' as ``from_pretrained`` reads it: config.json and weights, in shards where large."""
    folder.mkdir(parents=True)
    model.save_config(folder)
    state = held_in(model.state_dict(), dtype)
    plan = split_torch_state_dict_into_shards(state, filename_pattern=WEIGHTS + "{suffix}.safetensors")
    for file, names in plan.filename_to_tensors.items():
        header.write(folder / file, {name: state[name] for name in names}, fields)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_encoder(folder: Path, encoder: Any, dtype: torch.dtype) -> None:
    """A text encoder as transformers writes it, in place of the base's."""
    shutil.rmtree(folder)
    encoder.save_pretrained(folder, state_dict=held_in(encoder.state_dict(), dtype))


def held_in(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating tensors in another type."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _link(file: Path, to: Path) -> None:
    """The same file under another name; a copy of what is small enough to be edited, and across file systems."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        try:
            os.link(file.resolve(), to)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(file, to)
