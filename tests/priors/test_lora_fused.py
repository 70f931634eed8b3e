"""LoRA computed in fewer passes gives what peft gives, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from limner.priors.lora_fused import LowRankConv2d, LowRankLinear, fuse, within


class Net(nn.Module):
    """A layer with bias, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def both(**options: object) -> tuple[nn.Module, nn.Module]:
    """The same network and adapter, as peft computes it and as we do."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False, **options)
    network = inject_adapter_in_model(config, Net().requires_grad_(False))
    ours = copy.deepcopy(network)
    fuse(ours)
    return network, ours


def gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss, for every weight that learns and for x, after the output itself."""
    x = x.clone().requires_grad_()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    y = network(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), [x, *weights])]


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_equal_to_peft(shape: tuple[int, ...]) -> None:
    peft, ours = both()
    assert type(ours.first) is type(ours.second) is LowRankLinear
    x = torch.randn(shape)
    for wanted, got in zip(gradients(peft, x), gradients(ours, x), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("num_rows", "learning"), [(4, True), (4, False), (400, True), (400, False)])
def test_equal_to_peft_within_the_weight_and_beside_it(num_rows: int, learning: bool) -> None:
    peft, ours = both()
    x = torch.randn(num_rows, 6)
    with torch.set_grad_enabled(learning):
        assert within(ours.first, "default", num_rows, x.dtype) == (num_rows == 400 or not learning)
        torch.testing.assert_close(ours(x), peft(x))
    for wanted, got in zip(gradients(peft, x), gradients(ours, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_beside_the_weight_where_that_is_less_work_or_more_exact() -> None:
    config = LoraConfig(r=2, target_modules=["0"])
    wide = inject_adapter_in_model(config, nn.Sequential(nn.Linear(512, 512)).requires_grad_(False))[0]
    assert not within(wide, "default", 4096, torch.float32)  # 512 x 512 a row, instead of 3 x 2 x 1024
    assert not within(wide, "default", 4096, torch.bfloat16)
    with torch.no_grad():
        assert within(wide, "default", 4096, torch.float32)
        assert not within(wide, "default", 4, torch.float32)
        assert not within(wide, "default", 4096, torch.bfloat16)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_pefts(stride: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, stride=stride, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1, bias=False))
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False)
    peft = inject_adapter_in_model(config, network.requires_grad_(False))
    ours = copy.deepcopy(peft)
    fuse(ours)
    assert type(ours[0]) is type(ours[2]) is LowRankConv2d
    for side in (2, 16):
        x = torch.randn(2, 4, side, side)
        for wanted, got in zip(gradients(peft, x), gradients(ours, x), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    for network in (peft, ours):
        network[0].enable_adapters(False)
    torch.testing.assert_close(ours(x), peft(x))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_convolutions_in_groups_stay_with_peft() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)).requires_grad_(False)
    ours = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), network)
    fuse(ours)
    assert not isinstance(ours[0], LowRankConv2d)


def test_of_a_view_whose_rows_are_not_together_in_memory() -> None:
    peft, ours = both()
    x = torch.randn(2, 6, 4).transpose(1, 2)
    for wanted, got in zip(gradients(peft, x), gradients(ours, x), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_under_autocast(base: torch.dtype) -> None:
    peft, ours = both()
    exact = gradients(peft, x := torch.randn(4, 6))
    for network in (peft, ours):
        for layer in (network.first, network.second):
            layer.base_layer.to(base)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, got = gradients(peft, x), gradients(ours, x)
    assert got[0].dtype == torch.bfloat16
    for one, other, wanted in zip(got, theirs, exact, strict=True):
        assert one.dtype == other.dtype
        # As near to the numbers in fp32 as peft is, which rounds more often.
        assert (one - wanted).norm() <= 1.5 * (other - wanted).norm() + 1e-3 * wanted.norm()


def test_no_gradient_is_computed_for_what_needs_none() -> None:
    _, ours = both()
    weights = [weight for weight in ours.parameters() if weight.requires_grad]
    grads = torch.autograd.grad(ours(torch.randn(4, 6)).sum(), weights)
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_checkpointed_gradients_are_the_same() -> None:
    _, ours = both()
    x = torch.randn(4, 6)
    wanted = gradients(ours, x)
    whole = ours.forward
    ours.forward = lambda x: torch.utils.checkpoint.checkpoint(whole, x, use_reentrant=False)
    for one, other in zip(gradients(ours, x), wanted, strict=True):
        assert torch.equal(one, other)


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    _, ours = both()
    x = torch.randn(4, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_disabled_merged_and_scaled_as_peft_does() -> None:
    peft, ours = both()
    x = torch.randn(4, 6)
    for change in (
        lambda layer: layer.scale_layer(0.5),
        lambda layer: layer.enable_adapters(False),
        lambda layer: layer.enable_adapters(True),
        lambda layer: layer.merge(),
    ):
        for network in (peft, ours):
            change(network.first)
            change(network.second)
        torch.testing.assert_close(ours(x), peft(x))


def test_dora_stays_with_peft() -> None:
    _, ours = both(use_dora=True)
    assert not any(isinstance(layer, LowRankLinear) for layer in ours.modules())
