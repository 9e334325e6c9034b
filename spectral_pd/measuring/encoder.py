"""An autoencoder between pictures and the meter: latents as the denoiser sees them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Encoder:
    """A diffusers ``AutoencoderKL*`` as a step between pictures and the meter: latents as the denoiser sees them.

    ``(z - shift_factor) * scaling_factor``, z the mode of ``encode(x)``; models that store statistics per channel (WAN,
    Qwen-Image, LTX, SDXL derivatives) ``(z - latents_mean) / latents_std * scaling_factor``; FLUX.2 normalises 2x2 patches
    by its batch statistics, and the latents come laid out in space as its adapter samples them. The mode, not a draw, so
    that a measurement can be repeated; a draw would add the posterior's variance to every bin.

    Parameters
    ----------
    vae
        The autoencoder, in evaluation mode, on its device.
    """

    vae: Any

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Encoder:
        """An autoencoder saved by diffusers: its own folder, or a pipeline's folder with ``vae`` inside.

        Raises
        ------
        ModuleNotFoundError
            diffusers is missing.
        ValueError
            Not such a folder.
        """
        try:
            import diffusers
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("encoding needs diffusers: pip install 'spectral_pd[diffusers]'") from error
        folder = Path(path)
        folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
        config = folder / "config.json"
        if not config.is_file():
            raise ValueError(f"{path} has no config.json; pass the folder of an autoencoder saved by diffusers")
        name = json.loads(config.read_text()).get("_class_name", "AutoencoderKL")
        kind = getattr(diffusers, name, None) if isinstance(name, str) else None
        if kind is None or not re.match("Auto[eE]ncoderKL", name):
            raise ValueError(f"{config} describes a {name!r}; an AutoencoderKL model is needed")
        vae = kind.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        return cls(vae.to(device).eval())

    @property
    def video(self) -> bool:
        """Whether the model encodes clips (its encoder convolves in time) and not single pictures."""
        return any(isinstance(module, torch.nn.Conv3d) for module in self.vae.encoder.modules())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Latents (N, C, h, w) of pictures (N, 3 or 1, H, W) in [-1, 1]; (N, C, t, h, w) of clips (N, 3 or 1, T, H, W).

        A video model takes a picture as a clip of one frame; an image model encodes each frame of a clip by itself.

        Raises
        ------
        ValueError
            Neither pictures nor clips.
        """
        if x.ndim not in (4, 5):
            raise ValueError(f"pictures have shape {tuple(x.shape)}; pass (N, 3, H, W), or clips (N, 3, T, H, W)")
        parameter = next(self.vae.parameters())
        x = x.to(device=parameter.device, dtype=parameter.dtype)
        if x.shape[1] == 1 and getattr(self.vae.config, "in_channels", 3) == 3:
            x = x.expand(-1, 3, *x.shape[2:])
        if self.video:
            return self._normalised(self.vae.encode(x if x.ndim == 5 else x[:, :, None]).latent_dist.mode()).float()
        if x.ndim == 4:
            return self._normalised(self.vae.encode(x).latent_dist.mode()).float()
        z = self._normalised(self.vae.encode(x.transpose(1, 2).flatten(0, 1)).latent_dist.mode())
        return z.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2).float()

    def _normalised(self, z: Tensor) -> Tensor:
        """The denoiser's latents of the encoder's, (N, C, [t,] h, w)."""
        config = self.vae.config
        scaling = getattr(config, "scaling_factor", None) or 1.0
        norm = getattr(self.vae, "bn", None)
        if isinstance(norm, torch.nn.BatchNorm2d):
            centre, variance = (cast(Tensor, v).reshape(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
            patches = (functional.pixel_unshuffle(z, 2) - centre) / (variance + norm.eps).sqrt()
            return functional.pixel_shuffle(patches, 2)
        stored = dict(self.vae.named_buffers(recurse=False))  # LTX keeps its statistics beside the weights
        mean, deviation = (getattr(config, n, None) or stored.get(n) for n in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return (z - (getattr(config, "shift_factor", None) or 0.0)) * scaling
        centre, spread = (torch.as_tensor(v).to(z).reshape(1, -1, *[1] * (z.ndim - 2)) for v in (mean, deviation))
        return (z - centre) / spread * scaling
