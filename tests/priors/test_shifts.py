"""Sampling times are those of the stock scheduler, at the true size of the released models: 1024 pixels."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from limner.priors.flux2 import Flux2Flow
from limner.priors.paths import Flow
from limner.priors.shifts import flow_of

# As the scheduler_config.json of the released models.
TURBO: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": False}
FLUX: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
LINEAR: dict[str, Any] = FLUX | {"time_shift_type": "linear"}
QWEN: dict[str, Any] = {
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}


def stock_times(config: dict[str, Any], mu: float, num_steps: int) -> torch.Tensor:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / num_steps, num_steps).tolist(), mu=mu)
    return scheduler.sigmas.double()


@pytest.mark.parametrize("num_patches", [256, 1024, 4096, 6400])
@pytest.mark.parametrize("config", [TURBO, FLUX, LINEAR, QWEN])
@pytest.mark.parametrize("num_steps", [2, 8, 50])
def test_times_are_the_schedulers(config: dict[str, Any], num_patches: int, num_steps: int) -> None:
    keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    stock = FlowMatchEulerDiscreteScheduler(**config).config
    mu = calculate_shift(num_patches, *(stock[key] for key in keys))
    times = flow_of(config, num_patches).times(num_steps)
    torch.testing.assert_close(times, stock_times(config, mu, num_steps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_patches", [256, 4096, 6400])
@pytest.mark.parametrize("num_steps", [1, 4, 50, 200])
def test_times_of_flux2_depend_on_the_number_of_steps(num_patches: int, num_steps: int) -> None:
    mu = compute_empirical_mu(num_patches, num_steps)
    times = Flux2Flow(num_patches).times(num_steps)
    torch.testing.assert_close(times, stock_times(FLUX, mu, num_steps), atol=1e-5, rtol=0)


def test_one_step_goes_the_whole_way() -> None:
    assert flow_of(QWEN, 4096).times(1).tolist() == [1, 0]


def test_training_times_are_shifted_too() -> None:
    uniform = torch.tensor([0.25, 0.5, 0.75])
    for path in (flow_of(QWEN, 4096), Flux2Flow(4096), flow_of(TURBO, 4096)):
        assert isinstance(path, Flow)
        assert (path.draw_t(uniform) > uniform).all()
