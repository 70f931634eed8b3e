"""GLIDE's noise path: eps prediction on pictures, with a learned variance (Nichol & Dhariwal 2021, arXiv 2102.09672).

The network says the noise and, for each value, a number v that places the log-variance of the step to the timestep
below between its two bounds, beta-tilde and beta. The mean learns by squared error; the variance by the variational
bound alone, in which the mean is held fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limner.priors.paths import VariancePreserving

NUM_TIMESTEPS = 1000
# The upsampler's own timesteps, "fast27": many where the small picture leaves most open; 997 in place of 999, where
# a prediction of the noise says least of the picture.
FAST27 = (
    *(0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399),
    *(400, 500, 599, 600, 799, 800, 997),
)


def cosine_betas() -> Tensor:
    """The base model's: abar(u) = cos^2((u + 0.008) / 1.008 * pi / 2), beta at most 0.999; float64, (1000,)."""
    u = torch.arange(NUM_TIMESTEPS + 1, dtype=torch.float64) / NUM_TIMESTEPS
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


def linear_betas() -> Tensor:
    """The upsampler's: from 1e-4 to 2e-2 (Ho et al. 2020); float64, (1000,)."""
    return torch.linspace(1e-4, 2e-2, NUM_TIMESTEPS, dtype=torch.float64)


class PicturePath(VariancePreserving):
    """Eps prediction where x_0 is a picture: what the network makes of it is brought back to [-1, 1], and eps with it.

    ``split`` is therefore the inverse of ``target`` for pictures, not for all numbers. Without it, guidance leads out
    of the range, and the samples of a model over pixels become glaring (Saharia et al. 2022, section 2.3).
    """

    min_snr_gamma = 5.0

    def __init__(self, betas: Tensor, chosen: tuple[int, ...] = ()) -> None:
        """``chosen``: timesteps that ``times`` takes when it is asked for so many."""
        super().__init__((1 - betas).cumprod(0))
        self.chosen = chosen
        abar = (1 - betas).cumprod(0)
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        smallest = betas * (1 - before) / (1 - abar)
        smallest[0] = smallest[1]  # of the step to clean data it would be zero, which has no logarithm
        # The mean of q(x_before | x_t, x_0) is of_x_0 x_0 + of_x_t x_t (Ho et al. 2020, equation 7).
        of_x_0, of_x_t = betas * before.sqrt() / (1 - abar), (1 - before) * (1 - betas).sqrt() / (1 - abar)
        self.steps = torch.stack([smallest.log(), betas.log(), of_x_0, of_x_t])
        self._steps_on: dict[torch.device, Tensor] = {}

    def target(self, x_0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return eps

    def split(self, x_t: Tensor, out: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        a, s = _wide(self.a(t_B), x_t), _wide(self.s(t_B), x_t)
        x_0 = ((x_t - s * out) / a).clamp(-1, 1)
        return x_0, (x_t - a * x_0) / s

    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        return (gamma / self._snr(t_B)).clamp(max=1)

    def times(self, num_steps: int) -> Tensor:
        if num_steps != len(self.chosen):
            return super().times(num_steps)
        times = (torch.tensor(self.chosen, dtype=torch.float64) + 1) / self.num_timesteps
        return torch.cat([times.new_zeros(1), times]).flip(0)

    def log_variance(self, v_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The log of the variance of p(x_before | x_t) that the network's v, from -1 to 1, stands for (equation 15)."""
        smallest, largest, _, _ = self._step(t_B, v_BCHW)
        share = (v_BCHW + 1) / 2
        return share * largest + (1 - share) * smallest

    def bound(self, x_0: Tensor, x_t: Tensor, eps: Tensor, v: Tensor, t_B: Tensor) -> Tensor:
        """This time's term of the variational bound, in bits, for each value: like x_0, float32.

        The divergence of the posterior q(x_before | x_t, x_0) from the model's step; at the lowest timestep the
        negative log-likelihood of x_0 among 256 levels. ``eps`` learns nothing from it.
        """
        x_0, x_t, eps, v = x_0.float(), x_t.float(), eps.detach().float(), v.float()
        true_log, _, of_x_0, of_x_t = self._step(t_B, x_0)
        predicted = (x_t - _wide(self.s(t_B), x_t) * eps) / _wide(self.a(t_B), x_t)
        true_mean, mean = of_x_0 * x_0 + of_x_t * x_t, of_x_0 * predicted + of_x_t * x_t
        log = self.log_variance(v, t_B)
        divergence = (log - true_log + (true_log - log).exp() + (true_mean - mean) ** 2 * (-log).exp() - 1) / 2
        surprise = -_log_likelihood(x_0, mean, log / 2)
        return torch.where(_wide(self._index(t_B), x_0) == 0, surprise, divergence) / math.log(2)

    def _step(self, t_B: Tensor, like: Tensor) -> Tensor:
        """The numbers of each time's step: smallest and largest log-variance, of_x_0, of_x_t; (4, B, 1, ...)."""
        if t_B.device not in self._steps_on:
            self._steps_on[t_B.device] = self.steps.float().to(t_B.device)
        return self._steps_on[t_B.device][:, self._index(t_B)].to(like).view(4, -1, *[1] * (like.ndim - 1))

    def _index(self, t_B: Tensor) -> Tensor:
        """The table's timestep nearest to t."""
        return (t_B * self.num_timesteps - 1).round().long().clamp(0, self.num_timesteps - 1)


def base_path() -> PicturePath:
    return PicturePath(cosine_betas())


def upsampler_path() -> PicturePath:
    return PicturePath(linear_betas(), FAST27)


def _log_likelihood(x_0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability, in nats, of the eighth-bit level that x_0 in [-1, 1] lies on; the outer two are open."""

    def below(x: Tensor) -> Tensor:
        z = (x - mean) * (-log_std).exp()
        # The official code's approximation of the normal distribution function, kept for equal losses.
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2

    upper, lower = below(x_0 + 1 / 255), below(x_0 - 1 / 255)
    upper, lower = torch.where(x_0 > 0.999, 1.0, upper), torch.where(x_0 < -0.999, 0.0, lower)
    return (upper - lower).clamp(min=1e-12).log()


def _wide(value_B: Tensor, like: Tensor) -> Tensor:
    return value_B.to(like).view(-1, *[1] * (like.ndim - 1))
