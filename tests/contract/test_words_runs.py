"""Runs in which new words learn: what changes in them, and that they open, draw and are planned as every run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import pairs_folder, prior_folder
from tiny_families import PICTURE_PX, family_folder

from limner import run
from limner.config import MethodConfig
from limner.errors import LimnerError
from limner.priors.new_words import learnt
from limner.run.weighing import weigh
from limner.train import checkpoint
from limner.train.log import read as read_log

CPU = torch.device("cpu")
METHODS = ("textual_inversion", "pivotal")


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    prior_folder(folder / "sd", "eps")
    family_folder(folder / "sdxl", "sdxl")
    pairs_folder(folder / "pairs")
    return folder


def configure(ground: Path, out: Path, method: str, family: str = "sd", **more: Any) -> MethodConfig:
    values = {
        "prior": str(ground / family),
        "image_px": PICTURE_PX,
        "data": str(ground / "pairs" / "target"),
        "class_word": "disc",
        "caption_template": "a {trigger} {class_word}",
        "num_vectors": 2,
        "out": out,
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 0,
        "sample_steps": 2,
        "score_pictures": 2,
        "prompts": "a {}",
        **({"preservation": "off", "rank": 2} if method == "pivotal" else {}),
        **more,
    }
    return run.resolve(method, values)


def saved(folder: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.read(folder / "checkpoints" / f"step-{step:06d}")[0]["weights"]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_opens_with_its_words_and_draws_the_same(ground: Path, tmp_path: Path, method: str, family: str) -> None:
    config = configure(ground, tmp_path / "run", method, family)
    folder = run.train(config)
    drawn = []
    for _ in range(2):
        _, opened, _ = run.open_run(folder, CPU)
        words = learnt(opened.learns()["words"])
        own = checkpoint.read(checkpoint.to_open(folder / "checkpoints"))[0]["ema"]["words"]  # type: ignore[arg-type]
        assert set(own) == {f"{name}.new_KD" for name in words}
        for name, vectors in words.items():
            assert vectors.keys() == {"<sks>"}
            assert torch.equal(vectors["<sks>"], own[f"{name}.new_KD"])
        told = opened.prior.encode_text(["a <sks> disc", "a disc"])
        noise = torch.randn(2, *opened.prior.latent_CHW, generator=torch.Generator().manual_seed(0))
        drawn.append(opened.generate(told, None, noise, num_steps=2, guidance_scale=2.0))
    assert torch.equal(*drawn)
    assert not torch.equal(*told.tokens_BLD)


def test_of_an_inversion_the_checkpoint_holds_the_words_alone(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "textual_inversion", num_vectors=3)
    before = run.build(config, CPU).method.learns()["words"]
    weights = saved(run.train(config), 4)
    assert {name: {key: tuple(value.shape) for key, value in some.items()} for name, some in weights.items()} == {
        "words": {"text_encoder.new_KD": (3, 64)}
    }
    start = learnt(before)["text_encoder"]["<sks>"]
    assert (weights["words"]["text_encoder.new_KD"] != start).any(dim=1).all()


def test_of_a_pivotal_run_the_words_learn_first_and_then_stand_still(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "pivotal", steps=6, save_every=1, keep=6)
    folder = run.train(config)
    steps = {step: saved(folder, step) for step in range(1, 7)}
    words = {step: held["words"]["text_encoder.new_KD"] for step, held in steps.items()}
    network = {step: torch.cat([part.flatten() for part in held["network"].values()]) for step, held in steps.items()}
    assert not torch.equal(words[1], words[3])
    assert torch.equal(network[1], network[3])
    assert torch.equal(words[4], words[6])
    assert not torch.equal(network[4], network[6])
    # The second stage goes on from the average.
    average = checkpoint.read(folder / "checkpoints" / "step-000003")[0]["ema"]["words"]["text_encoder.new_KD"]
    assert torch.equal(words[4], average)
    names = [{key for key in row if key.startswith("loss/")} for row in read_log(folder / "log.jsonl")[:6]]
    assert ["loss/words" in row for row in names] == [True] * 3 + [False] * 3


def test_several_subjects_have_a_word_each(ground: Path, tmp_path: Path) -> None:
    data = ground / "pairs" / "target"
    concepts = f"<a> disc={data}, <b> ring={data}"
    given = {"concepts": concepts, "prior": str(ground / "sd"), "image_px": PICTURE_PX, "steps": 1, "out": tmp_path}
    config = run.resolve("textual_inversion", given)
    module = run.job.build_method(config, CPU).learns()["words"]
    assert list(learnt(module)["text_encoder"]) == ["<a>", "<b>"]


@pytest.mark.parametrize("method", METHODS)
def test_what_it_will_hold_is_counted_without_weights(ground: Path, tmp_path: Path, method: str) -> None:
    counted = weigh(configure(ground, tmp_path / "run", method, "sdxl"), CPU)
    words = 2 * (32 + 64) * 4
    assert counted.learned == words if method == "textual_inversion" else counted.learned > words


def test_a_word_that_is_known_is_refused_before_training(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match="'a' is a word that"):
        run.train(configure(ground, tmp_path / "run", "textual_inversion", trigger="a"))
    assert not (tmp_path / "run").exists()


def test_a_word_that_others_hold_is_refused(ground: Path, tmp_path: Path) -> None:
    """Tokenizers find added tokens within longer words: 'xkq' in 'boxkqs'."""
    with pytest.raises(LimnerError, match="'xkq' would be read within longer words"):
        run.train(configure(ground, tmp_path / "run", "textual_inversion", trigger="xkq"))


def test_each_stage_of_a_pivotal_run_has_a_whole_curve_of_rates_and_scores_of_its_own(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.run.scoring import Scorer

    scores = iter([0.9, 0.5, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(Scorer, "score", lambda self, step: {"score": next(scores)})
    config = configure(ground, tmp_path / "run", "pivotal", steps=6, evaluate_every=1, patience=2, inversion_share=0.5)
    rows = read_log(run.train(config) / "log.jsonl")
    rates = {
        name: [row[key] for row in rows if (key := f"learning_rate/{name}") in row] for name in ("words", "network")
    }
    # The best is the first: it ends two scores after the hand-over at 3, not in the first stage.
    assert [len(one) for one in rates.values()] == [3, 2]
    falls = [(1 + math.cos(math.pi * done / 3)) / 2 for done in range(3)]
    assert rates["words"] == pytest.approx([5e-3 * fall for fall in falls])
    assert rates["network"] == pytest.approx([1e-4 * fall for fall in falls[:2]])


@pytest.mark.parametrize("fixed", [{"preservation": "pictures"}, {"adapter": "lora"}])
def test_what_has_no_meaning_for_an_inversion_is_refused(ground: Path, tmp_path: Path, fixed: dict[str, str]) -> None:
    with pytest.raises(LimnerError, match=next(iter(fixed))):
        configure(ground, tmp_path / "run", "textual_inversion", **fixed)
