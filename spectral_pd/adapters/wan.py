r"""WAN 2.1 text to video, and the two-expert WAN 2.2: (batch, 16, frames, height, width), patches of (1, 2, 2).

The transformer takes ``1000 t``, builds its positions from the shape and returns ``+v``; guidance is two passes. Only height
and width grow: every stage has all frames.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from torch import Tensor

from spectral_pd.adapters.base import Adapter, batch_size
from spectral_pd.power import PRESETS


class WanAdapter(Adapter):
    """WAN text to video."""

    preset = PRESETS["wan"]

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        if pipe.config.expand_timesteps:
            raise ValueError(
                "WAN 2.2 5B (expand_timesteps) is not supported: it takes a timestep per token, and its autoencoder's "
                "spectrum is not measured; use WAN 2.1 or the two-expert WAN 2.2"
            )
        spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
        self.network = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
        cell = spatial * self.network.config.patch_size[1]
        # As the pipeline: sizes down to whole patches, frames to 1 more than a multiple of the temporal factor.
        self.grid = (a.height // cell * cell // spatial, a.width // cell * cell // spatial)
        frames = a.num_frames if a.num_frames % temporal == 1 else a.num_frames // temporal * temporal + 1
        guided = a.guidance_scale > 1
        positive, negative = pipe.encode_prompt(
            prompt=a.prompt,
            negative_prompt=a.negative_prompt,
            do_classifier_free_guidance=guided,
            num_videos_per_prompt=a.num_videos_per_prompt,
            prompt_embeds=a.prompt_embeds,
            negative_prompt_embeds=a.negative_prompt_embeds,
            max_sequence_length=a.max_sequence_length,
            device=self.device,
        )
        self.dtype = self.network.dtype
        self.positive = positive.to(self.dtype)
        self.negative = negative.to(self.dtype) if guided else None
        batch = batch_size(a.prompt, a.prompt_embeds) * a.num_videos_per_prompt
        self.leading = (batch, self.network.config.in_channels, (max(frames, 1) - 1) // temporal + 1)

    @property
    def noise_dtype(self) -> torch.dtype:
        return torch.float32

    def transformers(self) -> list[Any]:
        return [m for m in (self.pipe.transformer, self.pipe.transformer_2) if m is not None]

    def times(self) -> tuple[float, ...]:
        return self.scheduler_times()

    def velocity(self, x: Tensor, t: float) -> Tensor:
        pipe, a = self.pipe, self.arguments
        timestep = self.timestep(t, x.shape[0])
        network, scale, boundary = self.network, a.guidance_scale, pipe.config.boundary_ratio
        # WAN 2.2's experts were trained on either side of the boundary in the noise level of their own input.
        if boundary is not None and float(timestep[0]) < boundary * pipe.scheduler.config.num_train_timesteps:
            network = pipe.transformer_2
            scale = a.guidance_scale if a.guidance_scale_2 is None else a.guidance_scale_2
        x = x.to(self.dtype)
        v = self._forward(network, "cond", x, t, timestep, self.positive)
        if self.negative is not None:
            v_negative = self._forward(network, "uncond", x, t, timestep, self.negative)
            v = v_negative + scale * (v - v_negative)
        return v.to(torch.float32)

    def _forward(self, network: Any, branch: str, x: Tensor, t: float, timestep: Tensor, embeddings: Tensor) -> Tensor:
        with self.cache_context(network, branch, t):
            return network(
                hidden_states=x,
                timestep=timestep,
                encoder_hidden_states=embeddings,
                attention_kwargs=self.arguments.attention_kwargs,
                return_dict=False,
            )[0]

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        if a.output_type == "latent":
            video = x.to(self.dtype)
        else:
            video = x.to(pipe.vae.dtype)
            mean, deviation = (
                torch.tensor(values, device=video.device, dtype=video.dtype).view(1, -1, 1, 1, 1)
                for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
            )
            video = video / (1.0 / deviation) + mean
            video = pipe.vae.decode(video, return_dict=False)[0]
            video = pipe.video_processor.postprocess_video(video, output_type=a.output_type)
        return WanPipelineOutput(frames=video) if a.return_dict else (video,)
