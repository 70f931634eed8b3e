"""The colour words of the built-in captions: what `recipes/mini/captions.py` calls the colours of a picture."""

from pathlib import Path

import numpy as np
import pytest

from limner.data.builtin.fluent import fluent

RECIPE = Path(__file__).parents[2] / "recipes" / "mini"


@pytest.fixture
def captions(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    import captions

    return captions


def painted(*stripes: tuple[int, int, int, int]) -> np.ndarray:
    """Equal stripes of straight RGBA."""
    return np.repeat(np.array(stripes, np.uint8), 8, axis=0)[None].repeat(8, axis=0)


def test_every_named_colour_goes_by_its_own_name(captions):
    for name, some in captions.NAMED.items():
        for rgb in some:
            assert captions.main_colours(painted((*rgb, 255))) == [name]


def test_the_largest_first_and_no_more_than_three(captions):
    red, blue, yellow, green = (215, 45, 50, 255), (50, 115, 225, 255), (250, 205, 60, 255), (60, 170, 75, 255)
    assert captions.main_colours(painted(red, blue, blue)) == ["blue", "red"]
    assert len(captions.main_colours(painted(red, blue, yellow, green))) == 3
    assert captions.main_colours(painted(red, *[blue] * 9)) == ["blue"]  # a tenth is too little to name


def test_what_is_transparent_has_no_colour(captions):
    assert captions.main_colours(painted((215, 45, 50, 0))) == []
    assert captions.main_colours(painted((215, 45, 50, 0), (50, 115, 225, 255))) == ["blue"]


def test_spoken(captions):
    assert captions.in_colours([]) == ""
    assert captions.in_colours(["green"]) == " in green"
    assert captions.in_colours(["green", "pink"]) == " in green and pink"
    assert captions.in_colours(["green", "pink", "red"]) == " in green, pink and red"


def test_the_packaged_captions_say_what_a_person_would_see():
    said = [sample.caption for sample in fluent()]
    assert any(caption.startswith("a 3D render of a cactus in green") for caption in said)
    assert "a 3D render of an eggplant in purple" in said
