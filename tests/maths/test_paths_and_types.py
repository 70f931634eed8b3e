"""The theory's inverses on every path, the condition's row operations, and the dice's promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampler import PATHS, normal

from limner.types import Cond, Dice


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.floats(0.002, 0.998), min_size=3, max_size=3))
def test_split_inverts_target(path, times):
    t = torch.tensor(times, dtype=torch.float64)
    x_0, eps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    x_0_again, eps_again = path.split(path.mix(x_0, eps, t), path.target(x_0, eps, t), t)
    torch.testing.assert_close(x_0_again, x_0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(eps_again, eps, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_ends_and_the_way_between(path):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    a, s = path.a(t), path.s(t)
    assert a[0] == 1
    assert s[0] == 0
    assert (a.diff() < 0).all()
    assert (s.diff() > 0).all()
    times = path.times(9)
    assert times.dtype == torch.float64
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@settings(max_examples=25, deadline=None)
@given(number=st.floats(0, 1, width=32))
def test_training_times_are_in_range_and_rise(path, number):
    least, t, most = path.draw_t(torch.tensor([0.0, number, 1.0]))
    assert 0 < least <= t <= most <= 1


def cond(value: float, rows: int = 2) -> Cond:
    return Cond(torch.full((rows, 3, 4), value), None, torch.full((rows, 1, 2, 2), value))


def test_cond_rows():
    both = Cond.cat([cond(1.0), cond(2.0)])
    assert len(both) == 4
    assert both.pooled_BD is None
    assert both.tokens_BLD[:, 0, 0].tolist() == [1, 1, 2, 2]
    assert len(cond(3.0, rows=1).expand(5)) == 5
    mixed = cond(1.0).where(torch.tensor([True, False]), cond(2.0))
    assert mixed.tokens_BLD[:, 0, 0].tolist() == [1, 2]
    assert mixed.channels_BCHW[:, 0, 0, 0].tolist() == [1, 2]
    assert cond(1.0).with_channels(torch.zeros(2, 1, 2, 2)).channels_BCHW.sum() == 0


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 7), seed=st.integers(0, 2**40), at=st.integers(0, 10**6))
def test_dice_do_not_care_how_a_batch_is_cut(cut, seed, at):
    whole = Dice(seed, at, range(8))
    parts = [Dice(seed, at, range(cut)), Dice(seed, at, range(cut, 8))]
    for draw in (lambda dice: dice.normal(2, 3), lambda dice: dice.uniform(), lambda dice: dice.normal(4)):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))


def test_dice_differ_by_seed_step_and_picture():
    draws = [Dice(seed, at, [i]).normal(4) for seed in (0, 1) for at in (0, 1) for i in (0, 1)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 8
