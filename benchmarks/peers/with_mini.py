"""Runs one of diffusers' example scripts as it is on the built-in prior, whose autoencoder is an AutoencoderTiny.

    python with_mini.py train_dreambooth_lora.py ...

The scripts ask an AutoencoderKL for the distribution of a latent; this one has no spread. torchvision, of which they
take resizing and cropping, is replaced by ``stand_in`` where it is missing.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets  # noqa: F401  (before the stand-in, so that it settles on doing without torchvision)
import diffusers
import torch
from transformers.utils import is_torchvision_available


class Tiny(diffusers.AutoencoderTiny):
    """With what the scripts call of an AutoencoderKL."""

    def encode(self, x_BCHW: torch.Tensor, return_dict: bool = True) -> Any:
        latents_BCHW = super().encode(x_BCHW).latents
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda: latents_BCHW))


diffusers.AutoencoderKL = Tiny
if importlib.util.find_spec("torchvision") is None:
    is_torchvision_available()
    sys.path.append(str(Path(__file__).parent / "stand_in"))
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
