r"""Parametrisations: flow velocities from models that predict something else, and states between the paths they speak of.

================  ====================================================  ========================================
flow              ``x_t = (1 - t) x_0 + t eps``                         ``v = eps - x_0``
EDM               ``x_0 + sigma eps``, ``sigma = t / (1 - t)``          a denoiser ``D(x, sigma)``
VP                ``alpha x_0 + sigma eps``, ``alpha^2 + sigma^2 = 1``  ``x_0``, ``eps`` or ``alpha eps - sigma x_0``
================  ====================================================  ========================================
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from spectral_pd import inputs
from spectral_pd.inputs import door
from spectral_pd.solvers import Velocity


def velocity_from_denoised(denoiser: Velocity) -> Velocity:
    """A velocity from a `denoiser` that predicts the clean state: ``v = (x - D(x, t)) / t``, for t > 0 (Eq. 2).

    Examples
    --------
    >>> import torch
    >>> velocity = velocity_from_denoised(lambda x, t: torch.zeros_like(x))
    >>> velocity(torch.ones(1, 4, 4), 0.5).mean().item()
    2.0
    """
    return lambda x, t: (x - denoiser(x, t)) / t


def velocity_from_noise(predictor: Velocity, *, least_signal: float = 1e-4) -> Velocity:
    """A velocity from a `predictor` of the noise: ``v = (eps(x, t) - x) / (1 - t)``.

    At t = 1 the state holds no signal and a noise prediction says nothing about ``x_0``; within `least_signal` of t = 1 the
    velocity is taken to be the predicted noise itself, whose mean ``x_0`` is then assumed 0.

    Examples
    --------
    >>> import torch
    >>> velocity = velocity_from_noise(lambda x, t: x)
    >>> velocity(torch.ones(1, 4, 4), 0.5).mean().item()
    0.0
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        eps = predictor(x, t)
        return eps if 1 - t < least_signal else (eps - x) / (1 - t)

    return velocity


@door(t=inputs.edm_time)
def edm_from_flow(x: Tensor, t: float) -> tuple[Tensor, float]:
    r"""A flow state, 0 <= t < 1, in EDM's form ``x_0 + sigma eps``: ``x / (1 - t)`` at ``sigma = t / (1 - t)``.

    Examples
    --------
    >>> import torch
    >>> state, sigma = edm_from_flow(torch.ones(1, 4, 4), 0.75)
    >>> state.mean().item(), sigma
    (4.0, 3.0)
    """
    return x / (1 - t), t / (1 - t)


@door(sigma=inputs.edm_level)
def flow_from_edm(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    r"""Inverse of :func:`edm_from_flow`: ``x / (1 + sigma)`` at ``t = sigma / (1 + sigma)``, for finite sigma >= 0.

    Examples
    --------
    >>> import torch
    >>> state, t = flow_from_edm(torch.ones(1, 4, 4), 3.0)
    >>> state.mean().item(), t
    (0.25, 0.75)
    """
    return x / (1 + sigma), sigma / (1 + sigma)


@door(t=inputs.one_time)
def vp_from_flow(x: Tensor, t: float) -> tuple[Tensor, float, float]:
    r"""A flow state in variance-preserving form ``alpha x_0 + sigma eps`` with ``alpha^2 + sigma^2 = 1``.

    ``x / n`` with ``alpha = (1 - t) / n``, ``sigma = t / n``, ``n = sqrt((1 - t)^2 + t^2)``; 0 <= t <= 1.

    Returns
    -------
    (state, alpha, sigma); a model with a table of cumulative products takes the index where it equals ``alpha^2``.

    Examples
    --------
    >>> import torch
    >>> _, alpha, sigma = vp_from_flow(torch.ones(1, 4, 4), 0.5)
    >>> round(alpha**2 + sigma**2, 12)
    1.0
    """
    norm = math.hypot(1 - t, t)
    return x / norm, (1 - t) / norm, t / norm


def flow_from_vp(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, float]:
    r"""A state ``alpha x_0 + sigma eps``, not both 0, on the flow path: ``x / (alpha + sigma)`` at ``sigma / (alpha + sigma)``.

    Examples
    --------
    >>> import torch
    >>> state, t = flow_from_vp(torch.ones(1, 4, 4), 0.6, 0.8)
    >>> round(t, 6)
    0.571429
    """
    inputs.vp_levels(alpha, sigma)
    return x / (alpha + sigma), sigma / (alpha + sigma)


def velocity_from_edm(denoiser: Velocity) -> Velocity:
    """A velocity from an EDM or k-diffusion `denoiser` ``D(x_0 + sigma eps, sigma)``, for 0 < t < 1.

    Examples
    --------
    >>> import torch
    >>> velocity = velocity_from_edm(lambda x, sigma: x / (1 + sigma**2))
    >>> velocity(torch.ones(1, 4, 4), 0.5).mean().item()
    0.0
    """
    return velocity_from_denoised(lambda x, t: denoiser(*edm_from_flow(x, t)))


@door(predicts=inputs.choice("denoised", "noise", "v"))
def velocity_from_vp(model: Velocity, *, predicts: Literal["denoised", "noise", "v"]) -> Velocity:
    r"""A velocity from a variance-preserving model ``model(alpha x_0 + sigma eps, t)``.

    ``"denoised"``: ``x_0``; ``"noise"``: ``eps``; ``"v"``: ``v_vp = alpha eps - sigma x_0``, from which the flow velocity
    ``eps - x_0 = (sigma - alpha) x_vp + (alpha + sigma) v_vp`` has no singular time.

    Parameters
    ----------
    model, predicts
        Takes the variance-preserving state and the FLOW time (:func:`vp_from_flow` gives alpha and sigma), and what it returns.

    Examples
    --------
    >>> import torch
    >>> velocity = velocity_from_vp(lambda x, t: torch.zeros_like(x), predicts="denoised")
    >>> velocity(torch.ones(1, 4, 4), 0.5).mean().item()
    2.0
    """
    if predicts != "v":
        convert = velocity_from_denoised if predicts == "denoised" else velocity_from_noise
        return convert(lambda x, t: model(vp_from_flow(x, t)[0], t))

    def velocity(x: Tensor, t: float) -> Tensor:
        state, alpha, sigma = vp_from_flow(x, t)
        return (sigma - alpha) * state + (alpha + sigma) * model(state, t)

    return velocity
