"""The score of a model that was taught one subject: is it that subject, in what the prompt asks for, and nothing more?

    subject      is it this one             (cosine of drawn and real pictures, over all pairs)
    prompt       is the rest as asked       (cosine of drawn picture and prompt, without the word that was learnt)
    drift        did the class follow       (subject, of pictures drawn of the class alone: lower is better)
    diversity    do the samples differ      (between the pictures of one prompt)
    copying      is it a picture it saw     (the largest cosine to a training picture; share of those that are copies)

``subject`` is DINO or CLIP-I, ``prompt`` CLIP-T, ``drift`` PRES and ``diversity`` DIV of DreamBooth (Ruiz et al. 2023,
arXiv 2208.12242, sections 4.1 and 4.3), where DIV is measured in LPIPS and here in the embedder's features. Their
size depends on the embedder and on the pictures: even the real ones differ by 0.07 DINO from paper to paper. So each
is to be read beside what real pictures reach (``reference``), and what the untrained prior does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.errors import DataError
from limner.evaluate.features import Embedder
from limner.evaluate.metrics import diversity as metric
from limner.evaluate.metrics.interval import interval

Texts = Callable[[Sequence[str]], Tensor]
"""Prompts -> features (N, D) on the pictures' sphere: ``ClipEmbedder.texts``."""


def score(
    drawn: Tensor,
    prompts: Sequence[str],
    real: Tensor,
    class_drawn: Tensor | None,
    picture: Embedder,
    text: Texts,
    seed: int = 0,
) -> dict[str, Any]:
    """What K pictures of a subject for each of N prompts are worth; the same input gives the same numbers.

    Intervals are 95 % bootstrap intervals over prompts (of ``drift``: over the pictures of the class). ``score`` is
    max(0, subject) * max(0, prompt): a product, because either is easily had at the cost of the other (a copied
    training picture; a picture without the subject). DreamBench++ ranks models so (Peng et al. 2024, arXiv 2406.16855).
    That cosines of a picture and a text are small does not matter: a constant factor chooses no other checkpoint.

    Args:
        drawn: uint8 (N, K, 3, H, W).
        prompts: N, the trigger taken out: "a dog in the snow" of "a sks dog in the snow".
        real: the training pictures, uint8 (M, 3, H, W), of any size.
        class_drawn: pictures drawn of the class alone, uint8 (C, 3, H, W); with None there is no ``drift``.
        text: of the same pair as ``picture``.

    Raises:
        DataError: another number of prompts than of pictures, or no real picture.
    """
    num, each = drawn.shape[:2]
    if len(prompts) != num:
        raise DataError(f"{len(prompts)} prompts for the pictures of {num}.", "give a prompt for each row of pictures")
    made_NKD, real_MD = picture(drawn.flatten(0, 1)).unflatten(0, (num, each)), picture(real)
    class_CD = None if class_drawn is None else picture(class_drawn)
    return {
        **of_features(made_NKD, text(prompts), real_MD, class_CD, seed),
        "num_prompts": num,
        "num_pictures": each,
        "embedder": picture.name,
    }


def of_features(
    made_NKD: Tensor, text_ND: Tensor, real_MD: Tensor, class_CD: Tensor | None, seed: int = 0
) -> dict[str, Any]:
    """The same of features, of any length."""
    if not len(real_MD):
        raise DataError("there is no real picture of the subject to compare with.", "give its training pictures")
    per_prompt = {"subject": fidelity(made_NKD, real_MD), "prompt": agreement(made_NKD, text_ND)}
    per_prompt["copying"] = nearest(made_NKD, real_MD).mean(dim=1)
    if made_NKD.shape[1] > 1:
        per_prompt["diversity"] = diversity(made_NKD)
    if (level := copy_level(real_MD)) is not None:
        per_prompt["copied"] = (nearest(made_NKD, real_MD) > level).float().mean(dim=1)
    if class_CD is not None:
        per_prompt["drift"] = fidelity(class_CD[:, None], real_MD)
    found = means(per_prompt, seed)
    return found | {"score": max(0.0, found["subject"]) * max(0.0, found["prompt"])}


def means(values: dict[str, Tensor], seed: int = 0) -> dict[str, Any]:
    """name -> the mean, and name_interval -> its 95 % bootstrap interval, of one number a prompt (or a picture)."""
    found: dict[str, Any] = {}
    for name, values_N in values.items():
        found[name] = float(values_N.mean())
        found[f"{name}_interval"] = interval(values_N, seed)
    return found


def reference(real: Tensor, held_out: Tensor | None, picture: Embedder, seed: int = 0) -> dict[str, Any]:
    """What real pictures reach on the same scale: the ceiling of ``subject``, and what of ``copying`` is no copying.
    (Of ``diversity`` there is none: real pictures are of different contexts.)

    Held-out pictures of the subject against the training pictures, where there are any; else each training picture
    against the others. Intervals are over the pictures. Empty for a single picture without held-out ones.
    """
    return reference_of_features(picture(real), None if held_out is None else picture(held_out), seed)


def reference_of_features(real_MD: Tensor, held_out_LD: Tensor | None, seed: int = 0) -> dict[str, Any]:
    """The same of features, of any length."""
    if held_out_LD is not None and len(held_out_LD):
        cosine_LM = _cosines(held_out_LD, real_MD)
        values = {"subject": cosine_LM.mean(dim=1), "copying": cosine_LM.amax(dim=1)}
    elif len(real_MD) > 1:
        others = _cosines(real_MD, real_MD)[~torch.eye(len(real_MD), dtype=torch.bool)].view(len(real_MD), -1)
        values = {"subject": others.mean(dim=1), "copying": others.amax(dim=1)}
    else:
        return {}
    return means(values, seed)


def bleed(drawn_by_subject: Sequence[Tensor], real_by_subject: Sequence[Tensor], picture: Embedder) -> Tensor:
    """(S, S): how much the pictures drawn for subject i are like the real ones of subject j.

    A model that keeps its subjects apart has a diagonal well above the rest of each row (``margins``).

    Args:
        drawn_by_subject: S times uint8, (N, K, 3, H, W) or (N, 3, H, W).
        real_by_subject: S times uint8 (M, 3, H, W).
    """
    made = [picture(one.reshape(-1, *one.shape[-3:])) for one in drawn_by_subject]
    return bleed_of_features(made, [picture(one) for one in real_by_subject])


def bleed_of_features(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """The same of features, S times (N, D) and (M, D)."""
    return torch.stack([torch.stack([_cosines(mine, theirs).mean() for theirs in real]) for mine in made])


def margins(bleed_SS: Tensor) -> Tensor:
    """(S,): how much more the pictures of a subject are like it than like the nearest other. S >= 2."""
    others_SS = bleed_SS.clone().fill_diagonal_(-torch.inf)
    return bleed_SS.diagonal() - others_SS.amax(dim=1)


def place(value: float, floor: float, ceiling: float) -> float | None:
    """0 at the floor, 1 at the ceiling; None where the ceiling is no higher than the floor."""
    return (value - floor) / (ceiling - floor) if ceiling > floor else None


def fidelity(made_NKD: Tensor, real_MD: Tensor) -> Tensor:
    """Mean cosine over all pairs of a prompt's K pictures and the M real ones: (N,)."""
    return _cosines(made_NKD, real_MD).mean(dim=(1, 2))


def agreement(made_NKD: Tensor, asked_ND: Tensor) -> Tensor:
    """Mean cosine of a prompt's K pictures and what was asked, its text or its true picture: (N,)."""
    return F.cosine_similarity(made_NKD, asked_ND[:, None], dim=-1).mean(dim=1)


def nearest(made_NKD: Tensor, real_MD: Tensor) -> Tensor:
    """The largest cosine of each picture to a real one: (N, K)."""
    return _cosines(made_NKD, real_MD).amax(dim=-1)


def diversity(made_NKD: Tensor) -> Tensor:
    """Mean distance between the K pictures of each prompt, 0 (all alike) to 2: (N,). K >= 2."""
    return metric.diversity(F.normalize(made_NKD, dim=-1) * made_NKD.shape[-1] ** 0.5)


def copy_level(real_MD: Tensor) -> float | None:
    """The largest cosine of two real pictures: nearer to one of them is a copy. None where there is one picture."""
    if len(real_MD) < 2:
        return None
    cosine_MM = _cosines(real_MD, real_MD).fill_diagonal_(-1)
    return float(cosine_MM.max())


def _cosines(a_XD: Tensor, b_MD: Tensor) -> Tensor:
    """(..., D) and (M, D) -> (..., M)."""
    return F.normalize(a_XD, dim=-1) @ F.normalize(b_MD, dim=-1).T
