"""A source through a meter: batch by batch, on one process or many, with checkpoints.

Under ``torchrun`` batch j is read by process ``j mod world size``; every process ends with the same numbers as one process
alone. A checkpoint is written beside its final name, flushed to disk, then renamed over it, so a kill at any moment leaves a
complete one; what was measured after it is measured again, and the sums come out bit for bit as without the interruption.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from spectral_pd.bases import DCT, Basis
from spectral_pd.measuring.sources import Batch, Source
from spectral_pd.meter import SpectrumMeter


def _rank() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Reader(torch.utils.data.Dataset):
    """A source for DataLoader workers; errors come back as values, so that their text stays readable."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, number: int) -> tuple[int, Batch | Exception]:
        try:
            return number, self.source[number]
        except Exception as error:
            return number, error


def _batches(
    source: Source | Iterator[Batch], done: int, rank: int, world: int, workers: int
) -> Iterator[tuple[int, Batch]]:
    """This process' batches with their numbers, the first `done` of them left out."""
    if isinstance(source, Source):
        numbers = range(rank + done * world, len(source), world)
        # A generator of its own: a loader takes its workers' seed from torch's, and measuring must not move that.
        loader = torch.utils.data.DataLoader(
            _Reader(source), batch_size=None, sampler=numbers, num_workers=workers, generator=torch.Generator()
        )
        for number, batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield number, batch
    else:
        own = islice(enumerate(source), rank, None, world)
        yield from islice(own, done, None)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` so that `path` is at every moment a complete checkpoint: the old one or the new one."""
    temporary = path.with_name(path.name + ".writing")
    with open(temporary, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote for the same run.

    Raises
    ------
    ValueError
        Not a checkpoint, or of another run: other files, settings or number of processes.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(state["identity"])
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of this library ({error}); remove it or name another") from None
    for name, value in identity.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} belongs to another run: {name} was {found.get(name)!r} and is now {value!r}; finish that run, remove "
                f"the file, or name another"
            )
    return state


def accumulate(
    source: Source | Iterator[Batch],
    *,
    basis: Basis = DCT,
    replicates: int = 200,
    seed: int = 0,
    encoder: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
    workers: int = 0,
    resume: str | Path | None = None,
    every: float = 30.0,
    identity: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> tuple[SpectrumMeter, int]:
    """Stream a source through a meter; with torch.distributed initialised each process takes its share, then all add up.

    Parameters
    ----------
    source
        From :func:`~spectral_pd.measuring.sources.open_source`. An iterator must give the same batches in the same order in
        every process and, with `resume`, in every run: process r takes every world-size-th batch from number r on.
    basis, replicates, seed
        As :class:`~spectral_pd.meter.SpectrumMeter`.
    encoder
        Applied to every batch first, e.g. an :class:`~spectral_pd.measuring.encoder.Encoder`.
    device
        Where to transform; None leaves batches where they are.
    workers
        Processes that read ahead; sources with a known length only.
    resume
        Checkpoint file: read if it exists, written every `every` seconds, when an error or Ctrl-C ends the run, and at the
        end. With several processes each has its own, ``NAME.RANKofWORLD``.
    every
        Seconds between checkpoints; 0 writes one after each batch.
    identity
        What else must agree for a checkpoint to be used, e.g. the files.
    progress
        Show a bar with rate and time left on standard error (first process only).

    Returns
    -------
    The meter with everything, and the number of samples skipped.

    Raises
    ------
    ValueError, TypeError
        Empty source, mixed grids, NaN, a checkpoint of another run; what the source raises.
    """
    rank, world = _rank()
    about = {
        **(identity or {}),
        "basis": basis.name,
        "replicates": replicates,
        "seed": seed,
        "processes": world,
        "batches": len(source) if isinstance(source, Source) else None,
    }
    meter: SpectrumMeter | None = None
    complete: dict[str, Any] = {"done": 0, "skipped": 0, "meter": None}
    path = None if resume is None else Path(resume if world == 1 else f"{resume}.{rank}of{world}")
    if path is not None and path.exists():
        state = load_checkpoint(path, about)
        complete = {name: state[name] for name in complete}
        if state["meter"] is not None:
            meter = SpectrumMeter(state["meter"]["shape"], basis=basis, replicates=replicates, seed=seed)
            meter.load_state_dict(state["meter"])

    def checkpoint() -> None:
        if path is not None:
            save_checkpoint(path, {"identity": about, **complete})

    total = None if about["batches"] is None else len(range(rank, about["batches"], world))
    done, skipped = complete["done"], complete["skipped"]
    saved = time.monotonic()
    with tqdm(total=total, initial=done, desc="measuring", unit="batch", disable=not progress or rank > 0) as bar:
        try:
            for number, batch in _batches(source, done, rank, world, workers):
                for line in batch.skipped:
                    tqdm.write(f"skipped {line}", file=sys.stderr)
                if batch.values is not None:
                    meter = _update(meter, batch, number, basis, replicates, seed, encoder, device)
                done, skipped = done + 1, skipped + len(batch.skipped)
                bar.update()
                if meter is not None:
                    bar.set_postfix_str(f"{meter.samples} samples", refresh=False)
                if path is None:
                    continue
                # Replaced as a whole: whenever an interrupt comes, it describes whole batches. The tables are small.
                complete = {"done": done, "skipped": skipped, "meter": None if meter is None else meter.state_dict()}
                if time.monotonic() - saved >= every:
                    checkpoint()
                    saved = time.monotonic()
        except BaseException:
            checkpoint()
            raise
    checkpoint()
    return _total(meter, skipped, basis, replicates, seed)


def _update(
    meter: SpectrumMeter | None,
    batch: Batch,
    number: int,
    basis: Basis,
    replicates: int,
    seed: int,
    encoder: Callable[[Tensor], Tensor] | None,
    device: torch.device | str | None,
) -> SpectrumMeter:
    """The meter with one more batch; made for the first one."""
    values = batch.values
    assert values is not None
    try:
        if encoder is not None:
            values = encoder(values)
        if device is not None:
            values = values.to(device)
        if meter is None:
            meter = SpectrumMeter(values.shape[-2:], basis=basis, replicates=replicates, seed=seed)
        return meter.update(values, index=batch.index)
    except (ValueError, TypeError) as error:
        raise type(error)(f"batch {number}: {error}") from None


def _total(
    meter: SpectrumMeter | None, skipped: int, basis: Basis, replicates: int, seed: int
) -> tuple[SpectrumMeter, int]:
    """Sum over all processes, those without a batch included."""
    world = _rank()[1]
    if world > 1:
        grids: list[Any] = [None] * world
        dist.all_gather_object(grids, (None if meter is None else meter.shape, skipped))
        skipped = sum(count for _, count in grids)
        known = {shape for shape, _ in grids if shape is not None}
        if len(known) > 1:
            raise ValueError(f"processes measured different grids {sorted(known)}; bring the data to one")
        if known:
            meter = meter or SpectrumMeter(known.pop(), basis=basis, replicates=replicates, seed=seed)
            meter = meter.sync()
    if meter is None:
        raise ValueError(f"the source gave no samples ({skipped} skipped); nothing to measure")
    return meter, skipped
