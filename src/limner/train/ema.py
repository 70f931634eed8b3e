"""An exponential average of what learns (Polyak 1992); the average is what is sampled, scored and exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """The average of a list of weights. The decay rises from 0.1 with the number of updates, up to ``decay``.

    With ``decay`` 0 the average is the live weights themselves, and costs neither memory nor time.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights, self.decay, self.num_updates = list(weights), decay, 0
        self.average = [weight.detach().clone() for weight in weights] if decay else self.weights

    @torch.no_grad()
    def update(self) -> None:
        self.num_updates += 1
        if self.decay:
            decay = min(self.decay, self.num_updates / (9 + self.num_updates))
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    @torch.no_grad()
    def hand_over(self) -> None:
        """The average becomes the live weights, and averaging begins anew."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.copy_(average)
        self.num_updates = 0

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the live weights hold the average."""
        if not self.decay:
            yield
            return
        live = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight, average in zip(self.weights, self.average, strict=True):
                weight.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, own in zip(self.weights, live, strict=True):
                    weight.copy_(own)
