"""Memory that is counted is memory that is held: hand-made sums, real steps, every family, what saves memory."""

from __future__ import annotations

import functools
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny import ground_folder
from tiny_families import FAMILIES, family_folder
from torch import Tensor, nn

from limner import run
from limner.config import MethodConfig
from limner.data.load import Schedule, batches
from limner.priors import placing
from limner.run import weighing
from limner.run.fitting import Fit, cheapest
from limner.train.counting import Count, weightless
from limner.train.forecast import Forecast
from limner.train.trainer import Trainer

CPU = torch.device("cpu")
KB = 1024


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ground_folder(tmp_path_factory.mktemp("ground"), "v")


def configure(ground: Path, method: str = "finetune", **more: Any) -> MethodConfig:
    values = {"prior": str(ground / "prior"), "data": str(ground / "data"), "out": str(ground / "run"), **more}
    return run.resolve(method, {"steps": 20, "batch_size": 4, "flip": False, **values})


def count(ground: Path, method: str = "finetune", **more: Any) -> Forecast:
    return weighing.weigh(configure(ground, method, **more), CPU)


def test_what_is_let_go_of_is_not_counted_on() -> None:
    with Count(CPU) as held:
        a = torch.ones(256, 256, 4)  # 1 MB
        b = a + 1
        assert held.now == 2 * KB * KB
        c = b.view(-1)[: 10 * KB]  # no memory of its own
        del b
        assert held.now == 2 * KB * KB
        del c
        assert held.now == KB * KB
        del a
        assert held.now == 0
        assert held.peak_since() == 2 * KB * KB


def test_a_step_of_a_known_network() -> None:
    """Two linear layers: what is held before the backward pass, and the weights and gradients after it."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(512, 512, bias=False), nn.GELU(), nn.Linear(512, 512, bias=False))
    with Count(CPU) as held:
        weightless(held, network)
        assert held.now == 2 * 512 * 512 * 4
        x_BD = torch.zeros(1024, 512)
        before = held.now
        loss = network(x_BD).square().sum()
        kept = 3 * x_BD.nbytes  # the input of gelu and of the second layer; of the square
        assert held.now - before == kept + loss.nbytes
        loss.backward()
        assert [weight.grad.nbytes for weight in network.parameters() if weight.grad is not None] == [512 * 512 * 4] * 2


def test_masks_have_contents_and_choose_as_many_as_they_do() -> None:
    with Count(CPU) as held:
        weight = held.empty(torch.empty(8, 1000))
        mask = torch.tensor([True, False, True])
        assert int(mask.sum()) == 2
        assert (torch.zeros(3, 1000) @ weight.T)[mask].shape == (2, 8)


class Real(Count):
    """Counts what is really there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return out


@pytest.mark.parametrize(
    "more", [{}, {"adapter": "lora", "rank": 4}, {"accumulate": 2}, {"gradient_checkpointing": True}], ids=str
)
@pytest.mark.parametrize("method", ["finetune", "concat"])
def test_counted_is_what_a_real_trainer_holds(ground: Path, method: str, more: dict[str, Any]) -> None:
    config = configure(ground, method, batch_size=16, **more)
    counted = weighing.weigh(config, CPU)
    job = run.build(config, CPU)
    list(job.train.encode_all())
    _ = job.method.null
    make = functools.partial(batches, job.train, Schedule(config.batch_size, config.accumulate))
    with Real(CPU) as held:
        for module in job.method.learns().values():
            for weight in [*module.parameters(), *module.buffers()]:
                held._see(weight)
        assert held.now == counted.weights
        trainer = Trainer(job.method, config, ground, make, dict, print, Accelerator(cpu=True))
        micro_batches = make(0, 2)
        for trainer.step in range(2):
            trainer._one_step(micro_batches)
        # Some operations are counted as the several that they could be made of.
        assert 0.95 < counted.peaks["learning"] / held.peak < 1.12


def test_what_spares_memory_is_counted_to_spare_it(ground: Path) -> None:
    plain = count(ground, batch_size=16)
    assert plain.learned == plain.weights
    learning = plain.peaks["learning"]
    resident = 4 * plain.weights  # with the average and two moments

    again = count(ground, batch_size=16, gradient_checkpointing=True)
    assert again.peaks["learning"] - resident < 0.8 * (learning - resident)
    assert again.flops[0] > 1.2 * plain.flops[0]

    half = count(ground, batch_size=8, accumulate=2)
    assert half.flops == plain.flops
    gradients = plain.learned  # of the first half, while the second is computed
    assert half.peaks["learning"] - resident < 0.6 * (learning - resident) + gradients
    assert count(ground, batch_size=8, accumulate=16).peaks == half.peaks

    lora = count(ground, batch_size=16, adapter="lora", rank=2)
    assert lora.weights - lora.learned == plain.weights
    assert lora.peaks["learning"] - lora.weights - 3 * lora.learned <= learning - resident

    bf16 = count(ground, batch_size=16, adapter="lora", rank=2, precision="bf16", base_precision="bf16")
    assert bf16.weights - bf16.learned == plain.weights // 2
    assert bf16.peaks["learning"] < 0.8 * lora.peaks["learning"]

    int8, nf4 = (count(ground, adapter="lora", rank=2, base_precision=held) for held in ("int8", "nf4"))
    assert nf4.weights < int8.weights < lora.weights


def test_each_stage_is_counted(ground: Path) -> None:
    more = {"encoder_steps": 5, "token_grid": 4, "encoder_layers": 1}
    counted = count(ground, "piti", **more)
    assert sorted(counted.flops) == [0, 5]
    assert counted.flops[0] < counted.flops[5]  # the network's own weights learn only then


# Z-Image is counted too, but torch warns on the way (a gradient that is asked for where none is kept).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted_with_no_weights_loaded(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = family_folder(tmp_path / family, family)
    sizes = {part.name: sum(f.stat().st_size for f in part.glob("*.safetensors")) for part in folder.iterdir()}
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"")
    config = run.resolve("finetune", {"prior": str(folder), "adapter": "lora", "rank": 2, "batch_size": 1})
    counted = weighing.weigh(config, CPU)
    # Qwen-Image holds tables of its rotary embedding beside its weights, which no file has.
    modules = run.load_prior(config, meta=True).network.modules()
    tables = {id(table): table.nbytes for part in modules for table in vars(part).values() if isinstance(table, Tensor)}
    network = sizes.get("transformer") or sizes["unet"]
    expected = network + sum(tables.values())
    assert counted.weights - counted.learned == pytest.approx(expected, rel=0.1)  # files have headers
    assert 0 < counted.peaks["learning"] < 1e9
    assert counted.parts > 0


def test_blocks_that_visit_the_accelerator_are_not_held_there(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is counted on an accelerator; here the CPU stands for one."""
    more = {"adapter": "lora", "rank": 2}
    plain = count(ground, **more)
    network = run.load_prior(configure(ground, **more), meta=True).network
    monkeypatch.setattr("limner.priors.placing.idle", lambda config, device: "")
    offloaded = count(ground, **more, offload=True)
    inside = [weight for block in placing.blocks_of(network) for weight in block.parameters()]
    assert plain.weights - offloaded.weights == sum(weight.nbytes for weight in inside)
    assert offloaded.peaks["learning"] < plain.peaks["learning"]


def test_the_cheapest_change_is_the_first_that_fits(ground: Path) -> None:
    config = configure(ground, batch_size=16, accumulate=2)

    def needed(**more: Any) -> int:
        values = config.model_dump(exclude={"method"}) | more
        return max(weighing.weigh(run.resolve("finetune", values), CPU).peaks.values())

    def fit(room: int) -> Fit | None:
        return cheapest(config, CPU, room, 0)[0]

    first = fit(needed() - 1)
    assert first is not None
    assert first.changes == {"batch_size": 8, "accumulate": 4}  # as many pictures a step
    assert first.flags() == "--batch-size 8 --accumulate 4"
    assert first.needed == needed(**first.changes)

    least = needed(batch_size=1, accumulate=32, gradient_checkpointing=True)
    last = fit(least)
    assert last is not None
    assert last.changes == {"gradient_checkpointing": True, "batch_size": 1, "accumulate": 32}
    other = fit(least - 1)
    assert other is not None
    assert other.changes["adapter"] == "lora"

    none, smallest = cheapest(config, CPU, 1, 0)
    assert none is None
    assert smallest is not None
    assert smallest.needed < least


def test_accumulated_micro_batches_hold_one_graph_at_a_time(ground: Path) -> None:
    peaks = []
    for accumulate in (1, 4):
        config = configure(ground, batch_size=2, accumulate=accumulate)
        job = run.build(config, CPU)
        make = functools.partial(batches, job.train, Schedule(2, accumulate))
        trainer = Trainer(job.method, config, ground, make, dict, print, Accelerator(cpu=True))
        saved: dict[int, int] = {}
        most = 0

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            nonlocal most
            token = tensor.detach()
            saved[id(token)] = tensor.nbytes
            weakref.finalize(token, saved.pop, id(token), None)
            most = max(most, sum(saved.values()))
            return token

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda token: token):
            trainer._one_step(make(0, 1))
        peaks.append(most)
    assert peaks[1] < 1.5 * peaks[0]
