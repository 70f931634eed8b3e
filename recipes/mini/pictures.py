"""Pictures for training the mini prior: reading the arrays of `build_data.py`, moving them about, giving them a ground.

Alpha is straight in the files and premultiplied here, so that moving and compositing leave no halo.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

STYLES = ("3d", "flat", "noto", "line")
# Light and middling grounds with everyday names: the captions teach them, and a tester can check them.
COLOURS = {
    "light blue": (173, 216, 240),
    "blue": (60, 110, 220),
    "dark blue": (25, 40, 95),
    "light green": (178, 230, 170),
    "green": (60, 160, 75),
    "yellow": (250, 220, 80),
    "orange": (245, 150, 55),
    "red": (215, 55, 50),
    "pink": (250, 185, 205),
    "purple": (140, 85, 190),
    "brown": (130, 90, 60),
    "grey": (150, 150, 150),
    "beige": (240, 225, 195),
    "black": (20, 20, 20),
}


def load(scratch: Path) -> tuple[torch.Tensor, list[dict]]:
    """Premultiplied uint8 pictures (styles, concepts, 4, 64, 64), and the concepts' rows."""
    pictures = premultiply(np.load(scratch / "pictures.npy"))
    concepts = json.loads((scratch / "concepts.json").read_text())
    return torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).contiguous(), concepts


def premultiply(uint8_NHW4: np.ndarray) -> np.ndarray:
    """Straight alpha to premultiplied, in place."""
    alpha = uint8_NHW4[..., 3:].astype(np.uint16)
    uint8_NHW4[..., :3] = (uint8_NHW4[..., :3] * alpha + 127) // 255
    return uint8_NHW4


def in_split(concepts: list[dict], *splits: str) -> torch.Tensor:
    return torch.tensor([n for n, c in enumerate(concepts) if c["split"] in splits])


def jitter(x_BCHW: torch.Tensor, scale: tuple[float, float] = (0.7, 1.05), shift: float = 0.15) -> torch.Tensor:
    """Random flip, size and place of premultiplied RGBA; `shift` is in half sides."""
    B = len(x_BCHW)
    size = torch.empty(B).uniform_(*scale)
    flip = torch.where(torch.rand(B) < 0.5, -1.0, 1.0)
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = flip / size, 1 / size
    theta[:, :, 2] = torch.empty(B, 2).uniform_(-shift, shift)
    grid = F.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", align_corners=False)


def hue_turn(angle: float) -> torch.Tensor:
    """The 3 x 3 matrix on RGB that turns hues by an angle in radians about the grey axis of YIQ; luma stays.

    It is linear, so it commutes with premultiplying.
    """
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.linalg.inv(to_yiq) @ torch.tensor([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ to_yiq


def apply_turn(x_BCHW: torch.Tensor, turn_B33: torch.Tensor) -> torch.Tensor:
    """Premultiplied RGBA with its colours turned by a matrix, kept in range."""
    rgb_BCHW = torch.einsum("bij,bjhw->bihw", turn_B33.expand(len(x_BCHW), 3, 3), x_BCHW[:, :3])
    return torch.cat([torch.minimum(rgb_BCHW.clamp(min=0), x_BCHW[:, 3:]), x_BCHW[:, 3:]], dim=1)


def straight(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Premultiplied RGBA in 0..1 -> straight uint8 RGBA, channels last."""
    rgb_BCHW = x_BCHW[:, :3] / x_BCHW[:, 3:].clamp(min=1e-3)
    return (torch.cat([rgb_BCHW, x_BCHW[:, 3:]], 1).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)


def random_ground(B: int, size_px: int, white: float = 0.6) -> torch.Tensor:
    """RGB in 0..1: white with this probability, else one colour or a straight gradient between two."""
    first_B3, second_B3 = torch.rand(2, B, 3)
    angle = torch.rand(B, 1, 1) * 2 * torch.pi
    axis = torch.linspace(-0.5, 0.5, size_px)
    ramp_BHW = (torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None] + 0.5).clamp(0, 1)
    kind = torch.rand(B, 1, 1)
    ramp_BHW = torch.where(kind < white + (1 - white) / 2, torch.zeros_like(ramp_BHW), ramp_BHW)
    first_B3[kind[:, 0, 0] < white] = 1.0
    return torch.lerp(first_B3[:, :, None, None], second_B3[:, :, None, None], ramp_BHW[:, None])


def over(x_BCHW: torch.Tensor, ground_BCHW: torch.Tensor) -> torch.Tensor:
    """Premultiplied RGBA in 0..1 over a ground -> RGB in -1..1."""
    return (x_BCHW[:, :3] + ground_BCHW * (1 - x_BCHW[:, 3:])).clamp(0, 1) * 2 - 1


def sheet(x_BCHW: torch.Tensor, columns: int, path: Path, zoom: int = 2) -> None:
    """Saves pictures in -1..1 as one contact sheet."""
    from PIL import Image

    rows = [torch.cat(list(row), dim=2) for row in x_BCHW.split(columns)]
    rows[-1] = F.pad(rows[-1], (0, rows[0].shape[2] - rows[-1].shape[2]))
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.NEAREST).save(path)
