"""Label maps and their colours: a palette of colours that differ, and the way from colour to label and back."""

from __future__ import annotations

import functools

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.errors import ConfigError, DataError

LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)
MAX_COLOURS = len(LEVELS) ** 3


@functools.cache
def make(num: int) -> Tensor:
    """``num`` colours, uint8 N3, black first: each next one is as unlike all before it as can be (CIE Lab, 8 levels).

    The first k of a longer palette are the palette of k, so that labels added later change no colour.

    Raises:
        ConfigError: more than 512 colours, or none.
    """
    if not 1 <= num <= MAX_COLOURS:
        raise ConfigError(f"a palette cannot have {num} colours.", f"give 1 to {MAX_COLOURS}")
    levels = torch.tensor(LEVELS)
    colours_M3 = torch.cartesian_prod(levels, levels, levels)
    lab_M3 = kornia.color.rgb_to_lab(colours_M3.T.reshape(1, 3, 1, -1) / 255)[0, :, 0].T
    chosen = [0]
    distance_M = (lab_M3 - lab_M3[0]).norm(dim=1)
    while len(chosen) < num:
        chosen.append(int(distance_M.argmax()))
        distance_M = torch.minimum(distance_M, (lab_M3 - lab_M3[chosen[-1]]).norm(dim=1))
    return colours_M3[chosen].byte()


def to_labels(colour_B3HW: Tensor, palette_N3: Tensor, tolerance: int = 8) -> Tensor:
    """Label maps in colour, [-1, 1] -> the number of each pixel's colour in the palette, int64 BHW.

    Args:
        palette_N3: uint8.
        tolerance: how far each channel may be from the palette's colour, of 255: what a lossy file does to it.

    Raises:
        DataError: pixels whose colour is not in the palette; their number and the commonest of them are named.
    """
    uint8_P3 = (colour_B3HW.clamp(-1, 1) * 127.5 + 127.5).round().long().permute(0, 2, 3, 1).reshape(-1, 3)
    # A label map has few colours: each is looked up once, not each pixel.
    seen_K3, which_P, counts_K = uint8_P3.unique(dim=0, return_inverse=True, return_counts=True)
    far_KN = (seen_K3[:, None] - palette_N3.to(seen_K3)[None]).abs().amax(dim=2)
    distance_K, label_K = far_KN.min(dim=1)
    strange_K = distance_K > tolerance
    if strange_K.any():
        num, total = int(counts_K[strange_K].sum()), len(uint8_P3)
        commonest = seen_K3[strange_K][counts_K[strange_K].argmax()].tolist()
        raise DataError(
            f"{num} of {total} pixels have a colour that is not in the palette, most often #{bytes(commonest).hex()}.",
            "save label maps as PNG, scale them without smoothing, and give the palette that they were painted with",
        )
    batch, _, height_px, width_px = colour_B3HW.shape
    return label_K[which_P].reshape(batch, height_px, width_px)


def one_hot(labels_BHW: Tensor, num: int) -> Tensor:
    """Labels 0 to num - 1 -> BNHW, 1 in the plane of the pixel's label and 0 elsewhere."""
    return F.one_hot(labels_BHW, num).permute(0, 3, 1, 2).float()


def to_colour(labels_BHW: Tensor, palette_N3: Tensor) -> Tensor:
    """Labels -> B3HW in [-1, 1], each in its colour; inverse to ``to_labels``."""
    colour_BHW3 = palette_N3.to(labels_BHW.device)[labels_BHW.long()]
    return colour_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
