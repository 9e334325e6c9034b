r"""From a measured table to a power law: ``log P = log A - beta log omega``, least squares over the bins (Eq. 4).

A fit at the bin centres, as published fits are made, finds A 30 % and beta 0.09 too large on a 64x64 grid for beta = 2,
because a bin's mean power is not the power at its centre (:mod:`spectral_pd.power`). The default here places each bin at its
effective frequency, which recovers a power law exactly on every grid, in every basis.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from spectral_pd import inputs
from spectral_pd.bases import DCT, Basis
from spectral_pd.inputs import door, spectra, storage
from spectral_pd.meter import Channels, SpectrumMeter, channels_word
from spectral_pd.power import PowerLaw, Spectrum

__all__ = ["fit_power_law", "fit_spectrum"]

Weights = Literal["uniform", "count", "log"]
weights_word = inputs.choice("uniform", "count", "log")


def least_squares(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted least squares of rows of `y` (..., n) on the columns of `x` (n, p): coefficients (..., p), weighted sum of
    squared residuals (...), R2 about the weighted mean (...)."""
    root = np.sqrt(weight / weight.sum())
    solution = (y * root) @ np.linalg.pinv(x * root[:, None]).T
    residual = ((y - solution @ x.T) * root) ** 2
    mean = (y * root**2).sum(-1, keepdims=True)
    spread = (((y - mean) * root) ** 2).sum(-1)
    # White data have no spread to explain: R2 is 0 by convention.
    r2 = np.where(spread > 0, 1 - residual.sum(-1) / np.where(spread > 0, spread, 1), 0.0)
    return solution, residual.sum(-1), r2


@door(weights=weights_word)
def fit_weights(spectrum: Spectrum, weights: Weights) -> np.ndarray:
    """The weight of each bin: 1, its number of coefficients, or ``1 / omega``."""
    omega = spectrum.frequency
    return {"uniform": np.ones_like(omega), "count": spectrum.count, "log": 1 / omega}[weights]


@door(band=inputs.optional(spectra.band))
def fit_band(spectrum: Spectrum, band: tuple[float, float] | None) -> np.ndarray:
    """Mask of the bins in `band`, both ends included; ValueError where no line can be fitted to them."""
    low, high = band or (0.0, np.inf)
    inside = (spectrum.frequency >= low) & (spectrum.frequency <= high)
    spectra.fittable(spectrum.power[inside], spectrum.shape, band)
    return inside


def _table(value: Any, name: str) -> Any:
    """A measured table, or that of a measurement."""
    table = value.spectrum if hasattr(value, "law") else value
    return inputs.instance(Spectrum, "a Spectrum, e.g. power_spectrum(x)")(table, name)


@door(
    spectrum=_table,
    frequency=inputs.choice("effective", "centre"),
)
def fit_power_law(
    spectrum: Spectrum,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    frequency: Literal["effective", "centre"] = "effective",
) -> PowerLaw:
    """Least-squares power law of a measured spectrum: ``log P = log A - beta log omega``.

    Parameters
    ----------
    spectrum
        A measured table, without bins of power 0 in the band (constant data have them).
    band
        (lowest, highest) frequency to use, inclusive, in cycles per shorter side: at least 2 bins. None uses every bin. On
        photographs at 512 pixels, A without the outermost bins (interpolation, compression, sensor noise) is 0.8 times that
        of all.
    weights
        ``"uniform"``: every bin alike, as published fits; most bins lie at high omega. ``"count"``: by number of
        coefficients, which leans on the highest frequencies even more: on the same photographs 3 times the A.
        ``"log"``: ``1 / omega``, every octave alike: 0.4 times the A. That they differ says that no power law holds
        exactly; the transition time differs far less (docs/spectra.md).
    frequency
        Where a bin of a measured spectrum lies: ``"effective"``, where the law itself has the bin's mean power (unbiased),
        or ``"centre"``, at k, as in published fits (see the module's text). Tables without a binning have only centres.

    Examples
    --------
    >>> k = np.arange(1.0, 17.0)
    >>> law = fit_power_law(Spectrum(k, 50 * k**-2.0, np.ones(16), (32, 32)))
    >>> round(law.amplitude, 6), round(law.exponent, 6)
    (50.0, 2.0)
    """
    inside = fit_band(spectrum, band)
    weight, y = fit_weights(spectrum, weights)[inside], np.log(spectrum.power[inside])
    omega, exponent = spectrum.frequency[inside], 0.0
    binning = spectrum.binning if frequency == "effective" else None
    # Effective frequencies depend on the exponent weakly, so a few rounds find the pair that agrees.
    for _ in range(100):
        if binning is not None:
            omega = binning.effective_frequency(exponent)[inside]
        x = np.log(omega)
        (intercept, slope), _, r2 = least_squares(np.vander(x, 2, increasing=True), y, weight)
        previous, exponent = exponent, -float(slope)
        if binning is None or abs(exponent - previous) < 1e-13:
            break
    basis = "" if spectrum.binning is None else spectrum.binning.basis.name
    return PowerLaw(float(np.exp(intercept)), exponent, r2=float(r2), shape=spectrum.shape, basis=basis)


def batching(data: Any) -> bool:
    """Whether `data` is a loader that makes batches, its own or by a batch sampler; without either it hands out samples."""
    return isinstance(data, DataLoader) and data.batch_sampler is not None


def as_batch(x: Tensor, *, dims: int = 2, batched: bool = False) -> Tensor:
    """What an iterable hands out as a batch (N, C, ..., *grid).

    Of rank `dims` it is one plane, of ``dims + 1`` one sample (C, *grid), or planes (N, *grid) of a loader that makes batches,
    and of more a batch.
    """
    for _ in range(max(0, dims + 1 - x.ndim)):
        x = x[None]
    return x if x.ndim > dims + 1 else x[:, None] if batched else x[None]


def _data(value: Any, name: str) -> Any:
    """Tensors, not where they are stored."""
    if isinstance(value, (str, Path, np.ndarray)):
        raise inputs.not_a_tensor(value, name)
    return value


@door(latents=_data, channels=channels_word)
def fit_spectrum(
    latents: Tensor | Iterable[Tensor],
    *,
    basis: Basis = DCT,
    dims: int = 2,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    channels: Channels = "mean",
) -> PowerLaw:
    """Measure and fit in one call: latents in, power law out.

    Parameters
    ----------
    latents
        One tensor (..., *grid), or an iterable of such tensors with one grid (a list, a generator), or of tuples that begin
        with one (a data loader with labels). Files, folders and data sets: :func:`spectral_pd.measuring.report.measure`.
    basis, dims, channels
        As :func:`power_spectrum`.
    band, weights
        As :func:`fit_power_law`.

    Raises
    ------
    ValueError
        No tensor at all.

    Examples
    --------
    >>> import torch
    >>> fit_spectrum(torch.randn(8, 4, 32, 32)).shape
    (32, 32)
    """
    meter: SpectrumMeter | None = None
    for item in [latents] if isinstance(latents, Tensor) else latents:
        x = inputs.state(storage.entry(item, "an element of latents"), "latents", dims)
        if dims == 2:
            spectra.planes_last(x, "latents")
        batch = as_batch(x, dims=dims, batched=batching(latents))
        meter = meter or SpectrumMeter(batch.shape[-dims:], basis=basis)
        meter.update(batch)
    if meter is None:
        raise ValueError("latents is empty; pass at least one tensor")
    return fit_power_law(meter.result(channels=channels), band=band, weights=weights)
