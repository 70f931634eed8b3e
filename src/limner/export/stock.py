"""Stock diffusers and peft on a written file: open it as any user would, and draw with it.

Nothing of limner's priors, methods or samplers is used here: what these functions return is what others will get.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import Tensor

from limner.errors import ExportError, first_line

# Pipelines that also read a condition picture: as more input planes, or through a control.
PLANES = {
    "sd": "StableDiffusionInstructPix2PixPipeline",
    "sdxl": "StableDiffusionXLInstructPix2PixPipeline",
    "flux": "FluxControlPipeline",
}
FP32: dict[str, Any] = {"torch_dtype": torch.float32}  # whatever the files hold
CONTROLS = {"sd": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline"}


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What diffusers and peft complain of inside, instead of showing it."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_warning()
    diffusers_logging.disable_default_handler()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.add_handler(handler)
    try:
        with warnings.catch_warnings(record=True) as python_said:
            warnings.simplefilter("always")
            yield said
        said += [str(one.message) for one in python_said if "missing adapter" in str(one.message)]
    finally:
        diffusers_logging.remove_handler(handler)
        diffusers_logging.enable_default_handler()
        diffusers_logging.enable_progress_bar()
        diffusers_logging.set_verbosity(before)


def open_pipeline(folder: Path, kind: str | None = None, **parts: Any) -> Any:
    """The pipeline in a diffusers folder, in fp32; ``kind`` is its class where it is not the folder's own."""
    pipeline = getattr(diffusers, kind) if kind else diffusers.DiffusionPipeline
    with heard():
        if "safety_checker" in diffusers.DiffusionPipeline.load_config(folder):
            parts["safety_checker"] = None
        opened = pipeline.from_pretrained(folder, local_files_only=True, **FP32, **parts)
    opened.set_progress_bar_config(disable=True)
    return opened


def load_adapter(pipeline: Any, component: str, folder: Path, target: str, file: str | None = None) -> None:
    """Put the adapter in ``folder`` into a stock pipeline, by the loader that users of ``target`` have.

    Raises:
        ExportError: the loader fails, or says that it leaves something out.
    """
    with heard() as said:
        try:
            if target == "peft":
                from peft import PeftModel

                read = PeftModel.from_pretrained(getattr(pipeline, component), folder, adapter_name="default")
                setattr(pipeline, component, read.base_model.model)
            else:
                pipeline.load_lora_weights(folder, weight_name=file, adapter_name="default", local_files_only=True)
        except (ValueError, TypeError, KeyError, RuntimeError, AssertionError, IndexError) as error:
            raise ExportError(
                f"{folder}: {type(pipeline).__name__} cannot read the adapter: {first_line(error)}.", KEPT
            ) from error
    said = [one for one in said if not one.startswith("No LoRA keys associated")]  # to a text encoder; so it is
    if said:
        raise ExportError(f"{folder}: {type(pipeline).__name__} does not take all of it: {said[0]}", KEPT)


def load_single_file(file: Path, family: str, component: str, base: Path, network: Any, pipeline: str | None) -> Any:
    """The stock pipeline with what the one file holds; of the transformer families the rest is the base's.

    A checkpoint file has no configuration: it is the base's, with that of ``network`` in it.

    Raises:
        ExportError: ``from_single_file`` fails.
    """
    index = diffusers.DiffusionPipeline.load_config(base)
    whole = family in ("sd", "sdxl")
    kind = getattr(diffusers, (pipeline or index["_class_name"]) if whole else index[component][1])
    options = {"safety_checker": None} if family == "sd" else {}
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder)
        shutil.copytree(base, bare, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"), dirs_exist_ok=True)
        network.save_config(bare / component)
        try:
            with heard():
                if whole:
                    opened = kind.from_single_file(file, config=str(bare), local_files_only=True, **FP32, **options)
                    opened.set_progress_bar_config(disable=True)
                    return opened
                read = kind.from_single_file(file, config=str(bare / component), local_files_only=True, **FP32)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, AssertionError, IndexError) as error:
            raise ExportError(f"{file}: from_single_file cannot read it: {first_line(error)}.", KEPT) from error
    return open_pipeline(base, pipeline, **{component: read})


def open_control(folder: Path, file: Path | None, control: Any, base: Path, pipeline: str | None) -> Any:
    """The base's pipeline with the ControlNet in ``folder`` (or in the one ``file``) beside it, as ``controlnet``."""
    kind = type(control)
    if file is None:
        with heard():
            read = kind.from_pretrained(folder, local_files_only=True, **FP32)
    else:  # a file has no configuration; its readers know the sizes of their family
        read = kind.from_config(control.config)
        read.load_state_dict(load_file(file))
    if pipeline:
        return open_pipeline(base, pipeline, controlnet=read)
    opened = open_pipeline(base)
    opened.controlnet = read
    return opened


KEPT = "the files are kept for a look; please report it, with the family and the kind of adapter"


@torch.no_grad()
def draw(
    pipeline: Any,
    family: str,
    prompt: str,
    noise_1CHW: Tensor,
    side_px: int,
    num_steps: int,
    condition_1CHW: Tensor | None = None,
    **more: Any,
) -> Tensor:
    """One picture in [0, 1], (3, side_px, side_px), without classifier-free guidance, by a deterministic solver.

    Args:
        noise_1CHW: the first latent.
        condition_1CHW: the condition picture in [-1, 1], where the pipeline reads one.
        more: further arguments of the pipeline.
    """
    if family in ("sd", "sdxl"):
        # The solver of DDIM without noise, at times that start from pure noise: the others are no less stock.
        scheduler = diffusers.DDIMScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
        )
        scheduler.register_to_config(steps_offset=1, thresholding=False)
        pipeline.scheduler = scheduler
    options: dict[str, Any] = {"guidance_scale": 1.0}
    if type(pipeline).__name__ != PLANES["sd"]:  # which takes them from the condition picture
        options |= {"height": side_px, "width": side_px}
    latents = noise_1CHW
    if family in ("flux", "qwen_image"):
        latents = _packed(noise_1CHW)
    if family == "z_image":
        options["guidance_scale"] = 0.0
    if family == "qwen_image":
        options["true_cfg_scale"] = options.pop("guidance_scale")
    options |= more
    if condition_1CHW is not None:
        options |= _condition(pipeline, family, condition_1CHW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pipeline(
            prompt=prompt, latents=latents.clone(), num_inference_steps=num_steps, output_type="pt", **options
        )
    return made.images[0].float().cpu()


def _condition(pipeline: Any, family: str, condition_1CHW: Tensor) -> dict[str, Any]:
    """The condition picture as the pipeline's own argument."""
    name = type(pipeline).__name__
    if name == PLANES["flux"]:  # as latents, of which the pipeline would draw one at random
        vae = pipeline.vae
        mean = vae.encode(condition_1CHW).latent_dist.mode()
        return {"control_image": _packed((mean - vae.config.shift_factor) * vae.config.scaling_factor)}
    image = condition_1CHW / 2 + 0.5
    return {"image": image, "image_guidance_scale": 1.0} if name in PLANES.values() else {"image": image}


def can_draw(family: str, prediction: str) -> bool:
    """Whether the family's stock pipelines can sample along the path: those of Stable Diffusion know no flow."""
    return family not in ("sd", "sdxl") or prediction != "flow"


def _packed(latent_1CHW: Tensor) -> Tensor:
    """Two by two cells as one token, channel by channel, as the pipelines of FLUX.1 and Qwen-Image pack them."""
    return torch.nn.functional.pixel_unshuffle(latent_1CHW, 2).flatten(2).transpose(1, 2)
