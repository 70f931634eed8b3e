"""Memory counted instead of held: inside ``Count`` large tensors have shapes and no contents, and are added up.

Every tensor that an operation gives counts from when it is made until nothing refers to it any more. So a peak is that
of the very code that runs, with its checkpoints, autocast and whatever it does besides. Not counted is what a kernel
uses within itself, and what an allocator keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from limner.priors.held_parts import Parts

# What is made of nothing (arange, randn, a list of numbers) has contents up to this many numbers: code may look into
# masks, lengths and times. What has met a weight has none.
SMALL = 1 << 16


class Count(TorchDispatchMode):
    """Inside, large tensors have no contents; those on ``device`` are added up.

    now, peak: bytes held, and most of them since ``peak_since``. noted: what ``note`` said at that peak.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self.note: Callable[[], int] = int
        self.noted = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # of which there are more than of all else
            return func(*args)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in given):
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], [_places(index) for index in args[1]])
            with self._fake:
                out = func(*args, **kwargs)
        elif given:
            out = func(*args, **kwargs)
        else:
            with self._fake:
                out = func(*args, **kwargs)
            if all(tensor.numel() <= SMALL for tensor in tree_leaves(out) if isinstance(tensor, Tensor)):
                out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def empty(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the same shape and layout on the device, without contents."""
        with self._fake:
            made = torch.empty_strided(like.shape, like.stride(), dtype=dtype or like.dtype, device=self.device)
        self._see(made)
        return made

    def _see(self, tensor: Tensor) -> None:
        storage: Any = tensor.untyped_storage()
        place = storage._cdata
        if tensor.device.type != self.device.type or place in self._held:
            return
        num_bytes = storage.nbytes()
        self._held[place] = weakref.ref(storage, lambda _: self._gone(place, num_bytes))
        self.now += num_bytes
        if self.now > self.peak:
            self.peak, self.noted = self.now, self.note()

    def _gone(self, place: int, num_bytes: int) -> None:
        del self._held[place]
        self.now -= num_bytes

    def spare(self, num_bytes: int) -> None:
        """So many bytes of what has been counted are not held."""
        self.now -= num_bytes
        self.peak = self.now

    def peak_since(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak


def _places(index: Tensor | None) -> Tensor | None:
    """A mask as the numbers of what it chooses, so that it is known how many they are."""
    if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor) or index.ndim != 1:
        return index
    return index.nonzero()[:, 0]


def weightless(count: Count, module: nn.Module, frozen: torch.dtype | None = None) -> nn.Module:
    """The module with weights and buffers that have no contents; those that do not learn in the type ``frozen``."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers, vars(part)):
            for name, old in list(tensors.items()):
                if not isinstance(old, Tensor) or isinstance(old, FakeTensor):
                    continue
                if id(old) not in made:
                    held = frozen if old.is_floating_point() and not old.requires_grad else None
                    new = count.empty(old, held)
                    is_weight = isinstance(old, nn.Parameter)
                    made[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_weight else new
                    made[id(new)] = old  # lives as long as its id is known
                tensors[name] = made[id(old)]  # type: ignore[assignment]
    return module


class BareParts(Parts):
    """The parts of a prior, weightless: counted from when they are asked for until they are released."""

    def __init__(self, parts: Parts, count: Count) -> None:
        super().__init__(parts._loaders)
        self.count, self.device = count, count.device
        self._kept = parts._kept
        self._loaded = {name: weightless(count, parts._loaded[name]) for name in self._kept}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._loaded:
            with _disable_current_modes(), torch.device("meta"):
                part = self._loaders[name]().requires_grad_(False).eval()
            self._loaded[name] = weightless(self.count, part)
        return self._loaded[name]
