"""What ``limner check`` says of a subject's pictures and words before it is learnt."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from limner.cli.main import main
from limner.config import PersonalizeConfig
from limner.config.personalize import Concept
from limner.data.auditing import subject
from limner.data.builtin.subjects import subjects
from limner.errors import DataError
from limner.evaluate.features import eye
from limner.priors.common import is_common
from limner.priors.mini import mini
from limner.run.checking import warn
from limner.run.data import load_subjects

TIGER = ("--for", "dreambooth", "--class-word", "tiger")


def training(name: str, folder: Path, num: int = 6, prefix: str = "") -> Path:
    """Training pictures of a subject in a folder, with a caption."""
    folder.mkdir(exist_ok=True)
    for i, sample in enumerate([sample for sample in subjects(name) if sample.split == "train"][:num]):
        (folder / f"{prefix}{i}.webp").write_bytes(sample.image.read_bytes())
        (folder / f"{prefix}{i}.txt").write_text(sample.caption)
    return folder


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit code, and findings by code."""
    code = main(["check", "--json", *map(str, words)])
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(capsys.readouterr().out)["findings"]:
        found.setdefault(finding["code"], []).append(finding)
    return code, found


def test_a_good_set_is_not_complained_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(capsys, training("tiger", tmp_path / "tiger"), *TIGER)
    assert (code, found.keys() - {"not-mirrored"}) == (0, set())


def test_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(capsys, training("tiger", tmp_path / "tiger", 1), *TIGER)
    (few,) = found["few-pictures"]
    assert code == 0 and few["severity"] == "warning"
    assert "1 picture of 'sks tiger'" in few["cause"] and "3 to 30" in few["remedy"]


def test_fifty_pictures_want_more_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MOST_COMPARED", 0)  # outliers are another matter, and take time
    for i in range(50):
        noise_HW3 = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise_HW3).resize((64, 64)).save(tmp_path / f"{i:02d}.png")
    _, found = check(capsys, tmp_path, *TIGER, "--steps", "100")
    (many,) = found["many-pictures"]
    assert many["severity"] == "warning" and "--steps" in many["remedy"]
    assert "45 pictures" in many["cause"] and "each seen 9 times" in many["cause"]  # five are held out
    _, found = check(capsys, tmp_path, *TIGER, "--steps", "1000")
    assert found["many-pictures"][0]["severity"] == "note"


def test_mixed_sizes_are_named_with_what_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training("tiger", tmp_path / "tiger")
    with Image.open(folder / "0.webp") as picture:
        picture.convert("RGB").resize((256, 80)).save(folder / "wide.png")
        picture.convert("RGB").resize((40, 40)).save(folder / "tiny.png")
    _, found = check(capsys, folder, *TIGER)
    (cut,), (small,) = found["much-cropped"], found["enlarged"]
    assert cut["file"].endswith("wide.png") and "69% would be cut off" in cut["cause"]
    assert small["file"].endswith("tiny.png") and "40 x 40" in small["cause"]


def test_a_picture_of_another_subject_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training("tiger", tmp_path / "tiger")
    training("toolbox", folder, 1, "box")
    code, found = check(capsys, folder, *TIGER)
    (outlier,) = found["outlier"]
    assert code == 0 and outlier["file"].endswith("box0.webp")


def test_three_pictures_are_too_few_to_tell_an_outlier() -> None:
    some = [next(iter(subjects(name))) for name in ("tiger", "taxi", "bee")]
    assert not list(subject.outliers(some, eye()))


def test_strangers_are_far_from_the_others_whatever_view_shows_it() -> None:
    direction_DD = torch.eye(8)
    feature_NVD = direction_DD[[0, 0, 0, 0, 1]].unsqueeze(1).repeat(1, 3, 1)
    assert subject.strangers(feature_NVD) == [4]
    feature_NVD[4, 2] = direction_DD[0]  # one view of it shows what the others show
    assert subject.strangers(feature_NVD) == []


def test_a_subject_without_a_class_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--for", "dreambooth", "--preservation", "off", "--caption-template", "a photo of {trigger}")
    code, found = check(capsys, training("tiger", tmp_path / "tiger"), *words)
    (finding,) = found["no-class-word"]
    assert code == 0 and "--class-word dog" in finding["remedy"]


@pytest.mark.parametrize(
    ("word", "common"),
    [("fox", True), ("dog", True), ("Photo", True), ("sks", False), ("zwx", False), ("<cat>", False)],
)
def test_words_that_the_prior_knows(word: str, common: bool) -> None:
    assert is_common(mini(), word) == common


def test_a_common_trigger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training("tiger", tmp_path / "tiger")
    code, found = check(capsys, folder, *TIGER, "--trigger", "fox")
    (finding,) = found["trigger-common"]
    assert code == 0 and "'fox'" in finding["cause"] and "sks" in finding["remedy"]
    assert "trigger-common" in check(capsys, folder, *TIGER, "--trigger", "my old friend")[1]


def test_a_trigger_that_is_the_class_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(capsys, training("tiger", tmp_path / "tiger"), *TIGER, "--trigger", "Tiger")
    assert code == 1 and found["trigger-is-class"][0]["severity"] == "error"


def test_captions_without_the_words_are_named_for_each_concept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiger, dog = training("tiger", tmp_path / "tiger"), training("dog", tmp_path / "dog")
    (dog / "3.txt").write_text("a lawn")
    concepts = f"sks tiger={tiger}, zwx dog={dog}"
    _, found = check(capsys, "--for", "dreambooth", "--concepts", concepts, "--caption-from", "data")
    (finding,) = found["no-trigger"]
    assert finding["file"].endswith("dog/3.webp") and "'zwx' and 'dog'" in finding["cause"]


def test_two_concepts_cannot_share_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiger, dog = training("tiger", tmp_path / "tiger"), training("dog", tmp_path / "dog")
    (dog / "also.webp").write_bytes((tiger / "2.webp").read_bytes())
    code, found = check(capsys, "--for", "dreambooth", "--concepts", f"sks tiger={tiger}, zwx dog={dog}")
    (finding,) = found["shared-picture"]
    assert code == 1 and finding["file"].endswith("dog/also.webp") and "tiger/2.webp" in finding["cause"]
    assert "'sks tiger' and 'zwx dog'" in finding["cause"]


def test_a_run_is_told_the_warnings_and_stopped_by_errors(tmp_path: Path) -> None:
    said = io.StringIO()
    data = training("tiger", tmp_path / "tiger", 2)
    for trigger, error in (("fox", ""), ("tiger", "its class word too")):
        config = PersonalizeConfig(method="dreambooth", data=str(data), trigger=trigger, class_word="tiger")
        with pytest.raises(DataError, match=error) if error else nullcontext():
            warn(config, mini(), load_subjects(config), Console(file=said))
    assert "2 pictures of 'fox tiger'" in said.getvalue() and "means something to the prior" in said.getvalue()


def test_a_concept_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiger = training("tiger", tmp_path / "tiger")
    code, found = check(capsys, "--for", "dreambooth", "--concepts", f"sks tiger={tiger}, zwx dog={tmp_path / 'no'}")
    assert code == 1 and str(tmp_path / "no") in found["missing-file"][0]["file"]


def test_no_embedder_is_asked_where_words_alone_are_wrong() -> None:
    concept = Concept(trigger="fox", class_word="fox", data="x")
    assert [finding.code for finding in subject.of_words(concept, lambda word: True)] == ["trigger-is-class"]


def test_captions_that_all_lack_the_trigger_are_an_error_as_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = training("tiger", tmp_path / "tiger")
    for picture in folder.glob("*.webp"):
        picture.with_suffix(".txt").write_text("an orange thing")
    code, found = check(capsys, folder, *TIGER, "--caption-from", "data")
    assert code == 1 and found["nameless"][0]["severity"] == "error"
