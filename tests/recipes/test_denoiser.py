"""The denoiser's training: what a kill costs, and what its data are a function of."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def programs(monkeypatch):
    import autoencoder
    import chunks
    import denoiser
    import sizes

    monkeypatch.setattr(chunks, "BATCHES", 2)
    monkeypatch.setattr(chunks, "PASSES", 2)
    monkeypatch.setitem(sizes.SIZES, "tiny", sizes.Size(32, 4, 4, 8, 8, (16, 32), (False, True), 1, 32))
    return SimpleNamespace(autoencoder=autoencoder, chunks=chunks, denoiser=denoiser, sizes=sizes)


@pytest.fixture
def options(programs, scratch, tmp_path):
    for file in scratch.iterdir():
        (tmp_path / file.name).symlink_to(file)
    torch.manual_seed(0)
    programs.autoencoder.make(programs.sizes.SIZES["tiny"]).save_pretrained(tmp_path / "vae")
    return SimpleNamespace(
        scratch=tmp_path, out=tmp_path / "mini", size="tiny", device="cpu", batch=3, rate=1e-3, workers=0, minutes=None
    )


def trained(denoiser, options, steps: int):
    """A trainer that went on for so many steps, and stored its state."""
    trainer = denoiser.Trainer(options)
    for batch, _ in zip(trainer.batches(), range(steps), strict=False):
        trainer.step(batch)
    trainer.state.store()
    return trainer


@pytest.mark.parametrize("first", [3, 4, 6])  # in the middle of a chunk, at its end, in the next
def test_a_run_that_was_cut_goes_on_bit_for_bit(programs, options, first):
    whole = trained(programs.denoiser, options, 7)
    whole.state.path.unlink()
    trained(programs.denoiser, options, first)
    cut = trained(programs.denoiser, options, 7 - first)
    assert cut.progress["steps"] == 7 and cut.progress["pictures"] == 21
    for one, other in ((whole.models, cut.models), (whole.average.model, cut.average.model)):
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_each_scene_of_a_chunk_is_used_as_often_as_the_others(programs, options):
    trainer = programs.denoiser.Trainer(options)
    batches = [batch for batch, _ in zip(trainer.batches(), range(4), strict=False)]
    firsts = torch.cat([batch.z_NCHW.flatten(1)[:, 0] for batch in batches])
    _, counts = firsts.unique(return_counts=True)
    assert counts.tolist() == [2] * 6


def test_what_is_written_is_a_stock_pipeline(programs, options):
    from diffusers import DiffusionPipeline

    trained(programs.denoiser, options, 1).write(options.out)
    pipeline = DiffusionPipeline.from_pretrained(options.out)
    made = pipeline("a 3D render of a fox", num_inference_steps=2, output_type="pt").images
    assert made.shape == (1, 3, 32, 32)


PARTS = """
import sys
sys.path.insert(0, {recipe!r})
import recipe
recipe.parts = lambda options: {{"first": [sys.executable, "-c", "pass"], "second": [sys.executable, "-c", {second!r}]}}
sys.argv = ["recipe.py", "--scratch", {scratch!r}]
recipe.main()
"""
WAITING = "import os, pathlib, time; pathlib.Path('policy').write_text(str(os.sched_getscheduler(0))); time.sleep(60)"


def start(folder: Path, second: str) -> subprocess.Popen:
    code = PARTS.format(recipe=str(Path(__file__).parents[2] / "recipes" / "mini"), second=second, scratch=str(folder))
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=-1, stderr=-1, text=True)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux alone has the idle class")
def test_one_command_at_the_lowest_priority_once_and_until_it_is_stopped(tmp_path):
    running = start(tmp_path, WAITING)
    wait_for(tmp_path / "policy")
    assert (tmp_path / "policy").read_text() == str(os.SCHED_IDLE)
    second = start(tmp_path, "pass")
    _, said = second.communicate(timeout=30)
    assert second.returncode and "is in use by process" in said and "hint: " in said
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=30)
    assert "stopped" in out and running.returncode == 0
    assert (tmp_path / "done.json").read_text() == '["first"]'


def test_a_part_that_fails_is_not_done(tmp_path):
    running = start(tmp_path, "raise SystemExit(3)")
    running.communicate(timeout=30)
    assert running.returncode == 3
    assert (tmp_path / "done.json").read_text() == '["first"]'
    again = start(tmp_path, "pass")
    out, _ = again.communicate(timeout=30)
    assert "--- second" in out and "--- first" not in out and "all parts are done" in out


def test_a_folder_is_not_gone_on_with_in_another_way(tmp_path):
    start(tmp_path, "pass").communicate(timeout=30)
    (tmp_path / "begun.json").write_text('{"size": "base", "vae": null}')
    other = start(tmp_path, "pass")
    _, said = other.communicate(timeout=30)
    assert other.returncode and "was begun with --size base" in said and "hint: " in said
