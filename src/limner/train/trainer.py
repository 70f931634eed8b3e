"""The loop: one thought for every method.

    for update in method.step(batch):
        backward into the weights it names, and into no others; clip, step, average

With ``accumulate``, the k-th updates of all micro-batches are summed before they are applied, as for one large batch.
It knows ``Update`` and no method. On several processes the gradients are averaged just before they are applied, rather
than by wrapping modules, because methods call parts of modules, several of them, any number of times. State is saved
only between whole steps, and what a step draws at random depends on its number alone (``Dice``), so a resumed run is
the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from limner.config import MethodConfig
from limner.errors import RunError, TrainingError
from limner.methods.base import Method
from limner.train import checkpoint, progress
from limner.train.log import Log
from limner.train.optim import Learner, hand_over
from limner.types import Batch, Update

# On an accelerator, reading a loss waits for the device: do it once in so many steps. On a CPU it costs nothing.
STEPS_BETWEEN_READS = 10


class Trainer:
    """Trains a method in a run folder; the same call again goes on from the last checkpoint.

    Args:
        method: what to lower.
        config: of the run.
        folder: of the run.
        batches: (first step, last step) -> its micro-batches in order, ``accumulate`` a step.
        score, sample: called with the number of steps done and the averaged weights in place: the ``score`` (higher is
            better) of the first chooses the best checkpoint, the second writes a grid of pictures.
        accelerator: device, precision, processes, trackers.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        folder: Path,
        batches: Callable[[int, int], Iterator[Batch]],
        score: Callable[[int], dict[str, float]],
        sample: Callable[[int], None],
        accelerator: Accelerator,
    ) -> None:
        self.method, self.config, self.accelerator = method, config, accelerator
        self.batches, self.score, self.sample = batches, score, sample
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        learns = method.learns().items()
        self.learners = {name: Learner(module, method.learning_rate(name), config) for name, module in learns}
        self.step = self.saved_step = 0
        self.pictures_per_step = config.batch_size * config.accumulate * accelerator.num_processes
        self.best: dict[str, float] | None = None
        self._stop_asked = False
        self._unread: list[tuple[int, dict[str, Tensor | float]]] = []

    def run(self) -> None:
        """Train to the last step.

        Raises:
            TrainingError: a loss or gradient is not finite; names the step and the last good checkpoint.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after saving.
        """
        self.resume()
        main = self.accelerator.is_main_process
        self._log = Log(self.folder / "log.jsonl", self.step) if main else None
        bar = progress.bar("training", self.config.steps, self.step, self.pictures_per_step, main)
        with progress.on_stop(self._ask_to_stop), bar as advance:
            self._loop(advance)

    def _loop(self, advance: Callable[[int], None]) -> None:
        if self.step == 0:
            self._on_main(lambda: self.sample(0))
        micro_batches = self.batches(self.step, self.config.steps)
        read_every = 1 if self.accelerator.device.type == "cpu" else STEPS_BETWEEN_READS
        ended = self._anyone(self._stale)
        while self.step < self.config.steps and not ended:
            if self.step in self.method.hand_over_at:
                hand_over(self.learners.values())
            self._one_step(micro_batches)
            self.step += 1
            advance(self.step)
            every = self.config.evaluate_every, self.config.sample_every, self.config.save_every
            score, look, save = map(self._due, every)
            if not (score or look or save or self.step % read_every == 0):
                continue
            self._read()
            stop = self._anyone(self._stop_asked)
            if look:
                self._on_main(lambda: self.sample(self.step))
            if score:
                self._on_main(self._score)
                ended = self._anyone(self._stale)
            if save or score or stop:
                self.save()
            if stop and self.step < self.config.steps:
                raise KeyboardInterrupt

    @property
    def _stale(self) -> bool:
        """Whether the last ``patience`` scores, all since the last hand-over, were no better than the best."""
        most, best = self.config.patience * self.config.evaluate_every, self.best
        scores = self.accelerator.is_main_process  # the others' best is that of the last resume
        return scores and best is not None and 0 < most <= self.step - max([best["step"], *self.method.hand_over_at])

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _one_step(self, micro_batches: Iterator[Batch]) -> None:
        # Methods draw from batch.dice; this covers what a library draws on its own (a dropout inside a network).
        torch.manual_seed((self.config.seed << 32) + (self.step << 8) + self.accelerator.process_index)
        start = time.monotonic()
        row: dict[str, Tensor | float] = {}
        streams = [self.method.step(next(micro_batches)) for _ in range(self.config.accumulate)]
        while lowered := [names for stream in streams if (names := self._lower(stream, row))]:
            if len(lowered) < len(streams) or len(set(lowered)) > 1:
                said = f"the micro-batches of step {self.step + 1} do not yield the same updates."
                raise RunError(said, "a method must yield the same names in the same order for every batch of a step")
            for name in lowered[0]:
                self._average_gradients(self.learners[name])
                row[f"learning_rate/{name}"] = rate = self.learners[name].rate(self.method.progress(self.step))
                row[f"gradient_norm/{name}"] = self.learners[name].apply(rate)
        row["seconds"] = time.monotonic() - start
        self._unread.append((self.step + 1, row))

    def _lower(self, updates: Iterator[Update], row: dict[str, Tensor | float]) -> tuple[str, ...]:
        """Backward from the next update, at once, so that one micro-batch's graph is held; its names, () at the end."""
        with self.method.prior.computing():
            update = next(updates, None)
        if update is not None:
            self._backward(update, row)
        return update.names if update else ()

    def _backward(self, update: Update, row: dict[str, Tensor | float]) -> None:
        weights = [weight for name in update.names for weight in self.learners[name].weights]
        self.accelerator.backward(update.loss / self.config.accumulate, inputs=weights)
        label = "loss/" + "+".join(update.names)
        row[label] = row.get(label, 0.0) + update.loss.detach() / self.config.accumulate
        row.update(update.log)

    def _average_gradients(self, learner: Learner) -> None:
        if self.accelerator.num_processes == 1:
            return
        for weight in learner.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in learner.weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = (flat / self.accelerator.num_processes).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            # Into the gradient's own memory: AdamW's fused step takes it to be laid out as the weight is.
            gradient.copy_(part.view_as(gradient))

    def _read(self) -> None:
        """Bring the numbers of the last steps to the log, and stop if one is not finite."""
        rows = [(step, {key: float(value) for key, value in row.items()}) for step, row in self._unread]
        self._unread = []
        for step, row in rows:
            if bad := [key for key, value in row.items() if not math.isfinite(value)]:
                good = checkpoint.all_of(self.checkpoints)
                kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint had been written yet"
                raise TrainingError(
                    f"{bad[0]} is not finite at step {step}; {kept}.",
                    "lower learning_rate and choose another --out, or look for a damaged picture",
                )
            self._write_log(step, row)

    def _write_log(self, step: int, row: dict[str, float]) -> None:
        if self._log is not None:
            self._log.write(step, row)
            self.accelerator.log(row, step=step)

    def _ask_to_stop(self) -> None:
        self._stop_asked = True

    def _anyone(self, asked: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return asked
        torch.distributed.all_reduce(flag := torch.tensor(int(asked), device=self.accelerator.device))
        return bool(flag)

    def _on_main(self, look: Callable[[], None]) -> None:
        """Call it on the main process with the averaged weights in place; the others wait."""
        if self.accelerator.is_main_process:
            with torch.no_grad(), ExitStack() as averaged:
                for learner in self.learners.values():
                    averaged.enter_context(learner.ema.swapped())
                look()
        self.accelerator.wait_for_everyone()

    def _score(self) -> None:
        with self.method.prior.computing():
            scores = self.score(self.step)
        if self.best is None or scores["score"] > self.best["score"]:
            self.best = {"step": self.step, "score": scores["score"]}
        self._write_log(self.step, {f"validation/{key}": value for key, value in scores.items()})

    def save(self) -> None:
        """Write a checkpoint of this moment, and drop those no longer kept.

        Raises:
            RunError: the disk is full or the folder cannot be written; the checkpoint before it is whole.
        """
        if self.accelerator.is_main_process:
            tensors = {name: learner.tensors() for name, learner in self.learners.items()}
            files = {file: {name: own[file] for name, own in tensors.items()} for file in checkpoint.FILES}
            counters = {name: learner.counters() for name, learner in self.learners.items()}
            state = {"best": self.best, "pictures_per_step": self.pictures_per_step, "learners": counters}
            try:
                checkpoint.write(self.checkpoints, self.step, files, state)
            except OSError as error:
                raise RunError(
                    f"{self.checkpoints} cannot be written: {error}.", "free some disk, then go on"
                ) from error
            checkpoint.prune(self.checkpoints, self.config.keep, int(self.best["step"]) if self.best else None)
        self.saved_step = self.step
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one.

        Raises:
            RunError: it is damaged, or was made by another number of processes, whose batches were others.
        """
        done = checkpoint.all_of(self.checkpoints)
        if not done:
            return
        files, state = checkpoint.read(done[-1])
        if state["pictures_per_step"] != self.pictures_per_step:
            said = f"{self.folder} has had {state['pictures_per_step']} pictures a step, not {self.pictures_per_step}."
            raise RunError(said, "go on with the same number of processes")
        self.step = self.saved_step = state["step"]
        self.best = checkpoint.best(self.checkpoints, state)
        for name, learner in self.learners.items():
            learner.restore({file: some.get(name, {}) for file, some in files.items()}, state["learners"][name])
