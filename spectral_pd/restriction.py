r"""The ways down: what a smaller grid has of a full-size noise, picture or state, and what it lacks.

With the isometry ``U`` of a basis and the ratio r of two grids, noise keeps its variance, ``U^T w`` (:func:`restrict_noise`), a
picture keeps its values, ``U^T x / r`` (:func:`restrict_signal`), and a state keeps being one, at the time that is its own
there (:func:`restrict_aligned`). What is lost is :func:`high_band`. The way up is :mod:`spectral_pd.expansion`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, size_ratio
from spectral_pd.inputs import door, working_dtype
from spectral_pd.theory import align_scale, align_time


@door(basis=BASIS)
def restrict_noise(x: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    """Low band of a noise field: ``U^T w``. White noise of unit variance stays so; a constant's value grows by r.

    `x` is a floating-point field (..., *fine), `shape` the coarse grid, `basis` the one states grow in; errors as
    :meth:`Basis.restrict <spectral_pd.bases.Basis.restrict>`.

    Examples
    --------
    >>> import torch
    >>> restrict_noise(torch.full((1, 16, 16), 3.0), (8, 8)).mean().round().item()
    6.0
    """
    return basis.restrict(x, shape)


@door(x=inputs.state_of(1), shape=inputs.shape, basis=BASIS)
def restrict_signal(x: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    """The same picture on a coarser grid: ``U^T x / r``. A constant keeps its value; white noise shrinks by r.

    ``r = sqrt(prod(fine) / prod(coarse))`` of the real sizes.
    Parameters and errors as :func:`restrict_noise`.

    Examples
    --------
    >>> import torch
    >>> restrict_signal(torch.full((1, 16, 16), 3.0), (8, 8)).mean().round().item()
    3.0
    """
    low = basis.restrict(x.to(working_dtype(x.dtype)), shape)
    return (low / size_ratio(shape, x.shape[-len(shape) :])).to(x.dtype)


@door(x=inputs.state_of(1), shape=inputs.shape, t=inputs.one_time, basis=BASIS)
def restrict_aligned(x: Tensor, shape: Sequence[int], t: float, *, basis: Basis = DCT) -> tuple[Tensor, float]:
    r"""The same state on a coarser grid, at its time there: what a coarse stage on the full clock has of a full-size state.

    Returns ``y = U^T x / kappa(tau, r)`` and ``tau = align(t, 1 / r)``; growing y again at `tau` gives the low band of `x`
    back. `x`, `shape`, `basis` as :func:`restrict_noise`; `t` is the time of `x`.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import expand_aligned
    >>> y, tau = restrict_aligned(torch.randn(1, 16, 16), (8, 8), 0.8)
    >>> tuple(y.shape), round(tau, 6), round(expand_aligned(y, (16, 16), tau, seed=0)[1], 6)
    ((1, 8, 8), 0.666667, 0.8)
    """
    ratio = size_ratio(shape, x.shape[-len(shape) :])
    tau = align_time.bare(t, 1 / ratio)
    low = basis.restrict(x.to(working_dtype(x.dtype)), shape)
    return (low / align_scale.bare(tau, ratio)).to(x.dtype), tau


@door(noise=inputs.state_of(1), shape=inputs.shape, basis=BASIS)
def high_band(noise: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    """What a white field holds beyond a coarse grid: ``w - U U^T w``, of the field's shape.

    Examples
    --------
    >>> import torch
    >>> restrict_noise(high_band(torch.randn(1, 16, 16), (8, 8)), (8, 8)).abs().max().item() < 1e-5
    True
    """
    return noise - basis.embed(basis.restrict(noise, shape), noise.shape[-len(shape) :])


@door(noise=inputs.state_of(1), shape=inputs.shape, basis=BASIS)
def folded_noise(noise: Tensor, shape: Sequence[int], *, basis: Basis = DCT) -> Tensor:
    r"""The high band of a white field, folded onto a coarse grid: what an INFORMED coarse call is given beside its state.

    The points of each coarse cell of ``w - U U^T w`` become channels: (batch, channels, *fine) -> (batch, channels r^d,
    *coarse), for d axes that grow by whole factors r (1 included). An isometry of the high band: ``r^d - 1`` independent
    planes a channel, written as ``r^d`` so that a plane's points stay where they are in the picture.

    Parameters
    ----------
    noise, shape, basis
        As :func:`restrict_noise`; the axes before the grid are (batch, channels, ...).

    Raises
    ------
    ValueError
        An axis that does not grow by a whole factor.

    Examples
    --------
    >>> import torch
    >>> tuple(folded_noise(torch.randn(2, 3, 16, 16), (8, 8)).shape)
    (2, 12, 8, 8)
    """
    fine, dims = tuple(noise.shape[-len(shape) :]), len(shape)
    if any(m % n for m, n in zip(fine, shape, strict=True)):
        raise ValueError(
            f"shape = {tuple(shape)} must divide the field's grid {fine}; use scales of 1 over a whole number"
        )
    factors = [m // n for m, n in zip(fine, shape, strict=True)]
    pairs = [size for pair in zip(shape, factors, strict=True) for size in pair]
    lead = noise.ndim - dims
    x = high_band.bare(noise, shape, basis=basis).reshape(*noise.shape[:lead], *pairs)
    inner = range(lead + 1, lead + 2 * dims, 2)
    x = x.permute(0, 1, *inner, *range(2, lead), *range(lead, lead + 2 * dims, 2))
    return x.reshape(noise.shape[0], noise.shape[1] * math.prod(factors), *noise.shape[2:lead], *shape)
