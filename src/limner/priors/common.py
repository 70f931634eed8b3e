"""Whether a word already means something to a prior, so that it makes a poor name for a new subject."""

from __future__ import annotations

from limner.priors import glide_tokens
from limner.priors.base import Prior
from limner.priors.tokens import Tokenizer

# Vocabularies of byte pairs are in the order of how often each was met: CLIP's 'sks' is one token too, at 97 %.
COMMON = 0.75


def is_common(prior: Prior, word: str) -> bool:
    """Whether a prior is likely to know a word: one common token of a vocabulary of its own, or of English.

    English is GPT-2's vocabulary, which lies in the package for GLIDE. It is asked as well, since the vocabulary of a
    small prior holds few whole words, and names with capitals are unknown to it here.
    """
    tokenizers = [*prior.readers.values(), glide_tokens.tokenizer(prior.num_tokens)]
    return any(_place(tokenizer, word.lower()) < COMMON for tokenizer in tokenizers)


def _place(tokenizer: Tokenizer, word: str) -> float:
    """Where in the vocabulary a word is that is one token, alone or after another: 0 is first; else 1."""
    stock = tokenizer.stock
    read = [stock(text, add_special_tokens=False).input_ids for text in (word, f" {word}")]
    places = [ids[0] for ids in read if len(ids) == 1 and ids[0] != stock.unk_token_id]
    return min(places, default=len(stock)) / len(stock)
