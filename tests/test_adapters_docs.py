"""docs/adapters.md: its worked example is a real layout, and its table is what the tests of every pipeline said."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from tiny_pipelines import AURA_FLOW, FAMILIES, FLUX, generator

from spectral_pd.adapters import LAYOUTS, progressive

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adapters.md").read_text()


def test_the_example_is_a_working_layout():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    scope: dict = {}
    exec(compile(block, "docs/adapters.md", "exec"), scope)
    for kind in ("latent", "pt"):
        call = AURA_FLOW.arguments(2, height=128, width=160, output_type=kind)
        stock = AURA_FLOW.pipe(generator=generator(), **call).images
        for scales in ((1,), (1 / 2, 1)):
            ours = progressive(
                AURA_FLOW.pipe,
                generator=generator(),
                layout=scope["AURA_FLOW"],
                scales=scales,
                unreached="force",
                **call,
            ).images
            assert ours.shape == stock.shape
            assert torch.isfinite(ours).all()
            assert torch.equal(ours, stock) == (scales == (1,))


def test_a_wrong_layout_is_seen():
    """Negative control: with another unit of time the result at several scales is another."""
    call = AURA_FLOW.arguments(height=128, width=160)
    run = [
        progressive(AURA_FLOW.pipe, generator=generator(), layout=layout, transition_times=(0.6,), **call).images
        for layout in (LAYOUTS["AuraFlowPipeline"], LAYOUTS["StableDiffusion3Pipeline"])
    ]
    assert (run[0] - run[1]).abs().max() > 1e-3


def test_every_pipeline_is_tried_and_its_row_is_of_these_tests():
    with (ROOT / "benchmarks" / "results" / "adapters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["pipeline"] for row in rows} == set(LAYOUTS)
    assert [row["call"] for row in rows] == [family.name for family in FAMILIES]
    for row, family in zip(rows, FAMILIES, strict=True):
        assert row["one_scale"] == row["several_scales"] == "yes"
        assert row["batch"] == ("yes" if family.splits else "")
        assert row["lora"] == ("yes" if family.adapts else "")
        assert row["spectrum"] == LAYOUTS[row["pipeline"]].spectrum.kind


def test_sizes_the_page_names_are_the_stock_calls():
    """FLUX.1 makes 360x640 to 352x640: so does the ride, and the plan says so."""
    assert "360x640 to 352x640" in PAGE
    with pytest.warns(UserWarning, match="360x640 becomes 352x640"):
        found = progressive(
            FLUX.pipe, scales=(1,), **FLUX.arguments(guided=False, height=360, width=640, num_inference_steps=1)
        ).images
    assert found.shape[1] == 352 * 640 // 16**2
