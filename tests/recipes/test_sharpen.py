"""A decoder that is sharpened against a critic."""

import pytest
import torch
from diffusers import AutoencoderTiny

from limner.priors.mini import FOLDER


@pytest.fixture(scope="module")
def sharpen():
    import sharpen

    return sharpen


def test_the_critic_speaks_as_loud_as_it_was_told(sharpen):
    vae, critic = AutoencoderTiny.from_pretrained(FOLDER / "vae"), sharpen.discriminator(8)
    z_BCHW, x_BCHW = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 32, 32)
    y_BCHW = vae.decode(z_BCHW).sample
    close = sharpen.closeness(y_BCHW, x_BCHW)
    crisp = sharpen.crispness(vae, critic, close, y_BCHW, 0.25)
    last = vae.decoder.layers[-1].weight
    sizes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (close, crisp)]
    torch.testing.assert_close(sizes[1], 0.25 * sizes[0], rtol=1e-3, atol=0)
