"""Z-Image: equal to diffusers' ZImagePipeline, on a toy folder of its layout."""

from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from family_checks import PROMPTS

from limner.errors import PriorError
from limner.priors.base import Prior
from limner.priors.open import open_prior


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "z_image", "z_image")


@pytest.mark.parametrize("guidance", [0.0, 2.5])
@pytest.mark.parametrize("size_px", checks.SIZES_PX)
def test_pictures_are_the_pipelines(pair: tuple[Any, Prior], size_px: tuple[int, int], guidance: float) -> None:
    pipeline, prior = pair
    theirs = pipeline(
        prompt=list(PROMPTS),
        height=size_px[0],
        width=size_px[1],
        latents=checks.noise(prior, size_px=size_px),
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="pt",
    ).images
    checks.assert_same_pictures(checks.our_pictures(prior, 1 + guidance, size_px), theirs)


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    vae = pair[0].vae
    checks.assert_autoencoder_is_the_stock_one(
        pair[1], lambda x: vae.encode(x).latent_dist, lambda z: vae.decode(z).sample, as_stock=lambda eps: eps
    )


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_padding_is_not_read(pair[1])
    checks.assert_room_is_true(pair[1])


@torch.no_grad()
def test_a_long_caption_is_cut_where_the_pipeline_cuts_it(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    caption = "q" * 600
    expected = torch.stack(pipeline.encode_prompt([caption], do_classifier_free_guidance=False)[0])
    torch.testing.assert_close(prior.encode_text([caption]).tokens_BLD, expected)


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    checks.assert_every_weight_learns(pair[1])
    checks.assert_adapters_learn(pair[1], num_layers=4 * 4)


def test_wider_input(pair: tuple[Any, Prior]) -> None:
    def copy_weights(network: Any) -> None:
        weight_DPC = network.all_x_embedder["2-1"].weight.unflatten(1, (4, 32))
        weight_DPC[:, :, 16:] = weight_DPC[:, :, :16]

    checks.assert_wider_input_is_heard_in_place(pair[1], copy_weights)


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])


def test_a_tokenizer_without_a_chat_template_is_refused(pair: tuple[Any, Prior]) -> None:
    folder = pair[1].source
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(PriorError, match="no chat template"):
        open_prior(str(folder))
