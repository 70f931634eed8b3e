"""A judge that no sample meets in training: EfficientNet-Lite0, trained on photographs (ImageNet), and plain rulers.

Idea: what a picture shows is asked in three ways. Which concept: the nearest prototype, the mean feature of real
pictures of it. Which place, count or accessory: a linear probe on features of real composed scenes. How many pieces,
which ground: counted and measured, without a network. Each is as good as its score on real pictures, so `evaluate.py`
asks about those too. The last part of this file draws the real pictures and what to ask; nothing here samples.

It is the picture side of the eye, which was left as it is, without the projection that was trained.

All pictures are RGB in -1..1, of any size.
"""

import copy
import hashlib
import random
from dataclasses import replace
from pathlib import Path

import eye
import pictures
import scenes
import torch
import torch.nn.functional as F
from composer import Stock
from scenes import Scene, Subject
from scipy import ndimage
from torch import Tensor

from limner.evaluate.metrics.frechet import frechet
from limner.evaluate.metrics.kid import interval as kid_interval
from limner.evaluate.metrics.kid import kid

WHITE = torch.ones(1, 3, 1, 1)
SIDE_PX = 224
BATCH = 32
RIDGE = 0.1  # of the mean square of the standardised features
NOT_WHITE = 25  # of 255, the furthest channel
SPECK = 0.3  # of the largest piece; what is smaller is no piece of its own
HALVES = {  # relation -> where the first subject belongs, and the second
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}


class Encoder:
    """Pictures -> features (B, 1280): the mean over places of the last feature map."""

    def __init__(self, cache: Path, device: str = "cpu") -> None:
        self.model, self.cache, self.device = eye.shipped().vision_model, cache, device
        self.model.to(device, memory_format=torch.channels_last)
        cache.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([self._embed(part.to(self.device)).cpu() for part in x_BCHW.split(BATCH)])

    def _embed(self, x_BCHW: Tensor) -> Tensor:
        large_BCHW = F.interpolate(rgb255(x_BCHW), (SIDE_PX, SIDE_PX), mode="bicubic").clamp(0, 255)
        large_BCHW = ((large_BCHW - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.model(pixel_values=large_BCHW).pooler_output

    def real(self, x_BCHW: Tensor) -> Tensor:
        """The same for pictures that come again with each evaluation: kept in `cache`, by a digest of their pixels."""
        digest = hashlib.sha256(rgb255(x_BCHW).byte().numpy().tobytes()).hexdigest()[:24]
        path = self.cache / f"{digest}.pt"
        if not path.exists():
            torch.save(self(x_BCHW), path)
        return torch.load(path, weights_only=True)


def rgb255(x_BCHW: Tensor) -> Tensor:
    """Whole numbers, as in a file: real pictures and samples are judged alike."""
    return ((x_BCHW.clamp(-1, 1) + 1) * 127.5).round().contiguous()


class Prototypes:
    """A direction for each concept, the mean over V real views of it; cosines are about the mean of all concepts."""

    def __init__(self, feature_VND: Tensor) -> None:
        self.mean_D = feature_VND.mean((0, 1))
        self.unit_ND = F.normalize(self._direction(feature_VND).mean(0), dim=1)

    def _direction(self, feature_D: Tensor) -> Tensor:
        return F.normalize(feature_D - self.mean_D, dim=-1)

    def cosines(self, feature_BD: Tensor) -> Tensor:
        """(B, N)."""
        return self._direction(feature_BD) @ self.unit_ND.T

    def rank(self, feature_BD: Tensor, own_B: Tensor) -> Tensor:
        """How many concepts are nearer than the own one, (B,)."""
        cosine_BN = self.cosines(feature_BD)
        return (cosine_BN > cosine_BN.gather(1, own_B[:, None])).sum(1)


class Probe:
    """A linear classifier: ridge regression on one-hot targets, solved in the N x N form."""

    def __init__(self, feature_ND: Tensor, label_N: Tensor) -> None:
        self.mean_D, self.std_D = feature_ND.mean(0), feature_ND.std(0) + 1e-3
        x_ND = self._standard(feature_ND)
        target_NK = F.one_hot(label_N).double()
        self.prior_K = target_NK.mean(0)
        gram_NN = x_ND @ x_ND.T
        gram_NN += RIDGE * gram_NN.diagonal().mean() * torch.eye(len(x_ND))
        self.weight_DK = x_ND.T @ torch.linalg.solve(gram_NN, target_NK - self.prior_K)

    def _standard(self, feature_ND: Tensor) -> Tensor:
        return ((feature_ND - self.mean_D) / self.std_D).double()

    def __call__(self, feature_BD: Tensor) -> Tensor:
        """The number of the class, (B,)."""
        return (self._standard(feature_BD) @ self.weight_DK + self.prior_K).argmax(1)


def assigned(prototypes: Prototypes, half_B2D: Tensor, own_B2: Tensor) -> dict[str, Tensor]:
    """Are two subjects where they belong? half_B2D: features of the half for the first subject, and for the second.

    `position`: rather so than the other way round. `each`: in both halves its own subject rather than the other one.
    `recognised`: in both halves its own subject among the five nearest of all concepts.
    """
    first_BN, second_BN = prototypes.cosines(half_B2D[:, 0]), prototypes.cosines(half_B2D[:, 1])
    first_B2, second_B2 = first_BN.gather(1, own_B2), second_BN.gather(1, own_B2)
    ahead_B, behind_B = first_B2[:, 0] - first_B2[:, 1], second_B2[:, 1] - second_B2[:, 0]
    rank_B2 = torch.stack([prototypes.rank(half_B2D[:, k], own_B2[:, k]) for k in range(2)], 1)
    return {
        "position": ahead_B + behind_B > 0,
        "each": (ahead_B > 0) & (behind_B > 0),
        "recognised": (rank_B2 < 5).all(1),
    }


def half(x_CHW: Tensor, where: str) -> Tensor:
    """The middle square of the left, right, top or bottom half, (3, H/2, W/2)."""
    side = x_CHW.shape[-1]
    middle, before, after = slice(side // 4, side - side // 4), slice(0, side // 2), slice(side // 2, side)
    rows = {"top": before, "bottom": after}.get(where, middle)
    columns = {"left": before, "right": after}.get(where, middle)
    return x_CHW[:, rows, columns]


def count_pieces(x_BCHW: Tensor) -> Tensor:
    """How many separate things lie on white, (B,); at least 1."""
    counts = []
    for ink_HW in ((255 - rgb255(x_BCHW)).amax(1) > NOT_WHITE).numpy():
        piece_HW, number = ndimage.label(ink_HW)
        areas = ndimage.sum_labels(ink_HW, piece_HW, range(1, number + 1))
        counts.append(max(1, sum(area >= SPECK * max(areas) for area in areas)))
    return torch.tensor(counts)


def ground(x_BCHW: Tensor, own_B: Tensor) -> dict[str, Tensor]:
    """Is the border's colour nearest to the one of `pictures.COLOURS` asked for (white is a choice too); how far is it?

    The border: the median over the two upper and the two lower lines.
    """
    table_K3 = torch.tensor([*pictures.COLOURS.values(), (255, 255, 255)]).float()
    x_BCHW = rgb255(x_BCHW)
    border_B3 = torch.cat([x_BCHW[:, :, :2].flatten(2), x_BCHW[:, :, -2:].flatten(2)], 2).median(2).values
    error_B = (border_B3 - table_K3[own_B]).abs().mean(1)
    return {"right": torch.cdist(border_B3, table_K3).argmin(1) == own_B, "error of 255": error_B}


def distances(made_ND: Tensor, real_MD: Tensor) -> dict[str, float | tuple[float, float]]:
    """KID with its interval and the Frechet distance, in features on the sphere of radius sqrt(D) (as limner's own)."""
    made, real = (F.normalize(f, dim=1) * f.shape[1] ** 0.5 for f in (made_ND, real_MD))
    return {"kid": kid(made, real), "interval": kid_interval(made, real), "frechet": frechet(made, real)}


def table(rows: dict[str, dict]) -> str:
    """Markdown, a row a measurement; intervals are 95 % bootstrap intervals."""
    lines = ["| what | samples | real, through the autoencoder | real | chance | n |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = []
        for which in ("samples", "autoencoder", "real", "chance"):
            value, ends = row.get(which), row.get(f"{which}_interval") if which != "real" else None
            text = "" if value is None else f"{value:.3f}"
            cells.append(text + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""))
        lines.append(f"| {name} | {' | '.join(cells)} | {row['n']} |")
    return "\n".join(lines)


def half_of(stock: Stock, which: int) -> Stock:
    """Every other concept and backdrop."""
    part = copy.copy(stock)
    part.grounds = stock.grounds[:, which::2]
    for kind in ("rows", "wearers", "countable", "simple"):
        setattr(part, kind, getattr(stock, kind)[which::2])
    return part


def scenes_of(stock: Stock, kind: str, values: list, each: int, seed: int) -> list[Scene]:
    """`each` scenes for each value in turn (a colour, a place, ...), in 3D, its own hues, and nothing else about it."""
    rng, found = random.Random(seed), []
    for value in values:
        for _ in range(each):
            scene = scenes.draw_scene(stock, rng, "relation" if kind == "position" else kind, "3d")
            subjects = tuple(Subject(s.concept, count=value if kind == "count" else 1) for s in scene.subjects)
            field = {"position": "relation"}.get(kind, kind)
            asked = {} if kind == "count" else {field: value}
            found.append(replace(scene, subjects=subjects, **({"colour": None, "second": None, "place": None} | asked)))
    return found


def spread(rows: list[int], count: int) -> list[int]:
    return [rows[n] for n in torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long().tolist()]


def views(stock: Stock, style: str, rows: list[int], seed: int) -> Tensor:
    """Real pictures on white: as they are (seed 0), or moved a little."""
    x_BCHW = stock.sprites[pictures.STYLES.index(style), rows].float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x_BCHW = pictures.jitter(x_BCHW, scale=(0.88, 1.0), shift=0.06) if seed else x_BCHW
    return pictures.over(x_BCHW, WHITE)


def same_colours(stock: Stock, row: int) -> int:
    """The training concept whose main colours are most like those of this one, in their order."""
    names = stock.names[0]
    wanted = names[row][0]

    def likeness(n: int) -> tuple[float, ...]:
        have = names[n][0]
        shared = len({*wanted} & {*have}) / len({*wanted} | {*have} | {""})
        return (wanted == have, shared, wanted[:1] == have[:1])

    return max(stock.rows, key=likeness)
