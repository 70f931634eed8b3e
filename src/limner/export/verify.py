"""Is what a stock reader got what was trained? Layer by layer, and then pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import ExportError
from limner.export.adapter import Adapter, adapter_of
from limner.export.stock import KEPT
from limner.types import Cond

# A pixel, in [0, 1], may move by so much at most, and by so much on average. Both sides compute in fp32; what is left
# is the order of sums, and the rounding of weights that are written in 16 bits. docs/export.md says what was measured.
ALLOWED = {"fp32": (2 / 255, 0.2 / 255), "fp16": (8 / 255, 1 / 255), "bf16": (24 / 255, 4 / 255)}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ROUNDING = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}  # of a layer's addition, against its largest number


def check_adapter(ours: Adapter, network: nn.Module, dtype: str) -> None:
    """Every layer of ``ours`` must be in the network, and do the same there.

    Raises:
        ExportError: a layer was skipped or came changed.
    """
    theirs = adapter_of(network, ours.component)
    if skipped := sorted(ours.layers.keys() - theirs.layers.keys()):
        raise ExportError(f"{len(skipped)} of {len(ours.layers)} layers were skipped, the first is {skipped[0]}.", KEPT)
    left, right = ours.baked(), theirs.baked()
    for module, parts in left.layers.items():
        mine, got = _summary(parts), _summary(right.layers[module])
        for part, tensor in mine.items():
            error = (tensor - got[part]).abs().max() if part in got else torch.tensor(torch.inf)
            if not error <= ROUNDING[dtype] * tensor.abs().max():
                raise ExportError(f"the layer {module} was read otherwise than it was written ({part}).", KEPT)


def _summary(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors themselves; of a LoRA the product, whose factors a reader may scale as it likes."""
    if "lora_A.weight" not in parts:
        return dict(parts)
    product = parts["lora_B.weight"].flatten(1) @ parts["lora_A.weight"].flatten(1)
    rest = {name: tensor.flatten() for name, tensor in parts.items() if name not in ("lora_A.weight", "lora_B.weight")}
    return {"lora": product, **rest}


def check_weights(ours: Mapping[str, Tensor], network: Any, dtype: str) -> None:
    """Every weight must be there, and be the one that was trained, as the file's type rounds it.

    Raises:
        ExportError: a weight was skipped or came changed.
    """
    theirs = network.state_dict()
    if strange := sorted(ours.keys() ^ theirs.keys()):
        raise ExportError(f"the weight {strange[0]} was skipped, and {len(strange) - 1} others.", KEPT)
    for name, tensor in ours.items():
        if not torch.equal(tensor.to(DTYPES[dtype]).float().cpu(), theirs[name].float().cpu()):
            raise ExportError(f"the weight {name} was read otherwise than it was written.", KEPT)


def check_words(
    ours: Mapping[str, Mapping[str, Tensor]], theirs: Mapping[str, Mapping[str, Tensor]], dtype: str
) -> None:
    """Every vector of every new word must have come into every text encoder.

    Raises:
        ExportError: one came changed.
    """
    for encoder, words in ours.items():
        for word, vectors in words.items():
            if not torch.equal(vectors.to(DTYPES[dtype]).float().cpu(), theirs[encoder][word].float().cpu()):
                raise ExportError(f"{encoder} has read the word {word} otherwise than it was written.", KEPT)


def check_text(ours: Cond, theirs: tuple[Tensor, Tensor | None], dtype: str) -> None:
    """The stock pipeline must make of the caption what limner makes of it.

    Raises:
        ExportError: it does not.
    """
    for what, own, other in zip(("tokens", "summary"), (ours.tokens_BLD, ours.pooled_BD), theirs, strict=True):
        if own is None or other is None:
            continue
        if own.shape != other.shape:
            raise ExportError(f"the caption's {what} are {tuple(other.shape)}, not {tuple(own.shape)}.", KEPT)
        error = (own.cpu().float() - other.cpu().float()).abs().max()
        if not error <= 10 * ROUNDING[dtype] * own.abs().max():
            raise ExportError(f"the written model reads the caption otherwise: its {what} differ.", KEPT)


def check_pixels(ours_CHW: Tensor, theirs_CHW: Tensor, dtype: str) -> tuple[float, float]:
    """(largest, mean) difference of two pictures in [0, 1].

    Raises:
        ExportError: more than is allowed.
    """
    if ours_CHW.shape != theirs_CHW.shape:
        raise ExportError(f"the picture is of {tuple(theirs_CHW.shape)}, not {tuple(ours_CHW.shape)}.", KEPT)
    error = (ours_CHW.cpu().float() - theirs_CHW.cpu().float()).abs()
    most, mean = error.max().item(), error.mean().item()
    allowed_most, allowed_mean = ALLOWED[dtype]
    if not (most <= allowed_most and mean <= allowed_mean):
        rounded = f"{dtype} may round too much for this model: try --dtype fp32; {KEPT}"
        raise ExportError(
            f"the written model draws another picture: pixels differ by up to {most:.4f} of 1 ({allowed_most:.4f} "
            f"allowed), by {mean:.5f} on average ({allowed_mean:.5f} allowed).",
            KEPT if dtype == "fp32" else rounded,
        )
    return most, mean
