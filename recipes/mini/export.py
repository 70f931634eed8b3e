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

PROMPTS = (  # sixteen to a row; the last eight are of concepts or words that no picture or caption of training had
    "a 3D render of a red apple",
    "a 3D render of a cat face",
    "a 3D render of a house",
    "a 3D render of a grinning face with big eyes",
    "a 3D render of a turtle",
    "a 3D render of a robot",
    "a 3D render of a sunflower",
    "a 3D render of a rocket",
    "a 3D render of a fox",
    "a 3D render of a teddy bear in light blue",
    "a 3D render of a mushroom in red and white",
    "a 3D render of a teapot in purple",
    "a 3D render of a bell on a light blue background",
    "a 3D render of a pineapple on a pink background",
    "a 3D render of a potted plant on a background from yellow to orange",
    "a 3D render of a heart with ribbon on a dark blue background",
    "a 3D render of a koala in a forest",
    "a 3D render of a penguin in the snow",
    "a 3D render of a crab on a beach",
    "a 3D render of an alien in space",
    "a 3D render of a camel in a desert",
    "a 3D render of a tropical fish under water",
    "a 3D render of an owl under a night sky",
    "a 3D render of a rabbit face in a meadow",
    "a 3D render of a violin on a stage",
    "a 3D render of an automobile in a city",
    "a 3D render of a television in a room",
    "a 3D render of a tent in the mountains",
    "a 3D render of a smiling face on a beach",
    "a 3D render of a lizard in a desert",
    "a 3D render of a frog in a forest",
    "a 3D render of a flying saucer under a night sky",
    "a 3D render of a dog face wearing a top hat",
    "a 3D render of a smiling face wearing sunglasses",
    "a 3D render of a monkey face wearing headphones",
    "a 3D render of a rabbit face wearing a crown",
    "a 3D render of a penguin under an umbrella in the snow",
    "a 3D render of a bear wearing a pink bow",
    "a 3D render of a frog wearing a graduation cap on a yellow background",
    "a 3D render of a tiger face wearing sunglasses on a beach",
    "a 3D render of two cherries",
    "a 3D render of three balloons",
    "a 3D render of four strawberries",
    "a 3D render of two penguins on a light blue background",
    "a 3D render of three doughnuts",
    "a 3D render of four stars on a dark blue background",
    "a 3D render of two mushrooms",
    "a 3D render of three hamburgers",
    "a 3D render of a dog to the left of a house",
    "a 3D render of a banana to the right of a tangerine",
    "a 3D render of a bird above an evergreen tree",
    "a 3D render of a fish below a sailboat",
    "a 3D render of a mouse in front of a cheese wedge",
    "a flat drawing of a hamburger",
    "a noto drawing of a pizza",
    "a line drawing of a castle",
    "a 3D render of a taxi",
    "a 3D render of a rose in red and green",
    "a 3D render of a pooch",
    "a 3D render of a puppy wearing a cap",
    "a cute kitten at the seaside, 3D",
    "a picture of a spaceship among the stars",
    "a 3D render of an angry man",
    "a cartoon of a delicious dessert",
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
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)  # a path of the machine that trained it
        if "dtype" in part:
            part["dtype"] = "float32"
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
    pipeline = open_pipeline(folder)
    made = [sample(pipeline, list(PROMPTS[n : n + 16]), seed=n, guidance=guidance) for n in range(0, len(PROMPTS), 16)]
    pictures.sheet(torch.cat(made), 16, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--guidance", type=float, default=2.5)
    options = parser.parse_args()
    draw_sheet(options.folder, options.sheet, options.guidance)


if __name__ == "__main__":
    main()
