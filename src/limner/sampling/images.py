"""Tensors, pictures and files: the last centimetre between a sampler and an eye.

Inside limner a picture is a float tensor in [-1, 1]; for metrics and files it is uint8, (B, 3, H, W) or a PIL image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

PADDING_PX = 4
TITLE_PX = 20


def to_pil(uint8_BCHW: Tensor) -> list[Image.Image]:
    """One RGB picture a row."""
    return [Image.fromarray(np.ascontiguousarray(row.permute(1, 2, 0).cpu().numpy())) for row in uint8_BCHW]


def contact_sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], blocks: int = 1) -> Image.Image:
    """Rows of pictures, each fitted to the size of the first, with a title above each column ('' or none: no title).

    With ``blocks`` above 1 the rows run down that many blocks, one beside the other, each with its titles.
    """
    width, height = rows[0][0].size
    across, down = width + PADDING_PX, height + PADDING_PX
    top = PADDING_PX + (TITLE_PX if any(titles) else 0)
    lines = -(-len(rows) // blocks)
    block_px = max(len(row) for row in rows) * across + 2 * PADDING_PX
    sheet = Image.new("RGB", (blocks * block_px - PADDING_PX, top + lines * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, row in enumerate(rows):
        left, line = PADDING_PX + i // lines * block_px, i % lines
        for x, picture in enumerate(row):
            place = (left + x * across, top + line * down)
            sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), place)
        for x, title in enumerate(titles if line == 0 else []):
            draw.text((left + x * across, PADDING_PX), title, fill="black", font=font)
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
