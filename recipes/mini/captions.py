"""Names of colours, and the tokenizer of the mini prior and the judge.

A caption may name the main colours of the picture, as a person would ("a cactus in green and pink"): a word that was
never seen before says nothing of colours, and line art does not either. `write_tokenizer` trains a byte-pair vocabulary
and saves it as a stock `CLIPTokenizer`; words it has not seen are spelt from its pieces.
"""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

VOCABULARY = 8192
MAX_TOKENS = 32


# sRGB colours and what people call them; a colour goes by the name of the nearest, in Oklab.
NAMED = {
    "red": [(215, 45, 50), (245, 80, 75), (150, 25, 40)],
    "orange": [(245, 140, 45), (255, 115, 60), (225, 110, 30)],
    "yellow": [(250, 205, 60), (255, 230, 110), (235, 180, 40)],
    "light green": [(170, 225, 120), (200, 235, 170)],
    "green": [(60, 170, 75), (30, 110, 60), (110, 190, 60)],
    "light blue": [(130, 205, 245), (185, 225, 250), (80, 190, 215)],
    "blue": [(50, 115, 225), (20, 150, 230), (30, 120, 160)],
    "dark blue": [(30, 40, 110), (40, 60, 90)],
    "purple": [(130, 60, 190), (175, 140, 235), (90, 50, 130), (170, 60, 170)],
    "pink": [(245, 130, 180), (250, 185, 205), (230, 60, 140)],
    "brown": [(130, 80, 50), (90, 60, 50), (165, 110, 70)],
    "beige": [(245, 215, 180), (230, 190, 150), (225, 215, 195)],
    "white": [(250, 250, 252), (230, 230, 238)],
    "grey": [(150, 150, 155), (105, 100, 110), (190, 185, 200)],
    "black": [(25, 25, 30), (55, 50, 55)],
}
LEAST_SHARE, MOST_COLOURS = 0.12, 3  # of the subject's pixels; names in one caption


def oklab(rgb_N3: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 -> Oklab, where distances are about as far as they look (Ottosson 2020)."""
    linear_N3 = np.where(rgb_N3 <= 0.04045, rgb_N3 / 12.92, ((rgb_N3 + 0.055) / 1.055) ** 2.4)
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.6806995, 0.107397],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.4285922, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(linear_N3 @ np.array(cones).T) @ np.array(to_lab).T


def main_colours(rgba_HW4: np.ndarray) -> list[str]:
    """Names of the colours that cover the most of the subject (uint8, straight alpha), the largest share first."""
    pixels_N3 = rgba_HW4[rgba_HW4[..., 3] > 127][:, :3] / 255
    if not len(pixels_N3):
        return []
    names = [name for name, some in NAMED.items() for _ in some]
    table_K3 = oklab(np.array([rgb for some in NAMED.values() for rgb in some]) / 255)
    nearest_N = ((oklab(pixels_N3)[:, None] - table_K3) ** 2).sum(2).argmin(1)
    counts = np.bincount(nearest_N, minlength=len(names))
    shares = {name: sum(counts[k] for k, n in enumerate(names) if n == name) / len(pixels_N3) for name in NAMED}
    order = sorted(shares, key=shares.__getitem__, reverse=True)
    return [name for name in order if shares[name] >= LEAST_SHARE][:MOST_COLOURS]


def in_colours(colours: list[str]) -> str:
    """`["green", "pink"]` -> ` in green and pink`."""
    if not colours:
        return ""
    return " in " + " and ".join(part for part in (", ".join(colours[:-1]), colours[-1]) if part)


def write_tokenizer(texts: list[str], folder: Path) -> CLIPTokenizer:
    blank = CLIPTokenizer()  # its own normaliser and word splitter, so that training and use agree
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    special = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        texts,
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


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Ids (B, T) as a text encoder reads them, all of full length."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Also in the two older files: other programs, and transformers before 5, read only these."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(" ".join(merge) + "\n" for merge in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
