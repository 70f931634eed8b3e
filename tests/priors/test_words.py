"""New words and learning text encoders, in every family: what changes, what does not, what stock tools make of it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from test_glide import TINY
from test_glide_prior import openai_state, write_sizes
from tiny import prior_folder
from tiny_families import FAMILIES, PICTURE_PX, family_folder
from transformers import CLIPTextModel

from limner.config import AdapterConfig
from limner.errors import PriorError
from limner.priors.base import Prior
from limner.priors.folder import Loading
from limner.priors.new_words import learnt
from limner.priors.open import open_prior
from limner.types import Cond

PLAIN, NEW = "a red fox", "a <cat> fox"
NUM = 3


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ground = tmp_path_factory.mktemp("words")
    made = {family: family_folder(ground / family, family) for family in FAMILIES}
    (ground / "glide").mkdir()
    write_sizes(ground / "glide")
    torch.save(openai_state(TINY), ground / "glide" / "base.pt")
    return {**made, "sd": prior_folder(ground / "sd", "eps"), "glide": ground / "glide"}


def opened(folder: Path, text: str = "fp32") -> Prior:
    return open_prior(str(folder), Loading(text=text, image_px=None if "glide" in folder.name else PICTURE_PX))


def parts(cond: Cond) -> list[torch.Tensor]:
    return [part for part in (cond.tokens_BLD, cond.pooled_BD) if part is not None]


def lower(prior: Prior, captions: list[str]) -> None:
    sum(part.square().sum() for part in parts(prior.encode_text(captions))).backward()


every_family = pytest.mark.parametrize("family", [*FAMILIES, "sd", "glide"])


@every_family
def test_captions_without_a_new_word_stay_as_they_were(folders: dict[str, Path], family: str) -> None:
    prior = opened(folders[family])
    with torch.no_grad():
        before = parts(prior.encode_text([PLAIN, ""]))
        prior.add_words({"<cat>": "cat"}, NUM)
        after = parts(prior.encode_text([PLAIN, ""]))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@every_family
def test_only_the_new_vectors_learn_and_all_of_them_do(folders: dict[str, Path], family: str) -> None:
    prior = opened(folders[family])
    module = prior.add_words({"<cat>": "red"}, NUM)
    lower(prior, [NEW])
    named = dict(module.named_parameters())
    learning = {name for name, weight in named.items() if weight.requires_grad}
    assert learning == {f"{reader}.new_KD" for reader in prior.readers}
    for name in learning:
        gradient = named[name].grad
        assert gradient is not None
        assert gradient.abs().sum(dim=1).all()
    weights = [weight for reader in prior.readers for weight in prior.parts[reader].parameters()]
    assert sum(weight.grad is not None for weight in weights) == len(prior.readers)


@every_family
def test_a_word_is_as_many_tokens_as_it_has_vectors(folders: dict[str, Path], family: str) -> None:
    prior = opened(folders[family])
    before = prior.count_tokens("a  fox").num
    prior.add_words({"<cat>": "cat", "<cats>": "cat"}, NUM)
    added = prior.count_tokens(NEW).num - before
    assert NUM <= added <= NUM + 1  # byte pairs count the space before it
    for tokenizer in prior.readers.values():
        ids_BL, _ = tokenizer.ids(["<cat> <cats>", "<cats>", "<cat>_2"])
        numbers = [[number for number in row if number >= tokenizer.stock.vocab_size] for row in ids_BL.tolist()]
        first = tokenizer.stock.convert_tokens_to_ids("<cat>")
        cat, cats = list(range(first, first + NUM)), list(range(first + NUM, first + 2 * NUM))
        own = [[number for number in row if number in cat + cats] for row in numbers]
        assert own == [[*cat, *cats], cats, cat[2:]]


@every_family
def test_a_word_starts_as_the_one_it_is_given(folders: dict[str, Path], family: str) -> None:
    prior = opened(folders[family])
    module = prior.add_words({"<cat>": "x"}, 1)
    for name, reader in prior.readers.items():
        embedding = prior.parts[name].get_input_embeddings()  # type: ignore[operator]
        ids = torch.tensor(reader.stock("x", add_special_tokens=False).input_ids)
        torch.testing.assert_close(learnt(module)[name]["<cat>"], embedding(ids).mean(dim=0, keepdim=True))


@every_family
def test_without_weights_the_same_names_learn(folders: dict[str, Path], family: str) -> None:
    real = opened(folders[family]).add_words({"<cat>": "cat"}, NUM)
    px = None if family == "glide" else PICTURE_PX
    with torch.device("meta"):
        bare = open_prior(str(folders[family]), Loading(meta=True, image_px=px)).add_words({"<cat>": "cat"}, NUM)
    shapes = [{name: weight.shape for name, weight in module.named_parameters()} for module in (real, bare)]
    assert shapes[0] == shapes[1]
    assert all(weight.is_meta for weight in bare.parameters())


def test_beside_encoders_in_bf16_the_vectors_are_exact(folders: dict[str, Path]) -> None:
    for family in ("sdxl", "flux", "z_image"):
        prior = opened(folders[family], text="bf16")
        module = prior.add_words({"<cat>": "cat"}, NUM)
        lower(prior, [NEW])
        assert all(weight.dtype == torch.float32 for weight in module.parameters() if weight.requires_grad)
        assert all(weight.grad.any() for weight in module.parameters() if weight.grad is not None)


def test_words_that_are_known_are_refused(folders: dict[str, Path]) -> None:
    for family in ("sd", "flux", "z_image", "glide"):
        prior = opened(folders[family])
        with pytest.raises(PriorError, match="'a' is a word that"):
            prior.add_words({"<cat>": "cat", "a": "cat"}, 1)
        with pytest.raises(PriorError, match="is no word"):
            prior.add_words({"<cat>": ""}, 1)


# What learns is never let go of.


def test_what_learns_is_kept(folders: dict[str, Path]) -> None:
    prior = opened(folders["sdxl"])
    module = prior.add_words({"<cat>": "cat"}, 1)
    own, vae = prior.parts["text_encoder"], weakref.ref(prior.parts["vae"])
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(weight.requires_grad * 1.0)
        said = prior.encode_text([NEW]).tokens_BLD
        prior.parts.release()
        assert vae() is None
        with prior.parts.borrowed():
            assert prior.parts["text_encoder"] is own
        assert prior.parts["text_encoder"] is own
        assert torch.equal(prior.encode_text([NEW]).tokens_BLD, said)


# Text encoders that learn.


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "lokr", "loha", "oft"])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_clip_learns_in_the_kind_that_is_asked_for(folders: dict[str, Path], family: str, kind: str) -> None:
    prior = opened(folders[family], text="bf16")
    with torch.no_grad():
        before = parts(prior.encode_text([PLAIN]))
    module = prior.adapt_text(AdapterConfig(adapter=kind, rank=4, adapter_targets=("to_q",)))  # type: ignore[arg-type]
    assert set(dict(module.named_children())) == set(prior.clips)
    assert all(weight.dtype == torch.float32 for weight in module.parameters() if weight.requires_grad)
    with torch.no_grad():
        for old, new in zip(before, parts(prior.encode_text([PLAIN])), strict=True):
            torch.testing.assert_close(new, old, atol=0.1 if kind == "full" else 0.03, rtol=0.05)  # no longer bf16
    lower(prior, [PLAIN])
    for name in prior.clips:
        reached = [key for key, weight in module[name].named_parameters() if weight.grad is not None]
        assert reached
        assert kind == "full" or all(f".{NAMES[kind]}" in key for key in reached)
    rest = set(prior.readers) - set(prior.clips)
    assert not any(weight.requires_grad for name in rest for weight in prior.parts[name].parameters())


NAMES = {"lora": "lora_", "dora": "lora_", "lokr": "lokr_", "loha": "hada_", "oft": "oft_"}


def test_a_language_model_does_not_learn(folders: dict[str, Path]) -> None:
    for family in ("z_image", "qwen_image", "flux2_klein", "glide"):
        with pytest.raises(PriorError, match="no CLIP text encoder"):
            opened(folders[family]).adapt_text(AdapterConfig())


# Stock diffusers.


def inverted(folder: Path, num_vectors: int) -> tuple[Prior, dict[str, dict[str, torch.Tensor]]]:
    """A prior with words of random vectors, and these."""
    prior = opened(folder)
    module = prior.add_words({"<cat>": "cat", "<hat>": "cat"}, num_vectors)
    with torch.no_grad():
        for name in prior.readers:
            module[name].new_KD.normal_(generator=torch.Generator().manual_seed(len(name)))
    return prior, learnt(module)


def loaded(folder: Path, saved: dict[str, dict[str, torch.Tensor]]) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    for name, words in saved.items():
        sides = {"tokenizer": getattr(pipeline, name.replace("text_encoder", "tokenizer"))}
        sides["text_encoder"] = getattr(pipeline, name)
        for word, vectors in words.items():
            pipeline.load_textual_inversion({word: vectors}, token=word, **sides)
    return pipeline


PROMPTS = ["<cat>", "a <hat>b<cat>"]


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
@pytest.mark.parametrize("num_vectors", [1, 3])
def test_stable_diffusion_reads_them_alike(folders: dict[str, Path], num_vectors: int) -> None:
    prior, saved = inverted(folders["sd"], num_vectors)
    pipeline = loaded(folders["sd"], saved)
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
        torch.testing.assert_close(prior.encode_text(PROMPTS).tokens_BLD, theirs)


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_the_larger_ones_read_them_alike(folders: dict[str, Path], family: str) -> None:
    prior, saved = inverted(folders[family], 3)
    pipeline = loaded(folders[family], saved)
    for name in prior.clips:  # the toys say 2, as the released ones do, and diffusers has no remedy
        for part in getattr(pipeline, name).modules():
            if isinstance(part, CLIPTextModel):
                part.eos_token_id = pipeline.tokenizer.eos_token_id
    with torch.no_grad():
        told = prior.encode_text(PROMPTS)
        if family == "sdxl":
            theirs, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        else:
            theirs, pooled, _ = pipeline.encode_prompt(PROMPTS, PROMPTS, max_sequence_length=prior.num_tokens)
    torch.testing.assert_close(told.tokens_BLD, theirs)
    torch.testing.assert_close(told.pooled_BD, pooled)


def test_the_summary_is_taken_at_the_end_whatever_the_configuration_says(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The released SDXL and FLUX, and the toys, say that the end of the text is token 2."""
    right = family_folder(tmp_path / "sdxl", "sdxl")
    end = opened(right).readers["text_encoder_2"].stock.eos_token_id
    for name in ("text_encoder", "text_encoder_2"):
        file = right / name / "config.json"
        assert json.loads(file.read_text())["eos_token_id"] == 2 != end
        file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": end}))
    told = []
    for folder in (right, folders["sdxl"]):
        prior = opened(folder)
        prior.add_words({"<cat>": "cat"}, 1)
        with torch.no_grad():
            told.append(prior.encode_text([NEW, PLAIN, f"{NEW} in the snow"]).pooled_BD)
    assert torch.equal(*told)
    assert not torch.equal(told[0][0], told[0][2])
