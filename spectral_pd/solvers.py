r"""One step of an ODE solver along the flow-matching path ``x_t = (1 - t) x_0 + t eps``, from `t` down to `t_next`.

A solver is any callable ``solver(velocity, x, t, t_next, history) -> (x_next, history)``. One-step solvers return None for the
history; multistep solvers return a :class:`History`, which they find again at the next step. It is None at the first step
and whenever the sampler had to drop it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from spectral_pd.inputs import Array

__all__ = ["History", "dpmpp_2m", "euler", "find_solver", "heun"]

Velocity = Callable[[Tensor, float], Tensor]
"""``velocity(x, t)``: estimate of ``dx/dt = eps - x_0``, same shape as x; t is a Python float."""


@dataclass(frozen=True)
class History:
    """What a multistep solver remembers: the last `time`, and `denoised`, the estimate of the clean state made there."""

    time: float
    denoised: Tensor


Stepped = tuple[Tensor, History | None]
Solver = Callable[[Velocity, Tensor, float, float, History | None], Stepped]
SolverName = Literal["euler", "heun", "dpmpp_2m"]


def euler(velocity: Velocity, x: Tensor, t: float, t_next: float, history: History | None = None) -> Stepped:
    r"""Euler in t, which for flow matching is DDIM: ``x' = x + (t' - t) v = (t'/t) x + (1 - t'/t) D``. First order.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, the model.
    x, t, t_next
        State (batch, ..., *grid) at time `t`, and local times, ``1 >= t > t_next >= 0``.
    history
        Not used.

    Returns
    -------
    (x_next, None)

    Examples
    --------
    >>> import torch
    >>> x, _ = euler(lambda x, t: x, torch.ones(1, 4, 4), 1.0, 0.75)
    >>> x.mean().item()
    0.75
    """
    return x + (t_next - t) * velocity(x, t), None


def heun(velocity: Velocity, x: Tensor, t: float, t_next: float, history: History | None = None) -> Stepped:
    r"""Heun's method in t: the mean of the slopes at both ends. Second order, two model calls a step.

    The last step, to t = 0, is Euler: a denoiser's velocity ``(x - D) / t`` has no value there.
    Parameters and result as :func:`euler`.

    Examples
    --------
    >>> import torch
    >>> x, _ = heun(lambda x, t: x, torch.ones(1, 4, 4), 1.0, 0.75)
    >>> x.mean().item()  # exp(-1/4) is 0.7788
    0.78125
    """
    slope = velocity(x, t)
    predicted = x + (t_next - t) * slope
    if np.all(t_next == 0.0):
        return predicted, None
    return x + (t_next - t) * 0.5 * (slope + velocity(predicted, t_next)), None


def dpmpp_2m(velocity: Velocity, x: Tensor, t: float, t_next: float, history: History | None = None) -> Stepped:
    r"""DPM-Solver++(2M): second order in the half log signal-to-noise ``lambda = log((1-t)/t)``, one model call a step.

    ``x' = (t'/t) x + (1 - t') (1 - e^-h) D_bar`` with ``h = lambda' - lambda``, ``D = x - t v`` and
    ``D_bar = D + h / (2 h_last) (D - D_last)``. Without history, from t = 1 and to t = 0 it is first order (Euler).

    Parameters as :func:`euler`, with the `history` returned by the step before (None: none); the result holds the next.
    Source: Lu et al., "DPM-Solver++", arXiv 2211.01095, Algorithm 2, on the flow-matching path.

    Examples
    --------
    >>> import torch
    >>> x, history = dpmpp_2m(lambda x, t: x, torch.ones(1, 4, 4), 1.0, 0.75)
    >>> x, history = dpmpp_2m(lambda x, t: x, x, 0.75, 0.5, history)
    >>> history.time
    0.75
    """
    denoised = x - t * velocity(x, t)
    estimate = denoised
    if history is not None and np.all(history.time < 1.0) and np.all(t_next > 0.0):
        h, h_last = (_log_snr(b) - _log_snr(a) for a, b in ((t, t_next), (history.time, t)))
        estimate = denoised + (h / (2 * h_last)) * (denoised - history.denoised)
    # (1 - t') (1 - e^-h) = (1 - t') - (1 - t) t' / t = 1 - t'/t
    return (t_next / t) * x + (1 - t_next / t) * estimate, History(t, denoised)


def towards(denoised: Any) -> Velocity:
    """The velocity of an answer that was given already."""
    return lambda x, t: (x - denoised) / t


def _log_snr(t: Array) -> Array:
    return (math.log if isinstance(t, float) else np.log)((1 - t) / t)


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
"""The built-in solvers by name."""


def find_solver(solver: Any, name: str = "solver") -> Solver:
    """The solver of that name, or the callable itself; a parser (:mod:`spectral_pd.inputs`).

    Raises
    ------
    ValueError, TypeError
        An unknown name; neither a name nor a callable.

    Examples
    --------
    >>> find_solver("heun") is heun
    True
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise ValueError(f"{name} = {solver!r} is unknown; pass one of {sorted(SOLVERS)} or a callable")
        return SOLVERS[solver]
    if not callable(solver):
        raise TypeError(f"{name} is {type(solver).__name__}; pass one of {sorted(SOLVERS)} or a callable")
    return solver
