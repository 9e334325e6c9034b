r"""How sure, and how true: intervals of a fitted power law and tests of whether the data follow one.

Every quantity is computed from the measured table and again from each bootstrap replicate of it (one pass over the data,
:class:`~spectral_pd.meter.SpectrumMeter`). The interval of theta is

    ``theta +- t_{n-1} se sqrt(n / (n-1))``,   ``se`` = standard deviation over the replicates,

on the scale on which theta is nearly normal (log A, beta, log(1 - R2), logit t*), n the effective number of samples. The
Student quantile and the factor make it honest for a handful of photographs too, where percentiles are too narrow. It says
how far another sample of the same size could lie, not how far the power law is from the truth; for that:

==========================  ====================================================================================
:func:`curvature`           ``log P = a - beta x + c x^2``, ``x = log omega`` about its mean: a drifting exponent
:func:`broken_power_law`    two exponents joined at the break that fits best
:func:`noise_floor`         ``P = A omega^-beta + N``: sensor, quantisation or codec noise under the law
:func:`anisotropy`          power along one axis against the other
:func:`transition_shift`    what it matters: how far t* of the law is from t* of the table
==========================  ====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from spectral_pd import inputs
from spectral_pd.fit import Weights, fit_band, fit_power_law, fit_weights, least_squares
from spectral_pd.inputs import door, spectra
from spectral_pd.meter import Replicates
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.theory import transition_times

REPLICATES = inputs.instance(Replicates, "meter.replicates()")
LOG: dict[str, Any] = {"scale": np.log, "inverse": np.exp}
LOGIT: dict[str, Any] = {"scale": lambda p: np.log(p) - np.log1p(-p), "inverse": lambda x: 1 / (1 + np.exp(-x))}
LOG_REST: dict[str, Any] = {"scale": lambda r: -np.log(np.maximum(1 - r, 1e-15)), "inverse": lambda x: 1 - np.exp(-x)}
"""Scales on which amplitudes and ratios, times, and R2 are nearly normal."""


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t by its expansion around the normal's (Abramowitz and Stegun 26.7.5).

    `probability` is inside (0, 1); `freedom`, the degrees of freedom, above 0 and not always whole. Four terms: 1 % at 3
    degrees of freedom, 1e-4 from 7 on, and 11 % too small at 1.

    Examples
    --------
    >>> round(student_quantile(0.975, 10.0), 3)
    2.228
    """
    z = NormalDist().inv_cdf(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4


@dataclass(frozen=True)
class Estimate:
    """A number: its `value` from all samples, the ends `low` and `high` of its interval, its standard `error`."""

    value: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.5g} [{self.low:.5g}, {self.high:.5g}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


@door(level=spectra.level)
def estimate(
    value: float,
    replicates: np.ndarray,
    samples: float,
    *,
    level: float = 0.95,
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
    inverse: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Estimate:
    """Interval of a quantity from its bootstrap replicates (formula in the module's text).

    Parameters
    ----------
    value
        The quantity from all samples.
    replicates
        The same from each replicate; those that are not finite are left out.
    samples
        Effective number of independent samples, above 1.
    level
        Coverage wanted, inside (0, 1).
    scale, inverse
        An increasing function on whose scale the quantity is nearly normal, and its inverse.

    Examples
    --------
    >>> str(estimate(2.0, np.array([1.9, 2.0, 2.1]), samples=100.0))
    '2 [1.8006, 2.1994]'
    """
    usable = replicates[np.isfinite(replicates)]
    spectra.estimable(samples, usable.size, replicates.size)
    spread, error = (float(np.std(x, ddof=1)) * math.sqrt(samples / (samples - 1)) for x in (scale(usable), usable))
    reach = student_quantile((1 + level) / 2, samples - 1) * spread
    centre = float(scale(np.asarray(value)))
    low, high = (float(inverse(np.asarray(centre + sign * reach))) for sign in (-1, 1))
    return Estimate(float(value), low, high, error)


@dataclass(frozen=True)
class Confidence:
    """Intervals of a fitted power law.

    Attributes
    ----------
    amplitude, exponent, r2
        A, beta and R2 of the fit. The interval of R2 shows its spread over samples; R2 of finite data lies below that of
        endless data.
    transition_times
        t* of each scale but the last, for the law.
    covariance
        ``(var log A, cov(log A, beta), var beta)``, widened so that normal quantiles reach as far as Student's do at `level`.
    level
        Coverage of the intervals.
    samples
        Effective number of independent samples.
    replicates
        Number of bootstrap replicates that could be fitted.
    """

    amplitude: Estimate
    exponent: Estimate
    r2: Estimate
    transition_times: tuple[Estimate, ...]
    covariance: tuple[float, float, float]
    level: float
    samples: float
    replicates: int


@dataclass(frozen=True, eq=False)
class _Logs:
    """What every fit here needs: x = log effective frequency, log power of the table and of the replicates, weights.

    Replicates in which a bin has no power (they drew constant samples only) have no logarithm and are left out.
    """

    x: np.ndarray
    y: np.ndarray
    replicates: np.ndarray
    weight: np.ndarray
    law: PowerLaw

    @property
    def rows(self) -> np.ndarray:
        """The table, then its replicates: (1 + B, K)."""
        return np.vstack([self.y, self.replicates])


def _logs(
    spectrum: Spectrum, replicates: Replicates | None, band: tuple[float, float] | None, weights: Weights
) -> _Logs:
    law = fit_power_law(spectrum, band=band, weights=weights)
    inside = fit_band(spectrum, band)
    omega = spectrum.frequency if spectrum.binning is None else spectrum.binning.effective_frequency(law.exponent)
    power = np.zeros((0, len(omega))) if replicates is None else replicates.power
    spectra.same_bins(power.shape[1], len(omega))
    power = power[:, inside]
    logs = np.log(power[(power > 0).all(1)])
    weight = fit_weights(spectrum, weights)[inside]
    return _Logs(np.log(omega[inside]), np.log(spectrum.power[inside]), logs, weight, law)


@door(replicates=REPLICATES)
def confidence(
    spectrum: Spectrum,
    replicates: Replicates,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    scales: Sequence[float] = (0.5, 1.0),
    delta: float = 0.01,
    level: float = 0.95,
) -> Confidence:
    """Intervals of A, beta, R2 and the transition times of the law fitted to a measured spectrum.

    Parameters
    ----------
    spectrum, replicates
        ``meter.result()`` and ``meter.replicates()``.
    band, weights
        As :func:`~spectral_pd.fit.fit_power_law`.
    scales, delta
        As :func:`~spectral_pd.theory.transition_times`.
    level
        Coverage, inside (0, 1).

    Examples
    --------
    >>> from spectral_pd import GaussianField, SpectrumMeter
    >>> samples = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32)).sample((40, 1))
    >>> meter = SpectrumMeter((32, 32), replicates=100).update(samples)
    >>> sure = confidence(meter.result(), meter.replicates())
    >>> sure.exponent.low < sure.exponent.value < sure.exponent.high
    True
    """
    logs = _logs(spectrum, replicates, band, weights)
    solutions, _, r2 = least_squares(np.vander(logs.x, 2, increasing=True), logs.replicates, logs.weight)
    amplitude, exponent = np.exp(solutions[:, 0]), -solutions[:, 1]
    laws = [replace(logs.law, amplitude=a, exponent=b) for a, b in zip(amplitude, exponent, strict=True)]
    times = [transition_times(law, scales, spectrum.shape, delta=delta) for law in (logs.law, *laws)]
    n = replicates.samples
    bounds = partial(estimate, samples=n, level=level)
    wider = n / (n - 1) * (student_quantile((1 + level) / 2, n - 1) / NormalDist().inv_cdf((1 + level) / 2)) ** 2
    spread = wider * np.cov(solutions[:, 0], exponent)
    return Confidence(
        bounds(logs.law.amplitude, amplitude, **LOG),
        bounds(logs.law.exponent, exponent),
        bounds(float(logs.law.r2 or 0.0), r2, **LOG_REST),
        tuple(bounds(t, np.array(rest), **LOGIT) for t, *rest in zip(*times, strict=True)),
        (float(spread[0, 0]), float(spread[0, 1]), float(spread[1, 1])),
        level,
        replicates.samples,
        len(laws),
    )


def residuals(
    spectrum: Spectrum, *, band: tuple[float, float] | None = None, weights: Weights = "uniform"
) -> tuple[np.ndarray, np.ndarray]:
    """(frequency, ``log P - log(A omega^-beta)``) of the bins in the band: a law that holds leaves no pattern here.

    Parameters and errors as :func:`~spectral_pd.fit.fit_power_law`.

    Examples
    --------
    >>> k = np.arange(1.0, 17.0)
    >>> omega, rest = residuals(Spectrum(k, 50 * k**-2.0, np.ones(16), (32, 32)))
    >>> float(abs(rest).max()) < 1e-12
    True
    """
    logs = _logs(spectrum, None, band, weights)
    return np.exp(logs.x), logs.y - (math.log(logs.law.amplitude) - logs.law.exponent * logs.x)


@dataclass(frozen=True)
class Curvature:
    """A second-order term in log-log: the exponent drifts from `first` at the lowest to `last` at the highest bin.

    Attributes
    ----------
    coefficient
        c of ``log P = a - beta x + c x^2``; 0 for a power law, negative when the spectrum falls faster and faster.
    first, last
        Local exponents ``-d log P / d log omega`` at the ends of the band.
    """

    coefficient: Estimate
    first: float
    last: float


@door(replicates=REPLICATES)
def curvature(
    spectrum: Spectrum,
    replicates: Replicates,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    level: float = 0.95,
) -> Curvature:
    """Fit a parabola in log-log, which shows whether the exponent drifts.

    Parameters and errors as :func:`confidence`; needs 3 bins.

    Examples
    --------
    >>> from spectral_pd import GaussianField, SpectrumMeter
    >>> samples = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32)).sample((40, 1))
    >>> meter = SpectrumMeter((32, 32), replicates=100).update(samples)
    >>> abs(curvature(meter.result(), meter.replicates()).coefficient.value) < 0.1  # a power law has none
    True
    """
    logs = _logs(spectrum, replicates, band, weights)
    spectra.enough_bins(len(logs.x), 3, "a parabola")
    x = logs.x - logs.x.mean()
    columns = np.vander(x, 3, increasing=True)
    (_, slope, coefficient), _, _ = least_squares(columns, logs.y, logs.weight)
    rows, _, _ = least_squares(columns, logs.replicates, logs.weight)
    return Curvature(
        estimate(float(coefficient), rows[:, 2], replicates.samples, level=level),
        float(-slope - 2 * coefficient * x[0]),
        float(-slope - 2 * coefficient * x[-1]),
    )


@dataclass(frozen=True)
class BrokenPowerLaw:
    """Two power laws joined at `frequency` (cycles per shorter side): ``A omega^-below`` up to it, ``omega^-above`` beyond.

    Attributes
    ----------
    amplitude
        Power at omega = 1 of the lower branch.
    difference
        ``above - below`` with its interval; the break is searched again in every replicate.
    evidence
        Fall of the Bayesian information criterion against one power law, ``K log(RSS_1 / RSS_2) - 2 log K``; above 10 is
        strong.
    """

    frequency: float
    amplitude: float
    below: float
    above: float
    difference: Estimate
    evidence: float

    @property
    def preferred(self) -> bool:
        """Whether the break is worth believing: evidence above 10, a difference above 0.1 that excludes 0."""
        return self.evidence > 10 and self.difference.excludes_zero and abs(self.difference.value) > 0.1


@door(replicates=REPLICATES)
def broken_power_law(
    spectrum: Spectrum,
    replicates: Replicates,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    level: float = 0.95,
) -> BrokenPowerLaw:
    """Two exponents, continuous at the break that leaves the least squares, at least 3 bins on each side.

    Parameters and errors as :func:`confidence`; needs 8 bins.

    Examples
    --------
    >>> from spectral_pd import GaussianField, SpectrumMeter
    >>> samples = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32)).sample((40, 1))
    >>> meter = SpectrumMeter((32, 32), replicates=100).update(samples)
    >>> broken_power_law(meter.result(), meter.replicates()).preferred  # a power law has no break
    False
    """
    logs = _logs(spectrum, replicates, band, weights)
    count = len(logs.x)
    spectra.enough_bins(count, 8, "a break")
    _, rest_one, _ = least_squares(np.vander(logs.x, 2, increasing=True), logs.y, logs.weight)
    rows = logs.rows
    best, found = np.full(len(rows), np.inf), np.zeros((len(rows), 4))
    # Candidate breaks: bins, thinned to at most 64 evenly in log omega (a break has no finer meaning than that).
    candidates = logs.x[2:-3]
    if len(candidates) > 64:
        wanted = np.linspace(candidates[0], candidates[-1], 64)
        candidates = np.unique(candidates[np.searchsorted(candidates, wanted)])
    for at in candidates:
        columns = np.column_stack([np.ones(count), logs.x, np.maximum(logs.x - at, 0)])
        solution, rest, _ = least_squares(columns, rows, logs.weight)
        better = rest < best
        best = np.where(better, rest, best)
        found[better] = np.column_stack([solution, np.full(len(rows), at)])[better]
    intercept, slope, change, at = found[0]
    evidence = count * math.log(max(float(rest_one), 1e-300) / max(float(best[0]), 1e-300)) - 2 * math.log(count)
    return BrokenPowerLaw(
        float(np.exp(at)),
        float(np.exp(intercept)),
        float(-slope),
        float(-slope - change),
        estimate(float(-change), -found[1:, 2], replicates.samples, level=level),
        evidence,
    )


@dataclass(frozen=True)
class NoiseFloor:
    """``P = A omega^-beta + N``: a law with `amplitude` and `exponent` above a floor.

    Attributes
    ----------
    power
        N, at least 0.
    share
        ``N / P`` at the highest bin, 0 to 1, with its interval.
    """

    amplitude: float
    exponent: float
    power: float
    share: Estimate


@door(replicates=REPLICATES)
def noise_floor(
    spectrum: Spectrum,
    replicates: Replicates,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    level: float = 0.95,
) -> NoiseFloor:
    """Least squares of ``log(A omega^-beta + N)``, N searched from 0 to the lowest bin's power.

    Parameters and errors as :func:`confidence`; needs 4 bins.

    Examples
    --------
    >>> from spectral_pd import GaussianField, SpectrumMeter
    >>> samples = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32)).sample((40, 1))
    >>> meter = SpectrumMeter((32, 32), replicates=100).update(samples)
    >>> noise_floor(meter.result(), meter.replicates()).share.value < 0.2  # nothing was added to the field
    True
    """
    logs = _logs(spectrum, replicates, band, weights)
    spectra.enough_bins(len(logs.x), 4, "a law with a floor")
    rows = logs.rows
    lowest = np.exp(rows.min(1, keepdims=True))
    start, _, _ = least_squares(np.vander(logs.x, 2, increasing=True), rows, logs.weight)
    best, found = np.full(len(rows), np.inf), np.zeros((len(rows), 3))
    for fraction in np.concatenate([[0.0], np.geomspace(1e-3, 0.999, 48)]):
        floor = fraction * lowest
        theta = start.copy()
        for _ in range(12):  # Gauss-Newton in (log A, -beta) at this floor
            law = np.exp(theta[:, :1] + theta[:, 1:] * logs.x)
            model = law + floor
            gain = law / model  # d log model / d log A
            rest = rows - np.log(model)
            w = logs.weight * gain**2
            s0, s1, s2 = (np.sum(w * logs.x**p, 1) for p in range(3))
            r0, r1 = (np.sum(logs.weight * gain * rest * logs.x**p, 1) for p in range(2))
            determinant = s0 * s2 - s1**2
            theta += np.stack([s2 * r0 - s1 * r1, s0 * r1 - s1 * r0], 1) / determinant[:, None]
        rest = rows - np.log(np.exp(theta[:, :1] + theta[:, 1:] * logs.x) + floor)
        error = np.sum(logs.weight * rest**2, 1)
        better = np.isfinite(error) & (error < best)
        best = np.where(better, error, best)
        found[better] = np.column_stack([theta, floor])[better]
    share = found[:, 2] / (np.exp(found[:, 0] + found[:, 1] * logs.x[-1]) + found[:, 2])
    bounds = estimate(float(share[0]), share[1:], replicates.samples, level=level)
    inside = replace(bounds, low=max(bounds.low, 0.0), high=min(bounds.high, 1.0))
    return NoiseFloor(float(np.exp(found[0, 0])), float(-found[0, 1]), float(found[0, 2]), inside)


def both_axes_hold_power(spectrum: Spectrum, directional: np.ndarray) -> bool:
    """Whether every bin has power along either axis, above the rounding of the transform (squared, 1e-14 in float32).

    Not so for stripes and for data that are constant along an axis: `spectrum` and `directional` are those of a meter.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import SpectrumMeter
    >>> meter = SpectrumMeter((16, 16)).update(torch.randn(4, 1, 1, 16).expand(4, 1, 16, 16))  # upright stripes
    >>> both_axes_hold_power(meter.result(), meter.directional())
    False
    """
    return bool((directional > 1e-12 * spectrum.power).all())


@door(replicates=REPLICATES)
def anisotropy(
    spectrum: Spectrum,
    directional: np.ndarray,
    replicates: Replicates,
    *,
    band: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Power at horizontal over power at vertical frequencies, geometric mean over bins; 1 is isotropic.

    Horizontal frequency is variation along the width (upright edges). Each side is taken relative to what the isotropic
    law would give for the same coefficients, so grids that are not square and bins that are filled unevenly do not count.

    Parameters
    ----------
    spectrum, directional, replicates
        ``meter.result()``, ``meter.directional()`` and ``meter.replicates()``.
    band, level
        As :func:`confidence`.

    Raises
    ------
    ValueError
        No power along an axis, where there is no ratio.

    Examples
    --------
    >>> from spectral_pd import GaussianField, SpectrumMeter
    >>> samples = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32)).sample((40, 1))
    >>> meter = SpectrumMeter((32, 32), replicates=100).update(samples)
    >>> ratio = anisotropy(meter.result(), meter.directional(), meter.replicates())
    >>> 0.9 < ratio.value < 1.1
    True
    """
    spectra.two_axes(0 if spectrum.binning is None else directional.shape[0])
    assert spectrum.binning is not None
    exponent, inside = fit_power_law(spectrum, band=band).exponent, fit_band(spectrum, band)
    model = np.log(spectrum.binning.directional_power(exponent))[:, inside]
    rows = np.concatenate([directional[None], replicates.directional])[:, :, inside]
    if not both_axes_hold_power(spectrum, directional):
        raise ValueError("some bins hold no power along one of the axes: stripes, or data constant along it")
    logs = np.log(rows[(rows > 0).all((1, 2))]) - model
    ratios = np.exp((logs[:, 1] - logs[:, 0]).mean(1))
    return estimate(float(ratios[0]), ratios[1:], replicates.samples, level=level, **LOG)


def transition_shift(
    spectrum: Spectrum, law: PowerLaw, *, scales: Sequence[float] = (0.5, 1.0), delta: float = 0.01
) -> tuple[float, ...]:
    """How much later (in t, positive is nearer to noise) the law leaves each scale than the measured table does.

    One number for each scale but the last, of a law fitted to the table `spectrum`, which is taken as its monotone envelope;
    `scales` and `delta` are those of :func:`~spectral_pd.theory.transition_times`.

    Examples
    --------
    >>> k = np.arange(1.0, 17.0)
    >>> table = Spectrum(k, 50 * k**-2.0, np.ones(16), (32, 32))
    >>> abs(transition_shift(table, fit_power_law(table))[0]) < 1e-9
    True
    """
    exact = transition_times(spectrum.envelope(), scales, spectrum.shape, delta=delta)
    fitted = transition_times(law, scales, spectrum.shape, delta=delta)
    return tuple(a - b for a, b in zip(fitted, exact, strict=True))
