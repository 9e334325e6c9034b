r"""Parametrisations: flow velocities from models that predict something else, and states between the paths they speak of.

========================  ====================================================  ========================================
flow                      ``x_t = (1 - t) x_0 + t eps``                         ``v = eps - x_0``
EDM                       ``x_0 + sigma eps``, ``sigma = t / (1 - t)``          a denoiser ``D(x, sigma)``
variance preserving (VP)  ``alpha x_0 + sigma eps``, ``alpha^2 + sigma^2 = 1``  ``x_0``, ``eps`` or ``alpha eps - sigma x_0``
========================  ====================================================  ========================================

The state that a model was trained on decides which function converts it; the wrong one gives pictures, too, and bad ones. DDPM
and Stable Diffusion 1, 2, XL are variance preserving, with a table ``alphas_cumprod``: the ``alpha^2`` of each timestep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.inputs import door, models
from spectral_pd.solvers import Velocity


def wrap_network(
    network: Callable[[Tensor, Tensor], Tensor], *, scale: float = 1, dtype: torch.dtype | None = None
) -> Velocity:
    """A `network` whose time is a tensor of shape (batch,), made a model ``model(x, t)`` whose time is one number.

    Whatever it predicts: pass the result to :func:`~spectral_pd.sample`, or to the converter below that names its state. The
    network gets times multiplied by `scale`, as int64 where they are whole timesteps, else as float32 and never as bfloat16,
    in which neighbouring times lie up to 1/256 apart. It gets x in `dtype`, e.g. torch.bfloat16 (None: as it is); the model
    answers in x's own.

    Examples
    --------
    >>> wrap_network(lambda x, t: x * t.view(-1, 1), dtype=torch.bfloat16)(torch.ones(1, 2), 0.5)
    tensor([[0.5000, 0.5000]])
    """

    def model(x: Tensor, t: float) -> Tensor:
        time = scale * t
        kind = torch.int64 if isinstance(time, int) else torch.float32
        return network(x.to(dtype or x.dtype), torch.full((len(x),), time, dtype=kind, device=x.device)).to(x.dtype)

    return model


def velocity_from_denoised(denoiser: Velocity) -> Velocity:
    """Velocity of a `denoiser` that predicts the clean state from a FLOW state: ``v = (x - D(x, t)) / t``, for t > 0 (Eq. 2).

    From EDM's state: :func:`velocity_from_edm`; from a variance-preserving one: :func:`velocity_from_vp`.

    Examples
    --------
    >>> velocity_from_denoised(lambda x, t: 0 * x)(torch.ones(1), 0.5)
    tensor([2.])
    """
    return lambda x, t: (x - denoiser(x, t)) / t


def velocity_from_noise(predictor: Velocity, *, least_signal: float = 1e-4) -> Velocity:
    """Velocity of a `predictor` of the noise in a FLOW state, not in DDPM's: ``v = (eps(x, t) - x) / (1 - t)``.

    Networks called epsilon predictors nearly always take a variance-preserving state: theirs is :func:`velocity_from_vp`.
    At t = 1 the state holds no signal and a noise prediction says nothing about ``x_0``; within `least_signal` of t = 1 the
    velocity is taken to be the predicted noise itself, whose mean ``x_0`` is then assumed 0.

    Examples
    --------
    >>> velocity_from_noise(lambda x, t: x)(torch.ones(1), 0.5)
    tensor([0.])
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        eps = predictor(x, t)
        return eps if 1 - t < least_signal else (eps - x) / (1 - t)

    return velocity


@door(t=models.edm_time)
def edm_from_flow(x: Tensor, t: float) -> tuple[Tensor, float]:
    r"""A flow state in EDM's form ``x_0 + sigma eps``: ``x / (1 - t)`` at ``sigma = t / (1 - t)``.

    Errors as a ValueError outside of 0 <= t < 1.

    Examples
    --------
    >>> edm_from_flow(torch.ones(1), 0.75)
    (tensor([4.]), 3.0)
    """
    return x / (1 - t), t / (1 - t)


@door(sigma=models.edm_level)
def flow_from_edm(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    r"""Inverse of :func:`edm_from_flow`: ``x / (1 + sigma)`` at ``t = sigma / (1 + sigma)``; errors as a ValueError at inf.

    Examples
    --------
    >>> flow_from_edm(torch.ones(1), 3.0)
    (tensor([0.2500]), 0.75)
    """
    return x / (1 + sigma), sigma / (1 + sigma)


@door(t=inputs.one_time)
def vp_from_flow(x: Tensor, t: float) -> tuple[Tensor, float, float]:
    r"""A flow state in variance-preserving form ``alpha x_0 + sigma eps``, ``alpha^2 + sigma^2 = 1``: (state, alpha, sigma).

    ``x / n`` with ``alpha = (1 - t) / n``, ``sigma = t / n``, ``n = sqrt((1 - t)^2 + t^2)``; errors as a ValueError outside of
    0 <= t <= 1.

    Examples
    --------
    >>> vp_from_flow(torch.ones(1), 1.0)
    (tensor([1.]), 0.0, 1.0)
    """
    norm = math.hypot(1 - t, t)
    return x / norm, (1 - t) / norm, t / norm


def flow_from_vp(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, float]:
    r"""A state ``alpha x_0 + sigma eps`` on the flow path: ``x / (alpha + sigma)`` at ``t = sigma / (alpha + sigma)``.

    Errors as a ValueError where a level is negative, or both are 0.

    Examples
    --------
    >>> flow_from_vp(torch.ones(1), 0.5, 1.5)
    (tensor([0.5000]), 0.75)
    """
    models.vp_levels(alpha, sigma)
    return x / (alpha + sigma), sigma / (alpha + sigma)


def velocity_from_edm(denoiser: Velocity) -> Velocity:
    """Velocity of an EDM or k-diffusion `denoiser` ``D(x_0 + sigma eps, sigma)`` of the clean state, for 0 < t < 1.

    Examples
    --------
    >>> velocity_from_edm(lambda x, sigma: 0 * x)(torch.ones(1), 0.5)
    tensor([2.])
    """
    return velocity_from_denoised(lambda x, t: denoiser(*edm_from_flow(x, t)))


def _flow_times(table: Any) -> np.ndarray:
    """``sigma / (alpha + sigma)`` at each ``alpha^2`` of a table behind its door."""
    return np.asarray(np.sqrt(1 - table) / (np.sqrt(table) + np.sqrt(1 - table)))


@door(alphas_cumprod=models.alphas_cumprod)
def times_from_vp(alphas_cumprod: Tensor | Sequence[float], indices: Iterable[float]) -> tuple[float, ...]:
    """The flow times of a DDIM grid: ``sigma / (alpha + sigma)`` at each timestep, then 0, the clean picture.

    The first is below 1, where noise alone is not the state: see `start` of :func:`~spectral_pd.sample`. `alphas_cumprod` is
    as in :func:`velocity_from_vp`; `indices` such as ``range(999, 0, -20)`` or ``scheduler.timesteps`` may have fractions.

    Errors as a ValueError where the table does not decrease within [0, 1], or `indices` not within the table.

    Examples
    --------
    >>> times_from_vp([0.9, 0.5, 0.1], [2, 1])
    (0.75, 0.5, 0.0)
    """
    table = _flow_times(alphas_cumprod)
    steps = models.timesteps(indices, "indices", len(table))
    return (*map(float, np.interp(steps, np.arange(len(table)), table)), 0.0)


@door(
    predicts=inputs.choice("denoised", "noise", "v"),
    alphas_cumprod=inputs.optional(models.alphas_cumprod),
    index=inputs.choice("interpolated", "nearest"),
)
def velocity_from_vp(
    model: Velocity,
    *,
    predicts: Literal["denoised", "noise", "v"],
    alphas_cumprod: Tensor | Sequence[float] | None = None,
    index: Literal["interpolated", "nearest"] = "interpolated",
) -> Velocity:
    r"""Velocity of a VARIANCE-PRESERVING model ``model(alpha x_0 + sigma eps, timestep)``: DDPM, Stable Diffusion 1, 2, XL.

    ``"denoised"``: ``x_0``; ``"noise"``: ``eps``; ``"v"``: ``v_vp = alpha eps - sigma x_0``, from which the flow velocity
    ``eps - x_0 = (sigma - alpha) x_vp + (alpha + sigma) v_vp`` has no singular time.

    Parameters
    ----------
    model, predicts
        The network, and what it returns.
    alphas_cumprod, index
        The ``alpha^2`` of each timestep, decreasing. The model gets the timestep at which the table has the state's level: a
        float between two neighbours, or the ``"nearest"`` int, which costs accuracy on coarse stages, whose times lie between
        the grid's. Without a table it gets the FLOW time; :func:`vp_from_flow` gives alpha and sigma.

    Errors as a ValueError: unknown words, a table that does not decrease; at a call, a time noisier than the table's end.

    Examples
    --------
    >>> velocity_from_vp(lambda x, k: 0 * x, predicts="denoised", alphas_cumprod=[0.9, 0.5, 0.1])(torch.ones(1), 0.5)
    tensor([2.])
    """
    levels = None if alphas_cumprod is None else _flow_times(alphas_cumprod)

    def call(x: Tensor, t: float) -> Tensor:
        if levels is None:
            return model(x, t)
        models.within_table(t, levels[-1])
        k = float(np.interp(t, levels, np.arange(len(levels))))
        return model(x, round(k) if index == "nearest" else k)

    if predicts != "v":
        convert = velocity_from_denoised if predicts == "denoised" else velocity_from_noise
        return convert(lambda x, t: call(vp_from_flow(x, t)[0], t))

    def velocity(x: Tensor, t: float) -> Tensor:
        state, alpha, sigma = vp_from_flow(x, t)
        return (sigma - alpha) * state + (alpha + sigma) * call(state, t)

    return velocity
