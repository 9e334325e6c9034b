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

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis
from spectral_pd.expansion import NOISE, Source, white_noise
from spectral_pd.inputs import door, models, plans, runs, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.plan import STAGED, Plan
from spectral_pd.power import AnySpectrum, as_spectrum, radial_bins
from spectral_pd.sampling import StepInfo, run
from spectral_pd.solvers import History, Solver, SolverName, Stepped, Velocity, find_solver
from spectral_pd.theory import activation_time


@door(spectrum=as_spectrum, shape=inputs.shape, delta=inputs.one_delta, basis=BASIS)
def activation_map(
    spectrum: AnySpectrum | Callable[[Any], Any], shape: Sequence[int], delta: float, *, basis: Basis = DCT
) -> Tensor:
    """Activation time (Eq. 9) of every coefficient of a grid, float64 of shape `shape`; 1 for the mean (omega = 0).

    Parameters
    ----------
    spectrum, shape, basis
        As :class:`~spectral_pd.GaussianField` takes them.
    delta
        Tolerated velocity error, 0 < delta < 1.

    Examples
    --------
    >>> from spectral_pd import PowerLaw
    >>> active = activation_map(PowerLaw(30.0, 2.0, shape=(8, 8)), (8, 8), 0.01)
    >>> active.shape, bool(active[0, 1] > active[0, 7])
    (torch.Size([8, 8]), True)
    """
    power = spectrum.coefficients(shape, basis)  # type: ignore[union-attr]  # the door made it a spectrum
    times = activation_time.bare(power, delta)
    times[basis.frequency(shape).numpy() == 0] = 1.0  # no noise-dominated phase: no stage of any plan lacks the mean
    return torch.from_numpy(times)


def holding(solver: Solver, active: Tensor, basis: Basis, coefficients: Tensor | None = None) -> Solver:
    """A solver for one run, after each step of which the coefficients with ``t_omega < T`` are ``T`` times the initial noise's.

    Parameters
    ----------
    solver
        Makes the steps; states of another grid than that of `active` are left to it.
    active, basis
        From :func:`activation_map`.
    coefficients
        Of the noise; None takes them from the state of the first step, which is the noise times its time.
    """
    kept = [] if coefficients is None else [coefficients]
    dims = active.ndim

    def step(velocity: Velocity, x: Tensor, t: float, t_next: float, history: History | None = None) -> Stepped:
        if x.shape[-dims:] != active.shape:
            return solver(velocity, x, t, t_next, history)
        if not kept:
            kept.append(basis.forward(x, dims=dims) / t)
        x, history = solver(velocity, x, t, t_next, history)
        held = active.to(x.device) < t_next
        if bool(held.any()):
            x = basis.inverse(torch.where(held, t_next * kept[0], basis.forward(x, dims=dims)), dims=dims)
        return x, history

    return step


@torch.no_grad()
@door(
    velocity=runs.velocity,
    noise=inputs.optional(NOISE),
    seed=inputs.optional(runs.noise_source),
    plan=STAGED,
    solver=find_solver,
    callback=runs.callback,
)
def passthrough(
    velocity: Velocity,
    noise: Tensor | NoiseField | None,
    plan: Plan,
    spectrum: AnySpectrum | Callable[[Any], Any],
    delta: float,
    *,
    seed: Source | None = None,
    leading: Sequence[int] | None = None,
    solver: SolverName | Solver = "euler",
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Sample at full resolution, holding each frequency at the initial noise until its activation time (App. B).

    After every step, to time T, the coefficients with ``t_omega < T`` are replaced by ``T`` times those of `noise`. A delta so
    small that every frequency is active at the first step is plain sampling, bit for bit. A SMALLER delta holds less.

    Parameters
    ----------
    velocity, noise
        As for :func:`~spectral_pd.sample`.
    plan
        A plan of one scale: the time grid, the full grid and the basis in which frequencies are held.
    spectrum, delta
        As :func:`activation_map`: they say until when each frequency is held.
    seed, leading, solver, callback, progress
        As for :func:`~spectral_pd.sample`; the callback sees the state after the replacement.

    Returns
    -------
    State at time 0 in the noise's shape and dtype. No gradients are recorded.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> full = make_plan(shift_times(8), PRESETS["flux"], (32, 32), scales=(1,))
    >>> passthrough(lambda x, t: x, torch.randn(1, 4, 32, 32), full, PRESETS["flux"], 0.01).shape
    torch.Size([1, 4, 32, 32])
    """
    plans.one_stage(len(plan.shapes))
    runs.fresh_seed(noise, seed, "coupled")
    basis = plan.basis
    active = activation_map(spectrum, plan.shape, delta, basis=basis)
    white = white_noise(noise, seed, basis, plan.shapes, leading=leading)
    x, coefficients = white.on(plan.shape), white.coefficients(plan.shape)
    hold = holding(find_solver(solver), active.to(x.device), basis, coefficients)
    return run(velocity, x, plan, plan.moves(), white, solver=hold, callback=callback, progress=progress).to(
        white.dtype
    )


@torch.no_grad()
@door(velocity=runs.velocity, t=models.data_time, basis=BASIS)
def noise_prediction_error(
    velocity: Velocity, samples: Tensor, t: float, *, noise: Tensor, basis: Basis = DCT, dims: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    r"""Measured ``E|v(x_t, t) - eps|^2`` by frequency: how wrong it is to take a coefficient for noise at time `t`.

    The left side of Eq. 19 on real data, ``x_t = (1 - t) x_0 + t eps``; for a Gaussian field and its optimal velocity it is
    :func:`~spectral_pd.velocity_error`.

    Parameters
    ----------
    velocity, t
        The model ``velocity(x, t)`` and a time, 0 < t <= 1.
    samples, noise
        Data x_0 and white noise eps of one shape (batch, ..., *grid).
    basis, dims
        The basis in which frequencies are separated, and the number of trailing spectral axes.

    Returns
    -------
    Frequencies k (cycles per shorter side) and the mean squared error of a coefficient in each radial bin
    ``[k - 1/2, k + 1/2)``.

    Examples
    --------
    >>> from spectral_pd import GaussianField, PowerLaw
    >>> field = GaussianField(PowerLaw(30.0, 2.0, shape=(16, 16)), (16, 16))
    >>> k, error = noise_prediction_error(field.velocity, field.sample((64, 1)), 0.9, noise=torch.randn(64, 1, 16, 16))
    >>> bool(error[0] > error[-1])  # low frequencies already carry signal
    True
    """
    x0, eps = models.samples_and_noise(samples, noise, dims)
    dtype = working_dtype(x0.dtype)
    x0, eps = x0.to(dtype), eps.to(dtype)
    error = basis.forward(velocity((1 - t) * x0 + t * eps, t).to(dtype) - eps, dims=dims)
    power = error.double().square().reshape(-1, *error.shape[-dims:]).mean(0)
    k, mean, _ = radial_bins(power, basis.frequency(tuple(power.shape)))
    return k, mean
