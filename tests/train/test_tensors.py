"""Files of tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from limner.tensors import save


def test_who_may_read_a_new_file_may_read_tensors(tmp_path: Path) -> None:
    plain, file = tmp_path / "plain", tmp_path / "a.safetensors"
    plain.touch()
    weight = torch.arange(6.0).view(2, 3).T  # not contiguous
    save({"w": weight}, file, {"said": "so"})
    assert file.stat().st_mode == plain.stat().st_mode
    with safe_open(file, "pt") as read:
        assert torch.equal(read.get_tensor("w"), weight)
        assert read.metadata() == {"said": "so"}
    save({"w": weight + 1}, file)
    assert file.stat().st_mode == plain.stat().st_mode
