"""What is packed comes back, in a folder that need not be there before."""

import sys

import numpy as np


def test_a_packed_scratch_folder_comes_back_elsewhere(scratch, tmp_path, monkeypatch):
    import pack

    new = tmp_path / "new"
    for what, folder in (("pack", scratch), ("unpack", new)):
        monkeypatch.setattr(sys, "argv", ["pack.py", what, f"--scratch={folder}", f"--zip={tmp_path / 'all.zip'}"])
        pack.main()
    assert np.array_equal(np.load(new / "places.npy"), np.load(scratch / "places.npy"))
    assert np.load(new / "pictures.npy").shape == np.load(scratch / "pictures.npy").shape
    assert (new / "concepts.json").read_bytes() == (scratch / "concepts.json").read_bytes()
