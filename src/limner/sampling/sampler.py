"""From noise to a latent: one sampler over any ``Path``, whatever the network predicts.

    step    one DDIM step (Song et al. 2021, arXiv 2010.02502), generalised to any a(t), s(t); eta > 0 is stochastic
    sample  the whole way from t = 1 to t = 0, by DDIM / Euler or by DPM-Solver++(2M)

With eta = 0 a DDIM step takes  x_next = a_n x_0 + s_n eps.  On a flow path that *is* Euler's step along the velocity;
on a variance-preserving path it is Euler's step of the probability-flow ODE in the variables x / a over s / a, the form
of Karras et al. 2022. So "euler" is another name of "ddim" with eta = 0, kept because users look for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from limner.errors import ConfigError, did_you_mean
from limner.priors.paths import Path

SOLVERS = ("dpmpp_2m", "ddim", "euler")

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t_BCHW, t_B float32) -> the network's output, guided already (see ``guidance.guided``)."""


def step(
    path: Path, x_t: Tensor, out: Tensor, t: Tensor, t_next: Tensor, eta: float = 0.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """One DDIM step from t down to t_next: (x_next, mean, std) with x_next = mean + std * noise.

        sigma = eta (s_n / s_t) sqrt(s_t^2 - (a_t / a_n)^2 s_n^2),   mean = a_n x_0 + sqrt(s_n^2 - sigma^2) eps

    Song et al. 2021, equations 12 and 16, with a, s in place of sqrt(abar), sqrt(1 - abar): eta = 1 on a
    variance-preserving path is DDPM's ancestral step with the posterior variance. ``std`` is zero where eta is zero and
    in the step to t_next = 0, which therefore has no log-probability.

    Args:
        x_t, out: (B, C, H, W), the noisy latent and the network's output for it.
        t, t_next: times in [0, 1], shape (), (1,) or (B,), t_next < t.
        eta: 0 deterministic ... 1 ancestral.
        noise: standard normal like x_t. Without it x_next is the mean; that is what scoring a stored x_next needs.

    Returns:
        x_next and mean like x_t; std of shape (1 or B, 1, ...), in x_t's type.
    """
    t, t_next = t.double(), t_next.double()
    a_t, s_t, a_n, s_n = path.a(t), path.s(t), path.a(t_next), path.s(t_next)
    x_0, eps = path.split(x_t, out.to(x_t), t)
    sigma = eta * (s_n / s_t) * (s_t**2 - (a_t / a_n) ** 2 * s_n**2).clamp(min=0).sqrt()
    towards_eps = (s_n**2 - sigma**2).clamp(min=0).sqrt()
    mean = _wide(a_n, x_t) * x_0 + _wide(towards_eps, x_t) * eps
    std = _wide(sigma, x_t)
    return (mean if noise is None else mean + std * noise), mean, std


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of a stochastic step's outcome, N(x; mean, std^2), in fp32: a number a picture, shape (B,).

    Summed over C, H, W, so it is the density itself (DDPO divides by nothing; one that wants a mean divides by
    ``x[0].numel()``). ``std`` must be positive: the step to t = 0 and any step with eta = 0 have no density.
    """
    std = std.float()
    z = (x.float() - mean.float()) / std
    return (-0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)


def sample(
    predict: Predict,
    path: Path,
    x_T: Tensor,
    *,
    num_steps: int,
    solver: str = "dpmpp_2m",
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    grad_steps: int = 0,
) -> Tensor:
    """The latent x_0 that the noise x_T (B, C, H, W) leads to, in ``num_steps`` calls of ``predict``.

    Args:
        solver: "dpmpp_2m" (second order, the fewest steps), "ddim", or "euler" (ddim with eta = 0).
        eta, noise: for "ddim" only: randomness of each step, and where step i = 0, 1, ... gets its noise from.
        grad_steps: a gradient flows through the last so many steps (DRaFT-K, Clark et al. 2024); none by default.

    Raises:
        ConfigError: an unknown solver, or eta with a solver that has no randomness.
    """
    _check(solver, eta, noise)
    times = path.times(num_steps)
    x, x_0_before, t_before = x_T, None, None
    for i, (t, t_next) in enumerate(pairwise(times)):
        with torch.set_grad_enabled(torch.is_grad_enabled() and i >= num_steps - grad_steps):
            out = predict(x, t.to(x.device, torch.float32).expand(len(x)))
            if solver == "dpmpp_2m":
                x_0 = path.split(x, out.to(x), t)[0]
                x = _dpmpp_2m(path, x, x_0, x_0_before, t_before, t, t_next)
                x_0_before, t_before = x_0, t
            else:
                x = step(path, x, out, t, t_next, eta, noise(i) if noise and eta else None)[0]
    return x


def _dpmpp_2m(
    path: Path, x_t: Tensor, x_0: Tensor, x_0_before: Tensor | None, t_before: Tensor | None, t: Tensor, t_next: Tensor
) -> Tensor:
    """One step of DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2, in ratios instead of logarithms.

        x_next = (s_n / s_t) x_t + a_n (1 - exp(-h)) D,   D = x_0 + (h / 2 h_before) (x_0 - x_0_before)

    where h = log(a_n / s_n) - log(a_t / s_t). Written with exp(-h) = (a_t s_n) / (a_n s_t) it holds where a logarithm
    is infinite: at a = 0 (zero terminal SNR, flow at t = 1) and at s = 0 (t = 0). The first step has no step before it,
    the last an infinite h: both are first order. Coefficients in float64.
    """
    decay = _exp_minus_h(path, t, t_next)
    estimate = x_0
    if x_0_before is not None and t_before is not None and decay > 0:
        # After a start at a = 0 the step before was infinitely long, and the correction is zero, as it should be.
        slope = decay.log() / (2 * _exp_minus_h(path, t_before, t).log())
        estimate = x_0 + _wide(slope, x_0) * (x_0 - x_0_before)
    keep = path.s(t_next) / path.s(t)
    return _wide(keep, x_t) * x_t + _wide(path.a(t_next) * (1 - decay), x_t) * estimate


def _exp_minus_h(path: Path, t: Tensor, t_next: Tensor) -> Tensor:
    return (path.a(t) * path.s(t_next)) / (path.a(t_next) * path.s(t))


def _check(solver: str, eta: float, noise: Callable[[int], Tensor] | None) -> None:
    if solver not in SOLVERS:
        raise ConfigError(f"unknown solver '{solver}'.", did_you_mean(solver, SOLVERS))
    if eta and solver != "ddim":
        raise ConfigError(f"solver '{solver}' is deterministic and takes no eta ({eta}).", "use solver ddim, or eta 0")
    if eta and noise is None:
        raise ConfigError(f"eta {eta} needs noise for every step.", "pass noise=lambda i: ...")


def _wide(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).view(-1, *[1] * (like.ndim - 1))
