"""The averaged weights."""

from __future__ import annotations

import torch

from limner.train.ema import Ema


def test_the_average_rises_to_its_decay() -> None:
    weight = torch.zeros(3)
    ema = Ema([weight], 0.5)
    wanted = 0.0
    for step in range(1, 20):
        weight.fill_(float(step))
        ema.update()
        decay = min(0.5, step / (9 + step))
        wanted = decay * wanted + (1 - decay) * step
        torch.testing.assert_close(ema.average[0], torch.full((3,), wanted))
    with ema.swapped():
        torch.testing.assert_close(weight, torch.full((3,), wanted))
    assert torch.equal(weight, torch.full((3,), 19.0))


def test_without_decay_it_is_the_live_weights_without_a_copy() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([weight], 0.0)
    weight.data = torch.ones(3)  # as a move to another device does
    ema.update()
    assert ema.average[0] is weight
    with ema.swapped():
        assert torch.equal(weight, torch.ones(3))
    ema.hand_over()
    assert torch.equal(weight, torch.ones(3))
    assert ema.num_updates == 0
