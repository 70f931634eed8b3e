"""A subject cut out by its mask and laid on plain grounds, so that no place is taken for part of it.

Six pictures of a thing, four of them on white, also say that it stands on white. A copy of each on grey and on brown,
told "on a grey background", says that it does not.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from PIL import Image, ImageColor

from limner.data import prepare
from limner.data.imaging import colour
from limner.data.imaging.decode import decode
from limner.types import File, Sample


@dataclass(frozen=True)
class OnGround:
    """A picture's subject on a plain ground, as a PNG file; where the mask is None, by the picture's own opacity."""

    image: File
    mask: File | None
    ground: str

    @property
    def name(self) -> str:
        return f"{self.image.name} on {self.ground}"

    def __str__(self) -> str:
        return f"{self.image} on {self.ground}"

    def read_bytes(self) -> bytes:
        """
        Raises:
            DataError: either file cannot be read.
        """
        picture = prepare.open_picture(self.image)
        if self.mask is None:
            opacity = picture.convert("RGBA").getchannel("A")
        else:
            opacity = colour.plain(decode(self.mask).picture, self.mask).convert("L").resize(picture.size)
        made, file = Image.new("RGB", picture.size, rgb(self.ground)), io.BytesIO()
        made.paste(picture.convert("RGB"), mask=opacity)
        made.save(file, "PNG", compress_level=1)
        return file.getvalue()


def rgb(ground: str) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of a colour's name such as 'light blue'.

    Raises:
        ValueError: no colour has that name.
    """
    return ImageColor.getrgb(ground.replace(" ", ""))[:3]


def on_grounds(samples: Iterable[Sample], grounds: Iterable[str], masked: str, template: str) -> Iterator[Sample]:
    """Each record on each ground. ``template`` is what is said of them, with {words} for the subject's words.

    Args:
        masked: 'mask' or 'alpha': what cuts the subject out.
    """
    for ground in grounds:
        article = "an" if ground[0] in "aeiou" else "a"
        for sample in samples:
            words = f"{sample.meta['words']} on {article} {ground} background"
            yield replace(
                sample,
                key=f"{sample.key} on {ground}",
                caption=template.replace("{words}", words),
                image=OnGround(sample.image, sample.mask if masked == "mask" else None, ground),
                meta={**sample.meta, "words": words},
            )


def as_taken(image: File) -> File:
    """The picture that a cut-out is of, whose opacity says where the subject is; others as they are."""
    return image.image if isinstance(image, OnGround) else image


def as_given(samples: Iterable[Sample]) -> list[Sample]:
    """Those that are the user's own pictures."""
    return [sample for sample in samples if not isinstance(sample.image, OnGround)]
