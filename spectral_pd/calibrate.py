r"""Which grids to call when: a model's second moments from a few full runs, and what every pattern does with them.

Along the full run of a seed the network says ``D_k`` at full size, and would say ``C_k`` on a coarser grid. Everything a
pattern of calls (:mod:`spectral_pd.two_grids`) can know is a linear combination of these and of the starting noise w, so the
moments

    ``M_b[i, j] = E <f_i, f_j>_b``,     ``f = (w, C_0, D_0, C_1, D_1, ...)``,

band by band, hold the drift of the defect, of the high band and of everything else over T. With them

*the weights* of the best linear prediction of ``D_k`` from what a pattern has seen by then, rows Phi over f, solve
``(Phi M Phi') a = Phi M e_k``;

*a run* is simulated without the network: states and estimates are such rows, moved by the solver itself. A call at a state
that has left the full run's by ``xi`` answers ``D_k + g_k xi`` plus an error of power ``n_k |xi|^2`` that nothing else knows
of, with g and n measured on one more run with few anchors;

*the error* of the picture, ``xi_N M xi_N'``, predicts the PSNR to the same seed's full run, for hundreds of patterns a second.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASES, BASIS, DCT, Basis, corner
from spectral_pd.inputs import door, plans, runs, spectra, working_dtype
from spectral_pd.plan import Calls, Cost, Plan
from spectral_pd.schedule import stage_shape, token_cost
from spectral_pd.solvers import History, Solver, SolverName, Velocity, find_solver, towards
from spectral_pd.two_grids import (
    CALLS,
    ONE_CALL,
    Pattern,
    Predictor,
    Shape,
    TwoGrids,
    anchored_calls,
    bands,
    held,
    indices,
    weights_shape,
)

RIDGE = 1e-4
"""Added to the unit diagonal of every regression: what a run has seen differs from the full run by its own errors."""
MADE = inputs.such(
    inputs.instance(list, "a list"), bool, "is empty; pass one function of calls for each batch of seeds"
)
NEIGHBOURS, PATIENCE, CHUNK = 96, 4, 32
"""Of the search: patterns tried around one, rounds without progress, patterns simulated together (what a cache holds)."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a few full runs of a model say about patterns of calls; made by :func:`calibrate`, kept as JSON.

    Attributes
    ----------
    model, seeds
        Whose runs, and how many.
    times, shapes
        The full run's time grid, and the grids, coarse to fine.
    solver, basis
        Names of the solver and of the basis.
    moments
        float64 (bands, 1 + steps grids, the same): the starting noise, then for each step the answers on all grids, coarse to
        fine. Sums over bands are means over the picture's values.
    gain, noise
        float64 (steps, grids, bands): how an answer follows the state, and the unexplained rest over the state's power.
    spread
        Median PSNR over seeds minus the PSNR of the mean error, in dB.
    costs
        Cost of a call on each grid, where it is known; empty: :func:`~spectral_pd.token_cost` of the grids.
    """

    model: str
    seeds: int
    times: tuple[float, ...]
    shapes: tuple[Shape, ...]
    solver: SolverName
    basis: str
    moments: Tensor
    gain: Tensor
    noise: Tensor
    spread: float
    costs: tuple[float, ...] = ()

    def cost(self, shape: Shape) -> float:
        """Cost of a call on one of the grids."""
        return token_cost(self.shapes[-1])(shape) if not self.costs else self.costs[self.shapes.index(tuple(shape))]

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back: moments and gains to 8 digits."""
        arrays = {name: getattr(self, name).tolist() for name in ("moments", "gain", "noise")}
        short = json.loads(json.dumps(arrays), parse_float=lambda text: float(f"{float(text):.8g}"))
        Path(path).write_text(json.dumps({"type": "Calibration", **self.__dict__, **short}) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote. ValueError if it is anything else."""
        names = tuple(cls.__annotations__)
        data = spectra.json_object(spectra.saved(path), str(path), "Calibration", names, names)
        with spectra.naming(str(path)):
            shapes = tuple(tuple(shape) for shape in data["shapes"])
            arrays = {name: torch.tensor(data[name], dtype=torch.float64) for name in ("moments", "gain", "noise")}
            own = {"times": plans.times(data["times"], "times"), "shapes": shapes, "costs": tuple(data["costs"])}
            return cls(**{**data, **arrays, **own})


@torch.no_grad()
@door(velocity=runs.velocity, basis=BASIS, batch=inputs.count, dims=inputs.count)
def calibrate(
    velocity: Velocity,
    noise: Tensor,
    times: Sequence[float],
    *,
    scales: Sequence[float | Sequence[float]] = (1 / 4, 1 / 2, 1.0),
    multiple_of: int | Sequence[int] = 1,
    dims: int = 2,
    solver: SolverName = "dpmpp_2m",
    basis: Basis = DCT,
    batch: int = 16,
    model: str = "",
) -> Calibration:
    """Measure a model's moments: for each noise one full run that also calls the coarse grids, and one with few anchors.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, the model; it is called on every grid.
    noise
        Starting states (seeds, ..., *full grid); rows "seeds" of benchmarks/results/two_grids.csv say what 4 to 32 give.
    times
        The full run's time grid: the run that patterns are to repeat for less.
    scales, multiple_of
        The coarse grids, as in :func:`~spectral_pd.make_plan`.
    dims
        Number of trailing spectral axes.
    solver
        ``"euler"`` or ``"dpmpp_2m"``: one call a step.
    basis
        A built-in basis that is nested on these grids.
    batch
        Seeds run together.
    model
        Name kept with the numbers.

    Raises
    ------
    ValueError, TypeError
        Noise that is no floating batch with `dims` spectral axes, another solver, grids the basis cannot reach.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = calibrate(field.velocity, torch.randn(8, 4, 16, 16), shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> found.moments.shape[1], found.gain.shape[:2]
    (13, torch.Size([6, 2]))
    """
    full, solve = runs.seeds(noise, "noise", dims), find_solver(ONE_CALL(solver, "solver"))
    times = plans.times(times, "times")
    shapes = tuple(stage_shape(full, s, multiple_of=multiple_of) for s in plans.stage_scales(scales, dims))
    parts = noise.to(working_dtype(noise.dtype)).split(batch)

    def run(calls: Calls, x: Tensor) -> Tensor:
        return _end(calls.around(velocity), x, times, solve)

    return calibrate_runs([partial(run, x=x) for x in parts], times, shapes, solver=solver, basis=basis, model=model)


@torch.no_grad()
@door(solver=ONE_CALL, basis=BASIS)
def calibrate_runs(
    each: Iterable[Callable[[Calls], Tensor]],
    times: Sequence[float],
    shapes: Sequence[Shape],
    *,
    solver: SolverName = "dpmpp_2m",
    basis: Basis = DCT,
    model: str = "",
) -> Calibration:
    """Measure a model's moments in runs that somebody else makes: what :func:`calibrate` is made of.

    Parameters
    ----------
    each
        For each batch of seeds a function of the calls a run is to be made with (:attr:`spectral_pd.Plan.calls`) that makes
        that run, from the same starting state at each of its two calls, and returns the state (seeds, ..., *full grid) at 0.
    times, shapes
        The full run's time grid, and the grids, coarse to fine.
    solver, basis, model
        As :func:`calibrate`.
    """
    steps = len(times) - 1
    # From the first step on away from the full run: what answers make of that is wanted at every step.
    every, few = (
        Pattern(tuple(times), tuple(shapes), anchored_calls(steps, anchors, len(shapes)))
        for anchors in (range(steps), range(1, steps, 4))
    )
    label, owner = bands(every.shapes, basis)
    members = [(label.flatten() == b).nonzero()[:, 0] for b in range(len(owner))]
    size = 1 + steps * len(every.shapes)
    moments = torch.zeros(len(members), size, size, dtype=torch.float64)
    products = torch.zeros(4, steps, len(every.shapes), len(members), dtype=torch.float64)
    errors = list[Tensor]()
    for run in each:
        recordings = [_Recording(held(pattern, basis=basis)) for pattern in (every, few)]
        ends = [run(recording) for recording in recordings]
        errors.append((ends[0] - ends[1]).double().square().flatten(1).mean(1))
        finished = [recording.run for recording in recordings]
        values = ends[0].numel() / len(ends[0])
        for b, inside in enumerate(members):
            (state, said), (moved, changed) = (run.band(inside) for run in finished)
            rows = torch.cat([state[:1], said.flatten(0, 1)])
            moments[b] += (rows @ rows.T).cpu() / values
            xi, eta = (moved - state)[:, None], changed - said
            for i, product in enumerate((state[:, None] ** 2, xi * xi, xi * eta, eta * eta)):
                products[i, :, :, b] += product.sum(-1).cpu()
    error = runs.measured(torch.cat(MADE(errors, "each")))
    whole, power, along, total = products.unbind()
    safe = torch.where(power > 1e-12 * whole, power, math.inf)  # below, a state has moved by rounding alone
    gain = along / safe
    rest = (total - gain * along).clamp(min=0) / safe
    spread = 10 * math.log10(float(error.mean() / error.quantile(0.5))) if float(error.min()) > 0 else 0.0
    seeds = len(error)
    moments /= seeds
    return Calibration(model, seeds, every.times, every.shapes, solver, basis.name, moments, gain, rest, spread)


@dataclass
class _Recording:
    """Calls of which everything is recorded: every grid at every step."""

    predictor: Predictor
    run: _Recorded = field(init=False)

    @property
    def grids(self) -> tuple[Shape, ...]:
        return self.predictor.grids

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.grids))),) * len(self.predictor.steps)

    def around(self, velocity: Velocity) -> Velocity:
        self.run = _Recorded(velocity, self.predictor)
        return self.run


class _Recorded(TwoGrids):
    """Asks every grid at every step, keeps states and answers, and shows the run what its pattern calls."""

    def reset(self) -> None:
        super().reset()
        self.states: list[Tensor] = []
        self.answers: list[list[Tensor]] = []

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self._said = [super(_Recorded, self)._ask(x, t, g) for g in range(len(self.pattern.shapes))]
        self.states.append(self._coefficients(x))
        self.answers.append([coefficients for _, coefficients in self._said])
        return super().__call__(x, t)

    def _ask(self, x: Tensor, t: float, index: int) -> tuple[Tensor, Tensor]:
        return self._said[index]

    def band(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """States (steps, values) and answers (steps, grids, values) of a band."""
        said = [[_inside(c, inside, self.pattern.shape) for c in row] for row in self.answers]
        states = [_inside(c, inside, self.pattern.shape) for c in self.states]
        return torch.stack(states), torch.stack([torch.stack(row) for row in said])


def _inside(coefficients: Tensor, inside: Tensor, full: Shape) -> Tensor:
    """Float64 values of a band; 0 where a coarse grid holds none of it."""
    dims = len(full)
    whole = coefficients.new_zeros(*coefficients.shape[:-dims], *full)
    whole[corner(coefficients.shape[-dims:])] = coefficients
    return whole.flatten(-dims)[..., inside.to(whole.device)].double().flatten()


def _end(velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver) -> Tensor:
    history: History | None = None
    for t, t_next in pairwise(times):
        x, history = solver(velocity, x, t, t_next, history)
    return x


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a calibration says of one pattern.

    Attributes
    ----------
    predictor
        The pattern with the weights to run it with: ``TwoGrids(velocity, outcome.predictor)``.
    psnr
        Median PSNR to the same seed's full run, in dB, for values that span 2: predicted, or measured by :func:`refine`.
    cost
        In full-size calls.
    measured
        Whether the PSNR was measured.
    """

    predictor: Predictor
    psnr: float
    cost: float
    measured: bool = False

    @property
    def pattern(self) -> Pattern:
        """The pattern."""
        return self.predictor.pattern

    @property
    def plan(self) -> Plan:
        """What :func:`~spectral_pd.sample` takes, with the PSNR as a note."""
        how = "measured" if self.measured else "predicted"
        note = f"median PSNR to the same seed's full run: {self.psnr:.1f} dB {how}, for values that span 2"
        return replace(self.predictor.plan, notes=(note,))


def simulate(
    calibration: Calibration, called: Tensor, *, features: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the pictures of many patterns, and their weights, from the moments alone.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    called
        bool (patterns, steps, grids): whether a pattern calls a grid at a step.
    features
        Indices of the features that may have a weight (see :class:`~spectral_pd.two_grids.Predictor`); None: all.

    Returns
    -------
    (error, weights): float64 (patterns,) and (patterns, steps, bands, features).
    """
    moments, (count, steps, grids) = calibration.moments, called.shape
    size, solver = moments.shape[-1], find_solver(calibration.solver)
    # A row is [a, slots, a M]: combination of the recorded vectors, of one independent error a step, and its product with M,
    # which is linear too and need never be multiplied again.
    variance = torch.zeros(count, len(moments), steps, dtype=torch.float64)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        """a M b' of rows (patterns, bands, rows, ...)."""
        slots = (a[..., size:-size] * variance[:, :, None]) @ b[..., size:-size].mT
        return a[..., :size] @ b[..., -size:].mT + slots

    def unit(index: int) -> Tensor:
        row = torch.zeros(len(moments), size + steps + size, dtype=torch.float64)
        row[:, index] = 1.0
        if index < size:
            row[:, -size:] = moments[:, index]
        return row.expand(count, -1, -1)

    x = reference = start = unit(0)
    history: History | None = None
    exact_history: History | None = None
    estimates = [torch.zeros_like(start)] * 2
    past = [[torch.zeros_like(start)] * 2 for _ in range(grids)]
    used = torch.full((CALLS + 3 * grids,), features is None).double()
    used[list(features or ())] = 1.0
    kept = []
    for k, (t, t_next) in enumerate(pairwise(calibration.times)):
        on = called[:, k].mT[..., None, None]
        moved = (x - reference)[:, :, None]
        power = inner(moved, moved)[..., 0, 0].clamp(min=0)
        now = []
        for g in range(grids):
            now.append(
                on[g] * (unit(1 + k * grids + g) + calibration.gain[k, g][:, None] * (x - reference) + unit(size + k))
            )
            variance[:, :, k] += on[g][..., 0] * calibration.noise[k, g] * power
        phi = torch.stack([x, start, *estimates, *(row for g in range(grids) for row in (now[g], *past[g]))], 2)
        phi, exact = phi * used[:, None], unit(k * grids + grids)
        weights = _regress(inner(phi, phi), inner(phi, exact[:, :, None])[..., 0])
        kept.append(weights)
        estimate = torch.where(on[-1], now[-1], (weights[..., None, :] @ phi)[:, :, 0])
        x, history = solver(towards(estimate), x, t, t_next, history)
        reference, exact_history = solver(towards(exact), reference, t, t_next, exact_history)
        estimates = [estimate, estimates[0]]
        past = [[torch.where(a, n, p), torch.where(a, p, q)] for a, n, (p, q) in zip(on, now, past, strict=True)]
    moved = (x - reference)[:, :, None]
    return inner(moved, moved)[..., 0, 0].sum(1).clamp(min=0), torch.stack(kept, 1)


def _regress(gram: Tensor, right: Tensor) -> Tensor:
    """Coefficients of the best linear prediction, from moments (..., f, f) of the features and (..., f) with the target."""
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    # A feature that is not there is a row of zeros, and gets weight 0.
    inverse = torch.where(scale > 1e-9 * scale.amax(-1, keepdim=True), 1 / scale, 0.0)
    gram = gram * inverse[..., :, None] * inverse[..., None, :]
    ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge + torch.diag_embed((inverse == 0).double()), right * inverse) * inverse


def forecast(calibration: Calibration, patterns: Sequence[Pattern], *, cost: Cost | None = None) -> list[Outcome]:
    """Weights for patterns, and the PSNR they will have.

    Parameters
    ----------
    calibration, cost
        As :func:`choose_pattern`.
    patterns
        Patterns on the calibration's times and grids.

    Raises
    ------
    ValueError, TypeError
        Patterns on others.
    """
    fitting(patterns, CALIBRATION(calibration, "calibration"))
    grids, out, basis = range(len(calibration.shapes)), list[Outcome](), BASES[calibration.basis]
    cost = calibration.cost if cost is None else cost
    for begin in range(0, len(patterns), CHUNK):
        some = patterns[begin : begin + CHUNK]
        error, weights = simulate(calibration, torch.tensor([[[g in s for g in grids] for s in p.calls] for p in some]))
        for pattern, e, w in zip(some, error.clamp(min=1e-30).log10(), weights, strict=True):
            psnr = 10 * (math.log10(4) - float(e)) + calibration.spread
            out.append(Outcome(Predictor(pattern, w, basis), psnr, pattern.cost(cost)))
    return out


@torch.no_grad()
@door(velocity=runs.velocity)
def refine(
    velocity: Velocity,
    noise: Tensor,
    calibration: Calibration,
    patterns: Sequence[Pattern],
    *,
    cost: Cost | None = None,
) -> list[Outcome]:
    """Weights fitted in the pattern's own runs, and the PSNR those runs have: what a shortlist is decided by.

    Each pattern is run once from `noise`, step by step behind a regression on the full run's answers, so that the weights know
    the pattern's own errors, which :func:`forecast` knows by the calibration's gains alone.

    Parameters
    ----------
    velocity, noise
        As :func:`calibrate`; the same seeds will do.
    calibration, patterns, cost
        As :func:`forecast`; the calibration gives solver and basis.

    Raises
    ------
    ValueError, TypeError
        Noise of another size, patterns on other times and grids.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field, noise = GaussianField(PRESETS["flux"], (16, 16)), torch.randn(8, 4, 16, 16)
    >>> found = calibrate(field.velocity, noise, shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> short = [one.pattern for one in choose_pattern(found, 2.0, keep=2)]
    >>> [one.pattern == pattern for one, pattern in zip(refine(field.velocity, noise, found, short), short, strict=True)]
    [True, True]
    """
    fitting(patterns, CALIBRATION(calibration, "calibration"))
    cost = calibration.cost if cost is None else cost
    x = runs.full_size(noise, "noise", calibration.shapes[-1], "the calibration's full grid")
    x, solver, basis = x.to(working_dtype(x.dtype)), find_solver(calibration.solver), BASES[calibration.basis]
    every = Pattern(calibration.times, calibration.shapes[-1:], ((0,),) * (len(calibration.times) - 1))
    recorded = _Recorded(velocity, held(every, basis=basis))
    reference, out = _end(recorded, x, calibration.times, solver), []
    for pattern in patterns:
        weights = torch.zeros(weights_shape(pattern, basis), dtype=torch.float64)
        fitted = _Fitted(velocity, Predictor(pattern, weights, basis))
        fitted.targets = [row[0] for row in recorded.answers]
        error = (_end(fitted, x, pattern.times, solver) - reference).double().square().flatten(1).mean(1)
        psnr = float((10 * torch.log10(4 / error.clamp(min=1e-30))).quantile(0.5))
        out.append(Outcome(fitted.predictor, psnr, pattern.cost(cost), measured=True))
    return out


class _Fitted(TwoGrids):
    """Fits the weights of each step when the step comes."""

    targets: Sequence[Tensor]
    """Coefficients of what the full run's call says at each step."""

    def weights_of(self, step: int, features: list[Tensor | None]) -> Tensor:
        full, target = self.pattern.shape, self.targets[step]
        for band in range(self.predictor.weights.shape[1]):
            inside = (self._label.flatten() == band).nonzero()[:, 0]
            goal = _inside(target, inside, full)
            phi = torch.stack([torch.zeros_like(goal) if f is None else _inside(f, inside, full) for f in features])
            self.predictor.weights[step, band] = _regress(phi @ phi.T, phi @ goal).cpu()
        return self.predictor.weights[step]


def choose_pattern(
    calibration: Calibration,
    speedup: float,
    *,
    cost: Cost | None = None,
    grids: Sequence[int] | None = None,
    keep: int = 1,
) -> list[Outcome]:
    """The patterns with the highest predicted PSNR at a speedup, the best first.

    From evenly spaced calls, calls are exchanged, one step or two at a time, as long as the simulated error falls. With
    full-size calls alone there are few patterns; the best of them is where the search over all grids begins, too.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    speedup
        Least cost of the full run over the pattern's, above 1.
    cost
        Cost of a call on a grid; None: the calibration's own.
    grids
        Indices of the grids that may be called; None: all. The full size may always be.
    keep
        How many patterns, each different from the others in three steps at least; :func:`refine` decides among them.

    Raises
    ------
    ValueError, TypeError
        A speedup that is not above 1, or leaves less than one full-size call; no such grid.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = calibrate(field.velocity, torch.randn(8, 4, 16, 16), shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> choose_pattern(found, 2.0)[0].cost <= 3
    True
    """
    shapes = CALIBRATION(calibration, "calibration").shapes
    steps, full = len(calibration.times) - 1, len(shapes)
    budget = affordable(speedup, steps)
    fn = calibration.cost if cost is None else cost
    price = [0.0, *(runs.cost(fn, shape) / runs.cost(fn, shapes[-1]) for shape in shapes)]
    # A step is 0, no call, or 1 + the grid it calls.
    options = sorted(
        {0, full} | {g + 1 for g in (range(full) if grids is None else indices(grids, "grids", "grids", full))}
    )
    errors: dict[tuple[int, ...], float] = {}
    rng = random.Random(0)

    def learn(choices: Sequence[tuple[int, ...]]) -> None:
        for begin in range(0, len(choices), CHUNK):
            some = choices[begin : begin + CHUNK]
            called = torch.nn.functional.one_hot(torch.tensor(some), full + 1)[..., 1:].bool()
            errors.update(zip(some, simulate(calibration, called)[0].tolist(), strict=True))

    for within in ([0, full], options):
        learn([c for c in dict.fromkeys(_even(steps, price, within, budget)) if c not in errors])
        patience = PATIENCE
        while patience:
            least = min(errors.values())
            for choice in sorted(errors, key=errors.__getitem__)[:2]:
                near = {c for c in _exchanges(choice, within) if sum(price[i] for i in c) <= budget + 1e-9}
                new = sorted(near - errors.keys())
                learn(rng.sample(new, min(NEIGHBOURS, len(new))))
            patience = PATIENCE if min(errors.values()) < least else patience - 1
    kept: list[tuple[int, ...]] = []
    for choice in sorted(errors, key=errors.__getitem__):
        if len(kept) < keep and all(sum(a != b for a, b in zip(choice, other, strict=True)) > 2 for other in kept):
            kept.append(choice)
    calls = [tuple((c - 1,) if c else () for c in choice) for choice in kept]
    return forecast(calibration, [Pattern(calibration.times, shapes, c) for c in calls], cost=fn)


def speeds(calibration: Calibration, speedups: Sequence[float] | None = None) -> str:
    """A table of what each speedup is predicted to give: the best calls on all grids, and with the full size alone.

    Parameters
    ----------
    calibration, speedups
        From :func:`calibrate`, and the speedups to ask :func:`choose_pattern` for, one row each; None: 1.5 to 5, as far as the
        number of steps goes.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = calibrate(field.velocity, torch.randn(8, 4, 16, 16), shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> speeds(found, (2.0,)).splitlines()[0].split()
    ['speedup', 'PSNR', 'calls', 'PSNR,', 'full', 'size', 'only']
    """
    rows = [("speedup", "PSNR", "calls", "PSNR, full size only")]
    if speedups is None:
        speedups = [s for s in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0) if s <= len(calibration.times) - 1]
    for speedup in speedups:
        best = choose_pattern(calibration, speedup)[0]
        alone = choose_pattern(calibration, speedup, grids=(len(calibration.shapes) - 1,))[0]
        factor = (len(calibration.times) - 1) / best.cost
        rows.append((f"{factor:.2f}x", f"{best.psnr:.1f}", str(best.pattern), f"{alone.psnr:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _exchanges(choice: tuple[int, ...], options: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every pattern that differs in one step or two, and is not cheaper in both."""
    for i, _ in enumerate(choice):
        for a in (a for a in options if a > choice[i]):
            raised = (*choice[:i], a, *choice[i + 1 :])
            yield raised
            yield from ((*raised[:j], b, *raised[j + 1 :]) for j, _ in enumerate(choice) if j != i for b in options)


def _even(steps: int, price: Sequence[float], options: Sequence[int], budget: float) -> Iterator[tuple[int, ...]]:
    """Evenly spaced full-size calls, the rest of the budget spent evenly on each coarse grid, or on none."""
    full = options[-1]
    for anchors in range(1, int(budget + 1e-9) + 1):
        for coarse in options[:-1]:
            choice = [0] * steps
            for i in range(anchors):
                choice[round(i * steps / anchors)] = full
            free = [k for k in range(steps) if not choice[k]]
            many = min(len(free), int((budget - anchors) / price[coarse] + 1e-9)) if coarse else 0
            for i in range(many):
                choice[free[i * len(free) // many]] = coarse
            yield tuple(choice)


# -- parsers ----------------------------------------------------------------------------------------------------------

CALIBRATION = inputs.instance(Calibration, "what calibrate returned, or Calibration.load(path)")


def fitting(patterns: Sequence[Pattern], calibration: Calibration) -> None:
    """Patterns on a calibration's times and grids."""
    for pattern in patterns:
        if inputs.instance(Pattern, "a sequence of Pattern")(pattern, "patterns").times != calibration.times:
            raise ValueError(f"patterns has times that the calibration has not; use its own, {len(calibration.times)}")
        if pattern.shapes != calibration.shapes:
            raise ValueError(f"patterns has grids {pattern.shapes}; the calibration was made on {calibration.shapes}")


def affordable(speedup: float, steps: int) -> float:
    """Full-size calls that a speedup leaves."""
    if not 1 < inputs.number(speedup, "speedup") <= steps:
        raise ValueError(f"speedup = {speedup} must lie between 1 and the number of steps, {steps}")
    return steps / speedup
