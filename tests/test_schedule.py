"""Plans: the published splits on both clocks, local times, costs, warnings, and what the printed table says."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spectral_pd import (
    PRESETS,
    PowerLaw,
    Spectrum,
    activation_time,
    align_time,
    make_plan,
    plan_at,
    shift_times,
    transition_times,
)
from spectral_pd.bases import size_ratio
from spectral_pd.schedule import stage_shape

FLUX, FULL = PRESETS["flux"], (128, 128)
MU = math.exp(1.15)

# TFLOP of one step of FLUX.1-dev at 1024 x 1024 by latent size, and once for text encoder and VAE.
TFLOP = {(128, 128): 59.525, (64, 64): 13.775, (32, 32): 3.38}
ONCE = 14.77


def flux_plan(steps, scales=(0.5, 1), **options):
    return make_plan(shift_times(steps, shift=MU), FLUX, FULL, scales=scales, **options)


# -- the published rows -----------------------------------------------------------------------------------------------

ROWS = [
    (50, (1,), (50,), 2991.01),
    (12, (0.5, 1), (5, 7), 500.34),
    (10, (0.5, 1), (4, 6), 427.03),
    (12, (0.25, 0.5, 1), (3, 2, 7), 469.15),
    (10, (0.25, 0.5, 1), (2, 2, 6), 406.24),
    (7, (1,), (7,), 431.45),
    (50, (0.5, 1), (18, 32), None),
    (40, (0.5, 1), (15, 25), None),
    (40, (0.25, 0.5, 1), (8, 7, 25), None),
]


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize(("steps", "scales", "split", "tflop"), ROWS)
def test_flux_rows(steps, scales, split, tflop, clock):
    plan = flux_plan(steps, scales, clock=clock)
    assert plan.split == split
    assert plan.nfe == steps
    assert plan.shapes == tuple((int(128 * s), int(128 * s)) for s in scales)
    if tflop is not None:
        assert plan.cost(TFLOP.__getitem__) + ONCE == pytest.approx(tflop, abs=0.025)


@pytest.mark.parametrize("clock", ["full", "stage"])
def test_flux_at_delta_five_percent(clock):
    assert flux_plan(50, delta=0.05, clock=clock).split == (28, 22)


def test_the_reported_40_step_costs_belong_to_other_splits():
    """1755.22 and 1672.04 TFLOP are 14+26 and 8+6+26, which the published fit does not give."""
    for split, tflop in (((14, 26), 1755.22), ((8, 6, 26), 1672.04)):
        shapes = list(TFLOP)[: len(split)][::-1]
        total = math.fsum(n * TFLOP[s] for n, s in zip(split, shapes, strict=True)) + ONCE
        assert total == pytest.approx(tflop, abs=0.1)
    assert flux_plan(40).cost(TFLOP.__getitem__) + ONCE == pytest.approx(15 * 13.775 + 25 * 59.525 + ONCE)


def test_splits_without_the_shift_differ():
    """Negative control: the rows depend on the shifted grid."""
    assert make_plan(shift_times(50), FLUX, FULL, scales=(0.5, 1)).split != (18, 32)


def test_the_preset_is_rescaled_to_the_plans_grid():
    """At 384 x 384 the amplitude of 128 x 128 would give t* = 0.646; the plan rescales and says so."""
    times = shift_times(50, shift=MU)
    rescaled = make_plan(times, FLUX, (384, 384), scales=(0.5, 1))
    reused = make_plan(times, lambda w: FLUX(w), (384, 384), scales=(0.5, 1))
    assert 0.848 <= rescaled.transition_times[0] <= 0.860
    assert reused.transition_times[0] == pytest.approx(0.646, abs=5e-4)
    assert any("measured on 128x128 and is rescaled to 384x384" in w for w in rescaled.warnings)
    assert reused.warnings == ()


# -- time grids -------------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 60), mu=st.floats(-2, 3))
def test_shifted_times(steps, mu):
    """``sigma = e^mu u / (1 + (e^mu - 1) u)``, ``u = 1 - k/N``."""
    times = shift_times(steps, shift=math.exp(mu))
    u = 1 - np.arange(steps + 1) / steps
    assert times == pytest.approx(math.exp(mu) * u / (1 + (math.exp(mu) - 1) * u), abs=1e-12)
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert all(type(t) is float for t in times)


@st.composite
def cases(draw):
    """(time grid, shape, scales, transition times) with every transition reached."""
    steps = draw(st.integers(4, 30))
    times = shift_times(steps, shift=draw(st.floats(0.3, 6.0)))
    count = draw(st.integers(1, 3))
    scales = [(1.0,), (0.5, 1.0), (0.25, 0.5, 1.0)][count - 1]
    shape = draw(st.sampled_from([(32, 32), (16, 24), (21, 35), (8, 40), (64,), (12, 8, 16)]))
    wanted = sorted((draw(st.floats(times[-2], 0.999)) for _ in range(count - 1)), reverse=True)
    return times, shape, scales, wanted


@given(case=cases(), clock=st.sampled_from(["full", "stage"]))
def test_anatomy_of_a_plan(case, clock):
    times, shape, scales, wanted = case
    plan = plan_at(times, wanted, shape, scales=scales, clock=clock)
    assert sum(plan.split) == plan.nfe == len(times) - 1
    assert plan.shape == shape
    assert plan.transition_times == tuple(wanted)
    assert plan.stages[0].start == 0
    assert plan.stages[-1].stop == plan.nfe
    for i, stage in enumerate(plan.stages):
        assert stage.shape == tuple(max(1, int(n * scales[i])) for n in shape)
        assert stage.ratio == pytest.approx(size_ratio(stage.shape, shape), rel=1e-14)
        assert stage.pixels == math.prod(stage.shape)
        assert len(stage.local_times) == stage.steps + 1
        assert all(a > b for a, b in zip(stage.local_times, stage.local_times[1:], strict=False))
        if i + 1 < len(plan.stages):
            # The first grid time at or below t*.
            assert stage.stop == plan.stages[i + 1].start
            assert times[stage.stop] <= wanted[i]
            assert stage.stop == 0 or times[stage.stop - 1] > wanted[i]
            # Grown and aligned, the state arrives at the next stage's first local time.
            following = plan.stages[i + 1]
            assert align_time(stage.local_times[-1], stage.ratio / following.ratio) == pytest.approx(
                following.local_times[0], abs=1e-12
            )
    assert plan.stages[-1].local_times[-1] == 0.0


@given(case=cases())
def test_full_clock_patches_nothing(case):
    """Local times are the grid's, translated in log-odds; the last stage runs on the grid itself, exactly."""
    times, shape, scales, wanted = case
    plan = plan_at(times, wanted, shape, scales=scales)
    for stage in plan.stages:
        assert stage.local_times == pytest.approx(
            [align_time(t, 1 / stage.ratio) for t in times[stage.start : stage.stop + 1]], abs=1e-14
        )
    assert plan.stages[-1].local_times == times[plan.stages[-1].start :]


@given(case=cases())
def test_stage_clock_replaces_one_value_a_transition(case):
    times, shape, scales, wanted = case
    plan = plan_at(times, wanted, shape, scales=scales, clock="stage")
    assert plan.stages[0].local_times == times[: plan.stages[0].stop + 1]
    for before, stage in zip(plan.stages, plan.stages[1:], strict=False):
        assert stage.local_times[1:] == times[stage.start + 1 : stage.stop + 1]
        assert stage.local_times[0] == align_time(before.local_times[-1], size_ratio(before.shape, stage.shape))
        assert stage.local_times[0] > times[stage.start] or times[stage.start] == 1.0


def test_stage_clock_stretches_the_step_after_a_transition():
    """The known defect of the paper's clock: that step does not shrink with N."""
    for steps in (50, 200, 800):
        stage = flux_plan(steps, clock="stage").stages[1]
        full = flux_plan(steps).stages[1]
        first, second = (stage.local_times[i] - stage.local_times[i + 1] for i in (0, 1))
        assert first > 0.06
        assert first > 4 * second
        assert full.local_times[0] - full.local_times[1] < 1.5 * (full.local_times[1] - full.local_times[2])


def test_two_transitions_on_one_step_chain_through_the_aligned_time():
    times = shift_times(4)
    plan = plan_at(times, (0.8, 0.78), (16, 16), scales=(0.25, 0.5, 1), clock="stage")
    assert plan.split == (1, 0, 3)
    assert plan.stages[1].local_times == (align_time(0.75, 2.0),)
    assert plan.stages[2].local_times[0] == pytest.approx(align_time(0.75, 4.0), abs=1e-15)
    assert any("2 transitions fall on grid time T_1 = 0.7500" in w for w in plan.warnings)
    assert plan_at(times, (0.8, 0.7), (16, 16), scales=(0.25, 0.5, 1)).warnings == ()


# -- where the transitions come from ----------------------------------------------------------------------------------


def test_law_table_function_and_times_agree():
    k = np.arange(1.0, 65.0)
    law = PowerLaw(80.0, 2.0, shape=FULL)
    table = Spectrum(k, law(k), np.ones(64), FULL)
    times = shift_times(40, shift=3)
    by_law = make_plan(times, law, FULL, scales=(0.25, 0.5, 1))
    by_table = make_plan(times, table, FULL, scales=(0.25, 0.5, 1))
    by_function = make_plan(times, lambda w: 80.0 / w**2, FULL, scales=(0.25, 0.5, 1))
    by_times = plan_at(times, by_law.transition_times, FULL, scales=(0.25, 0.5, 1))
    for plan in (by_table, by_function, by_times):
        assert plan.split == by_law.split
        assert plan.transition_times == pytest.approx(by_law.transition_times, abs=1e-12)
    assert by_times.stages == by_law.stages
    assert by_times.delta is None
    assert by_law.delta == 0.01


def test_a_table_with_a_dip_drives_the_plan():
    """A measured table is used as it is, not through its fit: the least power of the band decides."""
    k = np.arange(1.0, 17.0)
    power = 100.0 / k**2
    power[3] = 1e-3
    table = Spectrum(k, power, np.ones(16), (32, 32))
    plan = make_plan(shift_times(400), table, (32, 32), scales=(0.5, 1))
    assert plan.transition_times[0] == pytest.approx(activation_time(1e-3, 0.01), rel=1e-12)
    smooth = make_plan(shift_times(400), PowerLaw(100.0, 2.0, shape=(32, 32)), (32, 32), scales=(0.5, 1))
    assert smooth.transition_times[0] > plan.transition_times[0]


@given(delta=st.floats(1e-3, 0.3), smaller=st.floats(0.05, 0.95))
def test_smaller_delta_is_never_faster(delta, smaller):
    times = shift_times(200, shift=3)
    a = make_plan(times, FLUX, FULL, scales=(0.5, 1), delta=delta * smaller)
    b = make_plan(times, FLUX, FULL, scales=(0.5, 1), delta=delta)
    assert a.transition_times[0] > b.transition_times[0]
    assert a.split[0] <= b.split[0]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_rounded_sizes_use_their_real_ratio():
    times = shift_times(50, shift=3)
    plan = make_plan(times, FLUX.at((90, 160)), (90, 160), scales=(0.5, 1), multiple_of=2)
    assert plan.shapes == ((44, 80), (90, 160))
    assert plan.stages[0].ratio == pytest.approx(math.sqrt(90 * 160 / (44 * 80)))
    assert any("scale 1/2 of 90x160 is rounded to 44x80" in w for w in plan.warnings)
    # The stage represents everything up to its smaller per-axis share of the band.
    expected = transition_times(FLUX.at((90, 160)), (44 / 90, 1), (90, 160), delta=0.01)
    assert plan.transition_times == pytest.approx(expected, rel=1e-12)


def test_exact_sizes_are_not_called_rounded():
    plan = plan_at(shift_times(20), (0.5,), (90, 90), scales=(2 / 3, 1))
    assert plan.shapes[0] == (60, 60)
    assert plan.warnings == ()


def test_stages_may_share_their_smallest_share():
    """Two stages that differ along one axis only: their bands end at the same frequency, which is legal."""
    plan = make_plan(shift_times(40), lambda w: 50 / w**2, (3, 32), scales=(0.4, 0.5, 1))
    assert plan.shapes == ((1, 12), (1, 16), (3, 32))
    assert plan.transition_times[0] == plan.transition_times[1]


@pytest.mark.parametrize(("n", "scale", "size"), [(100, 0.29, 29), (100, 0.57, 57), (49, 1 / 49, 1), (90, 2 / 3, 60)])
def test_a_rounding_error_below_an_integer_is_that_integer(n, scale, size):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    assert stage_shape((n,), scale) == (size,)


@given(n=st.integers(1, 200), numerator=st.integers(1, 12), denominator=st.integers(1, 12), multiple=st.integers(1, 8))
def test_stage_shape(n, numerator, denominator, multiple):
    assume(numerator <= denominator)
    exact = max(n * numerator // denominator // multiple, 1) * multiple
    assert stage_shape((n,), numerator / denominator, multiple_of=multiple) == (exact,)


# -- cost -------------------------------------------------------------------------------------------------------------


def test_cost_and_speedup():
    plan = flux_plan(50)
    assert plan.cost() == 18 * 64**2 + 32 * 128**2
    assert plan.speedup() == pytest.approx(50 * 128**2 / (18 * 64**2 + 32 * 128**2))
    by_tflop = flux_plan(50, cost=TFLOP.__getitem__)
    assert by_tflop.cost() == pytest.approx(18 * 13.775 + 32 * 59.525)
    assert by_tflop.speedup() == pytest.approx(50 * 59.525 / by_tflop.cost())
    assert by_tflop.cost(lambda shape: 1.0) == 50
    assert by_tflop.speedup(lambda shape: 1.0) == 1.0
    assert make_plan(shift_times(7), FLUX, FULL, scales=(1,)).speedup() == 1.0


# -- warnings and the printed table -----------------------------------------------------------------------------------


def test_a_transition_never_reached_is_an_error_or_forced():
    times = shift_times(10, shift=20)
    with pytest.raises(ValueError, match=r"transition 1 at t\* = 0\.4\d+ is never reached: .* T_9 = 0\.689655"):
        make_plan(times, lambda w: 0.01 + 0 * w, FULL, scales=(0.5, 1), delta=0.02)
    plan = make_plan(times, lambda w: 0.01 + 0 * w, FULL, scales=(0.5, 1), delta=0.02, unreached="force")
    assert plan.split == (9, 1)
    assert any("never reached" in w and "forced to T_9" in w for w in plan.warnings)


def test_warnings():
    times = shift_times(12, shift=3)
    borrowed = make_plan(times, PRESETS["qwen-image"], FULL, scales=(0.5, 1))
    assert any("borrowed" in w and "fit_spectrum" in w for w in borrowed.warnings)
    assert flux_plan(12).warnings == ()
    late = plan_at((0.5, 0.25, 0.0), (0.9,), (8, 8), scales=(0.5, 1))
    assert late.split == (0, 2)
    assert any("no coarse step" in w for w in late.warnings)


def flat(plan):
    """What a plan prints, without its line breaks."""
    return " ".join(str(plan).split())


def test_printed_plan():
    text = str(flux_plan(50, (0.25, 0.5, 1), cost=TFLOP.__getitem__))
    lines = text.splitlines()
    assert lines[0] == "50 steps, 3 stages, clock='full', delta=0.01"
    assert lines[1].split() == ["scale", "size", "steps", "local", "times", "t*", "T", "points", "cost", "share"]
    first, second, third = (line.split() for line in lines[2:5])
    plan = flux_plan(50, (0.25, 0.5, 1))
    assert first[:3] == ["1/4", "32x32", str(plan.split[0])]
    assert first[3:6] == ["1.000", "->", f"{plan.stages[0].local_times[-1]:.3f}"]
    assert first[6:8] == ["0.9341", f"{plan.times[plan.stages[0].stop]:.4f}"]
    assert second[1] == "64x64"
    assert second[6] == "0.8527"
    assert third[:3] == ["1", "128x128", "32"]
    assert third[6:10] == ["-", "-", "16384", "1"]
    assert first[9] == f"{TFLOP[32, 32] / TFLOP[128, 128]:.3g}"  # costs in steps of the full size
    assert third[10] == f"{32 * 59.525 / plan.cost(TFLOP.__getitem__):.1%}"
    assert "predicted speedup over 50 full-size steps, by cost function:" in text
    assert "warning" not in text
    assert "predicted speedup over 50 full-size steps, by grid points:" in str(flux_plan(50))


def test_printed_tokens():
    """With a patch size, the plan counts what a transformer sees: FLUX's 2x2 patches of latent points."""
    plan = flux_plan(50, multiple_of=2)
    assert plan.tokens == (32 * 32, 64 * 64)
    assert flux_plan(50).tokens == (64 * 64, 128 * 128)
    video = plan_at(shift_times(8), (0.7,), (21, 60, 104), scales=((1, 0.5, 0.5), 1), multiple_of=(1, 2, 2))
    assert video.tokens == (21 * 15 * 26, 21 * 30 * 52)
    header, first, second = (line.split() for line in str(plan).splitlines()[1:4])
    assert header[-2:] == ["tokens", "share"]
    assert (first[8], second[8]) == ("1024", "4096")
    assert video.stages[0].scale == (1, 0.5, 0.5)
    wide = plan_at(
        shift_times(50), (0.7,), (21, 600, 1040), scales=((1, 1 / 2, 1 / 2), 1), cost=lambda grid: 1e12 * grid[1]
    )
    assert max(map(len, str(wide).splitlines())) <= 80


def test_a_plan_prints_how_sure_its_transitions_are():
    times, law = shift_times(50, shift=3), PRESETS["flux2"]
    plan = make_plan(times, law, FULL, scales=(1 / 4, 1 / 2, 1))
    for stage in plan.stages[:-1]:
        low, high = law.t_star_interval(stage.shape, FULL, delta=0.01)
        assert low < stage.t_star < high
        size = "x".join(map(str, stage.shape))
        assert f"note: t* of {size} lies in [{low:.4f}, {high:.4f}], 95 % over the data" in flat(plan)
    assert "lies in" not in str(flux_plan(50))  # the authors' fits come without intervals


def test_printed_warnings():
    text = flat(make_plan(shift_times(12, shift=3), PRESETS["qwen-image"], (90, 160), scales=(0.3, 1)))
    assert "warning: the spectrum is borrowed (WAN 2.1's fit, not measured on Qwen-Image latents" in text
    assert "warning: the spectrum was measured on 60x104 and is rescaled to 90x160" in text
    rounded = str(plan_at(shift_times(12), (0.5,), (9, 9), scales=(0.5, 1)))
    assert "warning: scale 1/2 of 9x9 is rounded to 4x4" in rounded
