r"""What a pipeline's scheduler says of a call: its time grid, its solver, and the path on which states lie.

Flow matching is this library's own path: ``sigma`` is the time ``t``, timesteps are ``1000 t``. Variance-preserving networks
(Stable Diffusion 1, 2, XL) see ``alpha x_0 + sigma_vp eps`` at a timestep of their table; their schedulers count noise levels
``sigma = t / (1 - t)``, and either keep that state or EDM's ``x_0 + sigma eps``. On every one of these paths DDIM, Euler's
method, DPM-Solver++ and UniPC are the same step, so the state moves on the flow's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from spectral_pd.inputs import refuse
from spectral_pd.parametrisation import edm_from_flow, velocity_from_vp, vp_from_flow
from spectral_pd.solvers import Solver, Velocity, dpmpp_2m, euler, heun
from spectral_pd.stepwise import evaluation_times
from spectral_pd.unipc import unipc


@dataclass(frozen=True)
class Path:
    """Between the flow's state and time and what pipeline and network have in their place.

    Attributes
    ----------
    convert
        The flow's velocity from a network of this path, as of :mod:`spectral_pd.parametrisation`.
    unit
        The network's time over a thousandth of its timestep.
    held
        ``held(x, t)``: a state as the pipeline holds it.
    """

    convert: Callable[[Velocity], Velocity] = lambda network: network
    unit: float = 1.0
    held: Callable[[Tensor, float], Tensor] = lambda x, t: x

    def asked(self, x: Tensor, t: float) -> tuple[Tensor, float]:
        """State and time that the network is to be called with for the velocity at (x, t)."""
        seen: list[tuple[Tensor, float]] = []
        self.convert(lambda x, time: seen.append((x, time * self.unit)) or x)(x, t)  # type: ignore[func-returns-value]
        return seen[0]

    def velocity(self, answer: Tensor, x: Tensor, t: float) -> Tensor:
        """The velocity at (x, t) from the network's answer."""
        return self.convert(lambda *asked: answer)(x, t)

    def state(self, latents: Tensor, t: float) -> Tensor:
        """Inverse of `held`."""
        return latents / self.held(torch.ones((), dtype=latents.dtype), t)


_PREDICTS = {"epsilon": "noise", "sample": "denoised", "v_prediction": "v"}
_FLOW = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}
_DATAWARD = {"MiniMaxH3Scheduler"}  # a flow whose networks answer with the opposite velocity, at timesteps 1 - t
_PRESERVING = {"EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"}


def _is(scheduler: Any, names: set[str]) -> bool:
    return bool(names & {cls.__name__ for cls in type(scheduler).__mro__})


def is_flow(scheduler: Any) -> bool:
    """Whether states are the flow's."""
    return _is(scheduler, _FLOW | _DATAWARD) or bool(scheduler.config.get("use_flow_sigmas"))


def path_of(scheduler: Any) -> Path:
    """The path on which a scheduler's states lie."""
    if _is(scheduler, _DATAWARD):
        return Path(lambda network: lambda x, t: -network(x, t))
    if is_flow(scheduler):
        return Path()
    predicts: Any = _PREDICTS[scheduler.config.prediction_type]
    convert = partial(velocity_from_vp, predicts=predicts, alphas_cumprod=scheduler.alphas_cumprod.cpu())
    on_edm = type(scheduler).__name__.startswith("Euler")
    return Path(convert, 1e-3, lambda x, t: (edm_from_flow if on_edm else vp_from_flow)(x, t)[0])


def grid_times(scheduler: Any, begin: int = 0) -> tuple[float, ...]:
    """The time grid a scheduler has laid out, each time once: some repeat them, one an evaluation, or end on 0 twice."""
    times = dict.fromkeys(float(s) for s in scheduler.sigmas[begin:])
    return tuple(times) if is_flow(scheduler) else tuple(s / (1 + s) for s in times)


def lay_out(
    scheduler: Any, solver: Solver, calls: Callable[[tuple[float, ...]], Sequence[Sequence[int]]] | None
) -> tuple[float, ...]:
    """The time grid, and one iteration of the pipeline's loop for each call of its network.

    Parameters
    ----------
    calls
        ``calls(times)``: the grids each step calls; None is one, for each evaluation of the solver.
    """
    times = grid_times(scheduler)
    evaluations = evaluation_times(solver, times)
    if calls is not None:
        once = evaluations == list(times[:-1])
        refuse(not once, "calls on several grids need a solver that calls once a step; use 'euler' or 'dpmpp_2m'")
        steps, asked = calls(times), len(evaluations)
        refuse(len(steps) != asked, f"plan has {len(steps)} steps, this call {asked}; make it for this call's steps")
        index = [k for k, step in enumerate(steps) for _ in step]
        scheduler.timesteps = scheduler.timesteps[index]
        scheduler.sigmas = torch.cat([scheduler.sigmas[index], scheduler.sigmas[-1:]])
    elif len(evaluations) > len(times) - 1:  # as diffusers' own solvers of several evaluations
        text = f"{type(scheduler).__name__}'s times have no room for several evaluations a step; use 'dpmpp_2m'"
        refuse(not is_flow(scheduler) or _is(scheduler, _DATAWARD), text)
        scheduler.timesteps = torch.tensor(evaluations, device=scheduler.timesteps.device) * 1000
        scheduler.sigmas = torch.tensor([*evaluations, 0.0])
        scheduler.order = -(-len(evaluations) // (len(times) - 1))
    return times


def own_solver(scheduler: Any) -> Solver:
    """The solver that repeats a scheduler on its own grid."""
    name, order = type(scheduler).__name__, scheduler.config.get("solver_order", 1)
    if name == "FlowMatchHeunDiscreteScheduler":
        return heun
    if name.startswith("UniPC") and order == 2 and scheduler.config.get("solver_type") == "bh2":
        return unipc
    return dpmpp_2m if order > 1 else euler


def one_call_solver(scheduler: Any) -> Literal["euler", "dpmpp_2m"]:
    """The closest to a scheduler of the solvers that call once a step and are known by name."""
    return "euler" if own_solver(scheduler) is euler else "dpmpp_2m"


def check_scheduler(scheduler: Any, *, flow: bool) -> None:
    """Require a deterministic scheduler of the networks' path, flow matching or, without `flow`, that or variance-preserving.

    Raises
    ------
    ValueError
        Another path, stochastic, or with inverted sigmas.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if not (is_flow(scheduler) or (not flow and _is(scheduler, _PRESERVING))):
        wanted = "FlowMatchEulerDiscreteScheduler or a multistep scheduler with use_flow_sigmas=True"
        if not flow:
            wanted = "EulerDiscreteScheduler.from_config(pipe.scheduler.config), whose steps are DDIM's, or DPMSolverMultistep"
        what = "plain flow-matching time grid" if flow else "deterministic grid of noise levels"
        raise ValueError(f"scheduler {name} has no {what}; set pipe.scheduler to {wanted}")
    kind = str(config.get("algorithm_type", ""))
    refuse(kind.startswith("sde"), f"scheduler {name} adds noise (algorithm_type={kind!r}); use 'dpmsolver++'")
    for option in ("stochastic_sampling", "invert_sigmas"):
        refuse(bool(config.get(option)), f"scheduler {name} has {option}=True; progressive sampling needs it False")
