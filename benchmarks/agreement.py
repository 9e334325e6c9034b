r"""Sizes that agree, on the small transformer: what its coarse calls miss, and what a repair brings back.

    python benchmarks/agreement.py [--seeds 64] [--folder RUNS]

The reference is the full run of two_grids.py, of the same seeds. Rows are added as jobs end; a run that was stopped goes on.

    sizes         what :func:`spectral_pd.agreement.size_agreement` measures of the network as it is, repaired, and repaired
                  and informed, on other seeds: I, V and B of each size over T
    progressive   2 and 3 stages at every delta, by each of these; and what the first one's measurement predicts
    fitted        the calls of the same plans, each answer a linear combination of all that the run has seen, as in two grids
    two grids     the pattern that :func:`spectral_pd.calibrate.choose_pattern` finds at a speedup, coarse calls repaired

Weights: tiny_dit/adapters/coarse.safetensors and coarse-blind.safetensors, of tiny_dit/repair.py.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from environment import environment
from networks import STEPS, TRANSFORMER, Velocity
from tiny_dit.model import WEIGHTS, load
from tiny_dit.repair import Repaired, plans
from torch import Tensor
from two_grids import CALIBRATION, SCALES, SEARCH, Task, row, solved, test_set, text

from spectral_pd import Plan, sample
from spectral_pd.agreement import KINDS, SizeAgreement, size_agreement
from spectral_pd.calibrate import Calibration, Outcome, calibrate, choose_pattern, refine
from spectral_pd.two_grids import Pattern, TwoGrids

RESULTS = Path(__file__).parent / "results"
ADAPTERS = WEIGHTS.parent / "adapters"
FILES = {"as is": None, "repaired": ADAPTERS / "coarse-blind.safetensors", "informed": ADAPTERS / "coarse.safetensors"}
SPEEDS = (2.0, 2.5, 3.0, 3.35, 4.0, 5.0)
BATCH, SIZES_SEEDS, RUNS = 16, 32, 16
FIELDS = (
    *("network", "job", "way", "aim", "delta", "split", "calls", "speedup", "steps", "predicted"),
    *(f"{name}{end}" for name in ("psnr", "spectrum", "wasserstein") for end in ("", "_low", "_high")),
    *("std", "samples", "runs", "precision", "device", "torch", "python", "commit"),
)


@cache
def network(kind: str) -> Repaired | None:
    file = FILES[kind]
    return None if file is None else Repaired.load(file)


def velocity_of(kind: str, noise: Tensor) -> Velocity:
    """The network of a kind, for runs that start from `noise`."""
    model = network(kind)
    if model is not None:
        return model.velocity(noise)
    untouched = load()
    return lambda x, t: untouched.velocity(x, t)


def cost(task: Task, plan: Plan) -> float:
    """In full-size calls."""
    return sum(n * task.cost(shape) for n, shape in zip(plan.split, plan.shapes, strict=True))


def progressive(task: Task, sizes: SizeAgreement, kind: str, plan: Plan) -> dict[str, Any]:
    start = test_set(task)[0]
    parts = [sample(velocity_of(kind, w), w, plan, solver="dpmpp_2m") for w in start.split(BATCH)]
    facts = {
        "speedup": STEPS / cost(task, plan),
        "steps": STEPS,
        "predicted": sizes.psnr(plan, kind) if kind in KINDS else "",
        "split": "+".join(map(str, plan.split)),
        "delta": f"{plan.delta:g}",
    }
    return row(task, f"progressive, {kind}", torch.cat(parts), **facts)


@cache
def calibrated(task: Task, kind: str) -> tuple[Tensor, Velocity, Calibration]:
    """Starting noise, the network told of it, and the moments of its runs."""
    w = task.network.start(RUNS, CALIBRATION, "cpu")
    velocity = velocity_of(kind, w)
    return w, velocity, calibrate(velocity, w, task.network.times, scales=SCALES, batch=RUNS, model=kind)


def two_grids(task: Task, kind: str, speed: float) -> dict[str, Any]:
    """As two_grids.chosen, with coarse calls by the network of a kind, which is told of the noise a run began with."""
    w, velocity, found = calibrated(task, kind)
    short = choose_pattern(found, speed, cost=task.cost, keep=3)
    best = max(refine(velocity, w, found, [one.pattern for one in short], cost=task.cost), key=lambda one: one.psnr)
    return outcome_row(task, "two grids", kind, best, aim=speed)


def fitted(task: Task, kind: str, plan: Plan) -> dict[str, Any]:
    """The calls of a progressive plan, each answer combined from all that the run has seen, with weights as for two grids."""
    w, velocity, found = calibrated(task, kind)
    grids = [found.shapes.index(shape) for shape in plan.shapes]
    calls = tuple((g,) for g, n in zip(grids, plan.split, strict=True) for _ in range(n))
    (outcome,) = refine(velocity, w, found, [Pattern(plan.times, found.shapes, calls)], cost=task.cost)
    return outcome_row(task, "fitted", kind, outcome, split="+".join(map(str, plan.split)), delta=f"{plan.delta:g}")


def outcome_row(task: Task, way: str, kind: str, outcome: Outcome, **facts: Any) -> dict[str, Any]:
    parts = [
        solved(TwoGrids(velocity_of(kind, w), outcome.predictor), w, outcome.pattern.times)
        for w in test_set(task)[0].split(BATCH)
    ]
    facts |= {
        "speedup": STEPS / outcome.cost,
        "steps": STEPS,
        "calls": text(outcome.pattern),
        "predicted": outcome.psnr,
    }
    return row(task, f"{way}, {kind}", torch.cat(parts), **facts)


def measured(kind: str, task: Task, folder: Path) -> SizeAgreement:
    """On seeds of their own, kept in a file."""
    file = FILES[kind]
    path = folder / f"sizes-{kind.replace(' ', '-')}-{0 if file is None else file.stat().st_mtime_ns}.pt"
    if not path.exists():
        w = task.network.start(SIZES_SEEDS, SEARCH, "cpu")
        found = size_agreement(
            velocity_of(kind, w),
            w,
            task.network.times,
            scales=SCALES,
            batch=SIZES_SEEDS,
            model=f"small transformer, {kind}",
        )
        found.save(path)
    return SizeAgreement.load(path)


def add(path: Path, fields: list[str], rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="", lineterminator="\n", extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def jobs(kinds: list[str]) -> Iterator[tuple[str, Any]]:
    """Everything there is to do, what matters most first."""
    for plan in plans():
        for kind in kinds:
            name = f"progressive, {kind}, {'+'.join(map(str, plan.split))}"
            yield name, lambda task, sizes, folder, kind=kind, plan=plan: progressive(task, sizes, kind, plan)
    for plan in plans():
        for kind in reversed(kinds):
            name = f"fitted, {kind}, {'+'.join(map(str, plan.split))}"
            yield name, lambda task, sizes, folder, kind=kind, plan=plan: fitted(task, kind, plan)
    for speed in SPEEDS:
        for kind in kinds[1:]:
            yield (
                f"two grids, {kind}, {speed:g}",
                lambda task, _, folder, kind=kind, speed=speed: two_grids(task, kind, speed),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/agreement"), help="what is made once lies here")
    parser.add_argument("--jobs", default="", help="only jobs whose name begins so")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement.csv")
    args = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    calibration: Any = type("Runs", (), {"seeds": RUNS})()
    task = Task(TRANSFORMER, calibration, args.seeds, 0, "cpu", args.folder)
    kinds = [kind for kind, file in FILES.items() if file is None or file.exists()]
    common = {"precision": "float32", **environment()}

    sizes_path = args.out.with_name(f"{args.out.stem}_sizes.csv")
    known = {r["network"] for r in csv.DictReader(sizes_path.open())} if sizes_path.exists() else set()
    for kind in kinds:
        if kind not in known and "sizes".startswith(args.jobs):
            found = measured(kind, task, args.folder)
            rows = [
                {
                    "network": kind,
                    **{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in one.items()},
                    "seeds": SIZES_SEEDS,
                }
                for one in found.rows()
            ]
            add(sizes_path, [*rows[0], *common], [one | common for one in rows])
            print(found, f"\n{time.monotonic() - began:.0f} s", flush=True)
    sizes = measured("as is", task, args.folder)
    done = {r["job"] for r in csv.DictReader(args.out.open())} if args.out.exists() else set()
    for name, job in jobs(kinds):
        if name not in done and name.startswith(args.jobs):
            add(args.out, list(FIELDS), [job(task, sizes, args.folder) | {"job": name} | common])
            print(f"{time.monotonic() - began:.0f} s: {name}", flush=True)


if __name__ == "__main__":
    main()
