r"""Two grids at once: the state stays on the full grid, and each step says on which grids the network is CALLED.

A step calls the network at full size, where it is given its own velocity back untouched; on coarser grids, on the low band of
the state, ``y = U^T x / kappa(tau, r)`` at ``tau = align(T, 1/r)``; or not at all. Without a full-size call the solver is given
``v = (x - D^) / T`` with the linear estimate, band by band of frequencies b, coefficient by coefficient,

    ``D^ = sum_f weight[step, b, f] feature_f``

of what the full-size call would have said, from everything the run has seen: state, starting noise, the last two estimates,
and on each grid the call of this step and the last two before it. :func:`~spectral_pd.calibrate.calibrate` finds weights from
a few runs of a model. :func:`held` needs none: the anchor's answer moves by the change of the coarse call C since,
``D^ = D_a + r U (C - C_a) = r U (C + d_a) + H_a``, where ``d_a = U^T D_a / r - C_a`` is the tau-correction of the full
approximation scheme of multigrid (Brandt 1977) and ``H_a = (I - U U^T) D_a`` the high band.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.inputs import door, plans, refuse, runs, working_dtype
from spectral_pd.plan import Cost, Plan, letters
from spectral_pd.restriction import restrict_aligned
from spectral_pd.schedule import plan_at, stage_shape, token_cost
from spectral_pd.solvers import Velocity

Shape = tuple[int, ...]
START, ESTIMATES, CALLS = 1, 2, 4
"""Where features begin: 0 the state, the starting noise, two estimates, then for each grid its call now and the last two."""


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
        A time grid that does not fall to 0, grids that do not grow, calls that are not one ascending tuple a step, or none.

    Examples
    --------
    >>> Pattern((1.0, 0.7, 0.4, 0.0), ((32, 32), (64, 64)), ((0, 1), (0,), (1,))).cost(lambda shape: shape[0] ** 2)
    2.5
    """

    times: tuple[float, ...]
    shapes: tuple[Shape, ...]
    calls: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", plans.times(self.times, "times"))
        object.__setattr__(self, "shapes", growing_grids(self.shapes, "shapes"))
        object.__setattr__(self, "calls", calls_of_steps(self.calls, len(self.times) - 1, len(self.shapes)))

    @property
    def shape(self) -> Shape:
        """The full grid."""
        return self.shapes[-1]

    def cost(self, fn: Cost | None = None) -> float:
        """Sum over calls of ``fn(grid)``, by default :func:`~spectral_pd.token_cost`, in units of a full-size call."""
        fn = token_cost(self.shape) if fn is None else fn
        return sum(runs.cost(fn, self.shapes[g]) for step in self.calls for g in step) / runs.cost(fn, self.shape)

    def __str__(self) -> str:
        """One letter a step, as :func:`~spectral_pd.plan.letters`; several grids in brackets, a dot for none."""
        names = letters(len(self.shapes))
        words = ["".join(names[g] for g in reversed(step)) for step in self.calls]
        return "".join(word if len(word) == 1 else f"({word})" if word else "." for word in words)


def anchored(
    times: Sequence[float],
    shape: Sequence[int],
    *,
    anchors: Sequence[int],
    scales: Sequence[float | Sequence[float]] = (1 / 2, 1.0),
    multiple_of: int | Sequence[int] = 1,
) -> Pattern:
    """Anchors call the full grid, all other steps the coarsest one; an anchor with a coarse step behind it calls every grid.

    Parameters
    ----------
    times, shape
        The full-resolution time grid, e.g. from :func:`~spectral_pd.shift_times`, and the full grid.
    anchors
        Steps, counted from 0, that call the full grid.
    scales, multiple_of
        The grids, as in :func:`~spectral_pd.make_plan`. With more than two, those between are called at anchors only.

    Raises
    ------
    ValueError, TypeError
        An anchor that is no step, and whatever :class:`Pattern` refuses.

    Examples
    --------
    >>> anchored((1.0, 0.75, 0.5, 0.25, 0.0), (64, 64), anchors=(0, 3)).calls
    ((0, 1), (0,), (0,), (1,))
    """
    times, shape = plans.times(times, "times"), inputs.shape(shape, "shape")
    steps, chosen = len(times) - 1, indices(anchors, "anchors", "steps", len(times) - 1)
    shapes = tuple(stage_shape(shape, s, multiple_of=multiple_of) for s in plans.stage_scales(scales, len(shape)))
    return Pattern(times, shapes, anchored_calls(steps, chosen, len(shapes)))


def anchored_calls(steps: int, anchors: Container[int], grids: int) -> tuple[tuple[int, ...], ...]:
    """For each step the indices of the grids that :func:`anchored` calls."""
    every = tuple(range(grids))
    behind = [k + 1 < steps and k + 1 not in anchors for k in range(steps)]
    return tuple((every if behind[k] else every[-1:]) if k in anchors else every[:1] for k in range(steps))


def bands(shapes: Sequence[Shape], basis: Basis, *, least: int = 16) -> tuple[Tensor, Tensor]:
    """Half octaves of radial frequency, cut where a coarser grid ends, joined until a band holds `least` coefficients.

    Weights are fitted band by band: in a band of few coefficients a dozen weights would fit the calibration's own seeds.

    Returns
    -------
    (label, owner): the band of every coefficient of the full grid, and for each band the coarsest grid that holds it.

    Examples
    --------
    >>> label, owner = bands(((4, 4), (8, 8)), DCT)
    >>> label[0].tolist(), owner.tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1])
    """
    full = shapes[-1]
    owned = torch.full(full, len(shapes) - 1, device="cpu")
    for index in reversed(range(len(shapes) - 1)):
        owned[corner(shapes[index])] = index
    # Half a cycle is the lowest frequency of the DCT; below it lies the mean alone.
    radial = torch.log2(basis.frequency(full).cpu().clamp(min=0.25)).mul(2).add(1e-9).floor().long()
    label, owner = torch.zeros(full, dtype=torch.long, device="cpu"), list[int]()
    for index in range(len(shapes)):
        values, counts = torch.unique(radial[owned == index], return_counts=True)
        held, left = least, int(counts.sum())
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if held >= least and (left >= least or owner[-1:] != [index]):
                owner.append(index)
                held = 0
            label[(owned == index) & (radial == value)] = len(owner) - 1
            held, left = held + count, left - count
    return label, torch.tensor(owner, device="cpu")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A pattern, and the weights its steps without a full-size call are run with; from :func:`held` or a calibration.

    Attributes
    ----------
    pattern
        Which grids are called when.
    weights
        float64 (steps, bands, 4 + 3 grids): state, starting noise, last estimate, the one before; then for each grid, coarse to
        fine, the call now, the last before and the one before that. A coarse grid's calls count r-fold: the same picture.
    basis
        The basis of the bands, nested on the pattern's grids.

    Raises
    ------
    ValueError, TypeError
        A basis that cannot reach a grid or is not nested; weights of another shape.
    """

    pattern: Pattern
    weights: Tensor
    basis: Basis = DCT

    def __post_init__(self) -> None:
        nested_grids(self.basis, self.pattern.shapes)
        weights_of_pattern(self.weights, weights_shape(self.pattern, self.basis))

    @property
    def plan(self) -> Plan:
        """What :func:`~spectral_pd.sample` and ``adapt(pipe, ...).run`` take: one stage of full size, with these calls."""
        one = plan_at(self.pattern.times, (), self.pattern.shape, scales=(1.0,), basis=self.basis)
        return replace(one, calls=self)

    @property
    def grids(self) -> tuple[Shape, ...]:
        """The grids, coarse to full."""
        return self.pattern.shapes

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """For each step the indices of the grids it calls, ascending."""
        return self.pattern.calls

    def around(self, velocity: Velocity) -> TwoGrids:
        """What the solver of one run calls in the place of `velocity`."""
        return TwoGrids(velocity, self)

    def __str__(self) -> str:
        return f"calls {self.pattern}"


def weights_shape(pattern: Pattern, basis: Basis) -> Shape:
    """(steps, bands, features)."""
    return len(pattern.calls), len(bands(pattern.shapes, basis)[1]), CALLS + 3 * len(pattern.shapes)


@door(basis=BASIS)
def held(pattern: Pattern, *, basis: Basis = DCT) -> Predictor:
    """The rule without calibration: the last estimate, moved by the change of the finest call of this step since then.

    A first call on a grid finer than all before takes its place: with no anchor yet the run is progressive sampling on the
    full clock with coupled noise, since the high band of ``D^`` is 0 and that of the state stays ``T w``.

    Parameters
    ----------
    pattern
        E.g. of :func:`anchored`: a coarse call behind a finer one needs a call of its grid at the step before.
    basis
        The basis the low band is taken in, nested on the pattern's grids.

    Raises
    ------
    ValueError, TypeError
        A coarse call whose change is not known; a basis as in :class:`Predictor`.

    Examples
    --------
    >>> from spectral_pd.solvers import euler
    >>> two = TwoGrids(lambda x, t: x, held(anchored((1.0, 0.5, 0.0), (8, 8), anchors=(0,))))
    >>> x = torch.ones(1, 8, 8)
    >>> for t, t_next in ((1.0, 0.5), (0.5, 0.0)):
    ...     x, _ = euler(two, x, t, t_next)
    >>> two.calls  # one at full size, two at half size
    {(4, 4): 2, (8, 8): 1}
    """
    nested_grids(basis, pattern.shapes)
    weights, owner = torch.zeros(weights_shape(pattern, basis), dtype=torch.float64), bands(pattern.shapes, basis)[1]
    weights[:, :, ESTIMATES] = 1.0
    last: dict[int, int] = {}
    for k, step in enumerate(pattern.calls):
        if step and step[-1] < len(pattern.shapes) - 1:
            inside, now = owner <= step[-1], CALLS + 3 * step[-1]
            weights[k, inside, now] = 1.0
            if step[-1] > max(last, default=-1):
                weights[k, inside, ESTIMATES] = 0.0
            else:
                known_change(k, pattern.shapes[step[-1]], last.get(step[-1]))
                weights[k, inside, now + 1] = -1.0
        last.update(dict.fromkeys(step, k))
    return Predictor(pattern, weights, basis)


class TwoGrids:
    """A velocity wrapped around a velocity: what a full-size solver calls, and what calls the network where a pattern says.

    It holds the state of ONE run: :meth:`reset` before the next one. The solver must call it at the pattern's own times in
    their order. One call a step (Euler, DPM-Solver++(2M)) walks through them; a solver that also calls at the end of its step
    (Heun) makes that time's calls there and once more, on the corrected state, when the next step begins; the last word counts.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, the model, at every grid of the pattern with that grid's LOCAL time.
    predictor
        Of :func:`held`, or ``choose_pattern(...)[0].predictor``.

    Raises
    ------
    ValueError, TypeError
        When called: a state of another size, a time out of order.

    Examples
    --------
    >>> two = TwoGrids(lambda x, t: x, held(anchored((1.0, 0.5, 0.0), (8, 8), anchors=(0, 1))))
    >>> torch.equal(two(torch.ones(1, 8, 8), 1.0), torch.ones(1, 8, 8))  # a full-size call is the network's own
    True
    """

    def __init__(self, velocity: Velocity, predictor: Predictor) -> None:
        self.velocity = runs.velocity(velocity, "velocity")
        self.predictor = PREDICTOR(predictor, "predictor")
        self.pattern, self.basis = predictor.pattern, predictor.basis
        self._label = bands(self.pattern.shapes, self.basis)[0]
        self.reset()

    def reset(self) -> None:
        """Forget the run: the next call is the first step's."""
        self.calls: dict[Shape, int] = dict.fromkeys(self.pattern.shapes, 0)
        self._step = -1
        self._start: Tensor | None = None
        self._estimates: list[Tensor] = []  # the newest first
        self._past: list[list[Tensor]] = [[] for _ in self.pattern.shapes]

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The velocity the solver is given, in x's shape."""
        pattern = self.pattern
        on_grid(x, pattern.shape)
        step = step_at(t, pattern.times, self._step)
        again = int(step == self._step)  # what was said at this time is said again, and the last word counts
        called = pattern.calls[step]
        estimates = self._estimates[again:]
        pasts = [past[again * (g in called) :] for g, past in enumerate(self._past)]
        # Nothing is kept before every answer is there: a velocity may end this call, and be asked again.
        answers = {g: self._ask(x, t, g) for g in called}
        now = {g: coefficients for g, (_, coefficients) in answers.items()}
        full = len(pattern.shapes) - 1
        state = self._coefficients(x) if self._start is None or full not in now else None
        start = state if self._start is None else self._start
        if full in now:
            velocity, estimate = answers[full][0], now[full]
        else:
            features = [state, start, *_two(estimates)]
            for g, past in enumerate(pasts):
                features += [now.get(g), *_two(past)]
            estimate = self._combined(self.weights_of(step, features), features)
            velocity = ((x - self.basis.inverse(estimate, dims=len(pattern.shape))) / t).to(x.dtype)
        self._step, self._start = step, start
        self._estimates = [estimate, *estimates[:2]]
        self._past = [[now[g], *past[:2]] if g in now else past for g, past in enumerate(pasts)]
        for g in called:
            self.calls[pattern.shapes[g]] += 1
        return velocity

    def weights_of(self, step: int, features: list[Tensor | None]) -> Tensor:
        """Weights (bands, features) of one step; `features` are coefficients, of a coarse grid's calls the low corner."""
        return self.predictor.weights[step]

    def _ask(self, x: Tensor, t: float, index: int) -> tuple[Tensor, Tensor]:
        """The network's answer on a grid, and the coefficients of the picture it says, in units of the full grid's."""
        grid = self.pattern.shapes[index]
        ratio = size_ratio(grid, self.pattern.shape)
        y, tau = restrict_aligned.bare(x, grid, t, basis=self.basis)
        v = runs.answered(self.velocity(y, tau), y)
        return v, self._coefficients(y - tau * v) * ratio

    def _coefficients(self, value: Tensor) -> Tensor:
        return self.basis.forward(value.to(working_dtype(value.dtype)), dims=len(self.pattern.shape))

    def _combined(self, weights: Tensor, features: list[Tensor | None]) -> Tensor:
        state = features[0]
        assert state is not None
        self._label = self._label.to(state.device)
        weights, out = weights.to(state)[self._label], torch.zeros_like(state)
        for f, feature in enumerate(features):
            if feature is not None:
                low = corner(feature.shape[-self._label.ndim :])
                out[low] += weights[..., f][low] * feature
        return out


def _two(values: list[Tensor]) -> list[Tensor | None]:
    """The newest two, None where there is none."""
    return [*values[:2], None, None][:2]


# -- parsers ----------------------------------------------------------------------------------------------------------

ONE_CALL = inputs.choice("euler", "dpmpp_2m")
PREDICTOR = inputs.instance(Predictor, "held(pattern), or the predictor of what choose_pattern found")


def growing_grids(value: Any, name: str) -> tuple[Shape, ...]:
    """Grids, coarse to fine."""
    shapes = tuple(inputs.shape(shape, name) for shape in value)
    refuse(not shapes, f"{name} is empty; pass the grids, coarse to fine, the full size last")
    for coarse, fine in pairwise(shapes):
        grow = len(coarse) == len(fine) and coarse != fine and all(a <= b for a, b in zip(coarse, fine, strict=True))
        refuse(not grow, f"{name} holds {coarse} before {fine}; pass grids that grow, coarse to fine")
    return shapes


def calls_of_steps(value: Any, steps: int, grids: int) -> tuple[tuple[int, ...], ...]:
    """One ascending tuple of grids a step, not all of them empty."""
    calls = tuple(tuple(step) for step in value)
    if len(calls) != steps or not any(calls):
        raise ValueError(f"calls has {len(calls)} steps, times {steps}; pass one tuple of grids a step, not all empty")
    for k, step in enumerate(calls):
        if list(step) != sorted(set(step)) or any(g not in range(grids) for g in step):
            raise ValueError(f"calls[{k}] = {step} must hold ascending indices into the {grids} shapes")
    return calls


def indices(value: Any, name: str, what: str, count: int) -> set[int]:
    """Some of so many steps or grids, by number."""
    given = inputs.kind(inputs.is_iterable, f"numbers of {what}, e.g. (0, 3)", repr)(value, name)
    chosen = set(given.tolist() if isinstance(given, Tensor) else given)
    refuse(not chosen <= set(range(count)), f"{name} = {tuple(value)} must be {what}, 0 to {count - 1}")
    return chosen


def nested_grids(basis: Basis, shapes: Sequence[Shape]) -> None:
    """A coarse grid's coefficients must be a corner of the full grid's."""
    for coarse in shapes[:-1]:
        basis.reach(coarse, shapes[-1])
        text = f"{basis} is not nested from {coarse} to {shapes[-1]}; use DCT, or one factor for all axes"
        refuse(not basis.nested(coarse, shapes[-1]), text)


def weights_of_pattern(weights: Any, expected: Shape) -> None:
    """Weights for every step, band and feature."""
    if not isinstance(weights, Tensor) or tuple(weights.shape) != expected:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"weights have shape {got}; the pattern needs {expected} (steps, bands, features)")


def known_change(step: int, grid: Shape, last: int | None) -> None:
    """The held rule needs the coarse call of the step before."""
    refuse(last != step - 1, f"step {step} calls {grid}, which step {step - 1} did not call: let it, or calibrate")


def on_grid(x: Tensor, grid: Shape) -> Tensor:
    """A state of the full size; its numbers are not looked at, once a step."""
    if tuple(inputs.state(x, "x", len(grid)).shape[-len(grid) :]) != grid:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last axes must be the pattern's full grid {grid}")
    return x


def step_at(t: float, times: Sequence[float], last: int) -> int:
    """The step that a call at time `t` belongs to: the last one again, or the next."""
    for step in (last, last + 1):
        if 0 <= step < len(times) - 1 and math.isclose(t, times[step], rel_tol=1e-6, abs_tol=1e-9):
            return step
    after = f"{times[last + 1]:g}" if last + 2 < len(times) else "nothing: the run is over"
    raise ValueError(f"called at t = {t:g}; next comes {after} (reset() begins a run)")
