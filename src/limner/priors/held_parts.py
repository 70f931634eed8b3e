"""The modules beside the denoiser: the autoencoder and the text encoders, in memory for as long as they are needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn


class Parts:
    """Modules by name, each loaded, frozen, when it is first asked for; for any number of threads."""

    def __init__(self, loaders: Mapping[str, Callable[[], nn.Module]]) -> None:
        self._loaders, self._loaded = dict(loaders), dict[str, nn.Module]()
        self._kept: set[str] = set()
        self._lock = threading.Lock()
        self.device = torch.device("cpu")

    def __getitem__(self, name: str) -> nn.Module:
        with self._lock:
            if name not in self._loaded:
                part = self._loaders[name]().requires_grad_(False).eval()
                without_weights = torch.get_default_device().type == "meta"
                self._loaded[name] = part if without_weights else part.to(self.device)
            return self._loaded[name]

    def keep(self, name: str) -> nn.Module:
        """The part, which from now on is never let go of: it will learn."""
        self._kept.add(name)
        return self[name]

    def release(self) -> None:
        """Let go of all but what is kept; what is asked for again is loaded again."""
        with self._lock:
            self._loaded = {name: part for name, part in self._loaded.items() if name in self._kept}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """What is loaded within is let go of at the end; what was there before stays."""
        with self._lock:
            before = dict(self._loaded)
        try:
            yield
        finally:
            self.release()
            with self._lock:
                self._loaded |= before

    def to(self, device: torch.device) -> None:
        with self._lock:
            self.device = device
            for part in self._loaded.values():
                part.to(device)
