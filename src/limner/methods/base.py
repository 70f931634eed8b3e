"""The Method contract: a method says what to lower; the trainer decides how.

    class Mine(Method):
        class Config(MethodConfig): ...             # the only source of its flags, YAML keys, form and docs
        def __init__(self, prior, config): ...      # build what learns
        def learns(self): return {"network": ...}   # name -> weights; each name has its own optimiser
        def step(self, batch):                      # any number of updates, in order
            yield Update("network", loss)

The trainer runs ``for update in method.step(batch)``: the code after a ``yield`` runs when that update has been applied
(with ``accumulate``, summed with those of the other micro-batches first); so a discriminator's update sees the
generator as its own update left it. The gradient of an update reaches the weights it names and no others. All
randomness comes from ``batch.dice``: that is what makes a resumed run, and a run on several machines, equal to an
uninterrupted one. New weights need no seeding: ``__init__`` runs under the configuration's seed.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from limner.config import MethodConfig
from limner.priors.base import Prior
from limner.sampling.guidance import guided
from limner.sampling.sampler import sample
from limner.types import Batch, Cond, Update


class Method(ABC):
    """A way of fine-tuning a prior.

    Attributes:
        condition_px: side of the condition pictures it wants, in pixels; None where it takes none.
        fixed_size: whether it is made for square pictures of the prior's own size alone.
        hand_over_at: numbers of done steps at which the averaged weights replace the live ones and the optimisers
            begin anew (the end of one stage and the start of the next).
        learns_text: whether what captions mean changes while it learns: then ``Batch.text`` holds no tokens, and the
            method encodes ``Batch.captions`` itself.
    """

    Config: type[MethodConfig] = MethodConfig
    condition_px: int | None = None
    fixed_size: bool = False
    hand_over_at: frozenset[int] = frozenset()
    learns_text: bool = False

    def __init__(self, prior: Prior, config: MethodConfig) -> None:
        self.prior = prior
        self.config = config

    @abstractmethod
    def learns(self) -> dict[str, nn.Module]:
        """Name -> weights that learn (those with requires_grad). Checkpoints hold just these."""

    @abstractmethod
    def step(self, batch: Batch) -> Iterator[Update]:
        """What to lower for this batch, in order."""

    def learning_rate(self, name: str) -> float:
        """Of the optimiser of ``learns()[name]``, after warm-up."""
        return self.config.learning_rate

    def progress(self, step: int) -> float:
        """The share of a stage that is done, 0 to 1: over each stage learning rates fall once. One stage is all."""
        return step / self.config.steps

    def read_ahead(self) -> None:
        """Read what it needs of texts that stay the same, while the text encoders are in memory."""
        _ = self.null

    @property
    def null(self) -> Cond:
        """What the prior is told where it is told nothing: the empty caption, one row."""
        return self._null_now() if self.learns_text else self._null

    @functools.cached_property
    def _null(self) -> Cond:
        return self._null_now()

    @torch.no_grad()
    def _null_now(self) -> Cond:
        return self.prior.encode_text([""])

    @property
    def guidance_scale(self) -> float:
        """The configuration's, else the prior's own."""
        return self.config.guidance_scale or self.prior.guidance_scale

    @property
    def guidance(self) -> str:
        """How guided predictions are normalised: as the configuration says, else as is the prior's custom."""
        return self.config.guidance or self.prior.guidance

    def conditions(self, text: Cond, condition_BCHW: Tensor | None) -> tuple[Cond, Cond]:
        """The condition to sample with, and the null condition that guidance contrasts it with; B rows each."""
        return text, self.null.expand(len(text))

    def score(self, batch: Batch) -> dict[str, float]:
        """Numbers for a validation batch; 'score', higher is better, is what the best checkpoint is chosen by."""
        loss = sum(float(update.loss) for update in self.step(batch))
        return {"loss": loss, "score": -loss}

    @torch.no_grad()
    def generate(
        self,
        text: Cond,
        condition_BCHW: Tensor | None,
        noise_BCHW: Tensor,
        *,
        num_steps: int,
        guidance_scale: float,
        guidance: str = "off",
        solver: str = "dpmpp_2m",
        eta: float = 0.0,
        step_noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Pictures in [-1, 1], (B, 3, px, px), from captions as the prior encodes them and noise of the latent's shape.

        ``sampling`` says what the options mean.
        """
        cond, null = self.conditions(text, condition_BCHW)
        predict = guided(self.prior, cond, null, guidance_scale, guidance)
        z_0 = sample(
            predict, self.prior.path, noise_BCHW, num_steps=num_steps, solver=solver, eta=eta, noise=step_noise
        )
        return self.prior.decode(z_0)
