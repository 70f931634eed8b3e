"""A subject from a few pictures, bound to a rare word: DreamBooth (Ruiz et al. 2023, arXiv 2208.12242).

The denoiser learns that "a photo of sks dog" looks like the given pictures, while "a photo of a dog" goes on looking as
it did (prior preservation, on 100 pictures that the prior draws of the class before the run). By default a low-rank
adapter learns (LoRA; --adapter dora and others); --adapter full is the paper's. The CLIP text encoders may learn along.
Left out: the super-resolution stages of Imagen.

    limner train dreambooth --data my_dog --trigger sks --class-word dog
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import nn

from limner.config import PersonalizeConfig
from limner.methods.subject import SubjectMethod
from limner.priors.base import Prior
from limner.types import Batch


class Dreambooth(SubjectMethod):
    """The network, whole or through an adapter; with the text encoders or without."""

    class Config(PersonalizeConfig):
        """Whether, and how fast, the text encoders learn."""

        text_encoder: bool = Field(False, description="let the CLIP text encoders learn too; helps with faces")
        text_learning_rate: float = Field(1e-5, gt=0, description="of the text encoders")

        @model_validator(mode="after")
        def _check_teacher(self) -> Self:
            if self.text_encoder and self.preservation == "teacher":
                raise ValueError("the teacher needs captions that stay what they are: leave text_encoder out")
            return self

    config: Config

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)
        self.learns_text = config.text_encoder
        self.text = prior.adapt_text(config) if config.text_encoder else None

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network} | ({"text": self.text} if self.text else {})

    def lowers(self, batch: Batch) -> str | tuple[str, ...]:
        return ("network", "text") if self.text else "network"

    def learning_rate(self, name: str) -> float:
        return self.config.text_learning_rate if name == "text" else self.config.learning_rate
