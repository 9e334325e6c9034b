"""Every family through its real pipeline class: the stock result at one scale, and sound results at several."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from tiny_pipelines import FAMILIES, QWEN, SD3, WAN, Z_IMAGE, Family, generator

from spectral_pd.adapters import adapt, progressive

families = pytest.mark.parametrize("family", FAMILIES, ids=str)


def stock(family: Family, seed: int = 0, **arguments):
    return getattr(family.pipe(generator=generator(seed), **arguments), family.output)


def ours(family: Family, seed: int = 0, **arguments):
    return getattr(progressive(family.pipe, generator=generator(seed), **arguments), family.output)


@families
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_one_scale_is_the_stock_pipeline(family: Family, guided: bool):
    arguments = family.arguments(guided=guided, height=96, width=160)
    expected = stock(family, **arguments)
    result = ours(family, scales=(1,), **arguments)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)  # the same operations in the same order
    assert expected.std() > 0.1  # the velocity did something


@families
def test_a_call_without_a_size_has_the_models_own(family: Family):
    arguments = family.arguments(guided=False, num_inference_steps=2)
    del arguments["height"], arguments["width"]
    if family is WAN:
        arguments["num_frames"] = 1
    result = ours(family, scales=(1,), **arguments)
    assert torch.equal(result, stock(family, **arguments))
    assert result.numel() >= 4 * 32 * 32


@families
def test_guidance_changes_the_result(family: Family):
    plain, guided = (ours(family, scales=(1 / 2, 1), **family.arguments(guided=g)) for g in (False, True))
    assert (plain - guided).abs().max() > 1e-3


@families
@pytest.mark.parametrize("scales", [(1 / 2, 1), (1 / 4, 1 / 2, 1), (2 / 3, 1)], ids=["half", "quarter", "two-thirds"])
@pytest.mark.parametrize(
    ("size", "guided"),
    [((128, 128), False), ((144, 208), True), ((208, 144), False)],
    ids=["square", "odd, guided", "tall"],
)
def test_several_scales_give_a_full_size_result(family: Family, scales, size, guided):
    """The odd sizes have 9 x 13 patches; half of that is rounded down to 4 x 6."""
    arguments = family.arguments(height=size[0], width=size[1], guided=guided)
    result = ours(family, scales=scales, **arguments)
    assert result.shape == stock(family, **{**arguments, "num_inference_steps": 2}).shape
    assert torch.isfinite(result).all()
    assert result.std() > 0.1


@families
def test_the_same_seed_gives_the_same_result_and_another_another(family: Family):
    result, again, other = (ours(family, seed=seed, **family.arguments()) for seed in (0, 0, 1))
    assert torch.equal(result, again)
    assert (result - other).abs().max() > 1e-2


@families
@pytest.mark.parametrize("coupling", ["coupled", "fresh"])
def test_an_item_of_a_batch_is_a_batch_of_one(family: Family, coupling):
    both = family.arguments(batch=2)
    batch = getattr(
        progressive(family.pipe, generator=[generator(7), generator(8)], coupling=coupling, **both), family.output
    )
    for i, seed in enumerate((7, 8)):
        one = {name: value[i : i + 1] if "embeds" in name else value for name, value in both.items()}
        alone = getattr(progressive(family.pipe, generator=[generator(seed)], coupling=coupling, **one), family.output)
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-5)


@families
def test_decoded_output_has_the_pipelines_type_and_size(family: Family):
    arguments = family.arguments(guided=False, num_inference_steps=3, transition_times=(0.95,))
    kinds = ("np",) if family is WAN else ("pil", "np", "pt")
    for kind in kinds:
        result = ours(family, **{**arguments, "output_type": kind})
        expected = stock(family, **{**family.arguments(guided=False, num_inference_steps=3), "output_type": kind})
        assert type(result) is type(expected)
        if kind == "pil":
            assert result[0].size == expected[0].size == (128, 128)
        else:
            assert result.shape == expected.shape
    as_tuple = progressive(family.pipe, generator=generator(), return_dict=False, **arguments)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 1


@families
def test_decoding_is_the_stock_pipelines(family: Family):
    arguments = {**family.arguments(guided=False, num_inference_steps=2), "output_type": "np"}
    np.testing.assert_allclose(ours(family, scales=(1,), **arguments), stock(family, **arguments), atol=2e-5)


# The stock SD3 pipeline does not repeat embeddings it is given, so it has no answer to compare with here.
@pytest.mark.parametrize("family", [f for f in FAMILIES if f is not SD3], ids=str)
def test_several_results_a_prompt(family: Family):
    name = "num_videos_per_prompt" if family is WAN else "num_images_per_prompt"
    arguments = family.arguments(num_inference_steps=3, **{name: 2})
    expected = stock(family, **arguments)
    torch.testing.assert_close(ours(family, scales=(1,), **arguments), expected, rtol=0, atol=1e-5)
    assert ours(family, transition_times=(0.95,), **arguments).shape == expected.shape


@families
def test_given_latents_are_the_noise(family: Family):
    arguments = family.arguments()
    adapter = adapt(family.pipe, generator=generator(), **arguments)
    noise = adapter.draw_noise()
    given = adapter.to_latents(noise)
    expected = getattr(family.pipe(latents=given, **arguments), family.output)
    result = getattr(progressive(family.pipe, latents=given, scales=(1,), **arguments), family.output)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(expected, stock(family, **arguments), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="latent"):
        progressive(family.pipe, latents=given[..., : given.shape[-1] // 2], **arguments)


def _patches(x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return _patches(x).flatten(2).transpose(1, 2)


@families
def test_the_time_grid_is_the_schedulers_at_full_size(family: Family):
    arguments = family.arguments()
    family.pipe(generator=generator(), **arguments)
    expected = tuple(dict.fromkeys(family.pipe.scheduler.sigmas.tolist()))  # Z-Image's of diffusers 0.36 ends on 0, 0
    family.pipe.scheduler.set_begin_index(3)
    before = family.pipe.scheduler.sigmas
    adapter = adapt(family.pipe, **arguments)
    for scales in ((1,), (1 / 2, 1)):
        assert adapter.plan(scales=scales).times == pytest.approx(expected, abs=1e-7)
    assert family.pipe.scheduler.sigmas is before  # the pipeline's own scheduler is not touched


@families
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_other_solvers_and_the_papers_clock_run(family: Family, solver):
    result = ours(family, solver=solver, clock="stage", **family.arguments(guided=False))
    assert torch.isfinite(result).all()


def test_wan_video_keeps_its_frames():
    result = ours(WAN, **WAN.arguments(num_frames=9))
    assert result.shape == (1, 16, 3, 16, 16)


def test_z_image_norm_cap_and_truncation_are_the_pipelines():
    arguments = Z_IMAGE.arguments(batch=2, cfg_normalization=0.9, cfg_truncation=0.3)
    expected = stock(Z_IMAGE, **arguments)
    torch.testing.assert_close(ours(Z_IMAGE, scales=(1,), **arguments), expected, rtol=0, atol=1e-5)
    without = ours(Z_IMAGE, scales=(1,), **Z_IMAGE.arguments(batch=2))
    assert (without - expected).abs().max() > 1e-3


def test_qwen_rescales_the_guided_norm():
    adapter = adapt(QWEN.pipe, generator=generator(), **QWEN.arguments())
    x = adapter.draw_noise()
    guided = adapter(x, 0.9)
    adapter.negative = None
    plain = adapter(x, 0.9)

    def norms(v):
        return _tokens(v).norm(dim=-1)

    torch.testing.assert_close(norms(guided), norms(plain), rtol=1e-4, atol=1e-5)
    assert (guided - plain).abs().max() > 1e-3
