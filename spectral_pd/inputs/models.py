"""What training, exact denoisers and other parametrisations are given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.inputs import channels_last, filled, is_real, kind, one_number, one_time, refuse, rule, state, such

bandwidth = such(
    kind(is_real, "a number, at least 0", repr, float), lambda h: 0 <= h < math.inf, "must be finite and not negative"
)
edm_level = such(one_number, lambda sigma: 0 <= sigma < math.inf, "must be finite and not negative")
edm_time = such(one_number, lambda t: 0 <= t < 1, "must be in [0, 1): EDM's noise level is infinite at 1; begin below")
vp_levels = rule(
    lambda alpha, sigma: alpha >= 0 and sigma >= 0 and 0 < alpha + sigma < math.inf,
    "alpha = {alpha}, sigma = {sigma} must not be negative, nor both 0",
)
within_table = rule(
    lambda t, noisiest: t <= noisiest * (1 + 1e-6),
    "t = {t:.4f} is noisier than the model's noisiest timestep, t = {noisiest:.4f}; take the grid from times_from_vp, begin "
    "with start=, and plan with clock='full'",
)
low_corner = rule(
    lambda basis, grid, full: basis.reach(grid, full) is None and basis.nested(grid, full),
    "{basis} coefficients of {grid} are not the low corner of {full}",
)
same_grid = rule(
    lambda plan, field: plan == field, "plan is for grid {plan}, the field is on {field}; make both the same"
)


def data_time(value: Any, name: str) -> float:
    """A time at which a denoiser has a velocity: not 0."""
    t = one_time(value, name)
    refuse(t == 0, f"{name} = 0: a denoiser's velocity has no value at the data end; use 0 < {name} <= 1")
    return t


def _series(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)


def alphas_cumprod(value: Any, name: str) -> np.ndarray:
    """Cumulative alphas of a variance-preserving model by timestep, from nearly 1 (data) down to noise: float64."""
    table = _series(value)
    one_each = table.ndim == 1 and len(table) > 1
    refuse(not one_each, f"{name} has shape {table.shape}; pass one number a timestep, e.g. scheduler.alphas_cumprod")
    falls = table[0] <= 1 and table[-1] >= 0 and bool(np.all(np.diff(table) < 0))
    ends = f"{name} goes from {table[0]:g} to {table[-1]:g} and must fall all the way, from at most 1 to at least 0"
    refuse(not falls, f"{ends}; pass the products of all alphas up to each timestep, not alphas, betas or sigmas")
    return table


def timesteps(value: Any, name: str, length: int) -> np.ndarray:
    """Timesteps from noise to data, indices of a table of that length; fractions allowed."""
    steps = _series(value)
    falls = steps.ndim == 1 and steps.size > 0 and bool(np.all(np.diff(steps) < 0))
    refuse(not falls, f"{name} must be strictly decreasing from noise to data, e.g. range(999, 0, -20)")
    inside = steps[-1] >= 0 and steps[0] <= length - 1
    refuse(not inside, f"{name} go from {steps[0]:g} to {steps[-1]:g}, outside of the table's 0 to {length - 1}")
    return steps


def samples_and_noise(samples: Any, noise: Any, dims: int) -> tuple[Tensor, Tensor]:
    """Data and noise of one shape."""
    sizes, white = (tuple(state(x, name, dims).shape) for x, name in ((samples, "samples"), (noise, "noise")))
    wrong = sizes != white or 0 in sizes
    refuse(wrong, f"samples have shape {sizes}, noise {white}; they must agree and not be empty")
    return samples, noise


def data_set(samples: Any, dims: int) -> None:
    """(K, ..., *grid), finite and not empty."""
    sizes = tuple(state(samples, "samples", dims + 1).shape)
    refuse(0 in sizes, f"samples has shape {sizes}; pass at least one sample")
    filled(samples, "samples")


def like_samples(x: Any, samples: Tensor, dims: int) -> None:
    """A state of a data set: its axes but for the batch and the grid."""
    found, known = tuple(state(x, "x", dims + 1).shape), tuple(samples.shape)
    refuse(found[1:-dims] != known[1:-dims], f"x has shape {found}; samples are {known}: axes must match")


def training_pair(x0: Any, noise: Any, grid: tuple[int, ...]) -> None:
    """Clean data and one white field, both of the full size."""
    named = (("x0", x0), ("noise", noise))
    data, white = shapes = [tuple(state(x, name, len(grid) + 1).shape) for name, x in named]
    for (name, _), sizes in zip(named, shapes, strict=True):
        refuse(
            sizes[-len(grid) :] != grid,
            f"{name} has shape {sizes}; its last axes must be the plan's {grid}{channels_last(sizes, grid, name)}",
        )
    refuse(data != white, f"x0 has shape {data} but noise {white}; they must agree")
    refuse(data[0] == 0, f"x0 has shape {data}: an empty batch; pass at least one item")


def item_times(t: Any, batch: int) -> Tensor:
    """One time, or one an item, as float64 of shape (batch,)."""
    values = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    sizes, good = tuple(values.shape), values.ndim < 2 and values.numel() in (1, batch)
    refuse(not good, f"t has shape {sizes}; pass one time, or one for each of the {batch} items")
    return values.expand(batch)


def times_of_stage(t: Tensor, stage: int, a: float, b: float) -> None:
    """Times inside the interval that a stage spans."""
    refuse(a == b, f"stage {stage} makes no steps, so there is nothing to train; draw stages with draw_times")
    if not bool(((t >= b) & (t <= a)).all()):
        where = f"t in [{float(t.min()):g}, {float(t.max()):g}] leaves stage {stage}, which spans [{b:g}, {a:g}]"
        raise ValueError(f"{where}; one batch holds times of one stage: draw them with draw_times")


def loss(prediction: Tensor, target: Tensor, spectrum: Any, plan: Any) -> None:
    """A prediction of the target's shape; a spectrum and a plan, or neither."""
    found, wanted = tuple(prediction.shape), tuple(target.shape)
    refuse(found != wanted, f"prediction has shape {found}; the target has {wanted}")
    alone = (spectrum is None) != (plan is None)
    refuse(alone, "pass spectrum and plan together for the weighted loss, or neither for the plain one")


def schedule_record(metadata: Any) -> dict[str, Any]:
    """What a checkpoint says of its schedule."""
    mapping = kind(lambda m: m is None or isinstance(m, Mapping), "the checkpoint's metadata, a mapping of strings")
    key, known = "spectral_pd.schedule", mapping(metadata, "metadata") or {}
    refuse(known.get(key) is None, f"the checkpoint's metadata hold no {key!r}; save it with schedule_metadata(plan)")
    try:
        record = json.loads(known[key])
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"the checkpoint's {key!r} is not JSON: {error}") from None
    refuse(not isinstance(record, dict), f"the checkpoint's {key!r} is {type(record).__name__}, not an object")
    return dict(record)
