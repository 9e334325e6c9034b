r"""Measuring a radial power spectrum, fitting a power law, and the published fits (paper Eqs. 3-4, App. C).

``P(omega) = E|<x_0, phi_omega>|^2`` in an orthonormal basis, each sample centred (its spatial mean removed per channel),
averaged over samples, channels, frames and the radial bins ``[k - 1/2, k + 1/2)``, ``k = 1 .. floor(omega_max)``. ``omega`` is
in cycles per shorter side; a DCT index k is half a cycle. The power law is ``P = A omega^-beta``, least squares of
``log P`` on ``log omega`` over the bins.

A bin's mean power is not the power at its centre: ``omega^-beta`` is convex and the coefficients of a grid fill the first
bins unevenly (the first DCT bin of a 64x64 grid holds 1.8 times the power at omega = 1 for beta = 2). A fit at the bin
centres, as published fits are made, finds A 30 % and beta 0.09 too large there. The default here places each bin at its
effective frequency, where the law itself has the bin's mean power,

    ``omega_k(beta) = (mean over the bin's coefficients of omega^-beta)^(-1 / beta)``,

which recovers a power law exactly on every grid, in every basis.

A belongs to a grid: the same picture on a grid of ``m`` instead of ``n`` points has coefficients larger by ``sqrt(m / n)``,
so ``A' = A m / n`` at the same omega. :meth:`PowerLaw.at` does this; the grid travels with every spectrum.

Uncertainty is a Poisson bootstrap over samples that needs one pass: replicate b counts sample i ``w_ib ~ Poisson(1)`` times,
with ``w_ib`` a function of (seed, i, b) alone (Philox4x32-10), so batches, chunks and processes do not change it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from spectral_pd import ops
from spectral_pd.bases import BASES, DCT, Basis, SeparableBasis, check_basis, check_state, working_dtype
from spectral_pd.philox import WORD, philox4x32
from spectral_pd.theory import check_shape, max_frequency

Kind = Literal["measured", "calibrated", "borrowed"]
Weights = Literal["uniform", "count", "log"]
Channels = Literal["mean", "max"]


def _frequencies(omega: Any) -> tuple[Any, np.ndarray]:
    """`omega` as given and as a float64 array; ValueError unless positive and finite."""
    values = omega.detach().cpu().numpy() if isinstance(omega, Tensor) else omega
    array = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"omega = {omega!r} must be positive and finite (cycles per shorter side)")
    return omega, array


def _like(array: np.ndarray, original: Any) -> Any:
    """`array` as the kind `original` is: tensor, numpy array or float."""
    if isinstance(original, Tensor):
        dtype = original.dtype if original.is_floating_point() else torch.float64
        return torch.from_numpy(array).to(dtype=dtype, device=original.device)
    return array if isinstance(original, np.ndarray) else float(array)


@dataclass(frozen=True)
class PowerLaw:
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
        ``"measured"`` on the data it is named after, ``"calibrated"`` by trying schedules, or ``"borrowed"`` from another
        model; plans made with a borrowed law say so.
    source
        Where the numbers come from: a paper and its section, a command.
    data
        What was measured: which pictures, through which autoencoder.
    basis
        Name of the basis measured in; empty when unknown.
    date
        When, as in ISO 8601: ``"2026-05"``.

    Raises
    ------
    ValueError, TypeError
        Amplitude not positive and finite, exponent not finite, a bad shape or kind, a description that is no text.

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

    def __post_init__(self) -> None:
        for name in ("amplitude", "exponent"):
            value = getattr(self, name)
            if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.floating)):
                raise TypeError(f"{name} is {type(value).__name__}; pass a float")
            if not math.isfinite(value):
                raise ValueError(f"{name} = {value} must be finite")
            object.__setattr__(self, name, float(value))
        if self.amplitude <= 0:
            raise ValueError(f"amplitude = {self.amplitude} must be above 0")
        if self.kind not in ("measured", "calibrated", "borrowed"):
            raise ValueError(f"kind = {self.kind!r} must be 'measured', 'calibrated' or 'borrowed'")
        for name in ("source", "data", "basis", "date"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {type(getattr(self, name)).__name__}; pass a text")
        if self.shape is not None:
            object.__setattr__(self, "shape", check_shape(self.shape))

    def __call__(self, omega: Any) -> Any:
        """Power at `omega` (cycles per shorter side, above 0): float, numpy array or tensor, returned in kind."""
        original, array = _frequencies(omega)
        return _like(self.amplitude * array**-self.exponent, original)

    def at(self, shape: Sequence[int]) -> PowerLaw:
        """The law of the same pictures on another grid: ``A' = A prod(shape') / prod(shape)`` at the same omega."""
        shape = check_shape(shape)
        if self.shape is None:
            return replace(self, shape=shape)
        return replace(self, amplitude=self.amplitude * math.prod(shape) / math.prod(self.shape), shape=shape)

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back exactly."""
        Path(path).write_text(json.dumps({"type": "PowerLaw", **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> PowerLaw:
        """Read what :meth:`save` or ``spectral-pd fit --json`` wrote.

        Raises
        ------
        ValueError
            Not such a file.
        """
        data = _load_json(path, "PowerLaw")
        data.pop("measurement", None)  # what the command line adds: intervals, settings, tables
        return cls(**{**data, "shape": tuple(data["shape"]) if data["shape"] is not None else None})


def _load_json(path: str | Path, kind: str) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.pop("type", None) != kind:
        raise ValueError(f"{path} does not hold a {kind}; write one with {kind}.save(path)")
    cls = {"PowerLaw": PowerLaw, "Spectrum": Spectrum}[kind]
    missing = {"shape", *(f.name for f in fields(cls) if f.default is MISSING)} - data.keys()
    if missing:
        raise ValueError(
            f"{path} does not hold a whole {kind}, {sorted(missing)} missing; write one with {kind}.save(path)"
        )
    return data


@lru_cache(maxsize=32)
def _bin_numbers(basis: Basis, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(number of its bin, frequency) of every coefficient with ``1 <= bin <= floor(omega_max)``, as flat arrays."""
    frequency = basis.frequency(shape).numpy().ravel()
    bins = np.floor(frequency + 0.5).astype(np.int64)
    kept = (bins >= 1) & (bins <= math.floor(max_frequency(shape)))
    return bins[kept], frequency[kept]


@dataclass(frozen=True)
class Binning:
    """Which coefficients a spectrum's bins average over: those of `basis` on the grid `shape` they were measured on."""

    basis: Basis
    shape: tuple[int, ...]

    def effective_frequency(self, exponent: float) -> np.ndarray:
        """Where ``omega^-exponent`` has its mean over the bin: ``(mean omega^-beta)^(-1/beta)``; the geometric mean at 0.

        One value for each bin that holds coefficients, cycles per shorter side.
        """
        bins, frequency = _bin_numbers(self.basis, self.shape)
        count = np.bincount(bins)
        filled = count > 0
        centre = np.arange(len(count))[filled]
        # Relative to the bin's centre, so that large exponents do not leave the range of float64.
        offset = np.log(frequency / bins)
        if abs(exponent) < 1e-8:
            mean = np.bincount(bins, weights=offset)[filled] / count[filled]
        else:
            mean = np.log(np.bincount(bins, weights=np.exp(-exponent * offset))[filled] / count[filled]) / -exponent
        return centre * np.exp(mean)

    def directional_power(self, exponent: float) -> np.ndarray:
        """Mean of ``omega^-exponent`` over the coefficients each axis dominates: (axes, K), as ``SpectrumMeter.directional``.

        What an isotropic power law of amplitude 1 gives there: even on a square grid not the same as in the whole bin.
        """
        sectors = _sectors(self.basis, self.shape).numpy().ravel()
        frequency = self.basis.frequency(self.shape).numpy().ravel()
        bins = np.floor(frequency + 0.5).astype(np.int64)
        last = math.floor(max_frequency(self.shape))
        rows = []
        for axis in range(1, int(sectors.max()) + 1):
            inside = (sectors == axis) & (bins >= 1) & (bins <= last)
            power = np.bincount(bins[inside], weights=frequency[inside] ** -exponent, minlength=last + 1)[1:]
            rows.append(power / np.bincount(bins[inside], minlength=last + 1)[1:])
        return np.array(rows).reshape(len(rows), -1)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A measured radial power table; call it on a frequency to interpolate.

    Parameters
    ----------
    frequency
        Bin centres in cycles per shorter side, increasing, float64 numpy array.
    power
        Mean power of each bin.
    count
        Number of coefficients averaged in each bin (samples x channels x coefficients).
    shape
        The grid the power belongs to.
    binning
        Which coefficients each bin averages; lets :func:`fit_power_law` place a bin where the law has its mean. None for
        a table of powers at exactly `frequency`.

    Raises
    ------
    ValueError
        Lengths differ, frequencies not positive and increasing, power negative or not finite, empty.

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
        frequency, power, count = (
            # A copy: ours is read-only, the caller's stays as it is.
            np.array(v.detach().cpu().numpy() if isinstance(v, Tensor) else v, dtype=np.float64)
            for v in (self.frequency, self.power, self.count)
        )
        if (
            frequency.ndim != 1
            or not frequency.size
            or frequency.shape != power.shape
            or frequency.shape != count.shape
        ):
            raise ValueError(
                f"frequency, power and count have shapes {frequency.shape}, {power.shape}, {count.shape}; "
                f"pass three non-empty one-dimensional arrays of one length"
            )
        if not (np.isfinite(frequency).all() and (frequency > 0).all() and (np.diff(frequency) > 0).all()):
            raise ValueError("frequency must be positive, finite and strictly increasing (cycles per shorter side)")
        if not (np.isfinite(power).all() and (power >= 0).all()):
            raise ValueError("power must be finite and not negative")
        for name, value in (("frequency", frequency), ("power", power), ("count", count)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "shape", check_shape(self.shape))

    def __call__(self, omega: Any) -> Any:
        """Power at `omega` by straight lines in log-log between bin centres.

        Below the first bin its power is held (the lowest octaves of Haar and the first half cycle of DCT have no bin of their
        own, and every plan asks from 0.5 cycles on), above the last one over half a cycle. Returns the kind given: float,
        numpy array or tensor.

        Raises
        ------
        ValueError
            `omega` not positive, or more than half a cycle above the table; power 0 in the table.
        """
        original, array = _frequencies(omega)
        high = self.frequency[-1] + 0.5
        if array.size and array.max() > high:
            raise ValueError(
                f"omega = {array.max():g} lies above the measured range, which ends at {high:g} cycles; measure on a larger "
                f"grid, or fit a power law with fit_power_law(spectrum)"
            )
        if (self.power == 0).any():
            raise ValueError("the table has bins of power 0, which no frequency activates; measure more samples")
        return _like(np.exp(np.interp(np.log(array), np.log(self.frequency), np.log(self.power))), original)

    def at(self, shape: Sequence[int]) -> Spectrum:
        """The table of the same pictures on another grid: power times ``prod(shape') / prod(shape)``, same omega."""
        shape = check_shape(shape)
        return replace(self, power=self.power * (math.prod(shape) / math.prod(self.shape)), shape=shape)

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
        Path(path).write_text(json.dumps({"type": "Spectrum", "shape": self.shape, **table}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path, *, basis: Basis | None = None) -> Spectrum:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path
            A JSON file.
        basis
            The basis it was measured in, when that is not DCT, HAAR or FOURIER.

        Raises
        ------
        ValueError
            Not such a file, or a basis this library does not know and that was not given.
        """
        data = _load_json(path, "Spectrum")
        binning = data.pop("binning", None)
        if binning is not None:
            name = binning["basis"]
            known = BASES if basis is None else {**BASES, basis.name: basis}
            if name not in known:
                raise ValueError(f"{path} was measured in the basis {name!r}; pass that Basis as basis=")
            binning = Binning(known[name], tuple(binning["shape"]))
        return cls(**data, binning=binning)


def load_spectrum(path: str | Path) -> PowerLaw | Spectrum:
    """What a JSON file holds, a power law or a measured table: what ``spectral-pd plan --spectrum`` takes.

    Raises
    ------
    ValueError
        Neither; as :meth:`PowerLaw.load` and :meth:`Spectrum.load`.
    """
    try:
        table = json.loads(Path(path).read_text())["type"] == "Spectrum"
    except (json.JSONDecodeError, KeyError, TypeError):
        table = False  # no power law either, and its message says so
    return Spectrum.load(path) if table else PowerLaw.load(path)


# P(Poisson(1) <= k) times 2^32, rounded down: a 32-bit word at or above entry k counts at least k + 1.
_POISSON = torch.tensor(
    [int(2**32 * math.fsum(math.exp(-1) / math.factorial(j) for j in range(k + 1))) for k in range(12)],
    device="cpu",
)
_BOOTSTRAP_STREAM = 0x42 << 24
"""Top byte of the fourth counter word: noise fields (spectral_pd.noise) have their layout number, 1, there."""


def poisson_weights(index: Tensor, replicates: int, *, seed: int = 0) -> Tensor:
    """How often each bootstrap replicate counts each sample: independent Poisson(1) numbers by address.

    Philox4x32-10 with key `seed` and counter (index, index >> 32, replicate >> 2, stream), word ``replicate & 3``,
    inverted through the Poisson distribution.

    Parameters
    ----------
    index
        int64 global sample numbers, shape (n,), at least 0. Equal numbers get equal weights.
    replicates
        Number of replicates B.
    seed
        64-bit key.

    Returns
    -------
    float64 of shape (B, n).
    """
    index = index.to(torch.int64)
    blocks = torch.arange((replicates + 3) // 4, device=index.device)[:, None]
    key = (torch.tensor(seed & WORD, device=index.device), torch.tensor((seed >> 32) & WORD, device=index.device))
    words = philox4x32((index & WORD, (index >> 32) & WORD, blocks, _BOOTSTRAP_STREAM), key)
    counts = torch.bucketize(torch.stack(words, 1), _POISSON.to(index.device), right=True)
    return counts.flatten(0, 1)[:replicates].to(torch.float64)


def _sectors(basis: Basis, shape: tuple[int, ...]) -> Tensor:
    """0 where no axis dominates, a + 1 where the frequency along axis a is at least twice that along every other."""
    if not isinstance(basis, SeparableBasis) or len(shape) < 2:
        return torch.zeros(shape, dtype=torch.int64, device="cpu")
    axes = [basis.axis_frequency(n).cpu() * (min(shape) / n) for n in shape]
    grids = torch.meshgrid(*axes, indexing="ij")
    sector = torch.zeros(shape, dtype=torch.int64, device="cpu")
    for a, along in enumerate(grids):
        others = torch.stack([g for b, g in enumerate(grids) if b != a]).amax(0)
        sector[along >= 2 * others] = a + 1
    return sector


def radial_sums(planes: Tensor, basis: Basis, bins: Tensor, columns: int) -> Tensor:
    """Power of every plane summed over bins: ``out[p, j] = sum over coefficients c with bins[c] = j of |c|^2``.

    Each plane is centred before the transform (a large mean would cost digits in every bin). Transforms run in float32
    or better, sums in float64. Planes are worked through in blocks of about a megabyte, which stay in cache.

    Parameters
    ----------
    planes
        (P, *grid), real floating point.
    basis
        Orthonormal basis.
    bins
        int64 of shape (prod(grid),): the column of each coefficient.
    columns
        Number of columns.

    Returns
    -------
    float64 of shape (P, columns) on the device of `planes`.
    """
    dims = planes.ndim - 1
    axes = tuple(range(1, dims + 1))
    sums = torch.zeros((planes.shape[0], columns), dtype=torch.float64, device=planes.device)
    block = planes.shape[0] if planes.is_cuda else max(1, 2**18 // bins.numel())
    native = basis is DCT and ops.usable("power_map", planes, grids=(planes.shape[1:],))
    for start in range(0, planes.shape[0], block):
        x = planes[start : start + block]
        if native:
            power = ops.power_map(x, len(x))
        else:
            x = x.to(working_dtype(x.dtype))
            x = x - x.mean(dim=axes, keepdim=True, dtype=torch.float64).to(x.dtype)
            power = basis.forward(x, dims=dims).to(torch.float64).square_()
        sums[start : start + block].index_add_(1, bins, power.flatten(1))
    return sums


@dataclass(frozen=True, eq=False)
class Replicates:
    """Bootstrap replicates of a measured spectrum: what other samples of the same kind would have given.

    Attributes
    ----------
    power
        (B, K): mean power of each bin of ``SpectrumMeter.result()`` in each replicate.
    directional
        (B, axes, K): the same for the coefficients that each axis dominates; (B, 0, K) without directions.
    samples
        Effective number of independent samples, from the spread of the replicates' total weights (at most the number of
        samples; smaller when frames of one clip share an index or clips differ in length).
    """

    power: np.ndarray
    directional: np.ndarray
    samples: float


class SpectrumMeter:
    """Streaming measurement: feed batches, read the spectrum at any time.

    Keeps a float64 table of summed power per channel, direction and radial bin, and one per bootstrap replicate, so memory
    does not grow with the stream and the order of batches does not matter beyond float64 rounding. Power is linear in the
    sums: meters of parts of the data add up (:meth:`merge`, :meth:`sync`).

    Parameters
    ----------
    shape
        The grid of every sample, e.g. (64, 64). Another grid is refused, not binned along: the same picture has another
        power on it, and averages over different content; use one meter a grid.
    basis
        DCT (default), FOURIER, HAAR or another :class:`~spectral_pd.bases.Basis`. DCT sees the picture continued by
        even reflection, Fourier continued periodically: the seam adds power at high omega along the axes. Haar
        coefficients are binned by the centre of their octave.
    replicates
        Number B of bootstrap replicates for :meth:`replicates`, e.g. 200; 0 keeps none.
    seed
        64-bit seed of the bootstrap.

    Raises
    ------
    ValueError, TypeError
        A bad shape, or one whose shorter side has fewer than 2 samples (no radial bin); `replicates` 1 or negative.

    Examples
    --------
    >>> meter = SpectrumMeter((32, 32))
    >>> for _ in range(4):
    ...     meter = meter.update(torch.randn(8, 3, 32, 32))
    >>> abs(float(np.mean(meter.result().power)) - 1) < 0.1  # white noise has power 1
    True
    """

    def __init__(self, shape: Sequence[int], *, basis: Basis = DCT, replicates: int = 0, seed: int = 0) -> None:
        self.shape = check_shape(shape)
        if max_frequency(self.shape) < 1:
            raise ValueError(f"shape = {self.shape} has no radial bin; the shorter side needs at least 2 samples")
        for name, value in (("replicates", replicates), ("seed", seed)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}; pass an int")
        if replicates < 0 or replicates == 1:
            raise ValueError(f"replicates = {replicates} must be 0 (no bootstrap) or at least 2; 200 is usual")
        self.basis = check_basis(basis)
        self.seed = seed
        self.samples = 0
        self.channels: int | None = None
        last = math.floor(max_frequency(self.shape))
        sectors = _sectors(basis, self.shape)
        self._layout = (int(sectors.max()) + 1, last)
        bins = (basis.frequency(self.shape) + 0.5).floor().to(torch.int64)
        column = sectors * last + bins - 1
        self._columns = math.prod(self._layout)
        # One column more, for the mean and for what lies beyond omega_max in the corners.
        self._bins = torch.where((bins >= 1) & (bins <= last), column, self._columns).flatten()
        self._frames = 0
        self._counted = False
        self._power = torch.zeros((0, self._columns), dtype=torch.float64, device="cpu")
        self._replicates = torch.zeros((replicates, self._columns), dtype=torch.float64, device="cpu")
        self._weight = torch.zeros(replicates, dtype=torch.float64, device="cpu")

    @property
    def planes(self) -> int:
        """Number of planes measured: samples times channels times frames."""
        return self._frames * (self.channels or 0)

    def update(self, batch: Tensor, *, index: int | Sequence[int] | Tensor | None = None) -> SpectrumMeter:
        """Add a batch of shape (samples, channels, ..., *grid); axes between channels and grid (frames) are averaged.

        (samples, *grid) has one channel, and a bare grid is one sample. Float16 and bfloat16 are transformed in float32,
        sums are float64. Returns self.

        Parameters
        ----------
        batch
            Real floating point, on any device, to which the tables follow.
        index
            Global number of the first sample, or one number a sample, from which bootstrap weights are drawn; None goes on
            counting. Give it when several meters share one data set. Samples with equal numbers are resampled together:
            frames of one clip are not independent and should share one.

        Raises
        ------
        TypeError
            Integer or complex tensors, or no tensor.
        ValueError
            Another grid or number of channels, an empty batch, NaN or infinity, a bad index (the meter is left as it was).
        """
        dims = len(self.shape)
        check_state(batch, "batch", dims)
        if tuple(batch.shape[-dims:]) != self.shape:
            raise ValueError(
                f"batch has grid {tuple(batch.shape[-dims:])} but this meter measures {self.shape}; power belongs to a "
                f"grid: resize the data, or use one SpectrumMeter a grid"
            )
        if batch.numel() == 0:
            raise ValueError(f"batch of shape {tuple(batch.shape)} is empty; pass at least one sample")
        samples = batch.shape[0] if batch.ndim > dims else 1
        channels = batch.shape[1] if batch.ndim > dims + 1 else 1
        if self.channels not in (None, channels):
            raise ValueError(
                f"batch of shape {tuple(batch.shape)} has {channels} channels but this meter has seen {self.channels}; "
                f"channels have their own spectra: convert the data to one layout, or use one meter for each"
            )
        numbers = self._numbers(index, samples)
        planes = batch.detach().reshape(samples, channels, -1, *self.shape)
        frames = planes.shape[2]
        total, each = self._tables(planes)
        if not bool(torch.isfinite(total).all()):
            bad = (~torch.isfinite(planes).flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f"batch contains NaN or infinity in samples {bad[:8]}; clean the data first")

        if self.channels is None:
            self.channels = channels
            self._power = torch.zeros((channels, self._columns), dtype=torch.float64, device=batch.device)
        # Also from the CPU, where a loaded state lies: a run that goes on must round like one that never stopped.
        tables = (self._power, self._replicates, self._weight)
        self._power, self._replicates, self._weight = (table.to(batch.device) for table in tables)
        self._power += total
        if len(self._replicates):
            weights = poisson_weights(numbers, len(self._replicates), seed=self.seed).to(batch.device)
            self._replicates += weights @ each
            self._weight += weights.sum(1) * frames
        self.samples += samples
        self._frames += samples * frames
        self._counted |= index is None
        return self

    def _tables(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Binned power of planes (samples, channels, frames, *grid), frames summed: a table a channel (summed over
        samples), and for the bootstrap a table a sample (mean over channels; empty without replicates)."""
        self._bins = self._bins.to(planes.device)
        columns = self._columns + 1
        if not len(self._replicates) and self.basis is DCT and ops.usable("power_map", planes, grids=(self.shape,)):
            # Binning is linear: one map a channel of all samples and frames, binned once.
            if planes.shape[2] == 1:
                maps = ops.power_map(planes, planes.shape[1])
            else:  # a channel's frames lie together: no copy of the batch with channels last
                maps = torch.cat([ops.power_map(channel) for channel in planes.unbind(1)])
            total = maps.new_zeros(planes.shape[1], columns).index_add_(1, self._bins, maps.flatten(1))
            return total[:, :-1], total[:0, :-1]
        sums = radial_sums(planes.flatten(0, 2), self.basis, self._bins, columns)[:, :-1]
        table = sums.unflatten(0, planes.shape[:3]).sum(2)
        return table.sum(0), table.mean(1)

    def _numbers(self, index: int | Sequence[int] | Tensor | None, samples: int) -> Tensor:
        """Global sample numbers of a batch, int64 of shape (samples,)."""
        if index is None:
            index = self.samples
        if isinstance(index, int):
            numbers = torch.arange(index, index + samples, device="cpu")
        else:
            numbers = torch.as_tensor(index)
        if numbers.shape != (samples,) or numbers.is_floating_point() or bool((numbers < 0).any()):
            raise ValueError(
                f"index must be an int or {samples} ints, one for each sample, at least 0; got {index!r} for a batch of "
                f"{samples}"
            )
        return numbers

    def _check_same(self, settings: Mapping[str, Any], verb: str) -> None:
        mine = self._settings()
        for name, value in settings.items():
            if name == "channels" and (value is None or self.channels is None):
                continue
            if value != mine[name]:
                raise ValueError(f"cannot {verb}: {name} is {value!r} there and {mine[name]!r} here; they must agree")

    def _settings(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "basis": self.basis.name,
            "replicates": len(self._replicates),
            "seed": self.seed,
            "channels": self.channels,
        }

    def _check_numbered(self, others: bool) -> None:
        if len(self._replicates) and (self._counted or others):
            raise ValueError(
                "bootstrap weights come from global sample numbers, and meters that counted for themselves both began at "
                "0: pass update(batch, index=...) with the samples' places in the whole data set, or use replicates=0"
            )

    def merge(self, other: SpectrumMeter) -> SpectrumMeter:
        """Add what another meter has seen. Returns self.

        Raises
        ------
        ValueError
            The other meter has another grid, basis, number of channels, bootstrap or seed; or either counted its samples
            for itself although there is a bootstrap.
        """
        self._check_same(other._settings(), "merge")
        if self.samples and other.samples:
            self._check_numbered(other._counted)
        if other.channels is not None:
            if self.channels is None:
                self.channels = other.channels
                self._power = torch.zeros_like(other._power)
                self._replicates, self._weight = (t.to(other._power.device) for t in (self._replicates, self._weight))
            device = self._power.device
            self._power = self._power + other._power.to(device)
            self._replicates = self._replicates + other._replicates.to(device)
            self._weight = self._weight + other._weight.to(device)
        self.samples += other.samples
        self._frames += other._frames
        self._counted |= other._counted
        return self

    def sync(self, group: dist.ProcessGroup | None = None) -> SpectrumMeter:
        """A new meter with the sum over all processes of `group` (default: the world); this one is left as it was.

        Every process calls it, those without data too. One all-reduce of a few kilobytes (gloo or nccl). Without an
        initialised process group the result is a copy.

        Raises
        ------
        ValueError
            Processes disagree about grid, basis, channels, bootstrap or seed, or counted samples for themselves.
        """
        total = SpectrumMeter(self.shape, basis=self.basis, replicates=len(self._replicates), seed=self.seed)
        if not (dist.is_available() and dist.is_initialized()):
            total.load_state_dict(self.state_dict())
            return total
        world = dist.get_world_size(group)
        everyone: list[Any] = [None] * world
        dist.all_gather_object(everyone, (self._settings(), self._counted), group=group)
        known = [settings["channels"] for settings, _ in everyone if settings["channels"] is not None]
        for rank, (settings, counted) in enumerate(everyone):
            self._check_same(settings, f"sync with rank {rank}")
            if world > 1 and len(known) > 1:
                self._check_numbered(counted)
        if not known:
            return total
        if len(set(known)) > 1:
            raise ValueError(f"cannot sync: ranks measured {known} channels; they must agree")
        power = (
            self._power if self.channels is not None else torch.zeros((known[0], self._columns), dtype=torch.float64)
        )
        parts = [power, self._replicates, self._weight, torch.tensor([self.samples, self._frames], dtype=torch.float64)]
        nccl = dist.get_backend(group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        flat = torch.cat([part.to(device).flatten() for part in parts])
        dist.all_reduce(flat, group=group)
        pieces = [p.reshape(t.shape) for p, t in zip(flat.split([t.numel() for t in parts]), parts, strict=True)]
        total.channels = known[0]
        total._power, total._replicates, total._weight = (p.to(self._power.device) for p in pieces[:3])
        total.samples, total._frames = (int(v) for v in pieces[3])
        total._counted = any(counted for _, counted in everyone)
        return total

    def result(self, *, channels: Channels = "mean") -> Spectrum:
        """The radial spectrum so far: mean power over samples, frames and bins ``[k - 1/2, k + 1/2)``.

        Parameters
        ----------
        channels
            ``"mean"`` over channels, as published fits; ``"max"``, at each frequency the power of the channel that has most
            there. More power activates earlier, so a plan made from the maximum grows as early as the first channel needs
            it: larger t, slower, and delta bounds every channel instead of their average.

        Raises
        ------
        ValueError
            Nothing has been measured yet; another word for `channels`.
        """
        check_channels(channels)
        rows = self._measured()
        if channels == "mean":
            return self._table(rows.mean(0), self.planes)
        tables = self.channel_results()
        return replace(tables[0], power=np.max([table.power for table in tables], axis=0))

    def channel_results(self) -> tuple[Spectrum, ...]:
        """One spectrum a channel; :meth:`result` is their mean. Errors as there."""
        return tuple(self._table(row, self._frames) for row in self._measured())

    def directional(self) -> np.ndarray:
        """Mean power of the coefficients dominated by each spectral axis: float64 (axes, K), bins as in :meth:`result`.

        An axis dominates where the frequency along it is at least twice that along every other: the first row of an image
        is vertical frequency (horizontal edges), the second horizontal. (0, K) in one dimension and for bases whose
        functions have no frequency along single axes (Haar).
        """
        return self._directions(self._measured().mean(0, keepdim=True))[0]

    def replicates(self) -> Replicates:
        """The bootstrap replicates of :meth:`result`.

        Raises
        ------
        ValueError
            Nothing measured, no replicates asked for, or every replicate empty.
        """
        self._measured()
        if not len(self._replicates):
            raise ValueError("this meter keeps no bootstrap; make it with SpectrumMeter(shape, replicates=200)")
        full = self._weight > 0  # with one or two samples a replicate may have drawn none
        if int(full.sum()) < 2:
            raise ValueError(f"{self.samples} samples give no bootstrap spread; measure more samples")
        rows = self._replicates[full] / self._weight[full, None]
        sums, counts = self._bin_counts()
        power = rows.unflatten(1, self._layout).sum(1).cpu().numpy()[:, sums] / counts[sums]
        # Var(sum_i w_i m_i) = sum m_i^2 for Poisson(1) weights w of clusters of m_i planes: Kish's effective number.
        spread = float(self._weight.var(correction=0)) or float("inf")
        return Replicates(power, self._directions(rows), min(float(self.samples), self._frames**2 / spread))

    def _measured(self) -> Tensor:
        """Power summed over coefficients, mean over samples and frames: (channels, columns)."""
        if self.samples == 0:
            raise ValueError("no samples yet; call update(batch) first")
        return self._power / self._frames

    def _bin_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(which bins hold coefficients, how many in each), over all directions."""
        counts = torch.bincount(self._bins.cpu(), minlength=self._columns + 1)[:-1].reshape(self._layout).sum(0).numpy()
        return counts > 0, counts

    def _table(self, sums: Tensor, planes: int) -> Spectrum:
        filled, counts = self._bin_counts()
        power = sums.unflatten(0, self._layout).sum(0).cpu().numpy()
        k = np.arange(1, len(counts) + 1, dtype=np.float64)
        return Spectrum(
            k[filled],
            power[filled] / counts[filled],
            counts[filled] * float(planes),
            self.shape,
            Binning(self.basis, self.shape),
        )

    def _directions(self, rows: Tensor) -> np.ndarray:
        """(rows, axes, K) mean power in the directional sectors."""
        filled, _ = self._bin_counts()
        counts = torch.bincount(self._bins.cpu(), minlength=self._columns + 1)[:-1].reshape(self._layout).numpy()
        table = rows.unflatten(1, self._layout).cpu().numpy()[:, 1:, filled]
        return table / counts[None, 1:, filled]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later; tensors are copies on the CPU. ``torch.save`` takes it."""
        return {
            **self._settings(),
            "samples": self.samples,
            "frames": self._frames,
            "counted": self._counted,
            "power": self._power.cpu().clone(),
            "replicate_power": self._replicates.cpu().clone(),
            "replicate_weight": self._weight.cpu().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises
        ------
        ValueError
            The state is of another grid, basis, bootstrap or seed, or incomplete.
        """
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(f"state lacks {missing}; pass what SpectrumMeter.state_dict() returned")
        settings = {name: state[name] for name in ("basis", "replicates", "seed")}
        self._check_same({"shape": tuple(state["shape"]), **settings}, "load the state")
        self.channels, self.samples = state["channels"], int(state["samples"])
        self._frames, self._counted = int(state["frames"]), bool(state["counted"])
        self._power, self._replicates, self._weight = (
            state[name].clone() for name in ("power", "replicate_power", "replicate_weight")
        )


def check_channels(channels: str) -> None:
    """ValueError unless `channels` is one of the two ways to combine channels."""
    if channels not in ("mean", "max"):
        raise ValueError(f"channels = {channels!r} must be 'mean' or 'max'")


def radial_bins(power: Tensor, frequency: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average a coefficient map over the bins ``[k - 1/2, k + 1/2)``, ``k = 1 .. floor(omega_max)``.

    Parameters
    ----------
    power, frequency
        Maps of one shape: power and radial frequency (cycles per shorter side) of each coefficient.

    Returns
    -------
    Frequencies k, mean power and number of coefficients of the bins that hold any (Haar's octaves leave gaps), float64.
    """
    last = math.floor(max_frequency(power.shape))
    bins = (frequency + 0.5).floor().flatten().to(torch.int64)
    kept = (bins >= 1) & (bins <= last)
    values = power.detach().to(device="cpu", dtype=torch.float64).flatten()[kept]
    count = torch.bincount(bins[kept], minlength=last + 1)[1:].to(torch.float64)
    total = torch.bincount(bins[kept], weights=values, minlength=last + 1)[1:]
    filled = count > 0
    k = torch.arange(1, last + 1, dtype=torch.float64, device="cpu")
    return k[filled].numpy(), (total[filled] / count[filled]).numpy(), count[filled].numpy()


def power_spectrum(x: Tensor, *, basis: Basis = DCT, dims: int = 2, channels: Channels = "mean") -> Spectrum:
    """Radial power spectrum of a batch, each plane centred.

    Parameters
    ----------
    x
        Samples (samples, channels, ..., *grid) or (samples, *grid), floating point.
    basis
        DCT (default), FOURIER, HAAR or another basis.
    dims
        Number of trailing spectral axes.
    channels
        ``"mean"`` over channels, or at each frequency the strongest, ``"max"``: see :meth:`SpectrumMeter.result`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SpectrumMeter` and its ``update``.

    Examples
    --------
    >>> import torch
    >>> white = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> bool(abs(power_spectrum(white).power.mean() - 1) < 0.02)
    True
    """
    check_state(x, dims=dims)
    check_channels(channels)
    return SpectrumMeter(x.shape[-dims:], basis=basis).update(x).result(channels=channels)


def least_squares(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted least squares of rows of `y` (..., n) on the columns of `x` (n, p).

    Returns
    -------
    Coefficients (..., p), weighted sum of squared residuals (...), R2 about the weighted mean (...).
    """
    root = np.sqrt(weight / weight.sum())
    solution = (y * root) @ np.linalg.pinv(x * root[:, None]).T
    residual = ((y - solution @ x.T) * root) ** 2
    mean = (y * root**2).sum(-1, keepdims=True)
    spread = (((y - mean) * root) ** 2).sum(-1)
    # White data have no spread to explain: R2 is 0 by convention.
    r2 = np.where(spread > 0, 1 - residual.sum(-1) / np.where(spread > 0, spread, 1), 0.0)
    return solution, residual.sum(-1), r2


def fit_weights(spectrum: Spectrum, weights: Weights) -> np.ndarray:
    """The weight of each bin: 1, its number of coefficients, or ``1 / omega``. ValueError for another name."""
    if weights == "uniform":
        return np.ones_like(spectrum.frequency)
    if weights == "count":
        return spectrum.count
    if weights == "log":
        return 1 / spectrum.frequency
    raise ValueError(f"weights = {weights!r} must be 'uniform', 'count' or 'log'")


def fit_band(spectrum: Spectrum, band: tuple[float, float] | None) -> np.ndarray:
    """Mask of the bins in `band`, both ends included; ValueError when a line cannot be fitted to them."""
    omega, power = spectrum.frequency, spectrum.power
    inside = np.ones(len(omega), dtype=bool)
    if band is not None:
        if len(band) != 2 or not band[0] < band[1]:
            raise ValueError(f"band = {band} must be (lowest, highest) with lowest < highest")
        low, high = band
        inside = (omega >= low) & (omega <= high)
    if inside.sum() < 2:
        raise ValueError(
            f"only {inside.sum()} bins to fit on grid {spectrum.shape} in band {band}; a line needs at least 2"
        )
    if (power[inside] <= 0).any():
        raise ValueError(
            "bins of power 0 have no logarithm; the data are constant or band-limited: pass band=(low, high)"
        )
    return inside


def fit_power_law(
    spectrum: Spectrum,
    *,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    frequency: Literal["effective", "centre"] = "effective",
) -> PowerLaw:
    """Least-squares power law of a measured spectrum: ``log P = log A - beta log omega``.

    Parameters
    ----------
    spectrum
        A measured table.
    band
        (lowest, highest) frequency to use, inclusive, in cycles per shorter side; None uses every bin. On photographs at
        512 pixels, A without the outermost bins (interpolation, compression, sensor noise) is 0.8 times that of all.
    weights
        ``"uniform"``: every bin alike, as published fits; most bins lie at high omega. ``"count"``: by number of
        coefficients, which leans on the highest frequencies even more: on the same photographs 3 times the A.
        ``"log"``: ``1 / omega``, every octave alike: 0.4 times the A. That they differ says that no power law holds
        exactly; the transition time differs far less (docs/spectra.md).
    frequency
        Where a bin of a measured spectrum lies: ``"effective"``, where the law itself has the bin's mean power (unbiased),
        or ``"centre"``, at k, as in published fits (see the module's text). Tables without a binning have only centres.

    Raises
    ------
    TypeError
        Not a Spectrum.
    ValueError
        Fewer than 2 bins in the band, or bins of power 0 (constant data); unknown `weights` or `frequency`.

    Examples
    --------
    >>> k = np.arange(1.0, 17.0)
    >>> law = fit_power_law(Spectrum(k, 50 * k**-2.0, np.ones(16), (32, 32)))
    >>> round(law.amplitude, 6), round(law.exponent, 6)
    (50.0, 2.0)
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum is {type(spectrum).__name__}; pass a Spectrum, e.g. power_spectrum(x)")
    if frequency not in ("effective", "centre"):
        raise ValueError(f"frequency = {frequency!r} must be 'effective' or 'centre'")
    inside = fit_band(spectrum, band)
    weight, y = fit_weights(spectrum, weights)[inside], np.log(spectrum.power[inside])
    omega = spectrum.frequency[inside]
    exponent = 0.0
    # Effective frequencies depend on the exponent weakly, so a few rounds find the pair that agrees.
    for _ in range(100):
        if frequency == "effective" and spectrum.binning is not None:
            omega = spectrum.binning.effective_frequency(exponent)[inside]
        x = np.log(omega)
        (intercept, slope), _, r2 = least_squares(np.stack([np.ones_like(x), x], 1), y, weight)
        previous, exponent = exponent, -float(slope)
        if abs(exponent - previous) < 1e-13 or spectrum.binning is None or frequency == "centre":
            break
    basis = "" if spectrum.binning is None else spectrum.binning.basis.name
    return PowerLaw(float(np.exp(intercept)), exponent, r2=float(r2), shape=spectrum.shape, basis=basis)


def fit_spectrum(
    latents: Tensor | Iterable[Tensor],
    *,
    basis: Basis = DCT,
    dims: int = 2,
    band: tuple[float, float] | None = None,
    weights: Weights = "uniform",
    channels: Channels = "mean",
) -> PowerLaw:
    """Measure and fit in one call: latents in, power law out.

    Parameters
    ----------
    latents
        One tensor (..., *grid), or an iterable of such tensors with one grid (a list, a generator), or of tuples that begin
        with one (a data loader with labels). Files, folders and data sets: :func:`spectral_pd.measure.measure`.
    basis, dims
        As :func:`power_spectrum`.
    band, weights
        As :func:`fit_power_law`.
    channels
        ``"mean"`` over channels, or at each frequency the strongest, ``"max"``: see :meth:`SpectrumMeter.result`.

    Raises
    ------
    ValueError, TypeError
        No tensors, mixed grids, NaN, integer tensors, constant data.

    Examples
    --------
    >>> import torch
    >>> fit_spectrum(torch.randn(8, 4, 32, 32)).shape
    (32, 32)
    """
    check_channels(channels)
    meter: SpectrumMeter | None = None
    for item in [latents] if isinstance(latents, Tensor) else latents:
        batch: Any = item[0] if isinstance(item, (tuple, list)) and item else item
        check_state(batch, "latents", dims)
        meter = meter or SpectrumMeter(batch.shape[-dims:], basis=basis)
        meter.update(batch)
    if meter is None:
        raise ValueError("latents is empty; pass at least one tensor")
    return fit_power_law(meter.result(channels=channels), band=band, weights=weights)


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
PRESETS: Mapping[str, PowerLaw] = MappingProxyType(
    {
        "flux": _FLUX,
        "z-image": replace(_FLUX, data=f"{_FLUX.data}, which Z-Image uses"),
        "wan": replace(
            _FLUX,
            amplitude=219.484718,
            exponent=2.422687,
            r2=0.999,
            shape=(90, 160),
            source=f"{_PAPER}; nor the grid, taken as that of 1280x720 video",
            data="VChitect videos through the WAN 2.1 autoencoder",
        ),
        "pixels": replace(
            _FLUX,
            amplitude=3745.46,
            exponent=2.4493,
            r2=1.0,
            shape=(512, 512),
            data="100K images of Aesthetics-Train-V2, pixels in [-1, 1]",
        ),
        **{
            name: replace(
                _FLUX,
                r2=None,
                kind="borrowed",
                source=f"FLUX.1's fit (DCT), not measured on {label} latents; borrowed November 2026",
                date="2026-11",
            )
            for name, label in (("flux2", "FLUX.2"), ("qwen-image", "Qwen-Image"), ("sd3", "Stable Diffusion 3"))
        },
    }
)
"""Power laws by model name: kind (measured, calibrated or borrowed), source, data, basis, date and grid of each."""
