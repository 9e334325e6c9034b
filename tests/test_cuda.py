"""The native operations on a GPU: against float64, against the CPU's bits, in graphs, on streams. ``make gpu`` runs it.

Without a GPU the comparisons run on the CPU, so that the file itself is tested everywhere; what only a GPU has is skipped.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    NoiseField,
    PowerLaw,
    SpectrumMeter,
    expand_aligned,
    make_plan,
    ops,
    sample,
    shift_times,
)
from spectral_pd.bases import corner

REQUIRED = os.environ.get("SPECTRAL_PD_CUDA") == "1"  # as in make gpu: nothing may be skipped for want of an extension
pytestmark = pytest.mark.skipif(
    not (REQUIRED or ops.has_native()), reason="the extension is not built; pip install . needs a C++ compiler"
)
GPU = torch.cuda.is_available() and (REQUIRED or bool(ops.build_info().get("cuda")))
DEVICE = torch.device("cuda" if GPU else "cpu")
only_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU and an extension built for it (SPECTRAL_PD_CUDA=1)")

ROOT = Path(__file__).parent.parent
T, KAPPA, BOUND = 0.7, 1.3, 1e-6
KEYS = torch.tensor([3, -(2**62) + 5])
# One block a plane, odd and prime sizes, strips of planes that do not fit, few and many planes, the longest lines.
DCT_CASES = [
    ((2, 3), (1, 1), (3, 5)),
    ((2, 16), (64, 64), (128, 128)),
    ((2, 100), (33, 40), (66, 80)),
    ((2, 8), (60, 106), (90, 160)),
    ((2, 1), (45, 53), (67, 67)),
    ((2, 1), (256, 200), (512, 400)),
    ((2, 1), (7, 1024), (14, 2048)),
    ((2, 300), (8, 8), (16, 16)),
]
HAAR_CASES = [((2, 3), (2, 2), (64, 64)), ((2, 16), (64, 64), (128, 128)), ((2, 2), (45, 80), (90, 160))]
# A block a plane needs planes enough to fill a GPU; few larger ones take three launches.
SMALL_GRIDS = [((2, 2), (3, 5), (12, 20)), ((2, 100), (33, 40), (66, 80)), ((1, 2), (33, 40), (66, 80))]
CASES = [(DCT, *case) for case in DCT_CASES] + [(HAAR, *case) for case in HAAR_CASES]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def named(value: object) -> str | None:
    """A case's name in -k expressions: 2x16, and so on."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative l2 error, computed on the CPU in float64."""
    actual, expected = actual.cpu().double(), expected.double()
    assert torch.isfinite(actual).all()
    return float((actual - expected).norm() / expected.norm())


def exact_expansion(basis, x, coefficients):
    c = coefficients.double() * (T * KAPPA)
    c[corner(x.shape[-2:])] = basis.forward(x.double()) * KAPPA
    return basis.inverse(c)


@pytest.mark.parametrize(("basis", "leading", "coarse", "fine"), CASES, ids=named)
def test_operations_match_float64(basis, leading, coarse, fine):
    x, white = numbers(*leading, *coarse), numbers(*leading, *fine, seed=1)
    on, field = x.to(DEVICE), NoiseField(KEYS.tolist(), basis=basis)
    coefficients = field.coefficients((*leading, *fine), dtype=torch.float64)
    grown = ops.expand_field(on, KEYS.to(DEVICE), fine, t=T, kappa=KAPPA, basis=basis.name)
    assert error(grown, exact_expansion(basis, x, coefficients)) <= BOUND
    grown = ops.expand_white(on, white.to(DEVICE), t=T, kappa=KAPPA, basis=basis.name)
    assert error(grown, exact_expansion(basis, x, basis.forward(white.double()))) <= BOUND
    assert error(ops.embed(on, fine, kappa=KAPPA, basis=basis.name), KAPPA * basis.embed(x.double(), fine)) <= BOUND
    low = ops.restrict(white.to(DEVICE), coarse, kappa=KAPPA, basis=basis.name)
    assert error(low, KAPPA * basis.restrict(white.double(), coarse)) <= BOUND


def test_the_bound_would_notice_a_wrong_level():
    x, fine = numbers(2, 16, 8, 8), (16, 16)
    coefficients = NoiseField(KEYS.tolist()).coefficients((2, 16, *fine), dtype=torch.float64)
    grown = ops.expand_field(x.to(DEVICE), KEYS.to(DEVICE), fine, t=T * 1.00001, kappa=KAPPA)
    assert error(grown, exact_expansion(DCT, x, coefficients)) > BOUND


@pytest.mark.parametrize("shape", [(5, 7), (128, 128), (90, 160), (512, 400)], ids=named)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_power_maps_match_float64(shape, mean):
    x = numbers(6, 3, *shape) + mean
    c = DCT.forward(x.double()).square().sum(0)
    c[:, 0, 0] = 0
    assert error(ops.power_map(x.to(DEVICE), 3), c) <= (1e-6 if mean == 0 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_rounded_once(dtype):
    x = numbers(2, 4, 20, 12).to(dtype)
    exact = DCT.embed(x.double(), (40, 33))
    got = ops.embed(x.to(DEVICE), (40, 33)).cpu()
    assert got.dtype == dtype
    assert ((got.double() - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (90, 160), (512, 512)], ids=named)
@pytest.mark.parametrize("transition", [0, 3])
def test_noise_has_the_same_bits_everywhere(shape, transition):
    here = ops.normals(KEYS.to(DEVICE), 4, shape, transition=transition)
    assert torch.equal(here.cpu(), ops.normals(KEYS, 4, shape, transition=transition))
    assert not torch.equal(here.cpu(), ops.normals(KEYS, 4, shape, transition=transition + 1))


def small_calls():
    """Calls small enough for compute-sanitizer that together run every kernel."""
    results = []
    for leading, coarse, fine in SMALL_GRIDS:
        x, white = numbers(*leading, *coarse).to(DEVICE), numbers(*leading, *fine, seed=1).to(DEVICE)
        key = KEYS[: leading[0]].to(DEVICE)
        results += [ops.expand_field(x, key, fine, t=T), ops.expand_white(x, white, t=T), ops.restrict(white, coarse)]
        results += [ops.power_map(white, leading[1]), ops.normals(key, leading[1], fine)]
        grown = (2 * coarse[0], 2 * coarse[1])
        results += [ops.expand_field(x, key, grown, t=T, basis="haar"), ops.embed(x, grown, basis="haar")]
        results += [ops.restrict(x.repeat_interleave(2, -1).repeat_interleave(2, -2), coarse, basis="haar")]
    return results


def test_every_call_gives_the_same_bits():
    first = small_calls()
    for _ in range(3):
        assert all(torch.equal(again, result) for again, result in zip(small_calls(), first, strict=True))


def test_gradients_are_the_transposed_operations():
    x, white = (v.to(DEVICE).requires_grad_() for v in (numbers(2, 3, 8, 8), numbers(2, 3, 16, 16, seed=1)))
    grad = numbers(2, 3, 16, 16, seed=2).to(DEVICE)
    ops.expand_white(x, white, t=T, kappa=KAPPA).backward(grad)
    exact = grad.cpu().double()
    assert error(x.grad, KAPPA * DCT.restrict(exact, (8, 8))) <= BOUND
    low = DCT.embed(DCT.restrict(exact, (8, 8)), (16, 16))
    assert error(white.grad, KAPPA * T * (exact - low)) <= BOUND


@pytest.mark.parametrize("basis", [DCT, HAAR, FOURIER])
def test_states_grow_as_on_the_cpu(basis):
    x, noise = numbers(2, 4, 16, 24), NoiseField([7, 8], basis=basis)
    on_cpu = expand_aligned(x, (32, 48), 0.8, noise=noise, basis=basis)
    here = expand_aligned(x.to(DEVICE), (32, 48), 0.8, noise=noise, basis=basis)
    assert here[1] == on_cpu[1]
    assert error(here[0], on_cpu[0]) <= BOUND


def test_a_seed_makes_the_same_picture_on_every_device():
    law = PowerLaw(100.0, 2.0, shape=(32, 32))
    plan = make_plan(shift_times(12, shift=3.0), law, (32, 32), scales=(1 / 2, 1), delta=0.1)

    def picture(device):
        velocity = lambda x, t: (x - torch.tanh(x)) / max(t, 1e-3)  # noqa: E731
        with torch.device(device):
            return sample(velocity, NoiseField([1, 2]), plan, leading=(2, 3)).cpu()

    assert float((picture(DEVICE) - picture(torch.device("cpu"))).abs().max()) <= 1e-4


def test_spectra_are_those_of_the_cpu():
    x = numbers(5, 3, 24, 40)
    here, there = (SpectrumMeter((24, 40)).update(v).result() for v in (x.to(DEVICE), x))
    np.testing.assert_allclose(here.power, there.power, rtol=1e-5)


# ---- only on a GPU ----------------------------------------------------------------------------------------------------


def operations(x, key, white):
    fine = tuple(white.shape[-2:])
    return [
        ops.expand_field(x, key, fine, t=T),
        ops.expand_field(x, key, fine, t=T, basis="haar"),
        ops.expand_white(x, white, t=T),
        ops.restrict(white, tuple(x.shape[-2:])),
        ops.normals(key, x.shape[1], fine),
        ops.power_map(white, x.shape[1]),
    ]


@only_gpu
def test_the_small_calls_run_every_kernel():
    with (ROOT / "benchmarks" / "results" / "cuda_kernels.csv").open(newline="") as file:
        kernels = {row["kernel"] for row in csv.DictReader(file)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        small_calls()
        torch.cuda.synchronize()
    ran = " ".join(event.name for event in profile.events())
    assert {kernel for kernel in kernels if not re.search(rf"\b{kernel}\b", ran)} == set()


@only_gpu
@pytest.mark.parametrize("size", [16, 300])
def test_operations_are_captured_in_a_graph_and_read_new_inputs(size):
    x, white = numbers(2, 3, size, size).cuda(), numbers(2, 3, 2 * size, 2 * size).cuda()
    key = KEYS.cuda()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        operations(x, key, white)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operations(x, key, white)
    x.copy_(numbers(2, 3, size, size, seed=5))
    white.copy_(numbers(2, 3, 2 * size, 2 * size, seed=6))
    key.copy_(KEYS + 9)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, operations(x, key, white), strict=True))


@only_gpu
def test_no_operation_synchronises():
    x, key, white = numbers(2, 3, 16, 16).cuda(), KEYS.cuda(), numbers(2, 3, 32, 32).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        operations(x, key, white)
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(x.sum())  # the mode does notice
    finally:
        torch.cuda.set_sync_debug_mode("default")


@only_gpu
def test_operations_run_on_the_current_stream():
    x, key, white = numbers(2, 3, 64, 64).cuda(), KEYS.cuda(), numbers(2, 3, 128, 128).cuda()
    expected = operations(x, key, white)
    late, side = torch.zeros_like(x), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)  # a kernel on another stream would still read zeros
        results = operations(late, key, white)
    side.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@only_gpu
def test_tensor_cores_in_half_precision_do_not_change_the_result():
    x, white = numbers(2, 3, 64, 64), numbers(2, 3, 128, 128, seed=1)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        grown = ops.expand_white(x.cuda(), white.cuda(), t=T, kappa=KAPPA)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    assert error(grown, exact_expansion(DCT, x, DCT.forward(white.double()))) <= BOUND


@only_gpu
def test_lines_too_long_for_a_block_take_the_torch_path():
    fits = 1 << (ops._largest(DEVICE).bit_length() - 1)
    x = numbers(1, 1, 1, fits)
    assert ops.usable("embed", x.cuda(), grids=((1, fits),))
    assert not ops.usable("embed", x.cuda(), grids=((1, 2 * fits),))
    here, there = (expand_aligned(v, (1, 2 * fits), 0.8, seed=0)[0] for v in (x.cuda(), x))
    assert error(here, there) <= BOUND
