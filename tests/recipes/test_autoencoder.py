"""The recipe's autoencoder: one more level keeps what is learned."""

import sys

import pytest
import torch


@pytest.fixture
def programs(monkeypatch):
    import autoencoder
    import sharpen
    import sizes

    monkeypatch.setitem(sizes.SIZES, "tiny", sizes.Size(32, 8, 16, 8, 12, (16, 32), (False, True), 1, 32))
    return autoencoder, sharpen, sizes.SIZES["tiny"]


def test_a_level_more_keeps_the_others(programs):
    autoencoder, _, size = programs
    before = autoencoder.make(autoencoder.halved(size))
    after = autoencoder.grown(before, size)
    assert after.encode(torch.zeros(1, 3, 32, 32)).latents.shape == (1, 16, 4, 4)
    kept = len(before.encoder.layers) - 1, len(before.decoder.layers) - 2
    pairs = [(after.encoder.layers[: kept[0]], before.encoder.layers[: kept[0]])]
    pairs += [(after.decoder.layers[-kept[1] :], before.decoder.layers[2:])]
    for mine, theirs in pairs:
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_both_programs_write_an_autoencoder_and_go_on_where_they_stopped(programs, scratch, tmp_path, monkeypatch):
    autoencoder, sharpen, _ = programs
    for file in scratch.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for program, folder in ((autoencoder, "vae_plain"), (sharpen, "vae")):
        call = [program.__name__, "--scratch", str(tmp_path), "--size", "tiny", "--batch", "2", "--minutes", "0.05"]
        monkeypatch.setattr(sys, "argv", call)
        program.main()
        assert (tmp_path / folder / "diffusion_pytorch_model.safetensors").exists()
    # All the time is over, so the same command has nothing left to do but to write.
    steps = [torch.load(path)["progress"]["steps"] for path in sorted(tmp_path.glob("*.pt"))]
    monkeypatch.setattr(sys, "argv", call)
    program.main()
    assert [torch.load(path)["progress"]["steps"] for path in sorted(tmp_path.glob("*.pt"))] == steps
    assert len(steps) == 3 and all(steps)
