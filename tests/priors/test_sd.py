"""Stable Diffusion 1.x and 2.x: what of a folder the prior goes by."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import prior_folder

from limner.errors import ConfigError, PriorError
from limner.priors.folder import Loading
from limner.priors.open import open_prior
from limner.priors.sd import StableDiffusion


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prior_folder(tmp_path / "prior", "flow")  # the one with an AutoencoderKL


@torch.no_grad()
def test_the_oldest_autoencoders_leave_their_scale_to_the_class(folder: Path) -> None:
    file = folder / "vae" / "config.json"
    values = json.loads(file.read_text())
    assert values.pop("scaling_factor") == 0.18215
    file.write_text(json.dumps(values))
    prior = open_prior(str(folder))
    vae: Any = prior.parts["vae"]
    x_BCHW = torch.rand(1, 3, 16, 16) * 2 - 1
    mean_BCHW, std_BCHW = prior.encode_image(x_BCHW)
    latent = vae.encode(x_BCHW).latent_dist
    torch.testing.assert_close(mean_BCHW, latent.mean * 0.18215)
    torch.testing.assert_close(std_BCHW, latent.std * 0.18215)
    torch.testing.assert_close(prior.decode(mean_BCHW), vae.decode(latent.mean).sample.clamp(-1, 1))
    assert prior.latent_scale == 0.18215


def test_another_size(folder: Path) -> None:
    prior = open_prior(str(folder), Loading(image_px=24))
    assert isinstance(prior, StableDiffusion)
    assert (prior.image_px, prior.latent_CHW) == (24, (4, 12, 12))
    assert prior.encode_image(torch.zeros(1, 3, 24, 24))[0].shape[1:] == prior.latent_CHW
    with pytest.raises(ConfigError, match=r"image_px: 18 is no multiple of 4\.") as caught:
        open_prior(str(folder), Loading(image_px=18))
    assert caught.value.hint == "the prior takes 16"


def test_other_unets_are_refused_by_name(folder: Path) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(file.read_text().replace('"in_channels": 4', '"in_channels": 8'))
    with pytest.raises(PriorError, match="that of an instruction-following model"):
        open_prior(str(folder))
