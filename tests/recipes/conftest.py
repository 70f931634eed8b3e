"""The recipe's programs are no package: they import one another by name, from their own folder."""

from pathlib import Path

import pytest
from tiny_scenes import write_arrays

RECIPE = Path(__file__).parents[2] / "recipes" / "mini"


@pytest.fixture(scope="session", autouse=True)
def _programs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield


@pytest.fixture(scope="session")
def scratch(_programs, tmp_path_factory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("scratch"))
