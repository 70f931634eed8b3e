"""FLUX.2 [klein]: a flow transformer of two kinds of blocks, told by three layers of Qwen3.

Black Forest Labs 2026. Licences: klein 4B and its base are Apache-2.0; klein 9B and its base are under the FLUX
Non-Commercial License. Distilled ones (``is_distilled``) are sampled in 4 steps without guidance. FLUX.2 [dev] is told
by Mistral and is not read here.

A latent is what the network sees: 2 x 2 cells of the autoencoder are one, normalised by the statistics that its batch
norm has kept. The text is padded to 512 tokens, and the padding counts: it is part of what the network was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from limner.priors import autoencoder
from limner.priors.adapters import JOINT_ATTENTION, TEXT_KEYS
from limner.priors.base import Prior
from limner.priors.chat import ChatTokenizer
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.paths import Flow
from limner.priors.widening import widen_linear
from limner.types import Cond, Tokens

NUM_TOKENS = 512  # the pipeline's max_sequence_length
LAYERS = (9, 18, 27)  # of Qwen3, whose states are laid side by side


class Flux2Flow(Flow):
    """A flow whose shift depends on the number of steps: two lines in the number of patches, for 10 and 200 steps.

    The coefficients are the pipeline's (compute_empirical_mu). Between and beyond 10 and 200 the exponent is linear in
    the number of steps; above 4300 patches it does not depend on them. Training draws its times as for 200 steps.
    """

    def __init__(self, num_patches: int) -> None:
        self.num_patches = num_patches
        super().__init__(self.shift_of(200))

    def shift_of(self, num_steps: int) -> float:
        many = 0.00016927 * self.num_patches + 0.45666666
        few = 8.73809524e-05 * self.num_patches + 1.89833333
        share = 1.0 if self.num_patches > 4300 else (num_steps - 10) / 190
        return math.exp(few + share * (many - few))

    def times(self, num_steps: int) -> Tensor:
        return Flow(self.shift_of(num_steps)).times(num_steps)


class Flux2KleinPrior(Prior):
    """A Flux2Transformer2DModel over the latents of an AutoencoderKLFlux2.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "flux2"
    component = "transformer"
    latent_scale = 1.0  # each channel has its own, in the autoencoder's batch norm
    # The last two are the single blocks', where attention and feed-forward share their projections.
    adapter_targets = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "attn.to_out")
    text_layers = TEXT_KEYS

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(transformer=("Flux2Transformer2DModel",), vae=("AutoencoderKLFlux2",))
        folder.need(text_encoder=("Qwen3ForCausalLM",), tokenizer=(), scheduler=("FlowMatchEulerDiscreteScheduler",))
        transformer, vae, scheduler = (folder.config(part) for part in ("transformer", "vae", "scheduler"))
        self.folder, self.source = folder, folder.path
        self.guidance_scale = 1.0 if folder.index.get("is_distilled") else 4.0
        self.tokenizer = ChatTokenizer(folder, "tokenizer", NUM_TOKENS, thinking=False)
        self.readers = {"text_encoder": self.tokenizer.plain}
        self.multiple_px = 2 * autoencoder.pixels_a_cell(vae)
        self.image_px = loading.side_px(vae["sample_size"], self.multiple_px)
        side = self.image_px // self.multiple_px
        self.latent_CHW = (transformer["in_channels"], side, side)
        dynamic = scheduler.get("use_dynamic_shifting", False)
        self.path = Flux2Flow(side**2) if dynamic else Flow(scheduler.get("shift", 1.0))
        self.token_dim, self.num_tokens = transformer["joint_attention_dim"], NUM_TOKENS
        self.network = folder.network("transformer", loading)
        self.parts = Parts(
            {"vae": folder.part("vae"), "text_encoder": folder.part("text_encoder", DTYPES[loading.text])}
        )

    def encoders_digest(self) -> str:
        return self.folder.digest("vae", "text_encoder", "tokenizer")

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        vae: Any = self.parts["vae"]
        latent = vae.encode(x_BCHW).latent_dist
        shift, scale = _statistics(vae)
        return (pixel_unshuffle(latent.mean, 2) - shift) / scale, pixel_unshuffle(latent.std, 2) / scale

    def decode(self, z_BCHW: Tensor) -> Tensor:
        vae: Any = self.parts["vae"]
        shift, scale = _statistics(vae)
        return vae.decode(pixel_shuffle(z_BCHW * scale + shift, 2)).sample.clamp(-1, 1)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        ids_BL, mask_BL = self.tokenizer.ids(captions)
        encoder: Any = self.parts["text_encoder"]
        read = encoder.model(  # without the head that says the next token
            input_ids=ids_BL.to(self.parts.device),
            attention_mask=mask_BL.to(self.parts.device),
            output_hidden_states=True,
            use_cache=False,
        )
        return Cond(torch.cat([read.hidden_states[layer] for layer in LAYERS], dim=-1).float())

    def count_tokens(self, caption: str) -> Tokens:
        return self.tokenizer.count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        height, width = x_t_BCHW.shape[2:]
        out_BLC = self.network(
            hidden_states=x_t_BCHW.flatten(2).transpose(1, 2),
            encoder_hidden_states=cond.tokens_BLD,
            timestep=t_B,
            img_ids=_places(height, width, 1, x_t_BCHW.device),
            txt_ids=_places(1, 1, cond.tokens_BLD.shape[1], x_t_BCHW.device),
            guidance=None,
            return_dict=False,
        )[0]
        return out_BLC.transpose(1, 2).unflatten(2, (height, width))

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.register_to_config(out_channels=network.out_channels)  # it would follow the input's
        network.x_embedder = widen_linear(network.x_embedder, num_channels)
        network.register_to_config(in_channels=network.x_embedder.in_features)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """(mean, std) of each channel of the latents, (C, 1, 1)."""
    mean_C, var_C = vae.bn.running_mean, vae.bn.running_var
    return mean_C.view(-1, 1, 1), (var_C + vae.config.batch_norm_eps).sqrt().view(-1, 1, 1)


def _places(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """Four coordinates of each token for its rotary embedding: picture, row, column, place in the text; (L, 4)."""
    return torch.cartesian_prod(*(torch.arange(count, device=device) for count in (1, height, width, length)))
