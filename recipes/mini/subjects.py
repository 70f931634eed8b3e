"""A dozen subjects in 22 to 25 scenes each: the packaged data set for teaching a model one thing (`subjects.zip`).

Idea: the composer that trains the prior lays out and paints these pictures too, at 256 px and about concepts that the
prior never saw. So a subject keeps its looks from picture to picture while place, size and company change, and for each
picture it is known where the subject is. Six scenes are to learn from; ten, with other grounds, company and dress, are
held out, and so are six to nine more on other colours, the grounds that the built-in prior knows best.

    python recipes/mini/build_data.py --packages node_modules --scratch scratch/mini
    python recipes/mini/subjects.py --packages node_modules --scratch scratch/mini
"""

import argparse
import copy
import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import build_data
import numpy as np
import places
import scenes
import torch
from composer import Painter, Plan, Stock, plan
from pictures import COLOURS
from PIL import Image
from scenes import Scene, Subject
from sizes import existing

SIDE_PX, PLACE_VARIANTS = 256, 6
SEED = 4
# Concepts of the test split, and the one word that says what they are.
SUBJECTS = {
    "1F405": "tiger",
    "1F9AE": "dog",
    "1F99A": "peacock",
    "1F41D": "bee",
    "1F98B": "butterfly",
    "1F695": "taxi",
    "1F951": "avocado",
    "1F346": "eggplant",
    "1F47B": "ghost",
    "2603": "snowman",
    "1F52D": "telescope",
    "1F9F0": "toolbox",
}
# What is to be seen of each, to stand for its word in a caption: the word comes first, so that its article stays.
LOOKS = {
    "tiger": "tiger in orange with black stripes",
    "dog": "dog in beige with a blue collar",
    "peacock": "peacock in blue with green and yellow feathers",
    "bee": "bee in yellow and black with blue wings",
    "butterfly": "butterfly with red wings and dark purple edges",
    "taxi": "taxi in yellow with a black checkered stripe",
    "avocado": "avocado half in green with a brown seed",
    "eggplant": "eggplant in purple with a green stem",
    "ghost": "ghost in white winking with its tongue out",
    "snowman": "snowman in a blue scarf and black hat",
    "telescope": "telescope in grey and purple on a tripod",
    "toolbox": "toolbox in red with a black handle",
}
DRESSED = {"tiger", "dog", "ghost", "toolbox"}  # a hat suits it; the others get a present
HATS, PRESENTS = ("top hat", "crown", "graduation cap"), ("balloon", "gift")
MORE_PRESENTS = (*PRESENTS, "umbrella")
RELATIONS = ("and", "above", "below", "in front of")  # behind a thing it would be half hidden
AFLOAT = ("sea", "space")  # a subject hangs high there: no room for a hat
NEIGHBOURS = (
    "red apple",
    "soccer ball",
    "potted plant",
    "chair",
    "teddy bear",
    "cat",
    "watermelon",
    "guitar",
    "mushroom",
    "bucket",
    "sunflower",
    "evergreen tree",
)
GROUNDS = ("light blue", "yellow", "light green", "pink", "beige", "purple")
MORE_GROUNDS = (*GROUNDS, "blue", "green", "orange")
CHOOSING = ("grey", "beige", "brown")  # no further context is on these: checkpoints are chosen by pictures on them


@dataclass
class Picture:
    """A scene of one subject, and the split it is in."""

    word: str
    scene: Scene
    split: str


def concepts_for(scratch: Path) -> list[dict]:
    """The rows of the subjects, under their one word, of the neighbours and of what can be worn."""
    rows = {c["id"]: c for c in json.loads((scratch / "concepts.json").read_text())}
    named = [rows[name] | {"label": word, "subject": build_data.phrase(word)} for name, word in SUBJECTS.items()]
    assert all(row["split"] == "test" for row in named), "a subject must be held out"
    labels = {*NEIGHBOURS, *(label for label, _ in scenes.ACCESSORIES.values())}
    return named + [c for c in rows.values() if c["label"] in labels and c["split"] == "train"]


def open_stock(packages: Path, concepts: list[dict]) -> Stock:
    """A composer's stock of these concepts alone, drawn at 256 px."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_data.write_arrays(folder, concepts, build_data.open_drawings(packages), SIDE_PX)
        np.save(folder / "places.npy", places.draw_all(SIDE_PX, PLACE_VARIANTS))
        (folder / "colour_names.json").write_text("[]")
        return Stock(folder, split="test")


def scenes_of(word: str, stock: Stock, rng: random.Random) -> list[Picture]:
    """Alone, small, on a colour, in two places and beside a neighbour; held out: two other places, with a neighbour in
    a third, and dressed up."""
    rows = {concept["label"]: n for n, concept in enumerate(stock.concepts)}
    it = Subject(rows[word])
    last = rng.choice([place for place in places.PLACES if place not in AFLOAT])
    grounds = [*rng.sample([place for place in places.PLACES if place != last], 5), last]
    others = [Subject(rows[label]) for label in rng.sample(NEIGHBOURS, 2)]
    sides = rng.sample(("to the left of", "to the right of"), 2)
    train = [
        Scene("alone", "3d", (it,)),
        Scene("size", "3d", (Subject(rows[word], size="small"),)),
        Scene("colour", "3d", (it,), colour=rng.choice(GROUNDS)),
        Scene("place", "3d", (it,), place=grounds[0]),
        Scene("place", "3d", (it,), place=grounds[1]),
        Scene("relation", "3d", (it, others[0]), relation=sides[0]),
    ]
    accessory = rng.choice(HATS if word in DRESSED else PRESENTS)
    test = [
        Scene("place", "3d", (it,), place=grounds[2]),
        Scene("place", "3d", (it,), place=grounds[3]),
        Scene("relation", "3d", (it, others[1]), relation=sides[1], place=grounds[4]),
        Scene("accessory", "3d", (it,), accessory=accessory, place=grounds[5]),
    ]
    return [Picture(word, scene, split) for split, some in (("train", train), ("test", test)) for scene in some]


def more_scenes_of(word: str, stock: Stock, known: list[Picture], rng: random.Random) -> list[Picture]:
    """Held out too, each with what `known` has not: a colour, a place, a neighbour on white and one on a colour, small
    (on a colour, or hanging in the sea or in space), and dressed up on white."""
    rows = {concept["label"]: n for n, concept in enumerate(stock.concepts)}
    shown = [picture.scene for picture in known]
    met = {subject.concept for scene in shown for subject in scene.subjects}
    it, small = Subject(rows[word]), Subject(rows[word], size="small")
    left = [place for place in places.PLACES if place not in {scene.place for scene in shown}]
    place = rng.choice([place for place in left if place not in AFLOAT])
    # A ground of the subject's own colour would hide it.
    apart = [colour for colour in MORE_GROUNDS if colour.split()[-1] not in LOOKS[word]]
    colours = rng.sample([colour for colour in apart if colour not in {scene.colour for scene in shown}], 3)
    others = [Subject(rows[label]) for label in rng.sample([n for n in NEIGHBOURS if rows[n] not in met], 2)]
    relation, side = rng.choice(RELATIONS), rng.choice(("to the left of", "to the right of"))
    worn = [name for name in (HATS if word in DRESSED else MORE_PRESENTS) if name != shown[-1].accessory]
    afloat = [name for name in AFLOAT if name in left]
    hung = rng.choice([{"colour": colours[2]}, *({"place": name} for name in afloat)])
    more = [
        Scene("colour", "3d", (it,), colour=colours[0]),
        Scene("place", "3d", (it,), place=place),
        Scene("relation", "3d", (it, others[0]), relation=relation),
        Scene("relation", "3d", (it, others[1]), relation=side, colour=colours[1]),
        Scene("size", "3d", (small,), **hung),
        Scene("accessory", "3d", (it,), accessory=rng.choice(worn)),
    ]
    return [Picture(word, scene, "test") for scene in more]


def coloured_scenes_of(word: str, stock: Stock, known: list[Picture]) -> list[Picture]:
    """Held out as well: alone on each colour that it is not alone on in `known`, without those of its looks (their
    lighter and darker shades do not hide it) and those that checkpoints are chosen by."""
    rows = {concept["label"]: n for n, concept in enumerate(stock.concepts)}
    # Not with company on a colour: that is another context.
    shown = {picture.scene.colour for picture in known if picture.scene.kind == "colour"}
    left = [name for name in COLOURS if name not in shown and name not in CHOOSING]
    apart = [name for name in left if f" {name} " not in f"{LOOKS[word]} "]
    return [Picture(word, Scene("colour", "3d", (Subject(rows[word]),), colour=name), "test") for name in apart]


def paint(stock: Stock, picture: Picture, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    """The picture, and in white where its subject is to be seen."""
    laid_out = plan(stock, [picture.scene], rng)
    ghosts = copy.copy(stock)  # the same drawings, all black but the subject
    ghosts.sprites = stock.sprites.clone()
    ghosts.sprites[:, :, :3] = 0
    row = picture.scene.subjects[0].concept
    ghosts.sprites[:, row, :3] = ghosts.sprites[:, row, 3:]
    black = torch.tensor([[-1.0] + [0.0] * 7])
    x_CHW = Painter(stock).paint(laid_out)[0]
    seen_HW = Painter(ghosts).paint(Plan(laid_out.layer_L8, black))[0, 0] > 0
    uint8_HWC = ((x_CHW + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(uint8_HWC.numpy()), Image.fromarray(seen_HW.numpy()).convert("L")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="a node_modules folder")
    parser.add_argument(
        "--scratch", type=existing, required=True, help="the folder with the concepts.json of build_data.py"
    )
    parser.add_argument("--assets", type=Path, default=build_data.ASSETS, help="where subjects.zip goes")
    options = parser.parse_args()

    stock, rng = open_stock(options.packages, concepts_for(options.scratch)), random.Random(SEED)
    rows, files = [], []
    for name, word in SUBJECTS.items():
        first, own = scenes_of(word, stock, rng), random.Random(word)
        more, last = more_scenes_of(word, stock, first, own), random.Random(f"{word} on colours")
        coloured = coloured_scenes_of(word, stock, [*first, *more])
        # Each batch by lots of its own: the earlier pictures stay as they were.
        batches = ((first, rng), (more, own), (coloured, last))
        for number, (picture, lots) in enumerate((picture, lots) for batch, lots in batches for picture in batch):
            image, mask = paint(stock, picture, lots)
            row = {
                "file_name": f"target/{word}-{number}.webp",
                "mask": f"mask/{word}-{number}.webp",
                "caption": scenes.caption(stock, picture.scene, lots, plain=True),
                "split": picture.split,
                "subject": word,
                "looks": LOOKS[word],
                "kind": picture.scene.kind,
                "scene": picture.scene.place or picture.scene.kind,
                "box": mask.getbbox(),
                "id": name,
            }
            rows.append(row)
            files.append((row["file_name"], build_data.encode(image, "WEBP", quality=90)))
            files.append((row["mask"], build_data.encode(mask, "WEBP", lossless=True, method=6)))
    index = "".join(json.dumps(row) + "\n" for row in rows).encode()
    build_data.write_zip(options.assets / "subjects.zip", [("metadata.jsonl", index), *files])
    print(f"{len(rows)} pictures of {len(SUBJECTS)} subjects")


if __name__ == "__main__":
    main()
