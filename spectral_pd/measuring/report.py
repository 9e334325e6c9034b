"""From a source to a report: stream, fit, test, and say how sure.

:func:`measure` streams what holds data through a meter; :func:`assess` turns a meter into a :class:`Measurement`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.fit import fit_power_law
from spectral_pd.inputs import door
from spectral_pd.measuring.diagnostics import (
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
from spectral_pd.measuring.options import Options, chosen
from spectral_pd.measuring.sources import open_source
from spectral_pd.measuring.stream import accumulate, rank_and_world
from spectral_pd.meter import Replicates, SpectrumMeter
from spectral_pd.plotting import plot_spectrum
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.theory import transition_times


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
    warnings
        What a careful reader should know before using the law.
    notes
        What was left out before there were samples: hidden files, files named twice, other kinds of files.
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
    notes: tuple[str, ...]

    def __str__(self) -> str:
        s, law, omega = self.settings, self.law, self.spectrum.frequency
        grid = inputs.shown(self.spectrum.shape)
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
        lines += [f"note: {text}" for text in self.notes] + [f"warning: {text}" for text in self.warnings]
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

    Raises
    ------
    ValueError
        Nothing measured, constant data, bad arguments.
    """
    band, weights, scales, delta, level = (
        getattr(options, name) for name in ("band", "weights", "scales", "delta", "level")
    )
    spectrum, channels = meter.result(), meter.channel_results()
    today = date.today().isoformat()
    about = f"{meter.samples} samples, grid {inputs.shown(meter.shape)}" + (f", of {source}" if source else "")
    law = replace(fit_power_law(spectrum, band=band, weights=weights), source="spectral_pd", data=about, date=today)
    settings = {
        "basis": meter.basis.name,
        "band": band,
        "weights": weights,
        "scales": scales,
        "delta": delta,
        "level": level,
        "seed": meter.seed,
        "date": today,
        "source": source,
    }
    warnings = []
    has_bootstrap = meter.bootstrap > 0
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
        tuple(notes),
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
    inputs.one_order(data, many=rank_and_world()[1] > 1, resume=options.resume is not None)
    opened = open_source(data, options=options)
    meter, skipped = accumulate(opened, options=options, encoder=encoder, progress=progress)
    notes = getattr(opened, "notes", ())
    return assess(meter, options=options, source=source, skipped=skipped, notes=notes)


@door(path=inputs.figure_file)
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
