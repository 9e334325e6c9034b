"""How fast spectra stream: the meter against what one could assemble from existing libraries, and against reading the data.

Side by side in one process: every round calls each candidate once, the ratio to the meter is taken within the round, the row
holds the median over rounds. All candidates centre each plane, transform (orthonormal DCT-II), square, average per channel
in float64 and bin radially. ``read`` only sums the batch. Then a stream of --gigabytes passes through the meter, batch by
batch from a pool too large for the caches; each tenth of it is also only read, and the resident memory is recorded on the
way: it must not grow. On one thread the clock is the CPU's time, which other processes disturb least.

    python benchmarks/spectra_throughput.py [--rounds 15] [--gigabytes 20] [--threads 1] [--check]

Rows go to results/spectra_throughput.csv. With --check the exit status is 1 when the fastest peer on one thread takes less than
GATE times as long as the meter, or memory grows.
"""

from __future__ import annotations

import argparse
import csv
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from torch import Tensor
from tqdm import tqdm

from spectral_pd import DCT, SpectrumMeter

RESULTS = Path(__file__).parent / "results" / "spectra_throughput.csv"
BATCHES = {
    "latents 64x64": (64, 16, 64, 64),
    "latents 128x128": (16, 16, 128, 128),
    "video latents 90x160": (1, 16, 21, 90, 160),
}
PEERS = ("scipy, batched", "torch-dct", "torch matmul")
GATE = 2.8
GROWTH = 16.0
"""Megabytes that the stream may add after its first tenth."""


def binned(power: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Radial means of maps (channels, h, w), as anyone would write them."""
    bins = np.floor(frequency + 0.5).astype(np.int64).ravel()
    inside = (bins >= 1) & (bins <= min(power.shape[-2:]) // 2)
    count = np.bincount(bins[inside])
    sums = [np.bincount(bins[inside], weights=plane.ravel()[inside]) for plane in power]
    return np.stack(sums)[:, 1:] / count[1:]


def candidates(batch: Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed: name -> call that measures one batch (samples, channels, ..., h, w)."""
    shape = tuple(batch.shape[-2:])
    frequency = DCT.frequency(shape).numpy()
    axes = tuple(i for i in range(batch.ndim - 2) if i != 1)
    meter, bootstrap = SpectrumMeter(shape), SpectrumMeter(shape, replicates=200)
    matrices = [DCT.matrix(n).float() for n in shape]

    def scipy_batched() -> np.ndarray:
        import scipy.fft

        x = batch.numpy()
        c = scipy.fft.dctn(
            x - x.mean((-2, -1), keepdims=True), axes=(-2, -1), norm="ortho", workers=torch.get_num_threads()
        )
        return binned(np.square(c, out=c).mean(axes, dtype=np.float64), frequency)

    def torch_dct() -> np.ndarray:
        from torch_dct import dct_2d

        c = dct_2d(batch - batch.mean((-2, -1), keepdim=True), norm="ortho")
        return binned(c.square_().mean(axes, dtype=torch.float64).numpy(), frequency)

    def matmul() -> np.ndarray:
        c = matrices[0] @ (batch - batch.mean((-2, -1), keepdim=True)) @ matrices[1].T
        return binned(c.square_().mean(axes, dtype=torch.float64).numpy(), frequency)

    return {
        "meter": lambda: meter.update(batch),
        "meter, bootstrap of 200": lambda: bootstrap.update(batch),
        "scipy, batched": scipy_batched,
        "torch-dct": torch_dct,
        "torch matmul": matmul,
        "read": batch.sum,
    }


def agree(batch: Tensor) -> None:
    """Every candidate must measure the same spectrum, or its time means nothing."""
    calls = candidates(batch)
    ours = np.stack([table.power for table in calls["meter"]().channel_results()])
    for name in PEERS:
        np.testing.assert_allclose(calls[name](), ours, rtol=1e-4)


def megabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clock() -> float:
    """Seconds: of the CPU on one thread, of the wall on several (whose CPU times would add up)."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def side_by_side(case: str, batch: Tensor, rounds: int) -> list[dict[str, Any]]:
    """One row a candidate."""
    calls = candidates(batch)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(rounds), desc=case):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return [
        {
            "case": case,
            "candidate": name,
            "time_over_meter": f"{statistics.median(t / ours for t, ours in zip(spent, times['meter'], strict=True)):.2f}",
            "gigabytes_per_second": f"{batch.nbytes / statistics.median(spent) / 1e9:.3f}",
        }
        for name, spent in times.items()
    ]


def stream(gigabytes: float) -> list[dict[str, Any]]:
    """Pass a stream of batches through one meter; a row for each tenth of it, with the rates so far."""
    pool = [torch.randn(64, 16, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(32)]
    size = pool[0].nbytes
    total = round(gigabytes * 1e9 / size)
    meter = SpectrumMeter((64, 64))
    meter.update(pool[0])
    rows, measuring, reading = [], 0.0, 0.0
    for tenth in tqdm(range(10), desc="stream"):
        batches = [pool[k % len(pool)] for k in range(tenth * total // 10, (tenth + 1) * total // 10)]
        start = clock()
        for batch in batches:
            meter.update(batch)
        measuring, start = measuring + clock() - start, clock()
        for batch in batches:
            batch.sum()
        reading += clock() - start
        done = (tenth + 1) * total // 10 * size / 1e9
        rows.append(
            {
                "case": "stream",
                "candidate": f"{done:.1f} GB",
                "gigabytes_per_second": f"{done / measuring:.3f}",
                "read_gigabytes_per_second": f"{done / reading:.3f}",
                "resident_megabytes": f"{megabytes():.0f}",
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a gate is missed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rows: list[dict[str, Any]] = []
    missed = False
    for case, shape in BATCHES.items():
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        agree(batch)
        rows += side_by_side(case, batch, args.rounds)
        fastest = min(float(r["time_over_meter"]) for r in rows if r["case"] == case and r["candidate"] in PEERS)
        missed |= args.threads == 1 and fastest < GATE
        print(f"{case}: fastest peer takes {fastest:.2f} times as long (gate {GATE} on one thread)")
    long = stream(args.gigabytes)
    growth = float(long[-1]["resident_megabytes"]) - float(long[0]["resident_megabytes"])
    missed |= growth > GROWTH
    print(f"stream: {growth:.0f} MB more at the end than after a tenth (gate {GROWTH:.0f})")
    where = {"threads": args.threads, **environment()}
    fields = [*rows[0], "read_gigabytes_per_second", "resident_megabytes", *where]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows({**row, **where} for row in [*rows, *long])
    return int(args.check and missed)


if __name__ == "__main__":
    sys.exit(main())
