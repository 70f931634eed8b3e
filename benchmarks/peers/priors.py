"""Priors that limner and diffusers' example scripts both load: diffusers folders of stock classes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from limner.priors.mini import FOLDER as MINI


def mini(folder: Path, size_px: int) -> None:
    """The built-in prior (64 px), its autoencoder replaced by a random one of the kind that the scripts can load.

    It has 32 channels at every level, as the built-in AutoencoderTiny, and about as many operations.
    """
    _save(
        folder,
        unet=UNet2DConditionModel.from_pretrained(MINI / "unet", torch_dtype=torch.float32),
        vae=_autoencoder((32, 32, 32), layers=1, norm_groups=16),
        text_encoder=CLIPTextModel.from_pretrained(MINI / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(MINI / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(MINI / "scheduler"),
    )


def sd_small(folder: Path, size_px: int) -> None:
    """Stable Diffusion 1.5's shape at two fifths of its width, random: 138 million weights in the UNet.

    Half as many heads, of 32, 64 and 128 numbers (there 40, 80 and 160). The autoencoder's encoder makes 1.26 times the
    operations of the UNet's forward pass (there 1.39).
    """
    unet, vae = (128, 256, 512, 512), (48, 96, 192, 192)
    _stable_diffusion(folder, size_px, unet=unet, heads=4, vae=vae, groups=16, text=(320, 5, 4))


def sd_full(folder: Path, size_px: int) -> None:
    """Stable Diffusion 1.5's own shape, random: 860 million weights in the UNet. For a GPU."""
    widths = (320, 640, 1280, 1280)
    _stable_diffusion(folder, size_px, unet=widths, heads=8, vae=(128, 256, 512, 512), groups=32, text=(768, 12, 12))


def _stable_diffusion(
    folder: Path,
    size_px: int,
    unet: tuple[int, ...],
    heads: int,
    vae: tuple[int, ...],
    groups: int,
    text: tuple[int, int, int],
) -> None:
    """``unet``, ``vae``: widths of the levels; ``heads``: of each attention, which diffusers calls attention_head_dim;
    ``text``: width, layers and heads of the text encoder."""
    width, layers, text_heads = text
    tokenizer = CLIPTokenizer.from_pretrained(MINI / "tokenizer", model_max_length=77)
    _save(
        folder,
        unet=UNet2DConditionModel(
            sample_size=size_px // 8, block_out_channels=unet, cross_attention_dim=width, attention_head_dim=heads
        ),
        vae=_autoencoder(vae, layers=2, norm_groups=groups),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=text_heads,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
    )


def _autoencoder(widths: tuple[int, ...], layers: int, norm_groups: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=layers,
        norm_num_groups=norm_groups,
        latent_channels=4,
    )


def _save(folder: Path, **parts: object) -> None:
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts).save_pretrained(folder)


MAKERS = {"mini": mini, "sd_small": sd_small, "sd_full": sd_full}
