"""Scenes as the denoiser meets them: chunks of latents, their captions, and what a frozen network sees in them.

Idea: composing and encoding a scene costs a third of a training step on it, so each scene is used `PASSES` times, each
time with another noise and another time. A chunk is a pure function of the seed and its number, and so is the order in
which its scenes are used: a run that was killed makes the same chunk again and goes on in the middle of it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import autoencoder
import captions
import composer
import scenes
import torch
from composer import Painter, Plan, Stock
from diffusers import AutoencoderTiny
from near import Near
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

BATCHES = 64  # a chunk holds this many batches
PASSES = 4
ENCODED_AT_ONCE = 64


@dataclass
class Chunk:
    """Scaled latents (N, C, H, W), token ids (N, T), and features of the pictures (N, D, h, w)."""

    z_NCHW: Tensor
    ids_NT: Tensor
    feature_NDHW: Tensor

    def batch(self, order_N: Tensor) -> "Chunk":
        return Chunk(self.z_NCHW[order_N], self.ids_NT[order_N], self.feature_NDHW[order_N].float())


class Layouts(Dataset):
    """Chunk number -> scenes laid out but not painted, plans of `ENCODED_AT_ONCE` each, and token ids (N, T)."""

    def __init__(
        self, stock: Stock, near: Near, tokenizer: CLIPTokenizer, num: int, seed: int, mix: scenes.Mix
    ) -> None:
        self.stock, self.near, self.tokenizer, self.num, self.seed, self.mix = stock, near, tokenizer, num, seed, mix

    def __getitem__(self, number: int) -> tuple[list[Plan], Tensor]:
        rng = random.Random(f"{self.seed}/{number}")
        some = [self.mix.draw(self.stock, rng) for _ in range(self.num)]
        texts = [scenes.caption(self.stock, scene, rng, near=self.near) for scene in some]
        ids_NT = captions.tokens(self.tokenizer, texts)
        parts = [some[n : n + ENCODED_AT_ONCE] for n in range(0, self.num, ENCODED_AT_ONCE)]
        return [composer.plan(self.stock, part, rng) for part in parts], ids_NT


class Encoder:
    """Layouts -> chunks, on the device of the painter."""

    def __init__(self, vae: AutoencoderTiny, painter: Painter, see: Callable[[Tensor], Tensor]) -> None:
        self.vae, self.painter, self.see = vae, painter, see

    @torch.no_grad()
    def __call__(self, plans: list[Plan], ids_NT: Tensor) -> Chunk:
        z, seen = [], []
        for plan in plans:
            x_BCHW = self.painter.paint(plan).contiguous(memory_format=torch.channels_last)
            z.append(autoencoder.encode_scaled(self.vae, x_BCHW).float())
            seen.append(self.see(x_BCHW).half())
        return Chunk(torch.cat(z), ids_NT.to(self.painter.device), torch.cat(seen))


def batches(layouts: Layouts, encode: Encoder, batch: int, step: int, workers: int) -> Iterator[Chunk]:
    """Endless batches from `step` on; `workers` processes lay out scenes ahead."""
    steps = BATCHES * PASSES  # that a chunk lasts
    numbers = range(step // steps, 1 << 40)
    for number, layout in zip(numbers, DataLoader(layouts, None, sampler=numbers, num_workers=workers), strict=False):
        chunk = encode(*layout)
        for at in range(step % steps, steps):
            which_pass, place = divmod(at, BATCHES)
            generator = torch.Generator().manual_seed((layouts.seed * 1_000_003 + number) * PASSES + which_pass)
            order_N = torch.randperm(layouts.num, generator=generator)[place * batch : (place + 1) * batch]
            yield chunk.batch(order_N.to(chunk.z_NCHW.device))
        step = 0
