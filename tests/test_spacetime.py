"""Growth in time as well as space, 1-D signals and 3-D volumes: the same code, axis by axis."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import randn
from tolerances import assert_close

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    activation_time,
    align_time,
    expand,
    expand_aligned,
    make_plan,
    optimise_plan,
    plan_at,
    predict,
    restrict_signal,
    sample,
    shift_times,
    spacetime_spectrum,
    token_cost,
)
from spectral_pd.bases import corner, size_ratio
from spectral_pd.spacetime import SpaceTimeSpectrum, latent_frames

SHAPE = (8, 12, 16)
CUBE = ((1 / 2, 1 / 2, 1 / 2), (1, 1 / 2, 1 / 2), 1)
"""Half of everything, then all frames, then full size."""


def table(shape=SHAPE, exponents=(1.5, 2.0)):
    """A decreasing table that is no function of one radius."""
    t, s = np.arange(0, shape[0]) / 2, np.arange(0, min(shape[1:]) // 2 + 1)
    power = 40 * (1 + t[:, None]) ** -exponents[0] * (1 + s) ** -exponents[1]
    return SpaceTimeSpectrum(t, s, power, shape)


# -- expansion --------------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=20)
@given(
    coarse=sizes, growth=st.tuples(*[st.integers(0, 4)] * 3), basis=st.sampled_from([DCT, FOURIER]), t=st.floats(0, 1)
)
def test_three_axes_are_the_composition_of_single_ones(coarse, growth, basis, t):
    fine = tuple(n + g for n, g in zip(coarse, growth, strict=True))
    x, w = randn(2, *coarse), randn(2, *fine, seed=1)
    by_axis = x
    for axis in range(3):
        grown = (*by_axis.shape[1 : 1 + axis], fine[axis], *by_axis.shape[2 + axis :])
        by_axis = expand(by_axis, grown, 0.0, noise=torch.zeros(2, *grown, dtype=x.dtype), basis=basis)
    low = w
    for axis in range(3):
        u = basis.isometry(coarse[axis], fine[axis])
        low = torch.movedim(torch.tensordot(low, u @ u.T, dims=([axis + 1], [0])), -1, axis + 1)
    assert_close(expand(x, fine, t, noise=w, basis=basis), by_axis + t * (w - low))


@settings(max_examples=15)
@given(t=st.floats(0.05, 0.95), seed=st.integers(0, 2**32), basis=st.sampled_from([DCT, FOURIER]))
def test_time_first_or_space_first_or_both(t, seed, basis):
    """With the one coupled field it does not matter in which order the axes grow."""
    x, field = randn(1, 2, 4, 6, 6), NoiseField(seed, basis)
    at_once, time = expand_aligned(x, (8, 12, 12), t, noise=field, basis=basis)
    for middle in ((8, 6, 6), (4, 12, 12)):
        y, s = expand_aligned(x, middle, t, noise=field, basis=basis)
        y, s = expand_aligned(y, (8, 12, 12), s, noise=field, basis=basis)
        assert s == pytest.approx(time, rel=1e-12)
        assert_close(y, at_once)
    assert time == pytest.approx(align_time(t, math.sqrt(8)), rel=1e-12)


def test_order_matters_with_independent_noise():
    """Negative control for the test above."""
    x, field = randn(1, 2, 4, 6, 6), NoiseField(0, DCT)
    at_once, _ = expand_aligned(x, (8, 12, 12), 0.5, noise=field)
    y, s = expand_aligned(x, (8, 6, 6), 0.5, noise=field)
    y, _ = expand_aligned(y, (8, 12, 12), s, noise=field.fresh(2))
    assert (y - at_once).abs().max() > 0.1


# -- plans ------------------------------------------------------------------------------------------------------------


def test_scales_of_each_axis():
    plan = make_plan(shift_times(40, shift=5.0), table(), SHAPE, scales=CUBE)
    assert plan.shapes == ((4, 6, 8), (8, 6, 8), (8, 12, 16))
    assert [s.ratio for s in plan.stages] == [pytest.approx(math.sqrt(8)), pytest.approx(2.0), 1.0]
    assert plan.stages[1].scale == (1.0, 0.5, 0.5)
    assert plan.stages[0].scale == 0.5
    assert "1,1/2,1/2" in str(plan)


def test_transition_is_the_strongest_coefficient_left_out():
    spectrum = table()
    plan = make_plan(shift_times(40, shift=5.0), spectrum, SHAPE, scales=CUBE, delta=0.02)
    power = spectrum.coefficients(SHAPE)
    for stage in plan.stages[:-1]:
        outside = np.ones(SHAPE, dtype=bool)
        outside[tuple(slice(0, n) for n in stage.shape)] = False
        times = activation_time(power[outside], 0.02)
        assert stage.t_star == pytest.approx(float(times.max()))
    assert plan.stages[0].t_star >= plan.stages[1].t_star


def test_a_still_clip_needs_its_frames_late_and_a_busy_one_early():
    times = shift_times(60, shift=5.0)

    def leaves(exponent):
        spectrum = table(exponents=(exponent, 2.0))
        plan = make_plan(times, spectrum, SHAPE, scales=((0.5, 1, 1), 1), delta=0.01)
        return plan.transition_times[0]

    assert leaves(4.0) < leaves(2.0) < leaves(0.5)


def test_radial_law_on_a_volume_agrees_with_its_table():
    """An isotropic law: the rule for tables and the rule for radial spectra leave a cube's stage at the same time."""
    law = PowerLaw(40.0, 2.0, shape=(16, 16, 16))
    axis = np.arange(0, 16) / 2
    radius = np.hypot(axis[:, None], np.arange(0, 17) / 2)
    spectrum = SpaceTimeSpectrum(axis, np.arange(0, 17) / 2, law(np.maximum(radius, 0.5)), (16, 16, 16))
    times = shift_times(400, shift=3.0)
    radial = make_plan(times, law, (16, 16, 16), scales=(0.5, 1))
    tabled = make_plan(times, spectrum, (16, 16, 16), scales=(0.5, 1))
    assert tabled.transition_times[0] == pytest.approx(radial.transition_times[0], abs=1e-9)


@pytest.mark.parametrize(
    ("scales", "error", "message"),
    [
        (((0.5, 0.5), 1), ValueError, "2 numbers for 3 axes"),
        (((0.5, 1, 0.5), (1, 0.5, 1), 1), ValueError, "no axis may shrink"),
        (((1, 0.5, 0.5), (1, 0.5, 0.5), 1), ValueError, "one must grow"),
        (((0.5, 0.5, 0.5), (1, 1, 0.5)), ValueError, "end at 1"),
        (((0.5, 0, 0.5), 1), ValueError, r"\(0, 1\]"),
        (((0.5, "a", 0.5), 1), TypeError, "must be a number"),
    ],
)
def test_bad_scales_of_axes(scales, error, message):
    with pytest.raises(error, match=message):
        make_plan(shift_times(20), table(), SHAPE, scales=scales)


def test_multiples_of_each_axis():
    law = PowerLaw(40.0, 2.0)
    plan = make_plan(shift_times(50), law, (21, 60, 104), scales=(0.5, 1), multiple_of=(1, 2, 2), delta=0.05)
    assert plan.shapes[0] == (10, 30, 52)
    with pytest.raises(ValueError, match="one for each of 3 axes"):
        make_plan(shift_times(50), law, (21, 60, 104), scales=(0.5, 1), multiple_of=(2, 2))
    with pytest.raises(ValueError, match="not a multiple"):
        make_plan(shift_times(50), law, (21, 60, 104), scales=(0.5, 1), multiple_of=(2, 2, 2))


def test_wan_frames():
    assert [latent_frames(n) for n in (1, 5, 33, 49, 81)] == [1, 2, 9, 13, 21]
    for n in (0, 2, 80, 82, True, 5.0):
        with pytest.raises(ValueError, match=r"must be 4 k \+ 1"):
            latent_frames(n)
    cost = token_cost((21, 60, 104), patch=(1, 2, 2), attention=0.85)
    assert cost((21, 30, 52)) == pytest.approx(0.15 / 4 + 0.85 / 16)
    assert cost((11, 30, 52)) < 0.6 * cost((21, 30, 52))


# -- sampling in three dimensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["full", "stage"])
def test_same_noise_same_clip_step_by_step(clock):
    """Equivalence theorem in 3-D: growing in time and space walks the low band of the full run; the stage clock does not."""
    field = GaussianField(table(), SHAPE)
    times = shift_times(16, shift=5.0)
    plan = plan_at(times, (0.9, 0.7), SHAPE, scales=CUBE, clock=clock)
    full = plan_at(times, (), SHAPE, scales=(1,))
    noise, states, errors = randn(2, 1, *SHAPE, seed=3), {}, []
    sample(field.velocity, noise, full, callback=lambda i: states.update({i.step: DCT.forward(i.state, dims=3)}))

    def compare(info):
        grid = info.state.shape[-3:]
        r = size_ratio(grid, SHAPE)
        low = states[info.step][corner(grid)]
        grown = DCT.forward(info.state, dims=3) * (r / (1 + (r - 1) * info.local_time))
        inside = corner(plan.shapes[0])
        errors.append(float((grown[inside] - low[inside]).abs().max()))

    x = sample(field.velocity, noise, plan, callback=compare)
    if clock == "full":
        assert max(errors) < 1e-10
    else:
        assert max(errors) > 0.05
    assert_close(DCT.forward(x, dims=3), predict(plan, field).gain * DCT.forward(noise, dims=3))


def test_nonlinear_same_seed_in_three_dimensions():
    """Exact posterior mean over clips: an early transition gives the full run's clip, a late one another."""
    clips = randn(60, 1, *SHAPE, seed=1).cumsum(-1).cumsum(-2).cumsum(-3) / 24
    model = FiniteDataset(clips, 0.1, dims=3)
    noise, times = randn(8, 1, *SHAPE, seed=2), shift_times(16, shift=8.0)
    full = sample(model.velocity, noise, plan_at(times, (), SHAPE, scales=(1,)))
    median = []
    for transitions in ((0.985, 0.97), (0.5, 0.4)):
        plan = plan_at(times, transitions, SHAPE, scales=CUBE)
        error = (sample(model.velocity, noise, plan) - full).square().mean((1, 2, 3, 4))
        median.append(float(error.median()))
    assert 30 * median[0] < median[1], median
    low = restrict_signal(clips, (4, 6, 8))
    assert_close(FiniteDataset(low, 0.1 / math.sqrt(8), dims=3).velocity(low[:2], 0.4), model.velocity(low[:2], 0.4))


def test_noise_field_grows_in_time():
    field = NoiseField(5)
    fine, coarse = (field.on((1, 2, *grid), dims=3, dtype=torch.float64) for grid in (SHAPE, (4, 12, 8)))
    assert_close(DCT.restrict(fine, (4, 12, 8)), coarse)


def test_one_dimensional_signals():
    """Audio: 1/f power, a third of the samples first."""
    law = PowerLaw(200.0, 1.0, shape=(96,))
    field = GaussianField(law, (96,))
    plan = make_plan(shift_times(16, shift=5.0), law, (96,), scales=(1 / 3, 1), delta=0.02)
    assert plan.shapes == ((32,), (96,))
    noise = randn(3, 2, 96)
    x = sample(field.velocity, noise, plan)
    assert_close(DCT.forward(x, dims=1), predict(plan, field).gain * DCT.forward(noise, dims=1))
    best = optimise_plan(
        law, (96,), lambda g: g[0] / 96, budget=plan.cost(lambda g: g[0] / 96), start=plan, scales=(1 / 3,), stages=2
    )
    assert predict(best, field).relative_w2 < predict(plan, field).relative_w2


def test_volumes():
    """A cube with an isotropic law, Haar halvings of all three axes."""
    law = PowerLaw(100.0, 2.5, shape=(8, 8, 8))
    field = GaussianField(law, (8, 8, 8), HAAR)
    plan = make_plan(shift_times(30, shift=5.0), law, (8, 8, 8), scales=(1 / 4, 1 / 2, 1), delta=0.02, basis=HAAR)
    noise = randn(2, 1, 8, 8, 8)
    x = sample(field.velocity, noise, plan)
    assert_close(HAAR.forward(x, dims=3), predict(plan, field).gain * HAAR.forward(noise, dims=3))


def test_optimal_plan_in_space_and_time():
    spectrum, cost = table(), token_cost(SHAPE, patch=(1, 2, 2), attention=0.8)
    field = GaussianField(spectrum, SHAPE)
    space = optimise_plan(spectrum, SHAPE, cost, budget=4, scales=((1, 0.5, 0.5),))
    both = optimise_plan(spectrum, SHAPE, cost, budget=4, scales=((1, 0.5, 0.5), (0.5, 0.5, 0.5), (0.5, 1, 1)))
    assert predict(both, field).relative_w2 < predict(space, field).relative_w2


# -- measuring --------------------------------------------------------------------------------------------------------


def test_table_of_a_known_field_is_recovered():
    spectrum = table()
    clips = GaussianField(spectrum, SHAPE).sample((300, 2), generator=torch.Generator().manual_seed(0))
    measured = spacetime_spectrum(clips)
    assert measured.power.shape == (8, 7)
    # Where a bin's frequencies differ little its power is that of its centre.
    ratio = measured.power[1:, 3:] / spectrum.power[1:, 3:7]
    assert abs(np.log(ratio)).max() < 0.2
    wanted = spectrum.coefficients(SHAPE)
    assert np.log(measured.coefficients(SHAPE)[1:, 4:8, 4:8] / wanted[1:, 4:8, 4:8]).std() < 0.15


def test_white_noise_is_flat_and_movement_is_not():
    generator = torch.Generator().manual_seed(0)
    white = spacetime_spectrum(torch.randn(200, 1, *SHAPE, generator=generator))
    assert abs(white.power - 1).max() < 0.35
    still = torch.randn(50, 1, 1, 16, 16, generator=generator).expand(-1, -1, 8, -1, -1)
    moving = torch.stack([still[:, :, 0].roll(k, -1) for k in range(8)], 2)
    share = [float(s.power[1:].sum() / s.power.sum()) for s in map(spacetime_spectrum, (still + 1e-3 * moving, moving))]
    assert share[0] < 1e-3 < 0.3 < share[1]


def test_grid_of_a_table():
    spectrum = table()
    assert_close(spectrum.at((16, 24, 32)).power, 8 * spectrum.power)
    fine = spectrum.at((16, 24, 32)).coefficients((16, 24, 32))
    assert_close(fine[:8, :12, :16], 8 * spectrum.coefficients(SHAPE))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: SpaceTimeSpectrum([0, 1], [0, 1], np.ones((2, 3)), SHAPE), ValueError, "power has shape"),
        (lambda: SpaceTimeSpectrum([1, 2], [0, 1], np.ones((2, 2)), SHAPE), ValueError, "time must begin at 0"),
        (lambda: SpaceTimeSpectrum([0, 1], [0, 1], np.zeros((2, 2)), SHAPE), ValueError, "power must be positive"),
        (lambda: SpaceTimeSpectrum([0, 1], [0, 1], np.ones((2, 2)), (8, 8)), ValueError, "frames, height, width"),
        (lambda: table().coefficients((8, 8)), ValueError, "frames, height, width"),
        (lambda: table().coefficients(SHAPE, HAAR), ValueError, "no frequency along single axes"),
        (lambda: spacetime_spectrum(torch.ones(4, 4)), ValueError, "at least 3 axes"),
        (lambda: spacetime_spectrum(torch.ones(1, 4, 4)), ValueError, "at least 2 frames"),
        (lambda: spacetime_spectrum(torch.full((2, 4, 4), math.nan)), ValueError, "NaN"),
        (lambda: spacetime_spectrum(torch.ones(2, 4, 4)), ValueError, "power must be positive"),
        (lambda: make_plan(shift_times(9), table(), (12, 16), scales=(0.5, 1)), ValueError, "frames, height, width"),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()
