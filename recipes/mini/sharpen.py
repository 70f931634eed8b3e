"""A crisper decoder for the mini prior, on the same latents.

Idea: a small denoiser's latents are a little off, and the plain decoder shows that as smears. So the decoder alone goes
on, on noisier latents, and a discriminator of patches tells it what crisp looks like (as in VQGAN, Esser et al. 2021,
with their balance of the two gradients). The encoder is frozen: latents, and what was learned on them, stay valid.

    python recipes/mini/sharpen.py --scratch scratch/mini --minutes 10

Reads vae_plain/ of `autoencoder.py`, writes vae/.
"""

import argparse
import time
from pathlib import Path

import autoencoder
import torch
import torch.nn.functional as F
from autoencoder import Source, closeness
from composer import Stock
from diffusers import AutoencoderTiny
from sizes import add_options
from torch import Tensor

NOISE = 0.4  # the most that is added to unit-variance latents; each picture has its own amount below it
CRISP_SHARE = 0.5  # of the reconstruction's gradient on the last layer


def discriminator(width: int = 32) -> torch.nn.Sequential:
    """RGB in -1..1 -> a logit for each overlapping patch: real (positive) or made."""

    def layer(before: int, after: int, stride: int) -> list[torch.nn.Module]:
        convolution = torch.nn.Conv2d(before, after, 4 if stride == 2 else 3, stride, padding=1)
        return [torch.nn.utils.parametrizations.spectral_norm(convolution), torch.nn.LeakyReLU(0.2)]

    layers = [*layer(3, width, 2), *layer(width, 2 * width, 2), *layer(2 * width, 2 * width, 1)]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(2 * width, 1, 3, padding=1))


def draw(vae, source: Source) -> tuple[Tensor, Tensor]:
    """(quarters of noisy latents, the same quarters of the pictures); quarters give more steps."""
    x_BCHW = source.draw()
    with torch.no_grad():
        z_BCHW = vae.encode(x_BCHW).latents.float()
    z_BCHW = z_BCHW + NOISE * torch.rand(len(z_BCHW), 1, 1, 1, device=z_BCHW.device) * torch.randn_like(z_BCHW)
    half, times = z_BCHW.shape[2] // 2, x_BCHW.shape[2] // z_BCHW.shape[2]
    top, left = torch.randint(half + 1, (2,)).tolist()
    x_BCHW = x_BCHW[:, :, times * top : times * (top + half), times * left : times * (left + half)]
    return z_BCHW[:, :, top : top + half, left : left + half], x_BCHW.contiguous(memory_format=torch.channels_last)


def critic_loss(critic, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    real, made = critic(torch.cat([x_BCHW, y_BCHW.detach()])).chunk(2)
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()


def decoder_loss(vae, critic, x_BCHW: Tensor, y_BCHW: Tensor, share: float) -> Tensor:
    """Close to the picture, and crisp; the gradients' sizes on the last layer are as 1 to `share`."""
    close = closeness(y_BCHW, x_BCHW)
    crisp = -critic(y_BCHW).mean()
    last = vae.decoder.layers[-1].weight
    slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (close, crisp)]
    return close + (share * slopes[0] / (slopes[1] + 1e-6)).clamp(max=10) * crisp


def fit(vae, source: Source, options) -> None:
    """Trains by the clock, on a falling learning rate; the critic's voice rises over the first tenth."""
    critic = discriminator().to(options.device, memory_format=torch.channels_last)
    vae.requires_grad_(False).to(memory_format=torch.channels_last)
    vae.decoder.requires_grad_(True)
    weights = list(vae.decoder.parameters())
    players = (weights, critic.parameters())
    optimisers = [torch.optim.AdamW(player, lr=options.rate, betas=(0.5, 0.95)) for player in players]
    start, steps, looks = time.time(), 0, 0
    while (done := (time.time() - start) / (60 * options.minutes)) < 1:
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = options.rate * min(1, (steps + 1) / 50, 2 * (1 - done))
        z_BCHW, x_BCHW = draw(vae, source)
        y_BCHW = vae.decode(z_BCHW).sample
        told = critic_loss(critic, x_BCHW, y_BCHW)
        optimisers[1].zero_grad()
        told.backward()
        optimisers[1].step()
        loss = decoder_loss(vae, critic, x_BCHW, y_BCHW, CRISP_SHARE * min(1, done / 0.1))
        optimisers[0].zero_grad()
        loss.backward(inputs=weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimisers[0].step()
        steps += 1
        if done * options.minutes > looks + 1:
            looks += 1
            seen = steps * options.batch
            print(f"{looks} min, {seen} pictures, decoder {loss.item():.3f}, critic {told.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with vae_plain/")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate of both")
    add_options(parser)
    options = parser.parse_args()
    torch.manual_seed(0)
    stock, vae = Stock(options.scratch), AutoencoderTiny.from_pretrained(options.scratch / "vae_plain")
    vae.to(options.device)
    fit(vae, Source(stock, options), options)
    vae.cpu().save_pretrained(options.scratch / "vae")
    autoencoder.figures(vae, stock, options.scratch / "vae")


if __name__ == "__main__":
    main()
