"""From files to pixels: every kind of file, colours against the formulas, and one view on all that belongs together."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw
from tiny_pictures import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    Blob,
    cmyk_profile,
    grey_profile,
    inks_lab,
    png_of,
    png_of_16_bits,
    rgb_profile,
    saved,
    srgb_of_xyz,
    turned,
    xyz_of_lab,
)

from limner.data import palettes, prepare
from limner.data.imaging import decode
from limner.data.prepare import Style, View, load, load_uint8, open_picture, picture, size
from limner.errors import DataError

SQUARE = View(16, 16)


def pixel(file: Blob | Path) -> tuple[int, ...]:
    return open_picture(file).getpixel((0, 0))  # type: ignore[return-value]


def flat(mode: str, colour: object, side_px: int = 4) -> Image.Image:
    return Image.new(mode, (side_px, side_px), colour)  # type: ignore[arg-type]


def smooth(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """Broad patches of colour, as photographs have."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width_px, height_px), Image.Resampling.BICUBIC)


# Kinds of files


def test_transparency_lies_on_the_stated_background() -> None:
    half = saved(flat("RGBA", (255, 0, 0, 51)), "PNG")
    assert open_picture(half).mode == "RGBA"
    assert picture(half, SQUARE)[:, 3, 3].tolist() == [255, 204, 204]
    assert picture(half, SQUARE, Style(background=(0, 0, 255)))[:, 3, 3].tolist() == [51, 0, 204]
    palette = saved(Image.new("P", (4, 4)), "PNG", transparency=0)
    assert picture(palette, SQUARE).unique().tolist() == [255]
    keyed = saved(flat("RGB", (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    assert picture(keyed, SQUARE).unique().tolist() == [255]


def test_what_is_hidden_does_not_bleed_through_when_scaled() -> None:
    """Half of the picture is fully transparent red: on white, no pixel may turn reddish."""
    values = np.full((8, 8, 4), (255, 0, 0, 0), dtype=np.uint8)
    values[:, 4:] = (255, 255, 255, 255)
    assert picture(saved(Image.fromarray(values), "PNG"), View(3, 3)).unique().tolist() == [255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(kind: str, orientation: int) -> None:
    upright = smooth(24, 16)
    stored, exif = turned(upright, orientation)
    lossless = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 95, "subsampling": 0},
        "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    }
    if kind == "TIFF":  # a tag of the file itself there
        file = saved(stored, kind, tiffinfo={0x0112: orientation})
    else:
        file = saved(stored, kind, exif=exif, **lossless.get(kind, {}))
    shown = open_picture(file)
    assert shown.size == size(file) == (24, 16)
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(upright)).mean() < 4


def test_orientation_behind_the_pixels_of_a_png_is_found() -> None:
    stored, exif = turned(smooth(24, 16), 6)
    whole = saved(stored, "PNG", exif=exif).data
    start = whole.index(b"eXIf") - 4
    chunk = whole[start : start + 12 + int.from_bytes(whole[start : start + 4], "big")]
    late = Blob(whole.replace(chunk, b"").replace(b"\0\0\0\0IEND", chunk + b"\0\0\0\0IEND"))
    assert late.data.index(b"eXIf") > late.data.index(b"IDAT")
    assert size(late) == open_picture(late).size == (24, 16)


def test_the_size_of_a_jpeg_is_read_from_its_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for orientation, wanted in ((1, (16, 24)), (6, (24, 16))):
        file, exif = tmp_path / f"{orientation}.jpg", Image.Exif()
        exif[0x0112] = orientation
        smooth(16, 24).save(file, exif=exif)
        assert open_picture(file).size == wanted
        with monkeypatch.context() as patch:
            patch.setattr(decode, "read_bytes", None)
            assert size(file) == wanted


def test_sixteen_bits_keep_their_upper_eight() -> None:
    for levels in ([20000], [20000, 65535], [257 * 9, 257 * 200, 65535], [0, 256, 511, 65535]):
        shown = pixel(png_of_16_bits(np.full((4, 4, len(levels)), levels, dtype=np.uint16)))
        upper = [level >> 8 for level in levels]
        assert list(shown) == (upper[:1] * 3 + upper[1:] if len(levels) < 3 else upper)
    for kind in ("PNG", "TIFF"):
        file = saved(Image.fromarray(np.full((4, 4), 20000, dtype=np.uint16)), kind)
        assert pixel(file) == (78, 78, 78)


def test_other_depths_and_kinds() -> None:
    assert pixel(saved(flat("1", 1), "PNG")) == (255, 255, 255)
    assert pixel(saved(flat("L", 7), "BMP")) == (7, 7, 7)
    assert pixel(saved(flat("LA", (7, 9)), "PNG")) == (7, 7, 7, 9)
    assert pixel(saved(flat("RGB", (1, 2, 3)), "PPM")) == (1, 2, 3)
    assert pixel(saved(flat("P", 0), "GIF")) == (0, 0, 0)
    grey16 = saved(Image.fromarray(np.full((4, 4), 300, dtype=np.uint16)), "PNG", transparency=300)
    assert pixel(grey16) in [(1, 1, 1, 0), (1, 1, 1)]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=r"basket/deep\.tif has 32-bit pixels"):
        open_picture(saved(flat(mode, 1), "TIFF", "deep.tif"))


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG", "TIFF"])
def test_animations_and_several_pages_are_refused(kind: str) -> None:
    frames = [flat("RGB", colour) for colour in ("red", "blue")]
    file = saved(frames[0], kind, "moving", save_all=True, append_images=frames[1:])
    for use in (open_picture, size):
        with pytest.raises(DataError, match="basket/moving is animated") as caught:
            use(file)
        assert caught.value.hint


def test_a_camera_file_with_a_second_picture_in_it_is_its_first() -> None:
    file = saved(flat("RGB", "red", 32), "MPO", save_all=True, append_images=[flat("RGB", "blue", 32)])
    assert pixel(file)[0] > 250
    assert picture(file, View(4, 4))[0].min() > 250


# Colour


def test_colours_of_an_embedded_profile_are_turned_into_srgb() -> None:
    levels = np.random.default_rng(0).integers(60, 190, (64, 3))
    linear = (levels / 255) ** ADOBE_GAMMA @ ADOBE_RGB
    wanted = srgb_of_xyz(linear)
    inside = ((wanted > 0) & (wanted < 255)).all(axis=1)
    file = saved(Image.fromarray(levels.astype(np.uint8)[None]), "PNG", icc_profile=rgb_profile())
    shown = np.asarray(open_picture(file))[0].astype(int)
    assert inside.sum() > 30
    assert np.abs(shown - wanted)[inside].max() <= 1
    assert np.abs(shown - levels).max() > 5


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA"])
def test_a_profile_reaches_palettes_grey_and_transparency(mode: str) -> None:
    grey = saved(flat("RGB", (100, 100, 100)), "PNG", icc_profile=rgb_profile(gamma=1.0))
    other = flat("RGB", (100, 100, 100)).convert("L").convert(mode)
    if "A" in mode:
        other.putalpha(77)
    shown = pixel(saved(other, "PNG", icc_profile=rgb_profile(gamma=1.0)))
    assert shown[:3] == pixel(grey)
    assert shown[3:] == ((77,) if "A" in mode else ())
    assert abs(shown[0] - 168) <= 1  # 100/255 of the light, in sRGB


def test_a_profile_is_obeyed_before_and_after_scaling_alike() -> None:
    """Opaque pictures are scaled in their own colours and turned into sRGB then; others the other way round."""
    whole = smooth(90, 60).point(lambda level: 100 + level // 4)
    plain = picture(saved(whole, "PNG", icc_profile=rgb_profile()), View(30, 20))
    clear = whole.copy()
    clear.putalpha(255)
    other = picture(saved(clear, "PNG", icc_profile=rgb_profile()), View(30, 20))
    assert (plain.int() - other.int()).abs().max() <= 3
    bare = picture(saved(whole, "PNG"), View(30, 20))
    assert (plain.int() - bare.int()).abs().max() > 10


def test_a_grey_profile_is_obeyed() -> None:
    assert abs(pixel(saved(flat("L", 100), "PNG", icc_profile=grey_profile(1.0)))[0] - 168) <= 1
    assert abs(pixel(saved(flat("LA", (100, 5)), "PNG", icc_profile=grey_profile(1.0)))[0] - 168) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_plain_without_a_profile_and_true_with_one(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    cyan = flat("CMYK", (255, 0, 0, 0), 16)
    assert np.allclose(pixel(saved(cyan, kind, **options)), (0, 255, 255), atol=3)
    wanted = srgb_of_xyz(xyz_of_lab(np.array(inks_lab((1, 0, 0, 0)))))
    assert np.allclose(pixel(saved(cyan, kind, icc_profile=cmyk_profile(), **options)), wanted, atol=3)
    black = flat("CMYK", (0, 0, 0, 255), 16)
    assert np.allclose(pixel(saved(black, kind, icc_profile=cmyk_profile(), **options)), 0, atol=3)


def test_inks_are_inverted_only_where_adobe_says_so() -> None:
    whole = saved(flat("CMYK", (0, 200, 0, 0), 16), "JPEG", quality=100).data
    at = whole.index(b"\xff\xee")
    without = Blob(whole[:at] + whole[at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big") :])
    assert np.allclose(pixel(Blob(whole)), (255, 55, 255), atol=3)
    assert np.allclose(
        pixel(without), (0, 0, 0), atol=3
    )  # the same bytes, taken as they are: all inks but one are full


def test_a_profile_that_is_srgb_costs_and_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = smooth(32, 32)
    assert np.array_equal(np.asarray(open_picture(saved(plain, "PNG", icc_profile=srgb))), np.asarray(plain))


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", rgb_profile()[:200]),
        ("RGB", bytes(128)),
        ("RGB", grey_profile(2.2)),
        ("RGB", cmyk_profile()),
        ("L", cmyk_profile()),
    ],
)
def test_damaged_and_foreign_profiles_are_named(mode: str, profile: bytes) -> None:
    with pytest.raises(DataError, match=r"basket/x\.png has .* colour profile") as caught:
        open_picture(saved(flat(mode, 9), "PNG", "x.png", icc_profile=profile))
    assert "without one" in caught.value.hint


def test_a_profile_in_pieces_is_named() -> None:
    whole = saved(flat("RGB", 9), "JPEG", icc_profile=rgb_profile()).data
    at = whole.index(b"ICC_PROFILE\0\1\1")
    with pytest.raises(DataError, match="parts of it are missing"):
        open_picture(Blob(whole[: at + 13] + b"\2" + whole[at + 14 :]))


# Damage


@pytest.mark.parametrize("content", [b"", b"text", b"<svg/>", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures_are_named(content: bytes) -> None:
    for use in (open_picture, size):
        with pytest.raises(DataError, match=r"basket/x\.png cannot be read as a picture: .+\.$") as caught:
            use(Blob(content, "x.png"))
        assert "BytesIO" not in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM"])
def test_files_that_are_cut_short_are_named(kind: str) -> None:
    whole = saved(smooth(64, 64), kind).data
    for share in (0.5, 0.9):
        with pytest.raises(DataError, match="basket/half cannot be read as a picture"):
            load(Blob(whole[: int(share * len(whole))], "half"), 16)


def test_exif_data_that_cannot_be_read_leaves_the_picture_as_it_is() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        file = saved(flat("RGB", 9), kind, exif=b"Exif\0\0no such thing")
        assert pixel(file) == pixel(saved(flat("RGB", 9), kind))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        open_picture(tmp_path / "gone.png")


def bombs() -> dict[str, bytes]:
    """Small files that claim to be enormous, or unpack to much."""
    side = (60000).to_bytes(4, "big")
    header = side + side + b"\x08\x06\0\0\0"
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(10**7)) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = block[:2] + block[2:] * 50  # unpacks to 500 MB
    small = flat("RGB", 1, 64)
    jpeg = bytearray(saved(small, "JPEG").data)
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\x00\xff\x00"
    bmp = bytearray(saved(small, "BMP").data)
    bmp[18:26] = (60000).to_bytes(4, "little") * 2
    gif = bytearray(saved(small, "GIF").data)
    gif[6:10] = b"\xff\xff\xff\xff"
    webp = bytearray(saved(flat("RGBA", (1, 2, 3, 4), 64), "WEBP", exif=b"Exif\0\0").data)
    at = webp.index(b"VP8X") + 12
    webp[at : at + 6] = b"\xfe\x3f\0\xfe\x3f\0"
    tiff = bytearray(saved(small, "TIFF").data)
    for tag in (256, 257):  # width and length
        at = next(at for at in range(8, len(tiff)) if tiff[at : at + 2] == tag.to_bytes(2, "little"))
        tiff[at + 2 : at + 12] = b"\4\0\1\0\0\0" + (60000).to_bytes(4, "little")
    return {
        "pixels.png": png_of([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**7))), (b"IEND", b"")]),
        "text.png": png_of([(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\2\0\0\0"), (b"zTXt", b"x\0\0" + zeros), (b"IEND", b"")]),
        "profile.png": png_of([(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\2\0\0\0"), (b"iCCP", b"x\0\0" + zeros)]),
        "pixels.jpg": bytes(jpeg),
        "pixels.bmp": bytes(bmp),
        "pixels.gif": bytes(gif),
        "pixels.webp": bytes(webp),
        "pixels.tif": bytes(tiff),
        "pixels.ppm": b"P6 60000 60000 255\n" + bytes(1000),
    }


def test_bombs_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 2**20
    program = """
import sys
from pathlib import Path
from limner.data.imaging.decode import decode
from limner.errors import DataError

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

before = peak_mb()
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(file.name, "opened", decode(file).picture.size)
    except DataError as error:
        print(file.name, "refused:", error)
print("grown by", round(peak_mb() - before))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to read the peak of memory from")
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 9
    assert all("refused" in line for line in lines), done.stdout
    assert done.stderr == ""
    assert int(last.removeprefix("grown by ")) < 300


def test_pictures_that_are_merely_large_are_read_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = saved(smooth(13, 13), "PNG")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(size, [file] * 40)) == [(13, 13)] * 40
    with pytest.raises(DataError, match="million pixels"):
        size(saved(smooth(15, 15), "PNG"))


# Views

sides = st.integers(5, 60)
views_of_any_kind = st.builds(
    View,
    width_px=sides,
    height_px=sides,
    flip=st.booleans(),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    zoom=st.floats(1, 2),
    rotate_degrees=st.one_of(st.just(0.0), st.floats(-45, 45)),
)


def disc(width_px: int, height_px: int, scale: int) -> Image.Image:
    """A white disc in the upper left part of a black picture, drawn at ``scale`` times the size."""
    made = Image.new("L", (width_px * scale, height_px * scale))
    reach = min(width_px, height_px) * scale
    ImageDraw.Draw(made).ellipse((0.1 * reach, 0.15 * reach, 0.75 * reach, 0.7 * reach), fill=255)
    return made


def agree(where_HW: torch.Tensor, mask_HW: torch.Tensor, reach_px: int) -> bool:
    """Whether two masks are equal but for ``reach_px`` along the second one's edges, which may lie out of view."""
    kernel = 2 * reach_px + 1
    inside = (slice(reach_px, -reach_px), slice(reach_px, -reach_px))

    def grown(x_HW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(x_HW[None].float(), kernel, 1, reach_px)[0] > 0

    wrong_HW = (where_HW & ~grown(mask_HW)) | (~where_HW & ~grown(~mask_HW))
    return not wrong_HW[inside].any()


@settings(max_examples=80, deadline=None)
@given(views_of_any_kind, st.integers(30, 90), st.integers(30, 90), st.sampled_from([1, 2, 3]))
def test_one_view_lies_on_the_picture_and_on_its_mask_alike(view: View, width: int, height: int, scale: int) -> None:
    image = saved(disc(width, height, 2).convert("RGB"), "PNG")
    mask = saved(disc(width, height, scale), "PNG")
    where = prepare.mask(mask, view)[0] > 127
    # A pixel of the coarser file, and one of what comes out.
    here = prepare.geometry.window(view, (0, 0, width, height))
    reach_px = 1 + math.ceil(view.width_px / here.width)
    for style in (Style(), Style(resample="area"), Style(linear_light=True)):
        half = 188 if style.linear_light else 127
        assert agree(picture(image, view, style)[0] > half, where, reach_px)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_view_lies_right_on_jpegs_that_are_decoded_small_and_turned(orientation: int) -> None:
    """Sides that eight does not divide: the remainder of the fraction must not move the picture."""
    upright = disc(1003, 751, 1)
    stored, exif = turned(upright, orientation)
    file, whole = saved(stored.convert("RGB"), "JPEG", exif=exif), saved(upright.convert("RGB"), "PNG")
    for view in (View(40, 40), View(40, 24, x=0.1, y=0.7, zoom=1.2, flip=True), View(30, 40, rotate_degrees=25)):
        assert prepare.decode(file, lambda *px, v=view: prepare.geometry.needed_px(v, *px)).picture.width < 600
        for style, off_px in ((Style(resample="area"), 0.08), (Style(), 0.25)):
            shown, exact = (centre(picture(half, view, style)[0]) for half in (file, whole))
            assert shown == pytest.approx(exact, abs=off_px)


def centre(x_HW: torch.Tensor) -> list[float]:
    """Where the light of a picture lies on average."""
    weight_HW = x_HW.double() / x_HW.sum()
    places = torch.meshgrid(*(torch.arange(side, dtype=torch.double) for side in x_HW.shape), indexing="ij")
    return [float((weight_HW * place).sum()) for place in places]


def test_decoding_small_loses_nothing_that_shows() -> None:
    noisy = np.asarray(smooth(1200, 900)) + np.random.default_rng(0).normal(0, 6, (900, 1200, 3))
    file = saved(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=95)
    small = picture(file, View(150, 112)).float()
    full = picture(saved(Image.open(io.BytesIO(file.data)), "PNG"), View(150, 112)).float()
    assert 10 * math.log10(255**2 / (small - full).square().mean()) > 45


def test_scaling_is_pillows_own_lanczos() -> None:
    whole = smooth(300, 200)
    wanted = whole.resize((96, 64), Image.Resampling.LANCZOS)
    shown = picture(saved(whole, "PNG"), View(96, 64)).permute(1, 2, 0).numpy()
    assert np.abs(shown.astype(int) - np.asarray(wanted)).max() <= 2


def test_linear_light_keeps_the_brightness_of_fine_texture() -> None:
    checks = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))
    file = saved(checks, "PNG")
    assert abs(int(picture(file, View(16, 16), Style(resample="area"))[0, 8, 8]) - 128) <= 1
    assert abs(int(picture(file, View(16, 16), Style(resample="area", linear_light=True))[0, 8, 8]) - 188) <= 1


@settings(max_examples=60, deadline=None)
@given(views_of_any_kind, st.integers(1, 90), st.integers(1, 90))
def test_no_corner_of_a_view_is_empty(view: View, width: int, height: int) -> None:
    white = saved(Image.new("RGB", (width, height), "white"), "PNG")
    for style in (Style(), Style(resample="area")):
        assert picture(white, view, style).min() >= 254
    assert prepare.mask(white, view).min() == 255
    assert prepare.alpha(white, view).shape == (1, view.height_px, view.width_px)


@settings(max_examples=40, deadline=None)
@given(views_of_any_kind, st.integers(8, 70), st.integers(8, 70))
def test_a_flip_is_the_mirror_image_of_the_same_view(view: View, width: int, height: int) -> None:
    file = saved(smooth(width, height), "PNG")
    plain, flipped = replace(view, flip=False), replace(view, flip=True)
    for read in (picture, prepare.mask, prepare.labels, prepare.alpha):
        assert torch.equal(read(file, flipped), read(file, plain).flip(-1))


def test_a_turn_is_counter_clockwise_and_about_the_centre() -> None:
    dot = Image.new("RGB", (101, 101), "black")
    ImageDraw.Draw(dot).ellipse((75, 45, 85, 55), fill="white")  # to the right of the centre
    shown = picture(saved(dot, "PNG"), View(50, 50, rotate_degrees=45))[0].float()
    y, x = (torch.nonzero(shown > 127).float().mean(dim=0) - 24.5).tolist()
    assert x > 5
    assert y == pytest.approx(-x, abs=0.7)


def test_numbered_labels_get_the_palettes_colours() -> None:
    numbers_HW = np.random.default_rng(0).integers(0, 20, (16, 16), dtype=np.uint8)
    shown_CHW = prepare.labels(saved(Image.fromarray(numbers_HW), "PNG"), SQUARE)
    colour_B3HW = prepare.to_float(shown_CHW)[None]
    assert torch.equal(palettes.to_labels(colour_B3HW, palettes.make(20))[0], torch.from_numpy(numbers_HW).long())


def test_labels_are_never_mixed() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    file = saved(Image.fromarray(colours), "PNG", icc_profile=rgb_profile())
    known = {tuple(colour) for colour in colours.reshape(-1, 3).tolist()}
    for view in (View(33, 17), View(7, 9, x=0.3, zoom=1.7), View(40, 40, rotate_degrees=-20, flip=True)):
        assert {tuple(colour) for colour in prepare.labels(file, view).flatten(1).T.tolist()} <= known


def test_masks_and_alpha() -> None:
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 20))
    file = saved(image, "PNG")
    assert prepare.alpha(file, SQUARE)[0, 8].tolist()[::15] == [255, 0]
    assert prepare.alpha(saved(image.convert("RGB"), "JPEG"), SQUARE).unique().tolist() == [255]
    image.paste((255, 255, 255, 255), (0, 0, 10, 20))
    assert prepare.mask(saved(image, "PNG"), SQUARE)[0, 8].tolist() == [255] * 8 + [0] * 8
    deep = saved(Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)), "PNG")
    assert prepare.mask(deep, SQUARE).unique().tolist() == [255]


# Normals and depth


def normal_map(x: float, y: float) -> Blob:
    normal = np.array([x, y, math.sqrt(1 - x * x - y * y)])
    return saved(Image.fromarray(np.full((30, 40, 3), ((normal + 1) * 127.5).round(), dtype=np.uint8)), "PNG")


def test_normals_follow_flips_and_turns() -> None:
    file = normal_map(0.6, 0.3)
    plain = prepare.normals(file, SQUARE)[:, 8, 8].float() / 127.5 - 1
    assert plain.tolist() == pytest.approx([0.6, 0.3, math.sqrt(0.55)], abs=0.01)
    flipped = prepare.normals(file, replace(SQUARE, flip=True))[:, 8, 8].float() / 127.5 - 1
    assert flipped.tolist() == pytest.approx([-0.6, 0.3, math.sqrt(0.55)], abs=0.01)
    quarter = prepare.normals(file, replace(SQUARE, rotate_degrees=90))[:, 8, 8].float() / 127.5 - 1
    assert quarter.tolist() == pytest.approx([-0.3, 0.6, math.sqrt(0.55)], abs=0.01)


def test_normals_stay_of_length_one_and_holes_stay_holes() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal((0, 0, 2), 1, (40, 40, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    codes = ((normals + 1) * 127.5).round().astype(np.uint8)
    codes[:, 20:] = 0
    shown = prepare.normals(saved(Image.fromarray(codes), "PNG"), View(10, 10))
    lengths = (shown.float() / 127.5 - 1).norm(dim=0)
    assert (lengths[:, :5] - 1).abs().max() < 0.02
    assert shown[:, :, 5:].unique().tolist() == [0]


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_distances_become_nearness_and_the_unknown_stays_dark(kind: str) -> None:
    numbers = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind]
    distance = np.full((8, 8), 1000, dtype=numbers)
    distance[:, :4] = 3000
    distance[0, :] = 2000
    distance[7, :] = 0
    if kind == "F":
        distance[6, :4], distance[6, 4:] = np.nan, np.inf
    shown = prepare.depth(saved(Image.fromarray(distance), "PNG" if kind == "I;16" else "TIFF"), View(8, 8))
    assert shown[0, 3].tolist() == [0] * 4 + [255] * 4
    assert shown[0, 0].tolist() == [128] * 8
    assert shown[0, 7].tolist() == [0] * 8
    assert torch.equal(shown[0], shown[1]) and torch.equal(shown[0], shown[2])
    if kind == "F":
        assert shown[0, 6].tolist() == [0] * 8


def test_eight_bits_are_nearness_already_and_colour_is_no_depth() -> None:
    ramp = np.tile(np.arange(50, 114, 4, dtype=np.uint8), (16, 1))
    shown = prepare.depth(saved(Image.fromarray(ramp), "PNG"), SQUARE)[0, 0]
    assert shown.tolist() == [round(255 * i / 15) for i in range(16)]
    assert torch.equal(prepare.depth(saved(Image.fromarray(ramp).convert("RGB"), "PNG"), SQUARE)[0, 0], shown)
    with pytest.raises(DataError, match="in colour"):
        prepare.depth(saved(smooth(16, 16), "PNG"), SQUARE)
    assert prepare.depth(saved(flat("F", math.nan), "TIFF"), SQUARE).unique().tolist() == [0]


# Style


def test_jitter_and_grey() -> None:
    file = saved(flat("RGB", (200, 100, 50)), "PNG")

    def shown(grey: bool = False, **jitter: float) -> list[int]:
        plain = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | jitter
        view = replace(SQUARE, jitter=tuple(plain.values()))  # type: ignore[arg-type]
        return picture(file, view, Style(grey=grey))[:, 0, 0].tolist()

    assert shown() == [200, 100, 50]
    assert shown(brightness=0.5) == [100, 50, 25]
    assert shown(saturation=0.0) == [124, 124, 124]  # 0.299 R + 0.587 G + 0.114 B
    assert shown(grey=True) == [124, 124, 124]
    assert np.allclose(shown(hue=1 / 3), (50, 200, 100), atol=6)
    assert shown(contrast=0.0) == [124, 124, 124]
    assert prepare.labels(file, replace(SQUARE, jitter=(0.5, 1, 1, 0)))[:, 0, 0].tolist() == [200, 100, 50]


def test_texts_tell_styles_and_views_apart() -> None:
    styles = [Style(), Style(background=(0, 0, 0)), Style(grey=True), Style(resample="area"), Style(linear_light=True)]
    assert len({style.text() for style in styles}) == len(styles)
    views = [View(8, 8), View(8, 9), View(8, 8, flip=True), View(8, 8, zoom=1.5), View(8, 8, jitter=(1, 1, 1, 0.1))]
    assert len({view.text() for view in views}) == len(views)
    assert View(8, 8).text() == View(8, 8, x=0.5).text()


def test_load_takes_the_centre_square() -> None:
    file = saved(smooth(48, 32), "PNG")
    assert torch.equal(load_uint8(file, 32), torch.from_numpy(np.array(smooth(48, 32))[:, 8:40]).permute(2, 0, 1))
    assert load(file, 16).shape == (3, 16, 16)
    assert load(file, 16).abs().max() <= 1
