"""The toy folders of the open families are what users have: the stock pipelines open them and sample from them."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_families import FAMILIES, PICTURE_PX, family_folder


# diffusers' Euler scheduler hands torch's tensors to numpy 2 in a way that numpy will stop taking.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_pipeline_samples_from_the_folder(family: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / family, family)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 5e6
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    fox, cats = (
        pipeline(
            prompt=prompt,
            height=PICTURE_PX,
            width=PICTURE_PX,
            num_inference_steps=2,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        for prompt in ("a red fox", "two blue cats")
    )
    assert fox.shape == (3, PICTURE_PX, PICTURE_PX)
    assert 0.02 < fox.std() < 0.5
    assert (fox - cats).abs().max() > 0.02, "the pipeline does not hear its text"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_every_time(family: str, tmp_path: Path) -> None:
    one, two = (family_folder(tmp_path / name, family) for name in ("one", "two"))
    files = {file.relative_to(one): file.read_bytes() for file in one.rglob("*.safetensors")}
    assert files == {file.relative_to(two): file.read_bytes() for file in two.rglob("*.safetensors")}


def test_the_template_of_qwen_image_has_34_tokens_before_the_prompt(tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(family_folder(tmp_path / "qwen", "qwen_image"))
    before = pipeline.prompt_template_encode.split("{}")[0]
    assert len(pipeline.tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx
