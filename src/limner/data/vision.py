"""Captions from a model that sees: BLIP, Florence-2, or any vision-language model that chats (Qwen-VL, Idefics, LLaVA).

Models come from transformers, by hub name or from a folder; safetensors only, and no code of a model's own. Decoding
is greedy: the same model tells the same of the same picture. Works without torchvision, which transformers asks for
only where a model's processor also takes videos: of such a processor the part for videos is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from limner.data.prepare import View, picture, size
from limner.errors import ConfigError, DataError, PriorError, did_you_mean
from limner.types import File

PROMPT = (
    "Describe this picture in one sentence of at most forty words: the subject, what it does, its surroundings, the "
    "light, and how the picture is made. Answer with that sentence alone, and do not mention that it is a picture."
)
TASKS = ("<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>", "<CAPTION>")  # Florence-2 follows its own words only
EXAMPLES = "Salesforce/blip-image-captioning-base, florence-community/Florence-2-base, Qwen/Qwen2.5-VL-3B-Instruct"
MAX_SIDE_PX = 1024  # a caption needs no more, and some models take time with the square of the pixels
MAX_ASPECT = 50


def describe(
    model: str,
    files: Iterable[File],
    prompt: str | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 128,
) -> Iterator[str]:
    """A caption for each picture, in order; the model is loaded when the first is asked for.

    Args:
        model: a hub name or a folder.
        prompt: what is asked of a model that chats; the beginning of BLIP's captions; one of Florence-2's caption
            tasks. Default: a sentence of at most forty words; nothing; the most detailed task.
        batch_size: pictures that the model sees at once; at least 1.
        max_new_tokens: captions end there at the latest.

    Raises:
        PriorError: no such model, one of another kind, one that cannot be loaded, or too little memory for it.
        ConfigError: a prompt that Florence-2 does not know.
        DataError: a picture that cannot be read or is too narrow.
    """
    rest = iter(files)
    some = list(itertools.islice(rest, batch_size))
    if not some:
        return
    network, processor = _load(model)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    while some:
        inputs = _inputs(network.config.model_type, processor, [_picture(file) for file in some], prompt)
        inputs = inputs.to(network.device, network.dtype)
        try:
            with torch.inference_mode():
                tokens_BL = network.generate(**inputs, **settings)
        except torch.OutOfMemoryError:
            raise PriorError(
                f"{model} and {len(some)} pictures at once do not fit into the memory of {network.device}.",
                "take a smaller --batch-size, or a smaller model",
            ) from None
        if _template(processor):  # the answer follows the question
            tokens_BL = tokens_BL[:, inputs["input_ids"].shape[1] :]
        for text in processor.tokenizer.batch_decode(tokens_BL, skip_special_tokens=True):
            yield " ".join(text.split())
        some = list(itertools.islice(rest, batch_size))


def _load(model: str) -> tuple[Any, Any]:
    """The network, ready on the fastest device there is, and its processor."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText

    is_folder = Path(model).is_dir()
    if not is_folder and (Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1):
        raise PriorError(f"the folder {model} does not exist.", "give a model's folder, or its name on the hub")
    if is_folder and not (Path(model) / "config.json").is_file():
        raise PriorError(f"{model} has no config.json.", "give the folder of one model in the layout of transformers")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        config = AutoConfig.from_pretrained(model)
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        processor: Any = _processor(model, config) if sees else None
        if not sees or (config.model_type not in ("blip", "florence2") and not _template(processor)):
            raise PriorError(f"{model} is a {config.model_type}, which captions no pictures.", f"known: {EXAMPLES}")
        kind: Any = AutoModelForImageTextToText
        network, report = kind.from_pretrained(
            model, dtype="auto" if accelerator else torch.float32, use_safetensors=True, output_loading_info=True
        )
    except ImportError as error:
        raise PriorError(f"{model} needs a package that is not here: {_first(error)}", "install that package") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if not is_folder and not _is_fetched(model):
            raise PriorError(
                f"there is no model '{model}', neither as a folder nor on the hub as far as it can be reached.",
                f"such names are {EXAMPLES}; for a machine without a network, fetch it before: hf download {model}",
            ) from None
        raise PriorError(f"{model} cannot be loaded: {_first(error)}", f"known to work: {EXAMPLES}") from None
    if report["missing_keys"]:
        raise PriorError(
            f"{model} lacks {len(report['missing_keys'])} of its weights, first {min(report['missing_keys'])}.",
            f"fetch it again, or take one in the layout of transformers: {EXAMPLES}",
        )
    if _template(processor):
        processor.tokenizer.padding_side = "left"  # answers begin where the questions end
    network.generation_config.update(temperature=None, top_p=None, top_k=None)  # of sampling, which is not done
    return network.to(accelerator or "cpu").eval(), processor


def _processor(model: str, config: Any) -> Any:
    """What makes pictures and words into the network's inputs."""
    from transformers import PROCESSOR_MAPPING, AutoProcessor

    try:
        return AutoProcessor.from_pretrained(model)
    except ImportError:  # of torchvision, which only the part for videos cannot do without
        kind = PROCESSOR_MAPPING[type(config)]

    class Still(kind):  # type: ignore[misc, valid-type]
        """The same processor, for pictures only."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    return Still.from_pretrained(model)


def _template(processor: Any) -> Any:
    """How a conversation is written, where the model is made for one; a model's files may say so in either place."""
    return getattr(processor, "chat_template", None) or processor.tokenizer.chat_template


def _inputs(kind: str, processor: Any, pictures: list[Image.Image], prompt: str | None) -> Any:
    """What the network is asked about these pictures."""
    if kind == "blip":
        text = [prompt] * len(pictures) if prompt else None
        return processor(images=pictures, text=text, return_tensors="pt")
    if kind == "florence2":
        if (task := prompt or TASKS[0]) not in TASKS:
            raise ConfigError(f"Florence-2 has no caption task '{task}'.", did_you_mean(task, TASKS))
        return processor(images=pictures, text=[task] * len(pictures), return_tensors="pt")
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt or PROMPT}]}]
    text = processor.apply_chat_template(
        question, chat_template=_template(processor), add_generation_prompt=True, tokenize=False
    )
    begun = processor.tokenizer.bos_token and text.startswith(processor.tokenizer.bos_token)
    return processor(
        images=[[picture] for picture in pictures],
        text=[text] * len(pictures),
        padding=True,
        add_special_tokens=not begun,
        return_tensors="pt",
    )


def _picture(file: File) -> Image.Image:
    """RGB, transparency laid on white, no side above MAX_SIDE_PX."""
    width, height = size(file)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(f"{file} is {width} x {height} pixels, too narrow to be described.", "cut it, or caption it")
    scale = min(1.0, MAX_SIDE_PX / max(width, height))
    view = View(max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(picture(file, view).permute(1, 2, 0).contiguous().numpy())


def _is_fetched(name: str) -> bool:
    """Whether this machine has fetched the hub's model of this name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _first(error: Exception) -> str:
    """The first sentence of a message that may have many lines."""
    return re.split(r"(?<=\.)\s|\n", str(error).strip(), maxsplit=1)[0].rstrip(".:") + "."
