"""A run that learnt two subjects, on a benchmark laid out as DreamBooth's, with models of real classes at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import prior_folder
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from limner import run
from limner.cli.main import main
from limner.errors import ConfigError, DataError
from limner.run.protocol import _own_task

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = """Classes

subject_name,class
tin,can
tabby,cat
mug,cup

Object Prompts

prompt_list = [
'a {0} {1} outside'.format(unique_token, class_token),
'a wet {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in a hat'.format(unique_token, class_token)
]
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocol")
    prior_folder(folder / "prior", "v")
    for name, colour in (("tin", "red"), ("tabby", "blue"), ("mug", "green")):
        (folder / "dataset" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("RGB", (30, 24 + number), colour)
            picture.putpixel((number, 5), (255, 255, 255))
            picture.save(folder / "dataset" / name / f"{number:02d}.jpg")
    (folder / "dataset" / "prompts_and_classes.txt").write_text(TEXT)
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY, image_size=224, patch_size=32), add_pooling_layer=False).save_pretrained(folder / "dino")
    _clip(folder / "clip")
    values = {
        "prior": str(folder / "prior"), "out": folder / "run", "steps": 2, "batch_size": 2, "warmup_steps": 1,
        "save_every": 2, "evaluate_every": 2, "sample_steps": 2, "class_pictures": 2, "rank": 2, "score_pictures": 2,
        "prompts": "a {}", "concepts": f"sks can={folder / 'dataset' / 'tin'}, zwx cat={folder / 'dataset' / 'tabby'}",
    }  # fmt: skip
    run.train(run.resolve("dreambooth", values))
    return folder


def _clip(folder: Path) -> None:
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = TINY | {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1}
    vision = TINY | {"image_size": 64, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)


def test_a_run_of_two_subjects_on_the_benchmark(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--dino", str(ground / "dino"), "--clip", str(ground / "clip")]
    before = {file: file.read_bytes() for file in (ground / "run").iterdir() if file.is_file()}
    command = ["evaluate", str(ground / "run"), "--protocol", "dreambench", "--benchmark", str(ground), *models]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["subject"] for row in said["subjects"]] == ["tin", "tabby"]
    assert said["missing"] == ["mug"]
    for row in said["subjects"]:
        assert {"dino", "clip_i", "clip_t", "drift", "diversity", "copying"} <= row["scores"].keys()
        assert {"dino", "clip_i"} <= row["real"].keys()
        assert row["untrained"].keys() >= {"drift"}
    own = [row["scores"]["dino"] for row in said["subjects"]]
    assert said["mean"]["scores"]["dino"] == pytest.approx(sum(own) / 2)
    assert len(said["bleed"][0]["matrix"]) == 2
    after = {file: file.read_bytes() for file in (ground / "run").iterdir() if file.is_file()}
    assert set(after) - set(before) == {ground / "run" / "dreambench.json", ground / "run" / "dreambench.html"}
    assert all(after[file] == content for file, content in before.items())
    assert main(command) == 0
    assert "mean of 2 of 3 subjects" in capsys.readouterr().out
    assert json.loads((ground / "run" / "dreambench.json").read_text()) == said  # the same pictures again


def test_its_own_scores_are_a_table_too(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(ground / "run")]) == 0
    said = capsys.readouterr().out
    assert "sks can" in said
    assert "zwx cat" in said
    text = (ground / "run" / "report.html").read_text()
    assert "margin" in text  # of two subjects, each drawn and compared with both
    assert "step 2" in text


def test_what_cannot_be_scored_is_said(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no subject of the built-in data") as error:
        run.evaluate_protocol([ground / "run"])
    assert "--benchmark" in error.value.hint
    with pytest.raises(ConfigError, match="several runs"):
        run.evaluate_protocol([ground / "run"] * 2, benchmark=ground)
    with pytest.raises(ConfigError, match="two of them learnt"):
        run.evaluate_protocol([ground / "run"] * 2, benchmark=ground, out=tmp_path)
    file = tmp_path / "prompts_and_classes.txt"
    file.write_text(TEXT.replace("tin,can\ntabby,cat\n", ""))
    (tmp_path / "mug").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "mug" / "0.png")
    with pytest.raises(DataError, match="the benchmark has no subject 'tin'"):
        run.evaluate_protocol([ground / "run"], benchmark=tmp_path)


def test_options_of_the_protocol_without_it_are_refused(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(ground / "run"), "--clip", "x"]) == 2
    assert "--clip is for --protocol" in capsys.readouterr().err
    assert main(["evaluate", "a", "b"]) == 2
    assert "one run at a time" in capsys.readouterr().err


def test_missing_models_are_named(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(ground / "run"), "--protocol", "dreambench", "--benchmark", str(ground)]) == 1
    said = capsys.readouterr().err
    assert "openai/clip-vit-base-patch32" in said
    assert "facebook/dino-vits16" in said


def test_on_the_built_in_subjects_prompts_are_the_datas_own_with_the_trigger_once(tmp_path: Path) -> None:
    flags = {"data": "subjects:toolbox", "class_word": "toolbox", "caption_from": "data", "out": tmp_path / "run"}
    task = _own_task(run.build(run.resolve("dreambooth", flags), torch.device("cpu")), 0)
    assert all(prompt.count("sks toolbox") == prompt.count("sks") == 1 for prompt in task.prompts)
    assert [prompt.replace("sks ", "") for prompt in task.prompts] == task.plain
    assert all("toolbox in red with a black handle" in prompt and "sks" not in prompt for prompt in task.looks)
    assert task.decoded_NCHW is not None and task.truth_NCHW is not None
    lost = (task.decoded_NCHW.float() - task.truth_NCHW.float()).square().mean() / 255**2
    assert 20 < -10 * float(lost.log10()) < 30  # dB: near the truth, and not it
