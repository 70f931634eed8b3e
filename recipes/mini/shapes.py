"""Shapes and colours that the places are drawn with, as SVG text.

A colour is `#rrggbb`, or two: `top/bottom` for a gradient downwards, `lit*shade` for a ball lit from above left;
`finish` turns these into what SVG knows. The page is 128 units wide and high; x runs to the right, y downwards; a thing
stands with its foot at (x, y).
"""

import colorsys
import random
import re

DAY = ("#3fa9f5/#c9efff", "#58c4f6/#e6f9ff", "#5aa2f2/#d4e6ff")
DUSK = ("#ff8f6b/#ffe3a3", "#b77be8/#ffc2a8", "#f57aa0/#ffd9a0")
NIGHT = ("#1b1f6b/#6a4fc0", "#14225c/#3f6fc4", "#2a1a63/#9a5bc0")
SAND, GOLD, MOON = "#ffe6a8/#eebb6c", "#fff3a0*#ffb627", "#fffbe0*#f5d68a"


def shift(colours: str, rng: random.Random, hue: float = 0.03) -> str:
    """The same colour or gradient, turned (1 is the whole circle) and lightened a little by chance."""
    turn, lift = rng.uniform(-hue, hue), rng.uniform(-0.03, 0.03)

    def one(match: re.Match) -> str:
        h, grey, s = colorsys.rgb_to_hls(*(v / 255 for v in bytes.fromhex(match[1])))
        rgb = colorsys.hls_to_rgb((h + turn) % 1, min(max(grey + lift, 0), 1), s)
        return "#" + bytes(round(255 * v) for v in rgb).hex()

    return re.sub("#([0-9a-f]{6})", one, colours)


def path(d: str, fill: str, opacity: float = 1) -> str:
    return f'<path d="{d}" fill="{fill}" opacity="{opacity}"/>'


def line(d: str, colour: str, width: float) -> str:
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>'


def blob(x: float, y: float, rx: float, fill: str, ry: float = 0, opacity: float = 1) -> str:
    return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry or rx:.1f}" fill="{fill}" opacity="{opacity}"/>'


def box(x: float, y: float, width: float, height: float, fill: str, corner: float = 0) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{corner}" fill="{fill}"/>'


def at(x: float, y: float, shape: str, scale: float = 1, paint: str = "", turn: int = 0, mirror: bool = False) -> str:
    """A shape drawn about (0, 0), moved to its place; the paint goes where the shape says `$`."""
    flip = "scale(-1 1)" if mirror else ""
    move = f"translate({x:.1f} {y:.1f}) {flip} scale({scale:.2f}) rotate({turn})"
    return f'<g transform="{move}">{shape.replace("$", paint)}</g>'


CLOUD = path("M-18 8A8 8 0 0 1-15-7 11 11 0 0 1 5-10 9 9 0 0 1 17-5 7 7 0 0 1 18 8Z", "#ffffff/#dcecfb", 0.95)
SPARKLE = path("M0-10Q1.5-1.5 10 0 1.5 1.5 0 10-1.5 1.5-10 0-1.5-1.5 0-10Z", "#fff4b8")
TRUNK, TIER = path("M-5 0L-3-30H3L5 0Z", "#a9714b/#7a4a30"), path("M0 0Q2 0 4 4L21 25Q0 34-21 25L-4 4Q-2 0 0 0Z", "$")
PINE = TRUNK + at(0, -36, TIER, 1, "$") + at(0, -50, TIER, 0.8, "$") + at(0, -62, TIER, 0.6, "$")
WHITE_TIER = TIER + at(0, -1, TIER, 0.6, "#ffffff/#e4effb")
WHITE_PINE = PINE.replace(TIER, WHITE_TIER)
ROUND_TREE = TRUNK + blob(-12, -34, 15, "$") + blob(12, -34, 15, "$") + blob(0, -46, 20, "$")
FROND, NUT = path("M0-2Q16-18 36 0 39 5 34 6 16-6 0 4Z", "$"), "#a0673c*#5f3a22"
FRONDS = "".join(at(0, 0, FROND, 1, "$", turn, side) for turn in (-50, 32, -10) for side in (False, True))
STEM = path("M-5 0Q-4-40 12-68L18-66Q6-38 6 0Z", "#d9a066/#a56a3a")
PALM = STEM + at(15, -68, FRONDS + blob(-4, 4, 4, NUT) + blob(4, 5, 4, NUT), 1, "$")
STRIPE = path("M-10-40Q-8-58 0-64 8-58 10-40Z", "#ffffff/#ffe9d8")
PARASOL = line("M0 0V-44", "#c98d55", 3) + path("M-26-40A26 24 0 0 1 26-40Z", "$") + STRIPE
ARMS = line("M0-16H-8Q-14-16-14-22V-30", "$", 8) + line("M0-24H8Q14-24 14-30V-40", "$", 8)
CACTUS = blob(0, 0, 16, "#7a3d1e", 3, 0.25) + ARMS + box(-7, -52, 14, 53, "$", 7)
PETALS = "".join(at(0, -18, blob(0, -6, 4.8, "$"), 1, "$", turn) for turn in range(0, 360, 72))
LEAF = line("M0 0Q-2-8 0-18", "#2f8f3e", 2.5) + path("M0-4Q9-13 11-5 8 0 0-4Z", "#2f8f3e")
FLOWER = LEAF + PETALS + blob(0, -18, 3.8, GOLD)
SNOWCAP = path("M-16-34L-4-53Q0-58 4-53L16-34 8-37 0-30-8-37Z", "#ffffff/#e3effc")
PEAK = path("M-42 0L-4-53Q0-58 4-53L42 0Z", "$") + SNOWCAP
SPOTS = blob(-3, -12, 1.8, "#ffffff") + blob(4, -11, 1.5, "#ffffff")
MUSHROOM = box(-3, -9, 6, 10, "#fff3dc", 3) + path("M-9-8A9 9 0 0 1 9-8Z", "#ff5a4a/#d42a2a") + SPOTS
CRESCENT = path("M6-17A17 17 0 1 0 17 6 14 14 0 0 1 6-17Z", "#fff6c0/#ffd35c")
CORAL, WEED = line("M0 0V-30M0-10Q-12-12-13-26M0-16Q11-18 12-34", "$", 7), line("M0 0Q-9-12 0-24T0-48", "$", 8)
PLANT = "".join(at(0, -20, blob(0, -15, 6, "#6ccf6a/#2f9650", 15), turn=turn) for turn in (-50, 50, -22, 22, 0))
PLANT += path("M-11-22H11L7 0H-7Z", "$")
LAMP = line("M0 0V-40", "#8a5a3c", 3) + blob(0, 0, 9, "#8a5a3c", 2.5) + path("M-7-58H7L14-36H-14Z", "#fff2b0/#ffc95c")


def sky(rng: random.Random, *choices: str, height: float = 100) -> str:
    return box(-1, -1, 130, height, shift(rng.choice(choices), rng, 0.015))


def ground(rng: random.Random, y: float, swell: float, fill: str) -> str:
    """Everything below a gentle wave at about height y."""
    a, b, c, d = (y + rng.uniform(-swell, swell) for _ in range(4))
    return path(f"M-2 {a:.1f}C20 {b:.1f} 40 {c:.1f} 64 {(c + d) / 2:.1f}S104 {a:.1f} 130 {b:.1f}V130H-2Z", fill)


def clouds(rng: random.Random) -> str:
    x = rng.uniform(12, 36)
    first = at(x, rng.uniform(14, 22), CLOUD, rng.uniform(0.75, 1.05))
    return first + at(x + rng.uniform(50, 74), rng.uniform(14, 34), CLOUD, rng.uniform(0.75, 1.05))


def glow(x: float, y: float, r: float, colours: str = GOLD) -> str:
    """The sun, or a moon, with its halo."""
    return blob(x, y, r * 1.7, "#fff6c8", 0, 0.2) + blob(x, y, r * 1.35, "#fff6c8", 0, 0.25) + blob(x, y, r, colours)


def stars(rng: random.Random, height: float) -> str:
    """One to a cell of a grid of 4 x 3, but for one, so that they never crowd; every other one sparkles."""
    shapes = ""
    for n, cell in enumerate(rng.sample(range(12), 11)):
        x, y = (cell % 4 + rng.uniform(0.2, 0.8)) * 32, (cell // 4 + rng.uniform(0.2, 0.8)) * height / 3
        shapes += at(x, y, SPARKLE, rng.uniform(0.55, 0.8)) if n % 2 else blob(x, y, rng.uniform(1.4, 2.1), "#ffffff")
    return shapes


def building(rng: random.Random, x: float, width: int, height: float, wall: str, glass: str) -> str:
    shapes = box(x, 100 - height, width, height + 4, wall, 2)
    for n in range(int(height - 8) // 13 * (width // 11)):
        row, column = divmod(n, width // 11)
        pane = glass if rng.random() < 0.8 else "#5d6f9e"
        shapes += box(x + (width % 11 + 5) / 2 + 11 * column, 106 - height + 13 * row, 6, 8, pane, 1)
    return shapes


def finish(body: str) -> str:
    """The whole SVG: two-colour paints become gradients, each defined once."""
    names: dict[str, str] = {}
    body = re.sub(r'"(#\w{6}[/*]#\w{6})"', lambda m: f'"url(#{names.setdefault(m[1], f"g{len(names)}")})"', body)
    defs = ""
    for pair, name in names.items():
        kind, where = ("radial", 'cx=".35" cy=".3" r=".75"') if pair[7] == "*" else ("linear", 'x2="0" y2="1"')
        stops = f'<stop stop-color="{pair[:7]}"/><stop offset="1" stop-color="{pair[8:]}"/>'
        defs += f'<{kind}Gradient id="{name}" {where}>{stops}</{kind}Gradient>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128"><defs>{defs}</defs>{body}</svg>'
