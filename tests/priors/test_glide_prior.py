"""GLIDE as a prior: its files and PITI's, what is wrong with them, and that methods train on it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from glide_golden import NUMBERS, drawn, inputs, weigh
from safetensors.torch import load_file, save_file
from test_glide import GIVEN, TINY
from tiny import pairs_folder
from torch import Tensor, nn

from limner import run
from limner.errors import LimnerError, PriorError
from limner.priors.folder import Loading
from limner.priors.glide import GlidePrior, GlideUpsampler, condition_encoder
from limner.priors.glide_files import official
from limner.priors.glide_net import UNet
from limner.priors.glide_text import ConditionEncoder, TextTransformer
from limner.priors.open import open_prior
from limner.run.job import build_method
from limner.sampling.guidance import guided
from limner.sampling.sampler import sample
from limner.sampling.upsample import upsample
from limner.train.log import read as read_log
from limner.types import Cond

GOLDEN: dict[str, Tensor] = load_file(NUMBERS)
UPSAMPLER = replace(TINY, in_channels=6)


def openai_state(config: Any) -> dict[str, Tensor]:
    return official({**weigh(UNet(config)).state_dict(), **weigh(TextTransformer(config)).state_dict()})


def write_sizes(folder: Path, **changed: Any) -> None:
    sizes = {"base": asdict(replace(TINY, **changed)), "upsample": asdict(replace(UPSAMPLER, **changed))}
    (folder / "config.json").write_text(json.dumps(sizes))


@pytest.fixture(scope="module")
def glide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as OpenAI's files make it, at tiny size: one a pickle, the other safetensors."""
    folder = tmp_path_factory.mktemp("glide")
    write_sizes(folder)
    torch.save(openai_state(TINY), folder / "base.pt")
    save_file(openai_state(UPSAMPLER), folder / "upsample.safetensors")
    return folder


@pytest.fixture(scope="module")
def piti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of PITI's second stage, and one of its first."""
    folder = tmp_path_factory.mktemp("piti")
    write_sizes(folder, token_dim=512)
    model = weigh(nn.ModuleDict({"encoder": ConditionEncoder(), "decoder": UNet(replace(TINY, token_dim=512))}))
    torch.save(official(model.state_dict()), folder / "base_mask.pt")
    torch.save(model["encoder"].state_dict(), folder / "ema_0.9999_060000.pt")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("name", ["", "base.pt"])
def test_opens_and_says_what_the_official_model_says(glide: Path, name: str) -> None:
    prior = open_prior(str(glide / name))
    assert isinstance(prior, GlidePrior)
    assert (prior.image_px, prior.latent_CHW, prior.multiple_px) == (16, (3, 16, 16), 2)
    assert (prior.token_dim, prior.num_tokens, prior.pooled_dim) == (64, 8, 64)
    tokens = prior.parts["text"](GIVEN["ids"], GIVEN["mask"])
    out = prior.predict(GIVEN["x"], (GIVEN["t"] + 1) / 1000, Cond(tokens, tokens[:, -1]))
    torch.testing.assert_close(out, GOLDEN["base"][:, :3], rtol=1e-4, atol=1e-4)  # t through float32
    assert not any(weight.requires_grad for weight in prior.parts["text"].parameters())


@torch.no_grad()
def test_captions_become_tokens_and_a_summary(glide: Path) -> None:
    prior = open_prior(str(glide))
    cond = prior.encode_text(["A Red cube", "a red cube", ""])
    assert cond.tokens_BLD.shape == (3, 8, 64) and cond.mask_BL is None
    assert cond.pooled_BD is not None and torch.equal(cond.pooled_BD, cond.tokens_BLD[:, -1])
    assert torch.equal(cond.tokens_BLD[0], cond.tokens_BLD[1])
    assert not torch.equal(cond.tokens_BLD[0], cond.tokens_BLD[2])
    assert prior.count_tokens("a red cube and a blue ball on a table").cut_off == "a table"


@torch.no_grad()
def test_the_upsampler_draws_as_the_official_one(glide: Path) -> None:
    prior = GlideUpsampler(glide)
    tokens = prior.parts["text"](GIVEN["ids"], GIVEN["mask"])
    made = upsample(prior, GIVEN["low_res"], Cond(tokens, tokens[:, -1]), drawn("x_T", 2, 3, 16, 16))
    assert made.shape == (2, 3, 16, 16)
    # The official loop was given a small picture that is not of eight bits: a little different.
    assert (made - GOLDEN["fast27"]).abs().mean() < 0.05
    other = upsample(prior, -GIVEN["low_res"], Cond(tokens, tokens[:, -1]), drawn("x_T", 2, 3, 16, 16))
    assert (other - made).abs().mean() > 0.2


@torch.no_grad()
def test_piti_checkpoints_open(piti: Path) -> None:
    prior = open_prior(str(piti / "base_mask.pt"))
    for file in ("base_mask.pt", "ema_0.9999_060000.pt"):
        cond = Cond(*condition_encoder(piti / file).eval()(GIVEN["condition"]))
        out = prior.predict(GIVEN["x"], (GIVEN["t"] + 1) / 1000, cond)
        torch.testing.assert_close(out, GOLDEN["piti_base"][:, :3], rtol=1e-4, atol=1e-4)
    with pytest.raises(PriorError, match="holds no text transformer") as caught:
        prior.encode_text(["a cat"])
    assert "base.pt beside it" in caught.value.hint
    torch.save(openai_state(replace(TINY, token_dim=512)), piti / "base.pt")
    assert prior.encode_text(["a cat"]).tokens_BLD.shape == (1, 8, 512)
    with pytest.raises(PriorError, match="holds no denoiser"):
        GlidePrior(piti / "ema_0.9999_060000.pt")


def test_half_precision_files_are_read_as_floats(glide: Path, tmp_path: Path) -> None:
    write_sizes(tmp_path)
    halves = {name: weight.half() for name, weight in openai_state(TINY).items()}
    torch.save(halves, tmp_path / "base.pt", _use_new_zipfile_serialization=False)  # as older files are
    prior = GlidePrior(tmp_path)
    assert {weight.dtype for weight in prior.network.parameters()} == {torch.float32}
    assert prior.parts["text"].final_ln.weight.dtype == torch.float32
    assert GlidePrior(glide).fingerprint() != prior.fingerprint()
    assert GlidePrior(glide).fingerprint() == GlidePrior(glide / "base.pt").fingerprint()
    assert next(GlidePrior(glide, Loading(network="bf16")).network.parameters()).dtype == torch.bfloat16
    assert next(GlidePrior(glide, Loading(meta=True)).network.parameters()).device.type == "meta"


def _without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if name != "out.2.bias"}


def _reshaped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "out.2.bias": torch.zeros(3)}


def _inpainting(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "input_blocks.0.0.weight": torch.zeros(32, 7, 3, 3)}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_without, "lacks 'out.2.bias'"),
        (lambda state: {**state, "label_emb.weight": torch.zeros(2)}, "holds 'label_emb.weight'"),
        (_reshaped, r"'out.2.bias' is \(3,\), not \(6,\)"),
        (_inpainting, "GLIDE's inpainting model"),
        (lambda state: {"model": state}, "is no state dict"),
        (lambda state: {"code": Path("x")}, "cannot be read"),
    ],
)
def test_spoilt_files_are_named(tmp_path: Path, spoil: Callable[[Any], Any], complaint: str) -> None:
    write_sizes(tmp_path)
    torch.save(spoil(openai_state(TINY)), tmp_path / "base.pt")
    with pytest.raises(PriorError, match=complaint) as caught:
        GlidePrior(tmp_path)
    assert str(tmp_path / "base.pt") in str(caught.value) and caught.value.hint


def test_what_is_no_base_model_is_refused(glide: Path, tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="GLIDE's upsampler, and its base model is asked for"):
        open_prior(str(glide / "upsample.safetensors"))
    with pytest.raises(PriorError, match="has no upsample"):
        GlideUpsampler(tmp_path)
    with pytest.raises(PriorError, match="int8 is for linear layers"):
        GlidePrior(glide, Loading(network="int8"))
    with pytest.raises(PriorError, match="holds no condition encoder"):
        condition_encoder(glide / "base.pt")
    whole = (glide / "base.pt").read_bytes()
    for name in ("base.pt", "base.safetensors"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PriorError, match="cannot be read"):
            open_prior(str(tmp_path / name))
    (tmp_path / "config.json").write_text('{"base": {"chanels": 3}}')
    with pytest.raises(PriorError, match="unknown field 'chanels'") as caught:
        GlidePrior(shutil.copy(glide / "base.pt", tmp_path / "other.pt"))
    assert "'channels'" in caught.value.hint


def test_the_loss_is_the_noise_and_the_bound(glide: Path) -> None:
    prior = open_prior(str(glide))
    cond = prior.encode_text(["a cat", "a dog"])
    z_0, eps, t = inputs()["x"].tanh(), drawn("noise", 2, 3, 16, 16), torch.tensor([0.2, 0.9])
    prior.network.zero_grad()
    prior.loss(z_0, eps, t, cond).sum().backward()
    last = prior.network.out[2].weight.grad
    plain = (prior.predict(prior.path.mix(z_0, eps, t), t, cond) - eps).square().mean(dim=(1, 2, 3))
    (noise_part,) = torch.autograd.grad(plain.sum(), prior.network.out[2].weight)
    # The bound teaches the variance's three planes and leaves the noise's three to the squared error.
    torch.testing.assert_close(last[:3], noise_part[:3])
    assert last[3:].abs().sum() > 0 and noise_part[3:].abs().sum() == 0
    half = torch.ones(2, 1, 16, 16)
    torch.testing.assert_close(prior.loss(z_0, eps, t, cond, half), prior.loss(z_0, eps, t, cond))
    half[..., 8:] = 0
    assert not torch.allclose(prior.loss(z_0, eps, t, cond, half), prior.loss(z_0, eps, t, cond))


@torch.no_grad()
def test_widening_changes_nothing_until_trained_and_scratch_is_new(glide: Path) -> None:
    prior = open_prior(str(glide))
    cond, t = prior.encode_text(["a cat", "a dog"]), torch.tensor([0.2, 0.9])
    before = prior.predict(GIVEN["x"], t, cond)
    prior.widen_input(2)
    torch.testing.assert_close(prior.predict(GIVEN["x"], t, cond.with_channels(drawn("more", 2, 2, 16, 16))), before)
    prior.reinitialise(1)
    once = prior.network.time_embed[0].weight.clone()
    prior.reinitialise(1)
    assert torch.equal(once, prior.network.time_embed[0].weight)
    assert prior.predict(GIVEN["x"], t, cond.with_channels(drawn("more", 2, 2, 16, 16))).abs().sum() == 0


@pytest.mark.parametrize(
    ("method", "adapter"),
    [
        ("finetune", "full"),
        ("finetune", "oft"),
        ("concat", "full"),
        ("concat", "lora"),
        ("piti", "full"),
        ("piti", "lokr"),
    ],
)
def test_methods_train_on_it(glide: Path, tmp_path: Path, method: str, adapter: str) -> None:
    pairs_folder(tmp_path / "data")
    more = {"encoder_steps": 2, "token_grid": 4, "encoder_layers": 1} if method == "piti" else {}
    config = run.resolve(
        method,
        {
            "prior": str(glide), "data": str(tmp_path / "data"), "out": tmp_path / "run", "steps": 4, "batch_size": 2,
            "sample_every": 4, "evaluate_every": 4, "save_every": 4, "sample_steps": 2, "adapter": adapter,
            "guidance_scale": 3.0, **more,
        },
    )  # fmt: skip
    folder = run.train(config)
    losses = [
        value for row in read_log(folder / "log.jsonl") for name, value in row.items() if name.startswith("loss/")
    ]
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
    _, trained, step = run.open_run(folder, torch.device("cpu"))
    assert step == 4 and list((folder / "samples").iterdir())
    names = [name for name, weight in trained.network.named_parameters() if weight.requires_grad]
    others = {name for name in names if f".{adapter}_" not in name}
    widened = {"input_blocks.0.0.weight"} if method == "concat" else set()
    assert others == (set(names) if adapter == "full" else widened)


@torch.no_grad()
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim"])
def test_samples_are_pictures(glide: Path, solver: str) -> None:
    prior = open_prior(str(glide))
    cond, null = prior.encode_text(["a cat", "a dog"]), prior.encode_text(["", ""])
    predict = guided(prior, cond, null, scale=3.0)
    drawn_at = {num: sample(predict, prior.path, GIVEN["x"], num_steps=num, solver=solver) for num in (1, 5, 20)}
    for made in drawn_at.values():
        assert made.isfinite().all() and made.abs().max() <= 1 and made.std() > 0.05
    unguided = sample(guided(prior, cond, null, 1.0), prior.path, GIVEN["x"], num_steps=20, solver=solver)
    assert (unguided - drawn_at[20]).abs().mean() > 0.01


def test_piti_goes_on_from_the_authors_encoder(piti: Path, glide: Path, tmp_path: Path) -> None:
    torch.save(openai_state(replace(TINY, token_dim=512)), piti / "base.pt")
    given = {"data": str(pairs_folder(tmp_path / "data")), "steps": 2, "batch_size": 2, "sample_steps": 1}
    given |= {"encoder_steps": 1, "encoder_from": piti / "base_mask.pt"}
    config = run.resolve("piti", {**given, "prior": str(piti / "base_mask.pt"), "out": tmp_path / "run"})
    before = condition_encoder(piti / "base_mask.pt")
    method = build_method(config, torch.device("cpu"))
    cond, null = method.conditions(method.null.expand(2), GIVEN["condition"])
    assert torch.equal(cond.tokens_BLD, before(GIVEN["condition"])[0])
    assert torch.equal(null.tokens_BLD, before(torch.ones_like(GIVEN["condition"]))[0])
    _, opened, step = run.open_run(run.train(config), torch.device("cpu"))
    assert step == 2
    learned = opened.learns()["encoder"].state_dict()
    assert all(not torch.equal(learned[f"released.{name}"], weight) for name, weight in before.named_parameters())
    with pytest.raises(LimnerError, match="an encoder for GLIDE"):
        build_method(config.model_copy(update={"prior": str(glide)}), torch.device("cpu"))
