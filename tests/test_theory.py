"""Closed forms: every number of the paper that is a formula, and the identities between them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import deltas, float32, inner_times, kinds, powers, ratios, times
from tolerances import assert_close

from spectral_pd import (
    PRESETS,
    PowerLaw,
    activation_power,
    activation_time,
    align_scale,
    align_time,
    snr,
    transition_times,
    velocity_error,
)
from spectral_pd.theory import max_frequency, optimal_gain, posterior_data_gain, posterior_noise_gain


def logit(t):
    return math.log(t) - math.log1p(-t)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_published_numbers():
    flux = PRESETS["flux"]
    assert activation_time(1.0, 0.01) == pytest.approx(0.933804, abs=5e-7)
    assert transition_times(flux, (0.5, 1), (128, 128), delta=0.01) == pytest.approx([0.852663], abs=5e-7)
    assert transition_times(flux, (0.5, 1), (128, 128), delta=0.05) == pytest.approx([0.718037], abs=5e-7)
    assert transition_times(flux, (0.25, 0.5, 1), (128, 128), delta=0.01) == pytest.approx(
        [0.934057, 0.852663], abs=5e-7
    )
    assert align_scale(0.7, 2.0) == pytest.approx(1.176471, abs=5e-7)
    assert align_time(0.7, 2.0) == pytest.approx(0.823529, abs=5e-7)
    assert 3 * (1 - align_time(0.7, 2.0)) == pytest.approx(0.529412, abs=5e-7)


def test_amplitude_belongs_to_a_grid():
    """Reused at every size (as the authors do) the transition time drifts; rescaled it hardly moves."""
    flux = PRESETS["flux"]

    def reused(size):  # a function has no grid, so it is used as it is
        return transition_times(lambda w: flux(w), (0.5, 1), (size, size), delta=0.01)[0]

    def rescaled(size):
        return transition_times(flux, (0.5, 1), (size, size), delta=0.01)[0]

    assert [reused(n) for n in (64, 128, 384)] == pytest.approx([0.934, 0.853, 0.646], abs=5e-4)
    values = [rescaled(n) for n in (64, 128, 384)]
    assert min(values) == pytest.approx(0.848, abs=5e-4)
    assert max(values) == pytest.approx(0.860, abs=5e-4)


def test_direction_of_delta():
    """Smaller delta, larger time: an earlier transition in denoising order."""
    assert [activation_time(0.5, d) for d in (0.001, 0.01, 0.1)] == pytest.approx([0.965, 0.896, 0.726], abs=5e-4)


def test_velocity_error_ends():
    assert velocity_error(0.0, 3.0) == 4.0
    assert velocity_error(1.0, 3.0) == 0.0
    assert optimal_gain(1.0, 3.0) == 1.0
    assert optimal_gain(0.0, 3.0) == -1.0
    assert snr(0.0, 3.0) == math.inf
    assert snr(1.0, 3.0) == 0.0
    assert max_frequency((64, 48)) == 24.0


# -- identities -------------------------------------------------------------------------------------------------------


@given(t=inner_times, r=ratios)
def test_alignment_is_a_translation_of_log_odds(t, r):
    aligned = align_time(t, r)
    assert logit(aligned) == pytest.approx(logit(t) + math.log(r), abs=1e-10)
    assert aligned / (1 - aligned) == pytest.approx(r * t / (1 - t), rel=1e-10)  # sigma_EDM seen by the fine grid
    # In float32 the odds, cleared of denominators that vanish at the ends.
    short = align_time(float32(t), float32(r))
    assert_close(short * (1 - float32(t)), float32(r * t) * (1 - short), factor=max(1.0, r))


@given(t=inner_times, fraction=st.floats(0.01, 0.99), r=ratios)
def test_steps_of_both_clocks_are_proportional(t, fraction, r):
    """``1/tau' - 1/tau = r (1/t' - 1/t)`` for ``tau = align(t, 1/r)``: why the full clock walks the same trajectory."""
    later = fraction * t
    tau, tau_later = align_time(t, 1 / r), align_time(later, 1 / r)
    assert 1 / tau_later - 1 / tau == pytest.approx(r * (1 / later - 1 / t), rel=1e-9)


def test_translation_check_fails_for_a_linear_shift():
    """Negative control: clamping t r does not translate log-odds."""
    wrong = min(0.7 * 1.3, 1.0)
    assert abs(logit(wrong) - (logit(0.7) + math.log(1.3))) > 0.5


@given(t=times, a=ratios, b=ratios, kind=kinds)
def test_alignments_compose_and_invert(t, a, b, kind):
    t, a, b = kind(t), kind(a), kind(b)
    assert_close(align_time(align_time(t, a), b), align_time(t, a * b))
    assert_close(align_time(align_time(t, a), 1 / a), t)
    assert align_time(t, kind(1.0)) == t  # exactly: the last stage of a plan runs on the model's own grid
    assert align_time(kind(0.0), a) == 0.0
    assert align_time(kind(1.0), a) == 1.0
    assert 0.0 <= align_time(t, a) <= 1.0


@given(t=times, s=times, r=ratios)
def test_alignment_is_monotone(t, s, r):
    assume(s - t > 1e-9)
    assert align_time(t, r) < align_time(s, r)


@given(t=times, r=ratios, kind=kinds)
def test_kappa_and_time(t, r, kind):
    """``kappa t = t~`` and ``kappa (1 - t) = r (1 - t~)``: noise and signal both arrive at their level."""
    t, r = kind(t), kind(r)
    kappa, aligned = align_scale(t, r), align_time(t, r)
    assert_close(kappa * t, aligned)
    assert_close(kappa * (1 - t), r * (1 - aligned))


@given(power=powers, delta=deltas, kind=kinds)
def test_error_at_activation_is_delta(power, delta, kind):
    t = activation_time(kind(power), kind(delta))
    assert 0 < t <= 1
    # Where t is close to 1, 1 - t has few digits left: compare where the subtraction is still good.
    least, rel = (1e-6, 1e-8) if kind is float else (1e-2, 1e-3)
    assume(1 - t > least)
    assert float(velocity_error(t, kind(power))) == pytest.approx(delta, rel=rel)


def test_error_check_fails_for_a_wrong_activation_time():
    """Negative control: dropping ``- delta`` from the formula misses delta by much more than the tolerance."""
    power, delta = 0.5, 0.1
    wrong = 1 / (1 + math.sqrt(delta / (power * (1 + power))))
    assert abs(velocity_error(wrong, power) - delta) > 1e-3


@given(power=powers, delta=deltas, fraction=times)
def test_error_stays_below_delta_after_activation(power, delta, fraction):
    t = activation_time(power, delta)
    later = t + fraction * (1 - t)
    assert velocity_error(later, power) <= delta * (1 + 1e-6) + 1e-12


@given(power=powers, delta=deltas, kind=kinds)
def test_activation_inverts(power, delta, kind):
    t = activation_time(kind(power), kind(delta))
    least, rel = (1e-6, 1e-8) if kind is float else (1e-2, 1e-3)
    assume(1 - t > least)
    assert float(activation_power(t, kind(delta))) == pytest.approx(power, rel=rel)


@given(t=inner_times, delta=deltas)
def test_activation_power_inverts(t, delta):
    assert activation_time(activation_power(t, delta), delta) == pytest.approx(t, abs=1e-11)


@given(power=powers, delta=deltas)
def test_activation_is_monotone(power, delta):
    assert activation_time(power * 1.01, delta) >= activation_time(power, delta)
    assert activation_time(power, delta / 1.01) >= activation_time(power, delta)
    moderate = min(power, 1e3)
    assert activation_time(moderate * 1.01, delta) > activation_time(moderate, delta)


@given(t=inner_times, power=powers)
def test_error_is_snr_over_one_plus_snr(t, power):
    """Eq. 19 equals Eq. 35."""
    s = snr(t, power)
    assert velocity_error(t, power) == pytest.approx(s * (1 + power) / (1 + s), rel=1e-10)


@given(t=inner_times, power=powers)
def test_optimal_gain_is_the_regression_coefficient(t, power):
    """``A = E[v x_t] / E[x_t^2]``, and the residual of predicting pure noise is the velocity error."""
    variance = (1 - t) ** 2 * power + t**2
    covariance = t - (1 - t) * power  # E[(eps - x0)((1-t) x0 + t eps)]
    gain = optimal_gain(t, power)
    assert gain == pytest.approx(covariance / variance, rel=1e-12, abs=1e-12)
    # E|v* - eps|^2 with v* = A x_t: A^2 var - 2 A E[x_t eps] + 1
    assert gain**2 * variance - 2 * gain * t + 1 == pytest.approx(
        velocity_error(t, power), rel=1e-7, abs=1e-9 * (1 + power)
    )


def test_optimal_gain_against_simulation(rng):
    x0, eps = (torch.randn(400_000, generator=rng, dtype=torch.float64) for _ in range(2))
    t, power = 0.6, 2.5
    x0 = x0 * math.sqrt(power)
    x, v = (1 - t) * x0 + t * eps, eps - x0
    assert float((v * x).mean() / x.square().mean()) == pytest.approx(optimal_gain(t, power), abs=0.01)
    assert float((optimal_gain(t, power) * x - eps).square().mean()) == pytest.approx(
        velocity_error(t, power), rel=0.02
    )


def test_posterior_means_against_simulation(rng):
    """Eqs. 23 and 24: the best linear estimates of both parts, and their difference is the velocity's gain."""
    x0, eps = (torch.randn(400_000, generator=rng, dtype=torch.float64) for _ in range(2))
    t, power = 0.6, 2.5
    x0 = x0 * math.sqrt(power)
    x = (1 - t) * x0 + t * eps
    for part, gain, other in (
        (x0, posterior_data_gain(t, power), posterior_noise_gain(t, power)),
        (eps, posterior_noise_gain(t, power), posterior_data_gain(t, power)),
    ):
        fitted = float((part * x).mean() / x.square().mean())
        assert fitted == pytest.approx(gain, abs=0.01)
        assert fitted != pytest.approx(other, abs=0.1)
    assert (1 - t) * posterior_data_gain(t, power) + t * posterior_noise_gain(t, power) == pytest.approx(1)


# -- transition times -------------------------------------------------------------------------------------------------


def test_transition_takes_the_least_power_of_the_band():
    """Eq. 10 is a minimum over the band: a spectrum with a dip inside it is decided by the dip."""

    def dip(omega):
        return np.where(np.abs(omega - 5.0) < 0.6, 1e-3, 1.0)

    assert transition_times(dip, (0.5, 1), (32, 32), delta=0.01)[0] == pytest.approx(activation_time(1e-3, 0.01))
    assert transition_times(dip, (0.125, 1), (32, 32), delta=0.01)[0] == pytest.approx(activation_time(1.0, 0.01))


@given(delta=deltas)
def test_transition_of_a_power_law_is_activation_at_the_edge(delta):
    law = PowerLaw(50.0, 2.0, shape=(48, 64))
    expected = [activation_time(law(s * 24.0), delta) for s in (0.25, 0.5)]
    assert transition_times(law, (0.25, 0.5, 1), (48, 64), delta=delta) == pytest.approx(expected, rel=1e-12)


def test_transition_times_decrease_with_scale():
    result = transition_times(PRESETS["flux"], (0.1, 0.2, 0.4, 0.8, 1), (128, 96), delta=0.01)
    assert all(a > b for a, b in pairwise(result))
    assert transition_times(PRESETS["flux"], (1,), (64, 64), delta=0.01) == ()


# -- kinds ------------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "snr": lambda v: snr(v, 2.0),
    "optimal_gain": lambda v: optimal_gain(v, 2.0),
    "velocity_error": lambda v: velocity_error(v, 2.0),
    "activation_time": lambda v: activation_time(v, 0.1),
    "activation_power": lambda v: activation_power(v, 0.1),
    "align_time": lambda v: align_time(v, 2.0),
    "align_scale": lambda v: align_scale(v, 2.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_kind_in_and_out(name):
    function = FUNCTIONS[name]
    array = np.array([0.25, 0.5, 0.75])
    scalars = [function(float(v)) for v in array]
    assert all(type(v) is float for v in scalars)
    assert isinstance(function(array), np.ndarray)
    assert_close(function(array), scalars)
    for dtype in (torch.float64, torch.float32):
        result = function(torch.tensor(array, dtype=dtype))
        assert isinstance(result, torch.Tensor)
        assert result.dtype == dtype
        assert_close(result, scalars)


def test_snr_close_to_time_zero_is_infinite():
    """Floats that overflow when squared give infinity, as arrays and tensors do."""
    assert snr(1e-200, 1.0) == math.inf
    assert snr(1e-100, 1.0) == pytest.approx(1e200)


def test_snr_of_arrays_at_time_zero_is_infinite():
    assert np.isinf(snr(np.array([0.0]), 1.0)).all()
    assert torch.isinf(snr(torch.zeros(2), 1.0)).all()
    assert torch.isinf(snr(0.0, torch.ones(2))).all()


def test_gradients_flow_through_tensors():
    power = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    activation_time(power, 0.01).sum().backward()
    assert (power.grad > 0).all()
