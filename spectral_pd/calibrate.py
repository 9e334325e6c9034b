r"""Which grids to call when: a model's second moments from a few full runs, and what every pattern does with them.

Along the full run of a seed the network says ``D_k`` at full size, and would say ``C_k`` on a coarser grid. Everything a pattern of
calls (:mod:`spectral_pd.two_grids`) can know is a linear combination of these and of the starting noise w, so the moments

    ``M_b[i, j] = E <f_i, f_j>_b``,     ``f = (w, D_0, C_0, D_1, C_1, ...)``,

band by band, hold the drift of the defect, of the high band and of everything else over T. With them

*the weights* of the best linear prediction of ``D_k`` from what a pattern has seen by then solve ``(Phi M Phi') a = Phi M e_k``;

*a run* is simulated without the network: states and estimates are rows over f, moved by the solver itself. A call at a state that
has left the full run's by ``xi`` answers ``D_k + g_k xi`` plus an error of power ``n_k |xi|^2``, with ``g`` and ``n`` measured on one
more run with few anchors;

*the error* of the picture, ``xi_N M xi_N'``, predicts the PSNR to the same seed's full run, for thousands of patterns a second.

:func:`choose_pattern` searches them: dynamic programming over pairwise drifts first, then exchanges of calls on the simulation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASES, DCT, Basis, corner, size_ratio
from spectral_pd.inputs import working_dtype
from spectral_pd.plan import Cost
from spectral_pd.schedule import stage_shape, token_cost
from spectral_pd.solvers import History, Solver, SolverName, Velocity, find_solver
from spectral_pd.two_grids import FEATURES, Pattern, PredictedRule, Predictor, Shape, TwoGrids, anchored, make_bands

RIDGE = 1e-4
"""Added to the unit diagonal of every regression: what a run has seen differs from the full run by its own errors."""


@dataclass(frozen=True)
class Calibration:
    """What a few full runs of a model say about patterns of calls; made by :func:`calibrate`, kept as JSON.

    Attributes
    ----------
    model
        Whose runs.
    times, shapes
        The full run's time grid, and the grids, coarse to fine.
    solver, basis
        Names of the solver and the basis.
    seeds
        Number of runs.
    moments
        float64 (bands, 1 + steps grids, the same): the starting noise, then for each step the answers on all grids, coarse to
        fine. Sums over bands are means over the picture's values.
    gain, noise
        float64 (steps, grids, bands): how an answer follows the state, and the unexplained rest over the state's power.
    spread
        Median PSNR over seeds minus the PSNR of the mean error, in dB.
    """

    model: str
    times: tuple[float, ...]
    shapes: tuple[Shape, ...]
    solver: SolverName
    basis: str
    seeds: int
    moments: Tensor
    gain: Tensor
    noise: Tensor
    spread: float

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back: moments and gains to 8 digits."""
        data = {"type": "Calibration", **self.__dict__}
        for name in ("moments", "gain", "noise"):
            data[name] = _rounded(getattr(self, name))
        Path(path).write_text(json.dumps(data) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            Not such a file.
        """
        try:
            data = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if (
            not isinstance(data, dict)
            or data.pop("type", None) != "Calibration"
            or set(data) != set(cls.__annotations__)
        ):
            raise ValueError(f"{path} does not hold a whole Calibration; write one with Calibration.save(path)")
        for name in ("moments", "gain", "noise"):
            data[name] = torch.tensor(data[name], dtype=torch.float64)
        return cls(**{**data, "times": tuple(data["times"]), "shapes": tuple(tuple(s) for s in data["shapes"])})


def _rounded(values: Tensor) -> list:
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.8g}"))


@torch.no_grad()
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
        Starting states (seeds, ..., *full grid), eight or more.
    times
        The full run's time grid: the run that patterns are to repeat for less.
    scales, multiple_of
        The coarse grids, as in :func:`~spectral_pd.make_plan`.
    dims
        Number of trailing spectral axes.
    solver
        Name of a solver that calls once a step: ``"euler"`` or ``"dpmpp_2m"``.
    basis
        A built-in basis that is nested on these grids.
    batch
        Seeds run together.
    model
        Name kept with the numbers.

    Raises
    ------
    ValueError, TypeError
        Noise that is no floating batch with `dims` spectral axes, a solver that calls twice, grids the basis cannot reach.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = calibrate(field.velocity, torch.randn(8, 4, 16, 16), shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> found.moments.shape[1], found.gain.shape[:2]
    (13, torch.Size([6, 2]))
    """
    times = inputs.times(times, "times")
    inputs.state(noise, "noise", dims)
    full = tuple(noise.shape[-dims:])
    shapes = tuple(stage_shape(full, s, multiple_of=multiple_of) for s in inputs.stage_scales(scales, dims))
    if solver == "heun":
        raise ValueError("solver = 'heun' calls twice a step; calibrate with 'euler' or 'dpmpp_2m'")
    step_with = find_solver(solver)
    steps, grids = len(times) - 1, len(shapes)
    bands = make_bands(shapes, basis=basis)
    flat = bands.label.flatten()
    members = [(flat == b).nonzero()[:, 0] for b in range(len(bands.grid))]
    every = anchored(times, full, anchors=range(steps), scales=scales, multiple_of=multiple_of)
    # From the first step on away from the full run: what answers make of that is wanted at every step.
    few = anchored(times, full, anchors=range(1, steps, 4), scales=scales, multiple_of=multiple_of)

    moments = torch.zeros(len(members), 1 + steps * grids, 1 + steps * grids, dtype=torch.float64)
    products = torch.zeros(3, steps, grids, len(members), dtype=torch.float64)
    errors = []
    for x in noise.to(working_dtype(noise.dtype)).split(batch):
        share = len(x) / len(noise)
        states, answers, picture = _recorded(velocity, x, every, step_with, basis)
        moved_states, moved_answers, other = _recorded(velocity, x, few, step_with, basis)
        errors.append((picture - other).double().square().flatten(1).mean(1))
        known = torch.cat([states[:1], answers.flatten(0, 1)])
        change, response = moved_states - states, moved_answers - answers
        for b, inside in enumerate(members):
            rows = known[..., inside.to(x.device)].double().flatten(1)
            moments[b] += (rows @ rows.T).cpu() * share / x.numel()
            xi = change[..., inside.to(x.device)].double().flatten(1)[:, None]
            eta = response[..., inside.to(x.device)].double().flatten(2)
            for i, product in enumerate((xi * xi, xi * eta, eta * eta)):
                products[i, :, :, b] += product.sum(-1).cpu()
    power, along, total = products
    gain = torch.where(power > 0, along / power.clamp(min=1e-300), 0.0)
    rest = torch.where(power > 0, (total - gain * along).clamp(min=0) / power.clamp(min=1e-300), 0.0)
    # The first states are equal; what an answer there would do with another one is not asked.
    error = torch.cat(errors)
    spread = 10 * math.log10(float(error.mean() / error.quantile(0.5))) if float(error.min()) > 0 else 0.0
    name = next(name for name, known_basis in BASES.items() if known_basis is basis)
    return Calibration(model, times, shapes, solver, name, len(noise), moments, gain, rest, spread)


def _recorded(
    velocity: Velocity, x: Tensor, pattern: Pattern, solver: Solver, basis: Basis
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of states (steps, seeds, ..., n) and answers (steps, grids, seeds, ..., n) along a run, and its picture.

    At each step all grids are called; the pattern decides what the run itself gets to see.
    """
    dims, full = len(pattern.shape), pattern.shape
    said: dict[Shape, Tensor] = {}
    every = Pattern(pattern.times, pattern.shapes, (tuple(range(len(pattern.shapes))),) * pattern.steps)
    ask = TwoGrids(lambda y, tau: said.setdefault(tuple(y.shape[-dims:]), velocity(y, tau)), every, basis=basis)
    two = TwoGrids(lambda y, tau: said[tuple(y.shape[-dims:])], pattern, basis=basis)
    states, answers = [], []

    def call(x: Tensor, t: float) -> Tensor:
        said.clear()
        ask(x, t)
        states.append(basis.forward(x, dims=dims).flatten(-dims))
        row = []
        for shape in pattern.shapes:
            ratio = size_ratio(shape, full)
            tau = t / (ratio - (ratio - 1) * t)
            y = basis.restrict(x, shape) * (tau / t)
            padded = torch.zeros_like(x)
            padded[corner(shape)] = basis.forward(y - tau * said[shape], dims=dims) * ratio
            row.append(padded.flatten(-dims))
        answers.append(torch.stack(row))
        return two(x, t)

    history = None
    for t, t_next in pairwise(pattern.times):
        x, history = solver(call, x, t, t_next, history)
    return torch.stack(states), torch.stack(answers), x


@dataclass(frozen=True)
class Outcome:
    """What a calibration says of one pattern.

    Attributes
    ----------
    predictor
        The pattern with the weights to run it with: ``TwoGrids(velocity, outcome.pattern, predictor=outcome.predictor)``.
    psnr
        Predicted median PSNR to the same seed's full run, in dB, for values that span 2.
    cost
        In full-size calls.
    """

    predictor: Predictor
    psnr: float
    cost: float

    @property
    def pattern(self) -> Pattern:
        """The pattern."""
        return self.predictor.pattern


def forecast(
    calibration: Calibration,
    patterns: Sequence[Sequence[Sequence[int]]],
    *,
    cost: Cost | None = None,
    device: str = "cpu",
) -> list[Outcome]:
    """Weights for patterns of calls, and the PSNR they will have.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    patterns
        For each pattern and step the grids it calls, as in :class:`~spectral_pd.two_grids.Pattern`.
    cost
        Cost of a call on a grid, by default :func:`~spectral_pd.token_cost`.
    device
        Where to compute.

    Raises
    ------
    ValueError, TypeError
        Calls that are no pattern on the calibration's times and grids.
    """
    out = []
    for begin in range(0, len(patterns), 128):
        some = [Pattern(calibration.times, calibration.shapes, tuple(c)) for c in patterns[begin : begin + 128]]
        called = torch.zeros(len(some), some[0].steps, len(some[0].shapes), dtype=torch.bool)
        for i, pattern in enumerate(some):
            for k, step in enumerate(pattern.calls):
                called[i, k, list(step)] = True
        error, weights = simulate(calibration, called.to(device), weights=True)
        assert weights is not None
        for pattern, e, w in zip(some, error.tolist(), weights.cpu(), strict=True):
            out.append(Outcome(Predictor(pattern, w), _decibels(e) + calibration.spread, pattern.cost(cost)))
    return out


@torch.no_grad()
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
    calibration
        Gives times, grids, solver and basis.
    patterns
        Patterns on the calibration's times and grids.
    cost
        As :func:`forecast`.

    Returns
    -------
    One outcome a pattern, in their order; its PSNR is measured.

    Raises
    ------
    ValueError, TypeError
        As :func:`calibrate`.
    """
    solver, basis, dims = find_solver(calibration.solver), BASES[calibration.basis], len(calibration.shapes[-1])
    x = inputs.state(noise, "noise", dims).to(working_dtype(noise.dtype))
    targets: list[Tensor] = []

    def watched(x: Tensor, t: float) -> Tensor:
        v = velocity(x, t)
        targets.append(basis.forward(x - t * v, dims=dims))
        return v

    reference = _end(watched, x, calibration.times, solver)
    out = []
    for pattern in patterns:
        features = len(FEATURES) + 3 * len(pattern.shapes)
        empty = torch.zeros(pattern.steps, calibration.moments.shape[0], features, dtype=torch.float64)
        predictor = Predictor(pattern, empty)
        two = TwoGrids(velocity, pattern, basis=basis, predictor=predictor)
        two.rule = _Fitting(predictor, basis, targets)
        two.reset()
        error = (_end(two, x, pattern.times, solver) - reference).double().square().flatten(1).mean(1)
        out.append(Outcome(predictor, float((10 * torch.log10(4 / error)).quantile(0.5)), pattern.cost(cost)))
    return out


def _end(velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver) -> Tensor:
    history: History | None = None
    for t, t_next in pairwise(times):
        x, history = solver(velocity, x, t, t_next, history)
    return x


class _Fitting(PredictedRule):
    """Fits the weights of each step, in the predictor, when the step comes."""

    def __init__(self, predictor: Predictor, basis: Basis, targets: Sequence[Tensor]) -> None:
        super().__init__(predictor, basis)
        self.targets = targets

    def weights_of(self, step: int, features: list[Tensor | None]) -> Tensor:
        target = self.targets[step]
        rows = torch.zeros(len(features), *target.shape, dtype=target.dtype, device=target.device)
        for row, feature in zip(rows, features, strict=True):
            if feature is not None:
                row[corner(feature.shape[-self.dims :])] = feature
        label = self.label.to(target.device).flatten()
        for band in range(self.weights.shape[1]):
            phi = rows.flatten(-self.dims)[..., label == band].double().flatten(1)
            goal = target.flatten(-self.dims)[..., label == band].double().flatten()
            self.weights[step, band] = _regress(phi @ phi.T, phi @ goal).cpu()
        return self.weights[step]


def _decibels(error: float) -> float:
    """PSNR of a mean squared error, peak 2."""
    return 10 * math.log10(4 / error) if error > 0 else math.inf


def simulate(
    calibration: Calibration, called: Tensor, *, weights: bool = False, features: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Mean squared error of the pictures of many patterns, and their weights, from the moments alone.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    called
        bool (patterns, steps, grids): whether a pattern calls a grid at a step. Computed where it lies.
    weights
        Return the weights too.
    features
        Indices of the features that may have a weight (see :class:`~spectral_pd.two_grids.Predictor`); None: all.

    Returns
    -------
    (error, weights)
        float64 (patterns,), and float64 (patterns, steps, bands, features) or None.
    """
    moments = calibration.moments.to(called.device)
    gain, noise = calibration.gain.to(called.device), calibration.noise.to(called.device)
    count, steps, grids = called.shape
    bands, size = moments.shape[:2]
    solver, options = find_solver(calibration.solver), {"dtype": torch.float64, "device": called.device}
    # A row is [a, slots, a M]: combination of the recorded vectors, of one independent error a step, and its product with M,
    # which is linear too and need never be multiplied again.
    variance = torch.zeros(count, bands, steps, **options)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        """a M b' of rows (patterns, bands, rows, ...)."""
        middle = size + steps
        slots = (a[..., size:middle] * variance[:, :, None]) @ b[..., size:middle].mT
        return a[..., :size] @ b[..., middle:].mT + slots

    def unit(index: int) -> Tensor:
        row = torch.zeros(bands, size + steps + size, **options)
        row[:, index] = 1.0
        if index < size:
            row[:, size + steps :] = moments[:, index]
        return row.expand(count, -1, -1)

    start = unit(0)
    x, reference = start, start
    history: History | None = None
    reference_history: History | None = None
    nothing = torch.zeros_like(start)
    estimates = [nothing, nothing]
    past = [[nothing, nothing] for _ in range(grids)]
    kept = []
    used = torch.ones(len(FEATURES) + 3 * grids, **options)
    if features is not None:
        used = torch.zeros_like(used).index_fill_(0, torch.tensor(features, device=called.device), 1.0)
    for k, (t, t_next) in enumerate(pairwise(calibration.times)):
        moved = x - reference
        power = inner(moved[:, :, None], moved[:, :, None])[..., 0, 0].clamp(min=0)
        now = []
        for g in range(grids):
            answer = unit(1 + k * grids + g) + gain[k, g][:, None] * moved + unit(size + k)
            variance[:, :, k] += called[:, k, g, None] * noise[k, g] * power
            now.append(called[:, k, g, None, None] * answer)
        seen = [x, start, *estimates]
        for g in range(grids):
            seen += [now[g], *past[g]]
        phi, exact = torch.stack(seen, 2) * used[:, None], unit(1 + k * grids + grids - 1)
        weight = _regress(inner(phi, phi), inner(phi, exact[:, :, None])[..., 0])
        estimate = torch.where(called[:, k, -1, None, None], now[-1], (weight[..., None, :] @ phi)[:, :, 0])
        if weights:
            kept.append(weight)
        x, history = solver(lambda y, s, d=estimate: (y - d) / s, x, t, t_next, history)
        reference, reference_history = solver(
            lambda y, s, d=exact: (y - d) / s, reference, t, t_next, reference_history
        )
        estimates = [estimate, estimates[0]]
        for g in range(grids):
            on = called[:, k, g, None, None]
            past[g] = [torch.where(on, now[g], past[g][0]), torch.where(on, past[g][0], past[g][1])]
    moved = (x - reference)[:, :, None]
    error = inner(moved, moved)[..., 0, 0].sum(1).clamp(min=0)
    return error, torch.stack(kept, 1) if weights else None


def _regress(gram: Tensor, right: Tensor) -> Tensor:
    """Coefficients of the best linear prediction, from moments (..., f, f) of the features and (..., f) with the target."""
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    # A feature that is not there is a row of zeros, and gets weight 0.
    inverse = torch.where(scale > 1e-9 * scale.amax(-1, keepdim=True), 1 / scale, 0.0)
    gram = gram * inverse[..., :, None] * inverse[..., None, :]
    ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge + torch.diag_embed((inverse == 0).double()), right * inverse) * inverse


def drifts(calibration: Calibration) -> Tensor:
    """Error of one step's best estimate along the full run, by what it calls and the last anchor: (1 + grids - 1, steps + 1, steps).

    ``[option, a, k]``: mean squared error of predicting ``D_k`` from the state, the starting noise, ``D_{a-1}`` (a = 0: no anchor yet) and
    the call of step k: none (option 0), or the coarse grid ``option - 1``. Zero where ``a - 1 >= k``.
    """
    moments, steps, grids = calibration.moments, len(calibration.times) - 1, len(calibration.shapes)
    bands, size = moments.shape[:2]
    solver = find_solver(calibration.solver)
    rows = torch.eye(size, dtype=torch.float64)
    full = [rows[1 + k * grids + grids - 1] for k in range(steps)]
    x, history, states = rows[0], None, []
    for d, (t, t_next) in zip(full, pairwise(calibration.times), strict=True):
        states.append(x)
        x, history = solver(lambda y, s, d=d: (y - d) / s, x, t, t_next, history)
    out = torch.zeros(grids, steps + 1, steps, dtype=torch.float64)
    for k in range(steps):
        for a in range(k + 1):
            for option in range(grids):
                features = [states[k], rows[0], *([full[a - 1]] if a else [])]
                features += [rows[1 + k * grids + option - 1]] if option else []
                phi = torch.stack(features).expand(bands, -1, -1)
                right = (phi @ moments @ full[k][:, None])[..., 0]
                weight = _regress(phi @ moments @ phi.mT, right)
                missed = full[k] - (weight[:, None] @ phi)[:, 0]
                out[option, a, k] = torch.einsum("bi,bij,bj->", missed, moments, missed).clamp(min=0)
    return out


def choose_pattern(
    calibration: Calibration,
    speedup: float,
    *,
    cost: Cost | None = None,
    grids: Sequence[int] | None = None,
    rounds: int = 40,
    keep: int = 1,
    device: str = "cpu",
) -> list[Outcome]:
    """The patterns with the highest predicted PSNR at a speedup, the best first.

    Dynamic programming over :func:`drifts` finds where to begin, beside evenly spaced calls; then calls are exchanged, one step or
    two at a time, as long as the simulated error falls.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    speedup
        Cost of the full run over the pattern's, above 1; by counted calls.
    cost
        Cost of a call on a grid, by default :func:`~spectral_pd.token_cost`.
    grids
        Indices of the grids that may be called; None: all.
    rounds
        Most exchanges.
    keep
        How many patterns, each different from the others in three steps at least; :func:`refine` decides among them.
    device
        Where to simulate; a GPU is ten times faster.

    Raises
    ------
    ValueError
        A speedup that is not above 1, or leaves less than one full-size call.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = calibrate(field.velocity, torch.randn(8, 4, 16, 16), shift_times(6, shift=3.0), scales=(1 / 2, 1))
    >>> choose_pattern(found, 2.0)[0].cost <= 3
    True
    """
    steps, count = len(calibration.times) - 1, len(calibration.shapes)
    budget = steps / speedup if speedup > 1 else 0.0
    if budget < 1:
        raise ValueError(f"speedup = {speedup} must lie between 1 and the number of steps, {steps}")
    fn = token_cost(calibration.shapes[-1]) if cost is None else cost
    allowed = tuple(range(count)) if grids is None else tuple(grids)
    price = [0.0, *(inputs.cost(fn, shape) / inputs.cost(fn, calibration.shapes[-1]) for shape in calibration.shapes)]
    options = [0, *(g + 1 for g in allowed)]  # 0: no call

    def errors(choices: list[tuple[int, ...]]) -> list[float]:
        found: list[float] = []
        for begin in range(0, len(choices), 32):
            index = torch.tensor(choices[begin : begin + 32], device=device)
            called = torch.nn.functional.one_hot(index, count + 1)[..., 1:].bool()
            found += simulate(calibration, called)[0].tolist()
        return found

    def spent(choice: Sequence[int]) -> float:
        return sum(price[c] for c in choice)

    known: dict[tuple[int, ...], float] = {}
    generator = torch.Generator().manual_seed(0)
    # With full-size calls alone there are few patterns; the best of them is where the search over all grids begins, too.
    for within in ([0, allowed[-1] + 1], options) if len(allowed) > 1 else (options,):
        starts = {_programmed(calibration, price, within, budget), *_even(steps, price, within, budget)} - known.keys()
        known.update(zip(starts, errors(list(starts)), strict=True))
        for start in sorted(known, key=known.__getitem__)[:2]:
            best, patience = start, 2
            for _ in range(rounds):
                near = list(_exchanges(best, within))
                order = torch.randperm(len(near), generator=generator).tolist()
                new = [near[i] for i in order if near[i] not in known and spent(near[i]) <= budget + 1e-9][:128]
                known.update(zip(new, errors(new), strict=True))
                better = min(new, key=known.__getitem__, default=best)
                if known[better] < known[best]:
                    best, patience = better, 2
                else:
                    patience -= 1
                    if not new or not patience:
                        break
    kept: list[tuple[int, ...]] = []
    for choice in sorted(known, key=known.__getitem__):
        if len(kept) < keep and all(sum(a != b for a, b in zip(choice, other, strict=True)) > 2 for other in kept):
            kept.append(choice)
    return forecast(calibration, [[(c - 1,) if c else () for c in one] for one in kept], cost=fn, device=device)


def _exchanges(choice: tuple[int, ...], options: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every pattern that differs in one step or two, and is not cheaper in both."""
    steps = range(len(choice))
    for i in steps:
        for a in options:
            if a > choice[i]:
                yield (*choice[:i], a, *choice[i + 1 :])
            for j in steps:
                if i != j and a > choice[i]:
                    for b in options:
                        if b != choice[j]:
                            changed = list(choice)
                            changed[i], changed[j] = a, b
                            yield tuple(changed)


def _even(steps: int, price: Sequence[float], options: Sequence[int], budget: float) -> Iterator[tuple[int, ...]]:
    """Evenly spaced full-size calls, the rest of the budget spent evenly on each coarse grid, or on none."""
    full = options[-1]
    for anchors in range(1, int(budget / price[full] + 1e-9) + 1):
        for coarse in options[:-1]:
            choice = [0] * steps
            for i in range(anchors):
                choice[round(i * steps / anchors)] = full
            free = [k for k in range(steps) if not choice[k]]
            many = min(len(free), int((budget - anchors * price[full]) / price[coarse] + 1e-9)) if coarse else 0
            for i in range(many):
                choice[free[i * len(free) // many]] = coarse
            yield tuple(choice)


def _programmed(
    calibration: Calibration, price: Sequence[float], options: Sequence[int], budget: float
) -> tuple[int, ...]:
    """Dynamic programming over (step, last anchor, money): least sum of ``(1 - T'/T)^2`` times the drift."""
    unit, steps, full = 1 / 64, len(calibration.times) - 1, options[-1]
    money = int(budget / unit + 1e-9)
    drift = drifts(calibration)
    weights = [(1 - b / a) ** 2 for a, b in pairwise(calibration.times)]
    # best[a][m]: least sum so far with m units spent; came[k][a][m]: (option, last anchor) before.
    best = torch.full((steps + 1, money + 1), math.inf, dtype=torch.float64)
    best[0, 0] = 0.0
    came = []
    for k in range(steps):
        new = torch.full_like(best, math.inf)
        choice = torch.zeros(steps + 1, money + 1, 2, dtype=torch.long)
        for a in range(k + 1):
            for option in options:
                paid = math.ceil(price[option] / unit - 1e-9)
                if paid > money:
                    continue
                to = k + 1 if option == full else a
                extra = 0.0 if option == full else weights[k] * float(drift[option, a, k])
                value = torch.full_like(best[a], math.inf)
                value[paid:] = best[a, : money + 1 - paid] + extra
                better = value < new[to]
                new[to] = torch.where(better, value, new[to])
                choice[to][better] = torch.tensor([option, a])
        best = new
        came.append(choice)
    a, m = divmod(int(best.argmin()), money + 1)
    out = []
    for k in reversed(range(steps)):
        option, before = came[k][a, m].tolist()
        out.append(option)
        m -= math.ceil(price[option] / unit - 1e-9)
        a = before
    return tuple(reversed(out))
