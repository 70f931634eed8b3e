"""The built-in prior: a small, real text-to-image latent diffusion model of drawn objects; see assets/mini/README.md."""

from __future__ import annotations

from pathlib import Path

from limner.priors.sd import StableDiffusion

FOLDER = Path(__file__).parents[1] / "assets" / "mini"


def mini() -> StableDiffusion:
    """The packaged weights (v0: 64 px pictures, 16 x 16 x 4 latents, v prediction)."""
    return StableDiffusion.from_folder(FOLDER)
