r"""Progressive sampling for code that speaks k-diffusion: ``sample_*(model, x, sigmas, ...)`` with a denoiser model.

``model(x, sigma, **extra_args)`` returns the denoised picture at noise level sigma. ``path`` says what x is: on
``"flow"`` x = (1 - sigma) x_0 + sigma eps (FLUX, SD3, WAN, Z-Image and other flow models in ComfyUI); on ``"edm"``
x = x_0 + sigma eps (Stable Diffusion 1, 2 and XL behind k-diffusion's wrappers, EDM models).

On the full clock with coupled noise a sampler needs not know of stages. While its sigma lies above t* the denoiser it is
handed calls the model on a stage's grid, and answers for the full one:

    ``D^(x, T) = r U D(y, tau)``,   ``y = U^T x / kappa(tau, r)``,   ``tau = align(T, 1 / r)``,

on the EDM path ``y = U^T x / r`` at ``sigma / r``. The high band is answered by 0, the mean of what is not yet there; every
sampler then leaves it what it was, white noise of the present level. So one call of the sampler makes the whole run: its
history goes on across transitions; its own noise, ancestral or of a Brownian tree, is drawn once on the full grid, of which a
stage sees the low band; and the state it holds has the full size wherever it begins or stops.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from spectral_pd import inputs
from spectral_pd.bases import Basis, size_ratio
from spectral_pd.expansion import Grow, Source, white_noise
from spectral_pd.inputs import door, refuse, working_dtype
from spectral_pd.noise import NoiseField
from spectral_pd.parametrisation import edm_from_flow, flow_from_edm
from spectral_pd.plan import Plan, Stage, Step
from spectral_pd.sampling import COUPLING
from spectral_pd.solvers import Solver, SolverName, find_solver
from spectral_pd.stepwise import planned
from spectral_pd.theory import align_scale, align_time

Path = Literal["flow", "edm"]
Sampler = Callable[..., Tensor]
"""``sampler(model, x, sigmas, extra_args=, callback=, disable=)``: one of k-diffusion's or ComfyUI's functions."""
PATH = inputs.choice("flow", "edm")


@door(x=inputs.state_of(2), path=PATH)
def sample_spectral(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
    *,
    path: Path = "flow",
    sampler: SolverName | Sampler = "euler",
    seed: Source | None = None,
    **options: Any,
) -> Tensor:
    """Sample progressively with a k-diffusion style denoiser; a drop-in for its ``sample_euler``.

    Parameters
    ----------
    model
        ``model(x, sigma, **extra_args)`` -> denoised, at any stage size; sigma has one value an item.
    x
        State at ``sigmas[0]``, (batch, ..., height, width): noise, a picture with noise, or where another run stopped.
    sigmas
        Full-resolution noise levels, decreasing. They may begin below the largest level and end above 0: two runs that share
        the level between them make the steps of one.
    extra_args, callback, disable
        As in k-diffusion. The callback gets the sampler's own dict, of the full size.
    path
        ``"flow"`` or ``"edm"``; see the module's text.
    sampler
        ``"euler"``, ``"heun"``, ``"dpmpp_2m"`` (:mod:`spectral_pd.solvers`), or a function of k-diffusion or ComfyUI, whose
        own options ``functools.partial`` sets. A call at a level above a stage's t* is made on that stage's grid.
    seed
        An int or one an item: where the noise of a stochastic sampler that takes `noise_sampler` comes from (a Brownian tree
        an item), and of ``coupling="fresh"``; item i then equals a batch of one. None leaves both as they are.
    options
        Of :func:`spectral_pd.make_plan`, `spectrum` among them (`scales` (1/2, 1) unless given), or `transition_times` for
        :func:`spectral_pd.plan_at`: flow times, ``sigma / (1 + sigma)`` on ``path="edm"``; or `anchors`, the steps that call
        the full size (:func:`spectral_pd.two_grids.held`), of a sampler that calls once a step. And `coupling`. The paper's
        ``clock="stage"`` and ``coupling="fresh"`` run the sampler once a stage, on its grid: from pure noise to 0.

    Returns
    -------
    The state at ``sigmas[-1]``, of x's shape and dtype. The same noise gives the picture of the same sampler at full size, up
    to the band that delta bounds: for stochastic samplers too, whose noise is that of the full-size run.

    Raises
    ------
    ValueError, TypeError
        An unknown path or sampler, a flow sigma above 1, and whatever the plan refuses.

    Examples
    --------
    >>> import torch
    >>> from spectral_pd import PRESETS, shift_times
    >>> model = lambda x, sigma: torch.zeros_like(x)  # stands in for a denoiser
    >>> x, sigmas = torch.randn(1, 4, 32, 32), shift_times(8, shift=3.0)
    >>> sample_spectral(model, x, sigmas, disable=True, spectrum=PRESETS["flux"]).shape
    torch.Size([1, 4, 32, 32])
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    levels = sigmas if isinstance(sigmas, Tensor) else torch.tensor(list(sigmas), dtype=dtype, device=x.device)
    coupling = COUPLING(options.pop("coupling", "coupled"), "coupling")
    plan = plan_of(levels, tuple(x.shape[-2:]), path, {"scales": (1 / 2, 1), **options})
    run = partial(_by_solver, find_solver(sampler, "sampler"), path) if isinstance(sampler, str) else sampler
    if seed is not None and "noise_sampler" in inspect.signature(run).parameters:
        run = partial(_seeded, run, seed)
    run = partial(run, extra_args=dict(extra_args or {}), disable=disable)
    if plan.calls is not None:
        refuse(
            coupling != "coupled" or float(levels[-1]) != 0, "anchors need coupling='coupled', and sigmas that end at 0"
        )
        return run(CalledDenoiser(model, plan, path), x, levels, callback=callback)
    if plan.clock == "full" and coupling == "coupled":
        return run(StagedDenoiser(model, plan, path), x, levels, callback=callback)
    return by_stages(run, model, x, levels, plan, path, coupling=coupling, seed=seed, callback=callback)


def flow_times(sigmas: Tensor, path: Path) -> list[float]:
    """Noise levels as times of the flow path: ``sigma / (1 + sigma)`` on the EDM path."""
    levels = [float(s) for s in sigmas]
    refuse(len(levels) < 2 or max(levels) <= 0, f"sigmas = {levels} holds no step; pass noise levels that decrease")
    return [s / (1 + s) for s in levels] if path == "edm" else levels


def plan_of(sigmas: Tensor, shape: tuple[int, ...], path: Path, options: Mapping[str, Any]) -> Plan:
    """The plan of a run over `sigmas`, which may begin and stop anywhere, and may also go up, from 0 to noise."""
    times = sorted(set(flow_times(sigmas, path)), reverse=True)
    if times[-1] > 0:
        # What comes after is not known: steps that halve the level, so that every transition has its place.
        times += [times[-1] / 2**k for k in range(1, 40)] + [0.0]
    return planned(times, shape, options)


def local_level(sigma: Any, ratio: float, path: Path) -> Any:
    """A noise level of the full clock as a stage of that ratio sees it: a number, or a tensor of them."""
    return sigma / ratio if path == "edm" else align_time.bare(sigma, 1 / ratio)


def raised(picture: Tensor, shape: tuple[int, ...], basis: Basis) -> Tensor:
    """A picture on the full grid, its high band 0."""
    return size_ratio(picture.shape[-len(shape) :], shape) * basis.embed(picture, shape)


class StagedDenoiser:
    """A denoiser of the full grid that calls `model` on the grid which `plan` has at the present noise level.

    With a plan of one scale, and below the last t*, the call is handed on untouched. What else is asked of it, the model is
    asked: k-diffusion's and ComfyUI's samplers look up what they wrap.

    Parameters
    ----------
    model
        ``model(x, sigma, **arguments)`` -> denoised, at every stage size; sigma has one value an item.
    plan, path
        On the full clock; see the module's text.
    """

    def __init__(self, model: Callable[..., Tensor], plan: Plan, path: Path) -> None:
        self.model, self.plan, self.path = model, plan, path
        self._ends = tuple(_end(plan, i) for i in range(len(plan.stages) - 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def stage(self, sigma: float) -> Stage:
        """The stage on whose grid the model is called at a noise level."""
        time = sigma / (1 + sigma) if self.path == "edm" else sigma
        coarse = (stage for stage, end in zip(self.plan.stages, self._ends, strict=False) if time > end)
        return next(coarse, self.plan.stages[-1])

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor:
        level = float(sigma.flatten()[0])
        stage, basis = self.stage(level), self.plan.basis
        if stage.shape == self.plan.shape:
            return self.model(x, sigma, **arguments)
        ratio, low = stage.ratio, local_level(sigma, stage.ratio, self.path)
        kappa = ratio if self.path == "edm" else align_scale.bare(local_level(level, ratio, "flow"), ratio)
        y = (basis.restrict(x.to(working_dtype(x.dtype)), stage.shape) / kappa).to(x.dtype)
        return raised(self.model(y, low, **arguments), self.plan.shape, basis).to(x)


class CalledDenoiser(StagedDenoiser):
    """A denoiser of the full grid for ONE run along a plan with calls on several grids, one call a step in their order."""

    def __init__(self, model: Callable[..., Tensor], plan: Plan, path: Path) -> None:
        super().__init__(model, plan, path)
        self._arguments: dict[str, Any] = {}
        self._velocity = plan.velocity(self._asked)

    def _asked(self, y: Tensor, t: float) -> Tensor:
        state, sigma = edm_from_flow(y, t) if self.path == "edm" else (y, t)
        return (y - self.model(state, state.new_full((len(state),), sigma), **self._arguments)) / t

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor:
        self._arguments, level = arguments, float(sigma.flatten()[0])
        y, t = flow_from_edm(x, level) if self.path == "edm" else (x, level)
        return (y - t * self._velocity(y, t)).to(x)


def _end(plan: Plan, i: int) -> float:
    """The time above which stage `i` is called: its t*, kept off the grid times, which some samplers round."""
    t_star, stop = plan.stages[i].t_star, plan.stages[i].stop
    assert t_star is not None
    if stop == 0:
        return max(t_star, plan.times[0])
    before, reached = plan.times[stop - 1], plan.times[stop]
    margin = (before - reached) / 1000
    return min(max(t_star, reached + margin), before - margin)


def by_stages(
    run: Sampler,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    plan: Plan,
    path: Path,
    *,
    coupling: str,
    seed: Source | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> Tensor:
    """Run a sampler once a stage, on its grid and local times, growing between: what the stage clock and fresh noise need.

    `x` is pure noise of level ``sigmas[0]``. A multistep sampler begins anew in each stage; the callback's ``i`` counts on.
    """
    levels = [float(s) for s in sigmas]
    asked = "clock='stage'" if plan.clock == "stage" else "coupling='fresh'"
    refuse(
        levels[-1] != 0, f"{asked} grows a state from noise to 0, and sigmas ends at {levels[-1]:g}: let it end at 0"
    )
    noise = white_noise(x / levels[0], seed, plan.basis, plan.shapes)
    y = noise.on(plan.start_shape) * (levels[0] / (1 + levels[0]) if path == "edm" else levels[0]) / plan.start_kappa
    for growing, moves in groupby(plan.moves(), key=lambda move: isinstance(move, Grow)):
        if growing:
            for move in moves:
                assert isinstance(move, Grow)
                y = (noise if coupling == "coupled" else noise.fresh(move)).grow(y, move)
            continue
        steps = [step for step in moves if isinstance(step, Step)]
        times = [*(step.t for step in steps), steps[-1].t_next]
        if path == "edm":
            y, _ = edm_from_flow(y, times[0])
            times = [edm_from_flow(y[:0], t)[1] for t in times]
        local = torch.tensor(times, dtype=sigmas.dtype, device=x.device)
        y = run(model, y.to(x.dtype), local, callback=_counting(callback, steps[0].number - 1)).to(y.dtype)
        if path == "edm":
            y, _ = flow_from_edm(y, times[-1])
    return y.to(x.dtype)


def _counting(callback: Callable[[dict[str, Any]], object] | None, done: int) -> Callable[..., object] | None:
    """A callback whose steps count on from those done."""
    return None if callback is None else lambda info: callback({**info, "i": done + info["i"]})


def _by_solver(
    solver: Solver,
    path: Path,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    extra_args: Mapping[str, Any],
    callback: Callable[[dict[str, Any]], object] | None,
    disable: bool | None,
) -> Tensor:
    """A solver of this library in the form of k-diffusion's functions; it steps in flow time on either path."""
    seen: dict[str, Any] = {}

    def velocity(y: Tensor, t: float) -> Tensor:
        state, sigma = edm_from_flow(y, t) if path == "edm" else (y, t)
        seen.update(x=state, sigma_hat=sigma)
        seen["denoised"] = model(state, state.new_full((len(state),), sigma), **extra_args)
        return (y - seen["denoised"]) / t

    y, history = flow_from_edm(x, float(sigmas[0]))[0] if path == "edm" else x, None
    steps = list(pairwise(flow_times(sigmas, path)))
    for i, (t, t_next) in enumerate(tqdm(steps, disable=bool(disable))):
        y, history = solver(velocity, y, t, t_next, history)
        if callback is not None:
            callback({**seen, "i": i, "sigma": sigmas[i]})
    return edm_from_flow(y, t_next)[0] if path == "edm" else y


def _seeded(run: Sampler, seed: Source, model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, **more: Any) -> Tensor:
    """Run a sampler with k-diffusion's `noise_sampler` from a seed an item."""
    return run(model, x, sigmas, noise_sampler=_brownian_noise(x, float(sigmas.max()), seed), **more)


def _brownian_noise(x: Tensor, sigma_max: float, seed: Source) -> Callable[[Any, Any], Tensor]:
    """Increments of a Brownian tree an item on the grid of `x`, of unit variance."""
    import torchsde  # both k-diffusion and ComfyUI come with it

    ends = {"t0": 0.0, "t1": sigma_max, "w0": torch.zeros(x.shape[1:])}
    keys = NoiseField(seed).item_keys(len(x))
    # One tree a grid: the size is part of its seed.
    trees = [torchsde.BrownianTree(**ends, entropy=(key ^ x[0].numel()) % 2**63) for key in keys]

    def draw(sigma: Any, sigma_next: Any) -> Tensor:
        low, high = sorted((float(sigma), float(sigma_next)))
        return torch.stack([tree(low, high) for tree in trees]).to(x) / (high - low) ** 0.5

    return draw
