"""Captions as token numbers, and what of a caption a text encoder does not get to read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from limner.types import Tokens


class Tokenizer:
    """A transformers tokenizer that many threads may use: it keeps settings within itself, so one call at a time.

    Args:
        num_tokens: length that captions are padded to and cut at, special tokens included.
    """

    def __init__(self, tokenizer: Any, num_tokens: int) -> None:
        self.stock, self.num_tokens = tokenizer, num_tokens
        self._one_at_a_time = threading.Lock()

    def ids(self, captions: Sequence[str], **options: Any) -> tuple[Tensor, Tensor]:
        """(ids_BL, mask_BL bool, true where a token is no padding), L = ``num_tokens``."""
        with self._one_at_a_time:
            read = self.stock(
                list(captions),
                padding="max_length",
                truncation=True,
                max_length=self.num_tokens,
                return_tensors="pt",
                **options,
            )
        return read.input_ids, read.attention_mask.bool()

    def count(self, caption: str, num_more: int = 0) -> Tokens:
        """How a caption is read; ``num_more`` tokens of a template around it take room too."""
        with self._one_at_a_time:
            read = self.stock(caption, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        room = self.num_tokens - self.stock.num_special_tokens_to_add() - num_more
        starts = [start for start, _ in read.offset_mapping]
        if len(starts) <= room:
            return Tokens(len(starts), room, "")
        before = caption[: starts[room]]
        within_word = before[-1:].isalnum() and caption[starts[room]].isalnum()
        return Tokens(len(starts), room, caption[before.rfind(" ") + 1 if within_word else len(before) :].strip())
