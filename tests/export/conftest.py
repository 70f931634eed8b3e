"""One folder of every family, made once."""

from pathlib import Path

import pytest
import tiny
import tiny_families


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a folder that the stock pipeline opens."""
    root = tmp_path_factory.mktemp("families")
    named = {"flux2": "flux2_klein"}
    found = {"sd": tiny.prior_folder(root / "sd", "eps")}
    for family in ("sdxl", "sd3", "flux", "flux2", "z_image", "qwen_image"):
        found[family] = tiny_families.family_folder(root / family, named.get(family, family))
    return found
