"""A subject on plain grounds: what is shown, what is said, and that nothing takes it for a picture as it was given."""

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
from limner.data import prepare
from limner.data.grounds import OnGround, as_given, rgb
from limner.errors import DataError
from limner.run.scoring import Scorer

CPU = torch.device("cpu")
HERE, ELSEWHERE = (32, 32), (4, 4)  # in the disc, and outside of it


def disc(folder: Path, how: str, num: int = 3) -> Path:
    """Red discs on green, with what cuts them out beside them or in them, and captions."""
    folder.mkdir()
    rows = []
    for number in range(num):
        picture, mask = Image.new("RGB", (64, 64), "lime"), Image.new("L", (64, 64))
        for canvas, colour in ((picture, "red"), (mask, 255)):
            ImageDraw.Draw(canvas).ellipse((12, 12, 50 + number, 50 + number), fill=colour)
        row = {"file_name": f"{number}.png", "caption": "a disc in the grass"}
        if how == "alpha":
            picture.putalpha(mask)
        else:
            row["mask"] = f"mask-{number}.png"
            mask.save(folder / row["mask"])
        picture.save(folder / row["file_name"])
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def job(tmp_path: Path, request: pytest.FixtureRequest) -> run.Job:
    how, more = request.param
    prior_folder(tmp_path / "prior", "v")
    values: dict[str, Any] = {
        "prior": str(tmp_path / "prior"), "data": str(disc(tmp_path / "discs", how)), "class_word": "disc",
        "masked_loss": how, "grounds": "grey, light blue", "out": tmp_path / "run", "prompts": "a {} here",
    }  # fmt: skip
    return run.build(run.resolve("dreambooth", {**values, **more}), CPU)


BOTH = pytest.mark.parametrize("job", [("mask", {}), ("alpha", {"caption_from": "data"})], indirect=True)


@BOTH
def test_the_subject_is_shown_on_each_ground_and_told_so(job: run.Job) -> None:
    samples = job.train.samples
    assert len(samples) == 9 and len({sample.key for sample in samples}) == 9
    of_data = job.config.caption_from == "data"
    own = "a sks disc in the grass" if of_data else "a photo of sks disc"
    grounds = [f"a photo of sks disc on a {ground} background" for ground in ("grey", "light blue")]
    assert [job.train.caption(sample) for sample in samples] == [own] * 3 + [grounds[0]] * 3 + [grounds[1]] * 3
    for sample, ground in zip(samples[3:], ["grey"] * 3 + ["light blue"] * 3, strict=True):
        shown_HW3 = np.asarray(prepare.open_picture(sample.image))
        assert tuple(shown_HW3[HERE]) == (255, 0, 0)
        assert tuple(shown_HW3[ELSEWHERE]) == rgb(ground)


@BOTH
def test_where_it_counts_is_where_the_subject_is(job: run.Job) -> None:
    """Of cut-outs too, whose own opacity is full."""
    batch = job.train.collate(job.train.upright([job.train.samples[0], job.train.samples[3]]), 0, [0, 1])
    assert batch.weight_B1HW is not None
    assert torch.equal(batch.weight_B1HW[0], batch.weight_B1HW[1])
    assert batch.weight_B1HW.min() < 0.2 and batch.weight_B1HW.max() == 1


@BOTH
def test_only_the_users_pictures_are_what_drawn_ones_are_compared_with(job: run.Job, tmp_path: Path) -> None:
    assert len(as_given(job.train.samples)) == 3
    assert len(Scorer(job, tmp_path).real[0]) == 3
    assert len(job.validation.samples) == len(job.test.samples) == 3


@pytest.mark.parametrize("job", [("mask", {"steps": 3, "class_pictures": 2, "sample_steps": 2})], indirect=True)
def test_a_run_learns_from_them(job: run.Job) -> None:
    folder = run.train(job.config)
    assert (folder / "checkpoints" / "step-000003").is_dir()


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"m\.png"):
        OnGround(tmp_path / "a.png", tmp_path / "m.png", "grey").read_bytes()
