"""The audit: every fault by name, nothing touched, and what it passes trains while what it fails does not."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from test_fuzz import NUM_FILES, damaged
from tiny import pairs_folder

from limner.config import MethodConfig, TranslateConfig
from limner.data.auditing import duplicates
from limner.data.auditing.examine import Rules
from limner.data.auditing.sheet import write_sheet
from limner.data.builtin.fluent import fluent
from limner.data.check import RECORD, Audit, audit
from limner.data.encode import Encoder
from limner.data.findings import CODES, Needs, refused
from limner.data.formats.files import Bytes
from limner.data.load import Loader
from limner.data.prepare import open_picture
from limner.data.read import read, stream
from limner.errors import DataError
from limner.run.data import load_splits, needs_of, recipe_of, refuse, sizes_of
from limner.types import Cond, Sample, Tokens

IMAGE_PX, MULTIPLE_PX = 16, 8


def drawing(number: int, side_px: int = 64) -> Image.Image:
    """Rectangles of any colours: no two are alike."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (side_px, side_px), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y = (np.sort(rng.integers(0, side_px, 2)) for _ in range(2))
        draw.rectangle((x[0], y[0], x[1] + 2, y[1] + 2), tuple(rng.integers(0, 256, 3).tolist()))
    return picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve sound pictures with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(12):
        add(folder, f"{i:02d}.png", drawing(i))
    return folder


def add(
    folder: Path, name: str, picture: Image.Image | bytes, caption: str | bytes | None = "", **options: Any
) -> Path:
    """A picture, or the bytes of one, and what lies beside it."""
    file = folder / name
    if isinstance(picture, bytes):
        file.write_bytes(picture)
    else:
        picture.save(file, **options)
    if caption is not None:
        text = caption or f"drawing {name}"
        file.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rules(config: MethodConfig, condition_px: int | None = None, **more: Any) -> Rules:
    """As run.checking makes them, but for a prior: that would be loaded."""
    buckets, resolutions_px = sizes_of(config, IMAGE_PX, MULTIPLE_PX)
    needs = needs_of(config, condition_px) if config.method else Needs()
    uses = {} if not config.method else {"uses_sources": needs.source, "uses_masks": needs.mask}
    recipe = recipe_of(config, IMAGE_PX, condition_px)
    sizes = {"buckets": buckets, "resolutions_px": resolutions_px, "batch_size": config.batch_size}
    return Rules(recipe, needs, **sizes, **uses, **more)


def checked(data: Path | Sequence[Sample], method: str = "finetune", **fields: Any) -> Audit:
    kind, condition_px = (TranslateConfig, IMAGE_PX) if method == "concat" else (MethodConfig, None)
    config = kind(method=method, data=str(data) if isinstance(data, Path) else "memory", **fields)
    return audit(config.data, read(data) if isinstance(data, Path) else data, rules(config, condition_px))


def codes(result: Audit, severity: str = "") -> dict[str, list[str]]:
    """Code -> names of the files."""
    found: dict[str, list[str]] = {}
    for finding in result.findings:
        if severity in ("", finding.severity):
            found.setdefault(finding.code, []).append(Path(finding.file).name)
    return found


def test_sound_pictures_have_nothing_said_against_them(folder: Path) -> None:
    result = checked(folder)
    assert result.findings == []
    assert result.summary["splits"] == {"train": 11, "validation": 1, "test": 0}
    assert result.summary["sizes_px"]["middle"] == [64, 64]
    assert result.summary["captions"]["different"] == 12
    json.dumps(result.summary)


def bomb() -> bytes:
    """A few bytes that claim 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    return encoded(drawing(50), "WEBP", save_all=True, append_images=[drawing(51)])


# Name of a file -> how it is made, its caption (None: no file), and the code of its error.
JPEG, PNG = encoded(drawing(70), "JPEG"), encoded(drawing(70), "PNG")
BAD: dict[str, tuple[bytes, str | bytes | None, str]] = {
    "half.jpg": (JPEG[: len(JPEG) // 2], "", "truncated"),
    "tail.jpg": (JPEG[:-40], "", "truncated"),
    "large_half.jpg": ((large := encoded(drawing(71, 1500), "JPEG"))[: len(large) // 2], "", "truncated"),
    "half.png": (PNG[: len(PNG) // 2], "", "truncated"),
    "empty.png": (b"", "", "empty-file"),
    "page.jpg": (b"<html>not found</html>", "", "no-picture"),
    "moving.webp": (animation(), "", "animated"),
    "bomb.png": (bomb(), "", "enormous"),
    "numbers.tif": (encoded(drawing(72).convert("F"), "TIFF"), "", "pixel-kind"),
    "profile.png": (encoded(drawing(73), "PNG", icc_profile=b"no profile" * 20), "", "colour-profile"),
    "wordless.png": (PNG, None, "no-caption"),
    "blank.png": (PNG, b" \n", "no-caption"),
    "latin.png": (PNG, "café".encode("latin-1"), "not-utf8"),
}
# What looks odd and trains all the same.
ODD: dict[str, bytes] = {
    "inks.jpg": encoded(drawing(80).convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.asarray(drawing(81).convert("L")).astype(np.uint16) * 256), "PNG"),
    "palette.png": encoded(drawing(82).quantize(16), "PNG"),
    "clear.png": encoded(Image.merge("RGBA", (*drawing(83).split(), drawing(84).convert("L"))), "PNG"),
    "turned.jpg": encoded(
        drawing(85), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "tiny.png": encoded(drawing(86).resize((3, 3)), "PNG"),
    "wide.png": encoded(drawing(87).resize((200, 20)), "PNG"),
}


def train_says(config: MethodConfig, condition_px: int | None) -> str:
    """What training says of its data; '' if it has nothing to say."""
    encoder = Encoder(lambda x: (x, torch.zeros_like(x)), lambda texts: Cond(torch.zeros(len(texts), 1, 1)), "t", CPU)
    try:
        training, held_out, _, groups = load_splits(config, IMAGE_PX, MULTIPLE_PX)
        recipe = recipe_of(config, IMAGE_PX, condition_px)
        for samples, buckets in ((training, groups), (held_out, [])):
            refuse(samples, needs_of(config, condition_px), recipe)
            loader = Loader(samples, recipe, encoder, 0, CPU, buckets)
            list(loader.encode_all())
    except DataError as error:
        return str(error)
    return ""


CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [*BAD, *ODD])
def test_what_check_fails_stops_training_and_what_it_passes_trains(folder: Path, name: str) -> None:
    data, caption, code = BAD[name] if name in BAD else (ODD[name], "", "")
    file = add(folder, name, data, caption)
    result = checked(folder)
    said = train_says(MethodConfig(method="finetune", data=str(folder)), None)
    if code:
        assert codes(result, "error") == {code: [file.with_suffix(".txt").name if code == "not-utf8" else name]}
        assert file.stem in said
        assert all(finding.remedy for finding in result.findings)
    else:
        assert not result.failed
        assert said == ""


def test_every_bad_file_is_named_not_only_the_first(folder: Path) -> None:
    for name, (data, caption, _) in BAD.items():
        # 'half' is there twice; two pictures of one name would be another fault.
        add(folder, name.replace("half.png", "other.png"), data, caption)
    found = codes(checked(folder), "error")
    assert sum(map(len, found.values())) == len(BAD)
    assert found["truncated"] == ["half.jpg", "large_half.jpg", "other.png", "tail.jpg"]


def test_what_training_handles_is_counted_and_not_complained_of(folder: Path) -> None:
    for name, data in ODD.items():
        add(folder, name, data)
    result = checked(folder)
    assert sum(result.summary["handled"].values()) == 5
    assert codes(result).keys() == {"mixed-colour", "enlarged", "much-cropped"}


def test_damaged_files_never_crash_it_and_are_errors_where_training_refuses_them() -> None:
    samples = [Sample(str(i), "a file", damaged(i)) for i in range(NUM_FILES)]
    found = {finding.number for finding in checked(samples).findings if finding.severity == "error"}
    for number, sample in enumerate(samples):
        try:
            open_picture(sample.image)
            assert number not in found, sample.image
        except DataError:
            assert number in found, sample.image


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda half: half.unlink(), "half-missing"),
        (lambda half: half.write_bytes(half.read_bytes()[:60]), "truncated"),
        (lambda half: Image.open(half).resize((16, 11)).save(half), "pair-shape"),
    ],
    ids=["missing", "truncated", "shape"],
)
@pytest.mark.parametrize("role", ["source", "target"])
def test_halves_of_pairs(tmp_path: Path, role: str, damage: Callable[[Path], None], code: str) -> None:
    pairs = pairs_folder(tmp_path / "pairs")
    damage(pairs / role / "disc03.png")
    said = train_says(TranslateConfig(method="concat", data=str(pairs)), IMAGE_PX)
    assert "disc03.png" in said
    if code == "half-missing":
        with pytest.raises(DataError):
            checked(pairs, "concat")
        return
    assert codes(checked(pairs, "concat"), "error").keys() == {code}


def test_a_source_that_is_not_used_is_warned_of(tmp_path: Path) -> None:
    pairs = pairs_folder(tmp_path / "pairs")
    (pairs / "source" / "disc03.png").write_bytes(b"")
    assert not checked(pairs, "finetune").failed
    assert codes(checked(pairs, "finetune"), "warning")["empty-file"] == ["disc03.png"]
    assert checked(pairs, "").failed


@pytest.mark.parametrize("kind", ["picture", "labels"])
def test_pairs_are_counted_whatever_their_sources_are(tmp_path: Path, kind: str) -> None:
    result = checked(pairs_folder(tmp_path / "pairs"), "concat", source_kind=kind)
    assert result.summary["pairs"] == result.num_records == 12


def test_swapped_halves_all_or_one(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    for half in ("source", "target"):
        (pairs / half).mkdir(parents=True)
    for i in range(10):
        sketch = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(sketch).ellipse((8, 8, 50 - i, 55), outline="black", width=2)
        add(pairs / "source", f"{i}.png", sketch, None)
        add(pairs / "target", f"{i}.png", drawing(i), None)
    assert "swapped-halves" not in codes(checked(pairs, ""))
    shutil.copy(pairs / "source" / "3.png", tmp_path / "3.png")
    shutil.copy(pairs / "target" / "3.png", pairs / "source" / "3.png")
    shutil.copy(tmp_path / "3.png", pairs / "target" / "3.png")
    assert codes(checked(pairs, ""))["swapped-halves"] == ["3.png"]
    (pairs / "source").rename(tmp_path / "other")
    (pairs / "target").rename(pairs / "source")
    (tmp_path / "other").rename(pairs / "target")
    assert codes(checked(pairs, ""))["swapped-halves"] == ["pairs"]
    shutil.copy(pairs / "target" / "5.png", pairs / "source" / "5.png")
    assert codes(checked(pairs, ""))["same-halves"] == ["5.png"]


def test_captions_are_counted_and_measured(folder: Path) -> None:
    add(folder, "long.png", drawing(40), "a photo of sks dog that never stops running")
    add(folder, "longest.png", drawing(43), "sks dog " * 10_000)
    add(folder, "left.png", drawing(41), "sks dog in the left corner")
    add(folder, "short.png", drawing(42), "a DOG")

    def tokens(caption: str) -> Tokens:
        words = caption.split()
        return Tokens(len(words), 6, " ".join(words[6:]))

    config = MethodConfig(method="finetune", data=str(folder), trigger="sks", class_word="dog")
    result = audit("pictures", read(folder), rules(config, tokens=tokens))
    causes = {Path(finding.file).name: finding.cause for finding in result.findings if finding.number >= 0}
    assert causes["long.png"].endswith('of which 6 are read; cut off: "never stops running"')
    assert len(causes["longest.png"]) < 200
    assert causes["short.png"] == "is captioned without 'sks'"
    assert causes["00.png"] == "is captioned without 'sks' and 'dog'"
    assert codes(result)["not-mirrored"] == ["pictures"]
    assert result.summary["captions"]["too_long"] == 2
    config = config.model_copy(update={"flip": False})
    assert "not-mirrored" not in codes(audit("pictures", read(folder), rules(config)))


def test_one_caption_for_all_is_noted(folder: Path) -> None:
    for file in folder.glob("*.txt"):
        file.write_text("a photo of a dog")
    assert codes(checked(folder), "note") == {"one-caption": ["pictures"]}


def test_the_bucket_table_names_what_is_cut_or_enlarged(folder: Path) -> None:
    add(folder, "broad.png", drawing(30).resize((96, 32)))
    add(folder, "small.png", drawing(31).resize((12, 12)))
    square = checked(folder)
    assert codes(square) == {"much-cropped": ["broad.png"], "enlarged": ["small.png"]}
    causes = {finding.code: finding.cause for finding in square.findings}
    assert causes["much-cropped"] == "is 96 x 32 pixels, of which 67% would be cut off"
    assert causes["enlarged"] == "is 12 x 12 pixels and would be enlarged 1.3 times"
    assert square.summary["buckets"] == [{"width_px": 16, "height_px": 16, "pictures": 13, "batches": 1}]
    table = checked(folder, aspect="buckets", resolutions_px=(32,), batch_size=4).summary["buckets"]
    sizes = {(row["width_px"], row["height_px"]): (row["pictures"], row["batches"]) for row in table}
    assert sizes == {(32, 32): (12, 3), (40, 24): (1, 1)}


def test_duplicates_and_leaks(folder: Path) -> None:
    shutil.copy(folder / "02.png", folder / "same.png")
    add(folder, "pixels.webp", Image.open(folder / "03.png"), None, lossless=True)
    add(folder, "saved.jpg", Image.open(folder / "04.png").resize((50, 50)), None, quality=60)
    add(folder, "mirror.jpg", ImageOps.mirror(drawing(5)), None, quality=80)
    rows = [{"file_name": file.name, "split": "train"} for file in sorted(folder.glob("*.[pjw]*g*"))]
    rows += [{"file_name": "pixels.webp"}, {"file_name": "kept.png", "split": "validation"}]
    shutil.copy(folder / "06.png", folder / "kept.png")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = codes(checked(folder, ""))
    del found["no-caption"]
    assert found == {
        "duplicate": ["same.png"],
        "same-pixels": ["pixels.webp"],
        "near-duplicate": ["saved.jpg"],
        "mirrored-copy": ["mirror.jpg"],
        "leak": ["kept.png"],
    }


def changed(picture: Image.Image, how: str) -> Image.Image:
    width, height = picture.size
    if how == "jpeg":
        return Image.open(io.BytesIO(encoded(picture, "JPEG", quality=60)))
    if how == "resized":
        return picture.resize((width * 4 // 5, height * 4 // 5), Image.Resampling.LANCZOS)
    if how == "cropped":  # two per cent off each side's length
        edge_x, edge_y = width * 0.01, height * 0.01
        return picture.resize(
            (width, height), Image.Resampling.LANCZOS, (edge_x, edge_y, width - edge_x, height - edge_y)
        )
    return ImageEnhance.Brightness(picture).enhance(0.85)


@pytest.mark.parametrize(("how", "share"), [("jpeg", 0.99), ("resized", 0.99), ("cropped", 0.95), ("darker", 0.99)])
def test_copies_are_found_and_twins_in_other_clothes_are_not(how: str, share: float) -> None:
    """On drawings of one hand, many of them alike; the few that are found among themselves differ by a hair."""
    records = fluent()
    white = Image.new("RGBA", (128, 128), "white")
    pictures = [Image.alpha_composite(white, open_picture(records[i].image)).convert("RGB") for i in range(0, 1339, 4)]
    kept_N = np.array([duplicates.describe(picture) for picture in pictures])
    copies_N = np.array([duplicates.describe(changed(picture, how).convert("RGB")) for picture in pictures])
    num = len(pictures)
    pair_P2 = duplicates.near(np.concatenate([kept_N, copies_N]), mirrored=False)
    assert (pair_P2[:, 1] - pair_P2[:, 0] == num).sum() >= share * num
    assert len(duplicates.near(kept_N, mirrored=False)) < 0.01 * num


def test_candidates_cost_no_comparison_of_all_with_all() -> None:
    """Forty thousand random pictures and a copy of one in a hundred: found in seconds, in half a kilobyte each."""
    rng = np.random.default_rng(0)
    num = 40_000
    kept_N = np.zeros(num, duplicates.DTYPE)
    coarse = rng.integers(0, 256, (num, 4, 4)).astype(np.uint8)
    kept_N["luma"] = coarse.repeat(4, axis=1).repeat(4, axis=2)
    kept_N["colour"] = coarse[..., None]
    copies_M = kept_N[::100].copy()
    copies_M["luma"] += rng.integers(0, 3, copies_M["luma"].shape).astype(np.uint8) * (copies_M["luma"] < 250)
    pair_P2 = duplicates.near(np.concatenate([kept_N, copies_M]), mirrored=False)
    assert (pair_P2[:, 1] - num == pair_P2[:, 0] / 100).sum() == len(pair_P2) == num // 100
    assert RECORD.itemsize < 512


def test_many_equal_pictures_are_each_named_once(folder: Path) -> None:
    for i in range(60):
        shutil.copy(folder / "00.png", folder / f"x{i}.png")
        (folder / f"x{i}.txt").write_text("x")
    found = codes(checked(folder))
    assert len(found["duplicate"]) + len(found.get("leak", [])) == 60


@pytest.mark.parametrize(("aspect", "sheet"), [("square", True), ("buckets", False)])
def test_nothing_of_the_users_is_touched(folder: Path, tmp_path: Path, aspect: str, sheet: bool) -> None:
    for name, (data, caption, _) in BAD.items():
        add(folder, name.replace("half.png", "other.png"), data, caption)

    def state() -> list[tuple[str, str, int]]:
        files = sorted(folder.rglob("*"))
        return [(str(f), hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files]

    before = state()
    folder.chmod(0o555)
    try:
        result = checked(folder, aspect=aspect)
        if sheet:
            write_sheet(tmp_path / "sheet.png", result, read(folder), None)
    finally:
        folder.chmod(0o755)
    assert state() == before


def test_zips_shards_and_streams_are_looked_at_too(folder: Path, tmp_path: Path) -> None:
    add(folder, "empty.png", b"")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive, tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
            tar.add(file, file.name)
    for data in (tmp_path / "pictures.zip", tmp_path / "a.tar"):
        assert codes(checked(data)) == {"empty-file": ["empty.png"]}
    config = MethodConfig(method="finetune", data="a.tar")
    result = audit("a.tar", stream(tmp_path / "a.tar"), rules(config))
    # Of a stream the first 32 are held out, so that these few leave nothing to train on.
    assert codes(result, "error") == {"empty-file": ["empty.png"], "no-pictures": ["a.tar"]}
    assert result.num_records == 13
    some = audit("a.tar", stream(tmp_path / "a.tar"), rules(config), limit=5)
    assert (some.num_records, codes(some, "error")) == (5, {})  # what lies behind these is not known
    write_sheet(tmp_path / "sheet.png", result, stream(tmp_path / "a.tar"), None)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_limit_takes_records_at_equal_distances(folder: Path) -> None:
    add(folder, "99.png", b"")
    result = audit("x", read(folder), rules(MethodConfig(method="finetune")), limit=4)
    assert result.num_records == 4
    assert not result.failed


def test_a_stream_that_breaks_off_is_a_finding() -> None:
    class Broken:
        def samples(self, seed: int):  # type: ignore[no-untyped-def]
            yield Sample("0", "a", Bytes("0.png", PNG))
            raise DataError("a.tar is cut short.", "copy or download it again")

    result = audit("a.tar", Broken(), rules(MethodConfig(method="finetune")))
    assert codes(result, "error")["truncated"] == ["a.tar"]
    assert result.num_records == 1


def test_every_code_can_come_of_what_readers_say() -> None:
    said = {
        "x.jpg is not UTF-8: bad byte.": ("not-utf8", "x.jpg", "is not UTF-8: bad byte"),
        "m.jsonl, line 3: split 'trian'.": ("metadata", "m.jsonl", "line 3: split 'trian'"),
        "pictures: a.jpg and a.png share a name.": ("same-name", "pictures", "a.jpg and a.png share a name"),
        "p holds no pictures.": ("no-pictures", "p", "holds no pictures"),
        "p: 3 pictures have no other half, first a.png.": (
            "half-missing",
            "p",
            "3 pictures have no other half, first a.png",
        ),
        "something else.": ("unusable", "something else", ""),
    }
    for text, (code, file, cause) in said.items():
        finding = refused(DataError(text))
        assert (finding.code, finding.file, finding.cause) == (code, file, cause)
    assert len({code for _, code in CODES}) == len(CODES)
