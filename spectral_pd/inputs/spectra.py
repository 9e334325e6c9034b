"""What laws, tables, meters and fits are given, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.inputs import (
    channels_last,
    filled,
    integer,
    is_int,
    is_iterable,
    is_real,
    kind,
    numbers,
    refuse,
    rule,
    shape,
    shown,
    state,
    such,
)

finite = such(kind(is_real, "a float", to=float), math.isfinite, "must be finite")
level = such(finite, lambda p: 0 < p < 1, "must lie inside (0, 1), e.g. 0.95")
binned_shape = such(shape, lambda s: min(s) > 1, "has no radial bin; the shorter side needs at least 2 samples")
clip_shape = such(shape, lambda s: len(s) == 3, "must be (frames, height, width)")
replicates = such(integer, lambda n: n == 0 or n >= 2, "must be 0 (no bootstrap) or at least 2; 200 is usual")


def own_axes(grid: Sequence[int] | None, shape: Sequence[int]) -> None:
    """A grid with as many axes as the one a power belongs to; None is one that is used on every grid."""
    if grid is not None and len(grid) != len(shape):
        spectral = shape[-len(grid) :]
        what = "channels and batch are no axes of a grid" if len(shape) > len(grid) else "a grid has all spectral axes"
        guess = f": pass {spectral}" if len(shape) > len(grid) else ""
        raise ValueError(
            f"shape = {shape} has {len(shape)} axes, but the spectrum was measured on {shown(grid)}, with {len(grid)}; {what}"
            f"{guess} (of video in time and space: spacetime_spectrum)"
        )


def planes_last(x: Tensor, name: str) -> None:
    """Pictures with channels last have one very short axis where height and width should be."""
    *_, rows, columns, short = (0, 0, *x.shape)
    if x.ndim > 2 and short in (1, 3, 4) and min(rows, columns) >= 16:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and looks channels-last: its last two axes, {columns}x{short}, would be taken "
            f"for height and width; pass {name}.movedim(-1, -3)"
        )


same_bins = rule(
    lambda replicates, bins: replicates == bins,
    "replicates have {replicates} bins but the spectrum {bins}; pass those of one meter",
)
enough_bins = rule(lambda bins, least, what: bins >= least, "{bins} bins; {what} needs at least {least}")
two_axes = rule(
    lambda axes: axes == 2,
    "directional has {axes} axes; anisotropy compares two, in a basis with a frequency along each (DCT, FOURIER)",
)
strided = rule(
    lambda frames, stride: is_int(frames) and frames >= 1 and (frames - 1) % stride == 0,
    "frames = {frames!r} must be {stride} k + 1, k = 0, 1, ...: the first frame alone, then {stride} at a time",
)


def band(value: Any, name: str) -> tuple[float, float]:
    """The lowest and the highest frequency of a fit."""
    ends = kind(is_iterable, "(lowest, highest)", to=tuple)(value, name)
    good = len(ends) == 2 and finite(ends[0], name) < finite(ends[1], name)
    refuse(not good, f"{name} = {ends} must be (lowest, highest) with lowest < highest")
    return float(ends[0]), float(ends[1])


def clips(value: Any, name: str) -> Tensor:
    """Finite clips (..., frames, height, width) of at least two frames."""
    grid = tuple(state(value, name, 3).shape[-3:])
    refuse(min(grid) < 2, f"{name} have grid {grid}; at least 2 frames of at least 2 pixels a side are needed")
    return filled(value, name)


def covariance(value: Any, name: str) -> tuple[float, float, float]:
    """Variance, covariance and variance of two numbers."""
    three = kind(is_iterable, "(variance of log A, covariance, variance of beta)", to=tuple)(value, name)
    refuse(len(three) != 3, f"{name} = {three} must be (variance of log A, covariance, variance of beta)")
    first, mixed, second = (finite(v, name) for v in three)
    good = first >= 0 and second >= 0 and mixed**2 <= first * second * (1 + 1e-9)
    refuse(not good, f"{name} = {three} is no covariance: its matrix has a negative eigenvalue")
    return first, mixed, second


# -- arrays -----------------------------------------------------------------------------------------------------------


def unmasked(value: Any, name: str) -> Any:
    """An array without a mask, which nothing here would see."""
    if isinstance(value, np.ma.MaskedArray) or type(value).__name__ == "MaskedTensor":
        remedy = "pass x.compressed(), x.filled(value), or parts without a mask"
        raise TypeError(f"{name} is a masked array, and what its mask hides would be measured; {remedy}")
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


def _columns(**columns: Any) -> Iterator[np.ndarray]:
    """Read-only float64 copies of the columns of a table."""
    for name, value in columns.items():
        array = float64(value, name)
        array.setflags(write=False)
        yield array


def _rising(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) > 0).all())


def table(frequency: Any, power: Any, count: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies, powers and counts of a spectrum as read-only arrays of one length."""
    omega, power, count = _columns(frequency=frequency, power=power, count=count)
    if omega.ndim != 1 or not omega.size or not omega.shape == power.shape == count.shape:
        found = f"frequency, power and count have shapes {omega.shape}, {power.shape}, {count.shape}"
        raise ValueError(f"{found}; pass three non-empty one-dimensional arrays of one length")
    good = _rising(omega) and omega[0] > 0
    refuse(not good, "frequency must be positive, finite and strictly increasing (cycles per shorter side)")
    refuse(not (np.isfinite(power).all() and (power >= 0).all()), "power must be finite and not negative")
    return omega, power, count


def clip_table(time: Any, space: Any, power: Any, grid: Any) -> dict[str, Any]:
    """Temporal and spatial frequencies, powers and grid of a table of clips; arrays are read-only."""
    sizes = clip_shape(grid, "shape")
    time, space, power = _columns(time=time, space=space, power=power)
    if power.shape != (time.size, space.size) or time.ndim != 1 or space.ndim != 1:
        found = f"power has shape {power.shape} for {time.shape} temporal and {space.shape} spatial frequencies"
        raise ValueError(f"{found}; pass one row for each temporal, one column for each spatial frequency")
    for name, value in (("time", time), ("space", space)):
        refuse(not (value[0] == 0 and _rising(value)), f"{name} must begin at 0 and increase strictly")
    good = np.isfinite(power).all() and (power > 0).all()
    refuse(not good, "power must be positive and finite; measure more clips, or less constant ones")
    return {"time": time, "space": space, "power": power, "shape": sizes}


# -- saved values -----------------------------------------------------------------------------------------------------


def saved(path: str | Path) -> bytes:
    """What a file of a saved value holds."""
    folder = Path(path).is_dir()
    remedy = "pass the JSON file that save(path) or 'spectral-pd fit --json' wrote; what it holds is measured by"
    refuse(folder, f"{path} is a folder; {remedy} 'spectral-pd fit {path}'")
    return Path(path).read_bytes()


def json_object(
    text: str | bytes, where: str, kind: str, needed: Sequence[str], known: Collection[str]
) -> dict[str, Any]:
    """The fields of a value saved as JSON under ``"type": kind``: `needed` all there, none that is not `known`."""
    try:
        data = json.loads(text)  # of bytes, so that UTF-16, which some shells write, is read too
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    write = f"write one with {kind}.save(path)"
    refuse(not isinstance(data, dict) or data.pop("type", None) != kind, f"{where} does not hold a {kind}; {write}")
    missing, unknown = sorted(set(needed) - data.keys()), sorted(data.keys() - set(known))
    refuse(bool(missing), f"{where} does not hold a whole {kind}, {missing} missing; {write}")
    refuse(bool(unknown), f"{where} holds {unknown}, which no {kind} has; {write}")
    return dict(data)


def json_field(data: Any, key: str, name: str) -> Any:
    """One field of an object inside a saved value."""
    refuse(not isinstance(data, dict) or key not in data, f"{name} = {data!r} has no {key!r}")
    return data[key]


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors of a value inside begin with where it was found; of a wrong kind, in a file, is a wrong value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


# -- meters and fits --------------------------------------------------------------------------------------------------


def measured_batch(batch: Any, grid: tuple[int, ...], channels: int | None) -> None:
    """A batch for a meter of a grid, which has seen a number of channels or nothing."""
    dims = len(grid)
    sizes = tuple(numbers(state(batch, "batch", dims), "batch").shape)
    found = sizes[1] if len(sizes) > dims + 1 else 1
    if sizes[-dims:] != grid:
        remedy = "power belongs to a grid: resize the data, or use one SpectrumMeter a grid"
        guess = channels_last(sizes, grid, "batch")
        raise ValueError(f"batch has grid {sizes[-dims:]} but this meter measures {grid}{guess}; {remedy}")
    refuse(0 in sizes, f"batch of shape {sizes} is empty; pass at least one sample")
    if channels not in (None, found):
        remedy = "channels have their own spectra: convert the data to one layout, or use one meter for each"
        raise ValueError(f"batch of shape {sizes} has {found} channels but this meter has seen {channels}; {remedy}")


def summed(total: Tensor, planes: Tensor) -> None:
    """The summed power of planes, samples first: where it is not finite, because of which samples."""
    if bool(torch.isfinite(total).all()):
        return
    rows = planes.flatten(1)
    bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    refuse(bool(bad), f"batch contains NaN or infinity in samples {bad[:8]}; clean the data first")
    largest = rows.abs().amax(1)
    bad = (largest > 1e-10 * largest.max()).nonzero().flatten().tolist()
    values = f"values up to {float(largest.max()):.3g} in samples {bad[:8]}"
    limit = "float64" if planes.dtype == torch.float64 else "what it is computed in"
    raise ValueError(f"batch holds {values}, and power, their square, leaves the range of {limit}; scale the data")


def fittable(power: np.ndarray, grid: tuple[int, ...], band: tuple[float, float] | None) -> None:
    """Bins to whose logarithms a line can be fitted."""
    few, zero = power.size < 2, bool((power <= 0).any())
    refuse(few, f"only {power.size} bins to fit on grid {grid} in band {band}; a line needs at least 2")
    remedy = "the data are constant or band-limited: pass band=(low, high)"
    refuse(zero, f"bins of power 0 have no logarithm; {remedy}")


def estimable(samples: float, usable: int, replicates: int) -> None:
    """Samples and bootstrap replicates that give an interval."""
    few = f"{samples:.3g} independent samples give no interval"
    refuse(samples <= 1, f"{few}; measure at least 2 samples (frames of one clip count as one)")
    few = f"{usable} of {replicates} bootstrap replicates are finite, which gives no interval"
    refuse(usable < 2, f"{few}; measure more samples that are not constant, or ask for more replicates")
