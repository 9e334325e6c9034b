r"""Spectral noise expansion and timestep alignment (paper Sec. 4.1, Eqs. 5-6).

Growing a state from a coarse grid to a fine one keeps its coefficients, fills every new one with noise of level ``t``, and
transforms back. With the isometry ``U`` of a basis and a white field ``w`` on the fine grid,

    ``expand(x, t, w) = U x + t (w - U U^T w)``,

exactly: the new coefficients are ``t`` times those of ``w``. Scaled by ``kappa(t, r)`` it is a valid flow-matching state at
the later time ``t~ = t kappa``: shared band ``(1 - t~) r x_0^coarse + t~ eps``, new band ``t~ eps'``. Two ways down mirror
the two kinds of content: noise keeps its variance (:func:`restrict_noise`), a picture keeps its values
(:func:`restrict_signal`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectral_pd import ops
from spectral_pd.bases import (
    DCT,
    HAAR,
    Basis,
    check_basis,
    check_state,
    check_target,
    corner,
    size_ratio,
    working_dtype,
)
from spectral_pd.noise import NoiseField
from spectral_pd.theory import align_scale, align_time, check_shape, check_time


def _check_growth(x: Tensor, shape: Sequence[int], basis: Basis) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(coarse grid, fine grid) of an expansion, after every check that needs no noise."""
    fine = check_shape(shape)
    check_state(x, dims=len(fine))
    if x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: an empty batch; pass at least one item")
    coarse = tuple(x.shape[-len(fine) :])
    check_target(basis, "shape", coarse, fine)
    return coarse, fine


def _check_noise(
    x: Tensor, noise: Tensor | NoiseField, coarse: tuple[int, ...], fine: tuple[int, ...], basis: Basis
) -> None:
    if isinstance(noise, NoiseField):
        if noise.basis is not basis:
            raise ValueError(f"noise is a field in {noise.basis}, but basis = {basis}; make both the same")
        if not basis.nested(coarse, fine):
            raise ValueError(
                f"{basis} coefficients of {coarse} are not the low corner of those of {fine}; grow every axis by the "
                f"same factor, or pass the white field as a tensor"
            )
        return
    if not isinstance(noise, Tensor):
        raise TypeError(f"noise is {type(noise).__name__}; pass a white field on the fine grid or a NoiseField")
    check_state(noise, "noise", len(fine))
    expected = (*x.shape[: x.ndim - len(fine)], *fine)
    if tuple(noise.shape) != expected:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; expected {expected}, x's leading axes and the fine grid"
        )
    if noise.device != x.device:
        raise ValueError(f"noise is on {noise.device} but x is on {x.device}; move one of them")


def expand(x: Tensor, shape: Sequence[int], t: float, *, noise: Tensor | NoiseField, basis: Basis = DCT) -> Tensor:
    r"""Grow a state to the grid `shape`; the new band is noise of level `t` (Sec. 4.1, before alignment).

    ``U x + t (w - U U^T w)``: the coefficients of `x` are kept, the new ones are `t` times those of the white field `w`.

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

    Returns
    -------
    State (batch, ..., *shape) of x's dtype, not yet scaled by kappa.

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
    coarse, fine = _check_growth(x, shape, basis)
    _check_noise(x, noise, coarse, fine, basis)
    return _grow(x, coarse, fine, float(check_time(t)), 1.0, noise, basis)


def _grow(
    x: Tensor,
    coarse: tuple[int, ...],
    fine: tuple[int, ...],
    t: float,
    scale: float,
    noise: Tensor | NoiseField,
    basis: Basis,
    out: Tensor | None = None,
) -> Tensor:
    """``scale * (U x + t (w - U U^T w))`` in x's dtype, computed in float32 or better; natively where possible."""
    dtype, dims = working_dtype(x.dtype), len(fine)
    leading = x.shape[: x.ndim - dims]
    native = basis in (DCT, HAAR) and ops.usable("expand_field", x, basis=basis.name, grids=(coarse, fine))
    if native and out is not None and not out.is_contiguous():
        return out.copy_(_grow(x, coarse, fine, t, scale, noise, basis))
    if native and isinstance(noise, NoiseField):
        key = noise.key_tensor(leading[0] if leading else 1, x.device)
        return ops.expand_field(x, key, fine, t=t, kappa=scale, transition=noise.transition, basis=basis.name, out=out)
    if native and isinstance(noise, Tensor) and noise.dtype == x.dtype:
        return ops.expand_white(x, noise, t=t, kappa=scale, basis=basis.name, out=out)
    y = x.to(dtype)
    if isinstance(noise, NoiseField):
        c = noise.coefficients((*leading, *fine), dims=dims, dtype=dtype, device=x.device) * (t * scale)
        c[corner(coarse)] = basis.forward(y, dims=dims) * scale
        state = basis.inverse(c, dims=dims)
    else:
        w = noise.to(dtype)
        # U (x - t U^T w) + t w: one restriction and one embedding.
        state = scale * (basis.embed(y - t * basis.restrict(w, coarse), fine) + t * w)
    return state.to(x.dtype) if out is None else out.copy_(state)


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

    ``kappa(t, r) * expand(x, shape, t)`` at time ``t~ = align(t, r)``, with ``r`` from the real sizes.

    Parameters
    ----------
    x, shape, t, basis
        As :func:`expand`.
    noise, seed, generator
        Exactly one: a white field or NoiseField; an int seed; a generator (one draw is made from it).
    out
        Optional tensor of the result's shape, dtype and device to write into.

    Returns
    -------
    (state, time)
        The state on the fine grid, and its time there as a float; above `t` when growing.

    Raises
    ------
    ValueError, TypeError
        As :func:`expand`; none or several of noise, seed, generator; an `out` that does not fit.

    Examples
    --------
    >>> import torch
    >>> state, time = expand_aligned(torch.randn(1, 4, 16, 16), (32, 32), 0.7, seed=0)
    >>> tuple(state.shape), round(time, 6)
    ((1, 4, 32, 32), 0.823529)
    """
    if sum(source is not None for source in (noise, seed, generator)) != 1:
        raise ValueError("pass exactly one of noise=, seed= and generator=")
    coarse, fine = _check_growth(x, shape, basis)
    t = float(check_time(t))
    if noise is None:
        noise = NoiseField(seed if generator is None else generator, basis)  # type: ignore[arg-type]
    _check_noise(x, noise, coarse, fine, basis)
    ratio = size_ratio(coarse, fine)
    expected = (*x.shape[: x.ndim - len(fine)], *fine)
    if out is not None and (tuple(out.shape) != expected or out.dtype != x.dtype or out.device != x.device):
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}; the result is {expected} {x.dtype} on {x.device}"
        )
    state = _grow(x, coarse, fine, t, align_scale(t, ratio), noise, basis, out)
    return state, align_time(t, ratio)


def restrict_noise(x: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    """Low band of a noise field: ``U^T w``. White noise of unit variance stays so; a constant's value grows by r.

    Parameters
    ----------
    x
        Field (..., *fine), floating point.
    shape
        Coarse grid.
    basis
        DCT, HAAR, FOURIER or another basis.

    Raises
    ------
    ValueError, TypeError
        A grid larger than x's or not reachable, integer or complex input.

    Examples
    --------
    >>> import torch
    >>> restrict_noise(torch.full((1, 16, 16), 3.0), (8, 8)).mean().round().item()
    6.0
    """
    return check_basis(basis).restrict(x, shape)


def restrict_signal(x: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    """The same picture on a coarser grid: ``U^T x / r``. A constant keeps its value; white noise shrinks by r.

    Parameters and errors as :func:`restrict_noise`; ``r = sqrt(prod(fine) / prod(coarse))`` of the real sizes.

    Examples
    --------
    >>> import torch
    >>> restrict_signal(torch.full((1, 16, 16), 3.0), (8, 8)).mean().round().item()
    3.0
    """
    low = check_basis(basis).restrict(x.to(working_dtype(x.dtype)) if isinstance(x, Tensor) else x, shape)
    return (low / size_ratio(low.shape[-len(shape) :], x.shape[-len(shape) :])).to(x.dtype)
