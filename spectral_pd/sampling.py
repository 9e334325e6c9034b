r"""The progressive sampler over any velocity callable (paper Sec. 4.1), and the conversions other models need.

From noise on the coarsest grid, each stage of a plan integrates ``dx/dt = v(x, t)`` on its own grid; between stages the
state grows by :func:`~spectral_pd.expand_aligned`. With the defaults, ``clock="full"`` in the plan and
``coupling="coupled"`` here, the same noise gives the same picture as full-resolution sampling, up to the high band that
delta bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from spectral_pd.bases import DCT, Basis, check_basis, check_state, check_target, size_ratio, working_dtype
from spectral_pd.expansion import expand_aligned
from spectral_pd.noise import NoiseField
from spectral_pd.schedule import Plan
from spectral_pd.solvers import History, Solver, SolverName, Velocity, find_solver
from spectral_pd.theory import align_scale, align_time

Coupling = Literal["coupled", "fresh"]


@dataclass(frozen=True)
class StepInfo:
    """What a callback sees after each solver step.

    Attributes
    ----------
    step
        Steps done so far, 1 to ``plan.nfe``.
    stage
        Index of the stage, 0 is the coarsest.
    time
        Full-resolution clock's grid time reached, ``plan.times[step]``.
    local_time
        The stage's own time reached: the level of the noise in `state`.
    state
        The state after the step, on the stage's grid; do not modify it in place.
    """

    step: int
    stage: int
    time: float
    local_time: float
    state: Tensor


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Tensor | NoiseField,
    plan: Plan,
    *,
    start: Tensor | None = None,
    solver: SolverName | Solver = "euler",
    basis: Basis = DCT,
    coupling: Coupling = "coupled",
    leading: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Sample progressively: coarse stages first, growing between them (Sec. 4.1).

    Parameters
    ----------
    velocity
        ``velocity(x, t)`` returns ``dx/dt = eps - x_0`` in x's shape. It is called at every stage size with that stage's
        LOCAL time, a float in (0, 1]. x is float32, or float64 when the noise is.
    noise
        White field of the full size, shape (batch, ..., *plan.shape), or a :class:`~spectral_pd.NoiseField` together
        with `leading`. All randomness of a coupled run.
    plan
        From :func:`~spectral_pd.make_plan`. A plan of one scale is plain sampling.
    start
        State of the full size at the plan's first time, when it is not the noise itself: a grid that begins below t = 1,
        or from a picture. The first stage takes its low band; `noise` then fills the new bands only. Full clock only.
    solver
        ``"euler"``, ``"heun"``, ``"dpmpp_2m"``, or a callable (see :mod:`spectral_pd.solvers`). At a transition a multistep
        history is carried over by embedding the last denoised estimate on the full clock, and dropped on the stage clock,
        whose times jump.
    basis
        The basis the state grows in. HAAR needs ratios that are powers of 2.
    coupling
        ``"coupled"``: the first stage starts from the low band of the one field and every transition fills from the same
        field. ``"fresh"``: independent noise at each transition, as in the paper; another picture for the same seed.
    leading, device
        Axes before the grid, e.g. (batch, channels), and where to compute (default CPU); only with a NoiseField.
    generator
        Source of the fresh fields when `noise` is a tensor and ``coupling="fresh"``, or a list of one an item, so that
        item i equals a batch of one; None is torch's default generator.
    callback
        Called with a :class:`StepInfo` after every solver step. A tensor it returns replaces the state.
    progress
        Show a progress bar.

    Returns
    -------
    State of the full size (batch, ..., *plan.shape) at time 0, in the noise's dtype. No gradients are recorded.

    Raises
    ------
    ValueError, TypeError
        Noise that does not fit the plan, a basis that cannot reach a stage's grid, an unknown solver or coupling: all
        before the first model call. A velocity whose result has another shape: at that call.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(8), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> sample(lambda x, t: x, torch.randn(1, 4, 32, 32), plan).shape
    torch.Size([1, 4, 32, 32])
    """
    step_with = find_solver(solver)
    field, dtype = check_noise(noise, plan, basis, coupling, leading, device, generator)
    x = _initial_state(field, plan, basis, leading or (), device or "cpu", _check_start(start, noise, plan))
    x = march(
        velocity,
        x,
        plan,
        field,
        solver=step_with,
        basis=basis,
        coupling=coupling,
        generator=generator,
        callback=callback,
        progress=progress,
    )
    return x.to(dtype)


def march(
    velocity: Velocity,
    x: Tensor,
    plan: Plan,
    noise: Tensor | NoiseField,
    *,
    first: int = 0,
    solver: Solver,
    basis: Basis,
    coupling: Coupling = "coupled",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    """Run the stages of a plan from the state `x` that stage `first` starts with, growing between them, to time 0.

    What :func:`sample` and :func:`~spectral_pd.edit` share once their input has been checked; parameters as there. Steps are
    counted on the plan's grid: the first one reported is ``plan.stages[first].start + 1``.
    """
    check = _checked(velocity)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {type(callback).__name__}; pass a function of a StepInfo, or None")
    history: History | None = None
    done = plan.stages[first].start
    with tqdm(total=plan.nfe - done, disable=not progress, desc="sampling", unit="step") as bar:
        for i, stage in enumerate(plan.stages[first:], first):
            if i > first:
                x, history = transition(x, history, plan, i, noise, basis, coupling, generator)
            for t, t_next in pairwise(stage.times):
                x, history = solver(check, x, t, t_next, history)
                done += 1
                bar.update()
                if callback is not None:
                    x = replaced(x, callback(StepInfo(done, i, plan.times[done], t_next, x)))
    return x


def check_noise(
    noise: Tensor | NoiseField,
    plan: Plan,
    basis: Basis,
    coupling: str,
    leading: Sequence[int] | None,
    device: torch.device | str | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> tuple[Tensor | NoiseField, torch.dtype]:
    """Everything that can be wrong before the first model call; the noise in working precision and the result's type."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is {type(plan).__name__}; pass what make_plan returned")
    check_basis(basis)
    if coupling not in ("coupled", "fresh"):
        raise ValueError(f"coupling = {coupling!r} must be 'coupled' or 'fresh'")
    for coarse, fine in pairwise(plan.shapes):
        check_target(basis, "stage shape", coarse, fine)
    if generator is not None and (coupling == "coupled" or isinstance(noise, NoiseField)):
        raise ValueError("generator is used only with a noise tensor and coupling='fresh'; remove it")
    if isinstance(noise, NoiseField):
        if leading is None:
            raise ValueError("noise is a NoiseField; pass leading=(batch, channels, ...), the axes before the grid")
        if not hasattr(leading, "__iter__"):
            raise TypeError(f"leading is {leading!r}; pass a tuple such as (batch, channels)")
        if any(n < 1 for n in leading):
            raise ValueError(f"leading = {tuple(leading)} must hold sizes, each at least 1")
        if noise.basis is not basis:
            raise ValueError(f"noise is a field in {noise.basis}, but basis = {basis}; make both the same")
        for coarse, fine in pairwise(plan.shapes):
            if not basis.nested(coarse, fine):
                raise ValueError(f"a {basis} noise field is not nested from {coarse} to {fine}; pass a noise tensor")
        return noise, torch.float32
    if not isinstance(noise, Tensor):
        raise TypeError(f"noise is {type(noise).__name__}; pass a white field of the full size or a NoiseField")
    if leading is not None or device is not None:
        raise ValueError("leading and device are used only with a NoiseField; a noise tensor has its own")
    check_state(noise, "noise", len(plan.shape))
    if tuple(noise.shape[-len(plan.shape) :]) != plan.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; its last axes must be the plan's full grid {plan.shape}, "
            f"also when the first stage is smaller"
        )
    if noise.numel() == 0:
        raise ValueError(f"noise has shape {tuple(noise.shape)}: an empty batch; pass at least one item")
    if not bool(torch.isfinite(noise).all()):
        raise ValueError("noise contains NaN or infinity")
    for one in generator if isinstance(generator, Sequence) else (generator,):
        if one is not None and not isinstance(one, torch.Generator):
            raise TypeError(
                f"generator is {type(one).__name__}; pass a torch.Generator, a list of one an item, or None"
            )
    if isinstance(generator, Sequence) and len(generator) != noise.shape[0]:
        raise ValueError(
            f"generator lists {len(generator)} generators for a batch of {noise.shape[0]}; pass one an item"
        )
    return noise.to(working_dtype(noise.dtype)), noise.dtype


def _check_start(start: Tensor | None, noise: Tensor | NoiseField, plan: Plan) -> Tensor | None:
    if start is None:
        return None
    if not isinstance(start, Tensor) or not isinstance(noise, Tensor):
        raise TypeError("start and noise must both be tensors of the full size")
    check_state(start, "start", len(plan.shape))
    if not bool(torch.isfinite(start).all()):
        raise ValueError("start contains NaN or infinity")
    if start.shape != noise.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}, noise {tuple(noise.shape)}; both are of the full size")
    if plan.clock != "full":
        raise ValueError("start needs a plan with clock='full', where the first time is that of the full-size state")
    return start.to(working_dtype(noise.dtype))


def _initial_state(
    noise: Tensor | NoiseField,
    plan: Plan,
    basis: Basis,
    leading: Sequence[int],
    device: torch.device | str,
    start: Tensor | None,
) -> Tensor:
    """The coarsest grid's pure noise, or other start: the low band of the one of the full size."""
    first = plan.stages[0]
    if start is not None:
        x = basis.restrict(start, first.shape)
    elif isinstance(noise, NoiseField):
        x = noise.on((*leading, *first.shape), dims=len(plan.shape), device=device)
    else:
        x = basis.restrict(noise, first.shape)
    if plan.clock == "full":
        # A grid that starts below t = 1 takes its noise as the state at T_0; then the coarse state is the low band of
        # that state before alignment. At T_0 = 1 the factor is exactly 1.
        x = x / align_scale(first.times[0], first.ratio)
    return x


def transition(
    x: Tensor,
    history: History | None,
    plan: Plan,
    index: int,
    noise: Tensor | NoiseField,
    basis: Basis,
    coupling: str = "coupled",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> tuple[Tensor, History | None]:
    """Grow from stage index-1 to `index`: the aligned state, and the history a multistep solver may keep."""
    shape, coarse = plan.stages[index].shape, plan.stages[index - 1]
    field: Tensor | NoiseField
    if isinstance(noise, NoiseField):
        field = noise if coupling == "coupled" else noise.fresh(index)
    elif coupling == "coupled":
        field = basis.restrict(noise, shape)
    else:
        field = _draw(x, (*x.shape[: x.ndim - len(shape)], *shape), generator)
    state, _ = expand_aligned(x, shape, coarse.times[-1], noise=field, basis=basis)
    if history is None or plan.clock == "stage":
        return state, None
    ratio = size_ratio(coarse.shape, shape)
    return state, History(align_time(history.time, ratio), ratio * basis.embed(history.denoised, shape))


def _draw(
    like: Tensor, shape: tuple[int, ...], generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    """White noise of `like`'s type and device, from one generator or from one an item."""
    if isinstance(generator, Sequence):
        return torch.cat([_draw(like, (1, *shape[1:]), one) for one in generator])
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def replaced(x: Tensor, result: object) -> Tensor:
    """The state after a callback: what it returned, when that is a tensor."""
    if not isinstance(result, Tensor):
        return x
    if result.shape != x.shape:
        raise ValueError(f"callback returned a state of shape {tuple(result.shape)}; it must keep {tuple(x.shape)}")
    return result.to(x)


def _checked(velocity: Velocity) -> Velocity:
    """`velocity` with the shape of its result verified and its type brought to the state's."""
    if not callable(velocity):
        raise TypeError(f"velocity is {type(velocity).__name__}; pass a callable velocity(x, t)")

    def call(x: Tensor, t: float) -> Tensor:
        v = velocity(x, t)
        if not isinstance(v, Tensor) or v.shape != x.shape:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"velocity returned {got} for a state of shape {tuple(x.shape)}; it must keep the shape")
        return v.to(x.dtype)

    return call


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


def edm_from_flow(x: Tensor, t: float) -> tuple[Tensor, float]:
    r"""A flow state in EDM's variance-exploding form ``x_0 + sigma eps``: ``x / (1 - t)`` at ``sigma = t / (1 - t)``.

    Raises
    ------
    ValueError
        `t` outside [0, 1): at t = 1 sigma is infinite.

    Examples
    --------
    >>> import torch
    >>> state, sigma = edm_from_flow(torch.ones(1, 4, 4), 0.75)
    >>> state.mean().item(), sigma
    (4.0, 3.0)
    """
    if not 0 <= t < 1:
        raise ValueError(
            f"t = {t} must be in [0, 1): EDM's noise level is infinite at t = 1; begin the time grid below 1"
        )
    return x / (1 - t), t / (1 - t)


def flow_from_edm(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    r"""Inverse of :func:`edm_from_flow`: ``x / (1 + sigma)`` at ``t = sigma / (1 + sigma)``.

    Raises
    ------
    ValueError
        `sigma` negative or not finite.

    Examples
    --------
    >>> import torch
    >>> state, t = flow_from_edm(torch.ones(1, 4, 4), 3.0)
    >>> state.mean().item(), t
    (0.25, 0.75)
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma = {sigma} must be finite and not negative")
    return x / (1 + sigma), sigma / (1 + sigma)


def vp_from_flow(x: Tensor, t: float) -> tuple[Tensor, float, float]:
    r"""A flow state in variance-preserving form ``alpha x_0 + sigma eps`` with ``alpha^2 + sigma^2 = 1``.

    ``x / n`` with ``alpha = (1 - t) / n``, ``sigma = t / n``, ``n = sqrt((1 - t)^2 + t^2)``.

    Returns
    -------
    (state, alpha, sigma); a model with a table of cumulative products takes the index where it equals ``alpha^2``.

    Raises
    ------
    ValueError
        `t` outside [0, 1].

    Examples
    --------
    >>> import torch
    >>> _, alpha, sigma = vp_from_flow(torch.ones(1, 4, 4), 0.5)
    >>> round(alpha**2 + sigma**2, 12)
    1.0
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t = {t} must be in [0, 1]")
    norm = math.hypot(1 - t, t)
    return x / norm, (1 - t) / norm, t / norm


def flow_from_vp(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, float]:
    r"""A state ``alpha x_0 + sigma eps`` on the flow path: ``x / (alpha + sigma)`` at ``t = sigma / (alpha + sigma)``.

    Raises
    ------
    ValueError
        `alpha` or `sigma` negative, or both 0.

    Examples
    --------
    >>> import torch
    >>> state, t = flow_from_vp(torch.ones(1, 4, 4), 0.6, 0.8)
    >>> round(t, 6)
    0.571429
    """
    if not (alpha >= 0 and sigma >= 0 and 0 < alpha + sigma < math.inf):
        raise ValueError(f"alpha = {alpha}, sigma = {sigma} must not be negative, nor both 0")
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


def velocity_from_vp(model: Velocity, *, predicts: Literal["denoised", "noise", "v"]) -> Velocity:
    r"""A velocity from a variance-preserving model ``model(alpha x_0 + sigma eps, t)``.

    ``"denoised"``: ``x_0``; ``"noise"``: ``eps``; ``"v"``: ``v_vp = alpha eps - sigma x_0``, from which the flow velocity
    ``eps - x_0 = (sigma - alpha) x_vp + (alpha + sigma) v_vp`` has no singular time.

    Parameters
    ----------
    model
        Takes the variance-preserving state and the FLOW time; :func:`vp_from_flow` gives its alpha and sigma.
    predicts
        What it returns.

    Raises
    ------
    ValueError
        Another `predicts`.

    Examples
    --------
    >>> import torch
    >>> velocity = velocity_from_vp(lambda x, t: torch.zeros_like(x), predicts="denoised")
    >>> velocity(torch.ones(1, 4, 4), 0.5).mean().item()
    2.0
    """
    if predicts == "denoised":
        return velocity_from_denoised(lambda x, t: model(vp_from_flow(x, t)[0], t))
    if predicts == "noise":
        return velocity_from_noise(lambda x, t: model(vp_from_flow(x, t)[0], t))
    if predicts != "v":
        raise ValueError(f"predicts = {predicts!r} must be 'denoised', 'noise' or 'v'")

    def velocity(x: Tensor, t: float) -> Tensor:
        state, alpha, sigma = vp_from_flow(x, t)
        return (sigma - alpha) * state + (alpha + sigma) * model(state, t)

    return velocity


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
