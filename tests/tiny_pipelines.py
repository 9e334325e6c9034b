"""Tiny random models of every supported family behind their real diffusers pipeline classes, on the CPU in float32.

Text encoders are left out: calls pass embeddings. Random weights have a constant gain in the output layer, so that
velocities are of order one and a wrong input shows.
"""

from __future__ import annotations

import inspect
import sys
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
        Further arguments of every call.
    sized
        Whether the call takes height and width.
    """

    name: str
    build: Callable[[], Any]
    prompt: Callable[[int, bool], dict[str, Any]]
    output: str = "images"
    size: tuple[tuple[str, Any], ...] = ()
    sized: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def pipe(self) -> Any:
        return _pipe(self)

    def arguments(self, batch: int = 1, *, guided: bool = True, **changes: Any) -> dict[str, Any]:
        """Arguments of one call, 128 x 128 pixels (a latent of 16 x 16), 6 steps, no autoencoder."""
        size = {name: changes.pop(name, 128) for name in ("height", "width")}
        pictures = size if "height" in inspect.signature(self.prompt).parameters else {}
        return {
            **(size if self.sized else {}),
            "num_inference_steps": 6,
            "output_type": "latent",
            **dict(self.size),
            **self.prompt(batch, guided, **pictures),
            **changes,
        }


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


def qwen_image(**config: Any) -> Any:
    transformer = seeded(
        lambda: diffusers.QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 6, 6),
            **config,
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
                **{**FLUX_CONFIG, "in_channels": channels, "out_channels": 16, "guidance_embeds": True}
            )
        )
        made = {key: value() for key, value in components.items()}
        return assembled(name, scheduler=_dynamic(), vae=image_autoencoder(), transformer=transformer, **made)

    return build


FLUX_CONFIG = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}


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


def with_pictures(prompt: Callable[[int, bool], dict[str, Any]], *names: str, guided: bool = True, **more: Any) -> Callable[..., dict[str, Any]]:
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

KONTEXT = Family("FLUX.1 Kontext", of_flux("FluxKontextPipeline"), with_pictures(_flux_prompt, "image", _auto_resize=False, max_area=128*128))
FILL = Family("FLUX.1 Fill", of_flux("FluxFillPipeline", 288), with_pictures(_flux_prompt, "image", "mask_image", guided=False))
CONTROL = Family("FLUX.1 Control", of_flux("FluxControlPipeline", 32), with_pictures(_flux_prompt, "control_image", guided=False))
FLUX_I2I = Family("FLUX.1 image to image", of_flux("FluxImg2ImgPipeline"), with_pictures(_flux_prompt, "image", strength=0.8))
FLUX_INPAINT = Family("FLUX.1 inpaint", of_flux("FluxInpaintPipeline"), with_pictures(_flux_prompt, "image", "mask_image", strength=0.8))
FLUX_CN = Family("FLUX.1 ControlNet", of_flux("FluxControlNetPipeline", controlnet=_flux_controlnet), with_pictures(_flux_prompt, "control_image"))

for _name, _pipeline, _channels, _with, _inputs in (
    ("FLUX.1 Control image to image", "FluxControlImg2ImgPipeline", 32, {}, ("image", "control_image")),
    ("FLUX.1 Control inpaint", "FluxControlInpaintPipeline", 32, {}, ("image", "control_image", "mask_image")),
): pass
FLUX_CI2I = Family("FLUX.1 Control image to image", of_flux("FluxControlImg2ImgPipeline", 32), with_pictures(_flux_prompt, "image", "control_image", guided=False, strength=0.8))
FLUX_CINP = Family("FLUX.1 Control inpaint", of_flux("FluxControlInpaintPipeline", 32), with_pictures(_flux_prompt, "image", "control_image", "mask_image", guided=False, strength=0.8))
FLUX_CNI2I = Family("FLUX.1 ControlNet image to image", of_flux("FluxControlNetImg2ImgPipeline", controlnet=_flux_controlnet), with_pictures(_flux_prompt, "image", "control_image", guided=False, strength=0.8))
FLUX_CNINP = Family("FLUX.1 ControlNet inpaint", of_flux("FluxControlNetInpaintPipeline", controlnet=_flux_controlnet), with_pictures(_flux_prompt, "image", "control_image", "mask_image", guided=False, strength=0.8))
FLUX_KINP = Family("FLUX.1 Kontext inpaint", of_flux("FluxKontextInpaintPipeline"), with_pictures(_flux_prompt, "image", "mask_image", strength=0.8, _auto_resize=False, max_area=128*192))
FLUX2_REF = Family("FLUX.2 with references", FLUX2.build, lambda b, g: {**_flux2_prompt(b, g), "image": [pil(1, 64, 96)]})
KLEIN_REF = Family("FLUX.2-klein with references", KLEIN.build, lambda b, g: {**_klein_prompt(b, g), "image": [pil(1, 64, 96), pil(2, 96, 64)]})
KLEIN_INP = Family("FLUX.2-klein inpaint", lambda: _flux2(diffusers.Flux2KleinInpaintPipeline, is_distilled=False), with_pictures(_klein_prompt, "image", "mask_image", strength=0.8))
KLEIN_KV = Family("FLUX.2-klein KV", lambda: _flux2(diffusers.Flux2KleinKVPipeline), lambda b, g: {"prompt_embeds": _flux2_prompt(b, g)["prompt_embeds"], "image": [pil(1, 64, 96)]})
def _z(name, **c):
    def build():
        z = z_image()
        return assembled(name, scheduler=z.scheduler, vae=z.vae, transformer=c.pop("transformer", lambda: z.transformer)(), **{k: v() for k, v in c.items()})
    return build
Z_I2I = Family("Z-Image image to image", _z("ZImageImg2ImgPipeline"), with_pictures(_z_image_prompt, "image", strength=0.8))
Z_INP = Family("Z-Image inpaint", _z("ZImageInpaintPipeline"), with_pictures(_z_image_prompt, "image", "mask_image", strength=0.8))
def _sd3_of(name, *channels, **c):
    def build():
        z = sd3(*channels)
        return assembled(name, scheduler=z.scheduler, vae=z.vae, transformer=z.transformer, **{k: v() for k, v in c.items()})
    return build
SD3_I2I = Family("SD3 image to image", _sd3_of("StableDiffusion3Img2ImgPipeline"), with_pictures(_sd3_prompt, "image", strength=0.8))
SD3_INP = Family("SD3 inpaint", _sd3_of("StableDiffusion3InpaintPipeline", 16, 16), with_pictures(_sd3_prompt, "image", "mask_image", strength=0.8))

SD3_INP33 = Family("SD3 inpaint, 33 channels", _sd3_of("StableDiffusion3InpaintPipeline", 33, 16), with_pictures(_sd3_prompt, "image", "mask_image", strength=0.8))
SD3_INP1 = Family("SD3 inpaint full", _sd3_of("StableDiffusion3InpaintPipeline", 16, 16), with_pictures(_sd3_prompt, "image", "mask_image", strength=1.0))
def _sd3_cn():
    return seeded(lambda: diffusers.SD3ControlNetModel(sample_size=32, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4, pos_embed_max_size=24))
SD3_CN = Family("SD3 ControlNet", _sd3_of("StableDiffusion3ControlNetPipeline", controlnet=_sd3_cn), with_pictures(_sd3_prompt, "control_image"))
def _qwen_of(name, **c):
    def build():
        module = sys.modules[getattr(diffusers, name).__module__]
        if hasattr(module, "calculate_dimensions"):  # reference pictures of a million pixels take minutes here
            module.calculate_dimensions = lambda area, ratio: (128, 96, None)[: 3 if "Plus" not in name else 2]
        z = qwen_image(**c.pop("qwen", {}))
        return assembled(name, scheduler=z.scheduler, vae=z.vae, transformer=z.transformer, **{k: v() for k, v in c.items()})
    return build
QWEN_EDIT = Family("Qwen-Image Edit", _qwen_of("QwenImageEditPipeline"), lambda b, g: {**_qwen_prompt(b, g), "image": pil(1, 64, 96)})
QWEN_PLUS = Family("Qwen-Image Edit Plus", _qwen_of("QwenImageEditPlusPipeline"), lambda b, g: {**_qwen_prompt(b, g), "image": [pil(1, 64, 96), pil(2, 96, 64)]})
QWEN_I2I = Family("Qwen-Image image to image", _qwen_of("QwenImageImg2ImgPipeline"), with_pictures(_qwen_prompt, "image", strength=0.8))
QWEN_INP = Family("Qwen-Image inpaint", _qwen_of("QwenImageInpaintPipeline"), with_pictures(_qwen_prompt, "image", "mask_image", strength=0.8))
QWEN_EINP = Family("Qwen-Image Edit inpaint", _qwen_of("QwenImageEditInpaintPipeline"), lambda b, g, height=128, width=128: {**_qwen_prompt(b, g), "image": pil(1, height, width), "mask_image": pil(2, height, width), "strength": 0.8})
QWEN_LAYERED = Family("Qwen-Image Layered", _qwen_of("QwenImageLayeredPipeline", text_encoder=lambda: torch.nn.Linear(1, 1), qwen=dict(use_additional_t_cond=True, use_layer3d_rope=True)), lambda b, g: {**_qwen_prompt(b, g), "image": pil(1, 64, 96), "layers": 2}, sized=False)
def _qwen_cn():
    return seeded(lambda: diffusers.QwenImageControlNetModel(in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 6, 6)))
QWEN_CN = Family("Qwen-Image ControlNet", _qwen_of("QwenImageControlNetPipeline", controlnet=_qwen_cn), with_pictures(_qwen_prompt, "control_image"))
def _wan_of(name, channels=16, **c):
    def build():
        z = wan()
        n = c.get("network")
        t = z.transformer if n is None else n()
        return assembled(name, scheduler=z.scheduler, vae=z.vae, transformer=t, **{k: v for k, v in c.items() if k != "network"})
    return build
def _wan_net(channels, **c):
    return seeded(lambda: diffusers.WanTransformer3DModel(**{**WAN_CONFIG, "in_channels": channels, **c}))
WAN_CONFIG = dict(num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=24, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=64)
WAN_I2V = Family("WAN i2v", _wan_of("WanImageToVideoPipeline", network=lambda: _wan_net(36)), with_pictures(_wan_prompt, "image"), output="frames", size=(("num_frames", 5),))
WAN_5B = Family("WAN 5B t2v", _wan_of("WanPipeline", expand_timesteps=True), _wan_prompt, output="frames", size=(("num_frames", 5),))
WAN_5B_I2V = Family("WAN 5B i2v", _wan_of("WanImageToVideoPipeline", expand_timesteps=True), with_pictures(_wan_prompt, "image"), output="frames", size=(("num_frames", 5),))
def _video(batch, guided, height=128, width=128):
    return {**_wan_prompt(batch, guided), "video": [pil(i, height, width) for i in range(5)]}
WAN_V2V = Family("WAN v2v", _wan_of("WanVideoToVideoPipeline"), _video, output="frames")
WAN_VACE = Family("WAN VACE", _wan_of("WanVACEPipeline", network=lambda: seeded(lambda: diffusers.WanVACETransformer3DModel(**WAN_CONFIG, vace_layers=[0], vace_in_channels=96))), _wan_prompt, output="frames", size=(("num_frames", 5),))
WAN_VACE2 = Family("WAN VACE with a video", WAN_VACE.build, lambda b, g, height=128, width=128: {**_video(b, g, height, width), "mask": [pil(9, height, width)]*5}, output="frames", size=(("num_frames", 5),))
