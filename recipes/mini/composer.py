"""The composer: scenes become pictures, on a CPU or on a GPU.

Idea: every concept's drawing is a sprite with alpha. A scene is laid out as a few layers (which sprite, where, how
large, mirrored, with which turn of its hues); all layers of a batch are sampled at once at twice the resolution,
averaged down, and laid over grounds. Layout is a few numbers a picture, so a loader's processes make it; pixels are
made on the device that trains.

    python recipes/mini/composer.py --scratch scratch/mini      # colour names, places.npy, a sheet of 64 scenes
"""

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import captions
import numpy as np
import pictures
import places
import scenes
import torch
import torch.nn.functional as F
from scenes import ACCESSORIES, Scene, Subject
from sizes import existing
from torch import Tensor

HUE_ANGLES = (0, 40, 80, 120, 180, 240, 280, 320)  # degrees; the first leaves them as drawn
PLACE_VARIANTS = 48
GROUND_NOISE = 0.02  # spread of a ground's colour about the named one, of 1
# Of the wearer's box: the accessory's width, and how far below the top its lower edge is
WORN = {
    "top hat": (0.62, 0.18),
    "crown": (0.55, 0.16),
    "cap": (0.72, 0.26),
    "graduation cap": (0.85, 0.26),
    "sun hat": (0.9, 0.28),
    "bow": (0.5, 0.2),
}
ON_EYES = {"sunglasses": (0.8, 0.4), "headphones": (1.12, 0.38)}  # its width, and how far below the top its centre is
# Of the picture: size, centre to either side, centre down from the middle
BESIDE = {"umbrella": (0.6, 0.0, -0.5), "balloon": (0.5, 0.62, -0.42), "gift": (0.4, 0.56, 0.56)}


@dataclass
class Plan:
    """A batch laid out: `layer_L8` = picture, style, concept, hue, centre x, centre y (half sides), size (of the side),
    mirrored; back to front. `ground_B8` = place (-1: none), variant, first colour, second colour (0..1)."""

    layer_L8: Tensor
    ground_B8: Tensor


class Stock:
    """What a composer draws from: the concepts of one split, their sprites and where these are drawn in their cells.

    sprites: uint8 (styles, concepts, 4, side, side), premultiplied; grounds: uint8 (places, variants, 3, side, side);
    boxes: (styles, concepts, 5): left, right, top, bottom, and the middle of the head, in -1..1.
    """

    num_hues = len(HUE_ANGLES)

    def __init__(self, scratch: Path, split: str = "train", side_px: int | None = None) -> None:
        """side_px: smaller than the stored pictures, by a whole factor; None: as stored."""
        self.sprites, self.concepts = pictures.load(scratch)
        self.rows = pictures.in_split(self.concepts, split).tolist()
        self.grounds = torch.from_numpy(np.load(scratch / "places.npy")).permute(0, 1, 4, 2, 3).contiguous()
        if side_px and side_px != self.sprites.shape[-1]:
            self.sprites, self.grounds = shrink(self.sprites, side_px), shrink(self.grounds, side_px)
        self.boxes = find_boxes(self.sprites)
        self.names = json.loads((scratch / "colour_names.json").read_text())
        chosen = [(n, self.concepts[n]) for n in self.rows]
        self.wearers = [n for n, c in chosen if scenes.wears(c)]
        self.countable = [n for n, c in chosen if scenes.countable(c)]
        self.simple = self.countable + [n for n in self.wearers if len(self.concepts[n]["label"].split()) <= 2]
        rows = {c["label"]: n for n, c in enumerate(self.concepts) if c["split"] == "train"}
        self.worn = {name: rows[label] for name, (label, _) in ACCESSORIES.items()}

    def colours_of(self, style: str, subject: Subject) -> list[str]:
        return self.names[pictures.STYLES.index(style)][subject.concept][subject.hue]


def shrink(uint8_ABCHW: Tensor, side_px: int) -> Tensor:
    times = uint8_ABCHW.shape[-1] // side_px
    return torch.stack([F.avg_pool2d(some.float(), times).round().byte() for some in uint8_ABCHW])


def find_boxes(sprites_SN4HW: Tensor) -> Tensor:
    """(S, N, 5): left, right, top, bottom, middle of the head, in -1..1 of the cell."""
    seen_SNHW = sprites_SN4HW[:, :, 3] > 60
    side = seen_SNHW.shape[-1]
    columns, rows = seen_SNHW.any(2).float(), seen_SNHW.any(3).float()
    left, top = columns.argmax(2), rows.argmax(2)
    right, bottom = side - columns.flip(2).argmax(2), side - rows.flip(2).argmax(2)
    line = torch.arange(side)
    head_SNH = (line >= top[..., None]) & (line < (top + (bottom - top) * 0.2)[..., None])
    weight_SNW = (seen_SNHW & head_SNH[..., None]).sum(2).float()
    head = (weight_SNW * (line + 0.5)).sum(2) / weight_SNW.sum(2).clamp(min=1)
    return torch.stack([left, right, top, bottom, head], 2).float() * 2 / side - 1


class Layout:
    """Lays out one scene: appends its layers, back to front."""

    def __init__(self, stock: Stock, scene: Scene, rng: random.Random) -> None:
        self.stock, self.scene, self.rng = stock, scene, rng
        self.style = pictures.STYLES.index(scene.style)
        self.layers: list[tuple[float, ...]] = []
        subject, kind = scene.subjects[0], scene.kind
        if scene.relation:
            self.relation()
        elif kind == "count":
            self.count(subject)
        elif kind == "accessory":
            self.dressed(subject)
        elif kind == "place":
            self.put(subject, rng.uniform(-0.15, 0.15), None, rng.uniform(0.6, 0.78))
        elif subject.size:
            size = rng.uniform(0.36, 0.5) if subject.size == "small" else rng.uniform(1.05, 1.2)
            room = max(0.05, 0.8 - size)
            self.put(subject, rng.uniform(-room, room), rng.uniform(-room, room), size)
        elif rng.random() < 0.35:
            self.put(subject, 0, 0, 1, mirrored=False)  # as it is: most data sets show it so
        else:
            self.put(subject, rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06), rng.uniform(0.88, 1))

    def box(self, concept: int) -> list[float]:
        return self.stock.boxes[self.style, concept].tolist()

    def put(self, subject: Subject, x: float, y: float | None, size: float, mirrored: bool | None = None) -> None:
        """The subject's cell about (x, y) in half sides; y None: its feet on the place's floor."""
        if y is None:
            floor = places.FLOOR[self.scene.place] + self.rng.uniform(-0.03, 0.05) if self.scene.place else 0.9
            y = 2 * floor - 1 - size * self.box(subject.concept)[3]
        mirrored = self.rng.random() < 0.5 if mirrored is None else mirrored
        self.layers.append((self.style, subject.concept, subject.hue, x, y, size, -1 if mirrored else 1))

    def relation(self) -> None:
        """Two subjects; `and` stands for either order side by side."""
        a, b = self.scene.subjects
        relation = self.scene.relation
        if relation == "and":
            relation = self.rng.choice(("to the left of", "to the right of"))
        if relation in ("to the right of", "below", "in front of"):
            a, b = b, a
        turn = {"small": 0.74, "big": 1.16, None: 1.0}
        near = [self.rng.uniform(0.46, 0.52) * turn[s.size] for s in (a, b)]
        jitter = [self.rng.uniform(-0.05, 0.05) for _ in range(2)]
        if relation in ("to the left of", "to the right of"):
            feet = None if self.scene.place else 0
            for s, x, size, moved in zip((a, b), (-0.48, 0.48), near, jitter, strict=True):
                self.put(s, x + moved, feet if feet is None else feet + 2 * self.rng.uniform(-0.06, 0.06), size)
        elif relation in ("above", "below"):
            for s, y, size, moved in zip((a, b), (-0.5, 0.48), near, jitter, strict=True):
                self.put(s, 2 * moved, y, size)
        else:  # a behind b: larger and higher, half of it covered
            side = self.rng.choice((-1, 1))
            self.put(a, side * 0.24, -0.2, self.rng.uniform(0.64, 0.72) * turn[a.size])
            self.put(b, -side * 0.26, 0.34, self.rng.uniform(0.52, 0.58) * turn[b.size])

    def count(self, subject: Subject) -> None:
        """1 to 4 of a kind, apart from each other."""
        grids = {
            1: [([(0, 0)], 0.75)],
            2: [([(-0.48, 0), (0.48, 0)], 0.48)],
            3: [([(-0.64, 0), (0, 0), (0.64, 0)], 0.33), ([(0, -0.46), (-0.46, 0.46), (0.46, 0.46)], 0.46)],
            4: [([(-0.47, -0.47), (0.47, -0.47), (-0.47, 0.47), (0.47, 0.47)], 0.46)],
        }
        spots, size = self.rng.choice(grids[subject.count])
        mirrored = self.rng.random() < 0.5
        for x, y in spots:
            moved = [self.rng.uniform(-0.03, 0.03) for _ in range(2)]
            self.put(subject, x + moved[0], y + moved[1], size * self.rng.uniform(0.92, 1.02), mirrored)

    def dressed(self, subject: Subject) -> None:
        """The wearer and what it wears or holds: hats on the top of the head, glasses over the eyes."""
        name = self.scene.accessory
        rng, low = self.rng, name not in ON_EYES
        size, x = rng.uniform(0.66, 0.76) if low else rng.uniform(0.78, 0.9), rng.uniform(-0.05, 0.05)
        y = None if self.scene.place else (0.24 if low else 0.04)
        self.put(subject, x, y, size, mirrored=rng.random() < 0.5)
        *_, y, _, mirror = self.layers[-1]
        left, right, top, bottom, head = self.box(subject.concept)
        head_x, top_y, tall = mirror * head * size + x, y + top * size, (bottom - top) * size / 2
        width = min((right - left) * size / 2, 1.25 * tall)  # a long animal's head is not as wide as it is long
        own_left, own_right, own_top, own_bottom, _ = self.box(self.stock.worn[name])
        if name in WORN:
            share, sink = WORN[name]
            scale = share * width / ((own_right - own_left) / 2)
            centre = head_x - scale * (own_left + own_right) / 2, top_y + 2 * sink * tall - scale * own_bottom
        elif name in ON_EYES:
            share, below = ON_EYES[name]
            scale = share * width / ((own_right - own_left) / 2)
            long = right - left > 1.3 * (bottom - top)
            middle = head_x if long else mirror * (left + right) / 2 * size + x
            centre = middle, top_y + 2 * below * tall - scale * (own_top + own_bottom) / 2
        else:
            scale, aside, y = BESIDE[name]
            centre = x + aside * rng.choice((-1, 1)), y
        layer = (self.style, self.stock.worn[name], 0, *centre, scale, 1)
        self.layers.insert(0 if name in ("umbrella", "balloon") else 1, layer)


def plan(stock: Stock, some: list[Scene], rng: random.Random) -> Plan:
    """Lays out a batch; needs no pixels."""
    layers, grounds = [], []
    for b, scene in enumerate(some):
        layers += [(b, *layer) for layer in Layout(stock, scene, rng).layers]
        colours = [[c / 255 for c in pictures.COLOURS[name]] for name in (scene.colour, scene.second) if name]
        noise = [rng.gauss(0, GROUND_NOISE) if scene.colour else 0 for _ in range(3)]
        colours = [[c + n for c, n in zip(colour, noise, strict=True)] for colour in colours or [[1.0, 1.0, 1.0]]]
        place = list(places.PLACES).index(scene.place) if scene.place else -1
        grounds.append((place, rng.randrange(stock.grounds.shape[1]), *colours[0], *colours[-1]))
    return Plan(torch.tensor(layers), torch.tensor(grounds))


class Painter:
    """Sprites and places on one device; `paint` turns plans into pictures there."""

    def __init__(self, stock: Stock, device: torch.device | str = "cpu") -> None:
        self.sprites, self.grounds = stock.sprites.to(device), stock.grounds.to(device)
        self.turns_K33 = torch.stack([pictures.hue_turn(math.radians(a)) for a in HUE_ANGLES]).to(device)
        self.device, self.side = device, stock.sprites.shape[-1]

    def paint(self, plan: Plan) -> Tensor:
        """x_BCHW in -1..1."""
        layer_L8, ground_B8 = plan.layer_L8.to(self.device), plan.ground_B8.to(self.device)
        index_L, style_L, concept_L, hue_L = layer_L8[:, :4].long().T.contiguous()
        sprite_LCHW = self.sprites[style_L, concept_L].float() / 255
        sprite_LCHW = pictures.apply_turn(sprite_LCHW, self.turns_K33[hue_L])
        sprite_LCHW = place_sprites(sprite_LCHW, *layer_L8[:, 4:].T)
        x_BCHW = self.ground(ground_B8)
        depth_L = torch.arange(len(index_L), device=self.device) - torch.searchsorted(index_L, index_L)
        for depth in range(int(plan.layer_L8[:, 0].long().bincount().max())):
            now = depth_L == depth
            top_LCHW, b = sprite_LCHW[now], index_L[now]
            x_BCHW[b] = top_LCHW[:, :3] + x_BCHW[b] * (1 - top_LCHW[:, 3:])
        return x_BCHW.clamp(0, 1) * 2 - 1

    def ground(self, ground_B8: Tensor) -> Tensor:
        """A colour, running into another from top to bottom, or a place."""
        ramp_H = torch.linspace(0, 1, self.side, device=self.device)[:, None]
        x_BCHW = torch.lerp(ground_B8[:, 2:5, None, None], ground_B8[:, 5:8, None, None], ramp_H)
        x_BCHW = x_BCHW.expand(-1, -1, -1, self.side).clone()
        scenic = ground_B8[:, 0] >= 0
        place, variant = ground_B8[scenic, :2].long().T
        x_BCHW[scenic] = self.grounds[place, variant].float() / 255
        return x_BCHW


def place_sprites(sprite_LCHW: Tensor, x_L: Tensor, y_L: Tensor, size_L: Tensor, mirror_L: Tensor) -> Tensor:
    """Each sprite at its place, sampled at twice the resolution and averaged, so that small ones do not alias."""
    L, C, H, W = sprite_LCHW.shape
    theta_L23 = sprite_LCHW.new_zeros(L, 2, 3)
    theta_L23[:, 0, 0], theta_L23[:, 1, 1] = mirror_L / size_L, 1 / size_L
    theta_L23[:, 0, 2], theta_L23[:, 1, 2] = -x_L * mirror_L / size_L, -y_L / size_L
    grid = F.affine_grid(theta_L23, [L, C, 2 * H, 2 * W], align_corners=False)
    return F.avg_pool2d(F.grid_sample(sprite_LCHW, grid, mode="bilinear", align_corners=False), 2)


def compose(stock: Stock, some: list[Scene], seed: int) -> Tensor:
    """x_BCHW in -1..1, on the CPU."""
    return Painter(stock).paint(plan(stock, some, random.Random(seed)))


def name_colours(sprites_SN4HW: Tensor) -> list:
    """Names of the main colours: [style][concept][hue]; none for line drawings."""
    names = []
    for style, some_N4HW in zip(pictures.STYLES, sprites_SN4HW, strict=True):
        small_N4HW = F.avg_pool2d(some_N4HW.float() / 255, some_N4HW.shape[-1] // 32)
        turns = [pictures.hue_turn(math.radians(angle))[None] for angle in HUE_ANGLES]
        turned = [pictures.straight(pictures.apply_turn(small_N4HW, turn)).numpy() for turn in turns]
        by_hue = [[[] if style == "line" else captions.main_colours(x) for x in some] for some in turned]
        names.append([list(of_one) for of_one in zip(*by_hue, strict=True)])
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scratch", type=existing, required=True, help="the folder with pictures.npy and concepts.json"
    )
    options = parser.parse_args()
    side = np.load(options.scratch / "pictures.npy", mmap_mode="r").shape[2]
    np.save(options.scratch / "places.npy", places.draw_all(side, PLACE_VARIANTS))
    if not (options.scratch / "colour_names.json").exists():
        (options.scratch / "colour_names.json").write_text(json.dumps(name_colours(pictures.load(options.scratch)[0])))
    stock, rng = Stock(options.scratch), random.Random(0)
    some = [scenes.draw_scene(stock, rng) for _ in range(64)]
    for scene in some:
        print(scenes.caption(stock, scene, rng))
    pictures.sheet(compose(stock, some, 0), 16, options.scratch / "scenes.png")


if __name__ == "__main__":
    main()
