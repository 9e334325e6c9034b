"""What laws, tables, meters and fits are given, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.inputs import filled, integer, is_int, iterable, numbers, refuse, rule, shape, state, such

binned_shape = such(shape, lambda s: min(s) > 1, "has no radial bin; the shorter side needs at least 2 samples")
clip_shape = such(shape, lambda s: len(s) == 3, "must be (frames, height, width)")
replicates = such(integer, lambda n: n == 0 or n >= 2, "must be 0 (no bootstrap) or at least 2; 200 is usual")
same_bins = rule(
    lambda replicates, bins: replicates == bins,
    "replicates have {replicates} bins but the spectrum {bins}; pass those of one meter",
)
enough_bins = rule(lambda bins, least, what: bins >= least, "{bins} bins; {what} needs at least {least}")
two_axes = rule(
    lambda axes: axes == 2,
    "directional has {axes} axes; anisotropy compares two, in a basis with a frequency along each (DCT, FOURIER)",
)


def finite(value: Any, name: str) -> float:
    """One finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {type(value).__name__}; pass a float")
    refuse(not math.isfinite(value), f"{name} = {value} must be finite")
    return float(value)


level = such(finite, lambda p: 0 < p < 1, "must lie inside (0, 1), e.g. 0.95")


# -- laws and tables --------------------------------------------------------------------------------------------------


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


def _columns(**columns: Any) -> list[np.ndarray]:
    """Read-only float64 copies of the columns of a table."""
    arrays = [float64(value, name) for name, value in columns.items()]
    for array in arrays:
        array.setflags(write=False)
    return arrays


def _rising(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) > 0).all())


def table(frequency: Any, power: Any, count: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies, powers and counts of a spectrum as read-only arrays of one length."""
    omega, power, count = _columns(frequency=frequency, power=power, count=count)
    if omega.ndim != 1 or not omega.size or not omega.shape == power.shape == count.shape:
        raise ValueError(
            f"frequency, power and count have shapes {omega.shape}, {power.shape}, {count.shape}; "
            f"pass three non-empty one-dimensional arrays of one length"
        )
    if not (_rising(omega) and omega[0] > 0):
        raise ValueError("frequency must be positive, finite and strictly increasing (cycles per shorter side)")
    refuse(not (np.isfinite(power).all() and (power >= 0).all()), "power must be finite and not negative")
    return omega, power, count


def clip_table(time: Any, space: Any, power: Any, grid: Any) -> dict[str, Any]:
    """Temporal and spatial frequencies, powers and grid of a table of clips; arrays are read-only."""
    sizes = clip_shape(grid, "shape")
    time, space, power = _columns(time=time, space=space, power=power)
    if power.shape != (time.size, space.size) or time.ndim != 1 or space.ndim != 1:
        raise ValueError(
            f"power has shape {power.shape} for {time.shape} temporal and {space.shape} spatial "
            f"frequencies; pass one row for each temporal, one column for each spatial frequency"
        )
    for name, value in (("time", time), ("space", space)):
        refuse(not (value[0] == 0 and _rising(value)), f"{name} must begin at 0 and increase strictly")
    if not (np.isfinite(power).all() and (power > 0).all()):
        raise ValueError("power must be positive and finite; measure more clips, or less constant ones")
    return {"time": time, "space": space, "power": power, "shape": sizes}


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
    if sizes[-dims:] != grid:
        raise ValueError(
            f"batch has grid {sizes[-dims:]} but this meter measures {grid}; power belongs to a "
            f"grid: resize the data, or use one SpectrumMeter a grid"
        )
    refuse(0 in sizes, f"batch of shape {sizes} is empty; pass at least one sample")
    found = sizes[1] if len(sizes) > dims + 1 else 1
    if channels not in (None, found):
        raise ValueError(
            f"batch of shape {sizes} has {found} channels but this meter has seen {channels}; "
            f"channels have their own spectra: convert the data to one layout, or use one meter for each"
        )


def summed(total: Tensor, planes: Tensor) -> None:
    """The summed power of planes, samples first: where it is not finite, because of which samples."""
    if bool(torch.isfinite(total).all()):
        return
    rows = planes.flatten(1)
    bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    refuse(bool(bad), f"batch contains NaN or infinity in samples {bad[:8]}; clean the data first")
    largest = rows.abs().amax(1)
    bad = (largest > 1e-10 * largest.max()).nonzero().flatten().tolist()
    raise ValueError(
        f"batch holds values up to {float(largest.max()):.3g} in samples {bad[:8]}, and power, their square, leaves the range "
        f"of {'float64' if planes.dtype == torch.float64 else 'what it is computed in'}; scale the data"
    )


def band(value: Any, name: str) -> tuple[float, float]:
    """The lowest and the highest frequency of a fit."""
    ends = tuple(iterable("(lowest, highest)")(value, name))
    good = len(ends) == 2 and finite(ends[0], name) < finite(ends[1], name)
    refuse(not good, f"{name} = {ends} must be (lowest, highest) with lowest < highest")
    return float(ends[0]), float(ends[1])


def fittable(power: np.ndarray, grid: tuple[int, ...], band: tuple[float, float] | None) -> None:
    """Bins to whose logarithms a line can be fitted."""
    few = power.size < 2
    refuse(few, f"only {power.size} bins to fit on grid {grid} in band {band}; a line needs at least 2")
    if (power <= 0).any():
        raise ValueError(
            "bins of power 0 have no logarithm; the data are constant or band-limited: pass band=(low, high)"
        )


def estimable(samples: float, usable: int, replicates: int) -> None:
    """Samples and bootstrap replicates that give an interval."""
    if samples <= 1:
        raise ValueError(
            f"{samples:.3g} independent samples give no interval; measure at least 2 samples (frames of one clip count as one)"
        )
    if usable < 2:
        raise ValueError(
            f"{usable} of {replicates} bootstrap replicates are finite, which gives no interval; measure more "
            f"samples that are not constant, or ask for more replicates"
        )


def clips(value: Any, name: str) -> Tensor:
    """Finite clips (..., frames, height, width) of at least two frames."""
    grid = tuple(state(value, name, 3).shape[-3:])
    refuse(min(grid) < 2, f"{name} have grid {grid}; at least 2 frames of at least 2 pixels a side are needed")
    return filled(value, name)


def strided(frames: Any, stride: int) -> None:
    """A number of frames that an autoencoder takes: the first alone, then `stride` at a time."""
    if not is_int(frames) or frames < 1 or (frames - 1) % stride:
        near = max(0, round((int(frames) - 1) / stride)) * stride + 1
        raise ValueError(f"frames = {frames!r} must be {stride} k + 1, e.g. {near}")
