r"""Riding a pipeline's own loop: it keeps its full-size latents and never notices that the model works on smaller ones.

Three seams, all outside the pipeline's code:

- a **stand-in for its scheduler**: a copy whose ``step`` takes the model's output, moves the progressive state and, once the
  stage is the full one, hands it over. Until then it returns the latents it was given;
- a **hook before each network's forward**: what the pipeline passes for the full size (latents, position ids, times, condition
  images) is exchanged for what the present stage needs, input by input, as the family's :class:`Layout` says;
- the **latents as they are prepared**: the white field, or the noisy picture, that the state starts from.

Guidance, callbacks, adapters of every kind, offload and decoding are the pipeline's own code, bit for bit. A callback, or a
pipeline that mixes a picture in by a mask, is shown the state grown to full size, and what it changes is carried back.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.adapters.layouts import Layout, Seat, seated
from spectral_pd.adapters.schedulers import check_scheduler, grid_times, is_flow, lay_out, own_solver, path_of
from spectral_pd.plan import Plan
from spectral_pd.pretrained import recognised, step_cost
from spectral_pd.sampling import COUPLING, Coupling
from spectral_pd.solvers import Solver, SolverName, euler, find_solver
from spectral_pd.stage_lora import StageLora, loaded
from spectral_pd.stepwise import Query, Walk, planned
from spectral_pd.training import check_metadata
from spectral_pd.two_grids import anchored

__all__ = ["Ride"]

PLAN_OR_OPTIONS = inputs.instance((Plan, Mapping), "what Ride.plan returned, or a mapping of its options")
Latents = tuple[Tensor, Tensor | None]
"""White field of the full size in space; the state at the first time where that is not the field itself."""


class _Enough(Exception):
    """Ends a call of the pipeline where what was asked of it is known."""


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
        A scheduler that adds noise, or whose path is not that of the networks.
    TypeError
        An argument the pipeline does not know.
    """

    def __init__(self, pipe: Any, layout: Layout, arguments: Mapping[str, Any]) -> None:
        check_arguments(pipe, arguments)
        check_scheduler(pipe.scheduler, flow=not layout.preserving)
        self.pipe, self.layout, self.arguments = pipe, layout, dict(arguments)

    @functools.cached_property
    def _found(self) -> tuple[tuple[float, ...], Seat]:
        """Time grid and latents of the call, found by making it up to its first model call; generators are left alone."""
        seen: list[Any] = []

        def look(times: tuple[float, ...], seat: Seat, latents: Latents) -> Walk:
            seen.append((times, seat))
            raise _Enough

        with _generators_kept(self.arguments):
            self._until_enough(_Seated(self, look, euler))
        if not seen:
            raise RuntimeError(f"{type(self.pipe).__name__} called none of its {self.layout.networks}")
        return seen[0]

    def _until_enough(self, seated_call: _Seated) -> None:
        log = logging.getLogger("diffusers.modular_pipelines")  # whose blocks log whatever passes through them
        level = log.level
        try:
            log.setLevel(logging.CRITICAL)
            with seated_call.riding():
                self.pipe(**self.arguments)
        except _Enough:
            pass
        finally:
            log.setLevel(level)
            if hasattr(self.pipe, "maybe_free_model_hooks"):
                self.pipe.maybe_free_model_hooks()

    @property
    def times(self) -> tuple[float, ...]:
        """The full-resolution time grid of the pipeline's own scheduler, N + 1 floats to 0."""
        return self._found[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, channels, [frames,] height, width) of the full-size state."""
        seat = self._found[1]
        return (*seat.lead, *seat.full)

    def read(self, planes: Tensor) -> Tensor:
        """Planes (batch, channels, [frames,] height, width) as the family's first layer reads them."""
        return self.layout.read(planes, self._found[1], getattr(self.pipe, self.layout.networks[0]))

    def plan(self, **options: Any) -> Plan:
        """The plan of this call: :func:`spectral_pd.make_plan` on the pipeline's own time grid and latent size.

        The pipeline is called once up to its first model call, so prompts are encoded; generators are left as they were.

        Parameters
        ----------
        options
            Of :func:`spectral_pd.make_plan`: `scales` ((1/2, 1) unless given), `delta`, `clock`, `spectrum` (None: the
            family's preset), `unreached`, `cost`, `basis`; `transition_times` as :func:`spectral_pd.plan_at`.

        Raises
        ------
        ValueError, TypeError
            Whatever the plan or the pipeline refuses.
        """
        return self._planned(options, *self._found)

    def _planned(self, options: Mapping[str, Any], times: tuple[float, ...], seat: Seat) -> Plan:
        layout = self.layout
        options = {"scales": (1 / 2, 1), "multiple_of": layout.tile, **options}
        if options.get("spectrum") is None:
            options["spectrum"] = layout.spectrum
        model = recognised(getattr(self.pipe, layout.networks[0], None))
        if options.get("cost") is None and model is not None:
            options["cost"] = step_cost(model, seat.full, frames=seat.frames)
        plan = planned(times, seat.full, options)
        return replace(plan, warnings=(*plan.warnings, *layout.warnings(plan, self.pipe, self.arguments)))

    def run(
        self,
        plan: Plan | Mapping[str, Any],
        *,
        solver: SolverName | Solver | None = None,
        coupling: Coupling = "coupled",
        stage_lora: str | Path | None = None,
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
        stage_lora
            File of an adapter for coarse stages (docs/agreement.md): on in these, off at full size. Its schedule is compared.

        Raises
        ------
        ValueError, TypeError
            A plan of another call; an adapter that does not fit; a cache that :func:`check_caches` refuses; whatever the
            pipeline refuses.
        """
        with self.along(plan, solver=solver, coupling=coupling, stage_lora=stage_lora):
            return self.pipe(**self.arguments)

    def along(
        self,
        plan: Plan | Mapping[str, Any],
        *,
        solver: SolverName | Solver | None = None,
        coupling: Coupling = "coupled",
        stage_lora: str | Path | None = None,
    ) -> AbstractContextManager[None]:
        """Inside, a call of the pipeline or of its denoising block with this ride's arguments is :meth:`run`."""
        return self._on(plan, solver, coupling, stage_lora).riding()

    def state(
        self,
        plan: Plan | Mapping[str, Any],
        *,
        solver: SolverName | Solver | None = None,
        coupling: Coupling = "coupled",
        stage_lora: str | Path | None = None,
    ) -> Tensor:
        """The state (batch, channels, [frames,] height, width) at time 0 of :meth:`run`, float32: nothing is decoded.

        Parameters and errors as :meth:`run`; generators are left as they were.
        """
        seated_call = self._on(plan, solver, coupling, stage_lora)
        seated_call.ends = True
        with _generators_kept(self.arguments):
            self._until_enough(seated_call)
        assert seated_call.walk is not None
        return seated_call.walk.state

    def _on(
        self,
        plan: Plan | Mapping[str, Any],
        solver: SolverName | Solver | None,
        coupling: Coupling,
        stage_lora: str | Path | None,
    ) -> _Seated:
        step_with = own_solver(self.pipe.scheduler) if solver is None else find_solver(solver)
        lora = None if stage_lora is None else loaded(getattr(self.pipe, self.layout.networks[0]), stage_lora)
        calls: Callable[[tuple[float, ...]], Sequence[Sequence[int]]] | None = None
        plan, coupling = PLAN_OR_OPTIONS(plan, "plan"), COUPLING(coupling, "coupling")
        if isinstance(plan, Plan):
            own = plan.calls
            calls = None if own is None else (lambda times: own.steps)
        elif "anchors" in plan:  # on which sizes the grids are depends on no grid's size
            asked = {"anchors": plan["anchors"], "scales": plan.get("scales", (1 / 2, 1))}
            calls = lambda times: anchored(times, (1024, 1024), **asked).calls  # noqa: E731

        def begin(times: tuple[float, ...], seat: Seat, latents: Latents) -> Walk:
            made = plan
            if not isinstance(made, Plan):
                made = self._planned(made, times, seat)
                for text in made.warnings:
                    warnings.warn(text, stacklevel=2)
            other = (
                f"plan has {made.nfe} steps on {made.shape}, this call {len(times) - 1} on {seat.full}, or other times"
            )
            wrong = (made.times, made.shape) != (times, seat.full)
            inputs.refuse(wrong, f"{other}; make the plan with the arguments of this call")
            if lora is not None and made.calls is None:
                check_metadata(lora.metadata, made)
            noise, start = latents
            text = (
                "clock = 'stage' starts from noise alone, not from a picture or a first time below 1; use clock='full'"
            )
            inputs.refuse(start is not None and made.clock != "full", text)
            seed = self.arguments.get("generator") if coupling == "fresh" else None
            return Walk(made, noise, start=start, solver=step_with, coupling=coupling, seed=seed)

        return _Seated(self, begin, step_with, calls=calls, stage_lora=lora)

    @inputs.door(x=inputs.state_of(2), t=inputs.one_time)
    def velocity(self, x: Tensor, t: float) -> Tensor:
        """``dx/dt = eps - x_0`` of a spatial state at its local time, by the networks with this call's prompts and guidance.

        Each call makes the pipeline's call up to its first step, so pass embeddings. Gradients are recorded where torch
        records them.

        Parameters
        ----------
        x
            State (batch, channels, [frames,] height, width), of any size the network takes.
        t
            Local time in (0, 1].

        Raises
        ------
        ValueError, TypeError
            Another batch or other channels or frames than the call's, a side that patches do not tile, or another time.
        """
        inputs.refuse(t == 0, "t = 0 is data, where no network is called; 0 < t <= 1 is allowed")
        seen: list[Tensor] = []

        def begin(times: tuple[float, ...], seat: Seat, latents: Latents) -> Walk:
            lead, side, multiple = tuple(x.shape[:-2]), x.shape[-2:], self.layout.tile
            inputs.refuse(
                lead != seat.lead, f"x has shape {tuple(x.shape)}; this call's states are {seat.lead} of any grid"
            )
            inputs.refuse(
                any(n % multiple for n in side), f"x has a grid of {tuple(side)}; sides are multiples of {multiple}"
            )
            plan = planned((t, 0.0), tuple(x.shape[-2:]), {"scales": (1,), "spectrum": self.layout.spectrum})
            return Walk(plan, x.detach(), solver=see)

        def see(velocity: Any, state: Tensor, t: float, t_next: float, history: Any = None) -> Any:
            seen.append(velocity(x, t))
            raise _Enough

        with _generators_kept(self.arguments):
            self._until_enough(_Seated(self, begin, euler, gradients=torch.is_grad_enabled()))
        return seen[0]


@contextmanager
def _generators_kept(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Random numbers drawn inside are drawn again outside."""
    given = arguments.get("generator")
    generators = [g for g in (given if isinstance(given, list) else [given]) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


class _Seated:
    """The state of one run: what the stand-in and the hooks share."""

    def __init__(
        self,
        ride: Ride,
        begin: Callable[[tuple[float, ...], Seat, Latents], Walk],
        solver: Solver,
        *,
        calls: Callable[[tuple[float, ...]], Sequence[Sequence[int]]] | None = None,
        gradients: bool = False,
        stage_lora: StageLora | None = None,
    ) -> None:
        self.pipe, self.layout, self.begin, self.solver = ride.pipe, ride.layout, begin, solver
        self.calls, self.gradients, self.stage_lora = calls, gradients, stage_lora
        self.watched = any(
            value is not None and (name in ("callback_on_step_end", "denoising_end") or "mask_image" in name)
            for name, value in ride.arguments.items()
        )
        self.ends = False  # whether the pipeline's call is over with the last step
        self.walk: Walk | None = None
        self.times: tuple[float, ...] = ()
        self.path = path_of(ride.pipe.scheduler)
        self.seat: Seat | None = None
        self.query: Query | None = None
        self.latents: Tensor | None = None  # full size, as the pipeline prepared them
        self.noise: Tensor | None = None  # where the latents are not the noise
        self.handed: Tensor | None = None  # what a watched step returned
        self.inputs: Mapping[str, Any] = {}  # of the network's call, as the pipeline made it
        self.networks = [n for name in self.layout.networks if (n := getattr(self.pipe, name, None)) is not None]

    @contextmanager
    def riding(self) -> Iterator[None]:
        """The pipeline with its scheduler, its latents and its networks' inputs in our hands."""
        pipe, stock = self.pipe, self.pipe.scheduler
        undo: list[Callable[[], Any]] = [lambda: setattr(pipe, "scheduler", stock)]
        try:
            pipe.scheduler = self._stand_in(stock)
            if hasattr(pipe, "prepare_latents"):
                own = vars(pipe).get("prepare_latents")
                pipe.prepare_latents = self._noting_latents(pipe.prepare_latents)
                undo.append(lambda: setattr(pipe, "prepare_latents", own) if own else delattr(pipe, "prepare_latents"))
            for network in self.networks:
                undo.append(self._hook(network))
            if self.stage_lora is not None:
                undo.append(partial(self.stage_lora.switch, False))
            self._empty_caches()
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
        scheduler = self.scheduler = copy.deepcopy(stock)
        scheduler.__deepcopy__ = lambda memo: copy.deepcopy(stock, memo)
        set_timesteps = scheduler.set_timesteps

        @functools.wraps(set_timesteps)
        def timed(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            self.times = lay_out(scheduler, self.solver, self.calls)

        scheduler.set_timesteps = timed
        scheduler.step = self._step
        scheduler.scale_model_input = lambda sample, timestep=None: sample  # the network's own comes with the exchange
        for name in ("scale_noise", "add_noise"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, self._noting_noise(getattr(scheduler, name)))
        return scheduler

    def _noting_noise(self, mix: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The noise that the pipeline mixes a picture with, before its first step: the latents are then not the noise."""
        signature = inspect.signature(mix)

        @functools.wraps(mix)
        def mixed(*args: Any, **kwargs: Any) -> Tensor:
            if self.walk is None:
                self.noise = signature.bind(*args, **kwargs).arguments["noise"]
            return mix(*args, **kwargs)

        return mixed

    def _step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **unused: Any
    ) -> Any:
        """One evaluation's worth of the walk; the full-size latents as they were until they are the state."""
        scheduler = self.scheduler
        if scheduler.step_index is None:
            begin = scheduler.begin_index
            scheduler._step_index = scheduler.index_for_timestep(timestep) if begin is None else begin
        scheduler._step_index += 1
        walk, seat, layout, query = self.walk, self.seat, self.layout, self.query
        if walk is None or seat is None or query is None:
            raise RuntimeError(f"{type(self.pipe).__name__} made a step before it called any of {layout.networks}")
        latents = sample
        if not walk.finished:  # a step of no length at the end of older grids changes nothing
            size = seat.full if layout.output else seat.stage
            velocity = layout.spatial(model_output, seat, size)[..., : seat.stage[0], : seat.stage[1]]
            walk.answer(self.path.velocity(velocity.to(torch.float32), query.state, query.time))
            if self.ends and walk.finished:
                raise _Enough
            if walk.stage != seat.stage:
                self._empty_caches()
            # As the stock one: flow matching's own schedulers answer in the model's type.
            own = "FlowMatch" in type(self.scheduler).__name__
            like = sample.to(model_output.dtype) if own and walk.finished else sample
            if walk.at_full_size or (self.watched and not walk.inside):
                held = self.path.held(walk.shown(), walk.clock)
                latents = layout.handed(held, like, seat, self.inputs)
                self.handed = latents if self.watched and not walk.inside else None
        return SimpleNamespace(prev_sample=latents) if return_dict else (latents,)

    # The hooks of a network

    def _exchanged(self, inputs: dict[str, Any], network: Any) -> dict[str, Any]:
        """The inputs of a network's call at full size, exchanged for those of the present stage."""
        layout = self.layout
        inputs = {**layout.extra(inputs), **inputs}
        if self.walk is None:
            self._begin(inputs, network)
        walk, seat = self.walk, self.seat
        assert walk is not None
        assert seat is not None
        if walk.finished:
            return inputs
        if self.handed is not None:
            self._take_edits(inputs, seat, self.handed)
        query = self.query = walk.query()
        on_grid = query.grid == seat.full and query.time == walk.clock and walk.plan.times == self.times
        state, asked = self.path.asked(query.state, query.time)
        time, clock = None if on_grid else asked, walk.clock
        self.seat = replace(seat, state=state, stage=query.grid, time=time, until=query.until, clock=clock)
        self.inputs = inputs
        if self.stage_lora is not None:
            lora, basis = self.stage_lora, walk.plan.basis
            pack = partial(layout.read, seat=seat, network=lora.network)
            lora.enter(walk.white, query.grid, query.time, basis=basis, pack=pack, last=layout.last)
        if self.gradients:  # pipelines turn them off before they call their network, and back when they end
            torch.set_grad_enabled(True)
        return {
            name: layout.inputs[name](value, self.seat) if name in layout.inputs and value is not None else value
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
        """First state, at the first call of a network."""
        layout, scheduler = self.layout, self.scheduler
        latents = layout.latents(inputs) if self.latents is None else self.latents
        seat = self.seat = seated(layout, inputs, self.latents, network)
        x = layout.spatial(latents.to(torch.float32), seat, seat.full)
        noise = None if self.noise is None else layout.spatial(self.noise.to(torch.float32), seat, seat.full)
        # Some pipelines that start from a picture leave out the first timesteps without telling the scheduler.
        skipped = len(scheduler.timesteps) - getattr(self.pipe, "_num_timesteps", len(scheduler.timesteps))
        begin = skipped if scheduler.begin_index is None else scheduler.begin_index
        if self.calls is None:
            self.times = grid_times(scheduler, begin)
        elif begin:
            raise ValueError("calls on several grids begin with the first step; leave strength away")
        if noise is None and not is_flow(scheduler):  # whose first time is below 1
            noise = x / float(scheduler.init_noise_sigma)
        start = None if noise is None else self.path.state(x, self.times[0])
        self.walk = self.begin(self.times, seat, (x if noise is None else noise, start))
        check_caches(self.networks, self.walk.plan)
        layout.begin(self.walk.plan, self.pipe, scheduler)

    def _take_edits(self, inputs: dict[str, Any], seat: Seat, handed: Tensor) -> None:
        """What a callback, or the pipeline with a mask, made of the latents since the last step."""
        self.handed = None
        now = self.layout.latents(inputs, seat)
        before, walk = handed.to(now.dtype), self.walk
        if walk is not None and not torch.equal(before, now):
            states = (self.layout.spatial(x.to(torch.float32), seat, seat.full) for x in (before, now))
            walk.edit(*(self.path.state(x, walk.clock) for x in states))

    def _empty_caches(self) -> None:
        """Feature caches, and the momentum of some guidance, are of the old size."""
        from diffusers.hooks import HookRegistry

        for network in self.networks:
            HookRegistry.check_if_exists_or_initialize(network).reset_stateful_hooks()
        for name in ("guider", "ocr_guider"):
            momentum = getattr(getattr(self.pipe, name, None), "momentum_buffer", None)
            if momentum is not None:
                momentum.running_average = 0


def check_arguments(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Require arguments that the pipeline's call knows, and of those a ride can follow.

    Raises
    ------
    TypeError, ValueError
        Another name; a start from latents whose noise nobody knows any more.
    """
    if arguments.get("denoising_start") is not None:
        raise ValueError(
            "denoising_start begins from another pipeline's noisy latents, whose coarse bands are there already; call the "
            "pipeline itself"
        )
    if hasattr(pipe, "blocks"):
        return  # a modular pipeline's blocks name their own
    parameters = inspect.signature(type(pipe).__call__).parameters.values()
    known = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
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
    modules = [module for network in networks for module in network.modules() if hasattr(module, "_diffusers_hook")]
    for hook in (hook for module in modules for hook in module._diffusers_hook.hooks.values()):
        name = type(hook).__name__
        if plan.calls is not None and ("Cache" in name or "Pyramid" in name):
            raise ValueError(
                f"{name} guesses calls that a plan with calls on several grids has already replaced; disable the cache, or "
                f"use a plan of stages"
            )
        if name.startswith("MagCache") and len(plan.stages) > 1:
            raise ValueError(
                "MagCache cannot be used across a transition: it looks its ratios up by a step counter of its own, which "
                "starts anew when the cache is emptied; use another cache, such as FirstBlockCacheConfig, or scales=(1,)"
            )
        if name == "FasterCacheBlockHook" and hook.is_guidance_distilled:
            # Its first call in the skipped range answers from the cache without asking whether there is anything in it.
            low, high = hook.timestep_skip_range
            begins = [t for stage in plan.stages if low < (t := 1000 * plan.times[stage.start]) < high]
            if begins:
                raise ValueError(
                    f"FasterCache skips attention at timesteps in ({low}, {high}), and a stage begins at {begins[0]:.0f}, "
                    f"where its emptied cache has nothing to answer with; end the skipped range below {begins[0]:.0f}, or "
                    f"use another cache, such as FirstBlockCacheConfig"
                )
