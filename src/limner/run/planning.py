"""``limner plan``: what a run will need, before it: memory counted, time and energy from a probe of ten steps.

Memory is counted with no weights loaded, so that a model far too large for the machine can be planned as well. On a CPU
it is that of the whole process: what Python and the libraries hold is measured and added.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from limner.config import MethodConfig, read_yaml
from limner.errors import DataError
from limner.priors.folder import DTYPES
from limner.run import weighing
from limner.run.fitting import Fit, cheapest
from limner.run.job import device, load_prior, resolve
from limner.run.probing import Probe, probe, timed
from limner.run.weighing import Amount
from limner.train import checkpoint
from limner.train.cost import total
from limner.train.forecast import Forecast

# Of free memory; counting leaves out gaps between what is held and, on a CPU, what kernels use within themselves.
USABLE, USABLE_CPU = 0.95, 0.75
SIDE = 1024  # of the matrices whose product says how fast the machine is


@dataclass(frozen=True)
class Plan:
    """What a run will need, in bytes and seconds.

    counted: memory, by part and by phase. libraries: what the process holds besides, on a CPU. cached: pictures and
    captions, encoded, which are read through the memory map and can be given back. free: what the run may take. data:
    how much of it there is; None where it cannot be read, and ``why`` says so. probe: what ten steps measured; None
    where none were taken. rate: operations a second of one large matrix product. before_s: until the process was ready.
    """

    config: MethodConfig
    device: torch.device
    counted: Forecast
    libraries: int
    cached: int
    free: int
    data: Amount | None
    probe: Probe | None
    rate: float
    before_s: float
    why: str = ""

    @property
    def phase(self) -> str:
        """The phase of the run that holds the most."""
        return max(self.counted.peaks, key=self.counted.peaks.__getitem__)

    def parts(self) -> dict[str, int]:
        """What is held at the worst moment, by what it is."""
        learned, learning = self.counted.learned, self.phase == "learning"
        named = {
            "libraries": self.libraries,
            "weights": self.counted.weights,
            "average": learned,
            "optimiser": 2 * learned,
            "gradients": self.counted.gradients if learning else 0,
        }
        if self.phase == "encoding":
            named |= {"average": 0, "optimiser": 0, "encoders": self.counted.parts}
        rest = self.needed - sum(named.values())
        return {**named, "activations" if learning else self.phase: rest, "cached pictures": self.cached}

    @property
    def needed(self) -> int:
        """Most memory held at once, by counting, without what can be given back."""
        return self.counted.peaks[self.phase] + self.libraries

    @property
    def peak(self) -> int:
        """Most memory held at once: what the probe held, or what was counted of a phase that it did not reach."""
        if self.probe is None:
            return self.needed + self.cached
        unread = 1 - self.probe.num_read / max(1, self.probe.num_train)
        return max(self.probe.peak, self.counted.peaks["saving"] + self.libraries) + int(unread * self.cached)

    @property
    def fits(self) -> bool:
        return max(self.needed, self.peak - self.cached) <= self.free

    @property
    def looks(self) -> dict[str, int]:
        """How often the run draws a sample grid, scores and saves itself."""
        config = self.config
        due = {
            every: _due(config.steps, every)
            for every in (config.sample_every, config.evaluate_every, config.save_every)
        }
        saves = due[config.save_every] | due[config.evaluate_every]
        return {
            "grids": 1 + len(due[config.sample_every]),
            "scores": len(due[config.evaluate_every]),
            "checkpoints": len(saves),
        }

    def seconds(self) -> dict[str, float]:
        """How long what takes; empty without a probe."""
        if self.probe is None:
            return {}
        seen, data, looks = self.probe, self.data or Amount(0, 0, 0), self.looks
        size = 4 * self.counted.learned  # with the average and the optimiser's two moments
        return {
            "start": self.before_s + seen.start_s,
            "pictures": seen.picture_s * (data.train + data.held_out - seen.num_read),
            "steps": self._over_stages(seen.step_s),
            "grids": seen.draw_s * looks["grids"],
            "scores": seen.score_s * looks["scores"],
            "checkpoints": seen.byte_s * size * looks["checkpoints"],
        }

    @property
    def floor_s(self) -> float:
        """What the steps take at least: their operations at the rate of one large matrix product."""
        return self._over_stages(self.counted.flops) / self.rate

    def _over_stages(self, a_step: Mapping[int, float]) -> float:
        """The sum over all steps of what a step of each stage takes."""
        return sum(
            a_step[first] * (last - first) for first, last in itertools.pairwise([*sorted(a_step), self.config.steps])
        )

    def energy(self) -> tuple[float, float]:
        """(kWh, kg of CO2e); zeros without a probe."""
        if self.probe is None:
            return 0.0, 0.0
        kwh = sum(self.seconds().values()) * self.probe.watts / 3.6e6
        return kwh, kwh * self.probe.kg_co2e_per_kwh


def plan(config: MethodConfig, probing: bool = True, memory: int | None = None, before_s: float = 0.0) -> Plan:
    """Count what a run holds and, where that fits, take ten steps of it.

    Args:
        config: of the run.
        probing: whether to take the steps.
        memory: bytes of another machine's; None: what is free on this one.
        before_s: seconds until this process was ready, which the run's own takes too.

    Raises:
        LimnerError: what training would refuse of the configuration.
    """
    on, why, data = device(), "", None
    prior, prior_s = timed(lambda: load_prior(config, meta=True))
    try:
        data = weighing.amount(config, prior.image_px, prior.multiple_px)
    except DataError as error:
        why = f"{error} So pictures are not counted."
    counted = weighing.weigh(config, on)
    libraries, libraries_s = timed(weighing.libraries)
    here = int(weighing.free(on) * (USABLE if on.type != "cpu" else USABLE_CPU))
    found = Plan(
        config=config,
        device=on,
        counted=counted,
        libraries=libraries if on.type == "cpu" else 0,
        cached=weighing.cached(config, counted, data) if data and on.type == "cpu" else 0,
        free=here if memory is None else memory,
        data=data,
        probe=None,
        rate=_rate(on, DTYPES[config.precision]),
        before_s=before_s + prior_s + libraries_s,  # what the run imports, too
        why=why,
    )
    if not probing or data is None:
        return found
    if found.needed > here:
        return replace(found, why="It was not tried: this machine has too little memory.")
    return replace(found, probe=probe(config, on))


def mend(found: Plan, tell: Callable[[str], None] = lambda _: None) -> tuple[Fit | None, Fit | None]:
    """(the cheapest changes that make a run fit, those with which it needs least); ``tell`` hears what is tried."""
    return cheapest(found.config, found.device, found.free, found.libraries, tell)


def measured(config: MethodConfig) -> dict[str, float] | None:
    """{peak_mb, seconds, kwh} of the training in the run folder, if it is of this configuration and done."""
    folder = config.out
    if folder is None or not (folder / "config.yaml").is_file():
        return None
    values = read_yaml(folder / "config.yaml")
    before, now = resolve(values.pop("method", ""), values).model_dump(), config.model_dump()
    done = checkpoint.all_of(folder / "checkpoints")
    same = all(before.get(key) == value for key, value in now.items() if key != "out")
    if not (same and done and done[-1] == checkpoint.at(folder / "checkpoints", config.steps)):
        return None
    return total(folder / "energy.jsonl", "train")


def _due(steps: int, every: int) -> set[int]:
    """The steps after which something is due, the last among them."""
    return {*range(every, steps + 1, every), steps}


def _rate(on: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product."""
    a, b = torch.rand(2, SIDE, SIDE, device=on, dtype=dtype)
    times_s = []
    for _ in range(5):
        start = time.monotonic()
        _ = (a @ b).sum().item()
        times_s.append(time.monotonic() - start)
    return 2 * SIDE**3 / statistics.median(times_s)
