"""Image to image through the text-embedding space: "Pretraining is all you need" (Wang et al. 2022, arXiv 2205.12952).

An encoder turns the condition picture into tokens that the pretrained denoiser reads as if they were words, and into a
pooled vector where the prior has one. Two stages in one run: ``encoder`` alone, the prior frozen; then, from the
averaged encoder, both together (``joint``), which is what makes the picture follow the condition's shapes.
Kept from the paper: the convolutional stem, the transformer, the last token as summary, the two stages with the EMA
handed over. Changed: the null condition is learned (the paper shows white), the caption's tokens stay beside the
condition's, positions start as sines instead of uninitialised memory, dropout of the condition in both stages.

    limner train piti --data fluent
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limner.config import TranslateConfig
from limner.errors import ConfigError
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.priors.glide import condition_encoder
from limner.priors.glide_text import ConditionEncoder
from limner.types import Batch, Cond, Update

NUM_HALVINGS = 3  # a token looks at 8 x 8 pixels of the condition, whatever the grid


class Encoder(nn.Module):
    """A condition picture -> (grid * grid + 1) tokens of the prior's width, and a pooled vector if it has one.

    Halving convolutions (instance norm, leaky ReLU) from 8 grid x 8 grid pixels down to grid x grid, then pre-norm
    transformer layers over the cells and one summary token, which comes last.
    """

    def __init__(self, grid: int, token_dim: int, pooled_dim: int | None, num_layers: int) -> None:
        super().__init__()
        widths = [32] + [min(32 * 2**i, token_dim) for i in range(1, NUM_HALVINGS)] + [token_dim]
        stem: list[nn.Module] = [nn.Conv2d(3, widths[0], 7, padding=3, bias=False)]  # a norm takes a bias away
        for narrow, wide in pairwise(widths):
            stem += [nn.InstanceNorm2d(narrow, affine=True), nn.LeakyReLU(0.2)]
            stem += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=len(stem) == 3 * NUM_HALVINGS)]
        self.stem = nn.Sequential(*stem)
        self.position_LD = nn.Parameter(_sines(grid, token_dim))
        self.summary_1D = nn.Parameter(torch.randn(1, token_dim) * 0.02)
        self.null_LD = nn.Parameter(torch.randn(grid * grid + 1, token_dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            token_dim, max(1, token_dim // 64), 4 * token_dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(token_dim)
        self.pooled = None if pooled_dim is None else nn.Linear(token_dim, pooled_dim)

    def forward(self, condition_BCHW: Tensor, shown_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """(tokens_BLD, pooled_BD or None); rows where ``shown_B`` is false get the learned null tokens."""
        cells_BLD = self.stem(condition_BCHW).flatten(2).mT + self.position_LD
        summary_B1D = self.summary_1D.expand(len(cells_BLD), 1, -1)
        tokens_BLD = self.norm(self.layers(torch.cat([cells_BLD, summary_B1D], dim=1)))
        tokens_BLD = torch.where(shown_B.view(-1, 1, 1), tokens_BLD, self.null_LD)
        return tokens_BLD, None if self.pooled is None else self.pooled(tokens_BLD[:, -1])


class AuthorsEncoder(nn.Module):
    """The encoder of a released checkpoint, as it was trained: its tokens stand alone, and nothing shown is white.

    Raises:
        ConfigError: it reads no RGB pictures, or speaks to another prior.
    """

    def __init__(self, file: Path, prior: Prior) -> None:
        super().__init__()
        self.released = condition_encoder(file)
        planes = self.released.cnn["conv1"].in_channels
        if planes != 3:
            raise ConfigError(f"{file} reads {planes} planes, not RGB.", "take a checkpoint for coloured masks")
        if prior.token_dim != self.released.WIDTH or prior.pooled_dim != self.released.WIDTH:
            raise ConfigError(f"{file} is an encoder for GLIDE, not for {prior.source}.", "leave out encoder_from")

    def forward(self, condition_BCHW: Tensor, shown_B: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens_BLD, pooled_BD)."""
        return self.released(torch.where(shown_B.view(-1, 1, 1, 1), condition_BCHW, torch.ones_like(condition_BCHW)))


class Piti(Method):
    """A condition encoder into the space of text tokens; encoder alone, then encoder and denoiser."""

    class Config(TranslateConfig):
        """What the encoder is, and how long it learns alone."""

        encoder_steps: int = Field(
            default_factory=lambda given: given.get("steps", 0) * 3 // 10,
            ge=0,
            description="steps of the first stage, in which only the encoder learns; default three tenths of the steps",
        )
        encoder_learning_rate: float = Field(5e-4, gt=0, description="of the encoder, which starts from random weights")
        encoder_layers: int = Field(2, ge=1, description="transformer layers of the encoder (the paper: 8)")
        token_grid: int = Field(
            16, ge=1, description="the condition becomes token_grid x token_grid tokens and a summary"
        )

        encoder_from: Path | None = Field(
            None,
            description="a checkpoint of the authors: go on from its encoder, on a GLIDE prior; captions are not read",
        )

        @model_validator(mode="after")
        def _check_stages(self) -> Self:
            if self.encoder_steps >= self.steps:
                raise ValueError(f"encoder_steps ({self.encoder_steps}) must be smaller than steps ({self.steps})")
            return self

    config: Config

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__(prior, config)
        self.fixed_size = True  # a token belongs to a cell of the grid
        self.network = prior.adapt(config)
        self.encoder: Encoder | AuthorsEncoder
        if config.encoder_from is None:
            self.condition_px = config.token_grid * 2**NUM_HALVINGS
            self.encoder = Encoder(config.token_grid, prior.token_dim, prior.pooled_dim, config.encoder_layers)
        else:
            self.condition_px = ConditionEncoder.condition_px
            self.encoder = AuthorsEncoder(config.encoder_from, prior)
        self.hand_over_at = frozenset({config.encoder_steps} - {0})

    def learns(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "network": self.network}

    def learning_rate(self, name: str) -> float:
        return self.config.encoder_learning_rate if name == "encoder" else self.config.learning_rate

    def step(self, batch: Batch) -> Iterator[Update]:
        z_0 = self.prior.draw(batch.mean_BCHW, batch.std_BCHW, batch.dice.normal(*batch.mean_BCHW.shape[1:]))
        eps = batch.dice.normal(*z_0.shape[1:])
        t_B = self.prior.path.draw_t(batch.dice.uniform() ** (1 / self.config.noise_bias))
        told = batch.dice.uniform() >= self.config.caption_dropout
        shown = batch.dice.uniform() >= self.config.condition_dropout
        text = batch.text.where(told, self.null.expand(len(batch)))
        assert batch.condition_BCHW is not None
        cond = self._beside(text, batch.condition_BCHW, shown)
        what = "encoder" if batch.step < self.config.encoder_steps else ("encoder", "network")
        yield Update(what, self.prior.loss(z_0, eps, t_B, cond, batch.weight_B1HW).mean())

    def conditions(self, text: Cond, condition_BCHW: Tensor | None) -> tuple[Cond, Cond]:
        assert condition_BCHW is not None
        text, null = super().conditions(text, condition_BCHW)
        shown = torch.ones(len(text), dtype=torch.bool, device=condition_BCHW.device)
        return self._beside(text, condition_BCHW, shown), self._beside(null, condition_BCHW, ~shown)

    def _beside(self, text: Cond, condition_BCHW: Tensor, shown_B: Tensor) -> Cond:
        tokens_BLD, pooled_BD = self.encoder(condition_BCHW, shown_B)
        if isinstance(self.encoder, AuthorsEncoder):
            return Cond(tokens_BLD, pooled_BD)
        if text.pooled_BD is not None and pooled_BD is not None:
            text = replace(text, pooled_BD=text.pooled_BD + pooled_BD)
        return text.with_tokens(tokens_BLD)


def _sines(grid: int, dim: int) -> Tensor:
    """Sines and cosines of row and column (Vaswani et al. 2017, in two dimensions), (grid * grid, dim)."""
    num = dim // 4
    rates = 100.0 ** -(torch.arange(num) / max(1, num - 1))
    place = torch.arange(grid)[:, None] * rates
    line = torch.cat([place.sin(), place.cos()], dim=1)
    rows, columns = line[:, None].expand(grid, grid, -1), line[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=2).reshape(grid * grid, -1)
