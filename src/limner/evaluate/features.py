"""Features of pictures and prompts: what likeness, distances and diversity are measured in.

An ``Embedder`` maps uint8 pictures to vectors. The default is limner's own ``eye``, a pair of image and text
encoders matched on the domain of the miniature prior, which lies in the package; the folder of any CLIPModel or
VisionTextDualEncoderModel can take its place, or its name on the hub. ``DinoEmbedder`` tells one thing from another of
its kind, which CLIP does less. Numbers of different embedders do not compare: reports carry the embedder's name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, Dinov2Model, ViTModel

from limner.errors import PriorError
from limner.priors import hub

EYE = Path(__file__).parents[1] / "assets" / "eye"
BATCH = 32
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PAIRS = ("clip", "vision-text-dual-encoder")  # model_type of a folder's config.json
DINOS: dict[str, Any] = {"vit": ViTModel, "dinov2": Dinov2Model}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the second holds many older models, and is read as data only
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Embedder(Protocol):
    """uint8 pictures (B, 3, H, W) of any size -> float features (B, D) on the CPU; ``name`` goes into the report."""

    name: str

    def __call__(self, uint8_BCHW: Tensor) -> Tensor: ...


class ClipEmbedder:
    """A contrastive pair: projected embeddings of pictures, and of prompts, on the sphere of radius sqrt(D).

    Such a pair is trained on directions only, so the length of an embedding says nothing and is normalised away. Radius
    sqrt(D) makes each of the D numbers of size one: KID's kernel (x.y / D + 1)^3 then sees the cosine, and a Frechet
    distance is the sum over D such numbers, as with Inception features.

    A CLIPModel sees what its authors let it see: the shorter side resized (bicubic), and the middle of the picture. A
    pair of others sees the whole picture, made square.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Load ``folder`` (config.json, weights; for prompts also its tokenizer).

        Raises:
            PriorError: the folder or a part of it is missing, or it holds another kind of model.
        """
        kind = _kind(folder, PAIRS, "save_pretrained of a CLIPModel wrote")
        self.name, self.folder, self.crops = name, folder, kind == "clip"
        self.model: Any = AutoModel.from_pretrained(folder).eval().requires_grad_(False)
        self.mean, self.std = _normalisation(folder, self.crops)

    @torch.no_grad()
    def __call__(self, uint8_BCHW: Tensor) -> Tensor:
        return torch.cat([self._embed(part) for part in uint8_BCHW.split(BATCH)])

    def _embed(self, uint8_BCHW: Tensor) -> Tensor:
        side = self.model.config.vision_config.image_size
        x = centre(uint8_BCHW, side, side) if self.crops else uint8_BCHW
        x = x.to(self.model.device)
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x.float(), (side, side), mode="bilinear", antialias=True)
        x = x.float() / 255
        hidden = self.model.vision_model(pixel_values=(x - self.mean.to(x)) / self.std.to(x)).pooler_output
        return _on_sphere(self.model.visual_projection(hidden))

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (N, D), on the same sphere as pictures; words beyond the model's last token are cut off.

        Raises:
            PriorError: the folder holds no tokenizer.
        """
        length = self.model.config.text_config.max_position_embeddings
        ids_BL = self._tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        hidden = [
            self.model.text_model(input_ids=part).pooler_output for part in ids_BL.to(self.model.device).split(BATCH)
        ]
        return _on_sphere(self.model.text_projection(torch.cat(hidden)))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        if not any((self.folder / name).is_file() for name in TOKENIZERS):  # else one without words would be made up
            raise PriorError(
                f"{self.folder} holds no tokenizer, which prompts need.",
                "put tokenizer.json, or vocab.json and merges.txt, beside the model",
            )
        return AutoTokenizer.from_pretrained(self.folder)


class DinoEmbedder:
    """The CLS token of a self-supervised ViT (DINO, Caron et al. 2021; DINOv2), on the sphere of radius sqrt(D).

    Pictures are prepared as for the figures of DreamBooth (Ruiz et al. 2023): shorter side to 256 px (bicubic), the
    middle 224 x 224, ImageNet's mean and std. The preprocessor that lies beside the model on the hub goes to 224 px
    without a crop, and its numbers are not those of the paper (google/dreambooth, issue 3); it is not used.
    """

    RESIZE_PX, CROP_PX = 256, 224

    def __init__(self, folder: Path, name: str) -> None:
        """Load ``folder`` (config.json, weights) of a ViTModel or a Dinov2Model.

        Raises:
            PriorError: the folder or a part of it is missing, or it holds another kind of model.
        """
        kind = _kind(folder, tuple(DINOS), "save_pretrained of a ViTModel or Dinov2Model wrote")
        self.name = name
        vit = kind == "vit"  # the pooler is not DINO's; positions are interpolated where it was trained at another size
        self.model: Any = DINOS[kind].from_pretrained(folder, **({"add_pooling_layer": False} if vit else {}))
        self.model.eval().requires_grad_(False)
        self.how = {"interpolate_pos_encoding": True} if vit else {}

    @torch.no_grad()
    def __call__(self, uint8_BCHW: Tensor) -> Tensor:
        return torch.cat([self._embed(part) for part in uint8_BCHW.split(BATCH)])

    def _embed(self, uint8_BCHW: Tensor) -> Tensor:
        x = centre(uint8_BCHW, self.RESIZE_PX, self.CROP_PX).to(self.model.device) / 255
        mean, std = (torch.tensor(part).view(3, 1, 1).to(x) for part in (IMAGENET_MEAN, IMAGENET_STD))
        return _on_sphere(self.model(pixel_values=(x - mean) / std, **self.how).last_hidden_state[:, 0])


def centre(uint8_BCHW: Tensor, resize_px: int, crop_px: int) -> Tensor:
    """The shorter side resized (bicubic), the middle cut out: uint8 (B, 3, crop_px, crop_px), on the CPU.

    On bytes and on the CPU, where torch rounds between rows and columns as Pillow does.
    """
    height, width = uint8_BCHW.shape[-2:]
    short = min(height, width)
    size = height * resize_px // short, width * resize_px // short
    x = uint8_BCHW.cpu()
    if size != (height, width):
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
    top, left = round((size[0] - crop_px) / 2), round((size[1] - crop_px) / 2)
    return x[..., top : top + crop_px, left : left + crop_px]


def eye() -> ClipEmbedder:
    """limner's own pair of eyes, from the package.

    Raises:
        PriorError: this installation lacks it.
    """
    if not EYE.is_dir():
        raise PriorError(f"{EYE} does not exist.", "reinstall limner, or give the folder of a CLIPModel")
    return ClipEmbedder(EYE, "eye 2")  # the number changes with the weights: figures of two eyes do not compare


def load(name: str) -> ClipEmbedder:
    """``eye``, or a CLIPModel: its folder, or its name on the hub.

    Raises:
        PriorError: it is neither there nor can it be fetched, or is another kind of model.
    """
    return eye() if name == "eye" else ClipEmbedder(_folder(name), Path(name).name)


def load_dino(name: str) -> DinoEmbedder:
    """A ViTModel or Dinov2Model: its folder, or its name on the hub.

    Raises:
        PriorError: it is neither there nor can it be fetched, or is another kind of model.
    """
    return DinoEmbedder(_folder(name), Path(name).name)


def _folder(name: str) -> Path:
    return Path(name) if Path(name).is_dir() or not hub.is_name(name) else hub.fetch_files(name, _wanted)


def _wanted(there: Sequence[str]) -> list[str]:
    """Of a repository's files those that are used: settings, and one set of weights."""
    weights = [name for name in WEIGHTS if name in there][:1]
    return [name for name in there if "/" not in name and name.endswith(hub.SETTINGS)] + weights


def _kind(folder: Path, known: Sequence[str], wrote: str) -> str:
    """What kind of model a folder holds, one of those that are known."""
    if not (folder / "config.json").is_file():
        raise PriorError(f"{folder / 'config.json'} does not exist.", f"give a folder that {wrote}")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise PriorError(f"{folder / WEIGHTS[0]} does not exist.", f"give a folder that {wrote}")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in known:
        raise PriorError(f"{folder} holds a model of the kind {kind}.", "known: " + ", ".join(known))
    return str(kind)


def _on_sphere(features_BD: Tensor) -> Tensor:
    return F.normalize(features_BD, dim=-1).mul(features_BD.shape[-1] ** 0.5).cpu()


def _normalisation(folder: Path, is_clip: bool) -> tuple[Tensor, Tensor]:
    """Mean and std of the training pixels in [0, 1], (3, 1, 1); where the folder is silent CLIP's own, or a half each,
    so [-1, 1]."""
    mean, std = (CLIP_MEAN, CLIP_STD) if is_clip else ((0.5,) * 3, (0.5,) * 3)
    for file in (folder / "processor_config.json", folder / "preprocessor_config.json"):
        if file.is_file():
            said = json.loads(file.read_text(encoding="utf-8"))
            said = said.get("image_processor", said)  # where transformers writes it today
            mean, std = said.get("image_mean", mean), said.get("image_std", std)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
