"""The FLOP counter against analytic formulas, and the committed tables against what the scripts compute."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectral_pd import PRESETS, make_plan, shift_times
from spectral_pd.pretrained import PRETRAINED, recognised, step_cost

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
cost, paper_tables = (import_module(name) for name in ("cost", "paper_tables"))


def test_flux_against_the_formula():
    """Blocks: 12 d^2 weights a token in 57 layers, attention 4 N^2 d a layer; embedders and modulation are the rest."""
    d, layers, tokens = 3072, 57, 4096 + 512
    flops = cost.forward_flops("flux", (128, 128))
    assert flops.linear == pytest.approx(2 * 12 * d**2 * layers * tokens, rel=2e-3)
    assert flops.attention == pytest.approx(4 * layers * tokens**2 * d, rel=1e-9)
    assert flops.total == flops.linear + flops.attention


def test_wan_against_the_formula():
    d, ff, layers, tokens, text = 1536, 8960, 30, 21 * 15 * 26, 512
    flops = cost.forward_flops("wan", (30, 52))
    assert flops.attention == pytest.approx(4 * layers * d * (tokens**2 + text * tokens), rel=1e-9)
    assert flops.linear == pytest.approx(2 * layers * tokens * (6 * d**2 + 2 * d * ff), rel=0.02)


def test_guidance_is_a_second_pass():
    assert step_cost("z-image")((32, 32)) == 2 * cost.forward_flops("z-image", (32, 32)).total
    assert step_cost("flux", counted="linear")((32, 32)) == cost.forward_flops("flux", (32, 32)).linear


def test_the_cpu_counter_misses_attention():
    """Negative control: why the meta device is required."""
    q = torch.randn(1, 2, 64, 16)
    with FlopCounterMode(display=False) as on_cpu:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert on_cpu.get_total_flops() == 0

    class Attention(torch.nn.Module):
        def forward(self, q):
            return torch.nn.functional.scaled_dot_product_attention(q, q, q)

    assert cost.count(Attention(), {"q": q.to("meta")}).attention == 2 * 2 * 2 * 64 * 64 * 16
    with pytest.raises(ValueError, match="meta"):
        cost.count(torch.nn.Linear(2, 2), {"input": torch.zeros(1, 2)})


def test_unknown_names_are_refused():
    for call in (
        lambda: cost.forward_flops("sd2", (8, 8)),
        lambda: cost.once_flops("wan"),
    ):
        with pytest.raises(ValueError, match="pass one of"):
            call()
    with pytest.raises(ValueError, match="must be 'flux', 'flux2'"):
        step_cost("sd2")
    with pytest.raises(ValueError, match="'full' or 'linear'"):
        step_cost("flux", counted="half")


def test_the_package_has_the_counts():
    """Its polynomials in the tokens are the counter's numbers, to the last FLOP, on grids they were not taken from."""
    grids = {name: (34, 46) for name in PRETRAINED}  # 391 tokens: not a multiple of what Z-Image fills up to
    for name, grid in grids.items():
        counted, model = cost.forward_flops(name, grid), PRETRAINED[name]
        assert model.flops(grid) == model.passes * counted.total
        assert model.flops(grid, "linear") == model.passes * counted.linear
        assert model.flops((34, 60)) != model.flops(grid)
        assert model.network == type(cost._on_meta(name)).__name__
        assert model.parameters == sum(p.numel() for p in cost._on_meta(name).parameters())
    assert step_cost("wan")((21, 34, 46)) == step_cost("wan")((34, 46)) == step_cost("wan", frames=21)((34, 46))
    assert step_cost("wan", frames=1)((34, 46)) < step_cost("wan")((34, 46))
    assert step_cost("flux", (128, 128))((64, 64)) == step_cost("flux")((64, 64)) / step_cost("flux")((128, 128))


def test_networks_are_recognised():
    """A pretrained one by class and size; one of few blocks is another network, and its cost is not known."""
    for name in PRETRAINED:
        assert recognised(cost._on_meta(name)) == name
    assert recognised(cost._on_meta("flux", reduced=True)) is None
    assert recognised(torch.nn.Linear(2, 2)) is recognised(None) is None


def test_a_plan_takes_the_count_as_its_cost():
    plan = make_plan(
        shift_times(10, shift=3.158), PRESETS["flux"], (128, 128), scales=(1 / 2, 1), cost=step_cost("flux")
    )
    steps = [cost.forward_flops("flux", shape).total for shape in plan.shapes]
    assert plan.cost() == pytest.approx(sum(n * c for n, c in zip(plan.split, steps, strict=True)))
    assert plan.speedup() == pytest.approx(10 * steps[-1] / plan.cost())
    assert f"by counted FLOPs of FLUX.1-dev: {plan.speedup():.2f}x" in str(plan)


def _committed(name: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / "results" / name).open() as file:
        return list(csv.DictReader(file))


def test_committed_costs_are_the_counted_ones():
    """Every model at its smallest size; large sizes of three models are counted by the tables below."""
    rows = _committed("cost.csv")
    assert len(rows) == sum(map(len, cost.TABLE.values()))
    for name, grids in cost.TABLE.items():
        smallest = min(grids)
        expected = {column: str(value) for column, value in cost.cost_row(name, smallest).items()}
        assert expected in rows


def test_committed_plans_follow_from_the_committed_costs():
    """The usual plans again: splits from presets and shifts, speedups from the rows of cost.csv."""
    totals = {(row["model"], row["latent"]): float(row["total_tflop"]) for row in _committed("cost.csv")}
    rows = iter(_committed("usual_plans.csv"))
    for usual in (*cost.USUAL, *cost.FEW_STEPS):
        label, preset, grid, _ = usual.known
        steps = len(usual.times) - 1
        for scales, delta in itertools.product(usual.scales, usual.deltas):
            plan = make_plan(
                usual.times, PRESETS[preset], grid, scales=scales, delta=delta, multiple_of=2, unreached="force"
            )
            row = next(rows)
            sizes = ["x".join(map(str, shape)) for shape in plan.shapes]
            assert row["model"] == (usual.label or label)
            assert row["stages"] == " ".join(sizes)
            assert row["split"] == "+".join(map(str, plan.split))
            assert min(plan.split) >= 1  # also in four steps every stage makes one
            spent = sum(n * totals[label, size] for n, size in zip(plan.split, sizes, strict=True))
            assert float(row["predicted_speedup"]) == pytest.approx(steps * totals[label, sizes[-1]] / spent, abs=0.006)
    assert next(rows, None) is None


def test_measured_speedups_agree_with_the_count():
    """FLUX at its real width and few blocks: committed rounds, each a full-size and a progressive run, within 5 %.

    In CPU seconds of one thread, round by round; and on the wall clock, to which other users of a shared machine only add:
    the fastest run of each kind.
    """
    rows = _committed("flux_reduced.csv")
    for latent in {row["latent"] for row in rows}:
        runs = {
            kind: [row for row in rows if row["latent"] == latent and row["run"] == kind]
            for kind in ("full size", "progressive")
        }
        full, progressive = (sorted(chosen, key=lambda row: int(row["round"])) for chosen in runs.values())
        assert len(full) == len(progressive) >= 3
        predicted = float(progressive[0]["predicted_speedup"])
        ratios = [
            float(a["process_seconds"]) / float(b["process_seconds"]) for a, b in zip(full, progressive, strict=True)
        ]
        assert statistics.median(ratios) == pytest.approx(predicted, rel=0.05)
        fastest = [min(float(row["wall_seconds"]) for row in chosen) for chosen in (full, progressive)]
        assert fastest[0] / fastest[1] == pytest.approx(predicted, rel=0.05)


def test_usual_shifts_are_the_pipelines():
    """exp(mu) of the dynamic time grids at 1024 x 1024."""
    flux = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux").calculate_shift
    flux2 = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2").compute_empirical_mu
    assert PRETRAINED["flux"].shift == pytest.approx(math.exp(flux(4096)))
    assert PRETRAINED["flux2"].shift == pytest.approx(math.exp(flux2(4096, 50)), rel=1e-4)
    klein = next(usual for usual in cost.FEW_STEPS if usual.label == "FLUX.2-klein")
    assert klein.shift == pytest.approx(math.exp(flux2(4096, 4)), rel=1e-4)
    qwen = flux(4096, max_seq_len=8192, max_shift=0.9)
    assert PRETRAINED["qwen-image"].shift == pytest.approx(math.exp(qwen), rel=1e-4)


def test_committed_tables_are_the_computed_ones():
    rows = paper_tables.all_rows()
    expected = [{name: str(column(row)) for name, column in paper_tables.COLUMNS.items()} for row in rows]
    assert _committed("paper_tables.csv") == expected
    assert (ROOT / "docs" / "paper_tables.md").read_text() == paper_tables.page(rows)


def test_every_printed_total_stands_beside_a_counted_one():
    rows = [row for row in paper_tables.all_rows() if row.published]
    assert len(rows) == len(paper_tables.PUBLISHED) == 27
    for row in rows:
        gap = abs(row.published.tflop - row.counted)
        if row.notes == ():
            assert gap <= paper_tables.HALF_A_DIGIT[row.case.convention]
        elif row.notes == ("counter",):
            assert gap < 5e-4 * row.published.tflop
        else:
            assert row.case.counted == "flux"
            assert "coarse" in row.notes
            assert ("split" in row.notes) == (row.plan.nfe == 40)
            assert len(row.plan.stages) > 1
            assert 1 < row.counted / row.published.tflop < 1.07
            if row.published.speedup is not None:
                assert row.speedup_linear < row.published.speedup < row.speedup_full
    assert {row.case.counted for row in rows if row.notes == ()} == {"pixelgen", "wan"}


def test_pixelgen_is_counted_from_its_configuration():
    """Its published number of parameters, and its five printed totals to the last digit; one block less and none fits."""
    parameters = sum(p.numel() for p in cost._on_meta("pixelgen").parameters())
    assert parameters == pytest.approx(1.1e9, rel=0.03)
    rows = [row for row in paper_tables.all_rows() if row.published and row.case.counted == "pixelgen"]
    assert [f"{row.linear:.2f}" for row in rows] == [f"{row.published.tflop:.2f}" for row in rows]
    with torch.device("meta"):
        shorter = import_module("pixelgen").PixelGen(blocks=15)
    step = 2 * cost.count(shorter, cost.MODELS["pixelgen"].inputs((512, 512), "meta", torch.float32)).linear / 1e12
    assert all(abs(row.published.tflop - row.linear - row.plan.nfe * (step - 2.6)) > 1 for row in rows[:3])


def test_the_explanations_hold():
    """Half a bin lower gives every printed split, a whole one does not; the printed coarse steps are near the image tokens'."""
    table = paper_tables.half_a_bin_lower()
    assert len(table) == 6
    assert all(printed == lower for _, _, printed, _, lower in table)
    assert sum(printed != plain for _, _, printed, plain, _ in table) == 2
    whole = paper_tables.make_case_plan(paper_tables.CASES[0], 40, paper_tables.QUARTER, 0.01, bins_below=1.0)
    assert whole.split != paper_tables.PUBLISHED["flux", 40, paper_tables.QUARTER, 0.01].split
    for name, *_, rest in paper_tables.gaps(paper_tables.all_rows()):
        assert float(rest) <= (0.5 if name.startswith("Wan") else 0.01)
    full, half, quarter, once = ([float(n) for n in row[1:] if n != "-"] for row in paper_tables.per_step())
    for linear, alone, implied, _ in (half, quarter):
        assert alone < implied < 1.05 * alone < 0.75 * linear
    for linear, implied in ((full[0], full[2]), once):
        assert implied == pytest.approx(linear, rel=0.01)
