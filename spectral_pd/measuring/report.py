"""From a source to a report: stream, fit, test, and say how sure.

:func:`measure` streams what holds data through a meter; :func:`assess` turns a meter into a :class:`Measurement`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.fit import fit_band, fit_power_law
from spectral_pd.inputs import door, storage
from spectral_pd.measuring import diagnostics
from spectral_pd.measuring.options import Options, chosen
from spectral_pd.measuring.sources import open_source
from spectral_pd.measuring.stream import accumulate, rank_and_world
from spectral_pd.meter import Replicates, SpectrumMeter
from spectral_pd.plotting import plot_spectrum
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.theory import transition_times

__all__ = ["Measurement", "assess", "draw", "measure"]


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
        See :mod:`spectral_pd.measuring.diagnostics`; None without a bootstrap, or where the grid is too small for them.
    shift
        t* of the law minus t* of the measured table, for each scale but the last.
    replicates
        The bootstrap behind them, or None.
    notes
        What was left out before there were samples: hidden files, files named twice, other kinds of files.
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
    confidence: diagnostics.Confidence | None
    curvature: diagnostics.Curvature | None
    broken: diagnostics.BrokenPowerLaw | None
    floor: diagnostics.NoiseFloor | None
    anisotropy: diagnostics.Estimate | None
    shift: tuple[float, ...]
    replicates: Replicates | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        s, law, omega = self.settings, self.law, self.spectrum.frequency
        grid, sure = inputs.shown(self.spectrum.shape), self.confidence
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        band = f"band {s['band'][0]:g} to {s['band'][1]:g}" if s["band"] else "all bins"
        lines = inputs.wrapped(
            f"{self.samples} samples, {self.planes} planes of {grid}, {len(self.channels)} channels, basis {s['basis']}"
            f"{skipped}",
            f"P(omega) = A omega^-beta, omega in cycles per shorter side ({omega[0]:g} to {omega[-1]:g}), orthonormal; A "
            f"belongs to {grid}",
            f"fit: weights {s['weights']}, {band}",
        )
        times = transition_times(law, s["scales"], self.spectrum.shape, delta=s["delta"])
        names = ["A", "beta", "R2", *(f"t*({scale:.4g}), delta {s['delta']:g}" for scale in s["scales"][:-1])]
        rows = [
            f"  {n:<24} {v:.6g}"
            for n, v in zip(names, (law.amplitude, law.exponent, law.r2 or 0.0, *times), strict=True)
        ]
        if sure is not None:
            bounds = (sure.amplitude, sure.exponent, sure.r2, *sure.transition_times)
            rows = [f"{row:<42} [{b.low:.6g}, {b.high:.6g}]" for row, b in zip(rows, bounds, strict=True)]
            count = f"{sure.replicates} bootstrap replicates, {sure.samples:.4g} independent samples"
            rows.append(f"  intervals: {sure.level:.0%}, {count}")
        more: dict[str, str] = {}
        if len(self.channels) > 1:
            exponents = [_exponent(table, s) for table in self.channels]
            known = [f"{e:.3f}" for e in exponents if e is not None]
            more["beta by channel"] = " ".join(known if len(known) <= 8 else [min(known), "...", max(known)])
        if (bend := self.curvature) is not None:
            ends = f"{bend.first:.3f} at the lowest bin, {bend.last:.3f} at the highest"
            more["curvature"] = f"{bend.coefficient}: local beta {ends}"
        if (broken := self.broken) is not None:
            verdict = "preferred" if broken.preferred else "not preferred"
            below = f"beta {broken.below:.3f} below {broken.frequency:.3g} cycles"
            more["broken power law"] = f"{below}, {broken.above:.3f} above; {verdict}"
        if self.floor is not None:
            more["noise floor"] = f"{self.floor.share.value:.1%} of the highest bin's power"
        if self.anisotropy is not None:
            more["horizontal / vertical"] = str(self.anisotropy)
        if self.shift:
            more["t* of law minus table"] = " ".join(f"{v:+.4f}" for v in self.shift)
        lines += rows
        for name, text in more.items():
            first, *others = textwrap.wrap(text, inputs.WIDTH - 27)
            lines += [f"  {name:<24} {first}", *(" " * 27 + line for line in others)]
        lines += inputs.wrapped(*(f"note: {text}" for text in self.notes))
        lines += inputs.wrapped(*(f"warning: {text}" for text in self.warnings))
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write JSON: the power law (``PowerLaw.load`` reads it, and so do plans) with the measurement beside it."""
        table = {name: getattr(self.spectrum, name).tolist() for name in ("frequency", "power", "count")}
        record = {
            **{name: getattr(self, name) for name in ("samples", "planes", "skipped", "settings")},
            "confidence": self.confidence and asdict(self.confidence),
            "curvature": self.curvature and asdict(self.curvature),
            "broken_power_law": self.broken and asdict(self.broken),
            "noise_floor": self.floor and asdict(self.floor),
            "anisotropy": self.anisotropy and asdict(self.anisotropy),
            "transition_shift": self.shift,
            "warnings": self.warnings,
            "notes": self.notes,
            "spectrum": {"shape": self.spectrum.shape, **table},
            "channel_power": [table.power.tolist() for table in self.channels],
        }
        data = {"type": "PowerLaw", **asdict(self.law), "measurement": record}
        Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="ascii")


def _exponent(table: Spectrum, settings: Mapping[str, Any]) -> float | None:
    """beta of one channel, None where it has no power (a constant alpha channel, say)."""
    try:
        return fit_power_law(table, band=settings["band"], weights=settings["weights"]).exponent
    except ValueError:
        return None


@chosen
def assess(
    meter: SpectrumMeter, *, options: Options, source: str = "", skipped: int = 0, notes: Sequence[str] = ()
) -> Measurement:
    """Fit what a meter has seen, with intervals and tests where it kept a bootstrap.

    Parameters
    ----------
    meter
        A meter with data.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords: `band`, `weights`, `scales`, `delta`, `level`.
    source, skipped, notes
        What was measured, how many samples were left out, and what before them, for the record.
    """
    spectrum, today = meter.result(), date.today().isoformat()
    fit = {name: getattr(options, name) for name in ("band", "weights", "level")}
    when = {name: getattr(options, name) for name in ("scales", "delta")}
    about = f"{meter.samples} samples, grid {inputs.shown(meter.shape)}" + (f", of {source}" if source else "")
    law = fit_power_law(spectrum, band=options.band, weights=options.weights)
    law = replace(law, source="spectral_pd", data=about, date=today)
    settings = {"basis": meter.basis.name, **fit, **when, "seed": meter.seed, "date": today, "source": source}
    warnings = []
    replicates, sure, bend, broken, floor, ratio = None, None, None, None, None, None
    if meter.bootstrap and meter.samples < 2:
        warnings.append("one sample: no interval can be given, and spectra of single pictures differ by 0.5 in beta")
    elif meter.bootstrap:
        replicates = meter.replicates()
        if replicates.samples <= 1.5:
            warnings.append("one clip: no interval can be given; measure more clips")
            replicates = None
    if replicates is not None:
        bins = int(fit_band(spectrum, options.band).sum())
        sure = diagnostics.confidence(spectrum, replicates, **fit, **when)
        law = replace(law, covariance=sure.covariance)
        bend = diagnostics.curvature(spectrum, replicates, **fit) if bins >= 3 else None
        broken = diagnostics.broken_power_law(spectrum, replicates, **fit) if bins >= 8 else None
        floor = diagnostics.noise_floor(spectrum, replicates, **fit) if bins >= 4 else None
        directional = meter.directional()
        if len(directional) == 2 and diagnostics.both_axes_hold_power(spectrum, directional):
            ratio = diagnostics.anisotropy(spectrum, directional, replicates, band=options.band, level=options.level)
        elif len(directional) == 2:
            warnings.append("some bins hold no power along one of the axes: stripes, or data constant along it")
        if replicates.samples < 10:
            warnings.append(f"only {replicates.samples:.3g} independent samples; intervals are rough")
    found = Measurement(
        law=law,
        spectrum=spectrum,
        channels=meter.channel_results(),
        samples=meter.samples,
        planes=meter.planes,
        skipped=skipped,
        settings=settings,
        confidence=sure,
        curvature=bend,
        broken=broken,
        floor=floor,
        anisotropy=ratio,
        shift=diagnostics.transition_shift(spectrum, law, **when) if bool((spectrum.power > 0).all()) else (),
        replicates=replicates,
        notes=tuple(notes),
    )
    return replace(found, warnings=(*warnings, *_doubts(found)))


def _doubts(found: Measurement) -> list[str]:
    """Reasons not to take the power law for the truth, each only when it is both beyond chance and large enough to matter."""
    law, bend, broken, floor, ratio = found.law, found.curvature, found.broken, found.floor, found.anisotropy
    doubts = []
    if law.exponent > 0.1 and law.r2 is not None and law.r2 < 0.98:
        doubts.append(f"R2 = {law.r2:.4f}: a power law describes these data poorly")
    if bend is not None and bend.coefficient.excludes_zero and abs(bend.last - bend.first) > 0.3:
        doubts.append(f"the exponent drifts from {bend.first:.2f} to {bend.last:.2f} over the band")
    if broken is not None and broken.preferred and abs(broken.difference.value) > 0.3:
        below = f"beta {broken.below:.2f} below {broken.frequency:.3g} cycles"
        doubts.append(f"two power laws fit better: {below}, {broken.above:.2f} above")
    if floor is not None and floor.share.low > 0.1:
        doubts.append(f"a noise floor makes up {floor.share.value:.0%} of the power at the highest frequency")
    if ratio is not None and not 0.8 < ratio.value < 1.25 and not ratio.low <= 1 <= ratio.high:
        doubts.append(f"horizontal frequencies have {ratio.value:.2f} times the power of vertical ones")
    worst = max(found.shift, key=abs, default=0.0)
    if abs(worst) > 0.02:
        moved = f"the law moves a transition by {worst:+.3f} against the measured table"
        doubts.append(f"{moved}; plan with the table's envelope (Spectrum.envelope) instead")
    return doubts


@chosen
def measure(
    data: Any,
    *,
    options: Options,
    encoder: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
    source: str = "",
) -> Measurement:
    """Measure whatever holds data: paths, a data set, a loader, tensors.

    Parameters
    ----------
    data
        As :func:`~spectral_pd.measuring.sources.open_source`.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords.
    encoder, progress
        As :func:`~spectral_pd.measuring.stream.accumulate`.
    source
        What is measured, for the record.

    Examples
    --------
    >>> import torch
    >>> measure(torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(0))).law.shape
    (32, 32)
    """
    storage.one_order(data, many=rank_and_world()[1] > 1, resume=options.resume is not None)
    opened = open_source(data, options=options)
    meter, skipped = accumulate(opened, options=options, encoder=encoder, progress=progress)
    notes = getattr(opened, "notes", ())
    return assess(meter, options=options, source=source, skipped=skipped, notes=notes)


@door(path=storage.figure_file)
def draw(path: str | Path, measurement: Measurement) -> None:
    """The measurement as a figure: spectrum with its law and channels, residuals with their bootstrap band."""
    from matplotlib.figure import Figure  # without pyplot, whose window system is the caller's to choose

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
    samples = f"{measurement.samples} samples, {inputs.shown(spectrum.shape)}, {measurement.settings['basis']}"
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
