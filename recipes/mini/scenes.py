"""Scenes: what a training picture shows, and the words that say so.

Idea: a scene is drawn by lot from the concepts (one subject or two, how many, how large, where, on which ground, with
which accessory); both the picture (`composer.py`) and the caption follow from it, so the truth about every picture is
known. Captions change their wording; `plain=True` gives the one canonical wording that evaluation asks in.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import captions
from pictures import COLOURS
from places import PLACES

if TYPE_CHECKING:
    from composer import Stock
    from near import Near

T = TypeVar("T")

# Wording: the first is canonical, and said half of the time.
STYLE_WORDS = {
    "3d": ("a 3D render of", "a 3D picture of", "a 3D illustration of", "a 3D emoji of"),
    "flat": ("a flat drawing of", "a flat illustration of", "a flat icon of"),
    "noto": ("a noto drawing of", "a noto picture of", "a cartoon of"),
    "line": ("a line drawing of", "a black and white drawing of", "a sketch of"),
}
RELATION_WORDS = {
    "to the left of": ("to the left of", "left of", "on the left of"),
    "to the right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "behind": ("behind", "in the back of"),
    "in front of": ("in front of", "before"),
    "and": ("and", "next to", "beside"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
COUNT_WORDS = {2: ("two", "2", "a couple of"), 3: ("three", "3"), 4: ("four", "4")}
# name -> the concept whose drawing it is, and its wording
ACCESSORIES = {
    "top hat": ("top hat", ("wearing a top hat", "with a top hat on", "in a top hat")),
    "crown": ("crown", ("wearing a crown", "with a crown on its head", "with a crown")),
    "cap": ("billed cap", ("wearing a cap", "with a cap on", "in a baseball cap")),
    "graduation cap": ("graduation cap", ("wearing a graduation cap", "with a graduation cap on")),
    "sun hat": ("woman\u2019s hat", ("wearing a sun hat", "with a sun hat on", "in a summer hat")),
    "bow": ("ribbon", ("wearing a pink bow", "with a pink bow on top", "with a ribbon")),
    "sunglasses": ("sunglasses", ("wearing sunglasses", "with sunglasses on", "in dark glasses")),
    "headphones": ("headphone", ("wearing headphones", "with headphones on")),
    "umbrella": ("umbrella", ("under an umbrella", "with an umbrella", "beneath an umbrella")),
    "balloon": ("balloon", ("with a red balloon", "holding a red balloon", "and a balloon")),
    "gift": ("wrapped gift", ("with a gift", "holding a present", "and a wrapped gift")),
}
# Kind of scene -> how often. A thousand concepts take longer to learn than a dozen places, or to count to four.
KINDS = {
    "alone": 0.46,
    "colour": 0.12,
    "place": 0.12,
    "accessory": 0.09,
    "count": 0.09,
    "relation": 0.09,
    "size": 0.03,
}
STYLE_SHARES = {"3d": 0.7, "flat": 0.13, "noto": 0.11, "line": 0.06}
PLAIN = ("alone", "colour")  # one thing on white or a plain ground
COLOURS_SHARE, KEYWORD_SHARE, HUES_SHARE = 0.6, 0.15, 0.15
NEAR_SHARE = 0.3  # of the captions of one subject
SMILEYS, ANIMALS, FOOD, TRAVEL, ACTIVITIES, OBJECTS = 0, 3, 4, 5, 6, 7  # emojibase groups


@dataclass(frozen=True)
class Subject:
    concept: int  # row of concepts.json
    count: int = 1
    size: str | None = None  # "small", "big"
    hue: int = 0  # number of a turn of its hues; 0: as drawn


@dataclass(frozen=True)
class Scene:
    kind: str
    style: str
    subjects: tuple[Subject, ...]
    relation: str | None = None
    accessory: str | None = None
    colour: str | None = None  # of the ground; white without
    second: str | None = None  # colour that the ground runs into
    place: str | None = None


@dataclass(frozen=True)
class Mix:
    """How often what is drawn: the share of one thing on white or a plain ground, and that of 3D renders."""

    plain: float
    in_3d: float

    def draw(self, stock: "Stock", rng: random.Random) -> Scene:
        plain = rng.random() < self.plain
        kinds = {kind: share for kind, share in KINDS.items() if plain == (kind in PLAIN)}
        others = {style: share for style, share in STYLE_SHARES.items() if style != "3d"}
        style = "3d" if rng.random() < self.in_3d else rng.choices(list(others), list(others.values()))[0]
        return draw_scene(stock, rng, rng.choices(list(kinds), list(kinds.values()))[0], style)


def is_face(concept: dict) -> bool:
    smiley = concept["group"] == SMILEYS and concept["subgroup"] <= 13
    return smiley or (concept["group"] == ANIMALS and concept["label"].endswith(" face"))


def wears(concept: dict) -> bool:
    """Can it be dressed: faces, and animals with a head to see."""
    return is_face(concept) or (concept["group"] == ANIMALS and concept["subgroup"] <= 37)


def countable(concept: dict) -> bool:
    """Things with a plain plural: `hot dog`, not `glasses`, `man in lotus position`."""
    words = concept["label"].split()
    head_ok = concept["subject"].startswith(("a ", "an ")) and all(w.isalpha() and w.islower() for w in words)
    return head_ok and len(words) <= 2 and concept["group"] in (ANIMALS, FOOD, TRAVEL, ACTIVITIES, OBJECTS)


def plural(label: str) -> str:
    odd = {"fish": "fish", "sheep": "sheep", "deer": "deer", "shrimp": "shrimp", "squid": "squid", "mouse": "mice",
           "goose": "geese", "leaf": "leaves", "wolf": "wolves", "loaf": "loaves", "knife": "knives",
           "tooth": "teeth", "foot": "feet", "bison": "bison", "ox": "oxen"}  # fmt: skip
    *before, word = label.split(" ")
    if word in odd:
        word = odd[word]
    elif word.endswith(("s", "x", "z", "ch", "sh")) or word in ("tomato", "potato", "mango"):
        word += "es"
    elif word.endswith("y") and word[-2] not in "aeiou":
        word = word[:-1] + "ies"
    else:
        word += "s"
    return " ".join([*before, word])


def draw_scene(stock: "Stock", rng: random.Random, kind: str | None = None, style: str | None = None) -> Scene:
    """A scene by lot; kind: one of `KINDS`, style: one of `STYLE_SHARES`."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    style = style or rng.choices(list(STYLE_SHARES), list(STYLE_SHARES.values()))[0]
    line = style == "line"
    if line and kind in ("place", "accessory", "colour"):
        kind = "alone"

    def subject(rows: list[int], **more) -> Subject:
        hue = 0 if line or rng.random() > HUES_SHARE else rng.randrange(1, stock.num_hues)
        return Subject(rng.choice(rows), hue=hue, **more)

    # "count" stays on white or a colour: dress and places are learnt elsewhere.
    ground = {} if line or kind in ("alone", "size") else draw_ground(rng, kind)
    if kind == "accessory":
        rows = [n for n in stock.wearers if stock.concepts[n]["label"] not in LABELS_WORN]
        return Scene(kind, style, (subject(rows),), accessory=rng.choice(list(ACCESSORIES)), **ground)
    if kind == "count":
        return Scene(kind, style, (subject(stock.countable, count=rng.choice((1, 2, 2, 3, 3, 4, 4))),), **ground)
    if kind == "relation":
        sizes = rng.choice((None, None, None, ("big", "small"), ("small", "big")))
        first, second = (subject(stock.simple, size=sizes and sizes[n]) for n in range(2))
        return Scene(kind, style, (first, second), relation=rng.choice(list(RELATION_WORDS)), **ground)
    if kind == "size":
        return Scene(kind, style, (subject(stock.rows, size=rng.choice(("small", "big"))),))
    return Scene(kind, style, (subject(stock.rows),), **ground)


def different(draw: Callable[[], T], scene_of: Callable[[T], Scene], num: int) -> list[T]:
    """Draws until there are `num` about different first subjects: captions of one batch are not to answer to two."""
    found: dict[int, T] = {}
    while len(found) < num:
        one = draw()
        found.setdefault(scene_of(one).subjects[0].concept, one)
    return list(found.values())


LABELS_WORN = {label for label, _ in ACCESSORIES.values()}


def draw_ground(rng: random.Random, kind: str) -> dict[str, str]:
    """White, a colour, two that run into each other, or a place."""
    chances = {"colour": (0, 1, 0), "place": (0, 0, 1), "count": (0.7, 0.3, 0)}.get(kind, (0.5, 0.25, 0.25))
    which = rng.choices(("white", "colour", "place"), chances)[0]
    if which == "white":
        return {}
    if which == "place":
        return {"place": rng.choice(list(PLACES))}
    colours = rng.sample(list(COLOURS), 2)
    return {"colour": colours[0]} | ({"second": colours[1]} if rng.random() < 0.2 else {})


def words_of(
    stock: "Stock", scene: Scene, subject: Subject, rng: random.Random, plain: bool, near: "Near | None" = None
) -> str:
    """`a small fox in orange and white`, `three red apples`."""
    concept = stock.concepts[subject.concept]
    label, words = concept["label"], concept["subject"]
    if near and subject.concept in near and len(scene.subjects) == 1 and rng.random() < NEAR_SHARE:
        label = rng.choices(*near[subject.concept])[0]
        words = f"{'an' if label[0] in 'aeiou' else 'a'} {label}"
    if subject.size:
        adjective = pick(SIZE_WORDS[subject.size], rng, plain)
        words = f"a {adjective} {label}" if words.startswith(("a ", "an ")) else f"{adjective} {words}"
    if subject.count > 1:
        words = f"{pick(COUNT_WORDS[subject.count], rng, plain)} {plural(label)}"
    named = subject.hue or (rng.random() < COLOURS_SHARE * (1 if len(scene.subjects) == 1 else 0.5) and not plain)
    if named and scene.style != "line":
        words += captions.in_colours(stock.colours_of(scene.style, subject))
    return words


def pick(words: tuple[str, ...], rng: random.Random, plain: bool) -> str:
    return words[0] if plain or rng.random() < 0.5 else rng.choice(words)


def caption(stock: "Stock", scene: Scene, rng: random.Random, plain: bool = False, near: "Near | None" = None) -> str:
    """`a 3D render of a fox in orange and white wearing a top hat on a beach, animal`.

    Colours are always named where the hues are turned; else often, and never with `plain`. With `near`, a share says
    another word in place of the name.
    """
    style = pick(STYLE_WORDS[scene.style], rng, plain)
    parts = [words_of(stock, scene, s, rng, plain, near) for s in scene.subjects]
    words = parts[0]
    if scene.relation:
        words = f"{parts[0]} {pick(RELATION_WORDS[scene.relation], rng, plain)} {parts[1]}"
    if scene.accessory:
        words += " " + pick(ACCESSORIES[scene.accessory][1], rng, plain)
    if scene.colour and scene.second:
        words += f" on a background from {scene.colour} to {scene.second}"
    elif scene.colour:
        article = "an" if scene.colour[0] in "aeiou" else "a"
        ground = f"{article} {scene.colour} background"
        words += " " + pick((f"on {ground}", f"on {scene.colour}", f"with {ground}"), rng, plain)
    elif scene.place:
        words += " " + pick(PLACES[scene.place], rng, plain)
    keywords = stock.concepts[scene.subjects[0].concept]["keywords"]
    if keywords and not plain and rng.random() < KEYWORD_SHARE:
        words += ", " + rng.choice(keywords)
    return f"{style} {words}"
