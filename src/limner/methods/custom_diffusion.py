"""Several subjects at once, none bleeding into another: Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488).

What learns is how the network reads words, and nothing else of it: the keys and values that attention makes of the text
(of a UNet's cross attention; of a transformer's text stream). Each subject is a new word of its own, "<cat>", whose
vector learns along. Pictures of each class are kept as they were. Left out: the merging of two trained subjects by a
constrained optimisation (section 3.2), and the paper's random resizing with words such as "far away".

    limner train custom_diffusion --concepts '<mine> cat=my_cat, <yours> dog=your_dog'
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from limner.config import PersonalizeConfig
from limner.methods.subject import SubjectMethod
from limner.methods.textual_inversion import starts_of
from limner.priors.base import Prior
from limner.types import Batch


class CustomDiffusion(SubjectMethod):
    """Keys and values of the text, whole, and one new word a subject."""

    class Config(PersonalizeConfig):
        """What is fixed here, and how fast the words learn."""

        trigger: str = Field("<sks>", description="the new word that shall stand for the subject")
        adapter: Literal["full"] = Field("full", description="the keys and values learn whole")
        initializer: str = Field("", description="the words it starts from; default: the class word, else 'picture'")
        learning_rate: float = Field(1e-4, gt=0, description="of the keys and values, after warm-up")
        words_learning_rate: float = Field(5e-4, gt=0, description="of the new words' vectors")

    config: Config
    learns_text = True

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.network = prior.network.requires_grad_(False)
        for name, weight in self.network.named_parameters():
            layer = name.rpartition(".")[0]
            weight.requires_grad_(any(layer.endswith(f".{end}") for end in prior.text_layers))
        self.words = prior.add_words(starts_of(config, config.initializer), num_vectors=1)

    def learns(self) -> dict[str, nn.Module]:
        return {"network": self.network, "words": self.words}

    def lowers(self, batch: Batch) -> str | tuple[str, ...]:
        return ("network", "words")

    def learning_rate(self, name: str) -> float:
        return self.config.words_learning_rate if name == "words" else self.config.learning_rate
