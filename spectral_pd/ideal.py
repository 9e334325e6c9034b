r"""Ideal denoisers in closed form, and the exact prediction of what any plan does to a Gaussian field.

For a stationary Gaussian field with spectrum P the optimal velocity (Eq. 26) is diagonal in the basis and the exact ODE
solution is ``x_t = x_1 sqrt((1-t)^2 P + t^2)`` per coefficient. Any linear solver acts on a coefficient as a product of
scalars, so :func:`predict` knows the output spectrum of every plan, clock and linear solver without sampling. A finite
data set has an exact, strongly nonlinear denoiser: the posterior mean over its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASIS, DCT, Basis, corner, size_ratio
from spectral_pd.inputs import door, models, working_dtype
from spectral_pd.plan import STAGED, Plan, walk
from spectral_pd.power import AnySpectrum, as_spectrum, radial_bins
from spectral_pd.restriction import restrict_signal
from spectral_pd.solvers import Solver, SolverName, find_solver
from spectral_pd.theory import optimal_gain

__all__ = ["FiniteDataset", "GaussianField", "Prediction", "predict"]


class GaussianField:
    """A stationary Gaussian field with a given spectrum, and its exact denoiser at every stage size.

    Independent coefficients of variance ``P(omega)`` in `basis`; the mean (omega = 0) gets the power of the lowest other
    frequency. The same picture on a coarse grid has coefficients smaller by r, so a stage of ratio r sees ``P / r^2``.

    Parameters
    ----------
    spectrum
        A :class:`~spectral_pd.PowerLaw` or a function of frequency (cycles per shorter side), positive up to the grid's
        corner; or a :class:`~spectral_pd.spacetime.SpaceTimeSpectrum`. A measured :class:`~spectral_pd.Spectrum` ends at
        ``omega_max``, below the corner of a DCT or Fourier grid: fit a law to it first. Rescaled to `shape` when it carries
        a grid.
    shape
        Full grid.
    basis
        DCT, HAAR, FOURIER or another basis.

    Examples
    --------
    >>> from spectral_pd import PowerLaw
    >>> field = GaussianField(PowerLaw(60.0, 2.0, shape=(32, 32)), (32, 32))
    >>> field.sample((2, 3)).shape, field.velocity(torch.zeros(1, 16, 16), 0.9).shape
    (torch.Size([2, 3, 32, 32]), torch.Size([1, 16, 16]))
    """

    @door(spectrum=as_spectrum, shape=inputs.shape, basis=BASIS)  # type: ignore[misc]
    def __init__(self, spectrum: AnySpectrum | Callable[[Any], Any], shape: Sequence[int], basis: Basis = DCT) -> None:
        self.shape, self.basis = tuple(shape), basis
        self._power = torch.from_numpy(spectrum.coefficients(shape, basis))  # type: ignore[union-attr]

    @door(shape=inputs.optional(inputs.shape))
    def power(self, shape: Sequence[int] | None = None) -> Tensor:
        """Variance of each coefficient on the stage grid `shape` (default full), a low corner of it: ``P / r^2``, float64."""
        grid = self.shape if shape is None else tuple(shape)
        models.low_corner(self.basis, grid, self.shape)
        return self._power[corner(grid)] / size_ratio(grid, self.shape) ** 2

    def _scaled(self, x: Tensor, name: str, factor: Callable[[Tensor], Tensor]) -> Tensor:
        """A state with each coefficient multiplied by a function of its variance."""
        dims = len(self.shape)
        power = self.power(tuple(inputs.state(x, name, dims).shape[-dims:]))
        c = self.basis.forward(x.to(working_dtype(x.dtype)), dims=dims)
        return self.basis.inverse(c * factor(power).to(dtype=c.dtype, device=c.device), dims=dims).to(x.dtype)

    @door(t=inputs.one_time)
    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The optimal velocity ``A x`` (Eq. 26) of a state (..., *grid) on the full or any coarser grid, 0 <= t <= 1."""
        return self._scaled(x, "x", lambda power: optimal_gain.bare(t, power))

    @door(t=inputs.one_time)
    def solve(self, x1: Tensor, t: float = 0.0) -> Tensor:
        """The exact ODE solution at time `t` from pure noise `x1` at time 1: ``x_1 sqrt((1-t)^2 P + t^2)``."""
        return self._scaled(x1, "x1", lambda power: ((1 - t) ** 2 * power + t**2).sqrt())

    def sample(
        self,
        leading: Sequence[int] = (1, 1),
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw fields of shape (*leading, *grid) from the distribution itself."""
        white = torch.randn((*leading, *self.shape), generator=generator, dtype=working_dtype(dtype))
        return self._scaled(white, "white", Tensor.sqrt).to(dtype)


class FiniteDataset:
    r"""The exact denoiser of a finite data set: the posterior mean over its samples, at every stage size.

    Data drawn as a sample plus ``N(0, bandwidth^2)`` per pixel. With ``var = t^2 + (1-t)^2 h^2`` the weights are
    ``softmax(-|x - (1-t) s|^2 / (2 var))``, and ``D = k x + (1 - k (1-t)) sum w s`` with ``k = (1-t) h^2 / var``; the
    velocity is ``(x - D) / t``. Computed in float64. A coarse stage sees :func:`~spectral_pd.restrict_signal` of the samples
    and ``h / r``.

    Parameters
    ----------
    samples
        (K, ..., *grid), floating point.
    bandwidth
        h >= 0, in units of the samples; 0 is the data set itself.
    basis, dims
        The basis in which coarse grids show the same picture, and the number of trailing spectral axes.

    Examples
    --------
    >>> data = FiniteDataset(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]))
    >>> x = torch.ones(1, 1, 8, 8)  # far more likely noise around the second sample than around the first
    >>> torch.allclose(data.velocity(x, 0.1), torch.tensor(0.0), atol=1e-2)
    True
    """

    @door(bandwidth=models.bandwidth, basis=BASIS)  # type: ignore[misc]
    def __init__(self, samples: Tensor, bandwidth: float = 0.0, *, basis: Basis = DCT, dims: int = 2) -> None:
        models.data_set(samples, dims)
        self.samples, self.bandwidth, self.basis, self.dims = samples, bandwidth, basis, dims
        self.shape = tuple(samples.shape[-dims:])
        self._grids: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def _on_grid(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Flattened samples on a stage grid and half their squared norms, float64; made once a grid."""
        if shape in self._grids:
            return self._grids[shape]
        low = self.samples.to(torch.float64)
        low = low if shape == self.shape else restrict_signal(low, shape, basis=self.basis)
        flat = low.reshape(low.shape[0], -1)
        self._grids[shape] = flat, 0.5 * flat.square().sum(1)
        return self._grids[shape]

    @door(t=models.data_time)
    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The optimal velocity ``(x - D) / t`` of a state (batch, ..., *grid) on the full or any coarser grid, 0 < t <= 1."""
        models.like_samples(x, self.samples, self.dims)
        shape = tuple(x.shape[-self.dims :])
        flat, half_norm = self._on_grid(shape)
        h = self.bandwidth / size_ratio(shape, self.shape)
        variance = t**2 + (1 - t) ** 2 * h**2
        y = x.to(torch.float64).reshape(x.shape[0], -1)
        weights = torch.softmax((1 - t) * (y @ flat.T - (1 - t) * half_norm) / variance, dim=1)
        k = (1 - t) * h**2 / variance
        denoised = k * y + (1 - k * (1 - t)) * (weights @ flat)
        return ((y - denoised) / t).reshape(x.shape).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a plan makes of a Gaussian field, exactly.

    Attributes
    ----------
    gain
        Output coefficient over the initial noise's, for every coefficient of the full grid, float64.
    power
        The field's own variance of each coefficient; the exact solution has gain ``sqrt(power)``.
    frequency, ratio
        Radial bins k (cycles per shorter side) and ``sqrt(mean gain^2 / mean power)`` in each: 1 is perfect, below 1 too
        weak.
    """

    gain: Tensor
    power: Tensor
    frequency: np.ndarray
    ratio: np.ndarray

    @property
    def relative_w2(self) -> float:
        """Wasserstein-2 distance to the field's distribution over its root power: ``sqrt(sum (|g| - sqrt P)^2 / sum P)``."""
        return float(((self.gain.abs() - self.power.sqrt()).square().sum() / self.power.sum()).sqrt())

    @property
    def log_power_error(self) -> float:
        """Root mean square over the radial bins of ``log(output power / power)``; 0 on a grid without any bin."""
        if not self.ratio.size:
            return 0.0
        with np.errstate(divide="ignore"):  # a band that came out empty is infinitely far
            return float(np.sqrt(np.mean(np.square(2 * np.log(self.ratio)))))


@door(plan=STAGED, solver=find_solver)
def predict(plan: Plan, field: GaussianField, solver: SolverName | Solver = "euler") -> Prediction:
    r"""The output spectrum of a plan on a Gaussian field, in closed form.

    Every coefficient starts as 1 (in units of its own noise) when its band is born, is multiplied by kappa at each
    transition after that, and by the solver's scalar in each step; a new band enters with ``t kappa``. Exact for every
    solver that is linear in the state: the sampler run on the bench agrees to rounding, with either coupling.

    Parameters
    ----------
    plan, field
        A plan and the bench, on one grid; every stage's grid is nested in the next one's in the field's basis.
    solver
        Name or callable, as for :func:`~spectral_pd.sample`; it must be linear in the state.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> field = GaussianField(PRESETS["flux"], (32, 32))
    >>> plan = make_plan(shift_times(50, shift=3.0), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> bool(predict(plan, field).ratio.min() > 0.8)
    True
    """
    models.same_grid(plan.shape, field.shape)
    power = {shape: field.power(shape) for shape in plan.shapes}
    gain = walk(
        plan.moves(),
        torch.ones_like(power[plan.start_shape]) / plan.start_kappa,
        lambda gain, t: gain_velocity(power[tuple(gain.shape)], gain, t),
        find_solver(solver),
        grow=lambda gain, move: move.kappa * _padded(gain, move.fine, move.t),
        embed=partial(_padded, value=0.0),
    )
    frequency = field.basis.frequency(field.shape)
    k, reached, _ = radial_bins(gain.square(), frequency)
    _, expected, _ = radial_bins(power[plan.shape], frequency)
    return Prediction(gain, power[plan.shape], k, np.sqrt(reached / expected))


def gain_velocity(power: Any, gain: Any, t: Any) -> Any:
    """Eq. 26 acting on coefficients in units of their own noise."""
    return optimal_gain.bare(t, power) * gain


def _padded(low: Tensor, shape: tuple[int, ...], value: float) -> Tensor:
    """`low` in the low corner of an array of `shape` filled with `value`: an expansion seen in coefficients."""
    out = low.new_full(shape, value)
    out[corner(low.shape)] = low
    return out
