"""Folders of the open families at toy size: the layout, classes and configuration keys of the real repositories.

Weights are random and seeded, tokenizers are made here: nothing is downloaded. Each folder is what
``DiffusionPipeline.from_pretrained`` opens, and the stock pipeline samples pictures of ``PICTURE_PX`` from it.
The autoencoders halve a picture's sides where the real ones divide them by eight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer, Qwen2Tokenizer, Qwen3Config, T5Config, T5Tokenizer

FAMILIES = ("sdxl", "sd3", "flux", "flux_schnell", "flux2_klein", "z_image", "qwen_image")
PICTURE_PX = 16

_QWEN_TEMPLATE_WORDS = (
    " the image by detailing color shape size texture quantity text spatial relationships of objects and background"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def family_folder(folder: Path, family: str) -> Path:
    """Write one of ``FAMILIES`` to ``folder``: under 5 MB, the same bytes every time."""
    makers = {
        "sdxl": _sdxl,
        "sd3": _sd3,
        "flux": _flux,
        "flux_schnell": lambda folder: _flux(folder, guidance_embeds=False),
        "flux2_klein": _flux2_klein,
        "z_image": _z_image,
        "qwen_image": _qwen_image,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        makers[family](Path(folder))
    return Path(folder)


def _sdxl(folder: Path) -> None:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=32 + 64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 40,
        norm_num_groups=4,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type="epsilon",
    )
    tokenizer, tokenizer_2 = _clip_tokenizers()
    _save(
        folder,
        "StableDiffusionXLPipeline",
        {
            "vae": _autoencoder(4, scaling_factor=0.13025, force_upcast=True, sample_size=PICTURE_PX),
            "text_encoder": transformers.CLIPTextModel(_clip(tokenizer, width=32, projection=32, act="quick_gelu")),
            "text_encoder_2": transformers.CLIPTextModelWithProjection(_clip(tokenizer, width=64, projection=40)),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "unet": unet,
            "scheduler": scheduler,
        },
        {"feature_extractor": [None, None], "image_encoder": [None, None], "force_zeros_for_empty_prompt": True},
    )


def _sd3(folder: Path) -> None:
    """As Stable Diffusion 3.5 medium: normalised queries and keys, dual attention in the first block."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    tokenizer, tokenizer_2 = _clip_tokenizers()
    tokenizer_3 = _t5_tokenizer(512)
    _save(
        folder,
        "StableDiffusion3Pipeline",
        {
            "vae": _flow_autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": transformers.CLIPTextModelWithProjection(
                _clip(tokenizer, width=16, projection=16, act="quick_gelu")
            ),
            "text_encoder_2": transformers.CLIPTextModelWithProjection(_clip(tokenizer, width=24, projection=24)),
            "text_encoder_3": transformers.T5EncoderModel(_t5(tokenizer_3, width=64)),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "tokenizer_3": tokenizer_3,
            "transformer": transformer,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        },
        {"feature_extractor": [None, None], "image_encoder": [None, None]},
    )


def _flux(folder: Path, guidance_embeds: bool = True) -> None:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    tokenizer, _ = _clip_tokenizers()
    tokenizer_2 = _t5_tokenizer(512 if guidance_embeds else 256)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds, base_shift=0.5, max_shift=1.15
    )
    _save(
        folder,
        "FluxPipeline",
        {
            "vae": _flow_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": transformers.CLIPTextModel(_clip(tokenizer, width=32, projection=32, act="quick_gelu")),
            "text_encoder_2": transformers.T5EncoderModel(_t5(tokenizer_2, width=32)),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "transformer": transformer,
            "scheduler": scheduler,
        },
        {"feature_extractor": [None, None], "image_encoder": [None, None]},
    )


def _flux2_klein(folder: Path) -> None:
    """Qwen3 has 28 layers here (36 in truth), because the pipeline reads the hidden states 9, 18 and 27."""
    tokenizer = _qwen_tokenizer()
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=3 * 16,
        timestep_guidance_channels=32,
        mlp_ratio=3.0,
        axes_dims_rope=(2, 2, 2, 2),
        rope_theta=2000,
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=PICTURE_PX,
    )
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    _save(
        folder,
        "Flux2KleinPipeline",
        {
            "vae": vae,
            "text_encoder": transformers.Qwen3ForCausalLM(_qwen3(tokenizer, num_layers=28, tie_word_embeddings=True)),
            "tokenizer": tokenizer,
            "transformer": transformer,
            "scheduler": FlowMatchEulerDiscreteScheduler(
                shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
            ),
        },
        {"is_distilled": False},
    )


def _z_image(folder: Path) -> None:
    tokenizer = _qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    with torch.no_grad():  # zeros would hide whether they are used
        transformer.x_pad_token.normal_(std=0.02)
        transformer.cap_pad_token.normal_(std=0.02)
    _save(
        folder,
        "ZImagePipeline",
        {
            "vae": _flow_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": transformers.Qwen3Model(_qwen3(tokenizer, num_layers=2)),
            "tokenizer": tokenizer,
            "transformer": transformer,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        },
    )


def _qwen_image(folder: Path) -> None:
    tokenizer = _qwen_tokenizer()
    tokens = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    text_encoder = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={
                **_qwen_sizes(tokenizer, num_layers=2),
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
            image_token_id=tokens["image_pad"],
            video_token_id=tokens["video_pad"],
            vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        )
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=16, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False]
    )
    parts = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "scheduler": scheduler,
    }
    _save(folder, "QwenImagePipeline", parts)


def _save(folder: Path, pipeline: str, parts: dict[str, Any], more: dict[str, Any] | None = None) -> None:
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **(more or {})}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            _sharpen(part, gain=2.0 if name == "transformer" else 1.0)
        part.save_pretrained(folder / name)
        library = "transformers" if name.startswith(("text_encoder", "tokenizer")) else "diffusers"
        index[name] = [library, _class_name(part, pipeline)]
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(index.items())), indent=2))


def _sharpen(module: nn.Module, gain: float) -> None:
    """Biases and norms away from 0 and 1, and matrices times ``gain``.

    A fresh network hardly hears its text, and a test of equality must not pass where the text or a bias is forgotten.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(gain)


def _class_name(part: Any, pipeline: str) -> str:
    """As the real indices have it: the fast tokenizers by their name before transformers 5, which it still knows."""
    if isinstance(part, T5Tokenizer) or (isinstance(part, Qwen2Tokenizer) and pipeline == "Flux2KleinPipeline"):
        return type(part).__name__ + "Fast"
    return type(part).__name__


def _autoencoder(latent_channels: int, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        **config,
    )


def _flow_autoencoder(scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    return _autoencoder(
        16,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
        sample_size=PICTURE_PX,
    )


def _clip(tokenizer: CLIPTokenizer, width: int, projection: int, act: str = "gelu") -> CLIPTextConfig:
    # The real configurations, too, say that the end token is 2: a sign to pool where the highest id stands.
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def _t5(tokenizer: T5Tokenizer, width: int) -> T5Config:
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
    )


def _qwen_sizes(tokenizer: Qwen2Tokenizer, num_layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }


def _qwen3(tokenizer: Qwen2Tokenizer, num_layers: int, **more: Any) -> Qwen3Config:
    return Qwen3Config(**_qwen_sizes(tokenizer, num_layers), head_dim=8, **more)


def _clip_tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Letters and punctuation, each with and without the end-of-word mark. The second one pads with "!", id 0."""
    characters = [*"!\"',-.0123456789:;?", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    first, second = (
        CLIPTokenizer(vocab=ids, merges=[], pad_token=pad_token, model_max_length=77)
        for pad_token in ("<|endoftext|>", "!")
    )
    return first, second


def _t5_tokenizer(max_length: int) -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!\"',-.:;?"
    pieces += [(character, -4.0) for character in characters] + [(f"▁{character}", -3.0) for character in characters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=max_length)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and merges for the words of Qwen-Image's template: 34 tokens before the prompt, as in truth.

    A word is merged from left to right, and all merges begin with its first letter: no word gets in another's way.
    """
    merges: list[tuple[str, str]] = []
    words = [f"Ġ{word}" for word in _QWEN_TEMPLATE_WORDS.split()] + ["Describe", "system", "user", "assistant"]
    for word in words:
        for end in range(1, len(word)):
            if (word[:end], word[end]) not in merges:
                merges.append((word[:end], word[end]))
    tokens = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in merges)]
    names = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    special = [f"<|{name}|>" for name in names]
    ids = {token: i for i, token in enumerate([*dict.fromkeys(tokens), *special, "<think>", "</think>"])}
    tokenizer = Qwen2Tokenizer(
        vocab=ids,
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        model_max_length=131072,
        padding_side="right",
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
