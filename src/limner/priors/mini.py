"""The built-in prior: a small but real text-to-image latent diffusion model of drawn objects (assets/mini)."""

from __future__ import annotations

from pathlib import Path

from limner.priors.folder import PLAIN, DiffusersFolder, Loading
from limner.priors.sd import StableDiffusion

FOLDER = Path(__file__).parents[1] / "assets" / "mini"

# What it knows of contexts is the colour of the ground. Two of its fourteen, which no picture of ``subjects`` has.
CONTEXTS = (
    "a 3D render of a {}",
    "a 3D render of a {} on a grey background",
    "a 3D render of a {} on a brown background",
)


def mini(loading: Loading = PLAIN) -> StableDiffusion:
    """The packaged weights (v0: 64 px pictures, 16 x 16 x 4 latents, v prediction)."""
    prior = StableDiffusion(DiffusersFolder(FOLDER), loading)
    prior.guidance_scale = 3.0
    prior.contexts = CONTEXTS
    return prior
