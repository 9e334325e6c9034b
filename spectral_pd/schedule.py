r"""From a time grid and a spectrum to a plan: sizes and transitions (paper Sec. 4.2).

``T_0 > T_1 > ... > T_N = 0`` is the model's own FULL-resolution time grid, shifts already applied. Stage i runs on the grid of
scale ``s_i`` from its start index to the first index whose ``T_k <= t*_i`` (Eq. 10). What a plan is, and its two clocks:
:mod:`spectral_pd.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, size_ratio
from spectral_pd.expansion import Grow
from spectral_pd.inputs import door, plans, runs, shown
from spectral_pd.plan import Clock, Cost, Plan, Stage, Step, moves, scale_text
from spectral_pd.power import AnySpectrum, as_spectrum
from spectral_pd.theory import align_time

__all__ = ["make_plan", "plan_at", "shift_times", "stage_shape", "token_cost"]


@door(steps=inputs.whole(1), shift=plans.shift)
def shift_times(steps: int, *, shift: float = 1.0) -> tuple[float, ...]:
    r"""The uniform time grid under a resolution shift: ``T = s u / (1 + (s - 1) u)``, ``u = 1 - k / N``.

    A larger shift spends more steps at high noise. Dynamic shifting by mu is ``shift=exp(mu)``.

    Parameters
    ----------
    steps
        N >= 1 steps, for N + 1 times from 1 to 0.
    shift
        s > 0; 1 is uniform. FLUX.1 at 1024x1024: exp(1.15); Z-Image 6; WAN 5; SD3 3.

    Raises
    ------
    ValueError, TypeError
        `steps` not a positive int, `shift` not positive and finite.

    Examples
    --------
    >>> shift_times(4)
    (1.0, 0.75, 0.5, 0.25, 0.0)
    """
    # s u / (1 + (s-1) u) is the alignment formula: a shift is a translation of log-odds as well.
    return tuple(align_time.bare(1 - k / steps, shift) for k in range(steps + 1))


@dataclass(frozen=True)
class TokenCost:
    """What :func:`token_cost` returns; call it on a grid."""

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    text_tokens: int
    attention: float

    def _tokens(self, grid: Sequence[int]) -> int:
        return math.prod(-(-n // p) for n, p in zip(grid, self.patch, strict=True)) + self.text_tokens

    def __call__(self, grid: Sequence[int]) -> float:
        share = self._tokens(grid) / self._tokens(self.shape)
        return (1 - self.attention) * share + self.attention * share**2


@door(shape=inputs.shape, text_tokens=inputs.whole(0), attention=plans.attention)
def token_cost(
    shape: Sequence[int], *, patch: int | Sequence[int] = 1, text_tokens: int = 0, attention: float = 0.0
) -> TokenCost:
    r"""Cost of a step of a transformer, in steps at full size: ``(1 - a) n / N + a (n / N)^2``.

    ``n`` and ``N`` are the tokens on a stage's grid and on the full one, text included: products with weights grow with the
    tokens, attention with their square.

    Parameters
    ----------
    shape, patch
        Full grid, and grid points a token along each axis: one int, or one an axis. FLUX.1: 2; WAN (frames, height, width):
        (1, 2, 2).
    text_tokens
        Tokens of the prompt that pass through the same layers. FLUX.1: 512.
    attention
        Share ``a`` of attention in a full-size step, in [0, 1]. FLUX.1 at 1024x1024: 0.2; WAN 2.1 1.3B at 81 frames of
        720p: 0.85 (benchmarks/results/cost.csv).

    Raises
    ------
    ValueError, TypeError
        Any of them out of its range.

    Examples
    --------
    >>> cost = token_cost((128, 128), patch=2, text_tokens=512, attention=0.2)
    >>> cost((128, 128)), round(cost((64, 64)), 3)
    (1.0, 0.289)
    """
    return TokenCost(tuple(shape), plans.multiples(patch, len(shape)), text_tokens, attention)


@door(shape=inputs.shape)
def stage_shape(
    shape: Sequence[int], scale: float | Sequence[float], *, multiple_of: int | Sequence[int] = 1
) -> tuple[int, ...]:
    """Grid of one scale: each size times its scale, rounded down to a multiple of `multiple_of`, at least that multiple.

    `shape` is the full grid; `scale` and `multiple_of` are one number for all axes, or one an axis, as in :func:`make_plan`.
    """
    multiples = plans.multiples(multiple_of, len(shape))
    # Sizes such as 2/3 of 90 come out a rounding error below 60: the nearby simple fraction is what was meant.
    exact = [Fraction(s).limit_denominator(4096) for s in _each(scale, len(shape))]
    return tuple(max(int(n * s) // m, 1) * m for n, s, m in zip(shape, exact, multiples, strict=True))


def _each(scale: float | Sequence[float], axes: int) -> tuple[float, ...]:
    return (float(scale),) * axes if isinstance(scale, (int, float)) else tuple(map(float, scale))


_PLANNED: dict[str, inputs.Parser] = {
    "times": plans.times,
    "shape": inputs.shape,
    "clock": inputs.choice("full", "stage"),
    "cost": inputs.optional(runs.cost_function),
    "unreached": inputs.choice("error", "force"),
    "basis": BASIS,
}


@door(spectrum=as_spectrum, delta=inputs.one_delta, **_PLANNED)
def make_plan(
    times: Sequence[float],
    spectrum: AnySpectrum | Callable[[Any], Any],
    shape: Sequence[int],
    *,
    scales: Sequence[float | Sequence[float]],
    delta: float = 0.01,
    multiple_of: int | Sequence[int] = 1,
    clock: Clock = "full",
    cost: Cost | None = None,
    unreached: Literal["error", "force"] = "error",
    basis: Basis = DCT,
) -> Plan:
    r"""Decide every stage before the first model call (Eqs. 9-10).

    A stage ends at the first grid time at or below its ``t*``. SMALLER delta: larger ``t*``, earlier transitions, slower,
    closer to full resolution. LARGER delta: later transitions, faster.

    Parameters
    ----------
    times
        The model's full-resolution time grid, N + 1 strictly decreasing floats ending at 0, shifts applied for the FULL
        size (see :func:`shift_times`).
    spectrum
        A :class:`~spectral_pd.PowerLaw` (e.g. ``PRESETS["flux"]``), a measured :class:`~spectral_pd.Spectrum`, or any
        function of frequency. Rescaled to `shape` when it carries another grid. For given t*: :func:`plan_at`.
    shape
        Full grid, e.g. (128, 128), or 128 for short, without batch and channels: the LATENT size for latent models.
    scales
        Increasing, ending at 1, e.g. (1/2, 1). A scale may hold one number an axis: ((1, 1/2, 1/2), 1) grows video
        (frames, height, width) in space only, ((1/2, 1/2, 1/2), (1, 1/2, 1/2), 1) in time first.
    delta
        Tolerated velocity error of the bands not yet represented, 0 < delta < 1.
    multiple_of
        Stage sizes are rounded down to multiples of this (a patch size), one int or one an axis; the full shape must be
        one already. Transition times and ratios use the rounded sizes, and the plan says so.
    clock, basis
        ``"full"`` (default) or ``"stage"`` (the paper's; see :mod:`spectral_pd.plan`), and the basis the state grows in: HAAR
        needs ratios that are powers of 2.
    cost
        Cost of one step as a function of the grid, for ``str(plan)``, ``plan.cost()`` and ``plan.speedup()``.
    unreached
        A transition that no step before the end reaches is an ``"error"``, or is moved to the last step by ``"force"``.

    Raises
    ------
    ValueError, TypeError
        Any argument out of its range, two stages of one size, a transition never reached, a basis that cannot reach a stage.

    Examples
    --------
    >>> import math
    >>> from spectral_pd import PRESETS
    >>> make_plan(shift_times(50, shift=math.exp(1.15)), PRESETS["flux"], (128, 128), scales=(1 / 2, 1)).split
    (18, 32)
    """
    law: AnySpectrum = spectrum  # type: ignore[assignment]  # the door made it one
    outline = _outline(shape, scales, multiple_of, basis)
    remarks = []
    if law.shape is not None and law.shape != tuple(shape):
        remarks.append(f"the spectrum was measured on {shown(law.shape)} and is rescaled to {shown(shape)}")
    if law.kind == "borrowed":
        remarks.append(f"the spectrum is borrowed ({law.source}); measure your own with fit_spectrum")
    t_stars = tuple(law.t_star(size, shape, delta=delta) for size in outline.shapes[:-1])
    notes = []
    for size in outline.shapes[:-1]:
        interval = law.t_star_interval(size, shape, delta=delta)
        if interval is not None:
            low, high = interval
            notes.append(
                f"t* of {shown(size)} lies in [{low:.4f}, {high:.4f}], 95 % over the data the spectrum was measured on"
            )
    return _assembled(times, outline, t_stars, clock, cost, unreached, basis, tuple(remarks), delta, tuple(notes))


@door(**_PLANNED)
def plan_at(
    times: Sequence[float],
    transition_times: Sequence[float],
    shape: Sequence[int],
    *,
    scales: Sequence[float | Sequence[float]],
    multiple_of: int | Sequence[int] = 1,
    clock: Clock = "full",
    cost: Cost | None = None,
    unreached: Literal["error", "force"] = "error",
    basis: Basis = DCT,
) -> Plan:
    """:func:`make_plan` with given transition times instead of a spectrum and a delta.

    Parameters and errors as :func:`make_plan`; `transition_times` holds the t* of each scale but the last, inside (0, 1) and
    not increasing.

    Examples
    --------
    >>> plan_at(shift_times(10), (0.6,), (16, 16), scales=(1 / 2, 1)).split
    (4, 6)
    """
    outline = _outline(shape, scales, multiple_of, basis)
    t_stars = plans.transition_times(transition_times, len(outline.scales))
    return _assembled(times, outline, t_stars, clock, cost, unreached, basis, (), None)


@dataclass(frozen=True)
class _Outline:
    """The stages' scales and real grids, and what rounding did to them."""

    scales: tuple[float | tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    multiples: tuple[int, ...]
    remarks: tuple[str, ...]


def _outline(shape: Sequence[int], scales: Any, multiple_of: int | Sequence[int], basis: Basis) -> _Outline:
    full = tuple(shape)
    kept = plans.stage_scales(scales, len(full))
    multiples = plans.multiples(multiple_of, len(full), full)
    shapes = tuple(stage_shape(full, scale, multiple_of=multiples) for scale in kept)
    remarks = [
        f"scale {scale_text(scale)} of {shown(full)} is rounded to {shown(size)}; its real ratio is used"
        for scale, size in zip(kept, shapes, strict=True)
        if any(abs(n - s * m) > 1e-6 for n, s, m in zip(size, _each(scale, len(full)), full, strict=True))
    ]
    plans.growing(kept, full, shapes)
    for coarse, fine in pairwise(shapes):
        basis.reach(coarse, fine)
    return _Outline(kept, shapes, multiples, tuple(remarks))


def _assembled(
    times: Sequence[float],
    outline: _Outline,
    t_stars: tuple[float, ...],
    clock: Clock,
    cost: Cost | None,
    unreached: str,
    basis: Basis,
    remarks: tuple[str, ...],
    delta: float | None,
    notes: tuple[str, ...] = (),
) -> Plan:
    grid, shapes = tuple(times), outline.shapes
    warnings = [*outline.remarks, *remarks]
    indices = _transition_indices(grid, t_stars, unreached, warnings)
    starts, stops = (0, *indices), (*indices, len(grid) - 1)
    for k in sorted({k for k in indices if indices.count(k) > 1}):
        count = indices.count(k)
        warnings.append(f"{count} transitions fall on grid time T_{k} = {grid[k]:.4f}; a stage makes no step")
    if indices and indices[0] == 0:
        warnings.append(f"the first transition is due at or before the first grid time {grid[0]:.4f}: no coarse step")
    split = [b - a for a, b in zip(starts, stops, strict=True)]
    run, local = list(moves(grid, shapes, split, clock)), []
    for i in range(len(shapes)):
        steps = [move for move in run if isinstance(move, Step) and move.stage == i]
        end = steps[-1].t_next if steps else next(m.t for m in run if isinstance(m, Grow) and m.stage == i + 1)
        local.append((*(step.t for step in steps), end))
    stages = tuple(
        Stage(shapes[i], outline.scales[i], size_ratio(shapes[i], shapes[-1]), starts[i], stops[i], t_star, local[i])
        for i, t_star in enumerate((*t_stars, None))
    )
    costs = () if cost is None else tuple(runs.cost(cost, size) for size in shapes)
    label = getattr(cost, "label", "")
    return Plan(grid, stages, clock, basis, delta, tuple(warnings), costs, notes, outline.multiples, label)


def _transition_indices(
    times: tuple[float, ...], t_stars: tuple[float, ...], unreached: str, warnings: list[str]
) -> tuple[int, ...]:
    """First index k with ``T_k <= t*``, for each t*; the last stage must keep at least one step."""
    last = len(times) - 2
    indices = [next(k for k, t in enumerate(times) if t <= t_star) for t_star in t_stars]
    for i, t_star in enumerate(t_stars):
        if indices[i] > last:
            text = (
                f"transition {i + 1} at t* = {t_star:.6f} is never reached: the last grid time before the end is "
                f"T_{last} = {times[last]:.6f}"
            )
            if unreached == "error":
                raise ValueError(
                    f"{text}; use more steps, a smaller shift, a smaller delta, fewer scales, or unreached='force'"
                )
            warnings.append(f"{text}; forced to T_{last}")
    return tuple(min(k, last) for k in indices)
