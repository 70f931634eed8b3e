"""A prior in one safetensors file: SD 1, 2, XL, 3, FLUX.1, Z-Image, as their authors, kohya or ComfyUI write it.

What such a file says of itself is read here; ``converting`` makes a diffusers folder of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from torch import Tensor

from limner.errors import PriorError
from limner.priors.files import check_whole
from limner.priors.strangers import refuse_file

# Kinds as diffusers tells them apart by their keys, of the families that limner has. Of FLUX.2 it knows [dev] alone.
KINDS = ("v1", "v2", "xl_base", "sd3", "sd35_medium", "sd35_large", "flux-dev", "flux-schnell", "z-image-turbo")
DENOISER = "model.diffusion_model."
AUTOENCODER = ("first_stage_model.", "vae.")
CLIP = ("cond_stage_model.", "conditioner.", "text_encoders.clip_")
T5 = ("text_encoders.t5xxl.",)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
STATED = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


class SafetensorsFile:
    """What a file says of itself; no tensor is read before it is asked for.

    Raises:
        PriorError: it is damaged, or holds something else than a prior.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".safetensors":
            raise PriorError(f"{path} is no safetensors file.", "give one, or a diffusers folder")
        check_whole(path)
        self.path = path
        with safe_open(path, "pt") as opened:
            self.about: dict[str, str] = opened.metadata() or {}
            # Shapes alone: enough to tell kinds apart.
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
        self.tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        refuse_file(path, self.tensors.keys())
        self.bare = not any(name.startswith(DENOISER) for name in self.tensors)

    def kind(self) -> str:
        """One of ``KINDS``.

        Raises:
            PriorError: it is of none of them, or does not say.
        """
        known = single_file_utils.infer_diffusers_model_type(self.tensors)
        if known == "v1" and f"{DENOISER}input_blocks.0.0.weight" not in self.tensors:
            raise PriorError(f"{self.path} does not say of which family it is.", base_hint(self.path))
        if known not in KINDS:
            raise PriorError(f"{self.path} is a {known}, of no family for it.", "known: " + ", ".join(KINDS))
        return known

    def prediction(self) -> str | None:
        """'epsilon' or 'v_prediction' where the file says it: in its metadata, or by a tensor named 'v_pred'."""
        if "v_pred" in self.tensors:
            return "v_prediction"
        return STATED.get(self.about.get("modelspec.prediction_type", "").lower())

    def load(self, keep: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names; 8-bit ones as bf16, for nothing computes in them."""
        with safe_open(self.path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in keep}
        return {name: each.bfloat16() if each.dtype in FLOAT8 else each for name, each in tensors.items()}

    def holds(self, kind: str) -> bool:
        """Whether it has the weights of an autoencoder or text encoder of this class."""
        if kind == "AutoencoderKL":
            return any(name.startswith(AUTOENCODER) for name in self.tensors)
        if kind == "T5EncoderModel":
            return single_file_utils.is_t5_in_single_file(self.tensors)
        return kind.startswith("CLIPText") and any(name.startswith(CLIP) for name in self.tensors)


def base_hint(file: Path) -> str:
    if (file.parent.parent / "model_index.json").is_file():
        return f"give the folder: {file.parent.parent}"
    return "give with prior_config a diffusers folder, or OWNER/NAME on the hub, of the same family"
