"""The sampler against closed forms, against diffusers' schedulers, and at the ends where logarithms are infinite."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from limner.errors import ConfigError
from limner.priors.paths import Eps, Flow, Path, V
from limner.sampling.sampler import log_prob, sample, step

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0)
ZERO_TERMINAL = torch.cos(torch.linspace(0, torch.pi / 2, 1001, dtype=torch.float64))[1:] ** 2
PATHS = {"eps": Eps(ALPHAS), "v": V(ALPHAS), "v_zero": V(ZERO_TERMINAL), "flow": Flow(), "flow_shifted": Flow(3.0)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_predict(path: Path, m: float, c: float):
    """What a perfect network says when the data are N(m, c^2) in each dimension."""

    def predict(x_t, t_B):
        a, s = (part.double().view(-1, 1, 1, 1) for part in (path.a(t_B.double()), path.s(t_B.double())))
        x_0 = m + a * c**2 / (a**2 * c**2 + s**2) * (x_t - a * m)
        eps = s / (a**2 * c**2 + s**2) * (x_t - a * m)
        return path.target(x_0, eps, t_B.double())

    return predict


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_a_flow_is_euler(shift):
    path, x, out = Flow(shift), normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    for t, t_next in pairwise(path.times(7)):
        torch.testing.assert_close(step(path, x, out, t, t_next)[0], x + (t_next - t) * out)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [10, 40])
def test_ddim_equals_diffusers(kind, eta, num_steps):
    scheduler = DDIMScheduler(
        trained_betas=BETAS.float().numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type=kind,
    )
    scheduler.set_timesteps(num_steps)
    path = (Eps if kind == "epsilon" else V)(scheduler.alphas_cumprod)
    x = theirs = normal(2, 3, 4, 4)
    for i, (t, t_next) in enumerate(pairwise(path.times(num_steps))):
        assert round(float(path.timestep(t))) == int(scheduler.timesteps[i])
        out, noise = normal(2, 3, 4, 4, seed=10 + i), normal(2, 3, 4, 4, seed=100 + i)
        theirs = scheduler.step(out, scheduler.timesteps[i], theirs, eta=eta, variance_noise=noise).prev_sample
        x = step(path, x, out, t, t_next, eta, noise)[0]
        torch.testing.assert_close(x, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_steps", [10, 40])
def test_dpmpp_2m_equals_diffusers(kind, num_steps):
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=BETAS.float().numpy(), timestep_spacing="trailing", prediction_type=kind, final_sigmas_type="zero"
    )
    path = (Eps if kind == "epsilon" else V)(scheduler.alphas_cumprod)
    scheduler.set_timesteps(num_steps)
    outs = [normal(2, 3, 4, 4, seed=10 + i) for i in range(num_steps)]
    theirs = x_T = normal(2, 3, 4, 4)
    for timestep, out in zip(scheduler.timesteps, outs, strict=True):
        theirs = scheduler.step(out, timestep, theirs).prev_sample
    script = iter(outs)
    ours = sample(lambda x, t: next(script), path, x_T, num_steps=num_steps, solver="dpmpp_2m")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim", "euler"])
def test_a_perfect_network_gives_the_data(path, solver):
    x_T = normal(64, 1, 8, 8)
    x_0 = sample(gaussian_predict(path, m=2.0, c=0.5), path, x_T, num_steps=100, solver=solver)
    # The start forgets a(1) x_0, so a table that does not end in pure noise shifts the mean by about a(1) m c.
    assert abs(x_0.mean() - 2.0) < 0.1
    assert abs(x_0.std() / x_T.std() - 0.5) < 0.03


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_stochastic_steps_give_the_data_too(path):
    predict, x_T = gaussian_predict(path, m=2.0, c=0.5), normal(64, 1, 8, 8)
    x_0 = sample(
        predict, path, x_T, num_steps=200, solver="ddim", eta=1.0, noise=lambda i: normal(64, 1, 8, 8, seed=1 + i)
    )
    assert abs(x_0.mean() - 2.0) < 0.03
    assert abs(x_0.std() - 0.5) < 0.02


@pytest.mark.parametrize(("solver", "gain"), [("euler", 1.8), ("dpmpp_2m", 2.6)])
@pytest.mark.parametrize("path", [PATHS["v_zero"], PATHS["flow"]], ids=["v_zero", "flow"])
def test_order_of_convergence(path, solver, gain):
    """On Gaussian data the exact ODE carries x_T to m + c x_T when a(1) = 0 (it keeps the standardised place).

    Halving the step halves Euler's error. DPM-Solver++(2M) gains not quite four: next to a = 0 its steps are long in
    log(a / s), which costs a factor of log n.
    """
    x_T = normal(4, 1, 4, 4)
    exact = 2.0 + 0.5 * x_T
    error = [
        float((sample(gaussian_predict(path, 2.0, 0.5), path, x_T, num_steps=n, solver=solver) - exact).abs().max())
        for n in (80, 160)
    ]
    assert error[0] / error[1] > gain


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim", "euler"])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_no_end_of_the_path_gives_nan(path, num_steps, solver):
    x_0 = sample(lambda x, t: torch.tanh(x), path, normal(2, 3, 4, 4).float(), num_steps=num_steps, solver=solver)
    assert torch.isfinite(x_0).all()


def test_log_prob_is_the_normal_density():
    x, mean, std = normal(3, 2, 4, 4).float(), normal(3, 2, 4, 4, seed=1).float(), torch.tensor([0.1, 1, 3])
    std = std.view(3, 1, 1, 1)
    wanted = torch.distributions.Normal(mean, std).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(log_prob(x, mean, std), wanted)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ratio_is_one_before_the_first_update(path):
    """A stored step, scored again a batch at a time with a time of its own for each picture."""
    t, t_next = path.times(10)[3:5].float()
    x, out, noise = (normal(3, 2, 4, 4, seed=i).float() for i in range(3))
    x_next, mean, std = step(path, x, out, t, t_next, eta=1.0, noise=noise)
    again, mean_again, std_again = step(path, x, out, t.expand(3), t_next.expand(3), eta=1.0)
    assert torch.equal(again, mean_again)
    ratio = (log_prob(x_next, mean_again, std_again) - log_prob(x_next, mean, std)).exp()
    assert (ratio - 1).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim"])
@pytest.mark.parametrize("grad_steps", [0, 1, 3])
def test_gradient_flows_through_the_last_steps_only(solver, grad_steps):
    weights = torch.ones(6, requires_grad=True)
    calls = iter(range(6))
    x_0 = sample(
        lambda x, t: x * weights[next(calls)],
        Flow(),
        normal(2, 1, 2, 2).float(),
        num_steps=6,
        solver=solver,
        grad_steps=grad_steps,
    )
    assert x_0.requires_grad == (grad_steps > 0)
    if grad_steps:
        x_0.square().sum().backward()
        assert (weights.grad[: 6 - grad_steps] == 0).all()
        assert (weights.grad[6 - grad_steps :] != 0).all()


def test_what_cannot_work_says_so():
    x = normal(1, 1, 2, 2)
    with pytest.raises(ConfigError, match="unknown solver") as error:
        sample(lambda x, t: x, Flow(), x, num_steps=2, solver="dpmp_2m")
    assert "dpmpp_2m" in error.value.hint
    with pytest.raises(ConfigError, match="deterministic"):
        sample(lambda x, t: x, Flow(), x, num_steps=2, solver="dpmpp_2m", eta=1.0, noise=lambda i: x)
    with pytest.raises(ConfigError, match="needs noise"):
        sample(lambda x, t: x, Flow(), x, num_steps=2, solver="ddim", eta=1.0)
