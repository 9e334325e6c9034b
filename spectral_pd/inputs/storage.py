"""What is read and written: data sets, loaders, pictures and arrays, the processes that go through them, files of results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from spectral_pd.inputs import is_int, is_iterable, kind, refuse, rule, shape, such
from spectral_pd.inputs.spectra import finite

source = kind(is_iterable, "tensors, a loader, a data set, or paths")
seconds = such(finite, lambda s: s >= 0, "must not be negative (seconds)")
place = rule(lambda number, length: 0 <= number < length, "batch {number} of {length}", IndexError)
same_run = rule(
    lambda path, name, was, now: path is None or was == now,
    "{path} belongs to another run: {name} was {was!r} and is now {now!r}; finish that run, remove the file, or name another",
)
no_size_for_arrays = rule(
    lambda size, arrays: size is None or not arrays,
    "size = {size} is for pictures and videos, but {arrays[0]} holds an array: resized latents have another spectrum; leave "
    "size out",
)


def picture_size(value: Any, name: str) -> tuple[int, int]:
    """The grid of pictures: one side, or height and width."""
    sizes = shape((value,) if is_int(value) else value, name)
    refuse(len(sizes) > 2, f"{name} = {sizes}: give one side, or (height, width)")
    return sizes[0], sizes[-1]


def device(value: Any, name: str) -> torch.device:
    """A device on which float64 tables can be kept, here and now."""
    try:
        found = torch.empty(0, dtype=torch.float64, device=value).device
    except Exception as error:  # whatever a back end raises that is not there
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name} = {value!r} cannot be used here ({reason}); use cpu, or leave it out") from None
    refuse(found.type == "meta", f"{name} = {value!r} holds no numbers; use cpu, or leave it out")
    return found


# -- samples ----------------------------------------------------------------------------------------------------------


def no_mapping(value: Any, name: str) -> None:
    """Data, not a dict that holds them."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name} is a {type(value).__name__} with keys {list(value)[:6]}; pass the tensor in it")


def real(x: Tensor, name: str) -> Tensor:
    """A dense tensor of floating numbers."""
    refuse(x.is_nested, f"{name} is a nested tensor; pass its parts one by one, or padded to one shape", TypeError)
    hint = "pictures: x.float() / 127.5 - 1" if x.dtype == torch.uint8 else "convert, e.g. x.float()"
    whole = not x.is_floating_point()
    refuse(whole, f"{name} is of {x.dtype}; spectra need real floating point ({hint})", TypeError)
    return x


def at_least_planes(sizes: tuple[int, ...], name: str) -> None:
    """The shape of something that holds at least one plane."""
    refuse(len(sizes) < 2, f"{name} has shape {sizes}; spectra need at least (height, width)")
    refuse(0 in sizes, f"{name} has shape {sizes}: it holds no sample")


def one_shape(shapes: dict[str, tuple[int, ...]]) -> None:
    """Samples of one shape, by name."""
    first = next(iter(shapes), "")
    for name, sizes in shapes.items():
        found = f"{name} is {sizes} but {first} is {shapes[first]} (channels, height, width)"
        remedy = "power belongs to a grid: give a size to bring pictures to one, or measure each size by itself"
        refuse(sizes != shapes[first], f"{found}; {remedy}")


def _rank(value: Any) -> int | None:
    """The rank of what could be measured: floating tensors and arrays; a picture's is that of (C, H, W)."""
    if hasattr(value, "getexif"):
        return 3
    floating = isinstance(value, Tensor) and value.is_floating_point()
    floating |= isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
    return value.ndim if floating and value.ndim > 1 else None


def entry(value: Any, name: str) -> Any:
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
    found, columns = [name for name in names if name in value], sorted(map(str, value))
    refuse(not found, f"no {' or '.join(names)} among the columns {columns}; pass column=", TypeError)
    return value[found[0]]


def picture(image: Any) -> None:
    """A PIL image that is the only one of its file, with a known range."""
    # A phone's MPO holds the photograph, then previews of it.
    frames, mode = 1 if image.format == "MPO" else getattr(image, "n_frames", 1), image.mode
    refuse(frames > 1, f"one of {frames} pictures in its file; store them one a file, or as a video")
    remedy = "store them scaled to [-1, 1] as .npy"
    refuse(mode in ("I", "F"), f"mode {mode}: 32-bit pictures have no known range; {remedy}")


def only(names: Sequence[str]) -> str:
    """The one array of a file."""
    refuse(len(names) != 1, f"holds {len(names)} arrays {sorted(names)[:6]}, not one; save the latents alone")
    return names[0]


# -- processes --------------------------------------------------------------------------------------------------------


def sendable(values: Any, name: str) -> None:
    """A tensor that one process can hand to another."""
    if type(values) is not Tensor or values.layout is not torch.strided or values.is_nested:
        raise TypeError(f"{name} is a {type(values).__name__} that no worker can send; use dense tensors, or workers=0")


def one_order(data: Any, *, many: bool, resume: bool) -> None:
    """Not a loader that would give other batches to each process, or to the run that goes on."""
    sampler = getattr(data, "sampler", None) if isinstance(data, DataLoader) else None
    found = "data is a loader that gives each process a share already, of which each would take its share again"
    refuse(many and isinstance(sampler, DistributedSampler), f"{found}; pass it without DistributedSampler")
    found = (
        "data is a loader that shuffles: several processes, and a run that goes on, would count samples twice or never"
    )
    refuse((many or resume) and isinstance(sampler, RandomSampler), f"{found}; pass shuffle=False")


# -- results ----------------------------------------------------------------------------------------------------------


def output_file(value: Any, name: str) -> Path:
    """A file that can be written: found out before there is something to write."""
    path = Path(value)
    what, folder = f"{name} = {str(path)!r}", path.absolute().parent
    refuse(path.is_dir(), f"{what} is a folder; name a file in it")
    refuse(not folder.is_dir(), f"{what}: its folder does not exist; make it first", FileNotFoundError)
    writable = os.access(path if path.exists() else folder, os.W_OK)
    refuse(not writable, f"{what} cannot be written here; name another file", PermissionError)
    return path


def different(**paths: Path | None) -> None:
    """Outputs of one run, none of which overwrites another."""
    named: dict[Path, str] = {}
    for name, path in paths.items():
        first = name if path is None else named.setdefault(path.absolute(), name)
        refuse(first != name, f"{first} and {name} are both {str(path)!r}; name two files")


def figure_file(value: Any, name: str) -> Path:
    """A file for a figure, of a format that matplotlib writes."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("figures need matplotlib: pip install 'spectral_pd[demo]'") from error
    path, known = output_file(value, name), FigureCanvasBase.get_supported_filetypes()
    good = not path.suffix or path.suffix[1:].lower() in known
    refuse(not good, f"{name} = {str(path)!r}: unknown picture format; known: {' '.join(sorted(known))}")
    return path
