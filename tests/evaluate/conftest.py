"""Pairs of encoders of toy size with random weights, as folders and as embedders: the real classes, no download."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    EfficientNetConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from limner.evaluate.features import ClipEmbedder

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


TINY_TEXT = TINY | {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1}
TINY_EFFICIENTNET = {  # one block; the last layer's width is not free
    "image_size": 64, "hidden_dim": 1280, "hidden_size": 1280, "in_channels": [32], "out_channels": [16],
    "depthwise_padding": [], "kernel_sizes": [3], "strides": [1], "num_block_repeats": [1], "expand_ratios": [1],
    "width_coefficient": 1.0, "depth_coefficient": 1.0, "initializer_range": 0.5,
}  # fmt: skip


def tiny_clip() -> CLIPModel:
    vision = TINY | {"image_size": 64, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=TINY_TEXT, vision_config=vision, projection_dim=12))


def tiny_pair() -> VisionTextDualEncoderModel:
    """Two encoders of different families, as `eye` is."""
    parts = EfficientNetConfig(**TINY_EFFICIENTNET), CLIPTextConfig(**TINY_TEXT)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(*parts, projection_dim=12)
    return VisionTextDualEncoderModel(config)


@pytest.fixture(scope="session", params=[tiny_clip, tiny_pair])
def clip_folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    request.param().eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embed(clip_folder) -> ClipEmbedder:
    return ClipEmbedder(clip_folder, "tiny")
