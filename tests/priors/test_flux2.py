"""FLUX.2 klein: equal to diffusers' Flux2KleinPipeline, on a toy folder of its layout."""

from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from family_checks import PROMPTS, SIZES_PX
from tiny_families import PICTURE_PX
from torch.nn.functional import pixel_shuffle

from limner.priors.base import Prior


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "flux2_klein", "flux2_klein")


@pytest.mark.parametrize(("guidance", "num_steps", "size_px"), [(1.0, 4, SIZES_PX[0]), (3.5, 2, SIZES_PX[1])])
def test_pictures_are_the_pipelines(
    pair: tuple[Any, Prior], guidance: float, num_steps: int, size_px: tuple[int, int]
) -> None:
    pipeline, prior = pair
    theirs = pipeline(
        prompt=list(PROMPTS),
        height=size_px[0],
        width=size_px[1],
        latents=checks.noise(prior, size_px=size_px),
        num_inference_steps=num_steps,
        guidance_scale=guidance,
        output_type="pt",
    ).images
    checks.assert_same_pictures(checks.our_pictures(prior, guidance, size_px, num_steps), theirs)


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    vae = pipeline.vae
    checks.assert_autoencoder_is_the_stock_one(
        prior,
        lambda x: vae.encode(x).latent_dist,
        lambda z: vae.decode(z).sample,
        as_stock=lambda eps: pixel_shuffle(eps, 2),
    )
    x_BCHW = torch.rand(2, 3, PICTURE_PX, PICTURE_PX) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(prior.encode_image(x_BCHW)[0], pipeline._encode_vae_image(x_BCHW, None))


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_room_is_true(pair[1])


@torch.no_grad()
def test_a_long_caption_is_cut_where_the_pipeline_cuts_it(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    caption = "q" * 600
    expected = pipeline.encode_prompt([caption])[0]
    torch.testing.assert_close(prior.encode_text([caption]).tokens_BLD, expected)


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    checks.assert_every_weight_learns(pair[1])
    # A block of two streams has four layers for each, one of a single stream has two.
    checks.assert_adapters_learn(pair[1], num_layers=1 * 8 + 2 * 2)


def test_wider_input(pair: tuple[Any, Prior]) -> None:
    def copy_weights(network: Any) -> None:
        network.x_embedder.weight[:, 32:] = network.x_embedder.weight[:, :32]

    checks.assert_wider_input_is_heard_in_place(pair[1], copy_weights)
    network: Any = pair[1].network
    assert (network.config.in_channels, network.config.out_channels) == (64, 32)


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])
