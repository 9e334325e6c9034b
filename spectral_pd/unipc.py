r"""UniPC of order 2 on the flow path: the multistep scheduler that WAN checkpoints come with, as a solver.

With ``lambda = log((1 - t) / t)``, ``h = lambda' - lambda``, ``D = x - t v`` and ``phi = e^-h - 1``, one step predicts

    ``x' = (t'/t) x - (1 - t') phi (D + 1/2 (D_last - D) / r)``,   ``r = (lambda_last - lambda) / h``,

evaluates D' there, and the next step first corrects x' with it before predicting on: one model call a step.

Source: Zhao et al., "UniPC: A Unified Predictor-Corrector Framework", arXiv 2302.04867, with B(h) = e^h - 1 ("bh2");
first order at the start and at the last step, as the diffusers scheduler does by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from spectral_pd.solvers import History, Velocity


@dataclass(frozen=True)
class UniPCHistory(History):
    """What the corrector needs besides the last time and denoised estimate.

    After a change of grid the sampler hands over a plain :class:`~spectral_pd.solvers.History`: the prediction keeps its
    order, and one correction is left out.

    Attributes
    ----------
    state
        The (corrected) state at `time`.
    earlier
        The evaluation before, where the prediction made from `state` was of second order; None where it was of first.
    """

    state: Tensor
    earlier: History | None


def unipc(
    velocity: Velocity, x: Tensor, t: float, t_next: float, history: History | None = None
) -> tuple[Tensor, History | None]:
    """One UniPC step: correct `x` with the evaluation made at it, then predict. See the module's text."""
    denoised = x - t * velocity(x, t)
    if isinstance(history, UniPCHistory):
        x = _corrected(history, t, denoised)
    estimate, earlier = denoised, None
    if history is not None and t_next > 0:
        earlier = History(history.time, history.denoised)
        estimate = denoised + 0.5 * _difference(earlier, t, denoised, t_next)[1]
    x_next = (t_next / t) * x - (1 - t_next) * _phi(t, t_next) * estimate
    return x_next, UniPCHistory(t, denoised, x, earlier)


def _corrected(history: UniPCHistory, t: float, denoised: Tensor) -> Tensor:
    """The state at `t` again, from the state before it and the evaluation made at its prediction."""
    s, phi, h = history.time, _phi(history.time, t), _lambda(t) - _lambda(history.time)
    jump = denoised - history.denoised
    if history.earlier is None:
        slope = 0.5 * jump
    else:
        # rho solves sum rho = b_1, r rho_0 + rho_1 = b_2, with b_k the moments of the exponential integrator.
        b_1 = (phi / -h - 1) / phi
        b_2 = 2 * ((phi / -h - 1) / -h - 0.5) / phi
        r, before = _difference(history.earlier, s, history.denoised, t)
        rho = (b_1 - b_2) / (1 - r)
        slope = rho * before + (b_1 - rho) * jump
    return (t / s) * history.state - (1 - t) * phi * (history.denoised + slope)


def _difference(earlier: History, t: float, denoised: Tensor, t_next: float) -> tuple[float, Tensor]:
    """``r = (lambda_earlier - lambda) / h`` and ``(D_earlier - D) / r``, the estimate's change over this step."""
    r = (_lambda(earlier.time) - _lambda(t)) / (_lambda(t_next) - _lambda(t))
    return r, (earlier.denoised - denoised) / r


def _lambda(t: float) -> float:
    """Half the log signal-to-noise ratio; infinite at the ends."""
    if t in (0.0, 1.0):
        return math.inf if t == 0.0 else -math.inf
    return math.log((1 - t) / t)


def _phi(t: float, t_next: float) -> float:
    """``e^-h - 1`` between two times: -1 from t = 1 or to t = 0."""
    return math.expm1(_lambda(t) - _lambda(t_next))
