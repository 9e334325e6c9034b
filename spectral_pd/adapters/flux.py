r"""FLUX.1 (dev, schnell): packed 2x2 tokens, ids from the caller, guidance embedded and optionally true CFG.

The transformer takes ``t`` itself (it multiplies by 1000 inside) and returns ``+v``. Position ids are absolute grid
indices (0, row, column), so a half-size stage uses positions 0 .. h/2 - 1, as an ordinary call of that size does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
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

_IP_ADAPTER = "the image embeddings would have to be routed into both guidance branches"


class FluxAdapter(Adapter):
    """FLUX.1 text to image."""

    preset = PRESETS["flux"]
    refused: ClassVar[Mapping[str, str]] = {
        "ip_adapter_image": _IP_ADAPTER,
        "ip_adapter_image_embeds": _IP_ADAPTER,
        "negative_ip_adapter_image": _IP_ADAPTER,
        "negative_ip_adapter_image_embeds": _IP_ADAPTER,
    }

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        # An autoencoder cell of 8 pixels, patches of 2: sizes are rounded down to 16 pixels, as the pipeline does.
        cell = pipe.vae_scale_factor * 2
        self.grid = (2 * (int(a.height) // cell), 2 * (int(a.width) // cell))
        kwargs = a.joint_attention_kwargs or {}
        common = {
            "device": self.device,
            "num_images_per_prompt": a.num_images_per_prompt,
            "max_sequence_length": a.max_sequence_length,
            "lora_scale": kwargs.get("scale"),
        }
        self.positive = pipe.encode_prompt(
            prompt=a.prompt,
            prompt_2=a.prompt_2,
            prompt_embeds=a.prompt_embeds,
            pooled_prompt_embeds=a.pooled_prompt_embeds,
            **common,
        )
        has_negative = a.negative_prompt is not None or (
            a.negative_prompt_embeds is not None and a.negative_pooled_prompt_embeds is not None
        )
        self.negative = None
        if a.true_cfg_scale > 1 and has_negative:
            self.negative = pipe.encode_prompt(
                prompt=a.negative_prompt,
                prompt_2=a.negative_prompt_2,
                prompt_embeds=a.negative_prompt_embeds,
                pooled_prompt_embeds=a.negative_pooled_prompt_embeds,
                **common,
            )
        batch = batch_size(a.prompt, a.prompt_embeds) * a.num_images_per_prompt
        self.leading = (batch, pipe.transformer.config.in_channels // 4)
        self.dtype = self.positive[0].dtype
        self.guidance = None
        if pipe.transformer.config.guidance_embeds:
            self.guidance = torch.full((batch,), a.guidance_scale, device=self.device, dtype=torch.float32)

    def times(self) -> tuple[float, ...]:
        a, config = self.arguments, self.pipe.scheduler.config
        sigmas = uniform_sigmas(a.num_inference_steps) if a.sigmas is None else a.sigmas
        if config.get("use_flow_sigmas"):
            sigmas = None  # a multistep flow scheduler spaces its own
        tokens = (self.grid[0] // 2) * (self.grid[1] // 2)
        return self.scheduler_times(sigmas=sigmas, mu=linear_mu(tokens, config))

    def from_latents(self, latents: Tensor, grid: Grid) -> Tensor:
        return unpack(latents, grid)

    def to_latents(self, x: Tensor) -> Tensor:
        return pack(x)

    def position_arguments(self) -> dict[str, Any]:
        return {"img_ids": self.image_ids}

    def begin_stage(self, grid: Grid) -> None:
        super().begin_stage(grid)
        rows, columns = grid[0] // 2, grid[1] // 2
        ids = torch.zeros(rows, columns, 3)
        ids[..., 1] = torch.arange(rows)[:, None]
        ids[..., 2] = torch.arange(columns)[None, :]
        self.image_ids = ids.reshape(rows * columns, 3).to(device=self.device, dtype=self.dtype)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        tokens = pack(x.to(self.dtype))
        timestep = self.timestep(t, x.shape[0]).to(self.dtype) / 1000
        v = self._forward("cond", t, tokens, timestep, *self.positive)
        if self.negative is not None:
            v_negative = self._forward("uncond", t, tokens, timestep, *self.negative)
            v = v_negative + self.arguments.true_cfg_scale * (v - v_negative)
        return unpack(v, tuple(x.shape[-2:])).to(torch.float32)

    def _forward(
        self, branch: str, t: float, tokens: Tensor, timestep: Tensor, embeddings: Tensor, pooled: Tensor, ids: Tensor
    ) -> Tensor:
        with self.cache_context(self.pipe.transformer, branch, t):
            return self.pipe.transformer(
                hidden_states=tokens,
                timestep=timestep,
                guidance=self.guidance,
                pooled_projections=pooled,
                encoder_hidden_states=embeddings,
                txt_ids=ids,
                img_ids=self.image_ids,
                joint_attention_kwargs=self.arguments.joint_attention_kwargs or {},
                return_dict=False,
            )[0]

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        image = x.to(self.dtype)
        if a.output_type == "latent":
            image = pack(image)
        else:
            image = image / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
            image = pipe.vae.decode(image, return_dict=False)[0]
            image = pipe.image_processor.postprocess(image, output_type=a.output_type)
        return FluxPipelineOutput(images=image) if a.return_dict else (image,)
