r"""Measuring a radial power spectrum, fitting a power law, and the published fits (paper Eqs. 3-4, App. C).

``P(omega) = E|<x_0, phi_omega>|^2`` in an orthonormal basis, each sample centred (its spatial mean removed per channel),
averaged over samples, channels, frames and the radial bins ``[k - 1/2, k + 1/2)``, ``k = 1 .. floor(omega_max)``. ``omega`` is
in cycles per shorter side; a DCT index k is half a cycle. The power law is ``P = A omega^-beta``, least squares of
``log P`` on ``log omega`` over the bins.

A belongs to a grid: the same picture on a grid of ``m`` instead of ``n`` points has coefficients larger by ``sqrt(m / n)``,
so ``A' = A m / n`` at the same omega. :meth:`PowerLaw.at` does this; the grid travels with every spectrum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spectral_pd import ops
from spectral_pd.bases import DCT, Basis, check_basis, check_state, working_dtype
from spectral_pd.theory import check_shape, max_frequency

Kind = Literal["measured", "calibrated", "borrowed"]


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
        Where the numbers come from.

    Raises
    ------
    ValueError, TypeError
        Amplitude not positive and finite, exponent not finite, a bad shape or kind.

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
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            Not such a file.
        """
        data = _load_json(path, "PowerLaw")
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
        The grid it was measured on.

    Raises
    ------
    ValueError
        Lengths differ, frequencies not positive and increasing, power negative or not finite, empty.
    """

    frequency: np.ndarray
    power: np.ndarray
    count: np.ndarray
    shape: tuple[int, ...]

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
        """Power at `omega` by straight lines in log-log between bin centres, constant over the outer half bins.

        Returns the kind given: float, numpy array or tensor.

        Raises
        ------
        ValueError
            `omega` not positive, or more than half a cycle outside the table; power 0 in the table.
        """
        original, array = _frequencies(omega)
        low, high = self.frequency[0] - 0.5, self.frequency[-1] + 0.5
        if array.size and (array.min() < low or array.max() > high):
            raise ValueError(
                f"omega in [{array.min():g}, {array.max():g}] leaves the measured range [{low:g}, {high:g}] cycles; "
                f"measure on a larger grid, or fit a power law with fit_power_law(spectrum)"
            )
        if (self.power == 0).any():
            raise ValueError("the table has bins of power 0, which no frequency activates; measure more samples")
        return _like(np.exp(np.interp(np.log(array), np.log(self.frequency), np.log(self.power))), original)

    def at(self, shape: Sequence[int]) -> Spectrum:
        """The table of the same pictures on another grid: power times ``prod(shape') / prod(shape)``, same omega."""
        shape = check_shape(shape)
        return replace(self, power=self.power * (math.prod(shape) / math.prod(self.shape)), shape=shape)

    def save(self, path: str | Path) -> None:
        """Write JSON that :meth:`load` reads back exactly."""
        table = {name: getattr(self, name).tolist() for name in ("frequency", "power", "count")}
        Path(path).write_text(json.dumps({"type": "Spectrum", "shape": self.shape, **table}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Spectrum:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            Not such a file.
        """
        return cls(**_load_json(path, "Spectrum"))


class SpectrumMeter:
    """Streaming measurement: feed batches, read the spectrum at any time.

    Keeps one float64 map of summed power per coefficient, so memory does not grow with the stream and the order of
    batches does not matter beyond float64 rounding. Bins are formed once, in :meth:`result`.

    Parameters
    ----------
    shape
        The grid of every sample, e.g. (64, 64).
    basis
        DCT (default), FOURIER, HAAR or another :class:`~spectral_pd.bases.Basis`. DCT sees the picture continued by
        even reflection, Fourier continued periodically: the seam adds power at high omega along the axes. Haar
        coefficients are binned by the centre of their octave.

    Raises
    ------
    ValueError, TypeError
        A bad shape, or one whose shorter side has fewer than 2 samples (no radial bin).
    """

    def __init__(self, shape: Sequence[int], *, basis: Basis = DCT) -> None:
        self.shape = check_shape(shape)
        if max_frequency(self.shape) < 1:
            raise ValueError(f"shape = {self.shape} has no radial bin; the shorter side needs at least 2 samples")
        self.basis = check_basis(basis)
        self.planes = 0
        self._power = torch.zeros(self.shape, dtype=torch.float64)

    def update(self, batch: Tensor) -> SpectrumMeter:
        """Add samples of shape (..., *grid): every plane (batch item, channel, frame) is one sample of the field.

        Float16 and bfloat16 are transformed in float32, sums are float64. Returns self.

        Raises
        ------
        TypeError
            Integer or complex tensors, or no tensor.
        ValueError
            Another grid, an empty batch, NaN or infinity (the meter is left as it was).
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
        batch = batch.detach()
        if self.basis is DCT and ops.usable("power_map", batch, grids=(self.shape,)):
            power = ops.power_map(batch)[0]  # NaN and infinity spread over the whole map of their plane
            if not bool(torch.isfinite(power).all()):
                raise ValueError("batch contains NaN or infinity; clean the data first")
            self._power = self._power.to(power.device) + power
            self.planes += math.prod(batch.shape[:-2])
            return self
        planes = batch.to(working_dtype(batch.dtype)).reshape(-1, *self.shape)
        if not bool(torch.isfinite(planes).all()):
            raise ValueError("batch contains NaN or infinity; clean the data first")
        centred = planes - planes.mean(dim=tuple(range(1, dims + 1)), keepdim=True, dtype=torch.float64).to(
            planes.dtype
        )
        power = self.basis.forward(centred, dims=dims).to(torch.float64).square().sum(0)
        self._power = self._power.to(power.device) + power
        self.planes += planes.shape[0]
        return self

    def merge(self, other: SpectrumMeter) -> SpectrumMeter:
        """Add what another meter has seen. Returns self.

        Raises
        ------
        ValueError
            The other meter has another grid or basis.
        """
        if other.shape != self.shape or other.basis is not self.basis:
            raise ValueError(
                f"cannot merge a meter of grid {other.shape} in {other.basis} into {self.shape} in {self.basis}"
            )
        self._power = self._power + other._power.to(self._power.device)
        self.planes += other.planes
        return self

    def result(self) -> Spectrum:
        """The radial spectrum so far: mean power over planes and bins ``[k - 1/2, k + 1/2)``.

        Raises
        ------
        ValueError
            Nothing has been measured yet.
        """
        if self.planes == 0:
            raise ValueError("no samples yet; call update(batch) first")
        frequency, power, count = radial_bins(self._power / self.planes, self.basis.frequency(self.shape))
        return Spectrum(frequency, power, count * self.planes, self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later; tensors are copies."""
        return {
            "shape": self.shape,
            "basis": self.basis.name,
            "planes": self.planes,
            "power": self._power.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises
        ------
        ValueError
            The state is of another grid or basis.
        """
        if tuple(state["shape"]) != self.shape or state["basis"] != self.basis.name:
            raise ValueError(
                f"state is of grid {tuple(state['shape'])} in {state['basis']!r}, this meter of {self.shape} in "
                f"{self.basis.name!r}"
            )
        self.planes = int(state["planes"])
        self._power = state["power"].clone()


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
    k = torch.arange(1, last + 1, dtype=torch.float64)
    return k[filled].numpy(), (total[filled] / count[filled]).numpy(), count[filled].numpy()


def power_spectrum(x: Tensor, *, basis: Basis = DCT, dims: int = 2) -> Spectrum:
    """Radial power spectrum of a batch, each plane centred.

    Parameters
    ----------
    x
        Samples (..., *grid), floating point; every axis before the last `dims` is averaged over.
    basis
        DCT (default), FOURIER, HAAR or another basis.
    dims
        Number of trailing spectral axes.

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
    return SpectrumMeter(x.shape[-dims:], basis=basis).update(x).result()


def fit_power_law(spectrum: Spectrum, *, band: tuple[float, float] | None = None) -> PowerLaw:
    """Least-squares power law of a measured spectrum: ``log P = log A - beta log omega``, all bins weighted alike.

    Parameters
    ----------
    spectrum
        A measured table.
    band
        (lowest, highest) frequency to use, inclusive, in cycles per shorter side; None uses every bin. On photographs the
        choice moves A by up to 1.5x: the outermost bins carry interpolation, compression and sensor noise.

    Raises
    ------
    ValueError
        Fewer than 2 bins in the band, or bins of power 0 (constant data).
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum is {type(spectrum).__name__}; pass a Spectrum, e.g. power_spectrum(x)")
    omega, power = spectrum.frequency, spectrum.power
    if band is not None:
        low, high = band
        if not low < high:
            raise ValueError(f"band = {band} must be (lowest, highest) with lowest < highest")
        inside = (omega >= low) & (omega <= high)
        omega, power = omega[inside], power[inside]
    if omega.size < 2:
        raise ValueError(
            f"only {omega.size} bins to fit on grid {spectrum.shape} in band {band}; a line needs at least 2"
        )
    if (power <= 0).any():
        raise ValueError(
            "bins of power 0 have no logarithm; the data are constant or band-limited: pass band=(low, high)"
        )
    x, y = np.log(omega), np.log(power)
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (slope * x + intercept)
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1.0 - float((residual**2).sum()) / spread if spread > 0 else 0.0
    return PowerLaw(float(np.exp(intercept)), float(-slope), r2=r2, shape=spectrum.shape)


def fit_spectrum(
    latents: Tensor | Iterable[Tensor],
    *,
    basis: Basis = DCT,
    dims: int = 2,
    band: tuple[float, float] | None = None,
) -> PowerLaw:
    """Measure and fit in one call: latents in, power law out.

    Parameters
    ----------
    latents
        One tensor (..., *grid), or an iterable of such tensors with one grid (a list, a generator, a data loader).
    basis, dims
        As :func:`power_spectrum`.
    band
        As :func:`fit_power_law`.

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
    meter: SpectrumMeter | None = None
    for batch in [latents] if isinstance(latents, Tensor) else latents:
        check_state(batch, "latents", dims)
        meter = meter or SpectrumMeter(batch.shape[-dims:], basis=basis)
        meter.update(batch)
    if meter is None:
        raise ValueError("latents is empty; pass at least one tensor")
    return fit_power_law(meter.result(), band=band)


_PAPER = "arXiv 2605.18736, App. C"
_FLUX = PowerLaw(
    203.615097, 1.915461, 0.978, (128, 128), source=f"{_PAPER}: FLUX.1 autoencoder, 100K images of Aesthetics-Train-V2"
)
PRESETS: Mapping[str, PowerLaw] = MappingProxyType(
    {
        "flux": _FLUX,
        "z-image": replace(_FLUX, source=f"{_PAPER}: Z-Image uses the FLUX.1 autoencoder"),
        "wan": PowerLaw(
            219.484718,
            2.422687,
            0.999,
            (90, 160),
            source=f"{_PAPER}: WAN 2.1 autoencoder, VChitect videos; grid not stated there, taken as 1280x720 video",
        ),
        "pixels": PowerLaw(
            3745.46, 2.4493, 1.0, (512, 512), source=f"{_PAPER}: images in [-1, 1], 100K of Aesthetics-Train-V2"
        ),
        **{
            name: replace(_FLUX, r2=None, kind="borrowed", source=f"FLUX.1's fit, not measured on {label} latents")
            for name, label in (("flux2", "FLUX.2"), ("qwen-image", "Qwen-Image"), ("sd3", "Stable Diffusion 3"))
        },
    }
)
"""Published power laws by model name; each says whether it was measured, calibrated or borrowed, and from where."""
