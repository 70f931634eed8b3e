"""Checkpoints: a folder that is there whole or not at all, safetensors and JSON only.

    checkpoints/step-000200/weights.safetensors  ema.safetensors  optimizer.safetensors  state.json

A checkpoint is written beside its final name and renamed when every byte is on disk, so a kill at any moment leaves
the previous one intact. Tensor names are NAME/weight for each NAME of the method's ``learns()``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from limner.errors import RunError
from limner.tensors import save

FILES = ("weights", "ema", "optimizer")
Tensors = dict[str, dict[str, Tensor]]  # learner's name -> tensor's name -> tensor


def write(folder: Path, step: int, files: dict[str, Tensors], state: dict[str, Any]) -> Path:
    """Save under ``folder``/step-NNNNNN. Raises OSError (a full disk) and then leaves nothing behind."""
    final = at(folder, step)
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in FILES:
            flat = {f"{who}/{name}": tensor for who, some in files[file].items() for name, tensor in some.items()}
            save(flat, partial / f"{file}.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(str(error)) from error  # safetensors says it in its own kind
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    return final


def read(checkpoint: Path, files: tuple[str, ...] = FILES) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The named files and the state of a checkpoint.

    Raises:
        RunError: a file is missing or damaged.
    """
    loaded: dict[str, Tensors] = {}
    hint = f"delete {checkpoint} to go on from the one before it"
    for file in files:
        path = checkpoint / f"{file}.safetensors"
        try:
            flat = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} is missing or damaged: {error}.", hint) from None
        loaded[file] = {}
        for name, tensor in flat.items():
            who, _, rest = name.partition("/")
            loaded[file].setdefault(who, {})[rest] = tensor
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{checkpoint / 'state.json'} is missing or damaged: {error}.", hint) from None
    return loaded, state


def all_of(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    complete = (path for path in folder.glob("step-*") if path.suffix != ".partial")
    return sorted(complete, key=lambda path: int(path.name.removeprefix("step-")))


def best(folder: Path, state: dict[str, Any]) -> dict[str, float] | None:
    """Step and score of the best checkpoint that a state knows of and that is still there."""
    known = state["best"]
    return known if known and at(folder, known["step"]).is_dir() else None


def to_open(folder: Path) -> Path | None:
    """The best of the checkpoints, the last where none was scored, None where there is none."""
    done = all_of(folder)
    if not done:
        return None
    _, state = read(done[-1], files=())
    chosen = best(folder, state)
    return at(folder, chosen["step"]) if chosen else done[-1]


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Keep the last ``keep`` and the best."""
    for path in all_of(folder)[:-keep]:
        if best_step is None or path != at(folder, best_step):
            shutil.rmtree(path)


def at(folder: Path, step: float) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{int(step):06d}"


def _sync(path: Path) -> None:
    """Wait until the disk has it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
