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
from typing import Any, Literal

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import DCT, Basis
from spectral_pd.expansion import NOISE, Grow, Noise, Source, white_noise
from spectral_pd.inputs import door, plans, runs, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.plan import STAGED, Move, Plan, moves
from spectral_pd.restriction import restrict_signal
from spectral_pd.sampling import StepInfo, run
from spectral_pd.schedule import plan_at
from spectral_pd.solvers import Solver, SolverName, Velocity, find_solver

EditMode = Literal["noised", "clean"]


@torch.no_grad()
@door(
    velocity=runs.velocity,
    plan=STAGED,
    mode=inputs.choice("noised", "clean"),
    noise=inputs.optional(NOISE),
    seed=inputs.optional(runs.noise_source),
    solver=find_solver,
    callback=runs.callback,
)
def edit(
    velocity: Velocity,
    image: Tensor,
    plan: Plan,
    *,
    stage: int,
    mode: EditMode = "noised",
    noise: Tensor | NoiseField | None = None,
    seed: Source | None = None,
    solver: SolverName | Solver = "euler",
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Keep a picture's low band and let the model make the rest: start a plan in the middle (Sec. 5.5, App. G).

    Parameters
    ----------
    velocity
        The model of what the picture shall become, as for :func:`~spectral_pd.sample`.
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
    noise, seed
        Exactly one: a white field of the image's shape or a :class:`~spectral_pd.NoiseField`; or an int seed (item i of the
        batch has seed + i), a generator (one draw is made from it), a list of either, one an item.
    solver, callback, progress
        As for :func:`~spectral_pd.sample`; steps are numbered on the plan's grid.

    Returns
    -------
    The edited picture, of the image's shape and dtype. Computed in float32 or better; no gradients are recorded.

    Raises
    ------
    ValueError, TypeError
        Arguments that do not fit the plan or each other: all before the first model call.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(8), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> edit(lambda x, t: x, torch.randn(1, 4, 32, 32), plan, stage=1, seed=0).shape
    torch.Size([1, 4, 32, 32])
    """
    runs.only_one(noise=noise, seed=seed)
    plans.entry(stage, mode, plan.shapes)
    picture = runs.full_size(image, "image", plan.shape).to(working_dtype(image.dtype))
    white = white_noise(noise, seed, plan.basis, plan.shapes, like=picture)
    start, steps = (_noised if mode == "noised" else _clean)(picture, white, plan, stage)
    x = run(velocity, start, plan, steps, white, solver=find_solver(solver), callback=callback, progress=progress)
    return x.to(image.dtype)


def _noised(picture: Tensor, white: Noise, plan: Plan, stage: int) -> tuple[Tensor, tuple[Move, ...]]:
    """Sec. 5.5: the low band noised to the end of stage k - 1, from where the plan goes on, growth first."""
    entered = plan.moves(stage)
    grid, t = plan.shapes[max(stage - 1, 0)], entered[0].t
    x = (1 - t) * restrict_signal(picture, grid, basis=plan.basis) + t * white.on(grid)
    return x, entered


def _clean(picture: Tensor, white: Noise, plan: Plan, stage: int) -> tuple[Tensor, tuple[Move, ...]]:
    """App. G: the low band as it is, the new band noise of the level at which stage k starts; nothing is aligned."""
    entered = tuple(moves(plan.times, plan.shapes, plan.split, plan.clock, first=stage))
    growth = Grow.between(plan.shapes[stage - 1], plan.shapes[stage], entered[0].t)
    low = growth.ratio * restrict_signal(picture, growth.coarse, basis=plan.basis)
    return white.grow(low, replace(growth, kappa=1.0)), entered


def sdedit(
    velocity: Velocity, image: Tensor, times: Sequence[float], *, basis: Basis = DCT, dims: int = 2, **options: Any
) -> Tensor:
    r"""SDEdit, the baseline of :func:`edit`: noise the whole picture to ``times[0]`` and sample from there at full size.

    ``x = (1 - T_0) image + T_0 w``, then the solver over `times`. The same steps as an edit at stage k are
    ``plan.times[plan.stages[k].start:]``. ``T_0 = 1`` is plain sampling.

    Parameters
    ----------
    velocity, image
        As for :func:`edit`.
    times
        Strictly decreasing from the strength of the edit, at most 1, to 0.
    basis, dims
        The basis of a noise field made from `seed`, and the number of trailing spectral axes of the image.
    options
        noise, seed, solver, callback and progress, as for :func:`edit`.

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
    shape = tuple(inputs.state(image, "image", dims).shape[-dims:])
    return edit(velocity, image, plan_at(times, (), shape, scales=(1,), basis=basis), stage=0, **options)
