"""Encode each picture and each caption once; keys are content, never position.

The cache takes the encoding functions, so that ``data`` knows no prior. Keys are the picture's bytes (after
preparation) and the caption's text: however a loader shuffles, no picture can meet another's caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from limner.types import Cond

ENCODE_BATCH = 32


class Cache:
    """Latents (mean and std) and embedded captions in memory, filled on first sight.

    Args:
        encode_image: pictures in [-1, 1], BCHW -> (mean, std).
        encode_text: captions -> Cond of as many rows.
    """

    def __init__(
        self, encode_image: Callable[[Tensor], tuple[Tensor, Tensor]], encode_text: Callable[[Sequence[str]], Cond]
    ) -> None:
        self._encode_image, self._encode_text = encode_image, encode_text
        self._latents: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._texts: dict[str, Cond] = {}

    @torch.no_grad()
    def latents(self, key_B: Sequence[bytes], pictures: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """(mean, std), BCHW; ``pictures(i)`` is called for the i-th key only where it is not known yet."""
        missing = [i for i, key in enumerate(key_B) if key not in self._latents]
        for some in _chunks(missing):
            mean, std = self._encode_image(torch.stack([pictures(i) for i in some]))
            for i, one_mean, one_std in zip(some, mean.cpu(), std.cpu(), strict=True):
                self._latents[key_B[i]] = (one_mean, one_std)
        found = [self._latents[key] for key in key_B]
        return torch.stack([mean for mean, _ in found]), torch.stack([std for _, std in found])

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Cond:
        """The captions, embedded: one row each."""
        missing = sorted(set(captions) - self._texts.keys())
        for some in _chunks(missing):
            cond = self._encode_text(some).map(lambda part: part.cpu())
            for i, caption in enumerate(some):
                self._texts[caption] = cond.map(lambda part, i=i: part[i : i + 1])  # type: ignore[misc]
        return Cond.cat([self._texts[caption] for caption in captions])


def _chunks(items: Sequence) -> Iterable[list]:
    return (list(items[i : i + ENCODE_BATCH]) for i in range(0, len(items), ENCODE_BATCH))
