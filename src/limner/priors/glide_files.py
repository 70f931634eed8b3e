"""GLIDE's and PITI's files: OpenAI's ``base.pt`` and ``upsample.pt``, PITI's checkpoints, and their safetensors.

    OpenAI   the denoiser and the text transformer in one state dict, 16 or 32 bit
    PITI     ``decoder.`` (the denoiser without text) and ``encoder.``; after its first stage the bare encoder alone

A pickle is read with ``weights_only``: nothing in it is run. Sizes other than the released ones stand in a
``config.json`` beside the file: {"base": {...}, "upsample": {...}} with the fields of ``NetConfig``.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from limner.errors import PriorError, did_you_mean, first_line
from limner.priors.files import read_json
from limner.priors.glide_net import BASE, UPSAMPLER, NetConfig

State = dict[str, Tensor]

TEXT = ("transformer.", "final_ln.", "token_embedding.", "positional_embedding", "padding_embedding")
SUFFIXES = (".safetensors", ".pt")
# Convolutions over a sequence there, linear layers here: their weights have a last dimension of one.
SEQUENCE = (".qkv.weight", ".encoder_kv.weight", ".proj_out.weight")
CONFIGS = {"base": BASE, "upsample": UPSAMPLER}
PART_NAMES = {"network": "denoiser", "text": "text transformer", "encoder": "condition encoder"}


def is_glide(path: Path) -> bool:
    """Whether it is a folder with a base file, or a file of GLIDE's or PITI's."""
    if path.is_dir():
        return not (path / "model_index.json").exists() and any(
            (path / f"base{suffix}").is_file() for suffix in SUFFIXES
        )
    if not path.is_file() or path.suffix not in SUFFIXES:
        return False
    parts = parts_of(path)
    return "transformer_proj.weight" in parts.get("network", {}) or "cnn.conv1.weight" in parts.get("encoder", {})


def file_of(path: Path, role: str) -> Path:
    """The file of a role, 'base' or 'upsample': ``path`` itself, or the one in the folder.

    Raises:
        PriorError: no such file, or one that is of the other role.
    """
    chosen = [path] if path.is_file() else [path / f"{role}{suffix}" for suffix in SUFFIXES]
    for file in chosen:
        if file.is_file():
            _check_role(file, role)
            return file
    raise PriorError(f"{path} has no {role}.pt or {role}.safetensors.", "put OpenAI's or PITI's file there")


def config_of(file: Path, role: str) -> NetConfig:
    """The sizes of a role's network: the released ones, unless a config.json beside the file says others.

    Raises:
        PriorError: a field that ``NetConfig`` does not have.
    """
    if not (file.parent / "config.json").is_file():
        return CONFIGS[role]
    given = read_json(file.parent / "config.json").get(role, {})
    known = {field.name for field in fields(NetConfig)}
    for name in given:
        if name not in known:
            raise PriorError(f"{file.parent / 'config.json'}: unknown field '{name}'.", did_you_mean(name, known))
    sizes: dict[str, Any] = {name: tuple(size) if isinstance(size, list) else size for name, size in given.items()}
    return replace(CONFIGS[role], **sizes)


def parts_of(file: Path) -> dict[str, State]:
    """What a file holds, by part: 'network', 'text', 'encoder'; tensors stay in the file until they are used.

    Raises:
        PriorError: a file that cannot be read or is no state dict.
    """
    state = _read(file)
    if "cnn.conv1.weight" in state:
        return {"encoder": state}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        if name.startswith("decoder."):
            part, name = "network", name.removeprefix("decoder.")
        elif name.startswith("encoder."):
            part, name = "encoder", name.removeprefix("encoder.")
        else:
            part = "text" if name.startswith(TEXT) else "network"
        parts.setdefault(part, {})[name] = tensor.flatten(1) if name.endswith(SEQUENCE) else tensor
    return parts


def official(state: State) -> State:
    """A network's weights in the shapes of OpenAI's and PITI's files."""
    return {name: weight[..., None] if name.endswith(SEQUENCE) else weight for name, weight in state.items()}


def fill(module: nn.Module, part: str, file: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Give a module, made on the meta device, the weights of a part of a file.

    Raises:
        PriorError: the file lacks the part or one of its weights, or has one more, or one of another shape.
    """
    state, wanted = parts_of(file).get(part), module.state_dict()
    hint = "give OpenAI's or PITI's file as it was released, or say its sizes in a config.json beside it"
    if state is None:
        raise PriorError(f"{file} holds no {PART_NAMES[part]}.", "give a file that does")
    if missing := [name for name in wanted if name not in state]:
        raise PriorError(f"{file} lacks '{missing[0]}' ({len(missing)} missing).", hint)
    if strange := [name for name in state if name not in wanted]:
        raise PriorError(f"{file} holds '{strange[0]}', which GLIDE does not have ({len(strange)} unknown).", hint)
    for name, weight in wanted.items():
        if state[name].shape != weight.shape:
            raise PriorError(f"{file}: '{name}' is {tuple(state[name].shape)}, not {tuple(weight.shape)}.", hint)
    module.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in state.items()}, assign=True)
    return module


def _read(file: Path) -> State:
    hint = "fetch the file again"
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        state: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise PriorError(f"{file} cannot be read: {first_line(error)}.", hint) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PriorError(f"{file} is no state dict.", "give the file of the weights alone")
    return state


def _check_role(file: Path, role: str) -> None:
    conv = parts_of(file).get("network", {}).get("input_blocks.0.0.weight")
    if conv is None:
        raise PriorError(f"{file} holds no denoiser.", "give base.pt, or a folder with it")
    num = conv.shape[1]
    expected = CONFIGS[role].in_channels
    if num != expected:
        known = {3: "GLIDE's base model", 6: "GLIDE's upsampler", 7: "GLIDE's inpainting model"}
        what = known.get(num, f"a model that reads {num} planes")
        raise PriorError(f"{file} is {what}, and its {role} model is asked for.", f"give {role}.pt")
