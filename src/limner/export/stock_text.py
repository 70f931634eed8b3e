"""Stock diffusers on what a run has taught the text side: new words are loaded, prompts encoded, as users do it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.errors import ExportError, first_line
from limner.export.stock import KEPT, heard


def load_words(pipeline: Any, files: Mapping[str, Path], keys: Mapping[str, str]) -> None:
    """Teach a stock pipeline new words, by the loader that users have.

    Args:
        files: word -> its file.
        keys: text encoder -> its key in the files; '' where a file holds one tensor alone.

    Raises:
        ExportError: the loader fails.
    """
    for name, key in keys.items():
        encoder, tokenizer = getattr(pipeline, name), getattr(pipeline, name.replace("text_encoder", "tokenizer"))
        if key.startswith("clip"):  # as the model card says: 2, for any larger number, is what older ones have
            getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id
        for word, file in files.items():
            source = load_file(file)[key] if key else file
            try:
                with heard():
                    pipeline.load_textual_inversion(
                        source, token=word, text_encoder=encoder, tokenizer=tokenizer, local_files_only=True
                    )
            except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ExportError(f"{file}: load_textual_inversion fails: {first_line(error)}.", KEPT) from error


def vectors_of(pipeline: Any, encoder: str, words: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Word -> the vectors that a pipeline's text encoder has for its tokens; ``words`` says how many there are."""
    tokenizer = getattr(pipeline, encoder.replace("text_encoder", "tokenizer"))
    rows = getattr(pipeline, encoder).get_input_embeddings().weight
    tokens = {word: [word, *(f"{word}_{i}" for i in range(1, len(own)))] for word, own in words.items()}
    return {word: rows[tokenizer.convert_tokens_to_ids(own)].detach() for word, own in tokens.items()}


@torch.no_grad()
def encode(pipeline: Any, family: str, prompt: str, num_tokens: int) -> tuple[Tensor, Tensor | None]:
    """What a stock pipeline makes of a prompt: tokens (1, L, D), and the pooled vector (1, D) where it has one."""
    device = pipeline.device
    if family == "sd":
        return pipeline.encode_prompt(prompt, device, 1, False)[0], None
    if family == "flux":
        tokens, pooled, _ = pipeline.encode_prompt(prompt, None, device=device, max_sequence_length=num_tokens)
        return tokens, pooled
    options = {"prompt_2": None} | ({"prompt_3": None} if family == "sd3" else {})
    tokens, _, pooled, _ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False, **options)
    return tokens, pooled
