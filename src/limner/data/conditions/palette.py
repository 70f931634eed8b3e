"""Palette: the picture's main colours as upright bands, the commonest at the left."""

from __future__ import annotations

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.errors import ConfigError

SIDE_PX = 64
"""Colours are counted on a picture no larger than this: enough for shares of a tenth of a per cent."""


def palette(image_BCHW: Tensor, *, colours: int = 5) -> Tensor:
    """Pictures in [-1, 1] -> their main colours as bands of equal width over the whole height, commonest first.

    A picture with fewer different colours gets fewer bands.

    Args:
        colours: how many.

    Source: Lloyd's k-means in CIE Lab, started from the mean colour and then from whichever colour is furthest from
    all that were chosen: no chance in it.
    """
    if colours < 1:
        raise ConfigError(f"palette cannot have {colours} colours.", "give 1 or more")
    height_px, width_px = image_BCHW.shape[-2:]
    size = min(height_px, SIDE_PX), min(width_px, SIDE_PX)
    small = F.interpolate(image_BCHW.float(), size, mode="area").clamp(-1, 1)
    rows = []
    for image_CHW in small:
        found_C1N = _main(image_CHW.unsqueeze(0) * 0.5 + 0.5, colours)
        band = torch.arange(width_px, device=image_BCHW.device) * found_C1N.shape[-1] // width_px
        rows.append(found_C1N[..., band].expand(3, height_px, width_px))
    return torch.stack(rows).to(image_BCHW) * 2 - 1


def _main(image_1CHW: Tensor, num: int) -> Tensor:
    """The main colours of a picture in [0, 1], commonest first; at most ``num``, C1N."""
    points_PC = kornia.color.rgb_to_lab(image_1CHW).flatten(2)[0].T.double()
    centres_NC = points_PC.mean(dim=0, keepdim=True)
    while len(centres_NC) <= num:  # one more than asked for: the mean only starts the choice
        distance_P = torch.cdist(points_PC, centres_NC).amin(dim=1)
        if distance_P.max() < 1:  # less than the eye can tell
            break
        centres_NC = torch.cat([centres_NC, points_PC[distance_P.argmax()].unsqueeze(0)])
    centres_NC = centres_NC[1:] if len(centres_NC) > 1 else centres_NC
    for _ in range(30):
        nearest_P = torch.cdist(points_PC, centres_NC).argmin(dim=1)
        counts_N = torch.bincount(nearest_P, minlength=len(centres_NC))
        sums_NC = torch.zeros_like(centres_NC).index_add_(0, nearest_P, points_PC)
        moved_NC = torch.where(counts_N[:, None] > 0, sums_NC / counts_N[:, None].clamp(min=1), centres_NC)
        if torch.equal(moved_NC, centres_NC):
            break
        centres_NC = moved_NC
    order = counts_N.argsort(descending=True, stable=True)
    order = order[counts_N[order] > 0]
    return kornia.color.lab_to_rgb(centres_NC[order].T.float().reshape(1, 3, 1, -1))[0].clamp(0, 1)
