"""The mini prior's decoder, crisper, on the latents of an encoder that stays as it is.

Idea: the decoder learns on noisy latents, since a small denoiser's are a little off and a plain decoder shows that as
smears; at first from the picture alone, then also from a discriminator of patches, which tells it what crisp looks like
(as in VQGAN, Esser et al. 2021, with their balance of the two gradients). Latents, and what was learned on them, stay
valid.

    python recipes/mini/sharpen.py --scratch scratch/mini --minutes 40

Makes vae/ of the vae_plain/ of `autoencoder.py`. The same command goes on where it stopped.
"""

import argparse

import autoencoder
import torch
import torch.nn.functional as F
import training
from autoencoder import EMA_DECAY, Source, closeness, noisy
from composer import Stock
from diffusers import AutoencoderTiny
from sizes import add_options, existing
from torch import Tensor
from training import Average, State, by_the_clock

NOISE = 0.4  # the most that is added to unit-variance latents; each picture has its own amount below it
CRISP_SHARE = 0.5  # of the reconstruction's gradient on the last layer


def discriminator(width: int = 32) -> torch.nn.Sequential:
    """RGB in -1..1 -> a logit for each overlapping patch: real (positive) or made."""

    def layer(before: int, after: int, stride: int) -> list[torch.nn.Module]:
        convolution = torch.nn.Conv2d(before, after, 4 if stride == 2 else 3, stride, padding=1)
        return [torch.nn.utils.parametrizations.spectral_norm(convolution), torch.nn.LeakyReLU(0.2)]

    layers = [*layer(3, width, 2), *layer(width, 2 * width, 2), *layer(2 * width, 2 * width, 1)]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(2 * width, 1, 3, padding=1))


def draw(vae, source: Source, crop: bool) -> tuple[Tensor, Tensor]:
    """(noisy latents, the pictures), or the same quarters of both; quarters give more steps."""
    x_BCHW = source.draw()
    with torch.no_grad():
        z_BCHW = vae.encode(x_BCHW).latents.float()
    z_BCHW = noisy(z_BCHW, NOISE)
    if crop:
        half, times = z_BCHW.shape[2] // 2, x_BCHW.shape[2] // z_BCHW.shape[2]
        top, left = torch.randint(half + 1, (2,)).tolist()
        x_BCHW = x_BCHW[:, :, times * top : times * (top + half), times * left : times * (left + half)]
        z_BCHW = z_BCHW[:, :, top : top + half, left : left + half]
    return z_BCHW, x_BCHW.contiguous(memory_format=torch.channels_last)


def critic_loss(critic, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    real, made = critic(torch.cat([x_BCHW, y_BCHW.detach()])).chunk(2)
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()


def crispness(vae, critic, close: Tensor, y_BCHW: Tensor, share: float) -> Tensor:
    """What the critic says, weighed so that its gradient on the last layer is `share` of that of `close`."""
    crisp = -critic(y_BCHW).mean()
    last = vae.decoder.layers[-1].weight
    slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (close, crisp)]
    return (share * slopes[0] / (slopes[1] + 1e-6)).clamp(max=10) * crisp


def fit(vae, source: Source, options) -> AutoencoderTiny:
    """Trains by the clock; the critic's voice rises over a tenth of it. Returns the average of the weights."""
    critic = discriminator().to(options.device, memory_format=torch.channels_last)
    vae.requires_grad_(False).to(memory_format=torch.channels_last)
    average = Average(vae, EMA_DECAY)
    vae.decoder.requires_grad_(True)
    optimiser = torch.optim.AdamW(vae.decoder.parameters(), betas=(0.5, 0.95), fused=True)
    critics = torch.optim.AdamW(critic.parameters(), lr=options.rate / 2, betas=(0.5, 0.95), fused=True)
    parts = {"vae": vae, "average": average.model, "critic": critic, "optimiser": optimiser, "critics": critics}
    state, told = State(options.scratch / "sharpen.pt", **parts), torch.zeros(())
    state.restore()
    for done in by_the_clock(optimiser, options.rate, options.minutes, 50, state):
        z_BCHW, x_BCHW = draw(vae, source, crop=done < options.crop_share)
        share = CRISP_SHARE * min(1, (done - options.plain_share) / 0.1)
        with training.autocast(options.device):
            y_BCHW = vae.decode(z_BCHW).sample
            close = closeness(y_BCHW.float(), x_BCHW)
            if share > 0:
                told = critic_loss(critic, x_BCHW, y_BCHW)
                training.step(critics, told)
                critic.requires_grad_(False)
                loss = close + crispness(vae, critic, close, y_BCHW, share)
                critic.requires_grad_(True)
            else:
                loss = close
        training.step(optimiser, loss)
        average.update(vae, state.progress["steps"])
        if state.due(minutes=2):
            seen = state.progress["steps"] * options.batch
            print(
                f"{done:.2f} done, {seen} pictures, closeness {close.item():.3f}, critic {told.item():.3f}", flush=True
            )
    state.store()
    return average.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=existing, required=True, help="the folder of composer.py")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate, twice the critic's")
    parser.add_argument("--plain-share", type=float, default=0.3, help="of the time, at first, without the critic")
    parser.add_argument("--crop-share", type=float, default=0.85, help="of the time, at first, on quarter pictures")
    add_options(parser)
    options = parser.parse_args()
    torch.manual_seed(0)
    stock = Stock(options.scratch)
    vae = AutoencoderTiny.from_pretrained(options.scratch / "vae_plain").to(options.device)
    vae = fit(vae, Source(stock, options), options).cpu()
    vae.save_pretrained(options.scratch / "vae")
    autoencoder.figures(vae, stock, options.scratch / "vae")


if __name__ == "__main__":
    main()
