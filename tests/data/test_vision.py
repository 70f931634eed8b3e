"""Captions from models that see: each kind at toy size, loaded from a folder as a user's would be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_vision
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, BartConfig, BartForConditionalGeneration

from limner.data import vision
from limner.data.vision import describe
from limner.errors import ConfigError, DataError, PriorError

KINDS = [tiny_vision.blip, tiny_vision.florence2, tiny_vision.qwen, tiny_vision.idefics3]
CHATS = [tiny_vision.qwen, tiny_vision.idefics3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], str]:
    """The folder of a kind of model; each is made once."""
    made = {kind: kind(tmp_path_factory.mktemp("models") / kind.__name__) for kind in KINDS}
    return lambda kind: str(made[kind])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Discs of several colours; of several shapes, so that chatting models see a batch of prompts of unequal length."""
    files = []
    shapes = [(40, 30), (64, 30), (33, 90), (3, 3), (1, 1), (200, 100)]
    for shape, colour in zip(shapes, ["red", "lime", "blue", "black", "white", "yellow"], strict=True):
        picture = Image.new("RGB", shape, colour)
        ImageDraw.Draw(picture).ellipse((2, 2, shape[0] // 2 + 2, shape[1] // 2 + 2), fill="grey")
        files.append(tmp_path_factory.getbasetemp() / f"{colour}.png")
        picture.save(files[-1])
    return files


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_captions_are_the_pictures_own_whatever_the_batch(kind: Callable, folder: Callable, pictures: list) -> None:
    alone = list(describe(folder(kind), pictures, batch_size=1, max_new_tokens=6))
    assert len(alone) == len(pictures) and len(set(alone)) > 2
    assert list(describe(folder(kind), iter(pictures), batch_size=4, max_new_tokens=6)) == alone
    assert all(caption == " ".join(caption.split()) for caption in alone)


def test_blip_says_what_transformers_says(folder: Callable, pictures: list) -> None:
    model, processor = _loaded(folder(tiny_vision.blip))
    inputs = processor(images=Image.open(pictures[0]), text="a fox", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=1)
    caption = processor.decode(tokens[0], skip_special_tokens=True)
    assert caption.startswith("a fox")
    assert list(describe(folder(tiny_vision.blip), pictures[:1], "a fox", max_new_tokens=5)) == [caption]


def test_florence_says_what_transformers_says(folder: Callable, pictures: list) -> None:
    model, processor = _loaded(folder(tiny_vision.florence2))
    for task in ("<CAPTION>", "<MORE_DETAILED_CAPTION>"):
        inputs = processor(images=Image.open(pictures[0]), text=task, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=1)
        text = processor.batch_decode(tokens, skip_special_tokens=False)[0]
        parsed = processor.post_process_generation(text, task=task, image_size=(40, 30))[task]
        parsed = " ".join(parsed.replace("<pad>", "").split())
        assert list(describe(folder(tiny_vision.florence2), pictures[:1], task, max_new_tokens=5)) == [parsed]
    assert list(describe(folder(tiny_vision.florence2), pictures[:1], max_new_tokens=5)) == [parsed]


def test_a_chatting_model_says_what_transformers_says(folder: Callable, pictures: list) -> None:
    model, processor = _loaded(folder(tiny_vision.idefics3))
    content = [{"type": "image", "image": Image.open(pictures[0])}, {"type": "text", "text": "What is it?"}]
    settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], processor_kwargs={"return_tensors": "pt"}, **settings
    )
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    caption = " ".join(processor.decode(tokens[0], skip_special_tokens=True).split())
    assert list(describe(folder(tiny_vision.idefics3), pictures[:1], "What is it?", max_new_tokens=5)) == [caption]


@pytest.mark.parametrize("kind", CHATS, ids=lambda kind: kind.__name__)
def test_the_question_matters_and_is_not_repeated(kind: Callable, folder: Callable, pictures: list) -> None:
    one, other = (list(describe(folder(kind), pictures, text, max_new_tokens=5)) for text in ("What?", "Which colour?"))
    assert one != other
    assert not any("What?" in caption or "user" in caption for caption in one)


def test_florence_knows_its_own_tasks_only(folder: Callable, pictures: list) -> None:
    with pytest.raises(ConfigError, match="<DETAILED>") as caught:
        list(describe(folder(tiny_vision.florence2), pictures, "<DETAILED>"))
    assert "'<DETAILED_CAPTION>'" in caught.value.hint


def test_transparency_is_white(folder: Callable, pictures: list, tmp_path: Path) -> None:
    opaque = Image.open(pictures[0]).convert("RGB")
    clear = opaque.convert("RGBA")
    mask = Image.new("L", opaque.size, 255)
    ImageDraw.Draw(mask).rectangle((20, 0, 40, 30), fill=0)
    clear.putalpha(mask)
    opaque.paste("white", mask=mask.point(lambda value: 255 - value))
    clear.save(tmp_path / "clear.png")
    opaque.save(tmp_path / "opaque.png")
    files = [tmp_path / "clear.png", tmp_path / "opaque.png"]
    first, second = (vision._picture(file) for file in files)
    assert first.mode == "RGB" and first.tobytes() == second.tobytes()


def test_large_pictures_are_made_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    assert vision._picture(tmp_path / "large.png").size == (1024, 512)


def test_no_pictures_need_no_model() -> None:
    assert list(describe("nobody/nothing", [])) == []


def test_a_bad_picture_is_named(folder: Callable, tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"fox\.png"):
        list(describe(folder(tiny_vision.blip), [tmp_path / "fox.png"]))
    Image.new("RGB", (900, 3)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=r"line\.png is 900 x 3 pixels"):
        list(describe(folder(tiny_vision.blip), [tmp_path / "line.png"]))


@pytest.mark.parametrize(
    ("model", "wrong", "hint"),
    [
        ("nobody/nothing", "there is no model 'nobody/nothing'", "hf download"),
        ("a name with spaces", "there is no model", "blip"),
        ("models/of/mine", "folder models/of/mine does not exist", "hub"),
        ("./mine", "folder ./mine does not exist", "hub"),
    ],
)
def test_a_model_that_is_not_there(model: str, wrong: str, hint: str, pictures: list) -> None:
    with pytest.raises(PriorError, match=wrong) as caught:
        list(describe(model, pictures))
    assert "\n" not in str(caught.value) and hint in caught.value.hint


def test_models_that_cannot_be_used(folder: Callable, pictures: list, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(PriorError) as caught:
            list(describe(str(folder), pictures))
        assert caught.value.hint and "\n" not in str(caught.value) and str(folder) in str(caught.value)
        return str(caught.value)

    assert "has no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    assert "cannot be loaded" in refused(tmp_path)

    model = tiny_vision.blip(tmp_path / "blip")
    weights = load_file(model / "model.safetensors")
    first = min(weights)
    save_file(
        {name: part for name, part in weights.items() if name != first}, model / "model.safetensors", {"format": "pt"}
    )
    assert f"lacks 1 of its weights, first {first}" in refused(model)
    (model / "model.safetensors").write_bytes(b"cut short")
    assert "cannot be loaded" in refused(model)
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")  # a pickle is never opened
    assert "cannot be loaded" in refused(model)

    reader = tmp_path / "reader"
    width = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    BartForConditionalGeneration(BartConfig(**width, **heads)).save_pretrained(reader)
    assert "is a bart, which captions no pictures" in refused(reader)


def test_too_little_memory_is_said(folder: Callable, pictures: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    model, processor = _loaded(folder(tiny_vision.blip))
    monkeypatch.setattr(model, "generate", full)
    monkeypatch.setattr(vision, "_load", lambda name: (model, processor))
    with pytest.raises(PriorError, match="6 pictures at once do not fit") as caught:
        list(describe("x", pictures))
    assert "--batch-size" in caught.value.hint


def _loaded(folder: str) -> tuple:
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
