"""Image to image by a second network that steers the first: ControlNet (Zhang et al. 2023, arXiv 2302.05543).

A copy of the prior's encoder reads the condition picture and adds what it has to say to the frozen network, through
convolutions that start at zero: so training starts from exactly the pretrained prior, which is never changed, and the
result is a stock ControlNet that works beside other fine-tunes of the same prior. Half of the captions are dropped, as
in the paper, so that the copy learns to read the picture. Guidance is by words alone; both halves see the picture.

    limner train controlnet --data fluent
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limner.config import TranslateConfig
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.types import Batch, Cond, Update


class Controlnet(Method):
    """The prior frozen, and beside it a copy of its first half that learns to steer it."""

    class Config(TranslateConfig):
        """What is fixed here, and the paper's share of captions."""

        base_frozen: ClassVar[bool] = True
        adapter: Literal["full"] = Field("full", description="the control learns whole, and the prior not at all")
        base_precision: Literal["fp32", "bf16"] = Field(
            "fp32", description="how the network is held; the control starts as a copy of it, so it is not quantised"
        )
        caption_dropout: float = Field(0.5, ge=0, le=1, description="share of captions replaced by the empty one")
        condition_dropout: Literal[0] = Field(0, description="the picture is always shown: guidance is by words alone")

    config: Config

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.condition_px = prior.image_px
        prior.network.requires_grad_(False)
        self.control = prior.add_control()

    def learns(self) -> dict[str, nn.Module]:
        return {"control": self.control}

    def step(self, batch: Batch) -> Iterator[Update]:
        z_0 = self.prior.draw(batch.mean_BCHW, batch.std_BCHW, batch.dice.normal(*batch.mean_BCHW.shape[1:]))
        eps = batch.dice.normal(*z_0.shape[1:])
        t_B = self.prior.path.draw_t(batch.dice.uniform() ** (1 / self.config.noise_bias))
        told = batch.dice.uniform() >= self.config.caption_dropout
        assert batch.condition_BCHW is not None
        cond = batch.text.where(told, self.null.expand(len(batch)))
        cond = replace(cond, control_BCHW=self.prior.control_input(batch.condition_BCHW))
        yield Update("control", self.prior.loss(z_0, eps, t_B, cond, batch.weight_B1HW).mean())

    def conditions(self, text: Cond, condition_BCHW: Tensor | None) -> tuple[Cond, Cond]:
        assert condition_BCHW is not None
        control_BCHW = self.prior.control_input(condition_BCHW)
        text, null = super().conditions(text, condition_BCHW)
        return replace(text, control_BCHW=control_BCHW), replace(null, control_BCHW=control_BCHW)
