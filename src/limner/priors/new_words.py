"""New words for a text encoder: vectors that learn beside its frozen vocabulary (Gal et al. 2022, arXiv 2208.01618).

A new word is one token or several in a row, named as diffusers names them: <cat>, <cat>_1, <cat>_2. Their numbers
follow the tokenizer's own, so a caption without them is read bit for bit as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.errors import PriorError
from limner.priors.tokens import Tokenizer


class Words(nn.Embedding):
    """The input embedding of a text encoder with K more rows, ``new_KD``, which alone learn; they are kept in fp32.

    Args:
        old: the embedding, whose weight is shared and frozen. It may have rows beyond the vocabulary, which no token
            has: new words take their numbers.
        names: the new words; each has equally many vectors, in their order.
        start_KD: what the vectors start from.
        first: the number of the first new token.
    """

    def __init__(self, old: nn.Embedding, names: tuple[str, ...], start_KD: Tensor, first: int) -> None:
        super().__init__(old.num_embeddings, old.embedding_dim, _weight=old.weight, _freeze=True)
        self.names, self.first = names, first
        self.new_KD = nn.Parameter(start_KD.float())

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the tokens with these numbers, one more dimension than ``ids``, in the old weight's type."""
        is_new = ids >= self.first
        old = super().forward(ids.masked_fill(is_new, 0))
        new = F.embedding((ids - self.first).clamp(min=0), self.new_KD).to(old.dtype)
        return torch.where(is_new.unsqueeze(-1), new, old)

    def vectors(self) -> dict[str, Tensor]:
        """Word -> what it has learnt, (num_vectors, D)."""
        parts = self.new_KD.detach().chunk(len(self.names))
        return dict(zip(self.names, parts, strict=True))


def add(encoder: Any, tokenizer: Tokenizer, starts: Mapping[str, str], num_vectors: int) -> Words:
    """Teach a text encoder and its tokenizer new words; the encoder's input embedding is replaced.

    Args:
        encoder: with ``get_input_embeddings`` and ``set_input_embeddings``, as those of transformers.
        starts: new word -> the words whose mean embedding each of its vectors starts from.

    Raises:
        PriorError: a start that is no word.
    """
    old = encoder.get_input_embeddings()
    rows = []
    for word, start in starts.items():
        numbers = tokenizer.stock(start, add_special_tokens=False).input_ids
        if not numbers:
            raise PriorError(f"'{start}', which '{word}' shall start from, is no word.", "give one, such as picture")
        rows += [old.weight[numbers].float().mean(dim=0)] * num_vectors
    words = Words(old, tuple(starts), torch.stack(rows), tokenizer.add(list(starts), num_vectors))
    encoder.set_input_embeddings(words)
    _sum_up_at_the_end(encoder, tokenizer)
    return words


def _sum_up_at_the_end(encoder: nn.Module, tokenizer: Tokenizer) -> None:
    """Let CLIP take its summary from the end of the text wherever a new word stands.

    The configurations of the older released encoders have the wrong number for the end of the text, 2; for these
    transformers takes the token of the highest number instead, which was the same before there were new words.
    """
    from transformers import CLIPTextModel

    for part in encoder.modules():
        if isinstance(part, CLIPTextModel):
            part.eos_token_id = tokenizer.stock.eos_token_id


def learnt(module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Of what ``Prior.add_words`` gave: text encoder -> new word -> what it has learnt, (num_vectors, D)."""
    return {name: part.vectors() for name, part in module.named_children() if isinstance(part, Words)}
