"""Priors of the Stable Diffusion 1.x/2.x shape: a diffusers folder with unet, vae, text_encoder, tokenizer, scheduler.

The scheduler's own configuration says which path it is: epsilon, v_prediction, or a flow-matching scheduler.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from limner.errors import PriorError
from limner.priors import paths
from limner.priors.base import Prior
from limner.types import Cond, Tokens

AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class StableDiffusion(Prior):
    """A UNet2DConditionModel over the latents of an AutoencoderKL or AutoencoderTiny, told by a CLIPTextModel."""

    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        path: paths.Path,
    ) -> None:
        if len(tokenizer) < 3:
            raise PriorError("the tokenizer has no vocabulary.", "give a complete diffusers folder")
        self.network = unet
        self.path = path
        self.tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # a tokenizer keeps its settings within itself, and loaders are threads
        self.frozen = nn.ModuleDict({"vae": vae, "text_encoder": text_encoder}).requires_grad_(False).eval()
        side = unet.config.sample_size
        self.latent_CHW = (vae.config.latent_channels, side, side)
        pixels_a_cell = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_px = side * pixels_a_cell
        self.multiple_px = pixels_a_cell * 2 ** (len(unet.config.block_out_channels) - 1)
        self.token_dim = unet.config.cross_attention_dim
        self.num_tokens = tokenizer.model_max_length
        self.latent_scale = vae.config.scaling_factor

    @classmethod
    def from_folder(cls, folder: str | Path) -> StableDiffusion:
        """A diffusers folder, in fp32 whatever its files hold.

        Raises:
            PriorError: a part is missing or is of a kind not supported.
        """
        folder = Path(folder)
        index = _read_json(folder / "model_index.json")
        needed = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
        needed |= {"vae": None, "tokenizer": None, "scheduler": None}
        for part, kind in needed.items():
            found = (index.get(part) or [None, None])[1]
            if not (folder / part).is_dir() or found is None:
                raise PriorError(f"{folder} has no {part}/.", "give a complete diffusers folder")
            if kind is not None and found != kind:
                raise PriorError(f"{folder}: {part} is a {found}.", f"this family needs a {kind}")
        unet = _read_json(folder / "unet" / "config.json")
        if unet.get("addition_embed_type") == "text_time" or "text_encoder_2" in index:
            raise PriorError(f"{folder} is of the SDXL family.", "this version takes Stable Diffusion 1.x and 2.x")
        if unet["in_channels"] != unet["out_channels"]:
            raise PriorError(f"{folder}: the unet reads more than the noisy latent.", "give the text-to-image model")
        autoencoder = AUTOENCODERS.get(index["vae"][1])
        if autoencoder is None:
            raise PriorError(f"{folder}: vae is a {index['vae'][1]}.", "known: " + ", ".join(AUTOENCODERS))
        try:
            return cls(
                UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, use_safetensors=True),
                autoencoder.from_pretrained(folder / "vae", torch_dtype=torch.float32, use_safetensors=True),
                CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, use_safetensors=True),
                CLIPTokenizer.from_pretrained(folder / "tokenizer"),
                path_of(_read_json(folder / "scheduler" / "scheduler_config.json")),
            )
        except (OSError, ValueError) as error:
            raise PriorError(
                f"{folder} cannot be loaded: {error}.", "check that every file is there and whole"
            ) from error

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.frozen["vae"].encode(x_BCHW)
        if isinstance(self.frozen["vae"], AutoencoderTiny):
            return encoded.latents * self.latent_scale, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean * self.latent_scale, encoded.latent_dist.std * self.latent_scale

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return self.frozen["vae"].decode(z_BCHW / self.latent_scale).sample.clamp(-1, 1)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        with self._tokenizing:
            ids = self.tokenizer(
                list(captions), padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
            ).input_ids
        return Cond(self.frozen["text_encoder"](ids.to(self.device)).last_hidden_state)

    def count_tokens(self, caption: str) -> Tokens:
        with self._tokenizing:
            read = self.tokenizer(caption, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        room = self.num_tokens - self.tokenizer.num_special_tokens_to_add()
        starts = [start for start, _ in read.offset_mapping]
        if len(starts) <= room:
            return Tokens(len(starts), room, "")
        before = caption[: starts[room]]
        within_word = before[-1:].isalnum() and caption[starts[room]].isalnum()
        return Tokens(len(starts), room, caption[before.rfind(" ") + 1 if within_word else len(before) :].strip())

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        timestep = self.path.timestep(t_B)
        return self.network(x_t_BCHW, timestep, encoder_hidden_states=cond.tokens_BLD, return_dict=False)[0]

    def widen_input(self, num_channels: int) -> None:
        old = self.network.conv_in
        new = nn.Conv2d(old.in_channels + num_channels, old.out_channels, old.kernel_size, padding=old.padding)
        with torch.no_grad():
            new.weight.zero_()[:, : old.in_channels] = old.weight
            new.bias.copy_(old.bias)
        self.network.conv_in = new.to(old.weight)
        self.network.register_to_config(in_channels=new.in_channels)

    def reinitialise(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = UNet2DConditionModel.from_config(self.network.config).to(self.device)


def path_of(scheduler: dict) -> paths.Path:
    """The path that a scheduler_config.json describes.

    Raises:
        PriorError: a prediction type that is none of epsilon, v_prediction and flow.
    """
    if scheduler["_class_name"].startswith("FlowMatch"):
        return paths.Flow(scheduler.get("shift", 1.0))
    kinds = {"epsilon": paths.Eps, "v_prediction": paths.V}
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in kinds:
        raise PriorError(f"prediction_type '{kind}' is not supported.", "known: " + ", ".join(kinds))
    # Any scheduler's betas are read by DDIM's: the names of the fields are the same across diffusers.
    return kinds[kind](DDIMScheduler.from_config(scheduler).alphas_cumprod)


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{file} does not exist.", "give a diffusers folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PriorError(f"{file} is not JSON: {error}.", "fetch the folder again") from None
