r"""Closed forms of Spectral Progressive Diffusion: signal-to-noise ratio, velocity error, activation, alignment.

Flow-matching path ``x_t = (1 - t) x_0 + t eps`` with ``t`` from 1 (noise) to 0 (data). In an orthonormal basis a
coefficient at frequency ``omega`` has power ``P(omega) = E|x_0^(omega)|^2``; white noise of unit variance has ``P = 1``.

========================  =========================================================  ================
:func:`snr`               ``SNR(t) = (1-t)^2 P / t^2``                               Eq. 15
:func:`optimal_gain`      ``A = (t - (1-t) P) / ((1-t)^2 P + t^2)``, ``v* = A x_t``  Eq. 26 (Lemma 1)
:func:`velocity_error`    ``E|v* - eps|^2 = (1-t)^2 P (1+P) / ((1-t)^2 P + t^2)``    Eq. 19, 35
:func:`activation_time`   ``t_omega = 1 / (1 + sqrt(delta / (P (1 + P - delta))))``  Eq. 9
:func:`transition_times`  ``t*_i = min over omega <= s_i omega_max of t_omega``      Eq. 10
:func:`align_scale`       ``kappa = r / (1 + (r-1) t)``                              Eq. 5
:func:`align_time`        ``t~ = t kappa = r t / (1 + (r-1) t)``                     Eq. 6
========================  =========================================================  ================

Every function takes Python floats, numpy arrays or torch tensors and returns the same kind; ``function.bare`` is the formula
without its door (:mod:`spectral_pd.inputs`), for inner loops. Equation numbers are those of Xiao, Chao, Yariv, Wetzstein,
"Spectral Progressive Diffusion for Efficient Image and Video Generation", arXiv 2605.18736.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spectral_pd import inputs
from spectral_pd.inputs import Array, door


@door(t=inputs.time, power=inputs.power)
def snr(t: Array, power: Array) -> Array:
    r"""Signal-to-noise ratio of a coefficient of power `power` at time `t`.

    ``SNR_omega(t) = (1 - t)^2 / t^2 * P(omega)`` (Eq. 15). Falls from infinity at t = 0 to 0 at t = 1.

    Parameters
    ----------
    t
        Time in [0, 1], 1 is pure noise.
    power
        Power of the clean coefficient in an orthonormal basis, above 0. Broadcasts against `t`.

    Raises
    ------
    ValueError, TypeError
        A number outside its range, NaN, an integer tensor.

    Examples
    --------
    >>> snr(0.5, 4.0)
    4.0
    """
    if isinstance(t, float) and t == 0.0:
        return math.inf if isinstance(power, float) else power * math.inf
    with np.errstate(divide="ignore"):
        ratio = (1 - t) / t
    return ratio * ratio * power  # not ratio**2, which raises for floats that overflow


@door(t=inputs.time, power=inputs.power)
def posterior_data_gain(t: Array, power: Array) -> Array:
    r"""Gain of the posterior mean of the clean coefficient: ``E[x_0 | x_t] = (1-t) P / ((1-t)^2 P + t^2) x_t`` (Eq. 23).

    For ``x_0 ~ N(0, P)``; 0 at t = 1 and 1 at t = 0.
    Parameters and errors as :func:`snr`.

    Examples
    --------
    >>> posterior_data_gain(0.5, 1.0)
    1.0
    """
    return (1 - t) * power / ((1 - t) ** 2 * power + t**2)


@door(t=inputs.time, power=inputs.power)
def posterior_noise_gain(t: Array, power: Array) -> Array:
    r"""Gain of the posterior mean of the noise: ``E[eps | x_t] = t / ((1-t)^2 P + t^2) x_t`` (Eq. 24).

    For ``x_0 ~ N(0, P)``; 1 at t = 1 and 0 at t = 0.
    Parameters and errors as :func:`snr`.

    Examples
    --------
    >>> posterior_noise_gain(1.0, 3.0)
    1.0
    """
    return t / ((1 - t) ** 2 * power + t**2)


@door(t=inputs.time, power=inputs.power)
def optimal_gain(t: Array, power: Array) -> Array:
    r"""Gain of the Bayes-optimal velocity of a Gaussian coefficient: ``v*(x_t) = A x_t``.

    ``A = (t - (1-t) P) / ((1-t)^2 P + t^2)`` (Eq. 26; Eq. 24 minus Eq. 23) for ``x_0 ~ N(0, P)``, ``eps ~ N(0, 1)`` and
    ``v = eps - x_0``. It is 1 at t = 1 (predict the noise) and -1 at t = 0 (predict minus the data).
    Parameters and errors as :func:`snr`.

    Examples
    --------
    >>> optimal_gain(1.0, 5.0), optimal_gain(0.0, 5.0)
    (1.0, -1.0)
    """
    return posterior_noise_gain.bare(t, power) - posterior_data_gain.bare(t, power)


@door(t=inputs.time, power=inputs.power)
def velocity_error(t: Array, power: Array) -> Array:
    r"""Mean squared error of predicting pure noise instead of the optimal velocity.

    ``E|v* - eps|^2 = (1-t)^2 P (1+P) / ((1-t)^2 P + t^2) = SNR (1+P) / (1+SNR)`` (Eqs. 19, 35). Falls from ``1 + P`` at
    t = 0 to 0 at t = 1: at high noise nothing is lost by treating the coefficient as noise.
    Parameters and errors as :func:`snr`.

    Examples
    --------
    >>> round(velocity_error(activation_time(1.0, 0.01), 1.0), 12)
    0.01
    """
    signal = (1 - t) ** 2 * power
    return signal * (1 + power) / (signal + t**2)


@door(power=inputs.power, delta=inputs.delta)
def activation_time(power: Array, delta: Array) -> Array:
    r"""Time at which a coefficient of power `power` becomes active: before it, treating it as noise costs at most `delta`.

    ``t_omega = 1 / (1 + sqrt(delta / (P (1 + P - delta))))`` (Eq. 9), in (0, 1). :func:`velocity_error` is at most `delta`
    for all ``t >= t_omega`` and equals it at ``t_omega``. Strictly increasing in `power`; a SMALLER delta gives a LARGER
    time: an earlier transition in denoising order, more full-resolution work, closer to full resolution. A LARGER delta
    gives a smaller time: a later transition, faster, coarser. Errors as :func:`snr`.

    Parameters
    ----------
    power
        Power of the clean coefficient on the FULL grid, above 0.
    delta
        Tolerated velocity error, 0 < delta < 1.

    Examples
    --------
    >>> round(activation_time(1.0, 0.01), 6)
    0.933804
    """
    return 1 / (1 + (delta / (power * (1 + power - delta))) ** 0.5)


@door(t=inputs.inner_time, delta=inputs.delta)
def activation_power(t: Array, delta: Array) -> Array:
    r"""The power whose activation time is `t`: the inverse of :func:`activation_time` in `power`.

    The positive root of ``P^2 + (1 - delta) P - delta t^2 / (1-t)^2 = 0``, for 0 < t < 1.
    Parameters and errors as :func:`activation_time`.

    Examples
    --------
    >>> round(activation_power(0.933804, 0.01), 3)
    1.0
    """
    c = delta * (t / (1 - t)) ** 2
    b = 1 - delta
    return 2 * c / (b + (b * b + 4 * c) ** 0.5)  # the root without cancellation


@door(t=inputs.time, ratio=inputs.ratio)
def align_scale(t: Array, ratio: Array) -> Array:
    r"""``kappa(t, r) = r / (1 + (r-1) t)`` (Eq. 5): the factor that turns an expanded state into a flow-matching state.

    Between 1 (at t = 1) and r (at t = 0) for r >= 1. Errors as :func:`snr`.

    Parameters
    ----------
    t
        Time on the coarse grid, in [0, 1].
    ratio
        ``r = sqrt(prod(fine sizes) / prod(coarse sizes))`` of the real integer sizes. Above 1 when growing, below 1 for
        the inverse, 1 is the identity.

    Examples
    --------
    >>> round(align_scale(0.7, 2.0), 6)
    1.176471
    """
    return ratio / (1 + (ratio - 1) * t)


@door(t=inputs.time, ratio=inputs.ratio)
def align_time(t: Array, ratio: Array) -> Array:
    r"""The time of an expanded and rescaled state on the finer grid: ``t~ = t kappa(t, r)`` (Eq. 6).

    In log-odds a translation, ``logit t~ = logit t + log r``: alignments compose, ``1/r`` inverts ``r``, 0 and 1 are fixed.
    Growing (r > 1) moves the time up, towards noise.
    Parameters and errors as :func:`align_scale`.

    Examples
    --------
    >>> round(align_time(0.7, 2.0), 6)
    0.823529
    """
    # r t / (1 + (r-1) t) with a denominator that is exactly r at t = 1 and never rounds the result above 1.
    return ratio * t / ((1 - t) + ratio * t)


@door(shape=inputs.shape)
def max_frequency(shape: Sequence[int]) -> float:
    """``omega_max = min(shape) / 2`` (Eq. 16): the Nyquist frequency in cycles per shorter side.

    Errors as :func:`transition_times`: a `shape` that is no tuple of positive ints.

    Examples
    --------
    >>> max_frequency((90, 160))
    45.0
    """
    return min(shape) / 2


SPECTRUM = inputs.kind(
    lambda v: callable(inputs.law(v)), "a PowerLaw, a Spectrum or a function of frequency", to=inputs.law
)


@door(spectrum=SPECTRUM, scales=inputs.scales, shape=inputs.shape, delta=inputs.one_delta)
def transition_times(
    spectrum: Callable[[Any], Any], scales: Sequence[float], shape: Sequence[int], *, delta: float
) -> tuple[float, ...]:
    r"""The time at which each scale but the last must be left for the next one (Eq. 10).

    ``t*_i = min over omega <= s_i omega_max of t_omega``, with :func:`activation_time` and ``omega_max = min(shape) / 2``.
    For a decreasing spectrum that is ``t_omega`` at ``s_i omega_max``. A finer scale is left later: the times lie inside
    (0, 1) and never increase. A SMALLER delta gives LARGER times: earlier transitions, slower, closer to full resolution.

    Parameters
    ----------
    spectrum
        Power on the full grid as a function of frequency in cycles per shorter side: any callable on a float64 numpy
        array. One with an ``at(shape)`` method (:class:`~spectral_pd.PowerLaw`, :class:`~spectral_pd.Spectrum`) is first
        rescaled from the grid it was measured on to `shape`.
    scales
        Increasing, ending at 1.
    shape
        Full grid.
    delta
        Tolerated velocity error, 0 < delta < 1.

    Raises
    ------
    ValueError, TypeError
        Bad scales, shape or delta; a spectrum that is not callable or not positive.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> [round(t, 6) for t in transition_times(PRESETS["flux"], (0.25, 0.5, 1), (128, 128), delta=0.01)]
    [0.934057, 0.852663]
    """
    at = getattr(spectrum, "at", None)
    power = spectrum if at is None else at(shape)
    return tuple(t_star(power, scale, shape, delta) for scale in scales[:-1])


def t_star(spectrum: Callable[[Any], Any], scale: float, shape: Sequence[int], delta: float) -> float:
    """:func:`transition_times` of one scale, for a spectrum on the full grid `shape`; only its power is checked."""
    cut = scale * max_frequency.bare(shape)
    # Half a cycle: the spacing of DCT coefficients along the shorter side (index k is k/2 cycles).
    omega = np.append(np.arange(0.5, cut, 0.5), cut)
    least = np.asarray(spectrum(omega), dtype=np.float64).min(keepdims=True)
    return float(activation_time.bare(inputs.power(least, "power"), delta)[0])
