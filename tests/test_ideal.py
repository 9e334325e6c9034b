"""Ideal denoisers against brute force, and the closed-form prediction against products written by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import bases, basis_pairs, inner_times, randn
from tolerances import assert_close

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    FiniteDataset,
    GaussianField,
    PowerLaw,
    align_scale,
    align_time,
    make_plan,
    plan_at,
    predict,
    restrict_signal,
    shift_times,
)
from spectral_pd.bases import BASES, corner, size_ratio

LAW = PowerLaw(30.0, 2.0, shape=(32, 32))

# -- Gaussian field ---------------------------------------------------------------------------------------------------


def covariance(field, grid):
    """Pixel covariance of the field on a stage grid, from the basis' matrix alone."""
    n = math.prod(grid)
    columns = field.basis.inverse(torch.eye(n, dtype=torch.float64).reshape(n, *grid), dims=len(grid)).reshape(n, n)
    return columns.T @ (field.power(grid).reshape(-1, 1) * columns)


@given(basis=bases, t=inner_times)
def test_gaussian_velocity_is_the_posterior_mean(basis, t):
    """``D = C (1-t) ((1-t)^2 C + t^2)^-1 x`` with the full pixel covariance, solved without any transform."""
    field = GaussianField(LAW, (4, 8), basis)
    for grid in ((4, 8), (2, 4)):
        c = covariance(field, grid)
        n = len(c)
        x = randn(2, *grid, seed=1)
        system = (1 - t) ** 2 * c + t**2 * torch.eye(n, dtype=torch.float64)
        denoised = ((1 - t) * c @ torch.linalg.solve(system, x.reshape(2, n).T)).T.reshape(x.shape)
        assert_close(field.velocity(x, t) * t, x - denoised, factor=10)


@given(case=basis_pairs(max_dims=2))
def test_coarse_power_is_that_of_the_restricted_picture(case):
    basis, coarse, fine = case
    field = GaussianField(lambda w: 1 / (1 + w), fine, basis)
    r = size_ratio(coarse, fine)
    assert_close(field.power(coarse), field.power()[corner(coarse)] / r**2)
    x, t = randn(1, *fine, seed=4), 0.6
    # The denoiser is consistent: restricting the picture and restricting the estimate agree at the aligned time.
    tau = align_time(t, 1 / r)
    y = basis.restrict(x, coarse) / align_scale(tau, r)
    fine_denoised = x - t * field.velocity(x, t)
    coarse_denoised = y - tau * field.velocity(y, tau)
    assert_close(coarse_denoised, restrict_signal(fine_denoised, coarse, basis=basis))


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_solution_satisfies_the_ode(basis):
    field = GaussianField(LAW, (8, 8), basis)
    x1, t, h = randn(1, 8, 8, seed=2), 0.4, 1e-5
    slope = (field.solve(x1, t + h) - field.solve(x1, t - h)) / (2 * h)
    assert_close(slope, field.velocity(field.solve(x1, t), t), factor=1e3)
    assert_close(field.solve(x1, 1.0), x1)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_samples_have_the_spectrum(basis, rng):
    field = GaussianField(LAW, (8, 16), basis)
    x = field.sample((4000, 1), generator=rng, dtype=torch.float64)
    z = (basis.forward(x).square().mean((0, 1)) / field.power() - 1) / math.sqrt(2 / 4000)
    assert z.abs().max() < 5
    # The exact solution of white noise has the same law.
    y = field.solve(torch.randn((4000, 1, 8, 16), generator=rng, dtype=torch.float64))
    z = (basis.forward(y).square().mean((0, 1)) / field.power() - 1) / math.sqrt(2 / 4000)
    assert z.abs().max() < 5


def test_field_rescales_a_law_to_its_grid():
    assert_close(GaussianField(LAW, (64, 64)).power()[0, 2], torch.tensor(4 * LAW(1.0)))
    assert_close(GaussianField(LAW, (64, 64)).power((32, 32))[0, 2], torch.tensor(LAW(1.0)))


# -- finite data set --------------------------------------------------------------------------------------------------


def posterior_mean_by_loops(x, t, samples, bandwidth):
    """``E[x0 | x_t = x]`` for a mixture of Gaussians, sample by sample, with density weights in plain Python."""
    variance = t**2 + (1 - t) ** 2 * bandwidth**2
    logs, means = [], []
    for s in samples:
        logs.append(-float((x - (1 - t) * s).square().sum()) / (2 * variance))
        gain = (1 - t) * bandwidth**2 / variance
        means.append(s + gain * (x - (1 - t) * s))
    top = max(logs)
    weights = [math.exp(v - top) for v in logs]
    return sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)


@given(t=inner_times, bandwidth=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 1000))
def test_posterior_mean_by_brute_force(t, bandwidth, seed):
    samples, x = randn(7, 2, 4, 6, seed=seed), randn(3, 2, 4, 6, seed=seed + 1)
    data = FiniteDataset(samples, bandwidth)
    denoised = x - t * data.velocity(x, t)
    expected = torch.stack([posterior_mean_by_loops(v, t, samples, bandwidth) for v in x])
    assert_close(denoised, expected)


@given(t=inner_times, basis=bases)
def test_coarse_posterior_is_that_of_the_restricted_samples(t, basis):
    samples, x = randn(6, 1, 8, 8, seed=1), randn(2, 1, 4, 4, seed=2)
    data = FiniteDataset(samples, 0.2, basis=basis)
    low = restrict_signal(samples, (4, 4), basis=basis)
    expected = torch.stack([posterior_mean_by_loops(v, t, low, 0.1) for v in x])  # r = 2 halves the bandwidth
    assert_close(x - t * data.velocity(x, t), expected)


def test_posterior_at_the_ends():
    samples, x = randn(5, 1, 4, 4, seed=3), randn(2, 1, 4, 4, seed=4)
    data = FiniteDataset(samples)
    assert_close(x - data.velocity(x, 1.0), samples.mean(0, keepdim=True).expand(2, -1, -1, -1))
    # t -> 0: the nearest sample, for any state near one.
    near = samples[2:4] + 0.05 * x
    for t in (1e-2, 1e-3):
        assert_close(near - t * data.velocity((1 - t) * near, t) - t * near, samples[2:4])


def test_wide_bandwidth_is_gaussian():
    """One sample at 0 with bandwidth h is the Gaussian field of power h^2."""
    data = FiniteDataset(torch.zeros(1, 1, 4, 4, dtype=torch.float64), 3.0)
    field = GaussianField(lambda w: 9.0 + 0 * w, (4, 4))
    x = randn(2, 1, 4, 4, seed=5)
    assert_close(data.velocity(x, 0.3), field.velocity(x, 0.3))


def test_posterior_check_sees_a_wrong_variance():
    """Negative control: leaving the bandwidth out of the weights gives another mean."""
    samples, x, t = randn(7, 1, 2, 2, seed=1), randn(1, 1, 2, 2, seed=2), 0.5
    right = posterior_mean_by_loops(x[0], t, samples, 1.0)
    wrong = posterior_mean_by_loops(x[0], t, samples, 0.0)
    assert (right - wrong).abs().max() > 0.01


# -- prediction -------------------------------------------------------------------------------------------------------


def euler_by_hand(plan, power, r):
    """Output gain of one coefficient born in the first stage: the product of scalars, written out.

    ``power`` is the coefficient's variance on the full grid, ``r`` the ratio of each stage.
    """
    gain = 1.0
    for i, stage in enumerate(plan.stages):
        if i:
            t, growth = plan.stages[i - 1].local_times[-1], r[i - 1] / r[i]
            gain *= growth / (1 + (growth - 1) * t)
        p = power / r[i] ** 2
        for t, s in zip(stage.local_times, stage.local_times[1:], strict=False):
            velocity = (t - (1 - t) * p) / ((1 - t) ** 2 * p + t * t)
            gain *= 1 + (s - t) * velocity
    return gain


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("scales", [(1,), (0.5, 1), (0.25, 0.5, 1)])
def test_prediction_is_a_product_written_by_hand(basis, clock, scales):
    field = GaussianField(LAW, (32, 32), basis)
    plan = plan_at(
        shift_times(12, shift=2),
        (0.8, 0.6)[: len(scales) - 1],
        (32, 32),
        scales=scales,
        clock=clock,
    )
    gain = predict(plan, field).gain
    ratios = [1 / s for s in scales]
    size = plan.shapes[0][0]
    for u, v in ((0, 0), (0, 3), (5, 2), (size - 1, size - 1)):
        assert float(gain[u, v]) == pytest.approx(euler_by_hand(plan, float(field.power()[u, v]), ratios), rel=1e-12)
    if len(scales) > 1:
        # A coefficient new in the last stage starts at the aligned time's noise level.
        last = plan.stages[-1]
        start = align_time(plan.stages[-2].local_times[-1], 2.0)
        p = float(field.power()[31, 31])
        for t, s in zip(last.local_times, last.local_times[1:], strict=False):
            start *= 1 + (s - t) * (t - (1 - t) * p) / ((1 - t) ** 2 * p + t * t)
        assert float(gain[31, 31]) == pytest.approx(start, rel=1e-12)


def test_by_hand_check_fails_on_the_wrong_clock():
    """Negative control."""
    field = GaussianField(LAW, (32, 32))
    options = dict(scales=(0.5, 1))
    full = plan_at(shift_times(12), (0.8,), (32, 32), **options)
    stage = plan_at(shift_times(12), (0.8,), (32, 32), clock="stage", **options)
    right = float(predict(full, field).gain[0, 3])
    assert abs(euler_by_hand(stage, float(field.power()[0, 3]), (2, 1)) / right - 1) > 0.01


def test_prediction_attributes():
    field = GaussianField(LAW, (32, 32))
    times = shift_times(2000)
    fine = predict(plan_at(times, (), (32, 32), scales=(1,)), field)
    assert_close(fine.power, field.power())
    assert fine.frequency.tolist() == list(range(1, 17))
    assert np.abs(fine.ratio - 1).max() < 2e-3
    assert fine.relative_w2 < 2e-3
    assert fine.log_power_error < 4e-3
    coarse = predict(plan_at(shift_times(10), (), (32, 32), scales=(1,)), field)
    weight = coarse.gain.abs() - field.power().sqrt()
    assert coarse.relative_w2 == pytest.approx(float((weight.square().sum() / field.power().sum()).sqrt()))
    assert coarse.relative_w2 > 20 * fine.relative_w2


@pytest.mark.parametrize("basis", [DCT, FOURIER, HAAR], ids=repr)
def test_first_order_on_the_full_clock(basis):
    """Error to the exact gain falls like 1/N for N = 50 .. 3200 in the band of every stage; on the stage clock it stays."""
    field = GaussianField(LAW, (32, 32), basis)
    exact = field.power().sqrt()

    def errors(clock):
        result = []
        for steps in (50, 100, 200, 400, 800, 1600, 3200):
            plan = plan_at(shift_times(steps, shift=3), (0.8,), (32, 32), scales=(0.5, 1), clock=clock)
            gain = predict(plan, field).gain
            result.append(float((gain / exact - 1)[:16, :16].abs().max()))
        return result

    full, stage = errors("full"), errors("stage")
    for a, b in itertools.pairwise(full):
        assert 1.7 < a / b < 2.3
    assert full[-1] < 2e-3
    assert stage[-1] > 0.01
    assert stage[-2] / stage[-1] < 1.2


def test_whole_error_falls_like_one_over_n_on_the_full_clock_only():
    """Distance to the field's distribution, all bands: N times it stays level for N = 50..3200; the stage clock's grows."""
    law = PowerLaw(200.0, 2.0, shape=(32, 32))
    field = GaussianField(law, (32, 32))
    scaled = {
        clock: [
            steps
            * predict(
                make_plan(shift_times(steps, shift=3.0), law, (32, 32), scales=(0.5, 1), delta=0.01, clock=clock),
                field,
            ).relative_w2
            for steps in (50, 200, 800, 3200)
        ]
        for clock in ("full", "stage")
    }
    assert max(scaled["full"]) < 1.15 * min(scaled["full"])
    assert scaled["stage"][-1] > 10 * scaled["stage"][0]


@pytest.mark.filterwarnings("error")
def test_prediction_on_a_grid_without_bins():
    field = GaussianField(lambda omega: 0 * omega + 1.0, (1, 1))
    plan = plan_at(shift_times(4), (), (1, 1), scales=(1,))
    assert predict(plan, field).log_power_error == 0.0


@settings(max_examples=10)
@given(steps=st.integers(3, 30), shift=st.floats(0.5, 5))
def test_prediction_of_a_user_solver(steps, shift):
    """Any linear callable: a midpoint rule against the same rule on scalars."""

    def midpoint(velocity, x, t, t_next, history):
        half = x + 0.5 * (t_next - t) * velocity(x, t)
        return x + (t_next - t) * velocity(half, 0.5 * (t + t_next)), None

    field = GaussianField(LAW, (4, 4))
    plan = plan_at(shift_times(steps, shift=shift), (), (4, 4), scales=(1,))
    gain, p = 1.0, float(field.power()[1, 2])
    for t, s in zip(plan.times, plan.times[1:], strict=False):
        m = 0.5 * (t + s)
        a, b = ((u - (1 - u) * p) / ((1 - u) ** 2 * p + u * u) for u in (t, m))
        gain *= 1 + (s - t) * b * (1 + 0.5 * (s - t) * a)
    assert float(predict(plan, field, midpoint).gain[1, 2]) == pytest.approx(gain, rel=1e-12)
