"""What training, exact denoisers, parametrisations and the search for a plan are given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spectral_pd.inputs import filled, is_int, one_number, real, refuse, state, such
from spectral_pd.inputs.runs import shift

bandwidth = such(real("a number, at least 0"), lambda h: 0 <= h < math.inf, "must be finite and not negative")
edm_level = such(one_number, lambda sigma: 0 <= sigma < math.inf, "must be finite and not negative")
edm_time = such(
    one_number,
    lambda t: 0 <= t < 1,
    "must be in [0, 1): EDM's noise level is infinite at t = 1; begin the time grid below 1",
)
amount = real("a number in the units of cost")


def vp_levels(alpha: float, sigma: float) -> None:
    """Signal and noise level of a state."""
    good = alpha >= 0 and sigma >= 0 and 0 < alpha + sigma < math.inf
    refuse(not good, f"alpha = {alpha}, sigma = {sigma} must not be negative, nor both 0")


# -- exact denoisers --------------------------------------------------------------------------------------------------


def low_corner(basis: Any, grid: tuple[int, ...], full: tuple[int, ...]) -> None:
    """A stage's grid whose coefficients are the low corner of the full one's."""
    basis.reach(grid, full)
    refuse(not basis.nested(grid, full), f"{basis} coefficients of {grid} are not the low corner of {full}")


def same_grid(plan_shape: tuple[int, ...], field_shape: tuple[int, ...]) -> None:
    """A plan on the grid of the field it is tried on."""
    wrong = plan_shape != field_shape
    refuse(wrong, f"plan is for grid {plan_shape}, the field is on {field_shape}; make both the same")


def data_set(samples: Any, dims: int) -> None:
    """(K, ..., *grid), finite and not empty."""
    sizes = tuple(state(samples, "samples", dims + 1).shape)
    refuse(0 in sizes, f"samples has shape {sizes}; pass at least one sample")
    filled(samples, "samples")


def like_samples(x: Any, samples: Tensor, dims: int) -> None:
    """A state of a data set: its axes but for the batch and the grid."""
    found, known = tuple(state(x, "x", dims + 1).shape), tuple(samples.shape)
    refuse(found[1:-dims] != known[1:-dims], f"x has shape {found}; samples are {known}: axes must match")


# -- training ---------------------------------------------------------------------------------------------------------


def training_pair(x0: Any, noise: Any, grid: tuple[int, ...]) -> None:
    """Clean data and one white field, both of the full size."""
    data, white = (tuple(state(x, name, len(grid) + 1).shape) for x, name in ((x0, "x0"), (noise, "noise")))
    for name, sizes in (("x0", data), ("noise", white)):
        refuse(sizes[-len(grid) :] != grid, f"{name} has shape {sizes}; its last axes must be the plan's {grid}")
    refuse(data != white, f"x0 has shape {data} but noise {white}; they must agree")
    refuse(data[0] == 0, f"x0 has shape {data}: an empty batch; pass at least one item")


def stage_index(stage: Any, stages: int) -> None:
    """The index of one of a plan's stages."""
    inside = is_int(stage) and 0 <= stage < stages
    refuse(not inside, f"stage = {stage!r} must be an index into the plan's {stages} stages")


def item_times(t: Any, batch: int) -> Tensor:
    """One time, or one an item, as float64 of shape (batch,)."""
    values = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    refuse(
        values.ndim > 1 or values.numel() not in (1, batch),
        f"t has shape {tuple(values.shape)}; pass one time, or one for each of the {batch} items",
    )
    return values.expand(batch)


def times_of_stage(t: Tensor, stage: int, a: float, b: float) -> None:
    """Times inside the interval that a stage spans."""
    refuse(a == b, f"stage {stage} makes no steps, so there is nothing to train; draw stages with draw_times")
    if not bool(((t >= b) & (t <= a)).all()):
        raise ValueError(
            f"t in [{float(t.min()):g}, {float(t.max()):g}] leaves stage {stage}, which spans [{b:g}, {a:g}]; "
            f"one batch holds times of one stage: draw them with draw_times"
        )


def loss(prediction: Tensor, target: Tensor, spectrum: Any, plan: Any) -> None:
    """A prediction of the target's shape; a spectrum and a plan, or neither."""
    found, wanted = tuple(prediction.shape), tuple(target.shape)
    refuse(found != wanted, f"prediction has shape {found}; the target has {wanted}")
    alone = (spectrum is None) != (plan is None)
    refuse(alone, "pass spectrum and plan together for the weighted loss, or neither for the plain one")


def schedule_record(metadata: Any) -> dict[str, Any]:
    """What a checkpoint says of its schedule."""
    import json

    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is {type(metadata).__name__}; pass the checkpoint's metadata, a mapping of strings")
    key, text = "spectral_pd.schedule", (metadata or {}).get("spectral_pd.schedule")
    refuse(text is None, f"the checkpoint's metadata hold no {key!r}; save it with schedule_metadata(plan)")
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"the checkpoint's {key!r} is not JSON: {error}") from None
    refuse(not isinstance(record, dict), f"the checkpoint's {key!r} is {type(record).__name__}, not an object")
    return dict(record)


# -- search -----------------------------------------------------------------------------------------------------------


def shifts(value: Any, name: str) -> tuple[float, ...]:
    """Shifts to choose a time grid from."""
    values = tuple(shift(s, name) for s in value)
    refuse(not values, f"{name} = {value!r} must hold shifts to choose from, and goes without times")
    return values


def one_grid(steps: int | None, times: Sequence[float] | None, family: Sequence[float] | None) -> None:
    """A given grid has its own number of steps, and leaves nothing to choose from."""
    if times is not None:
        given = len(times) - 1
        refuse(steps not in (None, given), f"steps = {steps} but times has {given} steps; pass one of the two")
        refuse(family is not None, f"shifts = {family!r} must hold shifts to choose from, and goes without times")


def amounts(value: Any, name: str) -> tuple[float, ...]:
    """One or more budgets."""
    refuse(not len(value), f"{name} is empty; pass at least one budget")
    return tuple(amount(v, name) for v in value)


def budget(value: float, cheapest: float, allowed: float) -> None:
    """A budget that pays for a step."""
    refuse(
        not (math.isfinite(value) and allowed >= cheapest),
        f"budget = {value:g} does not pay for one step at full size, which costs {cheapest:g}; raise it at least to that",
    )


def plans(value: Any, kind: type, grid: tuple[int, ...]) -> tuple[Any, ...]:
    """A plan or several, for one grid."""
    if not isinstance(value, (kind, list, tuple)):
        raise TypeError(f"start is {value!r}; pass a plan or several")
    several: tuple[Any, ...] = (value,) if isinstance(value, kind) else tuple(value)
    good = all(isinstance(plan, kind) and plan.shape == grid for plan in several)
    refuse(not good, f"start must hold plans for the grid {grid}, as make_plan returns them", TypeError)
    return several


def found(plans: Sequence[Any], budget: float, steps: int | None, stages: int) -> None:
    """At least one plan within the limits."""
    refuse(
        not plans,
        f"no plan keeps all limits: budget {budget:g}, steps {steps}, stages {stages}; "
        f"raise the budget or free the number of steps",
    )
