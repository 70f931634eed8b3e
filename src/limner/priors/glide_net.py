"""GLIDE's denoiser (Nichol et al. 2022, arXiv 2112.10741): the UNet of Dhariwal & Nichol 2021 that also reads tokens.

One network serves the base (64 px), the upsampler (64 -> 256 px, which sees the small picture beside x_t) and PITI's
two decoders. Module names are those of the official state dicts; what is a 1 x 1 convolution over a sequence there is a
linear layer here, so that adapters find it (``glide_files`` turns one into the other). Time, and the text as a whole,
scale and shift every residual block; self-attention reads the tokens as further keys and values. The output has twice
the picture's channels: the noise, and where between its bounds the variance lies (``glide_path``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NUM_GROUPS = 32


@dataclass(frozen=True)
class NetConfig:
    """Shapes of a GLIDE network and of its text transformer; the defaults are the released base model's."""

    image_px: int = 64
    in_channels: int = 3
    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_px: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    token_dim: int = 512
    num_tokens: int = 128
    text_layers: int = 16
    text_heads: int = 8


BASE = NetConfig()
UPSAMPLER = replace(BASE, image_px=256, in_channels=6, multipliers=(1, 1, 2, 2, 4, 4), num_res_blocks=2)


class ResBlock(nn.Module):
    """Two convolutions; time scales and shifts between them. ``resample`` halves or doubles the sides on the way."""

    def __init__(self, narrow: int, wide: int, time_dim: int, resample: float = 1) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(NUM_GROUPS, narrow), nn.SiLU(), nn.Conv2d(narrow, wide, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * wide))
        # The third was dropout in pretraining; limner fine-tunes without, and it keeps its place in the names.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(NUM_GROUPS, wide), nn.SiLU(), nn.Identity(), _zero(nn.Conv2d(wide, wide, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if narrow == wide else nn.Conv2d(narrow, wide, 1)

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, tokens_BLD: Tensor) -> Tensor:
        norm, activate, conv = self.in_layers
        h = conv(self._resampled(activate(norm(x_BCHW))))
        scale, shift = self.emb_layers(time_BD)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self._resampled(x_BCHW)) + h

    def _resampled(self, x_BCHW: Tensor) -> Tensor:
        if self.resample < 1:
            return F.avg_pool2d(x_BCHW, 2)
        return F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest") if self.resample > 1 else x_BCHW


class Attention(nn.Module):
    """Every place looks at all places and at all tokens, in one softmax."""

    def __init__(self, channels: int, head_channels: int, token_dim: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(NUM_GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.encoder_kv = nn.Linear(token_dim, 2 * channels)
        self.proj_out = _zero(nn.Linear(channels, channels))

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, tokens_BLD: Tensor) -> Tensor:
        query, key, value = self._heads(self.qkv(self.norm(x_BCHW).flatten(2).mT), 3)
        token_key, token_value = self._heads(self.encoder_kv(tokens_BLD), 2)
        key, value = torch.cat([token_key, key], dim=2), torch.cat([token_value, value], dim=2)
        seen = F.scaled_dot_product_attention(query, key, value)
        return x_BCHW + self.proj_out(seen.transpose(1, 2).flatten(2)).mT.view(x_BCHW.shape)

    def _heads(self, x_BLD: Tensor, num: int) -> Tensor:
        """(num, B, heads, L, head_channels): a head's query, key and value lie beside one another."""
        return x_BLD.unflatten(2, (-1, num, self.head_channels)).permute(3, 0, 2, 1, 4)


class Stage(nn.ModuleList):
    """Layers one after the other, told time and tokens; the first of all is a plain convolution."""

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, tokens_BLD: Tensor) -> Tensor:
        for layer in self:
            x_BCHW = layer(x_BCHW) if isinstance(layer, nn.Conv2d) else layer(x_BCHW, time_BD, tokens_BLD)
        return x_BCHW


class UNet(nn.Module):
    """x_t, timestep, tokens and pooled text -> noise and variance, (B, 6, H, W). Sides: multiples of 2^(levels - 1)."""

    _no_split_modules = ("Stage",)  # what accelerate keeps whole when it lays the network over several accelerators

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        first, time_dim, px = config.channels * config.multipliers[0], 4 * config.channels, config.image_px
        self.time_embed = nn.Sequential(nn.Linear(config.channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.transformer_proj = nn.Linear(config.token_dim, time_dim)

        def block(narrow: int, wide: int, resample: float = 1) -> ResBlock:
            return ResBlock(narrow, wide, time_dim, resample)

        def attention(channels: int, always: bool = False) -> list[Attention]:
            here = always or px in config.attention_px
            return [Attention(channels, config.head_channels, config.token_dim)] if here else []

        levels = [config.channels * multiplier for multiplier in config.multipliers]
        widths, stages = [first], [Stage([nn.Conv2d(config.in_channels, first, 3, padding=1)])]
        for level, wide in enumerate(levels):
            for _ in range(config.num_res_blocks):
                stages.append(Stage([block(widths[-1], wide), *attention(wide)]))
                widths.append(wide)
            if level < len(levels) - 1:
                stages.append(Stage([block(wide, wide, 1 / 2)]))
                widths.append(wide)
                px //= 2
        self.input_blocks = nn.ModuleList(stages)
        wide = levels[-1]
        self.middle_block = Stage([block(wide, wide), *attention(wide, always=True), block(wide, wide)])
        stages, now = [], wide
        for level, wide in reversed(list(enumerate(levels))):
            for i in range(config.num_res_blocks + 1):
                layers = [block(now + widths.pop(), wide), *attention(wide)]
                if level and i == config.num_res_blocks:
                    layers.append(block(wide, wide, 2))
                    px *= 2
                stages.append(Stage(layers))
                now = wide
        self.output_blocks = nn.ModuleList(stages)
        self.out = nn.Sequential(nn.GroupNorm(NUM_GROUPS, now), nn.SiLU(), _zero(nn.Conv2d(first, 6, 3, padding=1)))

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, tokens_BLD: Tensor, pooled_BD: Tensor) -> Tensor:
        """Noise (3) and variance (3). ``timestep_B`` is in the units of the schedule, 0 ... 999, whole or not."""
        waves_BD = _waves(timestep_B, self.config.channels).to(x_BCHW.dtype)
        time_BD = self.time_embed(waves_BD) + self.transformer_proj(pooled_BD)
        h, seen = x_BCHW, []
        for stage in self.input_blocks:
            seen.append(h := self._run(stage, h, time_BD, tokens_BLD))
        h = self._run(self.middle_block, h, time_BD, tokens_BLD)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, seen.pop()], dim=1), time_BD, tokens_BLD)
        return self.out(h)

    def _run(self, stage: nn.Module, x_BCHW: Tensor, time_BD: Tensor, tokens_BLD: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x_BCHW, time_BD, tokens_BLD, use_reentrant=False)
        return stage(x_BCHW, time_BD, tokens_BLD)

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations within a stage; the backward pass computes them again."""
        self.gradient_checkpointing = True


def _waves(timestep_B: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of the timestep at rates from 1 down to nearly 1/10000 (Vaswani et al. 2017), (B, dim)."""
    rates = torch.exp(-math.log(10000) / (dim // 2) * torch.arange(dim // 2, dtype=torch.float32))
    phase = timestep_B.float()[:, None] * rates.to(timestep_B.device)
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The last layer of a residual branch starts at zero, so that a new network is the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
