r"""FLUX.2 (dev, klein): 32 channels in 2x2 patches, normalised per patch channel, tokens with four-part ids.

The pipeline's latent is (batch, 128, h, w): the 2x2 patches as channels, brought to zero mean and unit variance by the
autoencoder's batch statistics. This adapter samples the same numbers laid out in space, (batch, 32, 2 h, 2 w): white noise
is white in both, but only there is a coarse stage the same picture on a coarser grid. Growing the 128-channel grid would
make the four pixels of a coarse patch nearly equal, which no encoded picture looks like.

The transformer takes ``t`` and returns ``+v``. The dynamic shift is an empirical fit of tokens AND steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux2.pipeline_output import Flux2PipelineOutput
from torch import Tensor

from spectral_pd.adapters.base import Adapter, Grid, batch_size, uniform_sigmas
from spectral_pd.power import PRESETS


def empirical_mu(tokens: int, steps: int) -> float:
    """Log of FLUX.2's dynamic shift: lines in the tokens at 10 and 200 steps, linear in the steps between; above 4300
    tokens the line of 200 steps at any number of steps."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    slope = (at_200 - (8.73809524e-05 * tokens + 1.89833333)) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)


def patchify(x: Tensor) -> Tensor:
    """2x2 patches to channels: (batch, C, H, W) -> (batch, 4 C, H/2, W/2)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)


def unpatchify(x: Tensor) -> Tensor:
    """Inverse of :func:`patchify`."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels // 4, 2, 2, height, width)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, height * 2, width * 2)


class Flux2Adapter(Adapter):
    """FLUX.2-dev text to image."""

    preset = PRESETS["flux2"]
    refused: ClassVar[Mapping[str, str]] = {
        "image": "the reference images' tokens are of the full size and would have to be made for every stage",
        "caption_upsample_temperature": "call pipe.upsample_prompt(...) yourself and pass its text as the prompt",
    }
    fixed_loop = "it puts the final tokens in place by the position ids of the start"

    def encode(self) -> None:
        pipe, a = self.pipe, self.arguments
        cell = pipe.vae_scale_factor * 2
        self.grid = (2 * (int(a.height) // cell), 2 * (int(a.width) // cell))
        self.positive = self._encode(a.prompt, a.prompt_embeds)
        self.negative: tuple[Tensor, Tensor] | None = None
        batch = batch_size(a.prompt, a.prompt_embeds) * a.num_images_per_prompt
        self.leading = (batch, pipe.transformer.config.in_channels // 4)
        self.dtype = self.positive[0].dtype
        self.guidance: Tensor | None = torch.full((batch,), a.guidance_scale, device=self.device, dtype=torch.float32)

    def _encode(self, prompt: Any, embeddings: Tensor | None) -> tuple[Tensor, Tensor]:
        a = self.arguments
        return self.pipe.encode_prompt(
            prompt=prompt,
            prompt_embeds=embeddings,
            device=self.device,
            num_images_per_prompt=a.num_images_per_prompt,
            max_sequence_length=a.max_sequence_length,
            text_encoder_out_layers=a.text_encoder_out_layers,
        )

    def times(self) -> tuple[float, ...]:
        a, scheduler = self.arguments, self.pipe.scheduler
        sigmas = uniform_sigmas(a.num_inference_steps) if a.sigmas is None else a.sigmas
        if scheduler.config.get("use_flow_sigmas"):
            sigmas = None
        tokens = (self.grid[0] // 2) * (self.grid[1] // 2)
        mu = empirical_mu(tokens, a.num_inference_steps)
        return self.scheduler_times(sigmas=sigmas, mu=mu)

    def from_latents(self, latents: Tensor, grid: Grid) -> Tensor:
        return unpatchify(latents)

    def to_latents(self, x: Tensor) -> Tensor:
        return patchify(x)

    def random(self, shape: Any) -> Tensor:
        batch, channels, height, width = shape
        return unpatchify(super().random((batch, channels * 4, height // 2, width // 2)))

    def begin_stage(self, grid: Grid) -> None:
        super().begin_stage(grid)
        rows, columns = grid[0] // 2, grid[1] // 2
        ids = torch.zeros(rows, columns, 4, dtype=torch.int64)  # (time, row, column, layer)
        ids[..., 1] = torch.arange(rows)[:, None]
        ids[..., 2] = torch.arange(columns)[None, :]
        self.image_ids = ids.reshape(1, rows * columns, 4).expand(self.leading[0], -1, -1).to(self.device)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        patches = patchify(x)
        tokens = patches.flatten(2).transpose(1, 2).to(self.pipe.transformer.dtype)
        timestep = self.timestep(t, x.shape[0]).to(self.dtype) / 1000
        v = self._forward("cond", t, tokens, timestep, *self.positive)
        if self.negative is not None:
            v_negative = self._forward("uncond", t, tokens, timestep, *self.negative)
            v = v_negative + self.arguments.guidance_scale * (v - v_negative)
        return unpatchify(v.transpose(1, 2).reshape(patches.shape)).to(torch.float32)

    def _forward(
        self, branch: str, t: float, tokens: Tensor, timestep: Tensor, embeddings: Tensor, ids: Tensor
    ) -> Tensor:
        with self.cache_context(self.pipe.transformer, branch, t):
            return self.pipe.transformer(
                hidden_states=tokens,
                timestep=timestep,
                guidance=self.guidance,
                encoder_hidden_states=embeddings,
                txt_ids=ids,
                img_ids=self.image_ids,
                joint_attention_kwargs=self.arguments.attention_kwargs,
                return_dict=False,
            )[0]

    def decode(self, x: Tensor) -> Any:
        pipe, a = self.pipe, self.arguments
        patches = patchify(x.to(self.dtype))
        if a.output_type == "latent":
            image = self.output_latents(patches)
        else:
            image = pipe.vae.decode(unpatchify(self._denormalised(patches)), return_dict=False)[0]
            image = pipe.image_processor.postprocess(image, output_type=a.output_type)
        return Flux2PipelineOutput(images=image) if a.return_dict else (image,)

    def output_latents(self, patches: Tensor) -> Tensor:
        """What ``output_type="latent"`` returns: FLUX.2-dev gives its normalised tokens."""
        return patches.flatten(2).transpose(1, 2)

    def _denormalised(self, patches: Tensor) -> Tensor:
        vae = self.pipe.vae
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(patches)
        deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(patches)
        return patches * deviation + mean


class Flux2KleinAdapter(Flux2Adapter):
    """FLUX.2-klein text to image: no guidance embedding; true CFG unless step-distilled."""

    refused: ClassVar[Mapping[str, str]] = {"image": Flux2Adapter.refused["image"]}

    def encode(self) -> None:
        super().encode()
        pipe, a = self.pipe, self.arguments
        self.guidance = None
        if a.guidance_scale > 1 and not pipe.config.is_distilled:
            empty = [""] * len(a.prompt) if isinstance(a.prompt, list) else ""
            self.negative = self._encode(empty, a.negative_prompt_embeds)

    def output_latents(self, patches: Tensor) -> Tensor:
        """FLUX.2-klein returns the autoencoder's own latents."""
        return unpatchify(self._denormalised(patches))
