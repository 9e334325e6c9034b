r"""A plan: which grid every step is made on, at which local times, and the walk along it (paper Sec. 4.1-4.2).

``T_0 > T_1 > ... > T_N = 0`` is the model's own FULL-resolution time grid. Stage i makes the steps ``start .. stop`` of
it on its own grid, of ratio ``r_i`` to the full one. Two clocks say which LOCAL times it sees:

``clock="full"`` (default)
    ``T_k`` and ``t*`` are times of the full-resolution clock everywhere; the stage runs at ``tau = align(T, 1 / r_i)``
    (log-odds minus ``log r_i``). The aligned state after a transition lands exactly on ``T_k``: nothing is patched, no step is
    stretched. For a denoiser whose restriction to the low band is consistent, Euler then walks the low band of the
    full-resolution trajectory, step by step (the equivalence theorem, docs/theory.md).
``clock="stage"``
    The paper's: the coarse stage takes ``T_k`` as its local time, and at a transition that one grid value is replaced by
    the aligned ``t~``. The step after a transition is several times longer than its neighbours and does not shrink with N.

:func:`moves` spells a plan out, transition by transition and step by step; :func:`walk` is the one loop over them. States are
walked by the sampler, editing and the adapters, gains of a Gaussian field by :func:`~spectral_pd.predict` and the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from spectral_pd import inputs
from spectral_pd.bases import DCT, Basis, size_ratio
from spectral_pd.expansion import Grow
from spectral_pd.inputs import runs, shown
from spectral_pd.solvers import History, Solver, Velocity
from spectral_pd.theory import align_scale, align_time

__all__ = ["Plan", "Stage", "Step", "moves", "walk"]

Clock = Literal["full", "stage"]
Cost: TypeAlias = Callable[[tuple[int, ...]], float]
State = TypeVar("State")


@dataclass(frozen=True)
class Step:
    """One solver step of a plan.

    Attributes
    ----------
    stage, number
        Index of the stage, 0 is the coarsest, and steps done after this one, 1 to ``plan.nfe``.
    t, t_next
        Local times: the velocity is called with `t`, the solver goes to `t_next`.
    time
        Time of the full-resolution grid reached, ``plan.times[number]``.
    """

    stage: int
    number: int
    t: float
    t_next: float
    time: float


Move: TypeAlias = Grow | Step


def moves(
    times: Sequence[Any], shapes: Sequence[tuple[int, ...]], split: Sequence[int], clock: Clock, *, first: int = 0
) -> Iterator[Move]:
    """What a run does, in order: the steps of each stage and the transitions between them.

    `times` is the full-resolution time grid: numbers, or arrays of one shape for many grids at once. A stage has a grid of
    `shapes` and a number of steps of `split`; one without steps only passes its state on. The run begins with stage `first`,
    at that stage's own grid time. The `clock` is explained in the module's text.
    """
    k = sum(split[:first])
    t = arrived = times[k]
    for i in range(first, len(shapes)):
        to_full = 1 / size_ratio(shapes[i], shapes[-1])
        if i > first:
            grow = Grow.between(shapes[i - 1], shapes[i], t, stage=i, keeps_history=clock == "full")
            arrived = grow.time
            yield grow
        t = align_time.bare(times[k], to_full) if clock == "full" else arrived
        for _ in range(split[i]):
            k += 1
            t_next = align_time.bare(times[k], to_full) if clock == "full" else times[k]
            yield Step(i, k, t, t_next, times[k])
            t = t_next


def start_kappa(time: Any, shape: tuple[int, ...], full: tuple[int, ...], clock: Clock) -> Any:
    """What the low band of the full-size state at the first time is divided by to be the first stage's state.

    On the full clock its local time there is ``tau = align(T_0, 1 / r)``, and aligning it would multiply it by
    ``kappa(tau, r)``; exactly 1 at ``T_0 = 1``. The stage clock takes the low band as it is.
    """
    ratio = size_ratio(shape, full)
    return align_scale.bare(align_time.bare(time, 1 / ratio), ratio) if clock == "full" else 1.0


def walk(
    run: Iterable[Move],
    x: State,
    velocity: Callable[[Any, Any], Any],
    solver: Solver,
    *,
    grow: Callable[[State, Grow], State],
    embed: Callable[[Any, tuple[int, ...]], Any],
    after: Callable[[Step, State], State] | None = None,
) -> State:
    """Carry a state along the moves of a run: the only loop of its kind.

    Parameters
    ----------
    run, x
        From :func:`moves` or :meth:`Plan.moves`, and the state before its first move.
    velocity, solver
        ``velocity(x, t)``, t local; see :mod:`spectral_pd.solvers`.
    grow, embed
        ``grow(x, move)`` is the aligned state on the next grid. ``embed(y, grid)`` is ``U y`` and carries a multistep history,
        ``r U D`` at the aligned time, where the clock allows.
    after
        ``after(step, x)`` after each step; what it returns is the state.
    """
    history: Any = None
    for move in run:
        x, history = moved(move, x, history, velocity, solver, grow=grow, embed=embed)
        if after is not None and isinstance(move, Step):
            x = after(move, x)
    return x


def moved(
    move: Move,
    x: State,
    history: Any,
    velocity: Callable[[Any, Any], Any],
    solver: Solver,
    *,
    grow: Callable[[State, Grow], State],
    embed: Callable[[Any, tuple[int, ...]], Any],
) -> tuple[State, Any]:
    """State and multistep history after one move. Parameters as :func:`walk`; `history` is None before the first step."""
    if isinstance(move, Step):
        return solver(velocity, x, move.t, move.t_next, history)  # type: ignore[arg-type, return-value]
    x = grow(x, move)
    if history is None or not move.keeps_history:
        return x, None
    time = align_time.bare(history.time, move.ratio)
    return x, History(time, move.ratio * embed(history.denoised, move.fine))


@dataclass(frozen=True)
class Stage:
    """One stage of a plan: the steps ``start .. stop`` of the time grid on one grid size.

    Attributes
    ----------
    shape, scale
        Grid of this stage, and the nominal scale asked for: one number, or one an axis.
    ratio
        ``r = sqrt(prod(full) / prod(shape))`` to the full grid, from the real sizes; 1 for the last stage.
    start, stop, local_times
        Indices into the plan's time grid, for ``stop - start`` steps, and the local times from start to stop, one float more:
        what the velocity is called with.
    t_star
        ``t*`` of the transition after this stage; None for the last stage.
    """

    shape: tuple[int, ...]
    scale: float | tuple[float, ...]
    ratio: float
    start: int
    stop: int
    t_star: float | None
    local_times: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of solver steps."""
        return self.stop - self.start

    @property
    def pixels(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)


class Calls(Protocol):
    """On which grids each step of a one-stage plan calls the network: :class:`~spectral_pd.two_grids.Predictor`."""

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """The grids, coarse to full."""

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """For each step the indices of the grids it calls, ascending."""

    def around(self, velocity: Velocity) -> Velocity:
        """The velocity that the solver of one run is given."""


@dataclass(frozen=True)
class Plan:
    """Everything the sampler needs to know, decided before the first model call; ``print(plan)`` shows it.

    Attributes
    ----------
    times, stages
        The full-resolution time grid, N + 1 floats, and one :class:`Stage` a scale, coarse to full.
    clock, basis
        ``"full"`` or ``"stage"`` (see the module's text), and the basis the state grows in.
    delta
        The tolerance the transitions were derived from; None when they were given.
    warnings, notes
        What a careful reader should know before running it, and why the plan is what it is, when something was chosen
        (:func:`~spectral_pd.optimise_plan`).
    costs
        Cost of one call on each grid, when a cost function was given; empty otherwise.
    counted
        What the costs are: the cost function's own `label`, where it has one.
    patch
        Grid points a token along each axis: the ``multiple_of`` of :func:`make_plan`. Empty: every grid point is one.
    calls
        Of a one-stage plan whose steps call the network on other grids than their own, or not at all
        (``held(pattern).plan``, ``choose_pattern(...)[0].plan``); None: each step calls its stage's grid.
    """

    times: tuple[float, ...]
    stages: tuple[Stage, ...]
    clock: Clock
    basis: Basis = DCT
    delta: float | None = None
    warnings: tuple[str, ...] = ()
    costs: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    patch: tuple[int, ...] = ()
    counted: str = ""
    calls: Calls | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The full grid."""
        return self.stages[-1].shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Grid of each stage, coarse to full."""
        return tuple(stage.shape for stage in self.stages)

    @property
    def split(self) -> tuple[int, ...]:
        """Steps of each stage, e.g. (18, 32)."""
        return tuple(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patches of each stage's grid, coarse to full: what a transformer sees of it, without its text."""
        return tuple(stage.pixels // math.prod(self.patch) for stage in self.stages)

    @property
    def transition_times(self) -> tuple[float, ...]:
        """t* of each stage but the last."""
        return tuple(stage.t_star for stage in self.stages if stage.t_star is not None)

    @property
    def nfe(self) -> int:
        """Solver steps in all, which is the number of model calls of a one-evaluation solver (Euler, DPM++ 2M)."""
        return len(self.times) - 1

    @property
    def start_kappa(self) -> float:
        """The low band of the full-size state at ``times[0]`` over this is the first state; see :func:`start_kappa`."""
        return start_kappa(self.times[0], self.start_shape, self.shape, self.clock)

    @property
    def start_shape(self) -> tuple[int, ...]:
        """The grid a run begins on: that of the first stage with a step. Stages before it would only lose the high band."""
        return self.shapes[self._begins]

    @property
    def _begins(self) -> int:
        return next(i for i, steps in enumerate(self.split) if steps)

    def moves(self, first: int | None = None) -> tuple[Move, ...]:
        """The :class:`Grow` and :class:`Step` of a run: of all of it, or from the transition into stage `first` on."""
        if first is None:
            return tuple(moves(self.times, self.shapes, self.split, self.clock, first=self._begins))
        return tuple(m for m in moves(self.times, self.shapes, self.split, self.clock) if m.stage >= first)

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """The grids the network is called on, coarse to full: those of the stages, or of `calls`."""
        return self.shapes if self.calls is None else self.calls.grids

    @property
    def counts(self) -> tuple[int, ...]:
        """How often a solver of one evaluation a step (Euler, DPM++ 2M) calls the network on each of the grids."""
        if self.calls is None:
            return self.split
        return tuple(sum(g in step for step in self.calls.steps) for g in range(len(self.calls.grids)))

    def cost(self, fn: Cost | None = None) -> float:
        """Total cost of the calls: ``sum_i counts_i fn(grids_i)``.

        `fn` is the cost of one call on a grid, positive and finite (ValueError); None uses the plan's own `costs`, or the
        number of grid points.
        """
        return math.fsum(n * each for n, each in zip(self.counts, self._costs(fn), strict=True))

    def velocity(self, velocity: Velocity) -> Velocity:
        """What one run's solver calls in the place of `velocity`."""
        return velocity if self.calls is None else self.calls.around(velocity)

    def speedup(self, fn: Cost | None = None) -> float:
        """Cost of the same number of full-size steps over :meth:`cost`; `fn` and errors as there."""
        return self.nfe * self._costs(fn)[-1] / self.cost(fn)

    def _costs(self, fn: Cost | None = None) -> tuple[float, ...]:
        if fn is None:
            return self.costs or tuple(float(math.prod(grid)) for grid in self.grids)
        return tuple(runs.cost(fn, grid) for grid in self.grids)

    def __str__(self) -> str:
        head = f"{self.nfe} steps, {len(self.stages)} stage{'s' * (len(self.stages) > 1)}, clock={self.clock!r}"
        if self.delta is not None and len(self.stages) > 1:
            head += f", delta={self.delta:g}"
        rows = [self._row(i, each) for i, each in enumerate(self._costs())]
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        gap = "  " if sum(widths) + 2 * len(widths) - 2 <= inputs.WIDTH else " "
        lines = [head if self.calls is None else f"{self.nfe} steps, {self.calls}"]
        lines += [gap.join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        label = (self.counted or "cost function") if self.costs else "grid points"
        lines += inputs.wrapped(f"predicted speedup over {self.nfe} full-size steps, by {label}: {self.speedup():.2f}x")
        lines += inputs.wrapped(*(f"note: {text}" for text in self.notes))
        lines += inputs.wrapped(*(f"warning: {text}" for text in self.warnings))
        return "\n".join(lines)

    def _row(self, i: int, cost: float) -> dict[str, str]:
        """What the table says of stage `i`, one step of which costs `cost`, by column."""
        grid, count = self.grids[i], self.counts[i]
        if self.calls is None:
            stage, last = self.stages[i], self.stages[i].t_star is None
            row = {
                "scale": scale_text(stage.scale),
                "size": shown(grid),
                "steps": str(count),
                "local times": f"{stage.local_times[0]:.3f} -> {stage.local_times[-1]:.3f}",
                "t*": "-" if last else f"{stage.t_star:.4f}",
                "T": "-" if last else f"{self.times[stage.stop]:.4f}",
            }
        else:
            row = {"grid": letters(len(self.grids))[i], "size": shown(grid), "calls": str(count)}
        row["tokens" if math.prod(self.patch) > 1 else "points"] = str(math.prod(grid) // math.prod(self.patch))
        row |= {"cost": f"{cost / self.costs[-1]:.3g}"} if self.costs else {}
        return row | {"share": f"{count * cost / self.cost():.1%}"}


PLAN = inputs.instance(Plan, "what make_plan returned")


def STAGED(value: Any, name: str) -> Plan:
    """A plan each step of which calls its own stage's grid, and no other."""
    plan: Plan = PLAN(value, name)
    inputs.refuse(
        plan.calls is not None, f"{name} calls several grids from steps at full size; pass what make_plan returned"
    )
    return plan


def letters(grids: int) -> str:
    """A letter a grid, coarse to full: F is the full size, h, q and e the next smaller ones, halves as a rule."""
    return "ponmlkjigeqhF"[-grids:]


def scale_text(scale: float | tuple[float, ...]) -> str:
    """A scale as people write it: 1/2, and 1,1/2,1/2 of one number an axis."""
    if isinstance(scale, tuple):
        return ",".join(map(scale_text, scale))
    simple = Fraction(scale).limit_denominator(16)
    return str(simple) if abs(simple - scale) < 1e-9 else f"{scale:.4g}"
