"""The progressive sampler: plain sampling, the closed-form bench, the equivalence theorem, convergence, same-seed pictures."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import basis_pairs, dtypes, grids, randn, within
from tolerances import assert_close

from spectral_pd import (
    DCT,
    HAAR,
    PRESETS,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    align_scale,
    align_time,
    expand_aligned,
    make_plan,
    plan_at,
    predict,
    sample,
    shift_times,
    velocity_from_denoised,
    velocity_from_noise,
)
from spectral_pd.bases import BASES, size_ratio
from spectral_pd.solvers import SOLVERS, dpmpp_2m

SCALES = {1: (1,), 2: (0.5, 1), 3: (0.25, 0.5, 1)}


def plan_for(shape, stages=2, *, steps=12, shift=2.0, clock="full", at=(0.85, 0.6)):
    return plan_at(
        shift_times(steps, shift=shift),
        at[: stages - 1],
        shape,
        scales=SCALES[stages],
        clock=clock,
    )


def nonlinear(x, t):
    return x * t - torch.tanh(2 * x) * (1 - t)


# -- plain sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("solver", SOLVERS)
@given(grid=grids(), dtype=dtypes, steps=st.integers(1, 17), shift=st.floats(0.3, 6.0), seed=st.integers(0, 2**16))
@settings(max_examples=10)
def test_one_scale_is_plain_sampling_bit_for_bit(solver, clock, grid, dtype, steps, shift, seed):
    noise = randn(2, 3, *grid, seed=seed, dtype=dtype)
    times = shift_times(steps, shift=shift)
    x, history = noise, None
    for t, t_next in pairwise(times):
        x, history = SOLVERS[solver](nonlinear, x, t, t_next, history)
    plan = plan_at(times, (), grid, scales=(1,), clock=clock)
    assert torch.equal(sample(nonlinear, noise, plan, solver=solver), x)


def test_more_scales_are_not_plain_sampling():
    """Negative control for the comparison above."""
    noise = randn(2, 3, 8, 8, seed=1)
    assert not torch.equal(sample(nonlinear, noise, plan_for((8, 8), 2)), sample(nonlinear, noise, plan_for((8, 8), 1)))


# -- the bench --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_sampler_agrees_with_the_prediction(basis, clock, solver, stages):
    """Every output coefficient is the predicted gain times its own noise, to 1e-9."""
    shape = (16, 24)
    field = GaussianField(PowerLaw(30.0, 2.0, shape=shape), shape, basis)
    plan = plan_for(shape, stages, clock=clock)
    noise = randn(2, 1, *shape, seed=2)
    result = basis.forward(sample(field.velocity, noise, within(plan, basis), solver=solver))
    expected = predict(plan, field, solver).gain * basis.forward(noise)
    assert float((result - expected).abs().max()) <= 1e-9


@settings(max_examples=15)
@given(case=basis_pairs(max_dims=3), clock=st.sampled_from(["full", "stage"]), seed=st.integers(0, 1000))
def test_sampler_agrees_with_the_prediction_on_any_grid(case, clock, seed):
    basis, _coarse, fine = case
    plan = plan_at(shift_times(6), (0.7,), tuple(2 * n for n in fine), scales=(0.5, 1), clock=clock)
    field = GaussianField(lambda w: 4 / (0.5 + w), plan.shape, basis)
    noise = randn(1, 2, *plan.shape, seed=seed)
    dims = len(fine)
    result = basis.forward(sample(field.velocity, noise, within(plan, basis)), dims=dims)
    expected = predict(plan, field).gain * basis.forward(noise, dims=dims)
    assert float((result - expected).abs().max()) <= 1e-9


def test_bench_sees_the_wrong_clock():
    """Negative control: the other clock's prediction is off by far more than rounding."""
    field = GaussianField(PowerLaw(30.0, 2.0, shape=(16, 16)), (16, 16))
    noise = randn(1, 1, 16, 16, seed=2)
    result = DCT.forward(sample(field.velocity, noise, plan_for((16, 16))))
    wrong = predict(plan_for((16, 16), clock="stage"), field).gain * DCT.forward(noise)
    assert float((result - wrong).abs().max()) > 1e-2


def test_bench_below_time_one():
    """A grid that starts below 1 (a model trained up to there) agrees with its prediction, too."""
    field = GaussianField(PowerLaw(30.0, 2.0, shape=(8, 8)), (8, 8))
    noise = randn(1, 8, 8, seed=3)
    for clock in ("full", "stage"):
        plan = plan_at((0.95, 0.8, 0.5, 0.2, 0.0), (0.6,), (8, 8), scales=(0.5, 1), clock=clock)
        result = DCT.forward(sample(field.velocity, noise, plan))
        assert_close(result, predict(plan, field).gain * DCT.forward(noise))


# -- the equivalence theorem ------------------------------------------------------------------------------------------


def low_band(x, t, first, basis):
    """The state of the coarsest grid that x at local time t contains, and its local time."""
    r = size_ratio(first, x.shape[-len(first) :])
    tau = align_time(t, 1 / r)
    return basis.restrict(x, first) / align_scale(tau, r), tau


def consistent_denoiser(first, basis):
    """Nonlinear, mixes every pixel of the low band with every other, and does something else in the band above."""
    n = math.prod(first)
    mix = randn(n, n, seed=99) / math.sqrt(n)

    def denoiser(x, t):
        r = size_ratio(first, x.shape[-len(first) :])
        y, tau = low_band(x, t, first, basis)
        flat = y.flatten(-len(first))
        low = torch.tanh(3 * flat @ mix.to(x.dtype) + tau).reshape(y.shape) + 0.5 * torch.sin(2 * y)
        other = torch.tanh(x)
        return (
            r * basis.embed(low, x.shape[-len(first) :])
            + other
            - basis.embed(basis.restrict(other, first), x.shape[-len(first) :])
        )

    return denoiser


def low_band_trajectories(noise, plan, basis, solver, **options):
    """Low band of the coarsest grid, at every step, of the full-resolution run and of the plan's: two tensors (steps, ...)."""
    first = plan.shapes[0]
    velocity = velocity_from_denoised(consistent_denoiser(first, basis))
    plain = plan_at(plan.times, (), plan.shape, scales=(1,), basis=basis)
    full, grown = [], []
    sample(velocity, noise, plain, solver=dpmpp_2m if callable(solver) else solver, callback=full.append)
    sample(velocity, noise, within(plan, basis), solver=solver, callback=grown.append, **options)
    assert {info.stage for info in grown} == set(range(len(plan.stages)))
    return (torch.stack([low_band(s.state, s.local_time, first, basis)[0] for s in run]) for run in (full, grown))


def distance_from_full(first, shape, basis, solver, *, stages=2, clock="full", steps=15, **options):
    """Largest distance, over all steps, between the low bands of the progressive and the full-resolution trajectory."""
    plan = plan_for(shape, stages, steps=steps, clock=clock)
    assert plan.shapes[0] == first
    full, grown = low_band_trajectories(randn(1, 2, *shape, seed=5), plan, basis, solver, **options)
    assert len(full) == len(grown) == steps
    return float((full - grown).abs().max())


GROWTH = [
    (DCT, (5, 8), (10, 17), 2),
    (DCT, (3, 4), (12, 16), 3),
    (DCT, (4,), (17,), 3),
    (HAAR, (4, 6), (8, 12), 2),
    (HAAR, (2, 3), (8, 12), 3),
    (BASES["fourier"], (5, 4), (11, 9), 2),
    (BASES["fourier"], (2, 2, 2), (8, 8, 8), 3),
]


@pytest.mark.parametrize(("basis", "first", "shape", "stages"), GROWTH)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("coupling", ["coupled", "fresh"])
def test_full_clock_walks_the_low_band_of_the_full_trajectory(basis, first, shape, stages, solver, coupling):
    """At every step, for a nonlinear denoiser that is consistent on the low band; noise above it does not matter."""
    assert distance_from_full(first, shape, basis, solver, stages=stages, coupling=coupling) <= 1e-10


@given(
    case=basis_pairs(),
    solver=st.sampled_from(["euler", "dpmpp_2m"]),
    dtype=dtypes,
    steps=st.integers(3, 12),
    shift=st.floats(0.5, 5.0),
    data=st.data(),
)
def test_equivalence_theorem_on_any_grid(case, solver, dtype, steps, shift, data):
    """Any pair of grids, odd, prime and of one point, any time grid, any transition: the same trajectory at every step."""
    basis, coarse, fine = case
    assume(coarse != fine)
    times = shift_times(steps, shift=shift)
    plan = plan_at(
        times,
        (data.draw(st.sampled_from(times[1:-1])),),
        fine,
        scales=(tuple(n / m for n, m in zip(coarse, fine, strict=True)), 1),
    )
    assert plan.shapes[0] == coarse
    noise = randn(1, 2, *fine, seed=data.draw(st.integers(0, 2**16)), dtype=dtype)
    full, grown = low_band_trajectories(noise, plan, basis, solver)
    assert_close(grown, full, factor=5)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_stage_clock_violates_the_theorem(solver):
    """Negative control; more steps do not help."""
    for steps in (15, 150):
        assert distance_from_full((4, 4), (8, 8), DCT, solver, clock="stage", steps=steps) > 1e-2


def test_dropping_the_history_violates_the_theorem():
    """Negative control: DPM-Solver++(2M) that starts anew on the fine grid."""
    seen = []

    def forgetful(velocity, x, t, t_next, history):
        grown = bool(seen) and seen[-1] != x.shape
        seen.append(x.shape)
        return dpmpp_2m(velocity, x, t, t_next, None if grown else history)

    assert distance_from_full((4, 4), (8, 8), DCT, dpmpp_2m) <= 1e-10
    assert distance_from_full((4, 4), (8, 8), DCT, forgetful) > 1e-4


@pytest.mark.parametrize("clock", ["full", "stage"])
def test_what_a_multistep_solver_remembers_over_a_transition(clock):
    """Full clock: the estimate embedded, at its aligned time. Stage clock, whose times jump: nothing."""
    seen = []

    def recording(velocity, x, t, t_next, history):
        seen.append((tuple(x.shape[-2:]), history))
        return dpmpp_2m(velocity, x, t, t_next, history)

    plan = plan_for((8, 8), 2, clock=clock)
    sample(nonlinear, randn(1, 8, 8, seed=1), plan, solver=recording)
    first = plan.stages[1].start
    assert [shape for shape, _ in seen] == [(4, 4)] * first + [(8, 8)] * (plan.nfe - first)
    assert seen[0][1] is None
    assert all(history is not None for k, (_, history) in enumerate(seen) if k not in (0, first))
    after = seen[first][1]
    if clock == "stage":
        assert after is None
    else:
        assert after.denoised.shape == (1, 8, 8)
        assert after.time == pytest.approx(plan.times[first - 1], abs=1e-12)


def test_an_inconsistent_denoiser_violates_the_theorem():
    """Negative control: the theorem needs consistency; a pointwise nonlinearity on every grid is not consistent."""
    noise = randn(1, 8, 8, seed=5)
    velocity = velocity_from_denoised(lambda x, t: torch.tanh(x))
    full, grown = (sample(velocity, noise, plan_for((8, 8), stages)) for stages in (1, 2))
    assert (DCT.restrict(full, (4, 4)) - DCT.restrict(grown, (4, 4))).abs().max() > 1e-2


# -- convergence ------------------------------------------------------------------------------------------------------


def bench_errors(clock, counts):
    """Largest error of the low band against the exact solution of the ODE, for each number of steps."""
    field = GaussianField(PowerLaw(10.0, 2.0, shape=(8, 8)), (8, 8))
    noise = randn(1, 8, 8, seed=7)
    exact = DCT.restrict(field.solve(noise), (4, 4))
    runs = (sample(field.velocity, noise, plan_for((8, 8), steps=n, shift=3.0, clock=clock)) for n in counts)
    return [float((DCT.restrict(x, (4, 4)) - exact).abs().max()) for x in runs]


def test_full_clock_converges_like_one_over_n():
    errors = bench_errors("full", (50, 100, 200, 400, 800, 1600, 3200))
    for a, b in pairwise(errors):
        assert 1.8 < a / b < 2.2
    assert errors[-1] < errors[0] / 50


def test_stage_clock_does_not_converge():
    errors = bench_errors("stage", (50, 400, 1600))
    assert errors[-1] > 1e-2
    assert errors[-2] / errors[-1] < 1.1


def test_stage_clock_leaves_the_low_band_weak():
    """By 3 to 6 % at the lowest frequencies of FLUX.1's latents, however many steps; the full clock's is right."""
    law = PRESETS["flux"]
    field = GaussianField(law, (128, 128))

    def amplitude(steps, clock):
        plan = make_plan(shift_times(steps, shift=math.exp(1.15)), law, (128, 128), scales=(0.5, 1), clock=clock)
        return predict(plan, field).ratio[:4]

    for steps in (800, 3200):
        weak = 1 - amplitude(steps, "stage")
        assert weak.min() > 0.025
        assert 0.03 < weak.max() < 0.065
    assert abs(1 - amplitude(3200, "full")).max() < 2e-3


# -- same seed, same picture ------------------------------------------------------------------------------------------


def photographs_in_crops(size, count):
    """Grey crops of two real photographs in [-1, 1], on a fixed lattice of positions."""
    images = pytest.importorskip("sklearn.datasets")
    crops = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.from_numpy(images.load_sample_image(name).copy()).double().mean(-1) / 127.5 - 1
        patches = image.unfold(0, size, size // 2).unfold(1, size, size // 2).reshape(-1, 1, size, size)
        crops.append(patches[:: max(1, len(patches) * 2 // count)][: count // 2])
    return torch.cat(crops)


def psnr(a, b):
    """Of each item, for data in [-1, 1], in dB."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1).clamp_min(1e-30))


def test_same_seed_gives_the_same_picture():
    """16 -> 32 with an exact nonlinear denoiser: full clock and coupled noise against every wrong choice."""
    data = FiniteDataset(photographs_in_crops(32, 600), 0.1)
    noise = NoiseField(1).on((24, 1, 32, 32), dtype=torch.float64)
    times = shift_times(20, shift=3)

    def run(at=(0.9,), **options):
        coupling = options.pop("coupling", "coupled")
        generator = torch.Generator().manual_seed(3) if coupling == "fresh" else None
        plan = plan_at(times, at, (32, 32), **{"scales": (0.5, 1), **options})
        return sample(data.velocity, noise, plan, coupling=coupling, seed=generator)

    full = run(scales=(1,), at=())

    def median(**options):
        return float(psnr(run(**options), full).median())

    earlier, right, later = (median(at=(t,)) for t in (0.96, 0.9, 0.85))
    assert earlier > 90
    assert right > 77
    assert later > 69
    assert earlier > right + 5 > later + 10  # smaller delta, earlier transition, closer
    # Negative controls: each wrong choice falls short by a clear margin.
    stage = median(clock="stage")
    fresh = median(coupling="fresh")
    assert right > stage + 10
    assert median(at=(0.96,), clock="stage") < stage + 10  # an earlier transition does not mend it
    assert stage > fresh + 20
    assert fresh < 35
    # The seed matters: another field is another picture altogether.
    other = sample(
        data.velocity, NoiseField(2).on((24, 1, 32, 32), dtype=torch.float64), plan_for((32, 32), 1, steps=20)
    )
    assert float(psnr(other, full).median()) < 20


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
@pytest.mark.parametrize("coupling", ["coupled", "fresh"])
def test_item_of_a_batch_is_a_batch_of_one(basis, coupling):
    plan = within(plan_for((8, 16), 3), basis)
    options = dict(coupling=coupling)
    whole = sample(nonlinear, NoiseField(40, basis), plan, leading=(3, 2), **options)
    generators = [torch.Generator().manual_seed(k) for k in (5, 6, 7)]
    listed = sample(nonlinear, NoiseField(generators, basis), plan, leading=(3, 2), **options)
    for j in range(3):
        one = sample(nonlinear, NoiseField(40 + j, basis), plan, leading=(1, 2), **options)
        assert torch.equal(whole[j : j + 1], one)
        source = NoiseField([torch.Generator().manual_seed(5 + j)], basis)
        assert torch.equal(listed[j : j + 1], sample(nonlinear, source, plan, leading=(1, 2), **options))
    assert not torch.equal(whole[0], whole[1])


@given(case=basis_pairs(), dtype=dtypes, coupling=st.sampled_from(["coupled", "fresh"]), seed=st.integers(0, 2**16))
def test_item_of_a_batch_is_a_batch_of_one_on_any_grid(case, dtype, coupling, seed):
    """To rounding: a matrix product of another batch size may add in another order."""
    basis, coarse, fine = case
    assume(coarse != fine)
    scales = (tuple(n / m for n, m in zip(coarse, fine, strict=True)), 1)
    plan = plan_at(shift_times(6), (0.6,), fine, scales=scales)
    noise = randn(3, 2, *fine, seed=seed, dtype=dtype)

    def run(items):
        generators = [torch.Generator().manual_seed(seed + k) for k in items] if coupling == "fresh" else None
        return sample(nonlinear, noise[items], within(plan, basis), coupling=coupling, seed=generators)

    whole = run([0, 1, 2])
    for j in range(3):
        assert_close(whole[j : j + 1], run([j]))


def test_item_of_a_noise_tensor():
    noise, plan = randn(3, 2, 8, 8, seed=1, dtype=torch.float32), plan_for((8, 8), 3)
    whole = sample(nonlinear, noise, plan)
    for j in range(3):
        assert torch.equal(whole[j : j + 1], sample(nonlinear, noise[j : j + 1], plan))


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_a_noise_field_is_its_rendering(basis):
    plan, field = plan_for((8, 16), 3), NoiseField(4, basis)
    by_field = sample(nonlinear, field, within(plan, basis), leading=(2, 3))
    by_tensor = sample(nonlinear, field.on((2, 3, 8, 16)), within(plan, basis))
    assert by_field.dtype == torch.float32
    assert_close(by_field, by_tensor, factor=10)


def test_fresh_noise_is_reproducible_and_other():
    noise, plan = randn(2, 8, 8, seed=1), plan_for((8, 8), 3)

    def run(seed):
        return sample(nonlinear, noise, plan, coupling="fresh", seed=torch.Generator().manual_seed(seed))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert not torch.equal(run(1), sample(nonlinear, noise, plan))
    assert sample(nonlinear, noise, plan, coupling="fresh").shape == noise.shape


def test_fresh_field_of_each_transition():
    """With a velocity of 0 the result is the chain of expansions, each from the field of its own number."""
    plan, field = plan_for((16, 16), 3), NoiseField(6)
    result = sample(lambda x, t: torch.zeros_like(x), field, plan, leading=(2,), coupling="fresh")

    def chain(numbers):
        x = field.on((2, 4, 4))
        for number, before, stage in zip(numbers, plan.stages, plan.stages[1:], strict=False):
            x, _ = expand_aligned(x, stage.shape, before.local_times[-1], noise=field.fresh(number))
        return x

    assert_close(result, chain((1, 2)))
    for wrong in ((0, 0), (1, 1), (2, 1)):
        assert (result - chain(wrong)).abs().max() > 0.1


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("coupling", ["coupled", "fresh"])
def test_pure_noise_stays_white(clock, coupling, rng):
    """A velocity of 0 keeps noise as it is: with a transition at T_0 = 1 the result is white."""
    noise = torch.randn(3000, 4, 4, generator=rng, dtype=torch.float64)
    plan = plan_at((1.0, 1 - 1e-12, 0.0), (1 - 1e-12,), (4, 4), scales=(0.5, 1), clock=clock)
    generator = rng if coupling == "fresh" else None
    x = sample(lambda x, t: torch.zeros_like(x), noise, plan, coupling=coupling, seed=generator).reshape(3000, 16)
    z = (x.T @ x / 3000 - torch.eye(16, dtype=torch.float64)) * math.sqrt(3000)
    assert z.abs().max() < 5 * math.sqrt(2)


# -- what callers see -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_velocity_sees_local_times_and_stage_sizes(solver, clock):
    plan = plan_for((8, 12), 3, clock=clock)
    calls, infos = [], []

    def velocity(x, t):
        assert type(t) is float
        assert 0 < t <= 1
        assert not torch.is_grad_enabled()
        calls.append((tuple(x.shape[-2:]), t))
        return x

    result = sample(velocity, randn(2, 1, 8, 12, seed=1), plan, solver=solver, callback=infos.append)
    assert result.shape == (2, 1, 8, 12)
    expected = [(stage.shape, t) for stage in plan.stages for t in stage.local_times[:-1]]
    if solver == "heun":
        assert len(calls) == 2 * plan.nfe - 1  # the step to 0 is Euler
        assert [c for c in calls if c in expected]
    else:
        assert calls == expected
    assert [info.step for info in infos] == list(range(1, plan.nfe + 1))
    assert [info.time for info in infos] == list(plan.times[1:])
    assert [info.local_time for info in infos] == [t for stage in plan.stages for t in stage.local_times[1:]]
    assert [tuple(info.state.shape[-2:]) for info in infos] == [s.shape for s in plan.stages for _ in range(s.steps)]
    assert torch.equal(infos[-1].state, result)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_in_float32(dtype):
    noise, plan = randn(1, 2, 8, 8, seed=1, dtype=dtype), plan_for((8, 8), 2)
    seen = set()

    def velocity(x, t):
        seen.add(x.dtype)
        return nonlinear(x, t).to(dtype)  # a model that answers in half precision

    result = sample(velocity, noise, plan)
    assert result.dtype == dtype
    assert seen == {torch.float32}
    assert torch.equal(result, sample(velocity, noise.float(), plan).to(dtype))


@pytest.mark.parametrize(("grid", "leading"), [((16,), (2, 3)), ((8, 8), (2, 3, 5)), ((4, 8, 8), (2, 3)), ((8, 8), ())])
def test_any_number_of_axes(grid, leading):
    plan = plan_for(grid, 2)
    noise = randn(*leading, *grid, seed=1)
    result = sample(nonlinear, noise, plan)
    assert result.shape == noise.shape
    if leading == (2, 3, 5):  # frames of a video are planes of their own
        frame = sample(nonlinear, noise[:, :, 2], plan)
        assert_close(result[:, :, 2], frame)


def test_a_solver_of_ones_own():
    plan, noise = plan_for((8, 8), 3), randn(1, 8, 8, seed=1)

    def own(velocity, x, t, t_next, history):
        return x + (t_next - t) * velocity(x, t), None

    assert torch.equal(sample(nonlinear, noise, plan, solver=own), sample(nonlinear, noise, plan))


def test_input_noise_is_left_alone_and_no_global_randomness_is_used():
    noise, plan = randn(1, 8, 8, seed=1), plan_for((8, 8), 3)
    before, state = noise.clone(), torch.get_rng_state()
    sample(nonlinear, noise, plan)
    sample(nonlinear, NoiseField(1), plan, leading=(1,), coupling="fresh")
    assert torch.equal(noise, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_bar(capsys):
    sample(nonlinear, randn(1, 8, 8, seed=1), plan_for((8, 8)), progress=True)
    assert "sampling" in capsys.readouterr().err
    sample(nonlinear, randn(1, 8, 8, seed=1), plan_for((8, 8)))
    assert capsys.readouterr().err == ""


# -- conversions ------------------------------------------------------------------------------------------------------


@given(t=st.floats(0.01, 0.99))
def test_conversions(t):
    """``v = (x - x0)/t = (eps - x)/(1-t) = eps - x0`` on the path."""
    x0, eps = randn(2, 3, seed=1), randn(2, 3, seed=2)
    x = (1 - t) * x0 + t * eps
    assert_close(velocity_from_denoised(lambda x, t: x0)(x, t), eps - x0)
    assert_close(velocity_from_noise(lambda x, t: eps)(x, t), eps - x0)


def test_noise_prediction_at_time_one():
    x = randn(2, 3, seed=1)
    assert torch.equal(velocity_from_noise(lambda x, t: x)(x, 1.0), x)


def test_noise_and_denoised_models_sample_alike():
    field = GaussianField(PowerLaw(10.0, 2.0, shape=(8, 8)), (8, 8))
    noise, plan = randn(1, 8, 8, seed=1), plan_for((8, 8))
    by_velocity = sample(field.velocity, noise, plan)
    denoised = velocity_from_denoised(lambda x, t: x - t * field.velocity(x, t))
    predicted = velocity_from_noise(lambda x, t: x + (1 - t) * field.velocity(x, t))
    assert_close(sample(denoised, noise, plan), by_velocity)
    assert_close(sample(predicted, noise, plan), by_velocity)
