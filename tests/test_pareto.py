"""The quality-against-compute benchmark on a random model, and its committed rows against its committed weights."""

from __future__ import annotations

import csv
import json
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_pd import sample
from spectral_pd.comparing.run import full_run
from spectral_pd.comparing.storage import slug
from spectral_pd.measuring.demo import psnr

for name in ("accelerate", "diffusers", "peft", "scipy", "skimage", "sklearn"):
    pytest.importorskip(name)
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "pareto.csv"
sys.path.insert(0, str(ROOT / "benchmarks"))
pareto, model = import_module("pareto"), import_module("tiny_dit.model")

NETWORK = pareto.TRANSFORMER


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def chosen(curve, delta=None, steps=pareto.STEPS):
    """The setting of a row."""
    found = [s for s in pareto.ways(NETWORK) if s.family == curve and (delta is None or s.delta == delta)]
    return next(s for s in found if s.steps == steps)


@pytest.fixture
def random_weights(tmp_path):
    torch.manual_seed(0)
    network = model.TinyDiT(model.Config(width=32, depth=1, heads=2))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save(network, tmp_path / "weights.safetensors", {})
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("network", [pareto.TRANSFORMER, pareto.LATENT_TRANSFORMER], ids=lambda n: n.name)
def test_every_row_is_another_run(network):
    every = list(pareto.ways(network))
    assert len({slug(s.name) for s in every}) == len(every)
    runs = {json.dumps({k: v for k, v in s.facts().items() if k != "arguments"} | s.arguments) for s in every}
    assert len(runs) == len(every)
    assert full_run(every) is every[0]
    assert every[0].steps == pareto.STEPS


def key(sampler, setting):
    plan = sampler.plan(setting, "")
    return setting.family, f"{setting.delta:g}" if len(setting.scales) > 1 else "", "+".join(map(str, plan.split))


@pytest.mark.parametrize("network", [pareto.TRANSFORMER, pareto.LATENT_TRANSFORMER], ids=lambda n: n.name)
def test_the_committed_rows_are_the_tables(network):
    """Curve, delta, steps and FLOPs of every row are those of a setting; of the pixels only repaired ones may be missing."""
    pixel = network == NETWORK
    sampler = pareto.pixel() if pixel else pareto.Ways(network, pareto.LATENT / "weights.safetensors")
    made = {key(sampler, s): f"{sampler.flops(s, '').total / 1e9:.3f}" for s in pareto.ways(network)}
    found = rows(RESULTS if pixel else RESULTS.with_name("pareto_latent.csv"))
    committed = {(r["curve"], r["delta"], r["split"]): r["gflops"] for r in found if r["curve"] != pareto.YARDSTICK}
    assert committed == {way: made[way] for way in committed}
    assert not pixel or all("repaired" in curve for curve, _, _ in set(made) - set(committed))
    assert len(set(committed.values())) > 5


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_baseline_reaches_what_the_model_wants(mode):
    """A denoiser that always answers one smooth picture: the baseline must end on it, and with one more coarse call."""
    sampler, setting = pareto.pixel(), chosen(f"{mode}, noised again", 0.05)
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    out = sampler.run(setting, noise, torch.Generator(), velocity=lambda x, t: (x - 0.3) / t)
    torch.testing.assert_close(out, torch.full_like(out, 0.3), rtol=0, atol=1e-5)
    assert sampler.calls(setting) == {32: 15 + 1, 64: 5}
    assert sampler.calls(chosen("S=2, full clock, coupled", 0.05)) == {32: 15, 64: 5}


def test_a_seed_has_its_place_in_its_batch(random_weights, tmp_path):
    """Seed i is row i % 64 of its batch's noise, alone, among others, and kept; another noise would be seen."""
    sampler = pareto.Ways(NETWORK, random_weights, batch=8)
    for curve, tolerance in (("S=2, full clock, coupled", 1e-5), ("S=2, stage clock, fresh", 0)):
        setting = chosen(curve, 0.2)
        noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(8))
        fresh = torch.Generator().manual_seed(10**6 + 8) if setting.coupling == "fresh" else None
        plan = sampler.plan(setting, "")
        options = {"solver": "dpmpp_2m", "coupling": setting.coupling, "seed": fresh}
        wanted = sample(sampler.model.velocity, noise, plan, **options).add(1).div(2).clamp(0, 1)
        several = sampler.pictures(setting, [""] * 3, [11, 2, 9])
        torch.testing.assert_close(several[0], wanted[3], rtol=0, atol=tolerance)
        torch.testing.assert_close(several[2], wanted[1], rtol=0, atol=tolerance)
        torch.testing.assert_close(sampler.picture(setting, "", 11), wanted[3], rtol=0, atol=tolerance)
        assert (several[1] - wanted[2]).abs().max() > 0.1
        keeping = pareto.Ways(NETWORK, random_weights, batch=8, keep=tmp_path)
        keeping.pictures(setting, ["", ""], [9, 11])
        (state,) = (tmp_path / "features" / "state" / slug(setting.name)).glob("0000-0011.npy")
        kept = torch.from_numpy(np.load(state)).float().add(1).div(2).clamp(0, 1)
        torch.testing.assert_close(kept, wanted[3], rtol=0, atol=1e-3)


def test_a_repaired_copy_makes_the_coarse_calls(monkeypatch):
    """As the untouched network where it is a copy of it; another picture where it is not, and only below full size."""
    sampler, noise = pareto.pixel(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    setting, plain = chosen("S=2, repaired, informed", 0.2), chosen("S=2, full clock, coupled", 0.2)
    found = {"untrained": pareto.Repaired()}
    monkeypatch.setattr(sampler, "_repaired", {"repaired, informed": found["untrained"]})
    wanted = sampler.run(plain, noise, torch.Generator())
    torch.testing.assert_close(sampler.run(setting, noise, torch.Generator()), wanted, rtol=0, atol=1e-5)
    monkeypatch.setattr(sampler, "_repaired", {})
    assert (sampler.run(setting, noise, torch.Generator()) - wanted).abs().max() > 0.05
    velocity, usual = sampler.velocity(setting, noise), sampler.velocity(plain, noise)
    assert torch.equal(velocity(noise, 0.5), usual(noise, 0.5))
    more = sampler.flops(setting, "").total / sampler.flops(plain, "").total
    assert 1 < more < 1.05
    assert sampler.flops(chosen("S=2, repaired", 0.2), "") == sampler.flops(plain, "")


def test_the_benchmark_runs_resumes_and_reports(random_weights, tmp_path, monkeypatch):
    few = pareto.FEWER[-1]
    settings = [chosen("full resolution, fewer steps"), chosen("full resolution, fewer steps", steps=few)]
    settings += [chosen("S=3, stage clock, coupled", 0.05)]
    monkeypatch.setattr(pareto, "ways", lambda network: settings)
    monkeypatch.setattr(pareto, "BATCH", 16)
    arguments = ["pareto.py", "--folder", str(tmp_path / "runs"), "--samples", "32"]
    arguments += ["--weights", str(random_weights), "--figure", str(tmp_path / "figure.png")]
    arguments += ["--out", str(tmp_path / "rows.csv")]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    pareto.main()
    first = rows(tmp_path / "rows.csv")
    assert [row["curve"] for row in first] == [*(s.family for s in settings), pareto.YARDSTICK]
    assert list(first[0]) == list(rows(RESULTS)[0])
    assert first[0]["psnr"] == "inf"
    assert float(first[0]["wasserstein_full"]) == 0
    assert float(first[1]["gflops"]) == pytest.approx(float(first[0]["gflops"]) * few / pareto.STEPS, rel=1e-2)
    assert float(first[2]["gflops"]) < float(first[0]["gflops"])
    for row in first[1:3]:
        for name in ("psnr", "ssim", "spectrum_full", "wasserstein_photos", "natural_photos"):
            assert float(row[name + "_low"]) <= float(row[name]) <= float(row[name + "_high"])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("sampled again")

    monkeypatch.setattr(pareto.Ways, "pictures", never)
    table = [{**row, "commit": "before"} for row in first]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "S=3"])
    pareto.main()
    second = rows(tmp_path / "rows.csv")
    assert second[:2] == table[:2]
    assert second[3] == table[3]
    assert second[2]["commit"] != "before"
    same = ("curve", "split", "psnr", "ssim", "wasserstein_full", "natural_photos")
    assert [second[2][n] for n in same] == [first[2][n] for n in same]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "S=9"])
    with pytest.raises(ValueError, match="fits none of the settings"):
        pareto.main()
    torch.set_num_threads(threads)


def test_without_its_autoencoder_the_latent_network_says_what_to_get(tmp_path, monkeypatch):
    arguments = ["pareto.py", "--model", "latent", "--folder", str(tmp_path / "runs"), "--vae", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="get madebyollin/taef1"):
        pareto.main()
    assert not (tmp_path / "runs").exists()


def test_latents_are_compared_as_pictures(tmp_path, monkeypatch):
    """With a decoder of nothing but pixels repeated: the reference is at no distance of itself, others are."""
    for name in ("efficientnet_lite_pytorch", "flip_evaluator", "torchmetrics"):
        pytest.importorskip(name)
    every = list(pareto.ways(pareto.LATENT_TRANSFORMER))
    names = ("full resolution, fewer steps, 20 steps", "nearest, noised again, delta 0.2")
    settings = [s for s in every if s.name in names]
    monkeypatch.setattr(pareto, "ways", lambda network: settings)
    monkeypatch.setattr(pareto, "LATENT_BATCH", 4)
    monkeypatch.setattr(
        pareto, "decoder", lambda vae: lambda x: x[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3) / 3
    )
    arguments = ["pareto.py", "--model", "latent", "--folder", str(tmp_path / "runs"), "--samples", "4"]
    arguments += ["--out", str(tmp_path / "rows.csv"), "--figure", str(tmp_path / "figure.jpg")]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    pareto.main()
    torch.set_num_threads(threads)
    full, few = rows(tmp_path / "rows.csv")
    for name in ("flip", "spectrum", "features", "natural", "spectrum_latents"):
        assert float(full[name]) < 1e-3 < float(few[name]), name
    assert float(few["ssim"]) < float(full["ssim"]) == 1
    assert (tmp_path / "figure.jpg").stat().st_size > 10_000


def test_committed_rows_come_from_the_committed_weights():
    """Sixteen of the seeds again, in float32: the median lies where that many seeds of the committed rows put it."""
    committed = {(r["curve"], r["delta"], r["split"]): r for r in rows(RESULTS)}
    sampler = pareto.pixel()
    setting = chosen("S=2, full clock, coupled", 0.2)
    noise = torch.randn(pareto.BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0))[:16]
    reference, states = (
        sampler.run(s, noise, torch.Generator()) for s in (chosen("full resolution, fewer steps"), setting)
    )
    row = committed[setting.family, "0.2", "+".join(map(str, sampler.plan(setting, "").split))]
    median = float(psnr(states, reference).median())
    spread = (float(row["psnr_high"]) - float(row["psnr_low"])) / 2 * math.sqrt(int(row["samples"]) / 16)
    assert abs(median - float(row["psnr"])) < 1.5 * spread


def test_the_page_says_what_the_rows_say():
    """docs/training.md on clocks, couplings and fine-tuning."""
    data = {(r["curve"], r["delta"]): r for r in rows(RESULTS)}

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
