"""The golden numbers of GLIDE and PITI: what the official code says on seeded weights and inputs.

Computed once from checkouts of openai/glide-text2im (commit 69b5307) and PITI-Synthesis/PITI (commit d9f7481), which
are needed for nothing else:

    python tests/priors/glide_golden.py GLIDE_CHECKOUT PITI_CHECKOUT

writes ``glide_golden.safetensors`` and ``glide_golden.json`` beside this file. Weights and inputs are defined here, and
the tests make the same ones for our own network: each tensor from its name, by a generator that numpy keeps stable.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

NUMBERS = Path(__file__).with_suffix(".safetensors")
FACTS = Path(__file__).with_suffix(".json")

# A small GLIDE, in the names of the official code: 16 px, 32 and 64 channels, attention at 8 px.
TINY = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "8",
    "num_head_channels": 32, "text_ctx": 8, "xf_width": 64, "xf_layers": 2, "xf_heads": 2, "use_fp16": False,
}  # fmt: skip
CAPTIONS = [
    "",
    "an oil painting of a corgi",
    "A Red CUBE on 12 blue spheres; it's the cat's, they'll say: 3.14%!",
    "  two  spaces\tand a\nnew line ",
    "café über naïve ÀÉÎ 北京 🙂 straße",
    "antidisestablishmentarianism " * 40,
]
TIMES = (0, 1, 17, 500, 998, 999)


def drawn(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that belong to a name, float32."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def seeded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights for these names and shapes: none zero, and of a size that keeps activations near one."""
    state = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            gain = 1.0 if "embedding" in name or "token" in name else 1 / math.sqrt(math.prod(shape[1:]))
            state[name] = drawn(name, *shape) * gain
        else:
            state[name] = drawn(name, *shape) * 0.1 + name.endswith("weight")
    return state


def weigh(module: nn.Module) -> nn.Module:
    module.load_state_dict(seeded({name: tuple(w.shape) for name, w in module.state_dict().items()}))
    return module.eval()


def inputs() -> dict[str, Tensor]:
    """x (16 px), its times, a low-resolution picture, token numbers with their mask, and a condition of 256 px."""
    return {
        "x": drawn("x", 2, 3, 16, 16),
        "t": torch.tensor([3.0, 876.5]),
        "low_res": drawn("low_res", 2, 3, 4, 4).tanh(),
        "ids": torch.tensor([[464, 3797, 318, 50256, 50256, 50256, 50256, 50256], [11, 22, 33, 44, 55, 66, 77, 88]]),
        "mask": torch.tensor([[True] * 3 + [False] * 5, [True] * 8]),
        "condition": drawn("condition", 2, 3, 256, 256).tanh(),
    }


def shapes_digest(state: Mapping[str, Tensor]) -> dict[str, Any]:
    lines = sorted(f"{name} {tuple(weight.shape)}" for name, weight in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"keys": len(lines), "weights": sum(w.numel() for w in state.values()), "sha256": digest}


def main() -> None:
    glide, piti = sys.argv[1:]
    sys.path[:0] = [glide, piti]
    timm = types.ModuleType("timm.models.vision_transformer")
    timm.PatchEmbed = None  # imported by PITI, and not used
    sys.modules.update({"timm": timm, "timm.models": timm, "timm.models.vision_transformer": timm})
    torch.set_grad_enabled(False)
    numbers, facts = {}, {}
    for official in (of_glide, of_piti, of_diffusion, of_sampling):
        new_numbers, new_facts = official()
        numbers |= new_numbers
        facts |= new_facts
    save_file({name: value.contiguous() for name, value in numbers.items()}, NUMBERS)
    lines = (f"{json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts.items())
    FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(numbers)} tensors, {NUMBERS.stat().st_size} bytes; {len(facts)} facts")


def of_glide() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Text transformer, base and upsampler at tiny size; shapes at full size; the tokenizer."""
    from glide_text2im import model_creation
    from glide_text2im.tokenizer.bpe import get_encoder

    given, numbers, facts = inputs(), {}, {}
    text = {"tokens": given["ids"], "mask": given["mask"]}
    for name, defaults in (
        ("base", model_creation.model_and_diffusion_defaults()),
        ("upsampler", model_creation.model_and_diffusion_defaults_upsampler()),
    ):
        model = weigh(model_creation.create_model_and_diffusion(**{**defaults, **TINY})[0])
        low_res = {"low_res": given["low_res"]} if name == "upsampler" else {}
        numbers[name] = model(given["x"], given["t"], **low_res, **text)
        if name == "base":
            said = model.get_text_emb(**text)
            numbers |= {"text.tokens": said["xf_out"].mT, "text.time": said["xf_proj"]}
        facts[f"{name}.tiny"] = shapes_digest(model.state_dict())
        with torch.device("meta"):
            model = model_creation.create_model_and_diffusion(**defaults)[0]
        facts[name] = shapes_digest(model.state_dict())
    encoder = get_encoder()
    facts["ids"] = [encoder.encode(caption) for caption in CAPTIONS]
    facts["padded"] = encoder.padded_tokens_and_mask(encoder.encode(CAPTIONS[1]), 12)
    return numbers, facts


def of_piti() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PITI's base and upsampler on its encoder (whose width of 512 is fixed), told by a condition picture."""
    from pretrained_diffusion.script_util import create_model_and_diffusion, model_and_diffusion_defaults

    given, numbers, facts = inputs(), {}, {}
    for name, super_res in (("piti_base", 0), ("piti_upsampler", 1)):
        for mode in ("coco", "coco-edge", "depth-normal"):
            with torch.device("meta"):
                options = {**model_and_diffusion_defaults(super_res), "mode": mode}
                model = create_model_and_diffusion(**options)[0]
            facts[f"{name}.{mode}"] = shapes_digest(model.state_dict())
        options = {**model_and_diffusion_defaults(super_res), **TINY, "xf_width": 512, "xf_heads": 8, "mode": "coco"}
        model = weigh(create_model_and_diffusion(**options)[0])
        low_res = {"low_res": given["low_res"]} if super_res else {}
        numbers[name] = model(given["x"], given["t"], ref=given["condition"], **low_res)
        said = model.encoder(given["condition"])
        numbers[f"{name}.tokens"] = said["xf_out"].mT[:, ::16, ::16]
        numbers[f"{name}.pooled"] = said["xf_proj"]
    return numbers, facts


def of_diffusion() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Schedules, the learned variance and the two terms of the loss, at the times above, on numbers for an output."""
    from pretrained_diffusion.script_util import create_gaussian_diffusion

    numbers, num = {}, len(TIMES)
    x_0, noise, said = drawn("x_0", num, 3, 8, 8).tanh(), drawn("noise", num, 3, 8, 8), drawn("said", num, 6, 8, 8)
    for schedule in ("squaredcos_cap_v2", "linear"):
        diffusion = create_gaussian_diffusion(
            learn_sigma=True, noise_schedule=schedule, rescale_timesteps=True, rescale_learned_sigmas=True
        )
        t = torch.tensor(TIMES)
        x_t = diffusion.q_sample(x_0, t, noise)
        out = torch.cat([noise + 0.1 * said[:, :3], said[:, 3:].tanh()], dim=1)
        terms = diffusion.training_losses(lambda x, t, out=out: out, x_0, t, None, None, noise=noise)
        predicted = diffusion.p_mean_variance(lambda x, t, out=out: out, x_t, t, clip_denoised=True)
        numbers |= {
            f"{schedule}.alphas_cumprod": torch.from_numpy(diffusion.alphas_cumprod),
            f"{schedule}.x_t": x_t,
            f"{schedule}.log_variance": predicted["log_variance"],
            f"{schedule}.x_0": predicted["pred_xstart"],
            f"{schedule}.mse": terms["mse"],
            f"{schedule}.vb": terms["vb"],
        }
    return numbers, {}


def of_sampling() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The upsampler's own 27 steps, from noise to picture, on the tiny upsampler."""
    from glide_text2im import model_creation

    given = inputs()
    options = {**model_creation.model_and_diffusion_defaults_upsampler(), **TINY, "timestep_respacing": "fast27"}
    model, diffusion = model_creation.create_model_and_diffusion(**options)
    weigh(model)
    told = {"low_res": given["low_res"], "tokens": given["ids"], "mask": given["mask"]}
    made = diffusion.ddim_sample_loop(
        model, (2, 3, 16, 16), noise=drawn("x_T", 2, 3, 16, 16) * 0.997, clip_denoised=True, model_kwargs=told
    )
    return {"fast27": made}, {"fast27": diffusion.timestep_map}


if __name__ == "__main__":
    main()
