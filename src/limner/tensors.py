"""Tensors in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor


def save(tensors: Mapping[str, Tensor], file: Path, fields: Mapping[str, str] | None = None) -> None:
    """Write a file with ``fields`` in its header, which others may read if they may read new files of this process.

    safetensors itself makes it readable by its owner alone: of no use in a shared cache, or as an export.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    safetensors.torch.save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file, dict(fields) if fields else None
    )
    file.chmod(mode)
