"""``limner caption``: what it writes limner reads; it goes on where it stopped; it overwrites nothing."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import tiny_vision
from PIL import Image

from limner.cli.main import main
from limner.data import vision
from limner.data.read import read

NAMES = ["a_red_fox.png", "green_frog-2.png", "two owls.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, the first with a caption beside it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, colour in zip(NAMES, ("red", "green", "brown"), strict=True):
        Image.new("RGB", (20, 16), colour).save(pictures / name)
    (pictures / "a_red_fox.txt").write_text("a fox that looks up")
    return pictures


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vision.blip(tmp_path_factory.mktemp("models") / "blip"))


@pytest.fixture
def wrong(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs a command that must fail: its sentence and its hint."""

    def run(*words: object, code: int) -> tuple[str, str]:
        assert main(["caption", *map(str, words)]) == code
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert captured.out == "" and len(lines) == 2, captured.err
        return lines[0], lines[1]

    return run


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def said(data: Path) -> list[str]:
    return [sample.caption for sample in read(data)]


def test_captions_of_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main(["caption", str(folder), "--from", "names"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{folder / 'metadata.jsonl'}: 3 captions\n" and captured.err == ""
    captions = ["a red fox", "green frog", "two owls"]
    expected = [{"file_name": name, "caption": text} for name, text in zip(NAMES, captions, strict=True)]
    assert rows(folder / "metadata.jsonl") == expected
    assert said(folder) == captions
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {file.name for file in folder.iterdir()} == {*before, "metadata.jsonl"}


def test_templates_and_captions_to_keep(folder: Path) -> None:
    words = ["--template", "{trigger} {class_word}: {name}", "--trigger", "sks", "--class-word", "étude"]
    assert main(["caption", str(folder), *words]) == 0
    assert said(folder) == ["sks étude: a red fox", "sks étude: green frog", "sks étude: two owls"]
    assert "étude" in (folder / "metadata.jsonl").read_text(encoding="utf-8")
    (folder / "metadata.jsonl").unlink()
    assert main(["caption", str(folder), "--from", "names", "--template", "my {caption}", "--only-missing"]) == 0
    assert said(folder) == ["a fox that looks up", "my green frog", "my two owls"]


def test_captions_of_a_model(folder: Path, blip: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--from", blip, "--max-new-tokens", "5", "--prompt", "a fox"]
    assert main(["caption", str(folder), *model]) == 0
    assert capsys.readouterr().out == f"{folder / 'metadata.jsonl'}: 3 captions\n"
    files = [folder / name for name in NAMES]
    told = list(vision.describe(blip, files, "a fox", max_new_tokens=5))
    assert said(folder) == told and told[0].startswith("a fox")
    (folder / "metadata.jsonl").unlink()
    words = ["--template", "{trigger}, {caption}", "--trigger", "sks", "--only-missing"]
    assert main(["caption", str(folder), *model, *words]) == 0
    assert said(folder) == ["a fox that looks up", *(f"sks, {text}" for text in told[1:])]


def test_empty_captions_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", str(folder), "--template", "{caption}"]) == 0
    assert capsys.readouterr().out.endswith(": 3 captions, 2 of them empty\n")


def test_pairs_keep_their_halves(tmp_path: Path) -> None:
    data = tiny.pairs_folder(tmp_path / "pairs", num=3)
    before = list(read(data))
    assert main(["caption", str(data), "--template", "{caption}!"]) == 0
    after = list(read(data))
    assert [sample.caption for sample in after] == ["disc 0!", "disc 1!", "disc 2!"]
    assert [(sample.image, sample.source) for sample in after] == [(sample.image, sample.source) for sample in before]


def test_what_else_the_data_says_is_kept(folder: Path) -> None:
    first = {"file_name": NAMES[1], "caption": "", "split": "test", "place": {"name": "Rome"}, "stars": [1, 2.5]}
    second = {"file_name": NAMES[0], "text": "a\u2028fox", "source": NAMES[2], "mask": NAMES[2], "split": "validation"}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, (first, second))))
    assert main(["caption", str(folder), "--from", "names", "--only-missing", "--out", str(folder / "new.jsonl")]) == 0
    first["caption"] = "green frog"
    second["caption"] = second.pop("text")
    assert rows_of_lines(folder / "new.jsonl") == [first, second]
    old, new = read(folder), read(folder / "new.jsonl")
    for before, after in zip(old, new, strict=True):
        assert (before.split, before.meta, before.mask, before.source) == (
            after.split,
            after.meta,
            after.mask,
            after.source,
        )


def rows_of_lines(file: Path) -> list[dict]:
    """By line feeds alone, which is how files of JSON lines are read."""
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]


def test_a_picture_in_a_folder_called_after_a_split(folder: Path) -> None:
    (folder / "test").mkdir()
    (folder / NAMES[2]).rename(folder / "test" / NAMES[2])
    listed = [{"file_name": f"test/{NAMES[2]}", "split": "train"}, {"file_name": NAMES[0]}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, listed)))
    assert main(["caption", str(folder), "--from", "names", "--out", str(folder / "new.jsonl")]) == 0
    assert [sample.split for sample in read(folder / "new.jsonl")] == ["train", "train"]


def test_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "black_cat.png")
    before = [(sample.split, sample.image) for sample in read(tmp_path)]
    assert main(["caption", str(tmp_path), "--from", "names"]) == 0
    after = read(tmp_path)
    assert sorted(before, key=str) == sorted(((sample.split, sample.image) for sample in after), key=str)
    assert {sample.caption for sample in after} == {"black cat"}


def test_a_zip_needs_an_out(folder: Path, tmp_path: Path, wrong: Callable) -> None:
    with zipfile.ZipFile(tmp_path / "fox.zip", "w") as archive:
        for name in NAMES:
            archive.write(folder / name, f"pictures/{name}")
    sentence, hint = wrong(tmp_path / "fox.zip", "--from", "names", code=2)
    assert "no folder" in sentence and "--out" in hint
    (folder / "a_red_fox.txt").unlink()
    assert main(["caption", str(tmp_path / "fox.zip"), "--from", "names", "--out", str(folder / "metadata.jsonl")]) == 0
    assert said(folder) == ["a red fox", "green frog", "two owls"]


def test_nothing_is_overwritten(folder: Path, wrong: Callable) -> None:
    (folder / "metadata.jsonl").write_text("mine")
    sentence, hint = wrong(folder, "--from", "names", code=2)
    assert "metadata.jsonl exists" in sentence and "--out" in hint
    assert (folder / "metadata.jsonl").read_text() == "mine"
    (folder / "metadata.jsonl").rename(folder / "metadata.csv")
    sentence, hint = wrong(folder, "--from", "names", code=2)
    assert "metadata.csv exists" in sentence and "captions.jsonl" in hint


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        ([], "captions from where", "--from names"),
        (["--from", "naems"], "--from 'naems' is no source", "'names'"),
        (["--from", "tempalte"], "--from 'tempalte' is no source", "'template'"),
        (["--from", "template"], "needs --template", "{trigger}"),
        (["--form", "names"], "unknown option '--form'", "'--from'"),
        (["--from", "names", "--prompt", "x"], "--prompt is for models", "--from"),
        (["--from", "names", "--trigger", "x"], "--trigger is given, but no template", "{trigger}, {caption}"),
        (["--template", "{caption}", "--class-word", "x"], "--class-word is given, but no", "{class_word}"),
        (["--template", "{trigger} x"], "{trigger}, which is empty", "set trigger"),
        (["--template", "{caption"], "expected '}'", "{{"),
        (["--template", "{captoin}"], "{captoin}, which", "'caption'"),
        (["--from", "names", "--batch-size", "0"], "--batch-size", "--help"),
        (["--from", "names", "--out", "nowhere/x.jsonl"], "nowhere does not exist", "--out"),
        (["--from", "names", "--out", "captions"], "captions is no .jsonl file", "--out captions.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(words: list[str], sentence: str, hint: str, folder: Path, wrong: Callable) -> None:
    what, remedy = wrong(folder, *words, code=2)
    assert sentence in what and hint in remedy
    assert sorted(file.name for file in folder.iterdir()) == sorted([*NAMES, "a_red_fox.txt"])


def test_data_that_cannot_be_captioned(folder: Path, tmp_path: Path, wrong: Callable) -> None:
    assert "does not exist" in wrong(tmp_path / "nothing", "--from", "names", code=1)[0]
    assert "there is no model 'nobody/nothing'" in wrong(folder, "--from", "nobody/nothing", code=1)[0]
    assert not list(folder.glob("*.partial"))
    Image.new("RGB", (8, 8)).save(folder / "IMG_1234.png")
    sentence, _ = wrong(folder, "--from", "names", code=1)
    assert "IMG_1234.png has no words" in sentence
    assert not list(folder.glob("*.partial"))
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        data = (folder / NAMES[0]).read_bytes()
        member = tarfile.TarInfo("0001.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    assert "no file in a folder" in wrong(shard, "--from", "names", "--out", tmp_path / "x.jsonl", code=1)[0]


class Interrupted:
    """A stand-in for describe that says how often it was asked, and is interrupted before picture number ``after``."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, []

    def __call__(self, model: str, files: Iterator[Path], *_: object) -> Iterator[str]:
        for number, file in enumerate(files):
            if number == self.after:
                raise KeyboardInterrupt
            self.asked.append(file.name)
            yield f"{model} saw {file.name}"


def test_it_goes_on_after_ctrl_c(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Callable
) -> None:
    words = [str(folder), "--from", "some/model"]
    monkeypatch.setattr(vision, "describe", Interrupted(after=2))
    assert main(["caption", *words]) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and "stopped at 2 of 3: the same command goes on" in captured.err
    partial = folder / "metadata.jsonl.partial"
    assert len(rows(partial)) == 3 and not (folder / "metadata.jsonl").exists()
    assert "begun with another --prompt: None" in wrong(*words, "--prompt", "x", code=2)[0]
    assert "begun with another --from: 'some/model'" in wrong(folder, "--from", "other/model", code=2)[0]

    with partial.open("ab") as file:
        file.write(b'{"file_name": "two owls.png", "capt')  # as a kill in the midst of a line leaves it
    monkeypatch.setattr(vision, "describe", second := Interrupted(after=9))
    assert main(["caption", *words]) == 0
    assert second.asked == [NAMES[2]]
    assert said(folder) == [f"some/model saw {name}" for name in NAMES]
    assert not list(folder.glob("*.partial")) and not list(folder.glob("*.tmp"))


def test_what_was_begun_for_other_pictures_is_not_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Callable
) -> None:
    monkeypatch.setattr(vision, "describe", Interrupted(after=2))
    assert main(["caption", str(folder), "--from", "some/model"]) == 130
    capsys.readouterr()
    Image.new("RGB", (8, 8)).save(folder / "a_pie.png")
    sentence, hint = wrong(folder, "--from", "some/model", code=1)
    assert "has changed" in sentence and "delete" in hint
    partial = folder / "metadata.jsonl.partial"
    head = partial.read_bytes().partition(b"\n")[0] + b"\n"
    for text in ("", "a diary", "a diary\n", "3\n", '{"a": 3}\n', '{"source": "some/'):
        partial.write_text(text)
        assert "no file of limner's" in wrong(folder, "--from", "some/model", code=1)[0]
        assert partial.read_text() == text
    partial.write_bytes(head + b'{"file_na')  # killed within the first caption: other options are as good
    assert main(["caption", str(folder), "--from", "other/model"]) == 130
    assert len(rows(partial)) == 3 and rows(partial)[0]["source"] == "other/model"


def test_a_damaged_picture_stops_it_there_and_it_goes_on(folder: Path, blip: str, wrong: Callable) -> None:
    good = (folder / NAMES[1]).read_bytes()
    (folder / NAMES[1]).write_bytes(good[:40])
    words = [folder, "--from", blip, "--batch-size", 1, "--max-new-tokens", 3]
    assert NAMES[1] in wrong(*words, code=1)[0]
    assert len(rows(folder / "metadata.jsonl.partial")) == 2
    (folder / NAMES[1]).write_bytes(good)
    assert main(["caption", *map(str, words)]) == 0
    assert len(said(folder)) == 3


def test_the_command_itself_loads_nothing_heavy() -> None:
    code = "import sys, limner.cli.caption; assert not {'torch', 'numpy', 'transformers', 'PIL'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
