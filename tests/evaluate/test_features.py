import json
import shutil

import pytest
import torch

from limner.errors import PriorError
from limner.evaluate.features import CLIP_MEAN, CLIP_STD, ClipEmbedder, load


def pictures(num: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randint(256, (num, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def of_a_silent_folder(embed: ClipEmbedder) -> tuple[torch.Tensor, torch.Tensor]:
    """A CLIP's pixels are normalised as OpenAI's; those of another pair to [-1, 1]."""
    mean, std = (CLIP_MEAN, CLIP_STD) if embed.crops else ((0.5,) * 3, (0.5,) * 3)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def test_features_lie_on_a_sphere_of_radius_sqrt_d(embed):
    features = embed(pictures())
    assert features.shape == (3, 12)
    torch.testing.assert_close(features.norm(dim=1), torch.full((3,), 12**0.5))


def test_features_are_those_of_clip(embed):
    mean, std = of_a_silent_folder(embed)
    x = (pictures().float() / 255 - mean) / std
    wanted = embed.model(input_ids=torch.tensor([[0, 1]]), pixel_values=x).image_embeds
    torch.testing.assert_close(embed(pictures()), wanted * 12**0.5)


def test_size_and_batching_do_not_matter(embed):
    many = pictures(40)
    torch.testing.assert_close(embed(many)[35:], embed(many[35:]))
    flat = torch.full((1, 3, 128, 96), 200, dtype=torch.uint8)
    torch.testing.assert_close(embed(flat), embed(flat[:, :, :64, :64]), rtol=1e-4, atol=1e-4)


def test_normalisation_of_the_folder_is_used(clip_folder, embed, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    other = ClipEmbedder(folder, "other")
    mean, std = of_a_silent_folder(embed)
    scaled = ((pictures().float() / 255 - 0.4) / 0.3 * std + mean) * 255
    torch.testing.assert_close(other(pictures()), embed(scaled))
    (folder / "preprocessor_config.json").rename(folder / "kept.json")
    nested = {"image_processor": json.loads((folder / "kept.json").read_text())}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    torch.testing.assert_close(ClipEmbedder(folder, "nested")(pictures()), other(pictures()))


def test_a_missing_part_is_named(clip_folder, tmp_path):
    assert load(str(clip_folder)).name == clip_folder.name
    with pytest.raises(PriorError, match=r"config\.json does not exist") as error:
        load(str(tmp_path))
    assert "CLIPModel" in error.value.hint


def test_another_kind_of_model_is_named(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "other")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(PriorError, match="holds a model of the kind bert"):
        load(str(folder))
