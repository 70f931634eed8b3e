"""README.md beside an export: what it is, how it is used, what it was made of and what was proven of it."""

from __future__ import annotations

from collections.abc import Sequence

from limner import __version__
from limner.export.header import About, Kind

WHAT = {"full": "a fine-tuned model", "control": "a ControlNet", "words": "a textual inversion"}


def card(
    about: About, kind: Kind, component: str, pipeline: str, file: str, proof: str, more: Sequence[str] = ()
) -> str:
    """The card as Markdown, with the front matter that the hub reads.

    Args:
        component: 'unet' or 'transformer'.
        pipeline: the stock class that opens it.
        file: the name of the file with the weights; '' where a folder holds them.
        proof: the sentence that says what was proven.
        more: how the text encoders and words beside it are used: lines of Python after ``pipe``, else sentences.
    """
    what = WHAT.get(kind.name, f"a {kind.name} adapter")
    front = {
        "base_model": about.base,
        "license": about.base_license,
        "library_name": "peft" if kind.target == "peft" else "diffusers",
        "instance_prompt": about.trigger,
    }
    lines = ["---", *(f"{name}: {value}" for name, value in front.items() if value), "tags:", "- limner"]
    lines += [f"- {kind.name}", "---", "", f"# {about.title}", ""]
    lines += [f"This is {what} of {about.base}, made by limner {__version__} with the method {about.method}.", ""]
    if about.trigger:
        lines += [f"Its word is **{about.trigger}**{f' ({about.class_word})' if about.class_word else ''}.", ""]
    lines += ["## Use", "", *_use(about, kind, component, pipeline, file, more), "", "## What it was made of", ""]
    lines += ["| | |", "|---|---|"]
    facts = {
        "data": f"{about.data}, {about.num_images} pictures (sha256 of names and captions {about.data_sha256[:16]})",
        "steps": f"{about.step} of {about.steps}, batch {about.batch_size}, learning rate {about.learning_rate:g}",
        "seed": about.seed,
        "resolution": f"{about.resolution_px} px",
        "energy": f"{about.kwh:.4g} kWh, {about.kg_co2e:.4g} kg CO2e",
    }
    if kind.rank:
        facts["adapter"] = f"{kind.name}, rank {kind.rank}, alpha {kind.alpha:g} in this file"
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Proof", "", proof, "", "## Configuration", "", "```yaml", about.config.rstrip(), "```", ""]
    return "\n".join(lines)


def _use(about: About, kind: Kind, component: str, pipeline: str, file: str, more: Sequence[str]) -> list[str]:
    if kind.target in ("kohya", "comfyui"):
        place = {"full": "checkpoints" if about.family in ("sd", "sdxl") else "diffusion_models"}
        place |= {"control": "controlnet"}
        where = place.get(kind.name, "loras")
        own = [f"Put `{file}` into ComfyUI's `models/{where}`, or where your program looks for such files."]
        return [*(own if kind.name != "words" else []), *more]
    code = ["```python", "import diffusers", ""]
    if kind.name == "full":
        return [*code, f'pipe = diffusers.{pipeline}.from_pretrained("THIS FOLDER")', *more, "```"]
    if kind.name == "control":
        code += ['control = diffusers.ControlNetModel.from_pretrained("THIS FOLDER")']
        return [*code, f'pipe = diffusers.{pipeline}.from_pretrained("{about.base}", controlnet=control)', "```"]
    code.append(f'pipe = diffusers.{pipeline}.from_pretrained("{about.base}")')
    if kind.target == "peft":
        code[1:1] = ["from peft import PeftModel"]
        return [*code, f'pipe.{component} = PeftModel.from_pretrained(pipe.{component}, "THIS FOLDER")', *more, "```"]
    own = ['pipe.load_lora_weights("THIS FOLDER")'] if kind.name != "words" else []
    return [*code, *own, *more, "```"]
