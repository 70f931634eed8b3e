"""From a small picture to a large one, as GLIDE's second stage does it (Nichol et al. 2022, arXiv 2112.10741)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.priors.base import Prior
from limner.sampling.guidance import guided
from limner.sampling.sampler import sample
from limner.types import Cond


@torch.no_grad()
def upsample(
    prior: Prior,
    small_BCHW: Tensor,
    text: Cond,
    noise_BCHW: Tensor,
    *,
    num_steps: int = 27,
    temperature: float = 0.997,
    solver: str = "ddim",
) -> Tensor:
    """Pictures in [-1, 1] of the size of the noise, which show what ``small_BCHW``, in [-1, 1], shows.

    Args:
        prior: one that reads the small picture, made as large, beside x_t: ``GlideUpsampler``.
        noise_BCHW: standard normal, of the large pictures' shape.
        num_steps: 27 are the steps that OpenAI chose by hand; any other number is spread evenly.
        temperature: the noise is multiplied by it; 1 is sharper, with grain at times.
    """
    # The upsampler learnt from pictures of eight bits.
    seen = ((small_BCHW.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    cond = text.with_channels(F.interpolate(seen, noise_BCHW.shape[2:], mode="bilinear"))
    large = sample(
        guided(prior, cond, cond, scale=1),
        prior.path,
        noise_BCHW * temperature,
        num_steps=num_steps,
        solver=solver,
    )
    return prior.decode(large)
