"""What the methods that learn a subject share: the loss on its pictures, and what keeps the prior as it is beside them.

    loss = sum_i w_i |out_i - target_i|^2  +  preservation_weight * (the same on what shall be kept)

The first sum is over pictures of the subject, told "a photo of sks dog". Without the second the class goes with it:
every dog becomes this one (language drift, Ruiz et al. 2023, section 3.2). What is kept is either pictures of the
class, drawn by the prior before the run or brought by the user (``Batch.kept``), or what the untrained prior would have
said of the very same noisy pictures, told "a photo of a dog" (the teacher, which needs no pictures).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limner.config import PersonalizeConfig
from limner.config.personalize import class_prompt
from limner.methods.base import Method
from limner.priors.adapters import switched_off
from limner.priors.base import Prior, mean_of_pictures
from limner.types import Batch, Cond, Update


class SubjectMethod(Method):
    """A way of teaching a prior one subject or several; a subclass says what learns."""

    config: PersonalizeConfig

    def __init__(self, prior: Prior, config: PersonalizeConfig) -> None:
        super().__init__(prior, config)
        self.teacher: nn.Module | None = None
        if config.preservation == "teacher" and config.adapter == "full":
            self.teacher = deepcopy(prior.network).requires_grad_(False)

    def read_ahead(self) -> None:
        super().read_ahead()
        if self.config.preservation == "teacher":
            _ = self._class_text

    @abstractmethod
    def lowers(self, batch: Batch) -> str | tuple[str, ...]:
        """The names of what learns from this batch."""

    def step(self, batch: Batch) -> Iterator[Update]:
        own, kept = self.losses(batch)
        if kept is None:
            yield Update(self.lowers(batch), own)
        else:
            log: dict[str, float | Tensor] = {"loss/subject": own.detach(), "loss/kept": kept.detach()}
            yield Update(self.lowers(batch), own + self.config.preservation_weight * kept, log)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(on the subject, on what shall be kept), scalars; the second is None where nothing is kept."""
        concept_B = torch.tensor([meta.get("weight", 1.0) for meta in batch.meta], device=batch.mean_BCHW.device)
        noisy = self._noised(batch)
        if self.config.preservation == "teacher" and "network" in self.lowers(batch):
            own_B = self._loss(noisy)
            return (own_B * concept_B).mean(), self._from_teacher(noisy, batch).mean()
        if batch.kept is None:
            return (self._loss(noisy) * concept_B).mean(), None
        kept = self._noised(batch.kept)
        if kept.z_0.shape[2:] == noisy.z_0.shape[2:]:  # one pass through the network for both
            own_B, kept_B = self._loss(noisy.cat(kept)).split([len(batch), len(batch.kept)])
        else:
            own_B, kept_B = self._loss(noisy), self._loss(kept)
        return (own_B * concept_B).mean(), kept_B.mean()

    def text_of(self, batch: Batch) -> Cond:
        """The captions as the network is told them; with a gradient where the text side learns."""
        if not self.learns_text:
            return batch.text
        return replace(self.prior.encode_text(batch.captions), framing_B6=batch.text.framing_B6)

    def _noised(self, batch: Batch) -> _Noisy:
        dice, shape = batch.dice, batch.mean_BCHW.shape[1:]
        z_0 = self.prior.draw(batch.mean_BCHW, batch.std_BCHW, dice.normal(*shape))
        eps = dice.normal(*shape)
        around_middle = self.prior.path.logit_normal and self.config.noise_bias == 1
        if self.config.timesteps:
            around_middle = self.config.timesteps == "logit_normal"
        u_B = torch.sigmoid(dice.normal()) if around_middle else dice.uniform() ** (1 / self.config.noise_bias)
        cond, asked = self.text_of(batch), dice.uniform() >= self.config.caption_dropout
        if self.config.caption_dropout:
            cond = cond.where(asked, self.null.expand(len(batch)))
        return _Noisy(z_0, eps, self.prior.path.draw_t(u_B), cond, batch.weight_B1HW)

    def _loss(self, noisy: _Noisy) -> Tensor:
        loss_B = self.prior.loss(noisy.z_0, noisy.eps, noisy.t_B, noisy.cond, noisy.weight_B1HW)
        return loss_B * self.loss_weight(noisy.t_B)

    def loss_weight(self, t_B: Tensor) -> Tensor:
        """Of the squared error at t, (B,)."""
        gamma, path = self.config.min_snr_gamma, self.prior.path
        gamma = path.min_snr_gamma if gamma is None else gamma
        return path.min_snr(t_B, gamma) if gamma else torch.ones_like(t_B)

    def _from_teacher(self, noisy: _Noisy, batch: Batch) -> Tensor:
        """How far the prediction for the class has gone from the untrained prior's, a number a picture: (B,)."""
        prior = self.prior
        cond = Cond.cat([self._class_text[meta["class_word"]] for meta in batch.meta])
        cond = replace(cond, framing_B6=batch.text.framing_B6)
        x_t = prior.path.mix(noisy.z_0, noisy.eps, noisy.t_B)
        with prior.computing():
            out = prior.predict(x_t, noisy.t_B, cond)
            with torch.no_grad(), self._untrained():
                wanted = prior.predict(x_t, noisy.t_B, cond)
        return mean_of_pictures((out - wanted).float().square(), None) * self.loss_weight(noisy.t_B)

    @functools.cached_property
    def _class_text(self) -> dict[str, Cond]:
        """Class word -> what the prior is told of anything of the class, one row."""
        words = {concept.class_word for concept in self.config.subjects}
        prompts = {word: class_prompt(self.config.caption_template, word) for word in words}
        with torch.no_grad(), self.prior.parts.borrowed():
            return {word: self.prior.encode_text([prompt]) for word, prompt in prompts.items()}

    def _untrained(self) -> AbstractContextManager[None]:
        """The prior as it was before the run, within."""
        if self.teacher is None:
            return switched_off(self.prior.network)
        return _standing_in(self.prior, self.teacher)


@dataclass(frozen=True)
class _Noisy:
    """Latents, the noise and the times that they are mixed with, and what the network is told."""

    z_0: Tensor
    eps: Tensor
    t_B: Tensor
    cond: Cond
    weight_B1HW: Tensor | None

    def cat(self, other: _Noisy) -> _Noisy:
        """These rows, then the other's; where one side has no weights they are 1."""
        weight_B1HW = None
        if self.weight_B1HW is not None or other.weight_B1HW is not None:
            weight_B1HW = torch.cat([_or_ones(self), _or_ones(other)])
        return _Noisy(
            torch.cat([self.z_0, other.z_0]),
            torch.cat([self.eps, other.eps]),
            torch.cat([self.t_B, other.t_B]),
            Cond.cat([self.cond, other.cond]),
            weight_B1HW,
        )


def _or_ones(noisy: _Noisy) -> Tensor:
    return torch.ones_like(noisy.z_0[:, :1]) if noisy.weight_B1HW is None else noisy.weight_B1HW


@contextmanager
def _standing_in(prior: Prior, network: nn.Module) -> Iterator[None]:
    """Another network in a prior's place, within."""
    own, prior.network = prior.network, network
    try:
        yield
    finally:
        prior.network = own
