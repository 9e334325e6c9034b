"""The figures: spectrum with its fit, activation curve with transitions, strips of pictures (paper Figs. 2-4 in spirit).

Every function draws into a matplotlib ``Axes``, `ax` or that of a new figure, and returns it; matplotlib is imported only
when one is called (``pip install 'spectral_pd[demo]'``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from spectral_pd.inputs import shown
from spectral_pd.plan import Plan
from spectral_pd.power import AnySpectrum, PowerLaw, Spectrum, as_spectrum
from spectral_pd.theory import activation_time, max_frequency

__all__ = ["plot_activation", "plot_spectrum", "plot_strips"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FREQUENCY = r"frequency $\omega$ (cycles per shorter side)"


def _axes(ax: Axes | None) -> Axes:
    """The axes themselves, or those of a new figure."""
    import matplotlib.pyplot as plt

    return ax or plt.subplots(figsize=(5, 4), layout="constrained")[1]


def plot_spectrum(spectrum: Spectrum, law: PowerLaw | None = None, *, ax: Axes | None = None) -> Axes:
    """Measured radial power against frequency on logarithmic axes, with the fitted power law as a line.

    With a law, bins lie at their effective frequencies, where the law itself has their mean power; without, at their centres.

    Parameters
    ----------
    spectrum, law
        A measured table and its fit, drawn with A, beta and R2 in the legend.
    ax
        Where to draw; a new figure by default.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import fit_power_law, power_spectrum
    >>> measured = power_spectrum(torch.randn(8, 3, 32, 32))
    >>> plot_spectrum(measured, fit_power_law(measured)).get_xscale()
    'log'
    """
    ax = _axes(ax)
    omega = spectrum.frequency
    if law is not None and spectrum.binning is not None:
        omega = spectrum.binning.effective_frequency(law.exponent)
    ax.loglog(omega, spectrum.power, ".", ms=4, color="tab:blue", label="measured")
    if law is not None:
        label = rf"${law.amplitude:.4g}\,\omega^{{-{law.exponent:.3f}}}$"
        if law.r2 is not None:
            label += f", $R^2$ = {law.r2:.4f}"
        ax.loglog(omega, law.at(spectrum.shape)(omega), "-", color="tab:orange", label=label)
    ax.set(xlabel=FREQUENCY, ylabel=r"power $P(\omega)$, orthonormal")
    ax.legend(frameon=False)
    return ax


def plot_activation(
    spectrum: AnySpectrum | Callable[[Any], Any], plan: Plan, *, delta: float = 0.01, ax: Axes | None = None
) -> Axes:
    """Activation time of every frequency on the plan's grid (Eq. 9), with the plan's stages as steps.

    Below the curve in time a frequency carries signal; a stage may run only while the frequencies it lacks (right of its
    vertical line) are still inactive, that is, above their activation times.

    Parameters
    ----------
    spectrum, plan
        A plan and what it was made from. Its stages are drawn as boxes: frequency range against the times they run at.
    delta
        Tolerance of the curve; the plan's own when it has one.
    ax
        As :func:`plot_spectrum`.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(50, shift=3.0), PRESETS["flux"], (128, 128), scales=(1 / 2, 1))
    >>> ax = plot_activation(PRESETS["flux"], plan)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['activation time', 'stage 1: 64x64, 18 steps', 'stage 2: 128x128, 32 steps']
    """
    ax = _axes(ax)
    nyquist = max_frequency(plan.shape)
    omega = np.linspace(1.0, nyquist, 400)
    power = np.asarray(as_spectrum(spectrum).at(plan.shape)(omega))  # type: ignore[operator]
    ax.plot(omega, activation_time(power, plan.delta or delta), color="black", lw=1.5, label="activation time")
    for i, stage in enumerate(plan.stages):
        cut = nyquist * min(n / m for n, m in zip(stage.shape, plan.shape, strict=True))
        label = f"stage {i + 1}: {shown(stage.shape)}, {stage.steps} steps"
        start, stop = plan.times[stage.start], plan.times[stage.stop]
        ax.fill_between([0, cut], stop, start, color=f"C{i}", alpha=0.35, lw=0, label=label)
    ax.set(xlim=(0, nyquist), ylim=(0, 1), xlabel=FREQUENCY, ylabel="time $t$ (1 noise, 0 data)")
    ax.legend(frameon=False, loc="lower left")
    return ax


def plot_agreement(rows: Iterable[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """What coarse calls miss, I, with V dashed, of every size over time; dotted, what a linear filter of the state would miss.

    Parameters
    ----------
    rows
        Of :meth:`SizeAgreement.rows <spectral_pd.agreement.SizeAgreement.rows>`.
    ax
        As :func:`plot_spectrum`.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> from spectral_pd.agreement import size_agreement
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = size_agreement(field.velocity, torch.randn(4, 4, 16, 16), shift_times(6, shift=3.0))
    >>> plot_agreement(found.rows()).get_yscale()
    'log'
    """
    ax, every = _axes(ax), list(rows)
    for g, size in enumerate(dict.fromkeys(row["size"] for row in every)):
        ours = [row for row in every if row["size"] == size]
        times = [row["T"] for row in ours]
        low, high = ([max(row["I"] + sign * row["I_half"], 1e-12) for row in ours] for sign in (-1, 1))
        ax.fill_between(times, low, high, color=f"C{g}", alpha=0.25, lw=0)
        for name, style, label in (("I", "-", "I"), ("V", "--", "V"), ("linear", ":", "linear filter")):
            ax.plot(times, [max(row[name], 1e-12) for row in ours], style, color=f"C{g}", label=f"{size}: {label}")
    ax.set(yscale="log", xlabel="time $T$ (1 noise, 0 data)", ylabel="mean square, data units")
    ax.invert_xaxis()
    ax.legend(frameon=False)
    return ax


def plot_strips(rows: Sequence[tuple[str, Tensor]], *, ax: Axes | None = None) -> Axes:
    """Rows of pictures of one size under each other, each row with its name.

    Parameters
    ----------
    rows
        (name, pictures) pairs; pictures (K, 3 or 1, H, W) in [-1, 1], the same K and size in every row.
    ax
        As :func:`plot_spectrum`.

    Examples
    --------
    >>> import torch
    >>> ax = plot_strips([("grey", torch.zeros(4, 1, 8, 8)), ("white", torch.ones(4, 1, 8, 8))])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['grey', 'white']
    """
    ax = _axes(ax)
    strips = []
    for _, pictures in rows:
        x = (pictures.detach().float().clamp(-1, 1) + 1) / 2
        strips.append(np.concatenate(list(x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()), axis=1))
    ax.imshow(np.concatenate(strips, axis=0), interpolation="nearest")
    ax.set_yticks([len(strips[0]) * (i + 0.5) for i in range(len(rows))], [name for name, _ in rows])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
