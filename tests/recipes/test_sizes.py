"""The sizes of the mini prior: what is built, and whether it fits the package."""

import pytest
import torch

TEXT_PARAMETERS = 2.4e6  # 8,404 pieces of 192 and two layers
EYE_BYTES = 14.2e6  # EfficientNet-Lite0 and such a text side, in 16 bit


@pytest.fixture(scope="module")
def recipe():
    import autoencoder
    import denoiser
    import sizes

    return autoencoder, denoiser, sizes


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["small", "base"])
def test_what_ships_fits_in_48_mb(recipe, name):
    autoencoder, denoiser, sizes = recipe
    size = sizes.SIZES[name]
    with torch.device("meta"):
        parts = [denoiser.make_unet(size, 192), autoencoder.make(size)]
    assert 2 * (sum(map(weights, parts)) + TEXT_PARAMETERS) + EYE_BYTES < 48e6


def test_each_size_is_larger(recipe):
    _, denoiser, sizes = recipe
    with torch.device("meta"):
        counts = [weights(denoiser.make_unet(size, 192)) for size in sizes.SIZES.values()]
    assert counts == sorted(counts) and counts[-1] > 4 * counts[0]


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_pictures_to_latents_and_back(recipe, name):
    autoencoder, _, sizes = recipe
    size = sizes.SIZES[name]
    vae, x_BCHW = autoencoder.make(size), torch.rand(1, 3, size.picture_px, size.picture_px) * 2 - 1
    with torch.no_grad():
        z_BCHW = vae.encode(x_BCHW).latents
        assert z_BCHW.shape == (1, size.latent_channels, *[size.picture_px // size.reduction] * 2)
        assert vae.decode(z_BCHW).sample.shape == x_BCHW.shape


def test_the_text_as_a_whole_reaches_the_unet(recipe):
    """Also with attention to single words cut off."""
    _, denoiser, sizes = recipe
    torch.manual_seed(0)
    unet = denoiser.make_unet(sizes.SIZES["small"], 32).eval()
    for name, weight in unet.named_parameters():
        if "attn2.to_v" in name:
            weight.data.zero_()
    z_BCHW, words_BTD = torch.randn(1, 4, 16, 16), torch.randn(1, 8, 32)
    with torch.no_grad():
        one, other = (unet(z_BCHW, 500, words).sample for words in (words_BTD, -words_BTD))
    assert (one - other).abs().max() > 1e-3
