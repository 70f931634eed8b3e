"""Tensors, pictures and files: the last centimetre between a sampler and an eye.

Inside limner a picture is a float tensor in [-1, 1]; for metrics and files it is uint8, (B, 3, H, W) or a PIL image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

PADDING_PX = 4
TITLE_PX = 20


def to_uint8(x_BCHW: Tensor) -> Tensor:
    """Pictures in [-1, 1] (clamped) as uint8, rounded, on the CPU; the inverse of ``data.prepare.to_float``."""
    return ((x_BCHW.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(uint8_BCHW: Tensor) -> list[Image.Image]:
    """One RGB picture a row."""
    return [Image.fromarray(np.ascontiguousarray(row.permute(1, 2, 0).cpu().numpy())) for row in uint8_BCHW]


def contact_sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Rows of pictures, each fitted to the size of the first, with a title above each column ('' or none: no title)."""
    width, height = rows[0][0].size
    top = TITLE_PX if any(titles) else 0
    columns = max(len(row) for row in rows)
    size = (columns * (width + PADDING_PX) + PADDING_PX, len(rows) * (height + PADDING_PX) + PADDING_PX + top)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for x, title in enumerate(titles):
        draw.text((PADDING_PX + x * (width + PADDING_PX), PADDING_PX), title, fill="black", font=font)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            place = (PADDING_PX + x * (width + PADDING_PX), top + PADDING_PX + y * (height + PADDING_PX))
            sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), place)
    return sheet


def save_png(image: Image.Image, file: Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk 'limner' says, as JSON, how it was made (prompt, seed, steps ...).

    Atomic: ``file`` is either what it was before or the whole new picture.
    """
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt("limner", json.dumps(dict(settings), ensure_ascii=False, default=str))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    image.save(part, format="PNG", pnginfo=chunk)
    part.replace(file)
