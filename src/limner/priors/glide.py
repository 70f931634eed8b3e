"""GLIDE (Nichol et al. 2022, arXiv 2112.10741): pixel-space text-to-image at 64 px, and its upsampler to 256 px.

A folder with ``base.pt`` (and ``upsample.pt``) as OpenAI released them, or ``base.pt`` itself; the same as safetensors.
PITI's checkpoints open alike; they hold no text transformer, so captions need OpenAI's ``base.pt`` beside them.
Latents are the pictures themselves. Captions are 128 tokens, all of which are read, and the last tells of the whole.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import PriorError
from limner.priors.base import Prior, mean_of_pictures
from limner.priors.folder import DTYPES, PLAIN, Loading
from limner.priors.glide_files import SUFFIXES, config_of, file_of, fill, parts_of
from limner.priors.glide_net import UNet
from limner.priors.glide_path import PicturePath, base_path, upsampler_path
from limner.priors.glide_text import ConditionEncoder, TextTransformer
from limner.priors.glide_tokens import tokenizer
from limner.priors.held_parts import Parts
from limner.priors.widening import widen_conv
from limner.types import Cond, Tokens


class GlidePrior(Prior):
    """The base model: what methods fine-tune.

    Raises:
        PriorError: a file that is missing, damaged or of something else; a precision that the network cannot have.
    """

    family = "glide"
    guidance_scale = 3.0
    component = "unet"
    adapter_targets = ("qkv", "encoder_kv", "proj_out")
    text_layers = ("encoder_kv",)
    role = "base"
    path: PicturePath
    network: Any  # a UNet, until an adapter is put into it

    def __init__(self, path: str | Path, loading: Loading = PLAIN) -> None:
        if loading.network not in DTYPES:
            raise PriorError(
                f"{path}: base_precision {loading.network} is for linear layers, and GLIDE is made of convolutions.",
                "take base_precision fp32 or bf16",
            )
        self.file = file_of(Path(path), self.role)
        self.source = self.file.parent
        self.config = config_of(self.file, self.role)
        self.path = base_path() if self.role == "base" else upsampler_path()
        self.tokenizer = tokenizer(self.config.num_tokens)
        self.readers = {"text": self.tokenizer}
        self.multiple_px = 2 ** (len(self.config.multipliers) - 1)
        self.image_px = loading.side_px(self.config.image_px, self.multiple_px)
        self.latent_CHW = (3, self.image_px, self.image_px)
        self.latent_scale = 1.0
        self.token_dim = self.pooled_dim = self.config.token_dim
        self.num_tokens = self.config.num_tokens
        with torch.device("meta"):
            self.network = UNet(self.config)
        if not loading.meta:
            fill(self.network, "network", self.file, DTYPES[loading.network])
        self.parts = Parts({"text": functools.partial(self._text, DTYPES[loading.text])})

    def _text(self, dtype: torch.dtype) -> nn.Module:
        file, bare = self._text_file(), torch.get_default_device().type == "meta"
        with torch.device("meta"):
            text = TextTransformer(self.config)
        return text.to(dtype) if bare else fill(text, "text", file, dtype)

    def _text_file(self) -> Path:
        """The denoiser's own file, else OpenAI's beside it."""
        for file in (self.file, *(self.source / f"{self.role}{suffix}" for suffix in SUFFIXES)):
            if file.is_file() and "text" in parts_of(file):
                return file
        raise PriorError(
            f"{self.file} holds no text transformer, as PITI left it out.", f"put OpenAI's {self.role}.pt beside it"
        )

    @functools.cache  # noqa: B019  a prior or two in a process
    def encoders_digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(parts_of(self._text_file())["text"].items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return x_BCHW, torch.zeros_like(x_BCHW)

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return z_BCHW.clamp(-1, 1)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        # Python's small letters are the official ones; the tokenizer's own differ in a Greek letter.
        ids_BL, mask_BL = self.tokenizer.ids([caption.lower() for caption in captions])
        device = self.parts.device
        tokens_BLD = self.parts["text"](ids_BL.to(device), mask_BL.to(device)).float()
        return Cond(tokens_BLD, pooled_BD=tokens_BLD[:, -1])

    def add_words(self, starts: Mapping[str, str], num_vectors: int) -> nn.ModuleDict:
        """As of every prior; in small letters, as captions are read."""
        return super().add_words({word.lower(): start.lower() for word, start in starts.items()}, num_vectors)

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizer.count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        return self._noise_and_variance(x_t_BCHW, t_B, cond)[0]

    def _noise_and_variance(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Sequence[Tensor]:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        return self.network(x_t_BCHW, self.path.timestep(t_B), cond.tokens_BLD, cond.pooled_BD).chunk(2, dim=1)

    def loss(self, z_0: Tensor, eps: Tensor, t_B: Tensor, cond: Cond, weight_B1HW: Tensor | None = None) -> Tensor:
        """Squared error of the noise, and the variational bound for the variance (Nichol & Dhariwal 2021), (B,).

        L_simple + lambda L_vlb with lambda L_vlb estimated as bound * T / 1000, in bits a value, as in pretraining.
        """
        x_t = self.path.mix(z_0, eps, t_B)
        noise, variance = self._noise_and_variance(x_t, t_B, cond)
        error_BCHW = (noise.float() - eps.float()).square()
        bound_BCHW = self.path.bound(z_0, x_t, noise, variance, t_B) * (self.path.num_timesteps / 1000)
        return mean_of_pictures(error_BCHW + bound_BCHW, weight_B1HW)

    def widen_input(self, num_channels: int) -> None:
        self.network.input_blocks[0][0] = widen_conv(self.network.input_blocks[0][0], num_channels)
        self.network.config = replace(self.network.config, in_channels=self.network.config.in_channels + num_channels)

    def reinitialise(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = UNet(self.network.config).to(self.device)


class GlideUpsampler(GlidePrior):
    """The upsampler, as a prior over pictures of 256 px: ``cond.channels_BCHW`` is the small picture, made as large.

    ``sampling.upsample`` draws from it.
    """

    role = "upsample"


def condition_encoder(file: str | Path) -> ConditionEncoder:
    """PITI's encoder from any of its checkpoints: base, upsampler, or the encoder alone. Reads 1, 3 or 6 planes.

    Raises:
        PriorError: a file that is missing, damaged or holds no encoder.
    """
    file = Path(file)
    conv = parts_of(file).get("encoder", {}).get("cnn.conv1.weight")
    if conv is None:
        raise PriorError(f"{file} holds no condition encoder.", "give a checkpoint of PITI's")
    with torch.device("meta"):
        encoder = ConditionEncoder(conv.shape[1])
    fill(encoder, "encoder", file)
    return encoder
