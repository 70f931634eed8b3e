"""Which views of a picture a run uses: drawn at random, but the same whenever they are drawn again."""

from __future__ import annotations

import hashlib
import re
from dataclasses import astuple, dataclass, replace

import numpy as np

from limner.data import prepare
from limner.data.imaging.geometry import Window, window
from limner.data.prepare import View
from limner.types import File

MAX_RANDOM_ZOOM = 1.25
MARGIN = 0.25  # of a subject's own size, left around it on each side
SMALL_PX = 128  # longer side of what a subject is looked for in
STRONG = 90  # percentile of the edges that count as strong
GOOD_ENOUGH = 0.9  # of the strong edges that the best window holds: windows among which further views are drawn
HUE_SHARE = 0.25  # a shift of hue shows more than a factor of brightness

# Captions that are no longer true in a mirror: sides, and what can be read.
SIDED = re.compile(
    r"\b(left|right|(anti-?|counter-?)?clockwise|east|west"
    r"|links|rechts|gauche|droite|izquierda|derecha|sinistra|destra|esquerda|direita"
    r"|texts?|letters?|lettering|words?|wording|written|writing|handwriting|handwritten|reads?|reading|says|saying"
    r"|spell(s|ed|ing)?|slogans?|inscriptions?|captions?|captioned|subtitles?|signs?|signage|logos?|labels?|labell?ed"
    r"|watermarks?|signatures?|fonts?|alphabets?|calligraphy|typography|numerals?|digits?|numbers?(?! of\b)"
    r"|licen[cs]e plates?|clocks?|keyboards?|maps?|flags?|newspapers?|posters?|billboards?)\b"
    r"|[左右字]|[\"\u201c-\u201e«»]|(?<!\w)['\u2018][^'\u2019]+['\u2019](?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Augment:
    """How much views may differ.

    crop: 'centre'; 'random', up to a quarter closer; 'subject', on what the mask, the transparency, or else the
    strongest edges show. rotate_degrees: turned by up to so much to either side. jitter: brightness, contrast and
    saturation change by up to this share, hue by a quarter of it in turns. num_views: how many views there are of
    each picture.
    """

    crop: str = "centre"
    rotate_degrees: float = 0.0
    jitter: float = 0.0
    num_views: int = 1

    def text(self) -> str:
        """Equal where the views are, for keys of caches."""
        return repr(astuple(self))


def draw(
    augment: Augment, width_px: int, height_px: int, digest: bytes, number: int, file: File, mask: File | None
) -> View:
    """The ``number``-th view of a picture, not mirrored: a function of all but the files, which ``digest`` stands for.

    Raises:
        DataError: crop is 'random' or 'subject', and a file cannot be read.
    """
    if augment.crop == "centre" and not augment.rotate_degrees and not augment.jitter:
        return View(width_px, height_px)  # nothing is random
    about = f"{augment.text()} {width_px} {height_px} {number}".encode()
    dice = np.random.default_rng([*hashlib.sha256(digest + about).digest()])
    tilt, brightness, contrast, saturation, hue, x, y, closer = (2 * dice.random(8) - 1).tolist()
    jitter = augment.jitter
    view = View(
        width_px,
        height_px,
        rotate_degrees=augment.rotate_degrees * tilt + 0.0,  # no -0.0, which would read differently
        jitter=(
            1 + jitter * brightness,
            1 + jitter * contrast,
            1 + jitter * saturation,
            jitter * HUE_SHARE * hue + 0.0,
        ),
    )
    if augment.crop == "centre":
        return view
    size = prepare.size(file)
    # As close as the file has pixels for: a view is never drawn so that it must be scaled up.
    closest = max(1.0, window(view, (0, 0, *size)).width / width_px)
    if augment.crop == "random":
        zoom = min(MAX_RANDOM_ZOOM, closest) ** ((closer + 1) / 2)
        return _on_grid(replace(view, x=(x + 1) / 2, y=(y + 1) / 2, zoom=zoom), size)
    return _on_grid(_on_subject(view, size, closest, file, mask, None if number == 0 else dice), size)


def keeps_sides(caption: str) -> bool:
    """Whether a caption stays true when the picture is mirrored: it names no side and nothing that can be read."""
    return SIDED.search(caption.replace("_", " ")) is None


def _on_subject(
    view: View, size: tuple[int, int], closest: float, file: File, mask: File | None, dice: np.random.Generator | None
) -> View:
    """On the subject's box and as close as it allows, or where most strong edges are; with dice, anywhere that still
    holds the subject whole, or nearly as many edges."""
    scale = min(1.0, SMALL_PX / max(size))
    whole = View(max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    box = _box(file, mask, whole)
    here = window(view, (0, 0, *size))
    if box is None:
        strong_HW = _strong_edges(file, whole)
        x = _busiest(strong_HW.sum(axis=0), here.width / size[0], dice) * size[0]
        y = _busiest(strong_HW.sum(axis=1), here.height / size[1], dice) * size[1]
        return _centred(view, size, x, y)
    left, top, right, bottom = (side * size[i % 2] for i, side in enumerate(box))
    room = 1 + 2 * MARGIN
    tight = min(here.width / (right - left) / room, here.height / (bottom - top) / room)
    zoom = max(1.0, min(closest, tight))
    if dice is not None:
        zoom = float(zoom ** dice.random())
    view = replace(view, zoom=zoom)
    here = window(view, (0, 0, *size))
    taken_px = 1.5 * _grid_px(view, here)  # off a side, at most, by _on_grid: a subject that is whole stays so
    slack_x = max(0.0, (here.width - (right - left)) / 2 - taken_px)
    slack_y = max(0.0, (here.height - (bottom - top)) / 2 - taken_px)
    shift_x, shift_y = (0.0, 0.0) if dice is None else 2 * dice.random(2) - 1
    return _centred(view, size, (left + right) / 2 + shift_x * slack_x, (top + bottom) / 2 + shift_y * slack_y)


def _centred(view: View, size: tuple[int, int], x: float, y: float) -> View:
    """The view moved so that its window's centre is at x, y of the picture, or as near as it can be."""
    first, last = (window(replace(view, x=end, y=end), (0, 0, *size)) for end in (0.0, 1.0))

    def share(wanted: float, low: float, high: float) -> float:
        return float(np.clip((wanted - low) / (high - low), 0, 1)) if high - low > 1e-6 else 0.5

    return replace(view, x=share(x, first.x, last.x), y=share(y, first.y, last.y))


def _grid_px(view: View, here: Window) -> int:
    """Pixels of the file that a window begins at a multiple of: a JPEG is decoded at an eighth of its size, or more."""
    return 8 if here.width > 2 * view.width_px else 1


def _on_grid(view: View, size: tuple[int, int]) -> View:
    """The view, its window begun between two pixels and as wide as a number of them, also where a JPEG is decoded at a
    fraction: there the fast way of scaling is exact."""
    here = window(view, (0, 0, *size))
    if here.turn:
        return view
    grid_px = _grid_px(view, here)
    view = replace(view, zoom=view.zoom * here.width / max(grid_px, here.width // grid_px * grid_px))
    here = window(view, (0, 0, *size))

    def share(first: float, left_over: float) -> float:
        places = int(left_over / grid_px + 1e-6)
        return min(1.0, min(round(first / grid_px), places) * grid_px / left_over) if places else 0.0

    return replace(view, x=share(here.box[0], size[0] - here.width), y=share(here.box[1], size[1] - here.height))


def _box(file: File, mask: File | None, whole: View) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of what the mask, or else the transparency, singles out, as shares of the picture."""
    for there_1HW in (prepare.mask(mask, whole) if mask is not None else None, prepare.alpha(file, whole)):
        if there_1HW is None:
            continue
        y, x = np.nonzero(there_1HW[0].numpy() > 127)
        if 0 < len(x) < there_1HW.numel():
            return (
                float(x.min() / whole.width_px),
                float(y.min() / whole.height_px),
                float((x.max() + 1) / whole.width_px),
                float((y.max() + 1) / whole.height_px),
            )
    return None


def _strong_edges(file: File, whole: View) -> np.ndarray:
    """1 where brightness changes most, 0 elsewhere, HW."""
    grey_HW = prepare.picture(file, whole, prepare.Style(grey=True))[0].numpy().astype(float)
    rise_HW = np.abs(np.diff(grey_HW, axis=0, append=grey_HW[-1:])) + np.abs(np.diff(grey_HW, append=grey_HW[:, -1:]))
    return (rise_HW >= max(np.percentile(rise_HW, STRONG), 1)).astype(float)


def _busiest(profile_S: np.ndarray, share: float, dice: np.random.Generator | None) -> float:
    """Centre of the stretch, of this share of the profile, that holds most; with dice, of one that holds nearly it."""
    num = min(len(profile_S), max(1, round(share * len(profile_S))))
    sums = np.convolve(profile_S, np.ones(num), "valid")
    if dice is not None:
        place = dice.choice(np.flatnonzero(sums >= GOOD_ENOUGH * sums.max()))
    else:  # of equals the one nearest to the middle
        best = np.flatnonzero(sums == sums.max())
        place = best[np.argmin(np.abs(best - (len(sums) - 1) / 2))]
    return float(place + num / 2) / len(profile_S)
