"""Captions as token numbers, and what of a caption a text encoder does not get to read."""

from __future__ import annotations

import re
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
        self._new, self._num_vectors = re.compile(r"(?!)"), 1  # of the words that were added: none

    def knows(self, word: str) -> bool:
        """Whether a word is a token of the vocabulary, at the start of a text or within."""
        spelt = [self.stock.tokenize(text) for text in (word, f" {word}")]
        return word in self.stock.get_vocab() or any(len(one) == 1 and one != [self.stock.unk_token] for one in spelt)

    def add(self, words: Sequence[str], num_vectors: int) -> int:
        """Read each of these words as ``num_vectors`` new tokens from now on; gives the number of the first.

        The tokens of <cat> are <cat>, <cat>_1, <cat>_2 ..., which is what diffusers calls them.
        """
        first = len(self.stock)
        self.stock.add_tokens([token for word in words for token in _tokens_of(word, num_vectors)])
        longest_first = sorted(words, key=len, reverse=True)
        self._new = re.compile(rf"({'|'.join(map(re.escape, longest_first))})(?!_\d)")
        self._num_vectors = num_vectors
        return first

    def _spelt(self, caption: str) -> str:
        """A caption with each new word as all of its tokens."""
        return self._new.sub(lambda found: "".join(_tokens_of(found[1], self._num_vectors)), caption)

    def ids(self, captions: Sequence[str], **options: Any) -> tuple[Tensor, Tensor]:
        """(ids_BL, mask_BL bool, true where a token is no padding), L = ``num_tokens``."""
        with self._one_at_a_time:
            read = self.stock(
                [self._spelt(caption) for caption in captions],
                padding="max_length",
                truncation=True,
                max_length=self.num_tokens,
                return_tensors="pt",
                **options,
            )
        return read.input_ids, read.attention_mask.bool()

    def count(self, caption: str, num_more: int = 0) -> Tokens:
        """How a caption is read; ``num_more`` tokens of a template around it take room too."""
        caption = self._spelt(caption)
        with self._one_at_a_time:
            read = self.stock(caption, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        room = self.num_tokens - self.stock.num_special_tokens_to_add() - num_more
        starts = [start for start, _ in read.offset_mapping]
        if len(starts) <= room:
            return Tokens(len(starts), room, "")
        before = caption[: starts[room]]
        within_word = before[-1:].isalnum() and caption[starts[room]].isalnum()
        return Tokens(len(starts), room, caption[before.rfind(" ") + 1 if within_word else len(before) :].strip())


def _tokens_of(word: str, num_vectors: int) -> list[str]:
    """A new word's tokens in their order."""
    return [word, *(f"{word}_{i}" for i in range(1, num_vectors))]
