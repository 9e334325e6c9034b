"""The door of the data: parsers for spectra, meters, files and streams (:mod:`spectral_pd.inputs` says what a parser is)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.inputs import filled, numbers, shape, state

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
    numbers(batch, "batch")
    found = batch.shape[1] if batch.ndim > dims + 1 else 1
    if channels not in (None, found):
        raise ValueError(
            f"batch of shape {tuple(batch.shape)} has {found} channels but this meter has seen {channels}; "
            f"channels have their own spectra: convert the data to one layout, or use one meter for each"
        )


def band(value: Any, name: str) -> tuple[float, float]:
    """The lowest and the highest frequency of a fit."""
    ends = tuple(iterable(value, name, "(lowest, highest)"))
    if len(ends) != 2 or not finite(ends[0], name) < finite(ends[1], name):
        raise ValueError(f"{name} = {ends} must be (lowest, highest) with lowest < highest")
    return float(ends[0]), float(ends[1])


def fittable(power: np.ndarray, grid: tuple[int, ...], band: tuple[float, float] | None) -> None:
    """Bins to whose logarithms a line can be fitted."""
    if power.size < 2:
        raise ValueError(f"only {power.size} bins to fit on grid {grid} in band {band}; a line needs at least 2")
    if (power <= 0).any():
        raise ValueError(
            "bins of power 0 have no logarithm; the data are constant or band-limited: pass band=(low, high)"
        )


def summed(total: Tensor, planes: Tensor) -> None:
    """The summed power of planes, samples first: where it is not finite, because of which samples."""
    if bool(torch.isfinite(total).all()):
        return
    rows = planes.flatten(1)
    bad = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"batch contains NaN or infinity in samples {bad[:8]}; clean the data first")
    largest = rows.abs().amax(1)
    bad = (largest > 1e-10 * largest.max()).nonzero().flatten().tolist()
    raise ValueError(
        f"batch holds values up to {float(largest.max()):.3g} in samples {bad[:8]}, and power, their square, leaves the range "
        f"of {'float64' if planes.dtype == torch.float64 else 'what it is computed in'}; scale the data"
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


def same_bins(replicates: int, spectrum: int) -> None:
    """Replicates and spectrum of one meter."""
    if replicates != spectrum:
        raise ValueError(f"replicates have {replicates} bins but the spectrum {spectrum}; pass those of one meter")


def enough_bins(bins: int, least: int, what: str) -> None:
    """Bins enough for a model."""
    if bins < least:
        raise ValueError(f"{bins} bins; {what} needs at least {least}")


def two_axes(axes: int) -> None:
    """A picture in a basis with directions."""
    if axes != 2:
        raise ValueError(
            f"directional has {axes} axes; anisotropy compares two, in a basis with a frequency along each (DCT, FOURIER)"
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


def iterable(value: Any, name: str, remedy: str = "tensors, a loader, a data set, or paths") -> Any:
    """Something to go through."""
    if not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {type(value).__name__}; pass {remedy}")
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


def different(**paths: Path | None) -> None:
    """Outputs of one run, none of which overwrites another."""
    named: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and named.setdefault(path.absolute(), name) != name:
            raise ValueError(f"{named[path.absolute()]} and {name} are both {str(path)!r}; name two files")


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
