r"""What is known of pretrained models beside their spectra: counted FLOPs of a step, and the usual time grid.

A step of a transformer on ``n`` image tokens costs ``linear(n) + attention(n)``: products with weights, ``a + b n``, and
products between activations, ``a + b n + c n^2``, text included in the coefficients. benchmarks/cost.py counts the real
networks on the meta device; tests/test_cost.py holds these coefficients to its counts, to the last FLOP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from spectral_pd import inputs
from spectral_pd.inputs import door


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A pretrained model, as it is usually run.

    Attributes
    ----------
    label
        Name for people.
    network, parameters
        Class of its transformer in diffusers, and how many parameters that has.
    preset
        Its power law in :data:`spectral_pd.PRESETS`.
    grid, steps, shift, size
        Latent (height, width), steps and shift of the time grid of the usual run, and its size in pixels, as people write it.
    passes
        Forward passes a step: 2 with classifier-free guidance, 1 for guidance-distilled models.
    linear, attention
        FLOPs of a forward pass: coefficients of 1, n (and n^2), n the image tokens, of 2x2 latent points.
    frames
        Latent frames of the usual run.
    padded
        Image tokens are filled up to a multiple of this.
    """

    label: str
    network: str
    parameters: int
    preset: str
    grid: tuple[int, int]
    steps: int
    shift: float
    size: str = "1024x1024"
    passes: int
    linear: tuple[int, int]
    attention: tuple[int, int, int]
    frames: int = 1
    padded: int = 1

    def flops(self, grid: Sequence[int], counted: Literal["full", "linear"] = "full") -> int:
        """FLOPs of a step on a latent grid, all passes; ``"linear"`` leaves attention out, as several published tables do.

        A grid of three axes says its own number of latent frames.
        """
        *frames, height, width = grid
        n = math.prod(frames or [self.frames]) * -(-height // 2) * -(-width // 2)
        n = -(-n // self.padded) * self.padded
        terms = [*enumerate(self.linear), *(enumerate(self.attention) if counted == "full" else ())]
        return self.passes * sum(a * n**k for k, a in terms)


PRETRAINED: Mapping[str, Pretrained] = MappingProxyType(
    {
        "flux": Pretrained(
            label="FLUX.1-dev",
            network="FluxTransformer2DModel",
            parameters=11901408320,
            preset="flux",
            grid=(128, 128),
            steps=28,
            shift=math.exp(1.15),
            passes=1,
            linear=(6629396840448, 12910854144),
            attention=(183609851904, 717225984, 700416),
        ),
        "flux2": Pretrained(
            label="FLUX.2-dev",
            network="Flux2Transformer2DModel",
            parameters=32223281152,
            preset="flux2",
            grid=(128, 128),
            steps=50,
            shift=math.exp(2.02335),
            passes=1,
            linear=(28238703230976, 54965305344),
            attention=(360777252864, 1409286144, 1376256),
        ),
        "z-image": Pretrained(
            label="Z-Image",
            network="ZImageTransformer2DModel",
            parameters=6154908736,
            preset="z-image",
            grid=(128, 128),
            steps=50,
            shift=6.0,
            passes=2,
            linear=(2904516591616, 11325603840),
            attention=(32212254720, 235929600, 491520),
            padded=32,
        ),
        "qwen-image": Pretrained(
            label="Qwen-Image",
            network="QwenImageTransformer2DModel",
            parameters=20430401088,
            preset="qwen-image",
            grid=(128, 128),
            steps=50,
            shift=math.exp(0.6935),
            passes=2,
            linear=(3498208395264, 13590331392),
            attention=(48318382080, 377487360, 737280),
        ),
        "sd3.5": Pretrained(
            label="Stable Diffusion 3.5 Large",
            network="SD3Transformer2DModel",
            parameters=8056627520,
            preset="sd3",
            grid=(128, 128),
            steps=28,
            shift=3.0,
            passes=2,
            linear=(1772835078144, 5394759680),
            attention=(40991671296, 246196224, 369664),
        ),
        "wan": (
            _WAN := Pretrained(
                label="Wan2.1-T2V-1.3B, 81 frames",
                network="WanTransformer3DModel",
                parameters=1418996800,
                preset="wan",
                grid=(60, 104),
                steps=50,
                shift=3.0,
                size="832x480",
                passes=2,
                linear=(153847332864, 2501246976),
                attention=(0, 94371840, 184320),
                frames=21,
            )
        ),
        "wan-14b": replace(
            _WAN,
            label="Wan2.1-T2V-14B, 81 frames",
            parameters=14288491584,
            grid=(90, 160),
            shift=5.0,
            size="1280x720",
            linear=(2196171653120, 23908843520),
            attention=(0, 419430400, 819200),
        ),
    }
)
"""By name. Steps are the pipelines' defaults; shifts at 4096 tokens are exp(mu) of the dynamic ones."""


@dataclass(frozen=True)
class StepCost:
    """What :func:`step_cost` returns; call it on a grid. `label` says in a printed plan what was counted."""

    model: Pretrained
    shape: tuple[int, ...] | None
    counted: Literal["full", "linear"]

    @property
    def label(self) -> str:
        return f"counted FLOPs of {self.model.label}"

    def __call__(self, grid: Sequence[int]) -> float:
        unit = 1 if self.shape is None else self.model.flops(self.shape, self.counted)
        return self.model.flops(grid, self.counted) / unit


@door(
    name=inputs.choice(*PRETRAINED),
    shape=inputs.optional(inputs.shape),
    frames=inputs.optional(inputs.count),
    counted=inputs.choice("full", "linear"),
)
def step_cost(
    name: str,
    shape: Sequence[int] | None = None,
    *,
    frames: int | None = None,
    counted: Literal["full", "linear"] = "full",
) -> StepCost:
    """A cost function for :func:`~spectral_pd.make_plan`: counted FLOPs of one denoising step of a pretrained model.

    Parameters
    ----------
    name
        Of :data:`PRETRAINED`.
    shape
        Latent grid whose step is the unit; None counts FLOPs.
    frames
        Latent frames of grids of two axes; None is the model's usual number.
    counted
        ``"full"``, or ``"linear"`` without attention, which is what several published tables count.

    Raises
    ------
    ValueError
        An unknown model or convention.

    Examples
    --------
    >>> cost = step_cost("flux", (128, 128))
    >>> cost((128, 128)), round(cost((64, 64)), 3)
    (1.0, 0.289)
    """
    model = PRETRAINED[name] if frames is None else replace(PRETRAINED[name], frames=frames)
    return StepCost(model, None if shape is None else tuple(shape), counted)


def usual(preset: str | None) -> str | None:
    """Name in :data:`PRETRAINED` of the model that a power law of :data:`spectral_pd.PRESETS` belongs to."""
    return next((name for name, model in PRETRAINED.items() if model.preset == preset), None)


def recognised(network: Any) -> str | None:
    """Name in :data:`PRETRAINED` of a network: its class, and its number of parameters within a twentieth.

    Variants of one architecture differ less (an embedding of guidance, input channels of a condition, a LoRA); another size of
    the family, or weights packed by quantisation, differ more, and their cost is not known.
    """
    count = sum(p.numel() for p in network.parameters()) if hasattr(network, "parameters") else 0
    for name, model in PRETRAINED.items():
        if type(network).__name__ == model.network and abs(count / model.parameters - 1) < 0.05:
            return name
    return None
