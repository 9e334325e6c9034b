"""Sizes that agree: an exact toy agrees, planted disagreements are found at their size, predictions hold, repair recovers."""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from strategies import randn
from tolerances import assert_close

from spectral_pd import DCT, HAAR, GaussianField, PowerLaw, make_plan, optimise_plan, plan_at, sample, shift_times
from spectral_pd.agreement import KINDS, SizeAgreement, size_agreement
from spectral_pd.calibrate import calibrate
from spectral_pd.expansion import expand_aligned
from spectral_pd.restriction import folded_noise, high_band, restrict_aligned
from spectral_pd.theory import align_time
from spectral_pd.training import agreement_sample, step_weights

FULL, HALF, QUARTER = (16, 16), (8, 8), (4, 4)
LAW = PowerLaw(60.0, 2.0, shape=FULL)
FIELD = GaussianField(LAW, FULL)
TIMES = shift_times(8, shift=2.0)
PLAN = plan_at(TIMES, (TIMES[5],), FULL, scales=(1 / 2, 1))
THREE = plan_at(TIMES, (TIMES[2], TIMES[5]), FULL, scales=(1 / 4, 1 / 2, 1))


def wrong(gain, *, sizes=(8,)):
    """The exact field, but on some sizes the denoised picture is `gain` times what it should be."""

    def velocity(x, t):
        v = FIELD.velocity(x, t)
        return (x - gain * (x - t * v)) / t if x.shape[-1] in sizes else v

    return velocity


def told_by_the_high_band(x, t, planes=None):
    """An exact field whose low band also depends on the high band, exactly: by the sum of its folded planes, squashed.

    With the folded high band of the field beside it a coarse call says the same.
    """
    exact = x - t * FIELD.velocity(x, t)
    if x.shape[-1] == FULL[-1]:
        folded = folded_noise(x, HALF)
    else:
        folded = torch.zeros(*x.shape[:-3], 4 * x.shape[-3], *HALF, dtype=x.dtype) if planes is None else planes * t
        # The coarse state's unit is kappa of the full one's.
        folded = folded * 2 / (1 + t)
    groups = folded.unflatten(1, (-1, 4)).sum(2)
    low = torch.tanh(groups)
    return (x - exact - (low if x.shape[-1] == HALF[-1] else 2 * DCT.embed(low, FULL))) / t


def measured(velocity, scales=(1 / 2, 1), seeds=6, **options):
    return size_agreement(velocity, randn(seeds, 2, *FULL), TIMES, scales=scales, solver="euler", **options)


def psnr(velocity, plan, noise, solver="euler"):
    run, full = (sample(velocity, noise, p, solver=solver) for p in (plan, plan_at(TIMES, (), FULL, scales=(1,))))
    return float((10 * torch.log10(4 / (run - full).square().flatten(1).mean(1))).median())


def test_the_sizes_of_an_exact_denoiser_agree():
    found = measured(FIELD.velocity, scales=(1 / 4, 1 / 2, 1))
    assert float(found.miss.max()) < 1e-20
    assert float(found.missing.max()) < 1e-20
    assert all(found.knows(g) for g in (0, 1))
    # Negative control: one part in a thousand is seen.
    assert float(measured(wrong(1.001)).miss.max()) > 1e-9


def test_a_planted_disagreement_is_found_at_its_size_and_place():
    """``C = gain R`` misses R by ``(1 - gain)^2 |R|^2``, all of it B; the other size stays exact."""
    gain = 0.8
    found = measured(wrong(gain), scales=(1 / 4, 1 / 2, 1))
    noise = randn(6, 2, *FULL)
    velocity, x = wrong(gain), noise
    for k, (t, t_next) in enumerate(pairwise(TIMES)):
        v = velocity(x, t)
        expected = (0.2 * DCT.restrict(x - t * v, HALF) / 2).square().flatten(1).mean(1)
        assert_close(found.miss[:, 1, k], expected)
        x = x + (t_next - t) * v
    assert float(found.miss[:, 0].max()) < 1e-20
    assert float(found.missing.max()) < 1e-20
    # Negative controls: swapped sizes; the wrong ratio of sizes, which a wrong local time is.
    swapped = measured(wrong(gain, sizes=(4,)), scales=(1 / 4, 1 / 2, 1))
    assert float(swapped.miss[:, 1].max()) < 1e-20 < float(swapped.miss[:, 0].max())
    late = measured(lambda x, t: FIELD.velocity(x, align_time(t, 1.2) if x.shape[-1] == 8 else t))
    assert float(late.miss.mean()) > 1e-4


@pytest.mark.parametrize("plan", [PLAN, THREE], ids=["two stages", "three"])
def test_the_prediction_is_the_runs_own_distance_on_a_linear_network(plan):
    velocity, noise = wrong(0.9, sizes=(4, 8)), randn(6, 2, *FULL)
    found = measured(velocity, scales=(1 / 4, 1 / 2, 1))
    assert abs(found.psnr(plan) - psnr(velocity, plan, noise)) < 1.0
    # Negative control: another plan's prediction is another number.
    other = plan_at(TIMES, (TIMES[2],), FULL, scales=(1 / 2, 1))
    assert abs(found.psnr(other) - found.psnr(plan)) > 0.5
    with pytest.raises(ValueError, match="measure this plan's times"):
        found.psnr(make_plan(shift_times(9, shift=2.0), LAW, FULL, scales=(1 / 2, 1)))


def test_what_the_high_band_alone_tells_is_v_and_an_informed_call_closes_it():
    found = measured(told_by_the_high_band, seeds=16)
    early = slice(0, 5)
    # The best that sees y alone adds E[tanh] = 0, what the uninformed call adds: B is nothing beside V.
    assert abs(float((found.miss - found.missing)[:, 0, early].mean())) < 0.15 * float(
        found.missing[:, 0, early].mean()
    )
    noise = randn(16, 2, *FULL)

    def informed(x, t):
        return told_by_the_high_band(x, t, folded_noise(noise, HALF) if x.shape[-1] == 8 else None)

    known = psnr(informed, plan_at(TIMES, (TIMES[1],), FULL, scales=(1 / 2, 1)), noise)
    blind = psnr(told_by_the_high_band, plan_at(TIMES, (TIMES[1],), FULL, scales=(1 / 2, 1)), noise)
    assert known > 250 or known == math.inf  # the first step's high band is the field's own, exactly
    assert blind < 60
    assert found.left_at(0, 0, "informed") > found.left_at(0, 0, "repaired")


def test_a_size_the_network_does_not_know_is_called_so():
    def deaf(x, t):
        return x if x.shape[-1] == 8 else FIELD.velocity(x, t)

    found = measured(deaf, scales=(1 / 4, 1 / 2, 1))
    assert not found.knows(1)
    assert found.knows(0)
    assert "leave this size out" in found.verdict()[1]
    assert found.least_times(20)[HALF] == math.inf


def test_the_table_says_what_was_measured_and_a_search_keeps_to_it(tmp_path):
    found = measured(wrong(0.9), model="planted")
    noted = found.noted(PLAN)
    assert "sizes measured on 6 runs: as is" in str(noted)
    assert "planted: 6 full runs" in str(found)
    found.save(tmp_path / "sizes.pt")
    again = SizeAgreement.load(tmp_path / "sizes.pt")
    assert all(again.psnr(PLAN, kind) == found.psnr(PLAN, kind) for kind in KINDS)
    torch.save({}, tmp_path / "other.pt")
    torch.save({"type": "SizeAgreement", "x": 1}, tmp_path / "part.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("other.pt", "part.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name} holds no size agreement"):
            SizeAgreement.load(tmp_path / name)

    def cost(grid):
        return math.prod(grid) / 256

    options = {"budget": 4.5, "times": TIMES, "scales": (1 / 2,)}
    free = optimise_plan(LAW, FULL, cost, **options)
    level = found.psnr(free) + 3
    bound = optimise_plan(LAW, FULL, cost, least_times=found.least_times(level), **options | {"budget": 6.5})
    assert len(bound.stages) == 1 or found.psnr(bound) >= level
    assert min(bound.times[s.stop] for s in bound.stages[:-1]) > min(free.times[s.stop] for s in free.stages[:-1])


def test_what_was_not_measured_is_refused_before_the_first_call():
    def never(x, t):
        raise AssertionError

    noise = randn(2, 3, *FULL)
    for options, message in (({"solver": "heun"}, "solver = 'heun'"), ({"scales": (1,)}, "no smaller size to ask")):
        with pytest.raises(ValueError, match=message):
            size_agreement(never, noise, TIMES, **options)
    for measure in (size_agreement, calibrate):
        with pytest.raises(ValueError, match=r"noise has shape \(16, 16\), one grid without seeds"):
            measure(never, noise[0, 0], TIMES)
    found = measured(wrong(0.9), scales=(1 / 4, 1 / 2, 1))
    with pytest.raises(ValueError, match="kind = 'mended' must be"):
        found.psnr(PLAN, "mended")
    options = {"scales": (1 / 2, 1)}  # both stages' grids were measured, of the first plan as coarse ones
    for shape, more in ((HALF, {}), (FULL, {"basis": HAAR})):
        with pytest.raises(ValueError, match="measure this plan's times and scales"):
            found.psnr(plan_at(TIMES, (TIMES[5],), shape, **options, **more))


def test_on_the_small_transformer_the_prediction_held():
    """Rows of benchmarks/agreement.py: measured on other seeds than the runs, two and three stages at every delta."""
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "agreement.csv"
    rows = [row for row in csv.DictReader(path.open(newline="")) if row["way"] == "progressive, as is"]
    assert len(rows) >= 4
    assert max(abs(float(row["predicted"]) - float(row["psnr"])) for row in rows) < 2.0
    # Negative control: the prediction of a repaired network is not that of the network as it is.
    measured_by_split = {row["split"]: float(row["psnr"]) for row in rows}
    others = [row for row in csv.DictReader(path.open(newline="")) if row["way"] == "progressive, informed"]
    assert min(float(row["predicted"]) - measured_by_split[row["split"]] for row in others) > 2.0


def test_going_down_and_up_again_gives_the_low_band_back():
    x, t = randn(2, 3, *FULL), 0.7
    y, tau = restrict_aligned(x, HALF, t)
    up, time = expand_aligned(y, FULL, tau, noise=randn(2, 3, *FULL, seed=1))
    assert_close(DCT.restrict(up, HALF), DCT.restrict(x, HALF))
    assert math.isclose(time, t)


def test_folded_noise_is_the_high_band_point_by_point():
    w = randn(2, 3, *FULL)
    folded = folded_noise(w, HALF)
    assert_close(folded, torch.nn.functional.pixel_unshuffle(high_band(w, HALF), 2))
    assert_close(folded.square().sum(), high_band(w, HALF).square().sum())
    video = folded_noise(w.unsqueeze(2).expand(-1, -1, 5, -1, -1), QUARTER)
    assert video.shape == (2, 48, 5, *QUARTER)
    with pytest.raises(ValueError, match="must divide"):
        folded_noise(w, (6, 6))


def test_repair_recovers_the_analytic_gain():
    """A coarse call with a gain to learn, a gain wrong by construction: regressing on R finds the exact one, per frequency."""
    plan, k = PLAN, 3
    t = plan.times[k]
    x0, w = FIELD.sample((64, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64), randn(64, 2, *FULL)
    batch = agreement_sample(FIELD.velocity, (1 - t) * x0 + t * w, w, k, plan)
    said = DCT.forward(batch.denoised)
    state = DCT.forward(batch.x)
    learnt = (said * state).sum((0, 1)) / state.square().sum((0, 1))
    tau = float(batch.t[0])
    power = FIELD.power(HALF)
    exact = (1 - tau) * power / ((1 - tau) ** 2 * power + tau**2)
    assert_close(learnt, exact.to(learnt), factor=1e3)
    # Negative control: the gain of the full size's own time is another one.
    assert float(((1 - t) * power / ((1 - t) ** 2 * power + t**2) - learnt).abs().max()) > 0.05


def test_training_samples_refuse_what_has_no_full_size_answer():
    x = randn(2, 3, *FULL)
    with pytest.raises(ValueError, match="no full-size answer"):
        agreement_sample(FIELD.velocity, x, x, 6, PLAN)
    stage_clock = plan_at(TIMES, (TIMES[5],), FULL, scales=(1 / 2, 1), clock="stage")
    with pytest.raises(ValueError, match="no full-size answer"):
        agreement_sample(FIELD.velocity, x, x, 1, stage_clock)


def test_step_weights_are_the_samplers_own_response():
    """An error put into one step of a run on the bench, as the weights say; Euler, by running the field twice."""
    noise = randn(1, 1, *FULL)
    weights = step_weights(PLAN, LAW)
    assert math.isclose(sum(weights) / len(weights), 1.0)
    shape = DCT.inverse(torch.from_numpy(LAW.coefficients(HALF, DCT)).double().sqrt()[None, None])
    calls = []

    def wronged(step):
        def velocity(x, t):
            calls.append(t)
            v = FIELD.velocity(x, t)
            return v - 1e-3 * shape / t if len(calls) - 1 == step else v

        calls.clear()
        return sample(velocity, noise, PLAN)

    clean = wronged(-1)
    found = torch.tensor([float((wronged(k) - clean).square().sum()) for k in range(5)])
    assert_close(found / found.mean(), torch.tensor(weights), torch.float64, factor=1e8)
