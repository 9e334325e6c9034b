"""Growing a state: what is kept, what is new, and how the aligned state continues the flow-matching path."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import bases, basis_pairs, dtypes, inner_times, randn, seeds, times
from tolerances import assert_close, z_score

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    NoiseField,
    align_scale,
    align_time,
    expand,
    expand_aligned,
    restrict_noise,
    restrict_signal,
)
from spectral_pd.bases import BASES, corner, size_ratio


def in_coefficients(x, fine, t, w, basis):
    """The paper's own words: transform, low corner, fill with t times noise, transform back."""
    dims = len(fine)
    c = t * basis.forward(w, dims=dims)
    c[corner(x.shape[-dims:])] = basis.forward(x, dims=dims)
    return basis.inverse(c, dims=dims)


@given(case=basis_pairs(), t=times, dtype=dtypes, seed=st.integers(0, 2**16))
def test_expansion_is_the_exchange_of_the_low_band(case, t, dtype, seed):
    """``U x + t (w - U U^T w)`` equals filling the new coefficients; ``t = 1, x = U^T w`` gives w back."""
    basis, coarse, fine = case
    x, w = randn(2, 3, *coarse, seed=seed, dtype=dtype), randn(2, 3, *fine, seed=seed + 1, dtype=dtype)
    y = expand(x, fine, t, noise=w, basis=basis)
    assert y.shape == w.shape
    assert y.dtype == dtype
    assert_close(y, in_coefficients(x.double(), fine, t, w.double(), basis), dtype)
    assert_close(expand(basis.restrict(w, coarse), fine, 1.0, noise=w, basis=basis), w)


@given(case=basis_pairs(), t=times, seed=st.integers(0, 2**16))
def test_shared_band_is_kept_and_new_band_has_level_t(case, t, seed):
    basis, coarse, fine = case
    dims = len(fine)
    x, w = randn(2, *coarse, seed=seed), randn(2, *fine, seed=seed + 1)
    y = expand(x, fine, t, noise=w, basis=basis)
    assert_close(basis.restrict(y, coarse), x)
    c, n = basis.forward(y, dims=dims), basis.forward(w, dims=dims)
    c[corner(coarse)], n[corner(coarse)] = 0, 0
    assert_close(c, t * n)


def test_exchange_check_fails_without_the_complement():
    """Negative control: ``U x + t w`` adds the field's low band to the state."""
    x, w = randn(1, 4, 4, seed=1), randn(1, 8, 8, seed=2)
    wrong = DCT.embed(x, (8, 8)) + 0.7 * w
    assert (DCT.restrict(wrong, (4, 4)) - x).abs().max() > 0.5


@given(case=basis_pairs(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_energy_is_kept_at_time_zero(case, dtype, seed):
    """At t = 0 nothing is added and nothing lost, at every parity: not the Nyquist lines either."""
    basis, coarse, fine = case
    x, w = randn(2, *coarse, seed=seed, dtype=dtype), randn(2, *fine, seed=seed + 1, dtype=dtype)
    y = expand(x, fine, 0.0, noise=w, basis=basis)
    dims = tuple(range(1, len(fine) + 1))
    assert_close(y.square().sum(dims), x.square().sum(dims))


@given(case=basis_pairs(), t=times, seed=seeds)
def test_a_noise_field_is_its_rendering(case, t, seed):
    basis, coarse, fine = case
    dims = len(fine)
    x, field = randn(2, 3, *coarse, seed=5), NoiseField(seed, basis)
    w = field.on((2, 3, *fine), dims=dims, dtype=torch.float64)
    assert_close(expand(x, fine, t, noise=field, basis=basis), expand(x, fine, t, noise=w, basis=basis))


@given(case=basis_pairs(), t=times, dtype=dtypes, seed=st.integers(0, 2**16))
def test_aligned_is_kappa_times_expanded(case, t, dtype, seed):
    basis, coarse, fine = case
    r = size_ratio(coarse, fine)
    x, w = randn(2, *coarse, seed=seed, dtype=dtype), randn(2, *fine, seed=seed + 1, dtype=dtype)
    state, time = expand_aligned(x, fine, t, noise=w, basis=basis)
    assert type(time) is float
    assert time == align_time(t, r)
    assert_close(state, align_scale(t, r) * expand(x, fine, t, noise=w, basis=basis), dtype)


@given(case=basis_pairs(max_dims=2), t=times, seed=st.integers(0, 2**16))
def test_aligned_state_lies_on_the_path(case, t, seed):
    """From ``(1-t) x0 + t eps`` on the coarse grid to ``(1-t~) r U x0 + t~ eps'`` on the fine one, eps' white."""
    basis, coarse, fine = case
    r = size_ratio(coarse, fine)
    x0, eps, w = randn(1, *coarse, seed=seed), randn(1, *coarse, seed=seed + 1), randn(1, *fine, seed=seed + 2)
    state, time = expand_aligned((1 - t) * x0 + t * eps, fine, t, noise=w, basis=basis)
    white = basis.embed(eps, fine) + w - basis.embed(basis.restrict(w, coarse), fine)
    assert_close(state, (1 - time) * r * basis.embed(x0, fine) + time * white)


def test_path_check_fails_at_the_unaligned_time():
    """Negative control: without alignment the expanded state is of no level on the path."""
    x0, eps, w = randn(1, 4, 4, seed=1), randn(1, 4, 4, seed=2), randn(1, 8, 8, seed=3)
    white = DCT.embed(eps, (8, 8)) + w - DCT.embed(DCT.restrict(w, (4, 4)), (8, 8))
    wrong = expand(0.3 * x0 + 0.7 * eps, (8, 8), 0.7, noise=w)
    assert (wrong - (0.3 * 2 * DCT.embed(x0, (8, 8)) + 0.7 * white)).abs().max() > 0.1


@given(basis=bases, t=inner_times, seed=st.integers(0, 2**16))
def test_two_doublings_are_one_quadrupling(basis, t, seed):
    x, field = randn(1, 2, 3, 5, seed=seed), NoiseField(seed, basis)
    middle, between = expand_aligned(x, (6, 10), t, noise=field, basis=basis)
    twice, late = expand_aligned(middle, (12, 20), between, noise=field, basis=basis)
    once, time = expand_aligned(x, (12, 20), t, noise=field, basis=basis)
    assert late == pytest.approx(time, abs=1e-12)
    assert_close(twice, once)


@given(case=basis_pairs(max_dims=2), value=st.floats(-5, 5), t=times, dtype=dtypes)
def test_a_constant_in_a_constant_out(case, value, t, dtype):
    """Without noise a constant c at time t, that is (1-t) c, becomes (1-t~) c."""
    basis, coarse, fine = case
    x = torch.full((1, *coarse), (1 - t) * value, dtype=dtype)
    state, time = expand_aligned(x, fine, t, noise=torch.zeros(1, *fine, dtype=dtype), basis=basis)
    assert_close(state, torch.full((1, *fine), (1 - time) * value, dtype=dtype), factor=2)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_constant_three_at_point_seven(basis):
    x = torch.full((1, 1, 8, 8), 3 * (1 - 0.7), dtype=torch.float64)
    state, time = expand_aligned(x, (16, 16), 0.7, noise=torch.zeros(1, 1, 16, 16, dtype=torch.float64), basis=basis)
    assert time == pytest.approx(0.823529, abs=5e-7)
    assert float(state.min()) == pytest.approx(0.529412, abs=5e-7)
    assert float(state.max()) == pytest.approx(0.529412, abs=5e-7)


# -- statistics -------------------------------------------------------------------------------------------------------

GROWTH = [
    (DCT, (5, 8), (9, 11)),
    (DCT, (8, 8), (16, 16)),
    (HAAR, (3, 4), (6, 8)),
    (FOURIER, (8, 6), (11, 12)),
    (FOURIER, (8, 8), (16, 16)),
]


def covariance(grow, coarse, fine):
    """Covariance of ``grow(x, w)`` for independent white x and w: the sum of both linear maps' ``A A^T``, exactly."""
    n, m = math.prod(coarse), math.prod(fine)
    by_x = grow(torch.eye(n, dtype=torch.float64).reshape(n, *coarse), torch.zeros(n, *fine, dtype=torch.float64))
    by_w = grow(torch.zeros(m, *coarse, dtype=torch.float64), torch.eye(m, dtype=torch.float64).reshape(m, *fine))
    return sum(rows.reshape(-1, m).T @ rows.reshape(-1, m) for rows in (by_x, by_w))


@given(case=basis_pairs())
def test_covariance_of_grown_white_noise_is_the_identity(case):
    basis, coarse, fine = case
    actual = covariance(lambda x, w: expand(x, fine, 1.0, noise=w, basis=basis), coarse, fine)
    assert_close(actual, torch.eye(math.prod(fine), dtype=torch.float64))


def test_covariance_check_fails_without_the_complement():
    """Negative control: ``U x + w`` holds the low band twice."""
    wrong = covariance(lambda x, w: DCT.embed(x, (6,)) + w, (4,), (6,))
    assert (wrong - torch.eye(6, dtype=torch.float64)).abs().max() > 0.5


@pytest.mark.parametrize(("basis", "coarse", "fine"), GROWTH)
def test_white_noise_in_is_white_noise_out(basis, coarse, fine, rng):
    """At t = 1: variance one in every pixel, no covariance, kappa = 1 and the time stays 1."""
    n = 4000
    x = torch.randn((n, *coarse), generator=rng, dtype=torch.float64)
    state, time = expand_aligned(
        x, fine, 1.0, noise=torch.randn((n, *fine), generator=rng, dtype=torch.float64), basis=basis
    )
    assert time == 1.0
    flat = state.reshape(n, -1)
    z = (flat.T @ flat / n - torch.eye(flat.shape[1], dtype=torch.float64)) * math.sqrt(n)
    assert z.diagonal().abs().max() < 5 * math.sqrt(2)
    assert (z - z.diagonal().diag()).abs().max() < 5.5


def test_white_check_fails_for_noise_of_half_the_variance(rng):
    """Negative control: a new band of complex noise that is not Hermitian has half its variance after ``.real``."""
    x, w = (torch.randn((4000, n, n), generator=rng, dtype=torch.float64) for n in (8, 16))
    state = expand(x, (16, 16), 1.0, noise=w * math.sqrt(0.5), basis=FOURIER)
    z = z_score(state.square().mean(), 1, 2, state.numel())
    assert abs(z) > 100


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_doubling_carries_three_quarters_of_the_variance(basis, rng):
    """The new band has variance 0.75 t^2 per pixel when both axes double."""
    w, t = torch.randn((500, 32, 32), generator=rng, dtype=torch.float64), 0.7
    new = expand(torch.zeros(500, 16, 16, dtype=torch.float64), (32, 32), t, noise=w, basis=basis)
    ratio = float(new.square().mean()) / t**2
    assert ratio == pytest.approx(0.75, abs=5 * math.sqrt(2 * 0.75 / new.numel()))


# -- the two ways down ------------------------------------------------------------------------------------------------


@given(case=basis_pairs(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_restrictions(case, dtype, seed):
    basis, coarse, fine = case
    r = size_ratio(coarse, fine)
    x = randn(2, *fine, seed=seed, dtype=dtype)
    assert_close(restrict_noise(x, coarse, basis=basis), basis.restrict(x, coarse))
    assert_close(restrict_signal(x, coarse, basis=basis) * r, basis.restrict(x, coarse))


def test_restricted_noise_keeps_its_variance(rng):
    w = torch.randn((2000, 16, 16), generator=rng, dtype=torch.float64)
    low = restrict_noise(w, (8, 8))
    assert abs(z_score(low.square().mean(), 1, 2, low.numel())) < 5
    shrunk = restrict_signal(w, (8, 8))
    assert abs(z_score(shrunk.square().mean() * 4, 1, 2, low.numel())) < 5
    ones = torch.ones(1, 16, 16, dtype=torch.float64)
    assert_close(restrict_signal(ones, (8, 8)), torch.ones(1, 8, 8))
    assert_close(restrict_noise(ones, (8, 8)), torch.full((1, 8, 8), 2.0))


# -- faces ------------------------------------------------------------------------------------------------------------


def test_seed_generator_and_field_are_the_same_source():
    x = randn(2, 3, 4, 4, seed=1)
    by_seed, _ = expand_aligned(x, (8, 8), 0.7, seed=9)
    by_field, _ = expand_aligned(x, (8, 8), 0.7, noise=NoiseField(9))
    assert torch.equal(by_seed, by_field)
    by_generator, _ = expand_aligned(x, (8, 8), 0.7, generator=torch.Generator().manual_seed(4))
    by_drawn, _ = expand_aligned(x, (8, 8), 0.7, noise=NoiseField(torch.Generator().manual_seed(4)))
    assert torch.equal(by_generator, by_drawn)
    other, _ = expand_aligned(x, (8, 8), 0.7, seed=10)
    assert not torch.equal(by_seed, other)


@given(basis=bases, seed=st.integers(0, 2**32), item=st.integers(0, 2))
def test_item_of_a_batch_is_a_batch_of_one(basis, seed, item):
    x = randn(3, 2, 4, 6, seed=2, dtype=torch.float32)
    whole, _ = expand_aligned(x, (8, 12), 0.6, seed=seed, basis=basis)
    one, _ = expand_aligned(x[item : item + 1], (8, 12), 0.6, seed=seed + item, basis=basis)
    assert torch.equal(whole[item : item + 1], one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_out_is_written(dtype, basis):
    x, w = randn(2, 4, 4, seed=1, dtype=dtype), randn(2, 8, 8, seed=2, dtype=dtype)
    expected, time = expand_aligned(x, (8, 8), 0.7, noise=w, basis=basis)
    out = torch.full_like(expected, math.nan)
    state, same_time = expand_aligned(x, (8, 8), 0.7, noise=w, basis=basis, out=out)
    assert state is out
    assert torch.equal(out, expected)
    assert time == same_time
    strided = torch.empty(8, 8, 2, dtype=dtype).permute(2, 0, 1)
    expand_aligned(x, (8, 8), 0.7, noise=w, basis=basis, out=strided)
    assert torch.equal(strided, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_half_precision_is_rounded_once(dtype, basis):
    x, w = randn(2, 4, 6, seed=1, dtype=dtype), randn(2, 8, 12, seed=2, dtype=dtype)
    for noise in (w, NoiseField(3, basis)):
        wide = noise.float() if isinstance(noise, torch.Tensor) else noise
        state, _ = expand_aligned(x, (8, 12), 0.7, noise=noise, basis=basis)
        exact, _ = expand_aligned(x.float(), (8, 12), 0.7, noise=wide, basis=basis)
        assert torch.equal(state, exact.to(dtype))
        low = restrict_signal(w, (4, 6), basis=basis)
        assert torch.equal(low, restrict_signal(w.float(), (4, 6), basis=basis).to(dtype))


def test_rounding_twice_is_seen():
    """Negative control: kappa applied to a state already rounded to bfloat16 differs."""
    x, w = randn(64, 8, 8, seed=1, dtype=torch.bfloat16), randn(64, 16, 16, seed=2, dtype=torch.bfloat16)
    state, _ = expand_aligned(x, (16, 16), 0.7, noise=w)
    twice = expand(x, (16, 16), 0.7, noise=w) * align_scale(0.7, 2.0)
    assert not torch.equal(state, twice)


@given(case=basis_pairs(max_dims=2), t=times)
def test_backward_is_the_restriction(case, t):
    basis, coarse, fine = case
    x, w, g = randn(1, *coarse, seed=1).requires_grad_(), randn(1, *fine, seed=2), randn(1, *fine, seed=3)
    expand(x, fine, t, noise=w, basis=basis).backward(g)
    assert_close(x.grad, basis.restrict(g, coarse))


def test_inputs_are_left_alone():
    x, w = randn(1, 4, 4, seed=1), randn(1, 8, 8, seed=2)
    before = x.clone(), w.clone()
    expand_aligned(x, (8, 8), 0.7, noise=w)
    expand_aligned(x, (4, 4), 0.7, noise=x)
    assert torch.equal(x, before[0])
    assert torch.equal(w, before[1])
