"""SDXL: equal to diffusers' StableDiffusionXLPipeline, on a toy folder of its layout."""

import json
from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionXLControlNetPipeline
from family_checks import PROMPTS

from limner.errors import PriorError
from limner.priors.base import Prior
from limner.priors.open import open_prior
from limner.priors.paths import V
from limner.types import Cond

# diffusers' Euler scheduler hands torch's tensors to numpy 2 in a way that numpy will stop taking.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "sdxl", "sdxl")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def theirs(pipeline: Any, prior: Prior, size_px: tuple[int, int], guidance: float, **more: Any) -> torch.Tensor:
    """Stock pictures on limner's times, the end of the table first. The stock pipeline makes its noise weaker there."""
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    latents = checks.noise(prior, size_px=size_px) / prior.path.s(torch.ones(()))
    return pipeline(
        prompt=list(PROMPTS),
        height=size_px[0],
        width=size_px[1],
        latents=latents,
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="pt",
        **more,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("size_px", checks.SIZES_PX)
def test_pictures_are_the_pipelines(pair: tuple[Any, Prior], size_px: tuple[int, int], guidance: float) -> None:
    ours = checks.our_pictures(pair[1], guidance, size_px, num_steps=4)
    checks.assert_same_pictures(ours, theirs(*pair, size_px, guidance))


def test_a_model_that_knows_the_empty_caption(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    assert not prior.encode_text([""]).tokens_BLD.any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    edit(prior.source / "model_index.json", force_zeros_for_empty_prompt=False)
    other = open_prior(str(prior.source))
    assert other.encode_text([""]).tokens_BLD.any()
    assert other.fingerprint() != prior.fingerprint()
    size_px = checks.SIZES_PX[0]
    ours = checks.our_pictures(other, 4.0, size_px, num_steps=4)
    checks.assert_same_pictures(ours, theirs(pipeline, other, size_px, 4.0))
    assert (ours - checks.our_pictures(prior, 4.0, size_px, num_steps=4)).abs().max() > 0.01


@torch.no_grad()
def test_framing_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    framing = {"original_size": (40, 30), "crops_coords_top_left": (5, 7), "target_size": (20, 24)}
    stock = theirs(pipeline, prior, checks.SIZES_PX[0], 1.0, **framing)
    cond = prior.encode_text(PROMPTS)
    told = Cond(cond.tokens_BLD, cond.pooled_BD, framing_B6=torch.tensor([[40.0, 30, 5, 7, 20, 24]] * 2))

    def ours(cond: Cond) -> torch.Tensor:
        return checks.our_pictures(prior, 1, num_steps=4, predict=lambda x, t_B: prior.predict(x, t_B, cond))

    checks.assert_same_pictures(ours(told), stock)
    assert (ours(cond) - stock).abs().max() > 0.01


@torch.no_grad()
def test_v_prediction(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    edit(prior.source / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    other, size_px = open_prior(str(prior.source)), checks.SIZES_PX[0]
    assert isinstance(other.path, V)
    checks.assert_same_pictures(checks.our_pictures(other, 2.0, num_steps=4), theirs(pipeline, other, size_px, 2.0))


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    vae = pair[0].vae
    checks.assert_autoencoder_is_the_stock_one(
        pair[1], lambda x: vae.encode(x).latent_dist, lambda z: vae.decode(z).sample, as_stock=lambda eps: eps
    )


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_room_is_true(pair[1], unit="q ")


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    checks.assert_every_weight_learns(pair[1])
    checks.assert_adapters_learn(pair[1], num_layers=2 * 4 * (2 + 2 + 2 * 2))


def test_wider_input(pair: tuple[Any, Prior]) -> None:
    def copy_weights(network: Any) -> None:
        network.conv_in.weight[:, 4:] = network.conv_in.weight[:, :4]

    checks.assert_wider_input_is_heard_in_place(pair[1], copy_weights)
    assert pair[1].network.config.in_channels == 8


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])


@torch.no_grad()
def test_the_control_is_a_stock_controlnet(pair: tuple[Any, Prior], tmp_path: Path) -> None:
    checks.assert_control_is_heard(pair[1])
    prior = pair[1]
    prior.control.save_pretrained(tmp_path / "control")
    pipeline = StableDiffusionXLControlNetPipeline.from_pipe(
        pair[0], controlnet=ControlNetModel.from_pretrained(tmp_path / "control")
    )
    pipeline.set_progress_bar_config(disable=True)
    stock = theirs(pipeline, prior, checks.SIZES_PX[0], 2.0, image=(checks.shown() + 1) / 2)
    checks.assert_same_pictures(checks.our_controlled_pictures(prior, 2.0, num_steps=4), stock)


def test_other_unets_are_refused_by_name(pair: tuple[Any, Prior]) -> None:
    folder = pair[1].source
    unet = folder / "unet" / "config.json"
    for changes, message in (
        ({"in_channels": 9}, "an inpainting model"),
        ({"in_channels": 5}, "reads more than the noisy latent"),
        ({"in_channels": 4, "time_cond_proj_dim": 256}, "distilled for few steps"),
    ):
        edit(unet, **changes)
        with pytest.raises(PriorError, match=message):
            open_prior(str(folder))
    edit(folder / "model_index.json", text_encoder=[None, None])
    with pytest.raises(PriorError, match="is the refiner"):
        open_prior(str(folder))


def test_noise_that_is_no_table_is_refused(pair: tuple[Any, Prior]) -> None:
    scheduler = pair[1].source / "scheduler" / "scheduler_config.json"
    edit(scheduler, rescale_betas_zero_snr=True)
    with pytest.raises(PriorError, match="cannot start from pure noise"):
        open_prior(str(pair[1].source))
    edit(scheduler, _class_name="EDMEulerScheduler", sigma_data=0.5)
    with pytest.raises(PriorError, match="EDMEulerScheduler is not supported"):
        open_prior(str(pair[1].source))
