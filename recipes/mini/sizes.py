"""How large the mini prior is made: one table that every program of this recipe reads with `--size`.

`small` is what two CPU cores can train in hours, and what ships until a GPU has run the recipe; `base` fits the package
(48 MB of 16-bit weights) and is tuned for half an hour of an H100; `large` is a matter of more such half hours.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    picture_px: int
    reduction: int  # of the autoencoder: latents have picture_px / reduction rows
    latent_channels: int
    autoencoder_width: int
    decoder_width: int
    unet_widths: tuple[int, ...]
    unet_attention: tuple[bool, ...]  # on which levels
    unet_blocks: int  # a level
    time_width: int  # of the vector that carries time and the gist of the text


SIZES = {
    "small": Size(64, 4, 4, 32, 64, (32, 64, 128, 192), (False, True, True, False), 1, 512),
    "base": Size(128, 8, 16, 48, 64, (96, 144, 208), (False, True, False), 1, 512),
    "large": Size(256, 8, 16, 64, 128, (192, 384, 576), (False, True, False), 2, 1024),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--size`, `--device`: the same words in every program that trains."""
    parser.add_argument("--size", choices=list(SIZES), default="small")
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda")


def existing(name: str) -> Path:
    """The type of an option that names something to read: a typo is an error at once."""
    if not (path := Path(name)).exists():
        raise argparse.ArgumentTypeError(f"{name} is not there")
    return path
