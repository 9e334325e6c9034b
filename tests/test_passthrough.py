"""Noise passthrough: tiny delta is plain sampling, the Gaussian field obeys the closed forms, data do not."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import basis_pairs, randn
from tolerances import assert_close, z_score

from spectral_pd import (
    DCT,
    HAAR,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    activation_time,
    passthrough,
    plan_at,
    sample,
    shift_times,
    velocity_error,
)
from spectral_pd.bases import BASES
from spectral_pd.passthrough import activation_map, noise_prediction_error
from spectral_pd.power import radial_bins
from spectral_pd.solvers import SOLVERS

SHAPE = (16, 24)
LAW = PowerLaw(30.0, 2.0, shape=SHAPE)
TIMES = shift_times(12, shift=2.0)
NOISE = randn(2, 3, *SHAPE, seed=2)
DELTAS = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)


def full(times=TIMES, shape=SHAPE, basis=DCT):
    return plan_at(times, (), shape, scales=(1,), basis=basis)


FULL = full()


def plain(velocity, noise=NOISE, plan=FULL, **options):
    return sample(velocity, noise, plan, **options)


def nonlinear(x, t):
    return x * t - torch.tanh(2 * x) * (1 - t)


# -- the limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("solver", SOLVERS)
def test_tiny_delta_is_plain_sampling_bit_for_bit(solver, basis):
    plan = full(basis=basis)
    held = passthrough(nonlinear, NOISE, plan, LAW, 1e-12, solver=solver)
    assert torch.equal(held, plain(nonlinear, plan=plan, solver=solver))
    # Negative control: a delta that matters.
    assert not torch.equal(passthrough(nonlinear, NOISE, plan, LAW, 0.1, solver=solver), held)


@settings(max_examples=10)
@given(case=basis_pairs(max_dims=3), seed=st.integers(0, 1000))
def test_tiny_delta_is_plain_sampling_on_any_grid(case, seed):
    basis, _, shape = case
    noise = randn(1, 2, *shape, seed=seed)
    plan = full(shape=shape, basis=basis)
    held = passthrough(nonlinear, noise, plan, lambda w: 1 / (1 + w), 1e-12)
    assert torch.equal(held, plain(nonlinear, noise, plan))


def test_the_effect_vanishes_with_delta():
    field = GaussianField(LAW, SHAPE)
    plan = full(shift_times(400, shift=2.0))
    exact = plain(field.velocity, plan=plan)
    effects = [
        float((passthrough(field.velocity, NOISE, plan, LAW, delta) - exact).norm() / exact.norm()) for delta in DELTAS
    ]
    assert all(b < a for a, b in pairwise(effects))
    assert effects[0] > 1e-2
    assert effects[-1] < 1e-4


# -- what is held, and for how long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_a_coefficient_is_the_initial_noise_until_its_activation(basis):
    active = activation_map(LAW, SHAPE, 0.05, basis=basis)
    white = basis.forward(NOISE)
    states = []
    passthrough(nonlinear, NOISE, full(basis=basis), LAW, 0.05, callback=states.append)
    assert len(states) == len(TIMES) - 1
    for info in states:
        held = active < info.time
        c = basis.forward(info.state)
        assert_close(c[..., held], info.time * white[..., held])
        if info.step > 1:  # at t = 1 the model itself answers the noise
            assert ((c - info.time * white)[..., ~held]).abs().max() > 1e-3
    counts = [int((active < info.time).sum()) for info in states]
    assert all(b <= a for a, b in pairwise(counts))
    assert counts[0] > 0 == counts[-1]


def test_activation_map():
    active = activation_map(LAW, SHAPE, 0.05)
    frequency = DCT.frequency(SHAPE)
    assert active.dtype == torch.float64
    assert float(active[0, 0]) == 1.0  # the mean is never noise
    for index in ((0, 1), (3, 5), (15, 23)):
        assert float(active[index]) == pytest.approx(activation_time(LAW(float(frequency[index])), 0.05), abs=1e-12)
    assert_close(activation_map(LAW.at((32, 48)), SHAPE, 0.05), active)  # the law carries its grid
    assert (activation_map(LAW, SHAPE, 0.01) >= active).all()  # smaller delta: active earlier
    assert torch.equal(activation_map(LAW, (1, 1), 0.1), torch.ones(1, 1, dtype=torch.float64))


# -- the Gaussian field, in closed form -------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("delta", [0.3, 0.03])
def test_gaussian_output_by_hand(delta, basis):
    """``T_j`` at the last time it is held, then a factor ``1 + (T' - T) A(T)`` for each Euler step."""
    field = GaussianField(LAW, SHAPE, basis)
    result = basis.forward(passthrough(field.velocity, NOISE, full(basis=basis), LAW, delta))
    white = basis.forward(NOISE)
    frequency = basis.frequency(SHAPE)
    for index in ((0, 0), (0, 1), (1, 2), (5, 9), (15, 23)):
        power = float(field.power()[index])
        active = 1.0 if float(frequency[index]) == 0 else activation_time(power, delta)
        last = max([k for k, t in enumerate(TIMES) if t > active], default=0)
        gain = TIMES[last]
        for t, t_next in pairwise(TIMES[last:]):
            gain *= 1 + (t_next - t) * (t - (1 - t) * power) / ((1 - t) ** 2 * power + t**2)
        assert_close(result[..., index[0], index[1]], gain * white[..., index[0], index[1]])


@pytest.mark.parametrize("delta", [0.3, 0.03])
def test_a_gaussian_coefficient_loses_delta_over_one_plus_power(delta):
    """In the limit of many steps, output power over P is ``1 - delta / (1 + P)``, never below ``1 - delta``."""
    shape = (8, 8)
    law = PowerLaw(5.0, 2.0, shape=shape)
    field, noise = GaussianField(law, shape), randn(1, 8, 8, seed=1)

    def error(steps):
        result = passthrough(field.velocity, noise, full(shift_times(steps), shape), law, delta)
        kept = (DCT.forward(result) / DCT.forward(field.solve(noise))).square()
        expected = 1 - delta / (1 + field.power())
        expected[0, 0] = 1.0  # the mean is never held
        return float((kept - expected).abs().max())

    coarse, fine = error(250), error(1000)
    assert fine < 0.4 * coarse
    # Negative control: the loss itself is larger than what the grid leaves of it.
    assert delta / (1 + float(field.power().min())) > 5 * fine


# -- the error behind it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.95, 0.8, 0.5, 0.1])
def test_measured_velocity_error_is_equation_19(t):
    shape = (12, 12)
    field = GaussianField(PowerLaw(20.0, 2.0, shape=shape), shape)
    rng = torch.Generator().manual_seed(4)
    x0 = field.sample((4000, 1), generator=rng, dtype=torch.float64)
    eps = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    frequency = DCT.frequency(shape)
    k, measured = noise_prediction_error(field.velocity, x0, t, noise=eps)
    _, closed, count = radial_bins(velocity_error(t, field.power()), frequency)
    _, squares, _ = radial_bins(velocity_error(t, field.power()).square(), frequency)
    for i in range(len(k)):
        # A squared Gaussian has variance 2 E^2.
        assert abs(z_score(measured[i], closed[i], 2 * squares[i], 4000 * count[i])) < 5
    # Negative control: the closed form of half the power.
    _, wrong, _ = radial_bins(velocity_error(t, 0.5 * field.power()), frequency)
    assert max(abs(z_score(measured[i], wrong[i], 2 * squares[i], 4000 * count[i])) for i in range(len(k))) > 10


def test_measured_velocity_error_at_activation_is_delta():
    """Of the coefficients of one power: white data, whose P is the same everywhere."""
    power, delta = 0.5, 0.02
    field = GaussianField(lambda w: power + 0 * w, (8, 8))
    rng = torch.Generator().manual_seed(4)
    x0 = field.sample((20000,), generator=rng, dtype=torch.float64)
    eps = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    _, measured = noise_prediction_error(field.velocity, x0, activation_time(power, delta), noise=eps)
    assert measured == pytest.approx(delta, rel=0.05)
    _, later = noise_prediction_error(field.velocity, x0, activation_time(power, delta) - 0.1, noise=eps)
    assert (later > 1.5 * delta).all()


def test_a_finite_data_set_knows_high_frequencies_earlier_than_delta_says():
    """It recognises a picture by all coefficients together, and with it every one: the error exceeds Eq. 19 by far."""
    shape = (16, 16)
    field = GaussianField(PowerLaw(40.0, 2.0, shape=shape), shape)
    rng = torch.Generator().manual_seed(4)
    data = field.sample((200, 1), generator=rng, dtype=torch.float64)
    eps = torch.randn(data.shape, generator=rng, dtype=torch.float64)
    t = activation_time(PowerLaw(40.0, 2.0)(8.0), 0.05)
    _, few = noise_prediction_error(FiniteDataset(data).velocity, data, t, noise=eps)
    _, gaussian = noise_prediction_error(field.velocity, data, t, noise=eps)
    assert gaussian[-1] == pytest.approx(0.05, rel=0.2)
    assert few[-1] > 4 * gaussian[-1]


# -- randomness, types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [DCT, HAAR], ids=repr)
def test_a_noise_field_is_its_rendering(basis):
    field, plan = NoiseField(3, basis), full(basis=basis)
    by_field = passthrough(nonlinear, field, plan, LAW, 0.1, leading=(2, 3))
    by_tensor = passthrough(nonlinear, field.on((2, 3, *SHAPE)), plan, LAW, 0.1)
    assert by_field.shape == (2, 3, *SHAPE)
    assert_close(by_field, by_tensor, factor=10)
    one = passthrough(nonlinear, NoiseField(4, basis), plan, LAW, 0.1, leading=(1, 3))
    assert torch.equal(by_field[1:], one)


def test_a_callback_may_replace_the_state_and_the_dtype_stays():
    noise = NOISE.to(torch.bfloat16)
    assert passthrough(nonlinear, noise, FULL, LAW, 0.1).dtype == torch.bfloat16
    end = passthrough(nonlinear, NOISE, FULL, LAW, 0.1, callback=lambda info: 0 * info.state)
    assert torch.equal(end, 0 * NOISE)


def test_the_snippet_of_the_page():
    text = (Path(__file__).parent.parent / "docs" / "passthrough.md").read_text()
    *_, snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"passthrough": passthrough, "noise_prediction_error": noise_prediction_error, "torch": torch}
    calls = []

    def velocity(x, t):
        calls.append(t)
        return x

    exec(snippet, {**names, "velocity": velocity, "noise": NOISE, "latents": NOISE, "times": TIMES, "law": LAW})
    assert calls == [*TIMES[:-1], 0.9]
