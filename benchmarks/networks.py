"""The networks that the benchmarks sample, and the full run of each: two small transformers of this repository, and a
pretrained denoiser of grey faces that nobody here trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_dit.model import SPECTRUM, WEIGHTS, load
from torch import Tensor
from torch.nn import functional

from spectral_pd import PowerLaw, autoencoders, shift_times

STEPS = 20
LATENT = Path(__file__).parent / "latent_dit"
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Network:
    """A network and its full run: 20 steps of DPM-Solver++(2M) on a grid of its own shift."""

    name: str
    channels: int
    shift: float
    first: float = 1.0  # the time the run starts at
    weights: Path | None = None  # of the face denoiser
    side: int = 64

    @property
    def times(self) -> tuple[float, ...]:
        return self.grid(STEPS, self.shift)

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        return tuple(self.first * t for t in shift_times(steps, shift=shift))

    @property
    def law(self) -> PowerLaw:
        """Of the pictures, or the latents, that a transformer was trained on, at full size."""
        return PowerLaw.load(LATENT / "spectrum.json" if self == LATENT_TRANSFORMER else SPECTRUM)

    def start(self, count: int, seed: int, device: str) -> Tensor:
        """Starting states of the seeds from `seed`, each of a generator of its own."""
        noise = [
            torch.randn(self.channels, self.side, self.side, generator=torch.Generator().manual_seed(seed + i))
            for i in range(count)
        ]
        return (self.first * torch.stack(noise)).to(device)

    def velocity(self, device: str) -> Velocity:
        if self.weights is None:
            latent = self == LATENT_TRANSFORMER
            network = load(LATENT / "weights.safetensors" if latent else WEIGHTS).to(device)
            return lambda x, t: network.velocity(x, torch.full((len(x),), t, device=x.device))
        layers = {name: value.float().to(device) for name, value in load_file(self.weights).items()}
        return partial(face_velocity, layers)


TRANSFORMER = Network("small transformer", 3, 2.0)
LATENT_TRANSFORMER = Network("latent transformer", 16, 2.0, side=32)
FACES = Network("face denoiser", 1, 1.0, first=2 / 3)


def face_denoiser(weights: Path) -> Network:
    """The pretrained denoiser, of local-probability-models-of-images, with its weights."""
    return replace(FACES, weights=weights)


def face_velocity(layers: dict[str, Tensor], x: Tensor, t: float) -> Tensor:
    """Of the pretrained denoiser, for data in [-1, 1]: its input is a picture in [0, 1] plus noise, its output the noise."""
    y = (x / (1 - t) + 1) / 2
    for i in range(21):
        y_next = functional.conv2d(y, layers[f"conv_layers.{i}.weight"], padding=1)
        if 0 < i < 20:
            sd, gamma = layers[f"BN_layers.{i - 1}.running_sd"], layers[f"BN_layers.{i - 1}.gammas"]
            y_next = y_next / sd * gamma
        y = functional.relu(y_next) if i < 20 else y_next
    denoised = x / (1 - t) - 2 * y
    return (x - denoised) / t


def decoder(vae: Path) -> Callable[[Tensor], Tensor]:
    """Pictures (batch, 3, 256, 256) in [-1, 1] of latents (batch, 16, 32, 32), a few at a time; `vae`: TAEF1's folder.

    TAEF1 is ``madebyollin/taef1`` (MIT), as diffusers' AutoencoderTiny reads it.
    """
    if not (vae / "config.json").exists():
        raise SystemExit(
            f"{vae} holds no autoencoder: get madebyollin/taef1 from huggingface.co (MIT) and name its folder with --vae"
        )
    autoencoder = autoencoders.load(vae)
    autoencoder.model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def decode(x: Tensor) -> Tensor:
        return torch.cat([autoencoder.decode(part) for part in x.split(8)]).clamp(-1, 1)

    return decode
