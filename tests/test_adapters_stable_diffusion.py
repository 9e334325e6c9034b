"""Variance-preserving networks: schedulers, callbacks, the refiner's share, and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import diffusers
from tiny_pipelines import SD, SD_INP, SDXL, Family, generator

from spectral_pd import PRESETS
from spectral_pd.adapters import adapt, progressive

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def pipe_with(family: Family, scheduler):
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler
    return pipe


def call(make, family: Family, pipe, **changes) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(pipe, generator=generator(), **family.arguments(**{"num_inference_steps": 8, **changes})).images


def stock(family: Family, pipe, **changes) -> torch.Tensor:
    return call(type(pipe).__call__, family, pipe, **changes)


def ours(family: Family, pipe, **changes) -> torch.Tensor:
    return call(progressive, family, pipe, **changes)


SCHEDULERS = {
    "Euler, Karras": lambda: diffusers.EulerDiscreteScheduler(**TABLE, use_karras_sigmas=True),
    "Euler, trailing v": lambda: diffusers.EulerDiscreteScheduler(
        **TABLE, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    ),
    "Euler, sample": lambda: diffusers.EulerDiscreteScheduler(**TABLE, prediction_type="sample"),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**TABLE),
    "DPM++ 2M, Karras": lambda: diffusers.DPMSolverMultistepScheduler(**TABLE, use_karras_sigmas=True),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**TABLE),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_repeated(name):
    pipe = pipe_with(SDXL, SCHEDULERS[name]())
    expected = stock(SDXL, pipe)
    scale = float(expected.abs().max())
    torch.testing.assert_close(ours(SDXL, pipe, scales=(1,)), expected, rtol=0, atol=1e-4 * scale)
    if not name.startswith("Euler"):  # negative control: Euler's steps on the same grid are another picture
        assert (ours(SDXL, pipe, scales=(1,), solver="euler") - expected).abs().max() > 1e-3 * scale
    found = ours(SDXL, pipe, transition_times=(0.7,))
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() > 1e-3 * scale


def test_eulers_steps_are_ddims():
    """The advice for DDIM: the scheduler made from its configuration takes the same steps."""
    ddim = diffusers.DDIMScheduler(
        **TABLE, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=1
    )
    pipe = pipe_with(SD, ddim)
    expected = stock(SD, pipe)
    with pytest.raises(ValueError, match=r"DDIMScheduler has no .*EulerDiscreteScheduler.from_config"):
        ours(SD, pipe)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(ddim.config)
    torch.testing.assert_close(ours(SD, pipe, scales=(1,)), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("scheduler", "options", "match"),
    [
        (diffusers.EulerAncestralDiscreteScheduler, {}, "no deterministic grid of noise levels"),
        (diffusers.LCMScheduler, {}, "no deterministic grid of noise levels"),
        (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, "adds noise"),
    ],
)
def test_a_scheduler_that_adds_noise_is_refused(scheduler, options, match):
    with pytest.raises(ValueError, match=match):
        ours(SDXL, pipe_with(SDXL, scheduler(**TABLE, **options)))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"solver": "heun"}, "several evaluations a step"),
        ({"clock": "stage", "transition_times": (0.7,)}, "starts from noise alone"),
        ({"heigth": 512}, "heigth"),
        ({"callback": print}, "callback"),
        ({"denoising_start": 0.5}, "another pipeline's noisy latents"),
    ],
)
def test_what_cannot_be_said_is_refused_before_the_network_runs(changes, match):
    calls = []
    handle = SDXL.pipe.unet.register_forward_hook(lambda *args: calls.append(1))
    with pytest.raises((ValueError, TypeError), match=match):
        ours(SDXL, SDXL.pipe, **changes)
    handle.remove()
    assert not calls


def test_networks_of_a_flow_take_no_other_path():
    from tiny_pipelines import FLUX

    with pytest.raises(ValueError, match="no plain flow-matching time grid"):
        call(progressive, FLUX, pipe_with(FLUX, diffusers.UniPCMultistepScheduler(**TABLE)))


@pytest.mark.parametrize("family", [SDXL, SD_INP], ids=str)
def test_a_callback_sees_the_pipelines_own_states(family):
    """As the pipeline holds them: with Euler's scheduler a picture and sigma times noise, at every stage of full size."""
    seen = {"stock": [], "one": [], "two": []}

    def record(name):
        def callback(pipe, step, timestep, tensors):
            seen[name].append((step, float(timestep), tensors["latents"].clone()))
            return tensors

        return callback

    stock(family, family.pipe, callback_on_step_end=record("stock"))
    ours(family, family.pipe, scales=(1,), callback_on_step_end=record("one"))
    watched = ours(family, family.pipe, transition_times=(0.7,), callback_on_step_end=record("two"))
    for (a, t, x), (b, s, y), (c, u, z) in zip(*seen.values(), strict=True):
        assert (a, t) == (b, s) == (c, u)
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        assert 0.3 < float(z.std() / x.std()) < 3  # of the same noise level
    torch.testing.assert_close(watched, ours(family, family.pipe, transition_times=(0.7,)), rtol=0, atol=1e-4)


def test_a_callback_may_change_the_latents():
    def halved(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * (0.5 if step == 1 else 1)}

    expected = stock(SDXL, SDXL.pipe, callback_on_step_end=halved)
    found = ours(SDXL, SDXL.pipe, scales=(1,), callback_on_step_end=halved)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    coarse = ours(SDXL, SDXL.pipe, transition_times=(0.6,), callback_on_step_end=halved)
    assert (coarse - ours(SDXL, SDXL.pipe, transition_times=(0.6,))).abs().max() > 1e-2


def test_the_base_hands_over_to_its_refiner_at_the_noise_level_asked_for():
    """`denoising_end`: also from inside a coarse stage the latents are of the full size and of that level."""
    expected = stock(SDXL, SDXL.pipe, denoising_end=0.5)
    torch.testing.assert_close(ours(SDXL, SDXL.pipe, scales=(1,), denoising_end=0.5), expected, rtol=0, atol=1e-4)
    for time in (0.85, 0.3):  # the transition before and after the end
        found = ours(SDXL, SDXL.pipe, transition_times=(time,), denoising_end=0.5)
        assert found.shape == expected.shape
        assert 0.3 < float(found.std() / expected.std()) < 3


def test_the_grid_is_the_schedulers_and_sizes_below_what_was_trained_warn():
    ride = adapt(SDXL.pipe, **SDXL.arguments(height=512, width=640))
    sigmas = ride.times[0] / (1 - ride.times[0])
    SDXL.pipe.scheduler.set_timesteps(6)
    assert sigmas == pytest.approx(float(SDXL.pipe.scheduler.sigmas[0]), rel=1e-5)
    plan = ride.plan(transition_times=(0.8,))
    assert plan.shape == (64, 80)
    assert any("trained at 512 and more" in text for text in plan.warnings)
    assert ride.layout.spectrum == PRESETS["sdxl"]


def test_calls_on_several_grids_and_velocities_know_the_path():
    whole = stock(SDXL, SDXL.pipe)
    found = [ours(SDXL, SDXL.pipe, anchors=anchors) for anchors in (range(8), (0, 2, 4, 5, 6, 7))]
    torch.testing.assert_close(found[0], whole, rtol=0, atol=1e-4)
    assert torch.isfinite(found[1]).all()
    assert (found[1] - whole).abs().max() > 1e-2
    ride, seen = adapt(SDXL.pipe, generator=generator(), **SDXL.arguments()), []

    def euler(velocity, x, t, t_next, history=None):
        seen.append((x, t, velocity(x, t)))
        return x + (t_next - t) * seen[-1][2], None

    ride.run(ride.plan(transition_times=(0.8,)), solver=euler)
    for x, t, v in [call for call in seen if call[0].ndim == 4]:  # without the run on one number that counts the calls
        torch.testing.assert_close(ride.velocity(x, t), v, rtol=0, atol=1e-4)
