"""A small diffusion transformer for square pictures of any size that patches of 4 pixels tile: 3.0 M parameters.

Patches of 4x4 RGB pixels are the tokens. Every block is self-attention and an MLP behind layer norms whose shift, scale and
gate come from (t, size) (adaLN, with one modulation network for all blocks and an offset of each block's own). Positions are
2-D rotary, in fractions of the picture: the same place has the same position at 16, 32 and 64 pixels. The network says the
velocity ``v = dx/dt = eps - x_0`` of ``x_t = (1 - t) x_0 + t eps``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WEIGHTS = Path(__file__).parent / "weights.safetensors"
SPECTRUM = Path(__file__).parent / "spectrum.json"
"""Power law of the training crops at 64x64, written by train.py."""


@dataclass(frozen=True)
class Config:
    """Sizes of the network."""

    width: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 4
    channels: int = 3


def rotary(height: int, width: int, head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin (height * width, head / 2) of the rotations: half of the head's pairs turn with each axis.

    Positions are patch centres in units of a sixteenth of the picture, angular frequencies fall from 2 pi / 4 to 2 pi / 64
    of a unit, so that the fastest still tells neighbours at 64 pixels apart and the slowest spans the picture.
    """
    pairs = head // 4
    omega = 2 * math.pi / torch.logspace(2, 6, pairs, base=2, device=device)
    rows, columns = (16 * (torch.arange(n, device=device) + 0.5) / n for n in (height, width))
    angle_y = (rows[:, None, None] * omega).expand(height, width, pairs)
    angle_x = (columns[None, :, None] * omega).expand(height, width, pairs)
    angle = torch.cat([angle_y, angle_x], -1).reshape(height * width, 2 * pairs)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) of every head of x (..., tokens, d) by angles whose cos, sin are `turn`."""
    a, b = x.float().chunk(2, -1)
    cos, sin = turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def fourier_features(x: Tensor, count: int) -> Tensor:
    """cos and sin of x (batch,) in [0, 1] at `count` / 2 frequencies from 1/4 turn to 64 turns: (batch, count)."""
    omega = 2 * math.pi * torch.logspace(-2, 6, count // 2, base=2, device=x.device)
    angle = x[:, None] * omega
    return torch.cat([angle.cos(), angle.sin()], -1)


class Block(nn.Module):
    """Attention and MLP, both modulated and gated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.q_scale = nn.Parameter(torch.ones(width // heads))
        self.k_scale = nn.Parameter(torch.ones(width // heads))

    def forward(self, x: Tensor, modulation: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.offset).unsqueeze(-2).unbind(1)
        width = x.shape[-1]
        y = functional.layer_norm(x, (width,)) * (1 + scale_a) + shift_a
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        head = q.shape[-1:]
        q = rotate(functional.rms_norm(q, head, self.q_scale.to(q.dtype)), turn)
        k = rotate(functional.rms_norm(k, head, self.k_scale.to(k.dtype)), turn)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate_a * self.out(y)
        y = functional.layer_norm(x, (width,)) * (1 + scale_m) + shift_m
        return x + gate_m * self.down(functional.gelu(self.up(y), approximate="tanh"))


class TinyDiT(nn.Module):
    """``model(x, t)``: x (batch, 3, H, W) with H and W multiples of 4, t a float or (batch,) in [0, 1] -> velocity like x."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.checkpointed = False
        width, inputs = config.width, config.channels * config.patch**2
        self.read = nn.Linear(inputs, width)
        self.time = nn.Sequential(nn.Linear(2 * 64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList([Block(width, config.heads) for _ in range(config.depth)])
        self.last = nn.Linear(width, 2 * width)
        self.write = nn.Linear(width, inputs)
        # Zero gates and a zero output: every block begins as the identity and the first prediction is 0.
        for layer in (self.modulation, self.last, self.write):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        patch = self.config.patch
        batch, channels, height, width = x.shape
        if height % patch or width % patch:
            raise ValueError(f"x has {height}x{width} pixels; both must be multiples of the patch, {patch}")
        rows, columns = height // patch, width // patch
        turn = rotary(rows, columns, self.config.width // self.config.heads, x.device)
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(batch)
        size = torch.full_like(time, math.log2(min(height, width)) / 8)
        hidden = self.time(torch.cat([fourier_features(time, 64), fourier_features(size, 64)], -1))
        modulation = self.modulation(hidden).unflatten(-1, (6, -1))

        y = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        y = self.read(y).float()  # what is passed on from block to block keeps its precision under autocast, too
        for block in self.blocks:
            if self.checkpointed and torch.is_grad_enabled():
                y = checkpoint(block, y, modulation, turn, use_reentrant=False)
            else:
                y = block(y, modulation, turn)
        shift, scale = self.last(hidden).unsqueeze(1).chunk(2, -1)
        y = self.write(functional.layer_norm(y, y.shape[-1:]) * (1 + scale) + shift)
        y = y.reshape(batch, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(batch, channels, height, width).to(x.dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again; named as in diffusers."""
        self.checkpointed = True

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The velocity for a sampler: no gradients."""
        with torch.no_grad():
            return self(x, t)


def save(model: TinyDiT, path: Path, metadata: dict[str, str]) -> None:
    """Write float16 weights; the network's sizes and `metadata` go into the file's header."""
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path, metadata={"config": json.dumps(asdict(model.config)), **metadata})


def load(path: Path = WEIGHTS) -> TinyDiT:
    """The network in `path`, float32, ready to sample."""
    with safe_open(path, "pt") as file:
        config = Config(**json.loads(file.metadata()["config"]))
    model = TinyDiT(config)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()
