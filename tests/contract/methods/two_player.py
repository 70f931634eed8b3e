"""Two players, small: a discriminator of denoised estimates, and the denoiser it pushes (as in Sauer et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from limner.config import MethodConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.types import Batch, Update


class TwoPlayer(Method):
    """Denoising plus a non-saturating adversarial term; yields generator, then discriminator."""

    def __init__(self, prior: Prior, config: MethodConfig) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)
        channels = prior.latent_CHW[0]
        self.judge = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1)
        )
        self.judge(torch.zeros(2, *prior.latent_CHW))
        self.fixed_size = True  # the judge's last layer reads so many cells

    def learns(self) -> dict[str, nn.Module]:
        return {"generator": self.network, "discriminator": self.judge}

    def step(self, batch: Batch) -> Iterator[Update]:
        z_0, eps = batch.mean_BCHW, batch.dice.normal(*self.prior.latent_CHW)
        t_B = self.prior.path.draw_t(batch.dice.uniform()) * 0.9
        z_t = self.prior.path.mix(z_0, eps, t_B)
        estimate, _ = self.prior.path.split(z_t, self.prior.predict(z_t, t_B, batch.text), t_B)
        yield Update("generator", (estimate - z_0).square().mean() + 0.1 * F.softplus(-self.judge(estimate)).mean())
        fake, real = self.judge(estimate.detach()), self.judge(z_0)
        yield Update(
            "discriminator", F.softplus(fake).mean() + F.softplus(-real).mean(), {"real": float(real.detach().mean())}
        )
