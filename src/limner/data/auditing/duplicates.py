"""Pictures that are in a set twice: resaved, resized, a little cropped, brighter or darker, mirrored.

A picture is kept as 304 bytes: its brightness on a 16 x 16 grid and its colours on 4 x 4. Candidates come from the
low frequencies of the grid's cosine transform, scaled to length 1: those whose signs a perceptual hash keeps, kept
whole, as on flat drawings many are near zero and their signs are luck. Numbers that are near each other fall into equal
cells of some of several random grids (locality-sensitive hashing: Datar et al. 2004), which costs a sort for each grid
instead of a comparison for each pair. A candidate counts if, after the best change of brightness, contrast, shift and
scale has been taken out, no cell differs by more than its surroundings explain.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy.fft import dctn

GRID, COLOURS = 16, 4
DTYPE = np.dtype([("luma", np.uint8, (GRID, GRID)), ("colour", np.uint8, (COLOURS, COLOURS, 3))])

# (vertical, horizontal) frequencies of the candidates' numbers, and how mirroring changes their signs.
FREQUENCIES = np.array([(u, v) for u in range(5) for v in range(5) if 0 < u + v <= 4])
MIRRORED = np.where(FREQUENCIES[:, 1] % 2, -1.0, 1.0).astype(np.float32)
FLATTEST = 0.25  # length below which a transform is noise (of 16 for black and white halves)
NEAR = 0.2  # farthest candidates; of copies cropped by 2 %, 99 in 100 are nearer

# Random grids: each has PROJECTIONS directions cut into cells of WIDTH; a record meets WINDOW others of its cell.
TABLES, PROJECTIONS, WIDTH, WINDOW = 16, 10, 0.6, 8
CHUNK = 1 << 12  # pairs compared at once

# What a cell of a copy may differ by, in levels of 255: a share of the picture's standard deviation, within limits (two
# skies are alike by nature), and one of the range of the cells around. Colours by as much, whatever they are.
CONTRAST_SHARE, LEVELS, RANGE_SHARE, COLOUR_LEVELS = 0.15, (2.5, 5.0), 0.2, 16.0
ALIKE = 0.93  # correlation of any copy, cropped by 3 % or made so bright that white areas grow
LEAST, MOST = 4, 250  # beyond, brightness may have been cut off


def describe(picture: Image.Image) -> np.void:
    """What is kept of an RGB picture, of DTYPE."""
    row = np.zeros(1, DTYPE)[0]
    row["luma"] = picture.convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    row["colour"] = picture.resize((COLOURS, COLOURS), Image.Resampling.BOX)
    return row


def equal(digest_N: np.ndarray) -> np.ndarray:
    """For each record the number of the first that has the same digest; its own where it is the first."""
    _, first_U, which_N = np.unique(digest_N, return_index=True, return_inverse=True)
    return first_U[which_N]


def near(kept_N: np.ndarray, mirrored: bool) -> np.ndarray:
    """Pairs (i, j), i < j, of records that show the same, or of which one is the other's mirror image; (P, 2).

    Not every pair of a large group of alike pictures is met, but each of the group is in some pair.
    """
    point_ND = _points(kept_N)
    num, points_MD = len(point_ND), point_ND
    if mirrored:
        points_MD = np.concatenate([point_ND, point_ND * MIRRORED])
    tried_Q, found = np.zeros(0, np.int64), [np.zeros((0, 2), np.int64)]
    for pair_P2 in _candidates(points_MD):
        if mirrored:
            pair_P2 = pair_P2[(pair_P2 >= num).sum(axis=1) == 1] % num
        one_P, other_P = np.sort(pair_P2, axis=1).T
        code_P = np.unique((one_P * num + other_P)[one_P != other_P])
        code_P = np.setdiff1d(code_P, tried_Q, assume_unique=True)  # the grids meet much the same pairs
        tried_Q = np.concatenate([tried_Q, code_P])
        for first in range(0, len(code_P), CHUNK):
            pair_P2 = np.stack(np.divmod(code_P[first : first + CHUNK], num), axis=1)
            found.append(pair_P2[same(kept_N[pair_P2[:, 0]], kept_N[pair_P2[:, 1]], mirrored)])
    return np.unique(np.concatenate(found), axis=0)


def _points(kept_N: np.ndarray) -> np.ndarray:
    """Low frequencies of each record, float32 ND of length at most 1."""
    point_ND = np.empty((len(kept_N), len(FREQUENCIES)), np.float32)
    for first in range(0, len(kept_N), CHUNK):
        luma_NHW = kept_N["luma"][first : first + CHUNK].astype(np.float32) / 255
        point_ND[first : first + CHUNK] = dctn(luma_NHW, axes=(1, 2), norm="ortho")[:, *FREQUENCIES.T]
    length_N = np.linalg.norm(point_ND, axis=1, keepdims=True)
    return point_ND / np.maximum(length_N, FLATTEST)


def _candidates(point_ND: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of numbers of points that are nearer than NEAR, (P, 2): those of each grid, so that many come again."""
    for table in range(TABLES):
        random = np.random.default_rng(table)
        cells_NK = point_ND @ random.standard_normal((point_ND.shape[1], PROJECTIONS)).astype(np.float32) / WIDTH
        cells_NK = np.floor(cells_NK + random.random(PROJECTIONS, dtype=np.float32)).astype(np.int64)
        cell_N = cells_NK @ random.integers(1, 2**62, PROJECTIONS)  # wraps round: a hash
        order_N = np.argsort(cell_N, kind="stable")
        cell_N = cell_N[order_N]
        for apart in range(1, WINDOW + 1):
            together = np.flatnonzero(cell_N[apart:] == cell_N[:-apart])
            pair_P2 = np.stack([order_N[together], order_N[together + apart]], axis=1)
            near_P = np.zeros(len(pair_P2), bool)
            for first in range(0, len(pair_P2), CHUNK):
                some = slice(first, first + CHUNK)
                between_PD = point_ND[pair_P2[some, 0]] - point_ND[pair_P2[some, 1]]
                near_P[some] = np.square(between_PD).sum(axis=1) < NEAR**2
            yield pair_P2[near_P]


def same(a_P: np.ndarray, b_P: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Whether two records show the same picture, bool P; either may be the copy that was made brighter or cropped."""
    b_luma, b_colour = (b_P[name][:, :, ::-1] if mirrored else b_P[name] for name in ("luma", "colour"))
    a_luma, b_luma = (luma.astype(np.float32) for luma in (a_P["luma"], b_luma))
    a_hue, b_hue = (_hue(colour) for colour in (a_P["colour"], b_colour))
    # What cannot be the same by far is told cheaply.
    same_P = np.abs(a_hue - b_hue).max(axis=(1, 2, 3)) < COLOUR_LEVELS + np.abs(a_hue).max(axis=(1, 2, 3)) / 3
    same_P &= _correlation(a_luma, b_luma) > ALIKE
    left = np.flatnonzero(same_P)
    a_luma, b_luma, a_hue, b_hue = a_luma[left], b_luma[left], a_hue[left], b_hue[left]
    same_P[left] = _explains(a_luma, b_luma, a_hue, b_hue)
    rest = ~same_P[left]
    same_P[left[rest]] = _explains(b_luma[rest], a_luma[rest], b_hue[rest], a_hue[rest])
    return same_P


def _correlation(a_PHW: np.ndarray, b_PHW: np.ndarray) -> np.ndarray:
    """Of the cells of each pair, 1 for a pair without contrast."""
    a_PK, b_PK = (x - x.mean(axis=1, keepdims=True) for x in (x.reshape(len(x), -1) for x in (a_PHW, b_PHW)))
    length_P = np.linalg.norm(a_PK, axis=1) * np.linalg.norm(b_PK, axis=1)
    return np.where(length_P > 0, np.einsum("pk,pk->p", a_PK, b_PK) / np.maximum(length_P, 1e-9), 1)


def _hue(colour_PHW3: np.ndarray) -> np.ndarray:
    colour_PHW3 = colour_PHW3.astype(np.float32)
    return colour_PHW3 - colour_PHW3.mean(axis=-1, keepdims=True)


def _explains(a_PHW: np.ndarray, b_PHW: np.ndarray, a_hue: np.ndarray, b_hue: np.ndarray) -> np.ndarray:
    """Whether b, made brighter, contrasted, shifted and scaled as suits best, is a.

    To first order a = gain b + offset + (shift + scale position) . gradient b: six numbers a pair, by least squares
    over the cells where neither has been cut off at black or white.
    """
    num = len(a_PHW)
    if not num:
        return np.zeros(0, bool)
    down_PHW, right_PHW = np.gradient(b_PHW, axis=(1, 2))
    y, x = np.meshgrid(*[np.linspace(-1, 1, GRID, dtype=np.float32)] * 2, indexing="ij")
    terms = [b_PHW, np.ones_like(b_PHW), right_PHW, down_PHW, right_PHW * x, down_PHW * y]
    terms_PK6 = np.stack(terms, axis=-1).reshape(num, -1, 6)
    open_PHW = (np.minimum(a_PHW, b_PHW) > LEAST) & (np.maximum(a_PHW, b_PHW) < MOST)
    weighted_P6K = (terms_PK6 * open_PHW.reshape(num, -1, 1)).transpose(0, 2, 1)
    # The ridge holds the gain at 1 and the rest at 0 where there is nothing to tell them from.
    normal_P66 = weighted_P6K @ terms_PK6 + np.diag([100.0, 1, 1, 1, 1, 1])
    right_P6 = (weighted_P6K @ a_PHW.reshape(num, -1, 1))[..., 0] + np.array([100.0, 0, 0, 0, 0, 0])
    fit_P6 = np.linalg.solve(normal_P66, right_P6[..., None])[..., 0]
    fit_P6 = fit_P6.clip([0.75, -40, -0.5, -0.5, -0.5, -0.5], [1.33, 40, 0.5, 0.5, 0.5, 0.5])
    made_PHW = (terms_PK6 @ fit_P6[..., None]).reshape(a_PHW.shape).clip(0, 255)
    levels_P = (CONTRAST_SHARE * a_PHW.std(axis=(1, 2))).clip(*LEVELS)
    allowed_PHW = levels_P[:, None, None] + RANGE_SHARE * np.maximum(_range(a_PHW), _range(made_PHW))
    fits_P = (np.abs(a_PHW - made_PHW) < allowed_PHW).all(axis=(1, 2))
    return fits_P & (np.abs(a_hue - fit_P6[:, 0, None, None, None] * b_hue).max(axis=(1, 2, 3)) < COLOUR_LEVELS)


def _range(x_PHW: np.ndarray) -> np.ndarray:
    """Largest less smallest of each cell and its eight neighbours."""

    def around(x_PHW: np.ndarray, most: np.ufunc) -> np.ndarray:
        x_PHW = np.pad(x_PHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = most(most(x_PHW[:, :-2], x_PHW[:, 1:-1]), x_PHW[:, 2:])
        return most(most(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])

    return around(x_PHW, np.maximum) - around(x_PHW, np.minimum)
