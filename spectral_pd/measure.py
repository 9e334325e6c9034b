"""From a source to a report: stream, fit, test, and say how sure (``spectral-pd fit``).

:func:`accumulate` streams any source of :mod:`spectral_pd.sources` through a meter, on one process or many, with
checkpoints; :func:`assess` turns the meter into a :class:`Measurement`; :func:`measure` does both. Under ``torchrun`` batch
j is read by process ``j mod world size``; every process ends with the same numbers as one process alone.

A checkpoint is written beside its final name, flushed to disk, then renamed over it, so a kill at any moment leaves a
complete one; what was measured after it is measured again, and the sums come out bit for bit as without the interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from spectral_pd.bases import BASES, DCT, Basis
from spectral_pd.diagnostics import (
    BrokenPowerLaw,
    Confidence,
    Curvature,
    Estimate,
    NoiseFloor,
    anisotropy,
    both_axes_hold_power,
    broken_power_law,
    confidence,
    curvature,
    noise_floor,
    residuals,
    transition_shift,
)
from spectral_pd.fit import Weights, fit_power_law
from spectral_pd.meter import Replicates, SpectrumMeter
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.sources import Batch, Encoder, Source, find_files, open_source
from spectral_pd.theory import transition_times


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
        From :func:`spectral_pd.sources.open_source`. An iterator must give the same batches in the same order in every
        process and, with `resume`, in every run: process r takes every world-size-th batch from number r on.
    basis, replicates, seed
        As :class:`~spectral_pd.meter.SpectrumMeter`.
    encoder
        Applied to every batch first, e.g. an :class:`~spectral_pd.sources.Encoder`.
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


@dataclass(frozen=True, eq=False)
class Measurement:
    """A fitted power law with everything needed to judge and to repeat it; ``print`` shows the report.

    Attributes
    ----------
    law
        The fit; what a plan needs. Where it fails, ``spectrum.envelope()`` drives plans.
    spectrum
        The measured table, mean over channels.
    channels
        One table a channel.
    samples, planes, skipped
        How much was measured, and how many samples were left out.
    settings
        basis, band, weights, scales, delta, level, seed, date, source.
    confidence, curvature, broken, floor, anisotropy
        See :mod:`spectral_pd.diagnostics`; None without a bootstrap, or where the grid is too small for them.
    shift
        t* of the law minus t* of the measured table, for each scale but the last.
    replicates
        The bootstrap behind them, or None.
    warnings
        What a careful reader should know before using the law.
    """

    law: PowerLaw
    spectrum: Spectrum
    channels: tuple[Spectrum, ...]
    samples: int
    planes: int
    skipped: int
    settings: Mapping[str, Any]
    confidence: Confidence | None
    curvature: Curvature | None
    broken: BrokenPowerLaw | None
    floor: NoiseFloor | None
    anisotropy: Estimate | None
    shift: tuple[float, ...]
    replicates: Replicates | None
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        s, law, omega = self.settings, self.law, self.spectrum.frequency
        grid = "x".join(map(str, self.spectrum.shape))
        lines = [
            f"{self.samples} samples, {self.planes} planes of {grid}, {len(self.channels)} channels, basis {s['basis']}"
            + (f", {self.skipped} skipped" if self.skipped else ""),
            f"P(omega) = A omega^-beta, omega in cycles per shorter side ({omega[0]:g} to {omega[-1]:g}), orthonormal; A "
            f"belongs to {grid}",
            f"fit: weights {s['weights']}"
            + (f", band {s['band'][0]:g} to {s['band'][1]:g}" if s["band"] else ", all bins"),
        ]
        times = transition_times(law, s["scales"], self.spectrum.shape, delta=s["delta"])
        rows = [("A", law.amplitude), ("beta", law.exponent), ("R2", law.r2 or 0.0)]
        rows += [
            (f"t*({scale:.4g}), delta {s['delta']:g}", t) for scale, t in zip(s["scales"][:-1], times, strict=True)
        ]
        intervals: Sequence[Estimate | None] = [None] * len(rows)
        if self.confidence is not None:
            c = self.confidence
            intervals = [c.amplitude, c.exponent, c.r2, *c.transition_times]
        for (name, value), interval in zip(rows, intervals, strict=True):
            text = f"  {name:<24} {value:.6g}"
            lines.append(text if interval is None else f"{text:<42} [{interval.low:.6g}, {interval.high:.6g}]")
        if self.confidence is not None:
            c = self.confidence
            lines.append(
                f"  intervals: {c.level:.0%}, {c.replicates} bootstrap replicates, {c.samples:.4g} independent samples"
            )
        if len(self.channels) > 1:
            exponents = [_exponent(table, s) for table in self.channels]
            known = [f"{e:.3f}" for e in exponents if e is not None]
            shown = known if len(known) <= 8 else [min(known), "...", max(known)]
            lines.append("  beta by channel          " + " ".join(shown))
        if self.curvature is not None:
            c2 = self.curvature
            lines.append(
                f"  curvature                {c2.coefficient}: local beta {c2.first:.3f} at the lowest bin, {c2.last:.3f} at "
                f"the highest"
            )
        if self.broken is not None:
            b = self.broken
            verdict = "preferred" if b.preferred else "not preferred"
            lines.append(
                f"  broken power law         beta {b.below:.3f} below {b.frequency:.3g} cycles, {b.above:.3f} above; {verdict}"
            )
        if self.floor is not None:
            lines.append(f"  noise floor              {self.floor.share.value:.1%} of the highest bin's power")
        if self.anisotropy is not None:
            lines.append(f"  horizontal / vertical    {self.anisotropy}")
        if self.shift:
            lines.append("  t* of law minus table    " + " ".join(f"{v:+.4f}" for v in self.shift))
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write JSON: the power law (``PowerLaw.load`` reads it, and so do plans) with the measurement beside it."""
        table = {name: getattr(self.spectrum, name).tolist() for name in ("frequency", "power", "count")}
        record = {
            "samples": self.samples,
            "planes": self.planes,
            "skipped": self.skipped,
            "settings": dict(self.settings),
            "confidence": self.confidence and asdict(self.confidence),
            "curvature": self.curvature and asdict(self.curvature),
            "broken_power_law": self.broken and asdict(self.broken),
            "noise_floor": self.floor and asdict(self.floor),
            "anisotropy": self.anisotropy and asdict(self.anisotropy),
            "transition_shift": self.shift,
            "warnings": self.warnings,
            "spectrum": {"shape": self.spectrum.shape, **table},
            "channel_power": [table.power.tolist() for table in self.channels],
        }
        data = {"type": "PowerLaw", **asdict(self.law), "measurement": record}
        Path(path).write_text(json.dumps(data, indent=2) + "\n")


def _exponent(table: Spectrum, settings: Mapping[str, Any]) -> float | None:
    """beta of one channel, None where it has no power (a constant alpha channel, say)."""
    try:
        return fit_power_law(table, band=settings["band"], weights=settings["weights"]).exponent
    except ValueError:
        return None


def assess(
    meter: SpectrumMeter,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    scales: Sequence[float] = (0.5, 1.0),
    delta: float = 0.01,
    level: float = 0.95,
    source: str = "",
    skipped: int = 0,
) -> Measurement:
    """Fit what a meter has seen, with intervals and tests where it kept a bootstrap.

    Parameters
    ----------
    meter
        A meter with data.
    band, weights
        As :func:`~spectral_pd.fit.fit_power_law`.
    scales, delta, level
        As :func:`~spectral_pd.diagnostics.confidence`.
    source, skipped
        What was measured and how many samples were left out, for the record.

    Raises
    ------
    ValueError
        Nothing measured, constant data, bad arguments.
    """
    spectrum, channels = meter.result(), meter.channel_results()
    today = date.today().isoformat()
    grid = "x".join(map(str, meter.shape))
    about = f"{meter.samples} samples, grid {grid}" + (f", of {source}" if source else "")
    law = replace(fit_power_law(spectrum, band=band, weights=weights), source="spectral_pd", data=about, date=today)
    settings = {
        "basis": meter.basis.name,
        "band": band,
        "weights": weights,
        "scales": tuple(scales),
        "delta": delta,
        "level": level,
        "seed": meter.seed,
        "date": today,
        "source": source,
    }
    warnings = []
    has_bootstrap = meter.state_dict()["replicates"] > 0
    replicates, sure, bend, broken, floor, ratio = None, None, None, None, None, None
    fit: dict[str, Any] = {"band": band, "weights": weights, "level": level}
    if has_bootstrap and meter.samples < 2:
        warnings.append("one sample: no interval can be given, and spectra of single pictures differ by 0.5 in beta")
    elif has_bootstrap:
        replicates = meter.replicates()
        if replicates.samples <= 1.5:
            warnings.append("one clip: no interval can be given; measure more clips")
            replicates = None
    if replicates is not None:
        bins = len(residuals(spectrum, band=band, weights=weights)[0])
        sure = confidence(spectrum, replicates, scales=scales, delta=delta, **fit)
        bend = curvature(spectrum, replicates, **fit) if bins >= 3 else None
        broken = broken_power_law(spectrum, replicates, **fit) if bins >= 8 else None
        floor = noise_floor(spectrum, replicates, **fit) if bins >= 4 else None
        directional = meter.directional()
        if len(directional) == 2 and both_axes_hold_power(spectrum, directional):
            ratio = anisotropy(spectrum, directional, replicates, band=band, level=level)
        elif len(directional) == 2:
            warnings.append("some bins hold no power along one of the axes: stripes, or data constant along it")
        if replicates.samples < 10:
            warnings.append(f"only {replicates.samples:.3g} independent samples; intervals are rough")
    positive = bool((spectrum.power > 0).all())
    shift = transition_shift(spectrum, law, scales=scales, delta=delta) if positive else ()
    warnings += _doubts(law, sure, bend, broken, floor, ratio, shift)
    return Measurement(
        law,
        spectrum,
        channels,
        meter.samples,
        meter.planes,
        skipped,
        settings,
        sure,
        bend,
        broken,
        floor,
        ratio,
        shift,
        replicates,
        tuple(warnings),
    )


def _doubts(
    law: PowerLaw,
    sure: Confidence | None,
    bend: Curvature | None,
    broken: BrokenPowerLaw | None,
    floor: NoiseFloor | None,
    ratio: Estimate | None,
    shift: Sequence[float],
) -> list[str]:
    """Reasons not to take the power law for the truth, each only when it is both beyond chance and large enough to matter."""
    doubts = []
    if law.exponent > 0.1 and law.r2 is not None and law.r2 < 0.98:
        doubts.append(f"R2 = {law.r2:.4f}: a power law describes these data poorly")
    if bend is not None and bend.coefficient.excludes_zero and abs(bend.last - bend.first) > 0.3:
        doubts.append(f"the exponent drifts from {bend.first:.2f} to {bend.last:.2f} over the band")
    if broken is not None and broken.preferred and abs(broken.difference.value) > 0.3:
        doubts.append(
            f"two power laws fit better: beta {broken.below:.2f} below {broken.frequency:.3g} cycles, {broken.above:.2f} above"
        )
    if floor is not None and floor.share.low > 0.1:
        doubts.append(f"a noise floor makes up {floor.share.value:.0%} of the power at the highest frequency")
    if ratio is not None and not 0.8 < ratio.value < 1.25 and not ratio.low <= 1 <= ratio.high:
        doubts.append(f"horizontal frequencies have {ratio.value:.2f} times the power of vertical ones")
    worst = max(shift, key=abs, default=0.0)
    if abs(worst) > 0.02:
        doubts.append(
            f"the law moves a transition by {worst:+.3f} against the measured table; plan with the table's envelope "
            f"(Spectrum.envelope) instead"
        )
    return doubts


def _check_order(data: Any, resume: bool) -> None:
    """ValueError for a loader that would give other batches to each process, or to the run that goes on."""
    sampler = getattr(data, "sampler", None) if isinstance(data, torch.utils.data.DataLoader) else None
    many = _rank()[1] > 1
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


def measure(
    data: Any,
    *,
    basis: Basis = DCT,
    replicates: int = 200,
    seed: int = 0,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    scales: Sequence[float] = (0.5, 1.0),
    delta: float = 0.01,
    level: float = 0.95,
    encoder: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
    workers: int = 0,
    resume: str | Path | None = None,
    every: float = 30.0,
    progress: bool = False,
    **options: Any,
) -> Measurement:
    """Measure whatever holds data: paths, a data set, a loader, tensors.

    Parameters
    ----------
    data, options
        As :func:`spectral_pd.sources.open_source`.
    basis, replicates, seed, encoder, device, workers, resume, every, progress
        As :func:`accumulate`.
    band, weights, scales, delta, level
        As :func:`assess`.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ModuleNotFoundError
        As those; a loader that shuffles, with several processes or `resume`.

    Examples
    --------
    >>> import torch
    >>> measure(torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(0))).law.shape
    (32, 32)
    """
    _check_order(data, resume is not None)
    meter, skipped = accumulate(
        open_source(data, **options),
        basis=basis,
        replicates=replicates,
        seed=seed,
        encoder=encoder,
        device=device,
        workers=workers,
        resume=resume,
        every=every,
        progress=progress,
    )
    return assess(meter, band=band, weights=weights, scales=scales, delta=delta, level=level, skipped=skipped)


def draw(path: str | Path, measurement: Measurement) -> None:
    """The measurement as a figure: spectrum with its law and channels, residuals with their bootstrap band.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, whose window system is the caller's to choose
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("figures need matplotlib: pip install 'spectral_pd[demo]'") from error

    from spectral_pd.plotting import plot_spectrum

    spectrum, law = measurement.spectrum, measurement.law
    binning = spectrum.binning
    # At effective frequencies: what the fit saw, so that a law that holds lies on its points.
    omega = spectrum.frequency if binning is None else binning.effective_frequency(law.exponent)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(measurement.channels) > 1:
        for table in measurement.channels:
            left.loglog(omega, table.power, color="0.75", lw=0.7, zorder=0)
        left.plot([], [], color="0.75", lw=0.7, label=f"{len(measurement.channels)} channels")
    plot_spectrum(replace(spectrum, frequency=omega, binning=None), law, ax=left)
    samples = f"{measurement.samples} samples, {'x'.join(map(str, spectrum.shape))}, {measurement.settings['basis']}"
    left.set_title(samples, fontsize=10)
    model = law(omega)
    if measurement.replicates is not None:
        with np.errstate(divide="ignore"):
            band = np.percentile(np.log(measurement.replicates.power / model), [2.5, 97.5], axis=0)
        right.fill_between(omega, *band, color="tab:blue", alpha=0.25, lw=0, label="95 % of bootstrap replicates")
    right.semilogx(omega, np.log(spectrum.power / model), ".", ms=4, color="tab:blue", label="measured / law")
    right.axhline(0, color="tab:orange", lw=1)
    if measurement.broken is not None and measurement.broken.preferred:
        right.axvline(measurement.broken.frequency, color="0.5", ls=":", label="break")
    right.set_xlabel(r"frequency $\omega$ (cycles per shorter side)")
    right.set_ylabel("log residual")
    right.set_title("measured against the law", fontsize=10)
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def number(text: str) -> float:
    """A command-line number: ``0.5``, ``1/2`` or ``1e-3``; argparse reports anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5 or 1/2") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``spectral-pd fit``; :func:`run` takes what they parse to."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="files or folders: pictures, .npy .npz .pt .safetensors, videos")
    data = parser.add_argument_group("data")
    data.add_argument("--size", type=int, nargs="+", metavar="N", help="grid of pictures and frames: one side, or H W")
    data.add_argument("--fit", choices=("resize", "crop"), default="resize", help="centre-crop and shrink, or only cut")
    data.add_argument("--frames", action="store_true", help="stored arrays of rank 4 are one clip (C, T, H, W) each")
    data.add_argument("--clip", type=int, default=16, help="frames of a video that the bootstrap keeps together")
    data.add_argument("--on-error", choices=("skip", "raise"), default="skip", help="files that cannot be read, NaN")
    data.add_argument("--vae", metavar="PATH", help="encode pictures with a diffusers AutoencoderKL folder first")
    fit = parser.add_argument_group("fit")
    fit.add_argument("--basis", choices=sorted(BASES), default="dct", help="orthonormal basis to measure in")
    fit.add_argument("--band", type=number, nargs=2, metavar=("LOW", "HIGH"), help="fit only these cycles per side")
    fit.add_argument("--weights", choices=("uniform", "count", "log"), default="uniform", help="of the bins")
    fit.add_argument("--bootstrap", type=int, default=200, metavar="B", help="replicates for intervals; 0 for none")
    fit.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    fit.add_argument("--scales", type=number, nargs="+", default=[0.5, 1.0], help="report t* for these scales")
    fit.add_argument("--delta", type=number, default=0.01, help="tolerated velocity error for t*")
    run_group = parser.add_argument_group("run")
    run_group.add_argument("--batch-size", type=int, default=16, help="samples a batch")
    run_group.add_argument("--workers", type=int, default=0, help="processes that read ahead")
    run_group.add_argument("--device", help="where to transform and encode, e.g. cuda")
    run_group.add_argument(
        "--resume", metavar="STATE.pt", help="checkpoint: continue from it if it exists, and keep it"
    )
    run_group.add_argument("--checkpoint-every", type=number, default=30.0, metavar="S", help="seconds between them")
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="OUT", help="write law and measurement, for 'plan --spectrum'")
    out.add_argument("--table", metavar="OUT", help="write the measured table (Spectrum.load reads it)")
    out.add_argument("--figure", metavar="OUT.png", help="draw spectrum, law and residuals")


@contextmanager
def _process_group(device: str | None) -> Iterator[None]:
    """Join the processes torchrun started; nothing to do without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = device is not None and device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def run(args: argparse.Namespace) -> None:
    """``spectral-pd fit``: measure, print the report, write the files asked for (the first process does).

    Raises
    ------
    ValueError, TypeError, OSError, ModuleNotFoundError
        One line of text each; the command line prints it.
    """
    if args.size is not None and len(args.size) > 2:
        raise ValueError(f"--size {' '.join(map(str, args.size))}: give one side, or height and width")
    if args.workers < 0:
        raise ValueError(f"--workers {args.workers} must not be negative")
    size = None if args.size is None else (args.size[0], args.size[-1])
    device = args.device
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    source = open_source(
        args.sources,
        batch_size=args.batch_size,
        size=size,
        fit=args.fit,
        errors=args.on_error,
        clip=args.clip,
        frames=args.frames,
    )
    names = "\n".join(f"{path} {path.stat().st_size}" for path in find_files(args.sources))
    identity = {
        "files": hashlib.sha256(names.encode()).hexdigest()[:16],
        **{name: getattr(args, name) for name in ("size", "fit", "frames", "clip", "batch_size", "vae")},
    }
    with _process_group(device):
        encoder = None if args.vae is None else Encoder.load(args.vae, device=device or "cpu")
        meter, skipped = accumulate(
            source,
            basis=BASES[args.basis],
            replicates=args.bootstrap,
            seed=args.seed,
            encoder=encoder,
            device=device,
            workers=args.workers,
            resume=args.resume,
            every=args.checkpoint_every,
            identity=identity,
            progress=sys.stderr.isatty(),
        )
        first = _rank()[0] == 0
    if not first:
        return
    measurement = assess(
        meter,
        band=tuple(args.band) if args.band else None,
        weights=args.weights,
        scales=args.scales,
        delta=args.delta,
        source=" ".join(args.sources) + (f" through {args.vae}" if args.vae else ""),
        skipped=skipped,
    )
    print(measurement)
    if args.json:
        measurement.save(args.json)
        print(f"power law and measurement written to {args.json}")
    if args.table:
        measurement.spectrum.save(args.table)
        print(f"spectrum table written to {args.table}")
    if args.figure:
        draw(args.figure, measurement)
        print(f"figure written to {args.figure}")
