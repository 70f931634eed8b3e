"""The Prior contract: what limner asks of a pretrained text-to-image model.

A prior turns pictures into latents and back, captions into conditions, and says what the noise is:

    encode_image  slow and cacheable: mean and std of the latent     draw    cheap and random: one latent
    decode        latent -> picture                                  encode_text   captions -> Cond
    predict       (x_t, t, cond) -> the network's output, whose meaning is ``path``

Methods see nothing else; none asks which prior it has. What learns is ``network``; ``adapt`` says how. The frozen
``parts`` (autoencoder, text encoders) are loaded when they are first used and can be let go of at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Literal

import torch
from torch import Tensor, nn

from limner.config import AdapterConfig
from limner.errors import PriorError
from limner.priors import adapters, new_words
from limner.priors.held_parts import Parts
from limner.priors.paths import Path
from limner.priors.tokens import Tokenizer
from limner.types import Cond, Tokens

CONTEXTS = (
    "a photo of a {} in a kitchen",
    "a photo of a {} in a desert",
    "a photo of a {} in a city at night",
    "a photo of a {} on a wooden table",
    "a photo of a {} beside a tree",
    "a {} seen from above",
    "an oil painting of a {}",
    "a {} made of blue glass",
)


class Prior(ABC):
    """A pretrained generator behind one contract.

    Attributes:
        family: its short name, such as 'sdxl'.
        component: what its diffusers pipeline calls the denoiser, 'unet' or 'transformer'.
        source: the folder its files lie in.
        path: the noise path and the meaning of the network's output.
        network: the denoiser, the part that fine-tuning changes.
        control: the module that ``add_control`` made; None before.
        parts: the autoencoder and the text encoders, on the network's device; frozen, but for what ``add_words`` and
            ``adapt_text`` make learn.
        readers: name of each part that reads captions -> its tokenizer.
        clips: those of them that are CLIP text encoders.
        precision: what ``network`` computes in, under ``computing``.
        image_px: side of the square pictures it was trained on, in pixels.
        multiple_px: sides of pictures must be multiples of this.
        latent_CHW: shape of one latent.
        latent_scale: the autoencoder's latents are multiplied by it.
        token_dim, num_tokens: width and number of the text tokens that cross attention reads.
        pooled_dim: width of the pooled vector, None where the prior has none.
        guidance_scale, guidance: what its pictures are usually drawn with (``sampling.guidance``); scale 1 is none.
        adapter_targets: names (suffixes) of the linear layers that a low-rank adapter changes by default.
        text_layers: those that turn what the prior is told into keys and values, which Custom Diffusion changes.
        contexts: prompts, with {} for a thing, in which a run that learns a subject is scored by default.
    """

    family: str
    component: str
    source: FilePath
    path: Path
    network: nn.Module
    control: nn.Module | None = None
    parts: Parts
    readers: Mapping[str, Tokenizer]
    clips: Sequence[str] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    image_px: int
    multiple_px: int
    latent_CHW: tuple[int, int, int]
    latent_scale: float
    token_dim: int
    num_tokens: int
    pooled_dim: int | None = None
    guidance_scale: float = 5.0
    guidance: str = "off"
    adapter_targets: Sequence[str] = ()
    text_layers: Sequence[str] = ()
    contexts: Sequence[str] = CONTEXTS

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
        """The network's output at time t. ``cond.channels_BCHW`` is put beside x_t after ``widen_input``.

        To be called under ``computing``.
        """

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """In force within: the precision of the forward pass. The weights may be held in another."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @abstractmethod
    def widen_input(self, num_channels: int) -> None:
        """Let the network read ``num_channels`` more input planes, with weights of zero: its output stays as it was."""

    def add_control(self) -> nn.Module:
        """A copy of the network's first half that reads a picture and steers the network; at first it changes nothing.

        It is the stock ControlNet of the family (Zhang et al. 2023), and reads ``Cond.control_BCHW`` in ``predict``.

        Raises:
            PriorError: the family has none.
        """
        raise PriorError(f"{self.source} is of the family {self.family}, which has no ControlNet.", "take concat")

    def control_input(self, condition_BCHW: Tensor) -> Tensor:
        """What ``Cond.control_BCHW`` is for a picture in [-1, 1]: the same in [0, 1], as stock ControlNets of UNets."""
        return condition_BCHW / 2 + 0.5

    @abstractmethod
    def encoders_digest(self) -> str:
        """A hash of the files of the frozen parts and tokenizers."""

    def reinitialise(self, seed: int) -> None:
        """Random weights for the network, the rest kept: what training from scratch starts from."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = type(self.network).from_config(self.network.config).to(self.device)  # type: ignore[attr-defined]

    def draw(self, mean_BCHW: Tensor, std_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """A latent from its distribution."""
        return mean_BCHW + std_BCHW * noise_BCHW

    def loss(self, z_0: Tensor, eps: Tensor, t_B: Tensor, cond: Cond, weight_B1HW: Tensor | None = None) -> Tensor:
        """Mean squared error of the prediction at t against the path's target, a number a picture: (B,).

        With ``weight_B1HW`` (not negative) the weighted mean: what has no weight does not count at all.
        """
        with self.computing():
            out = self.predict(self.path.mix(z_0, eps, t_B), t_B, cond)
        error_BCHW = (out.float() - self.path.target(z_0, eps, t_B).float()).square()
        return mean_of_pictures(error_BCHW, weight_B1HW)

    def fingerprint(self) -> str:
        """A hash of what encodes: latents and embedded captions of priors with the same one are the same."""
        about = (
            f"{type(self).__name__} {self.latent_scale} {self.device.type} {self.precision} {self.encoders_digest()}"
        )
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def adapt(self, config: AdapterConfig) -> nn.Module:
        """Choose what of the network learns: every weight ('full') or an addition to some ('lora' and its kin).

        Raises:
            PriorError: see ``adapters.adapt``.
        """
        self.network = adapters.adapt(self.network, config, self.adapter_targets, self.family)
        return self.network

    def adapt_text(self, config: AdapterConfig) -> nn.ModuleDict:
        """Let the CLIP text encoders learn, by name: every weight ('full', in fp32) or an addition to their attention.

        T5 and language models stay frozen. An addition starts from zero, whatever that of the network starts from.

        Raises:
            PriorError: no CLIP reads its captions; and see ``adapters.adapt``.
        """
        if not self.clips:
            raise PriorError(f"{self.source} has no CLIP text encoder, and only those learn.", "leave text_encoder out")
        own = config.model_copy(update={"adapter_targets": (), "start_from": None})
        encoders = {name: self.parts.keep(name) for name in self.clips}
        if config.adapter == "full":
            encoders = {name: encoder.float() for name, encoder in encoders.items()}
        adapted = {
            name: adapters.adapt(encoder, own, adapters.CLIP_ATTENTION, self.family)
            for name, encoder in encoders.items()
        }
        return nn.ModuleDict(adapted)

    def add_words(self, starts: Mapping[str, str], num_vectors: int) -> nn.ModuleDict:
        """New words that learn, each of ``num_vectors`` vectors in every text encoder: its name -> ``new_words.Words``.

        Once a prior. What captions without them say stays as it was.

        Args:
            starts: the word to be -> the words whose mean embedding each of its vectors starts from.

        Raises:
            PriorError: a word that the prior knows already, one that others hold, or a start that is no word.
        """
        for word in starts:
            if any(tokenizer.knows(word) for tokenizer in self.readers.values()):
                raise PriorError(f"'{word}' is a word that {self.source} knows.", f"choose another, such as <{word}>")
            if word[0].isalnum() and word[-1].isalnum():
                raise PriorError(f"'{word}' would be read within longer words.", f"choose another, such as <{word}>")
        added = {
            name: new_words.add(self.parts.keep(name), tokenizer, starts, num_vectors)
            for name, tokenizer in self.readers.items()
        }
        return nn.ModuleDict(added)

    def to(self, device: torch.device | str) -> Prior:
        # torch's own stubs do not know this call.
        self.network.to(device, memory_format=fastest_layout(torch.device(device)))  # type: ignore[call-overload]
        self.parts.to(torch.device(device))
        return self

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def fastest_layout(device: torch.device) -> torch.memory_format:
    """In which convolutions are fastest: channels last, except on a CPU.

    There small maps of many channels take up to three times as long in it: a training step is 5 to 13 % faster without
    on a UNet of 138 M weights, and as fast on the built-in prior.
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def mean_of_pictures(error_BCHW: Tensor, weight_B1HW: Tensor | None) -> Tensor:
    """The mean of each picture, (B,); with weights the weighted one."""
    if weight_B1HW is None:
        return error_BCHW.mean(dim=(1, 2, 3))
    total_B = weight_B1HW.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return (error_BCHW.mean(dim=1, keepdim=True) * weight_B1HW).sum(dim=(1, 2, 3)) / total_B
