"""What tells GLIDE's denoiser: its text transformer, and PITI's condition encoder, which speaks the same language.

Both are pre-norm transformers without a causal mask whose last token sums up the rest. Module names are those of the
official state dicts (openai/glide-text2im; PITI-Synthesis/PITI, ``encoder.``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.priors.glide_net import NetConfig

VOCABULARY = 50257  # GPT-2's byte pairs and the end of text, which also pads


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        # A head's query, key and value lie beside one another.
        per_head = self.c_qkv(x_BLD).unflatten(2, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        return self.c_proj(F.scaled_dot_product_attention(*per_head).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attn(self.ln_1(x_BLD))
        return x_BLD + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x_BLD))))


class Transformer(nn.Module):
    def __init__(self, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Layer(width, num_heads) for _ in range(num_layers)])

    def forward(self, x_BLD: Tensor) -> Tensor:
        for layer in self.resblocks:
            x_BLD = layer(x_BLD)
        return x_BLD


class TextTransformer(nn.Module):
    """Token numbers -> tokens that the denoiser reads; padding is learned, place by place, and read like the rest."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        shape = config.num_tokens, config.token_dim
        self.transformer = Transformer(config.token_dim, config.text_layers, config.text_heads)
        self.final_ln = nn.LayerNorm(config.token_dim)
        self.token_embedding = nn.Embedding(VOCABULARY, config.token_dim)
        self.positional_embedding = nn.Parameter(torch.randn(shape) * 0.01)
        self.padding_embedding = nn.Parameter(torch.randn(shape) * 0.01)

    def get_input_embeddings(self) -> nn.Module:
        """Called as in transformers' text encoders, as is the next."""
        return self.token_embedding

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        self.token_embedding = embedding

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, D); ``mask_BL`` is true where there is text. The last token tells the time vector of the whole."""
        x_BLD = self.token_embedding(ids_BL) + self.positional_embedding
        return self.final_ln(self.transformer(torch.where(mask_BL[..., None], x_BLD, self.padding_embedding)))


class ConditionEncoder(nn.Module):
    """PITI's encoder (Wang et al. 2022, arXiv 2205.12952): a condition picture -> 256 tokens and their summary.

    ``in_channels``: 3 for coloured masks, 1 for sketches (as distances to the nearest line), 6 for normals and depth.
    The null condition is a white picture.
    """

    WIDTH, GRID = 512, 16
    condition_px = 256

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        widths = [in_channels, 32, 64, 128, 256, self.WIDTH, self.WIDTH]
        self.cnn = nn.ModuleDict()
        for i in range(1, 7):
            kernel, stride = 7 if i == 1 else 3, 1 if i in (1, 6) else 2
            self.cnn[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel, stride, padding=kernel // 2)
            if i < 6:
                self.cnn[f"norm{i}"] = nn.InstanceNorm2d(widths[i], affine=True)
        self.transformer = Transformer(self.WIDTH, num_layers=8, num_heads=8)
        self.final_ln = nn.LayerNorm(self.WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, self.WIDTH) * 0.02)
        self.positional_embedding = nn.Parameter(torch.randn(1, self.GRID**2 + 1, self.WIDTH) * 0.02)

    def forward(self, condition_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens_BLD, pooled_BD) from pictures of 256 px in [-1, 1]."""
        x = condition_BCHW
        for i in range(1, 6):
            x = F.leaky_relu(self.cnn[f"norm{i}"](self.cnn[f"conv{i}"](x)), 0.2)
        cells_BLD = self.cnn["conv6"](x).flatten(2).mT + self.positional_embedding[:, 1:]
        # The summary comes last, but its position is the first.
        summary_BLD = (self.cls_token + self.positional_embedding[:, :1]).expand(len(cells_BLD), -1, -1)
        tokens_BLD = self.final_ln(self.transformer(torch.cat([cells_BLD, summary_BLD], dim=1)))
        return tokens_BLD[:, :-1], tokens_BLD[:, -1]
