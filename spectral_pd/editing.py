r"""Editing by frequency: keep the low band of a picture, make the bands above it anew (paper Sec. 5.5, App. G).

An edit enters a plan at the k-th transition. The picture's low band, what stage k - 1 can show of it, takes the place of
what the coarse stages would have made; the rest of the plan is sampled as usual. With ``t`` the local time at which stage k
starts, ``r`` the growth from stage k - 1, ``x_low`` the low band on its own grid and ``w`` white noise on stage k's grid, the
coefficients of stage k's first state are

=============  ==========================  ============  ================
mode           low band                    new band      source
=============  ==========================  ============  ================
``"noised"``   ``(1 - t) r x_low + t w``   ``t w``       Sec. 5.5
``"clean"``    ``r x_low``                 ``t w``       App. G
=============  ==========================  ============  ================

``noised`` noises the low band to the time at which stage k - 1 ends, expands and aligns: a valid flow-matching state, and
on the last stage exactly SDEdit of the low-pass filtered picture. ``clean`` puts the low band in as it is: no noise to hide
in, and to a denoiser, which reads it as ``(1 - t) x_0 + t eps``, a picture ``1 / (1 - t)`` times as strong. The exact denoiser
of bounded pictures follows it all the more closely; a linear one amplifies it; so does a network, which was never shown such
states: pictures come out overexposed (docs/editing.md).

Exactly, for a Gaussian field and its exact flow: with ``SNR = (1-t)^2 P / t^2`` (Eq. 15) and ``g = sqrt(SNR / (1 + SNR))`` a
low-band coefficient ``c`` of power P ends as ``g c + sqrt(P / (1 + SNR)) n``, n standard normal (noised), or as
``g c / (1 - t)`` (clean).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from spectral_pd.bases import DCT, Basis, check_state, size_ratio, working_dtype
from spectral_pd.expansion import expand, restrict_signal
from spectral_pd.noise import NoiseField
from spectral_pd.sampling import StepInfo, check_noise, march, transition
from spectral_pd.schedule import Plan, local_times, make_plan
from spectral_pd.solvers import Solver, SolverName, Velocity, find_solver

EditMode = Literal["noised", "clean"]


@torch.no_grad()
def edit(
    velocity: Velocity,
    image: Tensor,
    plan: Plan,
    *,
    stage: int,
    mode: EditMode = "noised",
    noise: Tensor | NoiseField | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    solver: SolverName | Solver = "euler",
    basis: Basis = DCT,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Keep a picture's low band and let the model make the rest: start a plan in the middle (Sec. 5.5, App. G).

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, as for :func:`~spectral_pd.sample`: the model of what the picture shall become.
    image
        The picture (batch, ..., *plan.shape) in the model's own units (latents for a latent model).
    plan
        From :func:`~spectral_pd.make_plan`, at least two stages (one is enough for ``stage=0``).
    stage
        k, the index of the first stage that runs, ``0 <= k < len(plan.stages)``. Frequencies up to the grid of stage k - 1
        come from the picture, those above from the model: a larger k keeps more and runs fewer steps. 0 keeps no band
        apart: the whole picture is noised to the plan's first time (SDEdit, run progressively), and a plan that starts at
        t = 1 forgets it.
    mode
        ``"noised"``, for any model, or ``"clean"``; see the module's text. The second needs ``stage >= 1``; on the stage
        clock it continues from the grid time of the transition, since nothing is aligned.
    noise, seed, generator
        Exactly one: a white field of the image's shape or a :class:`~spectral_pd.NoiseField`; an int seed (item i of the
        batch has seed + i); a generator (one draw is made from it).
    solver, basis, callback, progress
        As for :func:`~spectral_pd.sample`. The steps reported are numbered on the plan's grid.

    Returns
    -------
    The edited picture, of the image's shape and dtype. Computed in float32 or better; no gradients are recorded.

    Raises
    ------
    ValueError, TypeError
        An image that does not fit the plan or is not finite, a stage that the plan does not have, an unknown mode, none or
        several sources of noise, or whatever :func:`~spectral_pd.sample` refuses: all before the first model call.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(8), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> edit(lambda x, t: x, torch.randn(1, 4, 32, 32), plan, stage=1, seed=0).shape
    torch.Size([1, 4, 32, 32])
    """
    step_with = find_solver(solver)
    if sum(source is not None for source in (noise, seed, generator)) != 1:
        raise ValueError("pass exactly one of noise=, seed= and generator=")
    if noise is None:
        noise = NoiseField(seed if generator is None else generator, basis)  # type: ignore[arg-type]
    picture = _check_image(image, plan)
    white = _check_white(noise, picture, plan, basis)
    if not callable(velocity):
        raise TypeError(f"velocity is {type(velocity).__name__}; pass a callable velocity(x, t)")
    _check_entry(plan, stage, mode)
    if mode == "noised":
        x = _noised(picture, white, plan, stage, basis)
    else:
        plan = _entered(plan, stage)
        x = _clean(picture, white, plan, stage, basis)
    x = march(
        velocity, x, plan, white, first=stage, solver=step_with, basis=basis, callback=callback, progress=progress
    )
    return x.to(image.dtype)


def sdedit(
    velocity: Velocity,
    image: Tensor,
    times: Sequence[float],
    *,
    noise: Tensor | NoiseField | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    solver: SolverName | Solver = "euler",
    basis: Basis = DCT,
    dims: int = 2,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""SDEdit, the baseline of :func:`edit`: noise the whole picture to ``times[0]`` and sample from there at full size.

    ``x = (1 - T_0) image + T_0 w``, then the solver over `times`. The same steps as an edit at stage k are
    ``plan.times[plan.stages[k].start:]``. ``T_0 = 1`` is plain sampling.

    Parameters
    ----------
    velocity, image, noise, seed, generator, solver, callback, progress
        As for :func:`edit`.
    times
        Strictly decreasing from the strength of the edit, at most 1, to 0.
    basis
        That of a noise field made from `seed` or `generator`.
    dims
        Number of trailing spectral axes of the image.

    Raises
    ------
    ValueError, TypeError
        As :func:`edit`.

    Notes
    -----
    Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022,
    arXiv 2108.01073, on the flow-matching path and its deterministic flow.

    Examples
    --------
    >>> import torch
    >>> sdedit(lambda x, t: x, torch.randn(1, 4, 32, 32), (0.6, 0.4, 0.2, 0.0), seed=0).shape
    torch.Size([1, 4, 32, 32])
    """
    shape = check_state(image, "image", dims).shape[-dims:]
    plan = make_plan(times, None, shape, scales=(1,), transition_times=())
    return edit(
        velocity,
        image,
        plan,
        stage=0,
        noise=noise,
        seed=seed,
        generator=generator,
        solver=solver,
        basis=basis,
        callback=callback,
        progress=progress,
    )


def _check_image(image: Tensor, plan: Plan) -> Tensor:
    """The picture in working precision."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is {type(plan).__name__}; pass what make_plan returned")
    dims = len(plan.shape)
    check_state(image, "image", dims)
    if tuple(image.shape[-dims:]) != plan.shape:
        raise ValueError(f"image has shape {tuple(image.shape)}; its last axes must be the plan's grid {plan.shape}")
    if image.numel() == 0:
        raise ValueError(f"image has shape {tuple(image.shape)}: an empty batch; pass at least one item")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("image contains NaN or infinity")
    return image.to(working_dtype(image.dtype))


def _check_white(noise: Tensor | NoiseField, picture: Tensor, plan: Plan, basis: Basis) -> Tensor | NoiseField:
    """The white field, once it is known to fit picture, plan and basis; a tensor in the picture's precision."""
    if isinstance(noise, NoiseField):
        leading = picture.shape[: picture.ndim - len(plan.shape)]
        return check_noise(noise, plan, basis, "coupled", leading, picture.device, None)[0]
    white, _ = check_noise(noise, plan, basis, "coupled", None, None, None)
    assert isinstance(white, Tensor)
    if white.shape != picture.shape or white.device != picture.device:
        raise ValueError(
            f"noise has shape {tuple(white.shape)} on {white.device}, image {tuple(picture.shape)} on {picture.device}; "
            f"make both the same"
        )
    return white.to(picture.dtype)


def _check_entry(plan: Plan, stage: int, mode: str) -> None:
    if mode not in ("noised", "clean"):
        raise ValueError(f"mode = {mode!r} must be 'noised' or 'clean'")
    if isinstance(stage, bool) or not isinstance(stage, int):
        raise TypeError(f"stage is {stage!r}; pass the index of the first stage that runs, an int")
    if not 0 <= stage < len(plan.stages):
        raise ValueError(
            f"stage = {stage} must be from 0 to {len(plan.stages) - 1}, the index of one of the plan's stages "
            f"({', '.join('x'.join(map(str, shape)) for shape in plan.shapes)})"
        )
    if stage == 0 and mode == "clean":
        raise ValueError(
            "mode = 'clean' keeps the band of the stage before; with stage = 0 there is none: use 'noised'"
        )


def _noised(picture: Tensor, white: Tensor | NoiseField, plan: Plan, stage: int, basis: Basis) -> Tensor:
    """Stage k's first state by Sec. 5.5: the low band noised to the end of stage k - 1, expanded and aligned."""
    if stage == 0:
        at, t = plan.stages[0].shape, plan.stages[0].times[0]
    else:
        at, t = plan.stages[stage - 1].shape, plan.stages[stage - 1].times[-1]
    x = (1 - t) * restrict_signal(picture, at, basis=basis) + t * _white_on(white, picture, at, basis)
    return x if stage == 0 else transition(x, None, plan, stage, white, basis)[0]


def _clean(picture: Tensor, white: Tensor | NoiseField, plan: Plan, stage: int, basis: Basis) -> Tensor:
    """Stage k's first state by App. G: the low band as it is, the new band noise of the level at which stage k starts."""
    coarse, shape = plan.stages[stage - 1].shape, plan.stages[stage].shape
    x = size_ratio(coarse, shape) * restrict_signal(picture, coarse, basis=basis)
    field = white if isinstance(white, NoiseField) else basis.restrict(white, shape)
    return expand(x, shape, plan.stages[stage].times[0], noise=field, basis=basis)


def _white_on(white: Tensor | NoiseField, picture: Tensor, shape: tuple[int, ...], basis: Basis) -> Tensor:
    """The white field on a stage's grid."""
    if isinstance(white, Tensor):
        return basis.restrict(white, shape)
    leading = picture.shape[: picture.ndim - len(shape)]
    return white.on((*leading, *shape), dims=len(shape), dtype=picture.dtype, device=picture.device)


def _entered(plan: Plan, stage: int) -> Plan:
    """`plan` with stage k's local times starting at its grid time: the same on the full clock, no alignment on the other."""
    if plan.clock == "full":
        return plan
    rest = plan.stages[stage:]
    starts, stops = ([getattr(s, name) for s in rest] for name in ("start", "stop"))
    local = local_times(plan.times, [s.ratio for s in rest], starts, stops, plan.clock)
    return replace(
        plan, stages=plan.stages[:stage] + tuple(replace(s, times=t) for s, t in zip(rest, local, strict=True))
    )
