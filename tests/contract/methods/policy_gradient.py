"""A policy gradient over stochastic sampler steps (DDPO, Black et al. 2023), small: one update a timestep."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from limner.config import MethodConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.sampling.sampler import log_prob, step
from limner.types import Batch, Update

NUM_STEPS = 4


class PolicyGradient(Method):
    """Samples with eta = 1, rewards dark pictures, and raises the probability of the steps that led there."""

    def __init__(self, prior: Prior, config: MethodConfig) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def step(self, batch: Batch) -> Iterator[Update]:
        path, x = self.prior.path, batch.dice.normal(*self.prior.latent_CHW)
        chain = []
        with torch.no_grad():
            for t, t_next in pairwise(path.times(NUM_STEPS)):
                t_B = t.to(x).expand(len(x))
                noise = batch.dice.normal(*self.prior.latent_CHW)
                x_next, mean, std = step(path, x, self.prior.predict(x, t_B, batch.text), t, t_next, 1.0, noise)
                if t_next > 0:
                    chain.append((x, t, t_next, x_next, log_prob(x_next, mean, std)))
                x = x_next
            reward = -self.prior.decode(x).mean(dim=(1, 2, 3))
        # A batch mean would differ between one process and two; a fixed baseline does not.
        advantage = reward
        for x, t, t_next, x_next, before in chain:
            out = self.prior.predict(x, t.to(x).expand(len(x)), batch.text)
            _, mean, std = step(path, x, out, t, t_next, 1.0)
            ratio = ((log_prob(x_next, mean, std) - before) / x[0].numel()).exp()
            clipped = ratio.clamp(1 - 0.1, 1 + 0.1)
            loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            yield Update("network", loss, {"reward": float(reward.mean()), "ratio": float(ratio.detach().mean())})

    def score(self, batch: Batch) -> dict[str, float]:
        rewards = [update.log["reward"] for update in self.step(batch)]
        return {"score": rewards[0]}
