"""Layouts, what bad ones are told, and that no picture ever meets another's caption."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import pairs_folder

from limner.data.cache import Cache
from limner.data.load import Loader, Recipe, Schedule, batches
from limner.data.prepare import load_uint8, open_picture
from limner.data.read import read
from limner.errors import DataError
from limner.types import Cond


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "pairs")


def test_pairs_are_read_in_order_with_captions_and_a_validation_split(pairs: Path) -> None:
    samples = read(pairs)
    assert [sample.key for sample in samples] == [f"disc{i:02d}" for i in range(12)]
    assert [sample.caption for sample in samples] == [f"disc {i}" for i in range(12)]
    assert all(sample.source is not None for sample in samples)
    assert [sample.split for sample in samples].count("validation") == 1
    assert read(pairs) == samples


def test_a_zip_reads_as_the_folder_does(pairs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for file in sorted(pairs.rglob("*.*")):
            archive.write(file, file.relative_to(pairs))
    inside, outside = read(tmp_path / "pairs.zip"), read(pairs)
    assert [(s.key, s.caption, s.split) for s in inside] == [(s.key, s.caption, s.split) for s in outside]
    for left, right in zip(inside, outside, strict=True):
        assert torch.equal(load_uint8(left.image, 16), load_uint8(right.image, 16))


def test_metadata_names_pictures_captions_sources_and_splits(pairs: Path) -> None:
    rows = [
        {"file_name": "target/disc01.png", "source": "source/disc01.png", "text": "one", "split": "test", "label": "x"},
        {"file_name": "target/disc00.png", "caption": "nought"},
    ]
    (pairs / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    first, second = read(pairs)
    assert (first.caption, first.split, first.source) == ("nought", "train", None)
    assert (second.caption, second.split, second.meta) == ("one", "test", {"label": "x"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("{}\n", "line 1: 'file_name'"),
        ("not json\n", "line 1"),
        ('{"file_name": "target/disc00.png"}\n[1]\n', "line 2"),
        ('{"file_name": "gone.png"}\n', "gone.png does not exist"),
        ('{"file_name": "target/disc00.png", "source": "gone.png"}\n', "gone.png does not exist"),
        ('{"file_name": "target/disc00.png", "split": "trian"}\n', "split 'trian'"),
        ('{"file_name": "target/disc00.png"}\n{"file_name": "target/disc00.png"}\n', "line 2: .* listed twice"),
    ],
)
def test_bad_metadata_is_named_by_its_line(pairs: Path, lines: str, said: str) -> None:
    (pairs / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match=said) as caught:
        read(pairs)
    assert caught.value.hint


def test_a_zip_with_its_folder_on_top_reads_too(pairs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for file in sorted(pairs.rglob("*.*")):
            archive.write(file, Path("my_pairs") / file.relative_to(pairs))
        archive.writestr("__MACOSX/x", "")
    assert [sample.key for sample in read(tmp_path / "pairs.zip")] == [sample.key for sample in read(pairs)]


def test_bad_folders_are_named(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        read(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        read(tmp_path / "text.zip")
    (pairs / "source" / "disc03.png").unlink()
    with pytest.raises(DataError, match=r"target/disc03\.png"):
        read(pairs)
    (pairs / "target" / "disc04.jpg").write_bytes((pairs / "target" / "disc04.png").read_bytes())
    with pytest.raises(DataError, match=r"disc04\.jpg and disc04\.png"):
        read(pairs)


def test_a_caption_that_is_not_utf8_is_named(pairs: Path) -> None:
    (pairs / "target" / "disc02.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"disc02\.txt is not UTF-8"):
        read(pairs)


def test_transparency_lies_on_white_and_exif_is_obeyed(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png", transparency=0)
    assert open_picture(tmp_path / "palette.png").getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (4, 8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (8, 4)


def test_sixteen_bits_keep_their_grey_and_animations_are_refused(tmp_path: Path) -> None:
    grey = np.full((4, 4), 20000, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((0, 0)) == (78, 78, 78)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"moving\.webp is animated"):
        open_picture(tmp_path / "moving.webp")


def test_halves_of_different_shape_are_refused(pairs: Path) -> None:
    Image.new("RGB", (32, 16)).save(pairs / "source" / "disc05.png")
    with pytest.raises(DataError, match=r"disc05\.png is 32 x 16 pixels and its other half 16 x 16"):
        list(_loader(pairs).encode_all())


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_files_that_are_no_pictures_are_named(pairs: Path, content: bytes | str) -> None:
    file = pairs / "target" / "disc00.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"disc00\.png cannot be read"):
        load_uint8(file, 16)


def _loader(pairs: Path, seed: int = 0) -> Loader:
    """A cache whose 'latents' are the pictures themselves, and whose 'text' is the caption's number."""

    def encode_text(captions: list[str]) -> Cond:
        return Cond(torch.tensor([[[float(caption.removeprefix("disc "))]] for caption in captions]))

    cache = Cache(lambda x: (x, torch.zeros_like(x)), encode_text)  # type: ignore[arg-type]
    return Loader(read(pairs), Recipe(16, 16, flip=True), cache, seed, torch.device("cpu"))


def test_no_picture_meets_anothers_caption_or_condition(pairs: Path) -> None:
    loader = _loader(pairs)
    list(loader.encode_all())
    for batch in batches(loader, Schedule(batch_size=5, accumulate=3), 0, 8):
        for i, caption in enumerate(batch.captions):
            number = int(caption.removeprefix("disc "))
            assert batch.text.tokens_BLD[i].item() == number
            truth = load_uint8(pairs / "target" / f"disc{number:02d}.png", 16).float() / 127.5 - 1
            sketch = load_uint8(pairs / "source" / f"disc{number:02d}.png", 16).float() / 127.5 - 1
            assert batch.condition_BCHW is not None
            flipped = not torch.equal(batch.mean_BCHW[i], truth)
            assert torch.equal(batch.mean_BCHW[i], truth.flip(-1) if flipped else truth)
            assert torch.equal(batch.condition_BCHW[i], sketch.flip(-1) if flipped else sketch)


def test_an_epoch_sees_every_picture_once_and_another_seed_another_order(pairs: Path) -> None:
    def order(seed: int) -> list[str]:
        return [key for batch in batches(_loader(pairs, seed), Schedule(4), 0, 3) for key in batch.keys]

    assert sorted(order(0)) == [f"disc{i:02d}" for i in range(12)]
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_processes_and_accumulation_share_a_step_out_without_changing_it(pairs: Path) -> None:
    whole = next(iter(batches(_loader(pairs), Schedule(8), 2, 3)))
    for processes, accumulate in ((2, 1), (1, 4), (2, 2)):
        parts = []
        for micro in range(accumulate):
            for process in range(processes):
                schedule = Schedule(8 // processes // accumulate, accumulate, processes, process)
                parts.append(list(batches(_loader(pairs), schedule, 2, 3))[micro])
        assert [key for part in parts for key in part.keys] == whole.keys
        assert torch.equal(torch.cat([part.mean_BCHW for part in parts]), whole.mean_BCHW)
        noise = [part.dice.normal(2, 2) for part in parts]
        again = next(iter(batches(_loader(pairs), Schedule(8), 2, 3)))
        assert torch.equal(torch.cat(noise), again.dice.normal(2, 2))
