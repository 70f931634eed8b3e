"""What a prior shall go on drawing while it learns a subject: pictures of its class, its own or the user's.

RUN/class/dog/00000.png ...   drawn before the first step; those that are there already are kept
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import torch
from PIL import Image
from torch import Tensor

from limner.config import MethodConfig, PersonalizeConfig
from limner.config.personalize import class_prompt
from limner.data.captions import Captioner
from limner.data.load import Loader
from limner.data.prepare import to_uint8
from limner.errors import DataError, RunError
from limner.priors.adapters import switched_off
from limner.run.data import load_data
from limner.run.job import Job
from limner.sampling.images import save_png, to_pil
from limner.train import progress
from limner.types import Dice, Sample

SEED = 2_000_003  # apart from the run's own, so that what is kept has other noise and times than the subject


def ready(job: Job, folder: Path) -> None:
    """Draw what is missing of them, and read all into the cache."""
    config = job.config
    if wanted(config) and not config.regularisation:
        for word in _words(config):
            _draw_class(job, word, folder)
    if loader := kept(job, folder):
        list(loader.encode_all())


def kept(job: Job, folder: Path) -> Loader | None:
    """A loader of them; None where the run keeps nothing, or keeps it by a teacher.

    Raises:
        DataError: the user's pictures cannot be read, or there are none.
    """
    config = job.config
    if not wanted(config):
        return None
    if config.regularisation:
        samples = _users(config)
    else:
        samples = [
            Sample(f"class/{file.parent.name}/{file.stem}", class_prompt(config.caption_template, word), file)
            for word in _words(config)
            for file in _files(config, word, folder)
        ]
    recipe = replace(job.train.recipe.upright(), captioner=Captioner(), masked="off")
    return Loader(samples, recipe, job.train.encoder, config.seed + SEED, job.train.device)


def _users(config: PersonalizeConfig) -> list[Sample]:
    """The user's pictures; of those without a caption the class is said."""
    assert config.regularisation is not None
    samples = [sample for sample in load_data(config.regularisation) if sample.split == "train"]
    words = {concept.class_word for concept in config.subjects}
    word = min(words) if len(words) == 1 else ""
    if not samples:
        raise DataError(f"{config.regularisation} has no training pictures.", "give a folder with pictures")
    if not word and not all(sample.caption for sample in samples):
        raise DataError(
            f"{config.regularisation} has pictures without a caption, and no one class_word says what they show.",
            "write captions beside the pictures; of a single subject class_word does it",
        )
    said = class_prompt(config.caption_template, word)
    return [Sample(f"kept/{sample.key}", sample.caption or said, sample.image) for sample in samples]


def wanted(config: MethodConfig) -> TypeGuard[PersonalizeConfig]:
    """Whether a run keeps what the prior knows on pictures."""
    return isinstance(config, PersonalizeConfig) and config.preservation == "pictures"


def _words(config: PersonalizeConfig) -> list[str]:
    return list(dict.fromkeys(concept.class_word for concept in config.subjects))


def _files(config: PersonalizeConfig, word: str, folder: Path) -> list[Path]:
    """Where the drawn pictures of a class lie."""
    own = folder / "class" / re.sub(r"\W+", "-", word)
    return [own / f"{number:05d}.png" for number in range(config.class_pictures)]


def _draw_class(job: Job, word: str, folder: Path) -> None:
    """By the prior as the run begins with it; each picture from the same noise whenever it is drawn."""
    config = job.config
    assert wanted(config)
    said, files = class_prompt(config.caption_template, word), _files(config, word, folder)
    how = {"prompt": said, "prior": config.prior, "seed": config.seed, "guidance_scale": job.method.guidance_scale}
    _refuse_others(files, how)
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    # An adapter that has learnt nothing adds nothing to the pictures, and half as much again to the time.
    idle = nullcontext() if config.start_from else switched_off(job.method.prior.network)
    with idle, progress.bar(f"drawing pictures of {word}", len(missing), 0, 1, shown=bool(missing)) as advance:
        for first in range(0, len(missing), job.at_once):
            numbers = missing[first : first + job.at_once]
            for number, picture in zip(numbers, to_pil(draw(job, said, SEED + config.seed, numbers)), strict=True):
                save_png(picture, files[number], {**how, "picture": number})
            advance(first + len(numbers))


def _refuse_others(files: Sequence[Path], how: dict[str, object]) -> None:
    """Pictures that an earlier attempt drew otherwise are not taken for this run's; the user's own are."""
    for file in filter(Path.is_file, files):
        with Image.open(file) as picture:
            drawn = json.loads(picture.info.get("limner", "{}"))
        if other := [key for key, value in how.items() if drawn.get(key, value) != value]:
            said = f"{file} was drawn with {other[0]} {drawn[other[0]]!r}, not {how[other[0]]!r}."
            raise RunError(said, f"delete {file.parent}, or choose another --out")


@torch.no_grad()
def draw(job: Job, prompt: str, seed: int, numbers: Sequence[int]) -> Tensor:
    """Pictures of a prompt, uint8 BCHW, at the run's own settings; ``numbers`` are places in the seed's noise."""
    method, drawn = job.method, []
    told = method.prior.encode_text([prompt])
    for first in range(0, len(numbers), job.at_once):
        some = numbers[first : first + job.at_once]
        noise_BCHW = Dice(seed, 0, some, job.train.device).normal(*method.prior.latent_CHW)
        with method.prior.computing():
            pictures = method.generate(
                told.expand(len(some)),
                None,
                noise_BCHW,
                num_steps=job.config.sample_steps,
                guidance_scale=method.guidance_scale,
                guidance=method.guidance,
            )
        drawn.append(to_uint8(pictures))
    return torch.cat(drawn)
