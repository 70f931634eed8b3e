"""A benchmark folder laid out as DreamBooth's, with prompts and pictures of the test's own."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from limner.errors import DataError
from limner.evaluate import dreambench, subject_report

TEXT = """Classes

subject_name,class
rusty_robot,robot
tabby,cat

Prompts

Object Prompts

prompt_list = [
'a {0} {1} under a bridge'.format(unique_token, class_token),
'an old {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} under a bridge'.format(unique_token, class_token),
"a {0} {1} in the king's crown".format(unique_token, class_token),
'a sleepy {0} {1}'.format(unique_token, class_token)
]
"""


@pytest.fixture
def benchmark(tmp_path) -> Path:
    for name, colours in (("rusty_robot", ["brown", "orange"]), ("tabby", ["grey", "gray", "black"])):
        (tmp_path / "dataset" / name).mkdir(parents=True)
        for number, colour in enumerate(colours):
            Image.new("RGB", (40, 30), colour).save(tmp_path / "dataset" / name / f"{number:02d}.jpg")
    (tmp_path / "dataset" / "prompts_and_classes.txt").write_text(TEXT)
    return tmp_path


def test_subjects_have_the_prompts_of_their_kind(benchmark):
    found = dreambench.read(benchmark)
    assert list(found) == ["rusty_robot", "tabby"]
    assert found["rusty_robot"].class_word == "robot"
    assert found["rusty_robot"].prompts == ("a {} under a bridge", "an old {}")
    assert found["tabby"].prompts[1] == "a {} in the king's crown"
    assert [len(one.pictures) for one in found.values()] == [2, 3]
    assert dreambench.read(benchmark / "dataset") == found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("subject_name,class", "names", "no line 'subject_name,class'"),
        ("Live Subject", "Other", "no line 'live subject prompts'"),
        ("'an old {0} {1}'", "'an old {0}'", "'an old {0}'"),
        ("'an old {0} {1}'", "'an old {0} {1} {2}'", "no prompt with"),
        ("'an old {0} {1}'.format(unique_token, class_token)", "open('secret').read()", "no prompt with"),
        ("tabby,cat", "../tabby,cat", "no new subject"),
        ("tabby,cat", "tabby,", "no new subject"),
        ("tabby,cat", "ginger,cat", "holds no pictures"),
        ("]\n\nLive", "\n\nLive", "Live Subject Prompts"),
    ],
)
def test_a_text_that_is_another_is_refused(benchmark, old, new, says):
    file = benchmark / "dataset" / "prompts_and_classes.txt"
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(DataError) as error:
        dreambench.read(benchmark)
    assert says in str(error.value)
    assert "google/dreambooth" in error.value.hint


def test_a_folder_that_is_another_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"prompts_and_classes\.txt does not exist"):
        dreambench.read(tmp_path)


def test_the_mean_is_over_subjects():
    rows = [
        {"scores": {"dino": value, "dino_interval": (0.0, 1.0)}, "untrained": {}, "real": {"dino": 0.75}}
        for value in (0.5, 0.7)
    ]
    found = dreambench.mean(rows)
    assert found["scores"]["dino"] == pytest.approx(0.6)
    assert found["scores"]["dino_interval"] == pytest.approx((0.5, 0.7))
    assert found["real"] == {"dino": 0.75}
    assert dreambench.mean(rows[:1])["scores"] == {"dino": 0.5}


def report(missing: list[str]) -> dict:
    numbers = iter(range(1, 100))

    def some(*names: str) -> dict:
        return {name: next(numbers) / 128 for name in names}

    rows = [
        {
            "subject": name, "run": f"runs/{name}", "method": "dreambooth", "step": 300,
            "scores": some("dino", "clip_t") | {"dino_interval": [0.0078125, 0.9921875]},
            "untrained": some("drift"), "real": some("dino"),
        }
        for name in ("<tabby>", "robot")
    ]  # fmt: skip
    mean = dreambench.mean(rows) | {"kinds": {"place": some("dino")}}
    return {
        "protocol": "dreambench", "benchmark": "b", "num_subjects": 30, "embedders": "tiny", "subjects": rows,
        "mean": mean, "missing": missing,
        "bleed": [{"run": "r", "subjects": ["a", "b"], "matrix": [[0.9, 0.1], [0.2, 0.8]]}],
    }  # fmt: skip


def numbers_of(value: object) -> set[float]:
    if isinstance(value, dict):
        return set().union(*(numbers_of(part) for part in value.values()), set())
    if isinstance(value, list):
        return set().union(*(numbers_of(part) for part in value), set())
    return {value} if isinstance(value, float) else set()


def test_the_page_has_every_number_of_the_json(tmp_path):
    file = tmp_path / "dreambench.json"
    subject_report.write_protocol(file, report(["vase"]), {"<tabby>: a cat": Image.new("RGB", (8, 8))})
    text = file.with_suffix(".html").read_text()
    shown = {float(value) for value in re.findall(r'<data value="([^"]+)"', text)}
    assert numbers_of(json.loads(file.read_text())) <= shown
    assert "mean of 2 of 30 subjects" in text
    assert "not scored: vase" in text
    assert "<tabby>" not in text
    assert "http" not in text


def test_a_runs_page_has_every_number_curves_with_levels_and_pictures(tmp_path):
    one = {"subject": 0.5, "subject_interval": (0.4, 0.6), "prompt": 0.3, "num_prompts": 4, "num_pictures": 2}
    one |= {
        "embedder": "tiny",
        "floor": {"subject": 0.25},
        "ceiling": {"subject": 0.875, "subject_interval": (0.8, 0.9)},
    }
    said = {"method": "dreambooth", "step": 20, "seconds": 12.5, "bleed": [[0.9, 0.15], [0.2, 0.85]]}
    said["subjects"] = {"sks <cat>": one, "zwx dog": one}
    log = [{"step": 10, "validation/subject": 0.4, "loss/subject": 0.1}, {"step": 20, "validation/subject": 0.5}]
    Image.new("RGB", (20, 10)).save(tmp_path / "score-000010.png")
    subject_report.write(tmp_path, said, log, [(10, tmp_path / "score-000010.png")])
    text = (tmp_path / "report.html").read_text()
    shown = {float(value) for value in re.findall(r'<data value="([^"]+)"', text)}
    assert numbers_of(json.loads((tmp_path / "report.json").read_text())) <= shown
    assert text.count("<polyline") == 2
    assert "untrained 0.25" in text
    assert "real 0.875" in text
    assert text.count("<img") == 1
    assert "<cat>" not in text
