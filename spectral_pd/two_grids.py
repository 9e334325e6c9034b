r"""Two grids at once: the state stays on the full grid, and each step says on which grids the network is CALLED.

At an anchor the network is called at full size, ``D_a = x - T v(x, T)``. Between anchors it is called on a smaller grid, on the
low band of the state, ``y = U^T x / kappa(tau, r)`` at ``tau = align(T, 1/r)``, or not at all, and the solver is given

    ``v = (x - D^) / T``

with an estimate ``D^`` of what the full-size call would have said. There are two rules for it.

*Held* (no calibration): the anchor's answer, moved by the change of the coarse call ``C`` since the anchor,

    ``D^ = D_a + r U (C - C_a) = r U (C + d_a) + H_a``,   ``d_a = U^T D_a / r - C_a``,   ``H_a = (I - U U^T) D_a``.

``d_a`` is the tau-correction of the full approximation scheme of multigrid (Brandt 1977). On three grids the coarse call is itself
such an estimate. Without an anchor yet, ``D^ = r U C``: the high band stays ``T w``, which is progressive sampling on the full
clock with coupled noise.

*Predicted* (:mod:`spectral_pd.calibrate`): in every band of frequencies the best linear combination of everything the run has
seen: state, starting noise, the last two estimates, and on each grid the call of this step and the last two before it. The
held rule is one such combination, with weights 1, 1 and -1.

A step that calls the full grid is given the network's own velocity, untouched: with every step an anchor the run is the full
run bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.inputs import working_dtype
from spectral_pd.schedule import stage_shape, token_cost
from spectral_pd.solvers import Velocity
from spectral_pd.theory import align_scale, align_time

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """Which grids the network is called on, step by step; the state itself is always of the full size.

    Attributes
    ----------
    times
        The full-resolution time grid, ``T_0 > ... > T_N = 0``.
    shapes
        The grids, coarse to fine; the last one is the full size.
    calls
        For each of the N steps the indices into `shapes` that are called, ascending; empty for a step without a call.

    Raises
    ------
    ValueError, TypeError
        A time grid that does not fall to 0, grids that do not grow, calls that are not one tuple a step of indices in
        ascending order, or none at all in the whole run.

    Examples
    --------
    >>> Pattern((1.0, 0.7, 0.4, 0.0), ((32, 32), (64, 64)), ((0, 1), (0,), (1,))).cost(lambda shape: shape[0] ** 2 / 64**2)
    2.5
    """

    times: tuple[float, ...]
    shapes: tuple[Shape, ...]
    calls: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", inputs.times(self.times, "times"))
        shapes = tuple(inputs.shape(shape, "shapes") for shape in self.shapes)
        object.__setattr__(self, "shapes", shapes)
        if not shapes:
            raise ValueError("shapes is empty; pass the grids, coarse to fine, the full size last")
        for coarse, fine in zip(shapes, shapes[1:], strict=False):
            if len(coarse) != len(fine) or coarse == fine or any(a > b for a, b in zip(coarse, fine, strict=True)):
                raise ValueError(f"shapes holds {coarse} before {fine}; pass grids that grow, coarse to fine")
        calls = tuple(tuple(step) for step in self.calls)
        object.__setattr__(self, "calls", calls)
        if len(calls) != self.steps:
            raise ValueError(f"calls has {len(calls)} steps, times {self.steps}; pass one tuple of grids a step")
        for k, step in enumerate(calls):
            if list(step) != sorted(set(step)) or any(g not in range(len(shapes)) for g in step):
                raise ValueError(f"calls[{k}] = {step} must hold ascending indices into the {len(shapes)} shapes")
        if not any(calls):
            raise ValueError("calls names no grid at any step; call the full grid at one step at least")

    @property
    def steps(self) -> int:
        """Number N of steps."""
        return len(self.times) - 1

    @property
    def shape(self) -> Shape:
        """The full grid."""
        return self.shapes[-1]

    @property
    def anchors(self) -> tuple[int, ...]:
        """Steps that call the full grid."""
        return tuple(k for k, step in enumerate(self.calls) if len(self.shapes) - 1 in step)

    def cost(self, fn: Callable[[Shape], float] | None = None) -> float:
        """Sum over calls of ``fn(grid)``, by default :func:`~spectral_pd.token_cost`, in units of a full-size call.

        Examples
        --------
        >>> anchored((1.0, 0.5, 0.0), (8, 8), anchors=(0,)).cost(lambda shape: shape[0] * shape[1])
        1.5
        """
        cost = token_cost(self.shape) if fn is None else fn
        full = inputs.cost(cost, self.shape)
        return sum(inputs.cost(cost, self.shapes[g]) for step in self.calls for g in step) / full

    def speedup(self, fn: Callable[[Shape], float] | None = None, *, steps: int | None = None) -> float:
        """Cost of a full run of `steps` (default: the pattern's own number) over the pattern's."""
        return (self.steps if steps is None else steps) / self.cost(fn)

    def __str__(self) -> str:
        names = ["x".join(map(str, shape)) for shape in self.shapes]
        rows = [
            f"{k:4d}  {t:8.5f}  {' and '.join(names[g] for g in reversed(step)) or '-'}"
            for k, (t, step) in enumerate(zip(self.times, self.calls, strict=False))
        ]
        counts = [sum(g in step for step in self.calls) for g in range(len(names))]
        total = ", ".join(f"{n} calls at {name}" for n, name in reversed(list(zip(counts, names, strict=True))))
        return "\n".join(["step         T  called at", *rows, f"{self.steps} steps: {total}"])


def anchored(
    times: Sequence[float],
    shape: Sequence[int],
    *,
    anchors: Sequence[int],
    scales: Sequence[float | Sequence[float]] = (1 / 2, 1.0),
    multiple_of: int | Sequence[int] = 1,
) -> Pattern:
    """The pattern of the held rule: anchors call the full grid, all other steps the coarsest one.

    An anchor with a coarse step behind it calls the coarse grids too, so that the change of the coarse call since the anchor is known.

    Parameters
    ----------
    times
        The full-resolution time grid, e.g. from :func:`~spectral_pd.shift_times`.
    shape
        The full grid.
    anchors
        Steps, counted from 0, that call the full grid.
    scales
        Coarse to fine, ending at 1. With more than two, the grids between are called at anchors only: patterns with
        calls of their own there are written out as a :class:`Pattern`.
    multiple_of
        Sizes of the coarse grids are rounded down to multiples of it.

    Raises
    ------
    ValueError, TypeError
        An anchor that is no step, and whatever :class:`Pattern` refuses.

    Examples
    --------
    >>> anchored((1.0, 0.75, 0.5, 0.25, 0.0), (64, 64), anchors=(0, 3)).calls
    ((0, 1), (0,), (0,), (1,))
    """
    times, full = inputs.times(times, "times"), inputs.shape(shape, "shape")
    steps = len(times) - 1
    chosen = {int(k) for k in anchors}
    if not chosen <= set(range(steps)):
        raise ValueError(f"anchors = {tuple(anchors)} must be steps, 0 to {steps - 1}")
    shapes = tuple(stage_shape(full, s, multiple_of=multiple_of) for s in inputs.stage_scales(scales, len(full)))
    every = tuple(range(len(shapes)))
    calls = [
        ((0,) if k not in chosen else every if k + 1 < steps and k + 1 not in chosen else every[-1:])
        for k in range(steps)
    ]
    return Pattern(times, shapes, tuple(calls))


@dataclass(frozen=True)
class Bands:
    """Bands of a full grid's coefficients: by the coarsest grid that holds a coefficient, then by frequency.

    Attributes
    ----------
    label
        Band of every coefficient, int64, shape of the full grid.
    grid
        For each band the index of the coarsest grid that holds its coefficients.
    """

    label: Tensor
    grid: tuple[int, ...]


def make_bands(shapes: Sequence[Shape], *, basis: Basis = DCT, least: int = 16) -> Bands:
    """Half octaves of radial frequency, cut where a coarser grid ends, joined until a band holds `least` coefficients.

    Weights are fitted band by band: in a band of few coefficients a dozen weights would fit the calibration's own seeds.

    Raises
    ------
    ValueError
        Grids on which the basis is not nested: there a coarse grid's coefficients are no corner of the full grid's.

    Examples
    --------
    >>> bands = make_bands(((4, 4), (8, 8)), least=8)
    >>> bands.label[0].tolist(), bands.grid
    ([0, 0, 0, 0, 1, 1, 1, 1], (0, 1))
    """
    full = shapes[-1]
    for coarse in shapes[:-1]:
        basis.reach(coarse, full)
        if not basis.nested(coarse, full):
            raise ValueError(f"{basis} is not nested from {coarse} to {full}; use DCT, or grow all axes by one factor")
    owner = torch.full(full, len(shapes) - 1, device="cpu")
    for index in reversed(range(len(shapes) - 1)):
        owner[corner(shapes[index])] = index
    # Half a cycle is the lowest frequency of the DCT; below it lies the mean alone.
    radial = torch.log2(basis.frequency(full).cpu().clamp(min=0.25)).mul(2).add(1e-9).floor().long()
    label, grid = torch.zeros(full, dtype=torch.long, device="cpu"), []
    for index in range(len(shapes)):
        values, counts = torch.unique(radial[owner == index], return_counts=True)
        held, left = least, int(counts.sum())
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if held >= least and (left >= least or grid[-1:] != [index]):
                grid.append(index)
                held = 0
            label[(owner == index) & (radial == value)] = len(grid) - 1
            held, left = held + count, left - count
    return Bands(label, tuple(grid))


FEATURES = ("state", "start", "estimate, 1 back", "estimate, 2 back")
"""Features of the predicted rule before those of the grids; each grid adds its call now, the last and the one before."""


@dataclass(frozen=True)
class Predictor:
    """Weights of the predicted rule, step by step and band by band, for one pattern; :func:`~spectral_pd.calibrate` fits them.

    Attributes
    ----------
    pattern
        What the weights are for.
    weights
        float64, shape (steps, bands, 4 + 3 grids): features in the order of :data:`FEATURES`, then for each grid, coarse to
        fine, the call now, the last before and the one before that, all in the full grid's coefficients. A coarse grid's
        calls count r-fold there, so that they are the same picture.
    """

    pattern: Pattern
    weights: Tensor


class TwoGrids:
    """A velocity wrapped around a velocity: what a full-size solver calls, and what calls the network where a pattern says.

    It holds the state of ONE run: :meth:`reset` before the next one. The solver must call it at the pattern's own times in
    their order. One call a step (Euler, DPM-Solver++(2M)) walks through them; a solver that also calls at the end of its step
    (Heun) makes that time's calls there and once more, on the corrected state, when the next step begins; the last word counts.
    A solver that calls between two times cannot be served.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, the model, at every grid of the pattern with that grid's LOCAL time.
    pattern
        Which grids are called when.
    basis
        The basis the low band is taken in.
    predictor
        Weights of the predicted rule; None is the held rule.

    Raises
    ------
    ValueError, TypeError
        A basis that cannot reach a grid or is not nested (predicted rule), weights of another pattern; for the held rule a coarse step behind
        an anchor whose coarse call is not known. When called: out of order, of another size.

    Examples
    --------
    >>> from spectral_pd.solvers import euler
    >>> pattern = anchored((1.0, 0.5, 0.0), (8, 8), anchors=(0,))
    >>> two, x = TwoGrids(lambda x, t: x, pattern), torch.ones(1, 8, 8)
    >>> for t, t_next in zip(pattern.times, pattern.times[1:]):
    ...     x, _ = euler(two, x, t, t_next)
    >>> two.calls  # one at full size, two at half size
    {(4, 4): 2, (8, 8): 1}
    """

    def __init__(
        self, velocity: Velocity, pattern: Pattern, *, basis: Basis = DCT, predictor: Predictor | None = None
    ) -> None:
        if not callable(velocity):
            raise TypeError(f"velocity is {type(velocity).__name__}; pass a callable velocity(x, t)")
        if not isinstance(pattern, Pattern):
            raise TypeError(f"pattern is {type(pattern).__name__}; pass a Pattern, e.g. from anchored(...)")
        BASIS(basis, "basis")
        for coarse in pattern.shapes[:-1]:
            basis.reach(coarse, pattern.shape)
        self.velocity, self.pattern, self.basis = velocity, pattern, basis
        self.rule: _Held | PredictedRule
        if predictor is None:
            _check_held(pattern)
            self.rule = _Held(pattern, basis)
        else:
            if predictor.pattern != pattern:
                raise ValueError("predictor has the weights of another pattern; fit them for this one")
            self.rule = PredictedRule(predictor, basis)
        self.reset()

    def reset(self) -> None:
        """Forget the run: the next call is the first step's."""
        self.calls: dict[Shape, int] = dict.fromkeys(self.pattern.shapes, 0)
        self._step = -1
        self.rule.reset()

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The velocity the solver is given, in x's shape."""
        step = self._expected(float(t))
        shape = self.pattern.shape
        if tuple(x.shape[-len(shape) :]) != shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; its last axes must be the pattern's full grid {shape}")
        again, self._step = step == self._step, step
        full, denoised = None, {}
        for index in self.pattern.calls[step]:
            grid = self.pattern.shapes[index]
            self.calls[grid] += 1
            if grid == shape:
                full = self.velocity(x, t)
                denoised[index] = x - t * full
            else:
                denoised[index] = self._coarse(x, float(t), grid)
        estimate = self.rule.estimate(x, step, denoised, again)
        return (x - estimate) / t if full is None else full

    def _expected(self, t: float) -> int:
        """The step that a call at time `t` belongs to: the last one again, or the next."""
        times = self.pattern.times[:-1]
        for step in (self._step, self._step + 1):
            if 0 <= step < len(times) and math.isclose(t, times[step], rel_tol=1e-6, abs_tol=1e-9):
                return step
        if self._step < 0:
            raise ValueError(f"called first at t = {t:g}; a run begins at the pattern's first time, {times[0]:g}")
        after = f"{times[self._step + 1]:g}" if self._step + 1 < len(times) else "nothing: the run is over"
        raise ValueError(f"called at t = {t:g} after {times[self._step]:g}; next comes {after} (reset() begins a run)")

    def _coarse(self, x: Tensor, t: float, grid: Shape) -> Tensor:
        """Denoised estimate on a coarse grid, of the low band of x at the local time."""
        ratio = size_ratio(grid, self.pattern.shape)
        tau = align_time.bare(t, 1 / ratio)
        y = self.basis.restrict(x, grid) / align_scale.bare(tau, ratio)
        return y - tau * self.velocity(y, tau)


def _check_held(pattern: Pattern) -> None:
    """A coarse answer moves an anchor's only by its change since then: both must be known on each pair of grids used."""
    seen: set[int] = set()
    for k, step in enumerate(pattern.calls):
        for index in step[:1]:
            missing = [g for g in seen if g > index and index not in seen]
            if missing:
                raise ValueError(
                    f"step {k} calls {pattern.shapes[index]} behind a call of {pattern.shapes[missing[0]]} that did not "
                    f"call it, so the defect is unknown; let that step call both, or fit a predictor"
                )
        seen |= set(step)


class _Held:
    """``D^ = D_a + r U (C - C_a)``, grid by grid from coarse to fine."""

    def __init__(self, pattern: Pattern, basis: Basis) -> None:
        self.pattern, self.basis = pattern, basis

    def reset(self) -> None:
        self.defect: dict[int, Tensor] = {}
        self.coarsest: Tensor | None = None

    def estimate(self, x: Tensor, step: int, denoised: dict[int, Tensor], again: bool) -> Tensor:
        below = self.coarsest = denoised.get(0, self.coarsest)
        for index, (coarse, fine) in enumerate(zip(self.pattern.shapes, self.pattern.shapes[1:], strict=False), 1):
            carried = None if below is None else size_ratio(coarse, fine) * self.basis.embed(below, fine)
            if index in denoised:
                below = denoised[index]
                self.defect[index] = below if carried is None else below - carried
            elif index in self.defect:
                below = self.defect[index] if carried is None else carried + self.defect[index]
            else:
                below = carried
        return torch.zeros_like(x) if below is None else below


class PredictedRule:
    """``D^ = sum_f weight[step, band, f] feature_f`` in the coefficients of the basis."""

    def __init__(self, predictor: Predictor, basis: Basis) -> None:
        pattern = predictor.pattern
        self.pattern, self.basis, self.dims = pattern, basis, len(pattern.shape)
        bands = make_bands(pattern.shapes, basis=basis)
        self.label = bands.label
        expected = (pattern.steps, len(bands.grid), len(FEATURES) + 3 * len(pattern.shapes))
        if tuple(predictor.weights.shape) != expected:
            raise ValueError(f"weights have shape {tuple(predictor.weights.shape)}; the pattern needs {expected}")
        self.weights = predictor.weights

    def reset(self) -> None:
        self.start: Tensor | None = None
        self.estimates: list[Tensor] = []
        self.past: list[list[Tensor]] = [[] for _ in self.pattern.shapes]

    def estimate(self, x: Tensor, step: int, denoised: dict[int, Tensor], again: bool) -> Tensor:
        if again:  # a second call at one time replaces what the first one left behind
            del self.estimates[:1]
            for index in denoised:
                del self.past[index][:1]
        now = {index: self.coefficients(value) for index, value in denoised.items()}
        state = self.coefficients(x)
        self.start = state if self.start is None else self.start
        full = len(self.pattern.shapes) - 1
        if full in now:
            estimate, result = now[full], denoised[full]
        else:
            features = [state, self.start, *_padded(self.estimates)]
            for index, past in enumerate(self.past):
                features += [now.get(index), *_padded(past)]
            weights = self.weights_of(step, features).to(device=x.device, dtype=state.dtype)[self.label.to(x.device)]
            estimate = torch.zeros_like(state)
            for f, feature in enumerate(features):
                if feature is not None:
                    low = corner(feature.shape[-self.dims :])
                    estimate[low] += weights[(*low[1:], f)] * feature
            result = self.basis.inverse(estimate, dims=self.dims)
        self.estimates = [estimate, *self.estimates][:3]
        for index, value in now.items():
            self.past[index] = [value, *self.past[index]][:3]
        return result.to(x.dtype)

    def weights_of(self, step: int, features: list[Tensor | None]) -> Tensor:
        """Weights (bands, features) of one step."""
        return self.weights[step]

    def coefficients(self, value: Tensor) -> Tensor:
        """Of a picture on any of the grids, r-fold: in units of the full grid's."""
        value = value.to(working_dtype(value.dtype))
        ratio = size_ratio(value.shape[-self.dims :], self.pattern.shape)
        return self.basis.forward(value, dims=self.dims) * ratio


def _padded(last: Sequence[Tensor]) -> list[Tensor | None]:
    """The last two, the newest first, None where there is none."""
    return [*last[:2], *[None] * (2 - len(last[:2]))]
