"""PixelGen-XXL/16, the paper's pixel model, as far as its cost goes: every product with a weight and every attention.

From the authors' configuration and code (github.com/Zehong-Ma/PixelGen: configs_t2i/sft_res512.yaml, JiT_T2I): patches of 16
pixels, width 1536, 24 heads, 16 blocks whose tokens attend to themselves and to 128 text tokens, which 4 blocks of their own
have refined in every forward pass. 1.1 billion parameters, as published. Norms, rotations and activations multiply nothing and
are left out: this module is for counting (:mod:`cost`), not for sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

WIDTH, HEADS, BLOCKS, TEXT_BLOCKS, PATCH, BOTTLENECK = 1536, 24, 16, 4, 16, 256
TEXT_TOKENS, TEXT_WIDTH = 128, 2048


class Block(nn.Module):
    """Attention and a gated MLP, modulated by the time; image blocks have keys and values of the text besides."""

    def __init__(self, *, sees_text: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.text = nn.Linear(WIDTH, 2 * WIDTH, bias=False) if sees_text else None
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 8 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)

    def forward(self, x: Tensor, time: Tensor, text: Tensor | None = None) -> Tensor:
        shift, scale, gate, *mlp = self.modulation(time).chunk(6, -1)
        q, k, v = self.qkv(x * (1 + scale) + shift).chunk(3, -1)
        if self.text is not None:
            k, v = (torch.cat(pair, 1) for pair in zip((k, v), self.text(text).chunk(2, -1), strict=True))
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v))
        x = x + gate * self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        a, b = self.up(x * (1 + mlp[1]) + mlp[0]).chunk(2, -1)
        return x + mlp[2] * self.down(silu(a) * b)


class PixelGen(nn.Module):
    """``forward(x, t, text)``: pictures (batch, 3, height, width), times (batch,), text embeddings (batch, 128, 2048)."""

    def __init__(self, *, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Linear(3 * PATCH**2, BOTTLENECK, bias=False), nn.Linear(BOTTLENECK, WIDTH))
        self.time = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.embed = nn.Linear(TEXT_WIDTH, WIDTH)
        self.refine = nn.ModuleList(Block(sees_text=False) for _ in range(TEXT_BLOCKS))
        self.blocks = nn.ModuleList(Block(sees_text=True) for _ in range(blocks))
        self.last = nn.Linear(WIDTH, 3 * PATCH**2)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        time = silu(self.time(t[:, None].expand(-1, 256)))[:, None]
        text = self.embed(text)
        for block in self.refine:
            text = block(text, time)
        tokens = self.patches(nn.functional.unfold(x, PATCH, stride=PATCH).mT)
        for block in self.blocks:
            tokens = block(tokens, time, text)
        return nn.functional.fold(self.last(tokens).mT, x.shape[-2:], PATCH, stride=PATCH)
