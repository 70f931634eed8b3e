"""Z-Image: a single-stream flow transformer, told by Qwen3's last layer but one. Base and Turbo are both Apache-2.0.

The Z-Image team 2025, arXiv 2511.22699. The network runs the other way than its scheduler: it is given 1 - t and says
x_0 - eps, so its output is negated here. Its pipeline counts guidance from 0: guidance_scale g there is 1 + g here.
Turbo is distilled: it is sampled in 8 steps without guidance, and training on it wears the distillation off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.priors import autoencoder
from limner.priors.base import Prior
from limner.priors.chat import ChatTokenizer
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.shifts import flow_of
from limner.priors.widening import widen_linear
from limner.types import Cond, Tokens

NUM_TOKENS = 512  # the pipeline's max_sequence_length
PATCH = "2-1"  # sides of a patch in space and in time: the only ones that the released weights have


class ZImagePrior(Prior):
    """A ZImageTransformer2DModel over the latents of an AutoencoderKL.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "z_image"
    guidance_scale = 4.0
    component = "transformer"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")
    text_layers = ("attention.to_k", "attention.to_v")  # of pictures and text in one

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(transformer=("ZImageTransformer2DModel",), vae=("AutoencoderKL",), text_encoder=("Qwen3Model",))
        folder.need(tokenizer=(), scheduler=("FlowMatchEulerDiscreteScheduler",))
        transformer, vae = folder.config("transformer"), folder.config("vae")
        self.folder, self.source = folder, folder.path
        self.tokenizer = ChatTokenizer(folder, "tokenizer", NUM_TOKENS, thinking=True)
        self.readers = {"text_encoder": self.tokenizer.plain}
        pixels_a_cell = autoencoder.pixels_a_cell(vae)
        self.multiple_px = 2 * pixels_a_cell
        self.image_px = loading.side_px(vae["sample_size"], self.multiple_px)
        side = self.image_px // pixels_a_cell
        self.latent_CHW = (transformer["in_channels"], side, side)
        _, self.latent_scale = autoencoder.shift_and_scale(vae)
        self.path = flow_of(folder.config("scheduler"), (side // 2) ** 2)
        self.token_dim, self.num_tokens = transformer["cap_feat_dim"], NUM_TOKENS
        self.network = folder.network("transformer", loading)
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
        ids_BL, mask_BL = self.tokenizer.ids(captions)
        ids_BL, mask_BL = ids_BL.to(self.parts.device), mask_BL.to(self.parts.device)
        read = self.parts["text_encoder"](
            input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True, use_cache=False
        )
        return Cond(read.hidden_states[-2].float() * mask_BL.unsqueeze(-1), mask_BL=mask_BL)

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizer.count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        assert cond.mask_BL is not None
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        tokens = [row_LD[keep_L] for row_LD, keep_L in zip(cond.tokens_BLD, cond.mask_BL, strict=True)]
        out = self.network(list(x_t_BCHW.unsqueeze(2)), 1 - t_B, tokens, return_dict=False)[0]
        return -torch.stack(out).squeeze(2)

    def widen_input(self, num_channels: int) -> None:
        # A patch is laid out pixel by pixel, all channels of one together: the new ones end each pixel's share.
        # The configuration stays: the class takes its output's channels from the same field.
        network: Any = self.network
        old = network.all_x_embedder[PATCH]
        new = widen_linear(old, 4 * num_channels)
        columns_PC = torch.arange(old.in_features).unflatten(0, (4, -1))
        more_PC = old.in_features + torch.arange(4 * num_channels).unflatten(0, (4, -1))
        new.weight = nn.Parameter(new.weight.detach()[:, torch.cat([columns_PC, more_PC], dim=1).flatten()])
        network.all_x_embedder[PATCH] = new
