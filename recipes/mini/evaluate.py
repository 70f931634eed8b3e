"""Measures the exported mini prior: what the autoencoder loses, whether pictures match their captions, time and size.

The judge of samples is `eye`, trained on the same training pictures, and the prior's text encoder began as its text
side: its retrieval says whether that small model recognises a sample as its caption, not how good it looks. Real
pictures, judged alike, are the ceiling; chance is 1 / N. The ground check needs no judge: the border of the picture is
compared with the colour the caption asks for.

    python recipes/mini/evaluate.py --scratch scratch/mini --json figures.json
"""

import argparse
import json
import os
import time
from pathlib import Path

import autoencoder
import captions
import export
import eye as judge
import latents
import pictures
import torch
from transformers import CLIPModel, CLIPTokenizer

ASSETS = Path(__file__).resolve().parents[2] / "src" / "limner" / "assets"


def sample_many(pipeline, prompts: list[str], options) -> torch.Tensor:
    chunks = [prompts[n : n + 16] for n in range(0, len(prompts), 16)]
    made = [
        export.sample(pipeline, chunk, seed=n, steps=options.steps, guidance=options.guidance)
        for n, chunk in enumerate(chunks)
    ]
    return torch.cat(made)


def spread(rows: torch.Tensor, count: int) -> list[int]:
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()].tolist()


def retrieval(pipeline, eye, tokenizer, data_SNCHW, concepts, options) -> dict:
    """Sample -> own caption among the captions of all asked concepts; the same for the real 3D renders."""
    found = {}
    for name, split in (("seen", "train"), ("unseen", "test")):
        rows = spread(pictures.in_split(concepts, split), options.concepts)
        texts = [captions.caption(concepts[n], "3d") for n in rows]
        text_ND = judge.embed_text(eye, tokenizer, texts)
        real_BCHW = pictures.over(data_SNCHW[0, rows].float() / 255, torch.ones(1, 3, 1, 1))
        made_BCHW = sample_many(pipeline, texts, options)
        pictures.sheet(
            torch.stack([real_BCHW, made_BCHW], 1).flatten(0, 1)[:64], 16, options.scratch / f"eval_{name}.png"
        )
        found[name] = {
            "samples": judge.recall(judge.embed_pictures(eye, made_BCHW), text_ND),
            "real": judge.recall(judge.embed_pictures(eye, real_BCHW), text_ND),
        }
    return found


def ground_check(pipeline, concepts, options) -> dict:
    """Share of pictures whose border is nearest to the asked colour, of all named colours and white; and the error."""
    names = list(pictures.COLOURS)
    rows = spread(pictures.in_split(concepts, "train"), 2 * len(names))
    asked = [names[k % len(names)] for k in range(len(rows))]
    prompts = [captions.caption(concepts[n], "3d", colour) for n, colour in zip(rows, asked, strict=True)]
    x_BCHW = (sample_many(pipeline, prompts, options).clamp(-1, 1) + 1) * 127.5
    border_B3 = torch.cat([x_BCHW[:, :, :2, :].flatten(2), x_BCHW[:, :, -2:, :].flatten(2)], 2).median(2).values
    table = torch.tensor([*pictures.COLOURS.values(), (255, 255, 255)]).float()
    nearest = torch.cdist(border_B3, table).argmin(1).tolist()
    wanted_B3 = torch.tensor([pictures.COLOURS[colour] for colour in asked]).float()
    return {
        "right": round(sum(names.index(a) == n for a, n in zip(asked, nearest, strict=True)) / len(asked), 3),
        "mean_abs_error_of_255": round(float((border_B3 - wanted_B3).abs().mean()), 1),
        "of": len(asked),
        "chance": round(1 / len(table), 3),
    }


def caption_gain(pipeline, data_SNCHW, concepts) -> dict:
    """MSE on v for real 3D renders with their own caption, another's, none: does the text reach the picture?"""
    found = {}
    for name, split in (("seen", "train"), ("unseen", "test")):
        rows = spread(pictures.in_split(concepts, split), 48)
        z_BCHW = latents.encode(pipeline.vae, pictures.over(data_SNCHW[0, rows].float() / 255, torch.ones(1, 3, 1, 1)))
        texts = [captions.caption(concepts[n], "3d") for n in rows]
        asked = {"own": texts, "another's": texts[1:] + texts[:1], "none": [""] * len(texts)}
        torch.manual_seed(0)
        noise_BCHW = torch.randn_like(z_BCHW)
        for t in (999, 600):
            t_B = torch.full((len(rows),), t)
            noisy_BCHW = pipeline.scheduler.add_noise(z_BCHW, noise_BCHW, t_B)
            target_BCHW = pipeline.scheduler.get_velocity(z_BCHW, noise_BCHW, t_B)
            for which, words in asked.items():
                ids_BT = pipeline.tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
                guess_BCHW = pipeline.unet(noisy_BCHW, t_B, pipeline.text_encoder(ids_BT).last_hidden_state).sample
                found[f"{name}, t {t}, {which}"] = round(float((guess_BCHW - target_BCHW).square().mean()), 4)
    return found


def seconds_a_picture(pipeline, options) -> dict:
    """One guided picture at a time, best and median of five."""
    times = []
    for seed in range(6):
        start = time.perf_counter()
        export.sample(pipeline, ["a 3D render of a cat face"], seed, options.steps, options.guidance)
        times.append(time.perf_counter() - start)
    times = sorted(times[1:])
    return {
        "best": round(times[0], 2),
        "median": round(times[2], 2),
        "steps": options.steps,
        "threads": torch.get_num_threads(),
    }


def sizes(folder: Path) -> dict:
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*.safetensors"))}
    return files | {"all_files": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with pictures.npy; sheets go there too")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the folder with mini/ and eye/")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--concepts", type=int, default=64, help="samples a split")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.5)
    options = parser.parse_args()

    data_SNCHW, concepts = pictures.load(options.scratch)
    pipeline = export.open_pipeline(options.assets / "mini")
    eye = CLIPModel.from_pretrained(options.assets / "eye", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(options.assets / "eye")
    with torch.no_grad():
        held_out = autoencoder.held_out_pictures(data_SNCHW, concepts)
        figures = {
            "training": json.loads((options.assets / "mini" / "training.json").read_text()),
            "autoencoder_psnr_db": {k: round(autoencoder.psnr(pipeline.vae, x), 2) for k, x in held_out.items()},
            "retrieval_by_eye": retrieval(pipeline, eye, tokenizer, data_SNCHW, concepts, options),
            "caption_gain_mse": caption_gain(pipeline, data_SNCHW, concepts),
            "ground_colour": ground_check(pipeline, concepts, options),
            "seconds_a_guided_picture": seconds_a_picture(pipeline, options) | {"load_average": os.getloadavg()[0]},
            "parameters": {
                n: sum(p.numel() for p in getattr(pipeline, n).parameters()) for n in ("unet", "text_encoder", "vae")
            },
            "bytes": {name: sizes(options.assets / name) for name in ("mini", "eye")},
            "guidance": options.guidance,
        }
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
