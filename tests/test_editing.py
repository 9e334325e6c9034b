"""Editing by frequency: what the first state holds, what survives, SDEdit as a special case, what t = 1 forgets."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import basis_pairs, randn, within
from tolerances import assert_close

from spectral_pd import (
    DCT,
    HAAR,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    edit,
    make_plan,
    plan_at,
    restrict_signal,
    sample,
    sdedit,
    shift_times,
    snr,
)
from spectral_pd.bases import BASES, corner
from spectral_pd.solvers import SOLVERS

SHAPE = (16, 24)
IMAGE, NOISE = randn(2, 3, *SHAPE, seed=1), randn(2, 3, *SHAPE, seed=2)
MODES = ["noised", "clean"]
CLOCKS = ["full", "stage"]


def plan_for(shape=SHAPE, *, steps=12, clock="full", at=(0.85, 0.6), shift=2.0):
    scales = {0: (1,), 1: (0.5, 1), 2: (0.25, 0.5, 1)}[len(at)]
    times = shift_times(steps, shift=shift)
    return plan_at(times, at, shape, scales=scales, clock=clock)


def nonlinear(x, t):
    return x * t - torch.tanh(2 * x) * (1 - t)


def nothing(x, t):
    return torch.zeros_like(x)


def first_state(image, plan, **options):
    """What the velocity is first called with: (state, local time)."""
    calls = []

    def velocity(x, t):
        calls.append((x, t))
        return torch.zeros_like(x)

    edit(velocity, image, plan, **options)
    return calls[0]


# -- the first state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_first_state_coefficient_by_coefficient(mode, stage, clock, basis):
    """The table of the module's text, from the full-size coefficients alone."""
    plan = plan_for(clock=clock)
    x, t = first_state(IMAGE, within(plan, basis), stage=stage, mode=mode, noise=NOISE)
    here, coarse = plan.stages[stage], plan.stages[stage - 1]
    assert x.shape[-2:] == here.shape
    # A clean band is not aligned: on the stage clock it goes on from the grid time itself.
    assert t == (plan.times[here.start] if (mode, clock) == ("clean", "stage") else here.local_times[0])
    picture, white = (basis.forward(v)[corner(here.shape)] for v in (IMAGE, NOISE))
    expected = t * white
    low = corner(coarse.shape)
    kept = picture[low] / here.ratio  # the same picture on a grid of ratio r has coefficients r times smaller
    expected[low] = kept if mode == "clean" else (1 - t) * kept + t * white[low]
    assert_close(basis.forward(x), expected)


@settings(max_examples=15)
@given(case=basis_pairs(max_dims=3), mode=st.sampled_from(MODES), clock=st.sampled_from(CLOCKS))
def test_first_state_on_any_grid(case, mode, clock):
    basis, _, fine = case
    shape, dims = tuple(2 * n for n in fine), len(fine)
    plan = plan_for(shape, at=(0.7,), clock=clock)
    image, noise = randn(1, 2, *shape, seed=3), randn(1, 2, *shape, seed=4)
    x, t = first_state(image, within(plan, basis), stage=1, mode=mode, noise=noise)
    low = corner(plan.shapes[0])
    if not basis.nested(plan.shapes[0], shape):
        return
    picture, white = (basis.forward(v, dims=dims) for v in (image, noise))
    expected = t * white
    expected[low] = picture[low] if mode == "clean" else (1 - t) * picture[low] + t * white[low]
    assert_close(basis.forward(x, dims=dims), expected)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("basis", [DCT, HAAR], ids=repr)
def test_an_edit_is_the_rest_of_a_run(basis, solver, clock, stage):
    """Noised: `sample` whose callback puts the noised low band in at the end of stage k - 1 ends in the same picture."""
    plan = plan_for(clock=clock)
    coarse = plan.stages[stage - 1]
    t = coarse.local_times[-1]
    low = restrict_signal(IMAGE, coarse.shape, basis=basis)
    state = (1 - t) * low + t * basis.restrict(NOISE, coarse.shape)

    def swap(info):
        return state if info.step == coarse.stop else None

    def forgetful(velocity, x, time, after, history):
        """The run that the edit is compared with has a history from before the swap; drop it there."""
        new = time == plan.stages[stage].local_times[0] and x.shape[-2:] == plan.stages[stage].shape
        return SOLVERS[solver](velocity, x, time, after, None if new else history)

    expected = sample(nonlinear, NOISE, within(plan, basis), solver=forgetful, callback=swap)
    result = edit(nonlinear, IMAGE, within(plan, basis), stage=stage, noise=NOISE, solver=solver)
    assert torch.equal(result, expected)
    assert not torch.equal(result, edit(nonlinear, NOISE, within(plan, basis), stage=stage, noise=NOISE, solver=solver))


@pytest.mark.parametrize("clock", CLOCKS)
def test_clean_with_empty_stages_left(clock):
    """Two transitions on one grid time: the stage between makes no step, and the next starts where it was entered."""
    plan = plan_for(clock=clock, at=(0.7, 0.7))
    assert plan.split[1] == 0
    x, t = first_state(IMAGE, plan, stage=1, mode="clean", noise=NOISE)
    assert x.shape[-2:] == plan.shape
    here = plan.times[plan.stages[1].start]
    entered = {"full": plan.stages[1].local_times[0], "stage": here}[clock]
    # 8x12 -> 16x24 from `entered`: aligned once, by r = 2.
    aligned = 2 * entered / (1 + entered)
    assert t == pytest.approx(aligned, abs=1e-12)
    kappa = 2 / (1 + entered)
    assert_close(DCT.forward(x)[corner((4, 6))], kappa / 2 * DCT.forward(IMAGE)[corner((4, 6))])


# -- what survives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_low_band_survives(solver, clock, basis):
    """A model that answers only above the kept band: clean keeps the band exactly, noised keeps its noised form."""
    plan = plan_for(clock=clock, at=(0.6,))
    low = plan.shapes[0]

    def above(x, t):
        v = nonlinear(x, t)
        return v - basis.embed(basis.restrict(v, low), plan.shape)

    options = dict(stage=1, noise=NOISE, solver=solver)
    plan = within(plan, basis)
    clean = edit(above, IMAGE, plan, mode="clean", **options)
    assert_close(basis.restrict(clean, low), basis.restrict(IMAGE, low))
    assert not torch.allclose(clean, IMAGE, atol=0.1)
    t = plan.stages[1].local_times[0]
    noised = edit(above, IMAGE, plan, mode="noised", **options)
    assert_close(basis.restrict(noised, low), basis.restrict((1 - t) * IMAGE + t * NOISE, low))
    # Negative control: a model that answers everywhere changes the band.
    everywhere = edit(nonlinear, IMAGE, plan, mode="clean", **options)
    assert (basis.restrict(everywhere, low) - basis.restrict(IMAGE, low)).abs().max() > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", [1, 2])
def test_the_high_band_of_the_input_does_not_matter(mode, stage):
    plan = plan_for()
    low = plan.shapes[stage - 1]
    filtered = DCT.embed(DCT.restrict(IMAGE, low), SHAPE)
    options = dict(stage=stage, mode=mode, noise=NOISE)
    assert_close(edit(nonlinear, IMAGE, plan, **options), edit(nonlinear, filtered, plan, **options))
    # Negative control: the band below does.
    lower = DCT.embed(DCT.restrict(IMAGE, (2, 3)), SHAPE)
    different = edit(nonlinear, lower, plan, **options) - edit(nonlinear, IMAGE, plan, **options)
    assert different.abs().max() > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_what_the_exact_flow_makes_of_the_low_band(mode):
    """Gaussian field: ``g c + sqrt(P / (1 + SNR)) n`` or ``g c / (1 - t)``, Euler converges to it."""
    shape = (8, 8)
    field = GaussianField(PowerLaw(30.0, 2.0, shape=shape), shape)
    image, noise = (
        field.sample((4, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        randn(4, 1, 8, 8),
    )
    low = corner((4, 4))
    c, n, power = DCT.forward(image)[low], DCT.forward(noise)[low], field.power()[low]

    def error(steps):
        plan = plan_for(shape, at=(0.7,), steps=steps)
        t = plan.stages[1].local_times[0]
        ratio = snr(t, power)
        gain = (ratio / (1 + ratio)).sqrt()
        expected = gain * c + (power / (1 + ratio)).sqrt() * n if mode == "noised" else gain * c / (1 - t)
        result = DCT.forward(edit(field.velocity, image, plan, stage=1, mode=mode, noise=noise))[low]
        return float((result - expected).abs().max() / expected.abs().max())

    errors = [error(steps) for steps in (200, 400, 800)]
    assert errors[2] < 5e-3
    for a, b in pairwise(errors):
        assert 1.7 < a / b < 2.3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_model_of_one_picture_returns_it(mode, stage):
    target = randn(1, 3, *SHAPE, seed=9)
    result = edit(FiniteDataset(target).velocity, IMAGE, plan_for(), stage=stage, mode=mode, noise=NOISE)
    assert_close(result, target.expand_as(IMAGE))


def test_the_low_band_says_which_picture_of_a_data_set_it_is():
    """Given the low band of one of its pictures a model of 40 restores it: clean always, noised where noise leaves it known."""
    data, noise = randn(40, 1, 16, 16, seed=5), randn(40, 1, 16, 16, seed=6)
    model = FiniteDataset(data)

    def restored(pictures):
        return float(((pictures - data).flatten(1).norm(dim=1) < 1e-6).double().mean())

    def edited(at, mode):
        plan = plan_for((16, 16), at=(at,), steps=20)
        return restored(edit(model.velocity, data, plan, stage=1, mode=mode, noise=noise))

    assert edited(0.6, "clean") == edited(0.4, "clean") == 1
    assert 0.4 < edited(0.6, "noised") < 0.9 < edited(0.4, "noised")
    assert restored(sample(model.velocity, noise, plan_for((16, 16), at=(0.6,), steps=20))) < 0.15  # negative control


# -- SDEdit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("clock", CLOCKS)
def test_noised_on_the_last_stage_is_sdedit_of_the_filtered_picture(basis, clock):
    plan = plan_for(clock=clock)
    low = plan.shapes[1]
    filtered = basis.embed(basis.restrict(IMAGE, low), SHAPE)
    edited = edit(nonlinear, IMAGE, within(plan, basis), stage=2, noise=NOISE)
    times = plan.stages[2].local_times
    assert_close(edited, sdedit(nonlinear, filtered, times, noise=NOISE))
    assert (edited - sdedit(nonlinear, IMAGE, times, noise=NOISE)).abs().max() > 0.1  # negative control: unfiltered


@pytest.mark.parametrize("solver", SOLVERS)
def test_sdedit_step_by_step(solver):
    times = (0.6, 0.45, 0.2, 0.0)
    x, history = 0.4 * IMAGE + 0.6 * NOISE, None
    for t, t_next in pairwise(times):
        x, history = SOLVERS[solver](nonlinear, x, t, t_next, history)
    assert torch.equal(sdedit(nonlinear, IMAGE, times, noise=NOISE, solver=solver), x)


# -- t = 1 ------------------------------------------------------------------------------------------------------------


def test_sdedit_at_one_is_sampling():
    times = shift_times(7)
    plan = plan_for(steps=7, at=(), shift=1.0)
    assert torch.equal(sdedit(nonlinear, IMAGE, times, noise=NOISE), sample(nonlinear, NOISE, plan))
    later = times[1:]
    assert not torch.equal(
        sdedit(nonlinear, IMAGE, later, noise=NOISE), sdedit(nonlinear, 2 * IMAGE, later, noise=NOISE)
    )


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_stage_zero_at_one_is_progressive_sampling_bit_for_bit(basis, clock):
    plan = plan_for(clock=clock)
    result = edit(nonlinear, IMAGE, within(plan, basis), stage=0, noise=NOISE)
    assert torch.equal(result, sample(nonlinear, NOISE, within(plan, basis)))


def transition_at_one(clock):
    """A plan whose first transition lies at t = 1 itself, where `make_plan` would have a stage without any step."""
    plan = plan_for(clock=clock, at=(0.6,))
    first, last = plan.stages
    first = replace(first, stop=0, local_times=(1.0,))
    return replace(plan, stages=(first, replace(last, start=0, local_times=plan.times)))


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_edit_at_one_forgets_the_input_entirely(clock):
    plan = transition_at_one(clock)
    other = randn(2, 3, *SHAPE, seed=8)
    results = [edit(nonlinear, image, plan, stage=1, noise=NOISE) for image in (IMAGE, other, 0 * IMAGE)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert_close(results[0], sample(nonlinear, NOISE, plan_for(at=())))
    # Negative controls: a clean band is never forgotten, and an edit below 1 remembers.
    clean = [edit(nonlinear, image, plan, stage=1, mode="clean", noise=NOISE) for image in (IMAGE, other)]
    assert (clean[0] - clean[1]).abs().max() > 0.1
    below = [edit(nonlinear, image, plan_for(at=(0.6,)), stage=1, noise=NOISE) for image in (IMAGE, other)]
    assert (below[0] - below[1]).abs().max() > 0.1


@settings(max_examples=10)
@given(exponent=st.integers(2, 9), clock=st.sampled_from(CLOCKS))
def test_the_memory_of_the_input_vanishes_with_one_minus_t(exponent, clock):
    """A velocity of 0 keeps the state: two inputs end as far apart as they started, ``(1 - t~)`` times their low bands."""
    t = 1 - 10.0**-exponent
    plan = plan_at((1.0, t, 0.0), (t,), (8, 8), scales=(0.5, 1), clock=clock)
    a, b, noise = (randn(1, 8, 8, seed=k) for k in (1, 2, 3))
    difference = edit(nothing, a, plan, stage=1, noise=noise) - edit(nothing, b, plan, stage=1, noise=noise)
    expected = (1 - plan.stages[1].local_times[0]) * DCT.restrict(a - b, (4, 4))
    assert_close(DCT.restrict(difference, (4, 4)), expected)


# -- randomness, types, callbacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("basis", [DCT, HAAR], ids=repr)
def test_seed_generator_field_and_tensor_agree(basis, mode):
    image, plan = IMAGE.float(), within(plan_for(), basis)
    options = dict(stage=1, mode=mode)
    by_seed = edit(nonlinear, image, plan, seed=3, **options)
    assert torch.equal(by_seed, edit(nonlinear, image, plan, noise=NoiseField(3, basis), **options))
    rendered = NoiseField(3, basis).on(image.shape)
    assert_close(by_seed, edit(nonlinear, image, plan, noise=rendered, **options), factor=10)
    second = edit(nonlinear, image[1:], plan, seed=4, **options)
    assert torch.equal(by_seed[1:], second)  # item i has seed + i
    drawn = [edit(nonlinear, image, plan, seed=torch.Generator().manual_seed(s), **options) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(by_seed, second.expand_as(by_seed))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    image, noise = IMAGE.to(dtype), NOISE.to(dtype)
    result = edit(nonlinear, image, plan_for(), stage=1, noise=noise)
    assert result.dtype == dtype
    assert torch.equal(result, edit(nonlinear, image.float(), plan_for(), stage=1, noise=noise.float()).to(dtype))


def test_callback_counts_on_the_plans_grid_and_may_replace():
    plan, seen = plan_for(), []
    edit(nonlinear, IMAGE, plan, stage=1, noise=NOISE, callback=seen.append)
    start = plan.stages[1].start
    assert start > 0
    assert [info.step for info in seen] == list(range(start + 1, plan.nfe + 1))
    assert [info.time for info in seen] == list(plan.times[start + 1 :])
    assert [info.stage for info in seen] == [k for k in (1, 2) for _ in range(plan.split[k])]
    assert seen[-1].state.shape == IMAGE.shape
    end = edit(nonlinear, IMAGE, plan, stage=1, noise=NOISE, callback=lambda info: torch.zeros_like(info.state))
    assert torch.equal(end, torch.zeros_like(IMAGE))


def test_inputs_are_left_alone_without_global_randomness():
    image, noise, state = IMAGE.clone(), NOISE.clone(), torch.get_rng_state()
    for mode in MODES:
        edit(nonlinear, image, plan_for(), stage=2, mode=mode, noise=noise)
    edit(nonlinear, image, plan_for(), stage=1, seed=1)
    assert torch.equal(image, IMAGE)
    assert torch.equal(noise, NOISE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("grid", "leading"), [((16,), (2, 3)), ((8, 8), (2, 3, 5)), ((4, 8, 8), (2, 3)), ((8, 8), ())])
@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_axes(mode, grid, leading):
    plan, image = plan_for(grid, at=(0.7,)), randn(*leading, *grid, seed=1)
    by_tensor = edit(nonlinear, image, plan, stage=1, mode=mode, noise=randn(*leading, *grid, seed=2))
    by_seed = edit(nonlinear, image, plan, stage=1, mode=mode, seed=2)
    assert by_tensor.shape == by_seed.shape == image.shape
    assert by_seed.dtype == torch.float64


def test_the_snippet_of_the_page():
    text = (Path(__file__).parent.parent / "docs" / "editing.md").read_text()
    *_, snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    calls = []

    def velocity(x, t):
        calls.append(tuple(x.shape[-2:]))
        return x

    scope = {"image": randn(1, 1, 32, 32), "times": shift_times(20, shift=3.0), "velocity": velocity}
    law = PowerLaw(200.0, 2.0, shape=(32, 32))
    exec(snippet, {"make_plan": make_plan, "edit": edit, "sdedit": sdedit, "law": law, **scope})
    half = len(calls) // 2  # the same number of steps: 16x16 and 32x32, then all 32x32
    assert calls[0] == (16, 16)
    assert set(calls[half:]) == {(32, 32)}
    assert len(calls) == 2 * half
