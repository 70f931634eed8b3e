"""Guidance: the identities of all modes, and one call of the network for both halves."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import ConfigError
from limner.sampling.guidance import MODES, guide, guided
from limner.types import Cond

SCALES = st.floats(1.0, 10.0)
SEEDS = st.integers(0, 2**31)


def pair(seed: int, correlation: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    c, other = torch.randn(2, 3, 4, 16, 16, generator=g) * 1.3 + 0.2
    return c, correlation * c + (1 - correlation**2) ** 0.5 * other


def stats(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.mean(dim=(1, 2, 3)), x.std(dim=(1, 2, 3))])


@pytest.mark.parametrize("mode", MODES)
def test_scale_one_is_the_identity(mode):
    c, u = pair(0)
    assert torch.equal(guide(c, u, 1.0, mode), c)


@settings(max_examples=20, deadline=None)
@given(SEEDS, SCALES)
def test_equal_predictions_are_the_identity(seed, scale):
    c, _ = pair(seed)
    for mode in ("off", "measured", "rescale", "tokens"):
        torch.testing.assert_close(guide(c, c, scale, mode), c)


@settings(max_examples=20, deadline=None)
@given(SEEDS, SCALES, st.floats(-0.9, 0.999))
def test_measured_keeps_mean_and_std_of_each_picture(seed, scale, correlation):
    c, u = pair(seed, correlation)
    torch.testing.assert_close(stats(guide(c, u, scale, "measured")), stats(c), rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(SEEDS, SCALES)
def test_rescale_blends_by_phi(seed, scale):
    c, u = pair(seed)
    e = guide(c, u, scale, "off")
    torch.testing.assert_close(guide(c, u, scale, "rescale", phi=0.0), e)
    torch.testing.assert_close(stats(guide(c, u, scale, "rescale", phi=1.0))[1], stats(c)[1], rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(SEEDS, SCALES, st.floats(-0.9, 0.999))
def test_tokens_keep_the_norm_of_each_two_by_two_cells(seed, scale, correlation):
    c, u = pair(seed, correlation)
    e = guide(c, u, scale, "tokens")
    for row, column in ((0, 0), (6, 14)):
        token = slice(None), slice(None), slice(row, row + 2), slice(column, column + 2)
        torch.testing.assert_close(e[token].flatten(1).norm(dim=1), c[token].flatten(1).norm(dim=1))
        plain = guide(c, u, scale)[token].flatten(1)
        assert (torch.cosine_similarity(e[token].flatten(1), plain) > 1 - 1e-5).all()


def test_tokens_need_even_sides():
    c = torch.ones(1, 4, 3, 4)
    with pytest.raises(ConfigError, match="even sides"):
        guide(c, c, 2.0, "tokens")


@pytest.mark.parametrize(("correlation", "std"), [(0.0, 1.0), (0.9, 0.53), (0.99, 0.46)])
def test_the_papers_formula_shrinks_correlated_predictions(correlation, std):
    """Monte-Carlo values at w = 1; this is why 'measured' is the mode to use."""
    g = torch.Generator().manual_seed(0)
    c, other = torch.randn(2, 1, 4, 128, 128, generator=g)
    u = correlation * c + (1 - correlation**2) ** 0.5 * other
    assert abs(float(guide(c, u, 2.0, "independent").std()) - std) < 0.01


def test_a_constant_prediction_stays_finite():
    c = torch.full((2, 3, 4, 4), 0.5)
    for mode in MODES:
        assert torch.isfinite(guide(c, c, 3.0, mode)).all()


def test_unknown_mode_names_the_nearest():
    with pytest.raises(ConfigError) as error:
        guide(*pair(0), 2.0, "measure")
    assert "measured" in error.value.hint


class Counting:
    """What of a prior guidance calls: says the condition's first number, and counts."""

    def __init__(self):
        self.calls: list[int] = []

    def computing(self):
        return nullcontext()

    def predict(self, x_t, t_B, cond):
        assert len(x_t) == len(t_B) == len(cond)
        self.calls.append(len(x_t))
        return x_t * 0 + cond.tokens_BLD[:, :1, :1, None]


def test_both_halves_go_in_one_call():
    prior, x, t = Counting(), torch.zeros(2, 3, 4, 4), torch.ones(2)
    cond, null = Cond(torch.full((2, 5, 6), 3.0)), Cond(torch.full((2, 5, 6), 1.0))
    assert (guided(prior, cond, null, 4.0)(x, t) == 1 + 4 * (3 - 1)).all()
    assert (guided(prior, cond, null, 1.0)(x, t) == 3).all()
    assert prior.calls == [4, 2]
