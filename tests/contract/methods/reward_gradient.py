"""A reward's own gradient through the last sampler steps (DRaFT-K, Clark et al. 2023), small."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from limner.config import MethodConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.sampling.sampler import sample
from limner.types import Batch, Update


class RewardGradient(Method):
    """Lowers the brightness of what two of four DDIM steps paint; bounded, since pictures are."""

    def __init__(self, prior: Prior, config: MethodConfig) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def step(self, batch: Batch) -> Iterator[Update]:
        noise = batch.dice.normal(*self.prior.latent_CHW)

        def predict(x_t, t_B):  # type: ignore[no-untyped-def]
            return self.prior.predict(x_t, t_B, batch.text)

        z_0 = sample(predict, self.prior.path, noise, num_steps=4, solver="ddim", grad_steps=2)
        brightness = self.prior.decode(z_0).mean()
        yield Update("network", brightness, {"reward": -float(brightness.detach())})
