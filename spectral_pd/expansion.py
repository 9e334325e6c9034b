r"""Spectral noise expansion and timestep alignment (paper Sec. 4.1, Eqs. 5-6): the transition from a grid to a larger one.

Growing a state from a coarse grid to a fine one keeps its coefficients, fills every new one with noise of level ``t``, and
transforms back. With the isometry ``U`` of a basis and a white field ``w`` on the fine grid,

    ``expand(x, t, w) = U x + t (w - U U^T w)``,

exactly: the new coefficients are ``t`` times those of ``w``. Scaled by ``kappa(t, r)`` it is a valid flow-matching state at
the later time ``t~ = t kappa``: shared band ``(1 - t~) r x_0^coarse + t~ eps``, new band ``t~ eps'``. The ways down are in
:mod:`spectral_pd.restriction`.

:class:`Grow` is one transition with every number it needs; :func:`white_noise` the one place that asks what kind of noise a
caller has brought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from spectral_pd import inputs, ops
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.inputs import door, runs, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.theory import align_scale, align_time

__all__ = ["Grow", "expand", "expand_aligned"]

Source: TypeAlias = int | torch.Generator | Sequence[int | torch.Generator]
"""An int seed, a generator, or a list of one an item: what ``seed=`` takes."""


@dataclass(frozen=True)
class Grow:
    """A transition: a state of time `t` on the grid `coarse` becomes one of time `time` on the grid `fine`.

    Attributes
    ----------
    coarse, fine
        Grids before and after.
    ratio
        ``r = sqrt(prod(fine) / prod(coarse))``, from the real sizes.
    t, time
        Local times before, which is the noise level of the new band, and after: ``t kappa`` (Eq. 6).
    kappa
        Factor of the expanded state (Eq. 5).
    stage, keeps_history
        Index of the stage of a plan that begins, 0 outside a plan; whether times on both sides belong to one clock, so that a
        multistep solver may carry on.
    """

    coarse: tuple[int, ...]
    fine: tuple[int, ...]
    ratio: float
    t: float
    kappa: float
    time: float
    stage: int = 0
    keeps_history: bool = False

    @classmethod
    def between(cls, coarse: tuple[int, ...], fine: tuple[int, ...], t: float, **place: Any) -> Grow:
        """The transition from one grid to another at local time `t`."""
        ratio = size_ratio(coarse, fine)
        return cls(coarse, fine, ratio, t, align_scale.bare(t, ratio), align_time.bare(t, ratio), **place)


class Noise(Protocol):
    """White noise that a state starts from and grows with; `dtype` is the type a run's result is rounded to."""

    @property
    def dtype(self) -> torch.dtype: ...

    def on(self, grid: tuple[int, ...]) -> Tensor:
        """Rendered on a grid: (*leading, *grid), unit variance."""

    def coefficients(self, grid: tuple[int, ...]) -> Tensor:
        """Its coefficients on a grid, in the basis of growth."""

    def grow(self, x: Tensor, move: Grow, out: Tensor | None = None) -> Tensor:
        """``kappa (U x + t (w - U U^T w))`` in x's dtype, computed in float32 or better.

        Natively where possible, and then written into `out`, a contiguous tensor, if there is one.
        """

    def fresh(self, move: Grow) -> Noise:
        """The noise of one transition of a plan, independent of this and of every other transition's."""


@dataclass(frozen=True, eq=False)
class _TensorNoise:
    """A white field given as a tensor; on a coarser grid its low band."""

    white: Tensor
    basis: Basis
    dtype: torch.dtype
    seed: Source | None = None
    """Where fresh noise comes from; None is torch's default generator."""

    def on(self, grid: tuple[int, ...]) -> Tensor:
        return self.basis.restrict(self.white, grid)

    def coefficients(self, grid: tuple[int, ...]) -> Tensor:
        return self.basis.forward(self.on(grid), dims=len(grid))

    def grow(self, x: Tensor, move: Grow, out: Tensor | None = None) -> Tensor:
        w = self.on(move.fine)
        if _native(x, self.basis, move) and w.dtype == x.dtype:
            return ops.expand_white(x, w, t=move.t, kappa=move.kappa, basis=self.basis.native, out=out)
        dtype = working_dtype(x.dtype)
        w = w.to(dtype)
        # U (x - t U^T w) + t w: one restriction and one embedding.
        low = x.to(dtype) - move.t * self.basis.restrict(w, move.coarse)
        return (move.kappa * (self.basis.embed(low, move.fine) + move.t * w)).to(x.dtype)

    def fresh(self, move: Grow) -> Noise:
        each = self.seed if isinstance(self.seed, (list, tuple)) else (self.seed,)
        leading = self.white.shape[: self.white.ndim - len(move.fine)]
        if self.seed is not None and not isinstance(each[0], torch.Generator):
            field = NoiseField(self.seed, self.basis)
            return _FieldNoise(field, leading, self.white.dtype, self.white.device).fresh(move)
        shapes = [(1, *leading[1:], *move.fine)] * len(each) if len(each) > 1 else [(*leading, *move.fine)]
        drawn = [self._draw(shape, one) for shape, one in zip(shapes, each, strict=True)]
        return _TensorNoise(torch.cat(drawn), self.basis, self.dtype)

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        device = self.white.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, dtype=self.white.dtype, device=device).to(self.white.device)


@dataclass(frozen=True, eq=False)
class _FieldNoise:
    """A field addressed by coefficient, rendered for `leading` axes."""

    field: NoiseField
    leading: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def on(self, grid: tuple[int, ...]) -> Tensor:
        return self.field.on((*self.leading, *grid), dims=len(grid), dtype=self.dtype, device=self.device)

    def coefficients(self, grid: tuple[int, ...]) -> Tensor:
        return self.field.coefficients((*self.leading, *grid), dims=len(grid), dtype=self.dtype, device=self.device)

    def grow(self, x: Tensor, move: Grow, out: Tensor | None = None) -> Tensor:
        basis, dims, leading = self.field.basis, len(move.fine), self.leading
        if _native(x, basis, move):
            key = self.field.key_tensor(leading[0] if leading else 1, x.device)
            address: Any = {"transition": self.field.transition, "basis": basis.native}
            return ops.expand_field(x, key, move.fine, t=move.t, kappa=move.kappa, out=out, **address)
        dtype, shape = working_dtype(x.dtype), (*leading, *move.fine)
        c = self.field.coefficients(shape, dims=dims, dtype=dtype, device=x.device) * (move.t * move.kappa)
        c[corner(move.coarse)] = basis.forward(x.to(dtype), dims=dims) * move.kappa
        return basis.inverse(c, dims=dims).to(x.dtype)

    def fresh(self, move: Grow) -> Noise:
        return replace(self, field=self.field.fresh(move.stage))


def _native(x: Tensor, basis: Basis, move: Grow) -> bool:
    return ops.usable("expand_field", x, basis=basis.native, grids=(move.coarse, move.fine))


def white_noise(
    noise: Tensor | NoiseField | None,
    seed: Source | None,
    basis: Basis,
    grids: Sequence[tuple[int, ...]],
    *,
    like: Tensor | None = None,
    leading: Sequence[int] | None = None,
    fitting: Callable[..., Tensor] = runs.noise_tensor,
) -> Noise:
    """The noise of a run over `grids`, coarse to fine, from a white field as a tensor or a NoiseField, or from a seed.

    Parameters
    ----------
    noise, seed
        A white field of the finest grid, or a :class:`~spectral_pd.NoiseField`; None makes a field from `seed`. Beside a
        tensor, `seed` is where fresh noise comes from.
    basis, grids
        The basis states grow in, and every grid of the run.
    like, leading
        A tensor of the run (a picture, a state), whose leading axes and device the noise has; or the leading axes where no
        tensor says them: numbers are float32 on torch's default device then.
    fitting
        The parser of a tensor: noise of a whole run, or of one growth.

    Raises
    ------
    ValueError, TypeError
        Noise of another kind, shape, device or basis, not nested from grid to grid, empty or not finite; no leading axes.
    """
    if isinstance(noise, Tensor):
        return _TensorNoise(fitting(noise, grids[-1], like, leading, seed), basis, noise.dtype, seed)
    field = NoiseField(seed, basis) if noise is None else noise
    runs.nested_field(field.basis, basis, grids)
    if like is None:
        axes = runs.leading_axes(leading)
        like = torch.empty(0, dtype=torch.float32)
    else:
        axes = tuple(like.shape[: like.ndim - len(grids[-1])])
    field.item_keys(axes[0] if axes else 1)  # as many sources as items
    return _FieldNoise(field, axes, working_dtype(like.dtype), like.device)


NOISE = inputs.instance((Tensor, NoiseField), "a white field of the full size or a NoiseField")
_FINE_NOISE = inputs.instance((Tensor, NoiseField), "a white field on the fine grid or a NoiseField")


@door(shape=inputs.shape, t=inputs.one_time, noise=_FINE_NOISE, basis=BASIS)
def expand(x: Tensor, shape: Sequence[int], t: float, *, noise: Tensor | NoiseField, basis: Basis = DCT) -> Tensor:
    r"""Grow a state to the grid `shape`; the new band is noise of level `t` (Sec. 4.1, before alignment).

    ``U x + t (w - U U^T w)``: the coefficients of `x` are kept, the new ones are `t` times those of the white field `w`.
    The result, of shape (batch, ..., *shape) and x's dtype, is not yet scaled by kappa.

    Parameters
    ----------
    x
        State (batch, ..., *coarse), floating point. Half precision is computed in float32 and rounded once.
    shape
        Fine grid, e.g. (height, width); as many axes as are spectral.
    t
        Time of the state on its own grid, in [0, 1]: the noise level of the new band.
    noise
        White field on the fine grid, shape (batch, ..., *shape), or a :class:`~spectral_pd.NoiseField`, whose numbers
        are generated for the new band only.
    basis
        The basis the state grows in.

    Raises
    ------
    ValueError, TypeError
        A grid that cannot be reached, mismatching or missing noise, `t` outside [0, 1], empty or integer input.

    Examples
    --------
    >>> import torch
    >>> state = expand(torch.ones(1, 8, 8), (16, 16), 0.0, noise=torch.randn(1, 16, 16))
    >>> torch.allclose(state, torch.tensor(0.5))  # no noise at t = 0; a constant shrinks by r = 2 until it is aligned
    True
    """
    move = _move(x, tuple(shape), t, basis)
    return _grown(x, noise, replace(move, kappa=1.0), basis)


def _move(x: Tensor, fine: tuple[int, ...], t: float, basis: Basis) -> Grow:
    runs.filled_state(x, "x", len(fine))
    coarse = tuple(x.shape[-len(fine) :])
    basis.reach(coarse, fine)
    return Grow.between(coarse, fine, t)


def _grown(x: Tensor, noise: Tensor | NoiseField, move: Grow, basis: Basis, out: Tensor | None = None) -> Tensor:
    source = white_noise(noise, None, basis, (move.coarse, move.fine), like=x, fitting=runs.growth_noise)
    state = source.grow(x, move, out if out is not None and out.is_contiguous() else None)
    return state if out is None or state is out else out.copy_(state)


@door(shape=inputs.shape, t=inputs.one_time, noise=inputs.optional(_FINE_NOISE), basis=BASIS)
def expand_aligned(
    x: Tensor,
    shape: Sequence[int],
    t: float,
    *,
    noise: Tensor | NoiseField | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    basis: Basis = DCT,
    out: Tensor | None = None,
) -> tuple[Tensor, float]:
    r"""Grow a state and align its time: the step between two stages (Sec. 4.1, Eqs. 5-6).

    Returns ``kappa(t, r) * expand(x, shape, t)`` on the fine grid and its time there, the float ``t~ = align(t, r)``: above
    `t` when growing; ``r`` from the real sizes. `x`, `shape`, `t`, `basis` and errors as :func:`expand`.

    Parameters
    ----------
    noise, seed, generator
        Exactly one: a white field or NoiseField; an int seed; a generator (one draw is made from it).
    out
        Optional tensor of the result's shape, dtype and device to write into.

    Examples
    --------
    >>> import torch
    >>> state, time = expand_aligned(torch.randn(1, 4, 16, 16), (32, 32), 0.7, seed=0)
    >>> tuple(state.shape), round(time, 6)
    ((1, 4, 32, 32), 0.823529)
    """
    runs.only_one(noise=noise, seed=seed, generator=generator)
    move = _move(x, tuple(shape), t, basis)
    if noise is None:
        noise = NoiseField(seed if generator is None else generator, basis)
    if out is not None:
        runs.result_tensor(out, (*x.shape[: x.ndim - len(move.fine)], *move.fine), x, noise)
    return _grown(x, noise, move, basis, out), move.time
