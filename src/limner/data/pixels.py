"""One record, seen one way, as tensors: its picture, its condition, where it counts; and their keys in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor

from limner.data import prepare, views
from limner.data.cache import KEY_BYTES, Entry, Shelf, key
from limner.data.captions import Captioner
from limner.data.condition import Condition
from limner.data.formats.files import Bytes
from limner.data.imaging.decode import read_bytes
from limner.data.imaging.geometry import window
from limner.data.prepare import Style, View
from limner.data.views import Augment
from limner.errors import DataError
from limner.types import File, Sample

# What a pair's other half is -> how it is read.
SOURCES: dict[str, Callable[..., Tensor]] = {
    "picture": prepare.picture,
    "labels": prepare.labels,
    "normals": prepare.normals,
    "depth": prepare.depth,
}
REMEMBERED = 2**17

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """How records become tensors.

    image_px: side of the square pictures. condition_px: side of the condition of such a square (of others in
    proportion), None where the method takes none. condition: None reads the pair's source, else it is computed from
    the picture. masked: 'off', or what says where a picture counts: the data's 'mask' or its own 'alpha'.
    """

    image_px: int
    condition_px: int | None = None
    condition: Condition | None = None
    source_kind: str = "picture"
    style: Style = field(default_factory=Style)
    augment: Augment = field(default_factory=Augment)
    captioner: Captioner = field(default_factory=Captioner)
    flip: bool = False
    masked: str = "off"
    unmasked_weight: float = 0.0

    def upright(self) -> Recipe:
        """The same without anything random: for held-out pictures."""
        plain = replace(self.augment, rotate_degrees=0.0, jitter=0.0, num_views=1)
        plain = replace(plain, crop="centre") if plain.crop == "random" else plain
        captioner = replace(self.captioner, shuffle_tags=False, tag_dropout=0.0)
        return replace(self, augment=plain, captioner=captioner, flip=False)


@dataclass(frozen=True)
class Look:
    """A record as one place of a run sees it: which of its views, mirrored or not, at which size."""

    sample: Sample
    number: int
    flip: bool
    width_px: int
    height_px: int


class Pixels:
    """Reads what looks need. Conditions that are computed, and weights, are kept on a shelf."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.shelf = Shelf("pictures", "1")
        self._digests, self._views = Memory[bytes](), Memory[View]()
        self._sizes = Memory[tuple[int, int]]()

    def digest(self, file: File) -> bytes:
        """Of a file's bytes.

        Raises:
            DataError: the file cannot be read.
        """
        return self._digests.get(str(file), lambda: digest_of(read_bytes(file)))

    def _same(self, file: File) -> File:
        """The file's bytes, which are still those of its digest: what is made of them may be kept under it.

        Raises:
            DataError: the file cannot be read, or has been replaced since this run first read it.
        """
        data = read_bytes(file)
        if digest_of(data) != self.digest(file):
            raise DataError(f"{file} has changed since this run began.", "leave the data alone while a run reads it")
        return Bytes(str(file), data)

    def view(self, look: Look) -> View:
        """Where this look cuts and turns the picture."""
        size, image, mask = (look.width_px, look.height_px), look.sample.image, look.sample.mask

        def draw() -> View:  # which may have to look for the subject
            return views.draw(self.recipe.augment, *size, self.digest(image), look.number, image, mask)

        return replace(self._views.get((str(image), look.number, size), draw), flip=look.flip)

    def picture_key(self, look: Look) -> bytes:
        """Of what ``picture`` gives."""
        return key(self.digest(look.sample.image), self.view(look).text(), self.recipe.style.text())

    def framing(self, look: Look) -> list[float]:
        """Height and width of the file; top and left of the cut, once scaled; height and width of the cut, scaled."""
        image, view = look.sample.image, self.view(look)
        width_px, height_px = self._sizes.get(str(image), lambda: prepare.size(image))
        cut = window(view, (0, 0, width_px, height_px))
        left, top = (side * view.width_px / cut.width for side in cut.box[:2])
        return [height_px, width_px, top, left, view.height_px, view.width_px]

    def picture(self, look: Look) -> Tensor:
        """uint8 CHW."""
        return prepare.picture(self._same(look.sample.image), self.view(look), self.recipe.style)

    def condition(self, look: Look) -> Tensor:
        """The condition picture, float CHW in [-1, 1]."""
        recipe, sample = self.recipe, look.sample
        assert recipe.condition_px is not None
        scale = recipe.condition_px / recipe.image_px
        width_px, height_px = round(look.width_px * scale), round(look.height_px * scale)
        view = replace(self.view(look), width_px=width_px, height_px=height_px)
        if recipe.condition is None:
            assert sample.source is not None  # samples without one have been refused
            view = replace(view, jitter=prepare.NO_JITTER)
            style = {"style": recipe.style} if recipe.source_kind == "picture" else {}
            return prepare.to_float(SOURCES[recipe.source_kind](sample.source, view, **style))
        image_key = self.digest(sample.image)
        wanted = key("condition", image_key, view.text(), recipe.style.text(), recipe.condition.text)
        [entry] = self.shelf.get([wanted], lambda _: [self._compute(self._same(sample.image), image_key, view)])
        return prepare.to_float(entry["plane"]).expand(3, -1, -1)

    def _compute(self, file: File, image_key: bytes, view: View) -> Entry:
        """A computed condition as uint8; one plane where the three are equal."""
        condition = self.recipe.condition
        assert condition is not None
        x_BCHW = prepare.to_float(prepare.picture(file, view, self.recipe.style))[None]
        alpha_B1HW = prepare.alpha(file, view)[None] / 255 if condition.wants_alpha else None
        made_CHW = condition(x_BCHW, alpha_B1HW, seed=int.from_bytes(image_key[:4], "big"))[0]
        planes = prepare.to_uint8(made_CHW)
        return {"plane": planes[:1] if (planes == planes[:1]).all() else planes}

    def weight(self, look: Look, grid_HW: tuple[int, int]) -> Tensor:
        """How much each cell of the latent grid counts, float 1HW in [unmasked_weight, 1]."""
        recipe, sample = self.recipe, look.sample
        view, file = self.view(look), sample.mask if recipe.masked == "mask" else sample.image
        assert file is not None  # samples without a mask have been refused
        read = prepare.mask if recipe.masked == "mask" else prepare.alpha
        wanted = key("weight", recipe.masked, self.digest(file), view.text(), recipe.style.text(), repr(grid_HW))

        def make(_: list[int]) -> list[Entry]:
            return [{"plane": F.adaptive_avg_pool2d(read(self._same(file), view).float(), grid_HW).round().byte()}]

        [entry] = self.shelf.get([wanted], make)
        return recipe.unmasked_weight + (1 - recipe.unmasked_weight) * (entry["plane"].float() / 255)


def digest_of(data: bytes) -> bytes:
    """What stands for these bytes in keys of the cache."""
    return hashlib.sha256(data).digest()[:KEY_BYTES]


class Memory(Generic[T]):
    """The hundred thousand things made last, by name; for any number of threads."""

    def __init__(self) -> None:
        self._made: dict[Hashable, T] = {}
        self._lock = Lock()

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """What was made under this name before; else it is made, by several threads at once if need be."""
        with self._lock:
            if name in self._made:
                return self._made[name]
        made = make()
        with self._lock:
            self._made[name] = made
            if len(self._made) > REMEMBERED:
                del self._made[next(iter(self._made))]
        return made
