"""The native operations against everything one could assemble from existing libraries.

    python benchmarks/kernels.py --check                 # one thread, gated
    python benchmarks/kernels.py --threads 2             # for information
    python benchmarks/kernels.py --device cuda --check   # on a GPU

Side by side in one process: every round calls every candidate once (a few times, where calls are short), the ratio to the
native operation is taken within the round, and the row reports the median over rounds. So drifts of a shared machine cancel
and only ratios mean anything; times are for orientation. Candidates that are not installed are left out; `pip install -e
'.[bench]'` brings them all. Every candidate allocates its result, except where the row says ``out``. ``floor`` is no
candidate but what cannot be avoided: the normals of the new coefficients, from the operation's own generator, and copying
what is read and written. ``--quick`` measures a few rows with few rounds; ``--check`` exits with 1 when a gate (the smallest
ratio to the fastest candidate that is acceptable) is missed or a candidate does not run. Rows of other devices and thread
counts in the file are kept.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from environment import driver, environment
from torch import Tensor

from spectral_pd import DCT, ops

T, KAPPA = 0.7, 1.2
RESULTS = Path(__file__).parent / "results" / "kernels.csv"
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row: what, on which grids; the gate on one thread, what to aim for there, the gate on a GPU (None: there is none)."""

    operation: str
    name: str
    leading: tuple[int, ...]
    coarse: tuple[int, int]
    fine: tuple[int, int]
    gate: float | None
    aim: float | None = None
    gpu_gate: float | None = None

    @property
    def samples(self) -> int:
        return math.prod(self.leading) * math.prod(self.fine)


CASES = [
    Case("dct", "FLUX 64 to 128", (1, 16), (64, 64), (128, 128), 3.0, 5.0, 3.0),
    Case("dct", "FLUX 32 to 64", (1, 16), (32, 32), (64, 64), 2.3, 4.0),
    Case("dct", "FLUX batch of 8", (8, 16), (64, 64), (128, 128), 3.3, 5.5),
    Case("dct", "pixels 256 to 512", (1, 3), (256, 256), (512, 512), 2.7, 4.5),
    Case("dct out", "pixels 1024 to 2048", (1, 3), (1024, 1024), (2048, 2048), 2.7, 5.0),
    Case("dct", "WAN 60x106 to 90x160", (1, 16, 21), (60, 106), (90, 160), 2.8, 5.0, 5.0),
    Case("dct", "WAN 45x80 to 90x160", (1, 16, 21), (45, 80), (90, 160), 2.8, 5.0),
    Case("haar", "FLUX 64 to 128", (1, 16), (64, 64), (128, 128), 4.5, 10.0),
    Case("haar", "FLUX 32 to 64", (1, 16), (32, 32), (64, 64), 3.0),
    Case("haar", "FLUX batch of 8", (8, 16), (64, 64), (128, 128), 4.5, 10.0),
    Case("haar", "pixels 256 to 512", (1, 3), (256, 256), (512, 512), 4.5, 10.0),
    Case("haar", "WAN 45x80 to 90x160", (1, 16, 21), (45, 80), (90, 160), 4.5, 10.0),
    Case("haar out", "FLUX 64 to 128", (1, 16), (64, 64), (128, 128), 4.5, 10.0),
    Case("haar out", "pixels 256 to 512", (1, 3), (256, 256), (512, 512), 4.5, 10.0),
    Case("power", "128 x 128", (8, 16), (128, 128), (128, 128), 2.8, 6.0),
    Case("power", "90 x 160", (16, 21), (90, 160), (90, 160), 2.8, 6.0),
    Case("power", "512 x 512", (4, 3), (512, 512), (512, 512), 2.8, 6.0),
    Case("dct white", "FLUX 64 to 128", (1, 16), (64, 64), (128, 128), None),
]
# No size may be slower than what it replaces. Odd cores of hundreds are dense matrices of half the size: no torch expression is
# faster, but scipy's transform of prime length is, which is measured without a gate.
SMALL = ((4, 8), (6, 12), (8, 16), (11, 22), (16, 32), (23, 46), (48, 96), (67, 134), (90, 180), (127, 254))
OTHERS = [
    Case("dct", f"{h} to {H}", (1, planes), (h, h), (H, H), gate)
    for planes, gate, sizes in (
        (16, 1.0, SMALL),
        (3, 1.0, ((509, 1018),)),
        (3, None, ((337, 675), (1021, 1023))),
        (1, 1.0, ((2048, 4096),)),
    )
    for h, H in sizes
]
QUICK = ("FLUX 64 to 128", "128 x 128")


def installed(*modules: str) -> bool:
    """Whether all these modules can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


# ---- candidates: DCT --------------------------------------------------------------------------------------------------


def scipy_batched(x: Tensor, fine: tuple[int, int]) -> Tensor:
    """Our strengthening of the usual route: torch's generator, all planes in one scipy call, in place."""
    import scipy.fft

    c = torch.randn(*x.shape[:-2], *fine).mul_(T * KAPPA).numpy()
    h, w = x.shape[-2:]
    c[..., :h, :w] = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    c[..., :h, :w] *= KAPPA
    return torch.from_numpy(scipy.fft.idctn(c, axes=(-2, -1), norm="ortho", overwrite_x=True))


def scipy_per_plane(x: Tensor, fine: tuple[int, int]) -> Tensor:
    """Plane by plane with numpy's float64 noise, as research code usually does it."""
    import scipy.fft

    h, w = x.shape[-2:]
    generator = np.random.default_rng(0)
    planes = []
    for plane in x.reshape(-1, h, w).numpy():
        c = T * generator.standard_normal(fine)
        c[:h, :w] = scipy.fft.dctn(plane, norm="ortho")
        planes.append(KAPPA * scipy.fft.idctn(c, norm="ortho"))
    return torch.from_numpy(np.stack(planes).astype(np.float32)).reshape(*x.shape[:-2], *fine)


def fftw(x: Tensor, fine: tuple[int, int]) -> Tensor:
    """As scipy_batched on pyFFTW's planned transforms."""
    from pyfftw.interfaces import cache, scipy_fft

    cache.enable()
    cache.set_keepalive_time(600)
    c = torch.randn(*x.shape[:-2], *fine).mul_(T * KAPPA).numpy()
    h, w = x.shape[-2:]
    c[..., :h, :w] = scipy_fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    c[..., :h, :w] *= KAPPA
    return torch.from_numpy(scipy_fft.idctn(c, axes=(-2, -1), norm="ortho", overwrite_x=True))


class Shortcut:
    """``kappa (t w + U (x - t U'wV) V')`` in five torch calls, isometries precomputed: the fastest torch expression."""

    def __init__(self, coarse: tuple[int, int], fine: tuple[int, int], device: torch.device) -> None:
        self.fine = fine
        self.u, self.v = (
            DCT.isometry(a, b, dtype=torch.float32).to(device).contiguous() for a, b in zip(coarse, fine, strict=True)
        )

    def __call__(self, x: Tensor, white: Tensor | None = None) -> Tensor:
        w = torch.randn(*x.shape[:-2], *self.fine, device=x.device) if white is None else white
        low = torch.add(x, self.u.T @ (w @ self.v), alpha=-T)
        rows = (self.u @ low).reshape(-1, self.fine[0], x.shape[-1])
        columns = self.v.T.expand(rows.shape[0], -1, -1)
        grown = torch.baddbmm(w.reshape(-1, *self.fine), rows, columns, beta=T * KAPPA, alpha=KAPPA)
        return grown.reshape(w.shape)


class Matmul:
    """Cached orthonormal matrices: the library's own torch path."""

    def __init__(self, coarse: tuple[int, int], fine: tuple[int, int], device: torch.device) -> None:
        self.coarse = [DCT.matrix(n).float().to(device) for n in coarse]
        self.fine = [DCT.matrix(n).float().to(device) for n in fine]

    def __call__(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        c = torch.randn(*x.shape[:-2], len(self.fine[0]), len(self.fine[1]), device=x.device).mul_(T)
        c[..., :h, :w] = self.coarse[0] @ x @ self.coarse[1].T
        return (self.fine[0].T @ c @ self.fine[1]).mul_(KAPPA)


def torch_fft_dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last axis by one real FFT of the same length (Makhoul, 1980)."""
    n = x.shape[-1]
    v = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1)
    angle = -math.pi * torch.arange(n, device=x.device) / (2 * n)
    c = (torch.fft.fft(v) * torch.complex(angle.cos(), angle.sin())).real * math.sqrt(2 / n)
    c[..., 0] *= math.sqrt(0.5)
    return c


def torch_fft_idct(c: Tensor) -> Tensor:
    n = c.shape[-1]
    c = c * math.sqrt(n / 2)
    c[..., 0] *= math.sqrt(2)
    angle = math.pi * torch.arange(n, device=c.device) / (2 * n)
    mirrored = torch.cat((torch.zeros_like(c[..., :1]), c[..., 1:].flip(-1)), -1)
    v = torch.fft.irfft((torch.complex(c, -mirrored) * torch.complex(angle.cos(), angle.sin()))[..., : n // 2 + 1], n)
    x = torch.empty_like(c)
    x[..., ::2], x[..., 1::2] = v[..., : (n + 1) // 2], v[..., (n + 1) // 2 :].flip(-1)
    return x


def by_transform(forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def grow(x: Tensor, fine: tuple[int, int]) -> Tensor:
        h, w = x.shape[-2:]
        c = torch.randn(*x.shape[:-2], *fine, device=x.device).mul_(T)
        c[..., :h, :w] = forward(x)
        return inverse(c).mul_(KAPPA)

    return grow


def cupy_batched(x: Tensor, fine: tuple[int, int]) -> Tensor:
    """scipy's transforms as CuPy runs them on the GPU, memory shared with torch."""
    import cupy
    import cupyx.scipy.fft as fft

    c = cupy.asarray(torch.randn(*x.shape[:-2], *fine, device=x.device).mul_(T * KAPPA))
    h, w = x.shape[-2:]
    c[..., :h, :w] = fft.dctn(cupy.asarray(x), axes=(-2, -1), norm="ortho")
    c[..., :h, :w] *= KAPPA
    return torch.as_tensor(fft.idctn(c, axes=(-2, -1), norm="ortho", overwrite_x=True), device=x.device)


def dct_candidates(case: Case, x: Tensor) -> dict[str, Call]:
    fine = case.fine
    shortcut, matmul = Shortcut(case.coarse, fine, x.device), Matmul(case.coarse, fine, x.device)
    fft = by_transform(
        lambda v: torch_fft_dct(torch_fft_dct(v).mT).mT, lambda c: torch_fft_idct(torch_fft_idct(c).mT).mT
    )
    found: dict[str, Call] = {
        "five torch calls": lambda: shortcut(x),
        "torch matmul": lambda: matmul(x),
        "torch.fft": lambda: fft(x, fine),
    }
    if case.gate is not None and case.gate > 1:  # worth the time of compiling
        compiled = torch.compile(shortcut, fullgraph=True, dynamic=False)
        found["five torch calls, compiled"] = lambda: compiled(x)
    if x.is_cuda:
        if installed("cupy", "cupyx"):
            found["CuPy"] = lambda: cupy_batched(x, fine)
    elif installed("scipy"):
        found["scipy, batched"] = lambda: scipy_batched(x, fine)
        found["scipy, per plane"] = lambda: scipy_per_plane(x, fine)
        if installed("pyfftw"):
            found["pyFFTW"] = lambda: fftw(x, fine)
    if installed("torch_dct"):
        import torch_dct

        library = by_transform(
            lambda v: torch_dct.dct_2d(v, norm="ortho"), lambda c: torch_dct.idct_2d(c, norm="ortho")
        )
        found["torch-dct"] = lambda: library(x, fine)
    return found


# ---- candidates: Haar and power ---------------------------------------------------------------------------------------


def haar_slices(x: Tensor) -> Tensor:
    """Butterflies on strided slices: the fastest torch expression."""
    along, across, both = torch.randn(3, *x.shape, device=x.device).mul_(T * KAPPA / 2).unbind(0)
    a = x * (KAPPA / 2)
    p, q, y, z = a + along, a - along, across + both, across - both
    out = x.new_empty(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1])
    out[..., ::2, ::2], out[..., ::2, 1::2] = p + y, q + z
    out[..., 1::2, ::2], out[..., 1::2, 1::2] = p - y, q - z
    return out


def haar_candidates(case: Case, x: Tensor) -> dict[str, Call]:
    compiled = torch.compile(haar_slices, fullgraph=True, dynamic=False)
    found: dict[str, Call] = {"torch slices": lambda: haar_slices(x), "torch slices, compiled": lambda: compiled(x)}

    def with_details(inverse: Callable[..., object]) -> Call:
        def grow() -> object:
            return inverse(x * KAPPA, *torch.randn(3, *x.shape, device=x.device).mul_(T * KAPPA).unbind(0))

        return grow

    if not x.is_cuda and installed("pywt"):
        import pywt

        found["PyWavelets"] = with_details(
            lambda a, *d: torch.from_numpy(pywt.idwt2((a.numpy(), tuple(v.numpy() for v in d)), "haar", axes=(-2, -1)))
        )
    if installed("ptwt"):
        import ptwt

        found["ptwt"] = with_details(lambda a, *d: ptwt.waverec2((a, ptwt.constants.WaveletDetailTuple2d(*d)), "haar"))
    return found


def power_candidates(case: Case, x: Tensor) -> dict[str, Call]:
    matrices = [DCT.matrix(n).float().to(x.device) for n in case.fine]

    def centred() -> Tensor:
        return x - x.mean((-2, -1), keepdim=True)

    def total(c: Tensor) -> Tensor:
        return c.square_().sum(tuple(range(c.ndim - 2)), dtype=torch.float64)

    found: dict[str, Call] = {"torch matmul": lambda: total(matrices[0] @ centred() @ matrices[1].T)}
    if not x.is_cuda and installed("scipy"):
        import scipy.fft

        found["scipy, batched"] = lambda: total(
            torch.from_numpy(scipy.fft.dctn(centred().numpy(), axes=(-2, -1), norm="ortho", overwrite_x=True))
        )
    if installed("torch_dct"):
        import torch_dct

        found["torch-dct"] = lambda: total(torch_dct.dct_2d(centred(), norm="ortho"))
    return found


# ---- measurement ------------------------------------------------------------------------------------------------------


def native_and_candidates(case: Case, device: torch.device) -> tuple[Call, dict[str, Call]]:
    x = torch.randn(*case.leading, *case.coarse, device=device)
    key = torch.arange(case.leading[0], device=device)
    if case.operation == "power":
        return lambda: ops.power_map(x), power_candidates(case, x)
    if case.operation == "dct white":
        white, shortcut = (
            torch.randn(*case.leading, *case.fine, device=device),
            Shortcut(case.coarse, case.fine, device),
        )
        return lambda: ops.expand_white(x, white, t=T, kappa=KAPPA), {"five torch calls": lambda: shortcut(x, white)}
    basis, _, kind = case.operation.partition(" ")
    out = torch.empty(*case.leading, *case.fine, device=device) if kind == "out" else None
    candidates = haar_candidates if basis == "haar" else dct_candidates
    return lambda: ops.expand_field(x, key, case.fine, t=T, kappa=KAPPA, basis=basis, out=out), candidates(case, x)


def floor(case: Case, device: torch.device) -> Call:
    """What no implementation can avoid: the normals of the new coefficients, and moving input and output once."""
    small, large, planes = math.prod(case.coarse), math.prod(case.fine), math.prod(case.leading)
    read = torch.randn(planes * (large if case.operation == "dct white" else small), device=device)
    if case.operation == "power":
        return read.sum
    written = torch.empty(planes * large, device=device)[: read.numel()]
    if case.operation == "dct white":
        return lambda: written.copy_(read)
    key, rows = torch.zeros(1, dtype=torch.int64, device=device), (large - small) // case.fine[1]

    def draw_and_copy() -> None:
        ops.normals(key, planes, (rows, case.fine[1]))
        written.copy_(read)

    return draw_and_copy


def seconds(call: Call, repeats: int, device: torch.device) -> float:
    """Of one call, everything it queued done."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeats


def measure(case: Case, rounds: int, budget: float, device: torch.device) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of one case: every candidate's median time and ratio. A case stops after `budget` seconds.

    Also the candidates that did not run, which others may not be called faster than.
    """
    torch.compiler.reset()  # otherwise the same function compiled for yet another case reaches torch's limit
    native, others = native_and_candidates(case, device)
    calls: dict[str, Call] = {"native": native, "floor": floor(case, device)}
    failed = []
    for call in calls.values():
        seconds(call, 2, device)
    for name, call in others.items():
        try:
            seconds(call, 2, device)
            calls[name] = call
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    repeats = {name: max(1, min(50, int(2e-3 / max(1e-6, seconds(call, 1, device))))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - begun > budget:
            break
        for name, call in calls.items():
            times[name].append(seconds(call, repeats[name], device))
    base = np.array(times["native"])
    ratios = {name: float(np.median(np.array(values) / base)) for name, values in times.items()}
    fastest = min((name for name in calls if name in others), key=ratios.__getitem__)
    rows: list[dict[str, object]] = [
        {
            "operation": case.operation,
            "case": case.name,
            "threads": torch.get_num_threads() if device.type == "cpu" else "",
            "candidate": name,
            "ns_per_sample": f"{1e9 * float(np.median(times[name])) / case.samples:.3f}",
            "ratio": f"{ratios[name]:.2f}",
            "fastest": "yes" if name == fastest else "",
            "rounds": len(base),
            "cpu": ops.build_info()["cpu"],
        }
        for name in calls
    ]
    return rows, failed


def write(path: Path, table: list[dict[str, object]]) -> None:
    """Replace the rows of this device and number of threads, keep the others."""
    on_gpu = table[0]["threads"] == ""
    where = environment(torch.cuda.get_device_name() if on_gpu else None) | {"driver": driver() if on_gpu else ""}
    rows = [{**row, **where} for row in table]
    kept = []
    if path.exists():
        with path.open(newline="") as file:
            same = ("device", "threads")
            kept = [r for r in csv.DictReader(file) if any(r[c] != str(rows[0][c]) for c in same)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*rows, *kept], key=lambda r: str(r["threads"])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rows, few rounds")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a gate is missed (retried once) or a candidate fails"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--budget", type=float, default=12.0, help="seconds a case may take")
    parser.add_argument(
        "--output", type=Path, default=None, help=f"CSV to write (default {RESULTS.name} without --quick)"
    )
    options = parser.parse_args()
    if not ops.has_native():
        print("native operations are not built; nothing to measure", file=sys.stderr)
        return 1
    if options.device.type == "cuda" and not ops.build_info()["cuda"]:
        print("the extension was built without CUDA (SPECTRAL_PD_CUDA=1 builds it)", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    cases = [case for case in CASES if case.name in QUICK] if options.quick else CASES + OTHERS
    table: list[dict[str, object]] = []
    missed = 0
    rounds = 7 if options.quick else options.rounds
    output = options.output or (None if options.quick else RESULTS)
    for case in cases:
        limit = case.gpu_gate if options.device.type == "cuda" else case.gate if options.threads == 1 else None
        for _ in range(2):
            rows, failed = measure(case, rounds, options.budget, options.device)
            best = next(row for row in rows if row["fastest"])
            missing = limit is not None and float(str(best["ratio"])) < limit
            if not missing:
                break
        missed += missing + len(failed)
        table += rows
        gate = f" (gate {limit})" if limit is not None else ""
        print(
            f"{case.operation:9} {case.name:22} {rows[0]['ns_per_sample']:>6} ns a sample; "
            f"{best['ratio']}x faster than {best['candidate']}{gate}",
            flush=True,
        )
        for candidate in failed:
            print(f"did not run: {candidate}", flush=True)
        if output is not None:
            write(output, table)  # after every case, so that a run that is stopped leaves what it has measured
    return int(options.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
