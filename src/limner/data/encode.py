"""Latents and embedded captions, encoded once each: the prior's encoders behind two shelves of the cache.

It takes the encoding functions and a name for them, so that ``data`` knows no prior. How many rows a network sees at
once shows in their last bits. So it always sees equally many, the last one again where there are fewer: an entry then
depends on its key alone, not on what the cache held already, and a run that was interrupted goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from limner.data.cache import Entry, Shelf, key
from limner.data.prepare import to_float
from limner.types import Cond

PICTURES_AT_ONCE, TEXTS_AT_ONCE = 4, 8  # more are hardly faster, but on a large picture take much memory


class Encoder:
    """Pictures -> (mean, std) of their latents; captions -> Cond; each from the cache where it is known.

    Args:
        encode_image: pictures in [-1, 1], BCHW -> (mean, std).
        encode_text: captions -> Cond of as many rows.
        maker: a hash of what encodes.
        device: where it encodes.
        frozen_text: whether captions mean the same throughout; else they are encoded anew each time, and not kept.
    """

    def __init__(
        self,
        encode_image: Callable[[Tensor], tuple[Tensor, Tensor]],
        encode_text: Callable[[Sequence[str]], Cond],
        maker: str,
        device: torch.device,
        frozen_text: bool = True,
    ) -> None:
        self.frozen_text = frozen_text
        self._encode_image, self._encode_text, self.device = encode_image, encode_text, device
        self._latents, self._texts = Shelf("latents", maker), Shelf("texts", maker)
        self._num_cores = torch.get_num_threads()

    @torch.no_grad()
    def latents(
        self, key_B: Sequence[bytes], pictures: Callable[[list[int]], Iterable[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """(mean, std), BCHW; ``pictures`` gives those at the places asked for in turn, uint8 CHW of one size."""

        def make(places: list[int]) -> list[Entry]:
            self._take_all_cores()
            parts = []
            coming = iter(pictures(places))
            while some := list(islice(coming, PICTURES_AT_ONCE)):
                rows_BCHW = torch.stack(some + some[-1:] * (PICTURES_AT_ONCE - len(some)))
                both = self._encode_image(to_float(rows_BCHW.to(self.device)))
                parts.append([part[: len(some)] for part in both])
            mean_BCHW, std_BCHW = (torch.cat(part) for part in zip(*parts, strict=True))
            if not std_BCHW.any():  # a deterministic autoencoder: half the size
                return [{"mean": mean} for mean in mean_BCHW]
            return [{"mean": mean, "std": std} for mean, std in zip(mean_BCHW, std_BCHW, strict=True)]

        entries = self._latents.get(key_B, make)
        mean_BCHW = torch.stack([entry["mean"] for entry in entries])
        std_BCHW = torch.stack([entry.get("std", torch.zeros(())).expand_as(entry["mean"]) for entry in entries])
        return mean_BCHW, std_BCHW

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Cond:
        """The captions, embedded: one row each."""
        if not self.frozen_text:
            return self._encode_text(captions)

        def make(places: list[int]) -> list[Entry]:
            self._take_all_cores()
            made = []
            for first in range(0, len(places), TEXTS_AT_ONCE):
                some = [captions[place] for place in places[first : first + TEXTS_AT_ONCE]]
                cond = self._encode_text(some + some[-1:] * (TEXTS_AT_ONCE - len(some)))
                parts = {"tokens": cond.tokens_BLD, "pooled": cond.pooled_BD, "mask": cond.mask_BL}
                there = {name: part for name, part in parts.items() if part is not None}
                made += [{name: part[i] for name, part in there.items()} for i in range(len(some))]
            return made

        entries = self._texts.get([key("caption", caption) for caption in captions], make)
        parts = {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}
        return Cond(parts["tokens"], parts.get("pooled"), mask_BL=parts.get("mask"))

    def _take_all_cores(self) -> None:
        """In a thread of the loader's, which has one until there is something to encode."""
        if torch.get_num_threads() != self._num_cores:
            torch.set_num_threads(self._num_cores)

    @property
    def full(self) -> bool:
        """Whether the cache has reached its limit: what is new is encoded again each time."""
        return self._latents.full or self._texts.full

    def flush(self) -> None:
        """Write what is new to disk."""
        self._latents.flush()
        self._texts.flush()

    def refresh(self) -> None:
        """Take in what other processes have written."""
        self._latents.refresh()
        self._texts.refresh()
