"""Optimal plans: never beaten by the delta rule, as good as an outside optimiser, and honest about what they claim."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_pd import (
    DCT,
    HAAR,
    PRESETS,
    GaussianField,
    PowerLaw,
    make_plan,
    optimise_plan,
    plan_at,
    plan_front,
    predict,
    sample,
    shift_times,
    token_cost,
    velocity_error,
)
from spectral_pd import optimise as module
from spectral_pd.optimise import pooled_error
from spectral_pd.solvers import SOLVERS

LAW = PowerLaw(30.0, 2.0, shape=(16, 16))
FIELD = GaussianField(LAW, (16, 16))
SCALES = (1 / 4, 1 / 2)


@pytest.fixture(autouse=True, scope="module")
def short_search():
    """A tenth of the exchanges: no property depends on how long the search goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_WORK", module.MOST_WORK / 8)
        yield


def points(shape):
    """Grid points and a share that every step costs on any grid, as text tokens do."""
    return 0.2 + 0.8 * math.prod(shape) / 256


def error(plan, field=FIELD, solver="euler"):
    return predict(plan, field, solver).relative_w2


def optimal(budget, **options):
    return optimise_plan(LAW, (16, 16), points, budget=budget, **{"scales": SCALES, **options})


# -- never worse ------------------------------------------------------------------------------------------------------


def by_delta(steps, shift, delta, scales=(0.5, 1)):
    return make_plan(shift_times(steps, shift=shift), LAW, (16, 16), scales=scales, delta=delta, unreached="force")


@settings(max_examples=8)
@given(
    steps=st.integers(3, 16),
    shift=st.floats(1.0, 8.0),
    delta=st.floats(0.003, 0.3),
    scales=st.sampled_from([(0.5, 1), (0.25, 1), (0.25, 0.5, 1)]),
    solver=st.sampled_from(["euler", "euler", "heun", "dpmpp_2m"]),
)
def test_never_worse_than_the_delta_rule_at_the_same_cost(steps, shift, delta, scales, solver):
    rule = by_delta(steps, shift, delta, scales)
    plan = optimal(rule.cost(points), solver=solver)
    assert plan.cost(points) <= rule.cost(points) * (1 + 1e-9)
    assert error(plan, solver=solver) <= error(rule, solver=solver)
    assert plan.clock == "full"


def test_a_search_without_refinement_is_worse_than_the_delta_rule(monkeypatch):
    """Negative control: splits of a uniform grid alone, and the property above fails."""
    rules = [by_delta(steps, 3.0, 0.1) for steps in (6, 9)]
    assert all(error(optimal(rule.cost(points))) <= error(rule) for rule in rules)
    monkeypatch.setattr(module, "_refine", lambda bench, limits, choice, iterations: choice)
    monkeypatch.setattr(module, "_delta_seeds", lambda *_: [])
    monkeypatch.setattr(module, "SHIFTS", (1.0,))
    assert all(error(optimal(rule.cost(points))) > error(rule) for rule in rules)


@settings(max_examples=6)
@given(steps=st.integers(4, 16), shift=st.floats(1.0, 8.0), delta=st.floats(0.003, 0.3))
def test_never_worse_than_the_delta_rule_on_a_given_grid(steps, shift, delta):
    rule = by_delta(steps, shift, delta)
    plan = optimal(rule.cost(points), times=rule.times, start=rule)
    assert plan.times == rule.times
    assert plan.cost(points) <= rule.cost(points) * (1 + 1e-9)
    assert error(plan) <= error(rule)


def test_a_start_that_cannot_be_beaten_is_returned():
    """A plan from a longer search competes as it is; one outside the limits does not."""
    best = optimal(8)
    again = optimal(best.cost(points), start=best)
    assert error(again) <= error(best)
    assert optimal(4, start=best).cost(points) <= 4 * (1 + 1e-9), "too expensive: ignored"
    assert optimal(8, steps=9, start=best).nfe == 9


# -- how good ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_time_grid_is_as_good_as_an_outside_optimisers(solver):
    """scipy's L-BFGS on the exact prediction of one stage, from two starts, finds nothing 1 % better."""
    optimize = pytest.importorskip("scipy.optimize")
    ours = optimise_plan(LAW, (16, 16), points, budget=6, stages=1, solver=solver)

    def times(theta):
        odds = theta[0] - np.concatenate([[0], np.exp(theta[1:]).cumsum()])
        return (1.0, *(1 / (1 + np.exp(-odds))).tolist(), 0.0)

    def objective(theta):
        try:
            plan = plan_at(times(theta), (), (16, 16), scales=(1,))
        except ValueError:
            return 10.0
        return error(plan, solver=solver)

    best = math.inf
    for shift in (1.0, 3.0):
        inner = np.array(shift_times(6, shift=shift)[1:-1])
        odds = np.log(inner / (1 - inner))
        start = np.concatenate([odds[:1], np.log(-np.diff(odds))])
        best = min(best, optimize.minimize(objective, start, method="L-BFGS-B").fun)
    assert error(ours, solver=solver) < 1.01 * best


def test_splits_are_as_good_as_trying_them_all():
    """On a given grid every split of two and three stages is tried by brute force; grouping may cost 1 %."""
    times = shift_times(14, shift=3.0)
    plan = optimal(8, times=times)
    best = math.inf
    for scales in ((1,), (0.5, 1), (0.25, 1), (0.25, 0.5, 1)):
        for ends in itertools.combinations(range(1, 14), len(scales) - 1):
            other = plan_at(times, [times[k] for k in ends], (16, 16), scales=scales)
            if other.cost(points) <= 8:
                best = min(best, error(other))
    assert best <= error(plan) < 1.01 * best


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_bounded_splits_are_as_good_as_trying_them_all(solver, monkeypatch):
    """One shift, a bound on how late a stage is left: the first stage may have to leave a part of the budget unspent."""
    monkeypatch.setattr(module, "_delta_seeds", lambda *_: [])
    leave = LAW.t_star((8, 8), (16, 16), delta=0.1)
    plan = optimal(7, shifts=(4.0,), delta=0.1, scales=(0.5,), solver=solver)
    best = math.inf
    for steps, first in itertools.product(range(2, 20), range(1, 19)):
        times = shift_times(steps, shift=4.0)
        if first < steps and times[first - 1] >= leave:
            other = plan_at(times, [times[first]], (16, 16), scales=(0.5, 1))
            if other.cost(points) <= 7:
                best = min(best, error(other, solver=solver))
    assert best <= error(plan, solver=solver) < 1.01 * best
    assert len(plan.stages) == 2


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "callable"])
def test_grouped_gains_are_the_prediction(solver):
    """The search's own error: that of the exact prediction but for grouping, and exactly that where nothing is grouped."""
    step = (lambda *a: SOLVERS["dpmpp_2m"](*a)) if solver == "callable" else solver

    def both(field):
        plan = plan_at(shift_times(9, shift=3.0), (0.9, 0.7), field.shape, scales=(0.25, 0.5, 1))
        bench = module._Bench([field], step)
        approximate = bench.errors(module._Choice(plan.shapes, plan.split, plan.times), np.array([plan.times] * 2))
        assert approximate[0] == approximate[1]
        return float(approximate[0]), error(plan, field, solver=step)

    approximate, exact = both(FIELD)
    assert approximate == pytest.approx(exact, rel=0.02)
    assert approximate != pytest.approx(exact, rel=1e-6)
    # Powers of a line that falls this steeply are further apart than a group is wide.
    approximate, exact = both(GaussianField(lambda w: 3e5 * w**-6.0, (16,)))
    assert approximate == pytest.approx(exact, rel=1e-10)


def test_free_beats_shifted_beats_given():
    """More freedom, less error: grid given, shifted family, free; 1, 2, 3 stages. More sizes: hardly more error."""
    given_grid = error(optimal(6, times=shift_times(12, shift=3.0)))
    shifted = error(optimal(6, shifts=(1.5, 3.0, 6.0)))
    free = error(optimal(6))
    assert free < shifted < given_grid
    assert error(optimal(6, scales=None)) <= 1.03 * free
    by_stages = [error(optimal(6, stages=n)) for n in (1, 2, 3)]
    assert by_stages[0] > by_stages[1] >= by_stages[2]


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_right_delta_follows_the_solvers_error(solver, order):
    """Four times the budget: delta falls to 4^-order of itself and hardly moves as a multiple of the error (docs/plans.md)."""
    law, shape = PRESETS["flux"], (64, 64)
    shifts = tuple(np.geomspace(1, 16, 15))

    def balance(budget):
        options = dict(scales=(0.5,), stages=2, shifts=shifts, solver=solver)
        plan = optimise_plan(law, shape, token_cost(shape, patch=2), budget=budget, **options)
        delta = velocity_error(plan.transition_times[0], float(law.at(shape)(16.0)))
        return delta, delta / error(plan, GaussianField(law, shape), solver)

    (few, ratio_few), (many, ratio_many) = balance(12), balance(48)
    assert many / few == pytest.approx(4.0**-order, rel=0.5)
    assert ratio_many / ratio_few == pytest.approx(1, abs=0.5)


def test_sampler_on_the_bench_reaches_the_predicted_error():
    """Relative W2 is the root mean square distance to the exact solution from the same noise."""
    plan = optimal(5)
    noise = torch.randn(4000, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reached = sample(FIELD.velocity, noise, plan)
    wanted = FIELD.solve(noise)
    measured = float(((reached - wanted).square().mean() / (FIELD.power().mean())).sqrt())
    assert measured == pytest.approx(error(plan), rel=0.03)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_limits_are_kept():
    assert optimal(5, steps=7).nfe == 7
    assert len(optimal(5, stages=2).stages) <= 2
    assert optimal(5, stages=1).shapes == ((16, 16),)
    assert optimal(5, shifts=(2.0,)).times == shift_times(optimal(5, shifts=(2.0,)).nfe, shift=2.0)
    sizes = optimise_plan(LAW, (16, 24), points, budget=8, multiple_of=(4, 8)).shapes
    assert all(h % 4 == 0 and w % 8 == 0 for h, w in sizes)


@settings(max_examples=5)
@given(delta=st.floats(0.001, 0.2), free=st.booleans())
def test_no_step_starts_after_the_delta_rules_time(delta, free):
    plan = optimal(7, delta=delta, **({} if free else {"shifts": (2.0, 4.0)}))
    for stage in plan.stages[:-1]:
        assert plan.times[stage.stop - 1] >= LAW.t_star(stage.shape, (16, 16), delta=delta) - 1e-9


@pytest.mark.parametrize("free", [{}, {"shifts": (2.0, 4.0)}], ids=["free", "shifted"])
@pytest.mark.parametrize("least", [0.9, 1.0, 1.5, math.inf])
def test_no_step_starts_below_the_least_time_of_its_grid(least, free):
    """At 1 a grid makes the first step at most, above 1 none; `SizeAgreement.least_times` says both."""
    size = (8, 8)
    plan = optimise_plan(LAW, (16, 16), points, budget=6, scales=(1 / 2,), least_times={size: least}, **free)
    bound = [stage for stage in plan.stages[:-1] if stage.shape == size]
    assert all(plan.times[stage.stop - 1] >= least - 1e-9 for stage in bound)
    assert least < 1 or sum(stage.steps for stage in bound) <= (least == 1)
    # Negative control: without the bound this grid is used, from later times.
    assert optimise_plan(LAW, (16, 16), points, budget=6, scales=(1 / 2,), **free).split[0] > 2


def test_without_the_bound_steps_start_later():
    """Negative control for the test above."""
    plan = optimal(7)
    stage = plan.stages[0]
    assert plan.times[stage.stop - 1] < LAW.t_star(stage.shape, (16, 16), delta=0.001)


def test_haar_gets_powers_of_two_only():
    plan = optimise_plan(LAW, (16, 16), points, budget=6, basis=HAAR)
    assert set(plan.shapes) <= {(16, 16), (8, 8), (4, 4), (2, 2)}
    field = GaussianField(LAW, (16, 16), HAAR)
    assert error(plan, field) <= error(optimise_plan(LAW, (16, 16), points, budget=6, basis=HAAR, stages=1), field)


def test_same_arguments_same_plan():
    assert optimal(4).times == optimal(4).times


# -- what it says -----------------------------------------------------------------------------------------------------


def test_plan_explains_itself():
    plan = optimal(6, delta=0.1)
    text = " ".join(str(plan).split())
    assert f"relative W2 predicted with euler: {error(plan):.4f}" in text
    assert "1 stage at best" in text
    assert "delta rule on shifted grids" in text
    stage = plan.stages[0]
    power = float(LAW(8 * min(stage.shape) / 16))
    implied = velocity_error(plan.times[stage.stop], power)
    assert f"transition 1 at T = {plan.times[stage.stop]:.4f} is what delta = {implied:.2g} would ask for" in text
    assert "later than any delta would ask for" in " ".join(str(optimal(3)).split())


def test_front_falls_strictly_and_keeps_its_budgets():
    budgets = (3, 5, 8)
    front = plan_front(LAW, (16, 16), points, budgets=budgets, scales=SCALES)
    costs, errors = zip(*((p.cost, p.error) for p in front.points), strict=True)
    assert all(a < b for a, b in itertools.pairwise(costs))
    assert all(a > b for a, b in itertools.pairwise(errors))
    assert costs[-1] <= 8
    for point in front.points:
        assert point.error == pytest.approx(error(point.plan))
        assert point.cost == point.plan.cost(points)
    assert f"{errors[0]:.5f}" in str(front)
    full = [error(plan_at(shift_times(n, shift=3.0), (), (16, 16), scales=(1,))) for n in (3, 8)]
    assert errors[0] < full[0]
    assert errors[-1] < full[1]


# -- channels ---------------------------------------------------------------------------------------------------------


def test_channels_are_pooled():
    laws = [LAW, PowerLaw(3.0, 1.5, shape=(16, 16))]
    plan = optimise_plan(laws, (16, 16), points, budget=5, scales=SCALES)
    fields = [GaussianField(law, (16, 16)) for law in laws]
    pooled = pooled_error([predict(plan, field) for field in fields])
    gains = [(predict(plan, f).gain, f.power()) for f in fields]
    by_hand = sum((g.abs() - p.sqrt()).square().sum() for g, p in gains) / sum(p.sum() for _, p in gains)
    assert pooled == pytest.approx(float(by_hand**0.5))
    assert f"{pooled:.4f}" in str(plan)
    # Made for both, it is better for both together than what is best for the second alone.
    for_second = optimise_plan(laws[1], (16, 16), points, budget=5, scales=SCALES)
    assert pooled < pooled_error([predict(for_second, field) for field in fields])


# -- cost and bad input -----------------------------------------------------------------------------------------------


def test_token_cost_is_the_counted_flux():
    """Counted FLUX.1-dev: 74.385, 21.503 and 10.348 TFLOP a step (benchmarks/results/cost.csv)."""
    cost = token_cost((128, 128), patch=2, text_tokens=512, attention=14.872 / 74.385)
    assert cost((128, 128)) == 1.0
    assert 74.385 * cost((64, 64)) == pytest.approx(21.503, rel=1e-3)
    assert 74.385 * cost((32, 32)) == pytest.approx(10.348, rel=2e-3)
    assert token_cost((4, 8, 8), patch=(1, 2, 2))((2, 4, 4)) == 1 / 8


@pytest.mark.parametrize(
    ("options", "error_type", "message"),
    [
        ({"budget": 0.5}, ValueError, "does not pay for one step"),
        ({"budget": math.nan}, ValueError, "budget"),
        ({"budget": "10"}, TypeError, "budget is '10'"),
        ({"stages": 0}, ValueError, "stages = 0"),
        ({"steps": 1.5}, ValueError, r"steps = 1\.5"),
        ({"steps": 40, "stages": 1}, ValueError, "no plan keeps all limits"),
        ({"times": (1.0, 0.5, 0.0), "steps": 3}, ValueError, "steps = 3 but times has 2"),
        ({"shifts": ()}, ValueError, "shifts"),
        ({"shifts": (2.0,), "times": (1.0, 0.5, 0.0)}, ValueError, "goes without times"),
        ({"shifts": (-1.0,)}, ValueError, "shifts = -1"),
        ({"scales": (1.5,)}, ValueError, "scales"),
        ({"multiple_of": 3}, ValueError, "multiple of"),
        ({"delta": 2.0}, ValueError, "delta"),
        ({"cost": 3.0}, TypeError, "cost is float"),
        ({"cost": lambda shape: -1.0}, ValueError, "cost function returned"),
        ({"basis": "dct"}, TypeError, "basis"),
        ({"least_times": [0.5]}, TypeError, "least_times is list"),
        ({"solver": "rk4"}, ValueError, "solver = 'rk4'"),
        ({"start": 3}, TypeError, "start"),
    ],
)
def test_bad_input(options, error_type, message):
    arguments = {"cost": points, "budget": 6, "scales": SCALES, **options}
    cost = arguments.pop("cost")
    with pytest.raises(error_type, match=message):
        optimise_plan(LAW, (16, 16), cost, **arguments)


def test_front_needs_budgets():
    with pytest.raises(ValueError, match="budgets is empty"):
        plan_front(LAW, (16, 16), points, budgets=())
    with pytest.raises(TypeError, match="budgets is 6; pass budgets"):
        plan_front(LAW, (16, 16), points, budgets=6)


@pytest.mark.parametrize("budget", [7, 10])
def test_flux_numbers_of_the_docs(budget):
    """The FLUX.1 spectrum at the cost of 7 and 10 full-size steps: below what a search over one shift finds, by both errors."""
    law, cost = PRESETS["flux"], token_cost((128, 128), patch=2, text_tokens=512, attention=14.872 / 74.385)
    plan = optimise_plan(law, (128, 128), cost, budget=budget, scales=SCALES)
    field = GaussianField(law, (128, 128), DCT)
    reached = predict(plan, field)
    assert reached.relative_w2 < {7: 0.146, 10: 0.110}[budget]
    assert reached.log_power_error < {7: 0.5, 10: 0.34}[budget]
    full = make_plan(shift_times(budget, shift=math.exp(1.15)), law, (128, 128), scales=(1,))
    assert predict(full, field).relative_w2 == pytest.approx({7: 0.349, 10: 0.257}[budget], abs=5e-4)
