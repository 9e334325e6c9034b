"""Calls of several grids all along a pipeline's own loop: one iteration for each call, and the extremes exact."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from strategies import randn
from test_adapters_families import FIRST, Family, ours, stock
from tiny_pipelines import FLUX, LONGCAT, SD3, generator, result

from spectral_pd import DCT, Plan, sample
from spectral_pd.__main__ import main
from spectral_pd.adapters import adapt, calibrate, progressive
from spectral_pd.calibrate import Calibration, choose_pattern
from spectral_pd.calibrate import calibrate as of_velocity
from spectral_pd.solvers import SOLVERS
from spectral_pd.stepwise import Walk
from spectral_pd.theory import align_time
from spectral_pd.two_grids import Pattern, Predictor, anchored, held, weights_shape

first = pytest.mark.parametrize("family", FIRST, ids=str)
CALL = {"guided": True, "height": 128, "width": 128, "num_inference_steps": 4}


def anchored_run(family: Family, anchors, **options) -> torch.Tensor:
    arguments = family.arguments(**CALL)
    return result(family, progressive(family.pipe, generator=generator(), anchors=anchors, **options, **arguments))


@first
def test_every_step_an_anchor_is_the_stock_pipeline(family: Family):
    assert torch.equal(anchored_run(family, range(4)), stock(family, **CALL))
    # Negative control: without one of them.
    assert float((anchored_run(family, (0, 1, 3)) - stock(family, **CALL)).abs().max()) > 1e-4


@first
def test_anchors_after_a_transition_are_progressive_sampling(family: Family):
    """The state is of full size from the start, and every call goes where the plan of two stages sends it."""
    times = adapt(family.pipe, generator=generator(), **family.arguments(**CALL)).times
    expected = ours(family, (1 / 2, 1), transition_times=(times[2],), solver="euler", **CALL)
    torch.testing.assert_close(anchored_run(family, (2, 3), solver="euler"), expected, rtol=0, atol=2e-4)
    assert float((anchored_run(family, (1, 2, 3), solver="euler") - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("family", [FLUX, SD3], ids=str)
@pytest.mark.parametrize("calls", [((1,), (), (0,), (1,)), ((), (1,), (), ()), ((0,), (0, 1), (), (1,))], ids=str)
@pytest.mark.filterwarnings("ignore:the spectrum was measured:UserWarning")
def test_any_calls_are_those_of_sample_with_the_pipelines_velocity(family: Family, calls):
    """One iteration of the loop for each call; steps without one are made in between, before the first and after the last."""
    ride = adapt(family.pipe, generator=generator(), **family.arguments(**CALL))
    plan, seen = weighted(ride, calls), []
    handle = family.pipe.transformer.register_forward_hook(lambda *_: seen.append(None))
    try:
        family.pipe(generator=generator(), **family.arguments(**CALL))
        each = len(seen) / 4  # guidance may make calls of its own
        found = result(family, ride.run(plan))
    finally:
        handle.remove()
    assert len(seen) == each * (4 + sum(map(len, calls)))
    latents = sample(ride.velocity, torch.randn(ride.shape, generator=generator()), plan)
    if family is FLUX:
        latents = family.pipe._pack_latents(latents, *latents.shape)
    torch.testing.assert_close(found, latents.reshape(found.shape), rtol=0, atol=2e-4)


def weighted(ride, calls) -> Plan:
    """Small weights on everything: what matters is that both loops use the same."""
    height, width = ride.shape[-2:]
    pattern = Pattern(ride.times, ((height // 2, width // 2), (height, width)), calls)
    return Predictor(pattern, 0.2 * randn(*weights_shape(pattern, DCT))).plan


def test_what_cannot_be_is_refused_before_the_first_call():
    arguments = FLUX.arguments(**CALL)
    with pytest.raises(ValueError, match="once a step"):
        progressive(FLUX.pipe, anchors=(0,), solver="heun", generator=generator(), **arguments)
    with pytest.raises(ValueError, match="must be steps, 0 to 3"):
        progressive(FLUX.pipe, anchors=(7,), generator=generator(), **arguments)
    with pytest.raises(ValueError, match="clock='stage'"):
        progressive(FLUX.pipe, anchors=(0,), clock="stage", generator=generator(), **arguments)
    with pytest.raises(ValueError, match="transition_times: anchors have no transitions"):
        progressive(FLUX.pipe, anchors=(0,), transition_times=(0.8,), generator=generator(), **arguments)
    with pytest.raises(ValueError, match="coupling = 'cupled' must be 'coupled' or 'fresh'"):
        progressive(FLUX.pipe, coupling="cupled", generator=generator(), **arguments)
    with pytest.raises(TypeError, match=r"plan is method; pass what Ride\.plan returned"):
        adapt(FLUX.pipe, **arguments).run(adapt(FLUX.pipe, **arguments).plan)
    with pytest.raises(ValueError, match=r"scales = \(0\.5,\) must end at 1"):
        calibrate(FLUX.pipe, [arguments], scales=(1 / 2,))
    plan = weighted(adapt(FLUX.pipe, **arguments), ((1,), (), (0,), (1,)))
    with pytest.raises(ValueError, match="plan has 4 steps, this call 3"):
        adapt(FLUX.pipe, **FLUX.arguments(**{**CALL, "num_inference_steps": 3})).run(plan)


def test_anchors_call_half_the_size_where_no_scales_are_given():
    arguments = FLUX.arguments(**CALL)
    said, default = (
        adapt(FLUX.pipe, generator=generator(), **arguments).state({"anchors": (0, 2), **scales})
        for scales in ({"scales": (1 / 2, 1)}, {})
    )
    assert torch.equal(said, default)


def test_a_run_that_breaks_leaves_generators_as_they_were():
    def broken(module, args, kwargs):
        raise RuntimeError("broken")

    drawn = generator()
    ride = adapt(FLUX.pipe, generator=drawn, **FLUX.arguments(**CALL))
    handle = FLUX.pipe.transformer.register_forward_pre_hook(broken, with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="broken"):
            ride.state({"anchors": (0, 2)})
    finally:
        handle.remove()
    assert torch.equal(drawn.get_state(), generator().get_state())


@pytest.mark.parametrize("family", [FLUX, SD3], ids=str)
@pytest.mark.filterwarnings("ignore:the spectrum was measured:UserWarning")
def test_calibrating_a_pipeline_is_calibrating_its_velocity(family: Family):
    calls = [{"generator": generator(seed), **family.arguments(**CALL)} for seed in (0, 1)]
    found = calibrate(family.pipe, calls, model="tiny")
    ride = adapt(family.pipe, **calls[0])
    noise = torch.cat([torch.randn(ride.shape, generator=generator(seed)) for seed in (0, 1)])
    expected = of_velocity(ride.velocity, noise, ride.times, scales=(1 / 2, 1), solver="euler", batch=1, model="tiny")
    assert (found.seeds, found.times, found.shapes, found.model) == (2, ride.times, expected.shapes, "tiny")
    torch.testing.assert_close(found.moments, expected.moments, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.gain[1:], expected.gain[1:], rtol=2e-2, atol=2e-2)
    assert found.solver == "euler"
    # What is chosen from it runs, and every call of the network is one iteration.
    best = choose_pattern(found, 2.0)[0]
    assert torch.isfinite(result(family, adapt(family.pipe, **calls[0]).run(best.plan))).all()
    with pytest.raises(ValueError, match=r"calls have 16x16 in 4 steps, 16x16 in 3 steps; pass calls of one size"):
        calibrate(family.pipe, [calls[0], {**calls[1], "num_inference_steps": 3}])
    with pytest.raises(ValueError, match="arguments of one call; pass a list"):
        calibrate(family.pipe, calls[0])


def test_the_command_calibrates_and_plan_shows_what_it_found(monkeypatch, capsys, tmp_path):
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: LONGCAT.pipe)
    file = tmp_path / "found.json"
    options = ["--size", "128", "128", "--steps", "6", "--call", "enable_prompt_rewrite=false"]
    prompts = ["--prompt", "a cat", "a lighthouse"]
    assert main(["calibrate", "FOLDER", *prompts, *options, "--scales", "1/2", "1", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 runs of 6 steps")
    found = Calibration.load(file)
    assert (found.seeds, found.model, found.shapes) == (2, "FOLDER", ((8, 8), (16, 16)))
    rows = [line.split() for line in lines[2:]]
    assert [float(row[0][:-1]) for row in rows] == sorted(float(row[0][:-1]) for row in rows)
    assert all(len(row) == 4 and set(row[2]) <= set("F.h") for row in rows)
    assert main(["plan", "--calibration", str(file), "--speedup", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"6 steps, calls {rows[1][2]}\n")
    assert f"{rows[1][1]} dB predicted" in shown
    assert main(["plan", "--preset", "flux"]) == 1
    assert "--size is missing" in capsys.readouterr().err
    assert main(["plan", "--preset", "flux", "--size", "128", "--speedup", "3"]) == 1
    assert "--speedup is for --calibration" in capsys.readouterr().err


def test_a_pipeline_is_calibrated_with_its_own_schedulers_solver(monkeypatch):
    from diffusers import DPMSolverMultistepScheduler

    flow = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    monkeypatch.setattr(SD3.pipe, "scheduler", DPMSolverMultistepScheduler(**flow))
    assert calibrate(SD3.pipe, [{"generator": generator(), **SD3.arguments(**CALL)}]).solver == "dpmpp_2m"


def test_a_call_is_told_its_own_times_at_both_ends_of_the_step():
    """Of a smaller grid they are aligned to it: networks that take the step's end read the same clock as at its beginning."""
    times = (1.0, 0.8, 0.5, 0.0)
    walk = Walk(held(anchored(times, (8, 8), anchors=(1,))).plan, randn(1, 2, 8, 8), solver=SOLVERS["euler"])
    seen = []
    while not walk.finished:
        query = walk.query()
        seen.append((query.grid, query.time, query.until))
        walk.answer(query.state)
    half = [align_time(t, 1 / 2) for t in times]
    expected = [((4, 4), half[0], half[1]), ((4, 4), half[1], half[2]), ((8, 8), times[1], times[2])]
    assert seen == [*expected, ((4, 4), half[2], half[3])]
