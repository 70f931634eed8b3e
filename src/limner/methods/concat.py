"""Image to image by channels: the condition's latent lies beside the noisy latent on the network's input.

Brooks et al. 2023 (InstructPix2Pix, arXiv 2211.09800): the first convolution is widened by zero weights, so training
starts from exactly the pretrained prior and learns to look at the new planes. Because they are on the latent grid,
alignment is there from the first steps; the caption stays usable. Left out: dual guidance (one scale serves both).

    limner train concat --data fluent
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from limner.config import TranslateConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.types import Batch, Cond, Update


class Concat(Method):
    """The condition, through the prior's own autoencoder, on extra input channels that start at zero weight."""

    class Config(TranslateConfig):
        """The common fields say it all."""

    config: Config

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)
        prior.widen_input(prior.latent_CHW[0])
        self.condition_px = prior.image_px

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def step(self, batch: Batch) -> Iterator[Update]:
        z_0 = self.prior.draw(batch.mean_BCHW, batch.std_BCHW, batch.dice.normal(*batch.mean_BCHW.shape[1:]))
        eps = batch.dice.normal(*z_0.shape[1:])
        t_B = self.prior.path.draw_t(batch.dice.uniform() ** (1 / self.config.noise_bias))
        told = batch.dice.uniform() >= self.config.caption_dropout
        shown = batch.dice.uniform() >= self.config.condition_dropout
        assert batch.condition_BCHW is not None
        planes = self._planes(batch.condition_BCHW) * shown.view(-1, 1, 1, 1)
        cond = batch.text.where(told, self.null.expand(len(batch))).with_channels(planes)
        yield Update("network", self.prior.loss(z_0, eps, t_B, cond, batch.weight_B1HW).mean())

    def conditions(self, text: Cond, condition_BCHW: Tensor | None) -> tuple[Cond, Cond]:
        assert condition_BCHW is not None
        text, null = super().conditions(text, condition_BCHW)
        planes = self._planes(condition_BCHW)
        return text.with_channels(planes), null.with_channels(torch.zeros_like(planes))

    @torch.no_grad()
    def _planes(self, condition_BCHW: Tensor) -> Tensor:
        return self.prior.encode_image(condition_BCHW)[0]
