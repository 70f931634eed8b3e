"""GLIDE's tokenizer: GPT-2's byte pairs on captions in small letters (assets/glide), nothing before or after them."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

from tokenizers import Tokenizer as BytePairs
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from limner.priors.tokens import Tokenizer

MERGES = Path(__file__).parents[1] / "assets" / "glide" / "vocab.bpe.gz"
END = "<|endoftext|>"


def tokenizer(num_tokens: int) -> Tokenizer:
    """Pads with the end of text, whose places the mask says are no text; cuts at ``num_tokens``."""
    # As text, the words for the end of text mean nothing: no caption ends itself.
    stock = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(), pad_token=END, padding_side="right", split_special_tokens=True
    )
    return Tokenizer(stock, num_tokens)


@functools.cache
def _byte_pairs() -> BytePairs:
    """Numbers as in GPT-2: 256 bytes, those that can be printed first; a token a merge; the end of text."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as lines:
        merges = [(left, right) for left, right in (line.split() for line in list(lines)[1:])]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = map(chr, [*printable, *range(256, 512 - len(printable))])
    words = [*letters, *(left + right for left, right in merges), END]
    read = BytePairs(BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    read.normalizer = Lowercase()
    read.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return read
