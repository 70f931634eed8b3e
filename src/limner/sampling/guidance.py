"""Classifier-free guidance and what keeps it from drifting.

With c the conditional and u the null prediction and scale s = 1 + w, guidance says  e = c + w (c - u)  (Ho & Salimans
2022); s = 1 is the identity. Large w raises the spread of e, hence over-saturated and over-smooth pictures; PITI (Wang
et al. 2022, arXiv 2205.12952) normalises e back to the statistics of c. Modes:

    off          e as it is
    measured     mean and std of e, measured per picture over C, H, W, are set to those of c
    independent  PITI's formula to the letter: the std of e is *predicted* as if c and u were independent
    rescale      e times std(c) / std(e), blended with e by phi (Lin et al. 2023, arXiv 2305.08891, section 3.4)
    tokens       each token of e, 2 x 2 cells of the latent, has the norm that it has in c (Qwen-Image's own pipeline)

Statistics are those of the network's *output*: of eps for an eps path, as in the papers; of v or of the velocity for
the others, whose spread CFG inflates in the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.errors import ConfigError, did_you_mean
from limner.priors.base import Prior
from limner.types import Cond

MODES = ("off", "measured", "independent", "rescale", "tokens")


def guide(cond_out: Tensor, null_out: Tensor, scale: float, mode: str = "off", phi: float = 0.7) -> Tensor:
    """The guided output, like ``cond_out`` (B, C, H, W).

    "independent" shrinks the prediction: c and u are nearly equal in practice (correlation 0.99), so the true std of e
    is hardly above that of c, but the formula sqrt((1+w)^2 var(c) + w^2 var(u)) divides it by 2.2 at w = 1. It is here
    to reproduce the paper's text; "measured" is what that text intends.

    Args:
        scale: s = 1 + w; 1 is no guidance.
        phi: for "rescale", the share of the rescaled output; 0.7 as in Lin et al.

    Raises:
        ConfigError: an unknown mode, or "tokens" for a latent with an odd side.
    """
    if mode not in MODES:
        raise ConfigError(f"unknown guidance mode '{mode}'.", did_you_mean(mode, MODES))
    if scale == 1:
        return cond_out
    c, u = cond_out.float(), null_out.float()
    w = scale - 1
    e = c + w * (c - u)
    if mode == "measured":
        e = _std(c) / _floor(_std(e)) * (e - _mean(e)) + _mean(c)
    elif mode == "independent":
        sigma_hat = ((1 + w) ** 2 * _std(c) ** 2 + w**2 * _std(u) ** 2).sqrt()
        e = _std(c) / _floor(sigma_hat) * (e - _mean(e)) + _mean(c)
    elif mode == "rescale":
        e = phi * (_std(c) / _floor(_std(e))) * e + (1 - phi) * e
    elif mode == "tokens":
        if any(side % 2 for side in e.shape[-2:]):
            raise ConfigError("guidance 'tokens' needs latents with even sides.", "use --guidance rescale")
        c, e = F.pixel_unshuffle(c, 2), F.pixel_unshuffle(e, 2)
        e = F.pixel_shuffle(e * c.norm(dim=1, keepdim=True) / _floor(e.norm(dim=1, keepdim=True)), 2)
    return e.to(cond_out)


def guided(prior: Prior, cond: Cond, null: Cond, scale: float, mode: str = "off") -> Callable[[Tensor, Tensor], Tensor]:
    """``predict(x_t, t_B)`` for the sampler: both halves in one call of the network; ``cond`` alone when scale is 1.

    ``cond`` and ``null`` have B rows each and the same parts. The network computes in the prior's precision; what comes
    out is as precise as x_t.
    """

    def predict(x_t_BCHW: Tensor, t_B: Tensor, told: Cond = cond) -> Tensor:
        with prior.computing():
            return prior.predict(x_t_BCHW, t_B, told).to(x_t_BCHW.dtype)

    if scale == 1:
        return predict
    both = Cond.cat([cond, null])

    def contrasted(x_t_BCHW: Tensor, t_B: Tensor) -> Tensor:
        out = predict(torch.cat([x_t_BCHW, x_t_BCHW]), torch.cat([t_B, t_B]), both)
        cond_out, null_out = out.chunk(2)
        return guide(cond_out, null_out, scale, mode)

    return contrasted


def _mean(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.mean(dim=(1, 2, 3), keepdim=True)


def _std(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.std(dim=(1, 2, 3), keepdim=True)


def _floor(std: Tensor) -> Tensor:
    # A constant prediction has no spread to restore; dividing by this leaves it at its mean.
    return std.clamp(min=torch.finfo(std.dtype).tiny)
