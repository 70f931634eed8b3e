"""The score at the ends of its own scale."""

import json

import pytest
import torch

from limner.errors import DataError
from limner.evaluate.translation import reference, score


def shapes(num: int, filled: bool) -> torch.Tensor:
    """Boxes of different place and size: coloured and filled, or their black outlines."""
    pictures = torch.full((num, 3, 64, 64), 255, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        top, left, height, width = 4 + 3 * (i % 5), 4 + 4 * (i % 7), 16 + 3 * (i % 6), 16 + 2 * (i % 9)
        picture[:, top : top + height, left : left + width] = 0
        if filled:
            picture[i % 3, top : top + height, left : left + width] = 90 + 5 * i
        else:
            picture[:, top + 2 : top + height - 2, left + 2 : left + width - 2] = 255
    return pictures


def test_the_truth_is_at_the_ceiling(embed):
    sketch, truth = shapes(12, filled=False), shapes(12, filled=True)
    found, ends = score(sketch, truth, truth.unsqueeze(1), embed), reference(sketch, truth, embed)
    assert found["edge_f1"] == pytest.approx(ends["ceiling"])
    assert found["faithfulness"] == pytest.approx(1)
    assert found["iou"] == pytest.approx(ends["iou_ceiling"])
    assert found["iou"] > 0.95
    assert found["frechet"] == pytest.approx(0, abs=1e-6)
    assert found["kid"] <= 0
    assert found["diversity"] is None
    assert ends["chance"] < 0.6 * ends["ceiling"]
    assert ends["iou_chance"] < ends["iou_ceiling"]


def test_ignoring_the_sketch_is_chance(embed):
    sketch, truth = shapes(12, filled=False), shapes(12, filled=True)
    others = torch.stack([truth.roll(k, 0) for k in range(1, 12)], dim=1)
    found = score(sketch, truth, others, embed)
    assert found["faithfulness"] == pytest.approx(0, abs=1e-5)
    assert found["iou"] == pytest.approx(reference(sketch, truth, embed)["iou_chance"])
    assert found["diversity"] > 0.01
    low, high = found["edge_f1_interval"]
    assert low < found["edge_f1"] < high


def test_the_score_repeats_and_is_json(embed):
    sketch, truth = shapes(6, filled=False), shapes(6, filled=True)
    samples = truth.unsqueeze(1).repeat(1, 2, 1, 1, 1)
    found = score(sketch, truth, samples, embed, seed=5)
    assert found == score(sketch, truth, samples, embed, seed=5)
    assert json.loads(json.dumps(found, allow_nan=False))["num_samples"] == 2
    assert found["diversity"] == 0


def test_sets_that_do_not_pair_are_refused(embed):
    sketch, truth = shapes(6, filled=False), shapes(6, filled=True)
    with pytest.raises(DataError, match="differ in number"):
        score(sketch, truth[:5], truth.unsqueeze(1), embed)
    with pytest.raises(DataError, match="too few"):
        reference(sketch[:3], truth[:3], embed)


def test_confetti_has_edges_near_any_line_and_no_margin():
    """A picture full of edges scores well against every sketch: its F1 rises, its margin does not."""
    side = 128
    ring, bar = torch.full((2, 1, 3, side, side), 255, dtype=torch.uint8)
    place = torch.arange(side)
    distance = ((place[:, None] - 64).square() + (place[None] - 64).square()).float().sqrt()
    ring[:, :, (distance - 40).abs() < 3] = 0
    bar[:, :, 60:66, 10:118] = 0
    sketch = torch.cat([ring, bar, ring.flip(-1), bar.transpose(-1, -2)])
    confetti = torch.randint(0, 2, (4, 1, 3, side // 8, side // 8), generator=torch.Generator().manual_seed(0))
    confetti = (confetti * 255).to(torch.uint8).repeat_interleave(8, -1).repeat_interleave(8, -2)

    def embed(pictures):
        return pictures.float().flatten(1)[:, ::997] / 255

    embed.name = "pixels"
    own = score(sketch, sketch, sketch[:, None], embed)
    noise = score(sketch, sketch, confetti, embed)
    assert own["edge_margin"] > 0.2
    assert abs(noise["edge_margin"]) < 0.1
