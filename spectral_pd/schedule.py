r"""From a time grid and a spectrum to a plan: sizes, transitions, clocks, steps, cost (paper Sec. 4.2).

``T_0 > T_1 > ... > T_N = 0`` is the model's own FULL-resolution time grid, shifts already applied. Stage i runs on the
grid of scale ``s_i`` from its start index to the first index whose ``T_k <= t*_i`` (Eq. 10). Two clocks say which local
times a coarse stage sees:

``clock="full"`` (default)
    ``T_k`` and ``t*`` are times of the full-resolution clock everywhere; a stage of ratio ``r_i`` to full size runs at local
    times ``tau = align(T, 1 / r_i)`` (log-odds minus ``log r_i``). The aligned state after a transition lands exactly on
    ``T_k``: nothing is patched, no step is stretched. For a denoiser whose restriction to the low band is consistent,
    Euler then walks the low band of the full-resolution trajectory, step by step (the equivalence theorem, docs/theory.md).
``clock="stage"``
    The paper's: the coarse stage takes ``T_k`` as its local time, and at a transition that one grid value is replaced by
    the aligned ``t~``. The step after a transition is several times longer than its neighbours and does not shrink with N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from numbers import Real
from typing import Any, Literal

from spectral_pd.bases import size_ratio
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.spacetime import SpaceTimeSpectrum
from spectral_pd.theory import (
    activation_time,
    align_time,
    check_delta,
    check_scales,
    check_shape,
    check_time,
    transition_times,
)

Clock = Literal["full", "stage"]
Cost = Callable[[tuple[int, ...]], float]


def shift_times(steps: int, *, shift: float = 1.0) -> tuple[float, ...]:
    r"""The uniform time grid under a resolution shift: ``T = s u / (1 + (s - 1) u)``, ``u = 1 - k / N``.

    A larger shift spends more steps at high noise. Dynamic shifting by mu is ``shift=exp(mu)``.

    Parameters
    ----------
    steps
        N >= 1 steps.
    shift
        s > 0; 1 is uniform. FLUX.1 at 1024x1024: exp(1.15); Z-Image 6; WAN 5; SD3 3.

    Returns
    -------
    N + 1 floats from 1 to 0.

    Raises
    ------
    ValueError, TypeError
        `steps` not a positive int, `shift` not positive and finite.

    Examples
    --------
    >>> shift_times(4)
    (1.0, 0.75, 0.5, 0.25, 0.0)
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps is {steps!r}; pass an int")
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    if isinstance(shift, (bool, str)) or not isinstance(shift, (int, float)):
        raise TypeError(f"shift is {shift!r}; pass a number above 0 (1 is no shift)")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift = {shift} must be positive and finite (1 is no shift)")
    # s u / (1 + (s-1) u) is the alignment formula: a shift is a translation of log-odds as well.
    return tuple(align_time(1 - k / steps, float(shift)) for k in range(steps + 1))


def check_times(times: Sequence[float]) -> tuple[float, ...]:
    """Return `times` as floats: strictly decreasing from at most 1 to exactly 0.

    Raises
    ------
    TypeError
        Not a sequence of numbers.
    ValueError
        Fewer than 2, NaN, not decreasing, outside [0, 1], not ending at 0.
    """
    if isinstance(times, (str, bytes)) or not hasattr(times, "__iter__"):
        raise TypeError(f"times is {type(times).__name__}; pass the full-resolution time grid, e.g. shift_times(50)")
    values = tuple(float(check_time(t, "times")) for t in times)
    if len(values) < 2:
        raise ValueError(f"times has {len(values)} values; N steps need N + 1, e.g. shift_times(50)")
    if any(a <= b for a, b in pairwise(values)):
        raise ValueError(f"times must be strictly decreasing from noise (1) to data (0); got {_brief(values)}")
    if values[-1] != 0.0:
        raise ValueError(f"times must end at exactly 0; got {_brief(values)}")
    return values


def _brief(values: Sequence[float]) -> str:
    if len(values) <= 6:
        return "(" + ", ".join(f"{v:g}" for v in values) + ")"
    return f"({values[0]:g}, {values[1]:g}, ..., {values[-2]:g}, {values[-1]:g})"


@dataclass(frozen=True)
class Stage:
    """One stage of a plan: the steps ``start .. stop`` of the time grid on one grid size.

    Attributes
    ----------
    shape
        Grid of this stage.
    scale
        Nominal scale asked for: one number, or one an axis.
    ratio
        ``r = sqrt(prod(full) / prod(shape))`` to the full grid, from the real sizes; 1 for the last stage.
    start, stop
        Indices into the plan's time grid; the stage makes ``stop - start`` steps.
    transition_time
        ``t*`` wanted for the transition after this stage; None for the last stage.
    times
        Local times from start to stop, ``stop - start + 1`` floats: what the velocity is called with.
    """

    shape: tuple[int, ...]
    scale: float | tuple[float, ...]
    ratio: float
    start: int
    stop: int
    transition_time: float | None
    times: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of solver steps."""
        return self.stop - self.start

    @property
    def pixels(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """Everything the sampler needs to know, decided before the first model call; ``print(plan)`` shows it.

    Attributes
    ----------
    times
        The full-resolution time grid, N + 1 floats.
    stages
        One :class:`Stage` a scale, coarse to full.
    clock
        ``"full"`` or ``"stage"``; see the module's text.
    delta
        The tolerance the transitions were derived from; None when they were given.
    warnings
        What a careful reader should know before running it.
    cost_function
        Cost of one step as a function of the grid, when given to :func:`make_plan`.
    notes
        Why the plan is what it is, when something was chosen (:func:`~spectral_pd.optimise_plan`).
    patch
        Grid points a token along each axis: the ``multiple_of`` of :func:`make_plan`. Empty: every grid point is one.
    """

    times: tuple[float, ...]
    stages: tuple[Stage, ...]
    clock: Clock
    delta: float | None = None
    warnings: tuple[str, ...] = ()
    cost_function: Cost | None = None
    notes: tuple[str, ...] = ()
    patch: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The full grid."""
        return self.stages[-1].shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Grid of each stage, coarse to full."""
        return tuple(stage.shape for stage in self.stages)

    @property
    def split(self) -> tuple[int, ...]:
        """Steps of each stage, e.g. (18, 32)."""
        return tuple(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patches of each stage's grid, coarse to full: what a transformer sees of it, without its text."""
        return tuple(stage.pixels // math.prod(self.patch) for stage in self.stages)

    @property
    def transition_times(self) -> tuple[float, ...]:
        """The wanted transition times t*, one for each stage but the last."""
        return tuple(stage.transition_time for stage in self.stages if stage.transition_time is not None)

    @property
    def nfe(self) -> int:
        """Solver steps in all, which is the number of model calls of a one-evaluation solver (Euler, DPM++ 2M)."""
        return len(self.times) - 1

    def cost(self, fn: Cost | None = None) -> float:
        """Total cost of the steps: ``sum_i steps_i fn(shape_i)``.

        Parameters
        ----------
        fn
            Cost of one step on a grid; None uses the plan's own ``cost_function``, or the number of grid points.

        Raises
        ------
        ValueError
            `fn` returned a value that is not positive and finite.
        """
        fn = fn or self.cost_function or _pixels
        return math.fsum(stage.steps * checked_cost(fn, stage.shape) for stage in self.stages)

    def speedup(self, fn: Cost | None = None) -> float:
        """Cost of the same number of full-size steps over :meth:`cost`. Parameters and errors as there."""
        fn = fn or self.cost_function or _pixels
        return self.nfe * checked_cost(fn, self.shape) / self.cost(fn)

    def __str__(self) -> str:
        head = f"{self.nfe} steps, {len(self.stages)} stage{'s' * (len(self.stages) > 1)}, clock={self.clock!r}"
        if self.delta is not None and len(self.stages) > 1:
            head += f", delta={self.delta:g}"
        unit = "tokens" if math.prod(self.patch) > 1 else "points"
        columns = ["stage", "scale", "size", "ratio", "steps", "local times", "t*", "grid T", unit, "share"]
        if self.cost_function:
            columns.insert(-1, "cost")
        total = self.cost()
        rows = []
        for i, stage in enumerate(self.stages):
            wanted = stage.transition_time
            each = checked_cost(self.cost_function or _pixels, stage.shape)
            rows.append(
                [
                    str(i + 1),
                    _scale_text(stage.scale),
                    "x".join(map(str, stage.shape)),
                    f"{stage.ratio:.4g}",
                    str(stage.steps),
                    f"{stage.times[0]:.4f} -> {stage.times[-1]:.4f}",
                    "-" if wanted is None else f"{wanted:.6f}",
                    "-" if wanted is None else f"{self.times[stage.stop]:.6f}",
                    str(self.tokens[i]),
                    *([f"{each:.6g}"] if self.cost_function else []),
                    f"{stage.steps * each / total:.1%}",
                ]
            )
        widths = [max(len(row[c]) for row in [columns, *rows]) for c in range(len(columns))]
        lines = [head]
        lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [columns, *rows]]
        label = "cost function" if self.cost_function else "grid points"
        lines.append(f"predicted speedup over {self.nfe} full-size steps, by {label}: {self.speedup():.2f}x")
        lines += [f"note: {text}" for text in self.notes]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def _pixels(shape: tuple[int, ...]) -> float:
    return float(math.prod(shape))


def token_cost(
    shape: Sequence[int], *, patch: int | Sequence[int] = 1, text_tokens: int = 0, attention: float = 0.0
) -> Cost:
    r"""Cost of a step of a transformer, in steps at full size: ``(1 - a) n / N + a (n / N)^2``.

    ``n`` and ``N`` are the tokens on a stage's grid and on the full one, text included: products with weights grow with the
    tokens, attention with their square.

    Parameters
    ----------
    shape
        Full grid.
    patch
        Grid points a token, along each axis: one int, or one an axis. FLUX.1: 2; WAN (frames, height, width): (1, 2, 2).
    text_tokens
        Tokens of the prompt that pass through the same layers. FLUX.1: 512.
    attention
        Share ``a`` of attention in a full-size step, in [0, 1]. FLUX.1 at 1024x1024: 0.2; WAN 2.1 1.3B at 81 frames of
        720p: 0.85 (benchmarks/results/cost.csv).

    Raises
    ------
    ValueError
        A share outside [0, 1], negative text tokens, a bad patch.

    Examples
    --------
    >>> cost = token_cost((128, 128), patch=2, text_tokens=512, attention=0.2)
    >>> cost((128, 128)), round(cost((64, 64)), 3)
    (1.0, 0.289)
    """
    shape = check_shape(shape)
    patches = check_multiple(patch, len(shape))
    if not 0 <= attention <= 1:
        raise ValueError(f"attention = {attention} must be in [0, 1], the share of attention in a full-size step")
    if text_tokens < 0:
        raise ValueError(f"text_tokens = {text_tokens} must not be negative")

    def tokens(grid: Sequence[int]) -> int:
        return math.prod(-(-n // p) for n, p in zip(grid, patches, strict=True)) + text_tokens

    def cost(grid: tuple[int, ...]) -> float:
        share = tokens(grid) / tokens(shape)
        return (1 - attention) * share + attention * share**2

    return cost


def checked_cost(fn: Cost, shape: tuple[int, ...]) -> float:
    value = float(fn(shape))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"cost function returned {value} for grid {shape}; it must be positive and finite")
    return value


def _scale_text(scale: float | tuple[float, ...]) -> str:
    return ",".join(f"{s:.4g}" for s in scale) if isinstance(scale, tuple) else f"{scale:.4g}"


def check_multiple(multiple_of: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return `multiple_of` as one positive int an axis.

    Raises
    ------
    ValueError
        Not a positive int, nor as many of them as axes.
    """
    values = (multiple_of,) * axes if isinstance(multiple_of, int) else tuple(multiple_of)
    if len(values) != axes or any(isinstance(m, bool) or not isinstance(m, int) or m < 1 for m in values):
        raise ValueError(f"multiple_of = {multiple_of!r} must be a positive int, or one for each of {axes} axes")
    return values


def stage_shape(
    shape: Sequence[int], scale: float | Sequence[float], *, multiple_of: int | Sequence[int] = 1
) -> tuple[int, ...]:
    """Grid of one scale: each size times its scale, rounded down to a multiple of `multiple_of`, at least that multiple.

    Parameters
    ----------
    shape
        Full grid.
    scale
        One number for all axes, or one an axis, e.g. (1, 1/2, 1/2) for video that grows in space only.
    multiple_of
        One int for all axes, or one an axis.
    """
    multiples = check_multiple(multiple_of, len(shape))
    each = (scale,) * len(shape) if isinstance(scale, (int, float)) else tuple(scale)
    # Sizes such as 2/3 of 90 come out a rounding error below 60: the nearby simple fraction is what was meant.
    exact = [Fraction(float(s)).limit_denominator(4096) for s in each]
    return tuple(max(int(n * s) // m, 1) * m for n, s, m in zip(shape, exact, multiples, strict=True))


def check_stage_scales(scales: Sequence[float | Sequence[float]], axes: int) -> tuple[float | tuple[float, ...], ...]:
    """Return the scales of all stages: each one number for all axes, or a tuple of one an axis.

    Raises
    ------
    TypeError
        Not a sequence of numbers and sequences of numbers.
    ValueError
        Empty, not positive, shrinking along an axis, not growing along any, not ending at 1, a wrong number of axes.
    """
    if not isinstance(scales, (list, tuple)) or not any(isinstance(s, (list, tuple)) for s in scales):
        return check_scales(scales)  # type: ignore[arg-type]
    rows = []
    for scale in scales:
        row = tuple(scale) if isinstance(scale, (list, tuple)) else (scale,) * axes
        if not all(isinstance(s, Real) and not isinstance(s, bool) for s in row):
            raise TypeError(f"scale {scale!r} must be a number, or a tuple of one for each axis")
        if len(row) != axes:
            raise ValueError(
                f"scale {scale!r} has {len(row)} numbers for {axes} axes; pass one for each, or a single one"
            )
        if not all(0 < s <= 1 for s in row):
            raise ValueError(f"scale {scale!r} must hold numbers in (0, 1]")
        rows.append(tuple(float(s) for s in row))
    for before, after in pairwise(rows):
        if before == after or any(a > b for a, b in zip(before, after, strict=True)):
            raise ValueError(f"scales {before} and {after}: no axis may shrink and one must grow from stage to stage")
    if rows[-1] != (1.0,) * axes:
        raise ValueError(f"scales = {scales!r} must end at 1, the full size; append 1")
    return tuple(row[0] if len(set(row)) == 1 else row for row in rows)


def leaving_time(
    spectrum: PowerLaw | Spectrum | SpaceTimeSpectrum | Callable[[Any], Any],
    size: Sequence[int],
    shape: Sequence[int],
    *,
    delta: float,
) -> float:
    """``t*``: the time at which a stage on the grid `size` must be left, by the delta rule (Eq. 10).

    A spectrum of radial frequency decides at the smallest ratio of an axis, below which everything is represented; a
    :class:`~spectral_pd.SpaceTimeSpectrum` by its strongest coefficient that the stage lacks.

    Parameters
    ----------
    spectrum, delta
        As :func:`make_plan`.
    size, shape
        Grid of the stage and full grid.

    Raises
    ------
    ValueError, TypeError
        As :func:`make_plan`.

    Examples
    --------
    >>> from spectral_pd import PRESETS
    >>> round(leaving_time(PRESETS["flux"], (64, 64), (128, 128), delta=0.01), 6)
    0.852663
    """
    if isinstance(spectrum, SpaceTimeSpectrum):
        power = spectrum.coefficients(shape)
        power[tuple(slice(0, n) for n in size)] = 0.0
        return activation_time(float(power.max()), delta)
    ratio = min(n / m for n, m in zip(size, shape, strict=True))
    return transition_times(spectrum, (ratio, 1.0), shape, delta=delta)[0]


def make_plan(
    times: Sequence[float],
    spectrum: PowerLaw | Spectrum | SpaceTimeSpectrum | Callable[[Any], Any] | None,
    shape: Sequence[int],
    *,
    scales: Sequence[float | Sequence[float]],
    delta: float = 0.01,
    multiple_of: int | Sequence[int] = 1,
    clock: Clock = "full",
    cost: Cost | None = None,
    transition_times: Sequence[float] | None = None,
    unreached: Literal["error", "force"] = "error",
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
        function of frequency. Rescaled to `shape` when it carries another grid. None with explicit `transition_times`.
    shape
        Full grid, e.g. (128, 128): the LATENT size for latent models.
    scales
        Increasing, ending at 1, e.g. (1/2, 1). A scale may hold one number an axis: ((1, 1/2, 1/2), 1) grows video
        (frames, height, width) in space only, ((1/2, 1/2, 1/2), (1, 1/2, 1/2), 1) in time first.
    delta
        Tolerated velocity error of the bands not yet represented, 0 < delta < 1.
    multiple_of
        Stage sizes are rounded down to multiples of this (a patch size), one int or one an axis; the full shape must be
        one already. Transition times and ratios use the rounded sizes, and the plan says so.
    clock
        ``"full"`` (default) or ``"stage"`` (the paper's); see the module's text.
    cost
        Cost of one step as a function of the grid, for ``str(plan)``, ``plan.cost()`` and ``plan.speedup()``.
    transition_times
        Use these t* (one for each scale but the last, decreasing) instead of deriving them.
    unreached
        A transition that no step before the end reaches is an ``"error"``, or is moved to the last step by ``"force"``.

    Raises
    ------
    ValueError, TypeError
        Any argument out of its range, two stages of one size, a transition never reached.

    Examples
    --------
    >>> import math
    >>> from spectral_pd import PRESETS
    >>> make_plan(shift_times(50, shift=math.exp(1.15)), PRESETS["flux"], (128, 128), scales=(1 / 2, 1)).split
    (18, 32)
    """
    times, shape, delta = check_times(times), check_shape(shape), check_delta(delta)
    scales = check_stage_scales(scales, len(shape))
    if clock not in ("full", "stage"):
        raise ValueError(f"clock = {clock!r} must be 'full' or 'stage'")
    if cost is not None and not callable(cost):
        raise TypeError(
            f"cost is {type(cost).__name__}; pass a function of the grid, e.g. lambda shape: math.prod(shape)"
        )
    if unreached not in ("error", "force"):
        raise ValueError(f"unreached = {unreached!r} must be 'error' or 'force'")
    multiples = check_multiple(multiple_of, len(shape))
    if any(n % m for n, m in zip(shape, multiples, strict=True)):
        raise ValueError(
            f"shape = {shape} is not a multiple of multiple_of = {multiple_of}; the full size is never rounded"
        )

    warnings = []
    shapes = [stage_shape(shape, scale, multiple_of=multiples) for scale in scales]
    for scale, size in zip(scales, shapes, strict=True):
        each = scale if isinstance(scale, tuple) else (scale,) * len(shape)
        if any(abs(n - s * full) > 1e-6 for n, s, full in zip(size, each, shape, strict=True)):
            warnings.append(
                f"scale {_scale_text(scale)} of {_size(shape)} is rounded to {_size(size)}; its real ratio is used"
            )
    for before, after in pairwise(shapes):
        if math.prod(before) >= math.prod(after) or any(a > b for a, b in zip(before, after, strict=True)):
            raise ValueError(
                f"scales {scales} of {shape} give stages {_size(before)} and {_size(after)}; every stage must be larger "
                f"than the one before: use fewer scales or a smaller multiple_of"
            )

    wanted = _wanted_times(spectrum, shapes, delta, transition_times, warnings)
    indices = _transition_indices(times, wanted, unreached, warnings)
    starts, stops = (0, *indices), (*indices, len(times) - 1)
    for k in sorted({k for k in indices if indices.count(k) > 1}):
        warnings.append(
            f"{indices.count(k)} transitions fall on grid time T_{k} = {times[k]:.4f}; a stage makes no step"
        )
    if indices and indices[0] == 0:
        warnings.append(f"the first transition is due at or before the first grid time {times[0]:.4f}: no coarse step")

    ratios = [size_ratio(size, shape) for size in shapes]
    local = local_times(times, ratios, starts, stops, clock)
    stages = tuple(
        Stage(
            shape=shapes[i],
            scale=scales[i],
            ratio=ratios[i],
            start=starts[i],
            stop=stops[i],
            transition_time=wanted[i] if i < len(wanted) else None,
            times=local[i],
        )
        for i in range(len(scales))
    )
    return Plan(
        times,
        stages,
        clock,
        delta=None if transition_times is not None else delta,
        warnings=tuple(warnings),
        cost_function=cost,
        patch=multiples,
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _wanted_times(
    spectrum: PowerLaw | Spectrum | SpaceTimeSpectrum | Callable[[Any], Any] | None,
    shapes: Sequence[tuple[int, ...]],
    delta: float,
    given: Sequence[float] | None,
    warnings: list[str],
) -> tuple[float, ...]:
    """The transition times t*, derived from the spectrum at the real stage sizes or taken as given."""
    full = shapes[-1]
    if given is not None:
        values = tuple(float(check_time(t, "transition_times")) for t in given)
        if len(values) != len(shapes) - 1:
            raise ValueError(
                f"transition_times has {len(values)} values for {len(shapes)} scales; pass one for each scale but the last"
            )
        if any(not 0 < t < 1 for t in values) or any(a < b for a, b in pairwise(values)):
            raise ValueError(f"transition_times = {values} must lie inside (0, 1) and not increase")
        return values
    if spectrum is None:
        raise ValueError("spectrum is None; pass a PowerLaw, a Spectrum or a function, or give transition_times")
    grid = getattr(spectrum, "shape", None)
    if grid is not None and tuple(grid) != full:
        warnings.append(f"the spectrum was measured on {_size(grid)} and is rescaled to {_size(full)}")
    if getattr(spectrum, "kind", None) == "borrowed":
        warnings.append(
            f"the spectrum is borrowed ({getattr(spectrum, 'source', '')}); measure your own with fit_spectrum"
        )
    return tuple(leaving_time(spectrum, size, full, delta=delta) for size in shapes[:-1])


def _transition_indices(
    times: tuple[float, ...], wanted: tuple[float, ...], unreached: str, warnings: list[str]
) -> tuple[int, ...]:
    """First index k with ``T_k <= t*``, for each wanted t*; the last stage must keep at least one step."""
    last = len(times) - 2
    indices = []
    for i, target in enumerate(wanted):
        k = next(k for k, t in enumerate(times) if t <= target)
        if k > last:
            text = (
                f"transition {i + 1} at t* = {target:.6f} is never reached: the last grid time before the end is "
                f"T_{last} = {times[last]:.6f}"
            )
            if unreached == "error":
                raise ValueError(
                    f"{text}; use more steps, a smaller shift, a smaller delta, fewer scales, or unreached='force'"
                )
            warnings.append(f"{text}; forced to T_{last}")
            k = last
        indices.append(k)
    return tuple(indices)


def local_times(
    times: tuple[float, ...],
    ratios: Sequence[float],
    starts: Sequence[int],
    stops: Sequence[int],
    clock: Clock,
) -> list[tuple[float, ...]]:
    """The times each stage's velocity is called with, start to stop."""
    if clock == "full":
        return [
            tuple(align_time(t, 1 / r) for t in times[a : b + 1]) for a, b, r in zip(starts, stops, ratios, strict=True)
        ]
    local: list[tuple[float, ...]] = []
    for i, (a, b) in enumerate(zip(starts, stops, strict=True)):
        # The state arrives with the aligned time of the stage before; that one grid value is replaced.
        entry = times[a] if i == 0 else align_time(local[-1][-1], ratios[i - 1] / ratios[i])
        local.append((entry, *times[a + 1 : b + 1]))
    return local
