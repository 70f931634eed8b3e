"""The fields of a run, typed and closed: flags, YAML keys and documentation all come from these. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


def _varies(given: dict[str, Any]) -> int:
    """Four views of each picture where something is drawn at random for them, else one."""
    drawn = ("rotate_degrees", "jitter", "shuffle_tags", "tag_dropout")
    return 4 if given.get("crop") == "random" or any(given.get(name) for name in drawn) else 1


class Closed(BaseModel):
    """No field but those that are written here, and none of them changed after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Closed):
    """How files become pictures and captions. Fields named _px are in pixels."""

    data: str = Field(
        "fluent", description="a data set's name, a folder, a zip, shards, a table, or hub:OWNER/NAME (docs/data.md)"
    )
    stream: bool = Field(False, description="read the data in the order it comes; for what is too large to number")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the training pictures to use")

    aspect: Literal["square", "buckets"] = Field(
        "square", description="cut every picture square, or sort pictures by shape and cut little"
    )
    resolutions_px: tuple[int, ...] = Field(
        (), description="sides of the training pictures, such as 512,768; default: the prior's own"
    )
    crop: Literal["centre", "random", "subject"] = Field("centre", description="which part of a picture is kept")
    flip: bool = Field(True, description="also train on mirrored pictures; not where a caption says left or right")
    rotate_degrees: float = Field(0.0, ge=0, le=45, description="turn pictures at random by up to so much")
    jitter: float = Field(
        0.0, ge=0, le=0.5, description="change brightness, contrast, saturation, hue by up to so much"
    )
    resample: Literal["lanczos", "area"] = Field("lanczos", description="how pictures are made smaller or larger")
    linear_light: bool = Field(False, description="resize in linear light rather than in sRGB's gamma")
    background: str = Field("white", description="what transparent pictures lie on: a colour's name or #rrggbb")
    grey: bool = Field(False, description="train on grey pictures")
    masked_loss: Literal["off", "mask", "alpha"] = Field(
        "off", description="learn where the data's masks, or the pictures' own opacity, say"
    )
    unmasked_weight: float = Field(0.1, ge=0, le=1, description="how much the rest of a masked picture counts")

    caption_from: Literal["data", "name", "template"] = Field("data", description="where captions come from")
    caption_template: str = Field(
        "a photo of {trigger} {class_word}", description="for caption_from=template; also {caption}, {name}, any column"
    )
    trigger: str = Field("", description="the word that stands for what is learnt")
    class_word: str = Field("", description="what kind of thing it is, such as dog")
    shuffle_tags: bool = Field(False, description="captions are tags between commas: put them in another order")
    keep_tags: int = Field(1, ge=0, description="the first tags stay where they are")
    tag_dropout: float = Field(0.0, ge=0, lt=1, description="share of the tags left out")
    views: int = Field(
        default_factory=_varies,
        ge=1,
        le=64,
        description="different cuts, turns, colours and tag orders of each picture; each is encoded once; default 4 "
        "where one of them is random, else 1",
    )

    @field_validator("resolutions_px", mode="before")
    @classmethod
    def _numbers(cls, given: Any) -> Any:
        return given.replace(" ", "").split(",") if isinstance(given, str) else given


class AdapterConfig(Closed):
    """What of a prior's network learns."""

    adapter: Literal["full", "lora", "dora", "lokr", "loha", "oft"] = Field(
        "full", description="what of the network learns: all, or a small addition of this kind"
    )
    adapter_targets: tuple[str, ...] = Field(
        (), description="names, or ends of names, of the layers that get an adapter, such as to_q,to_v; default: the "
        "family's own"
    )  # fmt: skip
    rank: int = Field(16, ge=1, description="of the adapter; of oft the side of its blocks (docs/adapters.md)")
    alpha: float | None = Field(
        None,
        gt=0,
        validate_default=True,
        description="the adapter's output is multiplied by alpha / rank; default: the rank, so by 1; oft has none",
    )
    start_from: Path | None = Field(
        None, description="an adapter's file or a run to go on from; its rank, alpha and layers are kept"
    )
    adapters: tuple[str, ...] = Field(
        (), description="adapter files or runs to merge into the prior before it learns, each FILE or FILE:SCALE"
    )

    @field_validator("adapter_targets", "adapters", mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        return [word.strip() for word in given.split(",") if word.strip()] if isinstance(given, str) else given

    @field_validator("alpha")
    @classmethod
    def _alpha_is_said(cls, given: float | None, info: ValidationInfo) -> float | None:
        kind, rank = info.data.get("adapter"), info.data.get("rank")
        if kind == "oft" and given is not None:
            raise ValueError("oft turns the weights and has no alpha: leave it out")
        return float(rank) if given is None and rank and kind not in ("full", "oft") else given


class PriorConfig(AdapterConfig):
    """Which prior, and how its weights are held and computed with."""

    base_frozen: ClassVar[bool] = False  # whether the network is left as it is, and something beside it learns

    prior: str = Field(
        "mini",
        description="the pretrained model: a name from 'limner list', a folder, a file, or OWNER/NAME on the hub",
    )
    prior_config: str | None = Field(
        None,
        description="for a prior in a single file: a diffusers folder, or OWNER/NAME on the hub, of the same family, "
        "which says the configuration and holds what the file lacks; default: the family's first model on the hub",
    )
    image_px: int | None = Field(
        None, ge=1, description="side of the square pictures that are drawn and trained on; default: the prior's own"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the forward pass; what learns stays fp32")
    base_precision: Literal["fp32", "bf16", "int8", "nf4"] = Field(
        "fp32", description="how the network's frozen weights are held beside what learns; int8 and nf4 are quantised"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    offload: bool = Field(
        False, description="keep the network in main memory, and bring each block to the accelerator in its turn"
    )
    device_map: Literal["off", "auto"] = Field("off", description="auto: spread the network over several accelerators")

    @model_validator(mode="after")
    def _check_held(self) -> Self:
        if self.base_precision != "fp32" and self.adapter == "full" and not self.base_frozen:
            raise ValueError(f"base_precision {self.base_precision} needs an adapter: weights that learn stay fp32")
        if self.adapter == "full" and (self.start_from or self.adapter_targets):
            raise ValueError("start_from and adapter_targets are for an adapter, and adapter is 'full'")
        if self.start_from and self.adapter_targets:
            raise ValueError("start_from brings its own layers, and adapter_targets names others")
        if self.base_precision == "bf16" and self.precision != "bf16":
            raise ValueError("base_precision bf16 needs precision bf16: nothing computes in fp32 with such weights")
        if self.offload and self.device_map != "off":
            raise ValueError("offload and device_map exclude each other")
        if self.base_precision in ("int8", "nf4") and (self.offload or self.device_map != "off"):
            raise ValueError("a quantised base stays on one accelerator: leave offload and device_map away")
        return self


class MethodConfig(DataConfig, PriorConfig):
    """What every method's run is made of. Lengths are in optimiser steps, sizes in pictures."""

    method: str = Field(description="the method: a name from 'limner list', module.Class, or a .py file")
    out: Path | None = Field(None, description="run folder; default runs/METHOD-DATA")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of the data's order, the noise, and new weights")

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="pictures a process sees at once")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed for one optimiser step")
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, after warm-up")
    warmup_steps: int = Field(
        default_factory=lambda given: min(50, given.get("steps", 0) // 10),
        ge=0,
        description="steps over which the learning rate rises from zero; default a tenth of the steps, at most 50",
    )
    decay: Literal["constant", "cosine"] = Field("cosine", description="what the learning rate does after warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights; 0 keeps the live ones")
    from_scratch: bool = Field(False, description="start from random weights instead of the prior's (for comparison)")

    caption_dropout: float = Field(0.1, ge=0, le=1, description="share of captions replaced by the empty one")

    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept, beside the best")
    sample_every: int = Field(200, ge=1, description="steps between sample grids")
    evaluate_every: int = Field(200, ge=1, description="steps between scores on validation pictures")
    patience: int = Field(
        0, ge=0, description="end after so many scores without a better one; 0 goes on to the last step"
    )
    guidance_scale: float | None = Field(
        None, ge=1, description="of the sample grids and of drawing; 1 is none; default: the prior's own"
    )
    guidance: Literal["off", "measured", "independent", "rescale", "tokens"] | None = Field(
        None, description="how guided predictions are normalised (sampling/guidance.py); default: the prior's own"
    )
    sample_steps: int = Field(12, ge=1, description="sampler steps of the sample grids and the scores")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps >= self.steps and self.steps > 1:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be smaller than steps ({self.steps})")
        if self.adapters and self.from_scratch:
            raise ValueError("adapters are merged into the prior's weights, and from_scratch throws those away")
        if self.adapter != "full" and self.from_scratch:
            raise ValueError("from_scratch needs adapter=full: an adapter of random weights learns nothing")
        return self


class TranslateConfig(MethodConfig):
    """What the image-to-image methods have in common."""

    condition: str = Field("source", description="'source' (the pair's other half), or a condition from 'limner list'")
    condition_options: dict[str, Any] = Field({}, description="options of the condition, such as low=0.1,high=0.3")
    source_kind: Literal["picture", "labels", "normals", "depth"] = Field(
        "picture", description="what the pairs' sources are; labels are never blended, normals turn with the picture"
    )
    condition_dropout: float = Field(0.1, ge=0, le=1, description="share of conditions replaced by the null condition")
    noise_bias: float = Field(
        1.0, gt=0, description="training times t have density ~ t^(noise_bias - 1); above 1 leans to noise, to layout"
    )

    @field_validator("condition_options", mode="before")
    @classmethod
    def _assignments(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        parts = [part.strip().partition("=") for part in given.split(",")]
        if not all(name and equals for name, equals, _ in parts):
            raise ValueError("needs name=value, with commas between")
        return {name: value for name, _, value in parts}

    @model_validator(mode="after")
    def _check_condition(self) -> Self:
        if self.condition == "source" and self.condition_options:
            raise ValueError("condition_options are for a computed condition, and condition is 'source'")
        if self.condition != "source" and self.source_kind != "picture":
            raise ValueError(f"source_kind is of the data's sources, and condition '{self.condition}' reads none")
        return self
