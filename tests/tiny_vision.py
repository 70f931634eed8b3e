"""Captioning models of real classes at toy size with random weights, as folders that a user might bring."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import (
    BartConfig,
    BartTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import logging

logging.disable_progress_bar()  # as the command line has it, before it imports transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:'"
SIDE_PX = 32


def blip(folder: Path) -> Path:
    """A BLIP of words that are single letters; 32 px pictures."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
    tokenizer = BertTokenizer(str(vocabulary))
    width = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**width, **ids, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "projection_dim": 16},
        vision_config={**width, "image_size": SIDE_PX, "patch_size": 8, "initializer_range": 0.02},
        projection_dim=16,
    )
    pictures = BlipImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX})
    _save(BlipForConditionalGeneration(config), folder)
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def florence2(folder: Path) -> Path:
    """A Florence-2 of bytes: a DaViT of four small stages, one BART layer each way."""
    torch.manual_seed(0)
    named = {"extra_special_tokens": {"image_token": "<image>"}}
    tokenizer = BartTokenizer(_vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), [], **named)
    stages = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
    }
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=128,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    vision = {**stages, "window_size": 2, "projection_dim": 16, "max_position_embeddings": 8}
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE_PX, "width": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}
    )
    pictures.image_seq_length = 2  # one place on the grid, and the mean of all
    _save(Florence2ForConditionalGeneration(config), folder, loud=30.0)
    Florence2Processor(pictures, tokenizer, post_processor_config={"pure_text": {}}).save_pretrained(folder)
    return folder


CHAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}\
{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen(folder: Path) -> Path:
    """A Qwen2.5-VL of bytes, laid out as on the hub: files of an image processor and of a tokenizer, none of both."""
    torch.manual_seed(0)
    pads = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokenizer = Qwen2Tokenizer(_vocabulary(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), [])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|vision_start|>", "<|vision_end|>", *pads.values()]})
    config = Qwen2_5_VLConfig(
        text_config={
            **_language(len(tokenizer)),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.update(do_sample=True, temperature=0.1, top_p=0.001, pad_token_id=0, eos_token_id=[2, 0])
    _save(model, folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 1024}
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=size).save_pretrained(folder)
    return folder


CHAT_OF_IDEFICS = """<bos>{% for message in messages %}{{ message.role }}: {% for part in message.content %}\
{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


def idefics3(folder: Path) -> Path:
    """An Idefics3 of bytes, whose every picture is one tile of four tokens."""
    torch.manual_seed(0)
    backend = Tokenizer(models.BPE(_vocabulary(["<pad>", "<bos>", "<eos>"]), []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<image>", "<fake_token_around_image>", "<global-img>"]}
    )
    size = {"size": {"longest_edge": SIDE_PX}, "max_image_size": {"longest_edge": SIDE_PX}}
    pictures = Idefics3ImageProcessorPil(**size, do_image_splitting=False)
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=CHAT_OF_IDEFICS)
    config = Idefics3Config(
        text_config={
            **_language(len(tokenizer)),
            "model_type": "llama",
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE_PX,
            "patch_size": 8,
        },
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    _save(Idefics3ForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    return folder


def _vocabulary(special: list[str]) -> dict[str, int]:
    """The special words, then all bytes."""
    return {word: number for number, word in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}


def _language(num_words: int) -> dict[str, int]:
    return {
        "vocab_size": num_words,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _save(model: PreTrainedModel, folder: Path, loud: float = 15.0) -> None:
    """With weights so large that what is said depends on the picture."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(loud)
    model.save_pretrained(folder)
