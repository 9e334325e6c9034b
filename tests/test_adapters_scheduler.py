"""The unmodified pipeline loop under a SpectralScheduler gives what progressive() gives."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from tiny_pipelines import FLUX, FLUX2, QWEN, SD3, WAN, Z_IMAGE, Family, generator

from spectral_pd import HAAR
from spectral_pd.adapters import SpectralScheduler, adapt, progressive

LOOPS = (FLUX, Z_IMAGE, WAN, QWEN, SD3)
loops = pytest.mark.parametrize("family", LOOPS, ids=str)


def without_size(arguments: dict) -> dict:
    return {name: value for name, value in arguments.items() if name not in ("height", "width", "num_inference_steps")}


def unmodified(family: Family, plan_options: dict, *, basis=None, **changes) -> torch.Tensor:
    arguments = family.arguments(height=128, width=192, **changes)
    adapter = adapt(family.pipe, generator=generator(), **arguments)
    options = {"basis": basis} if basis else {}
    with SpectralScheduler(adapter, adapter.plan(**plan_options), **options) as start:
        return getattr(family.pipe(**without_size(arguments), **start), family.output)


PLANS = {
    "full": {"scales": (1,)},
    "half": {"scales": (1 / 2, 1)},
    "quarter": {"scales": (1 / 4, 1 / 2, 1)},
    "two-thirds, stage clock": {"scales": (2 / 3, 1), "clock": "stage"},
}


@loops
@pytest.mark.parametrize("options", PLANS.values(), ids=PLANS)
def test_the_stock_loop_gives_the_same(family, options):
    before = family.pipe.scheduler
    result = unmodified(family, options)
    assert family.pipe.scheduler is before
    arguments = family.arguments(height=128, width=192)
    expected = getattr(progressive(family.pipe, generator=generator(), **options, **arguments), family.output)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@loops
def test_decoded_results_have_the_full_size(family):
    result = unmodified(family, {"transition_times": (0.95,)}, num_inference_steps=3, output_type="np")
    assert result.shape[-3:-1] == (128, 192)


def test_two_transitions_at_one_step_and_other_bases():
    options = {"scales": (1 / 4, 1 / 2, 1), "transition_times": (0.8, 0.79)}
    arguments = WAN.arguments(height=128, width=192)
    expected = progressive(WAN.pipe, generator=generator(), basis=HAAR, **options, **arguments).frames
    torch.testing.assert_close(unmodified(WAN, options, basis=HAAR), expected, rtol=0, atol=1e-5)


def test_a_loop_of_ones_own():
    """What a user writes who has neither pipeline nor progressive()."""
    arguments = WAN.arguments(guided=False)
    adapter = adapt(WAN.pipe, generator=generator(), **arguments)
    plan = adapter.plan(transition_times=(0.8,))
    scheduler = SpectralScheduler(adapter, plan)
    latents = scheduler.start()
    for t in scheduler.timesteps:
        v = WAN.pipe.transformer(
            scheduler.scale_model_input(latents, t),
            timestep=t.expand(1),
            encoder_hidden_states=arguments["prompt_embeds"],
        ).sample
        latents = scheduler.step(v, t, latents).prev_sample
    expected = progressive(WAN.pipe, generator=generator(), transition_times=(0.8,), **arguments).frames
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)


def test_without_the_hook_the_ids_are_wrong():
    """Negative control: FLUX's own ids are those of the full size from the first step on."""
    arguments = FLUX.arguments()
    adapter = adapt(FLUX.pipe, generator=generator(), **arguments)
    adapter.position_arguments = dict
    with (
        SpectralScheduler(adapter, adapter.plan(transition_times=(0.8,))) as start,
        pytest.raises(RuntimeError, match="size"),
    ):
        FLUX.pipe(**without_size(arguments), **start)
    assert FLUX.pipe.scheduler is not None
    assert not isinstance(FLUX.pipe.scheduler, SpectralScheduler)  # restored after the error


def test_refusals():
    adapter = adapt(FLUX2.pipe, **FLUX2.arguments())
    with pytest.raises(ValueError, match="position ids of the start"):
        SpectralScheduler(adapter, adapter.plan())
    adapter = adapt(WAN.pipe, generator=generator(), **WAN.arguments())
    scheduler = SpectralScheduler(adapter, adapter.plan())
    for call, match in (
        (lambda: scheduler.set_timesteps(9), "asks for 9 steps, the plan has 6"),
        (lambda: scheduler.set_timesteps(timesteps=[1.0]), "local times"),
        (lambda: scheduler.set_begin_index(2), "begins at step 0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
