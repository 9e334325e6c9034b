r"""Stage-wise training pairs and losses (paper Sec. 4.3, Eqs. 11-14).

Stage i of a plan spans the local times from its start ``a`` (for i > 0 the aligned time at which the expanded state
arrives) down to its end ``b`` (0 for the last stage). One clean batch ``x0`` and one white field ``eps`` of the full size,
seen on the stage's grid as ``x0^s = restrict_signal(x0)`` and ``eps^s = restrict_noise(eps)``, give both ends:

    end     ``x_b = (1 - b) x0^s + b eps^s``                         (Eq. 11)
    start   the sampler's own expand-and-align of the previous stage's end, new band filled from the same eps
    target  ``v = (x_a - x_b) / (a - b)``                        (Eq. 12)
    sample  ``x_t = x_b + (t - b) v``,  ``b <= t <= a``               (Eq. 13)

The first stage is plain flow matching: ``v = eps^s - x0^s``. A network trained on every stage then starts each stage from
exactly the states the sampler will hand it.

Another target is the model itself: :func:`agreement_sample` trains coarse calls to say what the frozen full-size network
says, so that a progressive run keeps the picture; it needs no data but the model's own pictures.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import corner
from spectral_pd.expansion import Grow, white_noise
from spectral_pd.inputs import door, models, plans, runs, working_dtype
from spectral_pd.plan import STAGED, Plan
from spectral_pd.power import AnySpectrum, PowerLaw, as_spectrum
from spectral_pd.restriction import high_band, restrict_aligned, restrict_noise, restrict_signal
from spectral_pd.solvers import SolverName, Velocity, find_solver, towards
from spectral_pd.theory import posterior_data_gain, snr

__all__ = [
    "StageSample",
    "check_metadata",
    "draw_times",
    "schedule_metadata",
    "stage_endpoints",
    "stage_intervals",
    "stage_loss",
    "stage_sample",
]

Draw = Literal["covering", "steps", "paper"]
DRAW = inputs.choice("covering", "steps", "paper")


@dataclass(frozen=True, eq=False)
class StageSample:
    """One training batch of one stage.

    Attributes
    ----------
    x, t
        States (batch, ..., *stage grid) and local times (batch,), float64 on x's device: what the network is given.
    target
        Velocity (batch, ..., *stage grid): what it should say.
    stage
        Index of the stage, 0 is the coarsest.
    """

    x: Tensor
    t: Tensor
    target: Tensor
    stage: int

    @property
    def denoised(self) -> Tensor:
        """The target of an x0-predicting network: ``x - t v``, whose velocity ``(x - D) / t`` is the target."""
        return self.x - _per_item(self.t, self.x) * self.target


def _per_item(t: Tensor, x: Tensor) -> Tensor:
    """Times (batch,) shaped to broadcast against x, in x's type."""
    return t.to(device=x.device, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


@door(plan=STAGED, draw=DRAW)
def stage_intervals(plan: Plan, *, draw: Draw = "covering") -> tuple[tuple[float, float], ...]:
    """The interval ``(b, a)`` of local times that each stage draws from; empty (b = a) for a stage without steps.

    ``"covering"`` and ``"steps"``: all the stage spans, from where its states arrive to its end. ``"paper"``: from the
    previous stage's end instead (1 for the first stage), which leaves ``(b_{i-1}, a_i]``, where every stage begins, untrained.

    Parameters
    ----------
    plan, draw
        As :func:`draw_times`.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> [(round(b, 3), round(a, 3)) for b, a in stage_intervals(plan)]  # from the aligned start of the second stage
    [(0.667, 1.0), (0.0, 0.8)]
    >>> [(round(b, 3), round(a, 3)) for b, a in stage_intervals(plan, draw="paper")]
    [(0.667, 1.0), (0.0, 0.667)]
    """
    starts, ends = ([stage.local_times[k] for stage in plan.stages] for k in (0, -1))
    if draw == "paper":
        starts[1:] = map(max, ends[:-1], ends[1:])
    return tuple(zip(ends, starts, strict=True))


@door(plan=STAGED, batch=inputs.count, draw=DRAW)
def draw_times(
    plan: Plan, batch: int, *, draw: Draw = "covering", generator: torch.Generator | None = None
) -> tuple[int, Tensor]:
    """Draw a stage, then a time for each item of a batch, uniform in the stage's interval: states of one stage stack.

    Parameters
    ----------
    plan, batch
        The schedule to train for and the number of times.
    draw
        ``"covering"`` (default): stages in proportion to the width they span, so that every time the sampler visits can
        be drawn. ``"steps"``: the same intervals, stages in proportion to the sampler's steps. ``"paper"``: t uniform in
        (0, 1) and the stage whose ``(b_i, b_{i-1}]`` holds it.
    generator
        CPU generator; None is torch's default.

    Returns
    -------
    (stage, t): stage index, and float64 times (batch,) in (b, a].

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> stage, t = draw_times(plan, 8, generator=torch.Generator().manual_seed(0))
    >>> bool((t <= plan.stages[stage].local_times[0]).all() and (t >= plan.stages[stage].local_times[-1]).all())
    True
    """
    intervals = stage_intervals.bare(plan, draw=draw)
    weights = plan.split if draw == "steps" else [a - b for b, a in intervals]
    stage = int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator))
    b, a = intervals[stage]
    uniform = torch.rand(batch, generator=generator, dtype=torch.float64)  # in [0, 1): t reaches a, never b
    return stage, a - (a - b) * uniform


@door(plan=STAGED)
def stage_endpoints(x0: Tensor, noise: Tensor, plan: Plan, stage: int) -> tuple[Tensor, Tensor]:
    """The states ``(x_a, x_b)`` at which a stage starts and ends, for clean data and one white field of the full size.

    Parameters
    ----------
    x0, noise
        (batch, ..., *plan.shape), floating point, one shape; half precision is computed in float32.
    plan, stage
        The schedule and the index of a stage in it.

    Returns
    -------
    start, end
        (batch, ..., *stage grid). The start is what the sampler makes of the previous stage's end with this noise, bit
        for bit.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> x0, noise = torch.zeros(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    >>> start, end = stage_endpoints(x0, noise, plan, 0)
    >>> tuple(start.shape), bool(start.std() > end.std())
    ((2, 3, 16, 16), True)
    """
    models.training_pair(x0, noise, plan.shape)
    plans.stage_index(stage, len(plan.stages))
    dtype = working_dtype(torch.promote_types(x0.dtype, noise.dtype))
    x0, noise = x0.to(dtype), noise.to(dtype)

    def on_path(index: int, t: float) -> Tensor:
        shape = plan.shapes[index]
        low = restrict_signal(x0, shape, basis=plan.basis)
        return (1 - t) * low + t * restrict_noise(noise, shape, basis=plan.basis)

    local = plan.stages[stage].local_times
    end = on_path(stage, local[-1])
    # Stages without steps only pass the state on, so the last stage that moved is the one whose end is on the path.
    origin = max([i for i in range(stage) if plan.stages[i].steps], default=0)
    if stage == 0:
        return on_path(0, local[0]), end
    start = on_path(origin, plan.stages[origin].local_times[-1])
    white = white_noise(noise, None, plan.basis, plan.shapes)
    for move in plan.moves(origin + 1):
        if isinstance(move, Grow) and move.stage <= stage:
            start = white.grow(start, move)
    return start, end


@door(plan=STAGED)
def stage_sample(x0: Tensor, noise: Tensor, t: float | Tensor, plan: Plan, *, stage: int | None = None) -> StageSample:
    r"""A training batch at local times `t` of one stage: ``x_t = x_b + (t - b) v``, ``v = (x_a - x_b) / (a - b)`` (Eqs. 11-13).

    Parameters
    ----------
    x0, noise, plan
        As :func:`stage_endpoints`.
    t
        One local time, or one an item (batch,), inside the stage's ``[b, a]``.
    stage
        Index of the stage, e.g. from :func:`draw_times`; None takes the paper's: the first stage that ends below every t.
        It must have steps.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> stage, t = draw_times(plan, 4)
    >>> batch = stage_sample(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), t, plan, stage=stage)
    >>> tuple(batch.x.shape[-2:]) == plan.shapes[stage]
    True
    """
    times = models.item_times(t, inputs.state(x0, "x0", len(plan.shape) + 1).shape[0])
    if stage is None:
        ends_below = (i for i, s in enumerate(plan.stages) if s.steps and s.local_times[-1] < float(times.min()))
        stage = next(ends_below, len(plan.stages) - 1)
    start, end = stage_endpoints.bare(x0, noise, plan, stage)
    a, b = (plan.stages[stage].local_times[k] for k in (0, -1))
    models.times_of_stage(times, stage, a, b)
    target = (start - end) / (a - b)
    x = end + _per_item(times - b, end) * target
    return StageSample(x, times.to(x.device), target, stage)


@door(spectrum=inputs.optional(as_spectrum), plan=inputs.optional(STAGED))
def stage_loss(
    prediction: Tensor,
    sample: StageSample,
    *,
    spectrum: AnySpectrum | Callable[[Any], Any] | None = None,
    plan: Plan | None = None,
) -> Tensor:
    r"""Mean squared error of a predicted velocity (Eq. 14), optionally weighted by what each frequency can tell.

    With a spectrum, the squared error of every coefficient is weighted by ``SNR / (1 + SNR)`` of its frequency at the item's
    time: coefficients that are still noise teach nothing and are left out smoothly. For an x0-predicting network compare
    with ``sample.denoised`` instead.

    Parameters
    ----------
    prediction, sample
        Velocity of the network for ``sample.x`` at ``sample.t``, and what :func:`stage_sample` returned.
    spectrum, plan
        Both or neither: power on the full grid, and the plan that says which part of it the stage sees.

    Returns
    -------
    Scalar tensor, float32 or better.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> batch = stage_sample(torch.zeros(2, 3, 32, 32), torch.randn(2, 3, 32, 32), 0.5, plan, stage=1)
    >>> stage_loss(batch.target, batch).item()
    0.0
    """
    models.loss(prediction, sample.target, spectrum, plan)
    error = prediction.to(sample.target.dtype) - sample.target
    if spectrum is None or plan is None:
        return error.square().mean()
    stage = plan.stages[sample.stage]
    # A coefficient of the stage's grid has the frequency of the same coefficient on the full grid.
    power = spectrum.coefficients(plan.shape, plan.basis)[corner(stage.shape)] / stage.ratio**2  # type: ignore[union-attr]
    ratio = snr.bare(sample.t.cpu().clamp(min=1e-6).reshape(-1, *[1] * (error.ndim - 1)), torch.from_numpy(power))
    weight = (ratio / (1 + ratio)).to(device=error.device, dtype=error.dtype)
    return (weight * plan.basis.forward(error, dims=len(stage.shape)).square()).mean()


@door(velocity=runs.velocity, plan=STAGED, step=inputs.whole(0))
def agreement_sample(velocity: Velocity, x: Tensor, noise: Tensor, step: int, plan: Plan) -> StageSample:
    r"""A training batch on which a coarse call should say what the frozen full-size network says (spec: sizes that agree).

    ``x' = U U^T x + T (w - U U^T w)`` has the high band that a coupled run has at that time; the coarse state is ``y = U^T
    x' / kappa`` at ``tau = align(T, 1/r)``, the target answer ``R = U^T D(x', T) / r``. Given y alone the best prediction
    of it is ``E[R | y]``; given :func:`~spectral_pd.restriction.folded_noise` of w beside it, R itself.

    Parameters
    ----------
    velocity
        The frozen network at full size, ``velocity(x, t)``.
    x
        States of full size (batch, ..., *plan.shape) at ``T = plan.times[step]``: of the model's own full runs, or
        ``(1 - T) x0 + T w`` of its pictures.
    noise
        The white field w each state began with, or was noised with.
    step
        Of a coarse stage of `plan`, which is on the full clock.

    Raises
    ------
    ValueError
        A step of the last stage, whose calls are the full-size network's own; the stage clock.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, make_plan, shift_times
    >>> field = GaussianField(PRESETS["flux"], (32, 32))
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> x0, w = torch.randn(2, 4, 32, 32), torch.randn(2, 4, 32, 32)
    >>> t = plan.times[3]
    >>> batch = agreement_sample(field.velocity, (1 - t) * x0 + t * w, w, 3, plan)
    >>> torch.allclose(batch.target, field.velocity(batch.x, float(batch.t[0])), atol=1e-5)  # its sizes agree
    True
    """
    models.training_pair(x, noise, plan.shape)
    t = plan.times[step] if step < plan.nfe else 0.0
    index = next((i for i, stage in enumerate(plan.stages) if stage.start <= step < stage.stop), len(plan.stages) - 1)
    stage = plan.stages[index]
    if stage.ratio == 1 or plan.clock != "full":
        raise ValueError(
            f"step = {step} of clock={plan.clock!r} has no full-size answer to agree with; pass a step of a coarse stage, "
            f"0 to {plan.stages[-1].start - 1}, of a plan on the full clock"
        )
    low = plan.basis.embed(plan.basis.restrict(x, stage.shape), plan.shape)
    own = low + t * high_band.bare(noise, stage.shape, basis=plan.basis)
    with torch.no_grad():
        answer = own - t * runs.answered(velocity(own, t), own)
    y, tau = restrict_aligned.bare(own, stage.shape, t, basis=plan.basis)
    said = restrict_signal.bare(answer, stage.shape, basis=plan.basis)
    times = torch.full((len(x),), tau, dtype=torch.float64, device=x.device)
    return StageSample(y, times, (y - said) / tau, index)


@door(plan=STAGED, spectrum=as_spectrum)
def step_weights(
    plan: Plan, spectrum: AnySpectrum | Callable[[Any], Any], *, solver: SolverName = "euler"
) -> tuple[float, ...]:
    """What a squared error of the answer costs the picture, for each step of the coarse stages; of mean 1.

    The solver's own response on a Gaussian field: an error with the spectrum's shape is put into one step's answer ``D``
    alone, in the band the stage holds, and carried to the end with ``v = (xi - (G xi + e)) / T``, ``G = (1-T) P / ((1-T)^2
    P + T^2)``.

    Parameters
    ----------
    plan, spectrum
        A plan and the power on its full grid.
    solver
        What the plan will be run with. An answer holds for a whole step here, so Heun's weights are Euler's.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> len(step_weights(plan, PRESETS["flux"])) == plan.split[0]
    True
    """
    solve = find_solver(solver)
    power = torch.from_numpy(spectrum.coefficients(plan.shape, plan.basis))  # type: ignore[union-attr]
    last = plan.stages[-1].start
    shapes = [stage.shape for stage in plan.stages for _ in range(stage.steps)]
    response = []
    for wrong in range(last):
        xi, history = torch.zeros_like(power), None
        for k, (t, t_next) in enumerate(zip(plan.times, plan.times[1:], strict=False)):
            held = torch.zeros_like(power)
            held[corner(shapes[k])] = 1.0
            answer = held * (posterior_data_gain.bare(t, power) * xi + (power.sqrt() if k == wrong else 0.0))
            xi, history = solve(towards(answer), xi, t, t_next, history)
        response.append(float(xi.square().sum() / power[corner(shapes[wrong])].sum()))
    mean = math.fsum(response) / max(len(response), 1)
    return tuple(value / mean for value in response)


@door(plan=STAGED, spectrum=inputs.optional(inputs.instance(PowerLaw, "the PowerLaw the plan came from, or None")))
def schedule_metadata(plan: Plan, *, spectrum: PowerLaw | None = None) -> dict[str, str]:
    """What a fine-tuned checkpoint must say about its schedule: string values, for safetensors metadata.

    Parameters
    ----------
    plan, spectrum
        The schedule it was trained for and the power law that came from, recorded for the reader.

    Raises
    ------
    TypeError
        A plan or a spectrum of another kind.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> list(schedule_metadata(plan))
    ['spectral_pd.schedule']
    """
    record: dict[str, Any] = {
        "shape": plan.shape,
        "ratios": [round(stage.ratio, 9) for stage in plan.stages],
        "transition_times": [round(t, 9) for t in plan.transition_times],
        "clock": plan.clock,
        "basis": plan.basis.name,
    }
    if spectrum is not None:
        record["spectrum"] = {"amplitude": spectrum.amplitude, "exponent": spectrum.exponent, "shape": spectrum.shape}
    return {"spectral_pd.schedule": json.dumps(record)}


@door(plan=STAGED)
def check_metadata(metadata: Mapping[str, str] | None, plan: Plan) -> list[str]:
    """Compare the schedule a checkpoint was trained for with the one it is about to be sampled with.

    Parameters
    ----------
    metadata, plan
        The checkpoint's, e.g. from ``safetensors.safe_open(...).metadata()``, and the schedule to sample with.

    Returns
    -------
    The differences, one line each, also given as one ``UserWarning``; empty when the schedules agree.

    Examples
    --------
    >>> from spectral_pd import PRESETS, make_plan, shift_times
    >>> plan = make_plan(shift_times(20), PRESETS["flux"], (32, 32), scales=(1 / 2, 1))
    >>> check_metadata(schedule_metadata(plan), plan)
    []
    """
    trained = models.schedule_record(metadata)
    wanted = json.loads(schedule_metadata.bare(plan)["spectral_pd.schedule"])
    differences = []
    for name, value in wanted.items():
        same = trained.get(name) == value
        if name == "transition_times" and len(trained.get(name) or ()) == len(value):
            same = all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(trained[name], value, strict=True))
        if not same:
            differences.append(f"{name}: trained with {trained.get(name)}, sampling with {value}")
    if differences:
        warnings.warn("this checkpoint was fine-tuned for another schedule; " + "; ".join(differences), stacklevel=2)
    return differences
