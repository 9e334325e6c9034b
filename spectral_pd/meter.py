r"""The meter: radial power of any number of samples in one pass, with its bootstrap.

Each plane is centred (its mean removed), transformed, squared and summed over radial bins, per channel. Power is linear in
these sums, so meters of parts of the data add up, over batches and over processes.

Uncertainty is a Poisson bootstrap over samples that needs one pass: replicate b counts sample i ``w_ib ~ Poisson(1)`` times,
with ``w_ib`` a function of (seed, i, b) alone (Philox4x32-10), so batches, chunks and processes do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from spectral_pd import inputs, ops
from spectral_pd.bases import BASIS, DCT, Basis
from spectral_pd.inputs import door, spectra, working_dtype
from spectral_pd.philox import WORD, philox4x32
from spectral_pd.power import Binning, Spectrum, bin_numbers, sectors
from spectral_pd.theory import max_frequency

__all__ = ["Replicates", "SpectrumMeter", "power_spectrum"]

Channels = Literal["mean", "max"]
channels_word = inputs.choice("mean", "max")
# A meter outlives the block it is made or fed in: its tables are ordinary tensors.
_ordinary = torch.inference_mode(False)

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
    inverted through the Poisson distribution. `index` are the samples' global numbers, int64 (n,), at least 0; equal ones get
    equal weights. `seed` has 64 bits. Returns float64 of shape (replicates, n).
    """
    index = index.to(torch.int64)
    blocks = torch.arange((replicates + 3) // 4, device=index.device)[:, None]
    key = (torch.tensor(seed & WORD, device=index.device), torch.tensor((seed >> 32) & WORD, device=index.device))
    words = philox4x32((index & WORD, (index >> 32) & WORD, blocks, _BOOTSTRAP_STREAM), key)
    counts = torch.bucketize(torch.stack(words, 1), _POISSON.to(index.device), right=True)
    return counts.flatten(0, 1)[:replicates].to(torch.float64)


def radial_sums(planes: Tensor, basis: Basis, bins: Tensor, columns: int) -> Tensor:
    """Power of every plane summed over bins: ``out[p, j] = sum over coefficients c with bins[c] = j of |c|^2``.

    `planes` are (P, *grid), real floating point; `bins` int64 (prod(grid),), the column of each coefficient; the sums float64
    (P, columns), on the device of `planes`. Each plane is centred before the transform (a large mean would cost digits in
    every bin). Transforms run in float32 or better, in blocks of about a megabyte, which stay in cache.
    """
    dims = planes.ndim - 1
    axes = tuple(range(1, dims + 1))
    sums = torch.zeros((planes.shape[0], columns), dtype=torch.float64, device=planes.device)
    block = planes.shape[0] if planes.is_cuda else max(1, 2**18 // bins.numel())
    native = basis == DCT and ops.usable("power_map", planes, grids=(planes.shape[1:],))
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
    does not grow with the stream and the order of batches does not matter beyond float64 rounding. Meters of parts of the
    data add up (:meth:`merge`, :meth:`sync`).

    Parameters
    ----------
    shape
        The grid of every sample, e.g. (64, 64), at least 2 a side. Another grid is refused, not binned along: the same
        picture has another power on it, and averages over different content; use one meter a grid.
    basis
        DCT (default), FOURIER, HAAR or another :class:`~spectral_pd.bases.Basis`. DCT sees the picture continued by
        even reflection, Fourier continued periodically: the seam adds power at high omega along the axes. Haar
        coefficients are binned by the centre of their octave.
    replicates
        Number B of bootstrap replicates for :meth:`replicates`, e.g. 200; 0 keeps none.
    seed
        64-bit seed of the bootstrap.

    Examples
    --------
    >>> meter = SpectrumMeter((32, 32))
    >>> for _ in range(4):
    ...     meter = meter.update(torch.randn(8, 3, 32, 32))
    >>> abs(float(np.mean(meter.result().power)) - 1) < 0.1  # white noise has power 1
    True
    """

    @_ordinary
    @torch.no_grad()
    def __init__(self, shape: Sequence[int], *, basis: Basis = DCT, replicates: int = 0, seed: int = 0) -> None:
        self.shape = spectra.binned_shape(shape, "shape")
        replicates, self.seed = spectra.replicates(replicates, "replicates"), inputs.integer(seed, "seed")
        self.basis = BASIS(basis, "basis")
        self.samples = 0
        self.channels: int | None = None
        bins, sector = bin_numbers(basis.frequency(self.shape)), sectors(basis, self.shape)
        last = math.floor(max_frequency(self.shape))
        self._layout = (int(sector.max()) + 1, last)
        self._columns = math.prod(self._layout)
        # One column more, for the mean and for what lies beyond omega_max in the corners.
        self._bins = torch.where(bins >= 1, sector * last + bins - 1, self._columns).flatten()
        self._frames = 0
        self._counted = False
        sizes = {
            "power": (0, self._columns),
            "replicate_power": (replicates, self._columns),
            "replicate_weight": (replicates,),
        }
        self._sums = {name: torch.zeros(size, dtype=torch.float64, device="cpu") for name, size in sizes.items()}

    @property
    def bootstrap(self) -> int:
        """Number of bootstrap replicates kept."""
        return len(self._sums["replicate_weight"])

    @property
    def planes(self) -> int:
        """Number of planes measured: samples times channels times frames."""
        return self._frames * (self.channels or 0)

    @_ordinary
    @torch.no_grad()
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

        A batch that is refused (another grid or number of channels, NaN) leaves the meter as it was.
        """
        spectra.measured_batch(batch, self.shape, self.channels)
        dims = len(self.shape)
        samples = batch.shape[0] if batch.ndim > dims else 1
        channels = batch.shape[1] if batch.ndim > dims + 1 else 1
        numbers = self._numbers(index, samples)
        planes = batch.detach().reshape(samples, channels, -1, *self.shape)
        frames = planes.shape[2]
        total, each = self._tables(planes)
        spectra.summed(total, planes)
        sums = {"power": total}
        if self.bootstrap:
            weights = poisson_weights(numbers, self.bootstrap, seed=self.seed).to(batch.device)
            sums |= {"replicate_power": weights @ each, "replicate_weight": weights.sum(1) * frames}
        # Also from the CPU, where a loaded state lies: a run that goes on must round like one that never stopped.
        self._add(sums, batch.device)
        self.samples += samples
        self._frames += samples * frames
        self._counted |= index is None
        return self

    def _add(self, sums: Mapping[str, Tensor], device: torch.device) -> None:
        """Add to the tables, which go to `device`; the first data say how many channels there are."""
        if self.channels is None:
            self.channels = len(sums["power"])
            self._sums["power"] = torch.zeros_like(sums["power"])
        for name, table in sums.items():
            self._sums[name] = self._sums[name].to(device) + table.to(device)

    def _tables(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Binned power of planes (samples, channels, frames, *grid), frames summed: a table a channel (summed over
        samples), and for the bootstrap a table a sample (mean over channels; empty without replicates)."""
        self._bins = self._bins.to(planes.device)
        columns = self._columns + 1
        if not self.bootstrap and self.basis == DCT and ops.usable("power_map", planes, grids=(self.shape,)):
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
        if isinstance(index, Integral):
            numbers = torch.arange(int(index), int(index) + samples, device="cpu")
        else:
            numbers = index if isinstance(index, Tensor) else torch.as_tensor(index, device="cpu")
        if numbers.shape != (samples,) or numbers.is_floating_point() or bool((numbers < 0).any()):
            found = f"got {index!r} for a batch of {samples}"
            raise ValueError(f"index must be an int or {samples} ints, one for each sample, at least 0; {found}")
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
            "replicates": self.bootstrap,
            "seed": self.seed,
            "channels": self.channels,
        }

    def _check_numbered(self, others: bool) -> None:
        if self.bootstrap and (self._counted or others):
            raise ValueError(
                "bootstrap weights come from global sample numbers, and meters that counted for themselves both began at "
                "0: pass update(batch, index=...) with the samples' places in the whole data set, or use replicates=0"
            )

    @_ordinary
    @torch.no_grad()
    def merge(self, other: SpectrumMeter) -> SpectrumMeter:
        """Add what another meter has seen, one with the same settings; with a bootstrap both were told their samples' numbers.
        Returns self."""
        self._check_same(other._settings(), "merge")
        if self.samples and other.samples:
            self._check_numbered(other._counted)
        if other.channels is not None:
            self._add(other._sums, (other if self.channels is None else self)._sums["power"].device)
        self.samples += other.samples
        self._frames += other._frames
        self._counted |= other._counted
        return self

    @_ordinary
    @torch.no_grad()
    def sync(self, group: dist.ProcessGroup | None = None) -> SpectrumMeter:
        """A new meter with the sum over all processes of `group` (default: the world); this one is left as it was.

        Every process calls it, those without data too. One all-reduce of a few kilobytes (gloo or nccl). Without an
        initialised process group the result is a copy. ValueError where :meth:`merge` has it.
        """
        total = SpectrumMeter(self.shape, basis=self.basis, replicates=self.bootstrap, seed=self.seed)
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
        parts = {**self._sums, "seen": torch.tensor([self.samples, self._frames], dtype=torch.float64)}
        if self.channels is None:
            parts["power"] = torch.zeros((known[0], self._columns), dtype=torch.float64)
        nccl = dist.get_backend(group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        flat = torch.cat([part.to(device).flatten() for part in parts.values()])
        dist.all_reduce(flat, group=group)
        sums = flat.to(self._sums["power"].device).split([part.numel() for part in parts.values()])
        for (name, part), piece in zip(parts.items(), sums, strict=True):
            parts[name] = piece.reshape(part.shape)
        total.samples, total._frames = (int(v) for v in parts.pop("seen"))
        total.channels, total._sums = known[0], parts
        total._counted = any(counted for _, counted in everyone)
        return total

    @door(channels=channels_word)
    def result(self, *, channels: Channels = "mean") -> Spectrum:
        """The radial spectrum so far: mean power over samples, frames and bins ``[k - 1/2, k + 1/2)``.

        Parameters
        ----------
        channels
            ``"mean"`` over channels, as published fits; ``"max"``, at each frequency the power of the channel that has most
            there. More power activates earlier, so a plan made from the maximum grows as early as the first channel needs
            it: larger t, slower, and delta bounds every channel instead of their average.
        """
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
        """The bootstrap replicates of :meth:`result`; ValueError where none were asked for, or they have nothing to count."""
        self._measured()
        if not self.bootstrap:
            raise ValueError("this meter keeps no bootstrap; make it with SpectrumMeter(shape, replicates=200)")
        weight = self._sums["replicate_weight"]
        full = weight > 0  # with one or two samples a replicate may have drawn none
        if int(full.sum()) < 2:
            raise ValueError(f"{self.samples} samples give no bootstrap spread; measure more samples")
        rows = self._sums["replicate_power"][full] / weight[full, None]
        counts = self._counts().sum(0)
        power = rows.unflatten(1, self._layout).sum(1).cpu().numpy()[:, counts > 0] / counts[counts > 0]
        # Var(sum_i w_i m_i) = sum m_i^2 for Poisson(1) weights w of clusters of m_i planes: Kish's effective number.
        spread = float(weight.var(correction=0)) or float("inf")
        return Replicates(power, self._directions(rows), min(float(self.samples), self._frames**2 / spread))

    def _measured(self) -> Tensor:
        """Power summed over coefficients, mean over samples and frames: (channels, columns)."""
        if self.samples == 0:
            raise ValueError("no samples yet; call update(batch) first")
        return self._sums["power"] / self._frames

    def _counts(self) -> np.ndarray:
        """How many coefficients each direction and bin holds; no direction comes first: (1 + axes, bins)."""
        return torch.bincount(self._bins.cpu(), minlength=self._columns + 1)[:-1].reshape(self._layout).numpy()

    def _table(self, sums: Tensor, planes: int) -> Spectrum:
        counts = self._counts().sum(0)
        filled = counts.nonzero()[0]
        power = sums.unflatten(0, self._layout).sum(0).cpu().numpy()[filled] / counts[filled]
        return Spectrum(filled + 1, power, counts[filled] * float(planes), self.shape, Binning(self.basis, self.shape))

    def _directions(self, rows: Tensor) -> np.ndarray:
        """(rows, axes, K) mean power in the directional sectors."""
        counts = self._counts()
        filled = counts.sum(0) > 0
        return rows.unflatten(1, self._layout).cpu().numpy()[:, 1:, filled] / counts[1:, filled]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later; tensors are copies on the CPU. ``torch.save`` takes it."""
        return {
            **self._settings(),
            "samples": self.samples,
            "frames": self._frames,
            "counted": self._counted,
            **{name: table.cpu().clone() for name, table in self._sums.items()},
        }

    @_ordinary
    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; ValueError where it is of other settings, or incomplete."""
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(f"state lacks {missing}; pass what SpectrumMeter.state_dict() returned")
        settings = {name: state[name] for name in ("basis", "replicates", "seed")}
        self._check_same({"shape": tuple(state["shape"]), **settings}, "load the state")
        self.channels, self.samples = state["channels"], int(state["samples"])
        self._frames, self._counted = int(state["frames"]), bool(state["counted"])
        self._sums = {name: state[name].clone() for name in self._sums}


@door(channels=channels_word)
def power_spectrum(x: Tensor, *, basis: Basis = DCT, dims: int = 2, channels: Channels = "mean") -> Spectrum:
    """Radial power spectrum of a batch, each plane centred.

    Parameters
    ----------
    x
        Samples (samples, channels, ..., *grid) or (samples, *grid), floating point.
    basis, channels
        As :class:`SpectrumMeter` and its :meth:`~SpectrumMeter.result`.
    dims
        Number of trailing spectral axes.

    Examples
    --------
    >>> import torch
    >>> white = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> bool(abs(power_spectrum(white).power.mean() - 1) < 0.02)
    True
    """
    inputs.state(x, "x", dims)
    if dims == 2:
        spectra.planes_last(x, "x")
    return SpectrumMeter(x.shape[-dims:], basis=basis).update(x).result(channels=channels)
