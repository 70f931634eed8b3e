"""The theory, on one page: how data becomes noise, and what a denoiser's output means.

Every family is  x_t = a(t) x_0 + s(t) eps,  t in [0, 1], 0 = data, 1 = noise. Families differ only in
    target(x_0, eps, t)     what the network is trained to say
    split(x_t, out, t)      how x_0 and eps are read off what it said
and split(x_t, target(x_0, eps, t), t) == (x_0, eps) wherever both are determined. Eps prediction: Ho et al. 2020;
v prediction: Salimans & Ho 2022, v = a eps - s x_0; flow: Lipman et al. 2022, Liu et al. 2022, v = eps - x_0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Path(ABC):
    """A noise path and the meaning of a prediction on it. All times are tensors of shape (B,) in [0, 1]."""

    num_timesteps = 1000
    logit_normal = False  # whether training times are best drawn around the middle (Esser et al. 2024, section 3.1)
    min_snr_gamma = 0.0  # for fine-tuning; 0 is none. With v it would starve pure noise, from which sampling starts

    @abstractmethod
    def a(self, t_B: Tensor) -> Tensor:
        """Share of data at t, shape (B,): 1 at t = 0."""

    @abstractmethod
    def s(self, t_B: Tensor) -> Tensor:
        """Share of noise at t, shape (B,): 0 at t = 0."""

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        """What the network should say at t."""

    @abstractmethod
    def split(self, x_t: Tensor, out: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) from the noisy input and the network's output."""

    @abstractmethod
    def timestep(self, t_B: Tensor) -> Tensor:
        """t in the units the network's time embedding was trained with."""

    @abstractmethod
    def draw_t(self, uniform_B: Tensor) -> Tensor:
        """Training times from numbers in [0, 1], uniform or not; they rise with the numbers and are never 0."""

    @abstractmethod
    def times(self, num_steps: int) -> Tensor:
        """The sampler's times, from 1 down to 0, shape (num_steps + 1,), float64."""

    @abstractmethod
    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        """Weight of the squared error at t that gives no time more than ``gamma`` times its share, (B,); at most 1.

        Hang et al. 2023 (arXiv 2303.09556), equation 4: min(SNR, gamma) on x_0, so divided by SNR for eps and by
        SNR + 1 for v, with SNR = (a / s)^2.
        """

    def mix(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        """x_t = a(t) x_0 + s(t) eps."""
        return _wide(self.a(t_B), x_0) * x_0 + _wide(self.s(t_B), x_0) * eps


class VariancePreserving(Path):
    """a^2 + s^2 = 1, from a table of betas; between the table's entries the angle atan2(s, a) is interpolated.

    t = (k + 1) / T is the table's timestep k, so t = 0 is clean data, which the table itself does not hold.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        angle = torch.acos(alphas_cumprod.double().clamp(0, 1).sqrt())
        self.angles = torch.cat([angle.new_zeros(1), angle])
        self.num_timesteps = len(alphas_cumprod)
        self._angles_on: dict[torch.device, Tensor] = {}

    def _angle(self, t_B: Tensor) -> Tensor:
        """In float64 on a CPU; in float32 on an accelerator, where reading the table must not wait for the host."""
        if t_B.device not in self._angles_on:
            on_cpu = t_B.device.type == "cpu"
            self._angles_on[t_B.device] = self.angles.to(torch.float64 if on_cpu else torch.float32).to(t_B.device)
        angles = self._angles_on[t_B.device]
        place = t_B.to(angles.dtype).clamp(0, 1) * self.num_timesteps
        low = place.floor().long().clamp(max=self.num_timesteps - 1)
        return torch.lerp(angles[low], angles[low + 1], place - low)

    def a(self, t_B: Tensor) -> Tensor:
        return torch.cos(self._angle(t_B)).to(t_B)

    def s(self, t_B: Tensor) -> Tensor:
        return torch.sin(self._angle(t_B)).to(t_B)

    def timestep(self, t_B: Tensor) -> Tensor:
        return t_B * self.num_timesteps - 1

    def draw_t(self, uniform_B: Tensor) -> Tensor:
        return ((uniform_B * self.num_timesteps).floor() + 1).clamp(max=self.num_timesteps) / self.num_timesteps

    def times(self, num_steps: int) -> Tensor:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)

    def _snr(self, t_B: Tensor) -> Tensor:
        return (self.a(t_B) / self.s(t_B)).square()


class Eps(VariancePreserving):
    """The network says the noise. At a(t) = 0 it says nothing of x_0, so such a table is refused."""

    min_snr_gamma = 5.0

    def __init__(self, alphas_cumprod: Tensor) -> None:
        if alphas_cumprod[-1] < 1e-8:
            raise ValueError("eps prediction cannot start from pure noise: the last alpha_cumprod is zero")
        super().__init__(alphas_cumprod)

    def target(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return eps

    def split(self, x_t: Tensor, out: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return (x_t - _wide(self.s(t_B), x_t) * out) / _wide(self.a(t_B), x_t), out

    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        return (gamma / self._snr(t_B)).clamp(max=1)


class V(VariancePreserving):
    """The network says v = a eps - s x_0, which is defined at both ends."""

    def target(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return _wide(self.a(t_B), x_0) * eps - _wide(self.s(t_B), x_0) * x_0

    def split(self, x_t: Tensor, out: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        a, s = _wide(self.a(t_B), x_t), _wide(self.s(t_B), x_t)
        return a * x_t - s * out, s * x_t + a * out

    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        snr_B = self._snr(t_B)
        return snr_B.clamp(max=gamma) / (snr_B + 1)


class Flow(Path):
    """a = 1 - t, s = t; the network says the velocity eps - x_0. ``shift`` > 1 spends more time near noise (SD3)."""

    logit_normal = True

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def a(self, t_B: Tensor) -> Tensor:
        return 1 - t_B

    def s(self, t_B: Tensor) -> Tensor:
        return t_B

    def target(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return eps - x_0

    def split(self, x_t: Tensor, out: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        t = _wide(t_B, x_t)
        return x_t - t * out, x_t + (1 - t) * out

    def timestep(self, t_B: Tensor) -> Tensor:
        return t_B * self.num_timesteps

    def draw_t(self, uniform_B: Tensor) -> Tensor:
        return self._shifted(uniform_B.clamp(min=2**-24))  # a time of exactly zero has nothing to learn from

    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        """All alike: the velocity's own weights are the ones that flow models are trained with."""
        return torch.ones_like(t_B)

    def times(self, num_steps: int) -> Tensor:
        return self._shifted(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))

    def _shifted(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)


def _wide(t_B: Tensor, like: Tensor) -> Tensor:
    return t_B.to(like).view(-1, *[1] * (like.ndim - 1))
