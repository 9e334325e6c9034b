"""Two grids at once: exact extremes, the formula by hand, the error's bound, and what goes wrong with a wrong defect."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from strategies import randn
from tolerances import assert_close

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    FiniteDataset,
    GaussianField,
    PowerLaw,
    edit,
    passthrough,
    plan_at,
    predict,
    sample,
    shift_times,
)
from spectral_pd.solvers import SOLVERS, euler
from spectral_pd.theory import align_scale, align_time
from spectral_pd.two_grids import Pattern, Predictor, TwoGrids, anchored, bands, held, weights_shape

FULL, HALF, TIMES = (16, 16), (8, 8), shift_times(10, shift=2.0)
LAW = PowerLaw(60.0, 2.0, shape=FULL)


def network(x, t):
    """Nonlinear, mixes neighbours, other weights on other grids, no grid's answer the restriction of another's."""
    y = x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, -2)
    return x - torch.tanh(y * (1 - 0.4 * t)) * (0.8 + 0.2 * x.shape[-1] / 16)


def run(velocity, x, times=TIMES, solver="euler"):
    history = None
    for t, t_next in pairwise(times):
        x, history = SOLVERS[solver](velocity, x, t, t_next, history)
    return x


def two_grids(velocity, *, anchors, times=TIMES, shape=FULL, basis=DCT, **options):
    """The held rule."""
    return TwoGrids(velocity, held(anchored(times, shape, anchors=anchors, **options), basis=basis))


def silent(pattern, basis=DCT):
    """Weights that say nothing."""
    return Predictor(pattern, torch.zeros(weights_shape(pattern, basis), dtype=torch.float64), basis)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", [held, silent])
def test_every_step_an_anchor_is_the_full_run_bit_for_bit(solver, rule):
    x = randn(2, 3, *FULL, dtype=torch.float32)
    two = TwoGrids(network, rule(anchored(TIMES, FULL, anchors=range(10))))
    assert torch.equal(run(two, x, solver=solver), run(network, x, solver=solver))


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("basis", [DCT, HAAR, FOURIER], ids=repr)
def test_no_anchor_before_a_time_and_all_after_is_progressive_sampling(basis, solver):
    plan = plan_at(TIMES, (TIMES[6],), FULL, scales=(1 / 2, 1), basis=basis)
    x = randn(2, 3, *FULL)
    two = two_grids(network, anchors=range(6, 10), basis=basis)
    progressive = sample(network, x, plan, solver=solver)
    assert_close(run(two, x, solver=solver), progressive)
    assert two.calls == {HALF: 6, FULL: 4}
    # Negative control: one anchor more is another picture.
    more = two_grids(network, anchors=range(5, 10), basis=basis)
    assert float((run(more, x, solver=solver) - progressive).abs().max()) > 1e-3


def test_three_grids_without_defects_are_three_stages():
    plan = plan_at(TIMES, (TIMES[3], TIMES[7]), FULL, scales=(1 / 4, 1 / 2, 1))
    pattern = Pattern(TIMES, ((4, 4), HALF, FULL), ((0,),) * 3 + ((1,),) * 4 + ((2,),) * 3)
    x = randn(1, 2, *FULL)
    assert_close(run(TwoGrids(network, held(pattern)), x), sample(network, x, plan))
    # Negative control: without the half size in between.
    skipped = Pattern(TIMES, pattern.shapes, ((0,),) * 7 + ((2,),) * 3)
    assert float((run(TwoGrids(network, held(skipped)), x) - sample(network, x, plan)).abs().max()) > 1e-3


def test_between_anchors_the_low_band_is_corrected_and_the_high_band_held():
    x0, x1, (t0, t1) = randn(1, 2, *FULL), randn(1, 2, *FULL, seed=1), TIMES[:2]
    two = two_grids(network, anchors=(0,))

    def coarse(x, t):
        tau = align_time(t, 1 / 2)
        y = DCT.restrict(x, HALF) / align_scale(tau, 2.0)
        return y - tau * network(y, tau)

    anchor = x0 - t0 * network(x0, t0)
    two(x0, t0)
    defect = DCT.restrict(anchor, HALF) / 2 - coarse(x0, t0)
    high = anchor - DCT.embed(DCT.restrict(anchor, HALF), FULL)
    expected = 2 * DCT.embed(coarse(x1, t1) + defect, FULL) + high
    assert_close(x1 - t1 * two(x1, t1), expected)


def test_the_finest_call_of_a_step_corrects_the_bands_it_holds():
    """Three grids, by hand: an anchor that calls all, then a half-size call, each band moved by the finest call's change."""
    pattern = Pattern(TIMES, ((4, 4), HALF, FULL), ((0, 1, 2), (0, 1), *((2,),) * 8))
    (x0, x1), (t0, t1) = (randn(1, 2, *FULL, seed=s) for s in (0, 1)), TIMES[:2]
    two = TwoGrids(network, held(pattern))
    anchor = x0 - t0 * two(x0, t0)

    def half(x, t):
        tau = align_time(t, 1 / 2)
        y = DCT.restrict(x, HALF) / align_scale(tau, 2.0)
        return y - tau * network(y, tau)

    assert_close(x1 - t1 * two(x1, t1), anchor + 2 * DCT.embed(half(x1, t1) - half(x0, t0), FULL))


def test_every_feature_has_its_weight():
    """A run whose weights name one feature at a time gives back exactly what that feature was."""
    pattern = Pattern(TIMES[-5:], (HALF, FULL), ((0, 1), (0, 1), (0,), (0,)))
    states = [randn(1, 1, *FULL, seed=s) for s in range(4)]

    def low(x, t):
        tau = align_time(t, 1 / 2)
        y = DCT.restrict(x, HALF) / align_scale(tau, 2.0)
        return 2 * DCT.embed(y - tau * network(y, tau), FULL)

    said = [x - t * network(x, t) for x, t in zip(states, pattern.times, strict=False)]
    small = [low(x, t) for x, t in zip(states, pattern.times, strict=False)]
    # State, start, estimates 1 and 2 back, half-size call now, last, before, full-size call last, before.
    features = {
        0: states[2],
        1: states[0],
        2: said[1],
        3: said[0],
        4: small[2],
        5: small[1],
        6: small[0],
        8: said[1],
        9: said[0],
    }
    for feature, expected in features.items():
        rule = silent(pattern)
        rule.weights[2, :, feature] = 1.0
        two = TwoGrids(network, rule)
        for x, t in zip(states[:3], pattern.times, strict=False):
            v = two(x, t)
        assert_close(x - t * v, expected)


def test_error_is_bounded_by_the_drift_since_the_anchor():
    """``e' <= (q + (1 - q) L) e + (1 - q) sqrt(r^2 |d - d_a|^2 + |H - H_a|^2)``, q = T'/T, L the field's largest gain."""
    field = GaussianField(LAW, FULL)

    def denoiser(x, t):
        # Sizes that disagree: the small grid's answer is too weak, by an amount that drifts.
        return (x - t * field.velocity(x, t)) * (1.0 if x.shape[-1] == 16 else 0.9 - 0.2 * t)

    def velocity(x, t):
        return (x - denoiser(x, t)) / t

    two = two_grids(velocity, anchors=(0, 5))
    x = moved = randn(1, 1, *FULL)
    bound, ratios = 0.0, []
    for k, (t, t_next) in enumerate(pairwise(TIMES)):
        tau = align_time(t, 1 / 2)
        full, coarse = denoiser(moved, t), denoiser(DCT.restrict(moved, HALF) / align_scale(tau, 2.0), tau)
        defect, high = DCT.restrict(full, HALF) / 2 - coarse, full - DCT.embed(DCT.restrict(full, HALF), FULL)
        if k in (0, 5):
            held = defect, high
        drift = (4 * (defect - held[0]).square().sum() + (high - held[1]).square().sum()).sqrt()
        step = 1 - t_next / t
        power = torch.tensor([float(LAW(0.5)), float(LAW(11.0))])
        gain = float(((1 - t) * power / ((1 - t) ** 2 * power + t**2)).max())
        bound = (t_next / t + step * gain) * bound + step * float(drift)
        x, moved = euler(velocity, x, t, t_next)[0], euler(two, moved, t, t_next)[0]
        error = float((moved - x).norm())
        assert error <= bound * (1 + 1e-9) + 1e-12
        ratios.append(error / bound if bound > 1e-12 else 1.0)
    assert min(ratios) > 0.05, "a bound that says nothing"
    assert error > 1e-3


def test_on_the_exact_bench_it_is_not_worse_than_progressive_sampling():
    field, times = GaussianField(LAW, FULL), shift_times(20, shift=2.0)
    x = randn(8, 1, *FULL)
    reference = run(field.velocity, x, times)

    def error(anchors):
        two = two_grids(field.velocity, anchors=anchors, times=times)
        return float((run(two, x, times) - reference).norm())

    # The same number of full-size calls, late as in progressive sampling, or spread.
    assert error((4, 7, 10, 12, 14, 16, 18, 19)) < error(range(12, 20))


@pytest.fixture(scope="module")
def data():
    """An exact nonlinear denoiser that works on every grid: smooth random pictures of two contrasts."""
    pictures = GaussianField(LAW, FULL).sample((12, 1), generator=torch.Generator().manual_seed(3)) * 0.3
    return FiniteDataset(torch.cat([pictures, 1.5 * pictures.flip(-1)]), bandwidth=0.4)


@pytest.mark.parametrize("fault", ["defect of another seed", "high band of another anchor", "wrong tau"])
def test_a_wrong_correction_is_worse(data, fault):
    rule, x = held(anchored(TIMES, FULL, anchors=(0, 3, 6))), randn(16, 1, *FULL)

    class Wrong(TwoGrids):
        def __call__(self, x, t):
            v = super().__call__(x, t)
            anchor, low = self._estimates[0], (..., slice(8), slice(8))
            if self._step == 0:
                self.first = anchor.clone()
            if self._step in (0, 3, 6) and fault == "defect of another seed":
                coarse = self._past[0][0]
                anchor[low] = coarse + (anchor[low] - coarse).roll(1, 0)
            if self._step in (3, 6) and fault == "high band of another anchor":
                self._estimates[0] = self.first.clone()
                self._estimates[0][low] = anchor[low]
            return v

        def _ask(self, x, t, index):
            if index or fault != "wrong tau":
                return super()._ask(x, t, index)
            y = DCT.restrict(x, HALF) / align_scale(align_time(t, 1 / 2), 2.0)
            v = self.velocity(y, t)
            return v, 2 * DCT.forward(y - t * v)

    # A time is right or wrong where sizes agree, on the exact field.
    velocity = GaussianField(LAW, FULL).velocity if fault == "wrong tau" else data.velocity
    reference = run(velocity, x)
    right, wrong = ((run(kind(velocity, rule), x) - reference).norm() for kind in (TwoGrids, Wrong))
    assert right < 0.9 * wrong


def test_heun_makes_the_next_times_calls_at_the_end_of_its_step():
    two = two_grids(network, anchors=(0, 5))
    run(two, randn(1, 1, *FULL), solver="heun")
    # Ten times; all but the first are called twice, by the predictor and by the next step.
    assert two.calls == {HALF: 19, FULL: 3}


def test_item_of_a_batch_is_a_batch_of_one():
    x = randn(3, 2, *FULL)
    batch = run(two_grids(network, anchors=(1, 6)), x)
    assert_close(batch[1:2], run(two_grids(network, anchors=(1, 6)), x[1:2]))


@pytest.mark.parametrize("shape", [(12,), (4, 8, 8)])
def test_any_number_of_axes(shape):
    times, x = TIMES, randn(2, *shape)
    field = GaussianField(lambda omega: 20 / (1 + omega**2), shape)
    spread = run(two_grids(field.velocity, anchors=(0, 5), times=times, shape=shape), x)
    reference = run(field.velocity, x)
    zero = two_grids(field.velocity, anchors=(), times=times, shape=shape)
    assert (spread - reference).norm() < (run(zero, x) - reference).norm()


def test_calls_out_of_order_are_refused():
    two, x = two_grids(network, anchors=(0,)), randn(1, 1, *FULL)
    with pytest.raises(ValueError, match="next comes 1"):
        two(x, TIMES[1])
    two(x, TIMES[0])
    with pytest.raises(ValueError, match="next comes"):
        two(x, TIMES[2])
    with pytest.raises(ValueError, match="next comes"):
        two(x, (TIMES[0] + TIMES[1]) / 2)
    with pytest.raises(ValueError, match="full grid"):
        two(randn(1, 1, 8, 8), TIMES[1])
    two.reset()
    run(two, x)
    with pytest.raises(ValueError, match="the run is over"):
        two(x, TIMES[0])
    two.reset()
    again = run(two, x)
    assert torch.equal(again, run(TwoGrids(network, two.predictor), x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TIMES, (FULL, HALF), ((0,),) * 10), "grow"),
        ((TIMES, (HALF, FULL), ((0,),) * 9), "9 steps"),
        ((TIMES, (HALF, FULL), ((1, 0),) * 10), "ascending"),
        ((TIMES, (HALF, FULL), ((2,),) * 10), "ascending"),
        ((TIMES, (HALF, FULL), ((),) * 10), "not all empty"),
        ((TIMES, (), ((),) * 10), "empty"),
    ],
)
def test_bad_patterns(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pattern(*arguments)


def test_bad_arguments():
    pattern = anchored(TIMES, FULL, anchors=(0,))
    with pytest.raises(ValueError, match="anchors"):
        anchored(TIMES, FULL, anchors=(10,))
    with pytest.raises(TypeError, match="anchors is 3; pass numbers of steps"):
        anchored(TIMES, FULL, anchors=3)
    assert anchored(TIMES, FULL, anchors=torch.tensor([0, 3])) == anchored(TIMES, FULL, anchors=(0, 3))
    with pytest.raises(TypeError, match="velocity"):
        TwoGrids(None, held(pattern))
    with pytest.raises(TypeError, match="predictor is Pattern"):
        TwoGrids(network, pattern)
    with pytest.raises(ValueError, match="weights have shape"):
        Predictor(pattern, silent(pattern).weights[1:])
    with pytest.raises(ValueError, match=r"step 1 calls \(8, 8\), which step 0 did not"):
        held(Pattern(TIMES, (HALF, FULL), ((1,), (0,), *((1,),) * 8)))
    with pytest.raises(ValueError, match="haar"):
        held(anchored(TIMES, (12, 12), anchors=(0,), scales=(2 / 3, 1)), basis=HAAR)
    with pytest.raises(ValueError, match="nested"):
        held(Pattern(TIMES, ((4, 8), (8, 8)), ((1,),) * 10), basis=HAAR)


def test_a_pattern_is_a_plan_with_its_calls_and_their_cost():
    pattern = anchored(TIMES, (64, 64), anchors=(0, 5, 9), scales=(1 / 4, 1 / 2, 1))
    cost = {64: 1.0, 32: 0.25, 16: 0.0625}
    plan = held(pattern).plan
    assert (
        pattern.cost(lambda shape: cost[shape[0]])
        == plan.cost(lambda shape: cost[shape[0]])
        == 3 + 2 * 0.25 + 9 * 0.0625
    )
    assert plan.speedup(lambda shape: cost[shape[0]]) == 10 / plan.cost(lambda shape: cost[shape[0]])
    lines = str(plan).splitlines()
    assert lines[0] == "10 steps, calls (Fhq)qqqq(Fhq)qqqF"
    assert [line.split()[:3] for line in lines[2:5]] == [["q", "16x16", "9"], ["h", "32x32", "2"], ["F", "64x64", "3"]]
    assert str(Pattern(TIMES, (HALF, FULL), ((1,), (), *((0,),) * 8))) == "F.hhhhhhhh"


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_sample_takes_the_plan_of_a_pattern(solver):
    """It is the run of the wrapped velocity, a new one every time; with every step an anchor, plain sampling."""
    x, plan = randn(2, 3, *FULL), held(anchored(TIMES, FULL, anchors=(0, 3, 9))).plan
    expected = run(TwoGrids(network, plan.calls), x, TIMES, solver)
    for _ in range(2):
        assert torch.equal(sample(network, x, plan, solver=solver), expected)
    plain = sample(network, x, plan_at(TIMES, (), FULL, scales=(1.0,)), solver=solver)
    assert torch.equal(sample(network, x, held(anchored(TIMES, FULL, anchors=range(10))).plan, solver=solver), plain)
    assert not torch.equal(plain, expected)


def test_verbs_of_stages_refuse_the_plan_of_a_pattern():
    plan, x = held(anchored(TIMES, FULL, anchors=(0, 3))).plan, randn(1, 1, *FULL)
    for verb in (
        lambda: edit(network, x, plan, stage=0, seed=0),
        lambda: passthrough(network, x, plan, LAW, 0.1),
        lambda: predict(plan, GaussianField(LAW, FULL)),
    ):
        with pytest.raises(ValueError, match="plan calls several grids"):
            verb()


def test_an_answer_that_does_not_come_leaves_the_run_as_it_was():
    """What a loop that is not ours does: end the call where an answer is missing, and ask again when it is there."""
    predictor, x = held(anchored(TIMES, FULL, anchors=(0, 3))), randn(1, 2, *FULL)
    two, known = TwoGrids(network, predictor), [0]

    class Missing(Exception):
        pass

    def late(state, t):
        if known[0] == 0:
            known[0] = 1
            raise Missing
        known[0] -= 1
        return network(state, t)

    interrupted = TwoGrids(late, predictor)
    for t, t_next in pairwise(TIMES):
        while True:
            try:
                v = interrupted(x, t)
                break
            except Missing:
                known[0] = 2  # enough for the calls of any step
        assert torch.equal(v, two(x, t))
        known[0] = 0
        x = x + (t_next - t) * v


def test_bands_end_where_a_coarser_grid_does():
    label, owner = bands(((8, 8), (16, 16), (32, 32)), DCT)
    for index, n in enumerate((8, 16, 32)):
        assert int(owner[label[:n, :n]].max()) == index
    counts = torch.bincount(label.flatten())
    assert int(counts.min()) >= 16
    assert len(owner) > 6
