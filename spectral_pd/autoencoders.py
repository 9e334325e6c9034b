"""Pictures to latents and back, as the denoiser sees them: any autoencoder on disk, and one place that normalises.

A denoiser is trained on normalised latents ``x``; the autoencoder gives and takes raw ones ``z``. Between the two, by family:

- a number or two, ``x = (z - shift_factor) scaling_factor`` (``AutoencoderKL``, ``AutoencoderDC``, the distilled ones, where
  both are trivial);
- statistics a channel, ``x = (z - latents_mean) / latents_std scaling_factor`` (WAN, Qwen-Image, LTX, SDXL derivatives);
- batch statistics of 2x2 patches, ``x = shuffle((unshuffle(z) - mean) / sqrt(variance + eps))`` (FLUX.2).

:func:`normalise` and :func:`denormalise` are these three both ways, inverse to each other; measuring, adapters and
benchmarks go through them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectral_pd.inputs import spectra

__all__ = ["Autoencoder", "TinyAutoencoder", "denormalise", "load", "normalise"]


def _affine(model: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """(centre, spread) of ``x = (z - centre) / spread`` for raw latents z (N, C, ..., h, w)."""
    config = model.config
    scaling = float(getattr(config, "scaling_factor", None) or 1.0)
    stored = dict(model.named_buffers(recurse=False))  # LTX keeps its statistics beside the weights
    mean, deviation = (getattr(config, n, None) or stored.get(n) for n in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        shift = float(getattr(config, "shift_factor", None) or 0.0)
        return z.new_tensor(shift), z.new_tensor(1 / scaling)
    shape = (1, -1, *[1] * (z.ndim - 2))
    centre, spread = (torch.as_tensor(v).to(z).reshape(shape) for v in (mean, deviation))
    return centre, spread / scaling


def _patch_statistics(model: Any, z: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation (1, 4 C, 1, 1) of 2x2 patches where the model normalises those (FLUX.2), else None."""
    norm = getattr(model, "bn", None)
    if not isinstance(norm, nn.BatchNorm2d):
        return None
    mean, variance = (cast(Tensor, v).to(z).reshape(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
    return mean, (variance + norm.eps).sqrt()


def normalise(model: Any, z: Tensor) -> Tensor:
    """The denoiser's latents of the autoencoder's.

    Parameters
    ----------
    model
        The autoencoder; what it says of its family is read from its configuration and buffers.
    z
        Raw latents (N, C, h, w) or (N, C, t, h, w); h and w even where 2x2 patches are normalised.

    Returns
    -------
    Latents of z's shape and dtype.
    """
    statistics = _patch_statistics(model, z)
    if statistics is not None:
        mean, deviation = statistics
        return functional.pixel_shuffle((functional.pixel_unshuffle(z, 2) - mean) / deviation, 2)
    centre, spread = _affine(model, z)
    return (z - centre) / spread


def denormalise(model: Any, x: Tensor) -> Tensor:
    """The autoencoder's latents of the denoiser's: inverse to :func:`normalise`, same shapes."""
    statistics = _patch_statistics(model, x)
    if statistics is not None:
        mean, deviation = statistics
        return functional.pixel_shuffle(functional.pixel_unshuffle(x, 2) * deviation + mean, 2)
    centre, spread = _affine(model, x)
    return x * spread + centre


class _Block(nn.Module):
    """``relu(x + conv relu conv relu conv x)``, 64 channels; with `pooled`, x has ``pool(x)`` added first."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        inner: list[nn.Module] = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*inner, nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
        self.pool = (
            nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False), nn.GroupNorm(4, 256), nn.ReLU(), nn.Conv2d(256, 64, 1, bias=False)
            )
            if pooled
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return functional.relu(x + self.conv(x))


class _Clamp(nn.Module):
    """``3 tanh(x / 3)``: latents of any size are brought into the decoder's range."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class TinyAutoencoder(nn.Module):
    """A distilled autoencoder in its author's own two files, ``encoder.safetensors`` and ``decoder.safetensors``.

    Three halvings by convolutions of stride 2, three doublings by nearest neighbours, blocks of 64 channels, pictures in
    [0, 1] inside and in [-1, 1] at :meth:`encode` and :meth:`decode`. TAESD's, TAEF1's and TAESD3's layers; TAEF2's with
    `pooled` blocks at the smallest size. Where diffusers has a class for the folder, ``AutoencoderTiny``, that one is used.

    Parameters
    ----------
    channels
        Of the latents.
    pooled
        Whether the blocks at the smallest size add a pooled path.
    """

    def __init__(self, channels: int, *, pooled: bool) -> None:
        super().__init__()

        def blocks(count: int, *, smallest: bool = False) -> list[nn.Module]:
            return [_Block(pooled=pooled and smallest) for _ in range(count)]

        def down() -> nn.Module:
            return nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)

        def up() -> list[nn.Module]:
            return [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)]

        self.config = {"latent_channels": channels, "in_channels": 3}
        first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, channels, 3, padding=1)
        self.encoder = nn.Sequential(
            first, *blocks(1), down(), *blocks(3), down(), *blocks(3), down(), *blocks(3, smallest=True), last
        )
        first, last = nn.Conv2d(channels, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.decoder = nn.Sequential(
            *(_Clamp(), first, nn.ReLU(), *blocks(3, smallest=True)),
            *(*up(), *blocks(3), *up(), *blocks(3), *up(), *blocks(1), last),
        )

    @classmethod
    def load(cls, folder: str | Path) -> TinyAutoencoder:
        """Read both files; channels and kind of block are seen in them.

        Raises
        ------
        FileNotFoundError
            One of the files is missing.
        ValueError
            Other layers than these.
        """
        from safetensors.torch import load_file

        parts = {name: load_file(Path(folder) / f"{name}.safetensors") for name in ("encoder", "decoder")}
        try:
            model = cls(parts["encoder"]["14.weight"].shape[0], pooled="13.pool.0.weight" in parts["encoder"])
            for name, tensors in parts.items():
                getattr(model, name).load_state_dict({key: value.float() for key, value in tensors.items()})
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{folder} does not hold the layers of a distilled autoencoder: {error}") from error
        return model

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, C, H / 8, W / 8) of pictures (N, 3, H, W) in [-1, 1]."""
        return self.encoder((x + 1) / 2)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures (N, 3, 8 h, 8 w) in [-1, 1] of latents (N, C, h, w)."""
        return self.decoder(z) * 2 - 1


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder between pictures in [-1, 1] and latents as the denoiser sees them.

    The mode of the posterior, not a draw, so that a measurement can be repeated; a draw would add the posterior's variance
    to every frequency.

    Parameters
    ----------
    model
        A diffusers autoencoder or a :class:`TinyAutoencoder`, in evaluation mode, on its device.
    """

    model: Any

    @property
    def video(self) -> bool:
        """Whether the model takes clips (its encoder convolves in time) and not single pictures."""
        return any(isinstance(module, nn.Conv3d) for module in self.model.encoder.modules())

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, C, h, w) of pictures (N, 3 or 1, H, W) in [-1, 1]; (N, C, t, h, w) of clips (N, 3 or 1, T, H, W).

        A video model takes a picture as a clip of one frame; an image model encodes each frame of a clip by itself.

        Raises
        ------
        ValueError
            Neither pictures nor clips.
        """
        if x.ndim not in (4, 5):
            raise ValueError(f"pictures have shape {tuple(x.shape)}; pass (N, 3, H, W), or clips (N, 3, T, H, W)")
        x = self._placed(x)
        if x.shape[1] == 1 and getattr(self.model.config, "in_channels", 3) == 3:
            x = x.expand(-1, 3, *x.shape[2:])
        if self.video:
            return self._encoded(x if x.ndim == 5 else x[:, :, None])
        if x.ndim == 4:
            return self._encoded(x)
        return self._encoded(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, H, W), or clips (N, 3, T, H, W), of latents as :meth:`encode` gives them.

        Raises
        ------
        ValueError
            Neither latents of pictures nor of clips.
        """
        if latents.ndim not in (4, 5):
            raise ValueError(f"latents have shape {tuple(latents.shape)}; pass (N, C, h, w) or (N, C, t, h, w)")
        x = self._placed(latents)
        if self.video:
            return self._decoded(x if x.ndim == 5 else x[:, :, None])
        if x.ndim == 4:
            return self._decoded(x)
        return self._decoded(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)

    def _placed(self, x: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        return x.to(device=parameter.device, dtype=parameter.dtype)

    def _encoded(self, x: Tensor) -> Tensor:
        given = self.model.encode(x)
        if hasattr(given, "latent_dist"):
            z = given.latent_dist.mode()
        else:  # without a posterior: AutoencoderTiny, AutoencoderDC, TinyAutoencoder
            z = next((getattr(given, name) for name in ("latents", "latent") if hasattr(given, name)), given)
        return normalise(self.model, z).float()

    def _decoded(self, x: Tensor) -> Tensor:
        given = self.model.decode(denormalise(self.model, x))
        return getattr(given, "sample", given).float()


def load(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Autoencoder:
    """An autoencoder on disk.

    Parameters
    ----------
    path
        A folder saved by diffusers, of any of its autoencoders; a pipeline's folder with ``vae`` inside; or a folder with a
        distilled autoencoder's ``encoder.safetensors`` and ``decoder.safetensors``.
    device, dtype
        Where to and in which precision; None keeps float32, or what diffusers stores.

    Raises
    ------
    ModuleNotFoundError
        diffusers is needed and missing.
    ValueError
        Not such a folder.
    """
    folder = Path(path)
    if (folder / "encoder.safetensors").is_file() and (folder / "decoder.safetensors").is_file():
        return Autoencoder(TinyAutoencoder.load(folder).to(device=device, dtype=dtype).eval())
    folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{path} has no config.json; pass the folder of an autoencoder saved by diffusers, or one with encoder.safetensors "
            f"and decoder.safetensors of a distilled one"
        )
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("encoding needs diffusers: pip install 'spectral_pd[diffusers]'") from error
    with spectra.naming(str(config)):
        name = str(json.loads(config.read_bytes()).get("_class_name", "AutoencoderKL"))
    kind = getattr(diffusers, name, None)
    if kind is None or not (hasattr(kind, "encode") and hasattr(kind, "decode")):
        raise ValueError(f"{config} describes a {name!r}; an autoencoder of diffusers is needed")
    model = kind.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    return Autoencoder(model.to(device).eval())
