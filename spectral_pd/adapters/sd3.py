r"""Stable Diffusion 3 and 3.5: (batch, 16, H, W), ``1000 t``, batched guidance.

The position table is cropped from its CENTRE, so a smaller stage sees the middle of the trained table, and no grid may be
larger than the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_output import StableDiffusion3PipelineOutput
from torch import Tensor

from spectral_pd.adapters.base import Adapter, batch_size, linear_mu
from spectral_pd.power import PRESETS

_IP_ADAPTER = "the image embeddings would have to be routed into both guidance branches"


class StableDiffusion3Adapter(Adapter):
    """Stable Diffusion 3 and 3.5 text to image."""

    preset = PRESETS["sd3"]
    refused: ClassVar[Mapping[str, str]] = {
        "ip_adapter_image": _IP_ADAPTER,
        "ip_adapter_image_embeds": _IP_ADAPTER,
        "skip_guidance_layers": "its range of steps would have to be expressed in times, and a third pass be made",
    }

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        self.grid = (int(a.height) // pipe.vae_scale_factor, int(a.width) // pipe.vae_scale_factor)
        config = pipe.transformer.config
        largest = config.pos_embed_max_size * config.patch_size
        if max(self.grid) > largest:
            raise ValueError(
                f"height = {a.height}, width = {a.width} exceed the model's position table; the largest side is "
                f"{largest * pipe.vae_scale_factor} pixels"
            )
        self.guided = a.guidance_scale > 1
        kwargs = a.joint_attention_kwargs or {}
        positive, negative, pooled, negative_pooled = pipe.encode_prompt(
            prompt=a.prompt,
            prompt_2=a.prompt_2,
            prompt_3=a.prompt_3,
            negative_prompt=a.negative_prompt,
            negative_prompt_2=a.negative_prompt_2,
            negative_prompt_3=a.negative_prompt_3,
            do_classifier_free_guidance=self.guided,
            prompt_embeds=a.prompt_embeds,
            negative_prompt_embeds=a.negative_prompt_embeds,
            pooled_prompt_embeds=a.pooled_prompt_embeds,
            negative_pooled_prompt_embeds=a.negative_pooled_prompt_embeds,
            device=self.device,
            clip_skip=a.clip_skip,
            num_images_per_prompt=a.num_images_per_prompt,
            max_sequence_length=a.max_sequence_length,
            lora_scale=kwargs.get("scale"),
        )
        self.embeddings = torch.cat([negative, positive]) if self.guided else positive
        self.pooled = torch.cat([negative_pooled, pooled]) if self.guided else pooled
        self.leading = (batch_size(a.prompt, a.prompt_embeds) * a.num_images_per_prompt, config.in_channels)
        self.dtype = positive.dtype

    def times(self) -> tuple[float, ...]:
        a, scheduler = self.arguments, self.pipe.scheduler
        mu = a.mu
        if mu is None and scheduler.config.get("use_dynamic_shifting"):
            patch = self.pipe.transformer.config.patch_size
            tokens = (self.grid[0] // patch) * (self.grid[1] // patch)
            mu = linear_mu(tokens, scheduler.config, max_shift=1.16)
        return self.scheduler_times(sigmas=a.sigmas, mu=mu)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        a = self.arguments
        latents = x.to(self.dtype)
        if self.guided:
            latents = torch.cat([latents, latents])
        v = self.pipe.transformer(
            hidden_states=latents,
            timestep=self.timestep(t, latents.shape[0]),
            encoder_hidden_states=self.embeddings,
            pooled_projections=self.pooled,
            joint_attention_kwargs=a.joint_attention_kwargs,
            return_dict=False,
        )[0]
        if self.guided:
            negative, positive = v.chunk(2)
            v = negative + a.guidance_scale * (positive - negative)
        return v.to(torch.float32)

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        image = x.to(self.dtype)
        if a.output_type != "latent":
            image = image / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
            image = pipe.vae.decode(image, return_dict=False)[0]
            image = pipe.image_processor.postprocess(image, output_type=a.output_type)
        return StableDiffusion3PipelineOutput(images=image) if a.return_dict else (image,)
