"""Stable Diffusion 3.5: equal to diffusers' StableDiffusion3Pipeline, on a toy folder of its layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from diffusers import DiffusionPipeline, SD3ControlNetModel, StableDiffusion3ControlNetPipeline
from family_checks import PROMPTS

from limner.errors import ConfigError, PriorError
from limner.priors.base import Prior
from limner.priors.folder import Loading
from limner.priors.open import open_prior

T5 = ("text_encoder_3", "tokenizer_3")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "sd3", "sd3")


def theirs(pipeline: Any, prior: Prior, size_px: tuple[int, int], guidance: float, **more: Any) -> torch.Tensor:
    return pipeline(
        prompt=list(PROMPTS),
        height=size_px[0],
        width=size_px[1],
        latents=checks.noise(prior, size_px=size_px),
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="pt",
        **more,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("size_px", checks.SIZES_PX)
def test_pictures_are_the_pipelines(pair: tuple[Any, Prior], size_px: tuple[int, int], guidance: float) -> None:
    checks.assert_same_pictures(checks.our_pictures(pair[1], guidance, size_px), theirs(*pair, size_px, guidance))


def test_without_t5(pair: tuple[Any, Prior]) -> None:
    prior = pair[1]
    fingerprint, index = prior.fingerprint(), prior.source / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **{name: [None, None] for name in T5}}))
    for name in T5:
        shutil.rmtree(prior.source / name)
    pipeline = DiffusionPipeline.from_pretrained(
        prior.source, local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.set_progress_bar_config(disable=True)
    less, size_px = open_prior(str(prior.source)), checks.SIZES_PX[0]
    checks.assert_same_pictures(checks.our_pictures(less, 3.0), theirs(pipeline, less, size_px, 3.0))
    checks.assert_rows_stand_alone(less)
    assert (less.count_tokens("q").room, prior.count_tokens("q").room) == (75, 255)
    assert less.fingerprint() != fingerprint


def test_a_t5_that_is_named_and_missing(pair: tuple[Any, Prior]) -> None:
    shutil.rmtree(pair[1].source / "text_encoder_3")
    with pytest.raises(PriorError, match="has no text_encoder_3"):
        open_prior(str(pair[1].source))


def test_the_sampler_takes_the_pipelines_times(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    for num_steps in (1, 2, 7):
        pipeline.scheduler.set_timesteps(num_steps)
        torch.testing.assert_close(prior.path.times(num_steps).float(), pipeline.scheduler.sigmas)


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    vae = pair[0].vae
    checks.assert_autoencoder_is_the_stock_one(
        pair[1], lambda x: vae.encode(x).latent_dist, lambda z: vae.decode(z).sample, as_stock=lambda eps: eps
    )


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_room_is_true(pair[1])


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    def asks_for_nothing(name: str) -> bool:
        """The last layer's text is read by the picture, and itself reads no more."""
        return "blocks.1.attn.add_q_proj" in name or "blocks.1.attn.norm_added_q" in name

    checks.assert_every_weight_learns(pair[1], asks_for_nothing)
    checks.assert_adapters_learn(pair[1], (8 + 4) + 7, asks_for_nothing)


def test_wider_input(pair: tuple[Any, Prior]) -> None:
    def copy_weights(network: Any) -> None:
        network.pos_embed.proj.weight[:, 16:] = network.pos_embed.proj.weight[:, :16]

    checks.assert_wider_input_is_heard_in_place(pair[1], copy_weights)
    assert (pair[1].network.config.in_channels, pair[1].network.config.out_channels) == (32, 16)


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])


@torch.no_grad()
def test_the_control_is_a_stock_controlnet(pair: tuple[Any, Prior], tmp_path: Path) -> None:
    pipeline, prior = pair
    checks.assert_control_is_heard(prior)
    prior.control.save_pretrained(tmp_path / "control")
    pipeline = StableDiffusion3ControlNetPipeline(
        **pipeline.components, controlnet=SD3ControlNetModel.from_pretrained(tmp_path / "control")
    )
    pipeline.set_progress_bar_config(disable=True)
    # The pipeline draws the condition's latent; without spread there is nothing to draw.
    pipeline.vae.encoder.conv_out.bias[16:] = -100
    pipeline.vae.encoder.conv_out.weight[16:] = 0
    stock = theirs(pipeline, prior, checks.SIZES_PX[0], 2.0, control_image=checks.shown())
    checks.assert_same_pictures(checks.our_controlled_pictures(prior, 2.0), stock)


def test_what_has_no_positions_is_refused(pair: tuple[Any, Prior]) -> None:
    with pytest.raises(ConfigError, match="up to 64 px a side, not 68"):
        open_prior(str(pair[1].source), Loading(image_px=68))
    with pytest.raises(ConfigError, match="up to 64 px a side, not 80"):
        pair[1].encode_image(torch.zeros(1, 3, 16, 80))


def test_another_input_is_refused(pair: tuple[Any, Prior]) -> None:
    file = pair[1].source / "transformer" / "config.json"
    file.write_text(file.read_text().replace('"in_channels": 16', '"in_channels": 33'))
    with pytest.raises(PriorError, match="reads more than the noisy latent"):
        open_prior(str(pair[1].source))
