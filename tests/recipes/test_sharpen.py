"""A new decoder on old latents."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from limner.priors.mini import FOLDER

RECIPE = Path(__file__).parents[2] / "recipes" / "mini"


@pytest.fixture(scope="module")
def sharpen():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        import sharpen

        yield sharpen


def test_a_new_decoder_leaves_the_latents_as_they_were(sharpen, tmp_path):
    before = AutoencoderTiny.from_pretrained(FOLDER / "vae")
    sharpen.renewed(before, 48).save_pretrained(tmp_path)
    after = AutoencoderTiny.from_pretrained(tmp_path)
    x_BCHW = torch.rand(2, 3, 32, 32) * 2 - 1
    z_BCHW = after.encode(x_BCHW).latents
    assert torch.equal(z_BCHW, before.encode(x_BCHW).latents)
    assert after.config.scaling_factor == before.config.scaling_factor
    assert after.decode(z_BCHW).sample.shape == x_BCHW.shape
    assert after.decoder.layers[0].out_channels == 48


def test_the_critic_speaks_as_loud_as_it_was_told(sharpen):
    vae, critic = AutoencoderTiny.from_pretrained(FOLDER / "vae"), sharpen.discriminator(8)
    z_BCHW, x_BCHW = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 32, 32)
    y_BCHW = vae.decode(z_BCHW).sample
    close = sharpen.closeness(y_BCHW, x_BCHW)
    crisp = sharpen.crispness(vae, critic, close, y_BCHW, 0.25)
    last = vae.decoder.layers[-1].weight
    sizes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (close, crisp)]
    torch.testing.assert_close(sizes[1], 0.25 * sizes[0], rtol=1e-3, atol=0)
