"""A prior by name, by folder or by file: which family it is, and that family's class."""

from __future__ import annotations

import importlib
from pathlib import Path

from limner import find
from limner.errors import ConfigError, PriorError
from limner.priors import hub
from limner.priors.base import Prior
from limner.priors.folder import PLAIN, DiffusersFolder, Loading
from limner.priors.glide_files import is_glide

# Class of the denoiser -> where its family lives. SDXL has the same UNet class as Stable Diffusion, and says so itself.
FAMILIES = {
    "UNet2DConditionModel": "sd.StableDiffusion",
    "UNet2DConditionModel with text_time": "sdxl.StableDiffusionXL",
    "SD3Transformer2DModel": "sd3.StableDiffusion3",
    "FluxTransformer2DModel": "flux.FluxPrior",
    "Flux2Transformer2DModel": "flux2.Flux2KleinPrior",
    "ZImageTransformer2DModel": "z_image.ZImagePrior",
    "QwenImageTransformer2DModel": "qwen_image.QwenImagePrior",
}


def open_prior(name: str, loading: Loading = PLAIN, base: str | None = None, store: Path | None = None) -> Prior:
    """A prior by name from 'limner list', by folder or file, or by its name on the hub.

    Args:
        base: for a single file, the diffusers folder or hub name that says its configuration (converting.py).
        store: where a single file's diffusers folder is kept; needed for a file alone.

    Raises:
        ConfigError: nothing of that name.
        PriorError: a folder or file that is incomplete, of no known family, or no prior.
    """
    path = Path(name)
    if base is not None and not path.is_file():
        raise ConfigError("prior_config is for a prior in a single file.", f"leave it away: {name} is none")
    if name not in find.names("prior"):
        if is_glide(path):
            return importlib.import_module("limner.priors.glide").GlidePrior(path, loading)
        if path.is_dir():
            return from_folder(path, loading)
        if path.is_file() and path.suffix != ".py":
            assert store is not None
            converting = importlib.import_module("limner.priors.converting")  # slow to import, and seldom needed
            return from_folder(converting.as_folder(path, base, loading.meta, store), loading)
        if path.suffix == ".safetensors":
            raise PriorError(f"{name} does not exist.", "give a file, a folder, or OWNER/NAME on the hub")
        if hub.is_name(name):
            return from_folder(hub.fetch(name, () if loading.meta else None), loading)
    try:
        return find.load("prior", name)(loading)
    except ConfigError as error:
        raise ConfigError(str(error), f"{error.hint}; or give a folder, a file or OWNER/NAME on the hub") from None


def from_folder(path: Path, loading: Loading) -> Prior:
    """The prior in a diffusers folder.

    Raises:
        PriorError: incomplete, or of no known family.
    """
    folder = DiffusersFolder(path)
    part = "transformer" if folder.kind("transformer") else "unet"
    folder.need(**{part: ()})
    kind = folder.kind(part) or ""
    if folder.config(part).get("addition_embed_type") == "text_time":
        kind += " with text_time"
    if kind not in FAMILIES:
        known = sorted({family.partition(".")[0] for family in FAMILIES.values()})
        raise PriorError(f"{path}: {part} is a {kind}, of no known family.", "families: " + ", ".join(known))
    if not loading.meta:
        folder.need_weights()
    module, _, name = FAMILIES[kind].partition(".")
    return getattr(importlib.import_module(f"limner.priors.{module}"), name)(folder, loading)
