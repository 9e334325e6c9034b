"""Every family through its real pipeline class: the stock result at one scale, and sound results at several."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import diffusers
from tiny_pipelines import (
    COSMOS_I2V,
    FAMILIES,
    FLUX,
    FLUX2,
    KLEIN,
    MINIMAX_H3,
    QWEN,
    SD3,
    WAN,
    WAN_5B,
    Z_IMAGE,
    Family,
    generator,
    result,
)

from spectral_pd.adapters import LAYOUTS, adapt, progressive

FIRST = (FLUX, FLUX2, KLEIN, Z_IMAGE, WAN, QWEN, SD3)
ATTENTION = re.compile(r"(^|\.)(to_q|to_v|to_query|to_qkv|qkv|img_qkv_proj)$")
families = pytest.mark.parametrize("family", FAMILIES, ids=str)
first = pytest.mark.parametrize("family", FIRST, ids=str)


@functools.cache
def stock(family: Family, **changes) -> torch.Tensor:
    torch.manual_seed(5)  # some encode their pictures with torch's own generator
    return result(family, family.pipe(generator=generator(), **family.arguments(**changes)))


def ours(family: Family, scales, *, generators=None, arguments=None, **changes) -> torch.Tensor:
    torch.manual_seed(5)
    options = {
        name: changes.pop(name) for name in ("coupling", "solver", "clock", "transition_times") if name in changes
    }
    if len(scales) > 1:
        usual = (0.95, 0.8)
        if family.pipe.scheduler.config.get("prediction_type") is not None:  # begins below, on the flow's path
            first = adapt(family.pipe, **(arguments or family.arguments(**changes))).times[0]
            usual = (0.95 * first, 0.9 * first)
        options.setdefault("transition_times", usual[-len(scales) + 1 :])
    arguments = family.arguments(**changes) if arguments is None else arguments
    return result(
        family,
        progressive(
            family.pipe, scales=scales, generator=generators or generator(), unreached="force", **options, **arguments
        ),
    )


def assert_stock(family: Family, found: torch.Tensor, expected: torch.Tensor) -> None:
    """One scale is the stock call: the pipeline's own operations on the same numbers."""
    assert found.dtype == expected.dtype
    if LAYOUTS[type(family.pipe).__name__].preserving or family in (COSMOS_I2V, MINIMAX_H3):
        # The state moves on another path than the pipeline's, or by Euler's step written otherwise; Cosmos walks to its given
        # frame, which the ride keeps.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    else:
        assert torch.equal(found, expected)


@families
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_one_scale_is_the_stock_pipeline(family: Family, guided: bool):
    call = {"guided": guided, "height": 96, "width": 160, "num_inference_steps": 3}
    expected, found = stock(family, **call), ours(family, (1,), **call)
    assert_stock(family, found, expected)
    assert expected.std() > 0.02  # the velocity did something


@families
@pytest.mark.filterwarnings("ignore:scale:UserWarning")
def test_several_scales_give_a_full_size_result(family: Family):
    """Sizes that are not square, and two thirds of 10 x 14 patches, which is rounded down."""
    whole = stock(family, guided=True, height=96, width=160, num_inference_steps=3)
    half = ours(family, (1 / 2, 1), guided=True, height=96, width=160, num_inference_steps=3)
    assert half.shape == whole.shape
    assert torch.isfinite(half).all()
    assert (half - whole).abs().max() > 1e-3
    assert half.std() > 0.02
    for scales, size in (((2 / 3, 1), (160, 224)), ((1 / 4, 1 / 2, 1), (128, 192))):
        found = ours(family, scales, guided=False, height=size[0], width=size[1], num_inference_steps=3)
        assert torch.isfinite(found).all()
        if family.sized and found.ndim == whole.ndim > 3:
            assert [n * 96 for n in found.shape[-2:]] == [
                n * size[i] * 96 // (96, 160)[i] for i, n in enumerate(whole.shape[-2:])
            ] or family.name.startswith(("Kandinsky", "HiDream"))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.splits], ids=str)
def test_an_item_of_a_batch_is_a_batch_of_one(family: Family):
    """With a generator an item, coupled; and with fresh noise at the transition, which the first families stand for."""
    both = family.arguments(2, num_inference_steps=3)
    for coupling in ("coupled", "fresh") if family in FIRST else ("coupled",):
        batch = ours(family, (1 / 2, 1), generators=[generator(7), generator(8)], arguments=both, coupling=coupling)
        for i, seed in enumerate((7, 8)):
            one = {name: family.item(name, value, i) for name, value in both.items()}
            alone = ours(family, (1 / 2, 1), generators=[generator(seed)], arguments=one, coupling=coupling)
            n = alone.shape[0]
            torch.testing.assert_close(batch[i * n : (i + 1) * n], alone, rtol=0, atol=1e-4)


@contextmanager
def lora(family: Family) -> Iterator[torch.nn.Module]:
    """The network with a LoRA of random weights on its attention: by the pipeline's own call, or by the network's."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    pipe, g = family.pipe, torch.Generator().manual_seed(1)
    part = LAYOUTS[type(pipe).__name__].networks[0]
    network, weights = getattr(pipe, part), {}
    for name, layer in network.named_modules():
        if ATTENTION.search(name) and isinstance(layer, torch.nn.Linear):
            weights[f"{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=g) / layer.in_features**0.5
            weights[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=g)
    if hasattr(pipe, "load_lora_weights") and isinstance(pipe, diffusers.DiffusionPipeline):
        pipe.load_lora_weights({f"{part}.{name}": value for name, value in weights.items()}, adapter_name="random")
    else:  # modular pipelines load through blocks that these have not
        layers = [name.removesuffix(".lora_A.weight") for name in weights if "lora_A" in name]
        network.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=layers), adapter_name="random")
        peft.set_peft_model_state_dict(network, weights, adapter_name="random")
    try:
        yield network
    finally:
        network.unload_lora()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.adapts], ids=str)
@pytest.mark.filterwarnings("ignore:scale:UserWarning")
def test_a_lora_is_the_stock_ones_at_one_scale_and_counts_at_several(family: Family):
    call = {"guided": False, "height": 96, "width": 160, "num_inference_steps": 2}
    plain = ours(family, (1 / 2, 1), **call)
    with lora(family) as network:
        torch.manual_seed(5)
        whole = result(family, family.pipe(generator=generator(), **family.arguments(**call)))
        assert_stock(family, ours(family, (1,), **call), whole)
        adapted = ours(family, (1 / 2, 1), **call)
        network.set_adapters(["random"], 0.0)  # negative control
        off = ours(family, (1 / 2, 1), **call)
    assert torch.isfinite(adapted).all()
    assert adapted.shape == whole.shape
    assert (adapted - plain).abs().max() > 1e-4
    assert torch.equal(off, plain)
    assert not any("lora" in name for name, _ in network.named_modules())


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.adapts], ids=str)
def test_the_others_take_none(family: Family):
    assert not hasattr(family.pipe.transformer, "add_adapter")


@first
def test_the_same_seed_gives_the_same_result_and_another_another(family: Family):
    found, again, other = (
        ours(family, (1 / 2, 1), generators=generator(seed), num_inference_steps=3) for seed in (0, 0, 1)
    )
    assert torch.equal(found, again)
    assert (found - other).abs().max() > 1e-2


@first
def test_a_call_without_a_size_has_the_models_own(family: Family):
    arguments = family.arguments(guided=False, num_inference_steps=2)
    del arguments["height"], arguments["width"]
    if family is WAN:
        arguments["num_frames"] = 1
    assert torch.equal(
        ours(family, (1,), arguments=arguments), result(family, family.pipe(generator=generator(), **arguments))
    )


@first
def test_decoded_output_has_the_pipelines_type_and_size(family: Family):
    for kind in ("np",) if family is WAN else ("pil", "np"):
        call = {"guided": False, "num_inference_steps": 2, "output_type": kind}
        pair = [
            getattr(make(family.pipe, generator=generator(), **family.arguments(**call), **more), family.output)
            for make, more in ((type(family.pipe).__call__, {}), (progressive, {"scales": (1,)}))
        ]
        assert type(pair[0]) is type(pair[1])
        if kind == "np":
            np.testing.assert_array_equal(*pair)
        else:
            assert pair[0][0].size == pair[1][0].size == (128, 128)
    as_tuple = progressive(
        family.pipe,
        generator=generator(),
        return_dict=False,
        transition_times=(0.95,),
        **family.arguments(guided=False),
    )
    assert isinstance(as_tuple, tuple)


@first
def test_given_latents_are_the_noise(family: Family):
    seen = []
    prepare = family.pipe.prepare_latents
    family.pipe.prepare_latents = lambda *args, **rest: seen.append(prepare(*args, **rest)) or seen[-1]
    try:
        expected = ours(family, (1 / 2, 1), num_inference_steps=3)
    finally:
        del family.pipe.prepare_latents
    given = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    if family in (FLUX2, KLEIN):  # which take their latents in space
        given = given.transpose(1, 2).unflatten(2, (8, 8))
    found = ours(family, (1 / 2, 1), num_inference_steps=3, latents=given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [f for f in FIRST if f is not SD3], ids=str)  # which repeats no embeddings
def test_several_results_a_prompt(family: Family):
    call = {"num_inference_steps": 2, "num_videos_per_prompt" if family is WAN else "num_images_per_prompt": 2}
    assert torch.equal(ours(family, (1,), **call), stock(family, **call))
    assert ours(family, (1 / 2, 1), **call).shape == stock(family, **call).shape


@first
def test_the_time_grid_and_the_shape_are_the_calls_own(family: Family):
    """Found without a model call; the pipeline, its scheduler and the generator are left as they were."""
    calls, g = [], generator(3)
    handle = family.pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    before, state = family.pipe.scheduler, g.get_state()
    ride = adapt(family.pipe, generator=g, **family.arguments(2))
    plan = ride.plan(scales=(1 / 2, 1), delta=0.05, unreached="force")
    handle.remove()
    assert not calls
    assert family.pipe.scheduler is before
    assert "prepare_latents" not in vars(family.pipe)
    assert torch.equal(g.get_state(), state)
    assert ride.shape[0] == 2
    assert ride.shape[-2:] == plan.shape == (16, 16)
    stock_times = []
    family.pipe(generator=generator(), **family.arguments())
    stock_times = family.pipe.scheduler.sigmas.tolist()
    assert plan.times == tuple(dict.fromkeys(stock_times))


@first
def test_a_plan_made_before_is_run_and_one_of_another_call_refused(family: Family):
    arguments = family.arguments(num_inference_steps=4)
    ride = adapt(family.pipe, generator=generator(), **arguments)
    plan = ride.plan(transition_times=(0.8,), unreached="force")
    found = result(family, ride.run(plan))
    assert torch.equal(found, ours(family, (1 / 2, 1), arguments=arguments, transition_times=(0.8,)))
    with pytest.raises(ValueError, match="make the plan with the arguments of this call"):
        adapt(family.pipe, **family.arguments(num_inference_steps=5)).run(plan)


@pytest.mark.parametrize("family", [FLUX, Z_IMAGE, WAN_5B], ids=str)
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_other_solvers_and_the_papers_clock_run(family: Family, solver):
    found = ours(family, (1 / 2, 1), solver=solver, clock="stage", guided=False)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, ours(family, (1 / 2, 1), clock="stage", guided=False))


@pytest.mark.parametrize("family", [FLUX, WAN, Z_IMAGE, SD3], ids=str)
def test_velocity_is_the_networks_with_guidance_and_gradients(family: Family):
    """The first Euler step of a run undone; and the derivative of its norm."""
    ride = adapt(family.pipe, generator=generator(), **family.arguments())
    times = ride.times
    seen = []

    def euler(velocity, x, t, t_next, history=None):
        v = velocity(x, t)
        seen.append((x, t, v))
        return x + (t_next - t) * v, None

    ride.run(ride.plan(scales=(1 / 2, 1), transition_times=(0.8,), unreached="force"), solver=euler)
    seen = [(x, t, v) for x, t, v in seen if x.ndim > 3]  # without the run on one number that counts the calls
    x, t, v = seen[-1]
    assert len({tuple(x.shape) for x, _, _ in seen}) == 2
    assert len(times) > 2
    for x, t, v in (seen[0], seen[-1]):
        torch.testing.assert_close(ride.velocity(x, t), v, rtol=0, atol=1e-5)
    x = x.clone().requires_grad_()
    ride.velocity(x, t).square().sum().backward()
    assert x.grad.abs().max() > 1e-3
    for state, time, message in (
        (x[:, :1], t, "this call's states are"),
        (x[..., :-1], t, "sides are multiples of"),
        (x, 1.5, "t = 1.5"),
        (x, 0.0, "t = 0 is data"),
    ):
        with pytest.raises(ValueError, match=message):
            ride.velocity(state, time)


def test_wan_video_keeps_its_frames():
    assert ours(WAN, (1 / 2, 1), num_frames=9, num_inference_steps=2).shape == (1, 16, 3, 16, 16)


def test_z_image_norm_cap_and_truncation_are_the_pipelines():
    call = {"batch": 2, "cfg_normalization": 0.9, "cfg_truncation": 0.3}
    expected = stock(Z_IMAGE, **call)
    assert torch.equal(ours(Z_IMAGE, (1,), **call), expected)
    assert (ours(Z_IMAGE, (1,), batch=2) - expected).abs().max() > 1e-3
