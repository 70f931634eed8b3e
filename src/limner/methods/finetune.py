"""Plain fine-tuning on pictures and captions, of every weight or of a low-rank addition.

The denoiser goes on learning what it was pretrained for, on the user's pictures. Left out: a trainable text encoder
(its captions are embedded once and cached) and loss weighting by noise level.

    limner train finetune --data my_pictures --adapter lora --rank 16
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from limner.config import MethodConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.types import Batch, Update


class Finetune(Method):
    """Denoising loss on text-image pairs."""

    class Config(MethodConfig):
        """The common fields say it all."""

    def __init__(self, prior: Prior, config: MethodConfig) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def step(self, batch: Batch) -> Iterator[Update]:
        z_0 = self.prior.draw(batch.mean_BCHW, batch.std_BCHW, batch.dice.normal(*batch.mean_BCHW.shape[1:]))
        eps = batch.dice.normal(*z_0.shape[1:])
        t_B = self.prior.path.draw_t(batch.dice.uniform())
        told = batch.dice.uniform() >= self.config.caption_dropout
        cond = batch.text.where(told, self.null.expand(len(batch)))
        yield Update("network", self.prior.loss(z_0, eps, t_B, cond, batch.weight_B1HW).mean())
