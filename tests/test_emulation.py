"""The CUDA kernels without a GPU: their source under the emulator (tests/emu) against float64, and the emulator itself.

Every result is compared for several seeds, each of which is another schedule of blocks, warps and lanes. The device the
launch code sees decides which kernels run: with few multiprocessors and 227 KiB of shared memory a block takes a whole plane,
with little shared memory the same operation takes three launches.
"""

import re
from functools import cache

import numpy as np
import pytest
import scipy.fft
import torch
from compiled import ROOT, emulator, sanitized

from spectral_pd import DCT, HAAR, NoiseField, ops

BOUND = 5e-7  # relative l2 error of float32 results against float64
T, KAPPA = 0.7, 1.3
LARGE, THREE_LAUNCHES = 227 * 1024, 0
KEYS = np.array([3, -(2**62) + 5], dtype=np.int64)
DCT_GRIDS = [
    ((1, 1), (1, 1)),
    ((1, 1), (3, 5)),
    ((4, 4), (8, 8)),
    ((5, 7), (11, 13)),
    ((7, 20), (7, 31)),
    ((17, 33), (34, 66)),
    ((6, 10), (49, 26)),
    ((1, 300), (2, 540)),
]
HAAR_GRIDS = [((1, 1), (2, 2)), ((2, 2), (32, 32)), ((3, 7), (24, 56)), ((5, 7), (10, 14)), ((6, 4), (6, 4))]
CASES = [pytest.param(DCT, *grids, id=f"dct-{grids}") for grids in DCT_GRIDS] + [
    pytest.param(HAAR, *grids, id=f"haar-{grids}") for grids in HAAR_GRIDS
]


@pytest.fixture(scope="session")
def emu():
    """The emulated kernels as a Python module."""
    return emulator()


def machines(emu, **device):
    """Both ways to run an operation, each with its own random schedule."""
    return [emu.Machine(seed=seed, shared_bytes=size, **device) for seed, size in ((1, LARGE), (2, THREE_LAUNCHES))]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative_error(actual, expected):
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected))


def forward(basis, x):
    return basis.forward(torch.from_numpy(np.asarray(x, np.float64))).numpy()


def inverse(basis, c):
    return basis.inverse(torch.from_numpy(c)).numpy()


def expansion(basis, x, coefficients):
    """Exact ``KAPPA (U x + T (w - U U^T w))`` in float64 from the coefficients of w."""
    c = T * coefficients.astype(np.float64)
    c[..., : x.shape[-2], : x.shape[-1]] = forward(basis, x)
    return KAPPA * inverse(basis, c)


# ---- every kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("basis", "coarse", "fine"), CASES)
def test_every_kernel_matches_float64(emu, basis, coarse, fine):
    x, white = numbers(2, *coarse), numbers(2, *fine, seed=1)
    field = NoiseField([int(k) for k in KEYS], basis=basis)
    coefficients = field.coefficients((2, 1, *fine), dtype=torch.float64)[:, 0].numpy()
    restricted = KAPPA * inverse(basis, forward(basis, white)[..., : coarse[0], : coarse[1]])
    exact_white, exact_field = expansion(basis, x, forward(basis, white)), expansion(basis, x, coefficients)
    exact_embedding = expansion(basis, x, np.zeros_like(coefficients))
    for machine in machines(emu):
        common = {"kappa": KAPPA, "basis": basis.name, "machine": machine}
        grown = emu.expand(x, coarse, fine, 2, white=white, t=T, **common)
        assert relative_error(grown, exact_white) <= BOUND
        drawn = emu.expand(x, coarse, fine, 2, keys=KEYS, t=T, **common)
        assert relative_error(drawn, exact_field) <= BOUND
        assert relative_error(emu.expand(x, coarse, fine, 2, **common), exact_embedding) <= BOUND
        assert relative_error(emu.restrict(white, coarse, **common), restricted) <= BOUND


def test_the_reference_would_notice_a_wrong_factor(emu):
    x, white = numbers(2, 5, 7), numbers(2, 11, 13, seed=1)
    grown = emu.expand(x, (5, 7), (11, 13), 2, white=white, t=T * 1.00001, kappa=KAPPA)
    assert relative_error(grown, expansion(DCT, x, forward(DCT, white))) > BOUND


@pytest.mark.parametrize("size", [*range(1, 34), 45, 53, 60, 90, 106, 121, 127, 243, 320, 509, 512, 1000, 1022])
def test_every_size_of_the_transform(emu, size):
    """Columns of one machine, rows of the other; sizes from 512 on are shared by the whole block."""
    x = numbers(1, size, 3) if size % 2 else numbers(1, 3, size)
    sums = emu.power_map(x, 1, machine=emu.Machine(seed=size, shared_bytes=THREE_LAUNCHES if size % 3 else LARGE))
    expected = scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho") ** 2
    expected[:, 0, 0] = 0
    assert relative_error(sums, expected) <= BOUND


@pytest.mark.parametrize(("grid", "maps", "planes"), [((5, 7), 2, 6), ((20, 1), 1, 5), ((33, 18), 3, 3)])
def test_power_map_matches_float64_with_a_large_mean(emu, grid, maps, planes):
    x = numbers(planes, *grid) + np.float32(30)
    squares = scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho") ** 2
    squares[:, 0, 0] = 0
    expected = squares.reshape(-1, maps, *grid).sum(0)
    for machine in machines(emu):
        assert relative_error(emu.power_map(x, maps, machine=machine), expected) <= 5 * BOUND


def test_many_planes_pass_through_a_small_buffer_in_groups(emu):
    """Three launches at a time share a buffer between them: planes that it cannot hold together go in groups."""
    x, white = numbers(6, 5, 6), numbers(6, 9, 14, seed=1)
    exact = expansion(DCT, x, forward(DCT, white))
    for floats in (1, 400, 10**6):  # one plane at a time, groups with a rest, all together
        machine = emu.Machine(shared_bytes=THREE_LAUNCHES, between_floats=floats)
        grown = emu.expand(x, (5, 6), (9, 14), 6, white=white, t=T, kappa=KAPPA, machine=machine)
        assert relative_error(grown, exact) <= BOUND
        power = emu.power_map(white, 3, machine=machine)
        assert relative_error(power, emu.power_map(white, 3)) <= BOUND


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("basis", ["dct", "haar"])
def test_half_precision_is_the_float32_result_rounded_once(emu, storage, basis):
    dtype, coarse, fine = getattr(torch, storage), (3, 4), (6, 8)
    low, w = (torch.from_numpy(numbers(2, *grid)).to(dtype) for grid in (coarse, fine))

    def stored(planes):
        return planes.view(torch.int16).numpy().view(np.uint16)

    def rounded(planes):
        return stored(torch.from_numpy(planes).to(dtype))

    x, white = low.float().numpy(), w.float().numpy()
    for machine in machines(emu):
        common = {"basis": basis, "machine": machine}
        half = {"storage": storage, **common}
        for noise, half_noise in [({"white": white}, {"white": stored(w)}), ({"keys": KEYS}, {"keys": KEYS}), ({}, {})]:
            exact = emu.expand(x, coarse, fine, 2, t=T, **noise, **common)
            assert (emu.expand(stored(low), coarse, fine, 2, t=T, **half_noise, **half) == rounded(exact)).all()
        assert (emu.restrict(stored(w), coarse, **half) == rounded(emu.restrict(white, coarse, **common))).all()
    sums = emu.power_map(stored(w), 1, storage=storage)
    assert (sums == emu.power_map(white, 1)).all()


def test_the_longest_line_fits_in_shared_memory_and_the_next_does_not(emu):
    """What largest_size() promises, and spectral_pd/ops.py relies on, for the shared memory of real devices."""
    for shared_bytes in (99 * 1024, 163 * 1024, LARGE):
        longest = emu.largest_size(shared_bytes)
        machine = emu.Machine(shared_bytes=shared_bytes)
        x, white = numbers(1, 1, 2), numbers(1, 2, longest, seed=1)
        grown = emu.expand(x, (1, 2), (2, longest), 1, white=white, t=T, kappa=KAPPA, machine=machine)
        assert relative_error(grown, expansion(DCT, x, forward_lines(white))) <= BOUND
    with pytest.raises(emu.EmulationError, match="shared memory over 227 KiB"):
        emu.power_map(numbers(1, 1, 2 * longest), 1)


def forward_lines(x):
    """Coefficients by scipy: a dense matrix of thousands of samples would take longer than all other tests."""
    return scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho")


# ---- the noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (3, 16), (40, 18)])
def test_noise_bits_are_those_of_the_cpu(emu, grid):
    """One source for both: the emulator compiles it without vectors, and without fusing a product with a sum."""
    drawn = emu.normals(KEYS, 3, grid, transition=3).reshape(2, 3, *grid)
    keys = [int(k) for k in KEYS]
    reference = NoiseField(keys, transition=3).coefficients((2, 3, *grid), dtype=torch.float64).numpy()
    assert np.abs(drawn - reference).max() <= 1e-6
    if ops.has_native():
        native = ops.normals(torch.from_numpy(KEYS), 3, grid, transition=3)
        assert (native.numpy() == drawn).all()


@pytest.mark.parametrize("basis", ["dct", "haar"])
def test_no_result_depends_on_the_schedule(emu, basis):
    x, white = numbers(2, 5, 6), numbers(2, 10, 12, seed=1)
    for shared_bytes in (LARGE, THREE_LAUNCHES):
        results = set()
        for seed in range(6):
            machine = emu.Machine(seed=seed, shared_bytes=shared_bytes)
            common = {"basis": basis, "machine": machine}
            parts = [
                emu.expand(x, (5, 6), (10, 12), 2, keys=KEYS, t=T, **common),
                emu.expand(x, (5, 6), (10, 12), 2, white=white, t=T, **common),
                emu.restrict(white, (5, 6), **common),
                emu.power_map(white, 1, machine=machine),
            ]
            results.add(b"".join(part.tobytes() for part in parts))
        assert len(results) == 1


# ---- the emulator itself ----------------------------------------------------------------------------------------------

HEALTHY = 256 + ((np.arange(256) ^ 1) + 37) % 256
NUMERIC_FAULTS = ["no barrier after fill", "no barrier between passes", "no warp barrier", "unwritten"]
BROKEN_RULES = {
    "barrier in a branch": "reached by only part of the block",
    "two barriers": "different __syncthreads",
    "warp operation after exit": "a lane that has exited",
    "shuffle outside the mask": "outside its mask",
}


def test_a_healthy_kernel_is_right_under_every_schedule(emu):
    assert all((emu.fault("none", seed) == HEALTHY).all() for seed in range(20))


@pytest.mark.parametrize("fault", NUMERIC_FAULTS)
def test_a_planted_fault_shows_in_the_numbers(emu, fault):
    assert not any(np.array_equal(emu.fault(fault, seed), HEALTHY) for seed in range(10))


@pytest.mark.parametrize(("fault", "message"), BROKEN_RULES.items())
def test_a_broken_rule_is_an_exception(emu, fault, message):
    for seed in range(5):
        with pytest.raises(emu.EmulationError, match=message):
            emu.fault(fault, seed)


def barriers():
    """Every barrier of the kernels: (file, line)."""
    found = []
    for path in sorted((ROOT / "csrc").glob("cuda_*.cuh")):
        lines = enumerate(path.read_text().splitlines(), start=1)
        found += [(path.name, number) for number, line in lines if re.search(r"__sync(threads|warp)\(\);", line)]
    return found


@cache
def watched_call(kind, coarse, fine):
    """(call of the emulator, exact result) of one operation on two planes (six for the power, more than blocks)."""
    planes = 6 if kind == "power" else 2
    x, white = numbers(planes, *coarse), numbers(planes, *fine, seed=1) + np.float32(3)
    c = forward_lines(white)
    if kind == "expand":
        c[..., : coarse[0], : coarse[1]] = forward_lines(x) / T
        exact = scipy.fft.idctn(T * c, axes=(-2, -1), norm="ortho")
        return lambda emu, m: emu.expand(x, coarse, fine, planes, white=white, t=T, machine=m), exact
    if kind == "restrict":
        exact = scipy.fft.idctn(c[..., : coarse[0], : coarse[1]], axes=(-2, -1), norm="ortho")
        return lambda emu, m: emu.restrict(white, coarse, machine=m), exact
    c[:, 0, 0] = 0
    return lambda emu, m: emu.power_map(white, 1, machine=m), (c**2).sum(0, keepdims=True)


@pytest.mark.parametrize("site", barriers(), ids=lambda site: f"{site[0]}:{site[1]}")
def test_every_barrier_of_the_kernels_is_needed_and_missed(emu, site):
    """Mutation: with any one barrier left out, some call is wrong; so none is superfluous, and none could be forgotten."""
    grids, lines, narrow = ((20, 12), (40, 33)), ((2, 300), (3, 520)), ((20, 1), (40, 1))
    runs = [(kind, grids, size) for size in (LARGE, 13000, THREE_LAUNCHES) for kind in ("expand", "restrict", "power")]
    runs += [(kind, ((6, 40), (9, 61)), THREE_LAUNCHES) for kind in ("expand", "restrict")]
    runs += [("expand", ((20, 12), (60, 150)), 40000)]  # many pairs of rows a block
    runs += [("power", narrow, LARGE), ("expand", lines, LARGE), ("expand", lines, THREE_LAUNCHES)]
    for kind, (coarse, fine), shared_bytes in runs:
        call, exact = watched_call(kind, coarse, fine)
        for seed in range(3):
            machine = emu.Machine(seed=seed, shared_bytes=shared_bytes, dropped=site)
            if not relative_error(call(emu, machine), exact) <= 1e-5:
                return
    pytest.fail(f"nothing goes wrong without the barrier of {site[0]}, line {site[1]}")


# ---- sanitizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(seed):
    status, said = sanitized("address", "kernels", seed)
    assert status == 0, said
    assert "runtime error" not in said


def test_reading_past_shared_memory_is_found():
    assert sanitized("address", "fault", "none", 1)[0] == 0
    status, said = sanitized("address", "fault", "read past the end", 1)
    assert status != 0
    assert "heap-buffer-overflow" in said


def test_kernels_have_no_data_race():
    status, said = sanitized("thread", "kernels", 1)
    assert status == 0, said


@pytest.mark.parametrize("fault", ["no barrier after fill", "no barrier between passes", "no warp barrier"])
def test_a_data_race_is_found(fault):
    assert sanitized("thread", "fault", "none", 1)[0] == 0
    for seed in (1, 2):
        status, said = sanitized("thread", "fault", fault, seed)
        assert status == 66
        assert "data race" in said
