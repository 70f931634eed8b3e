"""Qwen-Image: a flow transformer of picture and text streams, told by Qwen2.5-VL. Apache-2.0.

Qwen team 2025, arXiv 2508.02324. The caption stands in a template that asks for a description; its first 34 tokens are
left out of what the network reads, and so is padding. The autoencoder is one of videos: a picture is one frame. The
pipeline guides with the null prompt " " and then gives each token of the guided output the norm of the conditional one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import QwenImageControlNetModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from limner.priors.adapters import JOINT_ATTENTION, TEXT_KEYS
from limner.priors.base import Prior
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.shifts import flow_of
from limner.priors.widening import widen_linear
from limner.types import Cond, Tokens

# The network was trained with these very words.
BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
NUM_BEFORE = 34  # tokens of BEFORE
NUM_TOKENS = 512  # the pipeline's max_sequence_length
NUM_CONTROL_LAYERS = 5  # of a ControlNet: its class's own choice
SIDE_CELLS = 128  # the pipeline's default_sample_size: 1024 pixels, in cells of 8


class QwenImagePrior(Prior):
    """A QwenImageTransformer2DModel over the latents of an AutoencoderKLQwenImage.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "qwen_image"
    guidance_scale, guidance = 4.0, "tokens"
    component = "transformer"
    latent_scale = 1.0  # each channel has its own, in the autoencoder's configuration
    adapter_targets = JOINT_ATTENTION
    text_layers = TEXT_KEYS

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(transformer=("QwenImageTransformer2DModel",), vae=("AutoencoderKLQwenImage",), tokenizer=())
        folder.need(
            text_encoder=("Qwen2_5_VLForConditionalGeneration",), scheduler=("FlowMatchEulerDiscreteScheduler",)
        )
        transformer, vae = folder.config("transformer"), folder.config("vae")
        self.folder, self.source = folder, folder.path
        self.tokenizer = folder.tokenizer("tokenizer", NUM_BEFORE + NUM_TOKENS)
        self.readers = {"text_encoder": self.tokenizer}
        pixels_a_cell = 2 ** len(vae["temperal_downsample"])
        self.multiple_px = 2 * pixels_a_cell
        self.image_px = loading.side_px(SIDE_CELLS * pixels_a_cell, self.multiple_px)
        side = self.image_px // pixels_a_cell
        self.latent_CHW = (vae["z_dim"], side, side)
        self.latent_shift_C11 = torch.tensor(vae["latents_mean"]).view(-1, 1, 1)
        self.latent_std_C11 = torch.tensor(vae["latents_std"]).view(-1, 1, 1)
        self.path = flow_of(folder.config("scheduler"), (side // 2) ** 2)
        self.token_dim, self.num_tokens = transformer["joint_attention_dim"], NUM_TOKENS
        self.network = folder.network("transformer", loading)
        self.parts = Parts(
            {"vae": folder.part("vae"), "text_encoder": folder.part("text_encoder", DTYPES[loading.text])}
        )
        self._one_at_a_time = threading.Lock()  # the autoencoder keeps the frames before within itself

    def encoders_digest(self) -> str:
        return self.folder.digest("vae", "text_encoder", "tokenizer")

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        vae: Any = self.parts["vae"]
        with self._one_at_a_time:
            latent = vae.encode(x_BCHW.unsqueeze(2)).latent_dist
        shift, std = self.latent_shift_C11.to(x_BCHW), self.latent_std_C11.to(x_BCHW)
        return (latent.mean.squeeze(2) - shift) / std, latent.std.squeeze(2) / std

    def decode(self, z_BCHW: Tensor) -> Tensor:
        vae: Any = self.parts["vae"]
        z_BCHW = z_BCHW * self.latent_std_C11.to(z_BCHW) + self.latent_shift_C11.to(z_BCHW)
        with self._one_at_a_time:
            return vae.decode(z_BCHW.unsqueeze(2)).sample.squeeze(2).clamp(-1, 1)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        ids_BL, mask_BL = self.tokenizer.ids([BEFORE + caption + AFTER for caption in captions], padding_side="right")
        encoder: Any = self.parts["text_encoder"]
        ids_BL, mask_BL = ids_BL.to(self.parts.device), mask_BL.to(self.parts.device)
        # Without the head that says the next token.
        tokens_BLD = encoder.model(input_ids=ids_BL, attention_mask=mask_BL.long(), use_cache=False).last_hidden_state
        mask_BL = mask_BL[:, NUM_BEFORE:]
        return Cond(tokens_BLD[:, NUM_BEFORE:].float() * mask_BL.unsqueeze(-1), mask_BL=mask_BL)

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizer.count(caption, num_more=NUM_BEFORE)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        assert cond.mask_BL is not None
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        patches_BCHW = pixel_unshuffle(x_t_BCHW, 2)
        height, width = patches_BCHW.shape[2:]
        tokens_BLD, mask_BL = _without_end(cond.tokens_BLD, cond.mask_BL)
        told = {
            "hidden_states": patches_BCHW.flatten(2).transpose(1, 2),
            "encoder_hidden_states": tokens_BLD,
            "encoder_hidden_states_mask": mask_BL,
            "timestep": t_B,
            "img_shapes": [[(1, height, width)]] * len(x_t_BCHW),
            "return_dict": False,
        }
        if self.control is not None and cond.control_BCHW is not None:
            seen_BLC = pixel_unshuffle(cond.control_BCHW, 2).flatten(2).transpose(1, 2)
            told |= {"controlnet_block_samples": self.control(controlnet_cond=seen_BLC, **told)}
        out_BLC = self.network(**told)[0]
        return pixel_shuffle(out_BLC.transpose(1, 2).unflatten(2, (height, width)), 2)

    def add_control(self) -> nn.Module:
        network: Any = self.network
        self.control = QwenImageControlNetModel.from_transformer(
            network,
            num_layers=min(NUM_CONTROL_LAYERS, network.config.num_layers),
            attention_head_dim=network.config.attention_head_dim,
            num_attention_heads=network.config.num_attention_heads,
        )
        return self.control

    @torch.no_grad()
    def control_input(self, condition_BCHW: Tensor) -> Tensor:
        return self.encode_image(condition_BCHW)[0]

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.img_in = widen_linear(network.img_in, 4 * num_channels)
        network.register_to_config(in_channels=network.img_in.in_features)


def _without_end(tokens_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor | None]:
    """The columns up to the last one that counts for any row; no mask where all that is left counts."""
    length = int(mask_BL.any(dim=0).nonzero().max()) + 1
    tokens_BLD, mask_BL = tokens_BLD[:, :length], mask_BL[:, :length]
    return tokens_BLD, None if mask_BL.all() else mask_BL
