"""What a run is given: states, noise, a velocity, a callback, `out=`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectral_pd.inputs import (
    channels_last,
    filled,
    integer,
    is_int,
    kind,
    optional,
    refuse,
    shape,
    state,
    such,
    working_dtype,
)

cost_function = kind(callable, "a function of the grid, e.g. lambda shape: math.prod(shape)")
velocity = kind(callable, "a callable velocity(x, t)")
transition = such(integer, lambda n: 0 <= n < 2**16, "must be an int in [0, 65535]")
"""The number of a transition's own field; 0 is the coupled one."""
callback = optional(kind(callable, "a function of a StepInfo, or None"))


def only_one(**sources: Any) -> None:
    """Exactly one of several arguments."""
    *first, last = (f"{name}=" for name in sources)
    refuse(sum(v is not None for v in sources.values()) != 1, f"pass exactly one of {', '.join(first)} and {last}")


def cost(fn: Callable[[tuple[int, ...]], float], grid: tuple[int, ...]) -> float:
    """What a cost function says of a grid."""
    value = float(cost_function(fn, "cost")(grid))
    good = 0 < value < math.inf
    refuse(not good, f"cost function returned {value} for grid {grid}; it must be positive and finite")
    return value


# -- states -----------------------------------------------------------------------------------------------------------


def full_size(x: Any, name: str, grid: Sequence[int], what: str = "the plan's grid") -> Tensor:
    """A finite batch on the full grid."""
    sizes = tuple(state(x, name, len(grid)).shape)
    guess = channels_last(sizes, grid, name)
    wanted = f"its last axes must be {what} {tuple(grid)}{guess}"
    refuse(sizes[-len(grid) :] != tuple(grid), f"{name} has shape {sizes}; {wanted}")
    return filled(x, name)


def start_state(start: Any, noise: Any, clock: str, grid: Sequence[int]) -> None:
    """A state of the full size to start from, beside a noise tensor."""
    tensors = isinstance(start, Tensor) and isinstance(noise, Tensor)
    refuse(not tensors, "start and noise must both be tensors of the full size", TypeError)
    sizes, white = tuple(filled(state(start, "start", len(grid)), "start").shape), tuple(noise.shape)
    refuse(sizes != white, f"start has shape {sizes}, noise {white}; both are of the full size")
    refuse(clock != "full", "start needs a plan with clock='full', where the first time is that of the full-size state")


def answered(v: Any, x: Tensor) -> Tensor:
    """What a velocity returned for a state."""
    if not isinstance(v, Tensor) or v.shape != x.shape:
        got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(f"velocity returned {got} for a state of shape {tuple(x.shape)}; it must keep the shape")
    return v


def measured(x: Tensor) -> Tensor:
    """Something computed from all answers of a model."""
    refuse(not bool(x.isfinite().all()), "the model's answers hold NaN or infinity; run it in bfloat16 or float32")
    return x


def replacement(result: Tensor, x: Tensor) -> Tensor:
    """The state a callback returned in the place of `x`."""
    if result.shape != x.shape:
        raise ValueError(f"callback returned a state of shape {tuple(result.shape)}; it must keep {tuple(x.shape)}")
    return result.to(x)


def filled_state(x: Any, name: str, dims: int) -> Any:
    """A :func:`state` of at least one item."""
    if state(x, name, dims).numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty batch; pass at least one item")
    return x


def seeds(x: Any, name: str, dims: int) -> tuple[int, ...]:
    """The grid of white fields (seeds, ..., *grid)."""
    sizes = tuple(filled_state(x, name, dims).shape)
    refuse(len(sizes) == dims, f"{name} has shape {sizes}, one grid without seeds; pass {name}[None]")
    return sizes[-dims:]


def result_tensor(out: Any, shape: tuple[int, ...], x: Tensor, noise: Any) -> None:
    """A tensor to write a result of x's type into; as in torch, no derivative passes through it."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out is {type(out).__name__}; pass a tensor of the result's shape, type and device, or None")
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        found, wanted = f"{tuple(out.shape)} {out.dtype} on {out.device}", f"{shape} {x.dtype} on {x.device}"
        raise ValueError(f"out is {found}; the result is {wanted}")
    if torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in (x, noise, out)):
        raise RuntimeError(
            "expand_aligned(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad; leave out= away, or call it under torch.no_grad()"
        )


# -- noise ------------------------------------------------------------------------------------------------------------


def noise_source(value: Any, name: str) -> Any:
    """An int seed, a generator, or a list of either, one an item."""
    sources = value if isinstance(value, (list, tuple)) else (value,)
    refuse(len(sources) == 0, "noise source is an empty list; pass one seed or generator for each batch item")
    for one in sources:
        if not (is_int(one) or isinstance(one, torch.Generator)):
            allowed = "an int seed, a torch.Generator, or a list of either (one an item)"
            raise TypeError(f"noise source is {type(one).__name__}; pass {allowed}")
    return value


def fresh_seed(noise: Any, seed: Any, coupling: str) -> None:
    """A seed makes the noise where none is given; beside a tensor it is where fresh noise comes from."""
    if noise is None and seed is None:
        raise ValueError("noise is None; pass a white field of the full size, a NoiseField, or seed=")
    if seed is not None and noise is not None and (coupling == "coupled" or not isinstance(noise, Tensor)):
        raise ValueError("seed is used only without noise, or with a noise tensor and coupling='fresh'; remove it")


def one_each(keys: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The sources of a noise field that lists one an item."""
    refuse(batch != len(keys), f"batch of {batch} items, but the noise source lists {len(keys)}; they must agree")
    return keys


def noise_tensor(
    noise: Tensor, grid: Sequence[int], like: Tensor | None = None, leading: Any = None, seed: Any = None
) -> Tensor:
    """A white field of the full size for a whole run, of the shape and in the working type of `like`."""
    if leading is not None:
        raise ValueError("leading is used only with a NoiseField or a seed; a noise tensor has its own leading axes")
    full_size(noise, "noise", grid, "the plan's full grid")
    if like is not None:
        (a, here), (b, there) = ((tuple(v.shape), v.device) for v in (noise, like))
        wrong = (a, here) != (b, there)
        refuse(wrong, f"noise has shape {a} on {here}, image {b} on {there}; make both the same")
    if isinstance(seed, (list, tuple)) and len(seed) != len(noise):
        raise ValueError(f"seed lists {len(seed)} generators for a batch of {len(noise)}; pass one an item")
    return noise.to(working_dtype(noise.dtype if like is None else like.dtype))


def growth_noise(noise: Tensor, grid: tuple[int, ...], x: Tensor, *_: Any) -> Tensor:
    """A white field on the fine grid for one growth of `x`, in its own type: what is stored short is grown from there."""
    wanted = (*x.shape[: x.ndim - len(grid)], *grid)
    if tuple(state(noise, "noise", len(grid)).shape) != wanted:
        found = tuple(noise.shape)
        raise ValueError(f"noise has shape {found}; expected {wanted}, x's leading axes and the fine grid")
    if noise.device != x.device:
        raise ValueError(f"noise is on {noise.device} but x is on {x.device}; move one of them")
    return noise


def leading_axes(value: Any) -> tuple[int, ...]:
    """What a noise field must be told, since it has every shape: the axes before the grid."""
    refuse(value is None, "noise is a NoiseField; pass leading=(batch, channels, ...), the axes before the grid")
    several = hasattr(value, "__iter__")
    refuse(not several, f"leading is {value!r}; pass a tuple such as (batch, channels)", TypeError)
    sizes = tuple(operator.index(n) for n in value)
    refuse(any(n < 1 for n in sizes), f"leading = {sizes} must hold sizes, each at least 1")
    return sizes


def nested_field(field_basis: Any, basis: Any, grids: Sequence[tuple[int, ...]]) -> None:
    """A noise field in the basis of growth, whose coefficients on each grid are the low corner of the next one's."""
    if field_basis != basis:
        raise ValueError(f"noise is a field in {field_basis}, but basis = {basis}; make both the same")
    for coarse, fine in pairwise(grids):
        if not basis.nested(coarse, fine):
            remedy = "grow every axis by the same factor, or pass the white field as a tensor"
            raise ValueError(f"{basis} coefficients of {coarse} are not the low corner of those of {fine}; {remedy}")


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
