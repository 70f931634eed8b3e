"""The adapter files of a configuration: where they lie, whether they are still the same, what the user is told of them.

RUN/adapters.json  file -> sha256, of what was merged and of what the run started from
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from limner.config import MethodConfig
from limner.errors import ConfigError, RunError
from limner.evaluate.report import write_text
from limner.priors import adapters as of_priors
from limner.priors.base import Prior
from limner.priors.lora_files import find, num_text, read
from limner.priors.lora_start import Start
from limner.train import checkpoint

console = Console(stderr=True)


def entry(given: str) -> tuple[Path, float]:
    """The two halves of FILE:SCALE; the scale is 1 where it is left out.

    Raises:
        ConfigError: a scale that is not finite.
    """
    file, colon, scale = given.rpartition(":")
    if not colon or Path(given).exists():
        return Path(given), 1.0
    try:
        number = float(scale)
    except ValueError:
        return Path(given), 1.0
    if not math.isfinite(number):
        raise ConfigError(f"the scale of {file} is {scale}.", "give a number, such as 0.7")
    return Path(file), number


def locate(given: Path) -> Path:
    """The file itself, by its whole path: of a folder the one in it, of a run the averaged weights at its best.

    Raises:
        PriorError: it is not there, or is no safetensors file.
        RunError: a run without a checkpoint.
    """
    if (given / "config.yaml").is_file() and not (given / "adapter_config.json").is_file():
        chosen = checkpoint.to_open(given / "checkpoints")
        if chosen is None:
            raise RunError(f"{given} has no checkpoint yet.", "let the training reach its first save_every steps")
        given = chosen / "ema.safetensors"
    return find(given).resolve()


def settle(config: MethodConfig, load_shapes: Callable[[], Prior]) -> MethodConfig:
    """The configuration with its adapters' whole paths, and the rank and alpha of the file that it starts from.

    Raises:
        LimnerError: a file that is not there, is no adapter, or is another one than the configuration says.
    """
    changed: dict[str, Any] = {}
    if config.adapters:
        changed["adapters"] = tuple(f"{locate(file)}:{scale!r}" for file, scale in map(entry, config.adapters))
    if config.start_from:
        changed["start_from"] = locate(config.start_from)
        if not {"rank", "alpha"} <= config.model_fields_set:
            prior = load_shapes()
            start = Start.of(read(changed["start_from"], prior.network, prior.family))
            own = {"rank": start.rank, "alpha": start.alpha}
            changed |= {name: value for name, value in own.items() if name not in config.model_fields_set}
            start.refuse_another(config.model_copy(update=changed))
    return config.model_copy(update=changed)


def merge(prior: Prior, entries: Sequence[str]) -> None:
    """Add adapters to the prior's weights; on the meta device they are only read.

    Raises:
        LimnerError: one that cannot be read, or does not fit.
    """
    files = [(read(locate(file), prior.network, prior.family), scale) for file, scale in map(entry, entries)]
    if files and prior.device.type != "meta":
        of_priors.merge(prior.network, files)


def tell(entries: Sequence[str], start_from: Path | None = None) -> None:
    """Say what is merged, and what of the files is not used."""
    files = [(locate(file), scale) for file, scale in map(entry, entries)]
    for file, scale in files:
        console.print(f"merged: {file}, times {scale:g}", soft_wrap=True, highlight=False)
    for file in dict.fromkeys([*(file for file, _ in files), *([locate(start_from)] if start_from else [])]):
        if num := num_text(file):
            left = f"{file}: its {num} tensors for text encoders are left out; limner changes the denoiser alone"
            console.print(left, soft_wrap=True, highlight=False)


def record(run: Path, config: MethodConfig) -> None:
    """Write adapters.json, where there are any. Raises OSError (a full disk)."""
    if digests := _digests(config):
        write_text(run / "adapters.json", json.dumps(digests, indent=2) + "\n")


def refuse_changed(run: Path, config: MethodConfig) -> None:
    """Stop where a file is not what it was when the run began.

    Raises:
        RunError: names it.
    """
    file = run / "adapters.json"
    if not file.is_file() or not checkpoint.all_of(run / "checkpoints"):
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _digests(config)
    for name, digest in before.items():
        if now.get(name) != digest:
            raise RunError(f"{name} is not the file that {run} began with.", "bring that one back, or begin a new run")


def _digests(config: MethodConfig) -> dict[str, str]:
    used = [entry(given)[0] for given in config.adapters] + ([config.start_from] if config.start_from else [])
    digests = {}
    for file in used:
        with file.open("rb") as stream:
            digests[str(file)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests
