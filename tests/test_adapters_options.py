"""Callbacks, feature caches, LoRA, offload hooks, compilation, and what is refused and why."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import diffusers
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.callbacks import SD3CFGCutoffCallback
from tiny_pipelines import (
    COGVIEW4,
    FAMILIES,
    FLUX,
    FLUX2,
    FLUX3,
    FLUX_CN,
    FLUX_MODULAR,
    KLEIN,
    MINIMAX_H3,
    QWEN,
    SD3,
    SDXL,
    VERSION,
    WAN,
    WAN_5B,
    Z_IMAGE,
    Family,
    embeddings,
    generator,
    wan,
)

from spectral_pd import GaussianField, plan_at, pretrained, restrict_noise, sample, shift_times
from spectral_pd.adapters import LAYOUTS, adapt, find_layout, progressive, progressive_block
from spectral_pd.adapters.families import REFUSED
from spectral_pd.adapters.layouts import own_rows
from spectral_pd.pretrained import PRETRAINED
from spectral_pd.unipc import unipc

FIRST = (FLUX, FLUX2, KLEIN, Z_IMAGE, WAN, QWEN, SD3)
families = pytest.mark.parametrize("family", FIRST, ids=str)


def run(family: Family, pipe=None, **changes):
    options = {"scales": (1 / 2, 1), "transition_times": (0.8,), "num_inference_steps": 8, **changes}
    result = progressive(pipe or family.pipe, generator=generator(), **family.arguments(**options))
    return getattr(result, family.output)


def fresh(family: Family):
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock(family: Family, pipe=None, **changes):
    arguments = family.arguments(**{"num_inference_steps": 8, **changes})
    return getattr((pipe or family.pipe)(generator=generator(), **arguments), family.output)


# Callbacks


@families
def test_a_callback_is_the_stock_one(family):
    """Steps, timesteps of the full size's clock, and at one scale the very latents; full-size ones at every stage."""
    seen = {"stock": [], "one": [], "two": []}

    def record(name):
        def callback(pipe, step, timestep, tensors):
            seen[name].append((step, float(timestep), tensors["latents"].clone()))
            return tensors

        return callback

    expected = stock(family, callback_on_step_end=record("stock"))
    assert torch.equal(run(family, scales=(1,), transition_times=(), callback_on_step_end=record("one")), expected)
    watched = run(family, callback_on_step_end=record("two"))
    assert len(seen["stock"]) >= 8 - 1
    for (a, t, x), (b, s, y), (c, u, z) in zip(*seen.values(), strict=True):
        assert a == b == c
        assert t == s == u
        assert torch.equal(x, y)
        assert x.shape == z.shape
    torch.testing.assert_close(watched, run(family), rtol=0, atol=1e-5)  # looking on changes nothing


def test_a_callback_sees_states_of_the_noise_level_it_is_told():
    """A coarse state is shown grown to the full size: noise of the full clock's time, not the coarse grid's smaller one."""
    field = GaussianField(lambda k: 4.0 * k**-4.0, (16, 16))
    seen = []

    class Ideal(torch.nn.Module):
        config, dtype, device = WAN.pipe.transformer.config, torch.float32, torch.device("cpu")

        def forward(self, hidden_states, timestep, **rest):
            return (field.velocity(hidden_states, float(timestep[0]) / 1000),)

        def cache_context(self, *args, **rest):
            return torch.no_grad()

    pipe = fresh(WAN)
    pipe.transformer = Ideal()
    ride = adapt(
        pipe,
        generator=generator(),
        callback_on_step_end=lambda pipe, step, t, tensors: seen.append(tensors["latents"]) or {},
        **WAN.arguments(guided=False, num_inference_steps=8),
    )
    plan = ride.plan(scales=(1 / 2, 1), transition_times=(0.6,))
    ride.run(plan)
    assert plan.split[0] >= 4
    for t, x in list(zip(plan.times[1:], seen, strict=True))[: plan.split[0]]:
        high = x - torch.nn.functional.interpolate(torch.nn.functional.avg_pool3d(x, (1, 2, 2)), x.shape[-3:])
        assert float(high.std()) == pytest.approx(t * 0.75**0.5, rel=0.1)


@pytest.mark.parametrize("family", [FLUX, Z_IMAGE, WAN], ids=str)
def test_a_callback_may_change_the_latents_at_every_stage(family):
    """At one scale as in the stock pipeline, on the full grid exactly and on a coarse one by its low band."""

    def halved(at):
        def callback(pipe, step, timestep, tensors):
            return {"latents": tensors["latents"] * (0.5 if step == at else 1)}

        return callback

    expected = stock(family, callback_on_step_end=halved(2))
    assert torch.equal(run(family, scales=(1,), transition_times=(), callback_on_step_end=halved(2)), expected)
    plain = run(family)
    for at in (0, 6):  # a coarse step and a full one
        changed = run(family, callback_on_step_end=halved(at))
        assert torch.isfinite(changed).all()
        assert (changed - plain).abs().max() > 1e-2


def test_a_callback_may_change_the_prompt():
    """The loop is the pipeline's: SD3's own callback switches guidance off half way, which no loop of ours could do."""
    call = {"callback_on_step_end": SD3CFGCutoffCallback(cutoff_step_ratio=0.5)}
    assert torch.equal(run(SD3, scales=(1,), transition_times=(), **call), stock(SD3, **call))
    assert (run(SD3, **call) - run(SD3)).abs().max() > 1e-3


@families
def test_interrupt_stops_calling_the_model(family):
    """As in the stock loop; the result still has the full size."""
    calls = []

    def callback(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return {}

    pipe = fresh(family)
    handle = pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    full = run(family, pipe).shape
    everything = len(calls)
    calls.clear()
    found = run(family, pipe, callback_on_step_end=callback)
    assert found.shape == full
    assert torch.isfinite(found).all()
    steps = len(adapt(pipe, **family.arguments(num_inference_steps=8)).times) - 1
    assert len(calls) == 2 * everything // steps
    handle.remove()


def test_progress_bar_counts_the_steps(capsys):
    pipe = fresh(FLUX)
    pipe.set_progress_bar_config(disable=False)
    run(FLUX, pipe)
    assert "8/8" in capsys.readouterr().err


def test_the_pipeline_is_left_as_it_was_after_an_error():
    pipe = fresh(FLUX)
    scheduler = pipe.scheduler

    def callback(*args):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(FLUX, pipe, callback_on_step_end=callback)
    assert pipe.scheduler is scheduler
    assert "prepare_latents" not in vars(pipe)
    assert not pipe.transformer._forward_pre_hooks
    assert torch.equal(stock(FLUX, pipe), stock(FLUX))


def test_what_the_plan_warns_of_is_passed_on():
    with pytest.warns(UserWarning, match=r"borrowed \(Stable Diffusion 3's fit, not measured on CogView4's latents\)"):
        run(COGVIEW4, transition_times=None, delta=0.1)


def test_plans_of_a_known_network_print_counted_flops(monkeypatch):
    """Negative control: one of few blocks is not known, and its plan counts grid points."""
    wan_ride = adapt(WAN.pipe, **WAN.arguments(num_inference_steps=8))
    options = {"scales": (1 / 2, 1), "transition_times": (0.8,)}
    plain = wan_ride.plan(**options)
    assert "by grid points" in str(plain)
    tiny = sum(p.numel() for p in WAN.pipe.transformer.parameters())
    known = {**PRETRAINED, "wan": replace(PRETRAINED["wan"], parameters=tiny)}
    monkeypatch.setattr(pretrained, "PRETRAINED", known)
    plan = wan_ride.plan(**options)
    assert f"by counted FLOPs of {known['wan'].label}: {plan.speedup():.2f}x" in " ".join(str(plan).split())
    frames = wan_ride.shape[2]
    assert 1 < frames != known["wan"].frames
    assert plan.costs == tuple(
        known["wan"].flops((frames, *g)) / known["wan"].flops((frames, *plan.shape)) for g in plan.shapes
    )
    own = wan_ride.plan(**options, cost=lambda grid: 7.0)  # as whoever asks wants it
    assert own.costs == (7.0, 7.0)


def test_a_spectrum_of_ones_own_autoencoder_is_not_called_borrowed():
    """Negative control: CogView4's preset in the hands of the family it was measured for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*borrowed")
        run(SD3, transition_times=None, delta=0.1)


OWN = {
    "flux": "AutoencoderKL",
    "z-image": "AutoencoderKL",
    "flux2": "AutoencoderKLFlux2",
    "sd3": "AutoencoderKL",
    "sd": "AutoencoderKL",
    "sdxl": "AutoencoderKL",
    "sana": "AutoencoderDC",
    "wan": "AutoencoderKLWan",
}
"""Class of the autoencoder a measured preset is of."""


def test_a_preset_of_another_kind_of_autoencoder_is_called_borrowed():
    seen = set()
    for family in FAMILIES:
        layout = LAYOUTS[type(family.pipe).__name__]
        vae = getattr(family.pipe, "vae", None)
        kind = type(vae).__name__
        if vae is not None and kind != OWN.get(layout.preset):  # modular pipelines may come without one
            assert layout.spectrum.kind == "borrowed", f"{family}: {layout.preset} for latents of {kind}"
            seen.add(layout.preset)
        if layout.borrowed:
            assert layout.spectrum.source.endswith(f"not measured on {layout.borrowed}")
            assert layout.spectrum.t_star_interval((64, 64), (128, 128), delta=0.01) is None
    assert {"flux", "wan"} <= seen  # HunyuanImage, LTX-Video and others: the test has something to say


# Feature caches


def _pyramid(pipe):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("transformer_blocks", "blocks"),
        current_timestep_callback=lambda: getattr(pipe, "current_timestep", 500),  # SD3 has none
    )


def _faster(pipe):
    return FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 681),
        spatial_attention_block_identifiers=("transformer_blocks", "blocks"),
        attention_weight_callback=lambda module: 0.5,
        current_timestep_callback=lambda: pipe.current_timestep,
        is_guidance_distilled=True,  # attention only; its other half wants guidance in one batch, which none of these has
    )


CACHES = {
    "first block": lambda pipe: FirstBlockCacheConfig(threshold=0.5),
    "pyramid": _pyramid,
    "faster": _faster,
    "Taylor": lambda pipe: TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1),
    "sea": lambda pipe: diffusers.hooks.SeaCacheConfig(threshold=10.0, retention_steps=1),
}

# The caches that the stock pipelines work with themselves; each must skip work.
CACHED = [
    (FLUX, "first block"),
    (FLUX, "pyramid"),
    (FLUX, "Taylor"),
    (FLUX, "faster"),
    (WAN, "first block"),
    (WAN, "pyramid"),
    (WAN, "faster"),
    (WAN, "sea"),
    (QWEN, "first block"),
    (FLUX2, "pyramid"),
    (SD3, "pyramid"),
]


def _with_cache(family: Family, name: str):
    pipe = fresh(family)
    if family is SD3:  # no enable_cache() in this network, only the hooks
        diffusers.hooks.apply_pyramid_attention_broadcast(pipe.transformer, _pyramid(pipe))
    else:
        pipe.transformer.enable_cache(CACHES[name](pipe))
    return pipe


@pytest.mark.parametrize(("family", "name"), CACHED, ids=lambda value: str(value))
def test_a_feature_cache_works_across_a_transition(family, name):
    """The cache holds features of the coarse grid; it is emptied at the transition and used on both sides of it."""
    if name == "sea" and not hasattr(diffusers.hooks, "SeaCacheConfig"):
        pytest.skip("this diffusers has no SeaCache")
    pipe = _with_cache(family, name)
    cached = run(family, pipe)
    plain = run(family)
    assert cached.shape == plain.shape
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, plain)  # it did skip work
    assert torch.equal(cached, run(family, pipe))  # and starts empty every time
    # At one scale it is the stock pipeline with the cache.
    assert torch.equal(run(family, pipe, scales=(1,), transition_times=()), stock(family, pipe))


def test_without_the_reset_the_cache_breaks(monkeypatch):
    """Negative control: a cache that is not emptied meets tensors of another size."""
    pipe = _with_cache(FLUX, "first block")
    monkeypatch.setattr("spectral_pd.adapters.rider._Seated._empty_caches", lambda self: None)
    with pytest.raises(RuntimeError, match="size"):
        run(FLUX, pipe)


@pytest.mark.skipif(not hasattr(diffusers.hooks, "MagCacheConfig"), reason="this diffusers has no MagCache")
def test_a_cache_that_counts_steps_is_refused():
    pipe = fresh(WAN)
    pipe.transformer.enable_cache(
        diffusers.hooks.MagCacheConfig(threshold=1.0, num_inference_steps=8, mag_ratios=[1.0] * 8, retention_ratio=0.1)
    )
    with pytest.raises(ValueError, match="MagCache"):
        run(WAN, pipe)
    expected = stock(WAN, pipe)
    assert torch.equal(run(WAN, pipe, scales=(1,), transition_times=()), expected)
    assert not torch.equal(expected, run(WAN, scales=(1,), transition_times=()))  # it did skip work


@pytest.mark.skipif(not hasattr(diffusers.hooks, "MagCacheConfig"), reason="this diffusers has no MagCache")
def test_a_refused_cache_is_found_by_its_hooks():
    """Also where it was put on with apply_...(), which leaves no configuration behind."""
    pipe = fresh(FLUX)
    config = diffusers.hooks.MagCacheConfig(num_inference_steps=8, mag_ratios=[1.0] * 8)
    diffusers.hooks.apply_mag_cache(pipe.transformer, config)
    with pytest.raises(ValueError, match="MagCache"):
        run(FLUX, pipe)


def test_a_cache_that_would_answer_before_it_has_seen_anything_is_refused(monkeypatch):
    pipe = _with_cache(FLUX, "faster")
    with pytest.raises(ValueError, match=r"timesteps in \(-1, 681\), and a stage begins at 6"):
        run(FLUX, pipe, transition_times=(0.65,))
    # Negative control: what the refusal prevents.
    monkeypatch.setattr("spectral_pd.adapters.rider.check_caches", lambda networks, plan: None)
    with pytest.raises(TypeError, match="NoneType"):
        run(FLUX, pipe, transition_times=(0.65,))


# LoRA, offload, compilation


def test_lora_changes_the_result_and_survives_the_transition():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    pipe = fresh(FLUX)
    plain = run(FLUX, pipe)
    lora = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe.transformer.add_adapter(lora)
    adapted = run(FLUX, pipe)
    assert (adapted - plain).abs().max() > 1e-4
    assert torch.equal(run(FLUX, pipe, scales=(1,), transition_times=()), stock(FLUX, pipe))
    weaker = {"joint_attention_kwargs": {"scale": 0.3}}
    scaled = run(FLUX, pipe, scales=(1,), transition_times=(), **weaker)
    assert torch.equal(scaled, stock(FLUX, pipe, **weaker))
    assert (scaled - run(FLUX, pipe, scales=(1,), transition_times=())).abs().max() > 1e-4
    pipe.transformer.disable_adapters()
    torch.testing.assert_close(run(FLUX, pipe), plain)


@pytest.mark.parametrize("family", [FLUX, WAN, Z_IMAGE], ids=str)
def test_offloaded_weights_are_fetched_at_every_stage(family):
    """Sequential offload: accelerate's hook keeps the weights off the device and brings them in for each forward."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    plain = run(family)
    pipe = fresh(family)
    for module in (pipe.transformer, pipe.vae):
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    assert next(pipe.transformer.parameters()).device.type == "meta"
    torch.testing.assert_close(run(family, pipe), plain)
    assert next(pipe.transformer.parameters()).device.type == "meta"


@pytest.mark.parametrize("family", [FLUX, WAN, Z_IMAGE], ids=str)
def test_an_offloaded_model_is_fetched_for_the_whole_run(family):
    """Model offload: the network comes in with its first forward and leaves when the pipeline has finished, as in the stock
    call."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    plain = run(family)
    pipe = fresh(family)
    pipe.transformer, hook = accelerate.cpu_offload_with_hook(pipe.transformer, execution_device=torch.device("cpu"))
    events = []
    fetch = hook.hook.pre_forward
    hook.hook.pre_forward = lambda *args, **kwargs: (events.append("fetch"), fetch(*args, **kwargs))[1]
    pipe.maybe_free_model_hooks = lambda: (events.append("free"), hook.offload())
    torch.testing.assert_close(run(family, pipe), plain)
    assert events.count("free") == 1
    assert events[-1] == "free"
    assert "fetch" in events


def test_group_offload_brings_the_layers_in_at_every_stage():
    """diffusers' own offload, layer by layer; emptying caches at a transition leaves its hooks alone."""
    plain = run(FLUX)
    pipe = fresh(FLUX)
    cpu = torch.device("cpu")
    try:
        pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    except AttributeError as error:
        # diffusers 0.36 and 0.37 ask torch.accelerator, which is None here, for its type.
        if torch.accelerator.is_available() or "'NoneType' object has no attribute 'type'" not in str(error):
            raise
        pytest.skip("this diffusers offloads groups only where there is an accelerator")
    for _ in range(2):
        torch.testing.assert_close(run(FLUX, pipe), plain)


@pytest.mark.parametrize(
    ("family", "by_block"), [(FLUX, False), (FLUX, True), (WAN, True), (Z_IMAGE, True)], ids=lambda value: str(value)
)
def test_a_compiled_transformer_has_one_graph_a_size(family, by_block):
    """The whole network, or block by block as full-size models are compiled; a graph that breaks is an error."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    options = {"guided": False, "scales": (1 / 2, 1), "transition_times": (0.8,), "num_inference_steps": 4}
    arguments = family.arguments(**options)
    plain = getattr(progressive(family.pipe, generator=generator(), **arguments), family.output)
    pipe = fresh(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if by_block:
            pipe.transformer.compile_repeated_blocks(backend=backend, fullgraph=True, dynamic=False)
        else:
            pipe.transformer.compile(backend=backend, dynamic=False)
        compiled = getattr(progressive(pipe, generator=generator(), **arguments), family.output)
        made = len(graphs)
        progressive(pipe, generator=generator(), **arguments)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-5)
    assert made >= 2
    assert len(graphs) == made  # a second call compiles nothing
    torch._dynamo.reset()


def ip_weights(network: torch.nn.Module, width: int, image_width: int) -> dict:
    """Random weights of an IP-adapter: keys and values of every cross attention, and a picture's projection."""
    weights, flux = {}, isinstance(network, diffusers.FluxTransformer2DModel)
    names = [name for name in network.attn_processors if "attn1" not in name and not name.startswith("single")]
    for i, name in enumerate(names):
        features = network.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for part in ("k", "v"):
            linear = torch.nn.Linear(width, features, bias=flux)
            weights |= {f"{i if flux else 2 * i + 1}.to_{part}_ip.{n}": p for n, p in linear.state_dict().items()}
    projection = diffusers.models.embeddings.ImageProjection(image_width, width, num_image_text_embeds=4)
    projected = {name.replace("image_embeds", "proj"): p for name, p in projection.state_dict().items()}
    return {"image_proj": projected, "ip_adapter": weights}


@pytest.mark.parametrize(("family", "name", "image_width"), [(FLUX, "transformer", 20), (SDXL, "unet", 24)], ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_an_ip_adapter_works_as_in_the_stock_call(family, name, image_width, guided):
    pipe = fresh(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(pipe, name)._load_ip_adapter_weights([ip_weights(getattr(pipe, name), 24, image_width)])
    pipe.set_ip_adapter_scale(1.0)
    embeds = {"ip_adapter_image_embeds": [embeddings(1, 1, image_width, seed=5)]}
    if family is FLUX:
        embeds["negative_ip_adapter_image_embeds"] = [embeddings(1, 1, image_width, seed=6)]
    elif guided:
        embeds["ip_adapter_image_embeds"] = [embeddings(2, 1, image_width, seed=5)]
    call = {"guided": guided, **embeds}
    one = run(family, pipe, scales=(1,), transition_times=(), **call)
    torch.testing.assert_close(one, stock(family, pipe, **call), rtol=0, atol=0 if family is FLUX else 1e-4)
    several = run(family, pipe, **call)
    assert torch.isfinite(several).all()
    assert (several - run(family, guided=guided)).abs().max() > 1e-2  # the picture counts, on both grids


@pytest.mark.parametrize("family", [FLUX_MODULAR, FLUX3], ids=str)
def test_a_block_rides_inside_a_users_own_blocks(family):
    pipe = family.pipe
    blocks = pipe.blocks
    options = {"scales": (1 / 2, 1), "transition_times": (0.8,)}
    blocks.sub_blocks["denoise"] = progressive_block(blocks.sub_blocks["denoise"], **options)
    mine = type(pipe)(blocks=blocks)
    mine.update_components(**{key: value for key, value in pipe.components.items() if value is not None})
    call = family.arguments(height=96, width=160)
    found = mine(generator=generator(), **call)
    assert torch.equal(found, progressive(pipe, generator=generator(), **call, **options))
    assert (found - pipe(generator=generator(), **call)).abs().max() > 1e-2  # negative control: the block alone differs
    assert mine.scheduler is pipe.scheduler


def test_minimax_h3_has_a_local_clock_for_its_picture_and_the_full_one_for_its_sound():
    """One call, two clocks: each row of the sequence is told its own time."""
    pipe, seen = MINIMAX_H3.pipe, {}

    def look(name):
        def before(module, args, kwargs):
            rows = {
                key: kwargs["timestep"][kwargs["timestep_indices"][kwargs[f"{key}_indices"]]]
                for key in ("video", "audio")
            }
            seen.setdefault(name, []).append({key: set(times.tolist()) for key, times in rows.items()})
            size = kwargs["position_ids"][kwargs["video_indices"]][:, 1:]
            assert len(size) == 37 * len(size.unique(dim=0))

        return pipe.transformer.register_forward_pre_hook(before, with_kwargs=True)

    call = MINIMAX_H3.arguments(height=96, width=160)
    handle = look("stock")
    pipe(generator=generator(), **call)
    handle.remove()
    ride = adapt(pipe, generator=generator(), **call)
    plan = ride.plan(scales=(1 / 2, 1), transition_times=(0.8,))
    handle = look("ride")
    ride.run(plan)
    handle.remove()
    local = [1 - t for stage in plan.stages for t in stage.local_times[:-1]]
    assert [time for step in seen["ride"] for time in step["video"]] == pytest.approx(local, abs=1e-6)
    assert [step["audio"] for step in seen["ride"]] == [step["audio"] for step in seen["stock"]]
    assert len(plan.stages) == 2
    assert seen["ride"] != seen["stock"]  # the picture's clock is another on the coarse grid
    with pytest.raises(ValueError, match="keyframes are rows beside the latents'"):
        own_rows(torch.tensor([6, 7, 40, 41]), None)


# Variants


def test_wan_two_experts_switch_at_the_boundary_of_their_own_noise():
    pipe = wan(experts=True)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 8, "guidance_scale_2": 2.0}
    assert torch.equal(run(WAN, pipe, scales=(1,), transition_times=(), **call), stock(WAN, pipe, **call))
    calls = []
    for expert, network in (("high", pipe.transformer), ("low", pipe.transformer_2)):
        network.register_forward_pre_hook(
            lambda m, a, k, expert=expert: calls.append((expert, float(k["timestep"][0]))), with_kwargs=True
        )
    run(WAN, pipe, **call)
    assert all((expert == "high") == (t >= 700) for expert, t in calls)
    assert {expert for expert, _ in calls} == {"high", "low"}


def test_experts_in_turns_are_warned_of_with_a_transition_that_avoids_it():
    """WAN 2.2 at shift 12 and 40 steps: a coarse stage crosses the boundary, and the next one begins above it again."""
    pipe = wan(experts=True)
    pipe.register_to_config(boundary_ratio=0.875)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler)(shift=12.0)
    ride = adapt(pipe, **WAN.arguments(num_inference_steps=40))
    plan = ride.plan(scales=(1 / 2, 1), transition_times=(0.92,))
    (text,) = [text for text in plan.warnings if "expert" in text]
    assert "19 high then 2 low then 4 high then 15 low" in text
    (better,) = re.findall(r"transition_times=(\(.*?\))", text)
    again = ride.plan(scales=(1 / 2, 1), transition_times=eval(better))
    assert not [text for text in again.warnings if "expert" in text]
    assert again.split[0] >= 1
    assert not [text for text in ride.plan(scales=(1,)).warnings if "expert" in text]


@pytest.mark.parametrize("family", [FLUX, Z_IMAGE, WAN_5B], ids=str)
def test_half_precision_keeps_the_state_in_float32(family):
    def halved(value):
        if isinstance(value, list):
            return [halved(item) for item in value]
        return value.to(torch.bfloat16) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    pipe = fresh(family).to(torch.bfloat16)
    arguments = {name: halved(value) for name, value in family.arguments().items()}
    states = []

    def euler(velocity, x, t, t_next, history=None):
        states.append(x.dtype)
        return x + (t_next - t) * velocity(x, t), None

    def result(call, **options):
        return getattr(call(pipe, generator=generator(), **arguments, **options), family.output)

    expected = result(type(pipe).__call__)
    one = result(progressive, scales=(1,))
    several = result(progressive, solver=euler, transition_times=(0.9,))
    assert several.dtype == one.dtype == expected.dtype
    assert set(states) == {torch.float32}
    assert torch.isfinite(several).all()
    # The stock loops (Z-Image's and WAN's apart) round their state to bfloat16 at every step, ours once at the end.
    assert float((one - expected).float().norm() / expected.float().norm()) < 0.02


MULTISTEP = {
    "Heun": lambda flow_shift, **rest: diffusers.FlowMatchHeunDiscreteScheduler(shift=flow_shift),
    "UniPC": diffusers.UniPCMultistepScheduler,
    "DPM++ 2M": diffusers.DPMSolverMultistepScheduler,
}


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("steps", [3, 8])
def test_multistep_schedulers_are_repeated_by_a_solver(name, steps):
    """WAN checkpoints come with UniPC: its grid, its whole timesteps and its steps, and the same picture at one scale."""
    pipe = fresh(WAN)
    pipe.scheduler = MULTISTEP[name](prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    arguments = WAN.arguments(num_inference_steps=steps)
    expected = pipe(generator=generator(), **arguments).frames
    torch.testing.assert_close(
        progressive(pipe, generator=generator(), scales=(1,), **arguments).frames, expected, rtol=0, atol=1e-5
    )
    # Negative control: Euler on the same grid is another picture.
    assert (
        progressive(pipe, generator=generator(), scales=(1,), solver="euler", **arguments).frames - expected
    ).std() > 1e-3
    result = progressive(pipe, generator=generator(), transition_times=(0.9,), **arguments).frames
    assert torch.isfinite(result).all()


DYNAMIC = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        (FLUX, "UniPC", DYNAMIC),
        (FLUX, "DPM++ 2M", DYNAMIC),
        (FLUX2, "DPM++ 2M", DYNAMIC),
        (SD3, "UniPC", {"flow_shift": 3.0}),
        (QWEN, "UniPC", {"flow_shift": 3.0}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_image_pipelines_with_multistep_schedulers(family, name, options):
    """The shift is dynamic or static as configured, and the pipeline's scheduler and its configuration are left alone."""
    pipe = fresh(family)
    pipe.scheduler = MULTISTEP[name](prediction_type="flow_prediction", use_flow_sigmas=True, **options)
    if family is QWEN and "sigmas" not in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        pytest.skip("this diffusers' UniPC takes no sigmas")
    configured = dict(pipe.scheduler.config)
    arguments = family.arguments(guided=False)
    one = getattr(progressive(pipe, generator=generator(), scales=(1,), **arguments), family.output)
    assert dict(pipe.scheduler.config) == configured
    expected = getattr(pipe(generator=generator(), **arguments), family.output)
    torch.testing.assert_close(one, expected, rtol=0, atol=1e-5)


def test_unipc_is_second_order_and_carries_over_a_transition():
    """On the Gaussian field its error falls with the square of the step, at one scale and with a coarse start."""
    field = GaussianField(lambda k: 100.0 * k**-2.0, (16, 16))
    noise = torch.randn(1, 8, 16, 16, generator=generator(), dtype=torch.float64)
    low_exact = restrict_noise(field.solve(noise), (8, 8))
    for scales in ((1,), (1 / 2, 1)):
        errors = {}
        for solver in (unipc, "euler"):
            for steps in (20, 80):
                plan = plan_at(shift_times(steps), (0.6,) * (len(scales) - 1), (16, 16), scales=scales)
                low = restrict_noise(sample(field.velocity, noise, plan, solver=solver), (8, 8))
                errors[solver, steps] = float((low - low_exact).norm() / low_exact.norm())
        assert errors[unipc, 20] < 0.6 * errors["euler", 20]
        assert errors[unipc, 80] < errors[unipc, 20] / 16
        assert errors["euler", 80] > errors["euler", 20] / 8


# Refusals


class _Named:
    def __call__(self, prompt=None):
        raise AssertionError("never called")


def named(name: str, module: str = "diffusers.pipelines"):
    return type(name, (_Named,), {"__module__": module})()


@pytest.mark.skipif(VERSION < (0, 42), reason="the list is that of diffusers 0.42")
def test_every_pipeline_of_diffusers_is_ridden_or_refused_with_what_stands_in_the_way():
    names = [name for name in dir(diffusers) if re.search("Pipeline($|Stable)", name)]
    assert len(names) > 250
    assert set(LAYOUTS) <= set(names)
    used = set()
    for name in sorted(set(names) - set(LAYOUTS)):
        module = getattr(diffusers, name).__module__
        with pytest.raises(ValueError, match=f"pipeline {name} cannot be ridden: ") as error:
            find_layout(named(name, module))
        reason = str(error.value).split(" cannot be ridden: ")[1]
        entries = [i for i, (_, text) in enumerate(REFUSED) if text == reason]
        used.update(entries)
        # What no entry speaks of has left diffusers, or is the base of all pipelines.
        assert entries or ".deprecated." in module or name in ("DiffusionPipeline", "ModularPipeline")
        assert any(word in reason for word in (";", "by itself", "ride the", "nothing has"))  # something to follow
        assert "not been tried" not in reason
        for named_in in re.findall(r"\w+Pipeline\b", reason.split(";")[-1]):
            assert named_in in LAYOUTS  # and it can be followed
    assert used == set(range(len(REFUSED)))  # no reason that fits nothing


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("HeliosModularPipeline", "coarse to fine by itself"),
        ("FluxPriorReduxPipeline", "no frequencies"),
        ("HunyuanVideoFramepackPipeline", "one stretch of the video after another"),
        ("LatentConsistencyModelPipeline", "fresh noise"),
        ("StableVideoDiffusionPipeline", "path='edm'"),
        ("StableAudioPipeline", "along time alone"),
        ("BriaFiboPipeline", "layout="),
    ],
)
def test_a_refusal_says_why(name, needed):
    with pytest.raises(ValueError, match=needed) as error:
        progressive(named(name), prompt="a cat")
    assert name in str(error.value)


def test_a_pipeline_of_ones_own_is_asked_for_its_layout():
    with pytest.raises(ValueError, match="not one of diffusers that is known here; write its layout"):
        progressive(named("MinePipeline", "mine"))


def test_a_subclass_is_taken_unless_it_has_its_own_call():
    class Renamed(diffusers.FluxPipeline):
        pass

    class Changed(diffusers.FluxPipeline):
        def __call__(self, prompt=None):
            raise AssertionError

    assert find_layout(Renamed.__new__(Renamed)) is LAYOUTS["FluxPipeline"]
    with pytest.raises(ValueError, match="Changed"):
        find_layout(Changed.__new__(Changed))


@pytest.mark.parametrize(
    ("family", "changes", "error", "match"),
    [
        (FLUX, {"heigth": 512}, TypeError, "heigth"),
        (FLUX, {"callback_on_step_end_tensor_inputs": ["nothing"]}, ValueError, "nothing"),
        (Z_IMAGE, {"height": 120}, ValueError, "divisible by 16"),
        (FLUX, {"generator": [generator()] * 3}, ValueError, "batch size of 1"),
        (FLUX, {"delta": 2.0}, ValueError, "delta"),
        (FLUX, {"scales": (1 / 2,)}, ValueError, "scales"),
        (FLUX, {"num_inference_steps": 1}, ValueError, "never reached"),
        (FLUX, {"solver": "rk4"}, ValueError, "rk4"),
        (FLUX_CN, {"scales": (1 / 2, 0.6, 1), "height": 32, "width": 32}, ValueError, "stages"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_runs(family, changes, error, match):
    calls = []
    handle = family.pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    with pytest.raises(error, match=match):
        progressive(family.pipe, **{**family.arguments(), **changes})
    handle.remove()
    assert not calls


def test_pictures_start_on_the_full_clock_only():
    from tiny_pipelines import FLUX_I2I

    with pytest.raises(ValueError, match="use clock='full'"):
        run(FLUX_I2I, clock="stage")


def test_unsuitable_schedulers_are_refused():
    pipe = fresh(FLUX)
    for scheduler, match in (
        (diffusers.DDIMScheduler(), "no plain flow-matching"),
        (
            diffusers.DPMSolverMultistepScheduler(
                algorithm_type="sde-dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True
            ),
            "adds noise",
        ),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
    ):
        pipe.scheduler = scheduler
        with pytest.raises(ValueError, match=match):
            progressive(pipe, **FLUX.arguments())


PARALLEL = """
import sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
torch.accelerator.device_count = lambda: 1  # diffusers asks for the accelerators; here two processes share a CPU
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
from diffusers import ContextParallelConfig
from tiny_pipelines import FLUX, generator
from spectral_pd.adapters import progressive
call = FLUX.arguments(guided=False, num_inference_steps=4)
alone = progressive(FLUX.pipe, transition_times=(0.8,), generator=generator(), **call).images
FLUX.pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
shared = progressive(FLUX.pipe, transition_times=(0.8,), generator=generator(), **call).images
torch.testing.assert_close(shared, alone, rtol=0, atol=1e-5)
dist.destroy_process_group()
"""


@pytest.mark.skipif(not hasattr(diffusers, "ContextParallelConfig"), reason="this diffusers has no context parallelism")
def test_two_processes_share_the_tokens_of_every_stage(tmp_path):
    """Context parallelism of diffusers: its hooks split what the ride hands to the network, at every size."""
    program = PARALLEL.format(tests=str(Path(__file__).parent))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "rendezvous"), str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
