"""A source through a meter: batch by batch, on one process or many, with checkpoints.

Under ``torchrun`` batch j is read by process ``j mod world size``; every process ends with the same numbers as one process
alone. A checkpoint is written beside its final name, flushed to disk, then renamed over it, so a kill at any moment leaves a
complete one; what was measured after it is measured again, and the sums come out bit for bit as without the interruption.
It answers only for the run it belongs to: same data, autoencoder and options, and the same :data:`VERSION`.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from spectral_pd.fit import fit_band
from spectral_pd.inputs import spectra, storage
from spectral_pd.measuring.options import Options, chosen
from spectral_pd.measuring.sources import Batch, Source, content, plain, reason, some_numbers
from spectral_pd.meter import SpectrumMeter

VERSION = 2
"""Of the measurement: goes up when the same data would be read or summed otherwise, and then no older checkpoint answers."""


def rank_and_world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Reader(torch.utils.data.Dataset):
    """A source for DataLoader workers. Whatever cannot be sent, or not be made again from what is sent, becomes an error that
    can: one that fails on the way leaves the other side waiting."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, number: int) -> tuple[int, Batch | Exception]:
        try:
            batch = self.source[number]
            values = batch.values
            if values is not None:
                storage.sendable(values, f"batch {number}")
                values = values.detach()
            return number, Batch(values, batch.index, tuple(map(str, batch.skipped)))
        except Exception as error:
            try:
                pickle.dumps(error)  # what it carries can be sent,
                again = copy.copy(error)  # and it can be made again from what it was made of
                return number, error if str(again) == str(error) else plain(error)
            except Exception:
                return number, plain(error, type(error).__name__)


def _batches(source: Source, done: int, rank: int, world: int, workers: int) -> Iterator[tuple[int, Batch]]:
    """This process' batches with their numbers, the first `done` of them left out."""
    numbers = range(rank + done * world, len(source), world)
    if not workers:
        yield from ((number, source[number]) for number in numbers)
        return
    # A generator of its own: a loader takes its workers' seed from torch's, and measuring must not move that.
    loader = torch.utils.data.DataLoader(
        _Reader(source), batch_size=None, sampler=numbers, num_workers=workers, generator=torch.Generator()
    )
    for number, batch in _from_workers(loader):
        if isinstance(batch, Exception):
            raise batch
        yield number, batch


def _from_workers(loader: Any) -> Iterator[tuple[int, Batch | Exception]]:
    try:
        yield from loader
    except RuntimeError as error:  # a worker that was killed, for memory perhaps
        raise OSError(reason(error)) from error


class _Trail:
    """What an iterable has handed out so far, as a digest: data that begin otherwise are other data."""

    def __init__(self, source: Iterator[Batch], rank: int, world: int) -> None:
        self.own = islice(enumerate(source), rank, None, world)
        self.digest = ""

    def follow(self, done: int, digest: str, path: Path | None) -> Iterator[tuple[int, Batch]]:
        """The batches after the first `done`, which must give `digest`; without a `path` nobody asks."""
        count = 0
        for count, (number, batch) in enumerate(self.own, start=1):
            if path is not None:
                self.digest = hashlib.sha256(self.digest.encode() + content(batch)).hexdigest()
            if count > done:
                yield number, batch
            elif count == done:
                storage.same_run(path, "data", digest, self.digest)
        storage.same_run(path, "batches", done, min(done, count))


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` so that `path` is at every moment a complete checkpoint: the old one or the new one."""
    temporary = path.with_name(path.name + ".writing")
    with open(temporary, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; ValueError where it is no checkpoint, or of another run: other data, settings,
    version or number of processes."""
    try:
        state = torch.load(path.open("rb"), map_location="cpu", weights_only=True)
        found = dict(state["identity"])
    except Exception as error:
        broken = f"{path} is not a checkpoint of this library ({reason(error)})"
        raise ValueError(f"{broken}; remove it or name another") from None
    for name, value in identity.items():
        storage.same_run(path, name, found.get(name), value)
    return state


def encoder_identity(encoder: Any) -> str | None:
    """Name of an encoder and, of one with weights, a sample of them."""
    if encoder is None:
        return None
    module = getattr(getattr(encoder, "__self__", None), "model", encoder)
    seen = hashlib.sha256()
    if isinstance(module, torch.nn.Module):
        for name, value in module.state_dict().items():
            seen.update(f"{name} {tuple(value.shape)}".encode() + some_numbers(value, 16))
        config = {key: str(setting) for key, setting in dict(getattr(module, "config", {})).items() if key[0] != "_"}
        seen.update(str(sorted(config.items())).encode())
    name = getattr(module, "__qualname__", type(module).__qualname__)
    return f"{name} {seen.hexdigest()[:16]}"


@contextmanager
def ticking(bar: tqdm[Any]) -> Iterator[None]:
    """Refresh a bar twice a second, so that it moves also while the first batch is read, or a slow one encoded."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.5):
            bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@chosen
def accumulate(
    source: Source | Iterator[Batch],
    *,
    options: Options,
    encoder: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
) -> tuple[SpectrumMeter, int]:
    """Stream a source through a meter; with torch.distributed initialised each process takes its share, then all add up.

    Parameters
    ----------
    source
        From :func:`~spectral_pd.measuring.sources.open_source`. An iterator must give the same batches in the same order in
        every process and, with `resume`, in every run: process r takes every world-size-th batch from number r on.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords.
    encoder
        Applied to every batch first, e.g. ``spectral_pd.autoencoders.load(path).encode``.
    progress
        Show a bar with rate and time left on standard error (first process only).

    Returns
    -------
    The meter with everything, and the number of samples skipped.
    """
    rank, world = rank_and_world()
    meter: SpectrumMeter | None = None
    complete: dict[str, Any] = {"done": 0, "skipped": 0, "meter": None, "trail": ""}
    path = options.resume
    if path is not None and world > 1:
        path = path.with_name(f"{path.name}.{rank}of{world}")
    about = {} if path is None else _about(source, options, encoder)
    if path is not None and path.exists():
        state = load_checkpoint(path, about)
        complete = {name: state[name] for name in complete}
        if state["meter"] is not None:
            meter = _meter(state["meter"]["shape"], options)
            meter.load_state_dict(state["meter"])

    def checkpoint() -> None:
        if path is not None:
            save_checkpoint(path, {"identity": about, **complete})

    done, skipped = complete["done"], complete["skipped"]
    trail, total = None, None
    if isinstance(source, Source):
        total, batches = len(range(rank, len(source), world)), _batches(source, done, rank, world, options.workers)
    else:
        trail = _Trail(source, rank, world)
        batches = trail.follow(done, complete["trail"], path)
    saved = time.monotonic()
    shown = progress and rank == 0
    with tqdm(total=total, initial=done, desc="measuring", unit="batch", disable=not shown) as bar, ticking(bar):
        try:
            for number, batch in batches:
                for line in batch.skipped:
                    tqdm.write(f"skipped {line}", file=sys.stderr)
                if batch.values is not None:
                    meter = _update(meter, batch.values, batch.index, number, options, encoder)
                done, skipped = done + 1, skipped + len(batch.skipped)
                bar.update()
                if meter is not None:
                    bar.set_postfix_str(f"{meter.samples} samples", refresh=False)
                if path is None:
                    continue
                # Replaced as a whole: whenever an interrupt comes, it describes whole batches. The tables are small.
                tables = None if meter is None else meter.state_dict()
                digest = "" if trail is None else trail.digest
                complete = {"done": done, "skipped": skipped, "meter": tables, "trail": digest}
                if time.monotonic() - saved >= options.every:
                    checkpoint()
                    saved = time.monotonic()
        except BaseException:
            checkpoint()
            raise
    checkpoint()
    return _total(meter, skipped, options)


def _about(source: Source | Iterator[Batch], options: Options, encoder: Any) -> dict[str, Any]:
    """What a checkpoint must agree in with the run that goes on from it."""
    named = ("size", "fit", "frames", "clip", "column", "replicates", "seed", "batch_size")
    return {
        "version": VERSION,
        **(source.identity() if isinstance(source, Source) else {}),
        **{name: getattr(options, name) for name in named},
        "basis": options.basis.name,
        "encoder": encoder_identity(encoder),
        "processes": rank_and_world()[1],
        "batches": len(source) if isinstance(source, Source) else None,
    }


def _meter(shape: tuple[int, ...], options: Options) -> SpectrumMeter:
    return SpectrumMeter(shape, basis=options.basis, replicates=options.replicates, seed=options.seed)


def _update(
    meter: SpectrumMeter | None, values: Tensor, index: Tensor, number: int, options: Options, encoder: Any
) -> SpectrumMeter:
    """The meter with one more batch; made for the first one."""
    try:
        if encoder is not None:
            values = encoder(values)
        if options.device is not None:
            values = values.to(options.device)
        if meter is not None:
            return meter.update(values, index=index)
        spectra.planes_last(values, "values")
        meter = _meter(values.shape[-2:], options).update(values, index=index)
    except (ValueError, TypeError) as error:
        raise plain(error, f"batch {number}") from None
    table = meter.result()
    fit_band(replace(table, power=np.ones_like(table.power)), options.band)  # now, not after the last batch
    return meter


def _total(meter: SpectrumMeter | None, skipped: int, options: Options) -> tuple[SpectrumMeter, int]:
    """Sum over all processes, those without a batch included."""
    world = rank_and_world()[1]
    if world > 1:
        grids: list[Any] = [None] * world
        dist.all_gather_object(grids, (None if meter is None else meter.shape, skipped))
        skipped = sum(count for _, count in grids)
        known = {shape for shape, _ in grids if shape is not None}
        if len(known) > 1:
            raise ValueError(f"processes measured different grids {sorted(known)}; bring the data to one")
        if known:
            meter = (meter or _meter(known.pop(), options)).sync()
    if meter is None:
        raise ValueError(f"the source gave no samples ({skipped} skipped); nothing to measure")
    return meter, skipped
