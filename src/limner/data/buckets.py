"""Sizes of about one area and many shapes, and which picture goes to which, so that little of each is cut off.

Sizes are counted in multiples of what the prior's network needs; a record goes to the bucket nearest to its own shape.
Every record has a bucket, however extreme its shape: what would be cut is told, not dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limner.errors import ConfigError

EXTREME_CUT = 0.25


@dataclass(frozen=True, order=True)
class Bucket:
    """A size of pictures."""

    width_px: int
    height_px: int


@dataclass(frozen=True)
class Table:
    """Which records are in which buckets, and what that does to them.

    groups: each bucket with the numbers of its records, ascending, in the order in which the buckets were given; some
    may be empty. cut_N: the share of each record's pixels that is cut off, in the bucket that cuts most. enlarged_N: by
    how much each record is scaled up in its smallest bucket; at most 1 where it is not.
    """

    groups: list[tuple[Bucket, np.ndarray]]
    cut_N: np.ndarray
    enlarged_N: np.ndarray

    @property
    def extreme(self) -> np.ndarray:
        """Numbers of the records that lose more than a quarter."""
        return np.flatnonzero(self.cut_N > EXTREME_CUT)


def make(resolutions_px: Sequence[int], multiple_px: int, max_aspect: float = 2.0) -> list[Bucket]:
    """For each resolution, all sizes that cannot grow: in multiples, of an area of at most resolution x resolution, the
    longer side at most max_aspect times the shorter.

    Raises:
        ConfigError: a resolution that is smaller than the multiple, or a max_aspect below 1.
    """
    if max_aspect < 1:
        raise ConfigError(f"max_aspect {max_aspect} is below 1.", "1 is square, 2 allows 2:1 and 1:2")
    buckets: list[Bucket] = []
    for resolution_px in sorted(set(resolutions_px)):
        area = resolution_px**2 // multiple_px**2
        if area < 1:
            raise ConfigError(
                f"resolution {resolution_px} is smaller than {multiple_px}.", f"use {multiple_px} or more"
            )
        for width in range(1, area + 1):
            height = area // width
            wider_fits = (width + 1) * height <= area
            if not wider_fits and max(width, height) <= max_aspect * min(width, height):
                buckets.append(Bucket(width * multiple_px, height * multiple_px))
    return buckets


def assign(sizes_N2: np.ndarray, buckets: Sequence[Bucket], resolutions_px: Sequence[int]) -> Table:
    """Every record into the bucket nearest to its shape, of the smallest resolution and of each larger one whose bucket
    it fills without being scaled up. ``sizes_N2``: width, height of each record in pixels."""
    sizes_N2 = np.asarray(sizes_N2, dtype=np.float64).reshape(-1, 2)
    members: list[list[np.ndarray]] = [[] for _ in buckets]
    cut_N, enlarged_N = np.zeros(len(sizes_N2)), np.zeros(len(sizes_N2))
    for rank, places in enumerate(_by_resolution(buckets, resolutions_px)):
        shapes_K2 = np.array([(buckets[place].width_px, buckets[place].height_px) for place in places], float)
        chosen_N = _nearest(sizes_N2, shapes_K2)
        scale_N2 = shapes_K2[chosen_N] / sizes_N2
        scale_N = scale_N2.max(axis=1)
        taken_N = (scale_N <= 1) | (rank == 0)
        cut_N = np.where(taken_N, np.maximum(cut_N, 1 - scale_N2.min(axis=1) / scale_N), cut_N)
        if rank == 0:
            enlarged_N = scale_N
        for k, place in enumerate(places):
            members[place].append(np.flatnonzero(taken_N & (chosen_N == k)))
    groups = [(bucket, np.concatenate(numbers)) for bucket, numbers in zip(buckets, members, strict=True)]
    return Table(groups, cut_N, enlarged_N)


def _by_resolution(buckets: Sequence[Bucket], resolutions_px: Sequence[int]) -> list[list[int]]:
    """Places of the buckets of each resolution, the smallest first: the least whose square is no smaller than they."""
    limits = sorted(set(resolutions_px))
    found: dict[int, list[int]] = {}
    for place, bucket in enumerate(buckets):
        area = bucket.width_px * bucket.height_px
        found.setdefault(next((limit for limit in limits if area <= limit**2), limits[-1]), []).append(place)
    return [found[limit] for limit in sorted(found)]


def _nearest(sizes_N2: np.ndarray, shapes_K2: np.ndarray) -> np.ndarray:
    """For each size the shape of the nearest ratio of width to height, by factors: the one that cuts least."""
    ratio_N, ratio_K = (np.log(both[:, 0] / both[:, 1]) for both in (sizes_N2, shapes_K2))
    order_K = np.argsort(ratio_K, kind="stable")
    between = (ratio_K[order_K][1:] + ratio_K[order_K][:-1]) / 2
    return order_K[np.searchsorted(between, ratio_N)]
