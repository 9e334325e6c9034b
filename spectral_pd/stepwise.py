"""A plan walked one model call at a time, for a loop that is not ours: ask where the model is wanted, answer what it said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectral_pd.bases import DCT, Basis, size_ratio
from spectral_pd.expansion import Grow, Noise, Source, white_noise
from spectral_pd.inputs import refuse, runs
from spectral_pd.plan import Clock, Cost, Plan, Step, moved
from spectral_pd.sampling import Coupling
from spectral_pd.schedule import make_plan, plan_at
from spectral_pd.solvers import Solver
from spectral_pd.theory import align_time
from spectral_pd.two_grids import anchored, held


def planned(times: Sequence[float], shape: tuple[int, ...], options: Mapping[str, Any]) -> Plan:
    """The plan on a time grid and size by :func:`~spectral_pd.make_plan`, by :func:`~spectral_pd.plan_at` where `options`
    hold `transition_times`, or of calls on several grids all along where they hold `anchors`."""
    options = dict(options)
    spectrum = options.pop("spectrum", None)
    if "anchors" in options:
        return _anchored_plan(times, shape, **options)
    given = options.pop("transition_times", None)
    if given is None:
        return make_plan(times, spectrum, shape, **options)
    options.pop("delta", None)
    return plan_at(times, given, shape, **options)


def _anchored_plan(
    times: Sequence[float],
    shape: tuple[int, ...],
    *,
    anchors: Sequence[int],
    scales: Sequence[float],
    multiple_of: int = 1,
    basis: Basis = DCT,
    clock: Clock = "full",
    cost: Cost | None = None,
    delta: float | None = None,
    **unused: Any,
) -> Plan:
    named = ", ".join(["clock='stage'"] * (clock != "full") + sorted(unused))
    refuse(bool(named), f"{named}: anchors have no transitions, and the full clock; leave it away, or anchors")
    plan = held(anchored(times, shape, anchors=anchors, scales=scales, multiple_of=multiple_of), basis=basis).plan
    return plan if cost is None else replace(plan, costs=tuple(runs.cost(cost, grid) for grid in plan.grids))


class _Wanted(Exception):
    """Raised out of a solver at the first velocity that has not been given yet."""

    def __init__(self, x: Tensor, t: float) -> None:
        self.x, self.t = x, t


@dataclass(frozen=True)
class Query:
    """Where the model is to be called next: state, its grid, local times now and at the step's end, in a step of the plan."""

    state: Tensor
    grid: tuple[int, ...]
    time: float
    until: float
    step: Step


class Walk:
    """States along a plan, by any solver, with the model called from outside.

    A solver is a pure function of the velocities it is given, so it can be run again with one answer more: the first one it
    misses is the next query. A solver of one evaluation a step is so run twice, which costs nothing beside a network.

    Parameters
    ----------
    plan, solver, coupling, seed
        As :func:`spectral_pd.sample`.
    noise
        White field of the full size.
    start
        State of the full size at the plan's first time, when it is not the noise.
    """

    def __init__(
        self,
        plan: Plan,
        noise: Tensor,
        *,
        solver: Solver,
        start: Tensor | None = None,
        coupling: Coupling = "coupled",
        seed: Source | None = None,
    ) -> None:
        self.plan, self._solver, self._coupled = plan, solver, coupling == "coupled"
        self._noise: Noise = white_noise(noise, seed, plan.basis, plan.shapes)
        first = plan.start_shape
        self.state = (self._noise.on(first) if start is None else plan.basis.restrict(start, first)) / plan.start_kappa
        self._history: Any = None
        self._moves, self._answers = list(plan.moves()), list[Tensor]()
        self._velocity = plan.velocity(self._answered)
        self._given: Iterator[Tensor] = iter(())
        self._advance()

    @property
    def finished(self) -> bool:
        return not self._moves

    @property
    def inside(self) -> bool:
        """Whether a step has begun and wants more answers."""
        return bool(self._answers)

    @property
    def stage(self) -> tuple[int, ...]:
        """Grid of the next model call; the full one when there is none."""
        return self.plan.shape if self.finished else self.query().grid

    @property
    def clock(self) -> float:
        """The full-size clock's time of the present state."""
        step = self._moves[0] if self._moves else None
        return self.plan.times[step.number - 1] if isinstance(step, Step) else 0.0

    @property
    def white(self) -> Tensor:
        """The white field of the run, at full size."""
        return self._noise.on(self.plan.shape)

    @property
    def at_full_size(self) -> bool:
        return tuple(self.state.shape[-len(self.plan.shape) :]) == self.plan.shape

    def query(self) -> Query:
        """The model call that the present step wants next."""
        step, wanted = self._moves[0], self._try()
        assert isinstance(step, Step)
        assert isinstance(wanted, _Wanted)
        grid = tuple(wanted.x.shape[-len(self.plan.shape) :])
        to_stage = size_ratio(self.plan.shapes[step.stage], self.plan.shape) / size_ratio(grid, self.plan.shape)
        return Query(wanted.x, grid, wanted.t, align_time.bare(step.t_next, to_stage), step)

    def answer(self, velocity: Tensor) -> None:
        """Take the velocity of :meth:`query`; the state moves on as far as it can without another one."""
        self._answers.append(velocity)
        self._advance()

    def _answered(self, x: Tensor, t: float) -> Tensor:
        for v in self._given:
            return v
        raise _Wanted(x, t)

    def _try(self) -> Any:
        self._given = iter(self._answers)
        try:
            return self._move()
        except _Wanted as wanted:
            return wanted

    def _move(self) -> tuple[Tensor, Any]:
        def grow(x: Tensor, move: Grow) -> Tensor:
            return (self._noise if self._coupled else self._noise.fresh(move)).grow(x, move)

        embed = self.plan.basis.embed
        return moved(self._moves[0], self.state, self._history, self._velocity, self._solver, grow=grow, embed=embed)

    def _advance(self) -> None:
        while self._moves and not isinstance(result := self._try(), _Wanted):
            (self.state, self._history), self._moves = result, self._moves[1:]
            self._answers.clear()

    def shown(self) -> Tensor:
        """The present state grown to the full grid: on the full clock, the state of an ordinary run at this time."""
        return self.state if self.at_full_size else self._noise.grow(self.state, self._to_full())

    def edit(self, before: Tensor, after: Tensor) -> None:
        """Carry a change of :meth:`shown` from `before` to `after` over to the state."""
        if self.at_full_size:
            self.state = torch.where(before == after, self.state, after)
        else:
            move = self._to_full()
            self.state = self.state + self.plan.basis.restrict(after - before, move.coarse) / move.kappa

    def _to_full(self) -> Grow:
        step = self._moves[0]
        assert isinstance(step, Step)
        return Grow.between(self.plan.shapes[step.stage], self.plan.shape, step.t)


def evaluation_times(solver: Solver, times: Sequence[float]) -> list[float]:
    """The times at which `solver` calls the velocity on a grid, found by running it on one number."""
    seen: list[float] = []

    def velocity(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    x, history = torch.zeros(1, 1, 1), None
    for t, t_next in pairwise(times):
        x, history = solver(velocity, x, t, t_next, history)
    return seen
