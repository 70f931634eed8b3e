"""Priors of the Stable Diffusion 1.x/2.x shape: unet, vae, text_encoder, tokenizer, scheduler.

The scheduler's own configuration says which path it is: epsilon, v_prediction, or a flow-matching scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler
from torch import Tensor, nn

from limner.errors import PriorError
from limner.priors import autoencoder, paths
from limner.priors.base import Parts, Prior, widen_conv
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.types import Cond, Tokens


class StableDiffusion(Prior):
    """A UNet2DConditionModel over the latents of an AutoencoderKL or AutoencoderTiny, told by a CLIPTextModel.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "sd"
    component = "unet"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(unet=("UNet2DConditionModel",), text_encoder=("CLIPTextModel",), vae=autoencoder.KINDS)
        folder.need(tokenizer=(), scheduler=())
        unet, vae = folder.config("unet"), folder.config("vae")
        if unet["in_channels"] != unet["out_channels"]:
            raise PriorError(
                f"{folder.path}: the unet reads more than the noisy latent.", "give the text-to-image model"
            )
        self.folder, self.source = folder, folder.path
        self.path = path_of(folder.config("scheduler"))
        self.tokenizer = folder.tokenizer("tokenizer")
        self.pixels_a_cell = autoencoder.pixels_a_cell(vae)
        self.multiple_px = self.pixels_a_cell * 2 ** (len(unet["block_out_channels"]) - 1)
        self.image_px = loading.side_px(unet["sample_size"] * self.pixels_a_cell, self.multiple_px)
        side = self.image_px // self.pixels_a_cell
        self.latent_CHW = (vae["latent_channels"], side, side)
        _, self.latent_scale = autoencoder.shift_and_scale(vae)
        self.token_dim = unet["cross_attention_dim"]
        self.num_tokens = self.tokenizer.num_tokens
        self.network = folder.network("unet", loading)
        self.parts = Parts(
            {"vae": folder.part("vae"), "text_encoder": folder.part("text_encoder", DTYPES[loading.text])}
        )

    def encoders_digest(self) -> str:
        return self.folder.digest("vae", "text_encoder", "tokenizer")

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return autoencoder.encode(self.parts["vae"], x_BCHW)

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return autoencoder.decode(self.parts["vae"], z_BCHW)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        ids_BL, _ = self.tokenizer.ids(captions)
        return Cond(self.parts["text_encoder"](ids_BL.to(self.parts.device)).last_hidden_state.float())

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizer.count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        timestep = self.path.timestep(t_B)
        told = {"encoder_hidden_states": cond.tokens_BLD}
        if self.control is not None:
            told |= steer(self.control, x_t_BCHW, timestep, cond, told)
        return self.network(x_t_BCHW, timestep, **told, return_dict=False)[0]

    def add_control(self) -> nn.Module:
        self.control = unet_control(self.network, self.pixels_a_cell)
        return self.control

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.conv_in = widen_conv(network.conv_in, num_channels)
        network.register_to_config(in_channels=network.conv_in.in_channels)


def unet_control(unet: Any, pixels_a_cell: int) -> nn.Module:
    """The stock ControlNet of a UNet; its picture has ``pixels_a_cell`` pixels for each cell of the latent."""
    halvings = pixels_a_cell.bit_length() - 1
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96, 256)[: halvings + 1])


def steer(control: nn.Module, x_t_BCHW: Tensor, timestep_B: Tensor, cond: Cond, told: dict[str, Any]) -> dict[str, Any]:
    """What a control says to its UNet, as arguments of the UNet."""
    down, middle = control(x_t_BCHW, timestep_B, controlnet_cond=cond.control_BCHW, **told, return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def path_of(scheduler: dict[str, Any]) -> paths.Path:
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
