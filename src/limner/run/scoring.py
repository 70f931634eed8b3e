"""How good is a checkpoint of a run that learns a subject? Pictures in fixed contexts, and what they are worth.

RUN/samples/score-NNNNNN.png the pictures of each score: a row a subject and context
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.config import PersonalizeConfig
from limner.config.personalize import class_prompt
from limner.evaluate import features, subject
from limner.run.class_pictures import draw
from limner.run.job import Job
from limner.sampling.images import contact_sheet, save_png, to_pil

SEED = 3_000_017
METRICS = ("score", "subject", "prompt", "drift", "diversity", "copying", "copied")
NUM_CLASS = 8  # pictures of the bare class, which say whether it has become the subject


@dataclass(frozen=True)
class Scorer:
    """Draws and scores a run's subjects.

    Args:
        job: with the weights to be scored in place.
        folder: of the run.
        seed: of the noise: the same pictures at every score, but for what the run has learnt.
    """

    job: Job
    folder: Path
    seed: int = SEED

    @functools.cached_property
    def config(self) -> PersonalizeConfig:
        assert isinstance(self.job.config, PersonalizeConfig)
        return self.job.config

    @functools.cached_property
    def embed(self) -> features.ClipEmbedder:
        return features.load(self.config.eye)

    @property
    def contexts(self) -> tuple[str, ...]:
        """With {} for the subject."""
        return self.config.prompts or tuple(self.job.method.prior.contexts)

    @functools.cached_property
    def real(self) -> list[Tensor]:
        """The training pictures of each subject, uint8 (M, 3, H, W)."""
        loader, side = self.job.train, self.job.method.prior.image_px
        return [
            torch.stack([loader.truth(one, side) for one in loader.samples if one.meta["concept"] == number])
            for number in range(len(self.config.subjects))
        ]

    def look(self, step: int) -> None:
        """A picture of each context, RUN/samples/step-NNNNNN.png."""
        self._sheet([self.drawn(number, each=1) for number in range(len(self.real))], f"step-{step:06d}", step)

    def score(self, step: int) -> dict[str, float]:
        """Means over the subjects; ``score``, higher is better, is subject fidelity times prompt fidelity."""
        drawn = [self.drawn(number) for number in range(len(self.real))]
        found = [self.worth(number, pictures) for number, pictures in enumerate(drawn)]
        self._sheet(drawn, f"score-{step:06d}", step)
        numbers = [_numbers(one) for one in found]
        return {
            key: sum(one[key] for one in numbers) / len(numbers)
            for key in numbers[0]
            if all(key in one for one in numbers)
        }

    def _sheet(self, drawn: list[Tensor], name: str, step: int) -> None:
        sheet = contact_sheet([to_pil(row) for pictures in drawn for row in pictures], [], blocks=len(drawn))
        save_png(sheet, self.folder / "samples" / f"{name}.png", {"step": step, "contexts": self.contexts})

    def drawn(self, number: int, trained: bool = True, each: int | None = None) -> Tensor:
        """Pictures of a subject in each context, uint8 (N, K, 3, H, W); by an untrained prior, of its class."""
        concept, each = self.config.subjects[number], each or self.config.score_pictures
        words = concept.words if trained else concept.class_word or concept.trigger
        return torch.stack(
            [
                draw(self.job, context.replace("{}", words), self.seed, range(each * place, each * (place + 1)))
                for place, context in enumerate(self.contexts)
            ]
        )

    def worth(self, number: int, drawn_NKCHW: Tensor) -> dict[str, Any]:
        """The scores of a subject's pictures (``evaluate.subject.score``)."""
        word = self.config.subjects[number].class_word
        bare = None
        if word:
            bare = draw(self.job, class_prompt(self.config.caption_template, word), self.seed + 1, range(NUM_CLASS))
        prompts = [context.replace("{}", word or "thing") for context in self.contexts]
        return subject.score(drawn_NKCHW, prompts, self.real[number], bare, self.embed, self.embed.texts)


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    """A subject's scores, and the ends of their intervals as ``subject_low`` and ``subject_high``."""
    numbers: dict[str, float] = {}
    for key in METRICS:
        if key in found:
            numbers[key] = found[key]
        if f"{key}_interval" in found:
            numbers[f"{key}_low"], numbers[f"{key}_high"] = found[f"{key}_interval"]
    return numbers
