"""What is said of a picture: the data's caption, words of its file name, or a template over both; tags at random.

A caption is a pure function of (sample.key, number): variant 3 of a picture's caption is the same on every machine, in
every epoch and after a resume, so that embedded captions can be kept. How tags are shuffled and dropped is decided by a
generator that is seeded with both. Nothing is ever added to a caption but by a template, and a subject's trigger.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from limner.errors import ConfigError, DataError, did_you_mean
from limner.types import Sample

SOURCES = ("data", "name", "template")
FIELDS = ("caption", "name", "trigger", "class_word")

SEPARATORS = re.compile(r"[\s_\-+.~()\[\]{}]+")
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
UUID = re.compile(r"^[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
COUNTER = re.compile(r"\d+ | \d+x\d+(px)? | (?=[a-f]*\d+[a-f])[0-9a-f]{8,}", re.VERBOSE | re.IGNORECASE)  # or a hash
COUNTED = re.compile(r"([^\W\d_]{3,})\d+")  # fox12; but mp3 and B52 are words
# What cameras, telephones and programs call pictures of which they know nothing; and dates and times.
NAMELESS = re.compile(
    r"""( cimg | dji | dsc[fin]? | gopr | gp | hpim | imgp? | kif | mg | mov | mvi | pict | pxl | sam | vlcsnap
        | wa | wp | bild | capture | copy | download(ed)? | edited | file | final | foto | frame | images? | new
        | original | photos? | pics? | pictures? | scan | screen | screenshot | shot | snapshot | temp | tmp | unknown
        | unnamed | untitled )\d* | p\d{6,} | \d+[a-z]{0,2} | \d{6,}t\d+ | am | at | pm""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Captioner:
    """How captions are made, the same for a whole run.

    caption_from: 'data' takes them as they are, 'name' makes them of the file's name, 'template' of
    ``caption_template``, which may hold {caption} {name} {trigger} {class_word} and any key of the sample's meta.
    shuffle_tags, tag_dropout, keep_tags: of captions that are tags separated by commas, the first ``keep_tags`` stay,
    in place; the others are shuffled, and each is left out with probability ``tag_dropout`` (never all of them).
    Sentences, which are captions without a comma or with a full stop at the end, stay as they are.

    Raises:
        ConfigError: a value out of range, or a template that cannot be filled in.
    """

    caption_from: str = "data"
    caption_template: str = "{caption}"
    trigger: str = ""
    class_word: str = ""
    shuffle_tags: bool = False
    tag_dropout: float = 0.0
    keep_tags: int = 0

    def __post_init__(self) -> None:
        if self.caption_from not in SOURCES:
            raise ConfigError(f"captions from '{self.caption_from}'.", did_you_mean(self.caption_from, SOURCES))
        if not 0 <= self.tag_dropout < 1:
            raise ConfigError(f"tag_dropout is {self.tag_dropout}.", "it is a share: 0 keeps all tags, below 1")
        if self.keep_tags < 0:
            raise ConfigError(f"keep_tags is {self.keep_tags}.", "it is a number of tags: 0 or more")
        if self.caption_from == "template":
            for field in fields_of(self.caption_template):
                if field in ("trigger", "class_word") and not getattr(self, field):
                    raise ConfigError(
                        f"the caption template asks for {{{field}}}, which is empty.",
                        f"set {field}, or take it out of '{self.caption_template}'",
                    )

    def caption(self, sample: Sample, number: int) -> str:
        """Variant ``number`` (0, 1, ...) of the caption of a sample.

        Raises:
            ConfigError: the template asks for what the sample does not have.
            DataError: the caption is made of the file's name, and that holds no words.
        """
        if self.caption_from == "data":
            caption = sample.caption
        elif self.caption_from == "name":
            caption = _name(sample)
        else:
            caption = self._filled_in(sample)
        if not (self.shuffle_tags or self.tag_dropout) or not is_tags(caption):
            return caption
        return ", ".join(self._some(tags_of(caption), sample.key, number))

    def _filled_in(self, sample: Sample) -> str:
        values: dict[str, Any] = {**sample.meta, "caption": sample.caption}
        values |= {"trigger": self.trigger, "class_word": self.class_word}
        for field in fields_of(self.caption_template):
            if field == "name":
                values["name"] = _name(sample)
            elif values.get(field) is None:
                known = [*FIELDS, *(key for key, value in sample.meta.items() if value is not None)]
                raise ConfigError(
                    f"the caption template asks for {{{field}}}, which {sample.image} does not have.",
                    did_you_mean(field, known),
                )
        return _Plain().vformat(self.caption_template, (), values).strip()

    def _some(self, tags: list[str], key: str, number: int) -> list[str]:
        """The tags of one variant; which are dropped does not depend on whether they are shuffled."""
        first, rest = tags[: self.keep_tags], tags[self.keep_tags :]
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        random = np.random.default_rng([int.from_bytes(digest, "big"), number])
        order, luck = random.permutation(len(rest)), random.random(len(rest))
        stays = luck >= self.tag_dropout
        if rest and not first:
            stays[luck.argmax()] = True
        numbers = order if self.shuffle_tags else range(len(rest))
        return first + [rest[i] for i in numbers if stays[i]]


class _Plain(string.Formatter):
    """Fills in names and nothing else; a list is written with commas."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def fields_of(template: str) -> list[str]:
    """The names in braces of a template, in order.

    Raises:
        ConfigError: an empty template, braces that do not match, or something else than a name between them.
    """
    if not template.strip():
        raise ConfigError("the caption template is empty.", "for example '{trigger} {class_word}, {caption}'")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"the caption template '{template}': {error}.", "a brace itself is written {{ or }}"
        ) from None
    fields = [part for part in parts if part[1] is not None]
    for _, field, form, conversion in fields:
        if not re.fullmatch(r"[^\W\d]\w*", field or "") or form or conversion:
            shown = f"{field}{'!' + conversion if conversion else ''}{':' + form if form else ''}"
            raise ConfigError(
                f"the caption template '{template}' holds {{{shown}}}.",
                "between braces stands a name such as {caption}",
            )
    return [str(field) for _, field, _, _ in fields]


def words_of(name: str) -> str:
    """The words of a file's name: 'red_fox-03.png' -> 'red fox'; '' where it has none ('IMG_1234.jpg', a hash).

    Separators become spaces; counters, sizes and hashes at the end are dropped, as are counters at the front that begin
    with a zero ('007_fox'). Other numbers stay ('3_apples').
    """
    stem = SUFFIX.sub("", unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2]))
    words = [word for word in SEPARATORS.split(UUID.sub("", stem)) if word]
    if all(_is_nameless(word) for word in words):
        return ""
    while COUNTER.fullmatch(words[-1]) or words[-1].lower() == "copy":
        words.pop()
    while words[0].isdigit() and (words[0].startswith("0") or len(words[0]) > 3):
        words.pop(0)
    counted = COUNTED.fullmatch(words[-1])
    return " ".join([*words[:-1], counted[1] if counted else words[-1]])


def _is_nameless(word: str) -> bool:
    """Whether a word says nothing: IMG, DSC0001, 20240131, a hash, a lone mark."""
    return bool(COUNTER.fullmatch(word) or NAMELESS.fullmatch(word)) or not any(mark.isalpha() for mark in word)


def _name(sample: Sample) -> str:
    words = words_of(sample.image.name)
    if not words:
        raise DataError(
            f"{sample.image} has no words in its name, of which its caption is made.",
            "give the file a name that says what it shows, or take captions from elsewhere",
        )
    return words


def is_tags(caption: str) -> bool:
    """Whether a caption is a list of tags: words between commas, and no full stop at the end."""
    return "," in caption and not caption.rstrip().endswith(".")


def tags_of(caption: str) -> list[str]:
    """The tags between the commas; empty ones are left out."""
    return [tag for tag in (part.strip() for part in caption.split(",")) if tag]


def missing_words(caption: str, trigger: str, class_word: str) -> list[str]:
    """Those of the two (where given) that a caption lacks, as whole words in upper or lower case."""
    return [word for word in (trigger, class_word) if word and not any(_found(caption, word))]


def with_trigger(caption: str, trigger: str, class_word: str) -> str:
    """'a sks dog in the snow' of 'a dog in the snow'; as it is where it has the trigger, or not the class word."""
    found = next(_found(caption, class_word), None) if class_word else None
    if found is None or any(_found(caption, trigger)):
        return caption
    return f"{caption[: found.start()]}{trigger} {caption[found.start() :]}"


def _found(caption: str, words: str) -> Iterator[re.Match[str]]:
    pattern = r"\s+".join(map(re.escape, words.split()))
    return re.finditer(rf"(?<!\w){pattern}(?!\w)", caption, re.IGNORECASE)
