r"""Power against frequency: laws, measured tables, published fits, and what everything else asks of them (Eqs. 3-4, App. C).

``P(omega) = E|<x_0, phi_omega>|^2`` in an orthonormal basis, each sample centred. ``omega`` is in cycles per shorter side; a
DCT index k is half a cycle. A law is ``P = A omega^-beta``; a table holds means over the radial bins ``[k - 1/2, k + 1/2)``,
``k = 1 .. floor(omega_max)``. Plans, fields and losses ask any spectrum three things (:class:`AnySpectrum`):

========================================  ==================================================================================
``at(shape)``                             the same pictures on another grid
``coefficients(shape, basis)``            the power of every coefficient of a grid
``t_star(size, shape, delta=...)``        the time at which a stage on the grid `size` must be left (Eqs. 9-10)
========================================  ==================================================================================

A belongs to a grid: the same picture on a grid of ``m`` instead of ``n`` points has coefficients larger by ``sqrt(m / n)``,
so ``A' = A m / n`` at the same omega. The grid travels with every spectrum.

A bin's mean power is not the power at its centre: ``omega^-beta`` is convex and the coefficients of a grid fill the first
bins unevenly (the first DCT bin of a 64x64 grid holds 1.8 times the power at omega = 1 for beta = 2). A law has the bin's
mean power at the bin's effective frequency (:class:`Binning`),

    ``omega_k(beta) = (mean over the bin's coefficients of omega^-beta)^(-1 / beta)``.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASES, DCT, Basis, SeparableBasis
from spectral_pd.inputs import door, spectra
from spectral_pd.theory import max_frequency, transition_times

__all__ = [
    "PRESETS",
    "AnySpectrum",
    "Binning",
    "PowerLaw",
    "RadialSpectrum",
    "Spectrum",
    "as_spectrum",
    "load_spectrum",
]

Kind = Literal["measured", "measured, distilled encoder", "calibrated", "borrowed"]
KIND = inputs.choice("measured", "measured, distilled encoder", "calibrated", "borrowed")


class AnySpectrum(ABC):
    """What a plan, a field and a loss ask of a spectrum. Subclass it to bring a model of your own.

    Attributes
    ----------
    shape
        The grid its powers belong to; None for one that is used as it is on every grid.
    kind, source
        Whether it was measured, and by whom; plans made with a borrowed one say so.
    """

    shape: tuple[int, ...] | None = None
    kind: Kind = "measured"
    source: str = ""

    @abstractmethod
    def at(self, shape: Sequence[int]) -> AnySpectrum:
        """The spectrum of the same pictures on another grid: ``P' = P prod(shape') / prod(shape)``, same omega."""

    @abstractmethod
    def coefficients(self, shape: Sequence[int], basis: Basis = DCT) -> np.ndarray:
        """Power of every coefficient of the grid `shape`, float64; the mean gets the power of the lowest other frequency."""

    @abstractmethod
    def t_star(self, size: Sequence[int], shape: Sequence[int], *, delta: float) -> float:
        """The time at which a stage on the grid `size` of a run on `shape` must be left (the delta rule, Eqs. 9-10)."""

    def t_star_interval(
        self, size: Sequence[int], shape: Sequence[int], *, delta: float, level: float = 0.95
    ) -> tuple[float, float] | None:
        """Where :meth:`t_star` lies with probability `level` over data of the same kind; None where that is unknown."""
        return None


class RadialSpectrum(AnySpectrum):
    """A spectrum that is a function of radial frequency: call it on cycles per shorter side."""

    @abstractmethod
    def __call__(self, omega: Any) -> Any:
        """Power at `omega` (cycles per shorter side, above 0): float, numpy array or tensor, returned in kind."""

    @abstractmethod
    def at(self, shape: Sequence[int]) -> RadialSpectrum: ...

    @door(shape=inputs.shape)
    def coefficients(self, shape: Sequence[int], basis: Basis = DCT) -> np.ndarray:
        frequency = basis.frequency(shape).numpy()
        positive = frequency[frequency > 0]
        lowest = positive.min() if positive.size else 1.0
        power = np.asarray(self.at(shape)(np.where(frequency > 0, frequency, lowest)), dtype=np.float64)
        if not (np.isfinite(power).all() and (power > 0).all()):
            raise ValueError("spectrum must be positive and finite at every frequency of the grid")
        return np.broadcast_to(power, tuple(shape)).copy()

    def t_star(self, size: Sequence[int], shape: Sequence[int], *, delta: float) -> float:
        """:func:`~spectral_pd.theory.transition_times` at the smallest ratio of an axis, below which all is represented."""
        ratio = min(n / m for n, m in zip(size, shape, strict=True))
        return transition_times(self, (ratio, 1.0), shape, delta=delta)[0]


@dataclass(frozen=True)
class _Function(RadialSpectrum):
    """A plain function of frequency; one with an ``at(shape)`` of its own is rescaled by it."""

    function: Callable[[Any], Any]

    def __call__(self, omega: Any) -> Any:
        return self.function(omega)

    def at(self, shape: Sequence[int]) -> _Function:
        return _Function(self.function.at(shape)) if hasattr(self.function, "at") else self


def as_spectrum(value: Any, name: str = "spectrum") -> AnySpectrum:
    """Any spectrum as one that answers the three questions: itself, the law of a measurement, or a wrapped function.

    Raises
    ------
    TypeError
        Neither a spectrum nor a function.

    Examples
    --------
    >>> as_spectrum(lambda omega: 50 / omega**2).coefficients((4, 4))[1].round(6).tolist()
    [200.0, 100.0, 40.0, 20.0]
    """
    value = inputs.law(value)
    if isinstance(value, AnySpectrum):
        return value
    if isinstance(value, (str, Path)):
        known = value in PRESETS
        remedy = f"PRESETS[{value!r}]" if known else f"load_spectrum({str(value)!r}) of spectral_pd.power"
        raise TypeError(f"{name} is {str(value)!r}; pass {remedy}")
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} is {type(value).__name__}; pass a PowerLaw, a Spectrum or a function of frequency")
    return _Function(value)


def _in_kind(omega: Any, formula: Callable[[np.ndarray], np.ndarray]) -> Any:
    """`formula` of `omega` as a float64 array, returned as the kind `omega` is: tensor, numpy array or float."""
    values = formula(spectra.float64(omega, "omega"))
    if isinstance(omega, Tensor):
        dtype = omega.dtype if omega.is_floating_point() else torch.float64
        return torch.from_numpy(values).to(dtype=dtype, device=omega.device)
    return values if isinstance(omega, np.ndarray) else float(values)


@dataclass(frozen=True)
class PowerLaw(RadialSpectrum):
    """``P(omega) = amplitude * omega^-exponent`` on the grid `shape`; call it on a frequency.

    Parameters
    ----------
    amplitude
        A: power at one cycle per shorter side in an orthonormal basis on the grid `shape`, above 0.
    exponent
        beta; 0 is white, natural photographs have about 2.5, latents of image models about 2.
    r2
        Coefficient of determination of the log-log fit; None when unknown.
    shape
        The grid A belongs to; None when unknown, and then it is used as it is on every grid.
    kind
        ``"measured"`` on the data it is named after, ``"measured, distilled encoder"`` through a small network that stands in
        for the model's own autoencoder, ``"calibrated"`` by trying schedules, or ``"borrowed"`` from another model; plans made
        with a borrowed law say so.
    source
        Where the numbers come from: a paper and its section, a command.
    data
        What was measured: which pictures, through which autoencoder.
    basis
        Name of the basis measured in; empty when unknown.
    date
        When, as in ISO 8601: ``"2026-05"``.
    covariance
        How far other data of the same kind may lie: ``(var log A, cov(log A, beta), var beta)`` of the fit over the samples,
        factors for few samples included, so that normal quantiles of it give honest intervals. None when unknown.

    Examples
    --------
    >>> law = PowerLaw(100.0, 2.0, shape=(64, 64))
    >>> law(5.0), law.at((128, 128))(5.0)
    (4.0, 16.0)
    """

    amplitude: float
    exponent: float
    r2: float | None = None
    shape: tuple[int, ...] | None = None
    kind: Kind = "measured"
    source: str = ""
    data: str = ""
    basis: str = ""
    date: str = ""
    covariance: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("amplitude", "exponent"):
            object.__setattr__(self, name, spectra.finite(getattr(self, name), name))
        if self.amplitude <= 0:
            raise ValueError(f"amplitude = {self.amplitude} must be above 0")
        KIND(self.kind, "kind")
        for name in ("source", "data", "basis", "date"):
            inputs.instance(str, "a text")(getattr(self, name), name)
        object.__setattr__(self, "shape", inputs.optional(inputs.shape)(self.shape, "shape"))
        object.__setattr__(self, "covariance", inputs.optional(spectra.covariance)(self.covariance, "covariance"))

    @door(omega=spectra.frequency)
    def __call__(self, omega: Any) -> Any:
        return _in_kind(omega, lambda w: self.amplitude * w**-self.exponent)

    @door(shape=inputs.shape)
    def at(self, shape: Sequence[int]) -> PowerLaw:
        spectra.own_axes(self.shape, shape)
        if self.shape is None:
            return replace(self, shape=tuple(shape))
        return replace(self, amplitude=self.amplitude * math.prod(shape) / math.prod(self.shape), shape=tuple(shape))

    def t_star_interval(
        self, size: Sequence[int], shape: Sequence[int], *, delta: float, level: float = 0.95
    ) -> tuple[float, float] | None:
        """Where :meth:`t_star` lies with probability `level` over data of the same kind; None without a covariance.

        ``log P(omega) = log A - beta log omega`` has variance ``var log A - 2 log omega cov + log(omega)^2 var beta``, and t*
        rises with the power at the cut.
        """
        if self.covariance is None:
            return None
        cut = math.log(min(n / m for n, m in zip(size, shape, strict=True)) * max_frequency(tuple(shape)))
        first, mixed, second = self.covariance
        reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(first - 2 * cut * mixed + cut**2 * second, 0.0))
        low, high = (replace(self, amplitude=self.amplitude * math.exp(side * reach)) for side in (-1, 1))
        return low.t_star(size, shape, delta=delta), high.t_star(size, shape, delta=delta)

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back exactly."""
        _write(path, self, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> PowerLaw:
        """Read what :meth:`save` or ``spectral-pd fit --json`` wrote; ValueError for anything else."""
        data = _read(path, cls, "measurement")  # what the command line adds: intervals, settings, tables
        with spectra.naming(str(path)):
            return cls(**data)


def _write(path: str | Path, value: PowerLaw | Spectrum, **data: Any) -> None:
    Path(path).write_text(json.dumps({"type": type(value).__name__, **data}, indent=2) + "\n", encoding="ascii")


def _read(path: str | Path, cls: type[PowerLaw | Spectrum], *more: str) -> dict[str, Any]:
    """The fields of a saved `cls`, without those named in `more`."""
    names = {f.name: f for f in fields(cls)}
    needed = ["shape", *(name for name, f in names.items() if f.default is MISSING)]
    data = spectra.json_object(spectra.saved(path), str(path), cls.__name__, needed, {*names, *more})
    return {name: value for name, value in data.items() if name in names}


def bin_numbers(frequency: Tensor) -> Tensor:
    """Radial bin ``k = floor(omega + 1/2)`` of every coefficient of a grid, int64; -1 beyond ``floor(omega_max)``.

    `frequency` is ``basis.frequency(shape)``. Bin 0 holds the mean and, of a basis with frequencies below half a cycle,
    those; no spectrum counts it.

    Examples
    --------
    >>> bin_numbers(DCT.frequency((4, 4)))[0].tolist()
    [0, 1, 1, 2]
    """
    k = (frequency + 0.5).floor().to(torch.int64)
    return torch.where(k <= math.floor(max_frequency(frequency.shape)), k, -1)


def radial_bins(power: Tensor, frequency: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average a map of power over the radial bins (:func:`bin_numbers`) of a map of frequencies of the same shape.

    Returns frequencies k, mean power and number of coefficients of the bins that hold any (Haar's octaves leave gaps),
    float64.
    """
    bins = bin_numbers(frequency).flatten()
    inside = bins >= 1
    values = power.detach().to(device="cpu", dtype=torch.float64).flatten()[inside]
    count = torch.bincount(bins[inside])
    k = count.nonzero().flatten()
    total = torch.bincount(bins[inside], weights=values)[k]
    return k.double().numpy(), (total / count[k]).numpy(), count[k].double().numpy()


def sectors(basis: Basis, shape: tuple[int, ...]) -> Tensor:
    """0 where no axis dominates, a + 1 where the frequency along axis a is at least twice that along every other."""
    sector = torch.zeros(shape, dtype=torch.int64, device="cpu")
    if not isinstance(basis, SeparableBasis) or len(shape) < 2:
        return sector
    grids = torch.meshgrid(*(basis.axis_frequency(n).cpu() * (min(shape) / n) for n in shape), indexing="ij")
    for a, along in enumerate(grids):
        others = torch.stack([g for b, g in enumerate(grids) if b != a]).amax(0)
        sector[along >= 2 * others] = a + 1
    return sector


@lru_cache(maxsize=32)
def _binned(basis: Basis, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bin, sector, frequency) of every coefficient in a bin from 1 on, as flat arrays."""
    frequency = basis.frequency(shape)
    bins = bin_numbers(frequency)
    return tuple(v[bins >= 1].numpy() for v in (bins, sectors(basis, shape), frequency))  # type: ignore[return-value]


@dataclass(frozen=True)
class Binning:
    """Which coefficients a spectrum's bins average over: those of `basis` on the grid `shape` they were measured on."""

    basis: Basis
    shape: tuple[int, ...]

    def effective_frequency(self, exponent: float) -> np.ndarray:
        """Where ``omega^-exponent`` has its mean over the bin: ``(mean omega^-beta)^(-1/beta)``; the geometric mean at 0.

        One value for each bin that holds coefficients, cycles per shorter side.
        """
        bins, _, frequency = _binned(self.basis, self.shape)
        count = np.bincount(bins)
        filled = count > 0
        # Relative to the bin's centre, so that large exponents do not leave the range of float64.
        offset = np.log(frequency / bins)
        if abs(exponent) < 1e-8:
            mean = np.bincount(bins, weights=offset)[filled] / count[filled]
        else:
            mean = np.log(np.bincount(bins, weights=np.exp(-exponent * offset))[filled] / count[filled]) / -exponent
        return np.arange(len(count))[filled] * np.exp(mean)

    def directional_power(self, exponent: float) -> np.ndarray:
        """Mean of ``omega^-exponent`` over the coefficients each axis dominates: (axes, K), as ``SpectrumMeter.directional``.

        What an isotropic power law of amplitude 1 gives there: even on a square grid not the same as in the whole bin.
        """
        bins, sector, frequency = _binned(self.basis, self.shape)
        last = math.floor(max_frequency(self.shape))
        cells, size = sector * last + bins - 1, (sector.max() + 1) * last
        power, count = (np.bincount(cells, weights, size) for weights in (frequency**-exponent, None))
        return (power[last:] / count[last:]).reshape(-1, last)


@dataclass(frozen=True, eq=False)
class Spectrum(RadialSpectrum):
    """A measured radial power table; call it on a frequency to interpolate.

    Parameters
    ----------
    frequency
        Bin centres in cycles per shorter side, above 0 and increasing, float64 numpy array.
    power
        Mean power of each bin, at least 0.
    count
        Number of coefficients averaged in each bin (samples x channels x coefficients).
    shape
        The grid the power belongs to.
    binning
        Which coefficients each bin averages; lets :func:`fit_power_law` place a bin where the law has its mean. None for
        a table of powers at exactly `frequency`.

    Examples
    --------
    >>> table = Spectrum(np.array([1.0, 2.0]), np.array([8.0, 2.0]), np.array([5.0, 9.0]), (4, 4))
    >>> float(table(2.0))
    2.0
    """

    frequency: np.ndarray
    power: np.ndarray
    count: np.ndarray
    shape: tuple[int, ...]
    binning: Binning | None = None

    def __post_init__(self) -> None:
        # Copies: ours are read-only, the caller's stay as they are.
        columns = spectra.table(self.frequency, self.power, self.count)
        shape = inputs.shape(self.shape, "shape")
        for name, value in zip(("frequency", "power", "count", "shape"), (*columns, shape), strict=True):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))  # a copy's arrays are read-only as well

    @door(omega=spectra.frequency)
    def __call__(self, omega: Any) -> Any:
        """Power at `omega` by straight lines in log-log between bin centres; ValueError where bins have power 0.

        Below the first bin its power is held (the lowest octaves of Haar and the first half cycle of DCT have no bin of their
        own, and every plan asks from 0.5 cycles on), above the last one over half a cycle; further up is a ValueError.
        """
        if (self.power == 0).any():
            raise ValueError("the table has bins of power 0, which no frequency activates; measure more samples")

        def interpolated(w: np.ndarray) -> np.ndarray:
            end = self.frequency[-1] + 0.5
            if w.size and w.max() > end:
                found = f"omega = {w.max():g} lies above the measured range, which ends at {end:g} cycles"
                raise ValueError(f"{found}; measure on a larger grid, or fit a power law with fit_power_law(spectrum)")
            return np.exp(np.interp(np.log(w), np.log(self.frequency), np.log(self.power)))

        return _in_kind(omega, interpolated)

    @door(shape=inputs.shape)
    def at(self, shape: Sequence[int]) -> Spectrum:
        spectra.own_axes(self.shape, shape)
        return replace(self, power=self.power * (math.prod(shape) / math.prod(self.shape)), shape=tuple(shape))

    def envelope(self) -> Spectrum:
        """The smallest table that is nowhere below this one and never rises: ``max over omega' >= omega of P(omega')``.

        For plans where no power law holds: a transition made from it is early enough for every frequency above its cut,
        also where the measured power rises again.
        """
        return replace(self, power=np.maximum.accumulate(self.power[::-1])[::-1])

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back exactly."""
        table: dict[str, Any] = {name: getattr(self, name).tolist() for name in ("frequency", "power", "count")}
        if self.binning is not None:
            table["binning"] = {"basis": self.binning.basis.name, "shape": self.binning.shape}
        _write(path, self, shape=self.shape, **table)

    @classmethod
    def load(cls, path: str | Path, *, basis: Basis | None = None) -> Spectrum:
        """Read what :meth:`save` wrote; ValueError for anything else. `basis` is the one it was measured in, when that is not
        DCT, HAAR or FOURIER."""
        data = _read(path, cls)
        binning = data.pop("binning", None)
        with spectra.naming(str(path)):
            if binning is not None:
                known = BASES if basis is None else {**BASES, basis.name: basis}
                name = spectra.json_field(binning, "basis", "binning")
                if name not in known:
                    raise ValueError(f"it was measured in the basis {name!r}; pass that Basis as basis=")
                shape = inputs.shape(spectra.json_field(binning, "shape", "binning"), "binning's shape")
                binning = Binning(known[name], shape)
            return cls(**data, binning=binning)


def load_spectrum(path: str | Path) -> PowerLaw | Spectrum:
    """What a JSON file holds, a power law or a measured table: what ``spectral-pd plan --spectrum`` takes."""
    text = spectra.saved(path)
    try:
        kind = json.loads(text)["type"]
    except (ValueError, KeyError, TypeError, IndexError):
        kind = None  # no power law either, and its message says so
    return Spectrum.load(path) if kind == "Spectrum" else PowerLaw.load(path)


_PAPER = "arXiv 2605.18736, App. C; basis not stated there, taken as DCT"
_FLUX = PowerLaw(
    203.615097,
    1.915461,
    0.978,
    (128, 128),
    source=_PAPER,
    data="100K images of Aesthetics-Train-V2 through the FLUX.1 autoencoder",
    basis="dct",
    date="2026-05",
)


def _distilled(
    model: str,
    encoder: str,
    photographs: int,
    fit: tuple[float, float, float],
    shape: tuple[int, int],
    covariance: tuple[float, float, float],
) -> PowerLaw:
    """A row of benchmarks/results/latent_spectra.csv, all sets together."""
    amplitude, exponent, r2 = fit
    return PowerLaw(
        amplitude,
        exponent,
        r2,
        shape,
        kind="measured, distilled encoder",
        source="benchmarks/latents.py",
        data=f"{photographs} photographs through {encoder}, a distilled encoder of {model}",
        basis="dct",
        date="2026-11",
        covariance=covariance,
    )


_WAN = replace(
    _FLUX,
    amplitude=219.484718,
    exponent=2.422687,
    r2=0.999,
    shape=(60, 104),
    source=f"{_PAPER}; nor the grid, taken as that of 832x480 video: the reading with more full-size steps",
    data="VChitect videos through the WAN 2.1 autoencoder",
)
PRESETS: Mapping[str, PowerLaw] = MappingProxyType(
    {
        "flux": _FLUX,
        "z-image": replace(_FLUX, data=f"{_FLUX.data}, which Z-Image uses"),
        "flux2": _distilled(
            "FLUX.2",
            "TAEF2",
            52,
            (63.9019, 1.48422, 0.99068),
            (128, 128),
            (0.005111, 0.001314, 0.0005073),
        ),
        "sd3": _distilled(
            "Stable Diffusion 3",
            "TAESD3",
            52,
            (133.044, 2.04285, 0.98718),
            (128, 128),
            (0.02591, 0.005015, 0.001471),
        ),
        "sdxl": _distilled(
            "SDXL",
            "TAESDXL",
            52,
            (50.5754, 1.50821, 0.91254),
            (128, 128),
            (0.02552, 0.00549, 0.001444),
        ),
        "sd": _distilled(
            "Stable Diffusion 1, 2",
            "TAESD",
            56,
            (26.3157, 1.57451, 0.96304),
            (64, 64),
            (0.01367, 0.003721, 0.001465),
        ),
        "sana": _distilled(
            "Sana",
            "TAESana",
            14,
            (9.84672, 1.44522, 0.95993),
            (32, 32),
            (0.02169, 0.01099, 0.008826),
        ),
        "wan": _WAN,
        "qwen-image": replace(
            _WAN,
            r2=None,
            kind="borrowed",
            source="WAN 2.1's fit, not measured on Qwen-Image latents (same statistics a channel); borrowed November 2026",
            date="2026-11",
        ),
        "pixels": replace(
            _FLUX,
            amplitude=3745.46,
            exponent=2.4493,
            r2=1.0,
            shape=(512, 512),
            data="100K images of Aesthetics-Train-V2, pixels in [-1, 1]",
        ),
    }
)
"""Power laws by model name: kind, source, data, basis, date and grid of each; of the measured ones how sure they are."""
