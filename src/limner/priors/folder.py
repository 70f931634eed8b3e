"""A diffusers folder: what it says it holds, and its parts, each loaded when it is asked for."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import nn

from limner.errors import ConfigError, PriorError
from limner.priors.tokens import Tokenizer

Held = Literal["fp32", "bf16", "int8", "nf4"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """How a prior's weights are held.

    network: of the denoiser; int8 and nf4 are quantised, for use under an adapter. text: of the text encoders; the
    autoencoder is always fp32. meta: shapes only, no weights: enough to ask for sizes, to count and to check. image_px:
    side of the square pictures, where it shall not be the prior's own.
    """

    network: Held = "fp32"
    text: Literal["fp32", "bf16"] = "fp32"
    meta: bool = False
    image_px: int | None = None

    def side_px(self, own_px: int, multiple_px: int) -> int:
        """Side of the square pictures: what is asked for, else the prior's own.

        Raises:
            ConfigError: what is asked for is no multiple of ``multiple_px``.
        """
        if self.image_px is None:
            return own_px
        if self.image_px % multiple_px:
            good_px = max(1, self.image_px // multiple_px) * multiple_px
            raise ConfigError(
                f"image_px: {self.image_px} is no multiple of {multiple_px}.", f"the prior takes {good_px}"
            )
        return self.image_px


PLAIN = Loading()


class DiffusersFolder:
    """A folder as ``DiffusionPipeline.save_pretrained`` writes it.

    Raises:
        PriorError: there is no model_index.json, or it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.index = read_json(self.path / "model_index.json")

    def need(self, **kinds: tuple[str, ...]) -> None:
        """Stop unless each part is there and of one of these classes (any, where none is named).

        Raises:
            PriorError: names the part.
        """
        for part, allowed in kinds.items():
            if not (self.path / part).is_dir() or self.kind(part) is None:
                raise PriorError(f"{self.path} has no {part}/.", "give a complete diffusers folder")
            if allowed and self.kind(part) not in allowed:
                raise PriorError(f"{self.path}: {part} is a {self.kind(part)}.", "known: " + ", ".join(allowed))

    def kind(self, part: str) -> str | None:
        """The class of a part, None where the folder has none."""
        return (self.index.get(part) or [None, None])[1]

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part: config.json, or a scheduler's scheduler_config.json."""
        return read_json(self.path / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))

    def network(self, part: str, loading: Loading) -> Any:
        """The denoiser."""
        kind = getattr(importlib.import_module("diffusers"), self.kind(part) or "")
        if loading.meta:
            with init_empty_weights(include_buffers=True):
                return kind.from_config(self.config(part))
        return self._load(part, lambda: kind.from_pretrained(
            self.path / part, torch_dtype=DTYPES[loading.network], use_safetensors=True
        ))  # fmt: skip

    def part(self, part: str, dtype: torch.dtype = torch.float32) -> Callable[[], nn.Module]:
        """A call that loads an autoencoder (diffusers) or a text encoder (transformers)."""
        library, name = self.index[part]
        dtype_name = "dtype" if library == "transformers" else "torch_dtype"

        def load() -> nn.Module:
            kind = getattr(importlib.import_module(library), name)
            return self._load(
                part, lambda: kind.from_pretrained(self.path / part, use_safetensors=True, **{dtype_name: dtype})
            )

        return load

    def _load(self, part: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (OSError, ValueError) as error:
            raise PriorError(
                f"{self.path / part} cannot be loaded: {error}.", "check that every file is there and whole"
            ) from error

    def tokenizer(self, part: str, num_tokens: int | None = None) -> Tokenizer:
        """The tokenizer of a part; ``num_tokens`` defaults to its own model_max_length."""
        kind = getattr(importlib.import_module("transformers"), self.kind(part) or "")
        tokenizer = self._load(part, lambda: kind.from_pretrained(self.path / part))
        if len(tokenizer) < 3:
            raise PriorError(f"{self.path / part} has no vocabulary.", "give a complete diffusers folder")
        return Tokenizer(tokenizer, num_tokens or tokenizer.model_max_length)

    @functools.cache  # noqa: B019  a folder is opened a few times in a process
    def digest(self, *parts: str) -> str:
        """A hash of all bytes of these parts."""
        digest = hashlib.sha256()
        for part in parts:
            for file in sorted(path for path in (self.path / part).rglob("*") if path.is_file()):
                with file.open("rb") as stream:
                    digest.update(f"{part}/{file.name}".encode() + hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        PriorError: it is not there, or is no JSON.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{file} does not exist.", "give a diffusers folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PriorError(f"{file} is not JSON: {error}.", "fetch the folder again") from None
    if not isinstance(values, Mapping):
        raise PriorError(f"{file} holds no JSON object.", "fetch the folder again")
    return dict(values)
