"""FLUX.1 [dev], [schnell] and their fine-tunes: a flow transformer told by T5 and, in its time vector, by CLIP.

Black Forest Labs 2024. [schnell] is Apache-2.0, [dev] under the FLUX.1 [dev] Non-Commercial License. [dev] is distilled
from guidance: it takes the scale as a number (``guidance_embeds``). It is drawn from at 3.5, the pipeline's own, and
trained at 1: pictures stand for themselves, not for what guidance would make of them. Guidance proper
(``guidance_scale``) is on top of that; 1 is the usual for FLUX. [schnell] is distilled for 1 to 4 steps, and training
wears that off.

The network sees 2 x 2 cells of the latent as one token. A latent has cells here; predict packs and unpacks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxControlNetModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from limner.errors import PriorError
from limner.priors import autoencoder
from limner.priors.adapters import JOINT_ATTENTION, TEXT_KEYS
from limner.priors.base import Prior
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.shifts import flow_of
from limner.priors.widening import widen_linear
from limner.types import Cond, Tokens

SIDE_CELLS = 128  # the pipeline's default_sample_size: 1024 pixels, in cells of 8
NUM_TOKENS = {True: 512, False: 256}  # of T5: [dev] has learnt with 512, [schnell] with 256
CONTROL_LAYERS, CONTROL_SINGLE_LAYERS = 4, 10  # of 19 and 38, as FluxControlNetModel has them by default


class FluxPrior(Prior):
    """A FluxTransformer2DModel over the latents of an AutoencoderKL, told by a CLIPTextModel and a T5EncoderModel.

    Attributes:
        distilled_guidance: the scale that a network distilled from guidance is told when it draws.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
    """

    family = "flux"
    guidance_scale = 1.0
    component = "transformer"
    adapter_targets = JOINT_ATTENTION
    text_layers = TEXT_KEYS
    clips = ("text_encoder",)
    distilled_guidance: float = 3.5

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(transformer=("FluxTransformer2DModel",), vae=("AutoencoderKL",))
        folder.need(text_encoder=("CLIPTextModel",), text_encoder_2=("T5EncoderModel",), tokenizer=(), tokenizer_2=())
        folder.need(scheduler=("FlowMatchEulerDiscreteScheduler",))
        transformer, vae = folder.config("transformer"), folder.config("vae")
        if transformer["in_channels"] != 4 * vae["latent_channels"]:
            raise PriorError(
                f"{folder.path}: the transformer reads more than the noisy latent (a Fill, Canny or Depth model).",
                "give the text-to-image model",
            )
        self.folder, self.source = folder, folder.path
        pixels_a_cell = autoencoder.pixels_a_cell(vae)
        self.multiple_px = 2 * pixels_a_cell
        self.image_px = loading.side_px(SIDE_CELLS * pixels_a_cell, self.multiple_px)
        side = self.image_px // pixels_a_cell
        self.latent_CHW = (vae["latent_channels"], side, side)
        _, self.latent_scale = autoencoder.shift_and_scale(vae)
        self.path = flow_of(folder.config("scheduler"), (side // 2) ** 2)
        self.takes_guidance: bool = transformer["guidance_embeds"]
        self.num_tokens = NUM_TOKENS[self.takes_guidance]
        self.clip_tokenizer = folder.tokenizer("tokenizer")
        self.t5_tokenizer = folder.tokenizer("tokenizer_2", self.num_tokens)
        self.readers = {"text_encoder": self.clip_tokenizer, "text_encoder_2": self.t5_tokenizer}
        self.token_dim, self.pooled_dim = transformer["joint_attention_dim"], transformer["pooled_projection_dim"]
        self.network = folder.network("transformer", loading)
        encoders = {name: folder.part(name, DTYPES[loading.text]) for name in self.readers}
        self.parts = Parts({"vae": folder.part("vae"), **encoders})

    def encoders_digest(self) -> str:
        digest = self.folder.digest("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        return f"{digest} {self.num_tokens}"

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return autoencoder.encode(self.parts["vae"], x_BCHW)

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return autoencoder.decode(self.parts["vae"], z_BCHW)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        (clip_BL, _), (t5_BL, _) = self.clip_tokenizer.ids(captions), self.t5_tokenizer.ids(captions)
        pooled_BD = self.parts["text_encoder"](clip_BL.to(self.parts.device)).pooler_output
        tokens_BLD = self.parts["text_encoder_2"](t5_BL.to(self.parts.device)).last_hidden_state
        return Cond(tokens_BLD.float(), pooled_BD.float())

    def count_tokens(self, caption: str) -> Tokens:
        """As T5 reads it, which has more room than CLIP."""
        return self.t5_tokenizer.count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        height, width = (side // 2 for side in x_t_BCHW.shape[2:])
        places = torch.cartesian_prod(*(torch.arange(size, device=x_t_BCHW.device) for size in (1, height, width)))
        told: dict[str, Any] = {
            "hidden_states": _packed(x_t_BCHW),
            "encoder_hidden_states": cond.tokens_BLD,
            "pooled_projections": cond.pooled_BD,
            "timestep": t_B,
            "img_ids": places,
            "txt_ids": places.new_zeros(cond.tokens_BLD.shape[1], 3),
            "guidance": torch.full_like(t_B, self.distilled_guidance) if self.takes_guidance else None,
        }
        if self.control is not None:
            assert cond.control_BCHW is not None
            double, single = self.control(controlnet_cond=_packed(cond.control_BCHW), **told, return_dict=False)
            told |= {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
        out_BLC = self.network(**told, return_dict=False)[0]
        return pixel_shuffle(out_BLC.transpose(1, 2).unflatten(2, (height, width)), 2)

    def loss(self, z_0: Tensor, eps: Tensor, t_B: Tensor, cond: Cond, weight_B1HW: Tensor | None = None) -> Tensor:
        """As of every prior; a network that takes guidance as a number is told 1."""
        drawing, self.distilled_guidance = self.distilled_guidance, 1.0
        try:
            return super().loss(z_0, eps, t_B, cond, weight_B1HW)
        finally:
            self.distilled_guidance = drawing

    def add_control(self) -> nn.Module:
        network: Any = self.network
        config = {
            **{name: value for name, value in network.config.items() if name != "out_channels"},
            "num_layers": min(CONTROL_LAYERS, network.config.num_layers),
            "num_single_layers": min(CONTROL_SINGLE_LAYERS, network.config.num_single_layers),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of diffusers to itself, about a name that it uses here
            control = FluxControlNetModel.from_config(config).to(self.device)
        for name in ("time_text_embed", "context_embedder", "x_embedder"):
            getattr(control, name).load_state_dict(getattr(network, name).state_dict())
        for name in ("transformer_blocks", "single_transformer_blocks"):
            getattr(control, name).load_state_dict(getattr(network, name).state_dict(), strict=False)
        self.control = control
        return control

    def control_input(self, condition_BCHW: Tensor) -> Tensor:
        """The condition's latent, without noise."""
        with torch.no_grad():
            return self.encode_image(condition_BCHW)[0]

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.register_to_config(out_channels=network.out_channels)  # it would follow the input's
        network.x_embedder = widen_linear(network.x_embedder, 4 * num_channels)
        network.register_to_config(in_channels=network.x_embedder.in_features)


def _packed(x_BCHW: Tensor) -> Tensor:
    """Cells of 2 x 2 side by side as one token of the network, row by row: (B, H W / 4, 4 C)."""
    return pixel_unshuffle(x_BCHW, 2).flatten(2).transpose(1, 2)
