"""A linear layer with a low-rank addition (Hu et al. 2021) in fewer passes over memory than peft's.

    y = x W^T + b + s (x A^T) B^T          W, b frozen

peft makes each product, the scaling and the sum an operation of its own, forward and backward, and under autocast first
turns x into fp32 for A. Here the small product adds itself to the large one, the gradient is written out by hand, and
nothing but x and x A^T is kept for it. The numbers are peft's up to rounding; ``docs/speed.md`` has the gain.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
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
    """peft's layer with one adapter and no dropout, which computes by ``LowRank``; all else is peft's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base, kind = self.base_layer, x.device.type
        parts = x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        cast = [None if part is None else part.to(dtype) for part in parts]
        return LowRank.apply(*cast, self.scaling[name])


def fuse(network: nn.Module) -> None:
    """Let peft's plain LoRA layers over plain linear layers compute so; in place."""
    for layer in network.modules():
        if type(layer) is Linear and type(layer.base_layer.weight) is nn.Parameter and not layer.lora_variant:
            layer.__class__ = LowRankLinear
