"""The score of an image-to-image model: does it keep the sketch, and do its pictures look like the real ones?

    edge_f1, faithfulness, iou    keep the sketch    (metrics.edges, metrics.silhouette; 128 px)
    edge_margin                   keep this sketch   (F1 against the own sketch less F1 against the others')
    likeness                      show what it is    (over an Embedder; each sample against its own truth)
    kid, frechet                  look real          (over an Embedder; each concept's first sample against the truth)
    diversity                     do not collapse    (between the samples of one sketch)

``reference`` gives the ends of the scale, measured on the same pictures: ceiling (the true picture of the sketch),
chance (the true picture of another sketch), floors (real against real). Faithfulness is edge F1 on that scale: 0 is
chance, 1 is as good as the truth. It is not enough: a picture full of edges has one near any line. Its F1 against every
sketch is high, and so its margin is small; but where only the silhouette is full of edges, the margin is high too.
Likeness is the number to read first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from limner.errors import DataError
from limner.evaluate import generation
from limner.evaluate.features import Embedder
from limner.evaluate.metrics import edges, interval, silhouette


def score(
    sketch_uint8_NCHW: Tensor, truth_uint8_NCHW: Tensor, samples_uint8_NKCHW: Tensor, embed: Embedder, seed: int = 0
) -> dict[str, Any]:
    """What the K samples of each of N sketches are worth; pure: the same pictures and seed give the same numbers.

    Sizes may differ between the three sets. Intervals are 95 % bootstrap intervals over concepts. ``diversity`` is None
    where K is 1.

    Raises:
        DataError: fewer than four concepts, or sets of different length.
    """
    _check(sketch_uint8_NCHW, truth_uint8_NCHW, samples_uint8_NKCHW)
    num, each = samples_uint8_NKCHW.shape[:2]
    samples = samples_uint8_NKCHW.flatten(0, 1)
    lines, shape = _of_sketch(sketch_uint8_NCHW)
    f1_N = edges.edge_f1(edges.picture_edges(samples), lines.repeat_interleave(each, 0)).view(num, each).mean(1)
    overlap = silhouette.iou(silhouette.picture_silhouette(samples), shape.repeat_interleave(each, 0))
    scale = _edge_scale(truth_uint8_NCHW, lines)
    firsts = _edge_scale(samples_uint8_NKCHW[:, 0], lines)
    return {
        "edge_margin": firsts.ceiling - firsts.chance,
        "edge_f1": float(f1_N.mean()),
        "edge_f1_interval": interval.interval(f1_N, seed),
        "faithfulness": scale.place(float(f1_N.mean())),
        "iou": float(overlap.mean()),
        **generation.score(truth_uint8_NCHW, samples_uint8_NKCHW, embed, seed),
    }


def reference(sketch_uint8_NCHW: Tensor, truth_uint8_NCHW: Tensor, embed: Embedder) -> dict[str, Any]:
    """The ends of the scale. ``ceiling`` and ``chance`` are edge F1; chance is over all N (N - 1) wrong pairs.

    Raises:
        DataError: fewer than four concepts, or sets of different length.
    """
    _check(sketch_uint8_NCHW, truth_uint8_NCHW)
    lines, shape = _of_sketch(sketch_uint8_NCHW)
    edge = _edge_scale(truth_uint8_NCHW, lines)
    overlap = _scale(silhouette.iou_matrix(silhouette.picture_silhouette(truth_uint8_NCHW), shape))
    return {
        "margin_ceiling": edge.ceiling - edge.chance,
        "ceiling": edge.ceiling,
        "chance": edge.chance,
        "iou_ceiling": overlap.ceiling,
        "iou_chance": overlap.chance,
        **generation.floors(truth_uint8_NCHW, embed),
    }


@dataclass(frozen=True)
class _Scale:
    ceiling: float
    chance: float

    def place(self, value: float) -> float | None:
        """0 at chance, 1 at the ceiling; None where the truth itself is no better than chance."""
        return (value - self.chance) / (self.ceiling - self.chance) if self.ceiling > self.chance else None


def _scale(matrix_NN: Tensor) -> _Scale:
    """Mean of the diagonal (own sketch) and of all the rest (another's)."""
    own, num = matrix_NN.diagonal().sum(), len(matrix_NN)
    return _Scale(float(own / num), float((matrix_NN.sum() - own) / (num * (num - 1))))


def _edge_scale(truth_uint8_NCHW: Tensor, lines_NHW: Tensor) -> _Scale:
    return _scale(edges.edge_f1_matrix(edges.picture_edges(truth_uint8_NCHW), lines_NHW))


def _of_sketch(sketch_uint8_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    return edges.sketch_lines(sketch_uint8_NCHW), silhouette.sketch_silhouette(sketch_uint8_NCHW)


def _check(*sets: Tensor) -> None:
    lengths = [len(one) for one in sets]
    if len(set(lengths)) > 1:
        raise DataError(f"sketches, true pictures and samples differ in number: {lengths}.", "pair them one to one")
    if lengths[0] < 4:
        raise DataError(f"{lengths[0]} concepts are too few to score.", "give at least 4, better 100")
