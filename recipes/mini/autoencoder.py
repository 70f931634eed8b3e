"""The mini prior's autoencoder: 64 px pictures <-> 16x16 latents, a stock diffusers class.

Idea: a few candidates train for the same number of minutes on the same pictures; the best on held-out concepts goes on.
Latents are kept near zero mean and unit variance, and noise is added to them while training, so that the denoiser
meets a smooth space and small errors of it stay small in the picture.

    python recipes/mini/autoencoder.py trial --scratch scratch/mini --minutes 2
    python recipes/mini/autoencoder.py train --scratch scratch/mini --candidate tiny32c4 --minutes 12 --crop-px 32
"""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import pictures
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny

LATENT_NOISE = 0.1  # added to unit-variance latents while training
MOMENT_WEIGHT = 0.1  # keeps each latent channel near zero mean and unit variance
KL_WEIGHT = 1e-5
BATCH = 16


def tiny(width: int, channels: int) -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 2, 4),  # no block at full size: each there costs as much as 16 at latent size
        num_decoder_blocks=(4, 2, 0),
        latent_channels=channels,
    )


def kl(widths: tuple[int, int, int], channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


CANDIDATES = {
    "tiny32c4": lambda: tiny(32, 4),
    "tiny32c8": lambda: tiny(32, 8),
    "kl16c4": lambda: kl((16, 32, 64), 4),
}


def encode(vae, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and the KL term (zero for an autoencoder without a posterior)."""
    if isinstance(vae, AutoencoderTiny):
        return vae.encode(x_BCHW).latents, x_BCHW.new_zeros(())
    posterior = vae.encode(x_BCHW).latent_dist
    return (posterior.sample() if vae.training else posterior.mean), posterior.kl().mean() / posterior.mean[0].numel()


def edges(x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x_BCHW.diff(dim=2), x_BCHW.diff(dim=3)


def loss_of(vae, x_BCHW: torch.Tensor) -> torch.Tensor:
    z_BCHW, kl_term = encode(vae, x_BCHW)
    y_BCHW = vae.decode(z_BCHW + LATENT_NOISE * torch.randn_like(z_BCHW)).sample
    loss = F.l1_loss(y_BCHW, x_BCHW) + F.mse_loss(y_BCHW, x_BCHW)
    loss = loss + sum(F.l1_loss(a, b) for a, b in zip(edges(y_BCHW), edges(x_BCHW), strict=True))
    mean_C, std_C = z_BCHW.mean((0, 2, 3)), z_BCHW.std((0, 2, 3))
    return loss + MOMENT_WEIGHT * (mean_C.square() + (std_C - 1).square()).mean() + KL_WEIGHT * kl_term


@torch.no_grad()
def psnr(vae, x_BCHW: torch.Tensor) -> float:
    """dB, range 0..1, the mean over pictures."""
    vae.eval()
    y_BCHW = torch.cat([vae.decode(encode(vae, x)[0]).sample for x in x_BCHW.split(64)]).clamp(-1, 1)
    vae.train()
    mse_B = ((y_BCHW - x_BCHW) / 2).square().mean((1, 2, 3))
    return float((-10 * mse_B.log10()).mean())


def held_out_pictures(data_SNCHW, concepts) -> dict[str, torch.Tensor]:
    """All four styles of the held-out concepts, as they are, on white and on random grounds."""
    rows = pictures.in_split(concepts, "test", "validation")
    x_BCHW = data_SNCHW[:, rows].flatten(0, 1).float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ground_BCHW = pictures.random_ground(len(x_BCHW), 64, white=0.0)
    return {"white": pictures.over(x_BCHW, torch.ones(1, 3, 1, 1)), "coloured": pictures.over(x_BCHW, ground_BCHW)}


@torch.no_grad()
def draw_sheet(vae, test: dict[str, torch.Tensor], path: Path) -> None:
    """A few held-out pictures, and below them what comes back."""
    x_BCHW = torch.cat([test["white"][::80], test["coloured"][::80]])
    made_BCHW = vae.eval().decode(encode(vae, x_BCHW)[0]).sample
    pictures.sheet(torch.cat([x_BCHW, made_BCHW]), len(x_BCHW) // 2, path)


def draw_batch(train_SNCHW: torch.Tensor, crop_px: int = 64) -> torch.Tensor:
    S, N = train_SNCHW.shape[:2]
    x_BCHW = train_SNCHW[torch.randint(S, (BATCH,)), torch.randint(N, (BATCH,))].float() / 255
    x_BCHW = pictures.over(pictures.jitter(x_BCHW), pictures.random_ground(BATCH, 64))
    top, left = torch.randint(64 - crop_px + 1, (2,)).tolist()
    x_BCHW = x_BCHW[:, :, top : top + crop_px, left : left + crop_px]
    return x_BCHW.to(memory_format=torch.channels_last)


def fit(vae, train_SNCHW, test, minutes: float, target_db: float, peak_rate: float, crop_px: int, after_minute) -> dict:
    """Trains by the clock: warm-up, then cosine to zero at `minutes`; looks at held-out pictures once a minute."""
    vae.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=peak_rate, weight_decay=0.01, betas=(0.9, 0.99))
    start, steps, looks, rest_s = time.time(), 0, 0, 0.0
    while (done := (time.time() - start - rest_s) / (60 * minutes)) < 1:
        rate = peak_rate * min(1, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        # Quarter pictures give four times the steps, and steps are short; whole ones at the end mend the borders.
        loss = loss_of(vae, draw_batch(train_SNCHW, crop_px if done < 0.75 else 64))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        steps += 1
        if done * minutes > looks + 1:
            looks, rest = looks + 1, time.time()
            db = psnr(vae, test["white"][::4])
            print(f"{looks} min, {steps * BATCH} pictures, loss {loss.item():.4f}, held-out {db:.2f} dB", flush=True)
            after_minute()
            rest_s += time.time() - rest
            if db >= target_db:
                break
    trained_s = time.time() - start - rest_s
    return {"minutes": trained_s / 60, "pictures": steps * BATCH, "pictures_per_s": steps * BATCH / trained_s}


@torch.no_grad()
def finish(vae, train_SNCHW, folder: Path) -> None:
    """Sets `scaling_factor` so that scaled latents have unit variance, and saves."""
    vae.eval()
    latents = torch.cat([encode(vae, draw_batch(train_SNCHW))[0] for _ in range(16)])
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    vae.save_pretrained(folder)
    print(f"latents: mean {latents.mean((0, 2, 3)).tolist()}, std {latents.std((0, 2, 3)).tolist()}", flush=True)
    vae.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["trial", "train"])
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with pictures.npy")
    parser.add_argument(
        "--candidate", choices=list(CANDIDATES), help="train: which one goes on (from its trial weights)"
    )
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), help="trial: which candidates")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--target-db", type=float, default=99, help="stop early at this held-out PSNR on white")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--crop-px", type=int, default=64, help="side of the crops for the first 75 %% of the time")
    options = parser.parse_args()
    data_SNCHW, concepts = pictures.load(options.scratch)
    train_SNCHW = data_SNCHW[:, pictures.in_split(concepts, "train")]
    test = held_out_pictures(data_SNCHW, concepts)

    for name in [options.candidate] if options.what == "train" else options.only:
        torch.manual_seed(0)
        vae, folder = CANDIDATES[name](), options.scratch / "trial" / name
        if options.what == "train":
            vae, folder = type(vae).from_pretrained(folder), options.scratch / "vae"
        row = fit(
            vae, train_SNCHW, test, options.minutes, options.target_db, options.rate, options.crop_px,
            after_minute=partial(finish, vae, train_SNCHW, folder),
        )  # fmt: skip
        finish(vae, train_SNCHW, folder)
        row |= {"name": name, "parameters": sum(p.numel() for p in vae.parameters())}
        row |= {f"psnr_{ground}_db": psnr(vae, x) for ground, x in test.items()}
        (folder / "figures.json").write_text(json.dumps(row, indent=1))
        print(json.dumps(row), flush=True)
        draw_sheet(vae, test, folder / "sheet.png")


if __name__ == "__main__":
    main()
