"""No picture ever meets another's caption, in whatever order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import pairs_folder

from limner.data.cache import Cache
from limner.data.load import Loader, Recipe, Schedule, batches
from limner.data.prepare import load_uint8
from limner.data.read import read
from limner.errors import DataError
from limner.types import Cond


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "pairs")


def test_halves_of_different_shape_are_refused(pairs: Path) -> None:
    Image.new("RGB", (32, 16)).save(pairs / "source" / "disc05.png")
    with pytest.raises(DataError, match=r"disc05\.png is 32 x 16 pixels and its other half 16 x 16"):
        list(_loader(pairs).encode_all())


def _loader(pairs: Path, seed: int = 0) -> Loader:
    """A cache whose 'latents' are the pictures themselves, and whose 'text' is the caption's number."""

    def encode_text(captions: list[str]) -> Cond:
        return Cond(torch.tensor([[[float(caption.removeprefix("disc "))]] for caption in captions]))

    cache = Cache(lambda x: (x, torch.zeros_like(x)), encode_text)  # type: ignore[arg-type]
    return Loader(read(pairs), Recipe(16, 16, flip=True), cache, seed, torch.device("cpu"))


def test_no_picture_meets_anothers_caption_or_condition(pairs: Path) -> None:
    loader = _loader(pairs)
    list(loader.encode_all())
    for batch in batches(loader, Schedule(batch_size=5, accumulate=3), 0, 8):
        for i, caption in enumerate(batch.captions):
            number = int(caption.removeprefix("disc "))
            assert batch.text.tokens_BLD[i].item() == number
            truth = load_uint8(pairs / "target" / f"disc{number:02d}.png", 16).float() / 127.5 - 1
            sketch = load_uint8(pairs / "source" / f"disc{number:02d}.png", 16).float() / 127.5 - 1
            assert batch.condition_BCHW is not None
            flipped = not torch.equal(batch.mean_BCHW[i], truth)
            assert torch.equal(batch.mean_BCHW[i], truth.flip(-1) if flipped else truth)
            assert torch.equal(batch.condition_BCHW[i], sketch.flip(-1) if flipped else sketch)


def test_an_epoch_sees_every_picture_once_and_another_seed_another_order(pairs: Path) -> None:
    def order(seed: int) -> list[str]:
        return [key for batch in batches(_loader(pairs, seed), Schedule(4), 0, 3) for key in batch.keys]

    assert sorted(order(0)) == [f"disc{i:02d}" for i in range(12)]
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_processes_and_accumulation_share_a_step_out_without_changing_it(pairs: Path) -> None:
    whole = next(iter(batches(_loader(pairs), Schedule(8), 2, 3)))
    for processes, accumulate in ((2, 1), (1, 4), (2, 2)):
        parts = []
        for micro in range(accumulate):
            for process in range(processes):
                schedule = Schedule(8 // processes // accumulate, accumulate, processes, process)
                parts.append(list(batches(_loader(pairs), schedule, 2, 3))[micro])
        assert [key for part in parts for key in part.keys] == whole.keys
        assert torch.equal(torch.cat([part.mean_BCHW for part in parts]), whole.mean_BCHW)
        noise = [part.dice.normal(2, 2) for part in parts]
        again = next(iter(batches(_loader(pairs), Schedule(8), 2, 3)))
        assert torch.equal(torch.cat(noise), again.dice.normal(2, 2))
