"""The files of a model folder: its JSON, and which of them hold a part's weights and are whole.

Repositories keep a part's weights several times over: in fp32 and as a variant ("model.fp16.safetensors"), as
safetensors and as a pickle, in one file and in shards that an index names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from limner.errors import PriorError, first_line

MODELS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")  # parts that have weights
PLAIN = re.compile(r"(?:diffusion_pytorch_model|model)(?:-\d+-of-\d+)?\.safetensors")
VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+)(?:-\d+-of-\d+)?|-\d+-of-\d+\.(\w+))\.safetensors"
)  # fmt: skip
INDEX = re.compile(r"(?:diffusion_pytorch_model|model)\.safetensors\.index(?:\.(\w+))?\.json")
PICKLE = re.compile(r".+\.(?:bin|pt|pth|ckpt)")
VARIANTS = ("fp16", "bf16")  # a repository's others, such as "non_ema", are other weights


def chosen(names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Of a part's file names those of the weights that are used, and which variant they are (None: the plain ones)."""
    names = sorted(names)
    for variant in (None, *VARIANTS):
        files = [name for name in names if _variant(name) == (variant or "plain")]
        if files:
            index = [name for name in names if (found := INDEX.fullmatch(name)) and found[1] == variant]
            return variant, files + index
    return None, []


def _variant(name: str) -> str:
    """'plain', the name of a variant, or '' for what is no file of weights."""
    if PLAIN.fullmatch(name):
        return "plain"
    found = VARIANT.fullmatch(name)
    return (found[1] or found[2]) if found else ""


def check(folder: Path) -> str | None:
    """The variant of the weights in a part's folder, all of which are there and can be opened.

    Raises:
        PriorError: none are there, one of the shards is not, or a file is cut short.
    """
    names = {file.name for file in folder.iterdir()}
    variant, used = chosen(names)
    index = [name for name in used if INDEX.fullmatch(name)]
    if not used or not names & set(used) - set(index):
        raise _no_weights(folder, names)
    wanted = set(used) - set(index)
    if index:
        wanted = set(read_json(folder / index[0]).get("weight_map", {}).values())
    for name in sorted(wanted):
        if name not in names:
            raise PriorError(f"{folder} lacks {name}.", "fetch the folder again, or copy the file there")
        check_whole(folder / name)
    return variant


def check_whole(file: Path) -> None:
    """
    Raises:
        PriorError: it is no safetensors file, or is shorter than it says.
    """
    try:
        with safe_open(file, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise PriorError(f"{file} is damaged: {first_line(error)}.", "fetch it again") from error


def _no_weights(folder: Path, names: set[str]) -> PriorError:
    if pickles := sorted(name for name in names if PICKLE.fullmatch(name)):
        root = folder.parent
        return PriorError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code; limner reads safetensors only.",
            'if you trust its author: python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_pretrained('{root}').save_pretrained('{root}-safetensors')\"",
        )
    return PriorError(f"{folder} has no weights.", "give a complete diffusers folder")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        PriorError: it is not there, or is no JSON.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise PriorError(f"{file} does not exist.", "give a diffusers folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PriorError(f"{file} is not JSON: {error}.", "fetch the folder again") from None
    if not isinstance(values, Mapping):
        raise PriorError(f"{file} holds no JSON object.", "fetch the folder again")
    return dict(values)
