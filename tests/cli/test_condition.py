"""``limner condition``: pictures and folders in, PNGs out, nothing of the user's lost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from limner import find
from limner.cli.main import main
from limner.data.condition import bind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png and deep/b.jpg; c.png is transparent around a disc."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    canvas = Image.new("RGB", (40, 30), "#e0e0f0")
    ImageDraw.Draw(canvas).ellipse((5, 5, 25, 25), fill="#c03020")
    canvas.save(tmp_path / "in" / "a.png")
    canvas.save(tmp_path / "in" / "deep" / "b.jpg", quality=95)
    clear = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    ImageDraw.Draw(clear).ellipse((5, 5, 25, 25), fill=(0, 0, 255, 255))
    clear.save(tmp_path / "in" / "c.png")
    return tmp_path / "in"


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_a_picture_becomes_what_the_function_gives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "drawn.png"
    assert main(["condition", "xdog", str(folder / "a.png"), str(out), "--ink", "0.6", "--softness=0.2"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    x = torch.from_numpy(levels(folder / "a.png")).permute(2, 0, 1)[None] / 127.5 - 1
    expected = bind("xdog", {"ink": 0.6, "softness": 0.2})(x)[0].permute(1, 2, 0)
    assert np.abs(levels(out) - ((expected + 1) * 127.5).numpy()).max() <= 0.51


def test_a_folder_keeps_its_names(folder: Path) -> None:
    out = folder.parent / "out"
    assert main(["condition", "edges", str(folder), str(out)]) == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == ["a.png", "c.png", "deep/b.png"]
    assert all(levels(path).shape == (30, 40, 3) for path in out.rglob("*.png"))


def test_opacity_reaches_the_mask_and_its_colour_is_white(folder: Path) -> None:
    made = folder.parent / "made.png"
    assert main(["condition", "mask", str(folder / "c.png"), str(made)]) == 0
    opaque = levels(folder / "c.png")[..., 3]
    assert (levels(made) == opaque[..., None]).all()
    assert main(["condition", "grey", str(folder / "c.png"), str(made), "--overwrite"]) == 0
    assert (levels(made)[opaque == 0] == 255).all()


def test_size_scales_the_shorter_side(folder: Path) -> None:
    out = folder.parent / "small.png"
    assert main(["condition", "grey", str(folder / "a.png"), str(out), "--size", "15"]) == 0
    assert levels(out).shape == (15, 20, 3)


def test_a_picture_goes_into_a_folder_that_is_there(folder: Path) -> None:
    assert main(["condition", "grey", str(folder / "deep" / "b.jpg"), str(folder.parent)]) == 0
    assert (folder.parent / "b.png").is_file()


def test_chance_depends_on_seed_and_name_alone(folder: Path) -> None:
    def made(out: str, *words: str) -> np.ndarray:
        assert main(["condition", "low_resolution", str(folder), str(folder.parent / out), *words]) == 0
        return levels(folder.parent / out / "a.png")

    first = made("one", "--seed", "1")
    assert (made("two", "--seed", "2") != first).any()
    (folder / "c.png").unlink()
    assert (made("three", "--seed", "1") == first).all()


@pytest.mark.parametrize("target", ["there.png", "out"])
def test_nothing_is_written_over_unless_asked(folder: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = (folder / "a.png", folder.parent / target) if target.endswith("png") else (folder, folder / "../out")
    file = out if target.endswith("png") else out / "deep" / "b.png"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_bytes(b"mine")
    assert main(["condition", "grey", str(source), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_bytes() == b"mine" and not (folder.parent / "out" / "a.png").exists()
    assert main(["condition", "grey", str(source), str(out), "--overwrite"]) == 0
    assert levels(file).shape == (30, 40, 3)


def test_the_picture_itself_is_never_written_over(folder: Path) -> None:
    before = (folder / "a.png").read_bytes()
    assert main(["condition", "grey", str(folder / "a.png"), str(folder / "a.png"), "--overwrite"]) == 2
    assert main(["condition", "grey", str(folder), str(folder), "--overwrite"]) == 2
    assert (folder / "a.png").read_bytes() == before


def test_a_damaged_picture_is_named_and_the_others_are_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    out = folder.parent / "out"
    assert main(["condition", "grey", str(folder), str(out)]) == 1
    assert "bad.png" in capsys.readouterr().err
    assert len(list(out.rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (["xdgo", "{in}", "{out}"], 2, "unknown condition 'xdgo'", "'xdog'"),
        (["xdog", "{in}", "{out}", "--inkk", "1"], 2, "unknown option '--inkk'", "'--ink'"),
        (["xdog", "{in}", "{out}", "--ink", "much"], 2, "'much'", "xdog --help"),
        (["xdog", "{in}", "{out}", "--sigma", "0"], 2, "sigma above 0", ""),
        (["xdog", "{in}"], 2, "Missing argument 'OUT'", "xdog --help"),
        (["xdog", "{in}/no.png", "{out}"], 1, "no.png does not exist", "folder"),
        (["xdog", "{in}", "{out}.png"], 2, "is a folder and", "folder for OUT"),
        (["xdog", "{in}", "{in}/deep"], 2, "lies within", "beside"),
        (["xdog", "{in}/a.png", "{out}.jpg"], 2, "no PNG", ".png"),
        (["sketch", "{in}/a.png", "{out}.png", "--weights", "no.h5"], 1, "no.h5 does not exist", "pip install"),
    ],
)
def test_mistakes(
    folder: Path, words: list[str], code: int, says: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"in": folder, "out": folder.parent / "out"}
    assert main(["condition", *(word.format(**places) for word in words)]) == code
    error, _, advice = capsys.readouterr().err.partition("\nhint: ")
    assert says in error and hint in advice
    assert not list(folder.parent.glob("out*/**/*.png"))


def test_two_pictures_that_would_become_one_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    assert main(["condition", "grey", str(folder), str(folder.parent / "out")]) == 2
    error = capsys.readouterr().err
    assert "a.jpg" in error and "a.png" in error


def test_help_lists_conditions_without_torch() -> None:
    code = (
        "import sys; from limner.cli.condition import condition; condition(['--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in find.names("condition"))


def test_help_of_a_condition_says_what_its_options_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["condition", "low_resolution", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--blur-px FLOAT the widest blur" in shown and "[default: 40]" in shown and "--seed" in shown


def test_a_users_own_condition(folder: Path) -> None:
    file, out = folder.parent / "dimmed.py", folder.parent / "out.png"
    file.write_text("def dimmed(image_BCHW, *, by=0.5):\n    return image_BCHW * by\n")
    assert main(["condition", str(file), str(folder / "a.png"), str(out), "--by", "0"]) == 0
    assert (levels(out) == 128).all()
