"""A plan walked one model call at a time, for a loop that is not ours: ask where the model is wanted, answer what it said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectral_pd.bases import DCT, Basis
from spectral_pd.expansion import expand_aligned
from spectral_pd.sampling import _initial_state, transition
from spectral_pd.schedule import Plan
from spectral_pd.solvers import History, Solver
from spectral_pd.theory import align_scale


class _Wanted(Exception):
    """Raised out of a solver at the first velocity that has not been given yet."""

    def __init__(self, x: Tensor, t: float) -> None:
        self.x, self.t = x, t


@dataclass(frozen=True)
class Query:
    """Where the model is to be called next: state and local time, and the step of the plan's grid it belongs to."""

    state: Tensor
    time: float
    step: int
    stage: int


class Walk:
    """States along a plan, by any solver, with the model called from outside.

    A solver is a pure function of the velocities it is given, so it can be run again with one answer more: the first one it
    misses is the next query. A solver of one evaluation a step is so run twice, which costs nothing beside a network.

    Parameters
    ----------
    plan, solver, basis, coupling, generator
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
        start: Tensor | None,
        solver: Solver,
        basis: Basis = DCT,
        coupling: str = "coupled",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> None:
        self.plan, self.noise, self._solver, self._basis = plan, noise, solver, basis
        self._coupling, self._generator = coupling, generator
        self.state = _initial_state(noise, plan, basis, (), noise.device, start)
        self.stage, self.done = 0, 0
        self._history: History | None = None
        self._answers: list[Tensor] = []
        self._grow()

    @property
    def finished(self) -> bool:
        return self.done == self.plan.nfe

    @property
    def inside(self) -> bool:
        """Whether a step has begun and wants more answers."""
        return bool(self._answers)

    def query(self) -> Query:
        """The model call the present step wants next."""
        wanted = self._advance()
        assert isinstance(wanted, _Wanted)
        return Query(wanted.x, wanted.t, self.done, self.stage)

    def answer(self, velocity: Tensor) -> None:
        """Take the velocity of :meth:`query`; the state moves on when the step has all it wants."""
        self._answers.append(velocity)
        result = self._advance()
        if not isinstance(result, _Wanted):
            self.state, self._history = result
            self._answers.clear()
            self.done += 1
            self._grow()

    def _times(self) -> tuple[float, float]:
        stage = self.plan.stages[self.stage]
        return stage.times[self.done - stage.start], stage.times[self.done - stage.start + 1]

    def _advance(self) -> Any:
        answers = iter(self._answers)

        def velocity(x: Tensor, t: float) -> Tensor:
            for v in answers:
                return v
            raise _Wanted(x, t)

        try:
            return self._solver(velocity, self.state, *self._times(), self._history)
        except _Wanted as wanted:
            return wanted

    def _grow(self) -> None:
        while self.stage + 1 < len(self.plan.stages) and self.done == self.plan.stages[self.stage].stop:
            self.stage += 1
            self.state, self._history = transition(
                self.state, self._history, self.plan, self.stage, self.noise, self._basis, self._coupling, self._generator
            )

    def at_full_size(self) -> Tensor:
        """The present state grown to the full grid: on the full clock, the state of an ordinary run at this time."""
        stage = self.plan.stages[self.stage]
        if stage.shape == self.plan.shape:
            return self.state
        state, _ = expand_aligned(self.state, self.plan.shape, self._local(), noise=self.noise, basis=self._basis)
        return state

    def edited(self, before: Tensor, after: Tensor) -> None:
        """Carry a change of :meth:`at_full_size` from `before` to `after` over to the state."""
        stage = self.plan.stages[self.stage]
        if stage.shape == self.plan.shape:
            self.state = torch.where(before == after, self.state, after)
        else:
            change = self._basis.restrict(after - before, stage.shape)
            self.state = self.state + change / align_scale(self._local(), stage.ratio)

    def _local(self) -> float:
        stage = self.plan.stages[self.stage]
        return stage.times[self.done - stage.start]


def evaluation_times(solver: Solver, times: Sequence[float]) -> list[float]:
    """The times at which `solver` calls the model on a grid, found by running it on one number."""
    seen: list[float] = []

    def velocity(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    x, history = torch.zeros(1, 1, 1), None
    for t, t_next in pairwise(times):
        x, history = solver(velocity, x, t, t_next, history)
    return seen
