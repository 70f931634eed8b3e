"""A benchmark folder laid out as DreamBooth's, with prompts and pictures of the test's own."""

from pathlib import Path

import pytest
from PIL import Image

from limner.errors import DataError
from limner.evaluate import dreambench

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
