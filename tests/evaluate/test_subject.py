"""Scores of a taught subject, on features whose numbers are known, and on embedders of real classes."""

import json
import math

import pytest
import torch
from transformers import CLIPTokenizer, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from limner.errors import DataError, PriorError
from limner.evaluate import features, subject
from limner.evaluate.features import ClipEmbedder, DinoEmbedder, centre

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def directions(*degrees: float) -> torch.Tensor:
    """Features in the plane, one for each angle."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (*shape, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def colours(drawn):
    """An embedder for the eye: mean red, green, blue."""
    return drawn.float().mean(dim=(2, 3))


colours.name = "colours"


def of_words(prompts):
    return torch.stack([torch.tensor([float("red" in words), float("green" in words), 0.1]) for words in prompts])


def plain(rgb: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)


def test_numbers_of_a_known_plane():
    made = directions(0, 60).view(1, 2, 2)
    found = subject.of_features(made, directions(30), directions(0, 25), directions(90))
    assert found["subject"] == pytest.approx((1 + cos(25) + cos(60) + cos(35)) / 4)
    assert found["prompt"] == pytest.approx(cos(30))
    assert found["drift"] == pytest.approx((cos(90) + cos(65)) / 2)
    assert found["diversity"] == pytest.approx(1)  # the chord of 60 degrees
    assert found["copying"] == pytest.approx((1 + cos(35)) / 2)
    assert found["copied"] == pytest.approx(0.5)  # one lies on a real picture, the other farther off than they are
    assert found["score"] == pytest.approx(found["subject"] * found["prompt"])


def test_the_length_of_features_does_not_matter():
    made, asked, real = directions(0, 60).view(1, 2, 2), directions(30), directions(0, 30)
    near, far = (subject.of_features(size * made, size * asked, size * real, None) for size in (1, 7))
    assert far["subject"] == pytest.approx(near["subject"])
    assert far["diversity"] == pytest.approx(near["diversity"])


def test_pictures_that_are_the_real_ones_are_alike_and_copied():
    real = torch.stack([plain((200, 10, 10)), plain((180, 60, 10))])
    drawn = real[:1].expand(2, 3, 3, 8, 8)
    found = subject.score(drawn, ["a red dog", "a green dog"], real[:1], None, colours, of_words)
    assert found["subject"] == pytest.approx(1)
    assert found["copying"] == pytest.approx(1)
    assert "copied" not in found  # one real picture says nothing of how near two may be
    assert found["diversity"] == pytest.approx(0, abs=1e-3)
    assert "drift" not in found
    assert subject.score(drawn, ["a red dog"] * 2, real, real, colours, of_words)["copied"] == 1
    assert found == json.loads(json.dumps(found), object_hook=tupled)


def tupled(found: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def test_intervals_are_over_prompts():
    made = directions(0, 0, 80, 80).view(2, 2, 2)
    found = subject.of_features(made, directions(0, 0), directions(0), None)
    low, high = found["subject_interval"]
    assert low == pytest.approx(cos(80))
    assert high == pytest.approx(1)


def test_a_product_asks_for_both():
    real, asked = directions(0, 10), directions(90)
    copy, absent, both = (
        subject.of_features(directions(angle).view(1, 1, 2), asked, real, None)["score"] for angle in (0, 90, 45)
    )
    assert both > copy
    assert both > absent
    assert subject.of_features(directions(200).view(1, 1, 2), asked, real, None)["score"] == 0  # not (-1) * (-1)


def test_the_ceiling_is_of_held_out_pictures_or_of_the_others():
    real = directions(0, 30, 90)
    held_out = subject.reference_of_features(real, directions(10))
    assert held_out["subject"] == pytest.approx((cos(10) + cos(20) + cos(80)) / 3)
    assert held_out["copying"] == pytest.approx(cos(10))
    others = subject.reference_of_features(real, None)
    assert others["subject"] == pytest.approx((cos(30) + cos(90) + cos(60)) / 3)
    assert others["copying"] == pytest.approx((cos(30) + cos(30) + cos(60)) / 3)
    assert subject.reference_of_features(real[:1], None) == {}
    low, high = others["subject_interval"]
    assert low < others["subject"] < high


def test_swapped_subjects_show_off_the_diagonal():
    red, green = plain((220, 20, 10)).expand(2, 3, 8, 8), plain((20, 220, 10)).expand(3, 3, 8, 8)
    apart = subject.bleed([red, green[None]], [red, green], colours)
    swapped = subject.bleed([green, red], [red, green], colours)
    torch.testing.assert_close(apart.diagonal(), torch.ones(2))
    torch.testing.assert_close(swapped, apart.flip(0))
    assert (subject.margins(apart) > 0.5).all()
    torch.testing.assert_close(subject.margins(swapped), -subject.margins(apart))


def test_margins_are_to_the_nearest_other():
    matrix = torch.tensor([[0.9, 0.5, 0.7], [0.1, 0.4, 0.5], [0.2, 0.1, 0.3]])
    torch.testing.assert_close(subject.margins(matrix), torch.tensor([0.2, -0.1, 0.1]))


def test_place_on_the_scale():
    assert subject.place(0.3, 0.3, 0.7) == 0
    assert subject.place(0.7, 0.3, 0.7) == 1
    assert subject.place(0.5, 0.3, 0.7) == pytest.approx(0.5)
    assert subject.place(0.5, 0.7, 0.7) is None


def test_prompts_and_pictures_that_do_not_pair_are_refused():
    with pytest.raises(DataError, match="3 prompts for the pictures of 2"):
        subject.score(pictures(2, 2), ["x"] * 3, pictures(1), None, colours, of_words)
    with pytest.raises(DataError, match="no real picture"):
        subject.score(pictures(2, 2), ["x"] * 2, pictures(0), None, colours, of_words)


def test_the_eye_scores_a_subject_and_its_prompts():
    eye = features.eye()
    drawn = plain((230, 20, 20)).repeat(1, 8, 8).expand(1, 2, 3, 64, 64)
    found = subject.score(drawn, ["a red square"], drawn[0], drawn[0], eye, eye.texts)
    assert found["subject"] == pytest.approx(1, abs=1e-5)
    assert found["drift"] == pytest.approx(1, abs=1e-5)
    assert -1 <= found["prompt"] <= 1
    assert found["embedder"] == eye.name


def test_the_eyes_text_side_knows_words():
    """Of its own domain: the true picture of a prompt is nearer to it than another's."""
    from limner.data.builtin.subjects import subjects
    from limner.data.prepare import load_uint8

    samples = [sample for sample in subjects() if sample.key.endswith("-0.webp")]
    eye = features.eye()
    asked = eye.texts([sample.caption for sample in samples])
    shown = eye(torch.stack([load_uint8(sample.image, 128) for sample in samples]))
    torch.testing.assert_close(asked.norm(dim=1), torch.full((12,), asked.shape[1] ** 0.5))
    first = (asked @ shown.T).argmax(dim=1)
    assert (first == torch.arange(12)).float().mean() > 0.3  # chance is 0.08


@pytest.fixture
def clip_with_words(clip_folder, tmp_path):
    """The tiny pairs, with a tokenizer of ten letters."""
    letters = [*"abcdefghij"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    return ClipEmbedder(tmp_path, "tiny")


def test_texts_are_those_of_the_model(clip_with_words):
    ids = torch.tensor([[0, 12, 13, 1]])
    x = torch.zeros(1, 3, 64, 64)
    wanted = clip_with_words.model(input_ids=ids, pixel_values=x).text_embeds
    torch.testing.assert_close(clip_with_words.texts(["a b"]), wanted * 12**0.5)
    both = clip_with_words.texts(["a b", "c d e " * 100])
    torch.testing.assert_close(both[:1], wanted * 12**0.5)


def test_a_pair_without_a_tokenizer_says_so(embed):
    with pytest.raises(PriorError, match="holds no tokenizer") as error:
        embed.texts(["a"])
    assert "vocab.json" in error.value.hint


@pytest.fixture(params=["vit", "dinov2"])
def dino_folder(request, tmp_path):
    torch.manual_seed(0)
    if request.param == "vit":
        model = ViTModel(ViTConfig(**TINY, image_size=224, patch_size=32), add_pooling_layer=False)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = Dinov2Model(Dinov2Config(**sizes, image_size=280, patch_size=28))
    model.eval().save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def test_dino_features_are_the_cls_token_of_the_middle(dino_folder):
    dino = DinoEmbedder(dino_folder, "tiny")
    drawn = torch.randint(256, (2, 3, 256, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    middle = drawn[:, :, 16:240, 38:262].float() / 255
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    hidden = dino.model((middle - mean) / std).last_hidden_state[:, 0]
    wanted = hidden / hidden.norm(dim=1, keepdim=True) * 4
    torch.testing.assert_close(dino(drawn), wanted)
    assert features.load_dino(str(dino_folder)).name == "dino"


def test_centre_is_what_an_image_library_makes():
    from PIL import Image

    drawn = torch.randint(256, (3, 400, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(drawn.permute(1, 2, 0).numpy()).resize((256, 341), Image.Resampling.BICUBIC)
    left, top = 16, round((341 - 224) / 2)
    wanted = torch.tensor(list(image.crop((left, top, left + 224, top + 224)).tobytes())).view(224, 224, 3)
    found = centre(drawn[None], 256, 224)[0].permute(1, 2, 0)
    assert (found.int() - wanted.int()).abs().max() <= 1


def test_what_is_no_such_model_is_named(clip_folder, tmp_path, monkeypatch):
    with pytest.raises(PriorError, match="holds a model of the kind") as error:
        features.load_dino(str(clip_folder))
    assert "dinov2" in error.value.hint
    with pytest.raises(PriorError, match=r"config\.json does not exist"):
        features.load_dino(str(tmp_path / "nothing" / "here"))

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(features.hub, "list_repo_files", unreachable)
    with pytest.raises(PriorError, match="no folder nobody/dino") as error:
        features.load_dino("nobody/dino")
    assert "hf download nobody/dino" in error.value.hint


def test_of_a_repository_one_set_of_weights_is_fetched(monkeypatch, dino_folder):
    there = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md"]
    asked = {}
    monkeypatch.setattr(features.hub, "list_repo_files", lambda *_, **__: there)
    monkeypatch.setattr(features.hub, "snapshot_download", lambda *_, **how: asked.update(how) or str(dino_folder))
    assert features.load_dino("some/dino").name == "dino"
    assert asked["allow_patterns"] == ["config.json", "model.safetensors"]
