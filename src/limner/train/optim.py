"""One optimiser and one learning-rate curve for each name that learns."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from limner.config import MethodConfig
from limner.train.ema import Ema


class Learner:
    """The weights of one name with their optimiser (AdamW, Loshchilov & Hutter 2019), average and counters.

    ``num_steps`` counts the updates since the start or the last hand-over.
    """

    def __init__(self, module: nn.Module, learning_rate: float, config: MethodConfig) -> None:
        self.names = [name for name, weight in module.named_parameters() if weight.requires_grad]
        self.weights: list[Tensor] = [weight for weight in module.parameters() if weight.requires_grad]
        self.buffers = buffers_of(module)
        self.learning_rate, self.config = learning_rate, config
        self.ema = Ema(self.weights, config.ema)
        self.restart()

    def restart(self) -> None:
        """A new optimiser, at the start of its warm-up."""
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=self.config.weight_decay, fused=True)
        self.num_steps = 0

    def rate(self, progress: float) -> float:
        """Learning rate: warm-up by this name's own count, decay by the share of the stage that is done."""
        warm = min(1.0, (self.num_steps + 1) / (self.config.warmup_steps + 1))
        fall = 1.0
        if self.config.decay == "cosine":
            fall = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * warm * fall

    def apply(self, rate: float) -> Tensor:
        """Clip, step at this rate, average, and drop the gradients; returns the gradient's norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.num_steps += 1
        return norm

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a resumed run needs, by file: live weights and buffers, averages, and the optimiser's moments."""
        moments = {}
        for name, weight in zip(self.names, self.weights, strict=True):
            for key, value in self.optimizer.state[weight].items():
                moments[f"{name}/{key}"] = value
        live = dict(zip(self.names, self.weights, strict=True))
        return {
            "weights": {**live, **self.buffers},
            "ema": {**dict(zip(self.names, self.ema.average, strict=True)), **self.buffers},
            "optimizer": moments,
        }

    @torch.no_grad()
    def restore(self, files: dict[str, dict[str, Tensor]], counters: dict[str, int]) -> None:
        """The inverse of ``tensors`` and ``counters``."""
        for name, weight, average in zip(self.names, self.weights, self.ema.average, strict=True):
            weight.copy_(files["weights"][name])
            average.copy_(files["ema"][name])
        for name, buffer in self.buffers.items():
            buffer.copy_(files["weights"][name])
        for key, value in files["optimizer"].items():
            name, _, part = key.rpartition("/")
            weight = self.weights[self.names.index(name)]
            # A moment is laid out in memory as its weight is; AdamW's fused step keeps its step count beside them.
            like = weight if value.ndim else value
            self.optimizer.state[weight][part] = torch.empty_like(like, device=weight.device).copy_(value)
        self.num_steps, self.ema.num_updates = counters["num_steps"], counters["ema_updates"]

    def counters(self) -> dict[str, int]:
        return {"num_steps": self.num_steps, "ema_updates": self.ema.num_updates}


def hand_over(learners: Iterable[Learner]) -> None:
    """Between stages: the averages become the weights, and the optimisers begin anew."""
    for learner in learners:
        learner.ema.hand_over()
        learner.restart()


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of those parts of a module in which something learns; the others never change."""
    found = {}
    for name, part in module.named_modules():
        if any(weight.requires_grad for weight in part.parameters()):
            own = part.named_buffers(prefix=name, recurse=False)
            found.update(own)
    return found
