"""The quality-against-compute benchmark on a random model, and its committed rows against its committed weights."""

from __future__ import annotations

import csv
import math
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from spectral_pd import PowerLaw
from spectral_pd.measuring.demo import psnr

for name in ("accelerate", "diffusers", "peft", "scipy", "skimage", "sklearn"):
    pytest.importorskip(name)
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
pareto, model = import_module("pareto"), import_module("tiny_dit.model")

LAW = PowerLaw.load(model.SPECTRUM)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_is_another_run():
    every = list(pareto.entries(LAW))
    names = {entry.file("weights", 0) for entry in every}
    assert len(names) == len(every)
    assert every[0].plan.split == (pareto.STEPS,)
    assert not names & {entry.file("weights", 64) for entry in every}
    assert not names & {entry.file("others", 0) for entry in every}


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_baseline_reaches_what_the_model_wants(mode):
    """A denoiser that always answers one smooth picture: the baseline must end on it, and with one more coarse call."""
    entry = next(e for e in pareto.entries(LAW) if e.upsampling == mode)
    calls = []

    def velocity(x, t):
        calls.append(x.shape[-1])
        return (x - 0.3) / t

    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    out = pareto.upsampled(velocity, noise, entry.plan, mode)
    torch.testing.assert_close(out, torch.full_like(out, 0.3), rtol=0, atol=1e-5)
    assert [(side, calls.count(side)) for side in (32, 64)] == entry.calls


def test_the_benchmark_runs_resumes_and_reports(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = model.TinyDiT(model.Config(width=32, depth=1, heads=2))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save(network, tmp_path / "weights.safetensors", {})
    few = pareto.FEWER[-1]
    chosen = [e for e in pareto.entries(LAW) if e.plan.split in ((pareto.STEPS,), (few,)) and e.solver == "dpmpp_2m"]
    chosen += [next(e for e in pareto.entries(LAW) if len(e.plan.stages) == 3)]
    monkeypatch.setattr(pareto, "entries", lambda law: chosen)
    monkeypatch.setattr(pareto, "BATCH", 16)
    arguments = ["pareto.py", "--folder", str(tmp_path / "runs"), "--samples", "32"]
    arguments += ["--weights", str(tmp_path / "weights.safetensors"), "--figure", str(tmp_path / "figure.png")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "rows.csv")])
    threads = torch.get_num_threads()
    pareto.main()
    first = rows(tmp_path / "rows.csv")
    assert [row["curve"] for row in first] == [*(e.curve for e in chosen), "training crops (yardstick)"]
    assert first[0]["psnr"] == "inf"
    assert float(first[0]["wasserstein_full"]) == 0
    assert float(first[1]["gflops"]) == pytest.approx(float(first[0]["gflops"]) * few / pareto.STEPS, rel=1e-3)
    assert float(first[2]["gflops"]) < float(first[0]["gflops"])
    for row in first[1:3]:
        for name in ("psnr", "ssim", "spectrum_full", "wasserstein_photos", "natural_photos"):
            assert float(row[name + "_low"]) <= float(row[name]) <= float(row[name + "_high"])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    def never(*_):
        raise AssertionError("sampled again")

    monkeypatch.setattr(pareto, "pictures", never)
    pareto.main()
    same = ("psnr", "ssim", "wasserstein_full", "natural_photos")
    assert [[row[n] for n in same] for row in rows(tmp_path / "rows.csv")] == [[row[n] for n in same] for row in first]
    torch.set_num_threads(threads)


def test_committed_rows_come_from_the_committed_weights():
    """Sixteen of the seeds again, in float32: the median lies where that many seeds of the committed rows put it."""
    committed = {(r["curve"], r["delta"], r["split"]): r for r in rows(ROOT / "benchmarks" / "results" / "pareto.csv")}
    every = list(pareto.entries(LAW))
    network = model.load()
    noise = torch.randn(pareto.BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0))[:16]
    reference = pareto.sample(network.velocity, noise, every[0].plan, solver="dpmpp_2m")
    entry = next(e for e in every if e.curve == "S=2, full clock, coupled" and e.plan.delta == 0.2)
    row = committed[entry.curve, "0.2", "+".join(map(str, entry.plan.split))]
    states = pareto.sample(network.velocity, noise, entry.plan, solver="dpmpp_2m")
    median = float(psnr(states, reference).median())
    spread = (float(row["psnr_high"]) - float(row["psnr_low"])) / 2 * math.sqrt(int(row["samples"]) / 16)
    assert abs(median - float(row["psnr"])) < 1.5 * spread


def test_the_page_says_what_the_rows_say():
    """docs/training.md on clocks, couplings and fine-tuning."""
    data = {(r["curve"], r["delta"]): r for r in rows(ROOT / "benchmarks" / "results" / "pareto.csv")}

    def interval(curve, delta, name):
        return float(data[curve, delta][name + "_low"]), float(data[curve, delta][name + "_high"])

    for stages, delta in ((s, d) for s in (2, 3) for d in ("0.01", "0.05", "0.2")):
        for name in ("spectrum_full", "wasserstein_full"):
            for coupling in ("coupled", "fresh"):
                full, stage = (
                    interval(f"S={stages}, {clock} clock, {coupling}", delta, name) for clock in ("full", "stage")
                )
                assert full[1] < stage[0], (stages, delta, name, coupling)
        for clock in ("full", "stage"):
            coupled, fresh = (f"S={stages}, {clock} clock, {coupling}" for coupling in ("coupled", "fresh"))
            for name in ("psnr", "ssim"):
                assert interval(coupled, delta, name)[0] > interval(fresh, delta, name)[1], (stages, delta, name, clock)
            for name in ("spectrum_full", "wasserstein_full", "natural_full", "natural_photos"):
                (low, high), (other_low, other_high) = (interval(c, delta, name) for c in (coupled, fresh))
                assert max(low, other_low) < min(high, other_high), (stages, delta, name, clock)
    for stages, delta in ((2, "0.2"), (3, "0.05")):
        for name in ("spectrum_full", "natural_photos"):
            tuned, control = (interval(f"S={stages}, {kind}", delta, name) for kind in ("fine-tuned", "control"))
            assert sum(tuned) < sum(control)
