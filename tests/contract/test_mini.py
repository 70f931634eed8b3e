"""The built-in prior is a plain diffusers folder: without limner it draws what limner draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from limner.evaluate import features
from limner.priors.mini import FOLDER, mini
from limner.sampling.guidance import guided
from limner.sampling.sampler import sample

STOCK = """
import sys, torch, numpy
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
noise = torch.from_numpy(numpy.load(sys.argv[2]))
made = pipe(["a 3D render of a fox", "two red apples"], latents=noise, num_inference_steps=10, guidance_scale=3.0,
            output_type="np").images
numpy.save(sys.argv[3], made)
assert not any(name.startswith("limner") for name in sys.modules)
"""


def test_stock_diffusers_draws_the_same_picture(tmp_path: Path) -> None:
    prior = mini()
    noise = torch.randn(2, *prior.latent_CHW, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "noise.npy", noise.numpy())
    files = [str(tmp_path / name) for name in ("noise.npy", "made.npy")]
    subprocess.run([sys.executable, "-c", STOCK, str(FOLDER), *files], check=True, timeout=120)
    stock = torch.from_numpy(np.load(files[1])).permute(0, 3, 1, 2)

    with torch.no_grad():
        text = prior.encode_text(["a 3D render of a fox", "two red apples"])
        null = prior.encode_text([""]).expand(2)
        predict = guided(prior, text, null, 3.0)
        ours = prior.decode(sample(predict, prior.path, noise, num_steps=10, solver="ddim")) / 2 + 0.5
    # The folder holds 16-bit weights, which both sides read as 32-bit; what is left is rounding.
    assert (ours - stock).abs().max() < 0.02


def test_the_package_keeps_to_its_budget() -> None:
    folders = (FOLDER, features.EYE)
    num_bytes = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    assert num_bytes < 48e6
