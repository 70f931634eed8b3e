"""FLUX.1 [dev] and [schnell]: equal to diffusers' FluxPipeline, on toy folders of their layout."""

from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxControlPipeline
from family_checks import PROMPTS

from limner.errors import ConfigError, PriorError
from limner.priors.base import Prior
from limner.priors.flux import FluxPrior
from limner.priors.folder import Loading
from limner.priors.open import open_prior


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "flux", "flux")


def packed(latents_BCHW: torch.Tensor) -> torch.Tensor:
    return FluxControlPipeline._pack_latents(latents_BCHW, *latents_BCHW.shape)


def theirs(
    pipeline: Any, prior: Prior, size_px: tuple[int, int], prompt: list[str] = PROMPTS, **more: Any
) -> torch.Tensor:
    return pipeline(
        prompt=list(prompt),
        height=size_px[0],
        width=size_px[1],
        latents=packed(checks.noise(prior, size_px=size_px)),
        num_inference_steps=3,
        output_type="pt",
        max_sequence_length=prior.num_tokens,
        **more,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("size_px", checks.SIZES_PX)
@pytest.mark.parametrize("family", ["flux", "flux_schnell"])
def test_pictures_are_the_pipelines(tmp_path: Path, family: str, size_px: tuple[int, int], guidance: float) -> None:
    pipeline, prior = checks.stock_and_prior(tmp_path / family, family)
    stock = theirs(pipeline, prior, size_px, negative_prompt=["", ""], true_cfg_scale=guidance)
    checks.assert_same_pictures(checks.our_pictures(prior, guidance, size_px), stock)


def test_guidance_as_a_number(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    assert isinstance(prior, FluxPrior)
    before = checks.our_pictures(prior, 1.0)
    prior.distilled_guidance = 30.0
    ours = checks.our_pictures(prior, 1.0)
    checks.assert_same_pictures(ours, theirs(pipeline, prior, checks.SIZES_PX[0], guidance_scale=30.0))
    assert (ours - before).abs().max() > 0.01


@torch.no_grad()
def test_it_learns_with_a_guidance_of_one(pair: tuple[Any, Prior]) -> None:
    prior = pair[1]
    assert isinstance(prior, FluxPrior)
    z_0, eps, t_B = checks.noise(prior, seed=3), checks.noise(prior), torch.tensor([0.3, 0.9])
    cond = prior.encode_text(PROMPTS)
    loss_B = prior.loss(z_0, eps, t_B, cond)
    assert prior.distilled_guidance == 3.5
    prior.distilled_guidance = 1.0
    said = prior.predict(prior.path.mix(z_0, eps, t_B), t_B, cond)
    torch.testing.assert_close(loss_B, (said - (eps - z_0)).square().mean(dim=(1, 2, 3)))


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    vae = pair[0].vae
    checks.assert_autoencoder_is_the_stock_one(
        pair[1], lambda x: vae.encode(x).latent_dist, lambda z: vae.decode(z).sample, as_stock=lambda eps: eps
    )


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_room_is_true(pair[1])


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    checks.assert_every_weight_learns(pair[1])
    checks.assert_adapters_learn(pair[1], num_layers=8 + 2 * 3)


def test_wider_input_is_that_of_the_stock_control_pipeline(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair

    def copy_weights(network: Any) -> None:
        network.x_embedder.weight[:, 64:] = network.x_embedder.weight[:, :64]

    checks.assert_wider_input_is_heard_in_place(prior, copy_weights)
    network: Any = prior.network
    assert (network.config.in_channels, network.config.out_channels) == (128, 64)
    with torch.no_grad():
        network.x_embedder.weight[:, 64:] *= torch.linspace(-1, 1, 64)
        planes_BCHW = prior.encode_image(checks.shown())[0]
        cond = prior.encode_text(PROMPTS).with_channels(planes_BCHW)
    ours = checks.our_pictures(prior, 1.0, predict=lambda x, t_B: prior.predict(x, t_B, cond))
    parts = {name: part for name, part in pipeline.components.items() if "image_encoder" != name != "feature_extractor"}
    stock = FluxControlPipeline(**{**parts, "transformer": network})
    stock.set_progress_bar_config(disable=True)
    _without_spread(stock.vae)
    made = theirs(stock, prior, checks.SIZES_PX[0], control_image=checks.shown(), guidance_scale=3.5)
    checks.assert_same_pictures(ours, made)


@torch.no_grad()
def _without_spread(vae: Any) -> None:
    """The pipelines draw the condition's latent; without spread there is nothing to draw."""
    vae.encoder.conv_out.bias[16:] = -100
    vae.encoder.conv_out.weight[16:] = 0


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])


# diffusers' own ControlNet of FLUX takes its positions from where diffusers says not to.
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@torch.no_grad()
def test_the_control_is_a_stock_controlnet(pair: tuple[Any, Prior], tmp_path: Path) -> None:
    pipeline, prior = pair
    checks.assert_control_is_heard(prior)
    prior.control.save_pretrained(tmp_path / "control")
    pipeline = FluxControlNetPipeline(
        **pipeline.components, controlnet=FluxControlNetModel.from_pretrained(tmp_path / "control")
    )
    pipeline.set_progress_bar_config(disable=True)
    _without_spread(pipeline.vae)
    stock = theirs(pipeline, prior, checks.SIZES_PX[0], control_image=checks.shown(), guidance_scale=3.5)
    checks.assert_same_pictures(checks.our_controlled_pictures(prior, 1.0), stock)


def test_sizes(pair: tuple[Any, Prior]) -> None:
    folder = str(pair[1].source)
    assert open_prior(folder, Loading(meta=True)).image_px == 128 * 2
    with pytest.raises(ConfigError, match=r"image_px: 18 is no multiple of 4\."):
        open_prior(folder, Loading(meta=True, image_px=18))


def test_another_input_is_refused(pair: tuple[Any, Prior]) -> None:
    file = pair[1].source / "transformer" / "config.json"
    file.write_text(file.read_text().replace('"in_channels": 64', '"in_channels": 384'))
    with pytest.raises(PriorError, match="a Fill, Canny or Depth model"):
        open_prior(str(pair[1].source))
