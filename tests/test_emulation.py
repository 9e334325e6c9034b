"""The CUDA kernels without a GPU: their source runs under the emulator of csrc/emu against float64, in random schedules.

The emulator itself is tested with planted mistakes: what it cannot find, it cannot rule out.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compiled import emulator

from spectral_pd import DCT, HAAR, NoiseField, ops
from spectral_pd.bases import corner

T, SCALE = 0.7, 1.2
BOUND = 5e-7
SHARED = 227 * 1024  # a block's shared memory on H100; 0 forces the kernels for planes that do not fit
KEYS = np.array([7, -3], dtype=np.int64)
# coarse, fine, shared memory: powers of two, odd, prime, one sample, strips, one axis growing.
DCT_CASES = [
    ((8, 8), (16, 16), SHARED),
    ((5, 7), (11, 13), SHARED),
    ((1, 1), (3, 5), SHARED),
    ((9, 20), (9, 36), SHARED),
    ((45, 20), (90, 40), SHARED),
    ((8, 8), (16, 16), 0),
    ((13, 10), (26, 29), 0),
]
HAAR_CASES = [((2, 3), (4, 6)), ((3, 5), (24, 40)), ((8, 8), (32, 32)), ((1, 1), (2, 2))]
FAULTS = [
    "no barrier after fill",
    "no barrier between passes",
    "no warp barrier",
    "unwritten",
    "barrier in a branch",
    "two barriers",
    "warp operation after exit",
    "shuffle outside the mask",
]


@pytest.fixture(scope="module")
def emu():
    return emulator()


def planes(shape, seed=0):
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))


def field(shape, haar):
    """Coefficients of the noise field of two items with two planes each, numbered from 3, float64 (4, *shape)."""
    noise = NoiseField([int(k) for k in KEYS], basis=HAAR if haar else DCT)
    return noise.coefficients((2, 5, *shape), dtype=torch.float64)[:, 3:].flatten(0, 1)


def assert_near(actual, expected):
    actual, expected = torch.from_numpy(np.asarray(actual)).double(), expected.double()
    assert torch.isfinite(actual).all()
    assert float((actual - expected).norm()) <= BOUND * float(expected.norm())


def expand(emu, x, white, keys, coarse, fine, *, haar=False, storage="float32", seed=0, shared=SHARED, processors=2):
    return emu.expand(x, white, keys, 4, coarse, fine, T, SCALE, haar, 3, 0, storage, processors, seed, shared)


def cases():
    return [(False, *case) for case in DCT_CASES] + [(True, *case, SHARED) for case in HAAR_CASES]


@pytest.mark.parametrize(("haar", "coarse", "fine", "shared"), cases())
@pytest.mark.parametrize("seed", [0, 1])
def test_kernels_against_float64(emu, haar, coarse, fine, shared, seed):
    basis = HAAR if haar else DCT
    x, white = planes(coarse, seed), planes(fine, seed + 10)

    def grown(c):
        c = c.clone()
        c[corner(coarse)] = basis.forward(x.double()) * SCALE
        return basis.inverse(c)

    options = {"haar": haar, "seed": seed, "shared": shared, "processors": 1 + 131 * seed}
    got = expand(emu, x.numpy(), None, KEYS, coarse, fine, **options)
    assert_near(got, grown(field(fine, haar) * (T * SCALE)))
    got = expand(emu, x.numpy(), white.numpy(), None, coarse, fine, **options)
    assert_near(got, grown(basis.forward(white.double()) * (T * SCALE)))
    got = expand(emu, x.numpy(), None, None, coarse, fine, **options)
    assert_near(got, basis.embed(x.double(), fine) * SCALE)
    got = emu.restrict(white.numpy(), coarse, SCALE, haar, "float32", 1 + 131 * seed, seed, shared)
    assert_near(got, basis.restrict(white.double(), coarse) * SCALE)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("shape", "shared"), [((16, 16), SHARED), ((11, 18), SHARED), ((20, 9), 0)])
def test_power_of_centred_planes(emu, shape, shared, seed):
    x = planes(shape) + 100  # a mean that would cost all digits
    got = emu.power_map(x.numpy(), 2, "float32", 1 + 131 * seed, seed, shared)
    centred = x.double() - x.double().mean((-2, -1), keepdim=True)
    expected = DCT.forward(centred).square().unflatten(0, (2, 2)).sum(0)
    expected[:, 0, 0] = 0
    got = torch.from_numpy(got)
    got[:, 0, 0] = 0
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
def test_short_types_are_rounded_once(emu, storage):
    dtype = getattr(torch, storage)
    x = planes((6, 5)).to(dtype)
    got = expand(emu, x.view(torch.uint16).numpy(), None, None, (6, 5), (12, 11), storage=storage)
    got = torch.from_numpy(got).view(dtype).double()
    exact = DCT.embed(x.double(), (12, 11)) * SCALE
    step = torch.finfo(dtype).eps * exact.abs()
    assert ((got - exact).abs() <= 0.51 * step + 1e-6).all()


@pytest.mark.skipif(not ops.has_native(), reason="the extension is not built; pip install . needs a C++ compiler")
@pytest.mark.parametrize("shape", [(16, 16), (11, 13)])
def test_noise_has_the_bits_of_the_cpu_kernels(emu, shape):
    got = emu.normals(KEYS, 2, shape, 3, 1, 5)
    ours = ops.normals(torch.from_numpy(KEYS), 2, shape, transition=1, first_plane=3)
    assert torch.equal(torch.from_numpy(got), ours.flatten(0, 1))
    other = ops.normals(torch.from_numpy(KEYS), 2, shape, transition=2, first_plane=3)
    assert not torch.equal(torch.from_numpy(got), other.flatten(0, 1))


@pytest.mark.parametrize("haar", [False, True], ids=["dct", "haar"])
def test_schedules_do_not_change_a_bit(emu, haar):
    x = planes((6, 8)).numpy()
    results = [expand(emu, x, None, KEYS, (6, 8), (12, 16), haar=haar, seed=seed) for seed in range(6)]
    for other in results[1:]:
        assert np.array_equal(other, results[0])


# -- the emulator -----------------------------------------------------------------------------------------------------


def healthy(emu, name, seed):
    """Whether a run with the planted mistake went unnoticed: no error, and the right numbers."""
    t = np.arange(256)
    try:
        return np.array_equal(emu.fault(name, seed), 256 + ((t ^ 1) + 37) % 256)
    except emu.EmulationError:
        return False


def test_no_mistake_is_found_where_there_is_none(emu):
    assert all(healthy(emu, "none", seed) for seed in range(20))


@pytest.mark.parametrize("name", FAULTS)
def test_planted_mistakes_are_found(emu, name):
    """Each by at least one of ten schedules; most by every one."""
    assert not all(healthy(emu, name, seed) for seed in range(10))


def test_an_unknown_mistake_is_refused(emu):
    with pytest.raises(emu.EmulationError, match="no fault named nonsense"):
        emu.fault("nonsense", 0)
