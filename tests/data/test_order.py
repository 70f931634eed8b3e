"""Every record has its turn: whatever its bucket, the processes, the place where a run was resumed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from limner.data.order import Shuffled, Streamed
from limner.errors import DataError
from limner.types import Sample


@settings(max_examples=40, deadline=None)
@given(sizes=some.lists(some.integers(1, 60), min_size=1, max_size=8), seed=some.integers(0, 99))
def test_groups_have_their_share_and_records_their_turn(sizes: list[int], seed: int) -> None:
    edges = np.cumsum([0, *sizes])
    order = Shuffled([np.arange(a, b) for a, b in itertools.pairwise(edges)], seed)
    num_steps, batch = 600, 4
    turns = Counter(order.group(step) for step in range(num_steps))
    for group, size in enumerate(sizes):
        assert abs(turns[group] - num_steps * size / sum(sizes)) < 6
    seen: Counter[int] = Counter()
    for step in range(num_steps):
        group = order.group(step)
        first = order.turns_before(step) * batch
        numbers = [order.number(group, first + i) for i in range(batch)]
        assert all(edges[group] <= number < edges[group + 1] for number in numbers)
        seen.update(numbers)
    for a, b in itertools.pairwise(edges):
        visits = [seen[number] for number in range(a, b)]
        assert max(visits) - min(visits) <= 1


def test_turns_are_counted_alike_from_any_step() -> None:
    order = Shuffled([np.arange(7), np.arange(7, 10)], 0)
    forward = [order.turns_before(step) for step in range(50)]
    assert [Shuffled([np.arange(7), np.arange(7, 10)], 0).turns_before(step) for step in range(50)] == forward
    assert [order.turns_before(step) for step in reversed(range(50))] == forward[::-1]


class Count:
    """A stream of so many records, in an order that depends on the seed."""

    def __init__(self, num: int) -> None:
        self.num = num

    def samples(self, seed: int) -> Iterator[Sample]:
        for i in np.random.default_rng(seed).permutation(self.num):
            yield Sample(f"key{i:03d}", "caption", Path(f"{i}.png"))


def test_a_resumed_stream_goes_on_where_it_stopped_and_keeps_the_held_out_apart() -> None:
    whole = Streamed(Count(50), seed=3)
    keys = [whole.at(place).key for place in range(60)]
    assert [Streamed(Count(50), 3).at(place).key for place in (25,)] == [keys[25]]
    later = Streamed(Count(50), 3)
    assert [later.at(place).key for place in range(20, 60, 2)] == keys[20::2]  # another process's share is skipped
    held_out = {sample.key for sample in whole.held_out}
    assert len(held_out) == 32 and not held_out & set(keys)
    assert {sample.split for sample in whole.held_out} == {"validation"}  # else a report would refuse them
    assert sorted(keys[:18]) == sorted(keys[18:36])
    assert keys[:18] != keys[18:36]
    other = Streamed(Count(50), 4)
    assert keys[:18] != [other.at(place).key for place in range(18)]


def test_a_stream_is_checked_as_it_comes() -> None:
    shown: list[str] = []
    checked = Streamed(Count(50), 3, lambda sample: shown.append(sample.key))
    assert [checked.at(place).key for place in range(30)] == shown


def test_shuffles_that_are_over_are_let_go() -> None:
    orders = [Shuffled([np.arange(7), np.arange(7, 10)], 0) for _ in range(2)]
    forward = [orders[0].number(1, place) for place in range(60)]
    assert [orders[1].number(1, place) for place in reversed(range(60))] == forward[::-1]
    assert len(orders[0]._shuffles) == 1


def test_a_stream_with_nothing_left_to_train_on_says_so() -> None:
    with pytest.raises(DataError, match="no training pictures"):
        Streamed(Count(20), 0).at(0)
