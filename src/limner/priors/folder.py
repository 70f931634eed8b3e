"""A diffusers folder: what it says it holds, and its parts, each loaded when it is asked for."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import nn

from limner.errors import ConfigError, PriorError, first_line
from limner.priors import quantised
from limner.priors.files import MODELS, check, read_json
from limner.priors.strangers import told_apart
from limner.priors.tokens import Tokenizer

Held = Literal["fp32", "bf16", "int8", "nf4"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """How a prior's weights are held.

    network: of the denoiser; int8 and nf4 are quantised, for use under an adapter. text: of the text encoders, and of
    what of a quantised denoiser is not quantised; the autoencoder is always fp32. meta: shapes only, no weights: enough
    to ask for sizes, to count and to check. image_px: side of the square pictures, where it shall not be the prior's
    own.
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
        PriorError: there is no model_index.json, and what there is instead; or it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "model_index.json").is_file():
            raise told_apart(self.path)
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

    def models(self) -> list[str]:
        """The parts that have weights and are used: the denoiser, the autoencoder, the text encoders."""
        return [part for part in self.index if part in MODELS and self.kind(part)]

    def need_weights(self) -> None:
        """Stop unless the weights of every part are there and whole; none are read.

        Raises:
            PriorError: names the part, or the file.
        """
        for part in self.models():
            self.need(**{part: ()})
            check(self.path / part)

    def network(self, part: str, loading: Loading) -> Any:
        """The denoiser; a quantised one is so from when it is moved to a device."""
        kind = getattr(importlib.import_module("diffusers"), self.kind(part) or "")
        if loading.meta:
            with init_empty_weights(include_buffers=True):
                return kind.from_config(self.config(part))
        network = self._weights(part, kind, torch_dtype=DTYPES.get(loading.network) or DTYPES[loading.text])
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.float()  # which take fp32 as well as bf16; in bf16 they would take no fp32 on a CPU
        return quantised.prepare(network, loading.network) if loading.network in quantised.KINDS else network

    def part(self, part: str, dtype: torch.dtype = torch.float32) -> Callable[[], nn.Module]:
        """A call that loads an autoencoder (diffusers) or a text encoder (transformers); shapes only, on 'meta'."""
        library, name = self.index[part]
        dtype_name = "dtype" if library == "transformers" else "torch_dtype"

        def load() -> nn.Module:
            kind = getattr(importlib.import_module(library), name)
            if torch.get_default_device().type == "meta":
                bare = kind.from_config(self.config(part)) if library == "diffusers" else kind(self._stated(part, kind))
                return bare if dtype == torch.float32 else bare.to(dtype)
            return self._weights(part, kind, **{dtype_name: dtype})

        return load

    def _stated(self, part: str, kind: Any) -> Any:
        """The configuration of a text encoder, as its class reads it."""
        return self._load(part, lambda: kind.config_class.from_pretrained(self.path / part))

    def _weights(self, part: str, kind: Any, **options: Any) -> Any:
        """A module with the weights of its folder, all of them: what is missing would be random."""
        folder = self.path / part
        variant = check(folder)
        module, found = self._load(
            part,
            lambda: kind.from_pretrained(
                folder, use_safetensors=True, variant=variant, output_loading_info=True, **options
            ),
        )
        if lacking := sorted(found["missing_keys"]):
            raise PriorError(f"{folder} lacks the weight '{lacking[0]}' ({len(lacking)} missing).", "fetch it again")
        return module

    def _load(self, part: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise PriorError(
                f"{self.path / part} cannot be loaded: {first_line(error)}.", "check that every file is there and whole"
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
