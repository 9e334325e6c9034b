"""Calibration: moments, simulated runs against real ones, the search, the file.

Three toys. A TABLE answers what is written there, whatever the state: second moments say everything, so weights and errors from
them must be those of the runs to rounding. A SHUFFLER's answer follows the state by a share and by a shuffle that nothing else
in the run knows of, which is what the simulation takes answers for. The BENT field is neither: nonlinear, other on every grid.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import DCT, GaussianField, PowerLaw, shift_times
from spectral_pd.agreement import size_agreement
from spectral_pd.calibrate import Calibration, calibrate, choose_pattern, forecast, refine, simulate, speeds
from spectral_pd.solvers import SOLVERS
from spectral_pd.two_grids import Pattern, TwoGrids, bands

FULL, TIMES, SCALES = (16, 16), shift_times(12, shift=2.0), (1 / 4, 1 / 2, 1.0)
SHAPES = ((4, 4), (8, 8), FULL)
FIELD = GaussianField(PowerLaw(60.0, 2.0, shape=FULL), FULL)


def bent(x, t):
    """The exact denoiser's answer, bent: nonlinear, and of another strength on every grid."""
    denoised = x - t * FIELD.velocity(x, t)
    return (x - torch.tanh(denoised * (1.2 - 0.2 * x.shape[-1] / 16)) * 1.1) / t


def table(pictures, times=TIMES):
    """A velocity that answers ``pictures[k]`` at the k-th time, on a coarse grid with its low band."""

    def velocity(x, t):
        ratio = 16 / x.shape[-1]
        clock = ratio * t / (1 + (ratio - 1) * t)
        said = pictures[min(range(len(times)), key=lambda k: abs(times[k] - clock))]
        return (x - DCT.restrict(said, tuple(x.shape[-2:])) / ratio) / t

    return velocity


def shuffler(x, t):
    """A share of the state and a shuffle of it inside every band, another one at every time."""
    if x.shape[-1] < 16:
        return x
    label = bands(SHAPES, DCT)[0].flatten()
    c = DCT.forward(x).flatten(-2)
    shuffled = torch.empty_like(c)
    generator = torch.Generator().manual_seed(round(1e6 * t))
    for band in range(int(label.max()) + 1):
        inside = (label == band).nonzero()[:, 0]
        signs = torch.randint(2, (len(inside),), generator=generator) * 2 - 1
        shuffled[..., inside] = c[..., inside[torch.randperm(len(inside), generator=generator)]] * signs
    return (x - DCT.inverse((0.3 * c + 0.4 * shuffled).reshape(x.shape))) / t


def cost(shape):
    return math.prod(shape) / 256


def run(velocity, x, times=TIMES, solver="dpmpp_2m"):
    history = None
    for t, t_next in pairwise(times):
        x, history = SOLVERS[solver](velocity, x, t, t_next, history)
    return x


def errors(velocity, predictor, x, solver="dpmpp_2m"):
    """Mean squared error of each item's picture to the full run's."""
    difference = run(TwoGrids(velocity, predictor), x, solver=solver) - run(velocity, x, solver=solver)
    return difference.square().flatten(1).mean(1)


def measured(velocity, outcome, x, solver="dpmpp_2m"):
    """Median PSNR of an outcome's run to the full run."""
    return float((10 * torch.log10(4 / errors(velocity, outcome.predictor, x, solver))).quantile(0.5))


def drawn(count, seed, *, letters=(0.4, 0.1, 0.2, 0.3)):
    """Patterns of random calls, at least one of them at full size; `letters`: shares of none, quarter, half, full."""
    rng = np.random.default_rng(seed)
    while count:
        grids = rng.choice(4, size=12, p=letters)
        if 3 in grids:
            count -= 1
            yield Pattern(TIMES, SHAPES, tuple((int(g) - 1,) if g else () for g in grids))


def as_called(patterns, grids=3):
    return torch.tensor([[[g in step for g in range(grids)] for step in pattern.calls] for pattern in patterns])


@pytest.fixture(scope="module")
def calibration():
    return calibrate(bent, randn(16, 2, *FULL), TIMES, scales=SCALES, model="bent field")


def test_moments_are_those_of_the_recorded_run(calibration):
    x = randn(16, 2, *FULL)
    coefficients = DCT.forward(x)
    first = x - bent(x, 1.0)  # D_0
    label, owner = bands(SHAPES, DCT)
    for band in range(len(owner)):
        inside = (coefficients * DCT.forward(first))[..., label == band].sum() / x.numel()
        assert calibration.moments[band, 0, 3] == pytest.approx(float(inside), rel=1e-9)
    assert calibration.moments[:, 0, 0].sum() == pytest.approx(float(x.square().mean()))
    # A coarse grid has no part in the bands above it.
    assert not calibration.moments[owner > 0][:, 1::3].any()


def test_every_step_called_is_the_full_run(calibration):
    assert float(simulate(calibration, torch.ones(1, 12, 3, dtype=torch.bool))[0]) < 1e-20


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_error_and_weights_of_a_table_are_exact(solver):
    """Every pattern's error from the moments is its runs' on the same seeds, and its weights are those fitted in the runs."""
    x = randn(8, 2, *FULL)
    walk = torch.stack([0.3 * randn(8, 2, *FULL, seed=1 + k) for k in range(13)]).cumsum(0) + 0.2 * x
    velocity, patterns = table(walk), list(drawn(10, seed=2))
    found = calibrate(velocity, x, TIMES, scales=SCALES, solver=solver)
    error, weights = simulate(found, as_called(patterns))
    for pattern, e, w, fitted in zip(patterns, error, weights, refine(velocity, x, found, patterns), strict=True):
        outcome = forecast(found, [pattern])[0]
        assert float(errors(velocity, outcome.predictor, x, solver).mean()) == pytest.approx(float(e), rel=1e-6)
        for k, step in enumerate(pattern.calls):
            if 2 not in step:
                torch.testing.assert_close(fitted.predictor.weights[k], w[k], rtol=1e-5, atol=1e-6)
    # Negative control: the moments of another table say something else.
    other = calibrate(table(walk.flip(0)), x, TIMES, scales=SCALES, solver=solver)
    assert float((simulate(other, as_called(patterns))[0] / error - 1).abs().min()) > 1e-3


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_prediction_knows_how_answers_follow_a_runs_own_error(solver):
    """Ten patterns on other seeds, to 0.3 dB; without the measured gain and rest of the answers it is off by far more."""
    found = calibrate(shuffler, randn(32, 2, *FULL), TIMES, scales=(1 / 4, 1 / 2, 1), solver=solver)
    assert not found.gain[0].any()  # nothing has moved yet
    torch.testing.assert_close(found.gain[1:, 2].mean(0), torch.full((5,), 0.3).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(found.noise[1:, 2], torch.full((11, 5), 0.16).double(), rtol=0, atol=0.01)
    patterns = list(drawn(10, seed=3, letters=(0.4, 0, 0, 0.6)))
    x = randn(32, 2, *FULL, seed=1)
    actual = torch.stack([errors(shuffler, one.predictor, x, solver).mean() for one in forecast(found, patterns)])
    blind = replace(found, gain=torch.zeros_like(found.gain), noise=torch.zeros_like(found.noise))
    seen, unseen = (
        (10 * torch.log10(simulate(one, as_called(patterns))[0] / actual)).abs().max() for one in (found, blind)
    )
    assert seen < 0.3
    assert unseen > 1.0


def test_prediction_on_the_bent_field(calibration):
    x = randn(24, 2, *FULL, seed=1)
    outcomes = forecast(calibration, list(drawn(20, seed=2)), cost=cost)
    misses = [one.psnr - measured(bent, one, x) for one in outcomes]
    assert np.median(np.abs(misses)) < 1.5


def test_the_search_finds_the_best_of_all_patterns():
    """Six steps, two grids: all 3^6 patterns can be tried."""
    times = shift_times(6, shift=2.0)
    found = calibrate(bent, randn(8, 2, *FULL), times, scales=(1 / 2, 1))
    choices = list(product(range(3), repeat=6))
    called = torch.nn.functional.one_hot(torch.tensor(choices), 3)[..., 1:].bool()
    error = simulate(found, called)[0]
    paid = called.double() @ torch.tensor([0.25, 1.0], dtype=torch.float64)
    for speed in (1.6, 2.0, 3.0, 4.0):
        affordable = torch.where(paid.sum(1) <= 6 / speed, error, math.inf)
        chosen = choose_pattern(found, speed, cost=cost)[0]
        assert as_called([chosen.pattern], 2).equal(called[affordable.argmin()][None]), speed
        alone = choose_pattern(found, speed, cost=cost, grids=(1,))[0]
        assert alone.psnr <= chosen.psnr
        assert not as_called([alone.pattern], 2)[..., 0].any()


def test_the_choice_is_not_beaten_by_random_patterns_of_its_cost(calibration):
    choice = choose_pattern(calibration, 2.5, cost=cost)[0]
    assert choice.cost <= 12 / 2.5
    x = randn(16, 2, *FULL, seed=1)
    others = [one for one in drawn(400, seed=3) if 0.9 <= one.cost(cost) / choice.cost <= 1][:20]
    found = [measured(bent, one, x) for one in forecast(calibration, others, cost=cost)]
    assert len(found) == 20
    assert max(found) < measured(bent, choice, x)


def test_more_money_buys_more_and_a_shortlist_is_of_patterns_that_differ(calibration):
    short = choose_pattern(calibration, 3.0, cost=cost, keep=4)
    for i, a in enumerate(short):
        for b in short[:i]:
            assert sum(p != q for p, q in zip(a.pattern.calls, b.pattern.calls, strict=True)) > 2
    values = [one.psnr for one in short]
    assert values == sorted(values, reverse=True)
    assert choose_pattern(calibration, 6.0, cost=cost)[0].psnr < values[0]


def test_refined_weights_are_the_best_of_a_step_in_its_own_run(calibration):
    """With one step left out, the picture is as good as that step's estimate: no other weights do better on the same seeds."""
    x = randn(16, 2, *FULL)
    for missing in (3, 7):
        pattern = Pattern(TIMES, SHAPES, tuple((1,) if k == missing else (2,) for k in range(12)))
        fitted = refine(bent, x, calibration, [pattern])[0]
        assert f"{fitted.psnr:.1f} dB measured" in fitted.plan.notes[0]
        assert fitted.psnr == pytest.approx(measured(bent, fitted, x), abs=1e-6)

        def missed(scale, predictor=fitted.predictor, k=missing):
            """Squared error of the step's estimate with the weights scaled."""
            two = TwoGrids(bent, replace(predictor, weights=predictor.weights * scale))
            state, history = x, None
            for t, t_next in pairwise(TIMES[: k + 2]):
                exact, said = state - t * bent(state, t), state - t * two(state, t)
                state, history = SOLVERS["dpmpp_2m"](lambda y, s, d=said: (y - d) / s, state, t, t_next, history)
            return float((said - exact).square().mean())

        assert missed(1.0) < min(missed(0.95), missed(1.05))


def test_fewer_features_say_less(calibration):
    called = torch.zeros(1, 12, 3, dtype=torch.bool)
    called[0, ::3, 2] = called[0, 1::3, 1] = True
    values = [float(simulate(calibration, called, features=f)[0]) for f in ([11], [4, 5, 7, 8, 10, 11], None)]
    assert values == sorted(values, reverse=True)


def test_weights_of_another_model_are_worse(calibration):
    """Negative control: moments of the field itself, which is not bent."""
    other = calibrate(FIELD.velocity, randn(16, 2, *FULL), TIMES, scales=SCALES)
    x, pattern = randn(16, 2, *FULL, seed=1), next(drawn(1, seed=5))
    right, wrong = (measured(bent, forecast(c, [pattern], cost=cost)[0], x) for c in (calibration, other))
    assert right > wrong + 3


def test_file_keeps_everything(calibration, tmp_path):
    calibration.save(tmp_path / "model.json")
    again = Calibration.load(tmp_path / "model.json")
    for name in ("model", "seeds", "times", "shapes", "solver", "basis", "spread"):
        assert getattr(again, name) == getattr(calibration, name)
    torch.testing.assert_close(again.moments, calibration.moments, rtol=1e-7, atol=1e-12)
    loaded, kept = (forecast(c, list(drawn(1, seed=6)), cost=cost)[0].psnr for c in (again, calibration))
    assert loaded == pytest.approx(kept, abs=0.01)
    for text in ("no JSON", "[]", '{"type": "PowerLaw"}', '{"type": "Calibration", "model": ""}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"JSON|Calibration"):
            Calibration.load(tmp_path / "other.json")


def test_few_steps_have_fewer_rows_and_a_perfect_pattern_is_measured(calibration):
    found = calibrate(bent, randn(2, 2, *FULL), shift_times(3, shift=2.0), scales=(1 / 2, 1))
    assert [row.split()[0] for row in speeds(found, (1.5, 3.0)).splitlines()[1:]] == ["1.50x", "3.00x"]
    assert speeds(found).splitlines()[-1].startswith("3.00x")
    with pytest.raises(ValueError, match=r"speedup = 4\.0 must lie between 1 and the number of steps, 3"):
        speeds(found, (3.0, 4.0))
    whole = Pattern(TIMES, SHAPES, ((2,),) * 12)
    assert refine(bent, randn(2, 2, *FULL), calibration, [whole])[0].psnr > 250


@pytest.mark.parametrize("measure", [calibrate, size_agreement])
def test_answers_that_are_no_numbers_are_no_measurement(measure):
    with pytest.raises(ValueError, match="answers hold NaN"):
        measure(lambda x, t: bent(x, t) * (math.nan if t < 0.5 else 1.0), randn(2, 2, *FULL), TIMES)


def test_bad_arguments(calibration):
    with pytest.raises(ValueError, match="solver = 'heun' must be 'euler' or 'dpmpp_2m'"):
        calibrate(bent, randn(2, 2, *FULL), TIMES, solver="heun")
    with pytest.raises(TypeError, match="noise"):
        calibrate(bent, None, TIMES)
    for speed in (1.0, 13.0, -1.0):
        with pytest.raises(ValueError, match="speedup"):
            choose_pattern(calibration, speed)
    with pytest.raises(ValueError, match="grids"):
        choose_pattern(calibration, 2.0, grids=(3,))
    with pytest.raises(TypeError, match="cost is str; pass a function of the grid"):
        choose_pattern(calibration, 2.0, cost="flux")
    with pytest.raises(TypeError, match="grids is 2; pass numbers of grids"):
        choose_pattern(calibration, 2.0, grids=2)
    with pytest.raises(TypeError, match="calibration is list"):
        choose_pattern([], 2.0)
    with pytest.raises(ValueError, match="times"):
        forecast(calibration, [Pattern(TIMES[1:], SHAPES, ((2,),) * 11)])
    with pytest.raises(ValueError, match="grids"):
        refine(bent, randn(2, 2, *FULL), calibration, [Pattern(TIMES, SHAPES[1:], ((1,),) * 12)])
