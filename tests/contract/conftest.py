"""The energy meter takes two seconds to start; here it is left out. The command line's tests run with it."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_meter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limner.run.training.metered", lambda file, what: nullcontext())
        patch.setattr("limner.run.training.find_meters", lambda: None)
        yield
