"""Qwen-Image: equal to diffusers' QwenImagePipeline, on a toy folder of its layout."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import family_checks as checks
import pytest
import torch
from family_checks import PROMPTS
from tiny_families import PICTURE_PX
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from limner.priors.base import Prior
from limner.sampling.guidance import guided


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Prior]:
    return checks.stock_and_prior(tmp_path / "qwen_image", "qwen_image")


def stock_pictures(pipeline: Any, prior: Prior, size_px: tuple[int, int], **options: Any) -> Tensor:
    return pipeline(
        prompt=list(PROMPTS),
        height=size_px[0],
        width=size_px[1],
        latents=pixel_unshuffle(checks.noise(prior, size_px=size_px), 2).flatten(2).transpose(1, 2),
        num_inference_steps=3,
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("size_px", checks.SIZES_PX)
def test_pictures_are_the_pipelines(pair: tuple[Any, Prior], size_px: tuple[int, int]) -> None:
    theirs = stock_pictures(*pair, size_px, true_cfg_scale=1.0)
    checks.assert_same_pictures(checks.our_pictures(pair[1], 1, size_px), theirs)


def test_guided_pictures_are_the_pipelines(pair: tuple[Any, Prior]) -> None:
    """True guidance, after which each token has the norm of its conditional prediction."""
    prior = pair[1]
    cond, null = prior.encode_text(PROMPTS), prior.encode_text(["", ""])
    predict = guided(prior, cond, null, 4.0, prior.guidance)
    theirs = stock_pictures(*pair, checks.SIZES_PX[0], true_cfg_scale=4.0, negative_prompt=["", ""])
    checks.assert_same_pictures(checks.our_pictures(prior, 4, predict=predict), theirs)


def test_the_autoencoder_is_the_pipelines(pair: tuple[Any, Prior]) -> None:
    vae = pair[0].vae

    class Frame:
        def __init__(self, x: Tensor) -> None:
            latent = vae.encode(x.unsqueeze(2)).latent_dist
            self.mean, self.std = latent.mean.squeeze(2), latent.std.squeeze(2)

    checks.assert_autoencoder_is_the_stock_one(
        pair[1], Frame, lambda z: vae.decode(z.unsqueeze(2)).sample.squeeze(2), as_stock=lambda eps: eps
    )


def test_threads_take_turns_with_the_autoencoder(pair: tuple[Any, Prior], monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its convolutions' past frames within itself: of 600 pictures encoded by four threads two were wrong."""
    prior = pair[1]
    vae: Any = prior.parts["vae"]
    within: list[str] = []
    most: list[int] = []

    def watched(name: str) -> Any:
        real = getattr(vae, name)

        def call(x: Tensor) -> Any:
            within.append(name)
            most.append(len(within))
            time.sleep(0.005)
            out = real(x)
            within.pop()
            return out

        return call

    monkeypatch.setattr(vae, "encode", watched("encode"))
    monkeypatch.setattr(vae, "decode", watched("decode"))
    x_BCHW, z_BCHW = torch.zeros(1, 3, PICTURE_PX, PICTURE_PX), checks.noise(prior, 1)
    with ThreadPoolExecutor(4) as threads:
        coming = [threads.submit(prior.encode_image, x_BCHW) for _ in range(6)]
        coming += [threads.submit(prior.decode, z_BCHW) for _ in range(6)]
        for one in coming:
            one.result()
    assert most == [1] * 12


def test_text(pair: tuple[Any, Prior]) -> None:
    checks.assert_rows_stand_alone(pair[1])
    checks.assert_padding_is_not_read(pair[1])
    checks.assert_room_is_true(pair[1])


@torch.no_grad()
def test_a_long_caption_is_cut_where_the_pipeline_cuts_it(pair: tuple[Any, Prior]) -> None:
    pipeline, prior = pair
    caption = "q" * 600
    expected = pipeline.encode_prompt([caption], max_sequence_length=512)[0]
    torch.testing.assert_close(prior.encode_text([caption]).tokens_BLD, expected)


def test_what_learns(pair: tuple[Any, Prior]) -> None:
    # What the last block makes of the text is thrown away.
    def thrown_away(name: str) -> bool:
        last = ("attn.to_add_out.", "txt_mlp.", "attn.add_q_proj.", "attn.norm_added_q.")
        return name.startswith("transformer_blocks.1.") and any(part in name for part in last)

    checks.assert_every_weight_learns(pair[1], thrown_away)
    checks.assert_adapters_learn(pair[1], 2 * 8, thrown_away)


def test_wider_input(pair: tuple[Any, Prior]) -> None:
    def copy_weights(network: Any) -> None:
        network.img_in.weight[:, 64:] = network.img_in.weight[:, :64]

    checks.assert_wider_input_is_heard_in_place(pair[1], copy_weights)


def test_without_weights(pair: tuple[Any, Prior]) -> None:
    checks.assert_meta_knows_its_sizes(pair[1])
