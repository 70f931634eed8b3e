"""Networks that look at a picture, from the Hugging Face hub or a folder: loaded once, run as their makers meant."""

from __future__ import annotations

import functools
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from limner.errors import DataError, first_line

loading = Lock()  # pictures come in several threads, and the first of each would load the network


def load(task: str, name: str, device: torch.device) -> tuple[Any, Any]:
    """A network for 'depth estimation' or 'semantic segmentation' and the processor that feeds it.

    Args:
        name: a hub name or a folder, as ``transformers`` reads them.

    Raises:
        DataError: no such network, or one for another task.
    """
    with loading:
        return _load(task, name, device)


@functools.cache
def _load(task: str, name: str, device: torch.device) -> tuple[Any, Any]:
    from transformers import (
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
        AutoConfig,
        AutoImageProcessor,
        AutoModelForDepthEstimation,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )

    try:
        config = AutoConfig.from_pretrained(name)
        kind: Any = AutoModelForSemanticSegmentation
        if task == "depth estimation":
            kind = AutoModelForDepthEstimation
        elif type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
            kind = AutoModelForUniversalSegmentation
        processor = AutoImageProcessor.from_pretrained(name)
        network = kind.from_pretrained(name).to(device).eval().requires_grad_(False)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{name} cannot be loaded for {task}: {first_line(error)}.",
            "give the hub name or folder of such a model: --model NAME; in training, --condition-options model=NAME",
        ) from error
    return network, processor


def look(network: Any, processor: Any, image_BCHW: Tensor) -> Any:
    """The network's output for pictures in [-1, 1], resized and normalised by its own processor."""
    uint8_BHWC = (image_BCHW.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    inputs = processor(images=list(uint8_BHWC), return_tensors="pt")
    with torch.inference_mode():
        return network(**{name: value.to(network.device) for name, value in inputs.items()})
