"""The proof of an export: what stock diffusers reads from the written files is what was trained, and draws the same.

Where a stock pipeline draws as the run does, it draws; where none does (a condition encoder of limner's own, more input
planes in a family whose pipelines know none), the stock network class, with the weights read from the files, draws in
limner's sampler. The sentence that comes out says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.export import stock, stock_text, verify
from limner.export import words as new_words
from limner.export.header import About
from limner.export.result import Result
from limner.export.write import single_file
from limner.methods.base import Method
from limner.priors.base import Prior
from limner.priors.new_words import Words
from limner.types import Cond

NUM_STEPS = 8  # a divisor of 1000, so that the times are whole numbers in every scheduler


@dataclass(frozen=True)
class Example:
    """One picture of the run: its caption, as text and as the network is told it, its condition picture in [-1, 1],
    its first latent, and itself in [0, 1]."""

    caption: str
    told: Cond
    condition_1CHW: Tensor | None
    noise_1CHW: Tensor
    picture_CHW: Tensor


def example(method: Method, caption: str, condition_1CHW: Tensor | None, noise_1CHW: Tensor) -> Example:
    """What limner draws: in fp32, without guidance, by DDIM or Euler without noise."""
    with torch.no_grad():
        told = method.prior.encode_text([caption])
    return Example(caption, told, condition_1CHW, noise_1CHW, _draw(method, caption, condition_1CHW, noise_1CHW))


def prove(out: Path, target: str, result: Result, method: Method, seen: Example, about: About, dtype: str) -> str:
    """Open the files in ``out`` with stock diffusers, compare, draw; the sentence that says what was seen.

    Raises:
        ExportError: something was skipped, came changed, or is drawn otherwise.
    """
    prior, device = result.prior, seen.noise_1CHW.device
    prior.network.cpu()
    prior.parts.release()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        pipeline = _opened(out, target, result, about)
        num, alike = _compared(pipeline, out, target, result, dtype), ""
        pipeline.to(device)
        if result.learnt_text and _takes_words(result):
            verify.check_text(
                seen.told, stock_text.encode(pipeline, prior.family, seen.caption, prior.num_tokens), dtype
            )
            alike = ", understood its caption alike"
        why = _no_pipeline(result, about)
        if why:
            _put_into(method, pipeline, result, out, target)
            theirs = _draw(method, seen.caption, seen.condition_1CHW, seen.noise_1CHW)
        else:
            theirs = stock.draw(
                pipeline,
                prior.family,
                seen.caption,
                seen.noise_1CHW,
                prior.image_px,
                NUM_STEPS,
                seen.condition_1CHW,
                **_told(prior),
            )
    most, mean = verify.check_pixels(seen.picture_CHW, theirs, dtype)
    who = f"diffusers {diffusers.__version__}"
    if why:
        kind = type(getattr(pipeline, prior.component)).__name__
        reader = "its parts" if result.learnt_text else f"its {kind}"
        if not _takes_words(result):
            reader = "limner" if result.what == "words" else f"{reader} and limner"
        read = f"No pipeline of {who} draws as this run does ({why}): {reader} read all {num} from the file"
        read += f"{alike}, and in limner's own sampler drew"
    else:
        read = f"{type(pipeline).__name__} of {who} read all {num}{alike} and drew"
    allowed_most, allowed_mean = verify.ALLOWED[dtype]
    return (
        f"{read} the run's first sample again from the same noise: pixels differ by at most {most:.1g} of 1 "
        f"({allowed_most:.2g} allowed), by {mean:.1g} on average ({allowed_mean:.2g} allowed)."
    )


def _draw(method: Method, caption: str, condition_1CHW: Tensor | None, noise_1CHW: Tensor) -> Tensor:
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        text = method.prior.encode_text([caption])
        made = method.generate(text, condition_1CHW, noise_1CHW, num_steps=NUM_STEPS, guidance_scale=1.0, solver="ddim")
    return (made[0].float().cpu() + 1) / 2


def _opened(out: Path, target: str, result: Result, about: About) -> Any:
    """The stock pipeline with what the files hold."""
    family = result.prior.family
    pipeline = _opened_network(out, target, result, about)
    if result.words and _takes_words(result):
        names = new_words.files(result.names, target)
        stock_text.load_words(pipeline, {word: out / name for word, name in names.items()}, new_words.KEYS[family])
    return pipeline


def _opened_network(out: Path, target: str, result: Result, about: About) -> Any:
    prior = result.prior
    if result.what == "words":
        return stock.open_pipeline(prior.source)
    if result.what == "adapter":
        pipeline = stock.open_pipeline(prior.source)
        file = single_file(out, about).name if target in ("kohya", "comfyui") else None
        stock.load_adapter(pipeline, prior.component, out, target, file)
        for name in result.text if target == "peft" else ():
            stock.load_adapter(pipeline, name, out / name, target)
        return pipeline
    if result.what == "control":
        control = None if target == "diffusers" else single_file(out, about)
        return stock.open_control(out, control, prior.control, prior.source, result.pipeline)
    if target == "diffusers":
        return stock.open_pipeline(out)
    whole, network = single_file(out, about), prior.network
    return stock.load_single_file(whole, prior.family, prior.component, prior.source, network, result.pipeline)


def _takes_words(result: Result) -> bool:
    """Whether the family's stock pipelines take new words, if there are any."""
    return not result.words or result.prior.family in new_words.READ["diffusers"]


def _compared(pipeline: Any, out: Path, target: str, result: Result, dtype: str) -> str:
    """How many layers, weights and vectors were compared, in words."""
    num = [_compared_network(pipeline, result, dtype)] if result.what != "words" else []
    for name, adapter in result.text.items():
        verify.check_adapter(adapter, getattr(pipeline, name), dtype)
        num.append(f"{len(adapter.layers)} layers of {name}")
    for name, encoder in result.encoders.items():
        verify.check_weights(encoder.state_dict(), getattr(pipeline, name), dtype)
        num.append(f"{len(encoder.state_dict())} weights of {name}")
    if result.words:
        if _takes_words(result):
            theirs = {name: stock_text.vectors_of(pipeline, name, words) for name, words in result.words.items()}
        else:
            theirs = new_words.read(out, target, result.prior.family, result.names)
        verify.check_words(result.words, theirs, dtype)
        num += [f"{len(vectors)} vectors of {word}" for word, vectors in next(iter(result.words.values())).items()]
    return " and ".join(filter(None, [", ".join(num[:-1]), num[-1]]))


def _compared_network(pipeline: Any, result: Result, dtype: str) -> str:
    network = getattr(pipeline, result.prior.component)
    if result.adapter is not None:
        verify.check_adapter(result.adapter, network, dtype)
        return f"{len(result.adapter.layers)} layers"
    ours: Any = result.prior.network
    if result.what == "control":
        ours, network = result.prior.control, pipeline.controlnet
    verify.check_weights(ours.state_dict(), network, dtype)
    return f"{len(ours.state_dict())} weights"


def _no_pipeline(result: Result, about: About) -> str:
    """Why no stock pipeline draws as the run does; '' where one does."""
    if result.beside:
        return "its " + " and ".join(result.beside) + " is limner's own"
    if not _takes_words(result):
        return "its pipelines of this family take no new words"
    if not stock.can_draw(about.family, about.prediction):
        return "its pipelines of Stable Diffusion know no flow"
    if result.what == "control":
        return "" if result.pipeline else "where they have a control, its latent is drawn at random"
    return "its pipelines of this family read no more planes" if result.widened and not result.pipeline else ""


def _told(prior: Prior) -> dict[str, Any]:
    """What FLUX's pipelines are told as numbers: the guidance that [dev] has learnt, and how many tokens are read."""
    if prior.family != "flux":
        return {}
    return {"guidance_scale": prior.distilled_guidance, "max_sequence_length": prior.num_tokens}  # type: ignore[attr-defined]


def _put_into(method: Method, pipeline: Any, result: Result, out: Path, target: str) -> None:
    """What was read from the files, in the method that drew the picture before."""
    prior = method.prior
    if result.what == "control":
        prior.control = pipeline.controlnet
    else:
        prior.network = getattr(pipeline, prior.component)
    if result.words:
        read = new_words.read(out, target, prior.family, result.names)
        for name, part in method.learns()["words"].named_children():
            if isinstance(part, Words):
                part.new_KD.data.copy_(torch.cat(list(read[name].values())))
    for name, module in result.beside.items():
        module.load_state_dict(load_file(out / f"{name}.safetensors"))
