"""Pictures from a trained run, for a prompt, a condition picture, or both."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from limner.config import MethodConfig
from limner.data.pixels import Look, Pixels
from limner.data.prepare import to_uint8
from limner.errors import ConfigError
from limner.methods.base import Method
from limner.priors.adapters import rescale
from limner.run import adapters as run_adapters
from limner.run.data import recipe_of
from limner.run.job import device, open_run
from limner.sampling.images import save_png, to_pil
from limner.types import Dice, Sample


def sample(
    run: Path,
    *,
    prompts: list[str],
    inputs: list[Path],
    num_images: int = 4,
    steps: int = 20,
    guidance_scale: float | None = None,
    guidance: str | None = None,
    solver: str = "dpmpp_2m",
    eta: float = 0.0,
    seed: int = 0,
    out: Path | None = None,
    adapters: Sequence[str] = (),
    scale: float = 1.0,
) -> list[Path]:
    """Draw ``num_images`` pictures for each input with each prompt; returns the files, PNGs that carry their settings.

    Args:
        inputs: condition pictures (a sketch); where the run's condition is computed, any picture to compute it from.
        guidance_scale, guidance: see ``sampling.guidance``; None takes the run's own.
        out: folder; default RUN/pictures.
        adapters: files or runs, each FILE or FILE:SCALE, that are added to the run's weights.
        scale: of the run's own adapter; 0 is without it.

    Raises:
        ConfigError: a prompt or an input that the run needs, or cannot use.
        RunError, DataError: no such run, no such picture.
    """
    run = Path(run)
    config, method, step = _opened(run, inputs, adapters, scale)
    guidance_scale, guidance = guidance_scale or method.guidance_scale, guidance or method.guidance
    made = []
    files: Sequence[Path | None] = inputs or [None]
    for file, prompt in itertools.product(files, prompts or [""]):
        condition = None if file is None else _condition(file, method, config)
        dice = Dice(seed, 0, range(num_images), device())
        pictures = method.generate(
            method.prior.encode_text([prompt]).expand(num_images),
            None if condition is None else condition.to(device()).expand(num_images, -1, -1, -1),
            dice.normal(*method.prior.latent_CHW),
            num_steps=steps,
            guidance_scale=guidance_scale,
            guidance=guidance,
            solver=solver,
            eta=eta,
            step_noise=lambda i, dice=dice: dice.normal(*method.prior.latent_CHW),  # type: ignore[misc]
        )
        settings = {"run": str(run), "step": step, "prompt": prompt, "input": str(file or ""), "seed": seed}
        settings |= {"steps": steps, "guidance_scale": guidance_scale, "guidance": guidance, "solver": solver}
        settings |= {"adapters": ", ".join(adapters), "scale": scale}
        # Other settings, another name: nothing drawn before is overwritten.
        name = hashlib.sha256(repr((settings, eta)).encode()).hexdigest()[:8]
        for i, picture in enumerate(to_pil(to_uint8(pictures))):
            stem = f"{file.stem if file else 'prompt'}-{name}-{i}"
            made.append((out or run / "pictures") / f"{stem}.png")
            save_png(picture, made[-1], {**settings, "eta": eta, "picture": i})
    return made


def _opened(
    run: Path, inputs: Sequence[Path], adapters: Sequence[str], scale: float
) -> tuple[MethodConfig, Method, int]:
    """As ``open_run``, with the run's own adapter scaled and others added; stops where the inputs are not its kind."""
    config, method, step = open_run(run, device())
    if method.condition_px and not inputs:
        raise ConfigError(f"{run} turns pictures into pictures and needs one.", "give --input sketch.png")
    if inputs and not method.condition_px:
        raise ConfigError(f"{run} draws from words and takes no --input.", 'give --prompt "..." alone')
    if scale != 1:
        rescale(method.prior.network, scale)
    run_adapters.merge(method.prior, adapters)
    run_adapters.tell(adapters)
    return config, method, step


def _condition(file: Path, method: Method, config: MethodConfig) -> torch.Tensor:
    assert method.condition_px is not None
    recipe = recipe_of(config, method.prior.image_px, method.condition_px)
    sample = Sample(file.stem, "", file, source=file)
    side = method.prior.image_px
    return Pixels(recipe.upright()).condition(Look(sample, 0, False, side, side))
