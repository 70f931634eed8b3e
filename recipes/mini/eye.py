"""The eye: a small contrastive pair of image and text encoders (a stock `CLIPModel`) for the mini prior's domain.

Idea: pictures of the training concepts in all styles, moved about and on plain grounds, are matched with their captions
inside a batch of different concepts. It is a judge that runs in milliseconds, not a general CLIP: it knows about 1,200
drawn concepts. Pixels go in as RGB in -1..1, 64x64.

    python recipes/mini/eye.py train --scratch scratch/mini --minutes 8
    python recipes/mini/eye.py report --scratch scratch/mini
"""

import argparse
import json
import math
import time
from pathlib import Path

import captions
import pictures
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

ASSETS = Path(__file__).resolve().parents[2] / "src" / "limner" / "assets"
BATCH = 128
GROUND_SHARE = 0.4  # pictures on a named colour; the rest is on white


def make_eye(tokenizer: CLIPTokenizer) -> CLIPModel:
    shared = {"hidden_size": 160, "intermediate_size": 480, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = shared | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": captions.MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shared | {"num_hidden_layers": 4, "hidden_size": 192, "intermediate_size": 576, "image_size": 64}
    # Patches of 8 px made a picture four times as dear (50 against 190 a second), and steps are what is short.
    vision["patch_size"] = 16
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def draw_batch(data_SNCHW, rows, concepts, tokenizer):
    """Different concepts, each in a random style and place, with a caption that says so."""
    chosen = rows[torch.randperm(len(rows))[:BATCH]]
    styles = torch.randint(len(pictures.STYLES), (len(chosen),))
    names, ground_B3, texts = list(pictures.COLOURS), torch.ones(len(chosen), 3), []
    for b, (n, s) in enumerate(zip(chosen.tolist(), styles.tolist(), strict=True)):
        colour = names[torch.randint(len(names), ())] if torch.rand(()) < GROUND_SHARE else None
        if colour:
            ground_B3[b] = torch.tensor(pictures.COLOURS[colour]) / 255 + 0.03 * torch.randn(3)
        texts.append(captions.caption(concepts[n], pictures.STYLES[s], colour, keywords=0.3))
    x_BCHW = pictures.jitter(data_SNCHW[styles, chosen].float() / 255, scale=(0.75, 1.05), shift=0.12)
    x_BCHW = pictures.over(x_BCHW, ground_B3.clamp(0, 1)[:, :, None, None])
    x_BCHW = x_BCHW * torch.empty(len(chosen), 3, 1, 1).uniform_(0.85, 1.15) + 0.05 * torch.randn_like(x_BCHW)
    return x_BCHW, tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids


def loss_of(eye: CLIPModel, x_BCHW: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
    logits_BB = eye(input_ids=ids_BT, pixel_values=x_BCHW).logits_per_image
    target_B = torch.arange(len(x_BCHW))
    return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2


def train(options) -> None:
    torch.manual_seed(0)
    data_SNCHW, concepts = pictures.load(options.scratch)
    rows = pictures.in_split(concepts, "train")
    tokenizer = CLIPTokenizer.from_pretrained(options.scratch / "tokenizer")
    eye = make_eye(tokenizer).train()
    optimiser = torch.optim.AdamW(eye.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.1)
    start, steps = time.time(), 0
    while (done := (time.time() - start) / (60 * options.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        optimiser.zero_grad()
        loss = loss_of(eye, *draw_batch(data_SNCHW, rows, concepts, tokenizer))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(eye.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            eye.logit_scale.clamp_(max=math.log(100))
        steps += 1
        if steps % 25 == 0:
            rate = steps * BATCH / (time.time() - start)
            print(
                f"{60 * done * options.minutes:.0f} s, step {steps}, loss {loss.item():.3f}, {rate:.0f} pictures/s",
                flush=True,
            )
    save(eye.eval(), tokenizer, options.assets / "eye")
    print(json.dumps(report(options)), flush=True)


def save(eye: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """16-bit weights; the config still says float32, so that a CPU loads what it can run."""
    eye.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    captions.save_tokenizer(tokenizer, folder)


def embed_text(eye, tokenizer, texts: list[str]) -> torch.Tensor:
    ids_BT = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return F.normalize(projected(eye.get_text_features(input_ids=ids_BT)), dim=-1)


def embed_pictures(eye, x_BCHW: torch.Tensor) -> torch.Tensor:
    return F.normalize(projected(eye.get_image_features(pixel_values=x_BCHW)), dim=-1)


def projected(features) -> torch.Tensor:
    """transformers before 5 returns the tensor, later the whole output."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def recall(image_ND: torch.Tensor, text_ND: torch.Tensor) -> dict[str, float]:
    """Picture -> its caption among all N captions."""
    score_NN = image_ND @ text_ND.T
    rank_N = (score_NN > score_NN.diagonal()[:, None]).sum(1)
    return {f"R@{k}": round(float((rank_N < k).float().mean()), 3) for k in (1, 5)} | {"of": len(rank_N)}


@torch.no_grad()
def report(options) -> dict:
    """Retrieval on white, for each style: 128 seen concepts, all seen concepts, the 128 test concepts (never seen)."""
    data_SNCHW, concepts = pictures.load(options.scratch)
    eye = CLIPModel.from_pretrained(options.assets / "eye", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(options.assets / "eye")
    train_rows, test_rows = pictures.in_split(concepts, "train"), pictures.in_split(concepts, "test")
    some_rows = train_rows[
        torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(0))[: len(test_rows)]
    ]
    found = {}
    for name, rows in {"seen": some_rows, "all_seen": train_rows, "unseen": test_rows}.items():
        for s, style in enumerate(pictures.STYLES):
            x_BCHW = pictures.over(data_SNCHW[s, rows].float() / 255, torch.ones(1, 3, 1, 1))
            texts = [captions.caption(concepts[n], style) for n in rows]
            found[f"{name}_{style}"] = recall(embed_pictures(eye, x_BCHW), embed_text(eye, tokenizer, texts))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with pictures.npy and tokenizer/")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the eye is eye/ in here")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    options = parser.parse_args()
    if options.what == "train":
        train(options)
    else:
        print(json.dumps(report(options), indent=1))


if __name__ == "__main__":
    main()
