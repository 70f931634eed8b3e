"""Stable Diffusion XL and its fine-tunes (Podell et al. 2023, arXiv 2307.01952): the base model, not the refiner.

Two CLIP encoders are read one layer before their last, side by side; the second one's summary, the picture's original
size, its cut and its size go into the time vector. A model with ``force_zeros_for_empty_prompt`` has learnt that zeros
are no caption. Licence of the released weights: CreativeML Open RAIL++-M. The autoencoder overflows in fp16, so it is
kept in fp32 as every prior's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from limner.errors import PriorError
from limner.priors.folder import PLAIN, DiffusersFolder, Loading
from limner.priors.sd import UNetPrior
from limner.types import Cond


class StableDiffusionXL(UNetPrior):
    """A UNet2DConditionModel with text_time embedding, told by a CLIPTextModel and a CLIPTextModelWithProjection.

    Raises:
        PriorError: a part is missing or is of a kind not supported; the refiner.
    """

    family = "sdxl"
    guidance_scale = 5.0

    def __init__(self, folder: DiffusersFolder, loading: Loading = PLAIN) -> None:
        if folder.kind("text_encoder") is None and folder.kind("text_encoder_2"):
            raise PriorError(f"{folder.path} is the refiner, which draws only the last steps.", "give the base model")
        folder.need(text_encoder=("CLIPTextModel",), text_encoder_2=("CLIPTextModelWithProjection",))
        folder.need(tokenizer=(), tokenizer_2=())
        super().__init__(folder, loading, ["text_encoder", "text_encoder_2"])
        self.pooled_dim = folder.config("text_encoder_2")["projection_dim"]
        self.null_is_zero: bool = folder.index.get("force_zeros_for_empty_prompt", True)

    def encoders_digest(self) -> str:
        return super().encoders_digest() + (" null is zero" if self.null_is_zero else "")

    def encode_text(self, captions: Sequence[str]) -> Cond:
        read = []
        for name, tokenizer in zip(("text_encoder", "text_encoder_2"), self.tokenizers, strict=True):
            ids_BL, _ = tokenizer.ids(captions)
            read.append(self.parts[name](ids_BL.to(self.parts.device), output_hidden_states=True))
        tokens_BLD = torch.cat([one.hidden_states[-2] for one in read], dim=-1).float()
        cond = Cond(tokens_BLD, read[1].text_embeds.float())
        if not self.null_is_zero:
            return cond
        told_B = torch.tensor([caption != "" for caption in captions], device=tokens_BLD.device)
        return cond.where(told_B, cond.map(torch.zeros_like))

    def told(self, cond: Cond, height_px: int, width_px: int) -> dict[str, Any]:
        framing_B6 = cond.framing_B6
        if framing_B6 is None:
            whole = [height_px, width_px, 0, 0, height_px, width_px]
            framing_B6 = torch.tensor([whole], device=cond.tokens_BLD.device).expand(len(cond), -1)
        added = {"text_embeds": cond.pooled_BD, "time_ids": framing_B6}
        return {**super().told(cond, height_px, width_px), "added_cond_kwargs": added}
