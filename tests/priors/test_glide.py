"""GLIDE's own network against the official code: names, shapes and numbers (see ``glide_golden.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from glide_golden import CAPTIONS, FACTS, NUMBERS, TIMES, drawn, inputs, shapes_digest, weigh
from safetensors.torch import load_file
from torch import Tensor, nn

from limner.priors.glide_files import official
from limner.priors.glide_net import BASE, UPSAMPLER, NetConfig, UNet
from limner.priors.glide_path import FAST27, PicturePath, base_path, upsampler_path
from limner.priors.glide_text import ConditionEncoder, TextTransformer
from limner.priors.glide_tokens import tokenizer
from limner.sampling.sampler import sample

GOLDEN: dict[str, Tensor] = load_file(NUMBERS)
FACT: dict[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
TINY = NetConfig(
    image_px=16, channels=32, multipliers=(1, 2), num_res_blocks=1, attention_px=(8,), head_channels=32,
    token_dim=64, num_tokens=8, text_layers=2, text_heads=2,
)  # fmt: skip
GIVEN = inputs()


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def tiny(in_channels: int = 3, token_dim: int = 64) -> NetConfig:
    return replace(TINY, in_channels=in_channels, token_dim=token_dim)


def close(value: Tensor, name: str, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(value, GOLDEN[name], rtol=tolerance, atol=tolerance)


def beside(x_BCHW: Tensor) -> Tensor:
    low_res = nn.functional.interpolate(GIVEN["low_res"], x_BCHW.shape[2:], mode="bilinear")
    return torch.cat([x_BCHW, low_res], dim=1)


@pytest.mark.parametrize(("name", "config"), [("base", BASE), ("upsampler", UPSAMPLER)])
def test_every_key_and_shape_of_the_released_models(name: str, config: NetConfig) -> None:
    with torch.device("meta"):
        both = UNet(config).state_dict() | TextTransformer(config).state_dict()
        assert shapes_digest(official(both)) == FACT[name]
        for mode, channels in {"coco": 3, "coco-edge": 1, "depth-normal": 6}.items():
            parts = {"decoder": UNet(config), "encoder": ConditionEncoder(channels)}
            assert shapes_digest(official(nn.ModuleDict(parts).state_dict())) == FACT[f"piti_{name}.{mode}"]


def test_the_text_transformer_is_equal() -> None:
    text, network = weigh(TextTransformer(tiny())), weigh(UNet(tiny()))
    tokens = text(GIVEN["ids"], GIVEN["mask"])
    close(tokens, "text.tokens")
    close(network.transformer_proj(tokens[:, -1]), "text.time")


@pytest.mark.parametrize(("name", "in_channels"), [("base", 3), ("upsampler", 6)])
def test_the_networks_are_equal(name: str, in_channels: int) -> None:
    text, network = weigh(TextTransformer(tiny(in_channels))), weigh(UNet(tiny(in_channels)))
    tokens = text(GIVEN["ids"], GIVEN["mask"])
    x = GIVEN["x"] if in_channels == 3 else beside(GIVEN["x"])
    close(network(x, GIVEN["t"], tokens, tokens[:, -1]), name)


@pytest.mark.parametrize(("name", "in_channels"), [("piti_base", 3), ("piti_upsampler", 6)])
def test_pitis_networks_are_equal(name: str, in_channels: int) -> None:
    model = nn.ModuleDict({"encoder": ConditionEncoder(), "decoder": UNet(tiny(in_channels, 512))})
    weigh(model)
    tokens, pooled = model["encoder"](GIVEN["condition"])
    assert tokens.shape == (2, 256, 512) and pooled.shape == (2, 512)
    close(tokens[:, ::16, ::16], f"{name}.tokens")
    close(pooled, f"{name}.pooled")
    x = GIVEN["x"] if in_channels == 3 else beside(GIVEN["x"])
    close(model["decoder"](x, GIVEN["t"], tokens, pooled), name)


def test_captions_are_read_alike() -> None:
    words = tokenizer(128)
    ids, mask = words.ids(CAPTIONS)
    for caption, row, is_text, expected in zip(CAPTIONS, ids, mask, FACT["ids"], strict=True):
        assert row[is_text].tolist() == expected[:128]
        assert words.count(caption).num == len(expected)
    ids, mask = tokenizer(12).ids(CAPTIONS[1:2])
    assert [ids[0].tolist(), mask[0].tolist()] == FACT["padded"]
    assert words.ids(["<|endoftext|>"])[1].sum() > 1  # as text it means nothing


def test_checkpointing_changes_memory_and_not_the_gradient() -> None:
    network = weigh(UNet(tiny()))
    tokens = drawn("tokens", 2, 8, 64)
    gradients: list[Mapping[str, Tensor]] = []
    for _ in range(2):
        network.zero_grad()
        with torch.enable_grad():
            network(GIVEN["x"], GIVEN["t"], tokens, tokens[:, -1]).square().mean().backward()
        gradients.append({name: weight.grad.clone() for name, weight in network.named_parameters()})
        network.enable_gradient_checkpointing()
    assert all(torch.equal(gradients[0][name], gradient) for name, gradient in gradients[1].items())


@pytest.mark.parametrize(("schedule", "path"), [("squaredcos_cap_v2", base_path()), ("linear", upsampler_path())])
def test_path_and_loss_are_equal(schedule: str, path: PicturePath) -> None:
    t = (torch.tensor(TIMES) + 1) / 1000
    x_0, eps = drawn("x_0", len(TIMES), 3, 8, 8).tanh(), drawn("noise", len(TIMES), 3, 8, 8)
    said = drawn("said", len(TIMES), 6, 8, 8)
    out, v = eps + 0.1 * said[:, :3], said[:, 3:].tanh()
    abar = path.a((torch.arange(1000, dtype=torch.float64) + 1) / 1000) ** 2
    torch.testing.assert_close(abar, GOLDEN[f"{schedule}.alphas_cumprod"], rtol=1e-10, atol=0)
    x_t = path.mix(x_0, eps, t)
    close(x_t, f"{schedule}.x_t")
    close(path.log_variance(v, t), f"{schedule}.log_variance")
    close((out - eps).square().mean(dim=(1, 2, 3)), f"{schedule}.mse")
    close(path.bound(x_0, x_t, out, v, t).mean(dim=(1, 2, 3)), f"{schedule}.vb")
    made, its_eps = path.split(x_t, out, t)
    # At the last timesteps of the cosine the picture is a small difference of large numbers, in either code.
    close(made, f"{schedule}.x_0", 1e-5 if schedule == "linear" else 2e-3)
    torch.testing.assert_close(path.mix(made, its_eps, t), x_t)


def test_the_bound_teaches_the_variance_alone() -> None:
    path, t = base_path(), torch.tensor([0.001, 0.4])
    x_0, noise = drawn("x_0", 2, 3, 8, 8).tanh(), drawn("noise", 2, 3, 8, 8)
    eps, v = (noise * 1.1).requires_grad_(), torch.zeros_like(noise).requires_grad_()
    with torch.enable_grad():
        path.bound(x_0, path.mix(x_0, noise, t), eps, v, t).sum().backward()
    assert eps.grad is None
    assert v.grad is not None and (v.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_the_upsamplers_27_steps_are_equal() -> None:
    assert FACT["fast27"] == list(FAST27)
    path, config = upsampler_path(), tiny(6)
    text, network = weigh(TextTransformer(config)), weigh(UNet(config))
    tokens = text(GIVEN["ids"], GIVEN["mask"])

    def predict(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return network(beside(x_BCHW), path.timestep(t_B), tokens, tokens[:, -1])[:, :3]

    x_T = drawn("x_T", 2, 3, 16, 16) * 0.997
    close(sample(predict, path, x_T, num_steps=27, solver="ddim"), "fast27", 1e-4)
