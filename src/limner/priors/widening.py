"""Layers that read more planes than they did, and at first make nothing of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from limner.errors import PriorError


def widen_conv(old: nn.Conv2d, num_channels: int) -> nn.Conv2d:
    """The convolution with ``num_channels`` more input planes, whose weights are zero."""
    _refuse_adapted(old)
    new = copy.copy(old)
    new.in_channels = old.in_channels + num_channels
    new._parameters = {**old._parameters, "weight": _widened(old.weight, num_channels)}
    return new


def widen_linear(old: nn.Linear, num_features: int) -> nn.Linear:
    """The linear layer with ``num_features`` more inputs, whose weights are zero."""
    _refuse_adapted(old)
    new = copy.copy(old)
    new.in_features = old.in_features + num_features
    new._parameters = {**old._parameters, "weight": _widened(old.weight, num_features)}
    return new


def _refuse_adapted(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise PriorError(
            "the layer that reads the picture has an adapter, and is to be widened for the condition.",
            "leave it out of adapter_targets: widened it learns whole",
        )


def _widened(weight: Tensor, num: int) -> nn.Parameter:
    whole = weight.detach().float()  # it learns, whatever the frozen weights are held in
    return nn.Parameter(torch.cat([whole, whole.new_zeros(len(whole), num, *whole.shape[2:])], dim=1))
