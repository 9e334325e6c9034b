r"""The progressive sampler over any velocity callable (paper Sec. 4.1).

From noise on the coarsest grid, each stage of a plan integrates ``dx/dt = v(x, t)`` on its own grid; between stages the
state grows as :func:`~spectral_pd.expand_aligned` does. With the defaults, ``clock="full"`` in the plan and
``coupling="coupled"`` here, the same noise gives the same picture as full-resolution sampling, up to the high band that
delta bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from spectral_pd import inputs
from spectral_pd.expansion import NOISE, Grow, Noise, Source, white_noise
from spectral_pd.inputs import door, runs, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.plan import PLAN, Move, Plan, Step, walk
from spectral_pd.solvers import Solver, SolverName, Velocity, find_solver

__all__ = ["StepInfo", "sample"]

Coupling = Literal["coupled", "fresh"]
COUPLING = inputs.choice("coupled", "fresh")


@dataclass(frozen=True)
class StepInfo:
    """What a callback sees after each solver step.

    Attributes
    ----------
    step, stage
        Steps done so far, 1 to ``plan.nfe``, and index of the stage, 0 is the coarsest.
    time, local_time
        Time reached on the full-resolution clock, ``plan.times[step]``, and the stage's own: the noise level of `state`.
    state
        The state after the step, on the stage's grid; do not modify it in place.
    """

    step: int
    stage: int
    time: float
    local_time: float
    state: Tensor


@torch.no_grad()
@door(
    velocity=runs.velocity,
    noise=inputs.optional(NOISE),
    seed=inputs.optional(runs.noise_source),
    plan=PLAN,
    solver=find_solver,
    coupling=COUPLING,
    callback=runs.callback,
)
def sample(
    velocity: Velocity,
    noise: Tensor | NoiseField | None,
    plan: Plan,
    *,
    seed: Source | None = None,
    leading: Sequence[int] | None = None,
    start: Tensor | None = None,
    solver: SolverName | Solver = "euler",
    coupling: Coupling = "coupled",
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Sample progressively: coarse stages first, growing between them (Sec. 4.1).

    Returns the state of the full size (batch, ..., *plan.shape) at time 0, in the noise's dtype. No gradients are recorded.

    Parameters
    ----------
    velocity
        ``velocity(x, t)`` returns ``dx/dt = eps - x_0`` in x's shape. It is called at every stage size with that stage's
        LOCAL time, a float in (0, 1]. x is float32, or float64 when the noise is.
    noise
        White field of the full size, shape (batch, ..., *plan.shape), or a :class:`~spectral_pd.NoiseField` together
        with `leading`; None makes a NoiseField from `seed`. All randomness of a coupled run.
    plan
        From :func:`~spectral_pd.make_plan`, in whose basis the state grows; a plan of one scale is plain sampling. Or with
        calls of several grids all along the run (:mod:`spectral_pd.two_grids`): ``choose_pattern(...)[0].plan``.
    seed
        Instead of `noise`: an int, a generator (one draw is made from it), or a list of one an item, so that item i equals a
        batch of one. Beside a noise tensor with ``coupling="fresh"``: where the fresh noise comes from, torch's default
        generator unless given.
    start
        State of the full size at the plan's first time, when it is not the noise itself: a grid that begins below t = 1,
        or from a picture. The first stage takes its low band; `noise` then fills the new bands only. Full clock only.
    solver
        ``"euler"``, ``"heun"``, ``"dpmpp_2m"``, or a callable (see :mod:`spectral_pd.solvers`). At a transition a multistep
        history is carried over by embedding the last denoised estimate on the full clock, and dropped on the stage clock,
        whose times jump.
    coupling
        ``"coupled"``: the first stage starts from the low band of the one field and every transition fills from the same
        field. ``"fresh"``: independent noise at each transition, as in the paper; another picture for the same seed.
    leading
        Axes before the grid, e.g. (batch, channels), where `noise` is no tensor; the run is then on torch's default device.
    callback, progress
        Called with a :class:`StepInfo` after every solver step; a tensor it returns replaces the state. Whether to show a bar.

    Raises
    ------
    ValueError, TypeError
        Noise that does not fit the plan, an unknown solver or coupling: all before the first model call. A velocity whose
        result has another shape: at that call.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(8), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> sample(lambda x, t: x, torch.randn(1, 4, 32, 32), plan).shape
    torch.Size([1, 4, 32, 32])
    """
    runs.fresh_seed(noise, seed, coupling)
    field = white_noise(noise, seed, plan.basis, plan.shapes, leading=leading)
    if start is None:
        x = field.on(plan.start_shape)
    else:
        runs.start_state(start, noise, plan.clock, plan.shape)
        x = plan.basis.restrict(start.to(working_dtype(field.dtype)), plan.start_shape)
    # A grid that starts below t = 1 takes its noise as the state at T_0; then the coarse state is the low band of that
    # state before alignment.
    x = run(
        velocity,
        x / plan.start_kappa,
        plan,
        plan.moves(),
        field,
        solver=find_solver(solver),
        coupling=coupling,
        callback=callback,
        progress=progress,
    )
    return x.to(field.dtype)


def run(
    velocity: Velocity,
    x: Tensor,
    plan: Plan,
    moves: Iterable[Move],
    noise: Noise,
    *,
    solver: Solver,
    coupling: Coupling = "coupled",
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    """Walk a state along moves of a plan to time 0: what :func:`sample` and :func:`~spectral_pd.edit` share.

    Parameters as there; `moves` begin where `x` stands, and steps are counted on the plan's grid.
    """
    moves, velocity = tuple(moves), plan.velocity(velocity)
    steps = sum(isinstance(move, Step) for move in moves)

    def answer(x: Tensor, t: float) -> Tensor:
        # A copy: a model may return one buffer at every call, and solvers keep what it said.
        return runs.answered(velocity(x, t), x).to(x.dtype, copy=True)

    def after(step: Step, x: Tensor) -> Tensor:
        bar.update()
        if callback is None:
            return x
        return replaced(x, callback(StepInfo(step.number, step.stage, step.time, step.t_next, x)))

    def grow(x: Tensor, move: Grow) -> Tensor:
        return (noise if coupling == "coupled" else noise.fresh(move)).grow(x, move)

    with tqdm(total=steps, disable=not progress, desc="sampling", unit="step") as bar:
        return walk(moves, x, answer, solver, grow=grow, embed=plan.basis.embed, after=after)


def replaced(x: Tensor, result: object) -> Tensor:
    """The state after a callback: what it returned, when that is a tensor."""
    return runs.replacement(result, x) if isinstance(result, Tensor) else x
