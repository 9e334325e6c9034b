"""Callbacks, feature caches, LoRA, offload hooks, compilation, and what is refused and why."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import diffusers
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.callbacks import SD3CFGCutoffCallback
from tiny_pipelines import FAMILIES, FLUX, FLUX2, QWEN, SD3, WAN, Z_IMAGE, Family, generator, wan

from spectral_pd import GaussianField, make_plan, restrict_noise, sample, shift_times
from spectral_pd.adapters import ADAPTERS, SpectralScheduler, adapt, find_adapter, progressive
from spectral_pd.adapters.unipc import unipc

families = pytest.mark.parametrize("family", FAMILIES, ids=str)


def run(family: Family, pipe=None, **changes):
    options = {"scales": (1 / 2, 1), "transition_times": (0.8,), "num_inference_steps": 8, **changes}
    result = progressive(pipe or family.pipe, generator=generator(), **family.arguments(**options))
    return getattr(result, family.output)


def fresh(family: Family):
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Callbacks and the stage hook


def test_the_stage_hook_is_called_before_every_size():
    """In a subclass of one's own it empties whatever depends on the size: called first, once a stage, with its grid."""
    events = []

    class Hooked(find_adapter(WAN.pipe)):
        def begin_stage(self, grid):
            super().begin_stage(grid)
            events.append(grid)

        def velocity(self, x, t):
            events.append("velocity")
            return super().velocity(x, t)

    run(WAN, adapter=Hooked, scales=(1 / 4, 1 / 2, 1), transition_times=(0.95, 0.8))
    stages = [event for event in events if event != "velocity"]
    assert stages == [(4, 4), (8, 8), (16, 16)]
    assert [events[events.index(grid) + 1] for grid in stages] == ["velocity"] * 3
    assert events[0] == (4, 4)


@families
def test_callback_sees_every_step_with_stage_and_shape(family):
    seen = []

    def callback(pipe, step, timestep, tensors):
        assert pipe is family.pipe
        seen.append((step, float(timestep), tensors["stage"], tensors["shape"], tuple(tensors["latents"].shape)))
        return tensors

    run(family, callback_on_step_end=callback)
    adapter = adapt(family.pipe, **family.arguments(num_inference_steps=8))
    plan = adapter.plan(transition_times=(0.8,))
    assert [s[0] for s in seen] == list(range(plan.nfe))
    assert family.pipe.num_timesteps == plan.nfe  # diffusers' callbacks find their cut-off step from it
    assert [s[1] for s in seen] == pytest.approx([1000 * t for t in plan.times[:-1]], rel=1e-6)
    assert [s[2] for s in seen] == [0] * plan.split[0] + [1] * plan.split[1]
    for _, _, stage, shape, latents in seen:
        assert shape == latents == (*adapter.leading, *plan.shapes[stage])


def test_callback_is_numbered_as_the_stock_one():
    calls = {"stock": [], "ours": []}

    def record(name):
        def callback(pipe, step, timestep, tensors):
            calls[name].append((step, float(timestep)))
            return tensors

        return callback

    arguments = FLUX.arguments()
    FLUX.pipe(generator=generator(), callback_on_step_end=record("stock"), **arguments)
    progressive(FLUX.pipe, generator=generator(), callback_on_step_end=record("ours"), scales=(1,), **arguments)
    assert [step for step, _ in calls["ours"]] == [step for step, _ in calls["stock"]]
    assert [time for _, time in calls["ours"]] == pytest.approx([time for _, time in calls["stock"]])


def test_callback_may_replace_the_latents():
    def callback(pipe, step, timestep, tensors):
        tensors["latents"] = tensors["latents"] * (0.5 if step == 2 else 1)
        return tensors

    assert not torch.allclose(run(FLUX, callback_on_step_end=callback), run(FLUX))


@families
def test_interrupt_stops_calling_the_model(family):
    """As in the stock loop, the state is left as it is; the result still has the full size."""
    calls = []

    def callback(pipe, step, timestep, tensors):
        if step == 1:
            pipe._interrupt = True
        return tensors

    pipe = fresh(family)
    handle = pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    full = run(family, pipe).shape
    everything = len(calls)
    calls.clear()
    assert run(family, pipe, callback_on_step_end=callback).shape == full
    steps = adapt(pipe, **family.arguments(num_inference_steps=8)).plan(scales=(1,)).nfe
    assert len(calls) == 2 * everything // steps
    handle.remove()


def test_progress_bar_counts_the_steps(capsys):
    pipe = fresh(FLUX)
    pipe.set_progress_bar_config(disable=False)
    run(FLUX, pipe)
    assert "8/8" in capsys.readouterr().err


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
    arguments = family.arguments(num_inference_steps=8)
    stock = getattr(pipe(generator=generator(), **arguments), family.output)
    torch.testing.assert_close(run(family, pipe, scales=(1,), transition_times=()), stock, rtol=0, atol=1e-5)


def test_without_the_reset_the_cache_breaks():
    """Negative control: a cache that is not emptied meets tensors of another size."""
    pipe = _with_cache(FLUX, "first block")
    adapter = adapt(pipe, generator=generator(), **FLUX.arguments(num_inference_steps=8))
    adapter.transformers = list
    with pytest.raises(RuntimeError, match="size"):
        adapter.run(adapter.plan(transition_times=(0.8,)))


@pytest.mark.skipif(not hasattr(diffusers.hooks, "MagCacheConfig"), reason="this diffusers has no MagCache")
def test_a_cache_that_counts_steps_is_refused():
    pipe = fresh(WAN)
    pipe.transformer.enable_cache(
        diffusers.hooks.MagCacheConfig(threshold=1.0, num_inference_steps=8, mag_ratios=[1.0] * 8, retention_ratio=0.1)
    )
    with pytest.raises(ValueError, match="MagCache"):
        run(WAN, pipe)
    adapter = adapt(pipe, generator=generator(), **WAN.arguments(num_inference_steps=8))
    with pytest.raises(ValueError, match="MagCache"):
        SpectralScheduler(adapter, adapter.plan(transition_times=(0.8,)))
    stock = pipe(generator=generator(), **WAN.arguments(num_inference_steps=8)).frames
    torch.testing.assert_close(run(WAN, pipe, scales=(1,), transition_times=()), stock, rtol=0, atol=1e-5)
    assert not torch.equal(stock, run(WAN, scales=(1,), transition_times=()))  # it did skip work


@pytest.mark.skipif(not hasattr(diffusers.hooks, "MagCacheConfig"), reason="this diffusers has no MagCache")
def test_a_refused_cache_is_found_by_its_hooks():
    """Also where it was put on with apply_...(), which leaves no configuration behind."""
    pipe = fresh(FLUX)
    config = diffusers.hooks.MagCacheConfig(num_inference_steps=8, mag_ratios=[1.0] * 8)
    diffusers.hooks.apply_mag_cache(pipe.transformer, config)
    with pytest.raises(ValueError, match="MagCache"):
        run(FLUX, pipe)


def test_a_cache_that_would_answer_before_it_has_seen_anything_is_refused():
    pipe = _with_cache(FLUX, "faster")
    with pytest.raises(ValueError, match=r"timesteps in \(-1, 681\), and a stage begins at 489"):
        run(FLUX, pipe, transition_times=(0.6,))
    # Negative control: what the refusal prevents.
    adapter = adapt(pipe, generator=generator(), **FLUX.arguments(num_inference_steps=8))
    adapter.check_caches = lambda plan: None
    with pytest.raises(TypeError, match="NoneType"):
        adapter.run(adapter.plan(transition_times=(0.6,)))


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
    stock = pipe(generator=generator(), **FLUX.arguments(num_inference_steps=8)).images
    torch.testing.assert_close(run(FLUX, pipe, scales=(1,), transition_times=()), stock, rtol=0, atol=1e-5)
    weaker = {"joint_attention_kwargs": {"scale": 0.3}}
    stock = pipe(generator=generator(), **FLUX.arguments(num_inference_steps=8, **weaker)).images
    scaled = run(FLUX, pipe, scales=(1,), transition_times=(), **weaker)
    torch.testing.assert_close(scaled, stock, rtol=0, atol=1e-5)
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


# Variants


def test_wan_two_experts_switch_at_the_boundary():
    pipe = wan(experts=True)
    pipe.set_progress_bar_config(disable=True)
    arguments = WAN.arguments(num_inference_steps=8, guidance_scale_2=2.0)
    stock = pipe(generator=generator(), **arguments).frames
    ours = progressive(pipe, generator=generator(), scales=(1,), **arguments).frames
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)
    calls = {"high": [], "low": []}
    pipe.transformer.register_forward_pre_hook(
        lambda m, a, k: calls["high"].append(float(k["timestep"][0])), with_kwargs=True
    )
    pipe.transformer_2.register_forward_pre_hook(
        lambda m, a, k: calls["low"].append(float(k["timestep"][0])), with_kwargs=True
    )
    progressive(pipe, generator=generator(), transition_times=(0.8,), **arguments)
    assert min(calls["high"]) >= 700 > max(calls["low"])


@families
def test_half_precision_keeps_the_state_in_float32(family):
    def halved(value):
        if isinstance(value, list):
            return [halved(item) for item in value]
        return value.to(torch.bfloat16) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    pipe = fresh(family).to(torch.bfloat16)
    arguments = {name: halved(value) for name, value in family.arguments().items()}
    dtypes = []

    def callback(pipe, step, timestep, tensors):
        dtypes.append(tensors["latents"].dtype)
        return tensors

    def result(call, **options):
        return getattr(call(pipe, generator=generator(), **arguments, **options), family.output)

    stock = result(type(pipe).__call__)
    one = result(progressive, scales=(1,))
    several = result(progressive, callback_on_step_end=callback)
    assert several.dtype == one.dtype == stock.dtype
    assert set(dtypes) == {torch.float32}
    # The stock loops (Z-Image's apart) round their state to bfloat16 at every step, ours once at the end.
    assert float((one - stock).float().norm() / stock.float().norm()) < 0.02


MULTISTEP = {
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
    stock = pipe(generator=generator(), **arguments).frames
    torch.testing.assert_close(
        progressive(pipe, generator=generator(), scales=(1,), **arguments).frames, stock, rtol=0, atol=1e-5
    )
    # Negative control: Euler on the same grid is another picture.
    assert (
        progressive(pipe, generator=generator(), scales=(1,), solver="euler", **arguments).frames - stock
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
    stock = getattr(pipe(generator=generator(), **arguments), family.output)
    torch.testing.assert_close(one, stock, rtol=0, atol=1e-5)


def test_a_scheduler_that_takes_no_sigmas_is_refused_with_a_way_out():
    pipe = fresh(Z_IMAGE)
    pipe.scheduler = MULTISTEP["DPM++ 2M"](prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        progressive(pipe, **Z_IMAGE.arguments(sigmas=[1.0, 0.5]))


def test_unipc_is_second_order_and_carries_over_a_transition():
    """On the Gaussian field its error falls with the square of the step, at one scale and with a coarse start."""
    field = GaussianField(lambda k: 100.0 * k**-2.0, (16, 16))
    noise = torch.randn(1, 8, 16, 16, generator=generator(), dtype=torch.float64)
    low_exact = restrict_noise(field.solve(noise), (8, 8))
    for scales in ((1,), (1 / 2, 1)):
        errors = {}
        for solver in (unipc, "euler"):
            for steps in (20, 80):
                plan = make_plan(
                    shift_times(steps), None, (16, 16), scales=scales, transition_times=(0.6,) * (len(scales) - 1)
                )
                low = restrict_noise(sample(field.velocity, noise, plan, solver=solver), (8, 8))
                errors[solver, steps] = float((low - low_exact).norm() / low_exact.norm())
        assert errors[unipc, 20] < 0.6 * errors["euler", 20]
        assert errors[unipc, 80] < errors[unipc, 20] / 16
        assert errors["euler", 80] > errors["euler", 20] / 8


# Refusals


class _Named:
    def __call__(self, prompt=None):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("FluxImg2ImgPipeline", "image latents would have to be restricted"),
        ("FluxControlNetPipeline", "control image"),
        ("FluxKontextPipeline", "image latents"),
        ("FluxFillPipeline", "image latents"),
        ("QwenImageEditPipeline", "image latents"),
        ("WanImageToVideoPipeline", "conditioning frames"),
        ("WanVACEPipeline", "image latents"),
        ("ZImageInpaintPipeline", "image latents"),
        ("QwenImageLayeredPipeline", "image latents"),
        ("WanAnimatePipeline", "image latents"),
        ("FluxModularPipeline", "plain pipeline"),
        ("StableDiffusion3PAGPipeline", "third pass"),
        ("StableDiffusionXLPipeline", "supported are FluxPipeline"),
    ],
)
def test_unsupported_pipelines_are_refused_by_name(name, needed):
    pipe = type(name, (_Named,), {})()
    with pytest.raises(ValueError, match=needed) as error:
        progressive(pipe, prompt="a cat")
    assert name in str(error.value)


def test_every_pipeline_of_the_families_is_taken_or_refused_with_what_it_would_need():
    """All of the installed diffusers' classes of these model families, by name."""
    names = [
        n for n in dir(diffusers) if n.endswith("Pipeline") and n.startswith(("Flux", "ZImage", "Wan", "QwenImage"))
    ]
    names += [n for n in dir(diffusers) if n.startswith("StableDiffusion3") and n.endswith("Pipeline")]
    assert len(names) > 25
    for name in set(names) - set(ADAPTERS):
        with pytest.raises(ValueError, match=rf"pipeline {name} is not supported(: |; )") as error:
            find_adapter(type(name, (_Named,), {})())
        # Other architectures of their own, without further input: nothing stands in the way but an adapter.
        assert ": " in str(error.value).split(";")[0] or name in {"QwenImage21Pipeline"}
    for cls in (diffusers.FluxImg2ImgPipeline, diffusers.WanImageToVideoPipeline, diffusers.FluxControlPipeline):
        with pytest.raises(ValueError, match=cls.__name__):
            find_adapter(cls.__new__(cls))


def test_a_unet_is_sent_to_the_denoiser_interface():
    pipe = type("StableDiffusionXLPipeline", (_Named,), {"unet": None})()
    with pytest.raises(ValueError, match="sample_spectral"):
        find_adapter(pipe)


def test_a_subclass_is_taken_unless_it_has_its_own_call():
    class Renamed(diffusers.FluxPipeline):
        pass

    class Changed(diffusers.FluxPipeline):
        def __call__(self, prompt=None):
            raise AssertionError

    assert find_adapter(Renamed.__new__(Renamed)).__name__ == "FluxAdapter"
    with pytest.raises(ValueError, match="Changed"):
        find_adapter(Changed.__new__(Changed))


@pytest.mark.parametrize(
    ("family", "changes", "error", "match"),
    [
        (FLUX, {"ip_adapter_image": object()}, ValueError, "ip_adapter_image"),
        (FLUX2, {"image": object()}, ValueError, "reference images"),
        (SD3, {"skip_guidance_layers": [1]}, ValueError, "skip_guidance_layers"),
        (SD3, {"height": 512}, ValueError, "position table"),
        (FLUX, {"heigth": 512}, TypeError, "heigth"),
        (FLUX, {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, ValueError, "only \\['latents'\\]"),
        (SD3, {"callback_on_step_end": SD3CFGCutoffCallback()}, ValueError, "only \\['latents'\\]"),
        (Z_IMAGE, {"height": 120}, ValueError, "multiples of 16"),
        (FLUX, {"generator": [generator()] * 3}, ValueError, "batch of 1"),
        (FLUX, {"delta": 2.0}, ValueError, "delta"),
        (FLUX, {"scales": (1 / 2,)}, ValueError, "scales"),
        (FLUX, {"num_inference_steps": 1}, ValueError, "never reached"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_runs(family, changes, error, match):
    calls = []
    handle = family.pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(error, match=match):
        progressive(family.pipe, **{**family.arguments(), **changes})
    handle.remove()
    assert not calls


def test_unsuitable_schedulers_are_refused():
    pipe = fresh(FLUX)
    for scheduler, match in (
        (diffusers.DDIMScheduler(), "no plain flow-matching"),
        (diffusers.FlowMatchHeunDiscreteScheduler(), "solver='heun'"),
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
