"""Every method on every prior trains, is cut and goes on, draws; opened again, and exported, it draws the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import save_file
from tiny import pairs_folder
from tiny_families import PICTURE_PX, family_folder

from limner import find, run
from limner.config import MethodConfig, PersonalizeConfig
from limner.errors import ExportError, LimnerError
from limner.priors.glide_files import official
from limner.priors.glide_net import NetConfig, UNet
from limner.priors.glide_text import TextTransformer
from limner.run.scoring import Scorer
from limner.run.training import _grid
from limner.train import checkpoint
from limner.train.log import read as read_log
from limner.train.trainer import Trainer

FAMILIES = ("sdxl", "sd3", "flux", "flux2_klein", "z_image", "qwen_image", "glide")
METHODS = list(find.names("method"))
# What each method is given beside the common; full fine-tuning and adapters take turns.
SUBJECT: dict[str, Any] = {
    "class_word": "disc", "caption_template": "a {trigger}", "prompts": "a {}", "score_pictures": 2
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": {"resolutions_px": (PICTURE_PX // 2, PICTURE_PX), "crop": "random"},
    "concat": {"adapter": "lora", "rank": 2},
    "dreambooth": {**SUBJECT, "preservation": "pictures", "class_pictures": 2, "adapter": "lora", "rank": 2},
    "textual_inversion": {**SUBJECT, "num_vectors": 2},
    "pivotal": {**SUBJECT, "preservation": "teacher", "adapter": "lora", "rank": 2},
    "custom_diffusion": {**SUBJECT, "preservation": "teacher"},
    "piti": {"encoder_steps": 1, "token_grid": 4, "encoder_layers": 1, "adapter": "lora", "rank": 2},
}
# Whether the steps preserve the prior: those of pivotal tuning that learn the new word have nothing to keep.
KEEPS = {"dreambooth": [True, True], "custom_diffusion": [True, True], "pivotal": [False, True]}
# What cannot be, and is said before anything is read or written: these families have no ControlNet.
REFUSED = {("controlnet", family) for family in ("flux2_klein", "z_image", "glide")}
# What no file that diffusers knows can hold.
UNWRITTEN = {(method, "glide"): "is no diffusers folder" for method in METHODS}
UNWRITTEN |= {("concat", "z_image"): "no configuration for the wider input"}
# New words that no stock pipeline takes.
NEW_WORDS = ("textual_inversion", "pivotal", "custom_diffusion")
UNWRITTEN |= {
    (method, family): "new words of the family"
    for method in NEW_WORDS
    for family in ("sd3", "flux2_klein", "z_image", "qwen_image")
}
# What diffusers has the networks of, but no pipeline that draws with them as limner does.
OUR_SAMPLER = {("concat", family) for family in ("sd3", "flux2_klein", "qwen_image")}
OUR_SAMPLER |= {("controlnet", family) for family in ("sd3", "flux", "qwen_image")}
OUR_SAMPLER |= {("piti", family) for family in FAMILIES}

# diffusers' own ControlNet of FLUX takes its positions from where diffusers says not to.
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one prior a family and one data set."""
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        maker = glide_folder if family == "glide" else family_folder
        maker(folder / family, family)
    pairs_folder(folder / "data", num=4, side_px=PICTURE_PX)
    return folder


def glide_folder(folder: Path, family: str) -> None:
    """GLIDE's base at toy size, in the layout of OpenAI's file."""
    config = NetConfig(
        image_px=PICTURE_PX, channels=32, multipliers=(1, 2), num_res_blocks=1, attention_px=(8,), head_channels=32,
        token_dim=64, num_tokens=8, text_layers=1, text_heads=2,
    )  # fmt: skip
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = official({**UNet(config).state_dict(), **TextTransformer(config).state_dict()})
    save_file({name: weight.contiguous() for name, weight in state.items()}, folder / "base.safetensors")
    (folder / "config.json").write_text(json.dumps({"base": asdict(config)}))


def configure(ground: Path, out: Path, method: str, family: str) -> MethodConfig:
    values = {
        "prior": str(ground / family),
        "data": str(ground / "data"),
        "out": out,
        "image_px": PICTURE_PX,
        "steps": 2,
        "batch_size": 2,
        "warmup_steps": 0,
        "save_every": 1,
        "sample_every": 2,
        "evaluate_every": 3,
        "sample_steps": 2,
        "learning_rate": 1e-2,
        **OPTIONS.get(method, {}),
    }
    return run.resolve(method, values)


def pixels(folder: Path) -> Image.Image:
    return Image.open(folder / "samples" / "step-000002.png")


def same(left: Image.Image, right: Image.Image) -> bool:
    return ImageChops.difference(left, right).getbbox() is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_every_prior(ground: Path, tmp_path: Path, method: str, family: str) -> None:
    config = configure(ground, tmp_path / "whole", method, family)
    if (method, family) in REFUSED:
        with pytest.raises(LimnerError, match="which has no ControlNet"):
            run.train(config)
        assert not config.out.exists()
        return
    whole = run.train(config)

    class EnoughError(Exception):
        pass

    original = Trainer._one_step

    def cut(self: Trainer, batches: Any) -> None:
        if self.step == 1:
            raise EnoughError
        original(self, batches)

    config = configure(ground, tmp_path / "halves", method, family)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnoughError):
        patch.setattr(Trainer, "_one_step", cut)
        run.train(config)
    halves = run.train(config)

    logs = [[{**row, "seconds": 0} for row in read_log(folder / "log.jsonl")] for folder in (whole, halves)]
    assert logs[0] == logs[1]
    if method in KEEPS:
        assert ["loss/kept" in row for row in logs[0][:2]] == KEEPS[method]
    first, last = _saved(whole, 1), _saved(whole, 2)
    assert first != last
    assert last == _saved(halves, 2)
    assert same(pixels(whole), pixels(halves))

    _, opened, step = run.open_run(whole, torch.device("cpu"))
    assert step == 2
    job = run.build(config, torch.device("cpu"), opened)
    if isinstance(config, PersonalizeConfig):
        Scorer(job, tmp_path / "opened").look(2)
    else:
        _grid(job, tmp_path / "opened", 2)
    assert same(pixels(whole), pixels(tmp_path / "opened"))
    merged = method == "concat"  # its first layer is no adapter's
    if refused := UNWRITTEN.get((method, family)):
        with pytest.raises(ExportError, match=refused):
            run.export(whole, target="diffusers", merged=merged)
        return
    proof = run.export(whole, target="diffusers", merged=merged).proof
    assert "drew the run's first sample again" in proof
    assert proof.startswith("No pipeline") == ((method, family) in OUR_SAMPLER)


def _saved(folder: Path, step: int) -> dict[str, bytes]:
    """A checkpoint's weights, averages and moments, as bytes."""
    files, _ = checkpoint.read(folder / "checkpoints" / f"step-{step:06d}")
    return {
        f"{file}/{who}/{name}": tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for file, some in files.items()
        for who, tensors in some.items()
        for name, tensor in tensors.items()
    }
