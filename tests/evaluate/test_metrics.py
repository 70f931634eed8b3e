"""Each metric against what is known in closed form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.evaluate.metrics import edges, interval, kid, silhouette
from limner.evaluate.metrics.diversity import diversity
from limner.evaluate.metrics.frechet import frechet


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num", "dim"), [(50, 8), (8, 50)])
def test_frechet_of_equal_sets_is_zero_also_with_fewer_pictures_than_dimensions(num, dim):
    x = normal(num, dim)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x[torch.randperm(num)]) == pytest.approx(0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-3, 3), scale=st.floats(0.1, 4), num=st.integers(4, 40))
def test_frechet_of_a_moved_and_stretched_set_is_the_closed_form(shift, scale, num):
    x = normal(num, 10)
    y = scale * (x - x.mean(0)) + x.mean(0) + shift
    wanted = 10 * shift**2 + (1 - scale) ** 2 * float(x.var(dim=0).sum())
    assert frechet(x, y) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert frechet(y, x) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_frechet_equals_the_matrix_square_root():
    from scipy.linalg import sqrtm

    x, y = normal(200, 6), normal(150, 6, seed=1) @ normal(6, 6, seed=2)
    root = sqrtm((torch.cov(x.T) @ torch.cov(y.T)).numpy()).real.trace()
    wanted = (x.mean(0) - y.mean(0)).square().sum() + torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * root
    assert frechet(x, y) == pytest.approx(float(wanted))


def test_kid_is_unbiased_and_sees_a_difference():
    same = [kid.kid(normal(40, 8, seed=2 * i), normal(60, 8, seed=2 * i + 1)) for i in range(100)]
    spread = torch.tensor(same)
    assert abs(spread.mean()) < 3 * spread.std() / 10
    assert kid.kid(normal(40, 8), normal(40, 8, seed=1) + 1) > 10 * spread.std()


def test_kid_is_its_definition():
    x, y = normal(5, 3), normal(4, 3, seed=1)

    def mean(p, q, skip):
        values = [(p[i] @ q[j] / 3 + 1) ** 3 for i in range(len(p)) for j in range(len(q)) if not (skip and i == j)]
        return torch.stack(values).mean()

    assert kid.kid(x, y) == pytest.approx(float(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)))


def test_kid_interval_holds_the_estimate_and_repeats():
    x, y = normal(60, 8), normal(60, 8, seed=1) + 0.5
    low, high = kid.interval(x, y, seed=3)
    assert 0 < low < kid.kid(x, y) < high
    assert kid.interval(x, y, seed=3) == (low, high)


def test_bootstrap_interval_is_that_of_a_mean():
    x = normal(400)
    low, high = interval.interval(x, seed=1)
    assert low == pytest.approx(float(x.mean() - 1.96 * x.std() / 20), abs=0.02)
    assert high == pytest.approx(float(x.mean() + 1.96 * x.std() / 20), abs=0.02)
    assert interval.interval(x, seed=1) == (low, high)
    assert interval.interval(torch.ones(9)) == (1, 1)


def test_diversity_is_the_mean_distance_of_pairs():
    same, apart = normal(1, 1, 6).expand(2, 3, 6), torch.eye(4).view(1, 4, 4) * 2
    assert diversity(same).tolist() == [0, 0]
    assert float(diversity(apart)) == pytest.approx(2**0.5)


def disc(radius: float, side: int = 128, ring: float | None = None, move: int = 0) -> torch.Tensor:
    """Black disc (ring of that width) on white, uint8 (1, 3, side, side)."""
    place = torch.arange(side) - (side - 1) / 2
    away = ((place - move) ** 2 + place.view(-1, 1) ** 2).sqrt()
    ink = (away <= radius) & (away > (radius - ring if ring else -1))
    return torch.where(ink, 0, 255).to(torch.uint8).expand(1, 3, side, side)


def test_edges_of_a_picture_match_themselves():
    found = edges.picture_edges(disc(40))
    assert edges.edge_f1(found, found, 0).tolist() == [1]
    assert edges.edge_f1(found, found).tolist() == [1]


def test_edges_equal_kornias_own_hysteresis():
    from kornia.color import rgb_to_grayscale
    from kornia.filters import canny

    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 12, 12, generator=g)
    picture = (torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    wanted = canny(rgb_to_grayscale(picture.float() / 255), 0.1, 0.2)[1].squeeze(1) > 0
    assert wanted.any()
    assert torch.equal(edges.picture_edges(picture), wanted)


def test_an_edge_on_the_stroke_counts_and_one_beyond_the_tolerance_does_not():
    stroke = edges.sketch_lines(disc(41, ring=2))
    assert float(edges.edge_f1(edges.picture_edges(disc(40)), stroke)) > 0.98
    assert float(edges.edge_f1(edges.picture_edges(disc(30)), stroke)) == 0
    for move, matched in ((1, True), (2, True), (3, False)):
        line = torch.zeros(1, 128, 128, dtype=torch.bool)
        line[:, 20 + move, :] = True
        wanted = torch.zeros(1, 128, 128, dtype=torch.bool)
        wanted[:, 20, :] = True
        assert float(edges.edge_f1(line, wanted, 2.0)) == matched


def test_size_does_not_matter_much():
    stroke = edges.sketch_lines(disc(41, ring=3))
    assert float(edges.edge_f1(edges.picture_edges(disc(20, side=64)), stroke)) > 0.95


def test_nothing_scores_nothing():
    white = torch.full((1, 3, 128, 128), 255, dtype=torch.uint8)
    stroke = edges.sketch_lines(disc(40, ring=2))
    assert edges.edge_f1(edges.picture_edges(white), stroke).tolist() == [0]
    assert edges.edge_f1(edges.picture_edges(disc(40)), edges.sketch_lines(white)).tolist() == [0]
    assert silhouette.iou(silhouette.picture_silhouette(white), silhouette.sketch_silhouette(white)).tolist() == [0]


def test_matrices_hold_the_pairs():
    pictures = torch.cat([disc(30), disc(40), disc(50)])
    strokes = torch.cat([disc(31, ring=2), disc(45, ring=2), disc(51, ring=3)])
    found, lines = edges.picture_edges(pictures), edges.sketch_lines(strokes)
    torch.testing.assert_close(edges.edge_f1_matrix(found, lines).diagonal(), edges.edge_f1(found, lines))
    a, b = silhouette.picture_silhouette(pictures), silhouette.sketch_silhouette(strokes)
    torch.testing.assert_close(silhouette.iou_matrix(a, b).diagonal(), silhouette.iou(a, b))


def test_silhouettes_of_a_disc():
    full, outline = silhouette.picture_silhouette(disc(40)), silhouette.sketch_silhouette(disc(40, ring=3))
    assert torch.equal(full, outline)
    assert float(full.sum()) == pytest.approx(torch.pi * 40**2, rel=0.01)
    smaller = silhouette.picture_silhouette(disc(20))
    assert float(silhouette.iou(smaller, full)) == pytest.approx(0.25, rel=0.03)
