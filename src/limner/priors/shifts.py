"""How a flow's sampling times are shifted towards noise, as diffusers' FlowMatchEulerDiscreteScheduler is configured.

A larger picture needs more noise to be destroyed as much, so the shift grows with the number of patches (Esser et al.
2024, arXiv 2403.03206, section 5.3.2). diffusers' pipelines look at each picture's own size; here the size is the
prior's own, so that training and sampling follow one and the same path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limner.priors.paths import Flow


class StretchedFlow(Flow):
    """A flow whose last time before 0 is always ``terminal``: the times between are stretched to reach it."""

    def __init__(self, shift: float, terminal: float) -> None:
        super().__init__(shift)
        self.terminal = terminal

    def times(self, num_steps: int) -> Tensor:
        times = super().times(num_steps)
        if num_steps == 1:  # the last time before 0 is the first one, 1, and nothing lies between
            return times
        a = 1 - times[:-1]
        return torch.cat([1 - a * (1 - self.terminal) / a[-1], times[-1:]])


def flow_of(scheduler: Mapping[str, Any], num_patches: int) -> Flow:
    """The path of a scheduler_config.json for a picture of ``num_patches`` patches, the tokens of the transformer."""
    shift = scheduler.get("shift", 1.0)
    if scheduler.get("use_dynamic_shifting"):
        shift = dynamic_shift(scheduler, num_patches)
    terminal = scheduler.get("shift_terminal")
    return StretchedFlow(shift, terminal) if terminal else Flow(shift)


def dynamic_shift(scheduler: Mapping[str, Any], num_patches: int) -> float:
    """A line through two sizes, whose exponential is the shift where ``time_shift_type`` is 'exponential'."""
    base, most = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    base_mu, most_mu = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = base_mu + (most_mu - base_mu) * (num_patches - base) / (most - base)
    return mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)
