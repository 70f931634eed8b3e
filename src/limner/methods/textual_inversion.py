"""A subject as a new word: textual inversion (Gal et al. 2022, arXiv 2208.01618).

The network and the text encoders stay as they are. What learns is the embedding of a word that did not exist, by the
same loss as of every fine-tuning, so the result is a few numbers (``num_vectors`` a text encoder) that stock tools add
to the vocabulary. The word starts as the one that says what kind of thing it is. It is less like the pictures than what
DreamBooth learns, and can harm nothing: captions without the word mean, to the bit, what they meant. So nothing needs
to be preserved. The learning rate is the paper's, fifty times that of a network: a few vectors have far to go. What is
kept is their average over the last steps (``ema``), since at this rate each step throws them about.
Left out: the paper's 27 templates of captions; --caption-template is one.

    limner train textual_inversion --data my_dog --class-word dog
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from limner.config import PersonalizeConfig
from limner.methods.subject import SubjectMethod
from limner.priors.base import Prior
from limner.types import Batch


class TextualInversion(SubjectMethod):
    """The prior frozen, and a new word for each subject."""

    class Config(PersonalizeConfig):
        """The word, and what is fixed here."""

        base_frozen: ClassVar[bool] = True
        trigger: str = Field("<sks>", description="the new word that shall stand for the subject")
        num_vectors: int = Field(1, ge=1, le=64, description="vectors of the new word; it takes so many tokens")
        initializer: str = Field("", description="the words it starts from; default: the class word, else 'picture'")
        learning_rate: float = Field(5e-3, gt=0, description="of AdamW, after warm-up")
        adapter: Literal["full"] = Field("full", description="nothing of the network learns, so there is no adapter")
        base_precision: Literal["fp32", "bf16", "int8", "nf4"] = Field(
            "fp32", description="how the network, which is frozen, is held; int8 and nf4 are quantised"
        )
        preservation: Literal["off"] = Field("off", description="nothing but the new word changes")

    config: Config
    learns_text = True

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        prior.network.requires_grad_(False)
        self.words = prior.add_words(starts_of(config, config.initializer), config.num_vectors)

    def learns(self) -> dict[str, nn.Module]:
        return {"words": self.words}

    def lowers(self, batch: Batch) -> str:
        return "words"


def starts_of(config: PersonalizeConfig, initializer: str) -> dict[str, str]:
    """New word -> the words that it starts from."""
    return {concept.trigger: initializer or concept.class_word or "picture" for concept in config.subjects}
