r"""Orthonormal multi-resolution bases: DCT, Haar and Fourier as one idea, the isometry (paper App. A.2).

A basis is a NESTED family of orthonormal transforms, one for each grid: the coefficients of a coarse grid are the LOW
CORNER of the coefficients of every finer grid. Carrying a coarse picture into a fine one is then, per axis,

    ``U = C_m[:n]^T C_n``,   shape (m, n), n <= m,   ``U^T U = I``,

with ``C_n`` the orthogonal (n, n) matrix of the transform; several axes: the tensor product. The same picture on two
grids has orthonormal coefficients larger by ``r = sqrt(prod(fine sizes) / prod(coarse sizes))`` on the finer one, so
``r U x`` keeps a constant's value while ``U x`` keeps its energy.

====================  =========================================================  ============================
:data:`DCT`           orthonormal DCT-II (even reflection at the borders)        any n <= m
:data:`HAAR`          LL band in the corner, then LH, HL, HH of each level       m = 2^k n on each axis
:data:`FOURIER`       real Fourier basis with phases at pixel centres            any n <= m
====================  =========================================================  ============================

Coefficient arrays have the shape of the grid; the spectral axes are the last ``dims`` (default 2). A user's own basis
derives from :class:`Basis` (any nested family) or :class:`SeparableBasis` (one matrix per size).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs, ops
from spectral_pd.inputs import door, working_dtype

__all__ = [
    "BASES",
    "DCT",
    "FOURIER",
    "HAAR",
    "Basis",
    "CosineBasis",
    "FourierBasis",
    "HaarBasis",
    "SeparableBasis",
    "size_ratio",
    "verify_basis",
]


def size_ratio(coarse: Sequence[int], fine: Sequence[int]) -> float:
    """``r = sqrt(prod(fine) / prod(coarse))``, from the real integer sizes (never the nominal scale)."""
    return math.sqrt(math.prod(fine) / math.prod(coarse))


def corner(shape: Sequence[int]) -> tuple[Any, ...]:
    """Index of the low corner of size `shape` in the last axes of a coefficient array."""
    return (Ellipsis, *(slice(0, n) for n in shape))


def apply_matrix(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply `matrix` (p, n) into `axis` of `x` (size n).

    In float64 wherever somebody's setting may take digits from a product in float32: TF32 on CUDA, autocast (which leaves
    float64 alone), a lowered ``torch.set_float32_matmul_precision``. Devices without float64 (MPS) never see any.
    """
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    lowered = kind == "cuda" or cast or torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if lowered and kind != "mps" else x.dtype
    moved = x.to(dtype).movedim(axis, -1)
    return (moved @ matrix.to(dtype).to(x.device).T).movedim(-1, axis).to(x.dtype)


class Basis(ABC):
    """A nested family of orthonormal transforms on grids of any number of axes.

    A subclass gives :meth:`check`, :meth:`isometry`, :meth:`forward`, :meth:`inverse` and :meth:`frequency`; embedding
    and restriction follow from the isometry. The contract, tested for the three built-in bases: ``forward`` is
    orthonormal with ``inverse`` its transpose, and ``forward(embed(x))`` holds ``forward(x)`` in its low corner and
    zeros elsewhere.

    Examples
    --------
    >>> x = torch.randn(2, 8, 8, dtype=torch.float64)
    >>> fine = DCT.embed(x, (12, 16))
    >>> torch.allclose(DCT.forward(fine)[..., :8, :8], DCT.forward(x)), torch.allclose(DCT.restrict(fine, (8, 8)), x)
    (True, True)
    """

    name: str
    native = ""
    """The name under which the native operations know this basis; empty: they do not."""

    @abstractmethod
    def check(self, n_low: int, n_high: int) -> None:
        """Raise ValueError unless an axis of `n_low` samples can grow to `n_high`."""

    @abstractmethod
    def isometry(
        self, n_low: int, n_high: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The matrix U of shape (n_high, n_low), ``U^T U = I``, that carries a coarse axis into a fine one."""

    @abstractmethod
    def forward(self, x: Tensor, *, dims: int = 2) -> Tensor:
        """Coefficients of `x` (..., *grid) over its last `dims` axes; same shape, same type."""

    @abstractmethod
    def inverse(self, c: Tensor, *, dims: int = 2) -> Tensor:
        """The picture with coefficients `c`: the inverse, and the transpose, of :meth:`forward`."""

    @abstractmethod
    def frequency(self, shape: Sequence[int]) -> Tensor:
        """Radial frequency of every coefficient, in cycles per shorter side; float64, shape `shape`."""

    @door(shape=inputs.shape)
    def embed(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Carry `x` (..., *coarse) into the grid `shape`: ``U x``, same energy, zeros in the new band.

        Raises
        ------
        ValueError, TypeError
            A grid that this basis cannot reach, integer or complex input.
        """
        return self._resized(x, tuple(shape), transpose=False)

    @door(shape=inputs.shape)
    def restrict(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Low band of `x` (..., *fine) on the grid `shape`: ``U^T x``, the transpose of :meth:`embed`; errors as there."""
        return self._resized(x, tuple(shape), transpose=True)

    def reach(self, coarse: Sequence[int], fine: Sequence[int]) -> None:
        """Raise ValueError unless this basis can carry the grid `coarse` into the grid `fine`."""
        for n_low, n_high in zip(coarse, fine, strict=True):
            self.check(n_low, n_high)

    def _resized(self, x: Tensor, shape: tuple[int, ...], *, transpose: bool) -> Tensor:
        grid = tuple(inputs.state(x, "x", len(shape)).shape[-len(shape) :])
        self.reach(*((shape, grid) if transpose else (grid, shape)))
        if grid == shape:
            return x  # the identity, bit for bit
        if ops.usable("restrict" if transpose else "embed", x, basis=self.native, grids=(grid, shape)):
            return (ops.restrict if transpose else ops.embed)(x, shape, basis=self.native)
        y = x.to(working_dtype(x.dtype))
        for axis, size in zip(range(-len(shape), 0), shape, strict=True):
            if y.shape[axis] != size:
                y = self._carried(y, axis, size)
        return y.to(x.dtype)

    def _carried(self, x: Tensor, axis: int, size: int) -> Tensor:
        """``U x`` or ``U^T x`` along one axis."""
        low, high = sorted((x.shape[axis], size))
        u = self.isometry(low, high)
        return apply_matrix(u if size == high else u.T, x, axis)

    def nested(self, coarse: Sequence[int], fine: Sequence[int]) -> bool:
        """Whether the coefficients of grid `coarse` are the low corner of those of `fine`."""
        return True

    def __eq__(self, other: object) -> bool:
        """Bases of one class with the same attributes are one basis, also after a copy, a pickle or in another process."""
        if self is other or type(self) is not type(other):
            return self is other
        mine, theirs = vars(self), vars(other)
        return mine.keys() == theirs.keys() and all(_same(value, theirs[name]) for name, value in mine.items())

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        return self.name.upper()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return a is b or (type(a) is type(b) and bool(np.all(a == b)))


BASIS = inputs.instance(Basis, "DCT, HAAR, FOURIER or an instance of Basis")


@door(basis=BASIS, coarse=inputs.shape, fine=inputs.shape)
def verify_basis(basis: Basis, coarse: Sequence[int], fine: Sequence[int]) -> None:
    """Try on random float64 arrays every promise of :class:`Basis` that growing from `coarse` to `fine` relies on.

    For a `basis` of your own, on two grids such as two stages of a plan; the built-in ones keep them all (docs/bases.md).

    Raises
    ------
    ValueError, TypeError
        The first promise that is broken: growth, orthonormality, transpose, isometry, low corner, constants, frequency;
        or a grid that cannot grow. Not a basis.

    Examples
    --------
    >>> verify_basis(FOURIER, (5, 8), (9, 12))  # silent: every promise is kept
    """
    basis.reach(coarse, fine)
    dims = len(fine)
    generator = torch.Generator("cpu").manual_seed(0)
    options: Any = {"dtype": torch.float64, "device": "cpu"}
    x, y = (torch.randn((2, *fine), generator=generator, **options) for _ in range(2))
    low = torch.randn((2, *coarse), generator=generator, **options)

    def promise(name: str, actual: Tensor, expected: Tensor) -> None:
        if actual.shape != expected.shape:
            raise ValueError(f"{basis}: {name}; got shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        error = float((actual - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        if not error < 1e-9:
            raise ValueError(f"{basis}: {name}, from {coarse} to {fine}; relative error {error:.2g}")

    c = basis.forward(x, dims=dims)
    promise("inverse(forward(x)) must be x", basis.inverse(c, dims=dims), x)
    promise("forward must keep energy (orthonormal)", c.square().sum(), x.square().sum())
    promise("inverse must be the transpose of forward", (c * y).sum(), (x * basis.inverse(y, dims=dims)).sum())
    for n_low, n_high in zip(coarse, fine, strict=True):
        u = basis.isometry(n_low, n_high)
        promise("isometry must satisfy U^T U = I", u.T @ u, torch.eye(n_low, **options))
    grown = basis.embed(low, fine)
    promise("restrict must undo embed", basis.restrict(grown, coarse), low)
    promise("restrict must be the transpose of embed", (grown * x).sum(), (low * basis.restrict(x, coarse)).sum())
    if basis.nested(coarse, fine):
        expected = torch.zeros_like(x)
        expected[corner(coarse)] = basis.forward(low, dims=dims)
        promise("coefficients of the coarse grid must be the low corner", basis.forward(grown, dims=dims), expected)
    ones = torch.ones((1, *coarse), **options)
    constant = size_ratio(coarse, fine) * basis.embed(ones, fine)
    promise("a constant picture must stay one", constant, torch.ones_like(constant))
    frequency = basis.frequency(fine)
    if tuple(frequency.shape) != fine or not bool(torch.isfinite(frequency).all()) or float(frequency.min()) < 0:
        raise ValueError(f"{basis}: frequency must give one number, at least 0, for each coefficient of {fine}")


LONG = 2048
"""Axes longer than this take a fast transform where there is one: the matrix of 44,100 samples would have 15.6 GB."""


class SeparableBasis(Basis):
    """A basis given by one orthogonal matrix per axis size, nested by rows: ``U = C_m[:n]^T C_n``.

    A subclass gives :meth:`matrix` and :meth:`axis_frequency`; matrices are built in float64 once per size and cached.

    Examples
    --------
    >>> class Cosines(SeparableBasis):
    ...     name = "my dct"
    ...     def matrix(self, n):
    ...         return DCT.matrix(n)
    ...     def axis_frequency(self, n):
    ...         return DCT.axis_frequency(n)
    >>> torch.equal(Cosines().isometry(4, 6), DCT.isometry(4, 6))
    True
    """

    @abstractmethod
    def matrix(self, n: int) -> Tensor:
        """The orthogonal (n, n) float64 transform matrix ``C_n``; row k is basis function k, low frequencies first."""

    @abstractmethod
    def axis_frequency(self, n: int) -> Tensor:
        """Frequency of each of the n basis functions, in cycles per axis; float64, shape (n,)."""

    def check(self, n_low: int, n_high: int) -> None:
        if not 1 <= n_low <= n_high:
            raise ValueError(f"{self.name} basis: an axis of {n_low} cannot grow to {n_high}; sizes must not decrease")

    def isometry(
        self, n_low: int, n_high: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        inputs.axis(n_low, n_high)
        self.check(n_low, n_high)
        # A copy: the caller may write into it, the cache must not change.
        return _separable_isometry(self, n_low, n_high).to(dtype=dtype, device=device, copy=True)

    def forward(self, x: Tensor, *, dims: int = 2) -> Tensor:
        return self._transform(x, dims, transpose=False)

    def inverse(self, c: Tensor, *, dims: int = 2) -> Tensor:
        return self._transform(c, dims, transpose=True)

    def _transform(self, x: Tensor, dims: int, *, transpose: bool) -> Tensor:
        y = inputs.state(x, "x", dims).to(working_dtype(x.dtype))
        for axis in range(-dims, 0):
            y = self._along(y, axis, transpose=transpose)
        return y.to(x.dtype)

    def _along(self, x: Tensor, axis: int, *, transpose: bool) -> Tensor:
        if x.shape[axis] > LONG:
            dtype = x.dtype if x.device.type == "mps" else torch.float64
            fast = self.fast(x.movedim(axis, -1).to(dtype), transpose=transpose)
            if fast is not None:
                return fast.movedim(-1, axis).to(x.dtype)
        matrix = _cached_matrix(self, x.shape[axis])
        return apply_matrix(matrix.T if transpose else matrix, x, axis)

    def fast(self, x: Tensor, *, transpose: bool) -> Tensor | None:
        """The transform along the last axis, longer than :data:`LONG`, in n log n; None where there is only the matrix."""
        return None

    def _carried(self, x: Tensor, axis: int, size: int) -> Tensor:
        if max(x.shape[axis], size) <= LONG:
            return super()._carried(x, axis, size)
        c = self._along(x, axis, transpose=False).movedim(axis, -1)[..., :size]
        c = torch.nn.functional.pad(c, (0, size - c.shape[-1]))
        return self._along(c.movedim(-1, axis), axis, transpose=True)

    @door(shape=inputs.shape)
    def frequency(self, shape: Sequence[int]) -> Tensor:
        return radius([self.axis_frequency(n).cpu() * (min(shape) / n) for n in shape])


def radius(axes: Sequence[Tensor]) -> Tensor:
    """``sqrt(f_1^2 + f_2^2 + ...)`` over the outer product of the given axis frequencies."""
    squares = [axis.square().reshape(-1, *[1] * (len(axes) - 1 - i)) for i, axis in enumerate(axes)]
    return torch.stack(torch.broadcast_tensors(*squares)).sum(0).sqrt()


# Matrices and isometries are pure functions of their sizes; the cache only saves rebuilding them in every call. They outlive
# the call that makes them: ordinary CPU tensors, whatever default device or inference mode it runs under.
@lru_cache(maxsize=64)
def _cached_matrix(basis: SeparableBasis, n: int) -> Tensor:
    with torch.inference_mode(False):
        return basis.matrix(n).cpu()


@lru_cache(maxsize=64)
def _separable_isometry(basis: SeparableBasis, n_low: int, n_high: int) -> Tensor:
    with torch.inference_mode(False):
        return _cached_matrix(basis, n_high)[:n_low].T @ _cached_matrix(basis, n_low)


def _grid(n: int) -> Tensor:
    """Pixel centres (j + 1/2) / n of an axis, float64."""
    return (torch.arange(n, dtype=torch.float64, device="cpu") + 0.5) / n


class CosineBasis(SeparableBasis):
    """Orthonormal DCT-II: row k is ``sqrt(2/n) cos(pi k (j + 1/2) / n)``, row 0 is ``1 / sqrt(n)``.

    Even reflection at the borders, so no seam. Index k is half a cycle: frequency k/2 per axis. Any ``n_low <= n_high``.

    Examples
    --------
    >>> CosineBasis().axis_frequency(4).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """

    name = native = "dct"

    def matrix(self, n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64, device="cpu")
        c = math.sqrt(2 / n) * torch.cos(math.pi * k[:, None] * _grid(n))
        c[0] = 1 / math.sqrt(n)
        return c

    def axis_frequency(self, n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float64, device="cpu") / 2

    def fast(self, x: Tensor, *, transpose: bool) -> Tensor:
        # Makhoul 1980: c_k = sqrt(2/n) Re(exp(-i pi k / 2n) V_k), V the Fourier transform of x_0, x_2, ..., x_3, x_1.
        n = x.shape[-1]
        numbers = torch.arange(n, device=x.device)
        order = torch.cat([numbers[::2], numbers[1::2].flip(0)])
        k = torch.arange(n, dtype=x.dtype, device=x.device)
        turn = torch.polar(torch.full_like(k, math.sqrt(2 / n)), -math.pi * k / (2 * n))
        turn[0] /= math.sqrt(2)
        if not transpose:
            return (turn * torch.fft.fft(x[..., order])).real
        mirrored = torch.nn.functional.pad(x[..., 1:].flip(-1), (1, 0))
        return torch.fft.ifft(torch.complex(x, -mirrored) / turn).real[..., order.argsort()]


class FourierBasis(SeparableBasis):
    """Real orthonormal Fourier basis with phases at pixel centres.

    Rows: the constant, then ``sqrt(2/n) sin(2 pi k (j + 1/2) / n)`` and ``sqrt(2/n) cos(...)`` for k = 1, 2, ...; for
    even n the last row is the Nyquist sine ``(-1)^j / sqrt(n)`` (the Nyquist cosine is zero at the centres). With the
    sine before its cosine the coarse Nyquist sine is row n - 1 on every finer grid as well, so this basis is nested by
    rows like the others: unit noise variance everywhere, nothing lost at Nyquist, constants constant at every parity,
    and pictures do not move. Periodic at the borders. Any ``n_low <= n_high``.

    Examples
    --------
    >>> FourierBasis().axis_frequency(6).tolist()  # constant, sin 1, cos 1, sin 2, cos 2, Nyquist's sine
    [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    """

    name = "fourier"

    def matrix(self, n: int) -> Tensor:
        rows = torch.arange(n, device="cpu")
        k = self.axis_frequency(n)
        angle = 2 * math.pi * k[:, None] * _grid(n)
        c = math.sqrt(2 / n) * torch.where((rows % 2 == 1)[:, None], angle.sin(), angle.cos())
        c[0] = 1 / math.sqrt(n)
        if n % 2 == 0:
            c[-1] = (1 - 2 * (rows % 2)).to(c.dtype) / math.sqrt(n)
        return c

    def axis_frequency(self, n: int) -> Tensor:
        return ((torch.arange(n, dtype=torch.float64, device="cpu") + 1) / 2).floor()

    def fast(self, x: Tensor, *, transpose: bool) -> Tensor:
        # c_2k - i c_2k-1 = sqrt(2/n) exp(-i pi k / n) X_k, X the Fourier transform of x; the mean and Nyquist's sine alone.
        n = x.shape[-1]
        k = torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device)
        turn = torch.polar(torch.full_like(k, math.sqrt(2 / n)), -math.pi * k / n)
        turn[0] /= math.sqrt(2)
        if n % 2 == 0:
            turn[-1] /= math.sqrt(2)
        if not transpose:
            y = turn * torch.fft.rfft(x)
            return torch.stack([-y.imag, y.real], -1).flatten(-2)[..., 1 : n + 1]
        pairs = torch.nn.functional.pad(x, (1, 1 - n % 2)).unflatten(-1, (-1, 2))
        return torch.fft.irfft(torch.complex(pairs[..., 1], -pairs[..., 0]) / turn, n=n)


class HaarBasis(Basis):
    """Orthonormal Haar wavelets in the packed (Mallat) layout, as many levels as all spectral axes can be halved.

    One level per axis: ``low = (a + b) / sqrt(2)``, ``high = (a - b) / sqrt(2)`` of each pair; low bands fill the lower
    half of the axis, high bands the upper half, and the next level acts on the all-low (LL) corner. The isometry repeats
    every sample ``2^k`` times and divides by ``2^(k/2)``. ``n_high = 2^k n_low`` on each axis. In the packed layout the
    low corner is the coarse grid when every axis grows by the same ``2^k``. A wavelet has no single frequency;
    :meth:`frequency` gives the centre of its dyadic band.

    Examples
    --------
    >>> HaarBasis().isometry(2, 4).round(decimals=3).tolist()
    [[0.707, 0.0], [0.707, 0.0], [0.0, 0.707], [0.0, 0.707]]
    """

    name = native = "haar"

    def check(self, n_low: int, n_high: int) -> None:
        quotient, rest = divmod(n_high, n_low) if n_low >= 1 else (0, 1)
        if rest or quotient < 1 or quotient & (quotient - 1):
            raise ValueError(
                f"haar basis: an axis of {n_low} cannot grow to {n_high}; the ratio must be a power of 2 "
                f"(use basis=DCT or FOURIER for other ratios)"
            )

    def isometry(
        self, n_low: int, n_high: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        inputs.axis(n_low, n_high)
        self.check(n_low, n_high)
        repeat = n_high // n_low
        eye = torch.eye(n_low, dtype=torch.float64, device=device)
        return (eye.repeat_interleave(repeat, dim=0) / math.sqrt(repeat)).to(dtype)

    def nested(self, coarse: Sequence[int], fine: Sequence[int]) -> bool:
        return len({n_high / n_low for n_low, n_high in zip(coarse, fine, strict=True)}) == 1

    @staticmethod
    def levels(shape: Sequence[int]) -> int:
        """How often every axis of `shape` can be halved."""
        return min((n & -n).bit_length() - 1 for n in shape)

    def _bands(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Sizes of the all-low corner that each level acts on, `shape` itself first."""
        return [tuple(n >> level for n in shape) for level in range(self.levels(shape))]

    def forward(self, x: Tensor, *, dims: int = 2) -> Tensor:
        c = inputs.state(x, "x", dims).to(working_dtype(x.dtype)).clone()
        for sizes in self._bands(c.shape[-dims:]):
            band = c[corner(sizes)]
            for axis in range(-dims, 0):
                a, b = band.unflatten(axis, (-1, 2)).unbind(axis)
                band = torch.cat((a + b, a - b), axis) * math.sqrt(0.5)
            c[corner(sizes)] = band
        return c.to(x.dtype)

    def inverse(self, c: Tensor, *, dims: int = 2) -> Tensor:
        x = inputs.state(c, "c", dims).to(working_dtype(c.dtype)).clone()
        for sizes in reversed(self._bands(x.shape[-dims:])):
            band = x[corner(sizes)]
            for axis in range(-dims, 0):
                low, high = band.chunk(2, axis)
                band = torch.stack((low + high, low - high), axis).flatten(axis - 1, axis) * math.sqrt(0.5)
            x[corner(sizes)] = band
        return x.to(c.dtype)

    @door(shape=inputs.shape)
    def frequency(self, shape: Sequence[int]) -> Tensor:
        rest = [n >> self.levels(shape) for n in shape]
        # The remaining LL band reaches from 0 to its Nyquist, half its size; centre: a quarter.
        value = radius([torch.full((n,), min(rest) / 4, dtype=torch.float64, device="cpu") for n in shape])
        if max(rest) == 1:
            value[(0,) * len(shape)] = 0.0  # a single LL sample is the mean
        for sizes in reversed(self._bands(shape)):
            # Low bands reach from 0 to half the Nyquist, high bands from there to the Nyquist.
            halves = torch.tensor([0.25, 0.75], dtype=torch.float64, device="cpu") * (min(sizes) / 2)
            band = radius([halves.repeat_interleave(n // 2) for n in sizes])
            coarse = corner([n // 2 for n in sizes])
            band[coarse] = value[coarse]
            value[corner(sizes)] = band
        return value


DCT = CosineBasis()
"""Orthonormal DCT-II, the default: any ratio, no seam at the borders (:class:`CosineBasis`)."""
HAAR = HaarBasis()
"""Orthonormal Haar wavelets: ratios that are powers of 2, local (:class:`HaarBasis`)."""
FOURIER = FourierBasis()
"""Real Fourier basis with phases at pixel centres: any ratio, periodic at the borders (:class:`FourierBasis`)."""
BASES: dict[str, Basis] = {basis.name: basis for basis in (DCT, HAAR, FOURIER)}
"""The built-in bases by name: ``"dct"``, ``"haar"``, ``"fourier"``."""
