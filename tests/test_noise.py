"""The white field: known answers, addressing by coefficient, nesting over grids, statistics with fixed keys."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import basis_pairs, seeds
from tolerances import assert_close, z_score

from spectral_pd import DCT, FOURIER, HAAR, NoiseField
from spectral_pd.bases import BASES, corner
from spectral_pd.noise import LAYOUT, philox4x32

MASK = 0xFFFFFFFF


def philox_in_python(counter, key):
    """Philox4x32-10 with Python integers, written from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def normal_in_python(key, a, u, v, plane, transition):
    """One number of the field, from its address alone."""
    key %= 2**64
    words = philox_in_python((v >> 2, u | a << 16, plane, transition | LAYOUT << 24), (key & MASK, key >> 32))
    lane = v & 3
    radius = math.sqrt(-2 * math.log((words[lane & 2] + 0.5) / 2**32))
    angle = 2 * math.pi * words[(lane & 2) + 1] / 2**32
    return radius * (math.sin(angle) if lane & 1 else math.cos(angle))


# Known answers of the Random123 distribution (kat_vectors, philox4x32, 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    words = philox4x32([torch.tensor(c) for c in counter], (torch.tensor(key[0]), torch.tensor(key[1])))
    assert tuple(int(w) for w in words) == expected
    assert tuple(philox_in_python(counter, key)) == expected


def test_philox_with_nine_rounds_fails_the_known_answers():
    """Negative control for the reference of this file: one round fewer gives other words."""
    c, k = [0, 0, 0, 0], [0, 0]
    for _ in range(9):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    assert tuple(c) != KNOWN[0][2]


@given(words=st.lists(st.integers(0, MASK), min_size=6, max_size=6))
def test_philox_against_python_integers(words):
    ours = philox4x32([torch.tensor(c) for c in words[:4]], (torch.tensor(words[4]), torch.tensor(words[5])))
    assert [int(w) for w in ours] == philox_in_python(words[:4], words[4:])


@given(seed=seeds, transition=st.integers(0, 65535), data=st.data())
def test_every_number_from_its_address(seed, transition, data):
    """Layout version 1, spelled out."""
    field = NoiseField(seed, transition=transition)
    shape = (2, 2, 3, 2, 5, 7)  # batch, channel, frame, and three spectral axes
    at = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    item, channel, frame, a, u, v = at
    c = field.coefficients(shape, dims=3, dtype=torch.float64)
    assert float(c[at]) == pytest.approx(
        normal_in_python(seed + item, a, u, v, channel * 3 + frame, transition), abs=1e-12
    )
    plane = field.coefficients((2, 2, 3, 5, 7), dims=2, dtype=torch.float64)
    assert torch.equal(plane, c[:, :, :, 0])
    line = field.coefficients((2, 2, 3, 7), dims=1, dtype=torch.float64)
    assert torch.equal(line, c[:, :, :, 0, 0])


def test_known_normals():
    """Pinned numbers: "same seed" means these, on every device and in every later version with this layout."""
    c = NoiseField(0).coefficients((1, 1, 2, 5), dtype=torch.float64)[0, 0]
    expected = [[normal_in_python(0, 0, u, v, 0, 0) for v in range(5)] for u in range(2)]
    assert_close(c, expected)
    assert LAYOUT == 1


@given(case=basis_pairs(), seed=seeds)
def test_coarse_field_is_the_restriction(case, seed):
    basis, coarse, fine = case
    dims = len(coarse)
    field = NoiseField(seed, basis)
    high = field.on((2, 3, *fine), dims=dims, dtype=torch.float64)
    low = field.on((2, 3, *coarse), dims=dims, dtype=torch.float64)
    assert_close(basis.restrict(high, coarse), low)
    assert torch.equal(
        field.coefficients((2, *fine), dims=dims)[corner(coarse)], field.coefficients((2, *coarse), dims=dims)
    )


def test_restriction_in_another_basis_fails():
    """Negative control: the check above is about the field's own basis."""
    field = NoiseField(1, DCT)
    error = (FOURIER.restrict(field.on((1, 16, 16)), (8, 8)) - field.on((1, 8, 8))).abs().max()
    assert error > 0.5


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_same_coefficients_in_every_basis(basis):
    field = NoiseField(5, basis)
    assert torch.equal(field.coefficients((2, 3, 8, 8)), NoiseField(5).coefficients((2, 3, 8, 8)))
    assert_close(basis.forward(field.on((2, 3, 8, 8))), field.coefficients((2, 3, 8, 8)))


@given(seed=seeds, item=st.integers(0, 3))
def test_item_of_a_batch_is_a_batch_of_one(seed, item):
    whole = NoiseField(seed).on((4, 2, 5, 6))
    assert torch.equal(whole[item : item + 1], NoiseField(seed + item).on((1, 2, 5, 6)))


def test_item_of_a_list_of_sources():
    def generator(k):
        return torch.Generator().manual_seed(k)

    whole = NoiseField([generator(1), generator(2), 7]).on((3, 2, 5, 6))
    for item, source in enumerate((generator(1), generator(2), 7)):
        assert torch.equal(whole[item : item + 1], NoiseField(source).on((1, 2, 5, 6)))
        assert torch.equal(
            whole[item : item + 1], NoiseField([source if item == 2 else generator(item + 1)]).on((1, 2, 5, 6))
        )
    assert not torch.equal(whole[0], whole[1])


def test_a_generator_is_drawn_from_once():
    generator, reference = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    field = NoiseField(generator)
    limits = torch.iinfo(torch.int64)
    root = int(torch.randint(limits.min, limits.max, (1,), generator=reference))
    assert torch.equal(generator.get_state(), reference.get_state())
    first = field.on((2, 4, 4))
    assert torch.equal(first, field.on((2, 4, 4)))  # rendering draws nothing
    assert torch.equal(first, NoiseField(root).on((2, 4, 4)))
    assert not torch.equal(first, NoiseField(generator).on((2, 4, 4)))  # the next field is another one


@given(seed=seeds)
def test_seeds_count_modulo_two_to_64(seed):
    assert NoiseField(seed).keys == NoiseField(seed - 2**64).keys == NoiseField(seed + 2**64).keys
    assert NoiseField(-1).item_keys(2) == (-1, 0)
    assert NoiseField(np.int64(-5)) == NoiseField(-5)
    assert NoiseField([np.uint64(2**64 - 1)]).keys == (-1,)
    assert NoiseField(2**63 - 1).item_keys(2) == (2**63 - 1, -(2**63))


def test_planes_do_not_depend_on_their_number():
    field = NoiseField(11)
    assert torch.equal(field.on((1, 5, 4, 4))[:, :2], field.on((1, 2, 4, 4)))
    assert torch.equal(field.on((1, 2, 3, 4, 4)).reshape(1, 6, 4, 4), field.on((1, 6, 4, 4)))


def test_fresh_fields_are_others():
    field = NoiseField([4, 9], HAAR)
    assert field.fresh(0) == field
    assert field.fresh(2) == NoiseField([4, 9], HAAR, transition=2)
    a, b = field.on((2, 8, 8)), field.fresh(1).on((2, 8, 8))
    assert not torch.equal(a, b)


def test_dtype_and_a_bare_grid():
    field = NoiseField(2)
    exact = field.coefficients((1, 6, 6), dtype=torch.float64)
    assert float((field.coefficients((1, 6, 6)) - exact).abs().max()) < 1e-6
    assert torch.equal(field.on((6, 6)), field.on((1, 6, 6))[0])
    assert torch.equal(field.on((1, 6, 6), dtype=torch.float16), field.on((1, 6, 6)).half())
    assert field.on((0, 3, 4, 4)).shape == (0, 3, 4, 4)


# -- statistics, with fixed keys --------------------------------------------------------------------------------------


def test_moments_and_distribution():
    c = NoiseField(20260518).coefficients((4, 4, 128, 128), dtype=torch.float64).flatten()
    n = c.numel()
    assert abs(z_score(c.mean(), 0, 1, n)) < 5
    assert abs(z_score(c.square().mean(), 1, 2, n)) < 5
    assert abs(z_score(c.pow(3).mean(), 0, 15, n)) < 5
    assert abs(z_score(c.pow(4).mean(), 3, 96, n)) < 5
    assert scipy.stats.kstest(c.numpy(), "norm").pvalue > 1e-6


def lagged(c, axis, lag):
    n = c.shape[axis] - lag
    return c.narrow(axis, 0, n) * c.narrow(axis, lag, n)


def test_no_correlation_between_addresses():
    c = NoiseField(77).coefficients((8, 8, 64, 64), dtype=torch.float64)
    for axis in range(4):
        for lag in (1, 2, 3, 4):
            product = lagged(c, axis, lag)
            assert abs(z_score(product.mean(), 0, 1, product.numel())) < 5, (axis, lag)
    for other in (NoiseField(77).fresh(1), NoiseField(77).fresh(2)):
        product = c * other.coefficients((8, 8, 64, 64), dtype=torch.float64)
        assert abs(z_score(product.mean(), 0, 1, product.numel())) < 5


def test_correlation_check_sees_a_repeated_plane():
    """Negative control: if the plane index were ignored, neighbouring planes would agree."""
    c = NoiseField(77).coefficients((8, 1, 64, 64), dtype=torch.float64).expand(-1, 8, -1, -1)
    product = lagged(c, 1, 1)
    assert z_score(product.mean(), 0, 1, product.numel()) > 100


@settings(max_examples=9)
@given(basis=st.sampled_from(list(BASES.values())), size=st.sampled_from([(16, 16), (9, 15), (1, 64)]))
def test_rendered_field_is_white(basis, size):
    """Variance 1 in every pixel (scatter across pixels as for independent samples) and no correlation of neighbours."""
    x = NoiseField(31, basis).on((2000, 1, *size), dtype=torch.float64)
    variance = x.square().mean((0, 1)).numpy()
    z = (variance - 1) / math.sqrt(2 / 2000)
    assert np.abs(z).max() < 5
    product = x[..., 1:] * x[..., :-1]
    assert abs(z_score(product.mean(), 0, 1, product.numel())) < 5
