r"""Riding a pipeline's own loop: the pipeline keeps its full-size latents and never notices that the model works on smaller ones.

Three seams, all outside the pipeline's code:

- a **stand-in for its scheduler**: a copy whose ``step`` takes the model's output, moves the progressive state and, after the
  last step, hands the full-size result over. Until then it returns the latents it was given;
- a **hook before each network's forward**: what the pipeline passes for the full size (latents, position ids, times, condition
  images) is exchanged for what the present stage needs, input by input, as the family's :class:`Layout` says;
- the **latents as they are prepared**: the white field, or the noisy picture, that the state starts from.

Guidance, callbacks, adapters of every kind, offload and decoding are the pipeline's own code, bit for bit. In diffusers
``sigma`` is the time ``t`` of this library; timesteps are ``1000 t``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spectral_pd.adapters.layouts import Layout, Seat, seated
from spectral_pd.adapters.unipc import unipc
from spectral_pd.adapters.walk import Walk, evaluation_times, planned
from spectral_pd.plan import Plan
from spectral_pd.power import PRESETS
from spectral_pd.sampling import Coupling
from spectral_pd.solvers import Solver, SolverName, dpmpp_2m, euler, find_solver, heun


class _Probed(Exception):
    """Ends a trial call of the pipeline where its plan is known."""


class Ride:
    """One call of one pipeline, made progressive.

    Parameters
    ----------
    pipe
        A diffusers pipeline.
    layout
        How its family's latents lie.
    arguments
        The arguments of ``pipe(...)``.

    Raises
    ------
    ValueError
        A scheduler that is not deterministic flow matching.
    TypeError
        An argument the pipeline does not know.
    """

    def __init__(self, pipe: Any, layout: Layout, arguments: Mapping[str, Any]) -> None:
        check_arguments(pipe, arguments)
        check_scheduler(pipe.scheduler)
        self.pipe, self.layout, self.arguments = pipe, layout, dict(arguments)

    def plan(self, **options: Any) -> Plan:
        """The plan of this call: :func:`spectral_pd.make_plan` on the pipeline's own time grid and latent size.

        The pipeline is called up to its first model call, so prompts are encoded; generators are left as they were.

        Parameters
        ----------
        options
            Of :func:`spectral_pd.make_plan`: `scales` (1/2, 1), `delta`, `clock`, `spectrum` (None: the family's preset),
            `transition_times`, `unreached`, `cost`.

        Raises
        ------
        ValueError, TypeError
            Whatever the plan or the pipeline refuses.
        """
        given = self.arguments.get("generator")
        generators = given if isinstance(given, list) else [given] if isinstance(given, torch.Generator) else []
        states = [generator.get_state() for generator in generators]
        seated = _Seated(self, options, probe=True)
        try:
            with torch.random.fork_rng(), seated.riding():
                self.pipe(**self.arguments)
        except _Probed:
            pass
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            if hasattr(self.pipe, "maybe_free_model_hooks"):
                self.pipe.maybe_free_model_hooks()
        assert seated.walk is not None, "the pipeline never called its network"
        return seated.walk.plan

    def run(
        self,
        plan: Plan | Mapping[str, Any],
        *,
        solver: SolverName | Solver | None = None,
        coupling: Coupling = "coupled",
    ) -> Any:
        """Call the pipeline along `plan` and return what it returns.

        Parameters
        ----------
        plan
            From :meth:`plan`, or its options: then it is made when the pipeline first calls its network, and what it warns
            of is passed on by ``warnings.warn``.
        solver
            None repeats the pipeline's scheduler.
        coupling
            As :func:`spectral_pd.sample`.

        Raises
        ------
        ValueError, TypeError
            A plan of another call; a cache that :func:`check_caches` refuses; whatever the pipeline refuses.
        """
        seated = _Seated(self, plan, solver=solver, coupling=coupling)
        with seated.riding():
            return self.pipe(**self.arguments)


class _Seated:
    """The state of one run: what the stand-in and the hooks share."""

    def __init__(
        self,
        ride: Ride,
        plan: Plan | Mapping[str, Any],
        *,
        solver: SolverName | Solver | None = None,
        coupling: Coupling = "coupled",
        probe: bool = False,
    ) -> None:
        self.pipe, self.layout, self.arguments = ride.pipe, ride.layout, ride.arguments
        self.wanted, self.coupling, self.probe = plan, coupling, probe
        self.solver = find_solver(own_solver(self.pipe.scheduler) if solver is None else solver)
        self.watched = any(
            value is not None and (name == "callback_on_step_end" or "mask" in name)
            for name, value in self.arguments.items()
        )
        self.walk: Walk | None = None
        self.seat: Seat | None = None
        self.latents: Tensor | None = None  # full size, as the pipeline prepared them or was last given them
        self.noise: Tensor | None = None  # where the latents are not the noise
        self.handed: Tensor | None = None  # what a watched step returned
        self.inputs: Mapping[str, Any] = {}  # of the network's call, as the pipeline made it
        self.networks = [
            network for name in self.layout.networks if (network := getattr(self.pipe, name, None)) is not None
        ]

    @contextmanager
    def riding(self) -> Iterator[None]:
        """The pipeline with its scheduler, its latents and its networks' inputs in our hands."""
        pipe, stock = self.pipe, self.pipe.scheduler
        undo: list[Callable[[], Any]] = [lambda: setattr(pipe, "scheduler", stock)]
        pipe.scheduler = self._stand_in(stock)
        if hasattr(pipe, "prepare_latents"):
            pipe.prepare_latents = self._noting_latents(pipe.prepare_latents)
            undo.append(lambda: delattr(pipe, "prepare_latents"))
        for network in self.networks:
            undo.append(self._hook(network))
        try:
            yield
        finally:
            for restore in undo:
                restore()

    def _hook(self, network: Any) -> Callable[[], Any]:
        """Exchange the inputs of every call of `network`; a compiled one is called through, so that no graph sees us."""
        names = list(inspect.signature(type(getattr(network, "_orig_mod", network)).forward).parameters)[1:]

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
            return (), self._exchanged({**dict(zip(names, args, strict=False)), **kwargs}, module)

        def after(module: Any, args: Any, output: Any) -> Any:
            return self._answered(output)

        compiled = getattr(network, "_compiled_call_impl", None)
        if compiled is None:
            handles = [
                network.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                network.register_forward_hook(after),
            ]
            return lambda: [handle.remove() for handle in handles]
        network._compiled_call_impl = lambda *args, **kwargs: self._answered(
            compiled(**before(network, args, kwargs)[1])
        )
        return lambda: setattr(network, "_compiled_call_impl", compiled)

    def _noting_latents(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)
        def prepared(*args: Any, **kwargs: Any) -> Any:
            result = prepare(*args, **kwargs)
            self.latents = result[0] if isinstance(result, tuple) else result
            return result

        return prepared

    # The stand-in for the scheduler

    def _stand_in(self, stock: Any) -> Any:
        """A copy of the scheduler whose steps are ours; its own copies, as of a second modality, are the stock one's again."""
        scheduler = copy.deepcopy(stock)
        scheduler.__deepcopy__ = lambda memo: copy.deepcopy(stock, memo)
        set_timesteps = scheduler.set_timesteps

        @functools.wraps(set_timesteps)
        def timed(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            times = grid_times(scheduler)
            calls = evaluation_times(self.solver, times)
            if len(calls) != len(times) - 1:  # as diffusers' own solvers of several evaluations: one iteration for each
                scheduler.timesteps = torch.tensor(calls, device=scheduler.timesteps.device) * 1000
                scheduler.sigmas = torch.tensor([*calls, 0.0])
                scheduler.order = round(len(calls) / (len(times) - 1) + 0.5)

        scheduler.set_timesteps = timed
        scheduler.step = functools.partial(self._step, scheduler)
        for name in ("scale_noise", "add_noise"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, self._noting_noise(getattr(scheduler, name)))
        self.scheduler = scheduler
        return scheduler

    def _noting_noise(self, mix: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The noise that the pipeline mixes a picture with: the latents then start from it, and may be mixed at every step."""
        signature = inspect.signature(mix)

        @functools.wraps(mix)
        def mixed(*args: Any, **kwargs: Any) -> Tensor:
            if self.noise is None:
                self.noise, self.watched = signature.bind(*args, **kwargs).arguments["noise"], True
            return mix(*args, **kwargs)

        return mixed

    def _step(
        self,
        scheduler: Any,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """One evaluation's worth of the walk; the full-size latents, until the last step brings their result."""
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        scheduler._step_index += 1
        if self.walk is None or self.seat is None:
            raise RuntimeError(f"{type(self.pipe).__name__} made a step before it called any of {self.layout.networks}")
        latents = sample
        if not self.walk.finished:  # a step of no length at the end of older grids changes nothing
            seat, layout = self.seat, self.layout
            size = seat.full if layout.output else seat.stage
            velocity = layout.spatial(model_output, seat, size)[..., : seat.stage[0], : seat.stage[1]]
            self.walk.answer(velocity.to(torch.float32))
            if self.watched and not self.walk.inside:
                latents = self.handed = layout.handed(self.walk.shown(), sample, seat)
            elif self.walk.at_full_size:
                latents = layout.handed(self.walk.state, sample, seat)
        return SimpleNamespace(prev_sample=latents) if return_dict else (latents,)

    # The hook before a network

    def _exchanged(self, inputs: dict[str, Any], network: Any) -> dict[str, Any]:
        """The inputs of a network's call at full size, exchanged for those of the present stage."""
        inputs = {**self.layout.extra(inputs), **inputs}
        if self.walk is None:
            self._begin(inputs, network)
        walk, seat = self.walk, self.seat
        assert walk is not None and seat is not None
        if walk.finished:
            return inputs
        if self.handed is not None:
            self._take_edits(inputs)
        query = walk.query()
        step, stage = query.step, walk.plan.stages[query.step.stage]
        if seat.stage != stage.shape:
            self._empty_caches()
        on_grid = stage.shape == walk.plan.shape and query.time == walk.plan.times[step.number - 1]
        seat = self.seat = replace(
            seat,
            state=query.state,
            stage=stage.shape,
            time=None if on_grid else query.time,
            until=step.t_next,
            clock=walk.plan.times[step.number - 1],
        )
        self.inputs = inputs
        return {
            name: self.layout.inputs[name](value, seat) if name in self.layout.inputs and value is not None else value
            for name, value in inputs.items()
        }

    def _answered(self, output: Any) -> Any:
        """A network's answer as the pipeline expects it, where it computes with it before it steps."""
        seat, convert = self.seat, self.layout.output
        if convert is None or seat is None or seat.stage == seat.full or self.walk is None or self.walk.finished:
            return output
        if isinstance(output, tuple):
            return (convert(output[0], seat, self.inputs), *output[1:])
        output.sample = convert(output.sample, seat, self.inputs)
        return output

    def _begin(self, inputs: dict[str, Any], network: Any) -> None:
        """Plan and first state, at the first call of a network."""
        layout, scheduler = self.layout, self.scheduler
        latents = self.latents if self.latents is not None else layout.latents(inputs)
        seat = seated(layout, inputs, latents, network)
        latents, noise = (None if x is None else layout.spatial(x.to(torch.float32), seat, seat.full) for x in (latents, self.noise))
        times = grid_times(scheduler)
        # Some pipelines that start from a picture leave out the first timesteps without telling the scheduler.
        begin = scheduler.begin_index
        if begin is None:
            begin = len(scheduler.timesteps) - getattr(self.pipe, "_num_timesteps", len(scheduler.timesteps))
        times = times[times.index(float(scheduler.sigmas[begin])) :]
        if isinstance(self.wanted, Plan):
            plan = self.wanted
            if (plan.times, plan.shape) != (times, seat.full):
                raise ValueError(
                    f"plan has {plan.nfe} steps on {plan.shape}, this call {len(times) - 1} on {seat.full}, or another "
                    f"time grid; make the plan with the arguments of this call"
                )
        else:
            options = {"scales": (1 / 2, 1), "multiple_of": layout.multiple or layout.patch, **self.wanted}
            if options.get("spectrum") is None:
                options["spectrum"] = PRESETS[layout.preset]
            plan = planned(times, seat.full, options)
            plan = replace(plan, warnings=plan.warnings + layout.warnings(plan, self.pipe, self.arguments))
            if not self.probe:
                for text in plan.warnings:
                    warnings.warn(text, stacklevel=2)
        check_caches(self.networks, plan)
        if noise is not None and plan.clock != "full":
            raise ValueError("clock = 'stage' cannot start from a picture: its coarse times are not times of the full size")
        self.walk = Walk(
            plan,
            latents if noise is None else noise,
            start=None if noise is None else latents,
            solver=self.solver,
            coupling=self.coupling,
            seed=self.arguments.get("generator") if self.coupling == "fresh" else None,
        )
        self.seat = seat
        if self.probe:
            raise _Probed
        layout.begin(plan, self.pipe, scheduler)

    def _take_edits(self, inputs: dict[str, Any]) -> None:
        """What a callback, or the pipeline with a mask, made of the latents since the last step."""
        now, handed = self.layout.latents(inputs, self.seat), self.handed
        self.handed = None
        if not torch.equal(handed.to(now.dtype), now):
            before, after = (self.layout.spatial(x.to(torch.float32), self.seat, self.seat.full) for x in (handed.to(now.dtype), now))
            self.walk.edit(before, after)

    def _empty_caches(self) -> None:
        """Feature caches, and the momentum of some guidance, are of the old size."""
        from diffusers.hooks import HookRegistry

        for network in self.networks:
            HookRegistry.check_if_exists_or_initialize(network).reset_stateful_hooks()
        for name in ("guider", "ocr_guider"):
            momentum = getattr(getattr(self.pipe, name, None), "momentum_buffer", None)
            if momentum is not None:
                momentum.running_average = 0


def grid_times(scheduler: Any) -> tuple[float, ...]:
    """The time grid a scheduler has laid out, each time once: some repeat them, one an evaluation, or end on 0 twice."""
    return tuple(dict.fromkeys(float(s) for s in scheduler.sigmas))


def own_solver(scheduler: Any) -> Solver:
    """The solver that repeats a scheduler on its own grid."""
    name, order = type(scheduler).__name__, scheduler.config.get("solver_order", 1)
    if name == "FlowMatchHeunDiscreteScheduler":
        return heun
    if name.startswith("UniPC") and order == 2 and scheduler.config.get("solver_type") == "bh2":
        return unipc
    return dpmpp_2m if order > 1 else euler


def check_scheduler(scheduler: Any) -> None:
    """Require a deterministic flow-matching scheduler.

    Raises
    ------
    ValueError
        Not flow matching, stochastic, or with inverted sigmas.
    """
    config, name = scheduler.config, type(scheduler).__name__
    known = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}
    if not (known & {cls.__name__ for cls in type(scheduler).__mro__} or config.get("use_flow_sigmas")):
        raise ValueError(
            f"scheduler {name} has no plain flow-matching time grid; set pipe.scheduler to FlowMatchEulerDiscreteScheduler "
            f"or a multistep scheduler with use_flow_sigmas=True"
        )
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise ValueError(
            f"scheduler {name} adds noise (algorithm_type={config['algorithm_type']!r}); use 'dpmsolver++'"
        )
    for option in ("stochastic_sampling", "invert_sigmas"):
        if config.get(option):
            raise ValueError(f"scheduler {name} has {option}=True; progressive sampling needs it False")


def check_arguments(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Require arguments that the pipeline's call knows.

    Raises
    ------
    TypeError
        Another name.
    """
    known = [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(
            f"unknown argument {', '.join(unknown)}: {type(pipe).__name__} takes {', '.join(known)}, and progressive "
            f"sampling its own options"
        )


def check_caches(networks: list[Any], plan: Plan) -> None:
    """Refuse feature caches that cannot be emptied between the stages of `plan`.

    Raises
    ------
    ValueError
        MagCache with more than one stage; FasterCache of a guidance-distilled network where a stage begins inside the times
        whose attention it skips.
    """
    modules = (module for network in networks for module in network.modules())
    for hook in (hook for module in modules if hasattr(module, "_diffusers_hook") for hook in module._diffusers_hook.hooks.values()):
        name = type(hook).__name__
        if name.startswith("MagCache") and len(plan.stages) > 1:
            raise ValueError(
                "MagCache cannot be used across a transition: it looks its ratios up by a step counter of its own, which "
                "starts anew when the cache is emptied; use another cache, such as FirstBlockCacheConfig, or scales=(1,)"
            )
        if name == "FasterCacheBlockHook" and hook.is_guidance_distilled:
            # Its first call in the skipped range answers from the cache without asking whether there is anything in it.
            low, high = hook.timestep_skip_range
            begins = [1000 * plan.times[stage.start] for stage in plan.stages if low < 1000 * plan.times[stage.start] < high]
            if begins:
                raise ValueError(
                    f"FasterCache skips attention at timesteps in ({low}, {high}), and a stage begins at {begins[0]:.0f}, "
                    f"where its emptied cache has nothing to answer with; end the skipped range below {begins[0]:.0f}, or "
                    f"use another cache, such as FirstBlockCacheConfig"
                )
