"""New words as files: what ``load_textual_inversion`` and other programs' folders of embeddings read.

    sd                 {"<cat>": (k, D)} for diffusers, {"emb_params": (k, D)} for kohya's programs, A1111 and ComfyUI
    sdxl, sd3, flux    {"clip_l": (k, D), "clip_g": (k, D'), "t5xxl": (k, D'')}: those of its text encoders

A file holds one word. diffusers adds its k vectors as the tokens <cat>, <cat>_1, <cat>_2 and puts them all where the
first stands in a prompt; the other programs call a word by the name of its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.errors import ExportError
from limner.export import header

Words = Mapping[str, Mapping[str, Tensor]]

# Family -> text encoder -> its key in a file; '' where the file holds one vector alone.
KEYS = {
    "sd": {"text_encoder": ""},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
}
# The families whose words the programs of a target read.
READ = {
    "diffusers": ("sd", "sdxl", "flux"),
    "peft": ("sd", "sdxl", "flux"),
    "kohya": ("sd", "sdxl"),
    "comfyui": ("sd", "sdxl", "sd3", "flux"),
}


def refuse(target: str, family: str, alone: bool) -> None:
    """Stop, before anything is written, at a target that takes no new words of a family.

    Args:
        alone: whether there is nothing but words.

    Raises:
        ExportError: so it is.
    """
    if alone and target == "peft":
        raise ExportError("peft holds adapters, and the run has learnt words alone.", "use --to diffusers")
    if family not in READ[target]:
        others = [other for other, families in READ.items() if family in families and other != "peft"]
        hint = f"use --to {' or '.join(others)}" if others else "limner sample draws with the run as it is"
        raise ExportError(f"new words of the family {family} are nothing that {target}'s programs read.", hint)


def files(words: Iterable[str], target: str) -> dict[str, str]:
    """Word -> name of its file."""
    words = list(words)
    bare = [re.sub(r"[^\w.-]+", "", word) or "word" for word in words]
    named = {
        word: name if bare.count(name) == 1 else f"{name}-{i}"
        for i, (word, name) in enumerate(zip(words, bare, strict=True), start=1)
    }
    if target in ("kohya", "comfyui"):
        return {word: f"{name}.safetensors" for word, name in named.items()}
    if len(words) == 1:
        return {words[0]: "learned_embeds.safetensors"}
    return {word: f"learned_embeds-{name}.safetensors" for word, name in named.items()}


def write(out: Path, target: str, family: str, words: Words, fields: Mapping[str, str], dtype: torch.dtype) -> None:
    """One file a word, beside whatever lies in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    for word, name in files(next(iter(words.values())), target).items():
        whole = word if target in ("diffusers", "peft") else "emb_params"
        tensors = {
            (KEYS[family][encoder] or whole): own[word].to(dtype).cpu().contiguous() for encoder, own in words.items()
        }
        header.write(out / name, tensors, {**fields, "modelspec.trigger_phrase": word})


def read(out: Path, target: str, family: str, names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """What ``write`` wrote: text encoder -> word -> vectors in fp32."""
    held = {word: load_file(out / name) for word, name in files(names, target).items()}
    return {
        encoder: {word: (own[key] if key else next(iter(own.values()))).float() for word, own in held.items()}
        for encoder, key in KEYS[family].items()
    }


def use(target: str, family: str, names: Iterable[str]) -> list[str]:
    """How the files are used: for diffusers lines of Python after ``pipe``, else sentences."""
    named = files(names, target)
    if target in ("kohya", "comfyui"):
        lines = [
            f"Put `{name}` into `models/embeddings` of ComfyUI (`embeddings` of A1111). " for name in named.values()
        ]
        calls = [f"`embedding:{Path(name).stem}` stands for {word} there." for word, name in named.items()]
        return [line + call for line, call in zip(lines, calls, strict=True)]
    if family == "sd":
        return [
            f'pipe.load_textual_inversion("THIS FOLDER", weight_name="{name}", token="{word}")'
            for word, name in named.items()
        ]
    lines = ["from safetensors.torch import load_file", ""]
    sides = {encoder: encoder.replace("text_encoder", "tokenizer") for encoder in KEYS[family]}
    for word, name in named.items():
        lines.append(f'vectors = load_file("THIS FOLDER/{name}")')
        for encoder, key in KEYS[family].items():
            own = f"text_encoder=pipe.{encoder}, tokenizer=pipe.{sides[encoder]}"
            lines.append(f'pipe.load_textual_inversion(vectors["{key}"], token="{word}", {own})')
    lines += ["# Many released configurations have a wrong number for the end of the text, where CLIP sums it up."]
    for encoder, key in KEYS[family].items():
        if key.startswith("clip"):
            part = f'getattr(pipe.{encoder}, "text_model", pipe.{encoder})'
            lines.append(f"{part}.eos_token_id = pipe.{sides[encoder]}.eos_token_id")
    return lines
