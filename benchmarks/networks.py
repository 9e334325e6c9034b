"""The networks that the benchmarks sample, and the full run of each: two small transformers of this repository, and a
pretrained denoiser of grey faces that nobody here trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_dit.model import SPECTRUM, WEIGHTS, TinyDiT, load
from torch import Tensor
from torch.nn import functional

from spectral_pd import GaussianField, PowerLaw, autoencoders, shift_times
from spectral_pd.autoencoders import Autoencoder

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
        """Of what a transformer was trained on, at full size; the faces begin with that of the pictures, too."""
        return PowerLaw.load(LATENT / "spectrum.json" if self == LATENT_TRANSFORMER else SPECTRUM)

    def noise(self, count: int, seed: int, device: str) -> Tensor:
        """White fields of the seeds from `seed`, each of a generator of its own."""
        noise = [
            torch.randn(self.channels, self.side, self.side, generator=torch.Generator().manual_seed(seed + i))
            for i in range(count)
        ]
        return torch.stack(noise).to(device)

    def start(self, count: int, seed: int, device: str) -> Tensor:
        """Starting states of those seeds: the noise itself at time 1, below it what a Gaussian field of the law makes of it.

        White noise alone would be no state of such a time: pictures' low frequencies stand far above the noise there.
        """
        noise = self.noise(count, seed, device)
        return noise if self.first == 1 else GaussianField(self.law, (self.side,) * 2).solve(noise, self.first)

    def transformer(self) -> TinyDiT:
        return load(LATENT / "weights.safetensors" if self == LATENT_TRANSFORMER else WEIGHTS)

    def velocity(self, device: str) -> Velocity:
        if self.weights is None:
            network = self.transformer().to(device)
            return lambda x, t: network.velocity(x, torch.full((len(x),), t, device=x.device))
        layers = load_file(self.weights)
        return partial(face_velocity, [layer.to(device) for layer in face_layers(layers)])


TRANSFORMER = Network("small transformer", 3, 2.0)
LATENT_TRANSFORMER = Network("latent transformer", 16, 2.0, side=32)
FACE_WEIGHTS = (
    "denoisers/flat/celebA_160x160_gray/noise_range_0to255_RF_43x43/model.pt from github.com/LabForComputationalVision/"
    "local-probability-models-of-images (MIT), save its state dict as safetensors"
)
FACES = Network("face denoiser", 1, 1.0, first=2 / 3)


def face_denoiser(weights: Path, *, first: float = FACES.first, side: int = FACES.side) -> Network:
    """The pretrained denoiser, and its runs' first time and grid: it takes any.

    It was trained on noise up to that of pictures' own range: t = 2/3 for values that span 2.
    """
    if not weights.exists():
        raise SystemExit(f"{weights} is not there: get {FACE_WEIGHTS} and name the file")
    return replace(FACES, weights=weights, first=first, side=side)


def face_layers(state: dict[str, Tensor]) -> list[Tensor]:
    """Weights of its 21 convolutions: between first and last each has a scale of its own, stored apart."""
    layers = [state[f"conv_layers.{i}.weight"].float() for i in range(21)]
    for i in range(1, 20):
        scale = state[f"BN_layers.{i - 1}.gammas"].float() / state[f"BN_layers.{i - 1}.running_sd"].float()
        layers[i] = layers[i] * scale.reshape(-1, 1, 1, 1)
    return [layer.contiguous(memory_format=torch.channels_last) for layer in layers]


def face_velocity(layers: list[Tensor], x: Tensor, t: float) -> Tensor:
    """Of the pretrained denoiser, for data in [-1, 1]: its input is a picture in [0, 1] plus noise, its output the noise.

    First and last layer are linear, the others end in a ReLU.
    """
    y = functional.conv2d((x / (1 - t) + 1) / 2, layers[0], padding=1)
    for layer in layers[1:-1]:
        y = functional.conv2d(y, layer, padding=1).relu_()
    denoised = x / (1 - t) - 2 * functional.conv2d(y, layers[-1], padding=1)
    return (x - denoised) / t


def latent_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model latent --vae PATH`` of the scripts that sample either transformer."""
    parser.add_argument("--model", choices=("pixel", "latent"), default="pixel", help="which of the two transformers")
    parser.add_argument("--vae", type=Path, help="TAEF1's folder, for the latent one: madebyollin/taef1 (MIT)")


@cache
def autoencoder(vae: Path | None) -> Autoencoder:
    """TAEF1, ``madebyollin/taef1`` (MIT), as diffusers' AutoencoderTiny reads it."""
    if vae is None or not (vae / "config.json").exists():
        raise SystemExit(
            f"{vae or 'no --vae'} holds no autoencoder: get madebyollin/taef1 from huggingface.co (MIT) and name its folder "
            f"with --vae"
        )
    found = autoencoders.load(vae)
    found.model.to(memory_format=torch.channels_last)
    return found


def decoder(vae: Path | None) -> Callable[[Tensor], Tensor]:
    """Pictures (batch, 3, 256, 256) in [-1, 1] of latents (batch, 16, 32, 32), a few at a time; `vae`: TAEF1's folder."""
    decode = autoencoder(vae).decode
    return torch.no_grad()(lambda x: torch.cat([decode(part) for part in x.split(8)]).clamp(-1, 1))


def encoder(vae: Path | None) -> Callable[[Tensor], Tensor]:
    """Latents of pictures, as :func:`decoder` takes them."""
    encode = autoencoder(vae).encode
    return torch.no_grad()(lambda x: torch.cat([encode(part) for part in x.split(8)]))


def in_bfloat16(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same with products in bfloat16, which a CPU that has them makes twice as fast; the answer is float32."""

    def called(*args: Tensor | float) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(*args).float()

    return called
