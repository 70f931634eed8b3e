"""What the programs of this recipe that train have in common: a clock, a step, an average of the weights."""

import copy
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STORE_SECONDS = 300


class State:
    """What a training needs to go on: its parts (models, averages, optimisers), and the progress it has made.

    It is stored every few minutes, and when somebody asks the program to stop: Ctrl-C, or a polite kill.
    """

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts = path, parts
        self.progress: dict[str, float] = {"steps": 0, "pictures": 0, "seconds": 0.0}
        self.stored = self.told = time.time()
        self.asked_to_stop = False

    def heed_signals(self) -> None:
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked_to_stop = True

    def restore(self) -> None:
        """Puts back what was stored, if there is something."""
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.progress = state["progress"]

    def store(self) -> None:
        """In one move: a kill or a power cut leaves the state of before or this one, whole."""
        new = self.path.with_suffix(".new")
        with new.open("wb") as file:
            torch.save(
                {name: part.state_dict() for name, part in self.parts.items()} | {"progress": self.progress}, file
            )
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        self.stored = time.time()

    def due(self, minutes: float) -> bool:
        """Whether it is time for a line about the progress, which comes so often."""
        if time.time() - self.told < 60 * minutes:
            return False
        self.told = time.time()
        return True

    def keep(self) -> None:
        """Once a step: stores if it is time, or if somebody asked to stop, which it then does."""
        if self.asked_to_stop or time.time() - self.stored > STORE_SECONDS:
            self.store()
        if self.asked_to_stop:
            raise SystemExit(f"stopped after {self.progress['steps']} steps; the same command goes on")


def by_the_clock(
    optimiser, rate: float, minutes: float, warm_up_steps: int, state: State | None = None
) -> Iterator[float]:
    """The share of the time that is done, once a step; sets the learning rate: warm-up, then a cosine to zero.

    With a state it goes on where that one is, and stores it now and then.
    """
    progress = state.progress if state else {"steps": 0, "seconds": 0.0}
    if state:
        state.heed_signals()
    start = time.time() - progress["seconds"]
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (progress["steps"] + 1) / warm_up_steps) * 0.5 * (1 + math.cos(math.pi * done))
        yield done
        progress["steps"] += 1
        progress["seconds"] = time.time() - start
        if state:
            state.keep()


def step(optimiser, loss: Tensor) -> None:
    """One step down from the loss."""
    loss.backward()
    update(optimiser)


def update(optimiser) -> None:
    """One step along the gradients that were gathered, together of at most unit length; forgets them."""
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    optimiser.zero_grad()


def autocast(device: str | torch.device) -> torch.autocast:
    """Passes in 16 bit on a GPU; a CPU computes in 32, since most of them are slower in 16."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


class Average:
    """The moving average of a model's weights; `model` is a model like the other."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """After so many steps. The average is short at first, so that random weights are soon forgotten."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
