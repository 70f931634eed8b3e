"""Layers with a low-rank addition (Hu et al. 2021) in fewer passes over memory, and fewer operations, than peft's.

    y = x W^T + b + s (x A^T) B^T          W, b frozen           beside the layer
    y = x (W + s B A)^T + b                                      within its weight

peft makes each product, the scaling and the sum of the first an operation of its own, forward and backward, and under
autocast first turns x into fp32 for A. Here the small product adds itself to the large one, the gradient is written out
by hand, and nothing but x and x A^T is kept for it. Where W is small beside x, the second is less work: in small
networks, and where no gradient is wanted, everywhere. It is taken in fp32 alone, as W + s B A in bf16 would round s B A
away. The numbers are peft's up to rounding; ``docs/decisions.md`` has the gain.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Conv2d, Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LowRank(torch.autograd.Function):
    """(x, W, b or None, A, B, s) -> y; x of shape (..., in), A (rank, in), B (out, rank), all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        small = rows @ down.T
        y = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        y.addmm_(small, up.T, alpha=scale)
        ctx.save_for_backward(rows, small, weight, down, up)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, small, weight, down, up = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_small = (grad_rows @ up).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight).addmm_(grad_small, down).view(*grad.shape[:-1], -1)
        return grad_x, None, None, grad_small.T @ rows, (grad_rows.T @ small).mul_(ctx.scale), None


class LowRankLinear(Linear):
    """peft's layer with one adapter and no dropout, which computes by the above; all else is peft's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base: Any = self.base_layer
        if within(self, name, x.numel() // x.shape[-1], dtype := computed_in(x)):
            return F.linear(x, whole(self, name), base.bias)
        parts = x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight
        return LowRank.apply(*(None if part is None else part.to(dtype) for part in parts), self.scaling[name])


class LowRankConv2d(Conv2d):
    """The same of a convolution; beside its layer it is peft's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (self.disable_adapters or self.merged):
            (name,) = self.active_adapters
            base: Any = self.base_layer
            num_places = len(x) * x.shape[-2] * x.shape[-1] // (base.stride[0] * base.stride[1])
            if within(self, name, num_places, computed_in(x)):
                y: Tensor = base._conv_forward(x, whole(self, name), base.bias)
                return y
        return super().forward(x, *args, **kwargs)


def computed_in(x: Tensor) -> torch.dtype:
    """In which precision a layer is asked to compute."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def within(layer: Any, name: str, num_rows: int, dtype: torch.dtype) -> bool:
    """Whether the addition within the weight takes fewer multiplications than beside the layer, and may be there.

    With a gradient these are, of W of shape (out, in), beside: x A^T, (x A^T) B^T, and two for each backward; within:
    the gradient of the whole weight, B A, and two for each of B and A.
    """
    if dtype != torch.float32 or layer.base_layer.weight.dtype != torch.float32:
        return False
    rank, num_in = layer.lora_A[name].weight.flatten(1).shape
    num_out = len(layer.lora_B[name].weight)
    beside, product = num_rows * rank * (num_in + num_out), rank * num_in * num_out
    if torch.is_grad_enabled():
        return num_rows * num_in * num_out + 3 * product < 3 * beside
    return product < beside


def whole(layer: Any, name: str) -> Tensor:
    """W + s B A, of the shape of W."""
    weight, up, down = layer.base_layer.weight, layer.lora_B[name].weight, layer.lora_A[name].weight
    return torch.add(weight, (up.flatten(1) @ down.flatten(1)).view_as(weight), alpha=layer.scaling[name])


def fuse(network: nn.Module) -> None:
    """Let peft's plain LoRA layers over plain linear layers and convolutions compute so; in place."""
    for layer in network.modules():
        if type(layer) not in (Linear, Conv2d) or layer.lora_variant:
            continue
        base: Any = layer.base_layer
        if type(layer) is Linear and type(base.weight) is nn.Parameter:
            layer.__class__ = LowRankLinear
        elif type(layer) is Conv2d and base.groups == 1:
            layer.__class__ = LowRankConv2d
