"""Tiny random models of every supported family behind their real diffusers pipeline classes, on the CPU in float32.

Text encoders are left out: calls pass embeddings. Random weights have a constant gain in the output layer, so that
velocities are of order one and a wrong input shows.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

VERSION = tuple(map(int, diffusers.__version__.split(".")[:2]))
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
        Further arguments of every call.
    sized
        Whether the call takes height and width.
    splits
        Whether a batch of two can be called as two batches of one, each with a generator.
    adapts
        Whether its network takes a LoRA in diffusers.
    """

    name: str
    build: Callable[[], Any]
    prompt: Callable[[int, bool], dict[str, Any]]
    output: str = "images"
    size: tuple[tuple[str, Any], ...] = ()
    sized: bool = True
    splits: bool = True
    adapts: bool = True

    def __str__(self) -> str:
        return self.name

    def item(self, name: str, value: Any, i: int) -> Any:
        """Item `i` of an argument for a batch of two."""
        if name == "prompt_embeds_llama3" or name == "negative_prompt_embeds_llama3":
            return value[:, i : i + 1]
        if "cu_seqlens" in name:
            return value[:2]
        if name == "batch_size":
            return 1
        many = isinstance(value, torch.Tensor) or (isinstance(value, list) and name not in ("image", "image_latents"))
        return value[i : i + 1] if many and len(value) == 2 else value

    @property
    def pipe(self) -> Any:
        return _pipe(self)

    def arguments(self, batch: int = 1, *, guided: bool = True, **changes: Any) -> dict[str, Any]:
        """Arguments of one call, 128 x 128 pixels (a latent of 16 x 16), 6 steps, no autoencoder."""
        size = {name: changes.pop(name, 128) for name in ("height", "width")}
        known = {**size, "steps": changes.get("num_inference_steps", 6)}
        wanted = inspect.signature(self.prompt).parameters
        return {
            **(size if self.sized else {}),
            "num_inference_steps": 6,
            **({} if self.output == "latents" else {"output_type": "latent"}),
            **dict(self.size),
            **self.prompt(batch, guided, **{name: value for name, value in known.items() if name in wanted}),
            **changes,
        }


@cache
def _pipe(family: Family) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipe = family.build()
        except Exception as error:
            if VERSION >= (0, 42):
                raise
            pytest.skip(f"diffusers {diffusers.__version__} has no such pipeline: {error}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _dynamic() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )


MMDIT = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
FLUX_CONFIG = {**MMDIT, "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": (4, 6, 6)}


def flux() -> Any:
    transformer = seeded(lambda: diffusers.FluxTransformer2DModel(in_channels=16, guidance_embeds=True, **FLUX_CONFIG))
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
            **MMDIT,
            in_channels=16,
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


def z_image(**config: Any) -> Any:
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
            **config,
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


WAN_CONFIG = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=24, freq_dim=16, ffn_dim=32,
    num_layers=2, rope_max_seq_len=64,
)  # fmt: skip
FRAMES = (("num_frames", 5),)


def wan(*, experts: bool = False) -> Any:
    def network() -> Any:
        return diffusers.WanTransformer3DModel(**WAN_CONFIG)

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


QWEN_CONFIG = dict(
    in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
    axes_dims_rope=(4, 6, 6),
)  # fmt: skip


def qwen_image(**config: Any) -> Any:
    transformer = seeded(lambda: diffusers.QwenImageTransformer2DModel(**{**QWEN_CONFIG, "num_layers": 2}, **config))
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
    if VERSION >= (0, 37):
        mask[:, -1] = 0  # a padded prompt, which older ones take only where another one of the batch is longer
    arguments = {"prompt_embeds": embeddings(batch, TEXT, 24, seed=1), "prompt_embeds_mask": mask}
    if guided:
        arguments |= {
            "negative_prompt_embeds": embeddings(batch, TEXT, 24, seed=3),
            "negative_prompt_embeds_mask": mask,
            "true_cfg_scale": 3.0,
        }
    return arguments


def sd3(channels: int = 4, latent: int = 4) -> Any:
    transformer = seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=32,
            in_channels=channels,
            out_channels=latent,
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
        vae=image_autoencoder(latent),
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


def assembled(name: str, **components: Any) -> Any:
    """A pipeline of that class from some components; the others, text encoders among them, are None."""
    cls = getattr(diffusers, name)
    names = [n for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self" and p.default is p.empty]
    return cls(**{n: components.pop(n, None) for n in names}, **components)


def of_flux(name: str, channels: int = 16, **components: Any) -> Callable[[], Any]:
    def build() -> Any:
        transformer = seeded(
            lambda: diffusers.FluxTransformer2DModel(
                in_channels=channels, out_channels=16, guidance_embeds=True, **FLUX_CONFIG
            )
        )
        made = {key: value() for key, value in components.items()}
        return assembled(name, scheduler=_dynamic(), vae=image_autoencoder(), transformer=transformer, **made)

    return build


def _flux_controlnet() -> Any:
    return seeded(lambda: diffusers.FluxControlNetModel(in_channels=16, guidance_embeds=True, **FLUX_CONFIG))


def picture(batch: int, *, seed: int, height: int = 128, width: int = 128) -> torch.Tensor:
    """Smooth pictures in [0, 1]."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def pil(seed: int, height: int = 128, width: int = 128) -> Any:
    from PIL import Image

    return Image.fromarray((picture(1, seed=seed, height=height, width=width)[0].permute(1, 2, 0) * 255).byte().numpy())


def hole(batch: int, height: int = 128, width: int = 128) -> torch.Tensor:
    mask = torch.zeros(batch, 1, height, width)
    mask[..., height // 4 : height // 2, width // 8 : width // 2] = 1
    return mask


def with_pictures(
    prompt: Callable[[int, bool], dict[str, Any]], *names: str, guided: bool = True, **more: Any
) -> Callable[..., dict[str, Any]]:
    """`prompt` with pictures, and masks, of the call's size; without guidance where the pipeline has none."""

    def arguments(batch: int, with_guidance: bool, height: int = 128, width: int = 128) -> dict[str, Any]:
        made = {
            name: hole(batch, height, width) if "mask" in name else picture(batch, seed=i, height=height, width=width)
            for i, name in enumerate(names, 1)
        }
        return {**prompt(batch, with_guidance and guided), **made, **more}

    return arguments


FLUX = Family("FLUX.1", flux, _flux_prompt)
FLUX2 = Family("FLUX.2", lambda: _flux2(diffusers.Flux2Pipeline), _flux2_prompt)
KLEIN = Family("FLUX.2-klein", lambda: _flux2(diffusers.Flux2KleinPipeline, is_distilled=False), _klein_prompt)
Z_IMAGE = Family("Z-Image", z_image, _z_image_prompt)
WAN = Family("WAN", wan, _wan_prompt, output="frames", size=FRAMES)
QWEN = Family("Qwen-Image", qwen_image, _qwen_prompt)
SD3 = Family("SD3", sd3, _sd3_prompt)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KONTEXT = Family(
    "FLUX.1 Kontext",
    of_flux("FluxKontextPipeline"),
    with_pictures(_flux_prompt, "image", _auto_resize=False, max_area=128 * 128),
)
FILL = Family(
    "FLUX.1 Fill", of_flux("FluxFillPipeline", 288), with_pictures(_flux_prompt, "image", "mask_image", guided=False)
)
CONTROL = Family(
    "FLUX.1 Control", of_flux("FluxControlPipeline", 32), with_pictures(_flux_prompt, "control_image", guided=False)
)
FLUX_I2I = Family(
    "FLUX.1 image to image", of_flux("FluxImg2ImgPipeline"), with_pictures(_flux_prompt, "image", strength=0.8)
)
FLUX_INPAINT = Family(
    "FLUX.1 inpaint", of_flux("FluxInpaintPipeline"), with_pictures(_flux_prompt, "image", "mask_image", strength=0.8)
)
FLUX_CN = Family(
    "FLUX.1 ControlNet",
    of_flux("FluxControlNetPipeline", controlnet=_flux_controlnet),
    with_pictures(_flux_prompt, "control_image"),
)

FLUX_CI2I = Family(
    "FLUX.1 Control image to image",
    of_flux("FluxControlImg2ImgPipeline", 32),
    with_pictures(_flux_prompt, "image", "control_image", guided=False, strength=0.8),
)
FLUX_CINP = Family(
    "FLUX.1 Control inpaint",
    of_flux("FluxControlInpaintPipeline", 32),
    with_pictures(_flux_prompt, "image", "control_image", "mask_image", guided=False, strength=0.8),
)
FLUX_CNI2I = Family(
    "FLUX.1 ControlNet image to image",
    of_flux("FluxControlNetImg2ImgPipeline", controlnet=_flux_controlnet),
    with_pictures(_flux_prompt, "image", "control_image", guided=False, strength=0.8),
)
FLUX_CNINP = Family(
    "FLUX.1 ControlNet inpaint",
    of_flux("FluxControlNetInpaintPipeline", controlnet=_flux_controlnet),
    with_pictures(_flux_prompt, "image", "control_image", "mask_image", guided=False, strength=0.8),
)
FLUX_KINP = Family(
    "FLUX.1 Kontext inpaint",
    of_flux("FluxKontextInpaintPipeline"),
    with_pictures(_flux_prompt, "image", "mask_image", strength=0.8, _auto_resize=False, max_area=128 * 192),
)
FLUX2_REF = Family(
    "FLUX.2 with references", FLUX2.build, lambda b, g: {**_flux2_prompt(b, g), "image": [pil(1, 64, 96)]}
)
KLEIN_REF = Family(
    "FLUX.2-klein with references",
    KLEIN.build,
    lambda b, g: {**_klein_prompt(b, g), "image": [pil(1, 64, 96), pil(2, 96, 64)]},
)
KLEIN_INP = Family(
    "FLUX.2-klein inpaint",
    lambda: _flux2(diffusers.Flux2KleinInpaintPipeline, is_distilled=False),
    with_pictures(_klein_prompt, "image", "mask_image", strength=0.8),
)
KLEIN_KV = Family(
    "FLUX.2-klein KV",
    lambda: _flux2(diffusers.Flux2KleinKVPipeline),
    lambda b, g: {"prompt_embeds": _flux2_prompt(b, g)["prompt_embeds"], "image": [pil(1, 64, 96)]},
)


def _z(name, **c):
    def build():
        z = z_image()
        return assembled(
            name,
            scheduler=z.scheduler,
            vae=z.vae,
            transformer=c.pop("transformer", lambda: z.transformer)(),
            **{k: v() for k, v in c.items()},
        )

    return build


Z_I2I = Family(
    "Z-Image image to image", _z("ZImageImg2ImgPipeline"), with_pictures(_z_image_prompt, "image", strength=0.8)
)
Z_INP = Family(
    "Z-Image inpaint", _z("ZImageInpaintPipeline"), with_pictures(_z_image_prompt, "image", "mask_image", strength=0.8)
)


def _sd3_of(name, *channels, **c):
    def build():
        z = sd3(*channels)
        return assembled(
            name, scheduler=z.scheduler, vae=z.vae, transformer=z.transformer, **{k: v() for k, v in c.items()}
        )

    return build


SD3_I2I = Family(
    "SD3 image to image", _sd3_of("StableDiffusion3Img2ImgPipeline"), with_pictures(_sd3_prompt, "image", strength=0.8)
)
SD3_INP = Family(
    "SD3 inpaint",
    _sd3_of("StableDiffusion3InpaintPipeline", 16, 16),
    with_pictures(_sd3_prompt, "image", "mask_image", strength=0.8),
)

SD3_INP33 = Family(
    "SD3 inpaint, 33 channels",
    _sd3_of("StableDiffusion3InpaintPipeline", 33, 16),
    with_pictures(_sd3_prompt, "image", "mask_image", strength=0.8),
)
SD3_INP1 = Family(
    "SD3 inpaint full",
    _sd3_of("StableDiffusion3InpaintPipeline", 16, 16),
    with_pictures(_sd3_prompt, "image", "mask_image", strength=1.0),
)


def _sd3_cn(extra: int = 0):
    return seeded(
        lambda: diffusers.SD3ControlNetModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=24,
            extra_conditioning_channels=extra,
        )
    )


SD3_CN = Family(
    "SD3 ControlNet",
    _sd3_of("StableDiffusion3ControlNetPipeline", controlnet=_sd3_cn),
    with_pictures(_sd3_prompt, "control_image"),
    splits=False,
)


def _qwen_of(name, **c):
    def build():
        module = sys.modules[getattr(diffusers, name).__module__]
        if hasattr(module, "calculate_dimensions"):  # reference pictures of a million pixels take minutes here
            module.calculate_dimensions = lambda area, ratio: (128, 96, None)[
                : 2 if "Plus" in name or "Layered" in name else 3
            ]
        z = qwen_image(**c.pop("qwen", {}))
        return assembled(
            name, scheduler=z.scheduler, vae=z.vae, transformer=z.transformer, **{k: v() for k, v in c.items()}
        )

    return build


QWEN_EDIT = Family(
    "Qwen-Image Edit", _qwen_of("QwenImageEditPipeline"), lambda b, g: {**_qwen_prompt(b, g), "image": pil(1, 64, 96)}
)
QWEN_PLUS = Family(
    "Qwen-Image Edit Plus",
    _qwen_of("QwenImageEditPlusPipeline"),
    lambda b, g: {**_qwen_prompt(b, g), "image": [pil(1, 64, 96), pil(2, 96, 64)]},
    splits=False,
)
QWEN_I2I = Family(
    "Qwen-Image image to image",
    _qwen_of("QwenImageImg2ImgPipeline"),
    with_pictures(_qwen_prompt, "image", strength=0.8),
)
QWEN_INP = Family(
    "Qwen-Image inpaint",
    _qwen_of("QwenImageInpaintPipeline"),
    with_pictures(_qwen_prompt, "image", "mask_image", strength=0.8),
)
QWEN_EINP = Family(
    "Qwen-Image Edit inpaint",
    _qwen_of("QwenImageEditInpaintPipeline"),
    lambda b, g, height=128, width=128: {
        **_qwen_prompt(b, g),
        "image": pil(1, height, width),
        "mask_image": pil(2, height, width),
        "strength": 0.8,
    },
    splits=False,
)


def _captioned(build):
    def built():
        pipe = build()
        pipe.get_image_caption = lambda *args, **rest: "a cat"
        return pipe

    return built


QWEN_LAYERED = Family(
    "Qwen-Image Layered",
    _captioned(
        _qwen_of(
            "QwenImageLayeredPipeline",
            text_encoder=image_autoencoder,
            qwen=dict(use_additional_t_cond=True, use_layer3d_rope=True),
        )
    ),
    lambda b, g: {**_qwen_prompt(b, g), "image": pil(1, 64, 96), "layers": 2, "output_type": "pt"},
    sized=False,
    splits=False,
)


def _qwen_cn(extra: int = 0):
    return seeded(lambda: diffusers.QwenImageControlNetModel(extra_condition_channels=extra, **QWEN_CONFIG))


QWEN_CN = Family(
    "Qwen-Image ControlNet",
    _qwen_of("QwenImageControlNetPipeline", controlnet=_qwen_cn),
    with_pictures(_qwen_prompt, "control_image"),
)


def _wan_of(name, channels=16, **c):
    def build():
        z = wan()
        n = c.get("network")
        t = z.transformer if n is None else n()
        return assembled(
            name, scheduler=z.scheduler, vae=z.vae, transformer=t, **{k: v for k, v in c.items() if k != "network"}
        )

    return build


def _wan_net(channels, **c):
    return seeded(lambda: diffusers.WanTransformer3DModel(**{**WAN_CONFIG, "in_channels": channels, **c}))


WAN_I2V = Family(
    "WAN i2v",
    _wan_of("WanImageToVideoPipeline", network=lambda: _wan_net(36)),
    lambda b, g, height=128, width=128: {**_wan_prompt(b, g), "image": pil(1, height, width)},
    output="frames",
    size=FRAMES,
)
WAN_5B = Family("WAN 5B t2v", _wan_of("WanPipeline", expand_timesteps=True), _wan_prompt, output="frames", size=FRAMES)
WAN_5B_I2V = Family(
    "WAN 5B i2v",
    _wan_of("WanImageToVideoPipeline", expand_timesteps=True),
    lambda b, g, height=128, width=128: {**_wan_prompt(b, g), "image": pil(1, height, width)},
    output="frames",
    size=FRAMES,
)


def _video(batch, guided, height=128, width=128):
    return {**_wan_prompt(batch, guided), "video": [pil(i, height, width) for i in range(5)]}


WAN_V2V = Family("WAN v2v", _wan_of("WanVideoToVideoPipeline"), _video, output="frames")
WAN_VACE = Family(
    "WAN VACE",
    _wan_of(
        "WanVACEPipeline",
        network=lambda: seeded(
            lambda: diffusers.WanVACETransformer3DModel(**WAN_CONFIG, vace_layers=[0], vace_in_channels=96)
        ),
    ),
    _wan_prompt,
    output="frames",
    size=FRAMES,
    splits=False,
)
WAN_VACE2 = Family(
    "WAN VACE with a video",
    WAN_VACE.build,
    lambda b, g, height=128, width=128: {**_video(b, g, height, width), "mask": [pil(9, height, width)] * 5},
    output="frames",
    size=FRAMES,
    splits=False,
)


class _Length:
    model_max_length = 512
    image_processor = None


def made(name, transformer, *, vae=None, scheduler=None, **components):
    """A builder of a pipeline around one tiny network."""

    def build():
        return assembled(
            name,
            scheduler=(scheduler or diffusers.FlowMatchEulerDiscreteScheduler)(),
            vae=(vae or image_autoencoder)(),
            transformer=seeded(transformer),
            **{k: v() if callable(v) else v for k, v in components.items()},
        )

    return build


def prompts(
    *shapes, guidance="guidance_scale", strength=4.0, off=1.0, masks=(), negative=True, mask_type=torch.int64, **more
):
    """Embeddings by name and width, (tokens, width) or (width,), with their negatives."""

    def arguments(batch, guided):
        made = {}
        for i, (name, *shape) in enumerate(shapes, 1):
            made[name] = embeddings(batch, *shape, seed=i)
            if negative and guided:
                made["negative_" + name] = embeddings(batch, *shape, seed=10 + i)
        for name in masks:
            made[name] = torch.ones(batch, TEXT, dtype=mask_type)
            if negative and guided:
                made["negative_" + name] = torch.ones(batch, TEXT, dtype=mask_type)
        return {**made, **more, **({guidance: strength if guided else off} if guidance else {})}

    return arguments


CHROMA_CONFIG = dict(
    **MMDIT,
    in_channels=16,
    joint_attention_dim=24,
    axes_dims_rope=(4, 6, 6),
    approximator_hidden_dim=32,
    approximator_layers=1,
    approximator_num_channels=16,
)
_chroma_prompt = prompts(("prompt_embeds", TEXT, 24), masks=("prompt_attention_mask",), mask_type=torch.float32)


def _chroma(name):
    return made(name, lambda: diffusers.ChromaTransformer2DModel(**CHROMA_CONFIG), scheduler=_dynamic)


CHROMA = Family("Chroma", _chroma("ChromaPipeline"), _chroma_prompt)
CHROMA_I2I = Family(
    "Chroma image to image", _chroma("ChromaImg2ImgPipeline"), with_pictures(_chroma_prompt, "image", strength=0.8)
)


def _chroma_inpaint():
    pipe = _chroma("ChromaInpaintPipeline")()
    pipe.transformer.register_to_config(guidance_embeds=False)  # which diffusers 0.42 reads and its own network lacks
    return pipe


CHROMA_INP = Family(
    "Chroma inpaint", _chroma_inpaint, with_pictures(_chroma_prompt, "image", "mask_image", strength=0.8)
)


def _encoding(build, encode):
    """A pipeline whose call encodes text itself, with embeddings of the prompts in the encoder's place."""

    def built():
        pipe = build()
        pipe.encode_prompt = encode.__get__(pipe)
        return pipe

    return built


def _longcat_encode(self, prompt, prompt_embeds=None, **rest):
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    ids = torch.zeros(TEXT, 3)
    ids[:, 1] = ids[:, 2] = torch.arange(TEXT)
    return torch.cat([embeddings(1, TEXT, 24, seed=len(text)) for text in texts]), ids


def words(batch, guided, *, name="guidance_scale", strength=4.0, off=1.0):
    """Prompts as text, for pipelines that encode no embeddings."""
    return {
        "prompt": ["a cat", "a lighthouse"][:batch],
        **({"negative_prompt": ["fog", "some rain"][:batch]} if guided else {}),
        name: strength if guided else off,
    }


def _longcat(name, **components):
    return _encoding(
        made(
            name,
            lambda: diffusers.LongCatImageTransformer2DModel(
                **{**FLUX_CONFIG, "in_channels": 64, "pooled_projection_dim": 24}
            ),
            vae=lambda: image_autoencoder(16),
            scheduler=_dynamic,
            text_encoder=image_autoencoder,
            tokenizer=_Length,
            **components,
        ),
        _longcat_encode,
    )


def _longcat_edit():
    module = sys.modules[diffusers.LongCatImageEditPipeline.__module__]
    module.calculate_dimensions = lambda area, ratio: (128, 96)  # of a million pixels in diffusers
    return _longcat("LongCatImageEditPipeline", text_processor=_Length)()


LONGCAT = Family("LongCat-Image", _longcat("LongCatImagePipeline"), words, size=(("enable_prompt_rewrite", False),))
LONGCAT_EDIT = Family(
    "LongCat-Image Edit",
    _longcat_edit,
    lambda b, g: {**words(b, g), "image": pil(1, 64, 96)},
    sized=False,
    splits=False,
)
OVIS = Family(
    "Ovis-Image",
    made(
        "OvisImagePipeline",
        lambda: diffusers.OvisImageTransformer2DModel(
            **MMDIT, in_channels=16, out_channels=16, joint_attention_dim=24, axes_dims_rope=(4, 6, 6)
        ),
        scheduler=_dynamic,
    ),
    prompts(("prompt_embeds", TEXT, 24), negative_prompt=None),
)
KREA2 = Family(
    "Krea 2",
    made(
        "Krea2Pipeline",
        lambda: diffusers.Krea2Transformer2DModel(
            in_channels=64,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
            timestep_embed_dim=8,
            text_hidden_dim=16,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
            rope_theta=1000.0,
        ),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLQwenImage),
        scheduler=_dynamic,
        text_encoder_select_layers=(0, 1, 2),
    ),
    prompts(("prompt_embeds", TEXT, 3, 16), masks=("prompt_embeds_mask",), mask_type=torch.bool, off=0.0),
)
HUNYUAN_CONFIG = dict(
    in_channels=16,
    out_channels=16,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=1,
    num_single_layers=1,
    num_refiner_layers=1,
    patch_size=2,
    patch_size_t=1,
    guidance_embeds=True,
    text_embed_dim=16,
    pooled_projection_dim=8,
    rope_axes_dim=(2, 4, 4),
)


def _hunyuan_vae():
    return seeded(
        lambda: diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=16,
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            norm_num_groups=2,
            mid_block_add_attention=False,
        )
    )


_hunyuan_prompt = prompts(
    ("prompt_embeds", TEXT, 16),
    ("pooled_prompt_embeds", 8),
    masks=("prompt_attention_mask",),
    guidance="true_cfg_scale",
)


def _hunyuan(name, **c):
    return made(
        name,
        lambda: diffusers.HunyuanVideoTransformer3DModel(**{**HUNYUAN_CONFIG, **c}),
        vae=_hunyuan_vae,
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


HUNYUAN = Family("HunyuanVideo", _hunyuan("HunyuanVideoPipeline"), _hunyuan_prompt, output="frames", size=FRAMES)
HUNYUAN_SKY = Family(
    "HunyuanVideo SkyReels i2v",
    _hunyuan("HunyuanSkyreelsImageToVideoPipeline", in_channels=32),
    with_pictures(_hunyuan_prompt, "image"),
    output="frames",
    size=FRAMES,
)
HUNYUAN_I2V = Family(
    "HunyuanVideo i2v, concat",
    _hunyuan("HunyuanVideoImageToVideoPipeline", in_channels=33, image_condition_type="latent_concat"),
    with_pictures(_hunyuan_prompt, "image"),
    output="frames",
    size=FRAMES,
)
HUNYUAN_I2V2 = Family(
    "HunyuanVideo i2v, token",
    _hunyuan("HunyuanVideoImageToVideoPipeline", image_condition_type="token_replace"),
    with_pictures(_hunyuan_prompt, "image"),
    output="frames",
    size=FRAMES,
)


def _hunyuan15_vae():
    return seeded(
        lambda: diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            spatial_compression_ratio=8,
            temporal_compression_ratio=4,
            downsample_match_channel=False,
            upsample_match_channel=False,
        )
    )


_h15_prompt = prompts(
    ("prompt_embeds", TEXT, 16),
    ("prompt_embeds_2", TEXT, 12),
    masks=("prompt_embeds_mask", "prompt_embeds_mask_2"),
    guidance="",
)


def _always_guided(prompt):
    return lambda batch, guided: prompt(batch, True)


def _h15(name, **config):
    return made(
        name,
        lambda: diffusers.HunyuanVideo15Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            patch_size=1,
            patch_size_t=1,
            text_embed_dim=16,
            text_embed_2_dim=12,
            image_embed_dim=12,
            rope_axes_dim=(2, 2, 4),
            **{"in_channels": 9, "out_channels": 4, "target_size": 16, "task_type": "t2v", **config},
        ),
        vae=_hunyuan15_vae,
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=lambda: diffusers.ClassifierFreeGuidance(guidance_scale=4.0),
    )


HUNYUAN15 = Family(
    "HunyuanVideo 1.5", _h15("HunyuanVideo15Pipeline"), _always_guided(_h15_prompt), output="frames", size=FRAMES
)


def _hi_vae():
    return seeded(
        lambda: diffusers.AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            scaling_factor=0.476986,
            spatial_compression_ratio=8,
            sample_size=128,
        )
    )


HUNYUAN_IMAGE = Family(
    "HunyuanImage",
    made(
        "HunyuanImagePipeline",
        lambda: diffusers.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(1, 1),
            guidance_embeds=False,
            text_embed_dim=16,
            text_embed_2_dim=12,
            rope_axes_dim=(4, 4),
        ),
        vae=_hi_vae,
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=lambda: diffusers.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
        ocr_guider=lambda: diffusers.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3),
    ),
    _always_guided(_h15_prompt),
)


def _ltx_vae():
    v = seeded(
        lambda: diffusers.AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, True, False),
            decoder_spatio_temporal_scaling=(True, True, True, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        )
    )
    v.use_framewise_encoding = v.use_framewise_decoding = False
    return v


_ltx_prompt = prompts(("prompt_embeds", TEXT, 16), masks=("prompt_attention_mask",))


def _ltx(name):
    return made(
        name,
        lambda: diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=16,
        ),
        vae=_ltx_vae,
        scheduler=_dynamic,
    )


LTX = Family("LTX-Video", _ltx("LTXPipeline"), _ltx_prompt, output="frames", size=(("num_frames", 17),))
LTX_I2V = Family(
    "LTX-Video i2v",
    _ltx("LTXImageToVideoPipeline"),
    with_pictures(_ltx_prompt, "image"),
    output="frames",
    size=(("num_frames", 17),),
)
LUMINA2 = Family(
    "Lumina 2",
    made(
        "Lumina2Pipeline",
        lambda: diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=16,
            ffn_dim_multiplier=None,
            norm_eps=1e-5,
            scaling_factor=1.0,
            axes_dim_rope=[4, 2, 2],
            axes_lens=[300, 64, 64],
            cap_feat_dim=8,
        ),
        scheduler=_dynamic,
    ),
    prompts(("prompt_embeds", TEXT, 8), masks=("prompt_attention_mask",)),
)


def _cogview4(name, channels):
    return made(
        name,
        lambda: diffusers.CogView4Transformer2DModel(
            patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=4, num_attention_heads=4,
            out_channels=4, text_embed_dim=32, time_embed_dim=8, condition_dim=4,
        ),
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )  # fmt: skip


_cogview4_prompt = prompts(("prompt_embeds", 16, 32))
COGVIEW4 = Family("CogView4", _cogview4("CogView4Pipeline", 4), _cogview4_prompt)
COGVIEW4_C = Family(
    "CogView4 Control",
    _cogview4("CogView4ControlPipeline", 8),
    with_pictures(_cogview4_prompt, "control_image"),
    splits=False,
)
AURA_FLOW = Family(
    "AuraFlow",
    made(
        "AuraFlowPipeline",
        lambda: diffusers.AuraFlowTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ),
    ),
    prompts(("prompt_embeds", TEXT, 32), masks=("prompt_attention_mask",)),
)


def _dc():
    return seeded(
        lambda: diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock",) * 4,
            decoder_block_types=("ResBlock",) * 4,
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            encoder_qkv_multiscales=((),) * 4,
            decoder_qkv_multiscales=((),) * 4,
            encoder_layers_per_block=(1,) * 4,
            decoder_layers_per_block=[1] * 4,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
    )


SANA_CONFIG = dict(
    patch_size=1,
    in_channels=4,
    out_channels=4,
    num_layers=1,
    num_attention_heads=2,
    attention_head_dim=4,
    num_cross_attention_heads=2,
    cross_attention_head_dim=4,
    cross_attention_dim=8,
    caption_channels=8,
    sample_size=32,
)
SANA = Family(
    "Sana",
    made(
        "SanaPipeline",
        lambda: diffusers.SanaTransformer2DModel(**SANA_CONFIG),
        vae=_dc,
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    prompts(("prompt_embeds", TEXT, 8), masks=("prompt_attention_mask",), negative_prompt=None),
    size=(("use_resolution_binning", False),),
)


def _k5(name, vae, **c):
    return made(
        name,
        lambda: diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=16,
            in_text_dim=32,
            in_text_dim2=16,
            time_dim=16,
            out_visual_dim=16,
            patch_size=(1, 2, 2),
            model_dim=16,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=2,
            axes_dims=(1, 1, 2),
            attention_type="regular",
            **c,
        ),
        vae=vae,
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


def _k5_prompt(batch, guided):
    a = prompts(("prompt_embeds_qwen", TEXT, 32), ("prompt_embeds_clip", 16))(batch, guided)
    a["prompt_cu_seqlens"] = torch.arange(batch + 1, dtype=torch.int32) * TEXT
    if guided:
        a["negative_prompt_cu_seqlens"] = a["prompt_cu_seqlens"]
    return a


def _k5_sized(name: str, **config: Any) -> Any:
    pipe = _k5(name, lambda: image_autoencoder(16), **config)()
    pipe.resolutions = [(128, 128), (160, 96), (224, 160), (192, 128)]  # of a million pixels in diffusers
    return pipe


K5_T2I = Family(
    "Kandinsky 5 t2i", lambda: _k5_sized("Kandinsky5T2IPipeline", visual_cond=False), _k5_prompt, output="image"
)
K5_T2V = Family(
    "Kandinsky 5 t2v",
    _k5("Kandinsky5T2VPipeline", _hunyuan_vae, visual_cond=True),
    _k5_prompt,
    output="frames",
    size=FRAMES,
)


def _hidream_prompt(batch, guided):
    a = prompts(("prompt_embeds_t5", TEXT, 32), ("pooled_prompt_embeds", 64))(batch, guided)
    a["prompt_embeds_llama3"] = embeddings(2, batch, TEXT, 16, seed=7)
    if guided:
        a["negative_prompt_embeds_llama3"] = embeddings(2, batch, TEXT, 16, seed=8)
    return a


def _hidream():
    pipe = _hidream_made()
    pipe.default_sample_size = 20  # the call rescales every size to this area
    return pipe


_hidream_made = made(
    "HiDreamImagePipeline",
    lambda: diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    ),
)
HIDREAM = Family("HiDream", _hidream, _hidream_prompt)
PRX_CONFIG = dict(
    patch_size=2, in_channels=4, context_in_dim=8, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1, axes_dim=[2, 2]
)
PRX = Family(
    "PRX",
    made("PRXPipeline", lambda: diffusers.PRXTransformer2DModel(**PRX_CONFIG)),
    prompts(("prompt_embeds", TEXT, 8), masks=("prompt_attention_mask",)),
    size=(("use_resolution_binning", False),),
    splits=False,
    adapts=False,
)


def _pixel():
    return assembled(
        "PRXPixelPipeline",
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=seeded(
            lambda: diffusers.PRXTransformer2DModel(
                **{**PRX_CONFIG, "in_channels": 3}, bottleneck_size=8, resolution_embeds=True
            )
        ),
    )


PRX_PIXEL = Family(
    "PRX pixel",
    _pixel,
    prompts(("prompt_embeds", TEXT, 8), masks=("prompt_attention_mask",)),
    size=(("use_resolution_binning", False),),
    splits=False,
    adapts=False,
)

IDEO_CONFIG = dict(
    in_channels=16,
    num_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    intermediate_size=32,
    adaln_dim=16,
    llm_features_dim=24,
    rope_theta=1000,
    mrope_section=(4, 2, 2),
)


def _ideogram():
    nets = [seeded(lambda: diffusers.Ideogram4Transformer2DModel(**IDEO_CONFIG)) for _ in range(2)]
    pipe = _flux2(diffusers.Flux2Pipeline)
    made = assembled(
        "Ideogram4Pipeline",
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=pipe.vae,
        transformer=nets[0],
        unconditional_transformer=nets[1],
    )
    made.encode_prompt = _ideogram_encode.__get__(made)
    return made


def _ideogram_encode(self, prompt, grid_h, grid_w, max_sequence_length, device):
    texts = [prompt] if isinstance(prompt, str) else prompt
    ids = self._prepare_ids([TEXT] * len(texts), grid_h, grid_w, max_sequence_length, device)
    text = torch.cat([embeddings(1, max_sequence_length, 24, seed=len(text)) for text in texts])
    return torch.cat([text, torch.zeros(len(texts), grid_h * grid_w, 24)], 1), *ids


IDEOGRAM4 = Family(
    "Ideogram 4",
    _ideogram,
    lambda b, g: {
        "prompt": ["a cat", "a lighthouse"][:b],
        "guidance_scale": 4.0 if g else 1.0,
        "guidance_schedule": None,
        "max_sequence_length": 8,
    },
)


def _qwen21():
    vae = seeded(
        lambda: diffusers.AutoencoderKLQwenImage(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False] * 4
        )
    )
    return assembled(
        "QwenImage21Pipeline",
        scheduler=qwen_image().scheduler,
        vae=vae,
        transformer=seeded(
            lambda: diffusers.QwenImage21Transformer2DModel(
                in_channels=16,
                out_channels=16,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                context_in_dim=24,
                axes_dims_rope=(4, 6, 6),
            )
        ),
        processor=_processor(),
    )


class _processor:
    """Only the numbers the pipeline's constructor asks for."""

    def apply_chat_template(self, *args, **rest):
        return [[0]]

    def encode(self, text):
        return [0]

    tokenizer = property(lambda self: self)


def _qwen21_prompt(batch, guided):
    a = _qwen_prompt(batch, guided)
    return {**a, **{k: torch.ones_like(v) for k, v in a.items() if "mask" in k}, "use_kv_cache": False}


QWEN21 = Family("Qwen-Image 2.1", _qwen21, _qwen21_prompt)
QWEN21_KV = Family("Qwen-Image 2.1, cached", _qwen21, lambda b, g: {**_qwen21_prompt(b, g), "use_kv_cache": True})


def _z_cn(channels: int = 4):
    net = seeded(
        lambda: diffusers.ZImageControlNetModel(
            control_layers_places=[0],
            control_refiner_layers_places=[0],
            control_in_dim=channels,
            dim=48,
            n_refiner_layers=1,
            n_heads=3,
            n_kv_heads=3,
            add_control_noise_refiner="control_noise_refiner",
        )
    )
    return net


Z_CN = Family(
    "Z-Image ControlNet",
    _z("ZImageControlNetPipeline", controlnet=_z_cn),
    with_pictures(_z_image_prompt, "control_image"),
)


QWEN_CN_INPAINT = Family(
    "Qwen-Image ControlNet inpaint",
    _qwen_of("QwenImageControlNetInpaintPipeline", controlnet=lambda: _qwen_cn(4)),
    lambda b, g, height=128, width=128: {
        **_qwen_prompt(b, g),
        "control_image": picture(b, seed=1, height=height, width=width),
        "control_mask": hole(b, height, width),
    },
    splits=False,
)
Z_CN_INPAINT = Family(
    "Z-Image ControlNet inpaint",
    _z("ZImageControlNetInpaintPipeline", controlnet=lambda: _z_cn(9)),
    with_pictures(_z_image_prompt, "image", "mask_image", "control_image"),
)
SKYREELS = Family(
    "SkyReels V2",
    made(
        "SkyReelsV2Pipeline",
        lambda: diffusers.SkyReelsV2Transformer3DModel(**WAN_CONFIG),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLWan),
    ),
    _wan_prompt,
    output="frames",
    size=FRAMES,
)
SANA_PAG = Family(
    "Sana perturbed attention",
    made(
        "SanaPAGPipeline",
        lambda: diffusers.SanaTransformer2DModel(**SANA_CONFIG),
        vae=_dc,
        pag_applied_layers=["transformer_blocks.0"],
    ),
    SANA.prompt,
    size=SANA.size,
)
SANA_CN = Family(
    "Sana ControlNet",
    made(
        "SanaControlNetPipeline",
        lambda: diffusers.SanaTransformer2DModel(**SANA_CONFIG),
        vae=_dc,
        controlnet=lambda: seeded(lambda: diffusers.SanaControlNetModel(**SANA_CONFIG)),
    ),
    with_pictures(SANA.prompt, "control_image"),
    size=SANA.size,
    splits=False,
)


def _ltx2() -> Any:
    transformer = seeded(
        lambda: diffusers.LTX2VideoTransformer3DModel(
            in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
            cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
            audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads",
            caption_channels=16, rope_double_precision=False, rope_type="split",
        )
    )  # fmt: skip
    connectors = seeded(
        lambda: diffusers.pipelines.ltx2.connectors.LTX2TextConnectors(
            caption_channels=16, text_proj_in_factor=2, video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8, video_connector_num_layers=1,
            video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_theta=10000.0,
            rope_double_precision=False, causal_temporal_positioning=False, rope_type="split",
        )
    )  # fmt: skip
    vae = seeded(
        lambda: diffusers.AutoencoderKLLTX2Video(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8), layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, True), decoder_spatio_temporal_scaling=(True, True, True),
            decoder_inject_noise=(False,) * 4, downsample_type=("spatiotemporal",) * 3,
            upsample_residual=(False,) * 3, upsample_factor=(1,) * 3, timestep_conditioning=False, patch_size=2,
            patch_size_t=1, encoder_causal=True, decoder_causal=False,
        )
    )  # fmt: skip
    audio = seeded(
        lambda: diffusers.AutoencoderKLLTX2Audio(
            base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
            resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", dropout=0.0,
            mid_block_add_attention=False, sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=8,
        )
    )  # fmt: skip
    return assembled(
        "LTX2Pipeline", scheduler=_dynamic(), vae=vae, audio_vae=audio, connectors=connectors, transformer=transformer,
        tokenizer=_Length(), text_encoder=image_autoencoder(),
    )  # fmt: skip


LTX2 = Family(
    "LTX-2",
    _ltx2,
    lambda b, g: {
        **prompts(("prompt_embeds", TEXT, 32), masks=("prompt_attention_mask",))(b, g),
        "stg_scale": 0.0,
        "modality_scale": 1.0,
        "guidance_rescale": 0.0,
        "audio_guidance_scale": 4.0 if g else 1.0,
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
        "audio_guidance_rescale": 0.0,
        "use_cross_timestep": True,
    },
    output="frames",
    size=(("num_frames", 9), ("frame_rate", 25.0)),
)


def _hunyuan15_i2v() -> Any:
    pipe = _h15("HunyuanVideo15ImageToVideoPipeline", target_size=128, task_type="i2v")()
    pipe._get_image_embeds = lambda **rest: embeddings(1, 3, 12, seed=9)
    return pipe


HUNYUAN15_I2V = Family(
    "HunyuanVideo 1.5 i2v",
    _hunyuan15_i2v,
    lambda b, g: {**_h15_prompt(b, True), "image": pil(1, 96, 160)},
    output="frames",
    size=FRAMES,
    sized=False,
)


def _omni() -> Any:
    pipe = assembled(
        "ZImageOmniPipeline",
        scheduler=z_image().scheduler,
        vae=image_autoencoder().to(torch.bfloat16),
        transformer=z_image(siglip_feat_dim=12).transformer,
    )
    pipe.prepare_siglip_embeds = lambda images, batch_size, **rest: [
        [embeddings(4, 4, 12, seed=9) for _ in images] for _ in range(batch_size)
    ]
    return pipe


def _omni_prompt(batch: int, guided: bool) -> dict[str, Any]:
    def segments(seed: int) -> list[list[torch.Tensor]]:
        return [[embeddings(TEXT, 24, seed=seed + i + k) for k in range(3)] for i in range(batch)]

    negative = {"negative_prompt_embeds": segments(20)} if guided else {}
    return {
        "prompt_embeds": segments(1),
        **negative,
        "image": [pil(1, 64, 96)],
        "guidance_scale": 3.0 if guided else 0.0,
    }


Z_OMNI = Family("Z-Image Omni", _omni, _omni_prompt)


def _unet(cls: str, channels: int = 4, *, large: bool = False, **config: Any) -> Any:
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "attention_head_dim": (2, 4),
    }
    blocks = {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")} if "UNet" in cls else {}
    return seeded(
        lambda: getattr(diffusers, cls)(
            **{"sample_size": 32} if blocks else {},
            in_channels=channels,
            block_out_channels=(16, 32),
            norm_num_groups=2,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=24,
            **blocks,
            **(extra if large else {}),
            **config,
        )
    )


def _unet_of(name: str, channels: int = 4, **components: Any) -> Callable[[], Any]:
    """A Stable Diffusion with the scheduler of XL's checkpoints; XL with its sizes as conditions."""
    large = "XL" in name

    def build() -> Any:
        made = {key: value(large) if callable(value) else value for key, value in components.items()}
        return assembled(
            name,
            scheduler=diffusers.EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
                prediction_type="epsilon",
            ),
            vae=image_autoencoder(),
            unet=_unet("UNet2DConditionModel", channels, large=large),
            **{**({} if large or "Animate" in name or "Depth" in name else {"requires_safety_checker": False}), **made},
        )

    return build


def _unet_controlnet(large: bool) -> Any:
    return _unet("ControlNetModel", large=large, conditioning_embedding_out_channels=(4, 4, 4, 4))


_sd_prompt = prompts(("prompt_embeds", TEXT, 24))
_sdxl_prompt = prompts(("prompt_embeds", TEXT, 24), ("pooled_prompt_embeds", 32))
SD = Family("Stable Diffusion", _unet_of("StableDiffusionPipeline"), _sd_prompt)
SD_I2I = Family(
    "Stable Diffusion image to image",
    _unet_of("StableDiffusionImg2ImgPipeline"),
    with_pictures(_sd_prompt, "image", strength=0.8),
    sized=False,
)
SD_INP = Family(
    "Stable Diffusion inpaint",
    _unet_of("StableDiffusionInpaintPipeline"),
    with_pictures(_sd_prompt, "image", "mask_image", strength=0.8),
)
SD_INP9 = Family(
    "Stable Diffusion inpaint, 9 channels",
    _unet_of("StableDiffusionInpaintPipeline", 9),
    with_pictures(_sd_prompt, "image", "mask_image"),
)
SD_CN = Family(
    "Stable Diffusion ControlNet",
    _unet_of("StableDiffusionControlNetPipeline", controlnet=_unet_controlnet),
    with_pictures(_sd_prompt, "image"),
)
SDXL = Family("Stable Diffusion XL", _unet_of("StableDiffusionXLPipeline"), _sdxl_prompt)
SDXL_I2I = Family(
    "Stable Diffusion XL image to image",
    _unet_of("StableDiffusionXLImg2ImgPipeline"),
    with_pictures(_sdxl_prompt, "image", strength=0.8),
    sized=False,
)
SDXL_INP = Family(
    "Stable Diffusion XL inpaint",
    _unet_of("StableDiffusionXLInpaintPipeline"),
    with_pictures(_sdxl_prompt, "image", "mask_image", strength=0.8),
)
SDXL_CN = Family(
    "Stable Diffusion XL ControlNet",
    _unet_of("StableDiffusionXLControlNetPipeline", controlnet=_unet_controlnet),
    with_pictures(_sdxl_prompt, "image"),
)
SD_CN_I2I = Family(
    "Stable Diffusion ControlNet image to image",
    _unet_of("StableDiffusionControlNetImg2ImgPipeline", controlnet=_unet_controlnet),
    with_pictures(_sd_prompt, "image", "control_image", strength=0.8),
)
SD_PIX2PIX = Family(
    "InstructPix2Pix",
    _unet_of("StableDiffusionInstructPix2PixPipeline", 8),
    with_pictures(_sd_prompt, "image"),
    sized=False,
)
SD_PAG = Family(
    "Stable Diffusion perturbed attention",
    _unet_of("StableDiffusionPAGPipeline", pag_applied_layers=["mid"]),
    _sd_prompt,
)
SDXL_PAG = Family(
    "Stable Diffusion XL perturbed attention",
    _unet_of("StableDiffusionXLPAGPipeline", pag_applied_layers=["mid"]),
    _sdxl_prompt,
)
SDXL_CN_I2I = Family(
    "Stable Diffusion XL ControlNet image to image",
    _unet_of("StableDiffusionXLControlNetImg2ImgPipeline", controlnet=_unet_controlnet),
    with_pictures(_sdxl_prompt, "image", "control_image", strength=0.8),
)
SDXL_CN_INP = Family(
    "Stable Diffusion XL ControlNet inpaint",
    _unet_of("StableDiffusionXLControlNetInpaintPipeline", controlnet=_unet_controlnet),
    with_pictures(_sdxl_prompt, "image", "mask_image", "control_image", strength=0.8),
)
SD_CN_INP = Family(
    "Stable Diffusion ControlNet inpaint",
    _unet_of("StableDiffusionControlNetInpaintPipeline", controlnet=_unet_controlnet),
    with_pictures(_sd_prompt, "image", "mask_image", "control_image", strength=0.8),
)


PAG = {"pag_applied_layers": ["mid"]}
SD_PAG_I2I = Family(
    "Stable Diffusion perturbed attention, image to image",
    _unet_of("StableDiffusionPAGImg2ImgPipeline", **PAG),
    SD_I2I.prompt,
    sized=False,
)
SD_PAG_INP = Family(
    "Stable Diffusion perturbed attention, inpaint", _unet_of("StableDiffusionPAGInpaintPipeline", **PAG), SD_INP.prompt
)
SD_PAG_CN = Family(
    "Stable Diffusion perturbed attention, ControlNet",
    _unet_of("StableDiffusionControlNetPAGPipeline", controlnet=_unet_controlnet, **PAG),
    SD_CN.prompt,
)
SD_PAG_CN_INP = Family(
    "Stable Diffusion perturbed attention, ControlNet inpaint",
    _unet_of("StableDiffusionControlNetPAGInpaintPipeline", controlnet=_unet_controlnet, **PAG),
    SD_CN_INP.prompt,
)
SDXL_PAG_I2I = Family(
    "Stable Diffusion XL perturbed attention, image to image",
    _unet_of("StableDiffusionXLPAGImg2ImgPipeline", **PAG),
    SDXL_I2I.prompt,
    sized=False,
)
SDXL_PAG_INP = Family(
    "Stable Diffusion XL perturbed attention, inpaint",
    _unet_of("StableDiffusionXLPAGInpaintPipeline", **PAG),
    SDXL_INP.prompt,
)
SDXL_PAG_CN = Family(
    "Stable Diffusion XL perturbed attention, ControlNet",
    _unet_of("StableDiffusionXLControlNetPAGPipeline", controlnet=_unet_controlnet, **PAG),
    SDXL_CN.prompt,
)
SDXL_PAG_CN_I2I = Family(
    "Stable Diffusion XL perturbed attention, ControlNet image to image",
    _unet_of("StableDiffusionXLControlNetPAGImg2ImgPipeline", controlnet=_unet_controlnet, **PAG),
    SDXL_CN_I2I.prompt,
)
SDXL_PIX2PIX = Family(
    "Stable Diffusion XL InstructPix2Pix",
    _unet_of("StableDiffusionXLInstructPix2PixPipeline", 8),
    with_pictures(_sdxl_prompt, "image"),
)


def _unet_union(large: bool) -> Any:
    return _unet(
        "ControlNetUnionModel", large=large, conditioning_embedding_out_channels=(4, 4, 4, 4), num_trans_channel=16,
        num_trans_head=2, num_proj_channel=16,
    )  # fmt: skip


SDXL_UNION = Family(
    "Stable Diffusion XL ControlNet union",
    _unet_of("StableDiffusionXLControlNetUnionPipeline", controlnet=_unet_union),
    with_pictures(_sdxl_prompt, "control_image", control_mode=1),
)
SDXL_UNION_I2I = Family(
    "Stable Diffusion XL ControlNet union, image to image",
    _unet_of("StableDiffusionXLControlNetUnionImg2ImgPipeline", controlnet=_unet_union),
    with_pictures(_sdxl_prompt, "image", "control_image", strength=0.8, control_mode=1),
)
SDXL_UNION_INP = Family(
    "Stable Diffusion XL ControlNet union, inpaint",
    _unet_of("StableDiffusionXLControlNetUnionInpaintPipeline", controlnet=_unet_union),
    with_pictures(_sdxl_prompt, "image", "mask_image", "control_image", strength=0.8, control_mode=1),
)


SD3_PAG = Family("SD3 perturbed attention", _sd3_of("StableDiffusion3PAGPipeline"), _sd3_prompt)
SD3_PAG_I2I = Family(
    "SD3 perturbed attention, image to image", _sd3_of("StableDiffusion3PAGImg2ImgPipeline"), SD3_I2I.prompt
)
SD3_CN_INP = Family(
    "SD3 ControlNet inpaint",
    _sd3_of("StableDiffusion3ControlNetInpaintingPipeline", controlnet=lambda: _sd3_cn(1)),
    with_pictures(_sd3_prompt, "control_image", "control_mask"),
    splits=False,
)


def _skyreels_i2v() -> Any:
    pipe = made(
        "SkyReelsV2ImageToVideoPipeline",
        lambda: diffusers.SkyReelsV2Transformer3DModel(**{**WAN_CONFIG, "in_channels": 36}, image_dim=12),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLWan),
    )()
    pipe.encode_image = lambda image, device: embeddings(1, 3, 12, seed=9)
    return pipe


SKYREELS_I2V = Family("SkyReels V2 i2v", _skyreels_i2v, WAN_I2V.prompt, output="frames", size=FRAMES)


def _pixart(name: str, **components: Any) -> Callable[[], Any]:
    return made(
        name,
        lambda: diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=2, cross_attention_dim=16, sample_size=32,
            caption_channels=8, use_additional_conditions=False,
        ),
        scheduler=lambda: diffusers.DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        **components,
    )  # fmt: skip


PIXART_ALPHA = Family(
    "PixArt-alpha", _pixart("PixArtAlphaPipeline"), SANA.prompt, size=(("use_resolution_binning", False),), adapts=False
)
PIXART_SIGMA = Family("PixArt-Sigma", _pixart("PixArtSigmaPipeline"), SANA.prompt, size=PIXART_ALPHA.size, adapts=False)
PIXART_PAG = Family(
    "PixArt-Sigma perturbed attention",
    _pixart("PixArtSigmaPAGPipeline", pag_applied_layers=["transformer_blocks.0"]),
    SANA.prompt,
    size=PIXART_ALPHA.size,
    adapts=False,
)
BRIA = Family(
    "Bria",
    made(
        "BriaPipeline",
        lambda: diffusers.BriaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=[4, 6, 6],
        ),
        scheduler=_dynamic,
    ),
    prompts(("prompt_embeds", TEXT, 24)),
)  # fmt: skip
NUCLEUS = Family(
    "NucleusMoE-Image",
    made(
        "NucleusMoEImagePipeline",
        lambda: diffusers.NucleusMoEImageTransformer2DModel(
            in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            num_key_value_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 6, 6), moe_enabled=False,
        ),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLQwenImage),
        scheduler=_dynamic,
    ),
    prompts(("prompt_embeds", TEXT, 24), masks=("prompt_embeds_mask",)),
)  # fmt: skip
LUMINA = Family(
    "Lumina",
    made(
        "LuminaPipeline",
        lambda: diffusers.LuminaNextDiT2DModel(
            sample_size=4, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3, num_kv_heads=1,
            multiple_of=16, cross_attention_dim=8,
        ),
    ),
    prompts(("prompt_embeds", TEXT, 8), masks=("prompt_attention_mask",)), adapts=False)  # fmt: skip
SANA_VIDEO = Family(
    "Sana-Video",
    made(
        "SanaVideoPipeline",
        lambda: diffusers.SanaVideoTransformer3DModel(
            in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=1,
            num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8,
        ),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLWan),
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    SANA.prompt,
    output="frames",
    size=(("frames", 5), ("use_resolution_binning", False)),
)  # fmt: skip


K5_I2I = Family(
    "Kandinsky 5 image to image",
    lambda: _k5_sized("Kandinsky5I2IPipeline", visual_cond=True),
    lambda b, g, height=128, width=128: {**_k5_prompt(b, g), "image": pil(1, height, width)},
    output="image",
    splits=False,
)
K5_I2V = Family(
    "Kandinsky 5 i2v",
    _k5("Kandinsky5I2VPipeline", _hunyuan_vae, visual_cond=True),
    lambda b, g, height=128, width=128: {**_k5_prompt(b, g), "image": pil(1, height, width)},
    output="frames",
    size=(("num_frames", 17),),
    splits=False,
)
LTX2_I2V = Family(
    "LTX-2 i2v",
    lambda: assembled("LTX2ImageToVideoPipeline", **_parts(LTX2)),
    with_pictures(LTX2.prompt, "image", image_crf=0),
    output="frames",
    size=LTX2.size,
)
COSMOS_CONFIG = dict(
    num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2, text_embed_dim=24, adaln_lora_dim=4,
    max_size=(4, 32, 32), rope_scale=(1.0, 1.0, 1.0), concat_padding_mask=False, extra_pos_embed_type=None,
)  # fmt: skip


def _cosmos(channels: int) -> Any:
    return seeded(lambda: diffusers.CosmosTransformer3DModel(in_channels=channels, out_channels=16, **COSMOS_CONFIG))


COSMOS = Family(
    "Cosmos 2.5",
    made(
        "Cosmos2_5_PredictBasePipeline",
        lambda: _cosmos(17),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLWan),
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        safety_checker=image_autoencoder,
    ),
    _wan_prompt,
    output="frames",
    size=FRAMES,
)
COSMOS_I2V = Family(
    "Cosmos 2.5 i2v",
    COSMOS.build,
    lambda b, g, height=128, width=128: {
        **_wan_prompt(b, g),
        "video": [pil(i, height, width) for i in range(5)],
        "num_latent_conditional_frames": 1,
    },
    output="frames",
    size=FRAMES,
    splits=False,
)


LUCY = Family(
    "Lucy Edit",
    _wan_of("LucyEditPipeline", network=lambda: _wan_net(32), expand_timesteps=True),
    lambda b, g, height=128, width=128: {**_video(b, g, height, width), "num_frames": 5},
    output="frames",
    splits=False,
)
MOTIF = Family(
    "Motif-Video",
    made(
        "MotifVideoPipeline",
        lambda: diffusers.MotifVideoTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1, text_embed_dim=24,
            rope_axes_dim=(4, 6, 6),
        ),
        vae=lambda: _video_autoencoder(diffusers.AutoencoderKLWan),
        scheduler=_dynamic,
        guider=lambda: diffusers.ClassifierFreeGuidance(guidance_scale=4.0),
    ),
    _always_guided(prompts(("prompt_embeds", TEXT, 24), masks=("prompt_attention_mask",), guidance=None)),
    output="frames",
    size=FRAMES,
)  # fmt: skip


def _animated(name: str, **components: Any) -> Callable[[], Any]:
    adapter = lambda large: seeded(  # noqa: E731
        lambda: diffusers.MotionAdapter(
            block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=2,
            motion_num_attention_heads=2, use_motion_mid_block=not large,
        )
    )  # fmt: skip
    return _unet_of(name, motion_adapter=adapter, **components)


ANIMATED = Family(
    "AnimateDiff", _animated("AnimateDiffPipeline"), _sd_prompt, output="frames", size=(("num_frames", 4),)
)
ANIMATED_PAG = Family(
    "AnimateDiff perturbed attention",
    _animated("AnimateDiffPAGPipeline", pag_applied_layers=["mid"]),
    _sd_prompt,
    output="frames",
    size=ANIMATED.size,
)
ANIMATED_XL = Family(
    "AnimateDiff XL", _animated("AnimateDiffSDXLPipeline"), _sdxl_prompt, output="frames", size=ANIMATED.size
)
ANIMATED_V2V = Family(
    "AnimateDiff v2v",
    _animated("AnimateDiffVideoToVideoPipeline"),
    lambda b, g, height=128, width=128: {
        **_sd_prompt(b, g),
        "video": [[pil(i, height, width) for i in range(4)]] * b,
        "strength": 0.8,
    },
    output="frames",
    splits=False,
)
LATTE = Family(
    "Latte",
    made(
        "LattePipeline",
        lambda: diffusers.LatteTransformer3DModel(
            sample_size=32, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3,
            caption_channels=8, in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True,
            activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
            norm_elementwise_affine=False, video_length=4,
        ),
        scheduler=lambda: diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
    ),
    prompts(("prompt_embeds", TEXT, 8), negative_prompt=None),
    output="frames",
    size=(("video_length", 4), ("clean_caption", False), ("mask_feature", False)),
    adapts=False,
)  # fmt: skip
SD_DEPTH = Family(
    "Stable Diffusion depth to image",
    _unet_of("StableDiffusionDepth2ImgPipeline", 5),
    lambda b, g, height=128, width=128: {
        **SD_I2I.prompt(b, g, height, width),
        "depth_map": picture(b, seed=7, height=height, width=width)[:, 0],
    },
    sized=False,
)


def _variation() -> Any:
    pipe = _unet_of("StableDiffusionImageVariationPipeline")()
    pipe._encode_image = lambda image, device, count, guided: torch.cat(
        [0 * image[:, :1, 0, :24]] * guided + [image[:, :1, 0, :24]]
    )
    return pipe


SD_VARIATION = Family(
    "Stable Diffusion image variation",
    _variation,
    lambda b, g: {"image": picture(b, seed=1), "guidance_scale": 4.0 if g else 1.0},
)


def _parts(family: Family) -> dict[str, Any]:
    return {key: value for key, value in family.pipe.components.items() if value is not None}


def blocks_of(name: str, parts: Callable[[], dict[str, Any]], prompt: Any, **facts: Any) -> Family:
    """A modular pipeline's denoising blocks around some components, called with embeddings; guiders have their own scale."""

    def build() -> Any:
        cls = getattr(diffusers, f"{name}ModularPipeline")
        blocks = cls().blocks
        for block in list(blocks.sub_blocks):
            if block != "denoise":
                blocks.sub_blocks.pop(block)
        pipe = cls(blocks=blocks)
        pipe.update_components(**{key: value for key, value in parts().items() if key in pipe._component_specs})
        return pipe

    @wraps(prompt)
    def arguments(*args: Any, **known: Any) -> dict[str, Any]:
        made = {**prompt(*args, **known), "output": "latents"}
        return {key: value for key, value in made.items() if key not in ("guidance_scale", "true_cfg_scale")}

    return Family(f"{facts.pop('called', name)}, modular", build, arguments, output="latents", **facts)


def modular(name: str, family: Family, *, guided: bool = True, called: str = "") -> Family:
    """The same of the components of a family's plain pipeline."""
    prompt = lambda batch, with_guidance: family.prompt(batch, guided)  # noqa: E731
    return blocks_of(name, lambda: _parts(family), prompt, called=called or family.name, size=family.size)


def handed(family: Family, **more: Callable[[int], Any]) -> Family:
    """The family, its calls with what a block before the denoising ones makes of pictures: arguments by batch."""
    return replace(
        family, prompt=lambda b, guided: {**family.prompt(b, guided), **{name: make(b) for name, make in more.items()}}
    )


def references(channels: int, *sizes: tuple[int, int]) -> Callable[[int], list[torch.Tensor]]:
    """Latents of pictures to look at, of so many points."""
    return lambda batch: [embeddings(1, channels, *size, seed=7 + k) for k, size in enumerate(sizes)]


def _beside(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Channels of a condition beside the latents of WAN's two frames."""
    return embeddings(batch, channels, 2, height // 8, width // 8, seed=7)


FLUX_MODULAR = modular("Flux", FLUX, guided=False)
KONTEXT_MODULAR = modular("FluxKontext", FLUX, guided=False, called="FLUX.1 Kontext")
FLUX2_MODULAR = modular("Flux2", FLUX2)
FLUX2_LOOKS_MODULAR = modular(
    "Flux2", handed(FLUX2, image_latents=references(16, (8, 8), (8, 6))), called="FLUX.2 with references"
)
KLEIN_MODULAR = modular("Flux2Klein", KLEIN, guided=False, called="FLUX.2-klein distilled")
KLEIN_BASE_MODULAR = modular("Flux2KleinBase", KLEIN)
WAN_MODULAR = modular("Wan", WAN)
WAN_I2V_MODULAR = blocks_of(
    "WanImage2Video",
    lambda: {**_parts(WAN), "transformer": _wan_net(36, image_dim=12, added_kv_proj_dim=24)},
    lambda b, g, height, width: {
        **_wan_prompt(b, True),
        "image_condition_latents": _beside(b, 20, height, width),
        "image_embeds": embeddings(b, 3, 12, seed=9),
    },
    called="WAN i2v",
    size=WAN.size,
)
QWEN_MODULAR = modular("QwenImage", QWEN)
QWEN_EDIT_MODULAR = modular(
    "QwenImageEdit",
    handed(QWEN, image_latents=lambda b: embeddings(b, 16, 1, 16, 16, seed=7)),
    called="Qwen-Image Edit",
)
QWEN_PLUS_MODULAR = modular(
    "QwenImageEditPlus",
    handed(QWEN, image_latents=lambda b: [x.unsqueeze(2) for x in references(16, (16, 16), (12, 18))(b)]),
    called="Qwen-Image Edit Plus",
)


def _qwen21_looking(batch: int, guided: bool) -> dict[str, Any]:
    """A prompt in which 24 slots are a picture's, 2x2 of its latents each."""
    slots = torch.zeros(batch, TEXT + 24, dtype=torch.bool)
    slots[:, 2:26] = True
    return {
        f"{prefix}{name}": value
        for prefix, seed in (("", 1), ("negative_", 3))
        for name, value in (
            ("prompt_embeds", embeddings(batch, TEXT + 24, 24, seed=seed)),
            ("prompt_embeds_mask", torch.ones_like(slots, dtype=torch.int64)),
            ("image_pad_mask", slots),
        )
    } | {"image_latents": [x.unsqueeze(2) for x in references(16, (8, 12))(batch)]}


_no_slots = {
    name: lambda b: torch.zeros(b, TEXT, dtype=torch.bool) for name in ("image_pad_mask", "negative_image_pad_mask")
}
QWEN21_MODULAR = modular("QwenImage21", handed(QWEN21, **_no_slots))
QWEN21_EDIT_MODULAR = blocks_of(
    "QwenImage21", lambda: _parts(QWEN21), _qwen21_looking, called="Qwen-Image 2.1 with a reference"
)
QWEN21_TURBO_MODULAR = modular(
    "QwenImage21Turbo", handed(QWEN21, **_no_slots), guided=False, called="Qwen-Image 2.1 Turbo"
)
IDEOGRAM4_MODULAR = blocks_of(
    "Ideogram4",
    lambda: _parts(IDEOGRAM4),
    lambda b, g, steps: {
        "text_features": embeddings(b, 70, 24, seed=1),  # more text than picture
        "text_lengths": [70, 57][:b],
        "guidance_schedule": [4.0] * steps,
    },
    called="Ideogram 4",
    splits=False,
)
Z_MODULAR = modular("ZImage", Z_IMAGE)
SD3_MODULAR = modular("StableDiffusion3", SD3)
KREA2_MODULAR = modular("Krea2", KREA2)
LTX_MODULAR = modular("LTX", LTX)


def _flux3(**config: Any) -> Any:
    return seeded(
        lambda: diffusers.Flux3Transformer2DModel(
            **MMDIT, in_channels=16, cond_in_channels=16, joint_attention_dim=24, timestep_channels=16,
            axes_dims_rope=(4, 4, 4, 4), **config,
        )
    )  # fmt: skip


def _flux3_prompt(batch: int, guided: bool) -> dict[str, Any]:
    return {name: value for name, value in _klein_prompt(batch, guided).items() if name != "guidance_scale"}


FLUX3 = blocks_of("Flux3", lambda: {"transformer": _flux3()}, _always_guided(_flux3_prompt), called="FLUX.3")
FLUX3_DISTILLED = blocks_of(
    "Flux3Distilled",
    lambda: {"transformer": _flux3(flow_map=True)},
    lambda b, g: _flux3_prompt(b, False),
    called="FLUX.3 distilled",
)


def _anima_parts() -> dict[str, Any]:
    conditioner = seeded(
        lambda: diffusers.AnimaTextConditioner(
            source_dim=24, target_dim=24, model_dim=24, num_layers=1, num_attention_heads=2, target_vocab_size=32
        )
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"transformer": _cosmos(16), "text_conditioner": conditioner, "scheduler": scheduler}


def _anima_prompt(batch: int, guided: bool) -> dict[str, Any]:
    def text(prefix: str, seed: int) -> dict[str, Any]:
        ones = torch.ones(batch, TEXT, dtype=torch.int64)
        return {
            f"{prefix}qwen_prompt_embeds": embeddings(batch, TEXT, 24, seed=seed),
            f"{prefix}qwen_attention_mask": ones,
            f"{prefix}t5_input_ids": ones.cumsum(1) + seed,
            f"{prefix}t5_attention_mask": ones,
        }

    return {**text("", 1), **text("negative_", 3)}


ANIMA = blocks_of("Anima", _anima_parts, _anima_prompt, called="Anima")


def _ltx25_prompt(batch: int, guided: bool) -> dict[str, Any]:
    def text(prefix: str, seed: int) -> dict[str, Any]:
        return {
            f"{prefix}connector_prompt_embeds": embeddings(batch, TEXT, 16, seed=seed),
            f"{prefix}connector_audio_prompt_embeds": embeddings(batch, TEXT, 16, seed=seed + 1),
            f"{prefix}connector_attention_mask": torch.ones(batch, TEXT, dtype=torch.int64),
        }

    return {**text("", 1), **text("negative_", 3), "batch_size": batch, "dtype": torch.float32}


def _minimax_parts() -> dict[str, Any]:
    transformer = seeded(
        lambda: diffusers.MiniMaxH3Transformer3DModel(
            num_attention_heads=2, attention_head_dim=16, hidden_size=24, num_layers=2, num_refiner_layers=1,
            ffn_dim=32, text_dim=24, freq_dim=16, time_embed_hidden_dim=24,
            time_embed_dim=16, rope_freq_dim=2,
        )
    )  # fmt: skip
    schedulers = [diffusers.MiniMaxH3Scheduler(shift=shift) for shift in (12.0, 3.0)]
    return {"transformer": transformer, "scheduler": schedulers[0], "audio_scheduler": schedulers[1]}


MINIMAX_H3 = blocks_of(
    "MiniMaxH3",
    _minimax_parts,
    lambda b, g: {
        "prompt_embeds": embeddings(1, TEXT, 24, seed=1),
        "text_token_tags": torch.ones(TEXT, dtype=torch.int64),
        "num_frames": 124,
    },
    called="MiniMax-H3",
    splits=False,
)


def _ltx2_parts() -> dict[str, Any]:
    guiders = [
        diffusers.LTX2Guidance(guidance_scale=scale, spatio_temporal_guidance_blocks=[0], modality_scale=1.0)
        for scale in (3.0, 4.0)
    ]
    return {**_parts(LTX2), "guider": guiders[0], "audio_guider": guiders[1]}


LTX2_MODULAR = blocks_of("LTX2", _ltx2_parts, _ltx25_prompt, called="LTX-2", size=LTX2.size, splits=False)
LTX25 = blocks_of("LTX25", _ltx2_parts, _ltx25_prompt, called="LTX-2.5", size=LTX2.size, splits=False)
KREA2_TURBO = modular("Krea2Turbo", KREA2, called="Krea 2 Turbo")
SDXL_MODULAR = modular("StableDiffusionXL", SDXL)


def _hunyuan15_parts() -> dict[str, Any]:
    network = _h15("HunyuanVideo15Pipeline", in_channels=65, out_channels=32)().transformer  # no autoencoder says 4
    return {**_parts(HUNYUAN15), "transformer": network}


HUNYUAN15_MODULAR = blocks_of(
    "HunyuanVideo15",
    _hunyuan15_parts,
    lambda b, g: {**_h15_prompt(b, True), "batch_size": b},
    called="HunyuanVideo 1.5",
    size=HUNYUAN15.size,
)


def _wan22(network: Callable[[], Any], name: str, prompt: Any, **facts: Any) -> Family:
    scheduler = {"scheduler": _parts(WAN)["scheduler"]}
    parts = lambda: {"transformer": network(), "transformer_2": network(), **scheduler}  # noqa: E731
    return blocks_of(name, parts, prompt, size=WAN.size, **facts)


WAN22_I2V_MODULAR = _wan22(
    lambda: _wan_net(36),
    "Wan22Image2Video",
    lambda b, g, height, width: {
        **_wan_prompt(b, True),
        "image_condition_latents": _beside(b, 20, height, width),
    },
    called="WAN 2.2 i2v",
)
WAN22_VACE_MODULAR = _wan22(
    lambda: _parts(WAN_VACE2)["transformer"],
    "Wan22Vace",
    lambda b, g, height, width: {
        **_wan_prompt(b, True),
        "denoiser_input_fields": {"control_hidden_states": _beside(b, 96, height, width)},
    },
    called="WAN 2.2 VACE",
    splits=False,
)
WAN22_MODULAR = blocks_of(
    "Wan22",
    lambda: {key: value for key, value in wan(experts=True).components.items() if value is not None},
    lambda b, g: _wan_prompt(b, True),
    called="WAN 2.2",
    size=WAN.size,
)


FAMILIES = tuple(value for value in list(globals().values()) if isinstance(value, Family))
"""All of them; a pipeline class may stand here more than once, called in other ways."""


def result(family: Family, out: Any) -> torch.Tensor:
    """The latents of a call's output, or its pictures, as one tensor."""
    value = out if family.output == "latents" else getattr(out, family.output)
    return torch.stack([picture for item in value for picture in item]) if isinstance(value, list) else value
