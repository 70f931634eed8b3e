"""Likeness sees what the eye sees: constructed cases rank as a person would rank them."""

import io
import itertools
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from PIL import Image

from limner.data.builtin.fluent import ASSETS, fluent
from limner.evaluate import features, translation
from limner.evaluate.metrics.likeness import likeness
from limner.evaluate.metrics.silhouette import picture_silhouette
from limner.priors.mini import mini
from limner.sampling.sampler import step

NUM, SIDE_PX = 16, 128


def opened(archive: zipfile.ZipFile, name: str) -> torch.Tensor:
    image = Image.open(io.BytesIO(archive.read(name))).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def held_out():
    """Captions, sketches and renders of held-out concepts, uint8 (N, 3, 128, 128)."""
    ids = [sample.meta["id"] for sample in fluent() if sample.split == "test"][::8][:NUM]
    captions = [sample.caption for sample in fluent() if sample.meta["id"] in ids]
    with zipfile.ZipFile(ASSETS / "fluent.zip") as archive:
        sketch, truth = (
            torch.stack([opened(archive, name.format(one)) for one in ids])
            for name in ("source/{}.png", "target/{}.webp")
        )
    return captions, sketch, truth


@torch.no_grad()
def redrawn(captions: list[str], truth_NCHW: torch.Tensor, start: float = 0.3, num_steps: int = 8) -> torch.Tensor:
    """What the built-in prior makes of the truth under noise: its own hand, the right thing."""
    prior = mini()
    x_NCHW = F.interpolate(truth_NCHW.float(), (prior.image_px, prior.image_px), mode="area") / 127.5 - 1
    z_NCHW, _ = prior.encode_image(x_NCHW)
    noise_NCHW = torch.randn(z_NCHW.shape, generator=torch.Generator().manual_seed(0))
    times, cond = torch.linspace(start, 0, num_steps + 1), prior.encode_text(captions)
    z_NCHW = prior.path.a(times[0]) * z_NCHW + prior.path.s(times[0]) * noise_NCHW
    for t, t_next in itertools.pairwise(times):
        out_NCHW = prior.predict(z_NCHW, t.expand(len(z_NCHW)), cond)
        z_NCHW, _, _ = step(prior.path, z_NCHW, out_NCHW, t[None], t_next[None])
    return ((prior.decode(z_NCHW) + 1) * 127.5).round().clamp(0, 255).byte()


def test_truth_prior_blur_confetti_noise(held_out):
    captions, sketch, truth = held_out
    draw = {"generator": torch.Generator().manual_seed(0), "dtype": torch.uint8}
    inside = picture_silhouette(truth)[:, None]
    dots = torch.randint(0, 256, (NUM, 3, SIDE_PX // 4, SIDE_PX // 4), **draw)
    cases = {
        "truth": truth,
        "prior": redrawn(captions, truth),
        "blurred truth": gaussian_blur2d(truth.float(), (19, 19), (3.0, 3.0)).round().byte(),
        "confetti": torch.where(inside, dots.repeat_interleave(4, 2).repeat_interleave(4, 3), 255),
        "noise": torch.randint(0, 256, truth.shape, **draw),
    }
    eye = features.eye()
    scores = {name: translation.score(sketch, truth, made[:, None], eye) for name, made in cases.items()}
    liked = [score["likeness"] for score in scores.values()]
    assert all(better > worse + 0.05 for better, worse in itertools.pairwise(liked)), liked
    assert liked[0] == pytest.approx(1, abs=1e-4)
    assert liked[-1] < 0
    # What it is for: by edges the confetti is better than the truth.
    assert scores["confetti"]["edge_f1"] > scores["truth"]["edge_f1"]


def test_the_ends_of_the_scale():
    truth_ND = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(likeness(3 * truth_ND[:, None], truth_ND), torch.ones(9, 1))
    others = torch.stack([truth_ND.roll(k, 0) for k in range(1, 9)], dim=1)
    assert torch.allclose(likeness(others, truth_ND).mean(1), torch.zeros(9), atol=1e-6)
