"""Writes the mini prior as one diffusers folder with 16-bit weights, and draws a sheet of pictures from it.

python recipes/mini/export.py --folder src/limner/assets/mini --sheet sheet.png
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import captions
import pictures
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from transformers import CLIPTextModel

PROMPTS = (
    "a 3D render of a red apple",
    "a 3D render of a cat face",
    "a 3D render of a house",
    "a 3D render of a grinning face with big eyes",
    "a 3D render of a red heart on a light blue background",
    "a 3D render of a sunflower",
    "a 3D render of a pencil on a yellow background",
    "a 3D render of a woman firefighter",
    "a flat drawing of a hot dog",
    "a flat drawing of a palm tree",
    "a noto drawing of a pizza",
    "a noto drawing of a dog face on a pink background",
    "a line drawing of a key",
    "a line drawing of a castle",
    "a 3D render of a taxi",  # held out, as is the next
    "a 3D render of a goal net",
)


def swap(new: Path, folder: Path) -> None:
    """Puts `new` in the place of `folder`, so that a reader meets the old one or the new one, whole."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        for card in folder.glob("*.md"):
            shutil.copy2(card, new / card.name)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def halved(model, folder: Path) -> None:
    """16-bit weights; the config still says float32, so that a CPU loads what it can run."""
    copy.deepcopy(model).half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # a path of the machine that trained it
    if isinstance(model, CLIPTextModel):
        config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_pipeline(models, vae, tokenizer, scheduler, folder: Path, progress: dict) -> None:
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    parts = {"unet": models["unet"], "text_encoder": models["text_encoder"], "vae": vae}
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(new)
    for name, model in parts.items():
        halved(model, new / name)
    captions.save_tokenizer(tokenizer, new / "tokenizer")
    (new / "training.json").write_text(json.dumps(progress, indent=1) + "\n")
    swap(new, folder)


@torch.no_grad()
def sample(pipeline, prompts: list[str], seed: int = 0, steps: int = 20, guidance: float = 2.5) -> torch.Tensor:
    """Pictures in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    made = pipeline(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="pt")
    return made.images * 2 - 1


def open_pipeline(folder: Path):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_sheet(folder: Path, path: Path, guidance: float = 2.5) -> None:
    pictures.sheet(sample(open_pipeline(folder), list(PROMPTS), guidance=guidance), 8, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--guidance", type=float, default=2.5)
    options = parser.parse_args()
    draw_sheet(options.folder, options.sheet, options.guidance)


if __name__ == "__main__":
    main()
