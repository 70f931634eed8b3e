"""What a written file says of itself, in its safetensors header.

    modelspec.*  Stability AI's ModelSpec 1.0.1: architecture, resolution, trigger, licence, hash of the weights
    ss_*         what kohya's trainers write and A1111, ComfyUI and model managers show: base, rank, alpha, steps
    limner.*     how it was made: version, data, energy, the whole configuration

The hash is of all bytes behind the header, as ModelSpec wants it and as ``sshs_model_hash`` is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from limner import __version__
from limner.tensors import save

PENDING = "0" * 64  # where the hash will stand
DIFFUSERS = "diffusers"
SGM = "https://github.com/Stability-AI/generative-models"
FLUX = "https://github.com/black-forest-labs/flux"
COMFYUI = "https://github.com/comfyanonymous/ComfyUI"


@dataclass(frozen=True)
class About:
    """What is known of a run, for people and programs that meet only its result.

    prediction: 'epsilon', 'v' or 'flow'. width: of the text that the network reads, which tells Stable Diffusion 2 from
    1. guided: whether the network is told a guidance scale (FLUX.1 dev, not schnell). base: the prior's name.
    config: the run's configuration as YAML. kwh, kg_co2e: of all its training.
    """

    title: str
    family: str
    prediction: str
    width: int
    guided: bool
    resolution_px: int
    base: str
    base_license: str
    method: str
    trigger: str
    class_word: str
    data: str
    data_sha256: str
    num_images: int
    steps: int
    step: int
    batch_size: int
    learning_rate: float
    seed: int
    kwh: float
    kg_co2e: float
    config: str
    date: str


@dataclass(frozen=True)
class Kind:
    """What a file holds: 'lora' and its kin with rank and alpha as the file has them, 'control', 'words', or 'full'."""

    name: str
    target: str
    rank: int = 0
    alpha: float = 0.0


def header(about: About, kind: Kind) -> dict[str, str]:
    """The fields of a file; the hashes are filled in by ``write``."""
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": _architecture(about) + _suffix(kind.name),
        "implementation": _implementation(about.family, kind),
        "title": about.title,
        "description": f"Made by limner {__version__} ({about.method}) from {about.base}.",
        "resolution": f"{about.resolution_px}x{about.resolution_px}",
        "date": about.date,
        "prediction_type": about.prediction if about.prediction != "flow" else "",
        "trigger_phrase": about.trigger,
        "license": about.base_license,
        "hash_sha256": f"0x{PENDING}",
    }
    mine = {
        "version": __version__,
        "method": about.method,
        "base": about.base,
        "trigger": about.trigger,
        "class_word": about.class_word,
        "data": about.data,
        "data_sha256": about.data_sha256,
        "step": str(about.step),
        "energy_kwh": f"{about.kwh:.6g}",
        "co2e_kg": f"{about.kg_co2e:.6g}",
        "config": about.config,
    }
    fields = {f"modelspec.{name}": value for name, value in spec.items()} | _kohya(about, kind)
    fields |= {f"limner.{name}": value for name, value in mine.items()}
    return {"format": "pt"} | {name: value for name, value in fields.items() if value}


def write(file: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> None:
    """A safetensors file whose header has the hash of what follows it."""
    save(tensors, file, fields)
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        start = stream.read(length)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(8)
        stream.write(start.replace(PENDING.encode(), digest.encode()))


def _architecture(about: About) -> str:
    """ModelSpec's names, and in their manner where it has none yet."""
    if about.family == "sd":
        if about.width < 1024:
            return "stable-diffusion-v1"
        return "stable-diffusion-v2-768-v" if about.prediction == "v" else "stable-diffusion-v2-512"
    if about.family == "flux":
        return "flux-1-dev" if about.guided else "flux-1-schnell"
    known = {"sdxl": "stable-diffusion-xl-v1-base", "sd3": "stable-diffusion-3", "flux2": "flux-2-klein"}
    return known.get(about.family, about.family.replace("_", "-"))


def _suffix(kind: str) -> str:
    return {"full": "", "control": "/controlnet", "dora": "/lora", "words": "/textual-inversion"}.get(kind, f"/{kind}")


def _implementation(family: str, kind: Kind) -> str:
    """Whose names the tensors have."""
    if kind.target in ("diffusers", "peft") or kind.name in ("control", "words"):
        return DIFFUSERS
    if family == "sd":
        return SGM if kind.name == "full" else DIFFUSERS
    if family == "sdxl" or (family == "sd3" and (kind.name == "full" or kind.target == "kohya")):
        return SGM
    if family in ("flux", "flux2") and (kind.name == "full" or kind.target == "kohya"):
        return FLUX
    return COMFYUI if kind.name == "full" else DIFFUSERS


def _kohya(about: About, kind: Kind) -> dict[str, str]:
    """The ss_ fields; None of them says what limner does not know."""
    is_v2 = about.family == "sd" and about.width >= 1024
    version = {"sdxl": "sdxl_base_v1-0", "flux": "flux1"}.get(about.family, about.family)
    if about.family == "sd":
        version = ("sd_v2" if is_v2 else "sd_v1") + ("_v" if about.prediction == "v" else "")
    fields = {
        "ss_base_model_version": version,
        "ss_v2": str(is_v2),
        "ss_sd_model_name": about.base,
        "ss_output_name": about.title,
        "ss_resolution": str((about.resolution_px, about.resolution_px)),
        "ss_learning_rate": str(about.learning_rate),
        "ss_max_train_steps": str(about.steps),
        "ss_steps": str(about.step),
        "ss_total_batch_size": str(about.batch_size),
        "ss_num_train_images": str(about.num_images),
        "ss_seed": str(about.seed),
        "ss_session_id": str(int(hashlib.sha256(about.config.encode()).hexdigest()[:8], 16)),
        "ss_training_comment": f"limner {__version__}, {about.method}",
        "sshs_model_hash": PENDING,
    }
    if about.trigger:  # what A1111 offers to put into the prompt
        fields["ss_tag_frequency"] = json.dumps({Path(about.data).name: {about.trigger: about.num_images}})
    if kind.rank:
        own = {"flux": "networks.lora_flux", "sd3": "networks.lora_sd3"}.get(about.family, "networks.lora")
        fields["ss_network_module"] = own if kind.name == "lora" else "lycoris.kohya"
        fields["ss_network_dim"], fields["ss_network_alpha"] = str(kind.rank), str(kind.alpha)
        if kind.name != "lora":
            fields["ss_network_args"] = json.dumps({"algo": kind.name} if kind.name != "dora" else {"dora_wd": "True"})
    return fields
