"""Captions and the tokenizer: what the mini prior and the judge read.

`write_tokenizer` trains a byte-pair vocabulary on the training concepts' captions and saves it as a stock
`CLIPTokenizer`. Held-out words are spelt from its pieces, as any new word will be.
"""

import json
import random
from pathlib import Path

from pictures import COLOURS, STYLE_PHRASES
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

VOCABULARY = 2048
MAX_TOKENS = 24


def caption(concept: dict, style: str, colour: str | None = None, keywords: float = 0.0) -> str:
    """`a 3D render of a fox on a light blue background, animal`; a keyword comes with this probability."""
    subject = concept["caption"].removeprefix(STYLE_PHRASES["3d"])
    words = STYLE_PHRASES[style] + subject
    if colour:
        words += f" on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
    if concept["keywords"] and random.random() < keywords:
        words += ", " + random.choice(concept["keywords"])
    return words


def write_tokenizer(concepts: list[dict], folder: Path) -> CLIPTokenizer:
    corpus = [caption(c, style) for c in concepts for style in STYLE_PHRASES]
    corpus += [word for c in concepts for word in [c["label"], *c["keywords"]]]
    corpus += [f"on a {colour} background" for colour in COLOURS] * 20
    blank = CLIPTokenizer()  # its own normaliser and word splitter, so that training and use agree
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    special = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            end_of_word_suffix="</w>",
        ),
    )
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) for m in state["merges"]]
    pieces = sorted(state["vocab"], key=state["vocab"].get)
    # Every byte must also exist as the end of a word, or a rare letter there would be unknown.
    pieces += [b + "</w>" for b in pre_tokenizers.ByteLevel.alphabet() if b + "</w>" not in state["vocab"]]
    vocabulary = {piece: n for n, piece in enumerate(pieces + special)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    save_tokenizer(tokenizer, folder)
    return CLIPTokenizer.from_pretrained(folder)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Also in the two older files: other programs, and transformers before 5, read only these."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(" ".join(merge) + "\n" for merge in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
