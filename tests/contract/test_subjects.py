"""Runs that learn subjects: what they are told, what they keep, how they are scored, when they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny import prior_folder

from limner import run
from limner.config import PersonalizeConfig
from limner.config.personalize import class_prompt, told
from limner.errors import ConfigError, DataError, RunError
from limner.methods.subject import SubjectMethod
from limner.run import class_pictures
from limner.run.class_pictures import draw
from limner.run.data import load_subjects
from limner.run.job import build_method, open_run
from limner.run.subject_judging import untrained
from limner.train import checkpoint
from limner.train.log import read as read_log
from limner.types import Batch, Dice

CPU = torch.device("cpu")


def subject_folder(folder: Path, colour: str, num: int = 4) -> Path:
    """Pictures of a disc, no captions."""
    folder.mkdir(parents=True)
    for number in range(num):
        picture = Image.new("RGB", (24, 24), "white")
        ImageDraw.Draw(picture).ellipse((2 + number, 2, 18, 18), fill=colour)
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subjects")
    for path in ("eps", "v", "flow"):
        prior_folder(folder / path, path)
    subject_folder(folder / "red", "red")
    subject_folder(folder / "blue", "blue", num=2)
    return folder


def configure(ground: Path, out: Path, path: str = "v", method: str = "dreambooth", **more: Any) -> PersonalizeConfig:
    values: dict[str, Any] = {
        "prior": str(ground / path), "out": out, "steps": 4, "batch_size": 2, "warmup_steps": 1, "learning_rate": 1e-3,
        "save_every": 2, "evaluate_every": 2, "sample_every": 4, "sample_steps": 2, "class_pictures": 3, "rank": 2,
        "score_pictures": 2, "prompts": "a {} here|a {} there",
    }  # fmt: skip
    if "concepts" not in more:
        values |= {"data": str(ground / "red"), "class_word": "disc"}
    config = run.resolve(method, {**values, **more})
    assert isinstance(config, PersonalizeConfig)
    return config


@pytest.mark.parametrize(
    ("template", "of_subject", "of_class"),
    [
        ("a photo of {trigger} {class_word}", "a photo of sks owl", "a photo of an owl"),
        ("a photo of a {trigger} {class_word} outside", "a photo of a sks owl outside", "a photo of an owl outside"),
        ("the {trigger} {class_word}", "the sks owl", "the owl"),
        ("{trigger}, in ink", "sks owl, in ink", "an owl, in ink"),
    ],
)
def test_a_template_is_said_of_the_subject_and_of_its_class(template: str, of_subject: str, of_class: str) -> None:
    assert told(template, "sks owl") == of_subject
    assert class_prompt(template, "owl") == of_class


@pytest.mark.parametrize(
    ("template", "of_class"),
    [
        ("a photo of {trigger} {class_word}, {caption}", "a photo of an owl"),
        ("{caption}, {trigger} {class_word}", "an owl"),
        ("{caption}", "a photo of an owl"),
        ("{caption} cute {trigger} {class_word}", "cute owl"),
        ("a {colour} {trigger} {class_word} at night", "an owl at night"),
        ("a cute {trigger} {class_word} at night", "a cute owl at night"),
        ("The {trigger} {class_word}", "The owl"),
    ],
)
def test_of_the_class_nothing_is_said_that_is_of_one_picture(template: str, of_class: str) -> None:
    assert class_prompt(template, "owl") == of_class


def test_concepts_are_told_apart_and_count_alike(ground: Path) -> None:
    concepts = f"sks disc={ground / 'red'}, zwx ball={ground / 'blue'}"
    config = configure(ground, ground / "none", concepts=concepts)
    samples = load_subjects(config)
    assert [sample.meta["words"] for sample in samples] == ["sks disc"] * 4 + ["zwx ball"] * 2
    # Two thirds of the pictures are the first's, and it counts as much as the other.
    assert sum(sample.meta["weight"] for sample in samples[:4]) == pytest.approx(3)
    assert sum(sample.meta["weight"] for sample in samples[4:]) == pytest.approx(3)
    assert len({sample.key for sample in samples}) == 6
    job = run.build(config, CPU)
    assert {job.train.caption(sample) for sample in samples} == {"a photo of sks disc", "a photo of zwx ball"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"class_word": ""}, "class_word"),
        ({"trigger": ""}, "trigger"),
        ({"concepts": "cat"}, "is not written as"),
        ({"concepts": "sks cat=a, sks dog=b", "class_word": ""}, "two concepts have the trigger 'sks'"),
        ({"prompts": "a dog"}, "needs one {}"),
        ({"text_encoder": True, "preservation": "teacher"}, "teacher"),
        ({"timesteps": "logit_normal", "noise_bias": 2.0}, "noise_bias is for uniform times"),
        ({"regularisation": "some", "preservation": "teacher"}, "regularisation is for preservation pictures"),
    ],
)
def test_what_cannot_be_is_said(ground: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run.resolve("dreambooth", {"data": str(ground / "red"), "class_word": "disc", **given})


def test_concepts_count_beside_one_another(ground: Path) -> None:
    concepts = [
        {"trigger": word, "class_word": "disc", "data": str(ground / colour), "weight": weight}
        for word, colour, weight in (("sks", "red", 6.0), ("zwx", "blue", 2.0))
    ]
    samples = load_subjects(configure(ground, ground / "none", concepts=concepts))
    assert sum(sample.meta["weight"] for sample in samples) == pytest.approx(len(samples))
    assert sum(sample.meta["weight"] for sample in samples[:4]) == pytest.approx(4.5)


@pytest.mark.parametrize(("adapter", "rate"), [("lora", 1e-4), ("full", 5e-6)])
def test_a_whole_network_learns_slowly_unless_told(ground: Path, adapter: str, rate: float) -> None:
    given = {"data": str(ground / "red"), "class_word": "disc", "adapter": adapter}
    assert run.resolve("dreambooth", given).learning_rate == rate
    assert run.resolve("dreambooth", {**given, "learning_rate": 1e-3}).learning_rate == 1e-3


def test_captions_without_the_trigger_are_told_and_where_all_are_refused(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = subject_folder(tmp_path / "own", "green")
    for number in range(4):
        (own / f"{number}.txt").write_text("a green ball")
    given = {"data": str(own), "class_word": "disc", "caption_from": "data", "preservation": "off", "steps": 1}
    with pytest.raises(DataError, match="4 of 4 captions lack the trigger, such as 'a green ball'"):
        run.train(configure(ground, tmp_path / "run", **given))
    (own / "0.txt").write_text("a disc, green")
    run.train(configure(ground, tmp_path / "run", **given))
    assert "3 of 4 captions lack the trigger" in " ".join(capsys.readouterr().err.split())


def test_class_pictures_of_another_attempt_are_refused(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run")
    class_pictures.ready(run.build(config, CPU), tmp_path)
    other = run.build(configure(ground, tmp_path / "run", guidance_scale=2.5), CPU)
    with pytest.raises(RunError, match=r"00000\.png was drawn with guidance_scale .* not 2\.5"):
        class_pictures.ready(other, tmp_path)


def test_the_untrained_prior_is_the_one_that_the_run_began_with(ground: Path, tmp_path: Path) -> None:
    first = configure(ground, tmp_path / "first", learning_rate=0.05, preservation="off")
    run.train(first)
    _, taught, _ = open_run(tmp_path / "first", CPU)
    drawn = draw(run.build(first, CPU, taught), "a disc", 1, range(3))
    bare = draw(untrained(first), "a disc", 1, range(3))
    on_top = draw(
        untrained(first.model_copy(update={"adapters": (f"{tmp_path / 'first'}:1.0",)})), "a disc", 1, range(3)
    )
    assert (drawn.int() - on_top.int()).abs().max() <= 2
    assert (drawn.int() - bare.int()).abs().max() > 2


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


def test_class_pictures_are_drawn_once_and_only_the_missing_ones(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run")
    folder = run.train(config)
    files = sorted((folder / "class" / "disc").glob("*.png"))
    assert len(files) == 3
    before, drawn = [file.read_bytes() for file in files], pixels(files[1])
    files[1].unlink()
    files[2].touch()
    job = run.build(config, CPU)
    class_pictures.ready(job, folder)
    assert [files[n].read_bytes() for n in (0, 2)] == [before[n] for n in (0, 2)]
    # Drawn alone and not among three, for which some processors' kernels round otherwise.
    assert np.abs(pixels(files[1]) - drawn).max() <= 1
    loader = class_pictures.kept(job, folder)
    assert loader is not None
    assert {loader.caption(sample) for sample in loader.samples} == {"a photo of a disc"}


def test_pictures_of_the_users_are_kept_under_their_own_captions(ground: Path, tmp_path: Path) -> None:
    users = subject_folder(tmp_path / "users", "green", num=2)
    (users / "0.txt").write_text("a green ball")
    config = configure(ground, tmp_path / "run", regularisation=str(users))
    loader = class_pictures.kept(run.build(config, CPU), tmp_path)
    assert loader is not None
    assert sorted(loader.caption(sample) for sample in loader.samples) == ["a green ball", "a photo of a disc"]
    bare = configure(ground, tmp_path / "run", regularisation=str(users), class_word="", caption_template="{trigger}")
    with pytest.raises(DataError, match="without a caption"):
        class_pictures.kept(run.build(bare, CPU), tmp_path)


def test_pictures_of_the_users_are_not_told_one_class_of_several(ground: Path, tmp_path: Path) -> None:
    concepts = f"sks disc={ground / 'red'}, zwx ball={ground / 'blue'}"
    config = configure(ground, tmp_path, concepts=concepts, regularisation=str(ground / "blue"))
    with pytest.raises(DataError, match="no one class_word says what they show"):
        class_pictures.kept(run.build(config, CPU), tmp_path)


def batch_of(job: run.Job) -> Batch:
    return job.train.collate(job.train.upright(list(job.train.samples[:2])), 0, [0, 1])


@pytest.mark.parametrize("adapter", ["full", "lora", "dora"])
@pytest.mark.parametrize("path", ["eps", "v", "flow"])
def test_the_teacher_is_the_untrained_prior(ground: Path, tmp_path: Path, path: str, adapter: str) -> None:
    config = configure(ground, tmp_path, path, preservation="teacher", adapter=adapter)
    job = run.build(config, CPU)
    batch = batch_of(job)
    _, kept = job.method.losses(batch)  # type: ignore[attr-defined]
    assert float(kept.detach()) == 0
    with torch.no_grad():
        for weight in job.method.learns()["network"].parameters():
            if weight.requires_grad:
                weight += 0.05
    _, kept = job.method.losses(batch)  # type: ignore[attr-defined]
    assert float(kept.detach()) > 0
    assert all(weight.requires_grad == (adapter == "full" or "lora_" in name or "magnitude" in name)
               for name, weight in job.method.prior.network.named_parameters())  # fmt: skip


def test_what_is_kept_counts_by_its_weight(ground: Path, tmp_path: Path) -> None:
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        job = run.build(configure(ground, tmp_path, preservation_weight=weight), CPU)
        batch = batch_of(job)
        kept = job.train.collate(job.train.upright(list(job.train.samples[2:])), 0, [0, 1], seed=5)
        (update,) = job.method.step(Batch(**{**vars(batch), "kept": kept}))
        losses[weight] = float(update.loss.detach()), float(update.log["loss/kept"])
    assert losses[1.0][0] - losses[0.0][0] == pytest.approx(losses[1.0][1])
    assert losses[3.0][0] - losses[0.0][0] == pytest.approx(3 * losses[1.0][1])


@pytest.mark.parametrize("path", ["v", "flow"])
def test_times_lean_to_noise_where_asked(
    ground: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A density of 2t has its mean at two thirds, on flow priors too."""
    job = run.build(configure(ground, tmp_path, path, noise_bias=2.0, preservation="off"), CPU)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(job.method.prior.path, "draw_t", lambda u_B: seen.append(u_B) or u_B.clamp(min=0.01))
    for number in range(80):
        batch = job.train.collate(job.train.upright(list(job.train.samples[:2])), number, [0, 1])
        job.method.losses(batch)  # type: ignore[attr-defined]
    assert float(torch.cat(seen).mean()) == pytest.approx(2 / 3, abs=0.05)


def test_a_concept_counts_by_its_weight(ground: Path, tmp_path: Path) -> None:
    job = run.build(configure(ground, tmp_path, preservation="off"), CPU)
    batch = batch_of(job)
    whole, _ = job.method.losses(batch)  # type: ignore[attr-defined]
    batch = batch_of(job)  # the same dice, not thrown yet
    meta = [{**one, "weight": 2.0} for one in batch.meta]
    twice, _ = job.method.losses(Batch(**{**vars(batch), "meta": meta}))  # type: ignore[attr-defined]
    assert float(twice.detach()) == pytest.approx(2 * float(whole.detach()))


@pytest.mark.parametrize("path", ["eps", "v", "flow"])
def test_min_snr_lets_no_time_count_for_more_than_its_share(ground: Path, tmp_path: Path, path: str) -> None:
    prior = build_method(configure(ground, tmp_path, path), CPU).prior
    t_B = torch.linspace(0.01, 0.99, 50)
    weight_B = prior.path.min_snr(t_B, 5.0)
    if path == "flow":
        assert bool((weight_B == 1).all())
        return
    snr_B = (prior.path.a(t_B) / prior.path.s(t_B)).square()
    on_x0_B = weight_B * (snr_B if path == "eps" else snr_B + 1)  # what the weight is of the error of x_0
    torch.testing.assert_close(on_x0_B, snr_B.clamp(max=5.0))


@pytest.mark.parametrize(("given", "share"), [(None, 1.0), (5.0, 0.0)])
def test_pure_noise_counts_by_default(ground: Path, tmp_path: Path, given: float | None, share: float) -> None:
    """Where v is said and the last time has no signal, min-SNR teaches nothing of it, and sampling starts there."""
    method = run.build(configure(ground, tmp_path, "v", min_snr_gamma=given), CPU).method
    assert isinstance(method, SubjectMethod)
    weight_B = method.loss_weight(torch.tensor([1.0]))
    assert float(weight_B) == pytest.approx(share, abs=1e-6)


def test_every_checkpoint_is_scored_on_pictures_and_the_best_is_kept(ground: Path, tmp_path: Path) -> None:
    folder = run.train(configure(ground, tmp_path / "run", keep=1))
    rows = [row for row in read_log(folder / "log.jsonl") if "validation/score" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        expected = max(0, row["validation/subject"]) * max(0, row["validation/prompt"])
        assert row["validation/score"] == pytest.approx(expected)
        assert {"validation/drift", "validation/diversity", "validation/copying"} <= row.keys()
        assert row["validation/subject_low"] <= row["validation/subject"] <= row["validation/subject_high"]
        sheet = Image.open(folder / "samples" / f"score-{row['step']:06d}.png")
        assert json.loads(sheet.text["limner"])["step"] == row["step"]  # type: ignore[attr-defined]
    best = max(rows, key=lambda row: row["validation/score"])["step"]
    chosen = checkpoint.to_open(folder / "checkpoints")
    assert chosen is not None
    assert chosen.name == f"step-{best:06d}"


def test_a_run_ends_when_its_scores_no_longer_rise_and_stays_ended(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from limner.run.scoring import Scorer

    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(Scorer, "score", lambda self, step: {"score": next(scores)})
    config = configure(ground, tmp_path / "run", steps=10, evaluate_every=2, patience=2)
    folder = run.train(config)
    assert checkpoint.all_of(folder / "checkpoints")[-1].name == "step-000008"
    assert "ended at step 8 of 10: no better score since step 4" in " ".join(capsys.readouterr().err.split())
    run.train(config)
    assert checkpoint.all_of(folder / "checkpoints")[-1].name == "step-000008"
    assert next(scores) == 0.9


def test_the_noise_of_what_is_kept_is_its_own(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run")
    job = run.build(config, CPU)
    class_pictures.ready(job, tmp_path / "run")
    loader = class_pictures.kept(job, tmp_path / "run")
    assert loader is not None
    own, other = Dice(job.train.seed, 0, [0]), Dice(loader.seed, 0, [0])
    assert not torch.equal(own.normal(4), other.normal(4))
