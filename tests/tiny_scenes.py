"""What a composer of the mini prior's recipe draws from: every concept is a square in the middle of its cell."""

import json
from pathlib import Path

import numpy as np

SIDE = 32
ANIMAL, FOOD = {"group": 3, "subgroup": 34}, {"group": 4, "subgroup": 42}
COLOURS = {"apple": (200, 30, 40), "fox": (30, 60, 200), "pear": (40, 160, 60)}


def write_arrays(folder: Path) -> Path:
    """Accessories are yellow; one concept is held out."""
    import pictures
    import scenes

    concepts = [{"label": name, "split": "train", **(ANIMAL if name == "fox" else FOOD)} for name in COLOURS]
    concepts += [
        {"label": label, "split": "train", "group": 7, "subgroup": 65} for label, _ in scenes.ACCESSORIES.values()
    ]
    concepts += [{"label": "plum", "split": "test", **FOOD}]
    for concept in concepts:
        concept |= {"subject": f"a {concept['label']}", "keywords": ["thing"]}
    sprites = np.zeros((len(pictures.STYLES), len(concepts), SIDE, SIDE, 4), np.uint8)
    for n, concept in enumerate(concepts):
        sprites[:, n, 4:-4, 4:-4] = (*COLOURS.get(concept["label"], (250, 200, 30)), 255)
    np.save(folder / "pictures.npy", sprites)
    np.save(folder / "places.npy", np.full((12, 2, SIDE, SIDE, 3), 128, np.uint8))
    (folder / "concepts.json").write_text(json.dumps(concepts))
    (folder / "colour_names.json").write_text(json.dumps([[[["blue"]] * 8] * len(concepts)] * 4))
    (folder / "near.json").write_text(json.dumps({list(COLOURS).index("fox"): {"wolf": 0.9, "coat": 0.1}}))
    return folder
