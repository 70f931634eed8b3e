"""Buckets: sizes that the prior can take, and a place for every record."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.data.buckets import Bucket, assign, make
from limner.errors import ConfigError

multiples = st.sampled_from([8, 16, 32, 64])
# In multiples, so that a square is among the buckets.
resolutions = st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True)
sizes = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), max_size=30)


def test_the_known_sizes_of_a_prior_of_1024() -> None:
    assert [(bucket.width_px, bucket.height_px) for bucket in make([1024], 64)] == [
        *[(768, 1344), (832, 1216), (896, 1152), (960, 1088), (1024, 1024)],
        *[(1088, 960), (1152, 896), (1216, 832), (1344, 768)],
    ]


@given(resolutions, multiples, st.floats(1, 4))
def test_sides_are_multiples_and_areas_bounded(counts: list[int], multiple_px: int, max_aspect: float) -> None:
    limits = [count * multiple_px for count in counts]
    buckets = make(limits, multiple_px, max_aspect)
    assert len(buckets) == len(set(buckets))
    for limit in limits:
        assert Bucket(limit, limit) in buckets
    for bucket in buckets:
        long, short = max(bucket.width_px, bucket.height_px), min(bucket.width_px, bucket.height_px)
        assert long % multiple_px == short % multiple_px == 0
        assert long <= max_aspect * short
        assert any(long * short <= limit**2 for limit in limits)
        assert Bucket(bucket.height_px, bucket.width_px) in buckets


@given(resolutions, multiples, st.booleans(), sizes)
def test_every_record_has_a_bucket(counts: list[int], multiple_px: int, square: bool, found: list[tuple]) -> None:
    limits = [count * multiple_px for count in counts]
    buckets = [Bucket(limit, limit) for limit in limits] if square else make(limits, multiple_px)
    sizes_N2 = np.array(found).reshape(-1, 2)
    table = assign(sizes_N2, buckets, limits)
    assert [bucket for bucket, _ in table.groups] == buckets
    times = np.bincount(np.concatenate([numbers for _, numbers in table.groups]), minlength=len(found))
    assert (times >= 1).all()
    assert (times <= len(limits)).all()
    assert ((table.cut_N >= -1e-9) & (table.cut_N < 1)).all()
    for bucket, numbers in table.groups:
        assert (np.diff(numbers) > 0).all()
        for number in numbers:
            width, height = sizes_N2[number]
            scale = max(bucket.width_px / width, bucket.height_px / height)
            smallest = bucket.width_px * bucket.height_px <= min(limits) ** 2
            assert scale <= 1 or smallest
            if smallest:
                assert table.enlarged_N[number] == pytest.approx(scale)
            cut = 1 - bucket.width_px * bucket.height_px / (width * height * scale**2)
            assert cut <= table.cut_N[number] + 1e-9
            # No other bucket of this resolution cuts less.
            limit = min(side for side in limits if bucket.width_px * bucket.height_px <= side**2)
            for other in make([limit], multiple_px) if not square else []:
                zoom = max(other.width_px / width, other.height_px / height)
                assert cut <= 1 - other.width_px * other.height_px / (width * height * zoom**2) + 1e-9


def test_what_is_enlarged_or_cut_is_told() -> None:
    table = assign(np.array([[100, 100], [512, 512], [2000, 500], [3000, 2000]]), make([512, 768], 64), [512, 768])
    assert table.enlarged_N[0] == pytest.approx(5.12)
    assert table.enlarged_N[1] == 1
    assert table.extreme.tolist() == [2]
    groups = {(bucket.width_px, bucket.height_px): numbers.tolist() for bucket, numbers in table.groups}
    assert groups[512, 512] == [0, 1]
    assert groups[768, 768] == []
    assert [size for size, numbers in groups.items() if 3 in numbers] == [(640, 384), (896, 640)]


def test_sizes_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="resolution 32 is smaller than 64"):
        make([512, 32], 64)
    with pytest.raises(ConfigError, match="max_aspect"):
        make([512], 64, 0.5)
