"""A new word first, then a network that draws it better: pivotal tuning of a diffusion model.

Roich et al. 2021 (arXiv 2106.05744) invert a photo into a GAN's latent space and then tune the GAN around that pivot;
cloneofsimo's lora (2022) brought it to diffusion models. In the first stage a new word learns, as in textual inversion,
the network frozen. In the second an adapter learns, from the word's averaged vectors, which now stand still: the
network has less to change than for a word that means nothing, so it changes less. Preservation begins with it.
Left out: letting the word learn on in the second stage, where both would chase each other.

    limner train pivotal --data my_dog --class-word dog
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from limner.config import PersonalizeConfig
from limner.methods.subject import SubjectMethod
from limner.methods.textual_inversion import starts_of
from limner.priors.base import Prior
from limner.types import Batch, Cond


class Pivotal(SubjectMethod):
    """New words, then the network."""

    class Config(PersonalizeConfig):
        """The word, and how the steps are shared."""

        trigger: str = Field("<sks>", description="the new word that shall stand for the subject")
        num_vectors: int = Field(2, ge=1, le=64, description="vectors of the new word; it takes so many tokens")
        initializer: str = Field("", description="the words it starts from; default: the class word, else 'picture'")
        inversion_share: float = Field(0.5, gt=0, lt=1, description="share of the steps in which the new word learns")
        words_learning_rate: float = Field(5e-3, gt=0, description="of the new word")

    config: Config
    learns_text = True

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.network = prior.adapt(config)
        self.words = prior.add_words(starts_of(config, config.initializer), config.num_vectors)
        self.inversion_steps = int(config.steps * config.inversion_share)
        self.hand_over_at = frozenset({self.inversion_steps} - {0})

    def learns(self) -> dict[str, nn.Module]:
        return {"words": self.words, "network": self.network}

    def lowers(self, batch: Batch) -> str:
        return "words" if batch.step < self.inversion_steps else "network"

    def learning_rate(self, name: str) -> float:
        return self.config.words_learning_rate if name == "words" else self.config.learning_rate

    def progress(self, step: int) -> float:
        first = self.inversion_steps
        return step / first if step < first else (step - first) / (self.config.steps - first)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        # What is kept says nothing of the new word; nor is a teacher asked before the network learns.
        return super().losses(replace(batch, kept=None) if self.lowers(batch) == "words" else batch)

    def text_of(self, batch: Batch) -> Cond:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lowers(batch) == "words"):
            return super().text_of(batch)
