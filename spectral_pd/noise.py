r"""The white field, addressed by coefficient: the same number at the same frequency on every grid and device.

Coefficient ``(a, u, v)`` of plane ``p`` of batch item ``i`` is a standard normal computed from nothing but its address by
Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the Box-Muller transform:

    key       64-bit integer of item i
    counter   ``(v >> 2,  u | a << 16,  p,  transition | LAYOUT << 24)``
    lane      ``v & 3`` of ``R(x) cos(y), R(x) sin(y), R(z) cos(w), R(z) sin(w)``

with ``x, y, z, w`` the four output words, ``R(x) = sqrt(-2 ln((x + 1/2) / 2^32))`` and angles ``2 pi y / 2^32``. ``u, v`` are
row and column of the coefficient in the basis' layout (:mod:`spectral_pd.bases`), ``a`` the index on a third spectral
axis, ``p`` counts the axes between batch and grid (``c T + t`` for video). Since bases are nested by their low corner,
the field of a coarse grid IS the restriction of the field of a finer one; any batch size, chunk or thread count sees the
same numbers. Radii reach 6.7 standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral_pd import inputs, ops
from spectral_pd.bases import BASIS, DCT, Basis
from spectral_pd.inputs import door, working_dtype
from spectral_pd.philox import WORD, philox4x32

LAYOUT = 1
"""Version of the addressing above, part of what "same seed" means; a change of layout is a change of this number."""


def _box_muller(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Four standard normals (last axis) from four 32-bit words, in float64."""
    x, y, z, w = (word.to(torch.float64) for word in words)
    turn = 2 * math.pi / 2**32
    r0, r1 = (torch.sqrt(-2 * torch.log((u + 0.5) / 2**32)) for u in (x, z))
    return torch.stack((r0 * (turn * y).cos(), r0 * (turn * y).sin(), r1 * (turn * w).cos(), r1 * (turn * w).sin()), -1)


def _root(source: int | torch.Generator) -> int:
    """64-bit key of one source: the integer itself, or one draw from a generator."""
    if isinstance(source, torch.Generator):
        limits = torch.iinfo(torch.int64)
        draw = torch.randint(limits.min, limits.max, (1,), generator=source, dtype=torch.int64, device=source.device)
        return int(draw)
    return (int(source) + 2**63) % 2**64 - 2**63


@dataclass(frozen=True, init=False)
class NoiseField:
    """A white Gaussian field defined on every grid at once; rendering it costs memory, naming it does not.

    A coarse grid's field is the restriction of a finer one's by construction, whichever order they are rendered in. The
    same int seed gives the same field on CPU and CUDA; a CPU generator does too, whatever the compute device, while a
    CUDA generator draws another key, as in torch itself.

    Parameters
    ----------
    source
        ``int``: item i of a batch has key ``source + i``, so item i equals item 0 of ``NoiseField(source + i)``.
        ``torch.Generator``: one 64-bit draw, made now, is the key of item 0; item i adds i. A list of ints or generators:
        one an item; item i equals a batch of one from ``source[i]``.
    basis
        The basis whose coefficients are white; use the one the state grows in.
    transition
        0 (default) is the coupled field; k in 1 .. 65535 the independent field of the k-th transition.

    Raises
    ------
    TypeError
        Any other source.
    ValueError
        An empty list, a transition out of range.

    Examples
    --------
    >>> import torch
    >>> field = NoiseField(0)
    >>> fine = field.on((1, 3, 16, 16))
    >>> coarse = field.on((1, 3, 8, 8))
    >>> torch.allclose(DCT.restrict(fine, (8, 8)), coarse, atol=1e-5)
    True
    """

    keys: tuple[int, ...]
    """Signed 64-bit root keys: one for the whole batch (item i adds i), or one an item when ``per_item``."""
    per_item: bool
    basis: Basis
    transition: int
    """0 for the coupled field; k for the independent field of the k-th transition (see :meth:`fresh`)."""

    @door(source=inputs.noise_source, basis=BASIS, transition=inputs.transition)  # type: ignore[misc]
    def __init__(
        self,
        source: int | torch.Generator | Sequence[int | torch.Generator],
        basis: Basis = DCT,
        *,
        transition: int = 0,
    ) -> None:
        each = source if isinstance(source, (list, tuple)) else (source,)
        object.__setattr__(self, "keys", tuple(_root(one) for one in each))
        object.__setattr__(self, "per_item", each is source)
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "transition", transition)

    def fresh(self, transition: int) -> NoiseField:
        """The independent field of the k-th transition (k = 1, 2, ...; 0 is the coupled field itself)."""
        source = self.keys if self.per_item else self.keys[0]
        return NoiseField(source, self.basis, transition=transition)

    def item_keys(self, batch: int) -> tuple[int, ...]:
        """Signed 64-bit key of each of `batch` items.

        Raises
        ------
        ValueError
            The source was a list of another length.
        """
        if not self.per_item:
            return tuple((self.keys[0] + i + 2**63) % 2**64 - 2**63 for i in range(batch))
        return inputs.one_each(self.keys, batch)

    def key_tensor(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """:meth:`item_keys` as the int64 tensor that the native operations take."""
        return torch.tensor(self.item_keys(batch), dtype=torch.int64, device=device)

    def coefficients(
        self,
        shape: Sequence[int],
        *,
        dims: int = 2,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The field's coefficients in its basis: independent standard normals of shape `shape`.

        Parameters
        ----------
        shape
            (batch, ..., *grid): the first axis holds the items, the last `dims` the grid, at most 65536 along each axis;
            a shape of only the grid is item 0, plane 0.
        dims
            Number of spectral axes, 1 to 3.
        dtype, device
            Of the result. Numbers are computed in float64 and rounded once; natively (float32 and shorter) in float32, within
            1e-6 of that.

        Raises
        ------
        ValueError
            More than 3 spectral axes, too few axes, sizes that are negative or (on the grid) 0 or above 65536, a batch
            that does not match a list of sources.
        TypeError
            Sizes that are no integers.
        """
        shape = inputs.field_shape(shape, dims)
        leading, grid = shape[:-dims], shape[-dims:]
        batch = leading[0] if leading else 1
        key = self.key_tensor(batch, device)
        planes = math.prod(leading[1:])
        if dtype in ops.STORAGE and ops.usable("normals", key, grids=(grid,)):
            return ops.normals(key, planes, grid, transition=self.transition).to(dtype).reshape(shape)
        made_on = "cpu" if key.device.type in ("mps", "meta") else key.device  # float64 is not made everywhere
        keys = self.key_tensor(batch, made_on).reshape(-1, 1, 1, 1, 1)
        a, u, v = (1,) * (3 - dims) + grid

        def index(n: int, axis: int) -> Tensor:
            return torch.arange(n, device=made_on).reshape([n if i == axis else 1 for i in range(5)])

        counter = (
            index((v + 3) // 4, 4),
            index(u, 3) | (index(a, 2) << 16),
            index(planes, 1),
            self.transition | (LAYOUT << 24),
        )
        words = philox4x32(counter, (keys & WORD, (keys >> 32) & WORD))
        normals = _box_muller(words).flatten(-2)[..., :v]
        return normals.to(dtype).to(device).reshape(shape)

    def on(
        self,
        shape: Sequence[int],
        *,
        dims: int = 2,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The field rendered on a grid: white noise of unit variance, shape `shape`.

        Parameters and errors as :meth:`coefficients`; computed in float32 or better, rounded once to `dtype`.
        """
        shape = inputs.field_shape(shape, dims)
        grid, basis = shape[-dims:], self.basis.native
        if dims == 2 and min(shape) >= 1 and dtype in ops.STORAGE:
            key = self.key_tensor(shape[0] if len(shape) > 2 else 1, device)
            if ops.usable("render", key, basis=basis, grids=(grid,)):
                planes = math.prod(shape[1:-2])
                return ops.render(key, planes, grid, transition=self.transition, basis=basis).to(dtype).reshape(shape)
        c = self.coefficients(shape, dims=dims, dtype=working_dtype(dtype), device=device)
        return self.basis.inverse(c, dims=dims).to(dtype)
