"""Stage-wise training pairs: the start is the sampler's own state, and the loss has the right minimiser."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import within

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    PRESETS,
    GaussianField,
    PowerLaw,
    align_scale,
    expand_aligned,
    make_plan,
    plan_at,
    restrict_noise,
    restrict_signal,
    sample,
    shift_times,
)
from spectral_pd.theory import optimal_gain
from spectral_pd.training import (
    check_metadata,
    draw_times,
    schedule_metadata,
    stage_endpoints,
    stage_intervals,
    stage_loss,
    stage_sample,
)

LAW = PowerLaw(50.0, 2.0, shape=(16, 16))


def plan_of(clock="full", scales=(0.25, 0.5, 1), shape=(16, 16), steps=24, at=None):
    times = shift_times(steps, shift=3.0)
    if at is not None:
        return plan_at(times, at, shape, scales=scales, clock=clock)
    return make_plan(times, LAW, shape, scales=scales, clock=clock)


def batch(shape=(3, 2, 16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("basis", [DCT, HAAR, FOURIER])
@pytest.mark.parametrize("clock", ["full", "stage"])
def test_start_is_the_samplers_state_bit_for_bit(clock, basis):
    """Drive the sampler along the path of x0 and eps; the state it starts each stage from is the training start."""
    x0, noise = batch()
    plan = plan_of(clock)
    arrived = {}

    def path(x, t):
        # Plain flow matching towards x0 on this grid: ends each stage exactly on its path.
        return restrict_noise(noise, x.shape[-2:], basis=basis) - restrict_signal(x0, x.shape[-2:], basis=basis)

    def solver(velocity, x, t, t_next, history):
        arrived.setdefault(tuple(x.shape[-2:]), x)
        shape = x.shape[-2:]
        low0, low1 = restrict_signal(x0, shape, basis=basis), restrict_noise(noise, shape, basis=basis)
        return (1 - t_next) * low0 + t_next * low1, None

    sample(path, noise, within(plan, basis), solver=solver)
    for i, stage in enumerate(plan.stages):
        start, _ = stage_endpoints(x0, noise, within(plan, basis), i)
        if i == 0:
            assert torch.allclose(start, arrived[stage.shape], atol=1e-12)
        else:
            assert torch.equal(start, arrived[stage.shape])


@given(stage=st.integers(0, 2), clock=st.sampled_from(["full", "stage"]), u=st.floats(0, 1))
def test_endpoints_and_closing_velocity(stage, clock, u):
    x0, noise = batch()
    plan = plan_of(clock)
    a, b = plan.stages[stage].local_times[0], plan.stages[stage].local_times[-1]
    start, end = stage_endpoints(x0, noise, plan, stage)
    assert torch.allclose(stage_sample(x0, noise, a, plan, stage=stage).x, start, atol=1e-12)
    assert torch.allclose(stage_sample(x0, noise, b, plan, stage=stage).x, end, atol=1e-12)
    t = b + u * (a - b)
    inside = stage_sample(x0, noise, t, plan, stage=stage)
    assert torch.allclose(inside.x - (t - b) * inside.target, end, atol=1e-12), "following the target reaches the end"
    assert torch.allclose(inside.denoised, inside.x - t * inside.target, atol=1e-12)
    if t > 0:
        assert torch.allclose((inside.x - inside.denoised) / t, inside.target, atol=1e-9 / t), "x0 form = v form"


def test_first_stage_is_plain_flow_matching():
    x0, noise = batch()
    plan = plan_of()
    shape = plan.shapes[0]
    got = stage_sample(x0, noise, 0.97, plan, stage=0)
    low0, low1 = restrict_signal(x0, shape), restrict_noise(noise, shape)
    assert torch.allclose(got.target, low1 - low0, atol=1e-12)
    assert torch.allclose(got.x, 0.03 * low0 + 0.97 * low1, atol=1e-12)


def test_both_ends_share_one_noise():
    """The shared band of start and end holds the same eps, so without signal the target vanishes there but for scale."""
    _, noise = batch()
    plan = plan_of()
    start, end = stage_endpoints(torch.zeros_like(noise), noise, plan, 1)
    a, b = plan.stages[1].local_times[0], plan.stages[1].local_times[-1]
    assert torch.allclose(start / a, end / b, atol=1e-12)
    other = noise.flip(0)
    _, foreign = stage_endpoints(torch.zeros_like(noise), other, plan, 1)
    assert not torch.allclose(start / a, foreign / b, atol=1e-3)


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("basis", [DCT, HAAR, FOURIER])
def test_a_constant_picture_keeps_its_amplitude(clock, basis):
    """Without noise the start of a stage is (1 - a) times the picture; forgetting to divide by r doubles it."""
    plan = plan_of(clock)
    x0 = torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64)
    start, end = stage_endpoints(x0, torch.zeros_like(x0), within(plan, basis), 1)
    a, b = plan.stages[1].local_times[0], plan.stages[1].local_times[-1]
    assert torch.allclose(start, torch.full_like(start, 3.0 * (1 - a)), atol=1e-12)
    assert torch.allclose(end, torch.full_like(end, 3.0 * (1 - b)), atol=1e-12)
    before = plan.stages[0]
    t = before.local_times[-1]
    careless = (1 - t) * restrict_noise(x0, before.shape, basis=basis)  # restrict_signal without its 1/r
    grown, _ = expand_aligned(careless, plan.stages[1].shape, t, noise=torch.zeros(1, 1, 8, 8).double(), basis=basis)
    assert not torch.allclose(grown, start, rtol=0.5)
    assert align_scale(t, 2.0) * (1 - t) * 3 == pytest.approx(float(2 * start.mean()), rel=1e-9)


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("draw", ["covering", "steps"])
def test_covering_draws_reach_every_time_the_sampler_visits(clock, draw):
    plan = plan_of(clock)
    for stage, (b, a) in zip(plan.stages, stage_intervals(plan, draw=draw), strict=True):
        assert all(b < t <= a for t in stage.local_times[:-1])


def test_papers_draw_never_trains_where_stages_begin():
    plan = plan_of("stage")
    for stage, (_, a) in list(zip(plan.stages, stage_intervals(plan, draw="paper"), strict=True))[1:]:
        assert stage.local_times[0] > a, "the first time of the stage is outside what the paper's draw covers"


@pytest.mark.parametrize("draw", ["covering", "steps", "paper"])
def test_draws_have_the_frequencies_they_claim(draw):
    plan = plan_of()
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_times(plan, 4, draw=draw, generator=generator) for _ in range(3000)]
    intervals = stage_intervals(plan, draw=draw)
    weights = [s.steps if draw == "steps" else a - b for s, (b, a) in zip(plan.stages, intervals, strict=True)]
    for i, (b, a) in enumerate(intervals):
        share, wanted = sum(s == i for s, _ in drawn) / len(drawn), weights[i] / sum(weights)
        assert abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / len(drawn))
        times = torch.cat([t for s, t in drawn if s == i])
        assert bool(((times > b) & (times <= a)).all())
        assert abs(float(times.mean()) - (a + b) / 2) < 5 * (a - b) / math.sqrt(12 * len(times))


def test_paper_rule_finds_the_stage():
    x0, noise = batch()
    plan = plan_of("stage")
    ends = [stage.local_times[-1] for stage in plan.stages]
    assert stage_sample(x0, noise, 1.0, plan).stage == 0
    assert stage_sample(x0, noise, (ends[0] + ends[1]) / 2, plan).stage == 1
    assert stage_sample(x0, noise, ends[1] / 2, plan).stage == 2


def analytic_gain(plan, field, t):
    """Regression of the last stage's target on its state, per coefficient of the Gaussian field, in closed form."""
    a, b = plan.stages[1].local_times[0], plan.stages[1].local_times[-1]
    low = torch.zeros(16, 16, dtype=torch.bool)
    low[:8, :8] = True
    # End: (1-b) x0 + b eps. Start: shared band (1-a) x0 + a eps, new band a eps only.
    signal_end, signal_start = 1 - b, torch.where(low, 1 - a, 0.0).double()
    u = (t - b) / (a - b)
    signal, level = (1 - u) * signal_end + u * signal_start, (1 - u) * b + u * a
    signal_v, level_v = (signal_start - signal_end) / (a - b), 1.0
    power = field.power()
    return (signal * signal_v * power + level * level_v) / (signal**2 * power + level**2)


@pytest.mark.parametrize("clock", ["full", "stage"])
def test_the_loss_is_minimised_by_the_analytic_stage_velocity(clock):
    """On the Gaussian field the best linear velocity per coefficient, fitted to these pairs, is the closed-form regression."""
    plan = plan_of(clock, scales=(0.5, 1), at=(0.4,))  # late: the new band has signal
    field = GaussianField(LAW, (16, 16))
    generator = torch.Generator().manual_seed(0)
    white, noise = (torch.randn(40000, 1, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    t = (plan.stages[1].local_times[0] + plan.stages[1].local_times[-1]) / 2
    got = stage_sample(DCT.inverse(white * field.power().sqrt()), noise, t, plan, stage=1)
    x, target = DCT.forward(got.x)[:, 0], DCT.forward(got.target)[:, 0]
    fitted = (x * target).mean(0) / x.square().mean(0)
    spread = target.square().mean(0).sqrt() / x.square().mean(0).sqrt()
    assert float(((fitted - analytic_gain(plan, field, t)).abs() / spread).max()) < 5 / math.sqrt(40000) * 1.2
    plain = optimal_gain(t, field.power())
    assert float(((fitted - plain).abs() / spread).max()) > 0.1, "plain flow matching is another answer"


@pytest.mark.parametrize("clock", ["full", "stage"])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_linear_model_trained_with_the_loss_converges_to_it(stage, clock):
    """Gradient descent on the loss finds the analytic velocity of its stage: plain in the first, the regression in the last."""
    plan = plan_of(clock, scales=(0.5, 1), at=(0.4,))  # late: the new band has signal
    generator = torch.Generator().manual_seed(0)
    field = GaussianField(LAW, (16, 16))
    shape = plan.shapes[stage]
    gain = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    t = plan.stages[stage].local_times[len(plan.stages[stage].local_times) // 2]
    optimiser = torch.optim.Adam([gain], lr=0.05)
    for step in range(300):
        white, noise = (torch.randn(64, 1, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
        pair = stage_sample(DCT.inverse(white * field.power().sqrt()), noise, t, plan, stage=stage)
        for group in optimiser.param_groups:
            group["lr"] = 0.15 / (1 + step / 25)
        optimiser.zero_grad()
        stage_loss(DCT.inverse(gain * DCT.forward(pair.x)), pair).backward()
        optimiser.step()
    probe = torch.randn(256, 1, *shape, generator=generator, dtype=torch.float64)

    def relative_error(wanted):
        error = DCT.inverse(gain.detach() * DCT.forward(probe)) - wanted
        return float(error.square().mean() / wanted.square().mean())

    plain = field.velocity(probe, t)
    wanted = plain if stage == 0 else DCT.inverse(analytic_gain(plan, field, t) * DCT.forward(probe))
    assert relative_error(wanted) < 0.01
    if stage == 1:
        assert relative_error(plain) > 0.05, "the last stage is not plain flow matching: its new band starts from noise"


def test_weighted_loss_leaves_out_what_is_still_noise():
    plan = plan_of(scales=(0.5, 1))
    x0, noise = batch((4, 1, 16, 16))
    pair = stage_sample(x0, noise, plan.stages[1].local_times[0], plan, stage=1)
    plain = stage_loss(pair.target + 0.1, pair)
    assert float(plain) == pytest.approx(0.01)
    high = torch.zeros(4, 1, 16, 16, dtype=torch.float64)
    high[..., -1, -1] = 1.0
    low = torch.zeros_like(high)
    low[..., 0, 1] = 1.0
    weighted = {
        name: float(stage_loss(pair.target + DCT.inverse(c), pair, spectrum=LAW, plan=plan))
        for name, c in (("high", high), ("low", low))
    }
    assert weighted["low"] > 20 * weighted["high"]
    last = stage_sample(x0, noise, 1e-3, plan, stage=1)
    assert float(stage_loss(last.target + 0.1, last, spectrum=LAW, plan=plan)) == pytest.approx(0.01, rel=1e-2)


def test_schedule_travels_with_the_checkpoint():
    plan = plan_of()
    metadata = schedule_metadata(plan, spectrum=LAW)
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.loads(metadata["spectral_pd.schedule"])["spectrum"]["exponent"] == 2.0
    assert check_metadata(metadata, plan) == []
    with pytest.warns(UserWarning, match=r"clock: trained with full, sampling with stage"):
        assert check_metadata(metadata, plan_of("stage"))
    with pytest.warns(UserWarning, match="basis"):
        assert check_metadata(metadata, within(plan, HAAR))
    with pytest.warns(UserWarning, match="transition_times"):
        assert check_metadata(metadata, make_plan(plan.times, LAW, (16, 16), scales=(0.25, 0.5, 1), delta=0.2))
    with pytest.raises(ValueError, match=r"no 'spectral_pd.schedule'"):
        check_metadata({}, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": torch.zeros(3, 2, 8, 8)}, "x0 has shape"),
        ({"noise": torch.zeros(2, 2, 16, 16)}, "must agree"),
        ({"x0": torch.zeros(3, 2, 16, 16, dtype=torch.int64)}, "int64"),
        ({"t": 0.01, "stage": 0}, "leaves stage 0"),
        ({"t": torch.tensor([0.97, 0.96])}, "one for each of the 3 items"),
        ({"stage": 3}, "stage = 3"),
        ({"plan": None}, "plan is NoneType"),
    ],
)
def test_bad_input(change, message):
    x0, noise = batch()
    arguments = {"x0": x0, "noise": noise, "t": 0.97, "plan": plan_of(), "stage": 0} | change
    with pytest.raises((ValueError, TypeError), match=message):
        stage_sample(**arguments)


def test_stage_without_steps_is_refused_and_never_drawn():
    times = (1.0, 0.5, 0.25, 0.0)
    plan = plan_at(times, (0.7, 0.6), (16, 16), scales=(0.25, 0.5, 1))
    assert plan.split == (1, 0, 2)
    x0, noise = batch()
    with pytest.raises(ValueError, match="makes no steps"):
        stage_sample(x0, noise, plan.stages[1].local_times[0], plan, stage=1)
    generator = torch.Generator().manual_seed(0)
    assert {draw_times(plan, 1, generator=generator)[0] for _ in range(200)} == {0, 2}
    start, _ = stage_endpoints(x0, noise, plan, 2)
    assert start.shape == x0.shape


def test_loss_arguments():
    plan = plan_of()
    pair = stage_sample(*batch(), 0.97, plan, stage=0)
    with pytest.raises(ValueError, match="prediction has shape"):
        stage_loss(pair.target[:1], pair)
    with pytest.raises(ValueError, match="together"):
        stage_loss(pair.target, pair, spectrum=PRESETS["flux"])
    with pytest.raises(ValueError, match="batch = 0"):
        draw_times(plan, 0)
    with pytest.raises(ValueError, match="draw = 'uniform'"):
        draw_times(plan, 1, draw="uniform")
