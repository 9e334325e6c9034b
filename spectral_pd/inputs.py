r"""The door: every parse of an argument, and every phrase of an error. Nothing behind it asks again.

:func:`door` puts parsers before a function, by parameter name; ``function.bare`` is the same function without them, for inner
loops whose values are known to be good:

    >>> @door(t=time)
    ... def halved(t):
    ...     return t / 2
    >>> halved(0.5), halved.bare(0.5)
    (0.25, 0.25)

A parser takes ``(value, name)`` and returns the value as the inside wants it (an int of numpy as an int, a time as a float),
or raises a TypeError for a wrong kind and a ValueError for a wrong value, each with argument, value, what is allowed, what to
do. What several arguments must fulfil together stands below the parsers, under the names of those arguments.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Any
"""A float, a numpy array or a torch tensor; functions return the kind they were given."""
REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types of tensors that are computed with."""
Parser: TypeAlias = Callable[[Any, str], Any]
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Opened(Protocol, Generic[P, R_co]):
    """A function behind its door, and the bare one."""

    __name__: str

    @property
    def bare(self) -> Callable[P, R_co]: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def __get__(self, instance: Any, owner: Any = None) -> Callable[..., R_co]: ...


def door(**parsers: Parser) -> Callable[[Callable[P, R]], Opened[P, R]]:
    """Parse the arguments of these names before the function sees them; defaults are trusted."""

    def decorate(function: Callable[P, R]) -> Opened[P, R]:
        names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
        places = [(name, names.index(name), parse) for name, parse in parsers.items()]

        @wraps(function)
        def opened(*args: Any, **kwargs: Any) -> R:
            values = list(args)
            for name, place, parse in places:
                if place < len(values):
                    values[place] = parse(values[place], name)
                elif name in kwargs:
                    kwargs[name] = parse(kwargs[name], name)
            return function(*values, **kwargs)

        opened.bare = function  # type: ignore[attr-defined]
        return cast(Opened[P, R], opened)

    return decorate


def shown(shape: Sequence[int]) -> str:
    """A grid as people write it: 64x64."""
    return "x".join(map(str, shape))


# -- kinds ------------------------------------------------------------------------------------------------------------


def instance(kind: type | tuple[type, ...], remedy: str) -> Parser:
    """Parser of values of a class: "plan is list; pass what make_plan returned"."""

    def parse(value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {_named(value)}; pass {remedy}")
        return value

    return parse


def _named(value: Any) -> str:
    return repr(value) if isinstance(value, (str, bool)) else type(value).__name__


def choice(*allowed: str) -> Parser:
    """Parser of one word of several."""
    words = [repr(word) for word in allowed]
    listed = f"{', '.join(words[:-1])} or {words[-1]}"

    def parse(value: Any, name: str) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} = {value!r} must be {listed}")
        return value

    return parse


def function(remedy: str) -> Parser:
    """Parser of a callable."""

    def parse(value: Any, name: str) -> Any:
        if not callable(value):
            raise TypeError(f"{name} is {type(value).__name__}; pass {remedy}")
        return value

    return parse


def optional(parse: Parser) -> Parser:
    """The parser, or None."""
    return lambda value, name: None if value is None else parse(value, name)


velocity = function("a callable velocity(x, t)")
callback = optional(function("a function of a StepInfo, or None"))
cost_function = optional(function("a function of the grid, e.g. lambda shape: math.prod(shape)"))


# -- numbers ----------------------------------------------------------------------------------------------------------


def everywhere(condition: Any) -> bool:
    """Whether an elementwise condition holds; taken to hold where torch.func.vmap lets nobody look at numbers."""
    if isinstance(condition, bool):
        return condition
    functorch, inner = torch._C._functorch, condition
    while isinstance(inner, Tensor) and functorch.is_functorch_wrapped_tensor(inner):
        if functorch.is_batchedtensor(inner):
            return True
        inner = functorch.get_unwrapped(inner)
    return bool(condition.all())


def number(value: Any, name: str) -> Array:
    """A float, a floating numpy array or a floating tensor, without NaN."""
    if isinstance(value, Tensor):
        numbers(value, name)
        if value.dtype not in REAL:
            raise TypeError(f"{name} is a tensor of {value.dtype}; pass a floating-point tensor, e.g. {name}.float()")
        has_nan = not everywhere(~value.isnan())
    elif isinstance(value, np.ndarray):
        if not np.issubdtype(value.dtype, np.floating):
            raise TypeError(f"{name} is an array of {value.dtype}; pass a floating-point array")
        has_nan = not everywhere(~np.isnan(value))
    elif isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
        has_nan = math.isnan(value)
    else:
        raise TypeError(f"{name} is {type(value).__name__}; pass a float, a numpy array or a torch tensor")
    if has_nan:
        raise ValueError(f"{name} contains NaN; pass finite numbers")
    return value


def numbers(x: Tensor, name: str) -> Tensor:
    """A tensor whose numbers can be looked at: dense, and not on the meta device."""
    if x.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {x.layout}; pass a dense one, e.g. {name}.to_dense()")
    if x.is_meta:
        raise TypeError(
            f"{name} is on the meta device, where tensors hold no numbers; pass one on a device that computes"
        )
    return x


def _within(holds: Callable[[Any], Any], allowed: str) -> Parser:
    """Parser of numbers for which the elementwise condition holds everywhere."""

    def parse(value: Any, name: str) -> Array:
        value = number(value, name)
        if not everywhere(holds(value)):
            what = value if isinstance(value, float) else f"{type(value).__name__} of shape {tuple(value.shape)}"
            raise ValueError(f"{name} = {what} is out of range; {name} must satisfy {allowed.format(name=name)}")
        return value

    return parse


time = _within(lambda t: (t >= 0) & (t <= 1), "0 <= {name} <= 1 (1 is pure noise, 0 is data)")
inner_time = _within(lambda t: (t > 0) & (t < 1), "0 < {name} < 1 (at 0 and 1 no finite positive power activates)")
power = _within(lambda p: (p > 0) & (p < math.inf), "0 < {name} < inf")
delta = _within(lambda d: (d > 0) & (d < 1), "0 < {name} < 1 (smaller: earlier transitions, slower, closer)")
ratio = _within(lambda r: (r > 0) & (r < math.inf), "0 < {name} < inf (fine over coarse; 1 is no change)")


def single(parse: Parser) -> Parser:
    """The parser for one number: a float, also from an array or tensor of one element."""

    def parsed(value: Any, name: str) -> float:
        if isinstance(value, (Tensor, np.ndarray, np.generic)) and np.size(value) == 1:
            value = value.item()
        return float(parse(value, name))

    return parsed


one_time, one_delta = single(time), single(delta)


def data_time(value: Any, name: str) -> float:
    """A time at which a denoiser has a velocity: not 0."""
    t = one_time(value, name)
    if t == 0:
        raise ValueError(f"{name} = 0: a denoiser's velocity has no value at the data end; use 0 < {name} <= 1")
    return t


def whole(least: int) -> Parser:
    """Parser of an int, numpy's among them, at least `least`."""

    def parse(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} is {value!r}; pass an int")
        if int(value) < least:
            raise ValueError(f"{name} = {value} must be at least {least}")
        return int(value)

    return parse


def count(value: Any, name: str) -> int:
    """A positive int."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} = {value!r} must be a positive int")
    return int(value)


def shift(value: Any, name: str) -> float:
    """The factor of a time shift."""
    if isinstance(value, (bool, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; pass a number above 0 (1 is no shift)")
    if not (math.isfinite(value) and float(value) > 0):
        raise ValueError(f"{name} = {value} must be positive and finite (1 is no shift)")
    return float(value)


def attention(value: Any, name: str) -> float:
    """The share of attention in the cost of a step."""
    if not 0 <= number(value, name) <= 1:
        raise ValueError(f"{name} = {value} must be in [0, 1], the share of attention in a full-size step")
    return float(value)


def cost(fn: Callable[[tuple[int, ...]], float], grid: tuple[int, ...]) -> float:
    """What a cost function says of a grid."""
    value = float(fn(grid))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"cost function returned {value} for grid {grid}; it must be positive and finite")
    return value


def edm_time(value: Any, name: str) -> float:
    """A flow time that has a noise level."""
    if not 0 <= value < 1:
        raise ValueError(
            f"{name} = {value} must be in [0, 1): EDM's noise level is infinite at t = 1; begin the time grid below 1"
        )
    return float(value)


def edm_level(value: Any, name: str) -> float:
    """EDM's noise level."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} = {value} must be finite and not negative")
    return float(value)


def vp_levels(alpha: float, sigma: float) -> None:
    """Signal and noise level of a state."""
    if not (alpha >= 0 and sigma >= 0 and 0 < alpha + sigma < math.inf):
        raise ValueError(f"alpha = {alpha}, sigma = {sigma} must not be negative, nor both 0")


def bandwidth(value: Any, name: str) -> float:
    """Standard deviation of a kernel."""
    if isinstance(value, (bool, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; pass a number, at least 0")
    if not (math.isfinite(value) and float(value) >= 0):
        raise ValueError(f"{name} = {value} must be finite and not negative")
    return float(value)


# -- grids and scales -------------------------------------------------------------------------------------------------


def shape(value: Any, name: str) -> tuple[int, ...]:
    """The sizes of the spectral axes, each at least 1."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {value!r}; pass the sizes of the spectral axes, e.g. (height, width)")
    sizes = tuple(value)
    if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes):
        raise TypeError(f"{name} = {sizes!r} must hold integers, e.g. (64, 64)")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} = {sizes!r} must hold one or more sizes, each at least 1")
    return tuple(int(n) for n in sizes)


def leading(value: Any, name: str) -> tuple[int, ...]:
    """The axes before a grid."""
    if not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {value!r}; pass a tuple such as (batch, channels)")
    sizes = tuple(operator.index(n) for n in value)
    if any(n < 1 for n in sizes):
        raise ValueError(f"{name} = {sizes} must hold sizes, each at least 1")
    return sizes


def scales(value: Any, name: str) -> tuple[float, ...]:
    """One number a stage, strictly increasing in (0, 1] to 1."""
    if isinstance(value, (str, bytes, Real)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {value!r}; pass a sequence of numbers such as (0.5, 1)")
    values = tuple(number(s, name) for s in value)
    if not values:
        raise ValueError(f"{name} is empty; pass at least (1,)")
    if any(not isinstance(s, float) for s in values):
        raise TypeError(f"{name} = {value!r}; pass a sequence of plain numbers such as (0.5, 1)")
    if values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"{name} = {values} must be positive and strictly increasing, e.g. (0.25, 0.5, 1)")
    if values[-1] != 1.0:
        raise ValueError(f"{name} = {values} must end at 1, the full size; append 1")
    return values


def stage_scales(value: Any, axes: int) -> tuple[float | tuple[float, ...], ...]:
    """One scale a stage: a number for all axes, or one an axis, of which none shrinks and one grows from stage to stage."""
    if not isinstance(value, (list, tuple)) or not any(isinstance(s, (list, tuple)) for s in value):
        return scales(value, "scales")
    rows = []
    for scale in value:
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
        raise ValueError(f"scales = {value!r} must end at 1, the full size; append 1")
    return tuple(row[0] if len(set(row)) == 1 else row for row in rows)


def growing(scale_values: Sequence[Any], full: Sequence[int], shapes: Sequence[Sequence[int]]) -> None:
    """Every stage's grid must be larger than the one before."""
    for before, after in pairwise(shapes):
        if math.prod(before) >= math.prod(after) or any(a > b for a, b in zip(before, after, strict=True)):
            raise ValueError(
                f"scales {tuple(scale_values)} of {tuple(full)} give stages {shown(before)} and {shown(after)}; every stage "
                f"must be larger than the one before: use fewer scales or a smaller multiple_of"
            )


def multiples(value: Any, axes: int, full: Sequence[int] = ()) -> tuple[int, ...]:
    """`multiple_of` as one positive int an axis, of which the full size, where given, is a multiple."""
    values = (value,) * axes if isinstance(value, Integral) else tuple(value)
    if len(values) != axes or any(isinstance(m, bool) or not isinstance(m, Integral) or m < 1 for m in values):
        raise ValueError(f"multiple_of = {value!r} must be a positive int, or one for each of {axes} axes")
    if any(n % m for n, m in zip(full, values, strict=False)):
        raise ValueError(
            f"shape = {tuple(full)} is not a multiple of multiple_of = {value}; the full size is never rounded"
        )
    return tuple(int(m) for m in values)


# -- runs -------------------------------------------------------------------------------------------------------------


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


def start_state(start: Any, noise: Any, clock: str, grid: Sequence[int]) -> None:
    """A state of the full size to start from, beside a noise tensor."""
    if not isinstance(start, Tensor) or not isinstance(noise, Tensor):
        raise TypeError("start and noise must both be tensors of the full size")
    if not everywhere(torch.isfinite(numbers(state(start, "start", len(grid)), "start"))):
        raise ValueError("start contains NaN or infinity")
    if start.shape != noise.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}, noise {tuple(noise.shape)}; both are of the full size")
    if clock != "full":
        raise ValueError("start needs a plan with clock='full', where the first time is that of the full-size state")


def entry(stage: Any, mode: str, shapes: Sequence[Sequence[int]]) -> None:
    """The stage of a plan an edit enters at."""
    if isinstance(stage, bool) or not isinstance(stage, Integral):
        raise TypeError(f"stage is {stage!r}; pass the index of the first stage that runs, an int")
    if not 0 <= int(stage) < len(shapes):
        raise ValueError(
            f"stage = {stage} must be from 0 to {len(shapes) - 1}, the index of one of the plan's stages "
            f"({', '.join(map(shown, shapes))})"
        )
    if stage == 0 and mode == "clean":
        raise ValueError(
            "mode = 'clean' keeps the band of the stage before; with stage = 0 there is none: use 'noised'"
        )


def one_stage(shapes: Sequence[Sequence[int]]) -> None:
    """A plan that stays on the full grid."""
    if len(shapes) != 1:
        raise ValueError(f"plan has {len(shapes)} stages; pass one of full resolution only, with scales=(1,)")


def samples_and_noise(samples: Any, noise: Any, dims: int) -> tuple[Tensor, Tensor]:
    """Data and noise of one shape."""
    x0, eps = state(samples, "samples", dims), state(noise, "noise", dims)
    if x0.shape != eps.shape or x0.numel() == 0:
        raise ValueError(
            f"samples have shape {tuple(x0.shape)}, noise {tuple(eps.shape)}; they must agree and not be empty"
        )
    return x0, eps


def low_corner(basis: Any, grid: tuple[int, ...], full: tuple[int, ...]) -> None:
    """A stage's grid whose coefficients are the low corner of the full one's."""
    basis.reach(grid, full)
    if not basis.nested(grid, full):
        raise ValueError(f"{basis} coefficients of {grid} are not the low corner of {full}")


def same_grid(plan_shape: tuple[int, ...], field_shape: tuple[int, ...]) -> None:
    """A plan on the grid of the field it is tried on."""
    if plan_shape != field_shape:
        raise ValueError(f"plan is for grid {plan_shape}, the field is on {field_shape}; make both the same")


def data_set(samples: Any, dims: int) -> None:
    """(K, ..., *grid), finite and not empty."""
    state(samples, "samples", dims + 1)
    if samples.numel() == 0:
        raise ValueError(f"samples has shape {tuple(samples.shape)}; pass at least one sample")
    if not everywhere(torch.isfinite(numbers(samples, "samples"))):
        raise ValueError("samples contains NaN or infinity")


def like_samples(x: Any, samples: Tensor, dims: int) -> None:
    """A state of a data set: its axes but for the batch and the grid."""
    if state(x, "x", dims + 1).shape[1:-dims] != samples.shape[1:-dims]:
        raise ValueError(f"x has shape {tuple(x.shape)}; samples are {tuple(samples.shape)}: axes must match")


def training_pair(x0: Any, noise: Any, grid: tuple[int, ...]) -> None:
    """Clean data and one white field, both of the full size."""
    for name, value in (("x0", x0), ("noise", noise)):
        state(value, name, len(grid) + 1)
        if tuple(value.shape[-len(grid) :]) != grid:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; its last axes must be the plan's {grid}")
    if x0.shape != noise.shape:
        raise ValueError(f"x0 has shape {tuple(x0.shape)} but noise {tuple(noise.shape)}; they must agree")
    if x0.shape[0] == 0:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}: an empty batch; pass at least one item")


def stage_index(stage: Any, stages: int) -> None:
    """The index of one of a plan's stages."""
    if isinstance(stage, bool) or not isinstance(stage, Integral) or not 0 <= int(stage) < stages:
        raise ValueError(f"stage = {stage!r} must be an index into the plan's {stages} stages")


def item_times(t: Any, batch: int) -> Tensor:
    """One time, or one an item, as float64 of shape (batch,)."""
    values = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    if values.ndim > 1 or values.numel() not in (1, batch):
        raise ValueError(f"t has shape {tuple(values.shape)}; pass one time, or one for each of the {batch} items")
    return values.expand(batch)


def times_of_stage(t: Tensor, stage: int, a: float, b: float) -> None:
    """Times inside the interval that a stage spans."""
    if a == b:
        raise ValueError(f"stage {stage} makes no steps, so there is nothing to train; draw stages with draw_times")
    if not bool(((t >= b) & (t <= a)).all()):
        raise ValueError(
            f"t in [{float(t.min()):g}, {float(t.max()):g}] leaves stage {stage}, which spans [{b:g}, {a:g}]; "
            f"one batch holds times of one stage: draw them with draw_times"
        )


def loss(prediction: Tensor, target: Tensor, spectrum: Any, plan: Any) -> None:
    """A prediction of the target's shape; a spectrum and a plan, or neither."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}; the target has {tuple(target.shape)}")
    if (spectrum is None) != (plan is None):
        raise ValueError("pass spectrum and plan together for the weighted loss, or neither for the plain one")


def schedule_record(metadata: Any) -> dict[str, Any]:
    """What a checkpoint says of its schedule."""
    import json

    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is {type(metadata).__name__}; pass the checkpoint's metadata, a mapping of strings")
    text = (metadata or {}).get("spectral_pd.schedule")
    if text is None:
        raise ValueError(
            "the checkpoint's metadata hold no 'spectral_pd.schedule'; save it with schedule_metadata(plan)"
        )
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"the checkpoint's 'spectral_pd.schedule' is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"the checkpoint's 'spectral_pd.schedule' is {type(record).__name__}, not an object")
    return record


def fresh_seed(noise: Any, seed: Any, coupling: str) -> None:
    """A seed makes the noise where none is given; beside a tensor it is where fresh noise comes from."""
    if noise is None and seed is None:
        raise ValueError("noise is None; pass a white field of the full size, a NoiseField, or seed=")
    if seed is not None and noise is not None and (coupling == "coupled" or not isinstance(noise, Tensor)):
        raise ValueError("seed is used only without noise, or with a noise tensor and coupling='fresh'; remove it")


def shifts(value: Any, name: str) -> tuple[float, ...]:
    """Shifts to choose a time grid from."""
    values = tuple(shift(s, name) for s in value)
    if not values:
        raise ValueError(f"{name} = {value!r} must hold shifts to choose from, and goes without times")
    return values


def one_grid(steps: int | None, times: Sequence[float] | None, family: Sequence[float] | None) -> None:
    """A given grid has its own number of steps, and leaves nothing to choose from."""
    if times is not None and steps not in (None, len(times) - 1):
        raise ValueError(f"steps = {steps} but times has {len(times) - 1} steps; pass one of the two")
    if times is not None and family is not None:
        raise ValueError(f"shifts = {family!r} must hold shifts to choose from, and goes without times")


def amount(value: Any, name: str) -> float:
    """What a run may cost."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; pass a number in the units of cost")
    return float(value)


def amounts(value: Any, name: str) -> tuple[float, ...]:
    """One or more budgets."""
    if not len(value):
        raise ValueError(f"{name} is empty; pass at least one budget")
    return tuple(amount(v, name) for v in value)


def budget(value: float, cheapest: float, allowed: float) -> None:
    """A budget that pays for a step."""
    if not (math.isfinite(value) and allowed >= cheapest):
        raise ValueError(
            f"budget = {value:g} does not pay for one step at full size, which costs {cheapest:g}; raise it at least "
            f"to that"
        )


def plans(value: Any, kind: type, grid: tuple[int, ...]) -> tuple[Any, ...]:
    """A plan or several, for one grid."""
    if not isinstance(value, (kind, list, tuple)):
        raise TypeError(f"start is {value!r}; pass a plan or several")
    several: tuple[Any, ...] = (value,) if isinstance(value, kind) else tuple(value)
    if not all(isinstance(plan, kind) and plan.shape == grid for plan in several):
        raise TypeError(f"start must hold plans for the grid {grid}, as make_plan returns them")
    return several


def found(plans: Sequence[Any], budget: float, steps: int | None, stages: int) -> None:
    """At least one plan within the limits."""
    if not plans:
        raise ValueError(
            f"no plan keeps all limits: budget {budget:g}, steps {steps}, stages {stages}; "
            f"raise the budget or free the number of steps"
        )


# -- noise ------------------------------------------------------------------------------------------------------------


def noise_source(value: Any, name: str) -> Any:
    """An int seed, a generator, or a list of either, one an item."""
    if isinstance(value, (list, tuple)) and not value:
        raise ValueError("noise source is an empty list; pass one seed or generator for each batch item")
    for one in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(one, bool) or not isinstance(one, (Integral, torch.Generator)):
            raise TypeError(
                f"noise source is {type(one).__name__}; pass an int seed, a torch.Generator, or a list of either (one an item)"
            )
    return value


def one_each(keys: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The sources of a noise field that lists one an item."""
    if batch != len(keys):
        raise ValueError(f"batch of {batch} items, but the noise source lists {len(keys)}; they must agree")
    return keys


def noise_tensor(
    noise: Tensor, grid: Sequence[int], like: Tensor | None = None, leading: Any = None, seed: Any = None
) -> Tensor:
    """A white field of the full size for a whole run, of the shape and in the working type of `like`."""
    if leading is not None:
        raise ValueError("leading is used only with a NoiseField or a seed; a noise tensor has its own leading axes")
    full_size(noise, "noise", grid, "the plan's full grid")
    if like is not None:
        agree(noise, "noise", like, "image")
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
    """What a noise field must be told, since it has every shape."""
    if value is None:
        raise ValueError("noise is a NoiseField; pass leading=(batch, channels, ...), the axes before the grid")
    return leading(value, "leading")


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
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**16:
        raise ValueError(f"{name} = {value!r} must be an int in [0, 65535]")
    return int(value)


def field_shape(value: Any, dims: Any) -> tuple[int, ...]:
    """(batch, ..., *grid) for which a noise field has coefficients."""
    if isinstance(dims, bool) or not isinstance(dims, Integral) or not 1 <= int(dims) <= 3:
        raise ValueError(f"dims = {dims!r}: a noise field has 1, 2 or 3 spectral axes")
    try:
        sizes = tuple(operator.index(n) for n in value)
    except TypeError:
        raise TypeError(f"shape = {value!r} must hold integers: (batch, ..., *grid)") from None
    if len(sizes) < dims:
        raise ValueError(f"shape = {sizes} has fewer axes than dims = {dims}")
    if max(shape(sizes[-dims:], "shape")) > 2**16:
        raise ValueError(f"shape = {sizes}: a field has at most 65536 coefficients along each spectral axis")
    if min(sizes) < 0:
        raise ValueError(f"shape = {sizes} holds a negative size")
    return sizes


# -- time grids -------------------------------------------------------------------------------------------------------


def times(value: Any, name: str) -> tuple[float, ...]:
    """A time grid: strictly decreasing floats from at most 1 to exactly 0."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {type(value).__name__}; pass the full-resolution time grid, e.g. shift_times(50)")
    values = tuple(one_time(t, name) for t in value)
    if len(values) < 2:
        raise ValueError(f"{name} has {len(values)} values; N steps need N + 1, e.g. shift_times(50)")
    if any(a <= b for a, b in pairwise(values)):
        raise ValueError(f"{name} must be strictly decreasing from noise (1) to data (0); got {_brief(values)}")
    if values[-1] != 0.0:
        raise ValueError(f"{name} must end at exactly 0; got {_brief(values)}")
    return values


def _brief(values: Sequence[float]) -> str:
    if len(values) <= 6:
        return "(" + ", ".join(f"{v:g}" for v in values) + ")"
    return f"({values[0]:g}, {values[1]:g}, ..., {values[-2]:g}, {values[-1]:g})"


def transition_times(value: Any, scale_count: int) -> tuple[float, ...]:
    """Explicit t*: one for each scale but the last, inside (0, 1), not increasing."""
    values = tuple(one_time(t, "transition_times") for t in value)
    if len(values) != scale_count - 1:
        raise ValueError(
            f"transition_times has {len(values)} values for {scale_count} scales; pass one for each scale but the last"
        )
    if any(not 0 < t < 1 for t in values) or any(a < b for a, b in pairwise(values)):
        raise ValueError(f"transition_times = {values} must lie inside (0, 1) and not increase")
    return values


# -- tensors ----------------------------------------------------------------------------------------------------------


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type transforms compute in: float64 stays, everything shorter is computed in float32."""
    if dtype not in REAL:
        raise TypeError(f"dtype {dtype} is not real floating point; convert first, e.g. x.float()")
    return torch.promote_types(dtype, torch.float32)


def state(x: Any, name: str, dims: int = 2) -> Tensor:
    """A real floating tensor whose last `dims` axes are spectral and not empty."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {type(x).__name__}; pass a torch tensor")
    if x.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {x.layout}; pass a dense one, e.g. {name}.to_dense()")
    if x.dtype not in REAL:
        raise TypeError(f"{name} is a tensor of {x.dtype}; pass a real floating-point tensor, e.g. {name}.float()")
    if isinstance(dims, bool) or not isinstance(dims, Integral) or int(dims) < 1:
        raise ValueError(f"dims = {dims!r} must be a positive int, the number of trailing spectral axes")
    if x.ndim < dims:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it needs at least {dims} axes, the last {dims} spectral")
    if min(x.shape[-dims:]) < 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; every spectral axis must have at least one sample")
    return x


def filled(x: Tensor, name: str) -> Tensor:
    """A tensor that holds something, and nothing that is NaN or infinite."""
    if x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty batch; pass at least one item")
    if not everywhere(torch.isfinite(numbers(x, name))):
        raise ValueError(f"{name} contains NaN or infinity")
    return x


def full_size(x: Any, name: str, grid: Sequence[int], what: str = "the plan's grid") -> Tensor:
    """A finite batch on the full grid."""
    state(x, name, len(grid))
    if tuple(x.shape[-len(grid) :]) != tuple(grid):
        raise ValueError(f"{name} has shape {tuple(x.shape)}; its last axes must be {what} {tuple(grid)}")
    return filled(x, name)


def state_of(dims: int) -> Parser:
    """Parser of a :func:`state` with at least `dims` spectral axes."""
    return lambda x, name: state(x, name, dims)


def filled_state(x: Any, name: str, dims: int) -> Tensor:
    """A :func:`state` of at least one item."""
    if state(x, name, dims).numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty batch; pass at least one item")
    return x


def result_tensor(out: Any, shape: tuple[int, ...], x: Tensor, noise: Any) -> None:
    """A tensor to write a result of x's type into; as in torch, no derivative passes through it."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out is {type(out).__name__}; pass a tensor of the result's shape, type and device, or None")
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}; the result is {shape} {x.dtype} on {x.device}"
        )
    inputs = [v for v in (x, noise, out) if isinstance(v, Tensor)]
    if torch.is_grad_enabled() and any(v.requires_grad for v in inputs):
        raise RuntimeError(
            "expand_aligned(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad; leave out= away, or call it under torch.no_grad()"
        )


def agree(a: Tensor, a_name: str, b: Tensor, b_name: str) -> None:
    """Two tensors of one shape on one device."""
    if a.shape != b.shape or a.device != b.device:
        raise ValueError(
            f"{a_name} has shape {tuple(a.shape)} on {a.device}, {b_name} {tuple(b.shape)} on {b.device}; make both the same"
        )


def axis(n_low: Any, n_high: Any) -> None:
    """Sizes of an axis before and after growth."""
    if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in (n_low, n_high)):
        raise TypeError(f"an axis from {n_low!r} to {n_high!r}: sizes must be integers, e.g. isometry(8, 16)")


def only_one(**sources: Any) -> None:
    """Exactly one of several arguments."""
    if sum(value is not None for value in sources.values()) != 1:
        names = [f"{name}=" for name in sources]
        raise ValueError(f"pass exactly one of {', '.join(names[:-1])} and {names[-1]}")


def json_object(
    text: str | bytes, where: str, kind: str, needed: Sequence[str], known: Collection[str]
) -> dict[str, Any]:
    """The fields of a value saved as JSON under ``"type": kind``: `needed` all there, none that is not `known`."""
    import json

    try:
        data = json.loads(text)  # of bytes, so that UTF-16, which some shells write, is read too
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.pop("type", None) != kind:
        raise ValueError(f"{where} does not hold a {kind}; write one with {kind}.save(path)")
    missing, unknown = sorted(set(needed) - data.keys()), sorted(data.keys() - set(known))
    if missing:
        raise ValueError(f"{where} does not hold a whole {kind}, {missing} missing; write one with {kind}.save(path)")
    if unknown:
        raise ValueError(f"{where} holds {unknown}, which no {kind} has; write one with {kind}.save(path)")
    return data


def json_field(data: Any, key: str, name: str) -> Any:
    """One field of an object inside a saved value."""
    if not isinstance(data, dict) or key not in data:
        raise ValueError(f"{name} = {data!r} has no {key!r}")
    return data[key]


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors of a value inside begin with where it was found; of a wrong kind, in a file, is a wrong value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


# -- spectra ----------------------------------------------------------------------------------------------------------


def finite(value: Any, name: str) -> float:
    """One finite number."""
    if isinstance(value, (bool, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {type(value).__name__}; pass a float")
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value} must be finite")
    return float(value)


def unmasked(value: Any, name: str) -> Any:
    """An array without a mask, which nothing here would see."""
    if isinstance(value, np.ma.MaskedArray) or type(value).__name__ == "MaskedTensor":
        raise TypeError(
            f"{name} is a masked array, and what its mask hides would be measured; pass x.compressed(), x.filled(value), or "
            f"parts without a mask"
        )
    return value


def float64(value: Any, name: str) -> np.ndarray:
    """A float64 copy of numbers: a float, a list, an array or a tensor."""
    values = value.detach().cpu().numpy() if isinstance(value, Tensor) else unmasked(value, name)
    return np.array(values, dtype=np.float64)


def frequency(value: Any, name: str) -> Any:
    """Frequencies in cycles per shorter side, of any kind of number; returned as they are."""
    array = float64(value, name)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} = {value!r} must be positive and finite (cycles per shorter side)")
    return value


def table(frequency: Any, power: Any, count: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies, powers and counts of a spectrum as read-only arrays of one length."""
    named = {"frequency": frequency, "power": power, "count": count}
    frequency, power, count = arrays = tuple(float64(value, name) for name, value in named.items())
    if frequency.ndim != 1 or not frequency.size or frequency.shape != power.shape or frequency.shape != count.shape:
        raise ValueError(
            f"frequency, power and count have shapes {frequency.shape}, {power.shape}, {count.shape}; "
            f"pass three non-empty one-dimensional arrays of one length"
        )
    if not (np.isfinite(frequency).all() and (frequency > 0).all() and (np.diff(frequency) > 0).all()):
        raise ValueError("frequency must be positive, finite and strictly increasing (cycles per shorter side)")
    if not (np.isfinite(power).all() and (power >= 0).all()):
        raise ValueError("power must be finite and not negative")
    for array in arrays:
        array.setflags(write=False)
    return frequency, power, count


def binned_shape(value: Any, name: str) -> tuple[int, ...]:
    """A grid with at least one radial bin."""
    sizes = shape(value, name)
    if min(sizes) < 2:
        raise ValueError(f"{name} = {sizes} has no radial bin; the shorter side needs at least 2 samples")
    return sizes


def seed(value: Any, name: str) -> int:
    """Any int; keys use its low 64 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}; pass an int")
    return int(value)


def replicates(value: Any, name: str) -> int:
    """A number of bootstrap replicates."""
    number = seed(value, name)
    if number < 0 or number == 1:
        raise ValueError(f"{name} = {number} must be 0 (no bootstrap) or at least 2; 200 is usual")
    return number


def measured_batch(batch: Any, grid: tuple[int, ...], channels: int | None) -> None:
    """A batch for a meter of a grid, which has seen a number of channels or nothing."""
    dims = len(grid)
    state(batch, "batch", dims)
    numbers(batch, "batch")
    if tuple(batch.shape[-dims:]) != grid:
        raise ValueError(
            f"batch has grid {tuple(batch.shape[-dims:])} but this meter measures {grid}; power belongs to a "
            f"grid: resize the data, or use one SpectrumMeter a grid"
        )
    if batch.numel() == 0:
        raise ValueError(f"batch of shape {tuple(batch.shape)} is empty; pass at least one sample")
    found = batch.shape[1] if batch.ndim > dims + 1 else 1
    if channels not in (None, found):
        raise ValueError(
            f"batch of shape {tuple(batch.shape)} has {found} channels but this meter has seen {channels}; "
            f"channels have their own spectra: convert the data to one layout, or use one meter for each"
        )


def band(value: Any, name: str) -> tuple[float, float]:
    """The lowest and the highest frequency of a fit."""
    if len(value) != 2 or not value[0] < value[1]:
        raise ValueError(f"{name} = {value} must be (lowest, highest) with lowest < highest")
    return float(value[0]), float(value[1])


def fittable(power: np.ndarray, grid: tuple[int, ...], band: tuple[float, float] | None) -> None:
    """Bins to whose logarithms a line can be fitted."""
    if power.size < 2:
        raise ValueError(f"only {power.size} bins to fit on grid {grid} in band {band}; a line needs at least 2")
    if (power <= 0).any():
        raise ValueError(
            "bins of power 0 have no logarithm; the data are constant or band-limited: pass band=(low, high)"
        )


def clip_shape(value: Any, name: str) -> tuple[int, ...]:
    """A grid of clips."""
    sizes = shape(value, name)
    if len(sizes) != 3:
        raise ValueError(f"{name} = {sizes} must be (frames, height, width)")
    return sizes


def clip_table(time: Any, space: Any, power: Any, grid: Any) -> dict[str, Any]:
    """Temporal and spatial frequencies, powers and grid of a table of clips; arrays are read-only."""
    sizes = clip_shape(grid, "shape")
    named = {name: float64(value, name) for name, value in (("time", time), ("space", space), ("power", power))}
    time, space, power = named.values()
    if power.shape != (time.size, space.size) or time.ndim != 1 or space.ndim != 1:
        raise ValueError(
            f"power has shape {power.shape} for {time.shape} temporal and {space.shape} spatial "
            f"frequencies; pass one row for each temporal, one column for each spatial frequency"
        )
    for name, value in (("time", time), ("space", space)):
        if not (value[0] == 0 and np.isfinite(value).all() and (np.diff(value) > 0).all()):
            raise ValueError(f"{name} must begin at 0 and increase strictly")
    if not (np.isfinite(power).all() and (power > 0).all()):
        raise ValueError("power must be positive and finite; measure more clips, or less constant ones")
    for value in named.values():
        value.setflags(write=False)
    return {**named, "shape": sizes}


def clips(value: Any, name: str) -> Tensor:
    """Finite clips (..., frames, height, width) of at least two frames."""
    grid = tuple(state(value, name, 3).shape[-3:])
    if min(grid) < 2:
        raise ValueError(f"{name} have grid {grid}; at least 2 frames of at least 2 pixels a side are needed")
    return filled(value, name)


def strided(frames: Any, stride: int) -> None:
    """A number of frames that an autoencoder takes: the first alone, then `stride` at a time."""
    if isinstance(frames, bool) or not isinstance(frames, Integral) or frames < 1 or (int(frames) - 1) % stride:
        near = max(0, round((int(frames) - 1) / stride)) * stride + 1
        raise ValueError(f"frames = {frames!r} must be {stride} k + 1, e.g. {near}")


# -- measuring --------------------------------------------------------------------------------------------------------


def picture_size(value: Any, name: str) -> tuple[int, int]:
    """The grid of pictures: one side, or height and width."""
    sizes = shape((value,) if isinstance(value, Integral) else value, name)
    if len(sizes) > 2:
        raise ValueError(f"{name} = {sizes}: give one side, or (height, width)")
    return sizes[0], sizes[-1]


def level(value: Any, name: str) -> float:
    """The coverage of an interval."""
    number = finite(value, name)
    if not 0 < number < 1:
        raise ValueError(f"{name} = {number} must lie inside (0, 1), e.g. 0.95")
    return number


def seconds(value: Any, name: str) -> float:
    """A time span."""
    number = finite(value, name)
    if number < 0:
        raise ValueError(f"{name} = {number} must not be negative (seconds)")
    return number


def device(value: Any, name: str) -> torch.device:
    """A device on which float64 tables can be kept, here and now."""
    try:
        found = torch.empty(0, dtype=torch.float64, device=value).device
    except Exception as error:  # whatever a back end raises that is not there
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name} = {value!r} cannot be used here ({reason}); use cpu, or leave it out") from None
    if found.type == "meta":
        raise ValueError(f"{name} = {value!r} holds no numbers; use cpu, or leave it out")
    return found


def real(x: Tensor, name: str) -> Tensor:
    """A dense tensor of floating numbers."""
    if x.is_nested:
        raise TypeError(f"{name} is a nested tensor; pass its parts one by one, or padded to one shape")
    if not x.is_floating_point():
        hint = "pictures: x.float() / 127.5 - 1" if x.dtype == torch.uint8 else "convert, e.g. x.float()"
        raise TypeError(f"{name} is of {x.dtype}; spectra need real floating point ({hint})")
    return x


def at_least_planes(sizes: tuple[int, ...], name: str) -> None:
    """The shape of something that holds at least one plane."""
    if len(sizes) < 2:
        raise ValueError(f"{name} has shape {sizes}; spectra need at least (height, width)")
    if 0 in sizes:
        raise ValueError(f"{name} has shape {sizes}: it holds no sample")


def _rank(value: Any) -> int | None:
    """The rank of what could be measured: floating tensors and arrays; a picture's is that of (C, H, W)."""
    if hasattr(value, "getexif"):
        return 3
    floating = isinstance(value, Tensor) and value.is_floating_point()
    floating |= isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
    return value.ndim if floating and value.ndim > 1 else None


def measured_entry(value: Any, name: str) -> Any:
    """What to measure of an element of a data set or a loader: itself, or of a tuple or list the first entry.

    What follows belongs to it (labels, embeddings), unless it could be meant as well: a list of samples is no batch, and a
    pair of pictures no sample.
    """
    if not isinstance(value, (tuple, list)) or not value or isinstance(value[0], (int, float, list)):
        return value
    ranks = [_rank(entry) for entry in value]
    if ranks[0] is not None and ranks[0] in ranks[1:]:
        raise ValueError(
            f"{name} is a {type(value).__name__} whose entries 0 and {ranks.index(ranks[0], 1)} could both be meant: a batch "
            f"of samples, or a sample and what belongs to it; stack samples (torch.stack), or pass what is to be measured alone"
        )
    return value[0]


def first_field(value: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of several columns that a row has."""
    found = next((name for name in names if name in value), None)
    if found is None:
        raise TypeError(f"no {' or '.join(names)} among the columns {sorted(map(str, value))}; pass column=")
    return value[found]


def picture(image: Any) -> None:
    """A PIL image that is the only one of its file, with a known range."""
    # A phone's MPO holds the photograph, then previews of it.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"one of {frames} pictures in its file; store them one a file, or as a video")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"mode {image.mode}: 32-bit pictures have no known range; store them scaled to [-1, 1] as .npy"
        )


def one_shape(shapes: dict[str, tuple[int, ...]]) -> None:
    """Samples of one shape, by name."""
    for name, sizes in shapes.items():
        first = next(iter(shapes))
        if sizes != shapes[first]:
            raise ValueError(
                f"{name} is {sizes} but {first} is {shapes[first]} (channels, height, width); "
                f"power belongs to a grid: give a size to bring pictures to one, or measure each size by itself"
            )


def no_size_for_arrays(size: Any, arrays: Sequence[Path]) -> None:
    """Stored arrays are never resized."""
    if arrays and size is not None:
        raise ValueError(
            f"size = {size} is for pictures and videos, but {arrays[0]} holds an array: resized latents have another "
            f"spectrum; leave size out"
        )


def only(names: Sequence[str]) -> str:
    """The one array of a file."""
    if len(names) != 1:
        raise ValueError(f"holds {len(names)} arrays {sorted(names)[:6]}, not one; save the latents alone")
    return names[0]


def place(number: int, length: int) -> int:
    """The number of a batch."""
    if not 0 <= number < length:
        raise IndexError(f"batch {number} of {length}")
    return number


def iterable(value: Any, name: str) -> Any:
    """Something to go through."""
    if not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {type(value).__name__}; pass tensors, a loader, a data set, or paths")
    return value


def no_mapping(value: Any, name: str) -> None:
    """Data, not a dict that holds them."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name} is a {type(value).__name__} with keys {list(value)[:6]}; pass the tensor in it")


def same_run(path: Path | None, name: str, was: Any, now: Any) -> None:
    """What a checkpoint says of its run, against this one."""
    if path is not None and was != now:
        raise ValueError(
            f"{path} belongs to another run: {name} was {was!r} and is now {now!r}; finish that run, remove "
            f"the file, or name another"
        )


def sendable(values: Any, name: str) -> None:
    """A tensor that one process can hand to another."""
    if type(values) is not Tensor or values.layout is not torch.strided or values.is_nested:
        raise TypeError(f"{name} is a {type(values).__name__} that no worker can send; use dense tensors, or workers=0")


def one_order(data: Any, *, many: bool, resume: bool) -> None:
    """Not a loader that would give other batches to each process, or to the run that goes on."""
    sampler = getattr(data, "sampler", None) if isinstance(data, torch.utils.data.DataLoader) else None
    if many and isinstance(sampler, torch.utils.data.DistributedSampler):
        raise ValueError(
            "data is a loader that gives each process a share already, of which each would take its share again; pass it "
            "without DistributedSampler"
        )
    if (many or resume) and isinstance(sampler, torch.utils.data.RandomSampler):
        raise ValueError(
            "data is a loader that shuffles: several processes, and a run that goes on, would count some samples twice and "
            "others not at all; pass shuffle=False"
        )


def output_file(value: Any, name: str) -> Path:
    """A file that can be written: found out before there is something to write."""
    path = Path(value)
    if path.is_dir():
        raise ValueError(f"{name} = {str(path)!r} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{name} = {str(path)!r}: its folder does not exist; make it first")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise PermissionError(f"{name} = {str(path)!r} cannot be written here; name another file")
    return path


def figure_file(value: Any, name: str) -> Path:
    """A file for a figure, of a format that matplotlib writes."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("figures need matplotlib: pip install 'spectral_pd[demo]'") from error
    path, known = output_file(value, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"{name} = {str(path)!r}: unknown picture format; known: {' '.join(sorted(known))}")
    return path
