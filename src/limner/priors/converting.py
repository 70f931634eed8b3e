"""A prior in a single file becomes a diffusers folder, once, by diffusers' own converters.

From then on it is opened as any folder: its parts are loaded when they are used, and stock tools read it. Such a file
says neither its configuration nor its tokenizers, and often has no text encoders. Those come from a diffusers folder of
the same family, the *base*: one the user gives, else the family's first model on the hub, of which only the settings
are fetched, and the weights of what the file lacks.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders import single_file_utils
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]
from safetensors import SafetensorError
from torch import Tensor, nn

from limner.errors import PriorError, first_line
from limner.priors import hub
from limner.priors.files import check
from limner.priors.folder import DiffusersFolder
from limner.priors.single_file import AUTOENCODER, CLIP, DENOISER, T5, SafetensorsFile, base_hint

OTHERS = ("model_ema.", "denoiser.", *AUTOENCODER, *CLIP, *T5)
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def as_folder(file: Path, base: str | None, meta: bool, store: Path) -> Path:
    """The diffusers folder of a file, made in ``store`` where it is not there yet.

    Args:
        base: a diffusers folder or hub name of the same family; None is the family's first model on the hub.
        meta: nothing is made, and the base is given back: it has the same sizes.

    Raises:
        PriorError: a file that is no prior, one that does not fit the base, or a part that neither of them has.
    """
    single = SafetensorsFile(file)
    kind = None if base else single.kind()
    if kind == "v2" and single.prediction() is None:
        raise PriorError(
            f"{file} is a Stable Diffusion 2 and does not say whether it predicts eps or v.",
            "give with prior_config the folder or hub name of the one it was made from; its scheduler says which",
        )
    name = base or single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind or ""]["pretrained_model_name_or_path"]
    try:
        folder = DiffusersFolder(_base(name))
        frozen = [part for part in folder.models() if part not in ("unet", "transformer")]
        lacking = [part for part in frozen if not single.holds(folder.kind(part) or "")]
        if lacking and not meta and not Path(name).is_dir():
            folder = DiffusersFolder(hub.fetch(name, lacking))
    except PriorError as error:
        if base:
            raise
        raise PriorError(
            f"{file} is of the kind {kind}, whose settings are asked of the hub: {str(error).rstrip('.')}.",
            f"{error.hint}; or {base_hint(file)}",
        ) from None
    if meta:
        return folder.path
    for part in lacking:
        try:
            folder.need(**{part: ()})
            check(folder.path / part)
        except PriorError as error:
            raise PriorError(f"{file} has no {part}, and {str(error).rstrip('.')}.", base_hint(file)) from None
    return _made_once(single, folder, lacking, store)


def _made_once(single: SafetensorsFile, base: DiffusersFolder, lacking: list[str], store: Path) -> Path:
    target = store / f"{single.path.stem}-{_digest(single.path, base)}"
    making = target.with_name(f"{target.name}.making")
    try:
        store.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(f"{target}.lock"):  # of several processes one makes it
            if not (target / "model_index.json").is_file():
                for left in (making, target):  # by a process that was killed while it made or deleted it
                    shutil.rmtree(left, ignore_errors=True)
                making.mkdir()
                try:
                    _write(single, base, lacking, making)
                    making.rename(target)
                finally:
                    shutil.rmtree(making, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise PriorError(f"{making}: {first_line(error)}.", "free some disk, or set LIMNER_CACHE") from error
    return target


def _base(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if hub.is_name(name):
        return hub.fetch(name, ())
    raise PriorError(f"prior_config: there is no folder {name}.", "give a diffusers folder, or OWNER/NAME on the hub")


def _digest(file: Path, folder: DiffusersFolder) -> str:
    """Of the file's bytes, the base's settings, and whose converters."""
    digest = hashlib.sha256(f"{diffusers.__version__} {folder.path.resolve()}".encode())
    with file.open("rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())
    for setting in sorted(folder.path.glob("**/*.json")):
        digest.update(setting.read_bytes())
    return digest.hexdigest()[:16]


def _write(single: SafetensorsFile, base: DiffusersFolder, lacking: list[str], target: Path) -> None:
    """A diffusers folder: converted parts, and links to what the base gives."""
    index = {name: [None, None] if name in UNUSED else value for name, value in base.index.items()}
    for part in lacking:
        base.need(**{part: ()})
        (target / part).symlink_to((base.path / part).resolve(), target_is_directory=True)
    for part in base.models():
        if part not in lacking:
            _convert(single, base, part).save_pretrained(target / part)
    for part in index:
        if part.startswith(("tokenizer", "scheduler")) and base.kind(part):
            shutil.copytree(base.path / part, target / part)
    _set_prediction(single, target / "scheduler" / "scheduler_config.json")
    (target / "model_index.json").write_text(json.dumps(index, indent=2))


def _set_prediction(single: SafetensorsFile, file: Path) -> None:
    """What the file says of its prediction is nearer the truth than its base's scheduler."""
    config = json.loads(file.read_text(encoding="utf-8"))
    if stated := single.prediction():
        config["prediction_type"] = stated
    if "ztsnr" in single.tensors:
        config["rescale_betas_zero_snr"] = True
    file.write_text(json.dumps(config, indent=2))


def _convert(single: SafetensorsFile, base: DiffusersFolder, part: str) -> Any:
    """One part of the file as a module, in the precision it has there."""
    wrong = (KeyError, ValueError, RuntimeError, IndexError, OSError, single_file_utils.SingleFileComponentError)
    lacks = PriorError(
        f"{single.path} lacks a weight of its {part}, as {base.path / part} describes it.", "fetch it again"
    )
    try:
        module = _module(single, base, part)
    except NotImplementedError:  # torch cannot move what was not filled
        raise lacks from None
    except wrong as error:
        raise PriorError(
            f"{single.path}: its {part} does not fit {base.path / part}: {first_line(error)}.", base_hint(single.path)
        ) from error
    if any(weight.is_meta for weight in module.state_dict().values()):
        raise lacks
    return module


def _module(single: SafetensorsFile, base: DiffusersFolder, part: str) -> Any:
    library, name = base.index[part]
    kind: Any = getattr(importlib.import_module(library), name)
    own = _own(single, part, name)
    if not own:
        raise PriorError(f"{single.path} has no {part}.", "give the whole model's file")
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in own.values() if tensor.is_floating_point()})
    options = {"config": str(base.path), "subfolder": part, "local_files_only": True, "torch_dtype": dtype}
    if library == "diffusers":
        return kind.from_single_file(own, **options)
    if name != "T5EncoderModel":
        return _clip(kind, own, options)
    module = single_file_utils.create_diffusers_t5_model_from_checkpoint(kind, own, **options)
    module.set_input_embeddings(module.get_input_embeddings())  # one matrix, which the file may have under one name
    return module


def _own(single: SafetensorsFile, part: str, kind: str) -> dict[str, Tensor]:
    """A part's tensors under the names that diffusers' converter of its class looks for."""
    names = list(single.tensors)
    if part == "vae":
        return single.load(name for name in names if name.startswith(AUTOENCODER))
    if part.startswith("text_encoder"):
        prefixes = T5 if kind == "T5EncoderModel" else CLIP
        return single.load(name for name in names if name.startswith(prefixes))
    own = single.load(
        name for name in names if (not name.startswith(OTHERS) if single.bare else name.startswith(DENOISER))
    )
    own = {name.removeprefix(DENOISER): tensor for name, tensor in own.items()}
    # The converter of UNets knows them by the prefix, which the others do without.
    return {DENOISER + name: tensor for name, tensor in own.items()} if "input_blocks.0.0.weight" in own else own


def _clip(kind: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    module: nn.Module = single_file_utils.create_diffusers_clip_model_from_ldm(kind, tensors, **config)
    # The converter puts the identity for the small CLIP of SD3 even where the file has a matrix.
    stated = tensors.get("text_encoders.clip_l.transformer.text_projection.weight")
    own = dict(module.named_parameters()).get("text_projection.weight")
    if stated is not None and own is not None and stated.shape == own.shape:
        own.data.copy_(stated)
    return module
