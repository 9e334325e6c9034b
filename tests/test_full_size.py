"""The GPU benchmark, rehearsed: a tiny network through the whole script, and its results file."""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
cost, full_size = (import_module(name) for name in ("cost", "full_size"))


def tiny(*, reduced: bool = False):
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        guidance_embeds=True,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        axes_dims_rope=(4, 6, 6),
    )


@pytest.fixture
def models(monkeypatch):
    """The script's FLUX entry with a network of 2 blocks of width 32."""
    model = cost.Model("tiny", tiny, cost.MODELS["flux"].inputs, passes=1, text_tokens=512)
    monkeypatch.setitem(cost.MODELS, "tiny", model)
    monkeypatch.setitem(full_size.SETUPS, "tiny", full_size.SETUPS["flux"])


def test_a_rehearsal_writes_sound_rows(models, monkeypatch, tmp_path):
    out = tmp_path / "rows.csv"
    command = [
        "full_size",
        "--models",
        "tiny",
        "--device",
        "cpu",
        "--latent",
        "16",
        "16",
        "--steps",
        "10",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--stages", "2"])
    full_size.main()
    full_size.main()  # the same row again: replaced, not doubled
    (row,) = csv.DictReader(out.open(newline=""))
    assert row["model"] == "tiny"
    assert sum(map(int, row["split"].split("+"))) == int(row["steps"]) == 10
    assert len(row["step_seconds"].split()) == 2
    for name in ("seconds", "full_step_seconds", "speedup", "expansion_seconds", "peak_gib"):
        assert float(row[name]) > 0
    expected = cost.step_cost("tiny")
    coarse, fine = map(int, row["split"].split("+"))
    predicted = 10 * expected((16, 16)) / (coarse * expected((8, 8)) + fine * expected((16, 16)))
    assert float(row["predicted"]) == pytest.approx(predicted, rel=1e-4)
    assert float(row["predicted_over_50"]) == pytest.approx(5 * predicted, rel=1e-4)


def test_every_model_has_a_setup_and_a_cost():
    assert set(full_size.SETUPS) == set(cost.MODELS)
    for setup in full_size.SETUPS.values():
        assert setup.plans
        assert all(scales[-1] == 1 for _, scales in setup.plans)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_without_a_gpu_it_says_how_to_rehearse(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["full_size"])
    with pytest.raises(SystemExit):
        full_size.main()
    assert "--reduced" in capsys.readouterr().err
