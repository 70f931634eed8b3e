"""Folders and files that are no text-to-image model: what each is instead, and what to do with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from limner.errors import PriorError
from limner.priors.files import PICKLE, read_json

ADAPTER_HINT = (
    "merge it into its prior with --adapters FILE, or go on training it with --start-from FILE; "
    "--prior is the model that it was made for"
)
ADAPTER_MARKS = (".lora_", "lora_A", "lora_B", ".lokr_", ".hada_", ".oft_", ".diff_b", ".dora_scale")
QUANTISED_MARKS = (".scale_weight", ".weight_scale", "scaled_fp8", ".SCB", ".quant_state.", ".weight.absmax")
CONTROLNET_MARKS = ("control_model.", "controlnet_", "input_hint_block.", "control_all_x_embedder.")
AUTOENCODER_MARKS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "bn.")
ENCODER_MARKS = (
    "text_model.",
    "text_projection",
    "logit_scale",
    "encoder.block.",
    "encoder.final_layer_norm.",
    "shared.",
    "model.layers.",
    "model.embed_tokens.",
    "model.norm.",
    "lm_head.",
)


def told_apart(path: Path) -> PriorError:
    """What a folder without model_index.json is."""
    if not path.is_dir():
        return PriorError(f"{path} is no folder.", "give a diffusers folder")
    names = sorted(file.name for file in path.iterdir())
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        return PriorError(
            f"{path} is a run folder, not a prior.",
            "give the prior that the run began with; its adapter goes on with --start-from",
        )
    if "adapter_config.json" in names or any("lora" in name and name.endswith(".safetensors") for name in names):
        return PriorError(f"{path} holds an adapter (LoRA), not a prior.", ADAPTER_HINT)
    if "config.json" in names:
        config = read_json(path / "config.json")
        if kind := config.get("_class_name"):
            return PriorError(f"{path} is one part of a model, a {kind}, not a whole one.", _whole(path))
        kind = (config.get("architectures") or [config.get("model_type", "model of its own kind")])[0]
        return PriorError(f"{path} is a {kind} of transformers, not a text-to-image model.", _whole(path))
    return PriorError(f"{path} has no model_index.json, so it is no diffusers folder.", _instead(path, names))


def _whole(path: Path) -> str:
    whole = path.parent if (path.parent / "model_index.json").is_file() else "the diffusers folder that it belongs to"
    return f"give {whole}"


def _instead(path: Path, names: Iterable[str]) -> str:
    """What in the folder may be meant."""
    for name in names:
        if (path / name / "model_index.json").is_file():
            return f"give {path / name}"
        if name.endswith(".safetensors"):
            return f"give the file: {path / name}"
        if name.endswith(".gguf") or PICKLE.fullmatch(name):
            return f"{name} is not read; give a safetensors file or a diffusers folder"
    return "give a diffusers folder, or a safetensors file"


def refuse_file(file: Path, names: Collection[str]) -> None:
    """Stop where the names of a file's tensors say that it is no model.

    Raises:
        PriorError: says what it is.
    """
    hint = "give the whole model's file, or a diffusers folder"
    if any(mark in name for name in names for mark in ADAPTER_MARKS):
        raise PriorError(f"{file} holds an adapter (LoRA), not a prior.", ADAPTER_HINT.replace("FILE", str(file)))
    if any(mark in name for name in names for mark in QUANTISED_MARKS):
        raise PriorError(
            f"{file} is quantised already.", "give its fp16 or bf16 file, and base_precision to quantise that"
        )
    alone = {
        "a ControlNet": any(name.startswith(CONTROLNET_MARKS) for name in names),
        "an embedding (textual inversion)": set(names) <= {"emb_params", "clip_l", "clip_g", "t5xxl"},
        "an autoencoder alone": all(name.startswith(AUTOENCODER_MARKS) for name in names),
        "a text encoder alone": all(name.startswith(ENCODER_MARKS) for name in names),
    }
    for what, so in alone.items():
        if so:
            raise PriorError(f"{file} is {what}, not a prior.", hint)
