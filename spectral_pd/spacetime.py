r"""Spectra of video: power against temporal and spatial frequency, for plans that grow in time as well as in space (ours).

Frames differ from neighbouring frames in another way than pixels from neighbouring pixels, so one radial frequency does
not do: power is a table ``P(omega_t, omega_s)`` with ``omega_t`` in cycles per clip and ``omega_s``, the radial frequency of
a frame, in cycles per shorter side. Movement at v sides a clip puts the power of ``omega_s`` near ``omega_t = v omega_s``.

A stage lacks every coefficient outside its box of frequencies. The delta rule (Eqs. 9-10) for a table is therefore

    ``t* = max over (omega_t, omega_s) outside the box of t_omega``,

which for a decreasing radial spectrum is the paper's rule. The same clip on another grid, with more frames or larger ones, has
power in proportion to the number of grid points at the same frequencies (:meth:`SpaceTimeSpectrum.at`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.bases import BASIS, DCT, Basis, SeparableBasis
from spectral_pd.inputs import door, spectra, working_dtype
from spectral_pd.power import AnySpectrum, bin_numbers
from spectral_pd.theory import activation_time


def _axes(shape: tuple[int, ...], basis: Basis) -> tuple[np.ndarray, torch.Tensor]:
    """(omega_t (T,) in cycles per clip, omega_s (H, W) in cycles per shorter side) of the coefficients."""
    if not isinstance(basis, SeparableBasis):
        raise ValueError(f"{basis} functions have no frequency along single axes; use DCT or FOURIER")
    return basis.axis_frequency(shape[0]).numpy(), basis.frequency(shape[1:])


@dataclass(frozen=True, eq=False)
class SpaceTimeSpectrum(AnySpectrum):
    """A measured table of power against temporal and spatial frequency.

    Parameters
    ----------
    time
        Temporal frequencies of the rows, cycles per clip, from 0, strictly increasing.
    space
        Centres of the radial bins, cycles per shorter side, from 0 (each frame's mean), strictly increasing.
    power
        Mean power, (len(time), len(space)), positive.
    shape
        The grid (frames, height, width) it belongs to.

    Examples
    --------
    >>> table = SpaceTimeSpectrum(np.arange(4.0), np.arange(5.0), np.ones((4, 5)), (8, 8, 8))
    >>> table.at((16, 8, 8)).power[0, 0], table.coefficients((8, 8, 8)).shape
    (np.float64(2.0), (8, 8, 8))
    """

    time: np.ndarray
    space: np.ndarray
    power: np.ndarray
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, value in spectra.clip_table(self.time, self.space, self.power, self.shape).items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.time, self.space, self.power, self.shape)  # a copy's arrays are read-only as well

    @door(shape=spectra.clip_shape)
    def at(self, shape: Sequence[int]) -> SpaceTimeSpectrum:
        return replace(self, power=self.power * (math.prod(shape) / math.prod(self.shape)), shape=tuple(shape))

    @door(shape=spectra.clip_shape, basis=BASIS)
    def coefficients(self, shape: Sequence[int], basis: Basis = DCT) -> np.ndarray:
        """Power of every coefficient of a grid: (frames, height, width), float64.

        Straight lines in log power, against ``log(1 + omega)`` along both axes; constant beyond the table (the corners of a
        frame lie beyond the last bin). ValueError for a basis without frequencies along single axes.
        """
        omega_t, omega_s = _axes(tuple(shape), basis)
        log = np.log(self.at(shape).power)
        columns = np.stack([np.interp(np.log1p(omega_t), np.log1p(self.time), column) for column in log.T], 1)
        rows = [np.interp(np.log1p(omega_s.numpy()), np.log1p(self.space), row) for row in columns]
        return np.exp(np.stack(rows))

    def t_star(self, size: Sequence[int], shape: Sequence[int], *, delta: float) -> float:
        """The activation time of the strongest coefficient outside the stage's box of frequencies."""
        power = self.coefficients(shape)
        power[tuple(slice(0, n) for n in size)] = 0.0
        return activation_time(float(power.max()), delta)


@door(basis=BASIS, clips=spectra.clips)
def spacetime_spectrum(clips: Tensor, *, basis: Basis = DCT) -> SpaceTimeSpectrum:
    """Measure power against temporal and spatial frequency.

    Each clip is centred (its mean over frames and pixels removed, per channel), transformed along all three axes, and power
    averaged over clips, channels, the coefficients of one temporal frequency and the radial bins ``[k - 1/2, k + 1/2)`` of
    a frame, k = 0 .. floor(omega_max).

    Parameters
    ----------
    clips
        (..., frames, height, width), real floating point; at least 2 frames.
    basis
        DCT (default: even reflection, no jump from the last frame to the first) or FOURIER; ValueError for Haar, whose
        functions have no frequency along single axes.

    Examples
    --------
    >>> table = spacetime_spectrum(torch.randn(8, 3, 6, 16, 16))
    >>> table.power.shape, table.shape
    ((6, 9), (6, 16, 16))
    """
    shape = tuple(clips.shape[-3:])
    omega_t, omega_s = _axes(shape, basis)
    bins = bin_numbers(omega_s).numpy()  # 0 is a frame's mean, which counts here: it may flicker
    last = int(bins.max())
    rows, row = np.unique(omega_t, return_inverse=True)
    inside = np.broadcast_to(bins >= 0, shape).ravel()
    cell = (row.reshape(-1, 1, 1) * (last + 1) + bins).ravel()[inside]
    total = np.zeros(shape)
    for clip in clips.reshape(-1, *shape):
        x = clip.to(working_dtype(clip.dtype))
        c = basis.forward((x - x.mean(dtype=torch.float64).to(x.dtype))[None], dims=3)[0]
        total += c.to(torch.float64).square().cpu().numpy()
    power = total.ravel()[inside] / max(1, clips[..., 0, 0, 0].numel())
    count = np.bincount(cell, minlength=len(rows) * (last + 1))
    table = np.bincount(cell, weights=power, minlength=count.size) / np.maximum(count, 1)
    table = table.reshape(len(rows), last + 1)
    # The clip's mean was removed: its one coefficient takes the power of its neighbours, as the mean of a field does.
    mean = count.reshape(table.shape)[0, 0]
    table[0, 0] = table[0, 0] * mean / (mean - 1) if mean > 1 else table[1, 0]
    return SpaceTimeSpectrum(rows, np.arange(last + 1, dtype=np.float64), table, shape)


def latent_frames(frames: int, *, stride: int = 4) -> int:
    """Latent frames of a video of `frames` frames under a causal autoencoder: the first frame alone, then `stride` at a time.

    `frames` are ``stride k + 1``. WAN 2.1: ``4 k + 1`` frames are ``k + 1`` latent frames, 81 are 21. So every number of latent
    frames is legal for a stage, and stands for ``4 (n - 1) + 1`` frames.

    Examples
    --------
    >>> latent_frames(81), latent_frames(1)
    (21, 1)
    """
    spectra.strided(frames, stride)
    return (frames - 1) // stride + 1
