"""docs/adapters.md: its worked example is a real adapter, and its table says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import diffusers
from tiny_pipelines import embeddings, generator, image_autoencoder, seeded

from spectral_pd.adapters import ADAPTERS, find_adapter, progressive
from spectral_pd.adapters.base import linear_mu
from spectral_pd.adapters.flux2 import empirical_mu

PAGE = (Path(__file__).parent.parent / "docs" / "adapters.md").read_text()


@pytest.fixture(scope="module")
def pipe():
    transformer = seeded(
        lambda: diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=24,
            caption_projection_dim=32,
            pos_embed_max_size=256,
        )
    )
    pipe = diffusers.AuraFlowPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=image_autoencoder(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_example_is_a_working_adapter(pipe):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    scope: dict = {}
    exec(compile(block, "docs/adapters.md", "exec"), scope)
    adapter = scope["AuraFlowAdapter"]
    arguments = {
        "prompt_embeds": embeddings(2, 6, 24, seed=1),
        "prompt_attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "negative_prompt_embeds": embeddings(2, 6, 24, seed=2),
        "negative_prompt_attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "height": 128,
        "width": 160,
        "num_inference_steps": 6,
    }
    for kind in ("latent", "pt"):
        stock = pipe(generator=generator(), output_type=kind, **arguments).images
        for scales in ((1,), (1 / 2, 1)):
            ours = progressive(
                pipe,
                generator=generator(),
                output_type=kind,
                adapter=adapter,
                scales=scales,
                unreached="force",
                **arguments,
            ).images
            assert ours.shape == stock.shape
            assert torch.isfinite(ours).all()
            if scales == (1,):
                torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="AuraFlowPipeline is not supported"):
        find_adapter(pipe)


def test_the_table_names_every_pipeline_with_its_kind_of_spectrum():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name in ADAPTERS:
        (row,) = [line for line in rows if f"`{name}`" in line]
        cls = getattr(diffusers, name, None)
        if cls is None:
            continue  # newer than the installed diffusers
        assert find_adapter(cls.__new__(cls)).preset.kind == row.split("|")[-2].strip()


def test_the_tables_shifts_are_computed():
    """mu at 1024x1024 (64x64 tokens): FLUX.1 and Qwen-Image by their schedulers' line, FLUX.2 by its fit."""
    (flux, flux2, qwen) = (
        next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
        for name in ("FluxPipeline", "Flux2Pipeline", "QwenImagePipeline")
    )
    line = {"base_image_seq_len": 256, "base_shift": 0.5}
    assert f"(1024x1024: {linear_mu(4096, line | {'max_image_seq_len': 4096, 'max_shift': 1.15}):.2f})" in flux
    assert f"(1024x1024: {linear_mu(4096, line | {'max_image_seq_len': 8192, 'max_shift': 0.9}):.2f})" in qwen
    assert f"(1024x1024, 50 steps: {empirical_mu(4096, 50):.2f})" in flux2
