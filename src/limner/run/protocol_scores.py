"""What the pictures of the benchmark of subjects are worth, on DreamBooth's measures or on limner's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from limner.evaluate import subject
from limner.evaluate.features import ClipEmbedder, DinoEmbedder, Embedder


@dataclass(frozen=True)
class Task:
    """What is drawn of one subject of a run, and what it is compared with.

    prompts: with the words that were learnt. plain: the same with the class word alone, for agreement. real: uint8
    (3, H, W), of any size. Of the built-in data alone: looks, the prompts with words for how it looks, which the
    untrained prior is told; kinds and truth_NCHW of each prompt; decoded_NCHW, that through the prior's autoencoder.
    """

    name: str
    class_word: str
    prompts: list[str]
    plain: list[str]
    real: list[Tensor]
    looks: Sequence[str] = ()
    kinds: Sequence[str] = ()
    truth_NCHW: Tensor | None = None
    decoded_NCHW: Tensor | None = None


@dataclass(frozen=True)
class Judges:
    """What compares: a pair for pictures and prompts; DINO where the benchmark is DreamBooth's."""

    clip: ClipEmbedder
    dino: DinoEmbedder | None = None


class Ends(TypedDict):
    """Metric -> number: of the untrained prior, and of real pictures."""

    untrained: dict[str, Any]
    real: dict[str, Any]


def on_own(
    task: Task, made: Tensor, its_class: Tensor, floor: Tensor | None, plain_class: Tensor, judges: Judges
) -> tuple[dict[str, Any], Ends]:
    """(scores, those of the untrained prior and of real pictures), by the eye."""
    eye, text_ND, real_MD = judges.clip, judges.clip.texts(task.plain), _each(judges.clip, task.real)
    assert floor is not None and task.truth_NCHW is not None and task.decoded_NCHW is not None
    truth_ND = eye(task.truth_NCHW)
    found = []
    for drawn, bare in ((made, its_class), (floor, plain_class)):
        made_NKD = _rows(eye, drawn)
        context = {"context": subject.agreement(made_NKD, truth_ND)}
        found.append(subject.of_features(made_NKD, text_ND, real_MD, eye(bare)) | subject.means(context))
    real = subject.reference_of_features(real_MD, truth_ND)
    real |= subject.means({"prompt": subject.agreement(truth_ND[:, None], text_ND)})
    real |= subject.means({"decoded": subject.fidelity(eye(task.decoded_NCHW)[:, None], real_MD)})
    return found[0], {"untrained": found[1], "real": real}


def on_dreambooth(
    task: Task, made: Tensor, its_class: Tensor, floor: Tensor | None, plain_class: Tensor, judges: Judges
) -> tuple[dict[str, Any], Ends]:
    """(scores, those of the untrained prior and of real pictures), as the paper: by DINO, and prompts by CLIP."""
    assert judges.dino is not None
    dino_NKD, clip_NKD = _rows(judges.dino, made), _rows(judges.clip, made)
    dino_MD, clip_MD = _each(judges.dino, task.real), _each(judges.clip, task.real)
    scores = {
        "dino": subject.fidelity(dino_NKD, dino_MD),
        "clip_i": subject.fidelity(clip_NKD, clip_MD),
        "clip_t": subject.agreement(clip_NKD, judges.clip.texts(task.plain)),
        "drift": subject.fidelity(judges.dino(its_class)[:, None], dino_MD),
        "diversity": subject.diversity(clip_NKD),
        "copying": subject.nearest(dino_NKD, dino_MD).mean(dim=1),
    }
    drift = subject.means({"drift": subject.fidelity(judges.dino(plain_class)[:, None], dino_MD)})
    real = dict[str, Any]()
    for name, features_MD in (("dino", dino_MD), ("clip_i", clip_MD)):
        of_real = subject.reference_of_features(features_MD, None)
        real |= {key.replace("subject", name): value for key, value in of_real.items() if key.startswith("subject")}
    return subject.means(scores), {"untrained": drift, "real": real}


def by_kind(task: Task, made: Tensor, judges: Judges) -> dict[str, dict[str, Tensor]]:
    """kind of context -> metric -> a number a prompt."""
    if task.truth_NCHW is None:
        return {}
    made_NKD, text_ND = _rows(judges.clip, made), judges.clip.texts(task.plain)
    values = {
        "subject": subject.fidelity(made_NKD, _each(judges.clip, task.real)),
        "context": subject.agreement(made_NKD, judges.clip(task.truth_NCHW)),
        "prompt": subject.agreement(made_NKD, text_ND),
    }
    rows = {kind: torch.tensor([one == kind for one in task.kinds]) for kind in dict.fromkeys(task.kinds)}
    return {kind: {name: one_N[rows_N] for name, one_N in values.items()} for kind, rows_N in rows.items()}


def mean_kinds(found: Sequence[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Any]]:
    """Means over the subjects, of each its mean over the prompts of a kind."""
    together: dict[str, dict[str, list[Tensor]]] = {}
    for one in found:
        for kind, values in one.items():
            for name, value_N in values.items():
                together.setdefault(kind, {}).setdefault(name, []).append(value_N)
    return {
        kind: subject.means({name: torch.stack([one_N.mean() for one_N in parts]) for name, parts in values.items()})
        for kind, values in together.items()
    }


def bleed(tasks: Sequence[Task], drawn: Sequence[Tensor], judges: Judges) -> Tensor:
    made = [judges.clip(one.flatten(0, 1)) for one in drawn]
    return subject.bleed_of_features(made, [_each(judges.clip, task.real) for task in tasks])


def _rows(embed: Embedder, drawn: Tensor) -> Tensor:
    return embed(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2])


def _each(embed: Embedder, real: Sequence[Tensor]) -> Tensor:
    """Features of pictures of unlike sizes, (M, D)."""
    return torch.cat([embed(one[None]) for one in real])
