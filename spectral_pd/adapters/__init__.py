r"""Pretrained models: progressive sampling of a diffusers pipeline in one call.

    from spectral_pd.adapters import progressive
    images = progressive(pipe, prompt="...", scales=(1 / 2, 1), delta=0.01, num_inference_steps=50, generator=g).images

takes the arguments of ``pipe(...)`` and returns what ``pipe(...)`` returns, through the pipeline's own loop. diffusers is
imported only here, when a pipeline is called, and never by the rest of the library.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from spectral_pd import inputs
from spectral_pd.adapters.families import LAYOUTS as LAYOUTS
from spectral_pd.adapters.families import find_layout as find_layout
from spectral_pd.adapters.k_diffusion import sample_spectral as sample_spectral
from spectral_pd.adapters.layouts import Layout as Layout
from spectral_pd.adapters.rider import Ride as Ride
from spectral_pd.adapters.schedulers import one_call_solver
from spectral_pd.calibrate import Calibration, calibrate_runs
from spectral_pd.inputs import door, refuse, shown
from spectral_pd.plan import Calls
from spectral_pd.pretrained import recognised, step_cost
from spectral_pd.sampling import Coupling
from spectral_pd.schedule import make_plan, plan_at, stage_shape
from spectral_pd.solvers import Solver, SolverName


def adapt(pipe: Any, prompt: Any = None, *, layout: Layout | None = None, **arguments: Any) -> Ride:
    """Prepare one call of a pipeline without making it.

    Parameters
    ----------
    pipe
        A supported diffusers pipeline, see :data:`LAYOUTS`.
    prompt, arguments
        The arguments of ``pipe(...)``.
    layout
        Your own, for a pipeline that is not supported.

    Returns
    -------
    A :class:`Ride`: ``print(ride.plan(scales=(1/2, 1)))`` shows the plan, ``ride.run(plan)`` runs it.

    Raises
    ------
    ValueError, TypeError
        An unsupported pipeline, argument or scheduler, each by name.
    """
    layout = find_layout(pipe) if layout is None else layout
    return Ride(pipe, layout, arguments if prompt is None else {"prompt": prompt, **arguments})


@door(scales=inputs.scales)
def calibrate(
    pipe: Any,
    calls: Iterable[Mapping[str, Any]],
    *,
    scales: Sequence[float] = (1 / 2, 1),
    solver: Literal["euler", "dpmpp_2m"] | None = None,
    layout: Layout | None = None,
    model: str = "",
) -> Calibration:
    """Measure the moments of a pipeline's own calls, of which :func:`spectral_pd.calibrate.choose_pattern` makes plans.

    Each call is made twice, up to its last step: once on all sizes at every step, and once with few calls of the full one.

    Parameters
    ----------
    pipe
        A diffusers pipeline of a supported family.
    calls
        The arguments of some eight calls with different prompts and generators, all of one size, guidance and number of steps:
        those the plan is for.
    scales
        The sizes that may be called, increasing to 1; each more costs a call a step here.
    solver
        The one to be used with the plan; None is that of the pipeline's scheduler, or of its order where it is none of these.
    layout, model
        As :func:`progressive`; a name kept with the numbers.

    Raises
    ------
    ValueError, TypeError
        Calls of different sizes or time grids, or none; whatever the pipeline refuses.
    """
    refuse(isinstance(calls, Mapping), "calls are the arguments of one call; pass a list of those of several")
    rides, solver = [adapt(pipe, layout=layout, **one) for one in calls], solver or one_call_solver(pipe.scheduler)
    shapes, times = one_size([(ride.shape[-2:], ride.times) for ride in rides])
    grids = [stage_shape(shapes, scale, multiple_of=rides[0].layout.tile) for scale in scales]
    whole = plan_at(times, (), shapes, scales=(1,))

    def run(calls: Calls, ride: Ride) -> Tensor:
        return ride.state(replace(whole, calls=calls), solver=solver)

    found = calibrate_runs([partial(run, ride=ride) for ride in rides], times, grids, solver=solver, model=model)
    known = recognised(getattr(pipe, rides[0].layout.networks[0]))
    return found if known is None else replace(found, costs=tuple(map(step_cost(known, shapes), grids)))


def one_size(found: Sequence[tuple[tuple[int, ...], tuple[float, ...]]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The size and time grid that all calls have."""
    if len(set(found)) != 1:
        sizes = ", ".join(f"{shown(shape)} in {len(times) - 1} steps" for shape, times in dict.fromkeys(found))
        raise ValueError(f"calls have {sizes or 'no member'}; pass calls of one size and one time grid")
    return found[0]


def progressive(
    pipe: Any,
    prompt: Any = None,
    *,
    scales: Sequence[float] = (1 / 2, 1),
    delta: float = 0.01,
    spectrum: Any = None,
    coupling: Coupling = "coupled",
    solver: SolverName | Solver | None = None,
    layout: Layout | None = None,
    stage_lora: str | Path | None = None,
    **arguments: Any,
) -> Any:
    """Call a diffusers pipeline progressively: same arguments, same output, same picture for the same seed, sooner.

    Parameters
    ----------
    pipe
        A diffusers pipeline of a supported family (docs/adapters.md).
    prompt
        As for the pipeline.
    scales
        Stage sizes over the full size, increasing to 1; ``(1,)`` is the stock pipeline's own result.
    delta
        Tolerated velocity error of bands not yet represented; SMALLER is slower and closer to full resolution.
    spectrum
        None is the family's preset in :data:`spectral_pd.PRESETS`; some are borrowed from another model.
    coupling, solver
        As :func:`spectral_pd.sample`; the solver defaults to that of the pipeline's scheduler. With the defaults the same
        generator gives the same picture as the stock pipeline, up to what delta tolerates.
    layout
        Your own, for a pipeline that is not supported.
    stage_lora
        File of an adapter that is on in coarse stages only, of a network repaired to agree with itself (docs/agreement.md).
    arguments
        Every argument of ``pipe(...)``, and further options of :func:`spectral_pd.make_plan` by name
        (`clock`, `transition_times`, `unreached`, `cost`). Or `anchors`: steps, counted from 0, that call the full size
        while all others call the smallest of `scales`, from a state of full size (:func:`spectral_pd.two_grids.held`);
        `delta` and `spectrum` are then not used. Calls chosen by a calibration: ``adapt(pipe, ...).run(plan)``.

    Returns
    -------
    What ``pipe(...)`` returns, of the full size. What the plan warns of is passed on by ``warnings.warn``.

    Raises
    ------
    ValueError, TypeError
        An unsupported pipeline, argument or scheduler, each by name; whatever the pipeline or the plan refuses.
    """
    options = {name: arguments.pop(name) for name in sorted(_PLAN & set(arguments))}
    options.update(scales=scales, delta=delta, spectrum=spectrum)
    return adapt(pipe, prompt, layout=layout, **arguments).run(
        options, solver=solver, coupling=coupling, stage_lora=stage_lora
    )


def progressive_block(
    block: Any,
    *,
    coupling: Coupling = "coupled",
    solver: SolverName | Solver | None = None,
    layout: Layout | None = None,
    stage_lora: str | Path | None = None,
    **options: Any,
) -> Any:
    """The denoising block of a modular pipeline, made progressive, to be put in its place.

        blocks = pipe.blocks  # a copy: make the pipeline of it
        blocks.sub_blocks["denoise"] = progressive_block(blocks.sub_blocks["denoise"], scales=(1 / 2, 1), delta=0.01)

    Parameters
    ----------
    block
        The block that prepares latents and times, or one that holds it.
    coupling, solver, layout, stage_lora
        As :func:`progressive`.
    options
        Of :meth:`Ride.plan`; its errors and warnings come when the pipeline is called.
    """

    class Progressive(type(block)):  # type: ignore[misc]
        def __call__(self, components: Any, state: Any) -> Any:
            ride = Ride(components, find_layout(components) if layout is None else layout, state.values)
            with ride.along(options, solver=solver, coupling=coupling, stage_lora=stage_lora):
                return super().__call__(components, state)

    made = copy.copy(block)
    made.__class__ = Progressive
    return made


_PLAN = {"anchors"} | {name for make in (make_plan, plan_at) for name in inspect.signature(make).parameters} - {
    "times",
    "shape",
    "multiple_of",
}
