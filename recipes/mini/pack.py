"""What a machine without the packages needs to train the prior: one zip, and back.

Pictures are stored as WebP (a fifteenth of the arrays; the 3D renders with a loss that is below that of the packaged
ones). After `unpack`, `recipe.py` goes on with the autoencoder.

    python recipes/mini/pack.py pack   --scratch scratch/base --zip base.zip
    python recipes/mini/pack.py unpack --scratch scratch/base --zip base.zip
"""

import argparse
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pictures
from PIL import Image

ARRAYS = ("pictures", "places")
FILES = ("concepts.json", "colour_names.json", "near.json")
PARTS = ["packages", "data", "composer", "sentences", "near"]  # of recipe.py, that need not run there


def webp(pixels_HWC: np.ndarray, lossless: bool) -> bytes:
    """exact: what is transparent keeps its colour."""
    data = io.BytesIO()
    quality = {"lossless": True} if lossless else {"quality": 92, "alpha_quality": 100}
    Image.fromarray(pixels_HWC).save(data, "WEBP", method=4, exact=True, **quality)
    return data.getvalue()


def pack(scratch: Path, archive: zipfile.ZipFile) -> None:
    for name in ARRAYS:
        array = np.load(scratch / f"{name}.npy", mmap_mode="r")
        for a, b in np.ndindex(array.shape[:2]):
            lossless = name == "places" or pictures.STYLES[a] != "3d"
            archive.writestr(f"{name}/{a}_{b}.webp", webp(np.asarray(array[a, b]), lossless))
        archive.writestr(f"{name}/shape.json", json.dumps(array.shape))
    for name in FILES:
        archive.write(scratch / name, name, zipfile.ZIP_DEFLATED)


def unpack(scratch: Path, archive: zipfile.ZipFile) -> None:
    names = [n for n in archive.namelist() if not n.endswith(".webp") and not n.endswith("shape.json")]
    archive.extractall(scratch, names)
    for name in ARRAYS:
        array = np.zeros(json.loads(archive.read(f"{name}/shape.json")), np.uint8)
        mode = {3: "RGB", 4: "RGBA"}[array.shape[-1]]  # WebP leaves out an alpha that is full
        for a, b in np.ndindex(array.shape[:2]):
            array[a, b] = np.asarray(Image.open(io.BytesIO(archive.read(f"{name}/{a}_{b}.webp"))).convert(mode))
        np.save(scratch / f"{name}.npy", array)
    (scratch / "done.json").write_text(json.dumps(PARTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("--scratch", type=Path, required=True, help="read by pack, made by unpack")
    parser.add_argument("--zip", type=Path, required=True)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.zip, "w" if options.what == "pack" else "r") as archive:
        {"pack": pack, "unpack": unpack}[options.what](options.scratch, archive)


if __name__ == "__main__":
    main()
