"""What a configuration says of data, made real: which records, in which buckets, and how they become tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ImageColor

from limner import find
from limner.config import MethodConfig, PersonalizeConfig, TranslateConfig
from limner.config.personalize import told
from limner.data import prepare
from limner.data.buckets import Bucket, assign
from limner.data.buckets import make as make_buckets
from limner.data.captions import Captioner, with_trigger
from limner.data.condition import Condition, bind
from limner.data.findings import Needs, lacks
from limner.data.order import Streamed
from limner.data.pixels import Recipe
from limner.data.prepare import Style
from limner.data.read import read, stream
from limner.data.records import Subset, splits
from limner.data.views import Augment
from limner.errors import ConfigError, DataError, did_you_mean
from limner.types import Sample

Groups = list[tuple[Bucket, np.ndarray]]


def load_splits(
    config: MethodConfig, image_px: int, multiple_px: int, check: Callable[[Sample], None] = lambda _: None
) -> tuple[Subset | Streamed, Sequence[Sample], Sequence[Sample], Groups]:
    """(training, held-out for choosing the best, held-out for the report, the training pictures by bucket).

    ``check`` is shown the records of a stream as they come, which cannot be looked at before.

    Raises:
        DataError: it cannot be read, or holds nothing to train on.
        ConfigError: sizes that the prior cannot take, or a choice that a stream does not allow.
    """
    if config.stream:
        if config.aspect == "buckets" or config.fraction < 1 or config.resolutions_px:
            raise ConfigError(
                "aspect, fraction and resolutions_px need records that can be numbered.", "leave out these, or stream"
            )
        records = Streamed(stream(config.data), config.seed, check)
        return records, records.held_out, records.held_out, []
    parts = splits(load_subjects(config) if isinstance(config, PersonalizeConfig) else load_data(config.data))
    num = len(parts["train"])
    if not num:
        raise DataError(f"{config.data} has no training pictures.", "set split to 'train' for some of them")
    # Evenly spaced over the names, which says nothing about content; the same pictures for every seed.
    few = max(1, round(config.fraction * num))
    training = parts["train"].take(np.arange(few) * num // few)
    held_out = parts["validation"] if len(parts["validation"]) else parts["train"].take(slice(32))
    test = parts["test"] if len(parts["test"]) else held_out
    return training, held_out, test, _groups(training, config, image_px, multiple_px)


def load_subjects(config: PersonalizeConfig) -> list[Sample]:
    """The pictures of all concepts, each told in ``meta`` which one it is of (``concept``, its number; ``trigger``,
    ``class_word``, and both as ``words``) and how much it counts (``weight``): each concept the same in all, however
    many pictures it has, times its own weight. In captions of the data the trigger is put before the class word;
    ``said`` is what they were.

    Raises:
        DataError: one cannot be read, or holds nothing to train on.
    """
    sets = [list(load_data(concept.data)) for concept in config.subjects]
    num_train = [sum(sample.split == "train" for sample in samples) for samples in sets]
    records, mean = [], sum(concept.weight for concept in config.subjects) / len(sets)
    for number, (concept, samples, num) in enumerate(zip(config.subjects, sets, num_train, strict=True)):
        if not num:
            raise DataError(f"{concept.data} has no training pictures.", "set split to 'train' for some of them")
        weight = concept.weight / mean * sum(num_train) / (len(sets) * num)
        own = {"concept": number, "trigger": concept.trigger, "class_word": concept.class_word}
        own |= {"words": concept.words, "weight": weight}
        prefix = f"{concept.trigger}/" if len(sets) > 1 else ""
        records += [
            replace(
                sample,
                key=prefix + sample.key,
                caption=with_trigger(sample.caption, concept.trigger, concept.class_word),
                meta={**sample.meta, **own, "said": sample.caption},
            )
            for sample in samples
        ]
    return records


def _groups(training: Subset, config: MethodConfig, image_px: int, multiple_px: int) -> Groups:
    """Which pictures are cut to which size."""
    shapes, resolutions_px = sizes_of(config, image_px, multiple_px)
    if len(shapes) == 1:
        return [(shapes[0], np.arange(len(training)))]
    sizes_N2 = np.array([prepare.size(sample.image) for sample in training])
    table = assign(sizes_N2, shapes, resolutions_px)
    return [(bucket, numbers_N) for bucket, numbers_N in table.groups if len(numbers_N)]


def recipe_of(config: MethodConfig, image_px: int, condition_px: int | None) -> Recipe:
    """What the configuration says of how records become tensors.

    Raises:
        ConfigError: a colour, a template or a condition's option that cannot be.
    """
    return Recipe(
        image_px=image_px,
        condition_px=condition_px,
        condition=computed_condition(config),
        source_kind=config.source_kind if isinstance(config, TranslateConfig) else "picture",
        style=Style(
            background=colour(config.background),
            grey=config.grey,
            resample=config.resample,
            linear_light=config.linear_light,
        ),
        augment=Augment(
            crop=config.crop, rotate_degrees=config.rotate_degrees, jitter=config.jitter, num_views=config.views
        ),
        captioner=Captioner(
            caption_from=config.caption_from,
            caption_template=_template(config),
            trigger=config.trigger,
            class_word=config.class_word,
            shuffle_tags=config.shuffle_tags,
            tag_dropout=config.tag_dropout,
            keep_tags=config.keep_tags,
        ),
        flip=config.flip,
        masked=config.masked_loss,
        unmasked_weight=config.unmasked_weight,
    )


def _template(config: MethodConfig) -> str:
    """The caption template; of subjects the words are with each picture, see ``load_subjects``."""
    return (
        told(config.caption_template, "{words}") if isinstance(config, PersonalizeConfig) else config.caption_template
    )


def colour(name: str) -> tuple[int, int, int]:
    """A colour's name or #rrggbb as red, green, blue in 0..255.

    Raises:
        ConfigError: no colour of that name.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ConfigError(f"background '{name}' is no colour.", "such as white, black or #ff8800") from None


def computed_condition(config: MethodConfig) -> Condition | None:
    """What makes condition pictures from pictures; None where the data brings them."""
    if not isinstance(config, TranslateConfig) or config.condition == "source":
        return None
    return bind(config.condition, config.condition_options)


def load_data(name: str) -> Sequence[Sample]:
    """A built-in data set by name (``NAME`` or ``NAME:VARIANT``), else a folder, zip, table or shards."""
    known, (own, _, variant) = find.names("data set"), name.partition(":")
    if own in known:
        return find.load("data set", own)(*filter(None, [variant]))
    try:
        return read(name)
    except DataError as error:
        hint = did_you_mean(name, known)
        if hint.startswith("did") and not Path(name).exists():
            raise DataError(str(error), hint) from None
        raise


def refuse(samples: Iterable[Sample], needs: Needs, recipe: Recipe) -> None:
    """Stop at the first record that the method cannot learn from, before any compute is spent."""
    for sample in samples:
        for finding in lacks(sample, recipe.captioner.caption(sample, 0), needs):
            if finding.severity == "error":
                raise finding.error()


def needs_of(config: MethodConfig, condition_px: int | None) -> Needs:
    """What every record must have; ``condition_px`` is the method's, None where it takes no condition picture."""
    return Needs(
        source=isinstance(config, TranslateConfig) and config.condition == "source",
        caption=condition_px is None,
        mask=config.masked_loss == "mask",
    )


def sizes_of(config: MethodConfig, image_px: int, multiple_px: int) -> tuple[list[Bucket], tuple[int, ...]]:
    """The sizes that pictures are cut to, and the resolutions they stand for.

    Raises:
        ConfigError: a size that the prior cannot take.
    """
    resolutions_px = config.resolutions_px or (image_px,)
    if wrong := [side for side in resolutions_px if side < multiple_px or side % multiple_px]:
        raise ConfigError(
            f"resolutions_px: {wrong[0]} is no multiple of {multiple_px}.",
            f"the prior '{config.prior}' takes {max(1, wrong[0] // multiple_px) * multiple_px}, or another multiple",
        )
    if config.aspect == "buckets":
        return make_buckets(resolutions_px, multiple_px), resolutions_px
    return [Bucket(side, side) for side in resolutions_px], resolutions_px
