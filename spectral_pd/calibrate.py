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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from spectral_pd.bases import BASES, DCT, Basis, check_state, corner, size_ratio, working_dtype
from spectral_pd.schedule import check_stage_scales, check_times, checked_cost, stage_shape, token_cost
from spectral_pd.solvers import History, Solver, SolverName, Velocity, find_solver
from spectral_pd.two_grids import FEATURES, Pattern, Predictor, Shape, TwoGrids, anchored, make_bands

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
    per_octave
        Of :func:`~spectral_pd.two_grids.make_bands`.
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
    per_octave: int = 2

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
        if not isinstance(data, dict) or data.pop("type", None) != "Calibration" or set(data) != set(cls.__annotations__):
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
    times = check_times(times)
    check_state(noise, "noise", dims)
    full = tuple(noise.shape[-dims:])
    shapes = tuple(stage_shape(full, s, multiple_of=multiple_of) for s in check_stage_scales(scales, dims))
    if solver == "heun":
        raise ValueError("solver = 'heun' calls twice a step; calibrate with 'euler' or 'dpmpp_2m'")
    step_with = find_solver(solver)
    steps, grids = len(times) - 1, len(shapes)
    bands = make_bands(shapes, basis=basis)
    flat = bands.label.flatten()
    members = [(flat == b).nonzero()[:, 0] for b in range(len(bands.grid))]
    every = anchored(times, full, anchors=range(steps), scales=scales, multiple_of=multiple_of)
    few = anchored(times, full, anchors=range(0, steps, 4), scales=scales, multiple_of=multiple_of)

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
            size = x[:, ..., 0, 0].numel() if dims == 2 else x.flatten(-dims)[..., 0].numel()
            moments[b] += (rows @ rows.T).cpu() * share / (size * len(flat))
            xi = change[..., inside.to(x.device)].double().flatten(1)[:, None]
            eta = response[..., inside.to(x.device)].double().flatten(2)
            for i, product in enumerate((xi * xi, xi * eta, eta * eta)):
                products[i, :, :, b] += product.sum(-1).cpu()
    power, along, total = products
    gain = torch.where(power > 0, along / power.clamp(min=1e-300), 0.0)
    rest = torch.where(power > 0, (total - gain * along).clamp(min=0) / power.clamp(min=1e-300), 0.0)
    # The first states are equal; what an answer there would do with another one is not asked.
    error = torch.cat(errors)
    spread = 10 * math.log10(float(error.mean() / error.median())) if float(error.min()) > 0 else 0.0
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
    pattern
        The pattern.
    predictor
        Weights to run it with.
    psnr
        Predicted median PSNR to the same seed's full run, in dB, for values that span 2.
    cost
        In full-size calls.
    """

    pattern: Pattern
    predictor: Predictor
    psnr: float
    cost: float


def simulate(calibration: Calibration, called: Tensor, *, weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """Mean squared error of the pictures of many patterns, and their weights, from the moments alone.

    Parameters
    ----------
    calibration
        Of :func:`calibrate`.
    called
        bool (patterns, steps, grids): whether a pattern calls a grid at a step.
    weights
        Return the weights too.

    Returns
    -------
    (error, weights)
        float64 (patterns,), and float64 (patterns, steps, bands, features) or None.
    """
    moments = calibration.moments.to(called.device)
    gain, noise = calibration.gain.to(called.device), calibration.noise.to(called.device)
    count, steps, grids = called.shape
    bands, size = moments.shape[:2]
    solver, times = find_solver(calibration.solver), calibration.times
    options = {"dtype": torch.float64, "device": called.device}
    # Rows over the recorded vectors, and behind them one slot a step for the error of that step's call.
    variance = torch.zeros(count, bands, steps, **options)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        """a M b' of rows (patterns, bands, rows, size + steps)."""
        slots = (a[..., size:] * variance[:, :, None]) @ b[..., size:].mT
        return (a[..., :size] @ moments) @ b[..., :size].mT + slots

    def unit(index: int) -> Tensor:
        row = torch.zeros(size + steps, **options)
        row[index] = 1.0
        return row.expand(count, bands, -1)

    start = unit(0)
    x, reference = start, start
    history: History | None = None
    reference_history: History | None = None
    nothing = torch.zeros_like(start)
    estimates = [nothing, nothing]
    past = [[nothing, nothing] for _ in range(grids)]
    kept = []
    for k, (t, t_next) in enumerate(pairwise(times)):
        moved = x - reference
        power = inner(moved[:, :, None], moved[:, :, None])[..., 0, 0]
        now = []
        for g in range(grids):
            on = called[:, k, g, None, None].double()
            answer = unit(1 + k * grids + g) + gain[k, g][:, None] * moved
            answer = answer + unit(size + k)
            variance[:, :, k] += called[:, k, g, None] * noise[k, g] * power
            now.append(on * answer)
        features = [x, start, *estimates]
        for g in range(grids):
            features += [now[g], *past[g]]
        phi = torch.stack(features, 2)
        target = unit(1 + k * grids + grids - 1)[:, :, None]
        gram = inner(phi, phi)
        scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().clamp(min=1e-12)
        right = inner(phi, target)[..., 0] / scale
        gram = gram / (scale[..., :, None] * scale[..., None, :])
        gram = gram + RIDGE * torch.eye(gram.shape[-1], **options)
        a = torch.linalg.solve(gram, right) / scale
        estimate = torch.where(called[:, k, -1, None, None], now[-1], (a[..., None] * phi).sum(2))
        if weights:
            kept.append(a)
        x, history = solver(lambda y, s, d=estimate: (y - d) / s, x, t, t_next, history)
        exact = target[:, :, 0]
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
