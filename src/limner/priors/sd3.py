"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): a flow transformer of picture and text streams.

Two CLIP encoders are read one layer before their last, side by side, then T5; the summaries of the CLIPs go into the
time vector. The network has learnt to do without each of them, so T5, which is larger than the network, may be absent:
zeros stand for it. Licence of the released weights: Stability AI Community.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SD3ControlNetModel
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.errors import ConfigError, PriorError
from limner.priors import autoencoder
from limner.priors.adapters import JOINT_ATTENTION, TEXT_KEYS
from limner.priors.base import Prior
from limner.priors.folder import DTYPES, PLAIN, DiffusersFolder, Loading
from limner.priors.held_parts import Parts
from limner.priors.paths import Flow
from limner.priors.shifts import flow_of
from limner.priors.widening import widen_conv
from limner.types import Cond, Tokens

NUM_T5_TOKENS = 256  # the pipeline's max_sequence_length
CLIPS = ("text_encoder", "text_encoder_2")


class SD3Flow(Flow):
    """A flow whose sampler goes from 1 to the smallest of the thousand training times, evenly, and from there to 0.

    So the pipeline spends its last step very near to 0. Its smallest time is shifted once, and then, as all, again.
    """

    def times(self, num_steps: int) -> Tensor:
        smallest = float(self._shifted(torch.tensor(1 / self.num_timesteps, dtype=torch.float64)))
        times = torch.linspace(1, smallest, num_steps, dtype=torch.float64)
        return torch.cat([self._shifted(times), times.new_zeros(1)])


class StableDiffusion3(Prior):
    """An SD3Transformer2DModel over the latents of an AutoencoderKL, told by two CLIPs and, where it is there, T5.

    Raises:
        PriorError: a part is missing or is of a kind not supported.
        ConfigError: pictures larger than the network has positions for.
    """

    family = "sd3"
    guidance_scale = 7.0
    component = "transformer"
    adapter_targets = JOINT_ATTENTION
    text_layers = TEXT_KEYS
    clips = CLIPS

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        folder.need(transformer=("SD3Transformer2DModel",), vae=("AutoencoderKL",))
        folder.need(**dict.fromkeys(CLIPS, ("CLIPTextModelWithProjection",)), tokenizer=(), tokenizer_2=())
        folder.need(scheduler=("FlowMatchEulerDiscreteScheduler",))
        self.has_t5 = folder.kind("text_encoder_3") is not None
        if self.has_t5:
            folder.need(text_encoder_3=("T5EncoderModel",), tokenizer_3=())
        transformer, vae = folder.config("transformer"), folder.config("vae")
        if transformer["in_channels"] != vae["latent_channels"]:
            raise PriorError(
                f"{folder.path}: the transformer reads more than the noisy latent.", "give the text-to-image model"
            )
        self.folder, self.source = folder, folder.path
        pixels_a_cell = autoencoder.pixels_a_cell(vae)
        self.multiple_px = transformer["patch_size"] * pixels_a_cell
        self.most_px = transformer["pos_embed_max_size"] * self.multiple_px
        self.image_px = loading.side_px(transformer["sample_size"] * pixels_a_cell, self.multiple_px)
        self._refuse_larger(self.image_px)
        side = self.image_px // pixels_a_cell
        self.latent_CHW = (vae["latent_channels"], side, side)
        _, self.latent_scale = autoencoder.shift_and_scale(vae)
        self.path = SD3Flow(flow_of(folder.config("scheduler"), (self.image_px // self.multiple_px) ** 2).shift)
        first = folder.tokenizer("tokenizer")
        self.tokenizers = [first, folder.tokenizer("tokenizer_2", first.num_tokens)]
        if self.has_t5:
            self.tokenizers.append(folder.tokenizer("tokenizer_3", NUM_T5_TOKENS))
        self.token_dim, self.pooled_dim = transformer["joint_attention_dim"], transformer["pooled_projection_dim"]
        self.num_tokens = first.num_tokens + NUM_T5_TOKENS
        self.network = folder.network("transformer", loading)
        self.text_encoders = (*CLIPS, "text_encoder_3")[: len(self.tokenizers)]
        self.readers = dict(zip(self.text_encoders, self.tokenizers, strict=True))
        encoders = {name: folder.part(name, DTYPES[loading.text]) for name in self.text_encoders}
        self.parts = Parts({"vae": folder.part("vae"), **encoders})

    def encoders_digest(self) -> str:
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in self.text_encoders]
        return self.folder.digest("vae", *self.text_encoders, *tokenizers)

    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self._refuse_larger(max(x_BCHW.shape[2:]))
        return autoencoder.encode(self.parts["vae"], x_BCHW)

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return autoencoder.decode(self.parts["vae"], z_BCHW)

    def encode_text(self, captions: Sequence[str]) -> Cond:
        device = self.parts.device
        ids = [tokenizer.ids(captions)[0].to(device) for tokenizer in self.tokenizers]
        read = [self.parts[name](ids[i], output_hidden_states=True) for i, name in enumerate(CLIPS)]
        clip_BLD = torch.cat([one.hidden_states[-2] for one in read], dim=-1).float()
        pooled_BD = torch.cat([one.text_embeds for one in read], dim=-1).float()
        if self.has_t5:
            t5_BLD = self.parts["text_encoder_3"](ids[2]).last_hidden_state.float()
        else:
            t5_BLD = torch.zeros(len(captions), NUM_T5_TOKENS, self.token_dim, device=device)
        return Cond(torch.cat([pad(clip_BLD, (0, self.token_dim - clip_BLD.shape[-1])), t5_BLD], dim=1), pooled_BD)

    def count_tokens(self, caption: str) -> Tokens:
        """As T5 reads it, which has more room than the CLIPs; as they do, where it is absent."""
        return self.tokenizers[-1].count(caption)

    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        if cond.channels_BCHW is not None:
            x_t_BCHW = torch.cat([x_t_BCHW, cond.channels_BCHW], dim=1)
        told: dict[str, Any] = {
            "encoder_hidden_states": cond.tokens_BLD,
            "pooled_projections": cond.pooled_BD,
            "timestep": self.path.timestep(t_B),
        }
        if self.control is not None:
            (residuals,) = self.control(x_t_BCHW, controlnet_cond=cond.control_BCHW, **told, return_dict=False)
            told["block_controlnet_hidden_states"] = residuals
        return self.network(x_t_BCHW, **told, return_dict=False)[0]

    def add_control(self) -> nn.Module:
        network: Any = self.network
        # Without the last field the stock pipeline gives it a summary of zeros and latents that are not shifted.
        config = {**network.config, "num_layers": -(-network.config.num_layers // 2)}
        config |= {"extra_conditioning_channels": 0, "force_zeros_for_pooled_projection": False}
        control = SD3ControlNetModel.from_config(config).to(self.device)
        for name in ("pos_embed", "time_text_embed", "context_embedder"):
            getattr(control, name).load_state_dict(getattr(network, name).state_dict())
        control.transformer_blocks.load_state_dict(network.transformer_blocks.state_dict(), strict=False)
        self.control = control
        return control

    def control_input(self, condition_BCHW: Tensor) -> Tensor:
        """The condition's latent, without noise."""
        with torch.no_grad():
            return self.encode_image(condition_BCHW)[0]

    def widen_input(self, num_channels: int) -> None:
        network: Any = self.network
        network.register_to_config(out_channels=network.out_channels)  # it would follow the input's
        network.pos_embed.proj = widen_conv(network.pos_embed.proj, num_channels)
        network.register_to_config(in_channels=network.pos_embed.proj.in_channels)

    def _refuse_larger(self, side_px: int) -> None:
        if side_px > self.most_px:
            raise ConfigError(
                f"{self.source} has positions for pictures of up to {self.most_px} px a side, not {side_px}.",
                "choose a smaller image_px or resolutions_px",
            )
