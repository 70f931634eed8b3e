"""A dozen places to put a subject in front of: procedural backgrounds as SVG text, no two alike.

Idea: a picture of one thing becomes a scene when it stands somewhere. Each place keeps its landmarks at the sides and
the top and leaves the middle front free, is built of few, large, rounded shapes with soft gradients (what a small model
can learn, and what goes with Fluent emoji), and varies in arrangement, hues and time of day from a random state alone.

    python recipes/mini/places.py --sheet places.png
"""

import argparse
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image
from shapes import (
    CACTUS,
    CORAL,
    CRESCENT,
    DAY,
    DUSK,
    FLOWER,
    GOLD,
    LAMP,
    MOON,
    MUSHROOM,
    NIGHT,
    PALM,
    PARASOL,
    PEAK,
    PINE,
    PLANT,
    ROUND_TREE,
    SAND,
    WEED,
    WHITE_PINE,
    at,
    blob,
    box,
    building,
    clouds,
    finish,
    glow,
    ground,
    line,
    path,
    shift,
    sky,
    stars,
)

PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on a beach", "at the beach", "by the sea"),
    "forest": ("in a forest", "in the woods", "among trees"),
    "meadow": ("in a meadow", "in a field of flowers", "among flowers"),
    "desert": ("in a desert", "in the desert", "among cacti"),
    "mountains": ("in the mountains", "in front of mountains", "near snowy peaks"),
    "snow": ("in the snow", "on a snowy day", "in winter"),
    "city": ("in a city", "on a city street", "in town"),
    "night sky": ("under a night sky", "at night", "under the stars"),
    "space": ("in space", "in outer space", "among the planets"),
    "sea": ("under water", "under the sea", "in the ocean"),
    "room": ("in a room", "indoors", "at home"),
    "stage": ("on a stage", "on stage", "in a theatre"),
}
# Where the feet of a standing subject go, as a fraction of the height from the top; at 0.75 it floats.
FLOOR: dict[str, float] = dict.fromkeys(PLACES, 0.88) | {"space": 0.75, "sea": 0.75}


def beach(rng: random.Random) -> str:
    day, shore = rng.random() < 0.65, rng.uniform(84, 90)
    body = sky(rng, *(DAY if day else DUSK)) + glow(rng.uniform(76, 108), rng.uniform(18, 34), rng.uniform(9, 13))
    body += box(-1, rng.uniform(54, 62), 130, 50, shift("#1d9fe0/#8ceee2" if day else "#7a6fd8/#ffb9a6", rng))
    body += line(f"M{rng.uniform(70, 90):.0f} 68H112M{rng.uniform(36, 56):.0f} 76H76", "#c8f0f8", 2)
    sand = ground(rng, shore, 4, SAND)
    body += at(0, -3, sand.replace(SAND, "#ffffff")) + at(0, 1, sand)
    if rng.random() < 0.6:
        colour = rng.choice(("#ff5a5f", "#ff9f1c", "#a55eea", "#2ec4b6"))
        body += at(rng.uniform(102, 110), rng.uniform(106, 112), PARASOL, 0.95, colour, 8)
    return body + at(
        rng.uniform(8, 18), rng.uniform(106, 116), PALM, rng.uniform(1.1, 1.3), shift("#5fd05a/#1f8f4a", rng)
    )


def forest(rng: random.Random) -> str:
    greens = [shift(green, rng, 0.04) for green in ("#7fd05c/#2f9148", "#5fbf62/#1f7a4c", "#a4d84e/#4f9c3a")]
    body = sky(rng, "#f4fbc4/#a8dc9c", "#d8f5e4/#8fd0a8", "#fff0b8/#b8dc88", "#cfeefc/#a4dcb0")
    for x in range(10, 128, 22):
        body += at(x + rng.uniform(-5, 5), 94, PINE, rng.uniform(0.9, 1.3), "#9fd79a/#74bd86")
    body += ground(rng, 90, 3, shift("#8ed45a/#4c9c3e", rng))
    for x, y, scale in ((16, 104, 1.2), (112, 104, 1.2), (0, 114, 1.5), (128, 114, 1.5)):
        tree = rng.choice((PINE, ROUND_TREE))
        body += at(x + rng.uniform(-4, 4), y, tree, scale + rng.uniform(-0.1, 0.1), rng.choice(greens))
    return body + (at(rng.uniform(22, 32), 122, MUSHROOM, 1.3) if rng.random() < 0.6 else "")


def meadow(rng: random.Random) -> str:
    petals = rng.sample(("#ff6f91", "#ff4f4f", "#b06ef0", "#ffffff", "#ff9a3c", "#ff8fd0"), 3)
    body = sky(rng, *rng.choice((DAY, DAY, DUSK))) + glow(rng.uniform(96, 112), rng.uniform(18, 26), 10) + clouds(rng)
    body += ground(rng, 70, 8, shift("#c4ec72/#86cf50", rng)) + ground(rng, 86, 5, shift("#94dc5c/#4bab40", rng))
    for n, x in enumerate((12, 36, 58, 80, 100, 120)):
        body += at(x + rng.uniform(-6, 6), rng.uniform(95, 102), FLOWER, 0.65, petals[n % 3])
    for n, x in enumerate((8, 28, 50, 78, 100, 120)):
        scale = rng.uniform(1.2, 1.5) if abs(x - 64) > 20 else 0.7
        body += at(x + rng.uniform(-4, 4), rng.uniform(118, 127), FLOWER, scale, petals[n % 3])
    return body


def desert(rng: random.Random) -> str:
    green = shift("#6cc95a/#2a8a4a", rng)
    body = sky(rng, *DAY, *DUSK, "#ffb04f/#ffeec0", "#ff9a5a/#ffe0a0")
    body += glow(rng.uniform(76, 104), rng.uniform(18, 30), rng.uniform(11, 15))
    mesa = path("M0 34L7 4Q8 0 12 0H34Q38 0 39 4L46 34Z", "$")
    body += at(rng.uniform(58, 90), rng.uniform(46, 54), mesa, 1, shift("#e0784a/#c05a3c", rng))
    body += ground(rng, 74, 6, shift("#f8bd6c/#e59548", rng)) + ground(rng, 92, 6, shift("#ffd688/#f0a953", rng))
    body += at(rng.uniform(106, 116), rng.uniform(92, 98), CACTUS, rng.uniform(0.6, 0.8), green, mirror=True)
    return body + at(rng.uniform(14, 24), rng.uniform(106, 114), CACTUS, rng.uniform(1.2, 1.5), green)


def mountains(rng: random.Random) -> str:
    rock, green = shift(rng.choice(("#8fa3d8/#5c6fb0", "#a59ad6/#6a62a8", "#8fb4c8/#547c98")), rng), "#4fb86a/#1f7a50"
    body = sky(rng, *DAY, *DUSK) + clouds(rng)
    body += at(rng.uniform(56, 72), 96, PEAK, 1.1, shift("#bccbf0/#93a8dc", rng))
    body += at(rng.uniform(96, 112), 98, PEAK, rng.uniform(1.2, 1.4), rock)
    body += at(rng.uniform(16, 32), 98, PEAK, rng.uniform(1.35, 1.6), rock)
    body += ground(rng, 88, 4, shift("#9bdc66/#4ba34c", rng))
    for x in (6, 20, 108, 122):
        body += at(x + rng.uniform(-4, 4), rng.uniform(96, 112), PINE, rng.uniform(0.45, 0.65), green)
    return body


def snow(rng: random.Random) -> str:
    green = shift("#5fb58a/#2a7a68", rng)
    body = sky(rng, "#7fbdf2/#e2f2ff", "#9fb4ee/#f0e6ff", "#b9a7ea/#ffe3ec", "#5f8fd8/#c4e2fa")
    body += ground(rng, 72, 7, "#e6f1fd/#c3daf4")
    for x, y, scale in ((34, 86, 0.8), (92, 88, 0.85), (10, 104, 1.4), (118, 106, 1.45)):
        body += at(x + rng.uniform(-6, 6), y, WHITE_PINE, scale + rng.uniform(-0.1, 0.1), green)
    body += ground(rng, 98, 5, "#ffffff/#d3e5f8")
    for n in range(20):
        x, y = (n % 5 + rng.uniform(0.2, 0.8)) * 26, (n // 5 + rng.uniform(0.2, 0.8)) * 24
        body += blob(x, y, rng.uniform(1.7, 2.8), "#ffffff")
    return body


def city(rng: random.Random) -> str:
    hour = rng.randrange(3)
    walls = ["#ff9f7a/#f07a68", "#ffd27a/#f5b04e", "#7ac4e8/#4f9ad0", "#b79af0/#8f70d8", "#f59ac0/#e070a0"]
    if hour == 2:
        walls = ["#4f5cb0/#39448f", "#6a54b8/#4c3a94", "#3f78b8/#2c5690", "#8a56a8/#663c88"]
    rng.shuffle(walls)
    body = sky(rng, *(DAY, DUSK, NIGHT)[hour]) + (
        glow(rng.uniform(60, 96), 18, 9, (GOLD, MOON)[hour - 1]) if hour else clouds(rng)
    )
    for x in range(0, 128, 19):
        body += box(x, rng.uniform(26, 56), 17, 80, ("#b4d8f0", "#e8a0a8", "#40459c")[hour], 2)
    for n, (x, width) in enumerate(((-2, 27), (102, 28), (26, 23), (80, 21))):
        height = rng.uniform(66, 88) if n < 2 else rng.uniform(40, 60)
        body += building(rng, x, width, height, walls[n], "#ffe88a" if hour else "#eaf8ff")
    body += box(-1, 98, 130, 8, "#e4dcd8/#c4bcc0") + box(-1, 105, 130, 30, "#6c7084/#54586c")
    return body + "".join(box(x, 115, 18, 3.5, "#fff3c4", 1) for x in range(-6, 128, 30))


def night_sky(rng: random.Random) -> str:
    body, x, y = sky(rng, *NIGHT, height=130) + stars(rng, 90), rng.uniform(94, 106), rng.uniform(24, 32)
    if rng.random() < 0.6:
        body += glow(x, y, 15, MOON) + blob(x - 4, y + 4, 3.5, "#e6c678") + blob(x + 5, y - 4, 2.5, "#e6c678")
    else:
        body += blob(x, y, 25, "#fff6c8", 0, 0.14) + at(x, y, CRESCENT)
    return body + ground(rng, 96, 6, "#4349a8/#2a2c70") + ground(rng, 106, 4, "#2c3878/#161c48")


def space(rng: random.Random) -> str:
    body = sky(rng, "#0b0b2e/#2c1460", "#120a36/#3d1058", "#08122e/#14336b", height=130)
    for x, y in ((20, 96), (108, 80), (54, 24)):
        haze = shift(rng.choice(("#d04fd0", "#4f6fe8", "#30b0c8")), rng)
        body += "".join(blob(x, y, r, haze, r * 0.7, 0.035) for r in range(14, 45, 4))
    balls = rng.sample(("#ffd98a*#d9783c", "#ff9ac4*#a03ca0", "#8af0e0*#2a78c0", "#c8a8ff*#6040c8"), 2)
    ring = rng.choice(("#ffe9a8", "#ffd0f0", "#d8fff4"))
    back, front = line("M-28 0A28 8 0 0 1 28 0", ring, 4), line("M-28 0A28 8 0 0 0 28 0", ring, 4)
    saturn, turn = back + blob(0, 0, 18, balls[0]) + front, rng.choice((-20, 18))
    body += stars(rng, 128) + blob(rng.uniform(104, 114), rng.uniform(90, 110), rng.uniform(8, 13), balls[1])
    return body + at(rng.uniform(28, 34), rng.uniform(24, 30), saturn, rng.uniform(0.95, 1.15), turn=turn)


def sea(rng: random.Random) -> str:
    body = sky(rng, "#5fdcf5/#0f5fb8", "#4fe0e0/#0a6a9c", "#58c0f8/#1c449c", height=130)
    for x in (rng.uniform(4, 24), rng.uniform(44, 60), rng.uniform(84, 100)):
        body += path(f"M{x:.0f}-2H{x + 18:.0f}L{x + 4:.0f} 128H{x - 34:.0f}Z", "#ffffff", 0.14)
    body += ground(rng, 106, 4, "#fbe3a8/#d8ac68")
    weed = shift(rng.choice(("#5fe08a/#1c9c6a", "#b4e05a/#4c9c3c")), rng)
    for x, tall in ((6, rng.uniform(1, 1.5)), (20, 0.7), (119, rng.uniform(0.9, 1.5))):
        body += at(x + rng.uniform(-3, 3), 118, WEED, tall, weed)
    coral = shift(rng.choice(("#ff6f7d", "#ff8a4c", "#e86ad8")), rng)
    body += at(rng.uniform(98, 106), 119, CORAL, rng.uniform(0.9, 1.2), coral)
    for n in range(8):
        x, y, r = rng.choice((24, 100)) + rng.uniform(-18, 18), 10 + n * 10, rng.uniform(2.5, 5)
        body += blob(x, y, r, "#ffffff", 0, 0.45) + blob(x - r * 0.3, y - r * 0.3, r * 0.35, "#ffffff")
    return body


def room(rng: random.Random) -> str:
    walls = ("#ffe3b8/#ffcf9c", "#cdeee0/#a8dcc8", "#ffd4d8/#f8b4bc", "#d4e2fc/#b4c8f0", "#e6d8fa/#cdb8f0")
    cloth = rng.choice(("#ff7a6b/#e85048", "#5aa8f0/#3a7cd0", "#ffc24c/#f09a2c", "#58c8a0/#34987c"))
    body = sky(rng, *walls) + box(-1, 94, 130, 40, shift("#d99a62/#b87444", rng))
    body += line("M-2 106H130M-2 119H130M30 95V106M96 95V106M12 106V119M112 106V119", "#a5663c", 1.2)
    body += box(-1, 91, 130, 5, "#fff6e8")
    pane = box(4, 4, 36, 42, "$", 1) + box(20.5, 4, 3, 42, "#fff8f0") + box(4, 23, 36, 3, "#fff8f0")
    drapes = path("M-5-3h16q1 34-6 58h-10zM49-3h-16q-1 34 6 58h10z", cloth) + line("M-6-3h56", "#b87444", 3)
    window = box(0, 0, 44, 50, "#ffffff/#f0e4d8", 3) + pane + drapes
    body += at(rng.uniform(10, 16), rng.uniform(12, 18), window, 1, rng.choice((DAY[1], DUSK[0], NIGHT[1])))
    body += box(84, 16, 26, 20, "#b87444", 2) + box(87, 19, 20, 14, rng.choice(DUSK + DAY), 1)
    body += at(rng.uniform(106, 112), 102, rng.choice((LAMP, PLANT)), 1, cloth)
    return body + blob(64, 115, 48, cloth, 10) + blob(64, 115, 40, "#fff3e0", 7.5, 0.35)


def stage(rng: random.Random) -> str:
    folds, fold, deep = ("#f0434c/#b01828", "#c4202f/#7d0c1e"), rng.uniform(7, 9), rng.uniform(14, 20)
    body = sky(rng, "#4a1a5c/#a03c78", "#2a2468/#6a4cb0", "#5c1428/#b03c48", "#123c5c/#2c8098")
    body += box(-1, 90, 130, 40, shift("#e0a066/#a86438", rng))
    body += line("M64 90V130M44 90L34 130M84 90L94 130M22 90L2 130M106 90L126 130", "#94552e", 1.5)
    for x in rng.choice(((64,), (36, 92))):
        body += path(f"M{x - 5} 0H{x + 5}L94 112H34Z", "#fff3b8", 0.22)
    body += blob(64, 112, 34, "#fff3b8", 8, 0.45)
    for n in range(4):
        cloth = box(0, 0, fold + 1, 114 - n * 2, folds[n % 2], 4)
        body += at(n * fold - 3, 0, cloth) + at(131 - n * fold, 0, cloth, mirror=True)
    swag, trim = path("M0-22H21.6V0Q10.8 13 0 0Z", folds[0]), line("M.5 0Q10.8 13 21.1 0", "#ffd35c", 2.5)
    return body + "".join(at(n * 128 / 6, deep, swag + trim) for n in range(6))


DRAW = (beach, forest, meadow, desert, mountains, snow, city, night_sky, space, sea, room, stage)


def svg(place: str, rng: random.Random) -> str:
    """One drawing of a place of `PLACES`, half of them mirrored; the same random state gives the same text."""
    body = dict(zip(PLACES, DRAW, strict=True))[place](rng)
    return finish(at(128, 0, body, mirror=True) if rng.random() < 0.5 else body)


def draw_all(size_px: int, variants: int) -> np.ndarray:
    """uint8 (places, variants, size, size, 3), in the order of `PLACES`; a variant is seeded by its name and number."""
    import resvg_py  # only to draw: what reads the captions alone can do without

    pictures = np.zeros((len(PLACES), variants, size_px, size_px, 3), np.uint8)
    for p, place in enumerate(PLACES):
        for v in range(variants):
            text = svg(place, random.Random(f"{place} {v}"))
            png = resvg_py.svg_to_bytes(svg_string=text, width=size_px, height=size_px)
            pictures[p, v] = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, required=True, help="where the contact sheet goes: a row a place")
    options = parser.parse_args()
    rows = draw_all(64, 8).transpose(0, 2, 1, 3, 4)  # (places, height, variants, width, 3)
    picture = Image.fromarray(rows.reshape(len(PLACES) * 64, 8 * 64, 3))
    picture.resize((picture.width * 2, picture.height * 2), Image.NEAREST).save(options.sheet)


if __name__ == "__main__":
    main()
