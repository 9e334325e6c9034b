r"""Noise passthrough: what if every frequency stayed pure noise until its activation time? (paper App. B)

Full resolution at every step, but while ``T > t_omega`` (Eq. 9) the coefficient omega of the state is replaced by ``T w``, the
initial noise's own at that time: the assumption behind every progressive schedule, with nothing else of it. Any
difference to plain sampling is what delta really costs.

For a Gaussian field the cost is known. The exact flow takes a coefficient ``t w`` held until t to

    ``w sqrt(P) / sqrt(1 + SNR(t))``,

against ``w sqrt(P)`` undisturbed, and at ``t_omega`` the signal-to-noise ratio is ``delta / (1 + P - delta)``: each coefficient
keeps its picture and loses the fraction

    ``delta / (1 + P)``

of its power, less than delta at every frequency and nothing in the limit. On a time grid the coefficient is released at the
first time at or below ``t_omega`` and held until the one before, so it loses less.

The bound behind it is Eq. 19, ``E|v* - eps|^2`` for a Gaussian coefficient; :func:`noise_prediction_error` measures its left
side for any velocity on any data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.bases import DCT, Basis, check_basis, check_state, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.power import PowerLaw, Spectrum, radial_bins
from spectral_pd.sampling import StepInfo, check_noise, replaced, sample
from spectral_pd.schedule import make_plan
from spectral_pd.solvers import Solver, SolverName, Velocity
from spectral_pd.theory import activation_time, check_delta, check_power, check_shape, check_time


def activation_map(
    spectrum: PowerLaw | Spectrum | Callable[[Any], Any], shape: Sequence[int], delta: float, *, basis: Basis = DCT
) -> Tensor:
    """Activation time (Eq. 9) of every coefficient of a grid, float64 of shape `shape`; 1 for the mean (omega = 0).

    Parameters
    ----------
    spectrum
        A :class:`~spectral_pd.PowerLaw` or a function of frequency, positive up to the grid's corner. A measured
        :class:`~spectral_pd.Spectrum` ends at ``omega_max``, below the corner of a DCT or Fourier grid: fit a law to it
        first. Rescaled to `shape` when it carries a grid.
    shape
        The grid.
    delta
        Tolerated velocity error, 0 < delta < 1.
    basis
        DCT, HAAR, FOURIER or another basis.

    Raises
    ------
    ValueError, TypeError
        `delta`, `shape` or `basis` out of range, a spectrum that is not callable or not positive.

    Examples
    --------
    >>> active = activation_map(PowerLaw(30.0, 2.0, shape=(8, 8)), (8, 8), 0.01)
    >>> active.shape, bool(active[0, 1] > active[0, 7])
    (torch.Size([8, 8]), True)
    """
    shape, delta = check_shape(shape), check_delta(delta)
    if not callable(spectrum):
        raise TypeError(f"spectrum is {type(spectrum).__name__}; pass a PowerLaw or a function of frequency")
    if isinstance(spectrum, (PowerLaw, Spectrum)):
        spectrum = spectrum.at(shape)
    frequency = check_basis(basis).frequency(shape).numpy()
    times = np.ones(shape)  # the mean has no noise-dominated phase: no stage of any plan lacks it
    carried = frequency > 0
    if carried.any():
        power = np.asarray(spectrum(frequency[carried]), dtype=np.float64)
        times[carried] = activation_time(check_power(power), delta)
    return torch.from_numpy(times)


@torch.no_grad()
def passthrough(
    velocity: Velocity,
    noise: Tensor | NoiseField,
    times: Sequence[float],
    spectrum: PowerLaw | Spectrum | Callable[[Any], Any],
    delta: float,
    *,
    shape: Sequence[int] | None = None,
    solver: SolverName | Solver = "euler",
    basis: Basis = DCT,
    leading: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Sample at full resolution, holding each frequency at the initial noise until its activation time (App. B).

    After every step, to time T, the coefficients with ``t_omega < T`` are replaced by ``T`` times those of `noise`. A delta so
    small that every frequency is active at the first step is plain sampling, bit for bit. A SMALLER delta holds less.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, as for :func:`~spectral_pd.sample`.
    noise
        White field (batch, ..., *grid), or a :class:`~spectral_pd.NoiseField` together with `shape` and `leading`.
    times
        Strictly decreasing time grid from at most 1 to 0.
    spectrum, delta
        As :func:`activation_map`: they say until when each frequency is held.
    shape
        The grid; only with a NoiseField or when other than the last two axes are spectral.
    solver, basis, leading, device, progress
        As for :func:`~spectral_pd.sample`.
    callback
        As for :func:`~spectral_pd.sample`; it sees the state after the replacement.

    Returns
    -------
    State at time 0 in the noise's shape and dtype. No gradients are recorded.

    Raises
    ------
    ValueError, TypeError
        As :func:`~spectral_pd.sample` and :func:`activation_map`, before the first model call.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, shift_times
    >>> noise = torch.randn(1, 4, 32, 32)
    >>> passthrough(lambda x, t: x, noise, shift_times(8), PRESETS["flux"], 0.01).shape
    torch.Size([1, 4, 32, 32])
    """
    if shape is None:
        if isinstance(noise, NoiseField):
            raise ValueError("noise is a NoiseField; pass shape=(height, width), the grid")
        shape = check_state(noise, "noise").shape[-2:]
    active = activation_map(spectrum, shape, delta, basis=basis)
    plan = make_plan(times, None, tuple(active.shape), scales=(1,), transition_times=())
    field, _ = check_noise(noise, plan, basis, "coupled", leading, device, None)
    dims = active.ndim
    if isinstance(field, NoiseField):
        white = field.coefficients((*(leading or ()), *active.shape), dims=dims, device=device or "cpu")
    else:
        white = basis.forward(field, dims=dims)
    active = active.to(white.device)

    def hold(info: StepInfo) -> Tensor:
        held, x = active < info.time, info.state
        if bool(held.any()):
            x = basis.inverse(torch.where(held, info.time * white, basis.forward(x, dims=dims)), dims=dims)
        if callback is None:
            return x
        return replaced(x, callback(StepInfo(info.step, info.stage, info.time, info.local_time, x)))

    return sample(
        velocity,
        noise,
        plan,
        solver=solver,
        basis=basis,
        leading=leading,
        device=device,
        callback=hold,
        progress=progress,
    )


@torch.no_grad()
def noise_prediction_error(
    velocity: Velocity, samples: Tensor, t: float, *, noise: Tensor, basis: Basis = DCT, dims: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    r"""Measured ``E|v(x_t, t) - eps|^2`` by frequency: how wrong it is to take a coefficient for noise at time `t`.

    The left side of Eq. 19 on real data, ``x_t = (1 - t) x_0 + t eps``; for a Gaussian field and its optimal velocity it is
    :func:`~spectral_pd.velocity_error`.

    Parameters
    ----------
    velocity
        The model.
    samples
        Data x_0 (batch, ..., *grid).
    t
        Time, 0 < t <= 1.
    noise
        White noise eps of the samples' shape.
    basis
        In which frequencies are separated.
    dims
        Number of trailing spectral axes.

    Returns
    -------
    Frequencies k (cycles per shorter side) and the mean squared error of a coefficient in each radial bin
    ``[k - 1/2, k + 1/2)``.

    Raises
    ------
    ValueError, TypeError
        Samples and noise of different shapes, integer tensors, `t` outside (0, 1].

    Examples
    --------
    >>> from spectral_pd import GaussianField
    >>> field = GaussianField(PowerLaw(30.0, 2.0, shape=(16, 16)), (16, 16))
    >>> k, error = noise_prediction_error(field.velocity, field.sample((64, 1)), 0.9, noise=torch.randn(64, 1, 16, 16))
    >>> bool(error[0] > error[-1])  # low frequencies already carry signal
    True
    """
    check_basis(basis)
    x0, eps = (check_state(x, name, dims) for x, name in ((samples, "samples"), (noise, "noise")))
    if x0.shape != eps.shape or x0.numel() == 0:
        raise ValueError(
            f"samples have shape {tuple(x0.shape)}, noise {tuple(eps.shape)}; they must agree and not be empty"
        )
    t = float(check_time(t))
    if t == 0:
        raise ValueError("t = 0: a denoiser's velocity has no value at the data end; use 0 < t <= 1")
    dtype = working_dtype(x0.dtype)
    x0, eps = x0.to(dtype), eps.to(dtype)
    error = basis.forward(velocity((1 - t) * x0 + t * eps, t).to(dtype) - eps, dims=dims)
    power = error.double().square().reshape(-1, *error.shape[-dims:]).mean(0)
    k, mean, _ = radial_bins(power, basis.frequency(tuple(power.shape)))
    return k, mean
