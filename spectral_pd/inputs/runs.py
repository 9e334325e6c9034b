"""What a run is given: noise, plans, time grids, states, velocities, callbacks, `out=`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from spectral_pd.inputs import (
    filled,
    function,
    is_int,
    iterable,
    occupied,
    one_number,
    one_time,
    optional,
    real,
    refuse,
    scales,
    shape,
    shown,
    state,
    such,
    working_dtype,
)

velocity = function("a callable velocity(x, t)")
callback = optional(function("a function of a StepInfo, or None"))
cost_function = optional(function("a function of the grid, e.g. lambda shape: math.prod(shape)"))
shift = such(
    real("a number above 0 (1 is no shift)"), lambda s: 0 < s < math.inf, "must be positive and finite (1 is no shift)"
)
attention = such(one_number, lambda a: 0 <= a <= 1, "must be in [0, 1], the share of attention in a full-size step")


def data_time(value: Any, name: str) -> float:
    """A time at which a denoiser has a velocity: not 0."""
    t = one_time(value, name)
    refuse(t == 0, f"{name} = 0: a denoiser's velocity has no value at the data end; use 0 < {name} <= 1")
    return t


def only_one(**sources: Any) -> None:
    """Exactly one of several arguments."""
    *first, last = (f"{name}=" for name in sources)
    refuse(sum(v is not None for v in sources.values()) != 1, f"pass exactly one of {', '.join(first)} and {last}")


# -- plans ------------------------------------------------------------------------------------------------------------


def times(value: Any, name: str) -> tuple[float, ...]:
    """A time grid: strictly decreasing floats from at most 1 to exactly 0."""
    grid = iterable("the full-resolution time grid, e.g. shift_times(50)")(value, name)
    values = tuple(one_time(t, name) for t in grid)
    refuse(len(values) < 2, f"{name} has {len(values)} values; N steps need N + 1, e.g. shift_times(50)")
    texts = [f"{v:g}" for v in values]
    got = f"({', '.join(texts if len(texts) <= 6 else [*texts[:2], '...', *texts[-2:]])})"
    rising = any(a <= b for a, b in pairwise(values))
    refuse(rising, f"{name} must be strictly decreasing from noise (1) to data (0); got {got}")
    refuse(values[-1] != 0.0, f"{name} must end at exactly 0; got {got}")
    return values


def transition_times(value: Any, scale_count: int) -> tuple[float, ...]:
    """Explicit t*: one for each scale but the last, inside (0, 1), not increasing."""
    values = tuple(one_time(t, "transition_times") for t in value)
    refuse(
        len(values) != scale_count - 1,
        f"transition_times has {len(values)} values for {scale_count} scales; pass one for each scale but the last",
    )
    inside = all(0 < t < 1 for t in values) and all(a >= b for a, b in pairwise(values))
    refuse(not inside, f"transition_times = {values} must lie inside (0, 1) and not increase")
    return values


def stage_scales(value: Any, axes: int) -> tuple[float | tuple[float, ...], ...]:
    """One scale a stage: a number for all axes, or one an axis, of which none shrinks and one grows from stage to stage."""
    if not isinstance(value, (list, tuple)) or not any(isinstance(s, (list, tuple)) for s in value):
        return scales(value, "scales")
    rows = []
    for scale in value:
        row = tuple(scale) if isinstance(scale, (list, tuple)) else (scale,) * axes
        plain = all(isinstance(s, Real) and not isinstance(s, bool) for s in row)
        refuse(not plain, f"scale {scale!r} must be a number, or a tuple of one for each axis", TypeError)
        refuse(
            len(row) != axes,
            f"scale {scale!r} has {len(row)} numbers for {axes} axes; pass one for each, or a single one",
        )
        refuse(not all(0 < s <= 1 for s in row), f"scale {scale!r} must hold numbers in (0, 1]")
        rows.append(tuple(float(s) for s in row))
    for before, after in pairwise(rows):
        shrinks = before == after or any(a > b for a, b in zip(before, after, strict=True))
        refuse(shrinks, f"scales {before} and {after}: no axis may shrink and one must grow from stage to stage")
    refuse(rows[-1] != (1.0,) * axes, f"scales = {value!r} must end at 1, the full size; append 1")
    return tuple(row[0] if len(set(row)) == 1 else row for row in rows)


def growing(scale_values: Sequence[Any], full: Sequence[int], shapes: Sequence[Sequence[int]]) -> None:
    """Every stage's grid must be larger than the one before."""
    for before, after in pairwise(shapes):
        refuse(
            math.prod(before) >= math.prod(after) or any(a > b for a, b in zip(before, after, strict=True)),
            f"scales {tuple(scale_values)} of {tuple(full)} give stages {shown(before)} and {shown(after)}; every stage "
            f"must be larger than the one before: use fewer scales or a smaller multiple_of",
        )


def multiples(value: Any, axes: int, full: Sequence[int] = ()) -> tuple[int, ...]:
    """`multiple_of` as one positive int an axis, of which the full size, where given, is a multiple."""
    values = (value,) * axes if isinstance(value, Integral) else tuple(value)
    good = len(values) == axes and all(is_int(m) and m >= 1 for m in values)
    refuse(not good, f"multiple_of = {value!r} must be a positive int, or one for each of {axes} axes")
    refuse(
        any(n % m for n, m in zip(full, values, strict=False)),
        f"shape = {tuple(full)} is not a multiple of multiple_of = {value}; the full size is never rounded",
    )
    return tuple(int(m) for m in values)


def cost(fn: Callable[[tuple[int, ...]], float], grid: tuple[int, ...]) -> float:
    """What a cost function says of a grid."""
    value = float(fn(grid))
    refuse(not 0 < value < math.inf, f"cost function returned {value} for grid {grid}; it must be positive and finite")
    return value


def one_stage(shapes: Sequence[Sequence[int]]) -> None:
    """A plan that stays on the full grid."""
    refuse(len(shapes) != 1, f"plan has {len(shapes)} stages; pass one of full resolution only, with scales=(1,)")


def entry(stage: Any, mode: str, shapes: Sequence[Sequence[int]]) -> None:
    """The stage of a plan an edit enters at."""
    refuse(not is_int(stage), f"stage is {stage!r}; pass the index of the first stage that runs, an int", TypeError)
    refuse(
        not 0 <= stage < len(shapes),
        f"stage = {stage} must be from 0 to {len(shapes) - 1}, the index of one of the plan's stages "
        f"({', '.join(map(shown, shapes))})",
    )
    refuse(
        stage == 0 and mode == "clean",
        "mode = 'clean' keeps the band of the stage before; with stage = 0 there is none: use 'noised'",
    )


# -- states -----------------------------------------------------------------------------------------------------------


def full_size(x: Any, name: str, grid: Sequence[int], what: str = "the plan's grid") -> Tensor:
    """A finite batch on the full grid."""
    sizes = tuple(state(x, name, len(grid)).shape)
    refuse(sizes[-len(grid) :] != tuple(grid), f"{name} has shape {sizes}; its last axes must be {what} {tuple(grid)}")
    return filled(x, name)


def start_state(start: Any, noise: Any, clock: str, grid: Sequence[int]) -> None:
    """A state of the full size to start from, beside a noise tensor."""
    tensors = isinstance(start, Tensor) and isinstance(noise, Tensor)
    refuse(not tensors, "start and noise must both be tensors of the full size", TypeError)
    sizes, white = tuple(filled(state(start, "start", len(grid)), "start").shape), tuple(noise.shape)
    refuse(sizes != white, f"start has shape {sizes}, noise {white}; both are of the full size")
    refuse(clock != "full", "start needs a plan with clock='full', where the first time is that of the full-size state")


def samples_and_noise(samples: Any, noise: Any, dims: int) -> tuple[Tensor, Tensor]:
    """Data and noise of one shape."""
    x0, eps = state(samples, "samples", dims), state(noise, "noise", dims)
    sizes, white = tuple(x0.shape), tuple(eps.shape)
    refuse(
        sizes != white or 0 in sizes,
        f"samples have shape {sizes}, noise {white}; they must agree and not be empty",
    )
    return x0, eps


def answered(v: Any, x: Tensor) -> Tensor:
    """What a velocity returned for a state."""
    if not isinstance(v, Tensor) or v.shape != x.shape:
        got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(f"velocity returned {got} for a state of shape {tuple(x.shape)}; it must keep the shape")
    return v


def replacement(result: Tensor, x: Tensor) -> Tensor:
    """The state a callback returned in the place of `x`."""
    if result.shape != x.shape:
        raise ValueError(f"callback returned a state of shape {tuple(result.shape)}; it must keep {tuple(x.shape)}")
    return result.to(x)


def filled_state(x: Any, name: str, dims: int) -> Tensor:
    """A :func:`state` of at least one item."""
    return occupied(state(x, name, dims), name)


def result_tensor(out: Any, shape: tuple[int, ...], x: Tensor, noise: Any) -> None:
    """A tensor to write a result of x's type into; as in torch, no derivative passes through it."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out is {type(out).__name__}; pass a tensor of the result's shape, type and device, or None")
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}; the result is {shape} {x.dtype} on {x.device}"
        )
    if torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in (x, noise, out)):
        raise RuntimeError(
            "expand_aligned(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad; leave out= away, or call it under torch.no_grad()"
        )


# -- noise ------------------------------------------------------------------------------------------------------------


def noise_source(value: Any, name: str) -> Any:
    """An int seed, a generator, or a list of either, one an item."""
    sources = value if isinstance(value, (list, tuple)) else (value,)
    refuse(not sources, "noise source is an empty list; pass one seed or generator for each batch item")
    for one in sources:
        refuse(
            not (is_int(one) or isinstance(one, torch.Generator)),
            f"noise source is {type(one).__name__}; pass an int seed, a torch.Generator, or a list of either (one an item)",
            TypeError,
        )
    return value


def fresh_seed(noise: Any, seed: Any, coupling: str) -> None:
    """A seed makes the noise where none is given; beside a tensor it is where fresh noise comes from."""
    refuse(noise is None and seed is None, "noise is None; pass a white field of the full size, a NoiseField, or seed=")
    refuse(
        seed is not None and noise is not None and (coupling == "coupled" or not isinstance(noise, Tensor)),
        "seed is used only without noise, or with a noise tensor and coupling='fresh'; remove it",
    )


def one_each(keys: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The sources of a noise field that lists one an item."""
    refuse(batch != len(keys), f"batch of {batch} items, but the noise source lists {len(keys)}; they must agree")
    return keys


def noise_tensor(
    noise: Tensor, grid: Sequence[int], like: Tensor | None = None, leading: Any = None, seed: Any = None
) -> Tensor:
    """A white field of the full size for a whole run, of the shape and in the working type of `like`."""
    refuse(
        leading is not None, "leading is used only with a NoiseField or a seed; a noise tensor has its own leading axes"
    )
    full_size(noise, "noise", grid, "the plan's full grid")
    if like is not None:
        white, image = ((tuple(v.shape), v.device) for v in (noise, like))
        refuse(
            white != image,
            f"noise has shape {white[0]} on {white[1]}, image {image[0]} on {image[1]}; make both the same",
        )
    if isinstance(seed, (list, tuple)) and len(seed) != len(noise):
        raise ValueError(f"seed lists {len(seed)} generators for a batch of {len(noise)}; pass one an item")
    return noise.to(working_dtype(noise.dtype if like is None else like.dtype))


def growth_noise(noise: Tensor, grid: tuple[int, ...], x: Tensor, *_: Any) -> Tensor:
    """A white field on the fine grid for one growth of `x`, in its own type: what is stored short is grown from there."""
    expected = (*x.shape[: x.ndim - len(grid)], *grid)
    if tuple(state(noise, "noise", len(grid)).shape) != expected:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; expected {expected}, x's leading axes and the fine grid"
        )
    if noise.device != x.device:
        raise ValueError(f"noise is on {noise.device} but x is on {x.device}; move one of them")
    return noise


def leading_axes(value: Any) -> tuple[int, ...]:
    """What a noise field must be told, since it has every shape: the axes before the grid."""
    refuse(value is None, "noise is a NoiseField; pass leading=(batch, channels, ...), the axes before the grid")
    refuse(not hasattr(value, "__iter__"), f"leading is {value!r}; pass a tuple such as (batch, channels)", TypeError)
    sizes = tuple(operator.index(n) for n in value)
    refuse(any(n < 1 for n in sizes), f"leading = {sizes} must hold sizes, each at least 1")
    return sizes


def nested_field(field_basis: Any, basis: Any, grids: Sequence[tuple[int, ...]]) -> None:
    """A noise field in the basis of growth, whose coefficients on each grid are the low corner of the next one's."""
    if field_basis != basis:
        raise ValueError(f"noise is a field in {field_basis}, but basis = {basis}; make both the same")
    for coarse, fine in pairwise(grids):
        if not basis.nested(coarse, fine):
            raise ValueError(
                f"{basis} coefficients of {coarse} are not the low corner of those of {fine}; grow every axis by the same "
                f"factor, or pass the white field as a tensor"
            )


def transition(value: Any, name: str) -> int:
    """The number of a transition's own field; 0 is the coupled one."""
    refuse(not is_int(value) or not 0 <= value < 2**16, f"{name} = {value!r} must be an int in [0, 65535]")
    return int(value)


def field_shape(value: Any, dims: Any) -> tuple[int, ...]:
    """(batch, ..., *grid) for which a noise field has coefficients."""
    refuse(not is_int(dims) or not 1 <= dims <= 3, f"dims = {dims!r}: a noise field has 1, 2 or 3 spectral axes")
    try:
        sizes = tuple(operator.index(n) for n in value)
    except TypeError:
        raise TypeError(f"shape = {value!r} must hold integers: (batch, ..., *grid)") from None
    refuse(len(sizes) < dims, f"shape = {sizes} has fewer axes than dims = {dims}")
    longest = max(shape(sizes[-dims:], "shape"))
    refuse(longest > 2**16, f"shape = {sizes}: a field has at most 65536 coefficients along each spectral axis")
    refuse(min(sizes) < 0, f"shape = {sizes} holds a negative size")
    return sizes
