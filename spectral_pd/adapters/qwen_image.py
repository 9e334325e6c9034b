r"""Qwen-Image: packed 2x2 tokens, shapes instead of ids, true CFG whose norm is brought back per token.

The transformer takes ``t`` and returns ``+v``; ``img_shapes`` = (1, rows, columns) per item gives rotary positions centred on
the picture, so a smaller stage uses the positions around the centre.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.pipelines.qwenimage.pipeline_output import QwenImagePipelineOutput
from torch import Tensor

from spectral_pd.adapters.base import (
    Adapter,
    Grid,
    batch_size,
    linear_mu,
    pack,
    uniform_sigmas,
    unpack,
)
from spectral_pd.power import PRESETS


class QwenImageAdapter(Adapter):
    """Qwen-Image text to image."""

    preset = PRESETS["qwen-image"]

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        cell = pipe.vae_scale_factor * 2
        self.grid = (2 * (int(a.height) // cell), 2 * (int(a.width) // cell))
        common = {
            "device": self.device,
            "num_images_per_prompt": a.num_images_per_prompt,
            "max_sequence_length": a.max_sequence_length,
        }
        self.positive = pipe.encode_prompt(
            prompt=a.prompt, prompt_embeds=a.prompt_embeds, prompt_embeds_mask=a.prompt_embeds_mask, **common
        )
        self.negative = None
        if a.true_cfg_scale > 1 and (a.negative_prompt is not None or a.negative_prompt_embeds is not None):
            self.negative = pipe.encode_prompt(
                prompt=a.negative_prompt,
                prompt_embeds=a.negative_prompt_embeds,
                prompt_embeds_mask=a.negative_prompt_embeds_mask,
                **common,
            )
        self.prompts = batch_size(a.prompt, a.prompt_embeds)
        batch = self.prompts * a.num_images_per_prompt
        self.leading = (batch, pipe.transformer.config.in_channels // 4)
        self.dtype = self.positive[0].dtype
        self.guidance = None
        if pipe.transformer.config.guidance_embeds:
            if a.guidance_scale is None:
                raise ValueError("guidance_scale is None; this guidance-distilled model needs it")
            self.guidance = torch.full((batch,), a.guidance_scale, device=self.device, dtype=torch.float32)

    def times(self) -> tuple[float, ...]:
        a, scheduler = self.arguments, self.pipe.scheduler
        sigmas = uniform_sigmas(a.num_inference_steps) if a.sigmas is None else a.sigmas
        tokens = (self.grid[0] // 2) * (self.grid[1] // 2)
        mu = linear_mu(tokens, scheduler.config)
        return self.scheduler_times(sigmas=sigmas, mu=mu)

    def from_latents(self, latents: Tensor, grid: Grid) -> Tensor:
        return unpack(latents, grid)

    def to_latents(self, x: Tensor) -> Tensor:
        return pack(x)

    def position_arguments(self) -> dict[str, Any]:
        return {"img_shapes": self.image_shapes}

    def begin_stage(self, grid: Grid) -> None:
        super().begin_stage(grid)
        self.image_shapes = [[(1, grid[0] // 2, grid[1] // 2)]] * self.prompts

    def velocity(self, x: Tensor, t: float) -> Tensor:
        tokens = pack(x.to(self.dtype))
        timestep = self.timestep(t, x.shape[0]).to(self.dtype) / 1000
        v = self._forward("cond", t, tokens, timestep, *self.positive)
        if self.negative is not None:
            v_negative = self._forward("uncond", t, tokens, timestep, *self.negative)
            guided = v_negative + self.arguments.true_cfg_scale * (v - v_negative)
            norm, wanted = (torch.norm(y, dim=-1, keepdim=True) for y in (guided, v))
            v = guided * (wanted / norm)
        return unpack(v, tuple(x.shape[-2:])).to(torch.float32)

    def _forward(
        self, branch: str, t: float, tokens: Tensor, timestep: Tensor, embeddings: Tensor, mask: Tensor | None
    ) -> Tensor:
        transformer = self.pipe.transformer
        lengths = {}
        if "txt_seq_lens" in inspect.signature(transformer.forward).parameters:  # diffusers 0.36
            lengths = {"txt_seq_lens": None if mask is None else mask.sum(dim=1).tolist()}
        with self.cache_context(transformer, branch, t):
            return transformer(
                **lengths,
                hidden_states=tokens,
                timestep=timestep,
                guidance=self.guidance,
                encoder_hidden_states_mask=mask,
                encoder_hidden_states=embeddings,
                img_shapes=self.image_shapes,
                attention_kwargs=self.arguments.attention_kwargs or {},
                return_dict=False,
            )[0]

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        image = x.to(self.dtype)
        if a.output_type == "latent":
            image = pack(image)
        else:
            image = image.to(pipe.vae.dtype)[:, :, None]  # the autoencoder is a video model's: one frame
            mean, deviation = (
                torch.tensor(values, device=image.device, dtype=image.dtype).view(1, -1, 1, 1, 1)
                for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
            )
            image = image / (1.0 / deviation) + mean
            image = pipe.vae.decode(image, return_dict=False)[0][:, :, 0]
            image = pipe.image_processor.postprocess(image, output_type=a.output_type)
        return QwenImagePipelineOutput(images=image) if a.return_dict else (image,)
