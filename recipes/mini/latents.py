"""Latents for training the mini prior's denoiser, computed once: the autoencoder is frozen, so why run it again.

    python recipes/mini/latents.py --scratch scratch/mini

Reads pictures.npy, concepts.json and vae/; writes latents.pt and tokenizer/. Each training concept is kept in every
style, as it is, moved about, and in other hues, on white and on named colours (its caption says so). Other hues teach
that the colours a caption names are the ones to use, whatever the concept.
"""

import argparse
import json
from pathlib import Path

import captions
import pictures
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import CLIPTokenizer

STYLE_SHARES = {"3d": 0.55, "flat": 0.2, "noto": 0.15, "line": 0.1}
# Variants of each (concept, style): what is done to the picture. The first is the picture as it is.
MOVED, HUES, GROUND = "moved", "hues", "ground"
VARIANTS = {
    "3d": [
        set(),
        {MOVED},
        {MOVED},
        {MOVED, HUES},
        {MOVED, HUES},
        {MOVED, GROUND},
        {MOVED, GROUND},
        {MOVED, HUES, GROUND},
    ],
    "flat": [set(), {MOVED}, {MOVED, HUES}, {MOVED, GROUND}],
    "noto": [set(), {MOVED}, {MOVED, HUES}, {MOVED, GROUND}],
    "line": [set(), {MOVED}, {MOVED, GROUND}],
}
# How often a caption says a keyword, names the colours (always, where the hues were turned), and is empty.
KEYWORD_SHARE, COLOURS_SHARE, EMPTY_SHARE = 0.15, 0.75, 0.1


def read_autoencoder(folder: Path) -> AutoencoderTiny | AutoencoderKL:
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    return {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}[kind].from_pretrained(folder)


def encode(vae, x_BCHW: torch.Tensor) -> torch.Tensor:
    encoded = vae.encode(x_BCHW)
    z_BCHW = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    return z_BCHW * vae.config.scaling_factor


@torch.no_grad()
def write(scratch: Path) -> None:
    """Encodes every variant of every training picture; trains the tokenizer on the training captions."""
    torch.manual_seed(0)
    data_SNCHW, concepts = pictures.load(scratch)
    vae = read_autoencoder(scratch / "vae").eval()
    rows = pictures.in_split(concepts, "train")
    if not (scratch / "tokenizer").exists():  # ties are broken by chance: a second one would not fit the eye
        captions.write_tokenizer([concepts[n] for n in rows], scratch / "tokenizer")
    names = list(pictures.COLOURS)
    table = torch.tensor(list(pictures.COLOURS.values())) / 255
    latents, notes = [], []
    for style, variants in VARIANTS.items():
        for done in variants:
            x_BCHW = data_SNCHW[pictures.STYLES.index(style), rows].float() / 255
            x_BCHW = pictures.jitter(x_BCHW, scale=(0.88, 1.0), shift=0.06) if MOVED in done else x_BCHW
            x_BCHW = pictures.turn_hues(x_BCHW) if HUES in done else x_BCHW
            colours = [[] if style == "line" else captions.main_colours(x) for x in pictures.straight(x_BCHW).numpy()]
            ground = torch.randint(len(names), (len(rows),))
            ground_BC = table[ground] if GROUND in done else torch.ones(1, 3)
            x_BCHW = pictures.over(x_BCHW, ground_BC[:, :, None, None])
            latents += [encode(vae, x).half() for x in x_BCHW.split(64)]
            for i, n in enumerate(rows.tolist()):
                where = names[ground[i]] if GROUND in done else None
                notes.append((n, style, where, colours[i], HUES in done))
            print(f"{style}, {sorted(done)}: {len(notes)} latents", flush=True)
    z_BCHW = torch.cat(latents)
    torch.save({"latents": z_BCHW, "notes": notes}, scratch / "latents.pt")
    mean_C, std_C = z_BCHW.float().mean((0, 2, 3)), z_BCHW.float().std((0, 2, 3))
    print(f"latents: mean {mean_C.tolist()}, std {std_C.tolist()}, largest {z_BCHW.abs().max():.2f}")


class Latents:
    """Draws (latents, token ids) with the shares of styles above."""

    def __init__(self, scratch: Path):
        stored = torch.load(scratch / "latents.pt", weights_only=True)
        self.latents, self.notes = stored["latents"], stored["notes"]
        self.concepts = json.loads((scratch / "concepts.json").read_text())
        self.tokenizer = CLIPTokenizer.from_pretrained(scratch / "tokenizer")
        counts = {s: sum(note[1] == s for note in self.notes) for s in STYLE_SHARES}
        self.weights = torch.tensor([STYLE_SHARES[note[1]] / counts[note[1]] for note in self.notes])

    def draw(self, B: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.multinomial(self.weights, B).tolist()
        texts = []
        for concept, style, ground, colours, turned in (self.notes[n] for n in rows):
            told = colours if turned or torch.rand(()) < COLOURS_SHARE else []
            text = captions.caption(self.concepts[concept], style, ground, KEYWORD_SHARE, told)
            texts.append("" if torch.rand(()) < EMPTY_SHARE else text)
        return self.latents[rows].float(), self.tokens(texts)

    def tokens(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with pictures.npy and vae/")
    write(parser.parse_args().scratch)


if __name__ == "__main__":
    main()
