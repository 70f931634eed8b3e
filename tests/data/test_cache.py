"""Entries are found again by content: by another process, beside another process, after a kill, below a limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from limner.data import cache
from limner.data.cache import Entry, Shelf, key
from limner.data.store import STALE_SECONDS, shards
from limner.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


def entry(wanted: bytes, size: int = 8) -> Entry:
    """What belongs to a key: numbers that only it gives."""
    seed = int.from_bytes(wanted[:7], "big")
    return {"mean": torch.randn(4, size, size, generator=torch.Generator().manual_seed(seed))}


def right(wanted: bytes, found: Entry, size: int = 8) -> bool:
    return torch.equal(found["mean"], entry(wanted, size)["mean"])


def keys(num: int, name: str = "picture") -> list[bytes]:
    return [key(name, str(i)) for i in range(num)]


def filled(shelf: Shelf, name: str, num: int) -> Shelf:
    """With so many entries of a name on disk."""
    wanted = keys(num, name)
    shelf.get(wanted, lambda places: [entry(wanted[place]) for place in places])
    shelf.flush()
    return shelf


def test_a_key_is_of_its_parts_and_where_they_end() -> None:
    assert key("ab", "c") != key("a", "bc") != key("abc")
    assert key("a", b"b") == key(b"a", "b")
    assert len(key("a")) == cache.KEY_BYTES


def test_only_what_is_not_known_is_made_and_it_is_known_ever_after() -> None:
    made: list[int] = []
    wanted = keys(10)

    def make(places: list[int], wanted: list[bytes] = wanted) -> list[Entry]:
        made.extend(places)
        return [entry(wanted[place]) for place in places]

    shelf = Shelf("latents", "maker")
    twice = [*wanted[:6], wanted[0]]
    found = shelf.get(twice, lambda places: make(places, twice))
    assert made == [0, 1, 2, 3, 4, 5]
    assert all(map(right, twice, found))
    assert all(map(right, wanted, shelf.get(wanted, make)))
    assert made == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    shelf.flush()
    again = Shelf("latents", "maker")
    assert all(map(right, wanted, again.get(wanted, make)))
    assert len(made) == 10
    assert Shelf("latents", "another").find(wanted[0]) is None


def test_any_shuffle_finds_each_keys_own_entry() -> None:
    wanted = keys(300)
    rng = np.random.default_rng(0)
    shelf = Shelf("latents", "maker")
    for _ in range(20):
        order = [wanted[i] for i in rng.integers(300, size=40)]
        assert all(map(right, order, shelf.get(order, lambda places, o=order: [entry(o[p]) for p in places])))
        if rng.random() < 0.3:
            shelf.flush()
    shelf.flush()
    assert all(right(one, Shelf("latents", "maker").find(one) or {}) for one in wanted if shelf.find(one))


def test_entries_of_different_shapes_lie_on_one_shelf() -> None:
    shelf = Shelf("latents", "maker")
    small, large = keys(3, "small"), keys(3, "large")
    shelf.get(small, lambda places: [entry(small[place], 4) for place in places])
    shelf.get(large, lambda places: [entry(large[place], 6) for place in places])
    shelf.flush()
    again = Shelf("latents", "maker")
    assert all(right(one, again.find(one) or {}, 4) for one in small)
    assert all(right(one, again.find(one) or {}, 6) for one in large)


WRITER = """
import sys, torch
from limner.data.cache import Shelf, key
name, num = sys.argv[1], int(sys.argv[2])
def entry(wanted):
    seed = int.from_bytes(wanted[:7], "big")
    return {"mean": torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))}
shelf = Shelf("latents", "maker")
print("open", flush=True)
for i in range(num):
    wanted = [key(name, str(i)), key("shared", str(i))]
    shelf.get(wanted, lambda places: [entry(wanted[place]) for place in places])
    shelf.flush()
"""


def start(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "open\n"
    return process


def test_two_processes_write_at_once_and_both_are_read() -> None:
    both = [start("left", "40"), start("right", "40")]
    mine = Shelf("latents", "maker")
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    mine.refresh()
    for name in ("left", "right", "shared"):
        assert all(right(one, mine.find(one) or {}) for one in keys(40, name))


def test_a_kill_leaves_nothing_that_is_wrong() -> None:
    for wait in (0.05, 0.12, 0.2):
        process = start(f"killed{wait}", "100000")
        time.sleep(wait)
        process.kill()
        process.wait()
        shelf = Shelf("latents", "maker")
        found = [(one, shelf.find(one)) for one in keys(3000, f"killed{wait}")]
        assert all(right(one, entry) for one, entry in found if entry is not None)
    assert any(entry is not None for _, entry in found)


def test_what_a_killed_process_left_half_written_goes_after_a_day(store: Path) -> None:
    folder = store / "tensors" / "latents" / "maker"
    folder.mkdir(parents=True)
    for name, age in (("old", 2 * STALE_SECONDS), ("new", 60)):
        (folder / f"{name}.tmp").write_bytes(b"half")
        os.utime(folder / f"{name}.tmp", (time.time() - age,) * 2)
    Shelf("latents", "maker")
    assert [file.name for file in folder.iterdir()] == ["new.tmp"]


def test_the_limit_holds_and_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE_GB", str(100_000 / 1e9))  # 100 kB: some 90 entries

    def fill(name: str, num: int) -> Shelf:
        return filled(Shelf("latents", name), name, num)

    for age, name in ((300, "oldest"), (200, "older")):
        [file] = fill(name, 30).folder.iterdir()
        os.utime(file, (time.time() - age,) * 2)
    fill("new", 40)
    assert sum(size for _, size in shards()) <= 100_000
    assert {file.parent.name for file, _ in shards()} == {"older", "new"}
    too_much = fill("too much", 200)
    assert too_much.full
    assert {file.parent.name for file, _ in shards()} == {"older", "new"}  # what would not help stays


def test_what_was_encoded_for_other_pictures_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE_GB", str(100_000 / 1e9))
    for age, name in ((300, "first set"), (200, "second set")):
        before = {file for file, _ in shards()}
        filled(Shelf("latents", "maker"), name, 30)
        [(file, _)] = [(file, size) for file, size in shards() if file not in before]
        os.utime(file, (time.time() - age,) * 2)
    texts = filled(Shelf("texts", "maker"), "captions", 10)  # of the run at work, though of another kind
    [(text_file, _)] = [(file, size) for file, size in shards() if file.parts[-3] == "texts"]
    os.utime(text_file, (0, 0))
    now = Shelf("latents", "maker")
    assert right(keys(1, "first set")[0], now.find(keys(1, "first set")[0]) or {})  # and so used a moment ago
    filled(now, "third set", 40)
    assert not now.full and texts.in_use() == {text_file} <= {file for file, _ in shards()}
    again = Shelf("latents", "maker")
    assert [again.find(keys(1, name)[0]) is None for name in ("first set", "second set", "third set")] == [0, 1, 0]
    assert now.find(keys(1, "second set")[0]) is None


def test_what_vanishes_while_it_is_looked_at_is_not_missed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = filled(Shelf("latents", "maker"), "mine", 3)
    for name in ("renamed.tmp", "evicted.safetensors"):  # listed, and gone when it is opened
        (shelf.folder / name).symlink_to(store / "gone")
    (shelf.folder / ".nfs00000001").write_bytes(b"what a network disk keeps of a deleted file")
    assert right(keys(1, "mine")[0], Shelf("latents", "maker").find(keys(1, "mine")[0]) or {})
    monkeypatch.setenv("LIMNER_CACHE_GB", str(10_000 / 1e9))
    filled(Shelf("latents", "another"), "theirs", 6)


def test_a_cache_deleted_under_a_run_is_made_anew() -> None:
    shelf = filled(Shelf("latents", "maker"), "before", 5)
    shutil.rmtree(shelf.folder.parents[2])
    shelf.refresh()
    assert all(right(one, shelf.find(one) or {}) for one in keys(5, "before"))
    filled(shelf, "after", 5)
    assert all(right(one, Shelf("latents", "maker").find(one) or {}) for one in keys(5, "after"))


def test_a_damaged_shard_is_named(store: Path) -> None:
    shelf = Shelf("latents", "maker")
    shelf.get(keys(3), lambda places: [entry(one) for one in keys(3)])
    shelf.flush()
    [file] = shelf.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{file.name} is damaged") as caught:
        Shelf("latents", "maker")
    assert "delete" in caught.value.hint


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.data import store

    for wrong in ("much", "-3", "0", "nan"):
        monkeypatch.setenv("LIMNER_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match=f"'{wrong}'"):
            store.limit_bytes()


def test_a_cache_folder_that_cannot_be_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store.parent / "notes.txt"
    file.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("LIMNER_CACHE", str(file))
    with pytest.raises(DataError, match=r"notes\.txt.* cannot be written") as caught:
        filled(Shelf("latents", "maker"), "picture", 3)
    assert "LIMNER_CACHE" in caught.value.hint
