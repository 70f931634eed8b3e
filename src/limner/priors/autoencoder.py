"""Pictures to latents and back through diffusers' AutoencoderKL or AutoencoderTiny, in the units that networks read.

A network sees (latent - shift_factor) * scaling_factor, which has a standard deviation near 1 (Rombach et al. 2022,
section G; the shift came with SD3). Both numbers stand in the autoencoder's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

KINDS = ("AutoencoderKL", "AutoencoderTiny")


def encode(vae: Any, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of the latents of pictures in [-1, 1]; a tiny autoencoder is deterministic, its std is zero."""
    shift, scale = shift_and_scale(vae.config)
    encoded = vae.encode(x_BCHW)
    if isinstance(vae, AutoencoderTiny):
        return (encoded.latents - shift) * scale, torch.zeros_like(encoded.latents)
    return (encoded.latent_dist.mean - shift) * scale, encoded.latent_dist.std * scale


def decode(vae: Any, z_BCHW: Tensor) -> Tensor:
    """Pictures in [-1, 1] (clamped) from latents. Differentiable."""
    shift, scale = shift_and_scale(vae.config)
    return vae.decode(z_BCHW / scale + shift).sample.clamp(-1, 1)


def shift_and_scale(config: Mapping[str, Any]) -> tuple[float, float]:
    """Of an autoencoder's configuration; older ones have no shift, and the oldest leave the scale to the class."""
    own_scale = 1.0 if config["_class_name"] == "AutoencoderTiny" else 0.18215
    return config.get("shift_factor") or 0.0, config.get("scaling_factor", own_scale)


def pixels_a_cell(config: Mapping[str, Any]) -> int:
    """How many pixels of a row are one cell of the latent: the sides are halved between any two levels."""
    return 2 ** (len(config["block_out_channels"]) - 1)
