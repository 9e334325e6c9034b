"""What a plan is made from, searched for and entered by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from spectral_pd.inputs import (
    is_int,
    is_iterable,
    is_real,
    kind,
    one_number,
    one_time,
    refuse,
    rule,
    scales,
    shown,
    such,
)

shift = such(
    kind(is_real, "a number above 0 (1 is no shift)", repr, float),
    lambda s: 0 < s < math.inf,
    "must be positive and finite (1 is no shift)",
)
attention = such(one_number, lambda a: 0 <= a <= 1, "must be in [0, 1], the share of attention in a full-size step")
one_stage = rule(
    lambda stages: stages == 1, "plan has {stages} stages; pass one of full resolution only, with scales=(1,)"
)
stage_index = rule(
    lambda stage, stages: is_int(stage) and 0 <= stage < stages,
    "stage = {stage!r} must be an index into the plan's {stages} stages",
)


def entry(stage: Any, mode: str, shapes: Sequence[Sequence[int]]) -> None:
    """The stage of a plan an edit enters at."""
    refuse(not is_int(stage), f"stage is {stage!r}; pass the index of the first stage that runs, an int", TypeError)
    last, grids = len(shapes) - 1, ", ".join(map(shown, shapes))
    refuse(not 0 <= stage <= last, f"stage = {stage} must be from 0 to {last}, a stage of the plan ({grids})")
    if stage == 0 and mode == "clean":
        why = "keeps the band of the stage before; with stage = 0 there is none"
        raise ValueError(f"mode = 'clean' {why}: use 'noised'")


def times(value: Any, name: str) -> tuple[float, ...]:
    """A time grid: strictly decreasing floats from at most 1 to exactly 0."""
    values = kind(is_iterable, "the full-resolution time grid, e.g. shift_times(50)", to=tuple)(value, name)
    values = tuple(one_time(t, name) for t in values)
    refuse(len(values) < 2, f"{name} has {len(values)} values; N steps need N + 1, e.g. shift_times(50)")
    texts = [f"{v:g}" for v in values]
    got = f"({', '.join(texts if len(texts) <= 6 else [*texts[:2], '...', *texts[-2:]])})"
    rising = any(a <= b for a, b in pairwise(values))
    refuse(rising, f"{name} must be strictly decreasing from noise (1) to data (0); got {got}")
    refuse(values[-1] != 0.0, f"{name} must end at exactly 0; got {got}")
    return values


def transition_times(value: Any, scale_count: int) -> tuple[float, ...]:
    """Explicit t*: one for each scale but the last, inside (0, 1), not increasing."""
    values = tuple(one_time(t, "transition_times") for t in value)
    found, wrong = f"{len(values)} values for {scale_count} scales", len(values) != scale_count - 1
    refuse(wrong, f"transition_times has {found}; pass one for each scale but the last")
    inside = all(0 < t < 1 for t in values) and all(a >= b for a, b in pairwise(values))
    refuse(not inside, f"transition_times = {values} must lie inside (0, 1) and not increase")
    return values


def stage_scales(value: Any, axes: int) -> tuple[float | tuple[float, ...], ...]:
    """One scale a stage: a number for all axes, or one an axis, of which none shrinks and one grows from stage to stage."""
    if not isinstance(value, (list, tuple)) or not any(isinstance(s, (list, tuple)) for s in value):
        return scales(value, "scales")
    rows = [tuple(scale) if isinstance(scale, (list, tuple)) else (scale,) * axes for scale in value]
    for scale, row in zip(value, rows, strict=True):
        good = all(map(is_real, row))
        refuse(not good, f"scale {scale!r} must be a number, or a tuple of one for each axis", TypeError)
        count, wrong = f"{len(row)} numbers for {axes} axes", len(row) != axes
        refuse(wrong, f"scale {scale!r} has {count}; pass one for each, or a single one")
        refuse(not all(0 < s <= 1 for s in row), f"scale {scale!r} must hold numbers in (0, 1]")
    for before, after in pairwise(rows):
        shrinks = before == after or any(a > b for a, b in zip(before, after, strict=True))
        refuse(shrinks, f"scales {before} and {after}: no axis may shrink and one must grow from stage to stage")
    refuse(rows[-1] != (1.0,) * axes, f"scales = {value!r} must end at 1, the full size; append 1")
    return tuple(float(row[0]) if len(set(row)) == 1 else tuple(map(float, row)) for row in rows)


def growing(scale_values: Sequence[Any], full: Sequence[int], shapes: Sequence[Sequence[int]]) -> None:
    """Every stage's grid must be larger than the one before."""
    for before, after in pairwise(shapes):
        if math.prod(before) >= math.prod(after) or any(a > b for a, b in zip(before, after, strict=True)):
            raise ValueError(
                f"scales {tuple(scale_values)} of {tuple(full)} give stages {shown(before)} and {shown(after)}; every stage "
                f"must be larger than the one before: use fewer scales or a smaller multiple_of"
            )


def multiples(value: Any, axes: int, full: Sequence[int] = ()) -> tuple[int, ...]:
    """`multiple_of` as one positive int an axis, of which the full size, where given, is a multiple."""
    values: tuple[Any, ...] = tuple(value) if is_iterable(value) else (value,) * axes
    good = len(values) == axes and all(is_int(m) and m >= 1 for m in values)
    refuse(not good, f"multiple_of = {value!r} must be a positive int, or one for each of {axes} axes")
    rest, size = any(n % m for n, m in zip(full, values, strict=False)), tuple(full)
    refuse(rest, f"shape = {size} is not a multiple of multiple_of = {value}; the full size is never rounded")
    return tuple(int(m) for m in values)


amount = kind(is_real, "a number in the units of cost", repr, float)
shifts = such(
    lambda value, name: tuple(shift(s, name) for s in value),
    bool,
    "must hold shifts to choose from, and goes without times",
)
budget = rule(
    lambda budget, cheapest, allowed: math.isfinite(budget) and allowed >= cheapest,
    "budget = {budget:g} does not pay for one step at full size, which costs {cheapest:g}; raise it at least to that",
)
found = rule(
    lambda plans, budget, steps, stages: plans,
    "no plan keeps all limits: budget {budget:g}, steps {steps}, stages {stages}; raise the budget or free the steps",
)


def amounts(value: Any, name: str) -> tuple[float, ...]:
    """One or more budgets."""
    values = tuple(amount(v, name) for v in kind(is_iterable, "budgets such as (10, 20)", repr)(value, name))
    refuse(not values, f"{name} is empty; pass at least one budget")
    return values


def one_grid(steps: int | None, times: Sequence[float] | None, family: Sequence[float] | None) -> None:
    """A given grid has its own number of steps, and leaves nothing to choose from."""
    if times is not None:
        given = len(times) - 1
        refuse(steps not in (None, given), f"steps = {steps} but times has {given} steps; pass one of the two")
        refuse(family is not None, f"shifts = {family!r} must hold shifts to choose from, and goes without times")


def several(value: Any, of: Any, grid: tuple[int, ...]) -> tuple[Any, ...]:
    """A plan or several, for one grid."""
    plans = kind(lambda v: isinstance(v, (of, list, tuple)), "a plan or several", repr)(value, "start")
    plans = (plans,) if isinstance(plans, of) else tuple(plans)
    good = all(isinstance(plan, of) and plan.shape == grid for plan in plans)
    refuse(not good, f"start must hold plans for the grid {grid}, as make_plan returns them", TypeError)
    return plans
