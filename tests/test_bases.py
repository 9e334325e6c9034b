"""The isometry and its three bases: orthonormality, nesting, frequencies, constants; outside oracles and broken variants."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import INTERESTING, bases, basis_pairs, dtypes, grids, randn, seeds
from tolerances import assert_close

from spectral_pd import DCT, FOURIER, HAAR, GaussianField
from spectral_pd import bases as module
from spectral_pd.bases import BASES, SeparableBasis, corner, size_ratio


def pad(c, shape):
    out = c.new_zeros((*c.shape[: c.ndim - len(shape)], *shape))
    out[corner(c.shape[-len(shape) :])] = c
    return out


# -- the isometry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
def test_isometry_all_pairs(basis):
    for m in range(1, 65):
        for n in range(1, m + 1):
            u = basis.isometry(n, m)
            assert u.shape == (m, n)
            assert_close(u.T @ u, torch.eye(n, dtype=torch.float64))


def test_haar_isometry():
    for n in INTERESTING:
        for factor in (1, 2, 4, 8):
            u = HAAR.isometry(n, factor * n)
            assert_close(u.T @ u, torch.eye(n, dtype=torch.float64))
            assert_close(u, torch.eye(n, dtype=torch.float64).repeat_interleave(factor, 0) / math.sqrt(factor))


def test_isometry_is_the_callers_own():
    """Writing into a returned matrix must not reach later calls."""
    DCT.isometry(3, 5).zero_()
    assert_close(DCT.isometry(3, 5).square().sum(), 3.0)


def empty_caches():
    module._cached_matrix.cache_clear()
    module._separable_isometry.cache_clear()


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_matrices_made_in_inference_mode_serve_training(basis):
    """The first call may be a sampling run in inference mode, the next one with gradients."""
    x = randn(2, 4, 6, seed=1)
    empty_caches()
    with torch.inference_mode():
        expected = basis.embed(x, (8, 12)), basis.forward(x)
    x = x.requires_grad_()
    results = basis.embed(x, (8, 12)), basis.forward(x)
    for result, first in zip(results, expected, strict=True):
        result.sum().backward()
        assert torch.equal(result, first)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_default_device_is_not_used(basis):
    """Under ``torch.set_default_device``, states stay where they are and matrices kept for later are ordinary ones."""
    x = randn(2, 4, 6, seed=1)
    empty_caches()
    expected = basis.embed(x, (8, 12)), basis.forward(x), basis.frequency((8, 12))
    power = GaussianField(lambda omega: 1 / (1 + omega), (8, 12), basis).power()
    empty_caches()
    with torch.device("meta"):
        results = basis.embed(x, (8, 12)), basis.forward(x), basis.frequency((8, 12))
        assert torch.equal(GaussianField(lambda omega: 1 / (1 + omega), (8, 12), basis).power(), power)
    for result, first in zip((*results, basis.forward(x)), (*expected, expected[1]), strict=True):
        assert torch.equal(result, first)


@given(case=basis_pairs(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_restrict_inverts_embed_and_is_its_transpose(case, dtype, seed):
    basis, coarse, fine = case
    x, y = randn(2, *coarse, seed=seed, dtype=dtype), randn(2, *fine, seed=seed + 1, dtype=dtype)
    embedded = basis.embed(x, fine)
    assert embedded.shape == (2, *fine)
    assert embedded.dtype == dtype
    assert_close(basis.restrict(embedded, coarse), x)
    assert_close((embedded * y).sum(), (x * basis.restrict(y, coarse)).sum(), dtype, factor=10)
    assert_close(embedded.square().sum(), x.square().sum(), dtype, factor=10)


@given(case=basis_pairs(), dtype=dtypes, value=st.floats(-5, 5))
def test_a_constant_keeps_its_value(case, dtype, value):
    """``r U 1 = 1``; and downwards ``U^T 1 / r = 1``."""
    basis, coarse, fine = case
    r = size_ratio(coarse, fine)
    assert_close(basis.embed(torch.full(coarse, value, dtype=dtype), fine) * r, torch.full(fine, value, dtype=dtype))
    assert_close(
        basis.restrict(torch.full(fine, value, dtype=dtype), coarse) / r, torch.full(coarse, value, dtype=dtype)
    )


@given(case=basis_pairs(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_nested_by_the_low_corner(case, dtype, seed):
    basis, coarse, fine = case
    dims = len(coarse)
    assert basis.nested(coarse, fine)
    x, y = randn(2, *coarse, seed=seed, dtype=dtype), randn(2, *fine, seed=seed, dtype=dtype)
    assert_close(basis.forward(basis.embed(x, fine), dims=dims), pad(basis.forward(x, dims=dims), fine))
    low = basis.forward(y, dims=dims)[corner(coarse)]
    assert_close(basis.forward(basis.restrict(y, coarse), dims=dims), low)


@given(basis=bases, grid=grids(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_forward_is_orthonormal(basis, grid, dtype, seed):
    dims = len(grid)
    x, y = randn(2, *grid, seed=seed, dtype=dtype), randn(2, *grid, seed=seed + 1, dtype=dtype)
    c = basis.forward(x, dims=dims)
    assert c.shape == x.shape
    assert c.dtype == dtype
    assert_close(basis.inverse(c, dims=dims), x)
    assert_close((c * y).sum(), (x * basis.inverse(y, dims=dims)).sum(), dtype, factor=10)


@given(case=basis_pairs(max_dims=2), middle=st.integers(0, 10**6))
def test_embeddings_compose(case, middle):
    basis, coarse, fine = case
    if basis is HAAR:
        between = coarse
    else:
        between = tuple(a + middle % (b - a + 1) for a, b in zip(coarse, fine, strict=True))
    x = randn(*coarse, seed=3)
    assert_close(basis.embed(basis.embed(x, between), fine), basis.embed(x, fine))


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_half_precision_is_rounded_once(basis):
    x = randn(2, 3, 8, 12, seed=5)
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        for function in (
            lambda v: basis.embed(v, (16, 24)),
            lambda v: basis.restrict(v, (4, 6)),
            basis.forward,
            basis.inverse,
        ):
            result = function(half)
            assert result.dtype == dtype
            assert torch.equal(result, function(half.float()).to(dtype))


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_strided_input(basis):
    x = randn(2, 3, 8, 12, seed=5)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    last = x.contiguous(memory_format=torch.channels_last)
    for function in (lambda v: basis.embed(v, (16, 24)), lambda v: basis.restrict(v, (4, 6)), basis.forward):
        assert_close(function(strided), function(x))
        assert_close(function(last), function(x))


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_input_is_left_alone(basis):
    x = randn(2, 8, 8, seed=5)
    before = x.clone()
    for result in (basis.embed(x, (8, 8)), basis.forward(x), basis.inverse(x), basis.restrict(x, (4, 4))):
        assert result.shape[0] == 2
    assert torch.equal(x, before)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_gradients_are_transposes(basis):
    x = randn(1, 4, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: basis.embed(v, (8, 12)), x)
    assert torch.autograd.gradcheck(lambda v: basis.restrict(v, (2, 3)), x)
    assert torch.autograd.gradcheck(basis.forward, x)
    assert torch.autograd.gradcheck(basis.inverse, x)


# -- DCT --------------------------------------------------------------------------------------------------------------


@given(grid=grids(), dtype=dtypes, seed=st.integers(0, 2**16))
def test_dct_is_scipys(grid, dtype, seed):
    x = randn(2, *grid, seed=seed, dtype=dtype)
    axes = tuple(range(1, len(grid) + 1))
    expected = scipy.fft.dctn(x.double().numpy(), type=2, norm="ortho", axes=axes)
    assert_close(DCT.forward(x, dims=len(grid)), expected, dtype)
    assert_close(DCT.inverse(x, dims=len(grid)), scipy.fft.idctn(x.double().numpy(), norm="ortho", axes=axes), dtype)


def test_dct_isometry_is_scipys_zero_padding():
    x = randn(5, 7, seed=2)
    c = np.pad(scipy.fft.dctn(x.numpy(), norm="ortho"), ((0, 3), (0, 6)))
    assert_close(DCT.embed(x, (8, 13)), scipy.fft.idctn(c, norm="ortho"))


def test_dct_frequencies():
    f = DCT.frequency((4, 8))
    assert f[0, 0] == 0
    assert f[2, 0] == 1.0  # index k is k/2 cycles along the shorter side
    assert f[0, 4] == 1.0  # four half cycles over twice the length
    assert f[3, 4] == pytest.approx(math.hypot(1.5, 1.0))


# -- Haar -------------------------------------------------------------------------------------------------------------


def haar_by_loops(x):
    """The packed Haar transform of a 2-D array, one pair and one level at a time."""
    c = x.copy()
    h, w = c.shape
    while h % 2 == 0 and w % 2 == 0:
        rows = np.empty((h, w))
        for i in range(h):
            for j in range(w // 2):
                a, b = c[i, 2 * j], c[i, 2 * j + 1]
                rows[i, j], rows[i, w // 2 + j] = (a + b) / math.sqrt(2), (a - b) / math.sqrt(2)
        for i in range(h // 2):
            for j in range(w):
                a, b = rows[2 * i, j], rows[2 * i + 1, j]
                c[i, j], c[h // 2 + i, j] = (a + b) / math.sqrt(2), (a - b) / math.sqrt(2)
        h, w = h // 2, w // 2
    return c


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5), (8, 8), (6, 10), (12, 4), (16, 24), (8, 1)])
def test_haar_is_the_direct_loop(grid):
    x = randn(*grid, seed=4)
    assert_close(HAAR.forward(x), haar_by_loops(x.numpy()))


def test_haar_levels():
    assert HAAR.levels((48, 64)) == 4
    assert HAAR.levels((48, 65)) == 0
    assert HAAR.levels((8,)) == 3
    # With 4 levels the low band of 48 x 64 is the 3 x 4 grid of block means times 16.
    x = randn(48, 64, seed=6)
    means = x.reshape(3, 16, 4, 16).mean((1, 3))
    assert_close(HAAR.forward(x)[:3, :4], 16 * means)


def test_haar_against_pywavelets():
    pywt = pytest.importorskip("pywt")
    x = randn(16, 24, seed=8)
    packed, _ = pywt.coeffs_to_array(pywt.wavedec2(x.numpy(), "haar", mode="periodization", level=3))
    assert_close(HAAR.forward(x).abs(), np.abs(packed))


def test_haar_frequencies_are_octave_centres():
    f = HAAR.frequency((8, 8))
    assert f[0, 0] == 0
    assert f[0, 4] == pytest.approx(math.hypot(1.0, 3.0))  # low band 0..2 cycles (centre 1), high band 2..4 (centre 3)
    assert f[4, 4] == pytest.approx(math.hypot(3.0, 3.0))
    assert f[1, 1] == pytest.approx(math.hypot(0.75, 0.75))
    assert HAAR.nested((2, 4), (4, 8))
    assert not HAAR.nested((2, 4), (4, 16))


# -- Fourier ----------------------------------------------------------------------------------------------------------


def fourier_energy_by_fft(x):
    """Energy of each |k| of a 1-D signal by the FFT: k = 0 .. n // 2."""
    n = len(x)
    energy = np.abs(np.fft.fft(x, norm="ortho")) ** 2
    return np.array([energy[k] + (energy[n - k] if 0 < k < n - k else 0.0) for k in range(n // 2 + 1)])


@pytest.mark.parametrize("n", INTERESTING)
def test_fourier_energies_are_the_ffts(n):
    x = randn(n, seed=n)
    c = FOURIER.forward(x, dims=1)
    k = FOURIER.axis_frequency(n).to(torch.int64)
    energy = torch.zeros(n // 2 + 1, dtype=torch.float64).index_add_(0, k, c.square())
    assert_close(energy, fourier_energy_by_fft(x.numpy()))


def test_fourier_rows():
    n = 6
    j = np.arange(n) + 0.5
    expected = np.stack(
        [
            np.full(n, 1 / math.sqrt(n)),
            math.sqrt(2 / n) * np.sin(2 * np.pi * j / n),
            math.sqrt(2 / n) * np.cos(2 * np.pi * j / n),
            math.sqrt(2 / n) * np.sin(4 * np.pi * j / n),
            math.sqrt(2 / n) * np.cos(4 * np.pi * j / n),
            np.sin(6 * np.pi * j / n) / math.sqrt(n),
        ]
    )
    assert_close(FOURIER.matrix(n), expected)
    assert FOURIER.axis_frequency(n).tolist() == [0, 1, 1, 2, 2, 3]


def official_fft_embedding(n, m):
    """The FFT resampling in circulation: centre the shifted coarse spectrum in the fine one by ``(m - n) // 2``."""

    def up(x):
        spectrum = np.zeros(m, dtype=complex)
        start = (m - n) // 2
        spectrum[start : start + n] = np.fft.fftshift(np.fft.fft(x, norm="ortho"))
        return np.fft.ifft(np.fft.ifftshift(spectrum), norm="ortho").real

    return torch.from_numpy(np.stack([up(e) for e in np.eye(n)], axis=1))


def constants_stay_constant(isometry, n, m):
    image = isometry(n, m) @ torch.full((n,), math.sqrt(m / n), dtype=torch.float64)
    return bool((image - 1).abs().max() < 1e-10)


def energy_is_kept(isometry, n, m):
    u = isometry(n, m)
    return bool((u.T @ u - torch.eye(n, dtype=torch.float64)).abs().max() < 1e-10)


def test_fourier_constants_and_energy_for_all_pairs_to_64():
    for m in range(1, 65):
        for n in range(1, m + 1):
            assert constants_stay_constant(FOURIER.isometry, n, m), (n, m)
            assert energy_is_kept(FOURIER.isometry, n, m), (n, m)


def test_careless_fft_fails_the_same_checks():
    """Negative control: from odd to even sizes the spectrum shifts by one bin; Nyquist energy of even sizes is lost."""
    assert constants_stay_constant(official_fft_embedding, 4, 8)
    assert not constants_stay_constant(official_fft_embedding, 5, 8)
    assert not constants_stay_constant(official_fft_embedding, 31, 64)
    assert energy_is_kept(official_fft_embedding, 5, 7)
    assert not energy_is_kept(official_fft_embedding, 4, 8)


def complement_covariance(isometry, n, m):
    """Covariance of white noise whose low band is exchanged for other white noise: ``U U^T + (I - U U^T)(I - U U^T)^T``."""
    u = isometry(n, m)
    rest = torch.eye(m, dtype=torch.float64) - u @ u.T
    return u @ u.T + rest @ rest.T


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_covariance_of_low_band_plus_complement_is_the_identity(basis):
    pairs = [(n, n * k) for n in (1, 3, 8) for k in (1, 2, 4)]
    if basis is not HAAR:
        pairs += [(n, m) for m in range(1, 65) for n in range(1, m + 1)]
    for n, m in pairs:
        assert_close(complement_covariance(basis.isometry, n, m), torch.eye(m, dtype=torch.float64))


def test_covariance_check_fails_for_the_careless_fft():
    error = (complement_covariance(official_fft_embedding, 4, 8) - torch.eye(8, dtype=torch.float64)).abs().max()
    assert error > 0.05


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_pictures_do_not_move(basis):
    """Reflection commutes with growing: the centre of the picture stays at the centre."""
    x = randn(6, 6, seed=9)
    assert_close(basis.embed(x.flip(0, 1), (12, 12)), basis.embed(x, (12, 12)).flip(0, 1))


def test_fourier_with_phases_at_samples_moves_the_picture():
    """Negative control: phases at j/n shift every doubling by half a fine pixel, a quarter of a coarse one."""
    x = torch.zeros(8, dtype=torch.float64)
    x[3:5] = 1.0  # symmetric about the centre
    c = np.fft.fft(x.numpy())
    padded = np.concatenate([c[:4], [c[4] / 2], np.zeros(7), [c[4] / 2], c[5:]])
    grown = torch.from_numpy(np.fft.ifft(padded).real)
    assert (grown - grown.flip(0)).abs().max() > 0.1
    ours = FOURIER.embed(x, (16,))
    assert_close(ours, ours.flip(0))


# -- a user's own basis -----------------------------------------------------------------------------------------------


class Legendre(SeparableBasis):
    """Discrete orthogonal polynomials: not nested by rows in the sense of pictures, but a legal family of matrices."""

    name = "legendre"

    def matrix(self, n):
        j = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
        q, r = torch.linalg.qr(torch.stack([j**k for k in range(n)], 1))
        return (q * r.diagonal().sign()).T

    def axis_frequency(self, n):
        return torch.arange(n, dtype=torch.float64) / 2


def test_own_basis():
    basis = Legendre()
    x = randn(2, 4, 5, seed=1)
    assert_close(basis.restrict(basis.embed(x, (6, 8)), (4, 5)), x)
    assert_close(basis.forward(basis.embed(x, (6, 8))), pad(basis.forward(x), (6, 8)))
    assert_close(basis.inverse(basis.forward(x)), x)
    assert basis.frequency((4, 5)).shape == (4, 5)
    assert_close(
        basis.embed(torch.ones(4, 5, dtype=torch.float64), (6, 8)) * size_ratio((4, 5), (6, 8)), torch.ones(6, 8)
    )


@given(seed=seeds)
def test_size_ratio_uses_real_sizes(seed):
    n = 1 + seed % 50
    assert size_ratio((n, n), (2 * n, 2 * n + 1)) == pytest.approx(math.sqrt(2 * (2 * n + 1) / n))
