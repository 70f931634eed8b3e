"""The Prior contract: what limner asks of a pretrained text-to-image model.

A prior turns pictures into latents and back, captions into conditions, and says what the noise is:

    encode_image  slow and cacheable: mean and std of the latent     draw    cheap and random: one latent
    decode        latent -> picture                                  encode_text   captions -> Cond
    predict       (x_t, t, cond) -> the network's output, whose meaning is ``path``

Methods see nothing else; none asks which prior it has. What learns is ``network``; ``adapt`` says how.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.priors.paths import Path
from limner.types import Cond, Tokens


class Prior(ABC):
    """A pretrained generator behind one contract.

    Attributes:
        path: the noise path and the meaning of the network's output.
        network: the denoiser, the part that fine-tuning changes.
        frozen: the other parts (autoencoder, text encoder); never trained, kept on the network's device.
        image_px: side of the square pictures it was trained on, in pixels.
        multiple_px: sides of pictures must be multiples of this.
        latent_CHW: shape of one latent.
        latent_scale: the autoencoder's latents are multiplied by it.
        token_dim, num_tokens: width and number of the text tokens that cross attention reads.
        pooled_dim: width of the pooled vector, None where the prior has none.
        adapter_targets: names (suffixes) of the linear layers that a low-rank adapter changes by default.
    """

    path: Path
    network: nn.Module
    frozen: nn.ModuleDict
    image_px: int
    multiple_px: int
    latent_CHW: tuple[int, int, int]
    latent_scale: float
    token_dim: int
    num_tokens: int
    pooled_dim: int | None = None
    adapter_targets: Sequence[str] = ()

    @abstractmethod
    def encode_image(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the latents of pictures in [-1, 1]; std is zero for a deterministic encoder."""

    @abstractmethod
    def decode(self, z_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1] (clamped) from latents. Differentiable."""

    @abstractmethod
    def encode_text(self, captions: Sequence[str]) -> Cond:
        """One row of tokens a caption; the empty caption is the null condition."""

    @abstractmethod
    def count_tokens(self, caption: str) -> Tokens:
        """How ``encode_text`` reads a caption; what does not fit is cut off without a word."""

    @abstractmethod
    def predict(self, x_t_BCHW: Tensor, t_B: Tensor, cond: Cond) -> Tensor:
        """The network's output at time t. ``cond.channels_BCHW`` is put beside x_t after ``widen_input``."""

    @abstractmethod
    def widen_input(self, num_channels: int) -> None:
        """Let the network read ``num_channels`` more input planes, with weights of zero: its output stays as it was."""

    @abstractmethod
    def reinitialise(self, seed: int) -> None:
        """Random weights for the network, the rest kept: what training from scratch starts from."""

    def draw(self, mean_BCHW: Tensor, std_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """A latent from its distribution."""
        return mean_BCHW + std_BCHW * noise_BCHW

    def loss(self, z_0: Tensor, eps: Tensor, t_B: Tensor, cond: Cond, weight_B1HW: Tensor | None = None) -> Tensor:
        """Mean squared error of the prediction at t against the path's target, a number a picture: (B,).

        With ``weight_B1HW`` (not negative) the weighted mean: what has no weight does not count at all.
        """
        out = self.predict(self.path.mix(z_0, eps, t_B), t_B, cond)
        error_BCHW = (out.float() - self.path.target(z_0, eps, t_B).float()).square()
        if weight_B1HW is None:
            return error_BCHW.mean(dim=(1, 2, 3))
        total_B = weight_B1HW.sum(dim=(1, 2, 3)).clamp(min=1e-6)
        return (error_BCHW.mean(dim=1, keepdim=True) * weight_B1HW).sum(dim=(1, 2, 3)) / total_B

    def fingerprint(self) -> str:
        """A hash of what encodes: latents and embedded captions of priors with the same one are the same."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.latent_scale} {self.device.type}".encode())
        for name, tensor in self.frozen.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def adapt(self, adapter: str, rank: int, alpha: float | None) -> nn.Module:
        """Choose what of the network learns: every weight ('full') or a low-rank addition ('lora', Hu et al. 2021).

        Returns the network. ``alpha`` is the adapter's scale times its rank; None means alpha = rank (a scale of 1).
        """
        self.frozen.requires_grad_(False).eval()
        self.network.requires_grad_(adapter == "full")
        if adapter == "lora":
            from peft import LoraConfig, inject_adapter_in_model

            scale: Any = alpha or rank  # peft says int, and takes a float
            config = LoraConfig(r=rank, lora_alpha=scale, target_modules=list(self.adapter_targets))
            self.network = inject_adapter_in_model(config, self.network)
        return self.network

    def to(self, device: torch.device | str) -> Prior:
        # The layout that convolutions are fastest in. torch's own stubs do not know this call.
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device
