"""Features of pictures: what Frechet distance, KID and diversity are measured in.

An ``Embedder`` maps uint8 pictures to vectors. The default is limner's own ``eye``, a pair of image and text
encoders matched on the domain of the miniature prior, which lies in the package; the folder of any CLIPModel or
VisionTextDualEncoderModel can take its place. Numbers of different embedders do not compare: reports carry the
embedder's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from limner.errors import PriorError

EYE = Path(__file__).parents[1] / "assets" / "eye"
BATCH = 32
PAIRS = ("clip", "vision-text-dual-encoder")  # model_type of a folder's config.json


class Embedder(Protocol):
    """uint8 pictures (B, 3, H, W) of any size -> float features (B, D) on the CPU; ``name`` goes into the report."""

    name: str

    def __call__(self, uint8_BCHW: Tensor) -> Tensor: ...


class ClipEmbedder:
    """The picture side of a contrastive pair: its projected embedding, on the sphere of radius sqrt(D).

    Such a pair is trained on directions only, so the length of an embedding says nothing and is normalised away. Radius
    sqrt(D) makes each of the D numbers of size one: KID's kernel (x.y / D + 1)^3 then sees the cosine, and a Frechet
    distance is the sum over D such numbers, as with Inception features.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Load ``folder`` (config.json, model.safetensors).

        Raises:
            PriorError: the folder or a part of it is missing, or it holds another kind of model.
        """
        for part in ("config.json", "model.safetensors"):
            if not (folder / part).is_file():
                raise PriorError(
                    f"{folder / part} does not exist.", "give a folder that save_pretrained of a CLIPModel wrote"
                )
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind not in PAIRS:
            raise PriorError(f"{folder} holds a model of the kind {kind}.", "known: " + ", ".join(PAIRS))
        self.name = name
        self.model = AutoModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
        self.mean, self.std = _normalisation(folder)

    @torch.no_grad()
    def __call__(self, uint8_BCHW: Tensor) -> Tensor:
        return torch.cat([self._embed(part) for part in uint8_BCHW.split(BATCH)])

    def _embed(self, uint8_BCHW: Tensor) -> Tensor:
        side = self.model.config.vision_config.image_size
        x = uint8_BCHW.to(self.model.device).float() / 255
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        hidden = self.model.vision_model(pixel_values=(x - self.mean.to(x)) / self.std.to(x)).pooler_output
        features = self.model.visual_projection(hidden)
        return F.normalize(features, dim=-1).mul(features.shape[-1] ** 0.5).cpu()


def eye() -> ClipEmbedder:
    """limner's own pair of eyes, from the package.

    Raises:
        PriorError: this installation lacks it.
    """
    if not EYE.is_dir():
        raise PriorError(f"{EYE} does not exist.", "reinstall limner, or give the folder of a CLIPModel")
    return ClipEmbedder(EYE, "eye 2")  # the number changes with the weights: figures of two eyes do not compare


def load(name: str) -> ClipEmbedder:
    """``eye``, or the folder of a CLIPModel."""
    return eye() if name == "eye" else ClipEmbedder(Path(name), Path(name).name)


def _normalisation(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and std of the training pixels in [0, 1], (3, 1, 1); a half each, so [-1, 1], where the folder is silent."""
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean, std = said.get("image_mean", [0.5] * 3), said.get("image_std", [0.5] * 3)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
