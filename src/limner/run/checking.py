"""``limner check``: what a method and a prior, by name, ask of data; and a data set held against that."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from limner.config import MethodConfig, PersonalizeConfig, read_yaml
from limner.config import resolve as resolve_config
from limner.config.personalize import told
from limner.data.auditing import subject
from limner.data.auditing.examine import Rules
from limner.data.auditing.strays import alone, in_roles, rescue, tree_of
from limner.data.check import Audit, audit, numbers
from limner.data.findings import SEVERITIES, Finding, Needs, refused
from limner.data.read import stream
from limner.data.records import Stream, splits
from limner.errors import DataError
from limner.evaluate import features
from limner.priors.base import Prior
from limner.priors.common import is_common
from limner.run.data import load_data, load_subjects, needs_of, recipe_of, sizes_of
from limner.run.job import build_method, load_prior, refuse_shapes, resolve
from limner.train import progress
from limner.types import Sample

Data = Sequence[Sample] | Stream


def resolve_check(method: str | None, flags: dict[str, Any], file: Path | None = None) -> MethodConfig:
    """The configuration that data are checked for; without a method, only what all methods have in common.

    Raises:
        ConfigError: as for training.
    """
    method = method or (read_yaml(file).get("method") if file else None)
    return resolve(method, flags, file) if method else resolve_config(MethodConfig, {**flags, "method": ""}, file)


def check(config: MethodConfig, limit: int | None = None, shown: bool = False) -> tuple[Audit, Data]:
    """The audit of a configuration's data, and the data.

    Args:
        config: of a run; one without a method asks for nothing but pictures that can be read.
        limit: look at no more than so many records.
        shown: whether there is a progress bar.

    Raises:
        ConfigError: what training would refuse of the configuration itself.
    """
    if isinstance(config, PersonalizeConfig):
        return _check_subjects(config, limit, shown)
    rules = rules_of(config)
    try:
        data: Data = stream(config.data) if config.stream else load_data(config.data)
    except DataError as error:
        return _rescued(config, error, rules, limit)
    num = len(numbers(len(data), limit)) if isinstance(data, Sequence) else limit or 0
    tree = None if config.stream or limit else tree_of(config.data)
    with progress.bar("looking at pictures", num, 0, 1, shown) as advance:
        return audit(config.data, data, rules, limit, advance, tree), data


def _check_subjects(config: PersonalizeConfig, limit: int | None, shown: bool) -> tuple[Audit, Data]:
    """As ``check``, of all pictures of all subjects, with what is to be said of the subjects themselves."""
    prior, rules = load_prior(config, meta=True), rules_of(config)
    for concept in config.subjects:
        try:
            load_data(concept.data)
        except DataError as error:
            captioner = replace(rules.recipe.captioner, caption_template=told(config.caption_template, concept.words))
            own = replace(rules, recipe=replace(rules.recipe, captioner=captioner))
            return _rescued(config.model_copy(update={"data": concept.data}), error, own, limit)
    try:
        records = load_subjects(config)
    except DataError as error:  # one that has nothing to train on
        return Audit(config.data, 0, [refused(error)]), []
    name = ", ".join(concept.data for concept in config.subjects)
    tree = None if limit or config.concepts else tree_of(config.data)
    with progress.bar("looking at pictures", len(numbers(len(records), limit)), 0, 1, shown) as advance:
        result = audit(name, records, rules, limit, advance, tree)
    found = [*of_subjects(config, prior, splits(records)["train"]), *result.findings]
    if config.caption_from == "template":  # is meant to say the same of all
        found = [finding for finding in found if finding.code != "one-caption"]
    result.findings = sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
    return result, records


def of_subjects(config: PersonalizeConfig, prior: Prior, training: Sequence[Sample]) -> list[Finding]:
    """What is to be said of the words and the pictures of subjects; ``training`` as ``load_subjects`` gives it."""
    sets: list[list[Sample]] = [[] for _ in config.subjects]
    for sample in training:
        sets[sample.meta["concept"]].append(sample)
    captioner, known = recipe_of(config, prior.image_px, None).captioner, functools.partial(is_common, prior)
    return list(subject.findings(config, sets, known, features.load(config.eye), captioner))


def warn(config: PersonalizeConfig, prior: Prior, training: Sequence[Sample], console: Console) -> None:
    """Say before a run what ``limner check`` says of its subjects.

    Raises:
        DataError: it would go wrong.
    """
    if config.eye == "eye" and config.prior != "mini":
        said = "scores, and the checkpoint that is kept, are by limner's own eye, which knows drawn things; "
        console.print(f"{said}for photographs give --eye openai/clip-vit-base-patch32", soft_wrap=True)
    for finding in of_subjects(config, prior, training):
        if finding.severity == "error":
            raise finding.error()
        if finding.severity == "warning":
            console.print(f"{finding.file} {finding.cause}; {finding.remedy}", highlight=False, soft_wrap=True)


def _rescued(config: MethodConfig, error: DataError, rules: Rules, limit: int | None) -> tuple[Audit, Data]:
    """Why the data cannot be read, and what else is wrong with the pictures in it."""
    tree, first = None if config.stream else tree_of(config.data), refused(error)
    pictures: Sequence[Sample] = []
    lone: list[Finding] = []
    passed_over = {"no-source", "no-mask", "no-pictures"}  # as a matter of course
    if tree is not None:
        with contextlib.suppress(DataError):  # a folder that cannot be listed
            pictures, lone = rescue(tree), list(alone(tree))
            passed_over |= {"no-caption", "no-trigger"} if in_roles(tree) else set()
    result = audit(config.data, pictures, rules, limit)
    kept = [finding for finding in result.findings if finding.code not in passed_over]
    result.findings = [*(lone if lone and first.code == "half-missing" else [first]), *kept]
    return result, pictures


def rules_of(config: MethodConfig) -> Rules:
    """What a run of this configuration would do with its data; loads no weights.

    Raises:
        ConfigError: a combination that training refuses.
    """
    if config.method:
        method = build_method(config, torch.device("meta"))
        prior, condition_px = method.prior, method.condition_px
        refuse_shapes(config, method)
    else:
        prior, condition_px = load_prior(config, meta=True), None
    buckets, resolutions_px = sizes_of(config, prior.image_px, prior.multiple_px)
    needs = needs_of(config, condition_px) if config.method else Needs()
    return Rules(
        recipe=recipe_of(config, prior.image_px, condition_px),
        needs=needs,
        uses_sources=needs.source or not config.method,
        uses_masks=needs.mask or not config.method,
        buckets=buckets,
        resolutions_px=resolutions_px,
        batch_size=config.batch_size,
        tokens=prior.count_tokens,
    )
