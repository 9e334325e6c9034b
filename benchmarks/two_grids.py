r"""Two grids at once on small networks: what the same picture costs, by every way of calling less.

    python benchmarks/two_grids.py [--device cuda] [--seeds 512] [--faces WEIGHTS]

Rows are added as jobs end; a run that was stopped goes on where it was. The reference is the full run: 20 steps of
DPM-Solver++(2M) at 64x64. Ways to do it for less, from the same noise:

    chosen         the pattern :func:`spectral_pd.calibrate.choose_pattern` finds at a speedup, on the full run's own time grid;
                   and with full-size calls only, the control that shows what coarse calls add
    fewer steps    the plain solver on its best shift, and on its best grid, searched on other seeds
    progressive    one transition; held: anchors without calibration; held, no coarse calls: the plain cache of the last answer
    check          patterns drawn at random, for the prediction of PSNR
    random         patterns of the choice's cost, weights fitted too: can luck beat the choice?
    part           the chosen pattern with fewer kinds of features
    calibrated on  weights and choice from other numbers of calibration runs

Costs are counted FLOPs of one call. PSNR (median), SSIM, spectrum and sliced Wasserstein are to the reference pictures of the
same seeds, with 95 % intervals (bootstrap over seeds); std is the pictures' standard deviation over the reference's. The
latent transformer is that of benchmarks/latent_dit: 16 channels of FLUX.1's latents at 32x32, whose PSNR is that of latents,
counted for values that span 2 as well. --faces adds the pretrained denoiser of grey faces (local-probability-models-of-images).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from metrics import Rows, SlicedWasserstein, columns, interval, radial_rows, spectrum_distance, ssim
from networks import LATENT_TRANSFORMER, STEPS, TRANSFORMER, Network, Velocity, face_denoiser
from scipy.optimize import least_squares
from torch import Tensor

from spectral_pd.calibrate import Calibration, Outcome, calibrate, choose_pattern, forecast, refine, simulate
from spectral_pd.measuring.demo import psnr
from spectral_pd.solvers import dpmpp_2m
from spectral_pd.two_grids import Pattern, Predictor, TwoGrids, anchored, held

RESULTS = Path(__file__).parent / "results" / "two_grids.csv"
SCALES = (1 / 4, 1 / 2, 1.0)
CHECKS = 4  # patterns a speed
FAR = 6.0  # dB below the choice's forecast: random patterns not worth a run
SPEEDS = (2.0, 3.0, 4.0, 2.5, 3.35, 5.0, 1.8)
OTHER_SPEEDS = (3.0, 2.0, 4.0, 2.5, 3.3)
RANDOM_AT = (3.0, 4.0, 2.0)
CALIBRATION, SEARCH, TEST = 10**6, 2 * 10**6, 0
"""First seeds of three sets that share none."""
SSIM = ("chosen", "fewer steps, best grid", "progressive")
"""Ways whose SSIM is asked for: it takes longer than everything else."""
COLUMNS = (
    *("network", "job", "way", "aim", "speedup", "steps", "shift", "calls", "times", "predicted"),
    *(f"{name}{end}" for name in ("psnr", "spectrum", "wasserstein", "ssim") for end in ("", "_low", "_high")),
    *("std", "tried", "ran", "choice_there", "best_there", "miss_median", "miss_most", "samples", "search", "runs"),
    *("precision", "device", "torch", "python", "commit"),
)
LETTERS, SHORT, ALONE = ".qhF", 3, "chosen, full size only"
TOGETHER = 64  # seeds run together


NETWORKS = {"transformer": TRANSFORMER, "latent": LATENT_TRANSFORMER}
COSTS = {
    "small transformer": {64: 1.0, 32: 0.247, 16: 0.0613},
    "latent transformer": {32: 1.0, 16: 0.247, 8: 0.0613},
    "face denoiser": {64: 1.0, 32: 0.25, 16: 0.0625},
}
"""Cost of a call over a full-size one's; of the transformers rather more than the FLOPs that are counted (0.216 and 0.052
of the pixel network's, results/pareto.csv), so that no speed of small calls is overstated; of a convolution its pixels."""


@dataclass(frozen=True, eq=False)
class Task:
    """What every job of one network is given."""

    network: Network
    calibration: Calibration
    seeds: int
    search: int  # seeds that grids for fewer steps are searched on; the shortlist is decided on twice as many
    device: str
    folder: Path  # for what is made once: the full run's pictures, choices, grids

    def cost(self, shape: Sequence[int]) -> float:
        return COSTS[self.network.name][shape[0]]


@cache
def velocity_on(network: Network, device: str) -> Velocity:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    return network.velocity(device)


@torch.no_grad()
def solved(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    """The picture at the end of a plain run."""
    return torch.cat([_solved(velocity, part, times) for part in x.split(TOGETHER)])


def _solved(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    history = None
    for t, t_next in pairwise(times):
        x, history = dpmpp_2m(velocity, x, t, t_next, history)
    return x


def ran(task: Task, predictor: Predictor, start: Tensor) -> Tensor:
    """The picture a pattern leads to."""
    velocity, times = velocity_on(task.network, task.device), predictor.pattern.times
    return torch.cat([_solved(TwoGrids(velocity, predictor), part, times) for part in start.split(TOGETHER)])


def kept(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a thing once for all processes and runs: in a file named after the task and the arguments."""

    def find(task: Task, *options: Any) -> Any:
        about = (task.network, task.search, task.device, task.calibration.seeds, options)
        file = task.folder / f"{make.__name__}_{hashlib.sha256(repr(about).encode()).hexdigest()[:12]}.pkl"
        if not file.exists():
            partial_file = file.with_suffix(f".{os.getpid()}")
            partial_file.write_bytes(pickle.dumps(make(task, *options)))
            partial_file.replace(file)
        return pickle.loads(file.read_bytes())

    return find


@kept
def reference_pictures(task: Task, seeds: int) -> Tensor:
    start = task.network.start(seeds, TEST, task.device)
    return solved(velocity_on(task.network, task.device), start, task.network.times).float().cpu()


@cache
def test_set(task: Task) -> tuple[Tensor, Tensor]:
    """Starting states and reference pictures."""
    return task.network.start(task.seeds, TEST, task.device), reference_pictures(task, task.seeds)


@cache
def yardsticks(task: Task) -> tuple[Rows, SlicedWasserstein, Rows]:
    """The reference pictures' spectra, the projections of patches, and theirs."""
    reference = test_set(task)[1]
    wasserstein = SlicedWasserstein(reference)
    return radial_rows(reference), wasserstein, wasserstein.rows(reference)


@cache
def search_set(task: Task) -> tuple[Tensor, Tensor]:
    """Starting states of other seeds, and their full runs."""
    start = task.network.start(task.search, SEARCH, task.device)
    return start, solved(velocity_on(task.network, task.device), start, task.network.times)


def text(pattern: Pattern) -> str:
    """One letter a step: the finest grid called, lower case and doubled where coarser ones are too."""
    return "".join(
        "".join(LETTERS[g + 4 - len(pattern.shapes)] for g in reversed(step)) or "." for step in pattern.calls
    )


def row(task: Task, way: str, picture: Tensor, **facts: Any) -> dict[str, Any]:
    """One row: what was run, and how far its pictures are from the reference's."""
    reference, (spectra, wasserstein, patches) = test_set(task)[1], yardsticks(task)
    picture = picture.float().cpu()
    out = {
        "network": task.network.name,
        "way": way,
        "search": task.search,
        "runs": task.calibration.seeds,
    }
    out |= {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in facts.items()}
    found = {
        "psnr": interval(lambda r: float(np.median(r)), psnr(picture, reference).numpy()),
        "spectrum": interval(partial(spectrum_distance, reference=spectra), radial_rows(picture)),
        "wasserstein": interval(partial(wasserstein.distance, reference=patches), wasserstein.rows(picture), draws=4),
        "ssim": interval(lambda r: float(r.mean()), ssim(picture, reference))
        if way in SSIM and picture.shape[1] == 3
        else (math.nan,) * 3,
    }
    for name, values in found.items():
        out |= columns(name, values, digits=2 if name == "psnr" else 4)
    return out | {"std": f"{float(picture.std() / reference.std()):.4f}", "samples": task.seeds}


def outcome_row(task: Task, way: str, outcome: Outcome, **facts: Any) -> dict[str, Any]:
    start = test_set(task)[0]
    return row(
        task,
        way,
        ran(task, outcome.predictor, start),
        speedup=STEPS / outcome.cost,
        steps=STEPS,
        calls=text(outcome.pattern),
        predicted=outcome.psnr,
        **facts,
    )


@kept
def choices(task: Task, speed: float) -> dict[str, Outcome]:
    """The best pattern of all grids, and of full-size calls only, each out of a shortlist run on the calibration's seeds."""
    every = choose_pattern(task.calibration, speed, cost=task.cost, keep=SHORT)
    alone = choose_pattern(task.calibration, speed, cost=task.cost, keep=SHORT, grids=(len(SCALES) - 1,))
    start = task.network.start(min(2 * task.search, task.calibration.seeds), CALIBRATION, task.device)
    patterns = list(dict.fromkeys(one.pattern for one in (*every, *alone)))
    refined = refine(velocity_on(task.network, task.device), start, task.calibration, patterns, cost=task.cost)
    plain = [one for one in refined if set("".join(text(one.pattern))) <= set("F.")]
    return {way: max(ones, key=lambda one: one.psnr) for way, ones in (("chosen", refined), (ALONE, plain))}


def chosen(task: Task, speed: float) -> list[dict[str, Any]]:
    """The choice at a speed, and the control without coarse calls."""
    found = choices(task, speed)
    best = outcome_row(task, "chosen", found["chosen"], aim=speed)
    if found[ALONE].pattern == found["chosen"].pattern:
        return [best, best | {"way": ALONE}]
    return [best, outcome_row(task, ALONE, found[ALONE], aim=speed)]


def parts(task: Task, speed: float) -> list[dict[str, Any]]:
    """The choice with one kind of feature after another."""
    outcome, rows = choices(task, speed)["chosen"], []
    called = torch.zeros(1, STEPS, len(SCALES), dtype=torch.bool)
    for k, step in enumerate(outcome.pattern.calls):
        called[0, k, list(step)] = True
    calls = [4 + 3 * g + i for g in range(3) for i in (0, 1)]
    for name, features in {
        "calls now and last": calls,
        "and the state": [0, *calls],
        "and the starting noise": [0, 1, *calls],
        "and the calls before": [0, 1, *range(4, 13)],
        "and the last estimates": list(range(13)),
    }.items():
        error, weights = simulate(task.calibration, called, features=features)
        predicted = 10 * math.log10(4 / float(error)) + task.calibration.spread
        one = Outcome(Predictor(outcome.pattern, weights[0]), predicted, outcome.cost)
        rows.append(outcome_row(task, f"part: {name}", one, aim=speed))
    return rows


def drawn(task: Task, speed: float, count: int, seed: int) -> list[Pattern]:
    """Random patterns of (almost) one cost: random numbers of calls on each grid, at random steps."""
    rng = np.random.default_rng(seed)
    price = [task.cost(shape) for shape in task.calibration.shapes]
    budget, out = STEPS / speed, list[Pattern]()
    while len(out) < count:
        full = int(rng.integers(1, int(budget) + 1))
        half = int(rng.integers(0, min(STEPS - full, int((budget - full) / price[1])) + 1))
        quarter = min(STEPS - full - half, int((budget - full - half * price[1]) / price[0]))
        if full + half * price[1] + quarter * price[0] < 0.97 * budget:
            continue
        grids = [2] * full + [1] * half + [0] * quarter + [-1] * (STEPS - full - half - quarter)
        calls = tuple(() if g < 0 else (int(g),) for g in rng.permutation(grids))
        out.append(Pattern(task.calibration.times, task.calibration.shapes, calls))
    return out


def random_ones(task: Task, speed: float, count: int) -> list[dict[str, Any]]:
    """The best of many random patterns on a few seeds, beside the choice on the same ones; and the prediction's error.

    Those that the forecast puts far below the choice are not run: it was never off by half as much.
    """
    start, reference = search_set(task)

    def measured(outcome: Outcome) -> float:
        return float(psnr(ran(task, outcome.predictor, start), reference).median())

    choice = choices(task, speed)["chosen"]
    others = forecast(task.calibration, drawn(task, speed, count, 1), cost=task.cost)
    least = forecast(task.calibration, [choice.pattern], cost=task.cost)[0].psnr - FAR
    near = [one for one in others if one.psnr >= least] or [max(others, key=lambda one: one.psnr)]
    values = [measured(one) for one in near]
    best = near[int(np.argmax(values))]
    misses = np.abs([one.psnr - value for one, value in zip(near, values, strict=True)])
    facts = {"aim": speed, "tried": count, "ran": len(near)}
    facts |= {"choice_there": measured(choice), "best_there": max(values)}
    facts |= {"miss_median": float(np.median(misses)), "miss_most": float(misses.max())}
    return [outcome_row(task, "random, best", best, **facts)]


def checks(task: Task, speed: float) -> list[dict[str, Any]]:
    """Patterns for the prediction, drawn, not chosen: from the moments alone, and after a run on the calibration's seeds."""
    from_moments = forecast(task.calibration, drawn(task, speed, CHECKS, 2), cost=task.cost)
    start = task.network.start(task.calibration.seeds, CALIBRATION, task.device)
    patterns = [one.pattern for one in from_moments]
    ran_once = refine(velocity_on(task.network, task.device), start, task.calibration, patterns, cost=task.cost)
    ways = (("check", from_moments), ("check, refined", ran_once))
    return [outcome_row(task, way, outcome, aim=speed) for way, ones in ways for outcome in ones]


@kept
def best_grid(task: Task, steps: int) -> tuple[float, tuple[float, ...]]:
    """The best shift for the plain solver, and from there the best grid of all, on the search's seeds.

    Least squares over the log-odds of the inner times, by Gauss-Newton with differences; each seed's residual is divided by its
    error at the best shift, so that the sum of squares is, to first order, the mean of PSNR.
    """
    velocity, (start, reference) = velocity_on(task.network, task.device), search_set(task)

    def off(times: Sequence[float]) -> Tensor:
        return (solved(velocity, start, times) - reference).double().flatten(1).cpu()

    def quality(times: Sequence[float]) -> float:
        return float((-10 * off(times).square().mean(1).log10()).median())

    shifts = [0.18, 0.27, 0.4, 0.6, 0.9, 1.4, 2.1, 3.2, 4.8]
    shift = max(shifts, key=lambda one: quality(task.network.grid(steps, one)))
    grid = task.network.grid(steps, shift)
    first = task.network.first
    odds = np.log([t / (first - t) for t in grid[1:-1]])
    base = np.concatenate([odds[:1], np.log(-np.diff(odds))])

    def times(z: Rows) -> tuple[float, ...]:
        p = base + (z - 1)  # variables of size 1, for the differences
        odds = p[0] - np.concatenate([[0.0], np.cumsum(np.exp(p[1:]))])
        return (first, *(first / (1 + np.exp(-odds))).tolist(), 0.0)

    weight = 1 / off(grid).square().sum(1, keepdim=True).sqrt()
    found = least_squares(
        lambda z: (weight * off(times(z))).flatten().numpy(),
        np.ones(steps - 1),
        diff_step=0.03,
        max_nfev=3,
    )
    return shift, max((grid, times(found.x)), key=quality)


def fewer(task: Task, steps: int) -> list[dict[str, Any]]:
    """The plain solver with fewer steps: on its best shift, and on the best grid of all."""
    velocity, (shift, grid) = velocity_on(task.network, task.device), best_grid(task, steps)
    grids = {
        "fewer steps, best shift": (task.network.grid(steps, shift), shift),
        "fewer steps, best grid": (grid, ""),
    }
    x, common = test_set(task)[0], {"speedup": STEPS / steps, "steps": steps, "calls": "F" * steps}
    return [
        row(
            task,
            way,
            solved(velocity, x, times),
            shift=shift,
            times=" ".join(f"{t:.5f}" for t in times) if way.endswith("grid") else "",
            **common,
        )
        for way, (times, shift) in grids.items()
    ]


def uncalibrated(task: Task) -> list[dict[str, Any]]:
    """Progressive sampling and the held rule, with and without coarse calls, on two grids and on three."""
    x, out, full = test_set(task)[0], list[dict[str, Any]](), (task.network.side, task.network.side)

    def add(way: str, times: Sequence[float], shift: float, anchors: Sequence[int], scales: Sequence[float]) -> Pattern:
        pattern = anchored(times, full, anchors=anchors, scales=scales)
        facts = {"speedup": STEPS / pattern.cost(task.cost), "steps": len(pattern.calls), "shift": shift}
        out.append(row(task, way, ran(task, held(pattern), x), calls=text(pattern), **facts))
        return pattern

    own = task.network.shift
    for coarse in (12, 15, 18):
        add("progressive", task.network.times, own, range(coarse, STEPS), (1 / 2, 1.0))
    for steps, shift, anchors in (
        (15, own, (0, 2, 5, 6, 10, 13, 14)),
        (13, own, (2, 6, 11, 12)),
        (10, 1.25 * own, (2, 6, 8, 9)),
        (10, 1.25 * own, (2, 8, 9)),
    ):
        times = task.network.grid(steps, shift)
        add("held", times, shift, anchors, (1 / 2, 1.0))
        # Without coarse calls: the same anchors, the last answer kept between them.
        first = sorted({0, *anchors})
        pattern = Pattern(times, (full,), tuple((0,) if k in first else () for k in range(steps)))
        facts = {"speedup": STEPS / pattern.cost(task.cost), "steps": steps, "shift": shift}
        out.append(row(task, "held, no coarse calls", ran(task, held(pattern), x), calls=text(pattern), **facts))
    return out


def fewer_runs(task: Task, seeds: int, speed: float) -> list[dict[str, Any]]:
    """A choice and its weights from fewer calibration runs."""
    velocity = velocity_on(task.network, task.device)
    noise = task.network.start(seeds, CALIBRATION, task.device)
    found = calibrate(velocity, noise, task.network.times, scales=SCALES, model=task.network.name)
    outcome = choices(replace(task, calibration=found), speed)["chosen"]
    return [outcome_row(task, f"calibrated on {seeds} seeds", outcome, aim=speed, runs=seeds)]


Job = tuple[str, Callable[..., list[dict[str, Any]]], tuple[Any, ...]]


def jobs(task: Task, args: argparse.Namespace) -> Iterator[Job]:
    """Everything there is to do for one network, what matters most first."""
    small = task.network == TRANSFORMER
    for speed in SPEEDS if small else OTHER_SPEEDS:
        yield f"chosen {speed}", chosen, (speed,)
        steps = math.ceil(STEPS / speed - 0.2)  # rather one call more than one less
        yield f"fewer {steps}", fewer, (steps,)
        if not task.network.weights and speed in RANDOM_AT:
            yield f"check {speed}", checks, (speed,)
    yield "uncalibrated", uncalibrated, ()
    if small:
        for speed in RANDOM_AT:
            yield f"random {speed}", random_ones, (speed, args.random)
        for speed in (2.5, 4.0):
            yield f"parts {speed}", parts, (speed,)
        for seeds in (4, 8, 32):
            yield f"seeds {seeds}", fewer_runs, (seeds, 3.0)


TASKS: dict[str, Task] = {}
"""Of a worker: given once, so that what is cached for a task stays."""


def given(tasks: bytes) -> None:
    TASKS.update(pickle.loads(tasks))


def done(network: str, job: Job) -> list[dict[str, Any]]:
    name, function, options = job
    return [one | {"job": name} for one in function(TASKS[network], *options)]


def calibrated(network: Network, args: argparse.Namespace) -> Calibration:
    """From a file, where one was kept."""
    file = args.folder / f"{network.name.replace(' ', '_')}_{args.runs}.json"
    if not file.exists():
        start = network.start(args.runs, CALIBRATION, args.device)
        velocity = velocity_on(network, args.device)
        calibrate(velocity, start, network.times, scales=SCALES, model=network.name).save(file)
    return Calibration.load(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=512)
    parser.add_argument("--search", type=int, default=64, help="seeds to search grids for fewer steps on")
    parser.add_argument("--runs", type=int, default=64, help="full runs of the calibration")
    parser.add_argument("--random", type=int, default=500, help="random patterns a speed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--faces", type=Path, help="weights of the pretrained denoiser")
    parser.add_argument("--only", choices=(*NETWORKS, "faces"), help="one of the networks")
    parser.add_argument("--jobs", default="", help="only jobs whose names begin so: chosen,fewer 7,...")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/two_grids"), help="what is made once lies here")
    parser.add_argument("--out", type=Path, default=RESULTS, help="rows are added here; jobs that have theirs are done")
    args = parser.parse_args()
    began = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)

    networks = [network for name, network in NETWORKS.items() if args.only in (None, name)]
    if args.faces:
        networks.append(face_denoiser(args.faces))
    tasks = {
        network.name: Task(network, calibrated(network, args), args.seeds, args.search, args.device, args.folder)
        for network in networks
    }
    there: dict[tuple[str, str], int] = {}
    if args.out.exists():
        with args.out.open(newline="") as lines:
            there = {(one["network"], one["job"]): int(one["samples"]) for one in csv.DictReader(lines)}
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(",".join(COLUMNS) + "\n")
    device = torch.cuda.get_device_name() if args.device == "cuda" else None
    common = {"precision": "TF32" if args.device == "cuda" else "float32", **environment(device)}
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        args.workers, mp_context=spawn, initializer=given, initargs=(pickle.dumps(tasks),)
    ) as pool:
        pending = {
            pool.submit(done, network, job): job[0]
            for network, task in tasks.items()
            for job in jobs(task, args)
            if job[0].startswith(tuple(args.jobs.split(","))) and there.get((network, job[0]), 0) < task.seeds
        }
        for future in as_completed(pending):
            with args.out.open("a", newline="") as out:
                csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n").writerows(
                    one | common for one in future.result()
                )
            print(f"{time.monotonic() - began:.0f} s: {pending[future]}", flush=True)


if __name__ == "__main__":
    main()
