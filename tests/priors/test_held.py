"""How weights are held: bf16, quantised, in main memory, for as long as they are needed. What learns is the same."""

from __future__ import annotations

import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tiny import pairs_folder, prior_folder
from tiny_families import family_folder
from torch import Tensor, nn

import limner
from limner.config import PriorConfig
from limner.errors import ConfigError, PriorError
from limner.methods.base import Method
from limner.priors import placing
from limner.priors.base import Prior
from limner.priors.folder import Loading
from limner.priors.held_parts import Parts
from limner.priors.open import open_prior
from limner.run.job import build_method, open_run, resolve
from limner.types import Cond

CPU = torch.device("cpu")
FAMILIES = ("sd", "sdxl", "sd3", "flux", "flux2_klein", "z_image", "qwen_image")
LORA: dict[str, Any] = {"adapter": "lora", "rank": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("held")
    made = {family: family_folder(root / family, family) for family in FAMILIES if family != "sd"}
    return {**made, "sd": prior_folder(root / "sd", "eps")}


def built(folder: Path, **given: Any) -> Prior:
    """A prior as a run holds it, its adapter in place."""
    return build_method(resolve("finetune", {"prior": str(folder), "image_px": 16, **given}), CPU).prior


def batch(prior: Prior) -> tuple[Tensor, Tensor, Tensor, Cond]:
    """Latents, noise, times, captions."""
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(2, *prior.latent_CHW, generator=generator) for _ in range(2))
    tokens = torch.randn(2, 8, prior.token_dim, generator=generator)  # fewer than captions have: they cost the most
    pooled = None if prior.pooled_dim is None else torch.randn(2, prior.pooled_dim, generator=generator)
    return z, eps, torch.tensor([0.3, 0.7]), Cond(tokens, pooled, mask_BL=torch.ones(2, 8, dtype=torch.bool))


def learning(prior: Prior) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in prior.network.named_parameters() if weight.requires_grad}


def train(prior: Prior, num_steps: int = 2) -> list[float]:
    """The loss before each step and after the last."""
    optimiser = torch.optim.AdamW(learning(prior).values(), lr=1e-2)
    told, losses = batch(prior), []
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = prior.loss(*told).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, prior.loss(*told).mean().item()]


def held_bytes(layer: Any) -> int:
    """Of a linear layer's matrix, with all that it is decoded by."""
    state = getattr(layer.weight, "quant_state", None)
    tensors = [layer.weight]
    if state is not None:
        tensors += [state.absmax, state.state2.absmax]  # the 16 and 256 values of the two codes are shared
    elif layer.weight.dtype == torch.int8:
        tensors += [layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB]
    return sum(tensor.nbytes for tensor in tensors)


# Quantised.


@pytest.mark.parametrize("family", ["sd", "flux"])
@pytest.mark.parametrize(("held", "ratio", "error"), [("int8", 4, 0.01), ("nf4", 8, 0.1)])
def test_an_adapter_learns_beside_quantised_weights(
    folders: dict[str, Path], family: str, held: str, ratio: int, error: float
) -> None:
    plain, small = built(folders[family], **LORA), built(folders[family], base_precision=held, **LORA)
    changed = [
        (layer, small.network.get_submodule(name))
        for name, layer in plain.network.named_modules()
        if type(layer) is nn.Linear and "bit" in type(small.network.get_submodule(name)).__name__
    ]
    expected, losses = train(plain, 3), train(small, 3)
    assert losses == pytest.approx(expected, rel=error)
    assert losses[-1] < losses[0]
    assert {weight.dtype for weight in learning(small).values()} == {torch.float32}
    before, after = (sum(held_bytes(pair[i]) for pair in changed) for i in (0, 1))
    # The scales: 4 bytes for each row, or 1 byte for each 64 weights and 4 for each 256 of those.
    rows, weights = sum(layer.out_features for layer, _ in changed), before / 4
    scales = 4 * rows if held == "int8" else weights / 64 * 1.2
    assert before / ratio <= after <= before / ratio + scales


def test_the_repeated_blocks_are_quantised_and_nothing_else(folders: dict[str, Path]) -> None:
    prior = open_prior(str(folders["flux"]), Loading("nf4"))
    kinds = {
        name: type(layer).__name__ for name, layer in prior.network.named_modules() if isinstance(layer, nn.Linear)
    }
    for name, kind in kinds.items():
        assert (kind == "Linear4bit") == ("transformer_blocks." in name), name
    assert kinds["x_embedder"] == "Linear"  # methods widen it


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_a_quantised_network_draws_between_steps(folders: dict[str, Path], held: str) -> None:
    """Without gradients bitsandbytes takes other ways on a CPU, one of which would change the weights for good."""
    prior = built(folders["sd"], base_precision=held, **LORA)
    z, eps, t_B, cond = batch(prior)
    with torch.no_grad():
        first = prior.predict(z, t_B, cond)
    prior.loss(z, eps, t_B, cond).mean().backward()  # type: ignore[no-untyped-call]
    some = [weight.grad for name, weight in learning(prior).items() if "lora_B" in name]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in some)
    prior.to("cpu")
    with torch.no_grad():
        assert torch.equal(prior.predict(z, t_B, cond), first)


def test_adapters_are_merged_before_the_weights_are_quantised(folders: dict[str, Path], tmp_path: Path) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"unet.{name}.lora_A.weight": torch.ones(1, 32), f"unet.{name}.lora_B.weight": torch.ones(32, 1)}
    save_file(factors, tmp_path / "fox.safetensors")
    given = {"adapters": str(tmp_path / "fox.safetensors"), "adapter_targets": "to_k", **LORA}
    layers: list[Any] = [
        built(folders["sd"], base_precision=held, **given).network.get_submodule(name) for held in ("fp32", "int8")
    ]
    x = torch.randn(4, 32)
    torch.testing.assert_close(layers[1](x), layers[0](x), rtol=0.05, atol=0.1)
    plain: Any = built(folders["sd"]).network.get_submodule(name)
    torch.testing.assert_close(layers[0](x), plain(x) + x.sum(dim=1, keepdim=True))


def test_a_missing_extra_names_its_command(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PriorError, match="base_precision int8 needs bitsandbytes") as caught:
        built(folders["sd"], base_precision="int8", **LORA)
    assert caught.value.hint == "pip install 'limner[quantised]'"


# bf16.


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_bf16_and_an_adapter_in_fp32(folders: dict[str, Path], family: str) -> None:
    prior = built(folders[family], base_precision="bf16", precision="bf16", **LORA)
    plain = built(folders[family], **LORA)
    frozen = [weight for weight in prior.network.parameters() if not weight.requires_grad]
    kept = tuple(getattr(type(prior.network), "_keep_in_fp32_modules", None) or ())  # what a family's authors say
    named = dict(prior.network.named_parameters())
    norms = {name for name, part in prior.network.named_modules() if isinstance(part, nn.LayerNorm | nn.GroupNorm)}
    assert {
        weight.dtype
        for name, weight in named.items()
        if not weight.requires_grad and not set(kept) & {*name.split(".")} and name.rpartition(".")[0] not in norms
    } == {torch.bfloat16}
    assert frozen and {weight.dtype for weight in learning(prior).values()} == {torch.float32}
    assert train(prior) == pytest.approx(train(plain), rel=0.05)


@pytest.mark.parametrize("held", ["fp32", "bf16", "int8", "nf4"])
def test_pictures_are_drawn_in_the_precision_of_training(folders: dict[str, Path], held: str) -> None:
    given = {"base_precision": held, "precision": "bf16", **LORA}
    method = build_method(resolve("finetune", {"prior": str(folders["sd"]), **given}), CPU)
    plain = build_method(resolve("finetune", {"prior": str(folders["sd"]), **LORA}), CPU)
    noise = torch.randn(2, *method.prior.latent_CHW, generator=torch.Generator().manual_seed(0))
    made = []
    for each in (method, plain):
        with torch.no_grad():
            text = each.prior.encode_text(["a fox", "a hat"])
            made.append(each.generate(text, None, noise, num_steps=2, guidance_scale=2.0))
    assert made[0].dtype == torch.float32
    assert (made[0] - made[1]).abs().mean() < 0.1
    assert not torch.equal(made[0], made[1])


# Activations that are computed again.


def saved_bytes(prior: Prior) -> tuple[int, dict[str, Tensor]]:
    """What the forward pass keeps for the backward pass, weights left out; and the gradients."""
    told = batch(prior)
    own = {weight.untyped_storage().data_ptr() for weight in prior.network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = prior.loss(*told).mean()
    total = sum(kept.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return total, {name: weight.grad for name, weight in learning(prior).items() if weight.grad is not None}


@pytest.mark.parametrize("given", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_keeps_less_and_learns_the_same(
    folders: dict[str, Path], family: str, given: dict[str, Any]
) -> None:
    plain, spare = built(folders[family], **given), built(folders[family], gradient_checkpointing=True, **given)
    (before, expected), (after, gradients) = saved_bytes(plain), saved_bytes(spare)
    assert after < 0.7 * before
    assert gradients.keys() == expected.keys()
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-7)
    assert train(spare) == pytest.approx(train(plain), rel=1e-6)
    ours, theirs = learning(spare), learning(plain)
    torch.testing.assert_close({n: w.data for n, w in ours.items()}, {n: w.data for n, w in theirs.items()})


def test_a_control_is_checkpointed_too(folders: dict[str, Path]) -> None:
    config = resolve("controlnet", {"prior": str(folders["sd"]), "gradient_checkpointing": True})
    prior: Any = build_method(config, CPU).prior
    assert prior.control.is_gradient_checkpointing and prior.network.is_gradient_checkpointing


# Blocks that visit the accelerator.


@pytest.mark.parametrize("family", FAMILIES)
def test_visiting_blocks_learn_the_same(folders: dict[str, Path], family: str) -> None:
    plain, visited = built(folders[family], **LORA), built(folders[family], **LORA)
    placing.offload(visited.network, CPU)
    assert train(visited) == train(plain)
    for name, weight in learning(plain).items():
        assert torch.equal(weight, learning(visited)[name])
    z, _, t_B, cond = batch(plain)
    with torch.no_grad():
        assert torch.equal(visited.predict(z, t_B, cond), plain.predict(z, t_B, cond))


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_visit_leaves_nothing_behind(folders: dict[str, Path], family: str) -> None:
    """Copies are there while a block computes, and after the forward pass of a training step are all gone."""
    prior = built(folders[family], **LORA)
    homes = {id(weight) for weight in prior.network.parameters()}
    placing.offload(prior.network, CPU)
    visits: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(layer: Any, *_: Any) -> None:
        assert id(layer.weight) not in homes
        visits.append(weakref.ref(layer.weight))
        alive.append(sum(visit() is not None for visit in visits))

    blocks = placing.blocks_of(prior.network)
    layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    frozen = [layer for layer in layers if not any(weight.requires_grad for weight in layer.parameters())]
    for layer in frozen:
        layer.register_forward_hook(note)
    told = batch(prior)
    loss = prior.loss(*told).mean()
    num = len(visits)
    assert num > 10
    assert max(alive) <= max(sum(layer in set(block.modules()) for layer in frozen) for block in blocks)
    assert not any(visit() is not None for visit in visits)
    loss.backward()  # type: ignore[no-untyped-call]
    assert len(visits) > 1.5 * num  # they came a second time, but for those that nothing learns behind
    del loss
    assert not any(visit() is not None for visit in visits)
    assert {id(weight) for weight in prior.network.parameters()} == homes


def test_offload_needs_frozen_weights(folders: dict[str, Path]) -> None:
    prior = built(folders["sd"])
    with pytest.raises(ConfigError, match="offload needs frozen weights"):
        placing.offload(prior.network, CPU)


def test_a_network_that_is_spread_is_the_same(folders: dict[str, Path]) -> None:
    """Over one device, which is all there is here."""
    plain, spread = built(folders["flux"], **LORA), built(folders["flux"], **LORA)
    placing.spread(spread.network)
    assert train(spread) == train(plain)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"offload": True}, "there is no accelerator"), ({"device_map": "auto"}, "this machine has 0 accelerators")],
)
def test_what_does_nothing_here_says_so(folders: dict[str, Path], given: dict[str, Any], says: str) -> None:
    config = resolve("finetune", {"prior": str(folders["sd"]), **LORA, **given})
    assert says in placing.idle(config, CPU)
    assert train(build_method(config, CPU).prior) == train(built(folders["sd"], **LORA))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"base_precision": "nf4"}, "needs an adapter"),
        ({"base_precision": "bf16", **LORA}, "needs precision bf16"),
        ({"offload": True, "device_map": "auto", **LORA}, "exclude each other"),
        ({"base_precision": "int8", "offload": True, **LORA}, "stays on one accelerator"),
        ({"base_precision": "nf4", "device_map": "auto", **LORA}, "stays on one accelerator"),
    ],
)
def test_what_excludes_each_other(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PriorConfig(**given)


# Parts that leave memory.


def test_what_is_borrowed_is_gone_and_what_was_there_stays() -> None:
    parts = Parts({"vae": lambda: nn.Linear(1, 1), "text": lambda: nn.Linear(1, 1)})
    text, loaded = parts["text"], []
    with parts.borrowed():
        loaded.append(weakref.ref(parts["vae"]))
        assert parts["text"] is text
    assert loaded[0]() is None
    assert parts["text"] is text


class Watch:
    """Which parts of the prior are in memory at each step and each look, by weak references to all that were loaded."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.loaded: list[tuple[str, weakref.ref[nn.Module]]] = []
        self.at_steps: list[set[str]] = []
        self.at_looks: list[set[str]] = []
        get, step = Parts.__getitem__, limner.methods.finetune.Finetune.step

        def getitem(parts: Parts, name: str) -> nn.Module:
            part = get(parts, name)
            if not any(ref() is part for _, ref in self.loaded):
                self.loaded.append((name, weakref.ref(part)))
            return part

        def stepping(method: Any, given: Any) -> Any:
            self.at_steps.append(self.alive())
            yield from step(method, given)

        def generate(method: Any, *args: Any, **kwargs: Any) -> Tensor:
            made = make(method, *args, **kwargs)
            self.at_looks.append(self.alive())
            return made

        make = limner.methods.base.Method.generate
        patch.setattr(Parts, "__getitem__", getitem)
        patch.setattr(limner.methods.finetune.Finetune, "step", stepping)
        patch.setattr(limner.methods.base.Method, "generate", generate)

    def alive(self) -> set[str]:
        return {name for name, ref in self.loaded if ref() is not None}


def test_encoders_are_in_memory_only_while_they_are_used(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    given = {"data": str(pairs_folder(tmp_path / "pairs")), "out": tmp_path / "run", "prior": str(folders["sd"])}
    often = {"save_every": 3, "sample_every": 3, "evaluate_every": 3, "sample_steps": 2}
    config = resolve("finetune", {**given, **LORA, **often, "steps": 6, "batch_size": 2})
    run = limner.run.train(config)
    assert {name for name, _ in watch.loaded} == {"vae", "text_encoder"}
    assert len(watch.at_steps) > 6 and not set().union(*watch.at_steps)  # scoring takes a method's steps too
    assert watch.at_looks == [{"vae"}] * 3  # before the first step, after the third and the sixth
    assert not watch.alive()
    made = limner.run.sample(run, prompts=["a disc"], inputs=[], num_images=1, steps=2)
    assert made[0].is_file()


# A look at the data needs no weights.


def test_check_needs_no_weights_and_training_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from limner.cli.main import main

    folder, data = prior_folder(tmp_path / "sd", "eps"), pairs_folder(tmp_path / "pairs")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    assert main(["check", str(data), "--for", "concat", "--prior", str(folder), "--no-flip"]) == 0
    assert "ready to train" in capsys.readouterr().out
    words = ["--data", str(data), "--prior", str(folder), "--no-flip", "--out", str(tmp_path / "run")]
    assert main(["train", "concat", *words, "--dry-run"]) == 0
    assert main(["train", "concat", *words]) != 0
    assert f"{folder / 'unet'} has no weights" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # of torch: it is slower
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "qwen_image"])
def test_a_control_learns_in_fp32_beside_a_network_in_bf16(folders: dict[str, Path], family: str) -> None:
    given = {"precision": "bf16", "base_precision": "bf16"}
    whole, held = (
        build_method(resolve("controlnet", {"prior": str(folders[family]), "image_px": 16, **some}), CPU)
        for some in ({}, given)
    )
    control = dict(held.learns()["control"].named_parameters())
    assert {weight.dtype for weight in control.values()} == {torch.float32}
    halved = [weight.dtype for weight in held.prior.network.parameters()]
    assert halved.count(torch.bfloat16) > len(halved) / 2
    for name, weight in whole.learns()["control"].named_parameters():  # the same start, but for the rounding
        assert torch.allclose(control[name], weight, rtol=0.01, atol=1e-3), name
    assert gradient(held) == pytest.approx(gradient(whole), rel=0.1)


def gradient(method: Method) -> float:
    """The norm of a control's gradient on made-up data."""
    prior = method.prior
    z, eps, t, cond = batch(prior)
    picture = torch.rand(2, 3, prior.image_px, prior.image_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prior.loss(z, eps, t, replace(cond, control_BCHW=prior.control_input(picture))).mean().backward()
    learnt = [weight.grad for weight in method.learns()["control"].parameters() if weight.grad is not None]
    return float(torch.cat([grad.flatten() for grad in learnt]).norm())


@pytest.mark.parametrize("method", ["finetune", "concat", "controlnet"])
def test_the_built_in_prior_trains_and_draws_over_weights_in_bf16(tmp_path: Path, method: str) -> None:
    data = pairs_folder(tmp_path / "data")
    given = {"data": str(data), "out": tmp_path / "run", "steps": 1, "batch_size": 1, "sample_steps": 1}
    learns = {} if method == "controlnet" else LORA
    folder = limner.train(resolve(method, {**given, "base_precision": "bf16", "precision": "bf16", **learns}))
    _, opened, _ = open_run(folder, torch.device("cpu"))
    weights = [weight for part in opened.learns().values() for weight in part.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in weights} == {torch.float32}
