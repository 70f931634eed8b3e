"""What every prior of an open family must do, as functions: be equal to its stock pipeline, and whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tiny_families import PICTURE_PX, family_folder
from torch import Tensor

from limner.config import AdapterConfig
from limner.priors.base import Prior
from limner.priors.folder import Loading
from limner.priors.open import open_prior
from limner.sampling.guidance import guided
from limner.sampling.sampler import sample
from limner.types import Cond

PROMPTS = ["a red fox", "two very blue cats in the spatial background of an image"]
# Height and width of two pictures of as many patches, for shifts that depend on how many there are.
SIZES_PX = [(PICTURE_PX, PICTURE_PX), (PICTURE_PX // 2, PICTURE_PX * 2)]


def stock_and_prior(folder: Path, family: str) -> tuple[Any, Prior]:
    """The stock pipeline of a toy folder, and limner's prior of the same."""
    family_folder(folder, family)
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, open_prior(str(folder), Loading(image_px=PICTURE_PX))


def noise(prior: Prior, num: int = 2, seed: int = 1, size_px: tuple[int, int] = SIZES_PX[0]) -> Tensor:
    channels, rows, _ = prior.latent_CHW
    height, width = (side * rows // PICTURE_PX for side in size_px)
    return torch.randn(num, channels, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def our_pictures(
    prior: Prior,
    scale: float,
    size_px: tuple[int, int] = SIZES_PX[0],
    num_steps: int = 3,
    predict: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Pictures of ``PROMPTS`` in [0, 1] from ``noise``; ``predict`` stands in where guidance is not the plain one."""
    if predict is None:
        predict = guided(prior, prior.encode_text(PROMPTS), prior.encode_text(["", ""]), scale)
    z = sample(predict, prior.path, noise(prior, size_px=size_px), num_steps=num_steps, solver="euler")
    return (prior.decode(z) + 1) / 2


def assert_same_pictures(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.02
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@torch.no_grad()
def assert_autoencoder_is_the_stock_one(
    prior: Prior, encode: Callable[[Tensor], Any], decode: Callable[[Tensor], Tensor], as_stock: Any
) -> None:
    """Mean, std and decoded latents.

    Args:
        encode, decode: the stock autoencoder's own, no normalisation: pictures -> distribution, latents -> pictures.
        as_stock: the cells of limner's latent where the stock autoencoder has them.
    """
    x_BCHW = torch.rand(2, 3, PICTURE_PX, PICTURE_PX, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean_BCHW, std_BCHW = prior.encode_image(x_BCHW)
    assert mean_BCHW.shape == std_BCHW.shape == (2, *prior.latent_CHW)
    stock, eps = encode(x_BCHW), noise(prior)
    torch.testing.assert_close(prior.decode(mean_BCHW), decode(stock.mean).clamp(-1, 1), atol=1e-5, rtol=0)
    drawn = decode(stock.mean + 3 * stock.std * as_stock(eps)).clamp(-1, 1)
    torch.testing.assert_close(prior.decode(prior.draw(mean_BCHW, std_BCHW, 3 * eps)), drawn, atol=1e-5, rtol=0)
    assert (drawn - decode(stock.mean)).abs().max() > 0.01


@torch.no_grad()
def assert_rows_stand_alone(prior: Prior) -> None:
    """A caption's row, and what the network says of it, is the same whatever else is in the batch."""
    captions = [*PROMPTS, "", "q" * 100]
    together, t_B = prior.encode_text(captions), torch.tensor([0.2, 0.5, 0.7, 1.0])
    assert together.tokens_BLD.shape == (4, prior.num_tokens, prior.token_dim)
    x = noise(prior, 4)
    out = prior.predict(x, t_B, together)
    assert out.shape == x.shape
    for i, caption in enumerate(captions):
        alone = prior.encode_text([caption])
        torch.testing.assert_close(alone.tokens_BLD, together.tokens_BLD[i : i + 1], atol=1e-5, rtol=1e-4)
        if together.mask_BL is not None:
            assert torch.equal(alone.mask_BL, together.mask_BL[i : i + 1])
        said = prior.predict(x[i : i + 1], t_B[i : i + 1], alone)
        torch.testing.assert_close(said, out[i : i + 1], atol=1e-4, rtol=1e-3)
    swapped = together.map(lambda part: part.flip(0))
    assert (prior.predict(x, t_B, swapped) - out).abs().max() > 0.01, "the text is not heard"


@torch.no_grad()
def assert_padding_is_not_read(prior: Prior) -> None:
    cond = prior.encode_text(PROMPTS)
    assert cond.mask_BL is not None
    assert not cond.mask_BL.all()
    noisy = torch.where(cond.mask_BL.unsqueeze(-1), cond.tokens_BLD, torch.randn_like(cond.tokens_BLD))
    x, t_B = noise(prior), torch.tensor([0.3, 0.8])
    expected = prior.predict(x, t_B, cond)
    torch.testing.assert_close(prior.predict(x, t_B, Cond(noisy, mask_BL=cond.mask_BL)), expected, atol=1e-5, rtol=0)
    more = torch.randn(2, 3, prior.token_dim, generator=torch.Generator().manual_seed(3))
    assert (prior.predict(x, t_B, cond.with_tokens(more)) - expected).abs().max() > 1e-3, "added tokens are not read"


@torch.no_grad()
def assert_room_is_true(prior: Prior, unit: str = "q") -> None:
    """What ``count_tokens`` says is cut off is what the network does not get, and no less; ``unit`` is one token."""
    room = prior.count_tokens("q").room
    fits, longer = unit * room, unit * (room + 5)
    assert (prior.count_tokens(fits).num, prior.count_tokens(fits).cut_off) == (room, "")
    assert prior.count_tokens(longer).num == room + 5
    assert prior.count_tokens(longer).cut_off
    one, two, less = prior.encode_text([fits, longer, unit * (room - 1) + "z"]).tokens_BLD
    assert torch.equal(one, two)
    assert not torch.equal(one, less)


def assert_adapters_learn(prior: Prior, num_layers: int, without: Callable[[str], bool] = lambda name: False) -> None:
    """LoRA goes to the family's own layers, a gradient reaches each, and nothing else learns."""
    network = prior.adapt(AdapterConfig(adapter="lora", rank=2))
    learning = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in learning)
    assert len(learning) == 2 * num_layers
    _lower(prior)
    for name, weight in learning.items():
        if "lora_B" in name and not without(name):  # A's gradient is zero as long as B is
            assert weight.grad is not None
            assert weight.grad.abs().max() > 0, name


def assert_every_weight_learns(prior: Prior, without: Callable[[str], bool] = lambda name: False) -> None:
    """Full fine-tuning reaches all weights but those that no output depends on."""
    network = prior.adapt(AdapterConfig(adapter="full"))
    _lower(prior)
    deaf = {name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert deaf == {name for name, _ in network.named_parameters() if without(name)}


def _lower(prior: Prior) -> None:
    with torch.no_grad():
        cond = prior.encode_text(PROMPTS)
    prior.loss(noise(prior, seed=3), noise(prior), torch.tensor([0.3, 0.9]), cond).mean().backward()


@torch.no_grad()
def assert_wider_input_is_heard_in_place(prior: Prior, copy_weights: Callable[[Any], None]) -> None:
    """Zero weights change nothing; with the old weights copied to the new, planes y beside x say what x + y says."""
    cond, t_B = prior.encode_text(PROMPTS), torch.tensor([0.3, 0.9])
    x, y = noise(prior), noise(prior, seed=3)
    before, of_the_sum = prior.predict(x, t_B, cond), prior.predict(x + y, t_B, cond)
    prior.widen_input(prior.latent_CHW[0])
    torch.testing.assert_close(prior.predict(x, t_B, cond.with_channels(y)), before, atol=1e-5, rtol=1e-5)
    copy_weights(prior.network)
    torch.testing.assert_close(prior.predict(x, t_B, cond.with_channels(y)), of_the_sum, atol=1e-4, rtol=1e-4)


def shown() -> Tensor:
    """Two condition pictures in [-1, 1]."""
    return torch.rand(2, 3, PICTURE_PX, PICTURE_PX, generator=torch.Generator().manual_seed(4)) * 2 - 1


@torch.no_grad()
def our_controlled_pictures(prior: Prior, scale: float, num_steps: int = 3) -> Tensor:
    """Pictures of ``PROMPTS`` and ``shown`` in [0, 1], by a prior that has a control."""
    control_BCHW = prior.control_input(shown())
    cond, null = (replace(prior.encode_text(texts), control_BCHW=control_BCHW) for texts in (PROMPTS, ["", ""]))
    return our_pictures(prior, scale, num_steps=num_steps, predict=guided(prior, cond, null, scale))


@torch.no_grad()
def assert_control_is_heard(prior: Prior) -> None:
    """A new control changes nothing; with weights of some size it does. The prior's own weights and sizes stay."""
    cond, t_B, x = prior.encode_text(PROMPTS), torch.tensor([0.3, 0.9]), noise(prior)
    before, sizes = prior.predict(x, t_B, cond), dict(prior.network.config)
    control = prior.add_control()
    assert dict(prior.network.config) == sizes
    cond = replace(cond, control_BCHW=prior.control_input(shown()))
    torch.testing.assert_close(prior.predict(x, t_B, cond), before, atol=1e-5, rtol=1e-5)
    generator = torch.Generator().manual_seed(5)
    for weight in control.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    with_picture = prior.predict(x, t_B, cond)
    assert (with_picture - before).abs().max() > 0.01
    other = replace(cond, control_BCHW=prior.control_input(-shown()))
    assert (prior.predict(x, t_B, other) - with_picture).abs().max() > 1e-3, "the picture is not seen"


def assert_meta_knows_its_sizes(prior: Prior) -> None:
    """Without weights the prior has the same sizes and counts tokens; nothing of the network is in memory."""
    bare = open_prior(str(prior.source), Loading(meta=True, image_px=PICTURE_PX))
    assert {weight.device.type for weight in bare.network.parameters()} == {"meta"}
    for name in ("latent_CHW", "multiple_px", "image_px", "token_dim", "num_tokens", "adapter_targets"):
        assert getattr(bare, name) == getattr(prior, name)
    assert bare.count_tokens("a fox") == prior.count_tokens("a fox")
