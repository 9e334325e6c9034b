r"""The best plan for a budget: stage sizes, transitions and time grid that minimise the predicted error (ours).

:func:`~spectral_pd.predict` knows what any plan makes of a Gaussian field: every coefficient leaves with a gain ``g`` where
the exact solution of the ODE has ``sqrt(P)``. Given what a step costs on each grid and how much may be spent, choosing a
plan is then ordinary minimisation of

    ``relative W2 = sqrt(sum (|g| - sqrt P)^2 / sum P)``

over the stage sizes, the steps of each stage and every time of the grid. It is also the root mean square distance to the exact
solution from the same noise, relative to the field. Two errors compete in it: the solver's own, made by every
step in every band, and that of a band that enters late, as noise of level T where the exact solution has already shrunk or
grown to ``sqrt((1-T)^2 P + T^2)``. The delta rule (Eq. 10) bounds the second and knows nothing of the first: the right delta is
in proportion to the solver's error (docs/plans.md).

Method: coefficients are grouped by stage of birth and power into about a hundred nodes. Ways to spend the budget, thinned where
there are many, are tried on a family of shifted grids, beside the delta rule's plans; the best for each number of stages are
refined by Levenberg-Marquardt on the log-odds of the times, with exchanges of steps between stages and of stage sizes. No
randomness; the winner is chosen by the exact prediction. Plans are on the full clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations, pairwise, product
from typing import Any, TypeAlias

import numpy as np
import torch

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.ideal import GaussianField, Prediction, gain_velocity, predict
from spectral_pd.inputs import door
from spectral_pd.plan import Cost, Plan, moves, start_kappa, walk
from spectral_pd.power import AnySpectrum, as_spectrum
from spectral_pd.schedule import plan_at, shift_times, stage_shape
from spectral_pd.solvers import Solver, SolverName, find_solver
from spectral_pd.theory import activation_power, velocity_error

Shape: TypeAlias = tuple[int, ...]
OneSpectrum: TypeAlias = AnySpectrum | Callable[[Any], Any]

SHIFTS = (1.5, 3.0, 6.0, 12.0)
"""Shifts of the grids the search begins with."""
DELTAS = (0.01, 0.1)
"""Tolerances of the delta rule's plans the search begins with."""
MOST_STEPS = 200
"""More steps than this are not considered, even if the budget pays for them."""
MOST_WORK = 8e7
"""Coefficient groups times steps, over all grids evaluated, after which no more exchanges are tried: some seconds."""
CALL_WORK = 4000
"""What one call of a solver that is only known as a callable counts as."""


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
            sizes = " ".join("x".join(map(str, shape)) for shape in point.plan.shapes)
            split = "+".join(map(str, point.plan.split))
            lines.append(f"{point.cost:>12.6g}  {point.error:>15.5f}  {split:<14}  {sizes}")
        return "\n".join(lines)


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
    """The Gaussian fields a plan is judged on (one a channel) and the solver."""

    def __init__(self, fields: Sequence[GaussianField], solver: SolverName | Solver) -> None:
        self.fields, self.solver = tuple(fields), find_solver(solver)
        self.vectorised = isinstance(solver, str)
        self.shape = fields[0].shape
        self.power = np.stack([field.power().numpy().ravel() for field in self.fields])
        self.nodes = lru_cache(maxsize=512)(self._nodes)
        self.work = 0.0

    def _nodes(self, shapes: tuple[Shape, ...], coarse: bool = False) -> _Nodes:
        birth = np.full(self.shape, len(shapes) - 1)
        for i in reversed(range(len(shapes) - 1)):
            birth[corner(shapes[i])] = i
        level = np.round(np.log(self.power) / (0.6 if coarse else 0.2)).astype(np.int64)
        level -= level.min()
        # (birth, power level) of each coefficient as one number, and the numbers that occur.
        found, inverse = np.unique((birth.ravel() * (level.max() + 1) + level).ravel(), return_inverse=True)
        inverse = inverse.reshape(-1)
        count = np.bincount(inverse).astype(np.float64)
        power = np.bincount(inverse, weights=self.power.ravel()) / count
        births = found // (level.max() + 1)
        born = tuple(int(n) for n in np.searchsorted(births, np.arange(len(shapes)), side="right"))
        return _Nodes(power, count, born)

    def residuals(self, choice: _Choice, times: np.ndarray, *, coarse: bool = False) -> np.ndarray:
        """What is squared and summed, for time grids (B, N + 1) on the stages of `choice`: (B, residuals)."""
        nodes = self.nodes(choice.shapes, coarse)
        self.work += times.size * (len(nodes.power) if self.vectorised else CALL_WORK)
        gain = self._gains(choice, nodes, times)
        scale = np.sqrt(nodes.count / (nodes.count @ nodes.power))
        return np.nan_to_num((np.abs(gain) - np.sqrt(nodes.power)) * scale, nan=1e6, posinf=1e6, neginf=-1e6)

    def _gains(self, choice: _Choice, nodes: _Nodes, times: np.ndarray) -> np.ndarray:
        """:func:`~spectral_pd.predict` for grouped coefficients and many time grids (B, N + 1): gains (B, nodes).

        A solver that is only known as a callable takes one grid after another.
        """
        if not self.vectorised:
            one = partial(self._walked, choice, nodes, as_gain=torch.from_numpy, pad=_padded_tensor)
            return np.stack([one(row.tolist()).numpy() for row in times])
        with np.errstate(all="ignore"):  # grids the line search proposes and then rejects
            return self._walked(choice, nodes, times.T[:, :, None], as_gain=np.asarray, pad=_padded)

    def _walked(self, choice: _Choice, nodes: _Nodes, times: Any, *, as_gain: Any, pad: Any) -> Any:
        shapes, born = choice.shapes, dict(zip(choice.shapes, nodes.born, strict=True))
        power = {n: as_gain(nodes.power[:n] / size_ratio(shape, self.shape) ** 2) for shape, n in born.items()}
        kappa = start_kappa(times[0], shapes[0], self.shape, "full")
        return walk(
            moves(times, shapes, choice.split, "full"),
            as_gain(np.ones(born[shapes[0]])) / kappa,
            lambda gain, t: gain_velocity(power[gain.shape[-1]], gain, t),
            self.solver,
            grow=lambda gain, move: move.kappa * pad(gain, born[move.fine], move.t),
            embed=lambda gain, shape: pad(gain, born[shape], 0.0),
        )

    def errors(self, choice: _Choice, times: np.ndarray, *, coarse: bool = False) -> np.ndarray:
        """The error, approximately (grouped coefficients), of time grids (B, N + 1): (B,)."""
        return np.sqrt(np.square(self.residuals(choice, times, coarse=coarse)).sum(1))

    def exact(self, plan: Plan) -> float:
        """The error of a plan by the exact prediction, over all channels."""
        return pooled_error([predict(plan, field, self.solver) for field in self.fields])


def _padded(gain: np.ndarray, count: int, value: Any) -> np.ndarray:
    """Gains (B, nodes) with those of the nodes born now: all `value`."""
    new = np.broadcast_to(value, (len(gain), count - gain.shape[1]))
    return np.concatenate([gain, new], 1)


def _padded_tensor(gain: torch.Tensor, count: int, value: float) -> torch.Tensor:
    return torch.cat([gain, gain.new_full((count - len(gain),), value)])


def pooled_error(predictions: Sequence[Prediction]) -> float:
    """Relative W2 of several channels as one: squared distances and powers pooled.

    Parameters
    ----------
    predictions
        One a channel, of one plan.
    """
    total = math.fsum(float(p.power.sum()) for p in predictions)
    return math.sqrt(math.fsum(p.relative_w2**2 * float(p.power.sum()) for p in predictions) / total)


# -- the time grid ----------------------------------------------------------------------------------------------------


_GAP = (math.log(1e-3), math.log(6.0))
"""Least and largest logarithm of a step in log-odds."""
_ODDS = 9.0
"""Largest log-odds of an inner time: 1 - 1.2e-4."""


def _parameters(times: np.ndarray) -> np.ndarray:
    """The inner times of a grid as free numbers: log-odds of the first, logarithms of the steps in log-odds."""
    odds = np.clip(np.log(times[1:-1]) - np.log1p(-times[1:-1]), -_ODDS, _ODDS)
    gaps = np.clip(np.log(np.maximum(odds[:-1] - odds[1:], 1e-9)), *_GAP)
    return np.concatenate([odds[:1], gaps])


def _grids(theta: np.ndarray, first: float, floor: np.ndarray) -> np.ndarray:
    """Time grids (B, N + 1) of parameters (B, N - 1), with log-odds at least `floor` (N - 1,); the ends stay."""
    odds = np.clip(theta[:, :1], -_ODDS, _ODDS) - np.concatenate(
        [np.zeros((len(theta), 1)), np.exp(np.clip(theta[:, 1:], *_GAP)).cumsum(1)], 1
    )
    odds = np.maximum(odds, floor)
    inner = np.minimum(1 / (1 + np.exp(-odds)), first * (1 - 1e-6))
    return np.concatenate([np.full((len(theta), 1), first), inner, np.zeros((len(theta), 1))], 1)


def _odds_floor(choice: _Choice, t_stars: Sequence[float]) -> np.ndarray:
    """Lower bound of the log-odds of each inner time: the last step of stage i does not start after ``t_stars[i]``."""
    floor = np.full(len(choice.times) - 2, -np.inf)
    k = np.arange(1, len(choice.times) - 1)
    for end, time in zip(np.cumsum(choice.split)[:-1], t_stars, strict=True):
        if time > 0:
            # Times before it keep a least distance, so that the grid still falls.
            before = math.log(time / (1 - time)) + (end - 1 - k) * math.exp(_GAP[0])
            floor = np.where(k < end, np.maximum(floor, before), floor)
    return floor


def _refine(bench: _Bench, limits: _Limits, choice: _Choice, iterations: int) -> _Choice:
    """Levenberg-Marquardt on the inner times; never worse than what it was given, if that keeps the limits."""
    family = limits.family(sum(choice.split))
    if family:
        errors = bench.errors(choice, np.array(family))
        late = [limits.late(replace(choice, times=grid)) for grid in family]
        k = int(np.where(late, np.inf, errors).argmin())
        return replace(choice, times=family[k], error=math.inf if late[k] else float(errors[k]))
    times = np.array([choice.times])
    t_stars = [limits.t_star(size) for size in choice.shapes[:-1]]
    error = math.inf if limits.late(choice) else float(bench.errors(choice, times)[0])
    if len(choice.times) < 3:
        return replace(choice, error=error)
    theta, damping = _parameters(times[0]), 1e-2
    grids = partial(_grids, first=float(times[0, 0]), floor=_odds_floor(choice, t_stars))
    h, best = 1e-6, float(bench.errors(choice, grids(theta[None]))[0])
    for _ in range(iterations):
        shifted = np.concatenate([theta[None], theta + h * np.eye(len(theta))])
        r = bench.residuals(choice, grids(shifted))
        jacobian = (r[1:] - r[0]) / h
        normal, slope = jacobian @ jacobian.T, jacobian @ r[0]
        scale = np.diag(np.maximum(normal.diagonal(), 1e-12 * normal.diagonal().max() + 1e-300))
        tried = damping * 10.0 ** np.arange(-2, 4)
        moves = np.stack([-np.linalg.lstsq(normal + mu * scale, slope, rcond=None)[0] for mu in tried])
        candidates = theta + np.clip(moves, -1.5, 1.5)
        errors = bench.errors(choice, grids(candidates))
        k = int(errors.argmin())
        if not errors[k] < best:
            break
        gained = 1 - errors[k] / best
        theta, best, damping = candidates[k], float(errors[k]), float(np.clip(tried[k], 1e-6, 1e3))
        if gained < 1e-5:
            break
    if best < error:
        return replace(choice, times=tuple(grids(theta[None])[0].tolist()), error=best)
    return replace(choice, error=error)


# -- the search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Limits:
    """What a plan may be."""

    full: Shape
    scales: dict[Shape, float | tuple[float, ...]]
    """Grids to choose stages from and the scale each is made from, from small to large; the full one is the last."""
    cost: Callable[[Shape], float]
    search: Search
    t_star: Callable[[Shape], float]
    """Time after which a stage of that grid makes no more steps; 0 allows any."""
    budget: float = 0.0

    @property
    def grids(self) -> tuple[Shape, ...]:
        return tuple(self.scales)

    @property
    def fixed(self) -> bool:
        """Whether times come from a given grid or a family of grids; else they are free."""
        return self.search.times is not None or self.search.shifts is not None

    def family(self, steps: int) -> tuple[tuple[float, ...], ...]:
        """The only time grids allowed for a number of steps; empty when times are free."""
        if self.search.times is not None:
            return (self.search.times,)
        return tuple(_shifted(steps, shift) for shift in self.search.shifts or ())

    def chain(self, shapes: Sequence[Shape]) -> bool:
        """Whether each grid grows into the next, with nested coefficients."""
        return all(_grows(self.search.basis, coarse, fine) for coarse, fine in pairwise(shapes))

    def spent(self, shapes: Sequence[Shape], split: Sequence[int]) -> float:
        return math.fsum(n * self.cost(shape) for n, shape in zip(split, shapes, strict=True))

    @property
    def allowed(self) -> float:
        """The budget; one computed by adding up the same costs in another order must still pay for the same plan."""
        return self.budget * (1 + 1e-9)

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
        if self.search.delta is None or self.search.shifts is None or not finer:
            return [(most, *finer)]

        def late(first: int, shift: float) -> bool:
            return self.late(_Choice(shapes, (first, *finer), _shifted(first + sum(finer), shift)))

        # Every step more for the first stage puts all transitions later on the same family of grids.
        firsts = {bisect_left(range(1, most + 1), True, key=partial(late, shift=shift)) for shift in self.search.shifts}
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
            and (not self.fixed or plan.times in self.family(plan.nfe))
            and all(s.steps == 0 or plan.times[s.stop - 1] >= self.t_star(s.shape) for s in plan.stages[:-1])
        )


def _grows(basis: Basis, coarse: Shape, fine: Shape) -> bool:
    try:
        basis.reach(coarse, fine)
    except ValueError:
        return False
    return coarse != fine and basis.nested(coarse, fine)


@lru_cache(maxsize=4 * MOST_STEPS)
def _shifted(steps: int, shift: float) -> tuple[float, ...]:
    return shift_times.bare(steps, shift=shift)


def _thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most about `most` of the items, evenly in the logarithm of their place."""
    if len(items) <= most:
        return list(items)
    places = np.geomspace(1, len(items), most).round().astype(int) - 1
    return [items[k] for k in sorted(set(places.tolist()))]


def _seeds(bench: _Bench, limits: _Limits, shapes: tuple[Shape, ...]) -> list[_Choice]:
    """One unrefined choice for each split: the best of the shifted grids."""
    seeds = []
    for split in limits.splits(shapes):
        grids = np.array(limits.family(sum(split)) or [_shifted(sum(split), shift) for shift in SHIFTS])
        choice = _Choice(shapes, split, ())
        errors = bench.errors(choice, grids, coarse=True)
        if limits.fixed:  # a free grid that is late can still be moved
            errors[[limits.late(replace(choice, times=tuple(grid))) for grid in grids]] = math.inf
        k = int(errors.argmin())
        seeds.append(replace(choice, times=tuple(grids[k].tolist()), error=float(errors[k])))
    return seeds


def _delta_seeds(
    bench: _Bench, limits: _Limits, spectra: Sequence[AnySpectrum], shapes: tuple[Shape, ...]
) -> list[_Choice]:
    """What the delta rule would do: for each tolerance and shift, as many steps as the budget pays for."""
    seeds = []
    bound = limits.search.delta or 1.0
    for delta in sorted({d for d in (*DELTAS, bound) if d <= bound and d < 1}):
        t_stars = [max(s.t_star(size, limits.full, delta=delta) for s in spectra) for size in shapes[:-1]]
        for shift in SHIFTS[:1] if limits.search.times is not None else limits.search.shifts or SHIFTS:
            most = min(math.floor(limits.allowed / limits.cost(shapes[0])), MOST_STEPS)
            for steps in range(most, 0, -1) if limits.search.steps is None else [limits.search.steps]:
                grid = limits.search.times or _shifted(steps, shift)
                ends = [next(k for k, t in enumerate(grid) if t <= t_star) for t_star in t_stars]
                split = tuple(b - a for a, b in pairwise((0, *ends, steps)))
                if min(split) >= 1 and limits.spent(shapes, split) <= limits.allowed:
                    choice = _Choice(shapes, split, tuple(grid))
                    error = float(bench.errors(choice, np.array([grid]), coarse=True)[0])
                    seeds.append(replace(choice, error=error))
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
    finer = choice.split[1:]
    for move in product((0, -1, 1, -2, 2, -3, 3), repeat=len(finer)):
        if 1 <= sum(abs(n) for n in move) <= 4 and abs(sum(move)) <= 2:
            for split in limits.filled(choice.shapes, tuple(n + m for n, m in zip(finer, move, strict=True))):
                yield replace(choice, split=split, times=_respaced(choice, split))
    for i, size in enumerate(choice.shapes[:-1]):
        at = limits.grids.index(size)
        for other in (limits.grids[k] for k in (at - 1, at + 1, at - 4, at + 4) if 0 <= k < len(limits.grids)):
            shapes = (*choice.shapes[:i], other, *choice.shapes[i + 1 :])
            for split in limits.filled(shapes, finer) if limits.chain(shapes) else ():
                yield replace(choice, shapes=shapes, split=split, times=_respaced(choice, split))


def _climb(bench: _Bench, limits: _Limits, choice: _Choice, work: float) -> _Choice:
    """Exchange and refine until nothing gains or the bench has done `work`."""
    best = _restarted(bench, limits, _refine(bench, limits, choice, 12))
    seen = {(best.shapes, best.split)}
    improved = True
    while improved:
        improved = False
        for other in _neighbours(best, limits):
            if bench.work > work:
                break
            if (other.shapes, other.split) in seen:
                continue
            seen.add((other.shapes, other.split))
            refined = _refine(bench, limits, other, 5)
            if refined.error < best.error * (1 - 1e-4):
                best, improved = refined, True
                break
        if not improved:
            # A grid that came through many exchanges may sit in a local minimum.
            restarted = _restarted(bench, limits, best)
            improved = restarted.error < best.error * (1 - 1e-3)
            best = restarted
    return _refine(bench, limits, best, 60)


def _restarted(bench: _Bench, limits: _Limits, choice: _Choice) -> _Choice:
    """The better of a choice and the same stages refined from shifted grids."""
    if limits.fixed:
        return choice
    fresh = [
        _refine(bench, limits, replace(choice, times=_shifted(sum(choice.split), shift)), 12) for shift in SHIFTS[:3]
    ]
    return min([choice, *fresh], key=lambda c: c.error)


def _search(bench: _Bench, limits: _Limits, spectra: Sequence[Any]) -> tuple[list[_Choice], list[_Choice]]:
    """(best choice for each number of stages, best unrefined delta-rule choices), by approximate error."""
    best: list[_Choice] = []
    rule: list[_Choice] = []
    sizes = (12, 8) if bench.vectorised else (6, 4)
    for count in range(1, limits.search.stages + 1):
        seeds: list[_Choice] = []
        for coarse in combinations(_thinned(limits.grids[:-1], sizes[count > 2]), count - 1):
            shapes = (*coarse, limits.full)
            if limits.chain(shapes):
                by_rule = _delta_seeds(bench, limits, spectra, shapes) if coarse else []
                rule += by_rule
                seeds += _seeds(bench, limits, shapes) + by_rule
        firsts: dict[tuple[Shape, ...], _Choice] = {}
        for seed in sorted(seeds, key=lambda c: c.error):
            firsts.setdefault(seed.shapes, seed)
        ranked = sorted((_refine(bench, limits, c, 8) for c in list(firsts.values())[:6]), key=lambda c: c.error)
        # With few sizes to choose from, more than one split of the same sizes deserves a climb.
        starts = (ranked + sorted(seeds, key=lambda c: c.error))[:3]
        # Each climb gets its share of what is left, so that no number of stages starves another.
        ends = [
            bench.work + max(MOST_WORK * count / limits.search.stages - bench.work, 0) * (i + 1) / 3 for i in range(3)
        ]
        climbed = [_climb(bench, limits, start, end) for start, end in zip(starts, ends, strict=False)]
        best += [c for c in sorted(climbed, key=lambda c: c.error)[:1] if math.isfinite(c.error)]
    return best, sorted(rule, key=lambda c: c.error)[:1]


# -- the verbs --------------------------------------------------------------------------------------------------------


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
        A time grid that is given, as by a model's scheduler: then only sizes, steps of each stage and transitions are
        chosen. None frees every time but the first, 1, and the last, 0.
    shifts
        Choose the grid among :func:`~spectral_pd.shift_times` with these shifts and any number of steps: one free number
        instead of one a step, for models tuned to such grids.
    delta
        No stage makes a step from a time at which the delta rule would have left it at this tolerance. None leaves the
        transitions free, which is best on Gaussian fields; models that choose between alternatives by evidence from high
        frequencies want a bound such as 0.01 (docs/plans.md).
    multiple_of
        As for :func:`~spectral_pd.make_plan`.
    basis
        The basis the state will grow in.
    """

    solver: SolverName | Solver = "euler"
    scales: Sequence[float | Sequence[float]] | None = None
    stages: int = 3
    steps: int | None = None
    times: Sequence[float] | None = None
    shifts: Sequence[float] | None = None
    delta: float | None = None
    multiple_of: int | Sequence[int] = 1
    basis: Basis = DCT

    def __post_init__(self) -> None:
        parsers: dict[str, inputs.Parser] = {
            "stages": inputs.count,
            "steps": inputs.optional(inputs.count),
            "times": inputs.optional(inputs.times),
            "shifts": inputs.optional(inputs.shifts),
            "delta": inputs.optional(inputs.one_delta),
            "basis": BASIS,
        }
        for name, parse in parsers.items():
            object.__setattr__(self, name, parse(getattr(self, name), name))
        inputs.one_grid(self.steps, self.times, self.shifts)
        if self.times is not None:
            object.__setattr__(self, "steps", len(self.times) - 1)


def _limits(spectra: Sequence[AnySpectrum], shape: Shape, cost: Cost, search: Search) -> _Limits:
    """The stage grids a search may use, and what each costs and must keep."""

    def t_star(size: Shape) -> float:
        return 0.0 if search.delta is None else max(s.t_star(size, shape, delta=search.delta) for s in spectra)

    multiples = inputs.multiples(search.multiple_of, len(shape), shape)
    scales = search.scales
    if scales is None:
        multiple = multiples[int(np.argmin(shape))]
        least = max(2 * multiple, multiple * math.ceil(min(shape) / 16 / multiple))
        scales = [n / min(shape) for n in range(least, min(shape), multiple)]
    found: dict[Shape, float | tuple[float, ...]] = {}
    for scale in scales:
        # Each checked as one coarse stage before the full one.
        if any(s != 1 for s in scale) if isinstance(scale, (list, tuple)) else scale != 1:
            kept, _ = inputs.stage_scales((scale, 1.0), len(shape))
            size = stage_shape(shape, kept, multiple_of=multiples)
            if _grows(search.basis, size, shape):
                found.setdefault(size, kept)
    ordered = dict(sorted(found.items(), key=lambda item: (math.prod(item[0]), item[0])))
    each = lru_cache(maxsize=None)(partial(inputs.cost, cost))
    return _Limits(
        shape, {**ordered, shape: 1.0}, each, replace(search, multiple_of=multiples), lru_cache(maxsize=None)(t_star)
    )


def _solve(bench: _Bench, limits: _Limits, spectra: Sequence[AnySpectrum], start: Sequence[Plan]) -> FrontPoint:
    """The best plan within the limits, with its exact error and its reasons."""
    search, budget, cheapest = limits.search, limits.budget, limits.cost(limits.full)
    inputs.budget(budget, cheapest, limits.allowed)

    def planned(choice: _Choice) -> Plan:
        t_stars = [choice.times[k] for k in np.cumsum(choice.split)[:-1]]
        chosen = [limits.scales[size] for size in choice.shapes]
        options: Any = {"multiple_of": search.multiple_of, "cost": limits.cost, "basis": search.basis}
        return plan_at(choice.times, t_stars, limits.full, scales=chosen, **options)

    bench.work = 0.0
    choices, rule = _search(bench, limits, spectra)
    compared = [(f"{len(c.shapes)} stage{'s' * (len(c.shapes) > 1)} at best", planned(c)) for c in choices]
    where = "shifted grids" if search.times is None else "the given grid"
    compared += [(f"delta rule on {where}", planned(c)) for c in rule]
    compared += [("given plan", plan) for plan in start if limits.keeps(plan)]
    inputs.found(compared, budget, search.steps, search.stages)
    errors = [bench.exact(plan) for _, plan in compared]
    k = int(np.argmin(errors))
    best, cost = compared[k][1], compared[k][1].cost(limits.cost)
    name = search.solver if isinstance(search.solver, str) else getattr(search.solver, "__name__", "the given solver")
    notes = [
        f"chosen for the least relative W2 predicted with {name}: {errors[k]:.4f}, at cost {cost:.6g} of {budget:.6g}",
        "by "
        + "; ".join(
            f"{what} {error:.4f} ({'+'.join(map(str, plan.split))})"
            for (what, plan), error in zip(compared, errors, strict=True)
        ),
    ]
    for i, stage in enumerate(best.stages[:-1]):
        time = best.times[stage.stop]
        # Activation is a bijection of power at any delta, so the rule's own time gives back the power that decides.
        t_star = max(s.t_star(stage.shape, limits.full, delta=0.01) for s in spectra)
        implied = velocity_error(time, activation_power(t_star, 0.01))
        which = f"what delta = {implied:.2g} would ask for" if implied < 1 else "later than any delta would ask for"
        notes.append(f"transition {i + 1} at T = {time:.4f} is {which}")
    costs = tuple(limits.cost(shape) for shape in best.shapes)
    return FrontPoint(cost, errors[k], replace(best, notes=tuple(notes), costs=costs))


def _problem(
    spectrum: OneSpectrum | Sequence[OneSpectrum], shape: Shape, cost: Cost, search: Search
) -> tuple[_Bench, _Limits, tuple[AnySpectrum, ...]]:
    spectra = tuple(as_spectrum(s) for s in (spectrum if isinstance(spectrum, (list, tuple)) else (spectrum,)))
    fields = [GaussianField(s, shape, search.basis) for s in spectra]
    return _Bench(fields, search.solver), _limits(spectra, shape, cost, search), spectra


COST = inputs.function("a function of the grid, e.g. lambda shape: math.prod(shape)")


@door(shape=inputs.shape, cost=COST, budget=inputs.amount)
def optimise_plan(
    spectrum: OneSpectrum | Sequence[OneSpectrum],
    shape: Sequence[int],
    cost: Cost,
    *,
    budget: float,
    start: Plan | Sequence[Plan] = (),
    **options: Any,
) -> Plan:
    r"""The plan of least predicted error that a budget pays for: stage sizes, steps of each, transitions and time grid.

    Parameters
    ----------
    spectrum
        As :class:`~spectral_pd.GaussianField` takes it; a list or tuple holds one a channel, and errors are pooled.
    shape
        Full grid.
    cost
        Cost of one solver step as a function of the grid, in any unit (see :func:`~spectral_pd.token_cost`).
    budget
        What the whole run may cost, in the same unit; at least one step at full size.
    start
        Plans to compete as well: those within the limits are never beaten by what is returned.
    options
        The fields of :class:`~spectral_pd.optimise.Search`: solver, stage sizes, steps, time grids, bounds.

    Returns
    -------
    A plan on the full clock. ``print(plan)`` says what was compared, what each number of stages reaches at best, and which
    delta each transition amounts to.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, a budget below one full-size step, limits that no plan keeps, a spectrum not positive on
        the grid.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> plan = optimise_plan(PRESETS["flux"], (32, 32), lambda g: g[0] * g[1] / 1024, budget=8, scales=(1 / 4, 1 / 2))
    >>> plan.cost() <= 8 and plan.shape == (32, 32)
    True
    """
    bench, limits, spectra = _problem(spectrum, tuple(shape), cost, Search(**options))
    plans = inputs.plans(start, Plan, limits.full)
    return _solve(bench, replace(limits, budget=budget), spectra, plans).plan


@door(shape=inputs.shape, cost=COST, budgets=inputs.amounts)
def plan_front(
    spectrum: OneSpectrum | Sequence[OneSpectrum],
    shape: Sequence[int],
    cost: Cost,
    *,
    budgets: Sequence[float],
    **options: Any,
) -> Front:
    """The least predicted error against cost: :func:`optimise_plan` for every budget, dominated plans left out.

    Parameters
    ----------
    spectrum, shape, cost
        As :func:`optimise_plan`.
    budgets
        Budgets to try, in any order.
    options
        The fields of :class:`~spectral_pd.optimise.Search`.

    Raises
    ------
    ValueError, TypeError
        As :func:`optimise_plan`; no budgets.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> front = plan_front(PRESETS["flux"], (32, 32), lambda g: g[0] * g[1] / 1024, budgets=(3, 6), scales=(1 / 2,))
    >>> front.points[1].error < front.points[0].error
    True
    """
    bench, limits, spectra = _problem(spectrum, tuple(shape), cost, Search(**options))
    points: list[FrontPoint] = []
    for budget in sorted(budgets):
        # A cheaper plan competes for every larger budget, so that error cannot rise with cost.
        point = _solve(bench, replace(limits, budget=budget), spectra, [p.plan for p in points[-1:]])
        if not points or point.error < points[-1].error:
            points.append(point)
    return Front(tuple(p for i, p in enumerate(points) if all(q.cost > p.cost for q in points[i + 1 :])))
