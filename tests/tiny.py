"""Real diffusers and transformers classes at toy size with random weights, as a folder that a user might bring."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PATHS = ("eps", "v", "flow")


def prior_folder(folder: Path, path: str) -> Path:
    """A Stable-Diffusion-shaped folder: 16 px pictures, 8 x 8 x 4 latents; the v one has zero terminal SNR."""
    torch.manual_seed(0)
    if path == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        )
    else:
        kind = {"eps": "epsilon", "v": "v_prediction"}[path]
        scheduler = DDIMScheduler(
            prediction_type=kind, rescale_betas_zero_snr=path == "v", timestep_spacing="trailing", clip_sample=False
        )
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
        )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=4,
        # As the recipe of the mini prior makes it: the text as a whole, too, goes into the time vector.
        addition_embed_type="text" if path == "v" else None,
        addition_embed_type_num_heads=4,
    )
    tokenizer = _tokenizer(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    index = {"_class_name": "StableDiffusionPipeline"}
    parts = {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters only, each with and without the end-of-word mark; no merges."""
    folder.mkdir(parents=True)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)


def pairs_folder(folder: Path, num: int = 12, side_px: int = 16) -> Path:
    """Paired pictures: the outline of a disc (source), the disc in a colour (target), and its caption."""
    for half in ("source", "target"):
        (folder / half).mkdir(parents=True)
    for i in range(num):
        box = (2, 2, side_px - 3 - i % 4, side_px - 3 - i % 3)
        outline = Image.new("RGB", (side_px, side_px), "white")
        ImageDraw.Draw(outline).ellipse(box, outline="black")
        outline.save(folder / "source" / f"disc{i:02d}.png")
        disc = Image.new("RGB", (side_px, side_px), "white")
        ImageDraw.Draw(disc).ellipse(box, fill=(40 + 15 * i, 200 - 12 * i, 90))
        disc.save(folder / "target" / f"disc{i:02d}.png")
        (folder / "target" / f"disc{i:02d}.txt").write_text(f"disc {i}")
    return folder


def ground_folder(folder: Path, path: str) -> Path:
    """What a run stands on: ``prior`` and ``data`` in one folder."""
    prior_folder(folder / "prior", path)
    pairs_folder(folder / "data")
    return folder
