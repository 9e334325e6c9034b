r"""Z-Image: the latent as a list of (16, 1, H, W), time ``1 - t``, and the opposite sign.

The transformer's time runs from 0 (noise) to 1 (data), so it takes ``1 - t`` and returns ``-v``. Guidance is one call on
the list of conditional and unconditional items, ``pos + g (pos - neg)``: g is the usual scale minus 1.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.pipelines.z_image import pipeline_z_image
from diffusers.pipelines.z_image.pipeline_output import ZImagePipelineOutput
from torch import Tensor

from spectral_pd.adapters.base import Adapter, batch_size, linear_mu
from spectral_pd.power import PRESETS


class ZImageAdapter(Adapter):
    """Z-Image and Z-Image-Turbo text to image."""

    preset = PRESETS["z-image"]

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        cell = pipe.vae_scale_factor * 2
        if a.height % cell or a.width % cell:
            raise ValueError(f"height = {a.height} and width = {a.width} must be multiples of {cell}")
        self.grid = (a.height // pipe.vae_scale_factor, a.width // pipe.vae_scale_factor)
        # The pipeline's own rule: a scale above 0, in diffusers 0.36 above 1.
        self.guided = pipe.do_classifier_free_guidance
        if a.prompt is None:
            positive, negative = a.prompt_embeds, a.negative_prompt_embeds
            if positive is None or (self.guided and negative is None):
                raise ValueError("pass prompt=, or prompt_embeds= and with guidance negative_prompt_embeds=")
        else:
            positive, negative = pipe.encode_prompt(
                # The pipeline writes its chat template into the list it is given.
                prompt=list(a.prompt) if isinstance(a.prompt, list) else a.prompt,
                negative_prompt=list(a.negative_prompt) if isinstance(a.negative_prompt, list) else a.negative_prompt,
                do_classifier_free_guidance=self.guided,
                prompt_embeds=a.prompt_embeds,
                negative_prompt_embeds=a.negative_prompt_embeds,
                device=self.device,
                max_sequence_length=a.max_sequence_length,
            )
        self.positive = [e for e in positive for _ in range(a.num_images_per_prompt)]
        self.negative = [e for e in negative or [] for _ in range(a.num_images_per_prompt)]
        self.leading = (batch_size(a.prompt, a.prompt_embeds) * a.num_images_per_prompt, pipe.transformer.in_channels)
        self.dtype = pipe.transformer.dtype

    def default_size(self) -> int:
        return 1024

    @property
    def noise_dtype(self) -> torch.dtype:
        return torch.float32

    def start_size(self, latents: Tensor) -> dict[str, int]:
        # Z-Image checks given latents against the size, and decodes whatever size comes out of its loop.
        factor = self.pipe.vae_scale_factor
        return {"height": latents.shape[-2] * factor, "width": latents.shape[-1] * factor}

    def times(self) -> tuple[float, ...]:
        a, scheduler = self.arguments, self.pipe.scheduler
        n = a.num_inference_steps
        sigmas = a.sigmas
        if sigmas is None and hasattr(pipeline_z_image, "get_default_z_image_sigmas"):
            sigmas = torch.linspace(1.0, 1 / n, n).tolist()
        elif sigmas is None:
            # diffusers 0.36 spaces its n steps down to time 0 itself, so that the last of them has no length.
            scheduler = copy.copy(scheduler)
            scheduler.sigma_min = 0.0
        tokens = (self.grid[0] // 2) * (self.grid[1] // 2)
        times = self.scheduler_times(sigmas=sigmas, mu=linear_mu(tokens, scheduler.config), scheduler=scheduler)
        return tuple(dict.fromkeys(times))  # without steps of no length

    def velocity(self, x: Tensor, t: float) -> Tensor:
        a, batch = self.arguments, x.shape[0]
        time = (1000 - self.timestep(t, batch)) / 1000
        scale = a.guidance_scale
        if a.cfg_truncation is not None and float(a.cfg_truncation) <= 1 and float(time[0]) > a.cfg_truncation:
            scale = 0.0
        guided = self.guided and scale > 0
        items = x.to(self.dtype).unsqueeze(2)
        outputs = self.pipe.transformer(
            list((torch.cat([items, items]) if guided else items).unbind(0)),
            time.repeat(2) if guided else time,
            self.positive + self.negative if guided else self.positive,
            return_dict=False,
            **({"joint_attention_kwargs": a.joint_attention_kwargs} if a.joint_attention_kwargs else {}),
        )[0]
        outputs = [output.float() for output in outputs]
        if guided:
            outputs = [
                self._guide(positive, negative, scale)
                for positive, negative in zip(outputs[:batch], outputs[batch:], strict=True)
            ]
        return -torch.stack(outputs).squeeze(2)

    def _guide(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        guided = positive + scale * (positive - negative)
        cap = float(self.arguments.cfg_normalization or 0)
        if cap > 0:
            # The norm of one item's whole prediction is capped at `cap` times the conditional one's.
            most, norm = torch.linalg.vector_norm(positive) * cap, torch.linalg.vector_norm(guided)
            if norm > most:
                guided = guided * (most / norm)
        return guided

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        image = x
        if a.output_type != "latent":
            image = image.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
            image = pipe.vae.decode(image, return_dict=False)[0]
            image = pipe.image_processor.postprocess(image, output_type=a.output_type)
        return ZImagePipelineOutput(images=image) if a.return_dict else (image,)
