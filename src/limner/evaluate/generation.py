"""The score of images against real ones: do they look like them, and do they differ among themselves?

likeness       show what they should (over an Embedder; each sample against the true image of its own condition)
kid, frechet   look real             (over an Embedder; each condition's first sample against the truth)
diversity      do not collapse       (between the samples of one condition; None where there is one)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from limner.evaluate.features import Embedder
from limner.evaluate.metrics import kid
from limner.evaluate.metrics.diversity import diversity
from limner.evaluate.metrics.frechet import frechet
from limner.evaluate.metrics.interval import interval
from limner.evaluate.metrics.likeness import likeness


def score(truth_uint8_NCHW: Tensor, samples_uint8_NKCHW: Tensor, embed: Embedder, seed: int = 0) -> dict[str, Any]:
    """How real K samples for each of N conditions look, and how they differ; intervals are 95 % bootstrap intervals."""
    num, each = samples_uint8_NKCHW.shape[:2]
    real, made = embed(truth_uint8_NCHW), embed(samples_uint8_NKCHW.flatten(0, 1)).view(num, each, -1)
    alike_N = likeness(made, real).mean(1)
    return {
        "likeness": float(alike_N.mean()),
        "likeness_interval": interval(alike_N, seed),
        "kid": kid.kid(made[:, 0], real),
        "kid_interval": kid.interval(made[:, 0], real, seed),
        "frechet": frechet(made[:, 0], real),
        "diversity": float(diversity(made).mean()) if each > 1 else None,
        "num_concepts": num,
        "num_samples": each,
        "embedder": embed.name,
    }


def floors(truth_uint8_NCHW: Tensor, embed: Embedder) -> dict[str, Any]:
    """Real against real: the even with the odd pictures, N / 2 each.

    KID is unbiased, so its floor is a fair zero; the Frechet distance of N / 2 pictures is larger than that of N, so
    its floor is too high for a score over all N.
    """
    real = embed(truth_uint8_NCHW)
    even, odd = real[0::2], real[1::2]
    return {
        "kid_floor": kid.kid(even, odd),
        "kid_floor_interval": kid.interval(even, odd),
        "frechet_floor": frechet(even, odd),
        "embedder": embed.name,
    }
