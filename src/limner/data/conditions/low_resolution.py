"""Low resolution: as a small, blurred, noisy JPEG would look enlarged (BSR degradation, Zhang et al. 2021)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from limner.errors import ConfigError

Chance = np.random.Generator


def low_resolution(
    image_BCHW: Tensor,
    *,
    seed: int = 0,
    factor: int = 4,
    blur_px: float = 2.0,
    noise: float = 0.06,
    quality: int = 40,
) -> Tensor:
    """Pictures in [-1, 1] -> what is left of them after blur, reduction, noise and JPEG, at the size they had.

    The four come in a random order, each with random strength. ``seed`` decides; every row of a batch meets the same.

    Args:
        factor: how many times smaller the picture is in between.
        blur_px: the widest blur, sigma in pixels of the full size; 0 for none.
        noise: the strongest noise, standard deviation on a scale where black to white is 1; 0 for none.
        quality: the worst JPEG quality, up to 95; 100 for no JPEG.

    Source: Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution", 2021.
    """
    if factor < 1 or blur_px < 0 or noise < 0 or not 1 <= quality <= 100:
        raise ConfigError(
            "low_resolution needs factor of at least 1, blur_px and noise of at least 0, quality from 1 to 100.",
            "for example --factor 4 --quality 60",
        )
    rows = [_degrade(row, np.random.default_rng(seed), factor, blur_px, noise, quality) for row in image_BCHW.split(1)]
    return torch.cat(rows)


def _degrade(image_1CHW: Tensor, chance: Chance, factor: int, blur_px: float, noise: float, quality: int) -> Tensor:
    height_px, width_px = image_1CHW.shape[-2:]
    small = max(1, height_px // factor), max(1, width_px // factor)

    def blur(x: Tensor) -> Tensor:
        shrunk = x.shape[-1] / width_px  # after the reduction the same blur is fewer pixels
        return _blur(x, chance, blur_px * shrunk) if blur_px else x

    def reduce(x: Tensor) -> Tensor:
        return _resize(x, small, chance.choice(["area", "bilinear", "bicubic"]))

    def add_noise(x: Tensor) -> Tensor:
        grain = torch.from_numpy(chance.standard_normal(x.shape, np.float32)).to(x)
        return x + 2 * noise * chance.random() * grain

    def jpeg(x: Tensor) -> Tensor:
        return _jpeg(x, int(chance.integers(min(quality, 95), 95, endpoint=True))) if quality < 100 else x

    steps: list[Callable[[Tensor], Tensor]] = [blur, reduce, add_noise, jpeg]
    for number in chance.permutation(len(steps)):
        image_1CHW = steps[number](image_1CHW)
    return _resize(image_1CHW, (height_px, width_px), "bicubic").clamp(-1, 1)


def _resize(x_1CHW: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == "area":
        return F.interpolate(x_1CHW, size, mode="area")
    return F.interpolate(x_1CHW, size, mode=mode, antialias=True)


def _blur(x_1CHW: Tensor, chance: Chance, widest_px: float) -> Tensor:
    """A Gaussian of two random widths, turned by a random angle."""
    narrow, wide = widest_px * (0.1 + 0.9 * chance.random(2))
    angle = math.pi * chance.random()
    radius = math.ceil(3 * max(narrow, wide))
    y, x = torch.meshgrid(*[torch.arange(-radius, radius + 1, dtype=torch.float32)] * 2, indexing="ij")
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    kernel = torch.exp(-((u / narrow) ** 2 + (v / wide) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(x_1CHW).expand(x_1CHW.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x_1CHW, [radius] * 4, mode="replicate"), kernel, groups=x_1CHW.shape[1])


def _jpeg(x_1CHW: Tensor, quality: int) -> Tensor:
    """Through the real codec, and back."""
    uint8_HWC = (x_1CHW[0].clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(uint8_HWC).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).unsqueeze(0)
    return decoded.to(x_1CHW) / 127.5 - 1
