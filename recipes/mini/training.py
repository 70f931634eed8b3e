"""What the programs of this recipe that train have in common: a clock, a step, an average of the weights."""

import copy
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def by_the_clock(optimiser, rate: float, minutes: float, warm_up_steps: int) -> Iterator[float]:
    """The share of the time that is done, once a step; sets the learning rate: warm-up, then a cosine to zero."""
    start, steps = time.time(), 0
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (steps + 1) / warm_up_steps) * 0.5 * (1 + math.cos(math.pi * done))
        yield done
        steps += 1


def step(optimiser, loss: Tensor) -> None:
    """One step down, along a gradient of at most unit length."""
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    optimiser.zero_grad()


class Average:
    """The moving average of a model's weights; `model` is a model like the other."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = copy.deepcopy(model).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """The average is short at first, so that random weights are soon forgotten."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
