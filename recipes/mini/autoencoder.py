"""The mini prior's autoencoder: pictures <-> latents of 16x16 or 32x32, a stock diffusers class.

Idea: no posterior and no attention, a plain stack of residual blocks, most of them at the size of the latents. Latents
are kept near zero mean and unit variance, and noise is added to them while training, so that the denoiser meets a
smooth space and small errors of it stay small in the picture. `TRIAL.md` says what was tried.

    python recipes/mini/autoencoder.py --scratch scratch/mini --minutes 75
    python recipes/mini/autoencoder.py --scratch scratch/mini --size base --device cuda --batch 256 --minutes 8

Writes vae_plain/ to the scratch folder, of which `sharpen.py` makes vae/. The same command goes on where it stopped.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import composer
import pictures
import scenes
import torch
import torch.nn.functional as F
import training
from composer import Painter, Stock
from diffusers import AutoencoderTiny
from sizes import SIZES, Size, add_options, existing
from torch import Tensor
from training import Average, State, by_the_clock

LATENT_NOISE = 0.25  # the most that is added to unit-variance latents; each picture has its own amount below it
MOMENT_WEIGHT = 0.1  # keeps each latent channel near zero mean and unit variance
EMA_DECAY = 0.999
HALF_SHARE = 0.4  # of the time, at first, at half the reduction, where that is 8


def make(size: Size) -> AutoencoderTiny:
    """No block at full size: each there costs as much as 16 (or 64) at the size of the latents.

    Decoding is a small part of drawing a picture, so the decoder is the wider one.
    """
    stages = {4: (0, 2, 4), 8: (0, 2, 4, 4)}[size.reduction]
    return AutoencoderTiny(
        encoder_block_out_channels=(size.autoencoder_width,) * len(stages),
        decoder_block_out_channels=(size.decoder_width,) * len(stages),
        num_encoder_blocks=stages,
        num_decoder_blocks=stages[::-1],
        latent_channels=size.latent_channels,
    )


def halved(size: Size) -> Size:
    """With half the reduction: as many numbers, on twice the cells a side."""
    return replace(size, reduction=size.reduction // 2, latent_channels=size.latent_channels // 4)


def grown(vae: AutoencoderTiny, size: Size) -> AutoencoderTiny:
    """One more level at the bottom of an autoencoder of half the reduction; all its other layers are kept.

    An autoencoder of 8x that starts from random weights is slow to learn (`TRIAL.md`).
    """
    made = make(size)
    kept = len(vae.encoder.layers) - 1
    for mine, theirs in zip(made.encoder.layers[:kept], vae.encoder.layers[:kept], strict=True):
        mine.load_state_dict(theirs.state_dict())
    kept = len(vae.decoder.layers) - 2  # without what reads the latents, and its activation
    for mine, theirs in zip(made.decoder.layers[-kept:], vae.decoder.layers[-kept:], strict=True):
        mine.load_state_dict(theirs.state_dict())
    return made


def encode_scaled(vae: AutoencoderTiny, x_BCHW: Tensor) -> Tensor:
    """Latents as the denoiser meets them, of about unit variance."""
    return vae.encode(x_BCHW).latents * vae.config.scaling_factor


def slopes(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return x_BCHW.diff(dim=2), x_BCHW.diff(dim=3)


def closeness(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Distance of the pixels and of their differences to the neighbours."""
    loss = F.l1_loss(y_BCHW, x_BCHW) + F.mse_loss(y_BCHW, x_BCHW)
    return loss + sum(F.l1_loss(a, b) for a, b in zip(slopes(y_BCHW), slopes(x_BCHW), strict=True))


def noisy(z_BCHW: Tensor, most: float) -> Tensor:
    """Latents with noise, each picture's of its own amount below `most`."""
    return z_BCHW + most * torch.rand(len(z_BCHW), 1, 1, 1, device=z_BCHW.device) * torch.randn_like(z_BCHW)


def loss_of(vae: AutoencoderTiny, x_BCHW: Tensor) -> Tensor:
    z_BCHW = vae.encode(x_BCHW).latents
    y_BCHW = vae.decode(noisy(z_BCHW, LATENT_NOISE)).sample
    mean_C, std_C = z_BCHW.float().mean((0, 2, 3)), z_BCHW.float().std((0, 2, 3))
    return closeness(y_BCHW.float(), x_BCHW) + MOMENT_WEIGHT * (mean_C.square() + (std_C - 1).square()).mean()


@torch.no_grad()
def reconstruct(vae: AutoencoderTiny, x_BCHW: Tensor) -> Tensor:
    return torch.cat([vae.decode(vae.encode(x).latents).sample for x in x_BCHW.split(64)]).clamp(-1, 1)


def psnr(vae: AutoencoderTiny, x_BCHW: Tensor) -> float:
    """dB, range 0..1, the mean over pictures."""
    mse_B = ((reconstruct(vae, x_BCHW) - x_BCHW) / 2).square().mean((1, 2, 3))
    return float((-10 * mse_B.log10()).mean())


def held_out_pictures(stock: Stock) -> dict[str, Tensor]:
    """All four styles of the held-out concepts, as they are, on white and on random grounds."""
    rows = pictures.in_split(stock.concepts, "test", "validation")
    x_BCHW = stock.sprites[:, rows].flatten(0, 1).float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ground_BCHW = pictures.random_ground(len(x_BCHW), x_BCHW.shape[-1], white=0.0)
    return {"white": pictures.over(x_BCHW, torch.ones(1, 3, 1, 1)), "coloured": pictures.over(x_BCHW, ground_BCHW)}


class Source:
    """Batches of scenes, whole or a quarter of each."""

    def __init__(self, stock: Stock, options) -> None:
        self.stock, self.painter, self.batch = stock, Painter(stock, options.device), options.batch
        self.rng = random.Random(time.time())

    def draw(self, crop: bool = False) -> Tensor:
        some = [scenes.draw_scene(self.stock, self.rng) for _ in range(self.batch)]
        x_BCHW = self.painter.paint(composer.plan(self.stock, some, self.rng))
        half = x_BCHW.shape[-1] // 2
        if crop:
            top, left = self.rng.randrange(half + 1), self.rng.randrange(half + 1)
            x_BCHW = x_BCHW[:, :, top : top + half, left : left + half]
        return x_BCHW.contiguous(memory_format=torch.channels_last)


def fit(vae: AutoencoderTiny, source: Source, test: Tensor, minutes: float, options) -> AutoencoderTiny:
    """Trains by the clock; returns the average of the weights."""
    average = Average(vae, EMA_DECAY)
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    name = f"autoencoder_{vae.config.latent_channels}.pt"
    state = State(options.scratch / name, vae=vae, average=average.model, optimiser=optimiser)
    state.restore()
    for done in by_the_clock(optimiser, options.rate, minutes, 50, state):
        # Quarter pictures give four times the steps, and steps are short; whole ones at the end mend the borders.
        with training.autocast(options.device):
            loss = loss_of(vae, source.draw(crop=done < options.crop_share))
        training.step(optimiser, loss)
        average.update(vae, state.progress["steps"])
        if state.due(minutes=2):
            seen = state.progress["steps"] * options.batch
            print(f"{done:.2f} done, {seen} pictures, held-out {psnr(average.model, test):.2f} dB", flush=True)
    state.store()
    return average.model


@torch.no_grad()
def finish(vae: AutoencoderTiny, source: Source, folder: Path) -> None:
    """Sets `scaling_factor` so that scaled latents have unit variance, and saves."""
    latents = torch.cat([vae.encode(source.draw()).latents for _ in range(16)]).float()
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    vae.save_pretrained(folder)
    print(f"latents: mean {latents.mean((0, 2, 3)).tolist()}, std {latents.std((0, 2, 3)).tolist()}", flush=True)


def figures(vae: AutoencoderTiny, stock: Stock, folder: Path) -> None:
    """PSNR on held-out pictures, and a sheet of some with what comes back below."""
    vae = vae.cpu()
    test = held_out_pictures(stock)
    row = {f"psnr_{ground}_db": round(psnr(vae, x), 2) for ground, x in test.items()}
    (folder / "figures.json").write_text(json.dumps(row, indent=1))
    print(json.dumps(row), flush=True)
    x_BCHW = torch.cat([test["white"][::80], test["coloured"][::80]])
    pictures.sheet(torch.cat([x_BCHW, reconstruct(vae, x_BCHW)]), len(x_BCHW) // 2, folder / "sheet.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=existing, required=True, help="the folder of composer.py")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--crop-share", type=float, default=0.6, help="of the time, at first, on quarter pictures")
    add_options(parser)
    options = parser.parse_args()
    stock, size = Stock(options.scratch), SIZES[options.size]
    torch.manual_seed(0)
    test = held_out_pictures(stock)["white"][::4].to(options.device)
    source = Source(stock, options)

    def trained(vae: AutoencoderTiny, share: float) -> AutoencoderTiny:
        vae.train().to(options.device, memory_format=torch.channels_last)
        return fit(vae, source, test, share * options.minutes, options)

    if size.reduction == 4:
        vae = trained(make(size), 1)
    else:
        vae = trained(make(halved(size)), HALF_SHARE)
        vae = trained(grown(vae, size), 1 - HALF_SHARE)
    finish(vae, source, options.scratch / "vae_plain")
    figures(vae, stock, options.scratch / "vae_plain")


if __name__ == "__main__":
    main()
