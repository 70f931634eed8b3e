"""What can be said against the pictures and the words of a subject to be learnt, before it is.

A picture of something else among the subject's is found by what an embedder makes of four views of each picture: whole,
and squares of its middle, left and right, so that company and ground can be left out. How alike two pictures are is the
largest cosine of any of their views. One whose mean likeness to the others is well below the middle picture's is named.
benchmarks/outliers.py measures how often that is right; docs/data.md has the numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.config.personalize import Concept, PersonalizeConfig
from limner.data import prepare
from limner.data.auditing import facts
from limner.data.captions import Captioner, missing_words
from limner.data.findings import Finding
from limner.errors import DataError, LimnerError
from limner.types import Sample

FEWEST, MOST = 3, 30  # pictures of a subject; usual numbers
STEPS_A_PICTURE = 20
SIDE_PX, SHARE = 192, 0.7  # of what is embedded; of a view's side in the picture's
LEAST_COMPARED, MOST_COMPARED = 4, 100  # pictures among which an outlier can be told; that are worth the time
FAR = 0.55  # of the middle picture's likeness

Embed = Callable[[Tensor], Tensor]  # uint8 BCHW -> features BD


def findings(
    config: PersonalizeConfig,
    sets: Sequence[Sequence[Sample]],
    is_common: Callable[[str], bool],
    embed: Embed,
    captioner: Captioner,
) -> Iterator[Finding]:
    """Everything about the subjects of a run.

    Args:
        sets: the training pictures of each of ``config.subjects``.
        is_common: whether the prior is likely to know a word.
        embed: features of pictures; their directions count.
        captioner: of the run.
    """
    yield from shared(config.subjects, sets)
    seen = max(1, config.accumulate) * config.batch_size * config.steps / max(1, sum(map(len, sets)))
    for concept, samples in zip(config.subjects, sets, strict=True):
        yield from of_words(concept, is_common)
        yield from of_number(concept, len(samples), seen)
        yield from of_captions(concept, samples, captioner)
        yield from outliers(samples, embed)


def of_words(concept: Concept, is_common: Callable[[str], bool]) -> Iterator[Finding]:
    """What stands for the subject."""
    trigger, class_word, name = concept.trigger, concept.class_word, concept.data
    rare = "a word that means nothing: --trigger sks, or '<name>' for methods that learn words"
    if class_word and trigger.lower() == class_word.lower():
        cause = f"is to be learnt as '{trigger}', which is its class word too: nothing would tell the two apart"
        yield Finding("error", "trigger-is-class", name, cause, rare)
    elif common := [word for word in trigger.split() if is_common(word)]:
        words = "', '".join(common)
        cause = f"is to be learnt as '{trigger}', but '{words}' means something to the prior, which is in the way"
        yield Finding("warning", "trigger-common", name, cause, rare)
    if not class_word:
        cause = f"has no class word beside '{trigger}': what kind of thing it is must then be learnt too"
        remedy = (
            "such as --class-word dog: worth much (DreamBooth's table 4: DINO 0.744 with the right one, 0.303 without)"
        )
        yield Finding("warning", "no-class-word", name, cause, remedy)


def of_captions(concept: Concept, samples: Sequence[Sample], captioner: Captioner) -> Iterator[Finding]:
    """A caption without the trigger teaches nothing of it; where all are, nothing is learnt."""
    captions = []
    with contextlib.suppress(LimnerError):  # a caption that cannot be made, which is said of its file
        captions = [captioner.caption(sample, 0) for sample in samples]
    nameless = [caption for caption in captions if missing_words(caption, concept.trigger, "")]
    if nameless:
        few = "is not learnt from all" if len(nameless) < len(captions) else "would not be learnt"
        cause = f"{few}: {len(nameless)} of {len(captions)} captions lack the trigger, such as '{nameless[0]}'"
        remedy = "write it into them, give --class-word where they say it, or take --caption-from template"
        yield Finding("warning" if len(nameless) < len(captions) else "error", "nameless", concept.data, cause, remedy)


def of_number(concept: Concept, num: int, seen: float) -> Iterator[Finding]:
    """How many pictures there are; ``seen`` is how often each is shown."""
    if num < FEWEST:
        what = "1 picture" if num == 1 else f"{num} pictures"
        cause = f"has {what} of '{concept.words}': what is learnt is the picture rather than the subject"
        yield Finding(
            "warning", "few-pictures", concept.data, cause, f"{FEWEST} to {MOST} are usual, on different grounds"
        )
    elif num > MOST:
        few = seen < STEPS_A_PICTURE
        cause = f"has {num} pictures of '{concept.words}' ({FEWEST} to {MOST} are usual), each seen {seen:.0f} times"
        remedy = f"take the best, or more --steps: some {STEPS_A_PICTURE} times a picture" if few else "nothing to do"
        yield Finding("warning" if few else "note", "many-pictures", concept.data, cause, remedy)


def shared(concepts: Sequence[Concept], sets: Sequence[Sequence[Sample]]) -> Iterator[Finding]:
    """Pictures that are to be two subjects at once."""
    first: dict[bytes, tuple[int, str]] = {}
    for number, samples in enumerate(sets):
        for sample in samples:
            try:
                digest = hashlib.sha256(facts.held(sample.image).data).digest()
            except DataError:  # said of the file itself
                continue
            other, file = first.setdefault(digest, (number, str(sample.image)))
            if other != number:
                words = concepts[other].words, concepts[number].words
                cause = f"is the same file as {file}, and cannot be both '{words[0]}' and '{words[1]}'"
                remedy = "give each concept pictures of its own"
                yield Finding("error", "shared-picture", str(sample.image), cause, remedy)


def outliers(samples: Sequence[Sample], embed: Embed) -> Iterator[Finding]:
    """Pictures that seem to show something else than the others."""
    shown, views = list[Sample](), list[Tensor]()
    for sample in samples[:MOST_COMPARED]:
        try:
            views += views_of(prepare.load_uint8(sample.image, SIDE_PX))
        except DataError:  # said of the file itself
            continue
        shown.append(sample)
    if len(shown) < LEAST_COMPARED:
        return
    for number in strangers(embed(torch.stack(views)).unflatten(0, (len(shown), -1))):
        cause = "seems to show something else than the other pictures of its subject"
        remedy = "look at it; move it away if so (a guess, which is wrong now and then)"
        yield Finding("warning", "outlier", str(shown[number].image), cause, remedy)


def views_of(uint8_CHW: Tensor) -> list[Tensor]:
    """A square picture and squares of its middle, left and right, all of the picture's size."""
    side = uint8_CHW.shape[-1]
    view = round(SHARE * side)
    top = (side - view) // 2
    cut = [uint8_CHW[:, top : top + view, left : left + view] for left in (top, 0, side - view)]
    whole = F.interpolate(torch.stack(cut).float(), (side, side), mode="bilinear", antialias=True)
    return [uint8_CHW, *whole.round().to(torch.uint8)]


def strangers(feature_NVD: Tensor) -> list[int]:
    """Which of N pictures are unlike the others, from the features of the V views of each."""
    unit_NVD = F.normalize(feature_NVD.float(), dim=-1)
    alike_NN = torch.einsum("nvd,mwd->nmvw", unit_NVD, unit_NVD).amax(dim=(2, 3)).fill_diagonal_(0)
    mean_N = alike_NN.sum(dim=1) / (len(alike_NN) - 1)
    return torch.nonzero(mean_N < FAR * mean_N.quantile(0.5)).flatten().tolist()
