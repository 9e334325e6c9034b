"""Conversions between noise conventions against closed forms, and the k-diffusion style sampler on them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from spectral_pd import (
    GaussianField,
    make_plan,
    restrict_noise,
    sample,
    shift_times,
    velocity_from_denoised,
    velocity_from_edm,
    velocity_from_noise,
    velocity_from_vp,
)
from spectral_pd.adapters import sample_spectral
from spectral_pd.parametrisation import edm_from_flow, flow_from_edm, flow_from_vp, vp_from_flow

X0, EPS = (torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
TIMES = [0.05, 0.3, 0.5, 0.8, 0.97]


def flow(t: float) -> torch.Tensor:
    return (1 - t) * X0 + t * EPS


@pytest.mark.parametrize("t", [0.0, *TIMES])
def test_edm_states(t):
    state, sigma = edm_from_flow(flow(t), t)
    torch.testing.assert_close(state, X0 + sigma * EPS)
    back, time = flow_from_edm(state, sigma)
    torch.testing.assert_close(back, flow(t))
    assert time == pytest.approx(t)


@pytest.mark.parametrize("t", [0.0, *TIMES, 1.0])
def test_variance_preserving_states(t):
    state, alpha, sigma = vp_from_flow(flow(t), t)
    assert alpha**2 + sigma**2 == pytest.approx(1)
    torch.testing.assert_close(state, alpha * X0 + sigma * EPS)
    back, time = flow_from_vp(state, alpha, sigma)
    torch.testing.assert_close(back, flow(t))
    assert time == pytest.approx(t)


def test_a_discrete_variance_preserving_schedule():
    """alpha and sigma of a table of cumulative products, not normalised by us."""
    alpha_bar = 0.37
    alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x, t = flow_from_vp(alpha * X0 + sigma * EPS, alpha, sigma)
    torch.testing.assert_close(x, flow(t))
    assert vp_from_flow(x, t)[1] ** 2 == pytest.approx(alpha_bar)


@pytest.mark.parametrize("t", TIMES)
def test_every_prediction_gives_the_same_velocity(t):
    """Perfect predictors of x_0, eps and v, in each form of the state: all are eps - x_0."""

    def v_vp(state, t):
        _, alpha, sigma = vp_from_flow(state, t)
        torch.testing.assert_close(state, alpha * X0 + sigma * EPS)
        return alpha * EPS - sigma * X0

    def edm(state, sigma):
        torch.testing.assert_close(state, X0 + sigma * EPS)
        return X0

    velocities = {
        "x0": velocity_from_denoised(lambda x, t: X0),
        "eps": velocity_from_noise(lambda x, t: EPS),
        "edm x0": velocity_from_edm(edm),
        "vp x0": velocity_from_vp(lambda x, t: X0, predicts="denoised"),
        "vp eps": velocity_from_vp(lambda x, t: EPS, predicts="noise"),
        "vp v": velocity_from_vp(v_vp, predicts="v"),
    }
    for name, velocity in velocities.items():
        torch.testing.assert_close(velocity(flow(t), t), EPS - X0, msg=lambda text, name=name: f"{name}: {text}")


def test_v_prediction_has_no_singular_time():
    velocity = velocity_from_vp(lambda x, t: -X0, predicts="v")  # v = alpha eps - sigma x_0 at sigma = 1
    torch.testing.assert_close(velocity(EPS, 1.0), EPS - X0)


def test_bad_arguments_are_refused():
    for call, match in (
        (lambda: edm_from_flow(X0, 1.0), "begin below"),
        (lambda: flow_from_edm(X0, -1.0), "not negative"),
        (lambda: vp_from_flow(X0, 1.5), "0 <= t <= 1"),
        (lambda: flow_from_vp(X0, 0.0, 0.0), "nor both 0"),
        (lambda: velocity_from_vp(lambda x, t: x, predicts="score"), "'denoised', 'noise' or 'v'"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


GRID = (32, 32)
FIELD = GaussianField(lambda k: 100.0 * k**-2.5, GRID)
OPTIONS = {"spectrum": lambda k: 100.0 * k**-2.5, "disable": True}


def edm_model(x: torch.Tensor, sigma: torch.Tensor, *, gain: float = 1.0) -> torch.Tensor:
    """The field's ideal denoiser in EDM form; sigma has one value an item."""
    assert sigma.shape == (x.shape[0],)
    state, t = flow_from_edm(x, float(sigma[0]))
    return gain * (state - t * FIELD.velocity(state, t))


def flow_model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    t = float(sigma[0])
    return x - t * FIELD.velocity(x, t)


def white(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, *GRID, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def euler(model, x, sigmas):
    """k-diffusion's Euler sampler in its own words."""
    for sigma, following in pairwise(sigmas):
        slope = (x - model(x, x.new_full((x.shape[0],), sigma))) / sigma
        x = x + (following - sigma) * slope
    return x


KARRAS = [*((14.6 ** (1 / 7) + k / 11 * (0.03 ** (1 / 7) - 14.6 ** (1 / 7))) ** 7 for k in range(12)), 0.0]


def test_one_scale_on_the_flow_path_is_k_diffusions_euler():
    sigmas = shift_times(12, shift=3.0)
    result = sample_spectral(flow_model, white(), torch.tensor(sigmas, dtype=torch.float64), scales=(1,), **OPTIONS)
    torch.testing.assert_close(result, euler(flow_model, white(), sigmas))


def test_euler_agrees_between_the_paths():
    """Euler in sigma and Euler in t are both DDIM, so the EDM path gives k-diffusion's result, too."""
    x = KARRAS[0] * white()
    result = sample_spectral(edm_model, x, KARRAS, scales=(1,), path="edm", **OPTIONS)
    torch.testing.assert_close(result, euler(edm_model, x, KARRAS), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("path", ["flow", "edm"])
def test_a_coarse_start_keeps_the_low_band(path):
    model, sigmas, x = (
        (edm_model, KARRAS, KARRAS[0] * white()) if path == "edm" else (flow_model, shift_times(12, shift=3.0), white())
    )
    full = sample_spectral(model, x, sigmas, scales=(1,), path=path, **OPTIONS)
    result = sample_spectral(model, x, sigmas, scales=(1 / 2, 1), path=path, transition_times=(0.7,), **OPTIONS)
    low = [restrict_noise(y, (16, 16)) for y in (result, full)]
    torch.testing.assert_close(*low, rtol=1e-6, atol=1e-8)
    assert (result - full).abs().max() > 1e-4  # the high band was new


def test_the_wrong_path_is_seen():
    """Negative control: an EDM model sampled as a flow model has another low band."""
    sigmas = [s / (1 + s) for s in KARRAS]
    right = sample_spectral(edm_model, KARRAS[0] * white(), KARRAS, path="edm", unreached="force", **OPTIONS)
    wrong = sample_spectral(edm_model, sigmas[0] * white(), sigmas, path="flow", unreached="force", **OPTIONS)
    assert float((right - wrong).norm() / right.norm()) > 0.1


def test_a_start_from_a_picture_keeps_the_low_band():
    picture = FIELD.sample((2, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sigmas = KARRAS[2:]
    x = picture + sigmas[0] * white()
    full = sample_spectral(edm_model, x, sigmas, scales=(1,), path="edm", noise=white(), **OPTIONS)
    result = sample_spectral(edm_model, x, sigmas, path="edm", noise=white(), transition_times=(0.7,), **OPTIONS)
    low = [restrict_noise(y, (16, 16)) for y in (result, full)]
    torch.testing.assert_close(*low, rtol=1e-6, atol=1e-8)


def test_extra_arguments_callback_and_stages():
    seen = []
    arguments = {**OPTIONS, "path": "edm", "transition_times": (0.7,)}
    x = KARRAS[0] * white()
    scaled = sample_spectral(edm_model, x, KARRAS, {"gain": 0.9}, seen.append, **arguments)
    assert not torch.allclose(scaled, sample_spectral(edm_model, x, KARRAS, **arguments))
    assert [info["i"] for info in seen] == list(range(12))
    assert [info["sigma"] for info in seen] == pytest.approx(KARRAS[:-1])
    assert {(info["stage"], info["x"].shape[-1], info["denoised"].shape[-1]) for info in seen} == {
        (0, 16, 16),
        (1, 32, 32),
    }
    # The coarse stage's own noise level: sigma / r.
    assert seen[0]["sigma_hat"] == pytest.approx(KARRAS[0] / 2)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_higher_order_solvers_are_closer_to_the_exact_solution(solver):
    exact = FIELD.solve(white())
    x = KARRAS[0] * white()
    errors = {}
    for name in ("euler", solver):
        arguments = {**OPTIONS, "path": "edm", "solver": name, "transition_times": (0.8,)}
        errors[name] = float((sample_spectral(edm_model, x, KARRAS, **arguments) - exact).norm())
    assert errors[solver] < errors["euler"]


def test_start_is_checked():
    plan = make_plan(shift_times(4), lambda k: 100.0 * k**-2.5, GRID, scales=(1,))
    with pytest.raises(ValueError, match="full size"):
        sample(FIELD.velocity, white(), plan, start=white()[:1])
    with pytest.raises(TypeError, match="tensors"):
        sample(FIELD.velocity, white(), plan, start=1.0)
    staged = make_plan(shift_times(20), lambda k: 100.0 * k**-2.5, GRID, scales=(1 / 2, 1), clock="stage")
    with pytest.raises(ValueError, match="clock='full'"):
        sample(FIELD.velocity, white(), staged, start=white())
    with pytest.raises(ValueError, match="'flow' or 'edm'"):
        sample_spectral(flow_model, white(), shift_times(4), path="vp", **OPTIONS)
    with pytest.raises(ValueError, match="sigmas"):
        sample_spectral(flow_model, white(), [0.0], **OPTIONS)


def test_generators_and_callbacks_of_the_sampler():
    """One generator an item draws fresh noise as a batch of one would; a returned tensor replaces the state."""
    plan = make_plan(shift_times(12), lambda k: 100.0 * k**-2.5, GRID, scales=(1 / 2, 1))
    noise = white()

    def run(items: slice, seeds: list[int]):
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return sample(FIELD.velocity, noise[items], plan, coupling="fresh", seed=generators)

    both = run(slice(0, 2), [7, 8])
    torch.testing.assert_close(both[1:], run(slice(1, 2), [8]))
    assert not torch.allclose(both[1:], run(slice(1, 2), [7]))
    with pytest.raises(ValueError, match="lists 1 generators for a batch of 2"):
        run(slice(0, 2), [7])
    zeroed = sample(
        FIELD.velocity, noise, plan, callback=lambda info: 0 * info.state if info.step == plan.nfe else None
    )
    assert not zeroed.any()
    with pytest.raises(ValueError, match="must keep"):
        sample(FIELD.velocity, noise, plan, callback=lambda info: info.state[:1])
