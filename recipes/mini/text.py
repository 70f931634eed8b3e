"""The text encoder that the mini prior starts from: it has seen pictures, and it knows English words.

Idea: composed scenes are matched with their captions inside a batch (CLIP, Radford et al. 2021), and at the same time
the text side learns to say what a sentence encoder says of captions and of plain words (`sentences.py`), through one
linear layer that is thrown away; so is the picture side, a small ViT. A text encoder that starts from random weights
takes tens of thousands of pictures before a denoiser listens to it (`TRIAL.md`).

    python recipes/mini/text.py --scratch scratch/mini --minutes 13

Writes text/, a stock `CLIPTextModel`, to the scratch folder.
"""

import argparse
import json
import math
import random
from pathlib import Path

import captions
import composer
import numpy as np
import scenes
import torch
import torch.nn.functional as F
import training
from composer import Painter, Stock
from sizes import add_options, existing
from torch import Tensor, nn
from training import Average, by_the_clock
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

NUM_SENTENCES = 384  # a step, for the text side alone
SENTENCE_WEIGHT = 2.0
EMA_DECAY = 0.998
SIDE = 64


def make_pair(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = {
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "vocab_size": len(tokenizer),
        "max_position_embeddings": captions.MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 224,
        "intermediate_size": 672,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "hidden_act": "gelu",
        "image_size": SIDE,
        "patch_size": 16,  # patches of 8 px make a picture four times as dear, and steps are what is short
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


class Sentences:
    """Texts and their targets; `draw` gives token ids (num, T) and unit vectors (num, 384).

    Texts of about the same length come together and are cut where the longest ends: most are a word or two, and a text
    encoder that reads from left to right does not see what follows.
    """

    def __init__(self, scratch: Path, tokenizer: CLIPTokenizer) -> None:
        ids_NT = captions.tokens(tokenizer, json.loads((scratch / "sentences.json").read_text()))
        length_N = (ids_NT == tokenizer.eos_token_id).int().argmax(1) + 1
        order_N = length_N.argsort()
        self.ids_NT, self.length_N = ids_NT[order_N], length_N[order_N]
        self.target_ND = torch.from_numpy(np.load(scratch / "sentences.npy")).float()[order_N]

    def draw(self, num: int) -> tuple[Tensor, Tensor]:
        first = int(torch.randint(len(self.ids_NT) - num, ()))
        chosen = slice(first, first + num)
        return self.ids_NT[chosen, : self.length_N[first + num - 1]], self.target_ND[chosen]


def draw_batch(stock: Stock, painter: Painter, tokenizer, rng: random.Random, num: int) -> tuple[Tensor, Tensor]:
    """Scenes about different concepts, in varied light, and their captions."""
    some = scenes.different(lambda: scenes.draw_scene(stock, rng), lambda scene: scene, num)
    ids_BT = captions.tokens(tokenizer, [scenes.caption(stock, scene, rng) for scene in some])
    x_BCHW = F.interpolate(painter.paint(composer.plan(stock, some, rng)), (SIDE, SIDE), mode="area")
    light_BC11 = 1 + 0.15 * (2 * torch.rand(num, 3, 1, 1, device=x_BCHW.device) - 1)
    return x_BCHW * light_BC11 + 0.05 * torch.randn_like(x_BCHW), ids_BT.to(x_BCHW.device)


def matching_loss(logits_BB: Tensor) -> Tensor:
    """Contrastive: which caption belongs to the picture, and which picture to the caption."""
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2


def sentence_loss(text_model: nn.Module, head: nn.Linear, sentences: Sentences) -> Tensor:
    """1 - cosine between what the text side, through `head`, and what the sentence encoder make of some texts."""
    ids_NT, target_ND = (part.to(head.weight.device) for part in sentences.draw(NUM_SENTENCES))
    return 1 - F.cosine_similarity(head(text_model(input_ids=ids_NT).pooler_output), target_ND, dim=1).mean()


@torch.no_grad()
def limit_scale(pair: nn.Module) -> None:
    """As in CLIP: logits are at most 100 times the cosines."""
    pair.logit_scale.clamp_(max=math.log(100))


def train(options) -> None:
    torch.manual_seed(0)
    rng, stock = random.Random(0), Stock(options.scratch)
    painter = Painter(stock, options.device)
    tokenizer = CLIPTokenizer.from_pretrained(options.scratch / "tokenizer")
    sentences = Sentences(options.scratch, tokenizer)
    clip = make_pair(tokenizer).train().to(options.device)
    if options.device == "cpu":
        clip.set_attn_implementation("eager")  # the fused one's backward pass in 16 bit is slow there: half the rate
    head = nn.Linear(clip.config.text_config.hidden_size, sentences.target_ND.shape[1]).to(options.device)
    average, weights = Average(clip, EMA_DECAY), [*clip.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for steps, done in enumerate(by_the_clock(optimiser, options.rate, options.minutes, warm_up_steps=100), 1):
        x_BCHW, ids_BT = draw_batch(stock, painter, tokenizer, rng, options.batch)
        with training.autocast(options.device):
            loss = matching_loss(clip(input_ids=ids_BT, pixel_values=x_BCHW).logits_per_image)
            loss = loss + SENTENCE_WEIGHT * sentence_loss(clip.text_model, head, sentences)
        training.step(optimiser, loss)
        limit_scale(clip)
        average.update(clip, steps)
        if steps % 50 == 0:
            print(f"{done:.3f} done, step {steps}, loss {loss.item():.3f}", flush=True)
    text_side(average.model.eval().cpu()).save_pretrained(options.scratch / "text")


def text_side(clip: CLIPModel) -> CLIPTextModel:
    """The text encoder on its own; its weights' names have lost their prefix in transformers 5."""
    alone, given = CLIPTextModel(clip.config.text_config), clip.state_dict()
    wanted = alone.state_dict()
    alone.load_state_dict({k: given[k if k.startswith("text_model.") else f"text_model.{k}"] for k in wanted})
    return alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=existing, required=True, help="the folder of composer.py and sentences.py")
    parser.add_argument("--minutes", type=float, default=13)
    parser.add_argument("--batch", type=int, default=128, help="scenes a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    add_options(parser)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
