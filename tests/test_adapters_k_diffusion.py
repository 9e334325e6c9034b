"""Conversions between noise conventions against closed forms, and the k-diffusion style sampler on them."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from functools import partial
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_pd import (
    GaussianField,
    PowerLaw,
    make_plan,
    plan_at,
    restrict_noise,
    sample,
    shift_times,
    velocity_from_denoised,
    velocity_from_edm,
    velocity_from_noise,
    velocity_from_vp,
)
from spectral_pd.adapters import sample_spectral
from spectral_pd.adapters.k_diffusion import flow_times
from spectral_pd.parametrisation import edm_from_flow, flow_from_edm, flow_from_vp, vp_from_flow
from spectral_pd.solvers import find_solver
from spectral_pd.stepwise import Walk
from spectral_pd.two_grids import anchored, held

X0, EPS = (torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
LAW = PowerLaw(60.0, 2.0, shape=(16, 16))
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
PATHS = ("flow", "edm")


def in_edm_form(field):
    """A field's ideal denoiser in EDM form; sigma has one value an item."""

    def model(x: torch.Tensor, sigma: torch.Tensor, *, gain: float = 1.0, **_) -> torch.Tensor:
        assert sigma.shape == (x.shape[0],)
        state, t = flow_from_edm(x, float(sigma[0]))
        return gain * (state - t * field.velocity(state, t))

    return model


def in_flow_form(field):
    def model(x: torch.Tensor, sigma: torch.Tensor, **_) -> torch.Tensor:
        t = float(sigma[0])
        return x - t * field.velocity(x, t)

    return model


edm_model, flow_model = in_edm_form(FIELD), in_flow_form(FIELD)


def white(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *GRID, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def euler(model, x, sigmas):
    """k-diffusion's Euler sampler in its own words."""
    for sigma, following in pairwise(sigmas):
        slope = (x - model(x, x.new_full((x.shape[0],), sigma))) / sigma
        x = x + (following - sigma) * slope
    return x


KARRAS = [*((14.6 ** (1 / 7) + k / 11 * (0.03 ** (1 / 7) - 14.6 ** (1 / 7))) ** 7 for k in range(12)), 0.0]
SHIFTED = list(shift_times(12, shift=3.0))


def run_of(path):
    """(model, noise levels) of a path."""
    model, levels = (edm_model, KARRAS) if path == "edm" else (flow_model, SHIFTED)
    return model, torch.tensor(levels, dtype=torch.float64)


def k_diffusion():
    """The sampling functions of k-diffusion, without what it trains with: they call one helper of its `utils`."""
    if importlib.util.find_spec("k_diffusion") is None or importlib.util.find_spec("torchsde") is None:
        pytest.skip("k-diffusion is not installed: pip install --no-deps k-diffusion")
    (folder,) = importlib.util.find_spec("k_diffusion").submodule_search_locations
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, n: x.view(x.shape + (1,) * (n - x.ndim))
    package.__path__, package.utils = [folder], utils
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "k_diffusion"}
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in ("k_diffusion", "k_diffusion.utils", "k_diffusion.sampling"):
            sys.modules.pop(name, None)
        sys.modules |= before


def without_grid(function, *arguments):
    """dpm_fast and dpm_adaptive, which choose their own levels, in the form of the others."""

    def run(model, x, sigmas, extra_args=None, callback=None, disable=None):
        end = float(sigmas[-1] or sigmas[-2])
        return function(model, x, end, float(sigmas[0]), *arguments, extra_args=extra_args, disable=disable)

    return run


DETERMINISTIC = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "dpm_fast", "dpm_adaptive")
STOCHASTIC = (
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "euler_churned",
)


def no_level_above_1(path, name):
    if (path, name) == ("flow", "euler_churned"):
        pytest.skip("churn adds noise to EDM states: of a flow's first state it makes a level above 1")


def function_of(name):
    module = k_diffusion()
    if name == "euler_churned":
        return partial(module.sample_euler, s_churn=4.0)
    if name == "dpm_fast":
        return without_grid(module.sample_dpm_fast, 12)
    return without_grid(module.sample_dpm_adaptive) if name == "dpm_adaptive" else getattr(module, f"sample_{name}")


def test_one_scale_on_the_flow_path_is_k_diffusions_euler():
    result = sample_spectral(flow_model, white(), run_of("flow")[1], scales=(1,), **OPTIONS)
    torch.testing.assert_close(result, euler(flow_model, white(), SHIFTED))


def test_euler_agrees_between_the_paths():
    """Euler in sigma and Euler in t are both DDIM, so the EDM path gives k-diffusion's result, too."""
    x = KARRAS[0] * white()
    result = sample_spectral(edm_model, x, KARRAS, scales=(1,), path="edm", **OPTIONS)
    torch.testing.assert_close(result, euler(edm_model, x, KARRAS), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
@pytest.mark.parametrize("path", PATHS)
def test_one_scale_is_k_diffusions_own_function(path, name):
    """Bit for bit, stochastic ones from one state of torch's generator."""
    no_level_above_1(path, name)
    model, sigmas = run_of(path)
    x, function = sigmas[0] * white(), function_of(name)
    torch.manual_seed(5)
    expected = function(model, x, sigmas, disable=True)
    torch.manual_seed(5)
    assert torch.equal(sample_spectral(model, x, sigmas, scales=(1,), path=path, sampler=function, **OPTIONS), expected)


def banded(path):
    """A model whose pictures have no high band: sizes agree on them, and delta bounds nothing."""
    model, low = run_of(path)[0], (16, 16)

    def without_high_band(x, sigma, **arguments):
        denoised = model(x, sigma, **arguments)
        return denoised if x.shape[-2:] == low else FIELD.basis.embed(FIELD.basis.restrict(denoised, low), GRID)

    return without_high_band


@pytest.mark.parametrize("name", ["our euler", "our heun", "our dpmpp_2m", *DETERMINISTIC[:-1], *STOCHASTIC])
@pytest.mark.parametrize("path", PATHS)
def test_where_sizes_agree_the_same_seed_gives_the_same_picture(path, name):
    """Every sampler, its history and its noise included: progressive is the full-size result."""
    no_level_above_1(path, name)
    model, sigmas = banded(path), run_of(path)[1]
    sampler = name.removeprefix("our ") if name.startswith("our") else function_of(name)
    results = []
    for scales in ((1,), (1 / 2, 1)):
        torch.manual_seed(5)
        options = {**OPTIONS, "path": path, "sampler": sampler, "scales": scales}
        options["transition_times"] = (0.7,) * (len(scales) - 1)
        results.append(sample_spectral(model, sigmas[0] * white(), sigmas, **options))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert results[0].std() > 0.1


def test_where_sizes_do_not_agree_the_test_above_sees_it():
    """Negative control: a model that says another picture on the coarse grid."""
    model, sigmas = banded("flow"), run_of("flow")[1]
    wrong = lambda x, sigma, **_: model(x, sigma) * (1.1 if x.shape[-1] == 16 else 1.0)  # noqa: E731
    options = {**OPTIONS, "transition_times": (0.7,)}
    right, other = (sample_spectral(m, white(), sigmas, **options) for m in (model, wrong))
    assert (right - other).abs().max() > 0.01


@pytest.mark.parametrize("path", PATHS)
def test_a_coarse_start_keeps_the_low_band(path):
    model, sigmas = run_of(path)
    x = sigmas[0] * white()
    full = sample_spectral(model, x, sigmas, scales=(1,), path=path, **OPTIONS)
    result = sample_spectral(model, x, sigmas, scales=(1 / 2, 1), path=path, transition_times=(0.7,), **OPTIONS)
    low = [restrict_noise(y, (16, 16)) for y in (result, full)]
    torch.testing.assert_close(*low, rtol=1e-6, atol=1e-8)
    assert (result - full).abs().max() > 1e-4  # the high band was new


@pytest.mark.parametrize("name", ["our euler", "our dpmpp_2m", *DETERMINISTIC[:-2], *STOCHASTIC])
@pytest.mark.parametrize("path", PATHS)
def test_every_sampler_leaves_white_noise_of_the_present_level_where_the_answer_is_0(path, name):
    """What the high band relies on: with 0 for an answer a state of level sigma ends as one of level sigma'."""
    sigmas = run_of(path)[1][:8]
    sampler = name.removeprefix("our ") if name.startswith("our") else function_of(name)
    torch.manual_seed(5)
    x = sigmas[0] * white(batch=8)
    zero = sample_spectral(lambda x, s: 0 * x, x, sigmas, path=path, sampler=sampler, scales=(1,), **OPTIONS)
    assert float(zero.std() / sigmas[-1]) == pytest.approx(1, abs=0.02)
    if name.startswith("our") or name in DETERMINISTIC:
        torch.testing.assert_close(zero, x * (sigmas[-1] / sigmas[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@given(
    split=st.integers(1, 11),
    t_star=st.floats(0.25, 0.95),
    start=st.integers(0, 3),
    name=st.sampled_from(["euler", "heun"]),
)
@settings(max_examples=25, deadline=None)
def test_two_halves_are_one_run(path, split, t_star, start, name):
    """Split sigmas, cut anywhere, also inside the coarse stage: the state between has the full size and all that is needed.

    A transition that the whole run never reaches would be forced into its last step, which the first half cannot know.
    """
    model, sigmas = run_of(path)
    sigmas = sigmas[min(start, split - 1) :]
    split = split - min(start, split - 1)
    options = {**OPTIONS, "path": path, "sampler": name, "transition_times": (t_star,), "unreached": "force"}
    x = sigmas[0] * white()
    between = sample_spectral(model, x, sigmas[: split + 1], **options)
    assert between.shape == x.shape
    whole = sample_spectral(model, x, sigmas, **options)
    torch.testing.assert_close(sample_spectral(model, between, sigmas[split:], **options), whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@given(begin=st.integers(0, 11), t_star=st.floats(0.05, 0.95), name=st.sampled_from(["euler", "heun", "dpmpp_2m"]))
@settings(max_examples=25, deadline=None)
def test_image_to_image(path, begin, t_star, name):
    """From a picture with noise: the full run's low band; below t* the full run itself, the picture's high band included."""
    model, sigmas = run_of(path)
    sigmas = sigmas[begin:]
    picture = FIELD.sample((2, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = (1 - sigmas[0] if path == "flow" else 1) * picture + sigmas[0] * white()
    options = {**OPTIONS, "path": path, "sampler": name, "unreached": "force"}
    full = sample_spectral(model, x, sigmas, scales=(1,), **options)
    result = sample_spectral(model, x, sigmas, transition_times=(t_star,), **options)
    if begin == 11 or float(sigmas[0] / (1 + sigmas[0]) if path == "edm" else sigmas[0]) <= t_star:
        assert torch.equal(result, full)
    low = [restrict_noise(y, (16, 16)) for y in (result, full)]
    torch.testing.assert_close(*low, rtol=1e-6, atol=1e-8)


def test_the_wrong_path_is_seen():
    """Negative control: an EDM model sampled as a flow model has another low band."""
    sigmas = [s / (1 + s) for s in KARRAS]
    right = sample_spectral(edm_model, KARRAS[0] * white(), KARRAS, path="edm", unreached="force", **OPTIONS)
    wrong = sample_spectral(edm_model, sigmas[0] * white(), sigmas, path="flow", unreached="force", **OPTIONS)
    assert float((right - wrong).norm() / right.norm()) > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_the_stage_clock_and_fresh_noise_are_the_samplers(path):
    """Run once a stage: with Euler the same states as :func:`spectral_pd.sample` on that plan."""
    model, sigmas = run_of(path)
    times = flow_times(sigmas, path)
    velocity = velocity_from_edm(lambda x, s: model(x, torch.full((2,), s))) if path == "edm" else FIELD.velocity
    noise = white() * times[0]
    euler = k_diffusion().sample_euler
    results = []
    for clock, coupling in (("stage", "coupled"), ("full", "fresh"), ("stage", "fresh")):
        plan = plan_at(times, (0.7,), GRID, scales=(1 / 2, 1), clock=clock)
        start = {} if times[0] == 1 or clock == "stage" else {"start": noise}
        y = white() if start else noise  # below T = 1 the noise itself is the state
        expected = sample(velocity, y, plan, coupling=coupling, seed=[3, 4] if coupling == "fresh" else None, **start)
        options = {**OPTIONS, "path": path, "clock": clock, "coupling": coupling, "transition_times": (0.7,)}
        x = sigmas[0] * white()
        for sampler in ("euler", euler):
            result = sample_spectral(model, x, sigmas, sampler=sampler, seed=[3, 4], **options)
            if times[0] == 1 or clock == "full":
                torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)
        results.append(result)
    coupled = sample_spectral(model, x, sigmas, path=path, transition_times=(0.7,), **OPTIONS)
    for one, other in pairwise([*results, coupled]):
        assert (one - other).abs().max() > 1e-3  # negative control: clock and coupling each make a difference


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("name", STOCHASTIC[:-1])
def test_a_seed_an_item(name, clock):
    """Item i of a batch is a batch of one: every stochastic function, whatever noise it would draw itself."""
    function, x = function_of(name), KARRAS[0] * white(batch=3)

    def run(items: slice, seed):
        options = {
            **OPTIONS,
            "path": "edm",
            "transition_times": (0.7,),
            "sampler": function,
            "seed": seed,
            "clock": clock,
        }
        return sample_spectral(edm_model, x[items], run_of("edm")[1], **options)

    together = run(slice(0, 3), [7, 8, 9])
    torch.testing.assert_close(together[1:2], run(slice(1, 2), [8]))
    assert not torch.allclose(together[1:2], run(slice(1, 2), [7]))
    assert torch.equal(together, run(slice(0, 3), 7))  # an int counts on from item to item
    with pytest.raises(ValueError, match="batch of 3"):
        run(slice(0, 3), [7, 8])


def test_extra_arguments_callback_and_stages():
    seen, shapes = [], []

    def model(x, sigma, **arguments):
        shapes.append((x.shape[-1], float(sigma[0])))
        return edm_model(x, sigma, **arguments)

    arguments = {**OPTIONS, "path": "edm", "transition_times": (0.7,)}
    x = KARRAS[0] * white()
    scaled = sample_spectral(model, x, KARRAS, {"gain": 0.9}, seen.append, **arguments)
    assert not torch.allclose(scaled, sample_spectral(edm_model, x, KARRAS, **arguments))
    assert [info["i"] for info in seen] == list(range(12))
    assert [float(info["sigma"]) for info in seen] == pytest.approx(KARRAS[:-1])
    assert {(info["x"].shape[-1], info["denoised"].shape[-1]) for info in seen} == {(32, 32)}
    # Coarse above t*, at the coarse stage's own noise level: sigma / r.
    expected = [(16, s / 2) if s / (1 + s) > 0.7 else (32, s) for s in KARRAS[:-1]]
    assert [n for n, _ in shapes] == [n for n, _ in expected]
    assert [s for _, s in shapes] == pytest.approx([s for _, s in expected])


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_higher_order_solvers_are_closer_to_the_exact_solution(solver):
    exact = FIELD.solve(white())
    x = KARRAS[0] * white()
    errors = {}
    for name in ("euler", solver):
        arguments = {**OPTIONS, "path": "edm", "sampler": name, "transition_times": (0.8,)}
        errors[name] = float((sample_spectral(edm_model, x, KARRAS, **arguments) - exact).norm())
    assert errors[solver] < errors["euler"]


def test_noise_levels_are_read_in_any_order():
    """From 0 up to noise and down again, as inversion does: each level on its own grid."""
    grids = []

    def model(x, sigma):
        grids.append(x.shape[-1])
        return flow_model(x, sigma)

    up = torch.tensor([0.2, *reversed(SHIFTED[:-2])], dtype=torch.float64)
    sample_spectral(model, white(), up, transition_times=(0.7,), **OPTIONS)
    assert grids == sorted(grids, reverse=True)
    assert set(grids) == {16, 32}


def test_start_is_checked():
    plan = make_plan(shift_times(4), lambda k: 100.0 * k**-2.5, GRID, scales=(1,))
    with pytest.raises(ValueError, match="full size"):
        sample(FIELD.velocity, white(), plan, start=white()[:1])
    with pytest.raises(TypeError, match="tensors"):
        sample(FIELD.velocity, white(), plan, start=1.0)
    staged = make_plan(shift_times(20), lambda k: 100.0 * k**-2.5, GRID, scales=(1 / 2, 1), clock="stage")
    with pytest.raises(ValueError, match="clock='full'"):
        sample(FIELD.velocity, white(), staged, start=white())
    for arguments, match in (
        ({"path": "vp"}, "'flow' or 'edm'"),
        ({"sigmas": [0.0]}, "sigmas"),
        ({"sampler": "heum"}, "sampler = 'heum'"),
        ({"coupling": "loose"}, "coupling"),
        ({"clock": "stage", "sigmas": [1.0, 0.6, 0.3]}, "let it end at 0"),
        ({"sigmas": [1.0, 0.9, 0.0], "spectrum": lambda k: k**-4.0}, "never reached"),
    ):
        with pytest.raises(ValueError, match=match):
            sample_spectral(flow_model, white(), **{"sigmas": shift_times(20), **OPTIONS, **arguments})
    for x, match in ((white().numpy(), r"x is ndarray; pass a torch tensor"), (white().int(), r"pass a real floating")):
        with pytest.raises(TypeError, match=match):
            sample_spectral(flow_model, x, shift_times(20), **OPTIONS)


@pytest.mark.parametrize("clock", ["full", "stage"])
def test_a_first_stage_without_steps_disappears(clock):
    """Its picture's high band is not lost: the run is the one without that stage."""
    picture = FIELD.sample((2, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    times = [t for t in SHIFTED if t < 0.6]
    start = {} if clock == "stage" else {"start": (1 - times[0]) * picture + times[0] * white()}
    results = []
    for scales in ((1,), (1 / 4, 1 / 2, 1)):
        plan = plan_at(times, (0.8, 0.7)[: len(scales) - 1], GRID, scales=scales, clock=clock)
        assert plan.split == (0,) * (len(scales) - 1) + (len(times) - 1,)
        results.append(sample(FIELD.velocity, white(), plan, **start))
        assert torch.equal(Walk(plan, white(), solver=find_solver("euler"), **start).state, start.get("start", white()))
    assert torch.equal(*results)
    between = plan_at(times, (0.8, times[2]), GRID, scales=(1 / 4, 1 / 2, 1), clock=clock)
    assert between.split[0] == 0
    assert between.start_shape == (16, 16)


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


@pytest.mark.parametrize("path", ["flow", "edm"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_anchors_call_the_sizes_of_two_grids(path, sampler):
    """The same run as `sample` on the pattern's plan, in the coordinates of either path; and the model is called as often."""
    times, field = shift_times(8, shift=3.0)[1 if path == "edm" else 0 :], GaussianField(LAW, (16, 16))
    sigmas = torch.tensor([t / (1 - t) if path == "edm" else t for t in times], dtype=torch.float64)
    noise = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    seen = []

    def bent(x: torch.Tensor, t: float) -> torch.Tensor:
        return field.velocity(x, t) + 0.05 * x.tanh() * x.shape[-1] / 16

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[-2:]))
        y, t = flow_from_edm(x, float(sigma[0])) if path == "edm" else (x, float(sigma[0]))
        return y - t * bent(y, t)

    x = noise * sigmas[0]
    found = sample_spectral(model, x, sigmas, path=path, sampler=sampler, anchors=(0, 3, 5), disable=True)
    pattern = anchored(flow_times(sigmas, path), (16, 16), anchors=(0, 3, 5))
    start = flow_from_edm(x, float(sigmas[0]))[0] if path == "edm" else x
    expected = sample(bent, noise, held(pattern).plan, start=start, solver=sampler)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert seen.count((16, 16)) == 3
    assert len(seen) == sum(map(len, pattern.calls))
    with pytest.raises(ValueError, match="anchors need coupling='coupled', and sigmas that end at 0"):
        sample_spectral(model, x, sigmas[:-1], path=path, anchors=(0, 3), disable=True)

    def between(model, x, sigmas, extra_args=None, callback=None, disable=None):
        """Asks at a level that is none of the run's, as second-order samplers of one kind do."""
        return [model(x, s.expand(len(x))) for s in (sigmas[0], sigmas[:2].mean())][-1]

    with pytest.raises(ValueError, match="called at t = "):
        sample_spectral(model, x, sigmas, path=path, sampler=between, anchors=(0,), disable=True)
