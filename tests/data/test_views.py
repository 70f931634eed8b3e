"""Views: drawn anew they are the same, on the subject where there is one, and never where a mirror would lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from tiny_pictures import Blob, saved

from limner.data import prepare
from limner.data.imaging.geometry import window
from limner.data.prepare import View
from limner.data.views import Augment, draw, keeps_sides

augments = st.builds(
    Augment,
    crop=st.sampled_from(["centre", "random", "subject"]),
    rotate_degrees=st.sampled_from([0.0, 15.0]),
    jitter=st.sampled_from([0.0, 0.2]),
    num_views=st.just(4),
)
digests = st.binary(min_size=16, max_size=16)


def scene(box: tuple[int, int, int, int], size: tuple[int, int] = (400, 200)) -> tuple[Blob, Blob, Blob]:
    """A spotted ball on white; its mask; the ball alone on nothing."""
    image, mask = Image.new("RGB", size, "white"), Image.new("L", size)
    ImageDraw.Draw(image).ellipse(box, fill="red", outline="black", width=3)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    clear = image.copy()
    clear.putalpha(mask)
    return saved(image, "PNG"), saved(mask, "PNG"), saved(clear, "PNG")


BALL = (290, 70, 340, 120)
IMAGE, MASK, CLEAR = scene(BALL)


@settings(max_examples=60, deadline=None)
@given(augments, st.integers(8, 80), st.integers(8, 80), digests, st.integers(0, 3))
def test_a_view_is_a_function_of_what_it_is_drawn_from(
    augment: Augment, width: int, height: int, digest: bytes, number: int
) -> None:
    view = draw(augment, width, height, digest, number, IMAGE, MASK)
    assert view == draw(augment, width, height, digest, number, IMAGE, MASK)
    assert not view.flip
    assert 0 <= view.x <= 1 and 0 <= view.y <= 1 and view.zoom >= 1
    assert abs(view.rotate_degrees) <= augment.rotate_degrees
    assert np.abs(np.subtract(view.jitter, (1, 1, 1, 0))).max() <= augment.jitter
    assert prepare.picture(IMAGE, view).shape == (3, height, width)


@given(st.integers(1, 999), st.integers(1, 999), digests)
def test_the_plain_view_is_the_centre(width: int, height: int, digest: bytes) -> None:
    view = draw(Augment(), width, height, digest, 0, Blob(b"not even read"), None)
    assert view == View(width, height)
    assert view.text() == View(width, height).text()


def test_random_views_differ_by_number_picture_and_size() -> None:
    augment = Augment("random", rotate_degrees=10, jitter=0.1, num_views=4)
    drawn = [draw(augment, 64, 64, b"a", number, IMAGE, None) for number in range(4)]
    drawn += [draw(augment, 64, 64, b"b", 0, IMAGE, None), draw(augment, 64, 48, b"a", 0, IMAGE, None)]
    assert len({(view.x, view.y, view.zoom, view.rotate_degrees, view.jitter) for view in drawn}) == 6
    assert len({replace(augment, jitter=share).text() for share in (0.0, 0.1)}) == 2


def test_random_views_go_everywhere_and_enlarge_nothing() -> None:
    views = [draw(Augment("random"), 180, 180, bytes([i]), 0, IMAGE, None) for i in range(200)]
    x = [view.x for view in views]
    assert min(x) < 0.05 and max(x) > 0.95
    assert abs(np.mean(x) - 0.5) < 0.1
    assert max(view.zoom for view in views) <= 200 / 180 + 1e-9
    assert {draw(Augment("random"), 300, 300, bytes([i]), 0, IMAGE, None).zoom for i in range(9)} == {1.0}


@pytest.mark.parametrize("kind", ["mask", "alpha"])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 340), st.integers(0, 140), st.integers(30, 60), st.integers(0, 4), st.integers(40, 100))
@example(208, 0, 57, 3, 46)  # at the window's edge, from which the grid took 8 pixels
def test_the_subject_is_in_view(kind: str, left: int, top: int, side: int, number: int, side_px: int) -> None:
    image, mask, clear = scene((left, top, left + side, top + side))
    file, where = (image, mask) if kind == "mask" else (clear, None)
    view = draw(Augment("subject", num_views=5), side_px, side_px, b"x", number, file, where)
    box = window(view, (0, 0, 400, 200)).box
    assert box[0] <= left + 4 and box[1] <= top + 4
    assert box[2] >= min(400, left + side) - 4 and box[3] >= min(200, top + side) - 4
    assert (box[2] - box[0]) / side_px >= 1 - 1e-9  # no pixel of the file becomes larger
    if number == 0:
        assert box[2] - box[0] <= max(side_px, 1.7 * side) + 1  # close, with some room around


def test_without_a_mask_the_strongest_edges_are_in_view() -> None:
    for box in ((20, 70, 70, 120), (180, 70, 230, 120), BALL):
        for number in range(4):
            view = draw(Augment("subject"), 64, 64, b"x", number, scene(box)[0], None)
            seen = window(view, (0, 0, 400, 200)).box
            assert view.zoom == 1
            assert seen[0] <= box[0] + 4 and seen[2] >= box[2] - 4


def test_a_subject_that_is_everywhere_or_nowhere_leaves_the_centre() -> None:
    blank = saved(Image.new("RGB", (400, 200), "grey"), "PNG")
    for mask in (None, saved(Image.new("L", (400, 200)), "PNG"), saved(Image.new("L", (400, 200), 255), "PNG")):
        assert draw(Augment("subject"), 64, 64, b"x", 0, blank, mask).x == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "caption",
    [
        "a fox on the left",
        "a man, his right hand raised",
        "a right-handed cup",
        "left_hand",
        "ein Fuchs links im Bild",
        "左を向く狐",
        "a mug reading 'HELLO'",
        'a door, "exit" above it',
        "a banner that says “welcome”",
        "the word love in neon",
        "blue lettering on white",
        "Text on a wall",
        "a stop sign",
        "a player with the number 7",
        "a map of Europe",
        "turning clockwise",
    ],
)
def test_captions_that_a_mirror_would_make_untrue(caption: str) -> None:
    assert not keeps_sides(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a bright fox stands upright",
        "leftover food in a copyright-free style",
        "a fox's den and the dogs' bowls",
        "a large number of apples",
        "a swordfish",
        "a 3D red fox on a beach",
        "a designer chair, context: studio",
    ],
)
def test_captions_that_stay_true(caption: str) -> None:
    assert keeps_sides(caption)


@pytest.mark.parametrize(("size", "grid_px"), [((1600, 1200), 8), ((90, 80), 1)])
def test_windows_begin_between_two_pixels(size: tuple[int, int], grid_px: int) -> None:
    """Of the file, or of an eighth of it: there the fast way of scaling is exact."""
    file = saved(Image.new("RGB", size, "grey"), "JPEG")
    for number in range(20):
        view = draw(Augment("random", num_views=20), 64, 64, b"x", number, file, None)
        here = window(view, (0, 0, *size))
        for start in (*here.box[:2], here.width):
            assert start / grid_px == pytest.approx(round(start / grid_px), abs=1e-6)
