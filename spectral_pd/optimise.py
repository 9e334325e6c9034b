r"""The best plan for a budget: stage sizes, transitions and time grid that minimise the predicted error (ours).

:func:`~spectral_pd.predict` knows what any plan makes of a Gaussian field: every coefficient leaves with a gain ``g`` where
the exact solution of the ODE has ``sqrt(P)``. Given what a step costs on each grid and how much may be spent, choosing a
plan is then ordinary minimisation, over the stage sizes, the steps of each stage and every time of the grid, of

    ``relative W2 = sqrt(sum (|g| - sqrt P)^2 / sum P)``,

also the root mean square distance to the exact solution from the same noise. Two errors compete in it: the solver's own, made
by every step in every band, and that of a band that enters late, as noise of level T where the exact solution has already
shrunk or grown to ``sqrt((1-T)^2 P + T^2)``. The delta rule (Eq. 10) bounds the second and knows nothing of the first: the
right delta is in proportion to the solver's error (docs/plans.md).

Method: coefficients are grouped by stage of birth and power into about a hundred nodes. Ways to spend the budget, thinned where
there are many, are tried on a family of shifted grids, beside the delta rule's plans; the best for each number of stages are
refined by Levenberg-Marquardt on the log-odds of the times, with exchanges of steps between stages and of stage sizes. No
randomness; the winner is chosen by the exact prediction. Plans are on the full clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import combinations, pairwise, product
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.ideal import GaussianField, Prediction, gain_velocity, predict
from spectral_pd.inputs import door, plans, runs, shown
from spectral_pd.plan import Cost, Plan, moves, start_kappa, walk
from spectral_pd.power import AnySpectrum, as_spectrum
from spectral_pd.schedule import plan_at, shift_times, stage_shape
from spectral_pd.solvers import Solver, SolverName, find_solver
from spectral_pd.theory import activation_power, velocity_error

__all__ = ["Front", "FrontPoint", "optimise_plan", "plan_front", "pooled_error"]

Shape: TypeAlias = tuple[int, ...]
OneSpectrum: TypeAlias = AnySpectrum | Callable[[Any], Any]
Spectra: TypeAlias = OneSpectrum | Sequence[OneSpectrum]

SHIFTS = (1.5, 3.0, 6.0, 12.0)  # of the grids the search begins with
DELTAS = (0.01, 0.1)  # of the delta rule's plans the search begins with
MOST_STEPS = 200  # even if the budget pays for more
MOST_WORK = 8e7
"""Coefficient groups times steps, over all grids evaluated: what a search may cost, some seconds. Each number of stages has its
share of it, each climb its share of that."""
SOLVE_WORK = 2e-3  # of the linear systems of one iteration, times the cube of the number of times
CALL_WORK = 4000  # of one call of a solver that is only known as a callable
BY_ERROR = attrgetter("error")
_GAP = (math.log(1e-3), math.log(6.0))  # least and largest logarithm of a step in log-odds
_ODDS = 9.0  # largest log-odds of an inner time: 1 - 1.2e-4
_shifted = lru_cache(maxsize=4 * MOST_STEPS)(shift_times.bare)


@dataclass(frozen=True)
class FrontPoint:
    """One point of a :class:`Front`: a `plan`, its `cost` and the `error` predicted for it."""

    cost: float
    error: float
    plan: Plan


@dataclass(frozen=True)
class Front:
    """The least predicted error for each budget; error falls strictly as cost rises.

    Attributes
    ----------
    points
        By increasing cost; dominated plans are left out.
    """

    points: tuple[FrontPoint, ...]

    def __str__(self) -> str:
        lines = [f"{'cost':>12}  {'relative W2':>15}  {'split':<14}  sizes"]
        for point in self.points:
            sizes = " ".join(map(shown, point.plan.shapes))
            lines.append(f"{point.cost:>12.6g}  {point.error:>15.5f}  {_joined(point.plan.split):<14}  {sizes}")
        return "\n".join(lines)


def _joined(split: Sequence[int]) -> str:
    """Steps of each stage as people write them: 18+32."""
    return "+".join(map(str, split))


@dataclass(frozen=True)
class _Choice:
    """A point of the search: stage grids, steps of each, full-resolution time grid, and its (approximate) error."""

    shapes: tuple[Shape, ...]
    split: tuple[int, ...]
    times: tuple[float, ...]
    error: float = math.inf


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Coefficients of a set of stage grids, grouped: arrays of one length, ordered by stage of birth.

    ``born[i]`` is the number of nodes born in stages 0 .. i.
    """

    power: np.ndarray
    count: np.ndarray
    born: tuple[int, ...]


class _Bench:
    """The Gaussian fields a plan is judged on (one a channel), the solver, and the work done on them."""

    def __init__(self, fields: Sequence[GaussianField], solver: SolverName | Solver) -> None:
        self.fields, self.solver = tuple(fields), find_solver(solver)
        self.vectorised = isinstance(solver, str)
        self.shape = fields[0].shape
        self.power = np.stack([field.power().numpy().ravel() for field in self.fields])
        self.nodes = lru_cache(maxsize=512)(self._nodes)
        self.until = 0.0
        self.begin(progress=False)

    def begin(self, progress: bool) -> Any:
        """A new search: nothing done yet, and a bar that shows how much of the work allowed is."""
        self.work = 0.0
        self.bar = tqdm(total=MOST_WORK, disable=not progress, desc="searching", bar_format="{l_bar}{bar}| {elapsed}")
        return self.bar

    def spend(self, work: float) -> None:
        self.work += work
        self.bar.update(min(self.work, MOST_WORK) - self.bar.n)

    def _nodes(self, shapes: tuple[Shape, ...], coarse: bool = False) -> _Nodes:
        birth = np.full(self.shape, len(shapes) - 1)
        for i in reversed(range(len(shapes) - 1)):
            birth[corner(shapes[i])] = i
        level = np.round(np.log(self.power) / (0.6 if coarse else 0.2)).astype(np.int64)
        level -= level.min()
        levels = level.max() + 1
        # (birth, power level) of each coefficient as one number, and the numbers that occur.
        group = (birth.ravel() * levels + level).ravel()
        found, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
        power = np.bincount(inverse, weights=self.power.ravel()) / count
        born = np.searchsorted(found, levels * np.arange(1, len(shapes) + 1))
        return _Nodes(power, count.astype(np.float64), tuple(born.tolist()))

    def residuals(self, choice: _Choice, times: np.ndarray, *, coarse: bool = False) -> np.ndarray:
        """What is squared and summed, for time grids (B, N + 1) on the stages of `choice`: (B, residuals)."""
        nodes = self.nodes(choice.shapes, coarse)
        self.spend(times.size * (len(nodes.power) if self.vectorised else CALL_WORK))
        if self.vectorised:
            with np.errstate(all="ignore"):  # grids the line search proposes and then rejects
                gain = self._gains(choice, nodes, times.T[:, :, None], np.asarray)
        else:  # a solver that is only known as a callable takes one grid after another
            gain = np.stack([self._gains(choice, nodes, row.tolist(), torch.from_numpy).numpy() for row in times])
        scale = np.sqrt(nodes.count / (nodes.count @ nodes.power))
        return np.nan_to_num((np.abs(gain) - np.sqrt(nodes.power)) * scale, nan=1e6, posinf=1e6, neginf=-1e6)

    def _gains(self, choice: _Choice, nodes: _Nodes, times: Any, as_gain: Any) -> Any:
        """:func:`~spectral_pd.predict` for grouped coefficients: gains (nodes,), or (B, nodes) for B grids at once."""
        shapes, born = choice.shapes, dict(zip(choice.shapes, nodes.born, strict=True))
        power = {n: as_gain(nodes.power[:n] / size_ratio(shape, self.shape) ** 2) for shape, n in born.items()}
        kappa = start_kappa(times[0], shapes[0], self.shape, "full")
        return walk(
            moves(times, shapes, choice.split, "full"),
            as_gain(np.ones(born[shapes[0]])) / kappa,
            lambda gain, t: gain_velocity(power[gain.shape[-1]], gain, t),
            self.solver,
            grow=lambda gain, move: move.kappa * _padded(gain, born[move.fine], move.t),
            embed=lambda gain, shape: _padded(gain, born[shape], 0.0),
        )

    def errors(self, choice: _Choice, times: np.ndarray, *, coarse: bool = False) -> np.ndarray:
        """The error, approximately (grouped coefficients), of time grids (B, N + 1): (B,)."""
        return np.sqrt(np.square(self.residuals(choice, times, coarse=coarse)).sum(1))


def _padded(gain: Any, count: int, value: Any) -> Any:
    """Gains (nodes,), or (B, nodes) as an array, with those of the nodes born now: all `value`."""
    if isinstance(gain, torch.Tensor):
        return torch.nn.functional.pad(gain, (0, count - len(gain)), value=value)
    return np.concatenate([gain, np.broadcast_to(value, (len(gain), count - gain.shape[1]))], 1)


def pooled_error(predictions: Sequence[Prediction]) -> float:
    """Relative W2 of several channels, one of `predictions` each, as one: squared distances and powers pooled."""
    powers = [float(p.power.sum()) for p in predictions]
    squared = math.fsum(p.relative_w2**2 * n for p, n in zip(predictions, powers, strict=True))
    return math.sqrt(squared / math.fsum(powers))


def _parameters(times: np.ndarray) -> np.ndarray:
    """The inner times of a grid as free numbers: log-odds of the first, logarithms of the steps in log-odds."""
    odds = np.clip(np.log(times[1:-1]) - np.log1p(-times[1:-1]), -_ODDS, _ODDS)
    gaps = np.clip(np.log(np.maximum(odds[:-1] - odds[1:], 1e-9)), *_GAP)
    return np.concatenate([odds[:1], gaps])


def _grids(theta: np.ndarray, first: float, floor: np.ndarray) -> np.ndarray:
    """Time grids (B, N + 1) of parameters (B, N - 1), with log-odds at least `floor` (N - 1,); the ends stay."""
    fallen = np.pad(np.exp(np.clip(theta[:, 1:], *_GAP)).cumsum(1), ((0, 0), (1, 0)))
    odds = np.maximum(np.clip(theta[:, :1], -_ODDS, _ODDS) - fallen, floor)
    inner = np.minimum(1 / (1 + np.exp(-odds)), first * (1 - 1e-6))
    return np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (first, 0)))


def _odds_floor(choice: _Choice, limits: _Limits) -> np.ndarray:
    """Lower bound of the log-odds of each inner time: the last step of a stage does not start after its t*."""
    k = np.arange(1, len(choice.times) - 1)
    floor = np.full(len(k), -np.inf)
    for end, size in zip(np.cumsum(choice.split)[:-1], choice.shapes[:-1], strict=True):
        time = limits.t_star(size)
        if time > 0:
            # Times before it keep a least distance, so that the grid still falls.
            last = math.log(time / (1 - time)) if time < 1 else math.inf
            before = last + (end - 1 - k) * math.exp(_GAP[0])
            floor = np.where(k < end, np.maximum(floor, before), floor)
    return floor


def _refine(bench: _Bench, limits: _Limits, choice: _Choice, iterations: int) -> _Choice:
    """Levenberg-Marquardt on the inner times; never worse than what it was given, if that keeps the limits."""
    if limits.fixed:
        return _on_best_grid(bench, limits, choice)
    times = np.array(choice.times)
    choice = replace(choice, error=math.inf if limits.late(choice) else float(bench.errors(choice, times[None])[0]))
    floor = _odds_floor(choice, limits)
    if len(times) < 3 or np.isposinf(floor).any():  # a stage that is left at 1 makes the first step alone
        return choice
    theta, damping = _parameters(times), 1e-2
    grids = partial(_grids, first=float(times[0]), floor=floor)
    h, best = 1e-6, float(bench.errors(choice, grids(theta[None]))[0])
    for _ in range(iterations):
        if bench.work > bench.until:
            break
        bench.spend(SOLVE_WORK * len(theta) ** 3)
        shifted = np.concatenate([theta[None], theta + h * np.eye(len(theta))])
        r = bench.residuals(choice, grids(shifted))
        jacobian = (r[1:] - r[0]) / h
        normal, slope = jacobian @ jacobian.T, jacobian @ r[0]
        scale = np.diag(np.maximum(normal.diagonal(), 1e-12 * normal.diagonal().max() + 1e-300))
        tried = damping * 10.0 ** np.arange(-2, 4)
        damped = normal + tried[:, None, None] * scale
        try:
            steps = -np.linalg.solve(damped, np.broadcast_to(slope[:, None], (len(tried), len(slope), 1)))[..., 0]
        except np.linalg.LinAlgError:  # times at the ends of their range, which nothing depends on
            break
        candidates = theta + np.clip(steps, -1.5, 1.5)
        errors = bench.errors(choice, grids(candidates))
        k = int(errors.argmin())
        if not errors[k] < best:
            break
        gained = 1 - errors[k] / best
        theta, best, damping = candidates[k], float(errors[k]), float(np.clip(tried[k], 1e-6, 1e3))
        if gained < 1e-5:
            break
    refined = replace(choice, times=tuple(grids(theta[None])[0].tolist()), error=best)
    return min(choice, refined, key=BY_ERROR)


def _on_best_grid(bench: _Bench, limits: _Limits, choice: _Choice, *, coarse: bool = False) -> _Choice:
    """The stages of `choice` on the best of the grids there are."""
    grids = limits.time_grids(sum(choice.split))
    errors = bench.errors(choice, np.array(grids), coarse=coarse)
    if limits.fixed:  # a free grid that is late can still be moved
        errors[[limits.late(replace(choice, times=grid)) for grid in grids]] = math.inf
    k = int(errors.argmin())
    return replace(choice, times=grids[k], error=float(errors[k]))


@dataclass(frozen=True, eq=False)
class _Limits:
    """What a plan may be."""

    full: Shape
    scales: dict[Shape, float | tuple[float, ...]]
    """Grids to choose stages from and the scale each is made from, from small to large; the full one is the last."""
    cost: Callable[[Shape], float]
    search: Search
    leave: Callable[[Shape, float], float]
    """Time at which the delta rule leaves a grid at some tolerance."""
    allowed: float = 0.0
    """The budget, and a little more: one computed by adding up the same costs in another order pays for the same plan."""

    @property
    def fixed(self) -> bool:
        """Whether times come from a given grid or a family of grids; else they are free."""
        return self.search.times is not None or self.search.shifts is not None

    @property
    def families(self) -> tuple[Callable[[int], tuple[float, ...]], ...]:
        """Time grids by their number of steps: the only ones allowed, or where times are free those the search begins with."""
        if self.search.times is not None:
            return (lambda _: tuple(self.search.times or ()),)
        return tuple(partial(_shifted, shift=shift) for shift in self.search.shifts or SHIFTS)

    def time_grids(self, steps: int) -> list[tuple[float, ...]]:
        """The grid of each family."""
        return [grid(steps) for grid in self.families]

    def t_star(self, size: Shape) -> float:
        """Time after which a stage of that grid makes no more steps; 0 allows any."""
        by_rule = 0.0 if self.search.delta is None else self.leave(size, self.search.delta)
        return max(by_rule, (self.search.least_times or {}).get(size, 0.0))

    def chain(self, shapes: Sequence[Shape]) -> bool:
        """Whether each grid grows into the next, with nested coefficients."""
        return all(_grows(self.search.basis, coarse, fine) for coarse, fine in pairwise(shapes))

    def spent(self, shapes: Sequence[Shape], split: Sequence[int]) -> float:
        return math.fsum(n * self.cost(shape) for n, shape in zip(split, shapes, strict=True))

    def filled(self, shapes: tuple[Shape, ...], finer: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Splits with the given steps in all stages but the first, which takes what is left.

        On a family of grids with a bound on transitions, for each grid as many as do not make a stage late.
        """
        most = math.floor((self.allowed - self.spent(shapes[1:], finer)) / self.cost(shapes[0]))
        most = min(most, MOST_STEPS - sum(finer))
        if most < 1 or min(finer, default=1) < 1:
            return []
        if self.search.steps is not None:
            first = self.search.steps - sum(finer)
            return [(first, *finer)] if 1 <= first <= most else []
        bounded = self.search.delta is not None or self.search.least_times
        if not bounded or self.search.shifts is None or not finer:
            return [(most, *finer)]

        def late(first: int, grid: Callable[[int], tuple[float, ...]]) -> bool:
            return self.late(_Choice(shapes, (first, *finer), grid(first + sum(finer))))

        # Every step more for the first stage puts all transitions later on the same family of grids.
        firsts = {bisect_left(range(1, most + 1), True, key=partial(late, grid=grid)) for grid in self.families}
        return [(first, *finer) for first in sorted(firsts - {0})]

    def splits(self, shapes: tuple[Shape, ...]) -> list[tuple[int, ...]]:
        """Ways to spend the budget on these grids: the first stage takes what the others leave; large numbers are thinned."""
        # With a number of steps given there are few ways, and no free grid that would make up for a step too many.
        each = {2: 16, 3: 5}.get(len(shapes), 3) if self.search.steps is None else {2: 64, 3: 16}.get(len(shapes), 6)

        def finer(sizes: Sequence[Shape], rest: float) -> Iterator[tuple[int, ...]]:
            if not sizes:
                yield ()
                return
            limit = min(math.floor(rest / self.cost(sizes[-1])), MOST_STEPS)
            for n in sorted(set(np.geomspace(1, limit, each).round().astype(int).tolist())) if limit >= 1 else ():
                for others in finer(sizes[:-1], rest - n * self.cost(sizes[-1])):
                    yield (*others, n)

        found = (self.filled(shapes, steps) for steps in finer(shapes[1:], self.allowed))
        return sorted({split for splits in found for split in splits})

    def late(self, choice: _Choice) -> bool:
        """Whether a stage makes a step from a time at which it should have been left."""
        ends = np.cumsum(choice.split)[:-1]
        return any(choice.times[k - 1] < self.t_star(size) for k, size in zip(ends, choice.shapes[:-1], strict=True))

    def keeps(self, plan: Plan) -> bool:
        """Whether a plan made elsewhere is within the limits."""
        return (
            plan.cost(self.cost) <= self.allowed
            and len(plan.stages) <= self.search.stages
            and self.search.steps in (None, plan.nfe)
            and (not self.fixed or plan.times in self.time_grids(plan.nfe))
            and all(s.steps == 0 or plan.times[s.stop - 1] >= self.t_star(s.shape) for s in plan.stages[:-1])
        )


def _grows(basis: Basis, coarse: Shape, fine: Shape) -> bool:
    try:
        basis.reach(coarse, fine)
    except ValueError:
        return False
    return coarse != fine and basis.nested(coarse, fine)


def _thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most about `most` of the items, evenly in the logarithm of their place."""
    if len(items) <= most:
        return list(items)
    places = np.geomspace(1, len(items), most).round().astype(int) - 1
    return [items[k] for k in sorted(set(places.tolist()))]


def _delta_seeds(bench: _Bench, limits: _Limits, shapes: tuple[Shape, ...]) -> list[_Choice]:
    """What the delta rule would do: for each tolerance and shift, as many steps as the budget pays for."""
    seeds = []
    bound = limits.search.delta or 1.0
    most = min(math.floor(limits.allowed / limits.cost(shapes[0])), MOST_STEPS)
    numbers = range(most, 0, -1) if limits.search.steps is None else [limits.search.steps]
    for delta, grid in product(sorted({d for d in (*DELTAS, bound) if d <= bound and d < 1}), limits.families):
        t_stars = [max(limits.leave(size, delta), limits.t_star(size)) for size in shapes[:-1]]
        for steps in numbers:
            times = grid(steps)
            ends = [next(k for k, t in enumerate(times) if t <= t_star) for t_star in t_stars]
            split = tuple(b - a for a, b in pairwise((0, *ends, steps)))
            if min(split) >= 1 and limits.spent(shapes, split) <= limits.allowed:
                choice = _Choice(shapes, split, times)
                seeds.append(replace(choice, error=float(bench.errors(choice, np.array([times]), coarse=True)[0])))
                break
    return seeds


def _respaced(choice: _Choice, split: tuple[int, ...]) -> tuple[float, ...]:
    """The grid of `choice` with other numbers of steps in its stages, each stage's times interpolated over its index."""
    times: list[float] = []
    start = 0
    for steps, other in zip(choice.split, split, strict=True):
        stage = choice.times[start : start + steps + 1]
        times += np.interp(np.linspace(0, steps, other + 1)[:-1], np.arange(steps + 1), stage).tolist()
        start += steps
    return (*times, 0.0)


def _neighbours(choice: _Choice, limits: _Limits) -> Iterator[_Choice]:
    """Choices one exchange away: steps moved between stages (the first takes what is left), or another grid for one."""
    finer, grids = choice.split[1:], tuple(limits.scales)
    for move in product((0, -1, 1, -2, 2, -3, 3), repeat=len(finer)):
        if 1 <= sum(abs(n) for n in move) <= 4 and abs(sum(move)) <= 2:
            for split in limits.filled(choice.shapes, tuple(n + m for n, m in zip(finer, move, strict=True))):
                yield replace(choice, split=split, times=_respaced(choice, split))
    for i, size in enumerate(choice.shapes[:-1]):
        at = grids.index(size)
        for other in (grids[k] for k in (at - 1, at + 1, at - 4, at + 4) if 0 <= k < len(grids)):
            shapes = (*choice.shapes[:i], other, *choice.shapes[i + 1 :])
            for split in limits.filled(shapes, finer) if limits.chain(shapes) else ():
                yield replace(choice, shapes=shapes, split=split, times=_respaced(choice, split))


def _climb(bench: _Bench, limits: _Limits, choice: _Choice, until: float) -> _Choice:
    """Exchange and refine until nothing gains or the bench has done its work; a fifth of it is kept for the last refinement."""
    bench.until = until - 0.2 * max(until - bench.work, 0)
    best = _restarted(bench, limits, _refine(bench, limits, choice, 12))
    seen = {(best.shapes, best.split)}

    def exchanged(choice: _Choice) -> Iterator[_Choice]:
        for other in _neighbours(choice, limits):
            if bench.work > bench.until:
                return
            if (other.shapes, other.split) not in seen:
                seen.add((other.shapes, other.split))
                yield _refine(bench, limits, other, 5)

    improved = True
    while improved:
        better = next((c for c in exchanged(best) if c.error < best.error * (1 - 1e-4)), None)
        if better is None:
            # A grid that came through many exchanges may sit in a local minimum.
            better = _restarted(bench, limits, best)
            improved = better.error < best.error * (1 - 1e-3)
        best = better
    bench.until = until
    return _refine(bench, limits, best, 60)


def _restarted(bench: _Bench, limits: _Limits, choice: _Choice) -> _Choice:
    """The better of a choice and the same stages refined from shifted grids."""
    if limits.fixed:
        return choice
    grids = limits.time_grids(sum(choice.split))[:3]
    return min([choice, *(_refine(bench, limits, replace(choice, times=grid), 12) for grid in grids)], key=BY_ERROR)


def _search(bench: _Bench, limits: _Limits) -> tuple[list[_Choice], list[_Choice]]:
    """(best choice for each number of stages, best unrefined delta-rule choices), by approximate error."""
    best: list[_Choice] = []
    rule: list[_Choice] = []
    coarser = tuple(limits.scales)[:-1]
    sizes = (12, 8) if bench.vectorised else (6, 4)
    for count in range(1, limits.search.stages + 1):
        share = MOST_WORK * count / limits.search.stages
        bench.until = bench.work + 0.5 * (share - bench.work)
        seeds: list[_Choice] = []
        for coarse in combinations(_thinned(coarser, sizes[count > 2]), count - 1):
            shapes = (*coarse, limits.full)
            if limits.chain(shapes):
                by_rule = _delta_seeds(bench, limits, shapes) if coarse else []
                splits = [_Choice(shapes, split, ()) for split in limits.splits(shapes)]
                rule += by_rule
                seeds += [_on_best_grid(bench, limits, c, coarse=True) for c in splits] + by_rule
        seeds.sort(key=BY_ERROR)
        firsts: dict[tuple[Shape, ...], _Choice] = {}
        for seed in seeds:
            firsts.setdefault(seed.shapes, seed)
        ranked = sorted((_refine(bench, limits, c, 8) for c in list(firsts.values())[:6]), key=BY_ERROR)
        # With few sizes to choose from, more than one split of the same sizes deserves a climb.
        starts = (ranked + seeds)[:3]
        # Each climb gets its share of what is left, so that no number of stages starves another.
        ends = [bench.work + max(share - bench.work, 0) * (i + 1) / 3 for i in range(3)]
        climbed = [_climb(bench, limits, start, end) for start, end in zip(starts, ends, strict=False)]
        best += [c for c in sorted(climbed, key=BY_ERROR)[:1] if math.isfinite(c.error)]
    return best, sorted(rule, key=BY_ERROR)[:1]


@dataclass(frozen=True)
class Search:
    """What :func:`optimise_plan` and :func:`plan_front` may choose: their options, declared once.

    Parameters
    ----------
    solver
        ``"euler"``, ``"heun"``, ``"dpmpp_2m"``, or a callable that is linear in the state (much slower: one grid at a time).
        Cost counts steps, so the cost function must hold both model calls of Heun's for budgets to compare with Euler's.
    scales
        Stage sizes to choose from, as for :func:`~spectral_pd.make_plan`, in any order; any subset may be used. None: every
        legal size along the diagonal from 1/16 of the full one.
    stages
        Most stages, the full one included.
    steps
        The number of steps, if it is given; None leaves it free.
    times
        A time grid that is given, as by a model's scheduler: only sizes, steps of each stage and transitions are chosen.
        None frees every time but the first, 1, and the last, 0.
    shifts
        Choose the grid among :func:`~spectral_pd.shift_times` with these shifts and any number of steps: one free number
        instead of one a step, for models tuned to such grids.
    delta
        No stage makes a step from a time at which the delta rule would have left it at this tolerance. None leaves the
        transitions free, which is best on Gaussian fields; models that choose between alternatives by evidence from high
        frequencies want a bound such as 0.01 (docs/plans.md).
    least_times
        No stage of a grid makes a step from a time below this, above 1 none at all: what was measured of a network whose
        sizes disagree (:meth:`~spectral_pd.agreement.SizeAgreement.least_times`).
    multiple_of, basis
        As for :func:`~spectral_pd.make_plan`.
    """

    solver: SolverName | Solver = "euler"
    scales: Sequence[float | Sequence[float]] | None = None
    stages: int = 3
    steps: int | None = None
    times: Sequence[float] | None = None
    shifts: Sequence[float] | None = None
    delta: float | None = None
    least_times: Mapping[Shape, float] | None = None
    multiple_of: int | Sequence[int] = 1
    basis: Basis = DCT

    def __post_init__(self) -> None:
        parsers: dict[str, inputs.Parser] = {
            "stages": inputs.count,
            "steps": inputs.optional(inputs.count),
            "times": inputs.optional(plans.times),
            "shifts": inputs.optional(plans.shifts),
            "delta": inputs.optional(inputs.one_delta),
            "least_times": inputs.optional(inputs.instance(Mapping, "a mapping such as {(32, 32): 0.6}")),
            "basis": BASIS,
        }
        for name, parse in parsers.items():
            object.__setattr__(self, name, parse(getattr(self, name), name))
        plans.one_grid(self.steps, self.times, self.shifts)
        if self.times is not None:
            object.__setattr__(self, "steps", len(self.times) - 1)


def _problem(spectrum: Spectra, shape: Shape, cost: Cost, search: Search) -> tuple[_Bench, _Limits]:
    """What plans are judged on; the stage grids they may use, and what each costs and must keep."""
    spectra = [as_spectrum(s) for s in (spectrum if isinstance(spectrum, (list, tuple)) else (spectrum,))]
    bench = _Bench([GaussianField(s, shape, search.basis) for s in spectra], search.solver)

    @cache
    def leave(size: Shape, delta: float) -> float:
        return max(s.t_star(size, shape, delta=delta) for s in spectra)

    multiples = plans.multiples(search.multiple_of, len(shape), shape)
    scales = search.scales
    if scales is None:
        multiple = multiples[int(np.argmin(shape))]
        least = max(2 * multiple, multiple * math.ceil(min(shape) / 16 / multiple))
        scales = [n / min(shape) for n in range(least, min(shape), multiple)]
    found: dict[Shape, float | tuple[float, ...]] = {}
    for scale in scales:
        # Each checked as one coarse stage before the full one.
        if any(s != 1 for s in scale) if isinstance(scale, (list, tuple)) else scale != 1:
            kept, _ = plans.stage_scales((scale, 1.0), len(shape))
            size = stage_shape(shape, kept, multiple_of=multiples)
            if _grows(search.basis, size, shape) and (search.least_times or {}).get(size, 0.0) <= 1:
                found.setdefault(size, kept)
    ordered = dict(sorted(found.items(), key=lambda item: (math.prod(item[0]), item[0])))
    each = cache(partial(runs.cost, cost))
    each.label = getattr(cost, "label", "")  # type: ignore[attr-defined]
    return bench, _Limits(shape, {**ordered, shape: 1.0}, each, replace(search, multiple_of=multiples), leave)


def _solve(bench: _Bench, limits: _Limits, budget: float, start: Sequence[Plan], progress: bool) -> FrontPoint:
    """The best plan within the limits, with its exact error and its reasons."""
    search, limits = limits.search, replace(limits, allowed=budget * (1 + 1e-9))
    plans.budget(budget, limits.cost(limits.full), limits.allowed)

    def planned(choice: _Choice) -> Plan:
        t_stars = [choice.times[k] for k in np.cumsum(choice.split)[:-1]]
        chosen = [limits.scales[size] for size in choice.shapes]
        options: Any = {"multiple_of": search.multiple_of, "cost": limits.cost, "basis": search.basis}
        return plan_at(choice.times, t_stars, limits.full, scales=chosen, **options)

    with bench.begin(progress):
        choices, rule = _search(bench, limits)
    compared = [(f"{len(c.shapes)} stage{'s' * (len(c.shapes) > 1)} at best", planned(c)) for c in choices]
    where = "shifted grids" if search.times is None else "the given grid"
    compared += [(f"delta rule on {where}", planned(c)) for c in rule]
    compared += [("given plan", plan) for plan in start if limits.keeps(plan)]
    plans.found(compared, budget, search.steps, search.stages)
    errors = [pooled_error([predict(plan, field, bench.solver) for field in bench.fields]) for _, plan in compared]
    k = int(np.argmin(errors))
    best, cost = compared[k][1], compared[k][1].cost(limits.cost)
    name = search.solver if isinstance(search.solver, str) else getattr(search.solver, "__name__", "the given solver")
    reached = [
        f"{what} {error:.4f} ({_joined(plan.split)})" for (what, plan), error in zip(compared, errors, strict=True)
    ]
    notes = [
        f"chosen for the least relative W2 predicted with {name}: {errors[k]:.4f}, at cost {cost:.6g} of {budget:.6g}",
        f"by {'; '.join(reached)}",
    ]
    for i, stage in enumerate(best.stages[:-1]):
        time = best.times[stage.stop]
        # Activation is a bijection of power at any delta, so the rule's own time gives back the power that decides.
        implied = velocity_error(time, activation_power(limits.leave(stage.shape, 0.01), 0.01))
        which = f"what delta = {implied:.2g} would ask for" if implied < 1 else "later than any delta would ask for"
        notes.append(f"transition {i + 1} at T = {time:.4f} is {which}")
    costs = tuple(limits.cost(shape) for shape in best.shapes)
    best = replace(best, notes=tuple(notes), costs=costs, counted=limits.cost.label)  # type: ignore[attr-defined]
    return FrontPoint(cost, errors[k], best)


@door(shape=inputs.shape, cost=runs.cost_function, budget=plans.amount)
def optimise_plan(
    spectrum: Spectra,
    shape: Sequence[int],
    cost: Cost,
    *,
    budget: float,
    start: Plan | Sequence[Plan] = (),
    progress: bool = False,
    **options: Any,
) -> Plan:
    r"""The plan of least predicted error that a budget pays for: stage sizes, steps of each, transitions and time grid.

    Parameters
    ----------
    spectrum, shape
        As :class:`~spectral_pd.GaussianField` takes them; a list or tuple of spectra holds one a channel; errors are pooled.
    cost, budget
        Cost of one solver step as a function of the grid, in any unit (see :func:`~spectral_pd.token_cost`), and what the
        whole run may cost in it; at least one step at full size.
    start
        Plans to compete as well: those within the limits are never beaten by what is returned.
    progress
        Show a progress bar.
    options
        The fields of :class:`~spectral_pd.optimise.Search`: solver, stage sizes, steps, time grids, bounds.

    Returns
    -------
    A plan on the full clock. ``print(plan)`` says what was compared, what each number of stages reaches at best, and which
    delta each transition amounts to.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, a budget below one full-size step, limits that no plan keeps.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> plan = optimise_plan(PRESETS["flux"], (32, 32), lambda g: g[0] * g[1] / 1024, budget=8, scales=(1 / 4, 1 / 2))
    >>> plan.cost() <= 8 and plan.shape == (32, 32)
    True
    """
    bench, limits = _problem(spectrum, tuple(shape), cost, Search(**options))
    return _solve(bench, limits, budget, plans.several(start, Plan, limits.full), progress).plan


@door(shape=inputs.shape, cost=runs.cost_function, budgets=plans.amounts)
def plan_front(
    spectrum: Spectra,
    shape: Sequence[int],
    cost: Cost,
    *,
    budgets: Sequence[float],
    progress: bool = False,
    **options: Any,
) -> Front:
    """The least predicted error against cost: :func:`optimise_plan` for every budget, dominated plans left out.

    Parameters
    ----------
    spectrum, shape, cost, progress, options
        As :func:`optimise_plan`.
    budgets
        One or more, in any order.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> front = plan_front(PRESETS["flux"], (32, 32), lambda g: g[0] * g[1] / 1024, budgets=(3, 6), scales=(1 / 2,))
    >>> front.points[1].error < front.points[0].error
    True
    """
    bench, limits = _problem(spectrum, tuple(shape), cost, Search(**options))
    points: list[FrontPoint] = []
    for budget in sorted(budgets):
        # A cheaper plan competes for every larger budget, so that error cannot rise with cost.
        point = _solve(bench, limits, budget, [p.plan for p in points[-1:]], progress)
        if not points or point.error < points[-1].error:
            points.append(point)
    return Front(tuple(p for i, p in enumerate(points) if all(q.cost > p.cost for q in points[i + 1 :])))
