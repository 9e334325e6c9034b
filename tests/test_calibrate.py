"""Calibration: moments, simulated runs against real ones, the search, the file."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import GaussianField, PowerLaw, shift_times
from spectral_pd.calibrate import Calibration, calibrate, choose_pattern, drifts, forecast, refine, simulate
from spectral_pd.solvers import SOLVERS
from spectral_pd.two_grids import TwoGrids, make_bands

FULL, TIMES, SCALES = (16, 16), shift_times(12, shift=2.0), (1 / 4, 1 / 2, 1.0)
FIELD = GaussianField(PowerLaw(60.0, 2.0, shape=FULL), FULL)


def velocity(x, t):
    """The exact denoiser's answer, bent: nonlinear, and of another strength on every grid."""
    denoised = x - t * FIELD.velocity(x, t)
    return (x - torch.tanh(denoised * (1.2 - 0.2 * x.shape[-1] / 16)) * 1.1) / t


def cost(shape):
    return math.prod(shape) / 256


def run(velocity, x, times=TIMES, solver="dpmpp_2m"):
    history = None
    for t, t_next in pairwise(times):
        x, history = SOLVERS[solver](velocity, x, t, t_next, history)
    return x


def psnr(a, b):
    return float((10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))).quantile(0.5))


def measured(outcome, x, solver="dpmpp_2m"):
    """PSNR of an outcome's run to the full run."""
    two = TwoGrids(velocity, outcome.pattern, predictor=outcome.predictor)
    return psnr(run(two, x, solver=solver), run(velocity, x, solver=solver))


@pytest.fixture(scope="module")
def calibration():
    return calibrate(velocity, randn(16, 2, *FULL), TIMES, scales=SCALES, model="bent field")


def drawn(count, seed):
    """Random calls, at least one of them at full size."""
    rng = np.random.default_rng(seed)
    while count:
        grids = rng.choice(4, size=12, p=(0.4, 0.1, 0.2, 0.3))
        if 3 in grids:
            count -= 1
            yield tuple((int(g) - 1,) if g else () for g in grids)


def test_moments_are_those_of_the_recorded_run(calibration):
    x = randn(16, 2, *FULL)
    coefficients = FIELD.basis.forward(x)
    first = x - velocity(x, 1.0)  # D_0
    label = make_bands(calibration.shapes).label
    for band in range(calibration.moments.shape[0]):
        inside = (coefficients * FIELD.basis.forward(first))[..., label == band].sum() / x.numel()
        assert calibration.moments[band, 0, 3] == pytest.approx(float(inside), rel=1e-9)
    assert calibration.moments[:, 0, 0].sum() == pytest.approx(float(x.square().mean()))
    # A coarse grid has no part in the bands above it.
    above = torch.tensor(make_bands(calibration.shapes).grid) > 0
    assert not calibration.moments[above][:, 1::3].any()


def test_every_step_called_is_the_full_run(calibration):
    error, _ = simulate(calibration, torch.ones(1, 12, 3, dtype=torch.bool))
    assert float(error) < 1e-20


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_prediction_of_patterns_it_has_not_seen(solver):
    """Ten random patterns, other seeds than the calibration's. The field is bent harder than networks are."""
    found = calibrate(velocity, randn(16, 2, *FULL), TIMES, scales=SCALES, solver=solver)
    x = randn(24, 2, *FULL, seed=1)
    outcomes = forecast(found, list(drawn(10, seed=2)), cost=cost)
    predicted, found = ([f(one) for one in outcomes] for f in (lambda o: o.psnr, lambda o: measured(o, x, solver)))
    assert np.median(np.abs(np.subtract(predicted, found))) < 2.5
    assert np.corrcoef(predicted, found)[0, 1] > 0.8


def test_the_choice_is_not_beaten_by_random_patterns_of_its_cost(calibration):
    choice = choose_pattern(calibration, 2.5, cost=cost, rounds=6)[0]
    assert choice.cost <= 12 / 2.5
    x = randn(16, 2, *FULL, seed=1)
    others = [
        calls
        for calls in drawn(400, seed=3)
        if 0.9 <= sum(cost(calibration.shapes[g]) for step in calls for g in step) / choice.cost <= 1
    ]
    found = [measured(one, x) for one in forecast(calibration, others[:20], cost=cost)]
    assert len(found) == 20
    assert max(found) < measured(choice, x) + 0.5


def test_more_money_buys_more(calibration):
    values = [choose_pattern(calibration, speed, cost=cost, rounds=1)[0].psnr for speed in (4.0, 2.0, 1.3)]
    assert values == sorted(values)


def test_a_shortlist_is_of_patterns_that_differ(calibration):
    short = choose_pattern(calibration, 3.0, cost=cost, rounds=1, keep=4)
    for i, a in enumerate(short):
        for b in short[:i]:
            assert sum(p != q for p, q in zip(a.pattern.calls, b.pattern.calls, strict=True)) > 2
    assert [one.psnr for one in short] == sorted((one.psnr for one in short), reverse=True)


def test_refined_weights_know_their_own_errors(calibration):
    x = randn(16, 2, *FULL)
    patterns = forecast(calibration, list(drawn(6, seed=4)), cost=cost)
    refined = refine(velocity, x, calibration, [one.pattern for one in patterns], cost=cost)
    gains = [b.psnr - measured(a, x) for a, b in zip(patterns, refined, strict=True)]
    assert np.mean(gains) > 0
    assert min(gains) > -1.0
    for one in refined:
        assert one.psnr == pytest.approx(measured(one, x), abs=1e-6)


def test_fewer_features_say_less(calibration):
    called = torch.zeros(1, 12, 3, dtype=torch.bool)
    called[0, ::3, 2] = called[0, 1::3, 1] = True
    errors = [float(simulate(calibration, called, features=f)[0]) for f in ([11], [4, 5, 7, 8, 10, 11], None)]
    assert errors == sorted(errors, reverse=True)


def test_weights_of_another_model_are_worse(calibration):
    """Negative control: moments of the field itself, which is not bent."""
    other = calibrate(FIELD.velocity, randn(16, 2, *FULL), TIMES, scales=SCALES)
    x, calls = randn(16, 2, *FULL, seed=1), list(drawn(1, seed=5))
    right, wrong = (measured(forecast(c, calls, cost=cost)[0], x) for c in (calibration, other))
    assert right > wrong + 3


def test_drifts_fall_with_what_is_known(calibration):
    drift = drifts(calibration)
    steps = range(1, 12)
    for k in steps:
        known = drift[:, : k + 1, k]
        # A call of the step itself, and an anchor at all, can only help.
        assert (known[1:] <= known[0] * 1.1).all()  # the ridge
        assert (known[:, 1:] <= known[:, :1] * 1.1).all()  # the ridge
    assert drift[0, 8, 11] < drift[0, 2, 11]


def test_file_keeps_everything(calibration, tmp_path):
    calibration.save(tmp_path / "model.json")
    again = Calibration.load(tmp_path / "model.json")
    assert (again.model, again.times, again.shapes) == (calibration.model, calibration.times, calibration.shapes)
    torch.testing.assert_close(again.moments, calibration.moments, rtol=1e-7, atol=1e-12)
    loaded, kept = (forecast(c, list(drawn(1, seed=6)), cost=cost)[0].psnr for c in (again, calibration))
    assert loaded == pytest.approx(kept, abs=0.01)
    for text in ("no JSON", "[]", '{"type": "PowerLaw"}', '{"type": "Calibration", "model": ""}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="JSON|Calibration"):
            Calibration.load(tmp_path / "other.json")


def test_bad_arguments(calibration):
    with pytest.raises(ValueError, match="heun"):
        calibrate(velocity, randn(2, 2, *FULL), TIMES, solver="heun")
    with pytest.raises(TypeError, match="noise"):
        calibrate(velocity, None, TIMES)
    for speed in (1.0, 13.0, -1.0):
        with pytest.raises(ValueError, match="speedup"):
            choose_pattern(calibration, speed)
    with pytest.raises(ValueError, match="calls"):
        forecast(calibration, [[(0,)] * 3])
