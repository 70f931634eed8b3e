"""Every layout, in any order of the file system; what bad ones are told; a million records in little memory."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import pairs_folder

from limner.data.prepare import load_uint8
from limner.data.read import read, stream
from limner.errors import DataError
from limner.types import Sample


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "pairs")


def picture(red: int = 0) -> bytes:
    """A PNG of two by two pixels."""
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Files in an order that is not theirs."""
    for name in random.Random(0).sample(sorted(files), len(files)):
        content = files[name]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


def red(sample: Sample) -> int:
    return int(load_uint8(sample.image, 2)[0, 0, 0])


def told(make: Callable[[], object], said: str) -> str:
    """The hint of the error that ``make`` ends in; its sentence matches ``said``."""
    with pytest.raises(DataError, match=said) as caught:
        list(make())  # type: ignore[call-overload]  (an error may come with its record)
    assert caught.value.hint
    assert str(caught.value).endswith(".")
    return caught.value.hint


# --- folders of pictures ----------------------------------------------------------------------------------------------


def test_pairs_are_read_in_order_with_captions(pairs: Path) -> None:
    samples = list(read(pairs))
    assert [sample.key for sample in samples] == [f"disc{i:02d}" for i in range(12)]
    assert [sample.caption for sample in samples] == [f"disc {i}" for i in range(12)]
    assert all(sample.source is not None for sample in samples)
    assert {sample.split for sample in samples} == {"train"}  # records.splits keeps some for validation
    assert list(read(pairs)) == samples == [read(pairs)[i] for i in range(12)]
    assert read(pairs)[-1] == samples[-1]
    assert list(read(pairs)[2:4]) == samples[2:4]
    with pytest.raises(IndexError):
        read(pairs)[12]


def test_pictures_in_subfolders_with_captions_beside_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.png": picture(),
            "a/b.PNG": picture(),
            "a-b.jpeg": picture(),
            "a/c/d.e.webp": picture(),
            "a/b.txt": "\ufeffa fox \n",
            "a/c/d.e.caption": "an owl",
            "a-b.TXT": "first",
            "a-b.caption": "second",
            ".hidden/x.png": picture(),
            "a/._b.png": picture(),
            "__MACOSX/a.png": picture(),
            "Thumbs.db": "x",
            "readme.md": "x",
        },
    )
    samples = list(read(tmp_path))
    assert [(sample.key, sample.caption) for sample in samples] == [
        ("a-b", "first"),
        ("a", ""),
        ("a/b", "a fox"),
        ("a/c/d.e", "an owl"),
    ]
    assert [str(sample.image) for sample in samples][2:] == [str(tmp_path / "a/b.PNG"), str(tmp_path / "a/c/d.e.webp")]


def test_pairs_side_by_side_and_masks(tmp_path: Path) -> None:
    write(
        tmp_path / "flat",
        {
            "x/fox_source.png": picture(1),
            "x/fox_target.png": picture(2),
            "x/fox_mask.png": picture(3),
            "x/fox.txt": "a fox",
            "owl_source.jpg": picture(4),
            "owl_target.png": picture(5),
            "owl_target.txt": "an owl",
        },
    )
    owl, fox = read(tmp_path / "flat")
    assert (owl.key, owl.caption, owl.mask, fox.key, fox.caption) == ("owl", "an owl", None, "x/fox", "a fox")
    assert [part and part.name for part in (owl.image, owl.source)] == ["owl_target.png", "owl_source.jpg"]
    assert [part and part.name for part in (fox.image, fox.source, fox.mask)] == [
        f"fox_{role}.png" for role in ("target", "source", "mask")
    ]
    write(
        tmp_path / "deep",
        {"source/x/a.jpg": picture(), "target/x/a.png": picture(), "target/x/a.txt": "A", "mask/x/a.png": picture()},
    )
    (sample,) = read(tmp_path / "deep")
    assert (sample.key, sample.caption) == ("x/a", "A")
    assert str(sample.mask) == str(tmp_path / "deep/mask/x/a.png")
    # One picture without such an ending, and they are pictures like any other.
    write(tmp_path / "flat", {"plain.png": picture()})
    assert len(read(tmp_path / "flat")) == 6


def test_split_folders_hold_any_layout(tmp_path: Path) -> None:
    pairs_folder(tmp_path / "train", num=3)
    write(tmp_path, {"val/a.png": picture(7), "val/a.txt": "A"})
    write(tmp_path, {"test/metadata.jsonl": '{"file_name": "b.png", "caption": "B"}\n', "test/b.png": picture(8)})
    samples = list(read(tmp_path))
    assert [(sample.key, sample.split) for sample in samples] == [
        *((f"train/disc{i:02d}", "train") for i in range(3)),
        ("val/a", "validation"),
        ("test/b.png", "test"),
    ]
    assert [read(tmp_path)[i] for i in range(5)] == samples
    assert [sample.caption for sample in samples[3:]] == ["A", "B"]
    write(tmp_path, {"other/x.png": picture()})
    assert "splits" in told(lambda: read(tmp_path), r"has train/ and, outside of it, other/x\.png")


def test_pairs_may_have_split_folders_within(tmp_path: Path) -> None:
    for name in ("train/a", "test/b"):
        write(tmp_path, {f"{half}/{name}.png": picture() for half in ("source", "target")})
    assert [(sample.key, sample.split) for sample in read(tmp_path)] == [("test/b", "test"), ("train/a", "train")]


def test_a_zip_reads_as_the_folder_does(pairs: Path, tmp_path: Path) -> None:
    write(pairs, {"mask/disc03.png": picture()})
    for top in ("", "my_pairs"):
        with zipfile.ZipFile(tmp_path / "pairs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(pairs.rglob("*.*"), reverse=True):
                archive.write(file, Path(top) / file.relative_to(pairs))
            archive.writestr("__MACOSX/._x.png", "")
            archive.writestr("../../escape.txt", "never unpacked")
            archive.writestr(".DS_Store", "")
        if top:
            continue  # with a file outside of it, the folder on top is a folder among others
        inside, outside = read(tmp_path / "pairs.zip"), read(pairs)
        assert [(s.key, s.caption, s.split) for s in inside] == [(s.key, s.caption, s.split) for s in outside]
        for left, right in zip(inside, outside, strict=True):
            assert torch.equal(load_uint8(left.image, 16), load_uint8(right.image, 16))
        assert inside[3].mask is not None
        assert not (tmp_path.parent / "escape.txt").exists()
        assert str(inside[0].image) == f"{tmp_path}/pairs.zip/target/disc00.png"


def test_a_zip_with_its_folder_on_top_reads_too(pairs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for file in sorted(pairs.rglob("*.*")):
            archive.write(file, Path("my_pairs") / file.relative_to(pairs))
        archive.writestr("__MACOSX/x", "")
    assert [sample.key for sample in read(tmp_path / "pairs.zip")] == [sample.key for sample in read(pairs)]


def test_many_threads_may_read_one_zip(pairs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(pairs.rglob("*.*")):
            archive.write(file, file.relative_to(pairs))
    samples = read(tmp_path / "pairs.zip")
    truth = [(pairs / "target" / f"disc{i:02d}.png").read_bytes() for i in range(12)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: samples[i % 12].image.read_bytes(), range(600)))
    assert found == truth * 50


def test_the_order_is_not_the_file_systems(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pairs, {f"{half}/sub/{name}.png": picture() for half in ("source", "target") for name in "zab"})
    keys = [sample.key for sample in read(pairs)]
    assert keys == sorted(keys)
    plain = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with plain(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert [sample.key for sample in read(pairs)] == keys


def test_a_link_back_into_its_own_folder_ends(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": picture(), "b/c.png": picture()})
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "d").symlink_to(tmp_path / "b")
    assert [sample.key for sample in read(tmp_path)] == ["a", "b/c", "d/c"]


def test_bad_folders_are_named(pairs: Path, tmp_path: Path) -> None:
    assert "limner list" in told(lambda: read(tmp_path / "nowhere"), "does not exist")
    assert told(lambda: read(tmp_path / "pair"), "pair does not exist") == f"did you mean '{pairs}'?"
    (tmp_path / "empty").mkdir()
    told(lambda: read(tmp_path / "empty"), "holds no pictures")
    (tmp_path / "text.zip").write_text("no zip")
    told(lambda: read(tmp_path / "text.zip"), "neither a folder nor a zip")
    (pairs / "source" / "disc03.png").unlink()
    told(lambda: read(pairs), r"1 pictures have no other half, first target/disc03\.png")
    (pairs / "target" / "disc03.png").rename(pairs / "source" / "disc99.png")
    told(lambda: read(pairs), r"first source/disc99\.png")
    write(pairs, {"target/disc04.jpg": picture()})
    told(lambda: read(pairs), r"disc04\.jpg and disc04\.png share a name")
    write(tmp_path, {"half/a_source.png": picture(), "one/source/a.png": picture()})
    told(lambda: read(tmp_path / "half"), r"first a_source\.png")
    told(lambda: read(tmp_path / "one"), "has no folder target/")
    write(tmp_path / "masked", {"source/a.png": picture(), "target/a.png": picture(), "mask/b.png": picture()})
    told(lambda: read(tmp_path / "masked"), r"first mask/b\.png")
    write(tmp_path, {"above/images/metadata.csv": "file_name\na.png\n", "above/images/a.png": picture()})
    told(lambda: read(tmp_path / "above"), r"images/metadata\.csv")
    write(tmp_path, {"both/metadata.csv": "x", "both/metadata.jsonl": "x"})
    told(lambda: read(tmp_path / "both"), r"both metadata\.jsonl and metadata\.csv")


@pytest.mark.parametrize("name", ["disc02.txt", "disc02.caption"])
def test_a_caption_that_is_not_utf8_is_named(pairs: Path, name: str) -> None:
    (pairs / "target" / "disc02.txt").unlink()
    (pairs / "target" / name).write_bytes(b"caf\xe9")
    told(lambda: read(pairs), rf"{name} is not UTF-8")


def test_a_file_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(picture())
    told(lambda: read(tmp_path), r"name is not UTF-8: 'caf\\udce9\.png'")


def test_damaged_and_locked_zips_are_named(pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(pairs.rglob("*.*")):
            archive.write(file, file.relative_to(pairs))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "copy or download it again" in told(lambda: read(path), "neither a folder nor a zip")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        first = archive.getinfo("target/disc00.png").header_offset
    path.write_bytes(whole[: first + 60] + bytes(10) + whole[first + 70 :])
    samples = read(path)
    told(lambda: samples[0].image.read_bytes(), r"pairs\.zip/target/disc00\.png cannot be unpacked")
    locked = bytearray(whole)
    at = whole.index(b"PK\x01\x02")
    locked[at + 8] |= 1
    path.write_bytes(locked)
    assert "unpack" in told(lambda: read(path), "asks for a password")


# --- lists of pictures ------------------------------------------------------------------------------------------------


def test_metadata_names_pictures_captions_sources_and_splits(pairs: Path) -> None:
    rows = [
        {"file_name": "target/disc01.png", "source": "source/disc01.png", "text": "one", "split": "test", "label": "x"},
        {"file_name": "./target//disc00.png", "caption": "nought", "mask": "source/disc00.png", "n": 3},
        {"edited_image": "target/disc02.png", "original_image_file_name": "source/disc02.png", "edit_prompt": "two"},
        {"image": "target/disc03.png", "conditioning_image": "source/disc03.png", "text": None, "prompt": "three"},
        {"target_file_name": "target/disc04.png", "split": "val", "prompt": "four", "caption": "vier", "text": "x"},
    ]
    (pairs / "metadata.jsonl").write_text("\ufeff\n" + "\n\n".join(map(json.dumps, rows)))
    records = read(pairs)
    samples = list(records)
    assert [sample.caption for sample in samples] == ["one", "nought", "two", "three", "vier"]
    assert [sample.split for sample in samples] == ["test", "train", "train", "train", "validation"]
    assert [sample.key for sample in samples] == [f"target/disc{i:02d}.png" for i in (1, 0, 2, 3, 4)]
    assert [sample.source and sample.source.name for sample in samples] == [
        *("disc01.png", None, "disc02.png", "disc03.png", None)
    ]
    assert samples[1].mask == pairs / "source/disc00.png"
    assert [sample.meta for sample in samples] == [{"label": "x"}, {"n": 3}, {}, {}, {"text": "x", "prompt": "four"}]
    assert [records[i] for i in range(5)] == samples
    (pairs / "metadata.jsonl").rename(pairs / "mine.jsonl")
    assert list(read(pairs / "mine.jsonl")) == samples
    assert sorted(stream(pairs / "mine.jsonl").samples(1), key=lambda s: s.key) == sorted(samples, key=lambda s: s.key)


def test_csv_says_the_same_as_json(pairs: Path) -> None:
    rows = [
        {"file_name": "target/disc00.png", "caption": 'a "disc", red\nor so', "source": "source/disc00.png", "n": "1"},
        {"file_name": "target/disc01.png", "caption": "café", "source": "", "n": ""},
        {"file_name": "target/disc02.png", "caption": "", "source": "source/disc02.png", "n": "3"},
    ]
    (pairs / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    listed = list(read(pairs))
    (pairs / "metadata.jsonl").unlink()
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    for text in (out.getvalue(), "\ufeff" + out.getvalue().replace("\r\n", "\n") + "\n\n"):
        (pairs / "metadata.csv").write_bytes(text.encode())
        records = read(pairs)
        assert list(records) == [records[i] for i in range(3)]
        for mine, other in zip(records, listed, strict=True):
            assert (mine.key, mine.source, mine.meta) == (other.key, other.source, other.meta)
            assert mine.caption.splitlines() == other.caption.splitlines()
    with zipfile.ZipFile(pairs / "all.zip", "w") as archive:
        for file in sorted(pairs.rglob("*/*.png")):
            archive.write(file, file.relative_to(pairs))
        archive.write(pairs / "metadata.csv", "metadata.csv")
    zipped = read(pairs / "all.zip")
    assert [(s.key, s.caption, s.meta) for s in zipped] == [(s.key, s.caption, s.meta) for s in read(pairs)]
    assert zipped[2] == list(zipped)[2]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captions=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4),
    kind=st.sampled_from(["jsonl", "csv"]),
)
def test_any_caption_comes_back_as_it_was_written(tmp_path: Path, captions: list[str], kind: str) -> None:
    for i in range(len(captions)):
        (tmp_path / f"{i}.png").touch()
    path = tmp_path / f"list.{kind}"
    rows = [{"file_name": f"{i}.png", "caption": caption} for i, caption in enumerate(captions)]
    with path.open("w", encoding="utf-8", newline="") as out:
        if kind == "csv":
            writer = csv.DictWriter(out, ["caption", "file_name"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            out.write("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows))
    records = read(path)
    assert [sample.caption for sample in records] == captions
    assert [records[i].caption for i in range(len(captions))] == captions


def test_the_folder_of_a_listed_picture_is_its_split_where_nothing_else_is_said(tmp_path: Path) -> None:
    names = ["train/a.png", "val/b.png", "test/c.png", "test/d.png", "else/e.png"]
    write(tmp_path, {name: picture() for name in names})
    rows = [{"file_name": name} for name in names]
    rows[3]["split"] = "train"
    write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    assert [sample.split for sample in read(tmp_path)] == ["train", "validation", "test", "train", "train"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("{}\n", "line 1: 'file_name'"),
        ("not json\n", "line 1"),
        ('{"file_name": "target/disc00.png"}\n[1]\n', r"line 2: \[1\] is no object"),
        ('{"file_name": "target/disc00.png"}\n\n{"file_name": \n', "line 3"),
        ('{"file_name": "gone.png"}\n', r"line 1: gone\.png does not exist"),
        ('{"file_name": "target/disc00.png", "source": "gone.png"}\n', r"gone\.png does not exist"),
        ('{"file_name": "target/disc00.png", "mask": "gone.png"}\n', r"gone\.png does not exist"),
        ('{"file_name": "target\\\\disc00.png"}\n', "does not exist"),
        ('{"file_name": "target/disc00.png", "split": "trian"}\n', "line 1: split 'trian'"),
        ('{"file_name": "target/disc00.png", "split": 1}\n', "the split is no text but 1"),
        ('{"file_name": "target/disc00.png", "text": ["a"]}\n', r"the caption is no text but \['a'\]"),
        ('{"file_name": 7}\n', "no text but 7"),
        ('{"file_name": "target/disc00.png"}\n{"file_name": "./target/disc00.png"}\n', "line 2: .* listed twice"),
        ('{"file_name": "../disc00.png"}\n', r"line 1: \.\./disc00\.png lies outside"),
        ('{"file_name": "target/disc00.png", "source": "/etc/x.png"}\n', r"/etc/x\.png lies outside"),
        ('{"file_name": "C:\\\\x.png"}\n', "lies outside"),
        ('{"file_name": "target/disc00.png"}\n{"file_name": "caf\xe9.png"}\n', "not UTF-8: line 2"),
        ("\n", "lists no pictures"),
    ],
)
def test_bad_metadata_is_named_by_its_line(pairs: Path, lines: str, said: str) -> None:
    (pairs / "metadata.jsonl").write_text(lines, encoding="latin-1")
    told(lambda: read(pairs), rf"metadata\.jsonl.*{said}")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("name,caption\nx,y\n", "has no column file_name"),
        ("file_name;caption\nx;y\n", "has no column file_name"),
        ("", "has no column file_name"),
        ("file_name\n", "lists no pictures"),
        ("file_name,text,text\n", "two columns text"),
        ("file_name,caption\ntarget/disc00.png,a fox, red\n", "line 2: 3 cells under 2 columns"),
        ('file_name,caption\ntarget/disc00.png,"a\nfox"\ntarget/disc01.png,"a\n', "line 4"),
        ('file_name,caption\ntarget/disc00.png,"a" fox\n', "line 2"),
        ('file_name,caption\ntarget/disc00.png,"a\nfox"\ngone.png,\n', r"line 4: gone\.png does not exist"),
        ('file_name,caption\n\ntarget/disc00.png,"a\nfox"\ntarget/disc00.png,\n', "line 5: .* listed twice"),
    ],
)
def test_bad_csv_is_named_by_its_line(pairs: Path, lines: str, said: str) -> None:
    (pairs / "metadata.csv").write_text(lines)
    told(lambda: read(pairs), rf"metadata\.csv.*{said}")


def test_a_list_that_changes_under_a_run_is_noticed(pairs: Path) -> None:
    row = '{"file_name": "target/disc00.png", "caption": "a"}\n'
    (pairs / "metadata.jsonl").write_text(row)
    records = read(pairs)
    assert records[0].caption == "a"
    (pairs / "metadata.jsonl").write_text("\n" + row)
    told(lambda: records[0], r"metadata\.jsonl was changed")


# --- shards -----------------------------------------------------------------------------------------------------------


def shards(folder: Path, num: int = 3, per_shard: int = 4) -> Path:
    """Tars whose pictures' red is the number of the record."""
    for shard in range(num):
        members: dict[str, bytes | str] = {}
        for i in range(shard * per_shard, (shard + 1) * per_shard):
            members |= {f"./x/{i:03d}.json": json.dumps({"text": f"j{i}", "n": i}), f"./x/{i:03d}.png": picture(i)}
            if i % 2:
                members |= {f"./x/{i:03d}.txt": f" t{i}\n", f"./x/{i:03d}.source.jpg": picture(99)}
            members[f"./x/{i:03d}.cls"] = "7"
        tar(folder / f"{shard:03d}.tar", {"README": "x", "./.hidden.png": "x", **members})
    return folder


def test_shards_are_read_by_number_and_as_a_stream(tmp_path: Path) -> None:
    shards(tmp_path)
    records = read(tmp_path)
    samples = list(records)
    assert [sample.key for sample in samples] == [f"{i // 4:03d}/x/{i:03d}" for i in range(12)]
    assert [sample.caption for sample in samples] == [f"t{i}" if i % 2 else f"j{i}" for i in range(12)]
    assert [sample.meta for sample in samples] == [{"n": i} for i in range(12)]
    assert [red(sample) for sample in samples] == list(range(12))
    assert [bool(sample.source) for sample in samples] == [bool(i % 2) for i in range(12)]
    assert [records[i] for i in range(12)] == samples
    assert str(samples[0].image) == f"{tmp_path}/000.tar/./x/000.png"
    for name in ("{000..002}.tar", "*.tar", "00[0-2].tar", "{000,001,002}.tar", "00{0..1}.tar"):
        assert list(read(tmp_path / name)) == samples[: 8 if "0..1" in name else 12]
    drawn = list(stream(tmp_path).samples(0))
    assert drawn == list(stream(tmp_path).samples(0)) != list(stream(tmp_path).samples(1))
    assert sorted(drawn, key=lambda sample: sample.key) == samples
    (one,) = [sample for sample in read(tmp_path / "001.tar") if sample.key.endswith("005")]
    assert one.key == "001/x/005"


def test_many_threads_may_read_one_shard(tmp_path: Path) -> None:
    records = read(shards(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: red(records[i % 12]), range(240))) == [*range(12)] * 20


def test_shards_say_their_split_by_name_folder_or_json(tmp_path: Path) -> None:
    json_says = {"b.png": picture(), "b.json": '{"split": "test"}'}
    for name in ("train-000", "val-000", "test_0", "trainer"):
        tar(tmp_path / f"{name}.tar", {"a.png": picture(), **(json_says if name == "train-000" else {})})
    assert {sample.key: sample.split for sample in read(tmp_path)} == {
        "train-000/a": "train",
        "train-000/b": "test",
        "val-000/a": "validation",
        "test_0/a": "test",
        "trainer/a": "train",
    }
    folders = tmp_path / "folders"
    for split in ("train", "test"):
        tar(folders / split / "000.tar", {"a.png": picture()})
    assert [(sample.key, sample.split) for sample in read(folders)] == [
        ("train/000/a", "train"),
        ("test/000/a", "test"),
    ]
    assert sorted(stream(folders).samples(0), key=lambda s: s.split) == sorted(read(folders), key=lambda s: s.split)


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.xz"])
def test_a_compressed_shard_is_for_streams(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    members = {f"{i}.{kind}": picture(i) if kind == "png" else "x" for i in range(9) for kind in ("png", "txt")}
    tar(path, members, "w:xz" if ending == "tar.xz" else "w:gz")
    assert "stream it" in told(lambda: read(path), "is compressed")
    drawn = list(stream(path).samples(0))
    assert {sample.caption for sample in drawn} == {"x"}
    assert sorted(map(red, drawn)) == [*range(9)]
    path.write_bytes(path.read_bytes()[:-9])
    told(lambda: stream(path).samples(0), "is damaged")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.txt": "x"}, "record a has no picture"),
        ({"a.png": b"1", "b.png": b"2", "a.txt": "x"}, "record a has no picture"),
        ({"a.png": b"1", "a.jpg": b"2"}, r"a\.png and a\.jpg share a name"),
        ({"a.png": b"1", "b.png": b"2", "c/a.png": b"3", "a.PNG": b"4"}, "two records are called t/a"),
        ({"a.png": b"1", "a.txt": b"caf\xe9"}, r"a\.txt is not UTF-8"),
        ({"a.png": b"1", "a.json": "{"}, r"a\.json: "),
        ({"a.png": b"1", "a.json": "[]"}, r"a\.json: no JSON object"),
        ({"a.png": b"1", "a.json": '{"split": "x"}'}, "record a: split 'x'"),
        ({"README": b"1"}, "holds no pictures"),
    ],
)
def test_bad_shards_are_named(tmp_path: Path, members: dict, said: str) -> None:
    told(lambda: read(tar(tmp_path / "t.tar", members)), said)


def test_two_records_of_one_name_in_a_stream_are_told_apart_by_refusing_them(tmp_path: Path) -> None:
    for name in ("t.tar", "t.tar.gz"):  # which would be taken for one picture, as what is known of it goes by its name
        path = tmp_path / name
        tar(path, {"a.png": picture(1), "b.png": picture(2), "a.PNG": picture(3)}, "w:gz" if "gz" in name else "w")
        told(lambda path=path: stream(path).samples(0), "two records are called t/a")


def test_half_a_character_in_json_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": picture(), "metadata.jsonl": '{"file_name": "a.png", "caption": "a \\ud800 fox"}'})
    told(lambda: read(tmp_path), r"metadata\.jsonl, line 1: the caption is not UTF-8")


def test_a_shard_that_is_cut_short_or_spoilt_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "t.tar", {f"../../{i}.png": bytes([i]) * 700 for i in range(4)})
    whole = path.read_bytes()
    assert [sample.image.read_bytes()[0] for sample in read(path)] == [0, 1, 2, 3]
    record = 512 + 1024
    for size in (0, 100, 512, 2 * record, 2 * record + 100, 2 * record + 600, 4 * record):
        path.write_bytes(whole[:size])
        told(lambda: read(path), r"t\.tar is damaged")
        told(lambda: stream(path).samples(0), r"t\.tar is damaged")
    path.write_bytes(whole[:record] + b"x" * 512 + whole[record + 512 :])
    told(lambda: read(path), r"t\.tar is damaged")
    path.write_bytes(whole)
    records = read(path)
    last = records[3]
    path.write_bytes(whole[: 3 * record + 600])
    told(lambda: last.image.read_bytes(), r"t\.tar ends within \.\./\.\./3\.png")
    told(lambda: records[3], r"t\.tar is damaged")


def test_patterns_are_explained(tmp_path: Path) -> None:
    shards(tmp_path)
    told(lambda: read(tmp_path / "{000..004}.tar"), r"003\.tar does not exist")
    told(lambda: read(tmp_path / "*.parquet"), "does not exist")
    write(tmp_path, {"a.png": picture(), "b.png": picture()})
    told(lambda: read(tmp_path / "*.png"), "not all tars or all parquet")
    told(lambda: stream(write(tmp_path / "p", {"a.png": picture()})), "nothing to stream")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(tmp_path / "000.tar", "000.tar")
    told(lambda: read(tmp_path / "t.zip"), r"holds 000\.tar")


# --- tables and the hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where datasets keeps its Arrow files."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def table(path: Path, columns: dict[str, list], row_group_size: int = 3) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_parquet_with_pictures_in_its_cells(tmp_path: Path, cache: Path) -> None:
    numbers = list(range(8))
    for part, some in (("train-00000", numbers[:5]), ("test-00000", numbers[5:])):
        table(
            tmp_path / "data" / f"{part}.parquet",
            {
                "edited_image": [{"bytes": picture(i), "path": f"{i}.png"} for i in some],
                "original_image": [picture(50 + i) if i % 2 else None for i in some],
                "edit_prompt": [f"make it {i}" for i in some],
                "embedding": [b"x" for _ in some],
                "n": some,
            },
        )
    records = read(tmp_path / "data")
    samples = list(records)
    assert [red(sample) for sample in samples] == [5, 6, 7, 0, 1, 2, 3, 4]
    assert [sample.key for sample in samples] == [f"test-00000/{i}" for i in range(3)] + [
        f"train-00000/{i}" for i in range(5)
    ]
    assert [sample.split for sample in samples] == ["test"] * 3 + ["train"] * 5
    assert [sample.caption for sample in samples] == [f"make it {red(sample)}" for sample in samples]
    assert [sample.meta for sample in samples] == [{"n": red(sample)} for sample in samples]
    assert [records[i] for i in range(8)] == samples
    assert [sample.source is not None for sample in samples] == [red(sample) % 2 == 1 for sample in samples]
    source = samples[0].source
    assert source is not None
    assert load_uint8(source, 2)[0, 0, 0] == 55
    assert str(source) == f"{tmp_path}/data/test-00000.parquet, row 1, original_image"
    drawn = list(stream(tmp_path / "data").samples(0))
    assert [s.key for s in drawn] == [s.key for s in stream(tmp_path / "data" / "*.parquet").samples(0)]
    assert [s.key for s in drawn] != [s.key for s in stream(tmp_path / "data").samples(1)]
    told_by = {s.key: (s.caption, s.split, s.meta, s.image.read_bytes()) for s in drawn}
    assert told_by == {s.key: (s.caption, s.split, s.meta, s.image.read_bytes()) for s in samples}


def test_parquet_that_names_files(tmp_path: Path, cache: Path) -> None:
    write(tmp_path, {"x/a.png": picture(1), "x/b.png": picture(2)})
    rows = {"file_name": ["x/b.png", "x/a.png"], "text": ["b", None], "split": ["test", None]}
    path = table(tmp_path / "metadata.parquet", rows)
    for name in (tmp_path, path):
        assert [(s.key, s.caption, s.split, red(s)) for s in read(name)] == [
            ("x/b.png", "b", "test", 2),
            ("x/a.png", "", "train", 1),
        ]
        assert sorted(map(red, stream(name).samples(0))) == [1, 2]
    # A file that is written anew is read anew, whatever the cache holds.
    table(path, {"image": ["x/a.png", "x/b.png", "./x/a.png"]})
    told(lambda: read(path), r"metadata\.parquet, row 3: x/a\.png is listed twice")
    table(path, {"image": ["x/a.png", "gone.png"]})
    told(lambda: read(path), r"metadata\.parquet, row 2: gone\.png does not exist")


def test_bad_parquet_is_named(tmp_path: Path, cache: Path) -> None:
    path = table(tmp_path / "t.parquet", {"image": [picture()] * 4, "caption": ["x"] * 4})
    whole = path.read_bytes()
    for data in (whole[:-20], b"", b"text"):
        path.write_bytes(data)
        told(lambda: read(path), r"t\.parquet is damaged")
        told(lambda: stream(path).samples(0), r"t\.parquet is damaged")
    path.write_bytes(whole[:8] + bytes(40) + whole[48:])
    told(lambda: [sample.image.read_bytes() for sample in read(path)], r"t\.parquet")
    told(lambda: stream(path).samples(0), r"t\.parquet")
    told(lambda: read(table(path, {"picture": [picture()]})), "no column of pictures, only picture")
    told(lambda: read(table(path, {"image": [picture(), None]})), "row 2: 'file_name' is missing")
    told(lambda: read(table(path, {"image": [3]})), "row 1: the name of a picture is no text but 3")
    told(lambda: read(table(path, {"image": [picture()], "caption": [["a"]]})), "row 1: the caption is no text")
    cell = [{"bytes": None, "path": str(tmp_path / "gone.png")}]
    told(lambda: [s.image.read_bytes() for s in read(table(path, {"image": cell}))], r"gone\.png cannot be read")


def test_hub_data_sets_load_from_a_folder_and_say_why_not(tmp_path: Path, cache: Path) -> None:
    for name, some in (("train", [0, 1, 2]), ("validation", [3])):
        columns = {"image": [{"bytes": picture(i), "path": None} for i in some], "text": [f"t{i}" for i in some]}
        table(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet", columns)
    name = f"hub:{tmp_path}/set"
    samples = list(read(name))
    assert [(s.key, s.caption, s.split, red(s)) for s in samples] == [
        ("train/0", "t0", "train", 0),
        ("train/1", "t1", "train", 1),
        ("train/2", "t2", "train", 2),
        ("validation/0", "t3", "validation", 3),
    ]
    assert samples == [read(name)[i] for i in range(4)]
    drawn = list(stream(name).samples(0))
    assert sorted((s.caption, s.split, red(s)) for s in drawn) == [(s.caption, s.split, red(s)) for s in samples]
    assert [s.key for s in drawn] == [s.key for s in stream(name).samples(0)]
    assert sorted(s.key for s in drawn) == [s.key for s in samples]
    told(lambda: read("hub:nobody/nothing"), "hub:nobody/nothing cannot be loaded")
    told(lambda: stream("hub:nobody/nothing").samples(0), "hub:nobody/nothing cannot be loaded")
    told(lambda: read(f"{name}:other"), "other")
    table(tmp_path / "numbers" / "train.parquet", {"n": [1]})
    told(lambda: read(f"hub:{tmp_path}/numbers"), "no column of pictures, only n")
    told(lambda: stream(f"hub:{tmp_path}/numbers").samples(0), "no column of pictures, only n")


def test_a_hub_folder_of_pictures(tmp_path: Path, cache: Path) -> None:
    rows = "".join(json.dumps({"file_name": f"{i}.png", "text": f"t{i}"}) + "\n" for i in range(3))
    write(tmp_path / "set" / "train", {**{f"{i}.png": picture(i) for i in range(3)}, "metadata.jsonl": rows})
    for samples in (list(read(f"hub:{tmp_path}/set")), list(stream(f"hub:{tmp_path}/set").samples(0))):
        assert sorted((s.caption, red(s)) for s in samples) == [("t0", 0), ("t1", 1), ("t2", 2)]


# --- size -------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, time
from limner.data.read import read, stream
def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
how, name = sys.argv[1:]
before, start = peak_kb(), time.time()
num = 0
for sample in read(name) if how == "read" else stream(name).samples(0):
    num += bool(sample.caption)
print(num, peak_kb() - before, round(time.time() - start, 1))
"""


def measure(how: str, name: Path) -> tuple[int, float]:
    """(records, megabytes by which the process's peak grew) of going through all."""
    out = subprocess.run([sys.executable, "-c", MEASURE, how, str(name)], capture_output=True, text=True, check=True)
    num, kilobytes, seconds = out.stdout.split()
    print(f"{how} {name.name}: {num} records, {int(kilobytes) / 1024:.1f} MB, {seconds} s")
    return int(num), int(kilobytes) / 1024


def many(folder: Path, num: int) -> tuple[Path, Path]:
    """(metadata.jsonl, shards) of so many records; a thousand files seen through many links."""
    real = folder / "real"
    real.mkdir(parents=True)
    for i in range(1000):
        (real / f"{i:03d}.png").write_bytes(b"x")
    members: dict[str, bytes | str] = {}
    for i in range(1000):
        members |= {f"{i:03d}.png": b"x", f"{i:03d}.txt": f"a picture of number {i}"}
    tar(folder / "shard", members)
    (folder / "shards").mkdir()
    with (folder / "metadata.jsonl").open("w") as out:
        for part in range(num // 1000):
            (folder / f"{part:04d}").symlink_to(real)
            (folder / "shards" / f"{part:04d}.tar").symlink_to(folder / "shard")
            for i in range(1000):
                out.write(f'{{"file_name": "{part:04d}/{i:03d}.png", "text": "a picture of number {i}"}}\n')
    return folder / "metadata.jsonl", folder / "shards"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
def test_a_million_records_cost_no_more_than_their_index(tmp_path: Path) -> None:
    few, all_of_them = many(tmp_path / "few", 100_000), many(tmp_path / "all", 1_000_000)
    for how, small, large in zip(
        ("read", "stream", "read"), (*few, few[1]), (*all_of_them, all_of_them[1]), strict=True
    ):
        (num_few, few_mb), (num_all, all_mb) = measure(how, small), measure(how, large)
        assert (num_few, num_all) == (100_000, 1_000_000)
        assert (
            all_mb - few_mb < 64
        )  # read: eight bytes a record, and as many again or twice while it is made; stream: none
