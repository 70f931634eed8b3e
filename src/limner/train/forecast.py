"""What a run will hold, before it: the trainer's own steps, taken with tensors that have shapes and no contents.

count = Count(device)
with count:
    weightless(count, module)                its weights as shapes on the device
    forecast(count, method, config, sizes)   what each phase of a run holds at its worst moment
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from limner.config import MethodConfig, PersonalizeConfig
from limner.data.encode import PICTURES_AT_ONCE, TEXTS_AT_ONCE
from limner.methods.base import Method
from limner.train.counting import Count
from limner.train.optim import hand_over
from limner.train.trainer import Trainer
from limner.types import Batch, Dice


@dataclass(frozen=True)
class Sizes:
    """How many pictures a run looks at together, and the sides of its largest ones in pixels."""

    width_px: int
    height_px: int
    drawn: int
    scored: int


@dataclass
class Forecast:
    """What a run will hold, in bytes, and how much it computes.

    weights: of the network and of whatever else learns. parts: of the autoencoder and the text encoders. learned: of
    what learns; its average takes as much, the optimiser's moments twice as much. gradients: those that are there when
    learning is at its worst. latent, text: of one picture and one caption, encoded. peaks: of each phase, all that is
    held at its worst moment. flops: first step of a stage -> operations of one of its steps.
    """

    weights: int = 0
    parts: int = 0
    learned: int = 0
    gradients: int = 0
    latent: int = 0
    text: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    flops: dict[int, int] = field(default_factory=dict)


def forecast(count: Count, method: Method, config: MethodConfig, sizes: Sizes) -> Forecast:
    """Each phase of a run once, as ``run.training`` goes through them: encoding, learning, drawing, scoring, saving.

    To be called inside ``count``, with a method whose weights are ``weightless``, and the parts of its prior too.
    """
    found, prior = Forecast(weights=count.now), method.prior
    with torch.no_grad():
        picture_BCHW = torch.empty(PICTURES_AT_ONCE, 3, sizes.height_px, sizes.width_px, device=count.device)
        mean_BCHW, std_BCHW = prior.encode_image(picture_BCHW)
        text = prior.encode_text([""] * TEXTS_AT_ONCE)
        method.read_ahead()
    found.latent = (mean_BCHW.nbytes + std_BCHW.nbytes) // len(mean_BCHW)
    found.text = sum(part.nbytes for part in text.parts() if part is not None) // len(text)
    own, wanted = prior.latent_CHW, tuple(mean_BCHW.shape[1:])
    del picture_BCHW, mean_BCHW, std_BCHW
    found.parts = count.now - found.weights
    found.peaks["encoding"] = count.peak_since()
    prior.parts.release()
    del text

    two = config.model_copy(update={"accumulate": min(2, config.accumulate)})
    trainer = Trainer(method, two, Path(), _unused, lambda _: {}, print, Accelerator(cpu=count.device.type == "cpu"))
    weights = [weight for learner in trainer.learners.values() for weight in learner.weights]
    found.learned = sum(weight.nbytes for weight in weights)
    batch = functools.partial(_batch, method, count.device)
    count.note = lambda: sum(weight.grad.nbytes for weight in weights if weight.grad is not None)
    for first in sorted({0} | method.hand_over_at):
        flops = _first_step(trainer, first, batch(wanted, config.batch_size, first))
        found.flops[first] = flops * config.accumulate // two.accumulate
        count.peak_since()
        trainer._one_step(itertools.repeat(batch(wanted, config.batch_size, first)))
        if count.peak > found.peaks.get("learning", 0):
            found.peaks["learning"], found.gradients = count.peak, count.noted
    count.peak_since()
    trainer._on_main(functools.partial(_draw, method, batch(own, sizes.drawn)))
    found.peaks["drawing"] = count.peak_since()
    trainer._on_main(functools.partial(_score, method, batch(own, sizes.scored)))
    found.peaks["scoring"] = count.peak_since()
    for file in zip(*(learner.tensors().values() for learner in trainer.learners.values()), strict=True):
        _ = [tensor.contiguous() for tensors in file for tensor in tensors.values()]
        del _
    found.peaks["saving"] = count.peak_since()
    return found


def _first_step(trainer: Trainer, first: int, batch: Batch) -> int:
    """The first step of a stage, after which the optimiser has its moments; the operations that it takes.

    It holds more than it will: to count operations, torch takes them apart.
    """
    trainer.step = first
    if first in trainer.method.hand_over_at:
        hand_over(trainer.learners.values())
    with FlopCounterMode(display=False) as counted:
        trainer._one_step(itertools.repeat(batch))
    return counted.get_total_flops()


def _draw(method: Method, batch: Batch) -> None:
    """A grid of pictures, in two steps, which hold as much as any number."""
    with method.prior.parts.borrowed():
        method.generate(
            batch.text,
            batch.condition_BCHW,
            torch.empty_like(batch.mean_BCHW),
            num_steps=2,
            guidance_scale=method.guidance_scale,
            guidance=method.guidance,
        )


@torch.no_grad()
def _score(method: Method, batch: Batch) -> None:
    """A score but for the reading of it."""
    with method.prior.parts.borrowed(), method.prior.computing():
        for _ in method.step(batch):
            pass


def _batch(method: Method, device: torch.device, latent_CHW: tuple[int, ...], num: int, step: int = 0) -> Batch:
    """Pictures and captions of a run, without contents."""
    mean_BCHW = torch.empty(num, *latent_CHW, device=device)
    condition_px, condition_BCHW, weight_B1HW = method.condition_px, None, None
    if condition_px is not None:
        # Of pictures that are not the prior's own size the condition is larger or smaller by as much.
        sides = (
            side * condition_px // own for side, own in zip(latent_CHW[1:], method.prior.latent_CHW[1:], strict=True)
        )
        condition_BCHW = torch.empty(num, 3, *sides, device=device)
    if method.config.masked_loss != "off":
        weight_B1HW = torch.empty(num, 1, *latent_CHW[1:], device=device)
    made = Batch(
        step=step,
        keys=[""] * num,
        captions=[""] * num,
        meta=[_meta(method)] * num,
        mean_BCHW=mean_BCHW,
        std_BCHW=torch.empty_like(mean_BCHW),
        text=method.null.map(lambda part: part.expand(num, *part.shape[1:]).clone()),
        condition_BCHW=condition_BCHW,
        dice=Dice(0, step, range(num), device),
        weight_B1HW=weight_B1HW,
    )
    config = method.config
    keeps = isinstance(config, PersonalizeConfig) and config.preservation == "pictures"
    return replace(made, kept=replace(made, dice=Dice(1, step, range(num), device))) if keeps else made


def _meta(method: Method) -> dict[str, str]:
    """What methods read of a picture's meta."""
    config = method.config
    return {"class_word": config.subjects[0].class_word} if isinstance(config, PersonalizeConfig) else {}


def _unused(start: int, stop: int) -> Iterator[Batch]:
    raise NotImplementedError  # steps are taken one by one, each with a batch of its own
