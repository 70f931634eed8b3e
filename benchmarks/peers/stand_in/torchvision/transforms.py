"""Transforms of PIL pictures, by the names and meanings that torchvision gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Compose:
    """One after the other."""

    def __init__(self, parts: Sequence[Callable[[Any], Any]]) -> None:
        self.parts = parts

    def __call__(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


class Resize:
    """The short side to ``side_px``."""

    def __init__(self, side_px: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        self.side_px, self.filter = side_px, Image.Resampling[interpolation.name]

    def __call__(self, picture: Image.Image) -> Image.Image:
        scale = self.side_px / min(picture.size)
        size = tuple(self.side_px if side == min(picture.size) else int(side * scale) for side in picture.size)
        return picture if size == picture.size else picture.resize(size, self.filter)


class RandomCrop:
    """A square window of ``side_px`` at a random place."""

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px

    def place(self, room: int) -> int:
        return int(torch.randint(0, room + 1, ()))

    def __call__(self, picture: Image.Image) -> Image.Image:
        x, y = (self.place(side - self.side_px) for side in picture.size)
        return picture.crop((x, y, x + self.side_px, y + self.side_px))


class CenterCrop(RandomCrop):
    """The one in the middle."""

    def place(self, room: int) -> int:
        return room // 2


class RandomHorizontalFlip:
    """Mirrored, every other time."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else picture


class Lambda:
    """Any function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, x: Any) -> Any:
        return self.function(x)


class ToTensor:
    """Bytes HWC to float CHW in [0, 1]."""

    def __call__(self, picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    """(x - mean) / std, of one mean and std for all channels."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        (self.mean,), (self.std,) = mean, std

    def __call__(self, x: Tensor) -> Tensor:
        return x.sub(self.mean).div(self.std)
