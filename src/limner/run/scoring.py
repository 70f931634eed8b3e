"""How good is a checkpoint of a run that learns a subject? Pictures in fixed contexts, and what they are worth.

RUN/floor.json               what the prior reaches before the run, told the class word in the trigger's place
RUN/samples/score-NNNNNN.png the pictures of each score: a row a subject and context
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.config import PersonalizeConfig
from limner.config.personalize import class_prompt
from limner.evaluate import features, subject
from limner.evaluate.report import write_text
from limner.run.class_pictures import draw
from limner.run.job import Job
from limner.sampling.images import contact_sheet, save_png, to_pil
from limner.types import Sample

SEED = 3_000_017  # of the noise: the same pictures at every score, but for what the run has learnt
NUM_CLASS = 8  # pictures of the bare class, which say whether it has become the subject


@dataclass(frozen=True)
class Scorer:
    """Draws and scores a run's subjects.

    Args:
        job: with the weights to be scored in place.
        folder: of the run.
        eye: name or folder of what compares pictures and texts (``evaluate.features.load``).
    """

    job: Job
    folder: Path

    @property
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

    def real(self, concept: int, split: str = "train") -> list[Sample]:
        """The pictures of a subject in a split."""
        loader = self.job.train if split == "train" else self.job.test
        return [one for one in loader.samples if one.meta["concept"] == concept and one.split == split]

    def look(self, step: int) -> None:
        """Before the first step: what the untrained prior reaches."""
        if step == 0:
            report = {"subjects": [self._one(number, trained=False)[0] for number in range(len(self.config.subjects))]}
            write_text(self.folder / "floor.json", json.dumps(report, indent=2) + "\n")

    def score(self, step: int) -> dict[str, float]:
        """Means over the subjects; ``score``, higher is better, is subject fidelity times prompt fidelity."""
        found, drawn = [], []
        for number in range(len(self.config.subjects)):
            result, pictures = self._one(number, trained=True)
            found.append(result)
            drawn.append(pictures)
        self._sheet(drawn, step)
        keys = ("score", "subject", "prompt", "drift", "diversity", "copying")
        means = {key: [one[key] for one in found if one.get(key) is not None] for key in keys}
        return {key: sum(values) / len(values) for key, values in means.items() if values}

    def _one(self, number: int, trained: bool) -> tuple[dict[str, Any], Tensor]:
        """The score of one subject, and its pictures (N, K, 3, H, W) uint8."""
        concept, config = self.config.subjects[number], self.config
        said = concept.words if trained else concept.class_word or concept.trigger
        plain = concept.class_word or "thing"
        pictures = torch.stack([self._draw(_told(one, said), i) for i, one in enumerate(self.contexts)])
        bare = None
        if concept.class_word:
            bare = draw(self.job, class_prompt(config.caption_template, concept.class_word), SEED + 1, range(NUM_CLASS))
        side = self.job.method.prior.image_px
        real = torch.stack([self.job.train.truth(sample, side) for sample in self.real(number)])
        prompts = [_told(one, plain) for one in self.contexts]
        return subject.score(pictures, prompts, real, bare, self.embed, self.embed.texts), pictures

    def _draw(self, prompt: str, place: int) -> Tensor:
        each = self.config.score_pictures
        return draw(self.job, prompt, SEED, range(place * each, (place + 1) * each))

    def _sheet(self, drawn: list[Tensor], step: int) -> None:
        rows = [to_pil(row) for pictures in drawn for row in pictures]
        sheet = contact_sheet(rows, [], blocks=len(drawn))
        save_png(sheet, self.folder / "samples" / f"score-{step:06d}.png", {"step": step, "contexts": self.contexts})


def _told(context: str, words: str) -> str:
    return context.replace("{}", words)
