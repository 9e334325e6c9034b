r"""Does the cost model tell the truth? FLUX.1-dev at its real width and few blocks, run end to end on the CPU.

1 double and 2 single blocks of width 3072 (the real proportion, 19 to 38), 512 text tokens, float32, one thread. Two runs
of 10 steps through the pipeline's adapter take turns: all at full size, and the S = 2 plan at delta 0.01. Every run is
a row with its wall time and its process time; the ratio of two runs of one round is a measured speedup, to be compared
with ``plan.speedup(counted_cost("flux", reduced=True))``. Process time is the one to trust on a machine that does other
work, too: with one thread it counts the work of the run and not its waiting.

    python benchmarks/flux_reduced.py [--latent 64 64] [--rounds 5]

Rows go to results/flux_reduced.csv after every round; older rows of the same latent size are replaced.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cost import RESULTS, counted_cost
from environment import environment
from full_size import SETUPS, build_pipeline, prepare

STEPS = 10
RUNS = {"full size": (1.0,), "progressive": (1 / 2, 1.0)}


def one_round(
    pipe: object, arguments: dict[str, object], latent: Sequence[int], number: int
) -> list[dict[str, str | int]]:
    """Both runs once, the first one first in even rounds and last in odd ones."""
    rows = []
    for run in sorted(RUNS, reverse=bool(number % 2)):
        adapter = prepare(pipe, "flux", STEPS, latent, arguments)
        plan = adapter.plan(scales=RUNS[run], cost=counted_cost("flux", reduced=True))
        wall, process = time.perf_counter(), time.process_time()
        adapter.run(plan)
        rows.append(
            {
                "latent": "x".join(map(str, latent)),
                "round": number,
                "run": run,
                "split": "+".join(map(str, plan.split)),
                "wall_seconds": f"{time.perf_counter() - wall:.2f}",
                "process_seconds": f"{time.process_time() - process:.2f}",
                "tflop": f"{plan.cost() / 1e12:.4f}",
                "predicted_speedup": f"{plan.speedup():.4f}",
                **environment(),
            }
        )
    return rows


def speedups(rows: Sequence[dict[str, str | int]], column: str) -> list[float]:
    """Full-size over progressive seconds of every round."""
    seconds = {(row["round"], row["run"]): float(row[column]) for row in rows}
    return [seconds[n, "full size"] / seconds[n, "progressive"] for n in sorted({n for n, _ in seconds})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", type=int, nargs=2, default=(64, 64), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "flux_reduced.csv")
    a = parser.parse_args()

    torch.set_num_threads(1)
    device = torch.device("cpu")
    pipe = build_pipeline("flux", device, torch.float32, reduced=True, compiled=False)
    arguments = SETUPS["flux"].arguments(torch.float32, device)
    warm = prepare(pipe, "flux", 2, a.latent, arguments)
    warm.run(warm.plan(transition_times=(0.99,), unreached="force"))  # both sizes once, not timed

    latent = "x".join(map(str, a.latent))
    kept = []
    if a.out.exists():
        with a.out.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["latent"] != latent]
    rows: list[dict[str, str | int]] = []
    for number in range(a.rounds):
        rows += one_round(pipe, arguments, a.latent, number)
        with a.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *rows])
        measured = {
            kind: statistics.median(speedups(rows, column))
            for kind, column in (("wall", "wall_seconds"), ("process", "process_seconds"))
        }
        print(
            f"round {number}: speedup measured {measured['process']:.3f} in process time, {measured['wall']:.3f} in wall "
            f"time (medians so far), predicted {max(float(row['predicted_speedup']) for row in rows):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
