"""A network whose frozen matrices are held in 8 or 4 bits, through bitsandbytes; an adapter beside them learns.

int8 is LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), a scale for each row; nf4 is QLoRA's data type (Dettmers et
al. 2023, arXiv 2305.14314), a scale for each 64 weights, itself in 8 bits. Both run on CPUs and on CUDA.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from torch import nn

from limner.errors import PriorError

KINDS = ("int8", "nf4")

# It says at every call of every layer that int8 computes in 16 bits, which is known.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def prepare(network: Any, kind: str) -> Any:
    """The network with the linear layers of its repeated blocks ready: they are quantised when it is moved to a device.

    What reads and writes pictures, text and time stays as it is: it is small, and methods widen its input.

    Raises:
        PriorError: bitsandbytes is not installed.
    """
    try:
        bnb = importlib.import_module("bitsandbytes")
    except ImportError:
        raise PriorError(f"base_precision {kind} needs bitsandbytes.", "pip install 'limner[quantised]'") from None
    for name, module in list(network.named_modules()):
        if type(module) is nn.Linear and any(part.isdigit() for part in name.split(".")):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, _layer(bnb, module, kind))
    # By these peft knows which of its layers belong on top.
    network.is_loaded_in_8bit, network.is_loaded_in_4bit = kind == "int8", kind == "nf4"
    return network


def _layer(bnb: Any, linear: nn.Linear, kind: str) -> nn.Module:
    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    layer: Any
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(*sizes, compute_dtype=linear.weight.dtype, quant_type="nf4", device="meta")
        layer.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=layer)
        # Its fast path for CPUs packs the weights for good at the first call without gradients, and then gives none.
        layer.support_avx512bf16_for_cpu = False
    layer.bias = linear.bias
    layer.train(linear.training)
    return layer
