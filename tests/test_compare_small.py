"""The comparison of the small transformer: its rows are those of pareto.py as far as two samples can be the same."""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from spectral_pd import sample
from spectral_pd.comparing import load_table

for name in ("diffusers", "matplotlib", "peft", "scipy", "skimage", "sklearn"):
    pytest.importorskip(name)
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
small, pareto = import_module("compare_small"), import_module("pareto")


def rows(name):
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_agrees_with_paretos():
    """Intervals of the two overlap for every setting and metric; FLOPs are the same number; other settings would be seen."""
    found = rows("compare_small")
    committed = {(row["curve"], row["delta"], row["gflops"]): row for row in rows("pareto")}
    settings = {s.name: s for s in load_table(small.TABLE).settings}
    assert {(row["setting"], row["metric"]) for row in found} == {
        (name, metric) for name in settings if name != "20 steps" for metric in small.METRICS
    }

    def overlap(a, b):
        return float(a["low"]) <= float(b["pareto_high"]) and float(b["pareto_low"]) <= float(a["high"])

    for row in found:
        assert overlap(row, row), (row["setting"], row["metric"])
        assert row["gflops"] == row["pareto_gflops"]
        setting = settings[row["setting"]]
        other = committed[row["family"], f"{setting.delta:g}" if len(setting.scales) > 1 else "", row["gflops"]]
        column = {"spectrum": "spectrum_full"}.get(row["metric"], row["metric"])
        assert float(row["pareto"]) == pytest.approx(float(other[column]), abs=1e-4)
    psnr = {row["setting"]: row for row in found if row["metric"] == "psnr"}
    assert not overlap(psnr["12 steps"], psnr["8 steps"])
    assert not overlap(psnr["8 steps"], psnr["S=2, delta 0.2"])


@pytest.mark.parametrize("name", ["S=2, delta 0.2", "S=2, delta 0.2, the paper's"])
def test_a_picture_is_the_librarys(name):
    """Of pareto.py's own plan for the row, with the sampler's noise."""
    (setting,) = (s for s in load_table(small.TABLE).settings if s.name == name)
    law = small.PowerLaw.load(small.SPECTRUM)
    entry = next(e for e in pareto.entries(law) if e.curve == setting.family and e.plan.delta == setting.delta)
    sampler = small.pixel()
    assert sampler.plan(setting, "") == entry.plan
    noise = torch.randn(1, 3, *small.SIZE, generator=torch.Generator().manual_seed(3))
    fresh = torch.Generator().manual_seed(2**32 + 3) if entry.coupling == "fresh" else None
    wanted = sample(sampler._velocity, noise, entry.plan, solver=entry.solver, coupling=entry.coupling, seed=fresh)
    torch.testing.assert_close(sampler.picture(setting, "", 3), wanted[0].add(1).div(2).clamp(0, 1), rtol=0, atol=1e-6)
