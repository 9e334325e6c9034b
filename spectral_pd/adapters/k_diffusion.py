"""Progressive sampling for code that speaks k-diffusion: ``sample_*(model, x, sigmas, ...)`` with a denoiser model.

``model(x, sigma, **extra_args)`` returns the denoised picture at noise level sigma. ``path`` says what x is: on
``"flow"`` x = (1 - sigma) x_0 + sigma eps (FLUX, SD3, WAN, Z-Image and other flow models in ComfyUI); on ``"edm"``
x = x_0 + sigma eps (Stable Diffusion 1, 2 and XL behind k-diffusion's wrappers, EDM models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from spectral_pd.bases import DCT, Basis
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.sampling import (
    Coupling,
    StepInfo,
    edm_from_flow,
    flow_from_edm,
    sample,
    velocity_from_denoised,
)
from spectral_pd.schedule import make_plan
from spectral_pd.solvers import Solver, SolverName


def sample_spectral(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
    *,
    spectrum: PowerLaw | Spectrum | Callable[[Any], Any] | None = None,
    scales: Sequence[float] = (1 / 2, 1),
    delta: float = 0.01,
    path: Literal["flow", "edm"] = "flow",
    noise: Tensor | None = None,
    multiple_of: int = 1,
    solver: SolverName | Solver = "euler",
    basis: Basis = DCT,
    coupling: Coupling = "coupled",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    transition_times: Sequence[float] | None = None,
    unreached: Literal["error", "force"] = "error",
) -> Tensor:
    """Sample progressively with a k-diffusion style denoiser; a drop-in for its ``sample_euler``.

    Parameters
    ----------
    model
        ``model(x, sigma, **extra_args)`` -> denoised, at any stage size; sigma has one value an item.
    x
        Full-size state at ``sigmas[0]``, (batch, ..., height, width).
    sigmas
        Full-resolution noise levels, decreasing to 0.
    extra_args, callback, disable
        As in k-diffusion; the callback's dict has ``x``, ``denoised`` and ``sigma_hat`` as the model last saw them, ``i``
        and ``sigma`` of the full grid, and ``stage``. The progress bar shows unless `disable` is true.
    spectrum, scales, delta, multiple_of, transition_times, unreached
        As :func:`spectral_pd.make_plan`; transition times are flow times, ``sigma / (1 + sigma)`` on ``path="edm"``.
    path
        ``"flow"`` or ``"edm"``; see the module's text.
    noise
        White field that fills the new bands. None takes `x` as pure noise of level ``sigmas[0]``, as in text to image;
        when `x` starts from a picture, pass the noise it was mixed with.
    solver, basis, coupling, generator
        As :func:`spectral_pd.sample`.

    Returns
    -------
    The denoised state of x's shape and dtype.

    Raises
    ------
    ValueError, TypeError
        An unknown path, a flow sigma above 1, and whatever the plan or the sampler refuses.

    Examples
    --------
    >>> from spectral_pd import PRESETS, shift_times
    >>> model = lambda x, sigma: torch.zeros_like(x)  # stands in for a denoiser
    >>> x, sigmas = torch.randn(1, 4, 32, 32), shift_times(8, shift=3.0)
    >>> sample_spectral(model, x, sigmas, disable=True, spectrum=PRESETS["flux"]).shape
    torch.Size([1, 4, 32, 32])
    """
    if path not in ("flow", "edm"):
        raise ValueError(f"path = {path!r} must be 'flow' or 'edm'")
    levels = [float(s) for s in sigmas]
    if not levels or levels[0] <= 0:
        raise ValueError("sigmas is empty or starts at 0; pass noise levels that decrease to 0")
    on_edm = path == "edm"
    times = [s / (1 + s) for s in levels] if on_edm else levels
    plan = make_plan(
        times,
        spectrum,
        tuple(x.shape[-2:]),
        scales=scales,
        delta=delta,
        multiple_of=multiple_of,
        transition_times=transition_times,
        unreached=unreached,
    )
    seen: dict[str, Any] = {}

    def denoised(state: Tensor, t: float) -> Tensor:
        state, sigma = edm_from_flow(state, t) if on_edm else (state, t)
        seen.update(x=state, sigma_hat=sigma)
        seen["denoised"] = model(state, state.new_full((state.shape[0],), sigma), **(extra_args or {}))
        return seen["denoised"]

    def after_step(info: StepInfo) -> None:
        if callback is not None:
            callback({**seen, "i": info.step - 1, "sigma": levels[info.step - 1], "stage": info.stage})

    return sample(
        velocity_from_denoised(denoised),
        x / levels[0] if noise is None else noise.to(x),
        plan,
        start=flow_from_edm(x, levels[0])[0] if on_edm else x,
        solver=solver,
        basis=basis,
        coupling=coupling,
        generator=generator if coupling == "fresh" else None,
        callback=after_step,
        progress=not disable,
    )
