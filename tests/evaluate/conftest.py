"""A CLIP of toy size with random weights, as a folder and as an embedder: the real class, no download."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from limner.evaluate.features import ClipEmbedder

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=TINY | {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=TINY | {"image_size": 64, "patch_size": 16},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embed(clip_folder) -> ClipEmbedder:
    return ClipEmbedder(clip_folder, "tiny")
