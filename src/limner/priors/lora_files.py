"""Adapter files that people have, read into one form: which layer of the network gets which tensors, at which scale.

    diffusers  unet.MODULE.lora_A.weight                pytorch_lora_weights.safetensors; its header may say the scale
    peft       base_model.model.MODULE.lora_A.weight    adapter_model.safetensors beside adapter_config.json
    kohya      lora_unet_MODULE.lora_down.weight        each with its alpha; DoRA, LoHa and LoKr as LyCORIS writes them
    comfyui    diffusion_model.MODULE.lora_A.weight
    limner     network/MODULE.lora_A.default.weight     ema.safetensors in a checkpoint of a run

MODULE is named as diffusers does or as the model's authors do, with dots or with underscores. What fits no layer, and
what is no part of an adapter, is refused by name. Tensors for text encoders are counted and left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from limner.config import read_yaml
from limner.errors import PriorError
from limner.priors.files import read_json
from limner.priors.lora_layers import KINDS, Layer, places, split

KEY = re.compile(
    r"(.+?)[._](lora_A|lora_B|lora[._]down|lora[._]up|lora_magnitude_vector|dora_scale|alpha|(?:lokr|hada)_\w+|oft_R)"
    r"(?:\.default(?:_\d+)?)?(?:\.weight)?"
)
PREFIX = re.compile(
    r"^(?:base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|unet\.|transformer\.|network/"
    r"|lora_unet_|lora_transformer_|lycoris_)+"
)
TEXT = re.compile(
    r"(?:base_model\.model\.)?(?:lora_te|text_encoder|text_model|te\d?\.|conditioner\.|cond_stage_model\.)"
)
PEFT_NAMES = {
    **dict.fromkeys(("lora_down", "lora.down"), "lora_A"),
    **dict.fromkeys(("lora_up", "lora.up"), "lora_B"),
    "dora_scale": "lora_magnitude_vector",
}
# What a file's names give away, the first that is found; for the hint when nothing fits.
SIGNS = (
    (r"to_qkv_mlp_proj|stream_modulation", "flux2"),
    (r"transformer_blocks[._]\d+[._](?:img|txt)_m", "qwen_image"),
    (r"(?:noise|context)_refiner|layers[._]\d+[._]attention", "z_image"),
    (r"lora_te2|text_encoder_2|add_embedding|label_emb|attentions[._]\d[._]transformer_blocks[._][2-9]", "sdxl"),
    (r"(?:down|up|input|output)_blocks|mid_block|middle_block", "sd"),
    (r"single_transformer_blocks", "flux"),
    (r"double_blocks|single_blocks", "flux or flux2"),
    (r"joint_blocks|transformer_blocks[._]\d+[._]", "sd3"),
)


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as it lies on disk; its layers have the network's own names."""

    path: Path
    layers: dict[str, Layer]


def read(path: Path, network: nn.Module, family: str) -> AdapterFile:
    """The adapter in a file or folder, for a network of a family.

    Raises:
        PriorError: it is not there, is damaged, is no adapter, or is one of another network.
    """
    file = find(path)
    tensors, header = _load(file)
    if family == "flux" and any(".processor.qkv_lora" in key for key in tensors):  # XLabs' layout
        from diffusers import FluxPipeline

        tensors = FluxPipeline.lora_state_dict(tensors)
    about = _about(file, header)
    given = _by_module(file, tensors, {name for name, _ in network.named_buffers()})
    known = places(network, family)
    if strange := sorted(given.keys() - known.keys()):
        more = f", nor do {len(strange) - 1} others of its {len(given)}" if len(strange) > 1 else ""
        raise PriorError(f"{file}: '{strange[0]}' fits no layer of the network{more}.", _guess(tensors, family))
    layers: dict[str, Layer] = {}
    for module, parts in given.items():
        layer = Layer({part: parts[part] for part in parts if part != "alpha"}, _scale(module, parts, about))
        try:
            made = split(layer, known[module], about)
        except ValueError as error:
            raise PriorError(f"{file}: '{module}' {error}.", _guess(tensors, family)) from None
        if twice := sorted(made.keys() & layers.keys()):
            raise PriorError(f"{file} has '{twice[0]}' twice, under two names.", "delete the tensors of one of them")
        layers |= made
    return AdapterFile(file, layers)


def num_text(path: Path) -> int:
    """How many of a file's tensors are for text encoders, which ``read`` leaves out."""
    with safe_open(find(path), framework="pt") as opened:
        return sum(bool(TEXT.match(key)) for key in opened.keys())  # noqa: SIM118


def find(path: Path) -> Path:
    """The file itself, where a folder may have been given.

    Raises:
        PriorError: it is not there, or is no safetensors file.
    """
    if path.is_dir():
        known = [path / f"{name}.safetensors" for name in ("pytorch_lora_weights", "adapter_model")]
        found = [file for file in known if file.is_file()] or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            what = "several .safetensors files" if found else "no .safetensors file"
            raise PriorError(f"{path} holds {what}.", "give the adapter's file itself")
        return found[0]
    if not path.is_file():
        raise PriorError(f"{path} does not exist.", "give an adapter's file, written FILE or FILE:SCALE, or a run")
    if path.suffix != ".safetensors":
        raise PriorError(f"{path} is no .safetensors file.", "other files may run code when they are read: convert it")
    return path


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PriorError(f"{file} cannot be read: {error}.", "it may have been cut short: fetch it again") from None


def _about(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """Rank and alpha under peft's names, from wherever the layout says them; {} where it does not."""
    if (beside := file.with_name("adapter_config.json")).is_file():
        about = read_json(beside)
        if str(about.get("peft_type")).lower() not in KINDS:
            raise PriorError(f"{file} is a {about.get('peft_type')} adapter.", "known: " + ", ".join(KINDS))
        return about
    if file.name == "ema.safetensors" and (run := file.parent.parent.parent / "config.yaml").is_file():
        values = read_yaml(run)
        return {"r": values.get("rank"), "lora_alpha": values.get("alpha") or values.get("rank")}
    try:
        said = json.loads(header.get("lora_adapter_metadata", "{}"))
    except json.JSONDecodeError:
        raise PriorError(f"{file}: what its header says of the adapter is not JSON.", "fetch it again") from None
    return {key.partition(".")[2]: value for key, value in said.items() if not key.startswith("text_encoder")}


def _by_module(file: Path, tensors: Mapping[str, Tensor], buffers: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Module as the file names it, without prefix -> part under peft's name -> tensor."""
    given: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        found = KEY.fullmatch(key)
        if TEXT.match(key):
            continue
        if found and found[2] == "dora_scale" and tensor.shape[0] == 1 < tensor.numel():
            raise PriorError(f"{file}: '{key}' has a number for each input.", "only DoRA by outputs can be used")
        if found:
            module = PREFIX.sub("", found[1]).replace(".processor.", ".")
            given.setdefault(module, {})[PEFT_NAMES.get(found[2], found[2])] = tensor
        elif PREFIX.sub("", key) not in buffers and not key.endswith((".rows", ".cols")):  # a run keeps those, too
            strange.append(key)
    if not given:
        what = "only a text encoder's adapter" if len(strange) < len(tensors) else "no adapter"
        raise PriorError(f"{file} holds {what}.", "give a LoRA, DoRA, LoKr, LoHa or OFT; a whole model is a --prior")
    if strange:
        more = f", nor are {len(strange) - 1} others" if len(strange) > 1 else ""
        raise PriorError(
            f"{file}: '{strange[0]}' is no part of a LoRA, DoRA, LoKr, LoHa or OFT{more}.",
            "only what is an adapter and nothing else can be used as one",
        )
    return given


def _scale(module: str, parts: Mapping[str, Tensor], about: Mapping[str, Any]) -> float:
    """alpha / rank. LyCORIS scales by 1 what it did not factor; files that say nothing mean 1."""
    from peft.utils.other import get_pattern_key

    factors = [parts[name] for name in ("lora_A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts]
    if "alpha" in parts:
        return float(parts["alpha"]) / len(factors[0]) if factors else 1.0
    alpha = about.get("lora_alpha", about.get("alpha"))
    if alpha is None or "oft_R" in parts:
        return 1.0
    ranks, alphas = about.get("rank_pattern") or {}, about.get("alpha_pattern") or {}
    rank: float = ranks.get(get_pattern_key(list(ranks), module), about["r"])
    alpha = alphas.get(get_pattern_key(list(alphas), module), alpha)
    return alpha / (math.sqrt(rank) if about.get("use_rslora") else rank)


def _guess(keys: Iterable[str], family: str) -> str:
    """Which family a file's names are those of, as a hint."""
    names = "\n".join(keys)
    seems = next((theirs for sign, theirs in SIGNS if re.search(sign, names)), None)
    if seems and family not in seems.split(" or "):
        return f"its names are those of the family {seems}; the prior is of the family {family}"
    return "it may be for another version of the prior; docs/adapters.md lists the layouts that are read"
