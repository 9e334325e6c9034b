r"""Two grids at once on small networks: what the same picture costs, by every way of calling less.

    python benchmarks/two_grids.py [--device cuda] [--seeds 512] [--faces WEIGHTS]

The reference is the full run: 20 steps of DPM-Solver++(2M) at 64x64. Ways to do it for less, from the same noise:

    chosen             the pattern :func:`spectral_pd.calibrate.choose_pattern` finds at a speedup, with fitted weights, run on the full run's own time grid;
                       also with two grids only, and with full-size calls only (what the weights do without a coarse call)
    random             patterns of the same cost, weights fitted too: can luck beat the choice?
    fewer steps        the plain solver on its best grid: the shift, then every time by itself, searched on other seeds
    held               anchors and coarse calls without calibration, on a grid of their own; and the same without coarse calls
    progressive        one transition
    check              patterns drawn at random for the prediction of PSNR
    part, seeds        the chosen pattern with fewer kinds of features, and with weights from fewer calibration runs

Costs are counted FLOPs of one call. PSNR (median), SSIM, spectrum and sliced Wasserstein are to the reference pictures of the same seeds, with 95 %
intervals; std is the pictures' standard deviation over the reference's. --faces adds the pretrained denoiser of grey faces (local-probability-models-of-images).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from metrics import Rows, SlicedWasserstein, interval, radial_rows, spectrum_distance, ssim
from safetensors.torch import load_file
from tiny_dit.model import load
from torch import Tensor
from torch.nn import functional

from spectral_pd import shift_times
from spectral_pd.calibrate import Calibration, Outcome, calibrate, choose_pattern, forecast, refine, simulate
from spectral_pd.demo import psnr
from spectral_pd.solvers import dpmpp_2m
from spectral_pd.two_grids import Pattern, Predictor, TwoGrids, anchored

RESULTS = Path(__file__).parent / "results" / "two_grids.csv"
STEPS, SIDE, SCALES = 20, 64, (1 / 4, 1 / 2, 1.0)
SPEEDS = (1.5, 1.8, 2.0, 2.5, 3.0, 3.35, 4.0, 5.0)
FEWER = (13, 11, 10, 9, 8, 7, 6, 5, 4)
RANDOM_AT = (2.0, 2.5, 3.0, 3.35, 4.0)
CALIBRATION, SEARCH, TEST = 10**6, 2 * 10**6, 0
"""First seeds of three sets that share none."""
SSIM = ("chosen", "fewer steps, best grid", "progressive")
"""Ways whose SSIM is asked for: it takes longer than everything else."""
LETTERS, SHORT = ".qhF", 12
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Network:
    """A network and its full run."""

    name: str
    channels: int
    shift: float
    first: float = 1.0  # the time the run starts at
    weights: Path | None = None

    @property
    def times(self) -> tuple[float, ...]:
        return self.grid(STEPS, self.shift)

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        return tuple(self.first * t for t in shift_times(steps, shift=shift))

    def start(self, count: int, seed: int, device: str) -> Tensor:
        noise = [
            torch.randn(self.channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed + i))
            for i in range(count)
        ]
        return (self.first * torch.stack(noise)).to(device)

    def velocity(self, device: str) -> Velocity:
        if self.weights is None:
            network = load().to(device)
            return lambda x, t: network.velocity(x, torch.full((len(x),), t, device=x.device))
        layers = {name: value.float().to(device) for name, value in load_file(self.weights).items()}
        return partial(face_velocity, layers)


def face_velocity(layers: dict[str, Tensor], x: Tensor, t: float) -> Tensor:
    """Of the pretrained denoiser, for data in [-1, 1]: its input is a picture in [0, 1] plus noise, its output the noise."""
    y = (x / (1 - t) + 1) / 2
    for i in range(21):
        y_next = functional.conv2d(y if i else y, layers[f"conv_layers.{i}.weight"], padding=1)
        if 0 < i < 20:
            sd, gamma = layers[f"BN_layers.{i - 1}.running_sd"], layers[f"BN_layers.{i - 1}.gammas"]
            y_next = y_next / sd * gamma
        y = functional.relu(y_next) if i < 20 else y_next
    denoised = x / (1 - t) - 2 * y
    return (x - denoised) / t


TRANSFORMER = Network("small transformer", 3, 2.0)
COSTS = {"small transformer": {64: 1.0, 32: 0.247, 16: 0.0613}, "face denoiser": {64: 1.0, 32: 0.25, 16: 0.0625}}
"""FLOPs of a call over a full-size one's: counted by pareto.step_costs; of a convolution exactly the pixels."""


@dataclass(frozen=True, eq=False)
class Task:
    """What every job of one network is given."""

    network: Network
    calibration: Calibration
    seeds: int
    device: str
    reference: str  # file of the full run's pictures

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
    history = None
    for t, t_next in pairwise(times):
        x, history = dpmpp_2m(velocity, x, t, t_next, history)
    return x


def ran(task: Task, pattern: Pattern, start: Tensor, predictor: Predictor | None = None) -> Tensor:
    """The picture a pattern leads to."""
    two = TwoGrids(velocity_on(task.network, task.device), pattern, predictor=predictor)
    return solved(two, start, pattern.times)


@cache
def test_set(task: Task) -> tuple[Tensor, Tensor]:
    """Starting states and reference pictures."""
    return task.network.start(task.seeds, TEST, task.device), torch.from_numpy(np.load(task.reference))


@cache
def yardsticks(task: Task) -> tuple[Rows, SlicedWasserstein, Rows]:
    """The reference pictures' spectra, the projections of patches, and theirs."""
    reference = test_set(task)[1]
    wasserstein = SlicedWasserstein(reference)
    return radial_rows(reference), wasserstein, wasserstein.rows(reference)


@cache
def search_set(task: Task) -> tuple[Tensor, Tensor]:
    """Starting states of other seeds, and their full runs."""
    start = task.network.start(min(64, task.seeds), SEARCH, task.device)
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
        **dict.fromkeys(("aim", "speedup", "steps", "shift", "calls", "predicted"), ""),
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
        digits = 2 if name == "psnr" else 4
        out |= {name + end: f"{v:.{digits}f}" for end, v in zip(("", "_low", "_high"), values, strict=True)}
    return out | {"std": f"{float(picture.std() / reference.std()):.4f}", "samples": task.seeds}


def outcome_row(task: Task, way: str, outcome: Outcome, **facts: Any) -> dict[str, Any]:
    start = test_set(task)[0]
    return row(
        task,
        way,
        ran(task, outcome.pattern, start, outcome.predictor),
        speedup=STEPS / outcome.cost,
        steps=STEPS,
        calls=text(outcome.pattern),
        predicted=outcome.psnr,
        **facts,
    )


@cache
def chosen_one(task: Task, calibration: Calibration, speed: float, grids: tuple[int, ...] = (0, 1, 2)) -> Outcome:
    """The best of a shortlist, its weights fitted in its own runs on the calibration's seeds."""
    short = choose_pattern(calibration, speed, cost=task.cost, grids=grids, device=task.device, keep=SHORT)
    start = task.network.start(calibration.seeds, CALIBRATION, task.device)
    patterns = [one.pattern for one in short]
    refined = refine(velocity_on(task.network, task.device), start, calibration, patterns, cost=task.cost)
    return max(refined, key=lambda one: one.psnr)


def chosen(task: Task, speed: float, grids: tuple[int, ...], way: str) -> list[dict[str, Any]]:
    """The choice at a speed; with all grids also its parts, one kind of feature after another."""
    outcome = chosen_one(task, task.calibration, speed, grids)
    rows = [outcome_row(task, way, outcome, aim=speed)]
    if grids != (0, 1, 2) or speed not in (2.5, 4.0):
        return rows
    called = torch.zeros(1, STEPS, len(SCALES), dtype=torch.bool, device=task.device)
    for k, step in enumerate(outcome.pattern.calls):
        called[0, k, list(step)] = True
    calls = [4 + 3 * g + i for g in range(3) for i in (0, 1)]
    parts = {
        "calls now and last": calls,
        "and the state": [0, *calls],
        "and the starting noise": [0, 1, *calls],
        "and the calls before": [0, 1, *range(4, 13)],
        "and the last estimates": list(range(13)),
    }
    for name, features in parts.items():
        error, weights = simulate(task.calibration, called, weights=True, features=features)
        predicted = 10 * math.log10(4 / float(error)) + task.calibration.spread
        outcome = Outcome(Predictor(outcome.pattern, weights[0].cpu()), predicted, outcome.cost)
        rows.append(outcome_row(task, f"part: {name}", outcome, aim=speed))
    return rows


def drawn(task: Task, speed: float, count: int, seed: int) -> list[tuple[tuple[int, ...], ...]]:
    """Random patterns of (almost) one cost: random numbers of calls on each grid, at random steps."""
    rng = np.random.default_rng(seed)
    price = [task.cost((SIDE // 4,)), task.cost((SIDE // 2,)), 1.0]
    budget, out = STEPS / speed, []
    while len(out) < count:
        full = int(rng.integers(1, int(budget) + 1))
        half = int(rng.integers(0, min(STEPS - full, int((budget - full) / price[1])) + 1))
        quarter = min(STEPS - full - half, int((budget - full - half * price[1]) / price[0]))
        if full + half * price[1] + quarter * price[0] < 0.97 * budget:
            continue
        grids = [2] * full + [1] * half + [0] * quarter + [-1] * (STEPS - full - half - quarter)
        out.append(tuple(() if g < 0 else (int(g),) for g in rng.permutation(grids)))
    return out


def random_ones(task: Task, speed: float, count: int) -> list[dict[str, Any]]:
    """The best of many random patterns on a few seeds, beside the choice on the same ones; and the prediction's error."""
    start, reference = (x[:32] for x in search_set(task))

    def measured(outcome: Outcome) -> float:
        return float(psnr(ran(task, outcome.pattern, start, outcome.predictor), reference).median())

    choice = chosen_one(task, task.calibration, speed)
    others = forecast(task.calibration, drawn(task, speed, count, 1), cost=task.cost, device=task.device)
    values = [measured(one) for one in others]
    best = others[int(np.argmax(values))]
    misses = np.abs([one.psnr - value for one, value in zip(others, values, strict=True)])
    facts = {"aim": speed, "tried": count, "choice_there": measured(choice), "best_there": max(values)}
    facts |= {"miss_median": float(np.median(misses)), "miss_most": float(misses.max())}
    return [outcome_row(task, "random, best", best, **facts)]


def checks(task: Task, speed: float) -> list[dict[str, Any]]:
    """Patterns for the prediction: drawn, not chosen. From the moments, and from runs on the calibration's seeds."""
    from_moments = forecast(task.calibration, drawn(task, speed, 2, 2), cost=task.cost, device=task.device)
    start = task.network.start(task.calibration.seeds, CALIBRATION, task.device)
    velocity, patterns = velocity_on(task.network, task.device), [one.pattern for one in from_moments]
    from_runs = refine(velocity, start, task.calibration, patterns, cost=task.cost)
    return [
        outcome_row(task, way, outcome, aim=speed)
        for way, outcomes in (("check", from_moments), ("check, own runs", from_runs))
        for outcome in outcomes
    ]


def fewer(task: Task, steps: int, tries: int) -> list[dict[str, Any]]:
    """The plain solver with fewer steps: the reference's shift, the best shift, the best grid of all."""
    velocity, (start, reference) = velocity_on(task.network, task.device), search_set(task)

    def quality(times: Sequence[float]) -> float:
        return float(psnr(solved(velocity, start, times), reference).median())

    shifts = [0.35 * 1.25**i for i in range(14)]
    best = max(shifts, key=lambda shift: quality(task.network.grid(steps, shift)))
    times = np.array(task.network.grid(steps, best))
    rng, value, width = np.random.default_rng(steps), quality(tuple(times)), 0.4
    for _ in range(tries):
        # Log-odds between the fixed ends; the width follows the rate of success.
        inner = times[1:-1] / task.network.first
        moved = np.log(inner / (1 - inner)) + width * rng.standard_normal(len(inner)) * (rng.random(len(inner)) < 0.4)
        trial = np.array([times[0], *(task.network.first / (1 + np.exp(-moved))), 0.0])
        if (np.diff(trial) < -1e-4).all() and (q := quality(tuple(trial))) > value:
            times, value, width = trial, q, min(width * 1.3, 0.8)
        else:
            width = max(width * 0.96, 0.03)
    grids = {
        "fewer steps, same shift": (task.network.grid(steps, task.network.shift), task.network.shift),
        "fewer steps, best shift": (task.network.grid(steps, best), best),
        "fewer steps, best grid": (tuple(times), ""),
    }
    x = test_set(task)[0]
    return [
        row(task, way, solved(velocity, x, grid), speedup=STEPS / steps, steps=steps, shift=shift, calls="F" * steps)
        for way, (grid, shift) in grids.items()
    ]


def uncalibrated(task: Task) -> list[dict[str, Any]]:
    """Progressive sampling and the held rule, with and without coarse calls, on two grids and on three."""
    x, out = test_set(task)[0], []

    def add(way: str, times: Sequence[float], shift: float, anchors: Sequence[int], scales: Sequence[float]) -> Pattern:
        pattern = anchored(times, (SIDE, SIDE), anchors=anchors, scales=scales)
        facts = {"speedup": STEPS / pattern.cost(task.cost), "steps": pattern.steps, "shift": shift}
        out.append(row(task, way, ran(task, pattern, x), calls=text(pattern), **facts))
        return pattern

    for coarse in (12, 15, 18):
        add("progressive", task.network.times, task.network.shift, range(coarse, STEPS), (1 / 2, 1.0))
    for steps, shift, anchors in (
        (15, 2.0, (0, 2, 5, 6, 10, 13, 14)),
        (14, 2.0, (0, 2, 6, 9, 12, 13)),
        (14, 2.0, (2, 5, 9, 12, 13)),
        (13, 2.0, (2, 6, 11, 12)),
        (10, 2.5, (2, 6, 8, 9)),
    ):
        times = task.network.grid(steps, shift)
        add("held", times, shift, anchors, (1 / 2, 1.0))
        add("held, three grids", times, shift, anchors, SCALES)
        # Without coarse calls: the same anchors, the last answer kept between them.
        first = sorted({0, *anchors})
        pattern = Pattern(times, ((SIDE, SIDE),), tuple((0,) if k in first else () for k in range(steps)))
        facts = {"speedup": STEPS / pattern.cost(task.cost), "steps": steps, "shift": shift}
        out.append(row(task, "held, no coarse calls", ran(task, pattern, x), calls=text(pattern), **facts))
    return out


def fewer_runs(task: Task, seeds: int, speed: float) -> list[dict[str, Any]]:
    """A choice and its weights from fewer calibration runs."""
    velocity = velocity_on(task.network, task.device)
    noise = task.network.start(seeds, CALIBRATION, task.device)
    found = calibrate(velocity, noise, task.network.times, scales=SCALES, batch=64, model=task.network.name)
    outcome = chosen_one(task, found, speed)
    return [outcome_row(task, f"seeds: {seeds}", outcome, aim=speed)]


def jobs(task: Task, args: argparse.Namespace) -> Iterator[tuple[Callable[..., list[dict[str, Any]]], tuple[Any, ...]]]:
    """Everything there is to do for one network, the longest first."""
    if task.network == TRANSFORMER:
        for speed in RANDOM_AT:
            yield random_ones, (speed, args.random)
    for steps in FEWER:
        yield fewer, (steps, args.tries)
    for speed in SPEEDS:
        yield chosen, (speed, (0, 1, 2), "chosen")
        yield chosen, (speed, (2,), "chosen, full size only")
    for speed in RANDOM_AT:
        yield chosen, (speed, (1, 2), "chosen, two grids")
        yield checks, (speed,)
    if task.network == TRANSFORMER:
        yield uncalibrated, ()
        for seeds in (4, 8, 16, 32):
            yield fewer_runs, (seeds, 3.0)


TASKS: list[Task] = []
"""Of a worker: given once, so that what is cached for a task stays."""


def given(tasks: bytes) -> None:
    TASKS.extend(pickle.loads(tasks))


def done(job: Callable[..., list[dict[str, Any]]], index: int, options: tuple[Any, ...]) -> list[dict[str, Any]]:
    return job(TASKS[index], *options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=512)
    parser.add_argument("--runs", type=int, default=64, help="full runs of the calibration")
    parser.add_argument("--random", type=int, default=500, help="random patterns a speed")
    parser.add_argument("--tries", type=int, default=150, help="tries of the search for a grid for fewer steps")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop handing out jobs after so long")
    parser.add_argument("--faces", type=Path, help="weights of the pretrained denoiser")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="for the reference pictures of this run")
    parser.add_argument("--calibration", type=Path, help="write the transformer's calibration here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    began = time.monotonic()

    networks = [TRANSFORMER]
    if args.faces:
        networks.append(Network("face denoiser", 1, 1.0, first=2 / 3, weights=args.faces))
    tasks = []
    for network in networks:
        velocity = velocity_on(network, args.device)
        start = network.start(args.runs, CALIBRATION, args.device)
        found = calibrate(velocity, start, network.times, scales=SCALES, batch=64, model=network.name)
        if args.calibration and network == TRANSFORMER:
            found.save(args.calibration)
        pictures = solved(velocity, network.start(args.seeds, TEST, args.device), network.times).float().cpu().numpy()
        file = args.folder / f"two_grids_{hashlib.sha256(network.name.encode()).hexdigest()[:8]}.npy"
        np.save(file, pictures)
        tasks.append(Task(network, found, args.seeds, args.device, str(file)))
    print(f"calibrated after {time.monotonic() - began:.0f} s", flush=True)

    rows: list[dict[str, Any]] = []
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        args.workers, mp_context=spawn, initializer=given, initargs=(pickle.dumps(tasks),)
    ) as pool:
        pending = [
            (pool.submit(done, job, index, options), job, options)
            for index, task in enumerate(tasks)
            for job, options in jobs(task, args)
        ]
        for future, job, options in pending:
            if time.monotonic() - began > args.seconds and future.cancel():
                continue
            rows += future.result()
            print(f"{time.monotonic() - began:.0f} s: {job.__name__} {options}", flush=True)
    device = torch.cuda.get_device_name() if args.device == "cuda" else None
    common = {"runs": args.runs, "precision": "TF32" if args.device == "cuda" else "float32", **environment(device)}
    names = list(dict.fromkeys(name for one in rows for name in one)) + list(common)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as out:
        writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(one | common for one in rows)


if __name__ == "__main__":
    main()
