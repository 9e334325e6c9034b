"""One step of each solver against closed forms, and the order of convergence."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import inner_times, randn
from tolerances import assert_close

from spectral_pd import GaussianField, PowerLaw, plan_at, sample, shift_times
from spectral_pd.solvers import SOLVERS, History, dpmpp_2m, euler, find_solver, heun


def denoiser(x, t):
    """A nonlinear clean estimate."""
    return torch.tanh(x * (1 + t))


def velocity(x, t):
    return (x - denoiser(x, t)) / t


@given(t=inner_times, fraction=st.floats(0, 0.999))
def test_euler_is_ddim(t, fraction):
    """``x' = (t'/t) x + (1 - t'/t) D``."""
    x, t_next = randn(3, 4, seed=1), fraction * t
    result, history = euler(velocity, x, t, t_next)
    assert history is None
    assert_close(result, (t_next / t) * x + (1 - t_next / t) * denoiser(x, t))
    assert_close(result, x + (t_next - t) * velocity(x, t))


def test_heun_is_the_trapezium():
    x, t, t_next = randn(3, 4, seed=1), 0.8, 0.6
    result, history = heun(velocity, x, t, t_next)
    predicted = x - 0.2 * velocity(x, t)
    assert history is None
    assert_close(result, x - 0.1 * (velocity(x, t) + velocity(predicted, t_next)))


def test_heun_ends_with_euler():
    x = randn(3, 4, seed=1)
    calls = []

    def counted(x, t):
        calls.append(t)
        return velocity(x, t)

    assert_close(heun(counted, x, 0.2, 0.0)[0], euler(velocity, x, 0.2, 0.0)[0])
    assert calls == [0.2]  # a denoiser's velocity has no value at 0


@given(t_last=st.floats(0.7, 0.99), t=st.floats(0.3, 0.6), t_next=st.floats(0.01, 0.25))
def test_dpmpp_2m_is_the_published_formula(t_last, t, t_next):
    """Algorithm 2 of arXiv 2211.01095 with alpha = 1 - t, sigma = t."""
    x, last = randn(3, 4, seed=1), randn(3, 4, seed=2)

    def log_snr(s):
        return math.log((1 - s) / s)

    h, h_last = log_snr(t_next) - log_snr(t), log_snr(t) - log_snr(t_last)
    r = h_last / h
    estimate = (1 + 1 / (2 * r)) * denoiser(x, t) - 1 / (2 * r) * last
    expected = t_next / t * x - (1 - t_next) * (math.exp(-h) - 1) * estimate
    result, history = dpmpp_2m(velocity, x, t, t_next, History(t_last, last))
    assert_close(result, expected)
    assert history.time == t
    assert_close(history.denoised, denoiser(x, t))


@pytest.mark.parametrize(
    ("t", "t_next", "history"),
    [(0.7, 0.5, None), (0.7, 0.5, History(1.0, torch.zeros(3, 4))), (0.3, 0.0, History(0.5, torch.zeros(3, 4)))],
    ids=["no history", "history from t = 1", "last step"],
)
def test_dpmpp_2m_is_euler_where_second_order_has_no_meaning(t, t_next, history):
    x = randn(3, 4, seed=1)
    assert_close(dpmpp_2m(velocity, x, t, t_next, history)[0], euler(velocity, x, t, t_next)[0])


def error(solver, steps):
    """Distance to the exact solution on a Gaussian field, from t = 1."""
    field = GaussianField(PowerLaw(5.0, 1.0, shape=(4, 4)), (4, 4))
    x = randn(1, 4, 4, seed=3)
    plan = plan_at(shift_times(steps), (), (4, 4), scales=(1,))
    return float((sample(field.velocity, x, plan, solver=solver) - field.solve(x)).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver, order):
    slope = math.log2(error(solver, 200) / error(solver, 400))
    assert slope == pytest.approx(order, abs=0.15)


def test_dpmpp_2m_is_better_than_euler():
    assert error("dpmpp_2m", 100) < 0.3 * error("euler", 100)


def test_names_and_callables():
    assert set(SOLVERS) == {"euler", "heun", "dpmpp_2m"}
    assert find_solver("euler") is euler
    assert find_solver(velocity) is velocity
