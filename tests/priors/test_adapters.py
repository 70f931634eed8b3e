"""Adapters: what learns, which layers, files in the layouts that people have, merging, scaling, going on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import prior_folder
from tiny_families import family_folder
from torch import nn

from limner.config import AdapterConfig
from limner.errors import PriorError
from limner.priors import adapters
from limner.priors.folder import Loading
from limner.priors.lora_files import AdapterFile
from limner.priors.lora_layers import KINDS, Layer, plain_layers
from limner.priors.open import open_prior

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FAMILIES = ("sd", "sdxl", "sd3", "flux", "flux2", "z_image", "qwen_image")
FOLDERS = {"flux2": "flux2_klein"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ground = tmp_path_factory.mktemp("families")
    made = {name: family_folder(ground / name, FOLDERS.get(name, name)) for name in FAMILIES if name != "sd"}
    return {"sd": prior_folder(ground / "sd", "eps"), **made}


def network(folders: dict[str, Path], family: str = "sd") -> Any:
    return open_prior(str(folders[family])).network


def run_sd(net: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = net.conv_in.weight.dtype
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 12, 64, generator=generator)
    with torch.no_grad():
        return net(x.to(dtype), torch.tensor([3, 700]), encoder_hidden_states=text.to(dtype)).sample


def config(kind: str, **more: Any) -> AdapterConfig:
    return AdapterConfig(adapter=kind, **{"rank": 4, **more})


def roughen(net: nn.Module) -> None:
    """As after training: none of what learns is zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_nothing_changes_and_only_the_adapter_learns(folders: dict[str, Path], kind: str) -> None:
    net = network(folders)
    before, names = run_sd(net), set(net.state_dict())
    torch.manual_seed(0)
    adapters.adapt(net, config(kind), ATTENTION, "sd")
    torch.testing.assert_close(run_sd(net), before, atol=1e-6, rtol=1e-5)
    learned = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert learned
    assert all(".default" in name for name in learned)
    assert {name.replace(".base_layer", "") for name in set(net.state_dict()) - learned} == names
    roughen(net)
    assert (run_sd(net) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_is_fp32_over_a_bf16_base(folders: dict[str, Path], kind: str) -> None:
    net = network(folders).to(torch.bfloat16)
    before = run_sd(net)
    adapters.adapt(net, config(kind), ATTENTION, "sd")
    assert {weight.dtype for weight in net.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in net.parameters() if not weight.requires_grad} == {torch.bfloat16}
    torch.testing.assert_close(run_sd(net), before, atol=0.05, rtol=0.05)
    loss = net(*_input(torch.bfloat16)).sample.float().square().mean()
    loss.backward()
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in net.parameters())


def _input(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.ones(1, 4, 8, 8, dtype=dtype), torch.tensor([3]), torch.ones(1, 12, 64, dtype=dtype)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_convolutions_can_be_adapted(folders: dict[str, Path], kind: str) -> None:
    net = network(folders)
    before = run_sd(net)
    adapters.adapt(net, config(kind, adapter_targets=("conv1", "conv_in", "to_q")), ATTENTION, "sd")
    torch.testing.assert_close(run_sd(net), before, atol=1e-6, rtol=1e-5)
    assert "conv_in.base_layer.weight" in net.state_dict()


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("to_qq", "did you mean 'to_q'?"),
        ("to_out", "did you mean 'to_out.0'?"),
        ("attn1.to_p", "did you mean 'attn1.to_"),
    ],
)
def test_a_target_that_is_no_layer(folders: dict[str, Path], target: str, hint: str) -> None:
    with pytest.raises(PriorError, match=rf"'{target}'") as caught:
        adapters.adapt(network(folders), config("lora", adapter_targets=("to_k", target)), ATTENTION, "sd")
    assert hint in caught.value.hint
    assert len(caught.value.hint) < 200


def test_a_target_may_be_one_layer_or_the_end_of_many(folders: dict[str, Path]) -> None:
    layers = plain_layers(network(folders))
    one = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert adapters.targeted(layers, (one,)) == [one]
    assert all(name.endswith("attn2.to_v") for name in adapters.targeted(layers, ("attn2.to_v",)))
    assert len(adapters.targeted(layers, ("attn2.to_v",))) == len(adapters.targeted(layers, ("to_v",))) / 2


def test_what_a_kind_cannot_do_is_said_before(folders: dict[str, Path]) -> None:
    with pytest.raises(PriorError, match="3 x 3, which oft cannot turn"):
        adapters.adapt(network(folders), config("oft", adapter_targets=("conv1",)), ATTENTION, "sd")
    with pytest.raises(PriorError, match="blocks of rank 5") as caught:
        adapters.adapt(network(folders), config("oft", rank=5), ATTENTION, "sd")
    assert caught.value.hint == "ranks that fit all layers: 2, 4, 8, 16, 32"
    adapters.adapt(network(folders), config("oft", rank=8), ATTENTION, "sd")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_familys_own_targets_are_all_of_its_attention(folders: dict[str, Path], family: str) -> None:
    prior = open_prior(str(folders[family]))
    layers = plain_layers(prior.network)
    attention = [name for name, module in prior.network.named_modules() if type(module).__name__.endswith("Attention")]
    wanted = {name for name in layers if any(name.startswith(f"{block}.") for block in attention)}
    assert set(adapters.targeted(layers, prior.adapter_targets)) == wanted
    assert len(wanted) >= 4 * len(prior.network.config.get("block_out_channels", [1]))
    for target in prior.adapter_targets:
        adapters.targeted(layers, (target,))
    adapted = prior.adapt(config("lora"))
    assert {
        name.partition(".lora_")[0] for name, weight in adapted.named_parameters() if weight.requires_grad
    } == wanted


@pytest.mark.parametrize("held", ["int8", "nf4"])
@pytest.mark.parametrize("kind", KINDS)
def test_over_quantised_weights(folders: dict[str, Path], kind: str, held: Any) -> None:
    pytest.importorskip("bitsandbytes")
    prior = open_prior(str(folders["sd"]), Loading(held))
    prior.to("cpu")
    if kind in ("lokr", "loha") or (kind, held) == ("dora", "int8"):
        with pytest.raises(PriorError, match=r"quantised, and|does not run on a CPU"):
            prior.adapt(config(kind))
        return
    prior.adapt(config(kind))
    before = run_sd(prior.network)
    prior.network(*_input(torch.float32)).sample.square().mean().backward()
    learned = [weight for weight in prior.network.parameters() if weight.requires_grad]
    assert all(weight.dtype == torch.float32 and weight.grad is not None for weight in learned)
    roughen(prior.network)
    assert (run_sd(prior.network) - before).abs().max() > 1e-3
    if kind == "lora":
        adapters.rescale(prior.network, 0.0)
        torch.testing.assert_close(run_sd(prior.network), before)
    else:
        with pytest.raises(PriorError, match="cannot be scaled"):
            adapters.rescale(prior.network, 0.5)
    assert "of 0.3 M weights" in adapters.summary(prior.network, config(kind))
    layers = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": Layer({}, 1.0)}
    with pytest.raises(PriorError, match="is quantised, so nothing can be added"):
        adapters.merge(prior.network, [(AdapterFile(Path("a"), layers), 1.0)])
