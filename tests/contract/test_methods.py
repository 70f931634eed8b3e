"""One contract for every method that is found, and for three that only live here, on every kind of path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import PATHS, pairs_folder, prior_folder

from limner import find, run
from limner.config import MethodConfig
from limner.errors import LimnerError
from limner.priors.open import open_prior
from limner.run.job import build_method
from limner.train import checkpoint
from limner.train.log import read as read_log
from limner.train.trainer import Trainer

HERE = Path(__file__).parent
OWN = sorted(str(path) for path in (HERE / "methods").glob("*.py"))
METHODS = [*find.names("method"), *OWN]
SUBJECT = {"class_word": "disc", "caption_template": "a {trigger}", "prompts": "a {}", "score_pictures": 2}
SMALL: dict[str, dict[str, Any]] = {
    "piti": {"encoder_steps": 2, "token_grid": 4, "encoder_layers": 1},
    "textual_inversion": {"caption_template": "a {trigger}", "prompts": "a {}", "score_pictures": 2},
    "pivotal": {"preservation": "off", "rank": 2, "prompts": "a {}", "score_pictures": 2},
    "dreambooth": {**SUBJECT, "class_pictures": 2, "rank": 2},
    "custom_diffusion": {**SUBJECT, "preservation": "teacher"},
}


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one prior a path and one data set."""
    folder = tmp_path_factory.mktemp("ground")
    for path in PATHS:
        prior_folder(folder / path, path)
    pairs_folder(folder / "data")
    return folder


def configure(ground: Path, out: Path, method: str, path: str, **more: Any) -> MethodConfig:
    values = {
        "prior": str(ground / path),
        "data": str(ground / "data"),
        "out": out,
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 1,
        "save_every": 2,
        "sample_every": 4,
        "evaluate_every": 4,
        "sample_steps": 2,
        "learning_rate": 1e-3,
        **SMALL.get(method, {}),
        **more,
    }
    return run.resolve(method, values)


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    files, _ = checkpoint.read(folder / "checkpoints" / f"step-{step:06d}")
    return {
        f"{file}/{who}/{name}": tensor
        for file, some in files.items()
        for who, tensors in some.items()
        for name, tensor in tensors.items()
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS, ids=lambda name: Path(name).stem)
def test_trains_resumes_bit_for_bit_and_samples(ground: Path, tmp_path: Path, method: str, path: str) -> None:
    whole = run.train(configure(ground, tmp_path / "whole", method, path))

    class EnoughError(Exception):
        pass

    # Cut after two of four steps: the run's own third step never begins.
    original = Trainer._one_step

    def cut(self: Trainer, batches: Any) -> None:
        if self.step == 2:
            raise EnoughError
        original(self, batches)

    config = configure(ground, tmp_path / "halves", method, path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnoughError):
        patch.setattr(Trainer, "_one_step", cut)
        run.train(config)
    assert checkpoint.all_of(tmp_path / "halves" / "checkpoints")[-1].name == "step-000002"
    halves = run.train(config)

    assert same(weights(whole, 4), weights(halves, 4))
    logs = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(folder / "log.jsonl")]
        for folder in (whole, halves)
    ]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [1, 2, 3, 4, 4]

    _, opened, step = run.open_run(whole, torch.device("cpu"))
    assert step == 4
    job = run.build(config, torch.device("cpu"), opened)
    made = run.pictures(job, job.test, list(job.test.samples), seed=0)
    assert made.dtype == torch.uint8
    assert made.shape == (len(job.test.samples), 3, job.method.prior.image_px, job.method.prior.image_px)
    assert torch.equal(made, run.pictures(job, job.test, list(job.test.samples), seed=0))


@pytest.mark.parametrize("method", METHODS, ids=lambda name: Path(name).stem)
def test_every_weight_that_learns_has_changed(ground: Path, tmp_path: Path, method: str) -> None:
    # So that the null tokens of piti are among what is used.
    config = configure(
        ground, tmp_path / "run", method, "v", **({"condition_dropout": 0.5} if method == "piti" else {})
    )
    before = {
        f"weights/{who}/{name}": weight.detach().clone()
        for who, module in run.build(config, torch.device("cpu")).method.learns().items()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }
    after = weights(run.train(config), 4)
    still = [name for name, weight in before.items() if torch.equal(weight, after[name])]
    # A bias of the keys of an attention cancels in its softmax: it has no gradient, by nature.
    assert not [name for name in still if not name.endswith("in_proj_bias")]


@pytest.mark.parametrize("method", ["finetune", "concat", "piti"])
def test_lora_leaves_the_prior_alone(ground: Path, tmp_path: Path, method: str) -> None:
    config = configure(ground, tmp_path / "run", method, "eps", adapter="lora", rank=2)
    folder = run.train(config)
    _, opened, _ = run.open_run(folder, torch.device("cpu"))
    prior = open_prior(str(ground / "eps"))
    own = {name.replace(".base_layer", ""): value for name, value in opened.prior.network.state_dict().items()}
    changed = (
        {name for name, value in prior.network.state_dict().items() if not torch.equal(own[name], value)}
        if method != "concat"
        else set()
    )
    assert not changed
    learned = checkpoint.read(folder / "checkpoints" / "step-000004")[0]["weights"]["network"]
    assert all("lora" in name or name.startswith("conv_in") for name in learned)


def test_a_new_method_is_one_file(ground: Path, tmp_path: Path) -> None:
    file = tmp_path / "brightness_only.py"
    file.write_text(
        "from limner.methods.finetune import Finetune\n\n"
        "class BrightnessOnly(Finetune):\n"
        "    def step(self, batch):\n"
        "        for update in super().step(batch):\n"
        "            yield type(update)(update.what, update.loss * 2)\n"
    )
    folder = run.train(configure(ground, tmp_path / "run", str(file), "flow"))
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[0])["step"] == 1
    assert run.open_run(folder, torch.device("cpu"))[2] == 4


def test_every_prior_that_is_found_keeps_the_contract() -> None:
    for name in find.names("prior"):
        prior = open_prior(name)
        noise = torch.randn(2, *prior.latent_CHW)
        mean, std = prior.encode_image(torch.zeros(2, 3, prior.image_px, prior.image_px))
        assert mean.shape == std.shape == noise.shape
        picture = prior.decode(prior.draw(mean, std, noise))
        assert picture.shape == (2, 3, prior.image_px, prior.image_px)
        assert picture.abs().max() <= 1
        cond = prior.encode_text(["a fox", ""])
        assert cond.tokens_BLD.shape == (2, prior.num_tokens, prior.token_dim)
        out = prior.predict(noise, torch.tensor([0.5, 1.0]), cond)
        assert out.shape == noise.shape
        prior.widen_input(3)
        same_out = prior.predict(
            noise, torch.tensor([0.5, 1.0]), cond.with_channels(torch.randn(2, 3, *noise.shape[2:]))
        )
        torch.testing.assert_close(out, same_out)


def test_another_configuration_is_refused_in_the_same_folder(ground: Path, tmp_path: Path) -> None:
    run.train(configure(ground, tmp_path / "run", "finetune", "v"))
    with pytest.raises(LimnerError, match="learning_rate"):
        run.train(configure(ground, tmp_path / "run", "finetune", "v", learning_rate=0.5))


def test_a_mistake_before_the_first_checkpoint_does_not_claim_the_folder(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match="does not exist"):
        run.train(configure(ground, tmp_path / "run", "finetune", "v", data=str(tmp_path / "typo")))
    run.train(configure(ground, tmp_path / "run", "finetune", "v"))


def test_too_few_pictures_to_hold_any_back_are_not_scored(ground: Path, tmp_path: Path) -> None:
    data = pairs_folder(tmp_path / "five", num=5)
    folder = run.train(configure(ground, tmp_path / "run", "concat", "v", data=str(data)))
    with pytest.raises(LimnerError, match="holds no picture back"):
        run.evaluate(folder)


def test_a_run_draws_without_its_data(ground: Path, tmp_path: Path) -> None:
    data = pairs_folder(tmp_path / "pairs")
    folder = run.train(configure(ground, tmp_path / "run", "concat", "v", data=str(data)))
    sketch = (data / "source" / "disc00.png").rename(tmp_path / "sketch.png")
    data.rename(tmp_path / "elsewhere")
    assert len(run.sample(folder, prompts=[], inputs=[sketch], num_images=1, steps=2)) == 1


def test_weights_of_another_shape_of_method_are_refused(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "piti", "v")
    folder = run.train(config)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("encoder_layers: 1", "encoder_layers: 2"))
    with pytest.raises(LimnerError, match="encoder/layers"):
        run.open_run(folder, torch.device("cpu"))


def test_a_nan_stops_the_run_and_names_the_last_good_checkpoint(ground: Path, tmp_path: Path) -> None:
    config = configure(ground, tmp_path / "run", "finetune", "v", steps=6)
    original = Trainer._backward

    def poison(self: Trainer, update: Any, row: Any) -> None:
        if self.step == 4:
            update = type(update)(update.what, update.loss * float("nan"))
        original(self, update, row)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(LimnerError, match=r"step 5; .*step-000004"):
        patch.setattr(Trainer, "_backward", poison)
        run.train(config)
    assert run.open_run(tmp_path / "run", torch.device("cpu"))[2] == 4


@pytest.mark.parametrize("method", METHODS, ids=lambda name: Path(name).stem)
def test_trains_in_several_shapes_or_says_that_it_cannot(ground: Path, tmp_path: Path, method: str) -> None:
    shapes = {"aspect": "buckets", "resolutions_px": (8, 16), "crop": "random"}
    config = configure(ground, tmp_path / "run", method, "eps", **shapes)
    fixed = build_method(config, torch.device("cpu")).fixed_size
    if fixed:
        with pytest.raises(LimnerError, match="square pictures of 16 px only"):
            run.train(config)
    else:
        run.train(config)
        assert read_log(tmp_path / "run" / "log.jsonl")[-1]["step"] == 4


def test_bad_data_is_refused_before_training(ground: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "disc.png").write_bytes((ground / "data" / "target" / "disc00.png").read_bytes())
    with pytest.raises(LimnerError, match=r"disc\.png has no source picture"):
        run.train(configure(ground, tmp_path / "a", "concat", "v", data=str(alone)))
    with pytest.raises(LimnerError, match=r"disc\.png has no caption"):
        run.train(configure(ground, tmp_path / "b", "finetune", "v", data=str(alone)))
    run.train(configure(ground, tmp_path / "c", "concat", "v", data=str(alone), condition="edges"))


def test_a_run_is_judged_and_drawn_from(ground: Path, tmp_path: Path) -> None:
    for method in ("concat", "finetune"):
        folder = run.train(
            configure(ground, tmp_path / method, method, "v", data=str(_marked(ground, tmp_path / f"{method}-data")))
        )
        report = run.evaluate(folder)
        assert report == json.loads((folder / "report.json").read_text())
        assert report["arms"].keys() == {"prior", "before"}
        wanted = {"kid", "kid_interval", "frechet", "diversity"}
        wanted |= {"edge_f1", "iou", "faithfulness"} if method == "concat" else set()
        assert wanted <= report["arms"]["prior"].keys()
        assert {"seconds", "kwh", "peak_mb"} <= report.keys()
        sketch = ground / "data" / "source" / "disc00.png"
        files = run.sample(
            folder, prompts=["disc"], inputs=[sketch] if method == "concat" else [], num_images=2, steps=2
        )
        assert len(files) == 2
        again = run.sample(
            folder, prompts=["disc"], inputs=[sketch] if method == "concat" else [], num_images=2, steps=2,
            out=tmp_path / "again" / method,
        )  # fmt: skip
        assert [file.read_bytes() for file in files] != []
        assert [Image.open(a).tobytes() for a in files] == [Image.open(b).tobytes() for b in again]


def _marked(ground: Path, folder: Path) -> Path:
    """The discs with a metadata file that keeps four of them for the test."""
    folder.mkdir()
    rows = []
    for i in range(12):
        for half in ("source", "target"):
            name = f"{half}-{i}.png"
            (folder / name).write_bytes((ground / "data" / half / f"disc{i:02d}.png").read_bytes())
        split = "test" if i < 4 else "train"
        rows.append(
            {"file_name": f"target-{i}.png", "source": f"source-{i}.png", "caption": f"disc {i}", "split": split}
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
