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
do. Here is what everything uses; the rooms `runs`, `plans`, `models`, `spectra` and `storage` hold what their readers ask, and
what several arguments must fulfil together, under the names of those arguments.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
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


def refuse(condition: bool, message: str, error: type[Exception] = ValueError) -> None:
    """Raise where the condition holds. What is traced has an ``if`` instead, which makes no message before it fails."""
    if condition:
        raise error(message)


def rule(holds: Callable[..., Any], message: str, error: type[Exception] = ValueError) -> Callable[..., Any]:
    """What several arguments must fulfil together, named in the message as in `holds`: refuses, or returns the first."""
    names = holds.__code__.co_varnames[: holds.__code__.co_argcount]

    def check(*values: Any) -> Any:
        if not holds(*values):
            raise error(message.format(**dict(zip(names, values, strict=True))))
        return values[0]

    return check


WIDTH = 80
"""Columns of a terminal, which printed tables and remarks keep to."""


def wrapped(*texts: str, hanging: bool = True) -> list[str]:
    """Lines of at most :data:`WIDTH` columns; words are never broken, and what goes on is indented where `hanging`."""
    fold = textwrap.TextWrapper(WIDTH, subsequent_indent="  " * hanging, break_long_words=False, break_on_hyphens=False)
    return [line for text in texts for line in fold.wrap(text)]


# -- kinds ------------------------------------------------------------------------------------------------------------


def kind(holds: Callable[[Any], bool], remedy: str, show: Any = None, to: Any = None) -> Parser:
    """Parser of values of a kind, shown by their type or by `show`: "velocity is float; pass a callable velocity(x, t)"."""

    def parse(value: Any, name: str) -> Any:
        if not holds(value):
            raise TypeError(f"{name} is {show(value) if show else type(value).__name__}; pass {remedy}")
        return to(value) if to else value

    return parse


def instance(of: type | tuple[type, ...], remedy: str) -> Parser:
    """Parser of values of a class: "plan is list; pass what make_plan returned", "basis is 'dct'; pass DCT"."""
    texts = (str, bool)
    return kind(lambda v: isinstance(v, of), remedy, lambda v: repr(v) if isinstance(v, texts) else type(v).__name__)


def is_iterable(value: Any) -> bool:
    """Something to go through, a text excepted."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes))


def choice(*allowed: str) -> Parser:
    """Parser of one word of several: "clock = 'wall' must be 'full' or 'stage'"."""
    *first, last = map(repr, allowed)

    def parse(value: Any, name: str) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} = {value!r} must be {', '.join(first)} or {last}")
        return value

    return parse


def optional(parse: Parser) -> Parser:
    """The parser, or None."""
    return lambda value, name: None if value is None else parse(value, name)


def such(parse: Parser, holds: Callable[[Any], bool], allowed: str) -> Parser:
    """The parser, of values for which something holds besides: "steps = 0 must be at least 1"."""

    def parsed(value: Any, name: str) -> Any:
        value = parse(value, name)
        if not holds(value):
            raise ValueError(f"{name} = {value} {allowed}")
        return value

    return parsed


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
    elif is_real(value):
        value = float(value)
        has_nan = math.isnan(value)
    else:
        raise TypeError(f"{name} is {type(value).__name__}; pass a float, a numpy array or a torch tensor")
    if has_nan:
        raise ValueError(f"{name} contains NaN; pass finite numbers")
    return value


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


one_number, one_time, one_delta = single(number), single(time), single(delta)


def is_int(value: Any) -> bool:
    """An int, numpy's among them; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """A number outside arrays and tensors; True is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


integer = kind(is_int, "an int", repr, int)


def whole(least: int) -> Parser:
    """Parser of an int that is at least `least`."""
    return such(integer, lambda n: n >= least, f"must be at least {least}")


def count(value: Any, name: str) -> int:
    """A positive int."""
    refuse(not is_int(value) or value < 1, f"{name} = {value!r} must be a positive int")
    return int(value)


# -- grids and scales -------------------------------------------------------------------------------------------------


def shown(shape: Sequence[int]) -> str:
    """A grid as people write it: 64x64."""
    return "x".join(map(str, shape))


def shape(value: Any, name: str) -> tuple[int, ...]:
    """The sizes of the spectral axes, each at least 1; one int is the side of a square."""
    if not is_int(value) and not is_iterable(value):
        raise TypeError(
            f"{name} is {value!r}; pass the sizes of the spectral axes, e.g. (height, width), or a square's side"
        )
    sizes = (value, value) if is_int(value) else tuple(value)
    if not all(is_int(n) for n in sizes):
        raise TypeError(f"{name} = {sizes!r} must hold integers, e.g. (64, 64)")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} = {sizes!r} must hold one or more sizes, each at least 1")
    return tuple(int(n) for n in sizes)


axis = rule(
    lambda low, high: is_int(low) and is_int(high),
    "an axis from {low!r} to {high!r}: sizes must be integers, e.g. isometry(8, 16)",
    TypeError,
)


def scales(value: Any, name: str) -> tuple[float, ...]:
    """One number a stage, strictly increasing in (0, 1] to 1."""
    values = kind(is_iterable, "a sequence of numbers such as (0.5, 1)", repr, tuple)(value, name)
    values = tuple(number(s, name) for s in values)
    refuse(not values, f"{name} is empty; pass at least (1,)")
    plain = all(isinstance(s, float) for s in values)
    refuse(not plain, f"{name} = {value!r}; pass a sequence of plain numbers such as (0.5, 1)", TypeError)
    rising = values[0] > 0 and all(a < b for a, b in pairwise(values))
    refuse(not rising, f"{name} = {values} must be positive and strictly increasing, e.g. (0.25, 0.5, 1)")
    refuse(values[-1] != 1.0, f"{name} = {values} must end at 1, the full size; append 1")
    return values


def law(value: Any) -> Any:
    """The power law of a measurement; anything else as it is."""
    return getattr(value, "law", value)


# -- tensors ----------------------------------------------------------------------------------------------------------


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type transforms compute in: float64 stays, everything shorter is computed in float32."""
    if dtype not in REAL:
        raise TypeError(f"dtype {dtype} is not real floating point; convert first, e.g. x.float()")
    return torch.promote_types(dtype, torch.float32)


def not_a_tensor(x: Any, name: str) -> TypeError:
    """What to pass in the place of something that is no tensor."""
    if isinstance(x, (str, Path)):
        return TypeError(
            f"{name} is the path {str(x)!r}; pass a torch tensor. What files and folders hold is measured by "
            f"spectral_pd.measuring.measure({str(x)!r}), or 'spectral-pd fit' on the command line"
        )
    array = f", e.g. torch.from_numpy({name})" if isinstance(x, np.ndarray) else ""
    return TypeError(f"{name} is {type(x).__name__}; pass a torch tensor{array}")


def channels_last(sizes: Sequence[int], grid: Sequence[int], name: str) -> str:
    """The guess, where a grid stands one place too early in a tensor's shape; else nothing."""
    last = tuple(sizes[-len(grid) - 1 : -1]) == tuple(grid)
    return f" (it looks channels-last: pass {name}.movedim(-1, {-len(grid) - 1}))" if last else ""


def dense(x: Any, name: str) -> Tensor:
    """A tensor with a place for every number."""
    if not isinstance(x, Tensor):
        raise not_a_tensor(x, name)
    if x.layout != torch.strided or x.is_nested:
        layout = "nested" if x.is_nested else x.layout
        raise TypeError(f"{name} is a tensor of layout {layout}; pass a dense one, e.g. {name}.to_dense()")
    return x


def numbers(x: Tensor, name: str) -> Tensor:
    """A tensor whose numbers can be looked at: dense, and not on the meta device."""
    if dense(x, name).is_meta:
        raise TypeError(f"{name} is on the meta device, where tensors hold no numbers; pass one on another device")
    return x


def state(x: Any, name: str, dims: int = 2) -> Tensor:
    """A real floating tensor whose last `dims` axes are spectral and not empty."""
    if dense(x, name).dtype not in REAL:
        raise TypeError(f"{name} is a tensor of {x.dtype}; pass a real floating-point tensor, e.g. {name}.float()")
    if not is_int(dims) or dims < 1:
        raise ValueError(f"dims = {dims!r} must be a positive int, the number of trailing spectral axes")
    if x.ndim < dims:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it needs at least {dims} axes, the last {dims} spectral")
    if min(x.shape[-dims:]) < 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; every spectral axis must have at least one sample")
    return cast(Tensor, x)


def state_of(dims: int) -> Parser:
    """Parser of a :func:`state` with at least `dims` spectral axes."""
    return lambda x, name: state(x, name, dims)


def filled(x: Tensor, name: str) -> Tensor:
    """A tensor that holds something, and nothing that is NaN or infinite."""
    if x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty batch; pass at least one item")
    if not everywhere(torch.isfinite(numbers(x, name))):
        raise ValueError(f"{name} contains NaN or infinity")
    return x
