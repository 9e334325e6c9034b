"""Tiny random models of every supported family behind their real diffusers pipeline classes, on the CPU in float32.

Text encoders are left out: calls pass embeddings. Random weights have a constant gain in the output layer, so that
velocities are of order one and a wrong input shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

TEXT = 6  # tokens of a prompt


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module = build().eval().requires_grad_(False)
        for name, parameter in module.named_parameters():
            # Modulation and output layers start at zero in some families, which would hide time and text; the padding
            # tokens of Z-Image start as they are found in memory.
            if not parameter.any() or name.endswith("pad_token"):
                parameter.normal_(std=0.05)
    return module


def embeddings(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image_autoencoder(latent_channels: int = 4) -> Any:
    return seeded(
        lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            latent_channels=latent_channels,
            norm_num_groups=2,
            layers_per_block=1,
            mid_block_add_attention=False,
            scaling_factor=0.36,
            shift_factor=0.12,
        )
    )


def _video_autoencoder(cls: Any) -> Any:
    return seeded(lambda: cls(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1))


@dataclass(frozen=True)
class Family:
    """One family: its pipeline, the call's arguments for a batch, and facts of the output.

    Attributes
    ----------
    build
        Returns a fresh pipeline.
    prompt
        ``prompt(batch, guided)``: embeddings and guidance arguments.
    output
        Field of the output object.
    size
        Extra arguments naming the size beside height and width.
    """

    name: str
    build: Callable[[], Any]
    prompt: Callable[[int, bool], dict[str, Any]]
    output: str = "images"
    size: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def pipe(self) -> Any:
        return _pipe(self)

    def arguments(self, batch: int = 1, *, guided: bool = True, **changes: Any) -> dict[str, Any]:
        """Arguments of one call, 128 x 128 pixels (a latent of 16 x 16), 6 steps, no autoencoder."""
        base = {"height": 128, "width": 128, "num_inference_steps": 6, "output_type": "latent"}
        return {**base, **dict(self.size), **self.prompt(batch, guided), **changes}


@cache
def _pipe(family: Family) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _dynamic() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )


def flux() -> Any:
    transformer = seeded(
        lambda: diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
    )
    return diffusers.FluxPipeline(
        scheduler=_dynamic(),
        vae=image_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


def _flux_prompt(batch: int, guided: bool) -> dict[str, Any]:
    arguments = {
        "prompt_embeds": embeddings(batch, TEXT, 24, seed=1),
        "pooled_prompt_embeds": embeddings(batch, 20, seed=2),
    }
    if guided:
        arguments |= {
            "negative_prompt_embeds": embeddings(batch, TEXT, 24, seed=3),
            "negative_pooled_prompt_embeds": embeddings(batch, 20, seed=4),
            "true_cfg_scale": 2.5,
        }
    return arguments


def _flux2(cls: Any, **config: Any) -> Any:
    transformer = seeded(
        lambda: diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            **({} if cls is diffusers.Flux2Pipeline else {"guidance_embeds": False}),
        )
    )
    vae = seeded(
        lambda: diffusers.AutoencoderKLFlux2(
            block_out_channels=(4, 4, 4, 4),
            latent_channels=4,
            norm_num_groups=2,
            layers_per_block=1,
            mid_block_add_attention=False,
        )
    )
    vae.bn.running_mean.normal_(generator=torch.Generator().manual_seed(5))
    vae.bn.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(6))
    return cls(scheduler=_dynamic(), vae=vae, text_encoder=None, tokenizer=None, transformer=transformer, **config)


def _flux2_prompt(batch: int, guided: bool) -> dict[str, Any]:
    return {"prompt_embeds": embeddings(batch, TEXT, 24, seed=1), "guidance_scale": 4.0 if guided else 1.0}


def _klein_prompt(batch: int, guided: bool) -> dict[str, Any]:
    negative = {"negative_prompt_embeds": embeddings(batch, TEXT, 24, seed=3)} if guided else {}
    return {**_flux2_prompt(batch, guided), **negative}


def z_image() -> Any:
    transformer = seeded(
        lambda: diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=48,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=3,
            n_kv_heads=3,
            cap_feat_dim=24,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 64, 64],
        )
    )
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=image_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )


def _z_image_prompt(batch: int, guided: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "prompt_embeds": list(embeddings(batch, TEXT, 24, seed=1)),
        "guidance_scale": 3.0 if guided else 0.0,
    }
    if guided:
        # Another number of tokens in the negative prompt, as real prompts have.
        arguments["negative_prompt_embeds"] = list(embeddings(batch, TEXT - 2, 24, seed=3))
    return arguments


def wan(*, experts: bool = False) -> Any:
    def network() -> Any:
        return diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=24,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=64,
        )

    transformer = seeded(network)
    second = None
    if experts:
        second = seeded(network)
        second.proj_out.weight.neg_()
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=_video_autoencoder(diffusers.AutoencoderKLWan),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=transformer,
        transformer_2=second,
        boundary_ratio=0.7 if experts else None,
    )


def _wan_prompt(batch: int, guided: bool) -> dict[str, Any]:
    return {
        "prompt_embeds": embeddings(batch, TEXT, 24, seed=1),
        "negative_prompt_embeds": embeddings(batch, TEXT, 24, seed=3),
        "guidance_scale": 4.0 if guided else 1.0,
    }


def qwen_image() -> Any:
    transformer = seeded(
        lambda: diffusers.QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 6, 6),
        )
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )
    return diffusers.QwenImagePipeline(
        scheduler=scheduler,
        vae=_video_autoencoder(diffusers.AutoencoderKLQwenImage),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )


def _qwen_prompt(batch: int, guided: bool) -> dict[str, Any]:
    mask = torch.ones(batch, TEXT, dtype=torch.int64)
    if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 37):
        mask[:, -1] = 0  # a padded prompt, which older ones take only where another one of the batch is longer
    arguments = {"prompt_embeds": embeddings(batch, TEXT, 24, seed=1), "prompt_embeds_mask": mask}
    if guided:
        arguments |= {
            "negative_prompt_embeds": embeddings(batch, TEXT, 24, seed=3),
            "negative_prompt_embeds_mask": mask,
            "true_cfg_scale": 3.0,
        }
    return arguments


def sd3() -> Any:
    transformer = seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=24,
            pos_embed_max_size=24,
        )
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _sd3_prompt(batch: int, guided: bool) -> dict[str, Any]:
    return {
        "prompt_embeds": embeddings(batch, TEXT, 32, seed=1),
        "pooled_prompt_embeds": embeddings(batch, 24, seed=2),
        "negative_prompt_embeds": embeddings(batch, TEXT, 32, seed=3),
        "negative_pooled_prompt_embeds": embeddings(batch, 24, seed=4),
        "guidance_scale": 4.0 if guided else 1.0,
    }


FLUX = Family("FLUX.1", flux, _flux_prompt)
FLUX2 = Family("FLUX.2", lambda: _flux2(diffusers.Flux2Pipeline), _flux2_prompt)
KLEIN = Family("FLUX.2-klein", lambda: _flux2(diffusers.Flux2KleinPipeline, is_distilled=False), _klein_prompt)
Z_IMAGE = Family("Z-Image", z_image, _z_image_prompt)
WAN = Family("WAN", wan, _wan_prompt, output="frames", size=(("num_frames", 5),))
QWEN = Family("Qwen-Image", qwen_image, _qwen_prompt)
SD3 = Family("SD3", sd3, _sd3_prompt)
FAMILIES = tuple(
    family
    for family in (FLUX, FLUX2, KLEIN, Z_IMAGE, WAN, QWEN, SD3)
    if family is not KLEIN or hasattr(diffusers, "Flux2KleinPipeline")  # new in diffusers 0.37
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
