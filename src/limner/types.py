"""The containers that flow through limner: plain dataclasses, no behaviour beyond their shape.

Shape legend, used as a suffix of tensor names throughout:
    B pictures in a batch   C channels   H, W rows and columns   L tokens   D width of a token or a feature
Pictures are float in [-1, 1] unless a name says uint8. Time t is in [0, 1]: 0 is data, 1 is noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class File(Protocol):
    """Bytes with a name: a path, a member of a zip or of a shard, a cell of a table. str(file) names it to a person."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class Sample:
    """One record of a data set: where its picture lies and what is said of it.

    ``source`` is the other half of a pair (a sketch, a depth map). ``mask`` says where the picture counts: white does,
    black does not. ``split`` is 'train', 'validation' or 'test'. ``meta`` is what else the data says.
    """

    key: str
    caption: str
    image: File
    source: File | None = None
    mask: File | None = None
    split: str = "train"
    meta: dict[str, Any] = field(default_factory=dict)


class Tokens(NamedTuple):
    """How a prior reads a caption: how many tokens it is, how many of them fit, and the words beyond."""

    num: int
    room: int
    cut_off: str


@dataclass(frozen=True)
class Cond:
    """What the denoiser is told about the picture; parts that a prior or a method does not use are None.

    tokens_BLD: the sequence that cross attention reads. pooled_BD: one vector a picture. mask_BL: which tokens count,
    where a prior leaves out padding. channels_BCHW: planes on the latent grid, put beside x_t on the input channels.
    framing_B6: original height and width, top and left of the cut, height and width of the picture, in pixels (SDXL,
    Podell et al. 2023, section 2.2); where it is None a prior takes its own size, uncut. control_BCHW: what the prior's
    control reads (``Prior.add_control``).
    """

    tokens_BLD: Tensor
    pooled_BD: Tensor | None = None
    channels_BCHW: Tensor | None = None
    mask_BL: Tensor | None = None
    framing_B6: Tensor | None = None
    control_BCHW: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens_BLD)

    def map(self, change: Callable[[Tensor], Tensor]) -> Cond:
        """The same condition with ``change`` applied to each part that is there."""
        return Cond(*(None if part is None else change(part) for part in self.parts()))  # type: ignore[arg-type]

    def parts(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, own.name) for own in fields(self))

    def expand(self, num: int) -> Cond:
        """A condition of one row, seen as ``num`` rows without a copy."""
        return self.map(lambda part: part.expand(num, *part.shape[1:]))

    def where(self, keep_B: Tensor, other: Cond) -> Cond:
        """Rows of this condition where ``keep_B`` is true, rows of ``other`` elsewhere."""

        def choose(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            if mine is None or theirs is None:
                return mine
            return torch.where(keep_B.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)

        return Cond(*(choose(*pair) for pair in zip(self.parts(), other.parts(), strict=True)))  # type: ignore[arg-type]

    def with_channels(self, channels_BCHW: Tensor) -> Cond:
        return replace(self, channels_BCHW=channels_BCHW)

    def with_tokens(self, more_BLD: Tensor) -> Cond:
        """The same with these tokens, all of which count, after its own."""
        mask_BL = self.mask_BL
        if mask_BL is not None:
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(more_BLD.shape[:2])], dim=1)
        return replace(self, tokens_BLD=torch.cat([self.tokens_BLD, more_BLD], dim=1), mask_BL=mask_BL)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Conditions one below the other along B; all must have the same parts and the same number of tokens."""
        columns = zip(*(cond.parts() for cond in conds), strict=True)
        return Cond(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


class Dice:
    """Random numbers that belong to a place in the run, not to a process.

    Picture ``index`` of step ``step`` always draws the same numbers: on one machine or eight, in one batch or
    accumulated from four, in the first run or in a resumed one. That is what makes resume and data-parallel training
    exact without saving any generator's state.
    """

    def __init__(self, seed: int, step: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = device
        self.generators = [torch.Generator().manual_seed(_mix(seed, step, index)) for index in indices]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of shape (B, *shape)."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self) -> Tensor:
        """One number in [0, 1) a picture, shape (B,)."""
        return torch.stack([torch.rand((), generator=g) for g in self.generators]).to(self.device)


def _mix(*parts: int) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Batch:
    """What a method sees of the data in one micro-step.

    mean_BCHW, std_BCHW: the picture's latent distribution as the prior's encoder gave it (cached). text: the caption,
    embedded (cached). condition_BCHW: the paired or computed condition picture in [-1, 1], at the method's
    ``condition_px``. meta: what else the data says of each picture. step: whole optimiser steps done so far. dice: the
    only source of randomness a method may use. weight_B1HW: how much each cell of the latent grid counts, in [0, 1];
    None where all count alike. kept: as many pictures of what the prior shall go on drawing as before; None where it is
    not kept, or not on pictures.
    """

    step: int
    keys: list[str]
    captions: list[str]
    meta: list[dict[str, Any]]
    mean_BCHW: Tensor
    std_BCHW: Tensor
    text: Cond
    condition_BCHW: Tensor | None
    dice: Dice
    weight_B1HW: Tensor | None = None
    kept: Batch | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Update:
    """One thing to lower: ``loss`` (a scalar with a graph), by the weights that ``what`` names, and numbers to log.

    ``what`` is a name, or several, of ``Method.learns()``; the gradient reaches those weights and no others.
    """

    what: str | tuple[str, ...]
    loss: Tensor
    log: dict[str, float | Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.what,) if isinstance(self.what, str) else self.what
