r"""FLOPs of one denoising step of real pretrained configurations, counted on the meta device at any latent size.

The models are built from their public configurations without weights or memory (``torch.device("meta")``) and their own
``forward`` is counted in two parts, linear and attention (:mod:`spectral_pd.comparing.flops`).
Text encoder and autoencoder run once a picture and are not part of a step.

    python benchmarks/cost.py                    # writes results/cost.csv and results/usual_plans.csv

What it counts at full depth, :mod:`spectral_pd.pretrained` has as polynomials of the tokens, for plans to print.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from spectral_pd import PRESETS, make_plan, shift_times
from spectral_pd.comparing.flops import Flops, count
from spectral_pd.parametrisation import times_from_vp
from spectral_pd.pretrained import PRETRAINED, step_cost

Grid = tuple[int, ...]
Inputs = Callable[[Grid, torch.device | str, torch.dtype], dict[str, Any]]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Model:
    """One pretrained model as a cost: how to build it, what its forward takes, how often a step calls it.

    Attributes
    ----------
    label
        Name for tables.
    build
        Returns the transformer with its public configuration, or with its real width and few blocks when called with
        ``reduced=True``; called under the wanted device.
    inputs
        ``inputs(grid, device, dtype)``: keyword arguments of one forward on a latent grid.
    passes
        Forward passes a step: 2 with classifier-free guidance, 1 for guidance-distilled models.
    text_tokens
        Tokens of the prompt.
    """

    label: str
    build: Callable[..., nn.Module]
    inputs: Inputs
    passes: int
    text_tokens: int


def _flux(*, reduced: bool = False) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    # The proportion of the two kinds of block is the real one's, 19 to 38.
    blocks = {"num_layers": 1, "num_single_layers": 2} if reduced else {}
    return FluxTransformer2DModel(guidance_embeds=True, **blocks)


def _flux_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        height, width = grid
        tokens = (height // 2) * (width // 2)
        return {
            "hidden_states": torch.zeros(1, tokens, 64, device=device, dtype=dtype),
            "encoder_hidden_states": torch.zeros(1, text, 4096, device=device, dtype=dtype),
            "pooled_projections": torch.zeros(1, 768, device=device, dtype=dtype),
            "timestep": torch.full((1,), 0.5, device=device, dtype=dtype),
            "guidance": torch.full((1,), 3.5, device=device, dtype=torch.float32),
            "img_ids": torch.zeros(tokens, 3, device=device, dtype=dtype),
            "txt_ids": torch.zeros(text, 3, device=device, dtype=dtype),
            "return_dict": False,
        }

    return inputs


def _z_image(*, reduced: bool = False) -> nn.Module:
    from diffusers import ZImageTransformer2DModel

    return ZImageTransformer2DModel(**({"n_layers": 3, "n_refiner_layers": 1} if reduced else {}))


def _z_image_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "x": [torch.zeros(16, 1, *grid, device=device, dtype=dtype)],
            "t": torch.full((1,), 0.5, device=device, dtype=dtype),
            "cap_feats": [torch.zeros(text, 2560, device=device, dtype=dtype)],
            "return_dict": False,
        }

    return inputs


def _wan(*, reduced: bool = False) -> nn.Module:
    from diffusers import WanTransformer3DModel

    # Wan2.1-T2V-1.3B; the class defaults are the 14B model.
    return WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=2 if reduced else 30)


def _wan_inputs(text: int, frames: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        # A grid of three axes says its own number of latent frames.
        clip = grid if len(grid) == 3 else (frames, *grid)
        return {
            "hidden_states": torch.zeros(1, 16, *clip, device=device, dtype=dtype),
            "timestep": torch.full((1,), 500.0, device=device),
            "encoder_hidden_states": torch.zeros(1, text, 4096, device=device, dtype=dtype),
            "return_dict": False,
        }

    return inputs


def _wan_14b(*, reduced: bool = False) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**({"num_layers": 2} if reduced else {}))


def _flux2(*, reduced: bool = False) -> nn.Module:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(**({"num_layers": 1, "num_single_layers": 6} if reduced else {}))


def _flux2_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        height, width = grid
        tokens = (height // 2) * (width // 2)
        return {
            "hidden_states": torch.zeros(1, tokens, 128, device=device, dtype=dtype),
            "encoder_hidden_states": torch.zeros(1, text, 15360, device=device, dtype=dtype),
            "timestep": torch.full((1,), 0.5, device=device, dtype=dtype),
            "guidance": torch.full((1,), 4.0, device=device, dtype=torch.float32),
            "img_ids": torch.zeros(1, tokens, 4, device=device, dtype=torch.int64),
            "txt_ids": torch.zeros(1, text, 4, device=device, dtype=torch.int64),
            "return_dict": False,
        }

    return inputs


def _qwen_image(*, reduced: bool = False) -> nn.Module:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(**({"num_layers": 2} if reduced else {}))


def _qwen_image_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        rows, columns = grid[0] // 2, grid[1] // 2
        return {
            "hidden_states": torch.zeros(1, rows * columns, 64, device=device, dtype=dtype),
            "encoder_hidden_states": torch.zeros(1, text, 3584, device=device, dtype=dtype),
            "timestep": torch.full((1,), 0.5, device=device, dtype=dtype),
            "img_shapes": [[(1, rows, columns)]],
            "return_dict": False,
        }

    return inputs


def _sd35_large(*, reduced: bool = False) -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        num_layers=2 if reduced else 38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )


def _sd3_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "hidden_states": torch.zeros(1, 16, *grid, device=device, dtype=dtype),
            "encoder_hidden_states": torch.zeros(1, text, 4096, device=device, dtype=dtype),
            "pooled_projections": torch.zeros(1, 2048, device=device, dtype=dtype),
            "timestep": torch.full((1,), 500.0, device=device, dtype=dtype),
            "return_dict": False,
        }

    return inputs


def _sdxl(*, reduced: bool = False) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2) if reduced else (1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _sdxl_inputs(text: int) -> Inputs:
    def inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        sizes = torch.zeros(1, 6, device=device, dtype=dtype)
        return {
            "sample": torch.zeros(1, 4, *grid, device=device, dtype=dtype),
            "timestep": torch.full((1,), 500.0, device=device),
            "encoder_hidden_states": torch.zeros(1, text, 2048, device=device, dtype=dtype),
            "added_cond_kwargs": {
                "text_embeds": torch.zeros(1, 1280, device=device, dtype=dtype),
                "time_ids": sizes,
            },
            "return_dict": False,
        }

    return inputs


def _pixelgen(*, reduced: bool = False) -> nn.Module:
    from pixelgen import PixelGen

    return PixelGen(**({"blocks": 2} if reduced else {}))


def _pixelgen_inputs(grid: Grid, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "x": torch.zeros(1, 3, *grid, device=device, dtype=dtype),
        "t": torch.full((1,), 0.5, device=device, dtype=dtype),
        "text": torch.zeros(1, 128, 2048, device=device, dtype=dtype),
    }


def _known(name: str, build: Callable[..., nn.Module], inputs: Callable[[int], Inputs], text_tokens: int) -> Model:
    model = PRETRAINED[name]
    return Model(model.label, build, inputs(text_tokens), model.passes, text_tokens)


MODELS = {
    "flux": _known("flux", _flux, _flux_inputs, 512),
    "flux2": _known("flux2", _flux2, _flux2_inputs, 512),
    "z-image": _known("z-image", _z_image, _z_image_inputs, 256),
    # 81 video frames are 21 latent frames.
    "wan": _known("wan", _wan, partial(_wan_inputs, frames=21), 512),
    "wan-14b": _known("wan-14b", _wan_14b, partial(_wan_inputs, frames=21), 512),
    # Qwen-Image does not pad its prompts; 256 tokens are a long one.
    "qwen-image": _known("qwen-image", _qwen_image, _qwen_image_inputs, 256),
    # 77 tokens of the CLIP encoders, 256 of T5.
    "sd3.5": _known("sd3.5", _sd35_large, _sd3_inputs, 333),
    "pixelgen": Model("PixelGen-XXL/16", _pixelgen, _pixelgen_inputs, passes=2, text_tokens=128),
    "sdxl": Model("Stable Diffusion XL", _sdxl, _sdxl_inputs(77), passes=2, text_tokens=77),
}


@cache
def _on_meta(name: str, reduced: bool = False) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name].build(reduced=reduced).to(torch.bfloat16).eval()


@lru_cache(maxsize=128)
def forward_flops(name: str, grid: Grid, *, reduced: bool = False) -> Flops:
    """FLOPs of one forward pass, batch 1, without guidance.

    Parameters
    ----------
    name
        Of :data:`MODELS`.
    grid
        Latent (height, width).
    reduced
        Count the model of few blocks.

    Raises
    ------
    ValueError
        An unknown model.
    """
    if name not in MODELS:
        raise ValueError(f"model = {name!r} is unknown; pass one of {sorted(MODELS)}")
    return count(_on_meta(name, reduced), MODELS[name].inputs(tuple(grid), "meta", torch.bfloat16))


def counted_cost(name: str, *, reduced: bool = False, linear: bool = False) -> Callable[[Grid], float]:
    """:func:`spectral_pd.pretrained.step_cost` by counting here and now: also of PixelGen, and of networks of few blocks.

    Parameters
    ----------
    name, reduced
        As :func:`forward_flops`.
    linear
        Without attention.
    """

    def cost(grid: Grid) -> float:
        flops = forward_flops(name, tuple(grid), reduced=reduced)
        return MODELS[name].passes * (flops.linear if linear else flops.total)

    return cost


def _t5_xxl() -> tuple[nn.Module, int]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128
    )
    return T5EncoderModel(config), 512


def _clip_large() -> tuple[nn.Module, int]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return CLIPTextModel(config), 77


def _qwen3(width: int, hidden: int, layers: int, heads: int, tokens: int) -> tuple[nn.Module, int]:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
    )
    return Qwen3Model(config), tokens


def _qwen3_4b() -> tuple[nn.Module, int]:
    return _qwen3(2560, 9728, 36, 32, 256)


def _qwen3_1_7b() -> tuple[nn.Module, int]:
    return _qwen3(2048, 6144, 28, 16, 128)


ENCODERS: dict[str, tuple[Callable[[], tuple[nn.Module, int]], ...]] = {
    "flux": (_t5_xxl, _clip_large),
    "z-image": (_qwen3_4b,),
    "pixelgen": (_qwen3_1_7b,),
}
"""Text encoders, each with its number of tokens. The autoencoder is FLUX.1's, or none."""


@lru_cache(maxsize=8)
def once_flops(name: str, grid: Grid = (128, 128)) -> float:
    """Linear FLOPs spent once a picture: text encoders on one prompt, and FLUX.1's autoencoder decoding a latent `grid` where
    the model has it.

    Raises
    ------
    ValueError
        A model that is not in :data:`ENCODERS`.
    """
    from diffusers import AutoencoderKL

    if name not in ENCODERS:
        raise ValueError(f"model = {name!r} has no counted encoders; pass one of {sorted(ENCODERS)}")
    with torch.device("meta"):
        decoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).decoder
        total = 0.0 if name == "pixelgen" else count(decoder, {"sample": torch.zeros(1, 16, *grid)}).linear
        for build in ENCODERS[name]:
            encoder, tokens = build()
            total += count(encoder, {"input_ids": torch.zeros(1, tokens, dtype=torch.int64)}).linear
    return total


TABLE: dict[str, tuple[Grid, ...]] = {
    "flux": ((128, 128), (96, 96), (84, 84), (64, 64), (32, 32)),
    "z-image": ((128, 128), (96, 96), (84, 84), (64, 64), (32, 32)),
    "wan": ((90, 160), (60, 106), (44, 80), (22, 40), (90, 156), (60, 104), (40, 68), (30, 52), (20, 34)),
    "wan-14b": ((90, 160), (60, 106), (30, 52)),
    "flux2": ((128, 128), (64, 64), (32, 32)),
    "qwen-image": ((128, 128), (64, 64), (32, 32)),
    "sd3.5": ((128, 128), (64, 64), (32, 32)),
    "sdxl": ((128, 128), (64, 64), (32, 32)),
    "pixelgen": ((512, 512), (256, 256)),
}


@dataclass(frozen=True)
class Usual:
    """A model of :data:`spectral_pd.pretrained.PRETRAINED` as it is usually run, and the plans made for it.

    A distilled model has a `label`, and `steps` and a `shift` of its own; its cost is that of the model it was distilled from.
    A variance-preserving one has no shift but the `spacing` of its timesteps, by the schedulers' names.
    """

    model: str
    scales: tuple[tuple[float, ...], ...]
    deltas: tuple[float, ...] = (0.01,)
    label: str = ""
    steps: int = 0
    shift: float = 0.0
    spacing: Literal["", "leading", "trailing"] = ""

    @property
    def known(self) -> tuple[str, str, Grid, int]:
        """(label, preset, latent grid, steps) of the model."""
        if self.model == "sdxl":  # whose count is no polynomial of the tokens: a UNet
            return MODELS["sdxl"].label, "sdxl", (128, 128), 50
        model = PRETRAINED[self.model]
        return model.label, model.preset, model.grid, model.steps

    @property
    def times(self) -> tuple[float, ...]:
        """The time grid."""
        steps = self.steps or self.known[3]
        if not self.spacing:
            return shift_times(steps, shift=self.shift or PRETRAINED[self.model].shift)
        table = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square().neg().add(1).cumprod(0)
        leading = [k * (1000 // steps) + 1 for k in reversed(range(steps))]
        trailing = [1000 - round(k * 1000 / steps) - 1 for k in range(steps)]
        return times_from_vp(table, leading if self.spacing == "leading" else trailing)

    def cost(self, grid: Grid) -> float:
        """FLOPs of one step."""
        if self.model in PRETRAINED:
            return step_cost(self.model)(grid)
        return MODELS[self.model].passes * forward_flops(self.model, grid).total


_IMAGE_SCALES, _VIDEO_SCALES = ((1 / 2, 1.0), (1 / 4, 1 / 2, 1.0)), ((2 / 3, 1.0), (1 / 3, 2 / 3, 1.0))
USUAL = [
    *(Usual(name, _IMAGE_SCALES) for name in ("flux", "flux2", "z-image", "qwen-image", "sd3.5")),
    Usual("sdxl", _IMAGE_SCALES, spacing="leading"),
    *(Usual(name, _VIDEO_SCALES) for name in ("wan", "wan-14b")),
]

# FLUX.1-schnell has no shift; FLUX.2-klein's mu is that of 4096 tokens and 4 steps. Distilled LoRAs ("lightning", "turbo",
# "hyper") run on their base model's grid where their cards name no other: Qwen-Image's has a shift of 3, XL's trailing
# timesteps, where a small delta leaves no coarse step.
_HALF, _DELTAS = ((1 / 2, 1.0),), (0.001, 0.01, 0.03)
FEW_STEPS = [
    Usual("flux", _HALF, _DELTAS, "FLUX.1-schnell", 4, 1.0),
    Usual("flux", _HALF, _DELTAS, "FLUX.1-dev, 8-step LoRA", 8),
    Usual("flux2", _HALF, _DELTAS, "FLUX.2-klein", 4, math.exp(2.29110)),
    Usual("z-image", _HALF, _DELTAS, "Z-Image-Turbo", 8, 3.0),
    Usual("qwen-image", _HALF, _DELTAS, "Qwen-Image-Lightning", 4, 3.0),
    Usual("qwen-image", _HALF, _DELTAS, "Qwen-Image-Lightning", 8, 3.0),
    Usual("sd3.5", _HALF, _DELTAS, "Stable Diffusion 3.5 Large Turbo", 4),
    Usual("sdxl", _HALF, _DELTAS[1:], "SDXL-Lightning", 4, spacing="trailing"),
    Usual("sdxl", _HALF, _DELTAS[1:], "SDXL-Lightning", 8, spacing="trailing"),
    Usual("wan-14b", ((2 / 3, 1.0),), _DELTAS, "Wan2.1-T2V-14B, 4-step LoRA", 4),
]


def usual_plans() -> list[dict[str, str | int]]:
    """Predicted speedups, from the full count, of every model as it is usually run."""
    return [
        plan_row(usual, scales, delta)
        for usual in (*USUAL, *FEW_STEPS)
        for scales in usual.scales
        for delta in usual.deltas
    ]


def plan_row(usual: Usual, scales: tuple[float, ...], delta: float) -> dict[str, str | int]:
    """One plan of one model as the results file has it."""
    label, preset, grid, _ = usual.known
    plan = make_plan(
        usual.times,
        PRESETS[preset],
        grid,
        scales=scales,
        delta=delta,
        multiple_of=2,
        cost=usual.cost,
        unreached="force",
    )
    return {
        "model": usual.label or label,
        "latent": "x".join(map(str, grid)),
        "steps": plan.nfe,
        "delta": f"{delta:g}",
        "stages": " ".join("x".join(map(str, shape)) for shape in plan.shapes),
        "split": "+".join(map(str, plan.split)),
        "spectrum": PRESETS[preset].kind,
        "predicted_speedup": f"{plan.speedup():.2f}",
    }


def _write(path: Path, rows: list[dict[str, str | int]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values())


def cost_row(name: str, grid: Grid) -> dict[str, str | int]:
    """One forward pass of a model on a latent grid, as the results file has it."""
    model, flops = MODELS[name], forward_flops(name, grid)
    return {
        "model": model.label,
        "parameters": sum(p.numel() for p in _on_meta(name).parameters()),
        "text_tokens": model.text_tokens,
        "passes": model.passes,
        "latent": "x".join(map(str, grid)),
        "linear_tflop": f"{flops.linear / 1e12:.3f}",
        "attention_tflop": f"{flops.attention / 1e12:.3f}",
        "total_tflop": f"{flops.total / 1e12:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of cost.csv and usual_plans.csv")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "cost.csv", [cost_row(name, grid) for name, grids in TABLE.items() for grid in grids])
    _write(out / "usual_plans.csv", usual_plans())


if __name__ == "__main__":
    main()
