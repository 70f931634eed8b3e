"""Batches: no picture ever meets another's caption, condition or mask, whatever is shuffled, cut, sorted or resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import pairs_folder

from limner.config import TranslateConfig
from limner.data import pixels, prepare
from limner.data.cache import key as cache_key
from limner.data.encode import Encoder
from limner.data.load import Loader, Schedule, batches
from limner.data.order import Streamed
from limner.data.pixels import Recipe
from limner.data.read import read, stream
from limner.data.views import Augment
from limner.errors import DataError
from limner.priors.mini import mini
from limner.run.data import load_splits, needs_of, recipe_of, refuse
from limner.types import Batch, Cond

NUM = 24
CPU = torch.device("cpu")


def encoder(maker: str = "test") -> Encoder:
    """'Latents' are the pictures themselves, and 'text' is the number in the caption."""

    def encode_text(captions: Sequence[str]) -> Cond:
        return Cond(torch.tensor([[[float(caption.rpartition(" ")[2])]] for caption in captions]))

    return Encoder(lambda x: (x, torch.zeros_like(x)), encode_text, maker, CPU)


def shade(number: int) -> tuple[int, int, int]:
    """A colour for each number, all well apart."""
    return 10 * number, 255 - 10 * number, 40


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """Triples whose picture, source, mask and caption all say which they are; of all shapes."""
    folder, rng = tmp_path / "coloured", np.random.default_rng(0)
    rows = []
    for half in ("target", "source", "mask"):
        (folder / half).mkdir(parents=True)
    for i in range(NUM):
        size = tuple(int(side) for side in rng.integers(24, 80, size=2))
        Image.new("RGB", size, shade(i)).save(folder / "target" / f"{i:02d}.png")
        Image.new("RGB", size, shade(NUM - 1 - i)).save(folder / "source" / f"{i:02d}.png")
        Image.new("L", size, 10 * i).save(folder / "mask" / f"{i:02d}.png")
        rows.append({"file_name": f"target/{i:02d}.png", "source": f"source/{i:02d}.png", "caption": f"number {i}"})
        rows[-1]["mask"] = f"mask/{i:02d}.png"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def agree(batch: Batch) -> int:
    """Checks that the four parts of each row are of one record; how many rows."""
    assert batch.condition_BCHW is not None and batch.weight_B1HW is not None
    for i, caption in enumerate(batch.captions):
        number = int(caption.rpartition(" ")[2])
        assert batch.keys[i].endswith(f"{number:02d}.png")
        assert batch.text.tokens_BLD[i].item() == number
        for picture, wanted in ((batch.mean_BCHW[i], number), (batch.condition_BCHW[i], NUM - 1 - number)):
            want = prepare.to_float(torch.tensor(shade(wanted))).view(3, 1, 1)
            assert torch.allclose(picture, want.expand_as(picture), atol=0.02)
        assert torch.allclose(batch.weight_B1HW[i], torch.tensor(10 * number / 255), atol=0.01)
    return len(batch)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"crop": "random", "rotate_degrees": 10.0},
        {"aspect": "buckets"},
        {"aspect": "buckets", "resolutions_px": (16, 32), "crop": "random", "views": 3},
        {"resolutions_px": (16, 24)},
        {"stream": True},
        {"crop": "subject", "fraction": 0.6},
    ],
    ids=repr,
)
def test_no_picture_meets_anothers_caption_condition_or_mask(coloured: Path, how: dict[str, Any]) -> None:
    name = str(coloured / "metadata.jsonl") if how.get("stream") else str(coloured)
    if how.get("stream"):  # of which the first 32 are held out: the same pictures again, under other names
        rows = [json.loads(line) for line in (coloured / "metadata.jsonl").read_text().splitlines()]
        for i in range(2):
            for row in rows[:NUM]:
                copy = row["file_name"].replace("target/", f"again{i}-")
                (coloured / copy).write_bytes((coloured / row["file_name"]).read_bytes())
                rows.append({**row, "file_name": copy})
        (coloured / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = TranslateConfig(method="concat", data=name, masked_loss="mask", unmasked_weight=0.0, **how)
    training, _, _, groups = load_splits(config, image_px=16, multiple_px=8)
    for _ in range(2):  # the second time everything comes from the cache
        recipe = recipe_of(config, 16, 16)
        loader = Loader(training, recipe, encoder(repr(how)), 0, CPU, groups)
        if not config.stream:
            assert list(loader.encode_all())[-1] == len(loader)
        seen: set[str] = set()
        start = 0 if not config.stream else 40  # a stream is not read backwards
        for batch in batches(loader, Schedule(batch_size=5, accumulate=2), start, start + 20):
            assert agree(batch) == 5
            seen.update(batch.keys)
            assert batch.mean_BCHW.shape[-1] % 8 == batch.mean_BCHW.shape[-2] % 8 == 0
        if config.stream:
            training = Streamed(stream(name), 0)
        else:
            assert len(seen) == len(training)
        start = 0


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "pairs")


def loader_of(pairs: Path, seed: int = 0, **how: Any) -> Loader:
    recipe = Recipe(16, 16, flip=True, **how)
    return Loader(read(pairs), recipe, encoder(), seed, CPU)


def test_picture_and_condition_are_mirrored_together_or_not_at_all(pairs: Path) -> None:
    mirrored = 0
    for batch in batches(loader_of(pairs), Schedule(batch_size=5, accumulate=3), 0, 8):
        for i, caption in enumerate(batch.captions):
            number = int(caption.removeprefix("disc "))
            truth = prepare.load(pairs / "target" / f"disc{number:02d}.png", 16)
            sketch = prepare.load(pairs / "source" / f"disc{number:02d}.png", 16)
            assert batch.condition_BCHW is not None
            flipped = not torch.equal(batch.mean_BCHW[i], truth)
            mirrored += flipped
            assert torch.equal(batch.mean_BCHW[i], truth.flip(-1) if flipped else truth)
            assert torch.equal(batch.condition_BCHW[i], sketch.flip(-1) if flipped else sketch)
    assert 30 < mirrored < 90


def test_what_a_caption_says_of_left_and_right_stays_true(pairs: Path) -> None:
    for file in (pairs / "target").glob("*.txt"):
        file.write_text(f"the disc on the left {file.stem[-2:]}")
    for batch in batches(loader_of(pairs), Schedule(6), 0, 6):
        for i, key in enumerate(batch.keys):
            assert torch.equal(batch.mean_BCHW[i], prepare.load(pairs / "target" / f"{Path(key).stem}.png", 16))


def test_an_epoch_sees_every_picture_once_and_another_seed_another_order(pairs: Path) -> None:
    def order(seed: int) -> list[str]:
        return [key for batch in batches(loader_of(pairs, seed), Schedule(4), 0, 3) for key in batch.keys]

    assert sorted(order(0)) == [f"disc{i:02d}" for i in range(12)]
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_processes_and_accumulation_share_a_step_out_without_changing_it(coloured: Path) -> None:
    config = TranslateConfig(method="concat", data=str(coloured), aspect="buckets", crop="random")
    training, _, _, groups = load_splits(config, 16, 8)
    recipe = recipe_of(config, 16, 16)

    def run(schedule: Schedule) -> list[Batch]:
        return list(batches(Loader(training, recipe, encoder(), 0, CPU, groups), schedule, 2, 5))

    for step, whole in enumerate(run(Schedule(8))):
        for processes, accumulate in ((2, 1), (1, 4), (2, 2)):
            parts = []
            shares = [
                run(Schedule(8 // processes // accumulate, accumulate, processes, process))
                for process in range(processes)
            ]
            for micro in range(accumulate):
                parts += [share[step * accumulate + micro] for share in shares]
            assert [key for part in parts for key in part.keys] == whole.keys
            assert torch.equal(torch.cat([part.mean_BCHW for part in parts]), whole.mean_BCHW)
            noise = [part.dice.normal(2, 2) for part in parts]
            again = replace(whole, dice=run(Schedule(8))[step].dice)
            assert torch.equal(torch.cat(noise), again.dice.normal(2, 2))


def test_views_are_encoded_once_and_all_of_them_are_seen(pairs: Path) -> None:
    encoded: list[int] = []

    def encode_image(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(x))
        return x, torch.zeros_like(x)

    recipe = Recipe(8, augment=Augment(crop="random", num_views=3))
    counting = Encoder(encode_image, lambda texts: Cond(torch.zeros(len(texts), 1, 1)), "views", CPU)
    loader = Loader(read(pairs), recipe, counting, 0, CPU)
    list(loader.encode_all())
    num_views = sum(encoded)
    assert 30 <= num_views <= 36  # two of three may be drawn alike
    seen = {
        (key, row.numpy().tobytes())
        for batch in batches(loader, Schedule(6), 0, 40)
        for key, row in zip(batch.keys, batch.mean_BCHW, strict=True)
    }
    assert sum(encoded) == num_views
    assert len({key for key, _ in seen}) == 12 and len(seen) > 24


def test_a_changed_picture_is_encoded_anew(pairs: Path) -> None:
    before = next(batches(loader_of(pairs), Schedule(12), 0, 1))
    Image.new("RGB", (16, 16), "red").save(pairs / "target" / "disc04.png")
    after = next(batches(loader_of(pairs), Schedule(12), 0, 1))
    changed = [key for key, a, b in zip(before.keys, before.mean_BCHW, after.mean_BCHW, strict=True) if (a != b).any()]
    assert changed == ["disc04"]


def test_a_picture_replaced_while_a_run_reads_is_not_kept_as_what_it_was(coloured: Path) -> None:
    sample = read(coloured)[0]
    assert isinstance(sample.image, Path)
    reading = pixels.Pixels(Recipe(16))
    look = pixels.Look(sample, 0, False, 16, 16)
    wanted = reading.picture_key(look)
    Image.new("RGB", (16, 16), shade(9)).save(sample.image)
    with pytest.raises(DataError, match="has changed since this run began"):
        reading.picture(look)
    assert pixels.Pixels(Recipe(16)).picture_key(look) != wanted


def test_halves_of_different_shape_are_refused(pairs: Path) -> None:
    Image.new("RGB", (32, 16)).save(pairs / "source" / "disc05.png")
    with pytest.raises(DataError, match=r"disc05\.png is 32 x 16 pixels and its other half 16 x 16"):
        list(loader_of(pairs).encode_all())


def test_what_is_encoded_does_not_depend_on_what_was_known_already() -> None:
    prior = mini()
    shapes: set[int] = set()

    def encode_image(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.add(len(x))
        return prior.encode_image(x)

    def encode_text(captions: Sequence[str]) -> Cond:
        shapes.add(-len(captions))
        return prior.encode_text(captions)

    uint8 = torch.randint(256, (33, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    captions = [f"a fox and {i} apples" for i in range(33)]

    def encode(maker: str, orders: list[range]) -> tuple[torch.Tensor, torch.Tensor]:
        mine = Encoder(encode_image, encode_text, maker, CPU)
        for order in orders:  # so many known before the rest is asked for
            mine.latents([cache_key("picture", str(i)) for i in order], lambda places, o=order: uint8[o][places])
            mine.texts([captions[i] for i in order])
        mean_BCHW, _ = mine.latents([cache_key("picture", str(i)) for i in range(33)], lambda places: uint8[places])
        return mean_BCHW, mine.texts(captions).tokens_BLD

    whole = encode("whole", [])
    for name, orders in {"one by one": [range(i, i + 1) for i in range(33)], "half": [range(1, 33, 2)]}.items():
        assert all(torch.equal(a, b) for a, b in zip(whole, encode(name, orders), strict=True))
    assert len(shapes) == 2  # one of pictures and one of captions, which holds on any device


def test_a_memory_holds_what_was_made_last_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "REMEMBERED", 50)
    memory = pixels.Memory[int]()

    def ask(seed: int) -> bool:
        names = np.random.default_rng(seed).integers(60, size=4000).tolist()
        return all(memory.get(name, lambda name=name: name**2) == name**2 for name in names)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
    assert len(memory._made) == 50


def test_a_streamed_record_that_lacks_its_source_is_refused_when_it_comes(coloured: Path) -> None:
    rows = [json.loads(line) for line in (coloured / "metadata.jsonl").read_text().splitlines()]
    names = [f"{i:02d}.png" for i in range(60)]
    for i, name in enumerate(names):
        Image.new("RGB", (16, 16), shade(i % NUM)).save(coloured / name)
    without = [{"file_name": name, "caption": "number 1"} for name in names]
    (coloured / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows + without)))
    config = TranslateConfig(method="concat", data=str(coloured / "metadata.jsonl"), stream=True)
    needs, recipe = needs_of(config, 16), recipe_of(config, 16, 16)
    training, _, _, _ = load_splits(config, 16, 8, lambda sample: refuse([sample], needs, recipe))
    loader = Loader(training, recipe, encoder(), 0, CPU)
    with pytest.raises(DataError, match=r"\d\d\.png has no source picture beside it"):
        list(batches(loader, Schedule(4), 0, 12))
