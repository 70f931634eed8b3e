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
from limner.priors.base import Prior
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.widening import widen_conv
from limner.types import Cond, Tokens

OTHER_USES = {8: "an instruction-following model", 9: "an inpainting model"}  # by how many channels they read


class UNetPrior(Prior):
    """What Stable Diffusion 1.x, 2.x and XL share: a UNet2DConditionModel over the latents of an autoencoder.

    Args:
        text_encoders: the parts that read captions, in the order of ``tokenizers``.

    Raises:
        PriorError: a part is missing or is of a kind not supported, or the UNet is none that draws from words alone.
    """

    component = "unet"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")
    text_layers = ("attn2.to_k", "attn2.to_v")

    def __init__(self, folder: DiffusersFolder, loading: Loading, text_encoders: Sequence[str]) -> None:
        folder.need(unet=("UNet2DConditionModel",), vae=autoencoder.KINDS, scheduler=())
        unet, vae = folder.config("unet"), folder.config("vae")
        if unet["in_channels"] != unet["out_channels"]:
            use = OTHER_USES.get(unet["in_channels"], "a model that reads more than the noisy latent")
            raise PriorError(f"{folder.path}: the unet is that of {use}.", "give the text-to-image model")
        if unet.get("time_cond_proj_dim"):
            raise PriorError(
                f"{folder.path}: the unet is that of a model distilled for few steps.", "give the model it was made of"
            )
        self.folder, self.source = folder, folder.path
        self.path = path_of(folder.config("scheduler"))
        self.pixels_a_cell = autoencoder.pixels_a_cell(vae)
        self.multiple_px = self.pixels_a_cell * 2 ** (len(unet["block_out_channels"]) - 1)
        self.image_px = loading.side_px(unet["sample_size"] * self.pixels_a_cell, self.multiple_px)
        side = self.image_px // self.pixels_a_cell
        self.latent_CHW = (vae["latent_channels"], side, side)
        _, self.latent_scale = autoencoder.shift_and_scale(vae)
        self.token_dim = unet["cross_attention_dim"]
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in text_encoders]
        self.tokenizers = [folder.tokenizer(name) for name in tokenizers]
        self.readers = dict(zip(text_encoders, self.tokenizers, strict=True))
        self.clips = text_encoders
        self.num_tokens = self.tokenizers[0].num_tokens
        self.network = folder.network("unet", loading)
        encoders = {name: folder.part(name, DTYPES[loading.text]) for name in text_encoders}
        self.parts = Parts({"vae": folder.part("vae"), **encoders})
        self._encoding = ("vae", *text_encoders, *tokenizers)

    def encoders_digest(self) -> str:
        return self.folder.digest(*self._encoding)

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return autoencoder.encode(self.parts["vae"], x_BCHW)

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return autoencoder.decode(self.parts["vae"], z_BCHW)

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizers[0].count(caption)

    def told(self, cond: Cond, height_px: int, width_px: int) -> dict[str, Any]:
        """What the UNet is told of a picture of this size beside the noisy latent and the time, as its arguments."""
        return {"encoder_hidden_states": cond.tokens_BLD}

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        timestep = self.path.timestep(t_B)
        told = self.told(cond, *(side * self.pixels_a_cell for side in x_t_BCHW.shape[2:]))
        if self.control is not None:
            down, middle = self.control(
                x_t_BCHW, timestep, controlnet_cond=cond.control_BCHW, **told, return_dict=False
            )
            told |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.network(x_t_BCHW, timestep, **told, return_dict=False)[0]

    def add_control(self) -> nn.Module:
        # Of the stock widths as many as there are halvings from a picture to its latent.
        widths = (16, 32, 96, 256)[: self.pixels_a_cell.bit_length()]
        network: Any = self.network
        self.control = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=widths)
        return self.control

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.conv_in = widen_conv(network.conv_in, num_channels)
        network.register_to_config(in_channels=network.conv_in.in_channels)


class StableDiffusion(UNetPrior):
    """A UNet2DConditionModel over the latents of an AutoencoderKL or AutoencoderTiny, told by a CLIPTextModel.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "sd"
    guidance_scale = 7.5

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(text_encoder=("CLIPTextModel",), tokenizer=())
        super().__init__(folder, loading, ["text_encoder"])

    def encode_text(self, captions: Sequence[str]) -> Cond:
        ids_BL, _ = self.tokenizers[0].ids(captions)
        return Cond(self.parts["text_encoder"](ids_BL.to(self.parts.device)).last_hidden_state.float())


def path_of(scheduler: dict[str, Any]) -> paths.Path:
    """The path that a scheduler_config.json describes.

    Raises:
        PriorError: a prediction type that is none of epsilon, v_prediction and flow, or noise that is not a table's.
    """
    if scheduler["_class_name"].startswith("FlowMatch"):
        return paths.Flow(scheduler.get("shift", 1.0))
    if "sigma_data" in scheduler:
        raise PriorError(f"scheduler: the noise of {scheduler['_class_name']} is not supported.", "known: tables, flow")
    kinds = {"epsilon": paths.Eps, "v_prediction": paths.V}
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in kinds:
        raise PriorError(f"prediction_type '{kind}' is not supported.", "known: " + ", ".join(kinds))
    # Any scheduler's betas are read by DDIM's: the names of the fields are the same across diffusers.
    alphas_cumprod = DDIMScheduler.from_config(scheduler).alphas_cumprod
    try:
        return kinds[kind](alphas_cumprod)
    except ValueError as error:
        raise PriorError(
            f"scheduler: {error}.", "set rescale_betas_zero_snr to false, or give a v_prediction"
        ) from None
