r"""Quality against compute on the small transformer: every way of sampling the same model for less, from the same noise.

    python benchmarks/pareto.py --folder RUNS [--fast] [--threads 2]

The reference is 20 full-resolution steps at 64x64 of DPM-Solver++(2M): Euler's own error with so few steps, half of the power
of high frequencies, would hide everything else (rows of its own show it). Against it: progressive sampling with 2 and 3
stages over delta, on both clocks with both couplings, and in three bases; fewer full-resolution steps; a baseline that
upsamples the coarse stage's denoised picture (nearest or bilinear) and noises it again with the same field, as
Bottleneck-style methods do; and fine-tuned adapters (benchmarks/finetune.py) with their controls.

Pictures are kept in RUNS, 64 seeds of one row a file, so that a stopped sweep goes on; all rows get their first 64 seeds,
then all the next 64. Rows go to results/pareto.csv and the figure to docs/figures/pareto.png. A row has

    gflops     counted FLOPs of all network calls for one picture, attention included
    seconds    CPU seconds of the same calls and of the transitions: medians over interleaved rounds, one thread, batch 64
    speedup    the reference's seconds over the row's
    psnr, ssim to the reference picture of the same seed (median and mean over seeds)
    *_full     distances to the set of reference pictures;   *_photos: to crops of the held-out photographs

each with a 95 % interval over seeds (metrics.py says what each is). --fast compiles the network and calls it in bfloat16.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cost import count
from environment import environment
from finetune import load_lora
from metrics import (
    SlicedWasserstein,
    interval,
    natural_distance,
    natural_rows,
    radial_rows,
    spectrum_distance,
    ssim,
    worst_bin,
)
from peft.tuners.lora import LoraLayer
from tiny_dit.data import load_photographs
from tiny_dit.model import SPECTRUM, WEIGHTS, TinyDiT, load
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from spectral_pd import DCT, FOURIER, HAAR, Basis, Plan, PowerLaw, expand_aligned, make_plan, sample, shift_times
from spectral_pd.measuring.demo import psnr
from spectral_pd.solvers import dpmpp_2m

STEPS, SHIFT, SIZE, BATCH = 20, 2.0, (64, 64), 64
FEWER = (15, 12, 10, 8, 6)
SCALES = ((1 / 2, 1.0), (1 / 4, 1 / 2, 1.0))
DELTAS = (0.01, 0.05, 0.2)
ADAPTERS = WEIGHTS.parent / "adapters"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "pareto.png"
Velocity = Callable[[Tensor, float], Tensor]
Upsampling = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Entry:
    """One way to sample: a point of a curve."""

    curve: str
    plan: Plan
    coupling: Literal["coupled", "fresh"] = "coupled"
    solver: Literal["dpmpp_2m", "euler"] = "dpmpp_2m"
    upsampling: Upsampling | None = None
    adapter: str | None = None

    @property
    def calls(self) -> list[tuple[int, int]]:
        """(side, calls) of each stage; noising again takes one more call for the picture it upsamples."""
        extra = 1 if self.upsampling else 0
        last = len(self.plan.stages) - 1
        return [(s.shape[0], s.steps + (extra if i < last else 0)) for i, s in enumerate(self.plan.stages)]

    def file(self, weights: str, begin: int) -> str:
        """Where its pictures of the seeds from `begin` are kept: a name for everything they depend on."""
        adapter = fingerprint(ADAPTERS / f"{self.adapter}.safetensors") if self.adapter else ""
        facts = (weights, self.plan.times, self.plan.shapes, self.plan.split, self.plan.clock, adapter)
        key = repr((*facts, self.coupling, self.plan.basis.name, self.solver, self.upsampling))
        return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{begin}.npy"


def fingerprint(path: Path) -> str:
    """Short hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def entries(law: PowerLaw) -> Iterator[Entry]:
    """Every row, the reference first and the most wanted ones early."""
    times = shift_times(STEPS, shift=SHIFT)

    def plan(
        scales: tuple[float, ...], delta: float, clock: Literal["full", "stage"] = "full", basis: Basis = DCT
    ) -> Plan:
        return make_plan(times, law, SIZE, scales=scales, delta=delta, clock=clock, basis=basis)

    def few(steps: int) -> Plan:
        return make_plan(shift_times(steps, shift=SHIFT), law, SIZE, scales=(1,))

    two, three = SCALES
    for steps in (STEPS, *FEWER):
        yield Entry("full resolution, fewer steps", few(steps))
    for scales in SCALES:
        for delta in DELTAS:
            for clock in ("full", "stage"):
                for coupling in ("coupled", "fresh"):
                    yield Entry(f"S={len(scales)}, {clock} clock, {coupling}", plan(scales, delta, clock), coupling)
    for upsampling in ("nearest", "bilinear"):
        for delta in DELTAS:
            yield Entry(f"{upsampling}, noised again", plan(two, delta), upsampling=upsampling)
    for path in sorted(ADAPTERS.glob("*-S*-*.safetensors")):
        scales, delta, clock = adapter_schedule(path.stem)
        kind = "control" if path.stem.startswith("plain") else "fine-tuned"
        yield Entry(f"S={len(scales)}, {kind}", plan(scales, delta, clock), adapter=path.stem)
    for scales, delta in ((two, 0.05), (two, 0.2), (three, 0.05)):
        for basis in (HAAR, FOURIER):
            yield Entry(f"S={len(scales)}, {basis.name}", plan(scales, delta, basis=basis))
    yield Entry("full resolution, Euler", few(STEPS), solver="euler")
    for delta in (0.05, 0.2):
        yield Entry("S=2, Euler", plan(two, delta), solver="euler")


def adapter_schedule(name: str) -> tuple[tuple[float, ...], float, Literal["full", "stage"]]:
    """(scales, delta, clock) of an adapter's file name, ``OBJECTIVE-S2-0.2``."""
    _, stages, delta = name.split("-")
    count = int(stages.removeprefix("S"))
    return tuple(2.0 ** (i - count + 1) for i in range(count)), float(delta), "full"


def upsampled(velocity: Velocity, noise: Tensor, plan: Plan, mode: Upsampling) -> Tensor:
    """Coarse stage; its denoised picture enlarged; noised to the fine grid's time with the same field; fine stage."""
    coarse, fine = plan.stages
    x, t = walked(velocity, DCT.restrict(noise, coarse.shape), coarse.local_times), coarse.local_times[-1]
    picture = interpolate(x - t * velocity(x, t), size=fine.shape, mode=mode)
    t = fine.local_times[0]
    return walked(velocity, (1 - t) * picture + t * noise, fine.local_times)


def walked(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    """The state at the last of `times`."""
    history = None
    for t, t_next in pairwise(times):
        x, history = dpmpp_2m(velocity, x, t, t_next, history)
    return x


def pictures(entry: Entry, velocity: Velocity, begin: int) -> Tensor:
    """Sample `BATCH` seeds from `begin`."""
    noise = torch.randn(BATCH, 3, *SIZE, generator=torch.Generator().manual_seed(begin))
    if entry.upsampling:
        return upsampled(velocity, noise, entry.plan, entry.upsampling)
    fresh = torch.Generator().manual_seed(10**6 + begin) if entry.coupling == "fresh" else None
    options = {"coupling": entry.coupling, "seed": fresh, "solver": entry.solver}
    return sample(velocity, noise, entry.plan, **options)


def velocity_of(network: TinyDiT, fast: bool) -> Velocity:
    """The network as the sampler calls it."""
    if not fast:
        return network.velocity
    compiled = torch.compile(network, dynamic=False)

    def velocity(x: Tensor, t: float) -> Tensor:
        # A tensor, for a float would be compiled anew at every time.
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return compiled(x, torch.full((len(x),), t)).float()

    return velocity


def adapted(entry: Entry, weights: Path) -> dict[str, Tensor]:
    """The network's weights with an entry's adapter merged into them."""
    network = load(weights)
    if entry.adapter:
        load_lora(network, ADAPTERS / f"{entry.adapter}.safetensors", entry.plan)
        for module in list(network.modules()):
            if isinstance(module, LoraLayer):
                module.merge()
    state = network.state_dict()
    return {name.replace(".base_layer", ""): value for name, value in state.items() if ".lora_" not in name}


def step_costs(velocity: Velocity, rounds: int) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """By side: GFLOPs and CPU seconds of one call for one picture, and CPU seconds of growing to that side from half."""
    with torch.device("meta"):
        network = TinyDiT()
    sides = (64, 32, 16)
    flops = {n: count(network, {"x": torch.empty(1, 3, n, n, device="meta"), "t": 0.5}).total / 1e9 for n in sides}
    states = {n: torch.randn(BATCH, 3, n, n) for n in sides}
    seconds: dict[int, list[float]] = {n: [] for n in sides}
    growth: dict[int, list[float]] = {n: [] for n in sides[:-1]}
    for _ in range(rounds + 1):
        for n in sides:
            began = time.process_time()
            velocity(states[n], 0.5)
            seconds[n].append(time.process_time() - began)
            if n in growth:
                began = time.process_time()
                expand_aligned(states[n // 2], (n, n), 0.5, noise=states[n])
                growth[n].append(time.process_time() - began)
    # The first round warms up.
    median = {n: statistics.median(times[1:]) / BATCH for n, times in seconds.items()}
    return flops, median, {n: statistics.median(times[1:]) / BATCH for n, times in growth.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where pictures are kept between runs")
    parser.add_argument("--samples", type=int, default=512, help="seeds; a multiple of 64")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--fast", action="store_true", help="compile the network and call it in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="for sampling; seconds are measured on one")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop sampling after so long; rows of what is there"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pareto.csv")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args()
    if args.samples < BATCH or args.samples % BATCH:
        parser.error(f"--samples must be a multiple of {BATCH}")

    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    law, weights = PowerLaw.load(SPECTRUM), fingerprint(args.weights)
    network = load(args.weights)
    velocity = velocity_of(network, args.fast)
    every = list(entries(law))
    states = {entry.adapter: adapted(entry, args.weights) for entry in every}
    batches = range(0, args.samples, BATCH)
    files = {entry: [args.folder / entry.file(weights, begin) for begin in batches] for entry in every}
    wanted = [(entry, begin) for begin in batches for entry in every]
    deadline = time.monotonic() + 60 * args.minutes
    for entry, begin in tqdm(wanted, desc="pareto", mininterval=5):
        path = files[entry][begin // BATCH]
        if path.exists():
            continue
        if time.monotonic() > deadline:
            break
        network.load_state_dict(states[entry.adapter])
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, pictures(entry, velocity, begin).half().numpy())
        part.rename(path)
    complete = min(sum(path.exists() for path in files[entry]) for entry in every)
    if not complete:
        parser.exit(1, "no row is complete yet; run again\n")
    done = [(entry, files[entry][:complete]) for entry in every]

    torch.set_num_threads(1)
    network.load_state_dict(states[None])
    costs = step_costs(velocity, rounds=5)
    rows = evaluate(done, costs, precision="bfloat16" if args.fast else "float32")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, args.figure)


def evaluate(
    done: list[tuple[Entry, list[Path]]],
    costs: tuple[dict[int, float], dict[int, float], dict[int, float]],
    *,
    precision: str,
) -> list[dict[str, Any]]:
    """One row an entry, and first the yardstick: training crops against held-out crops."""

    def read(paths: list[Path]) -> Tensor:
        return torch.cat([torch.from_numpy(np.load(path)).float() for path in paths])

    reference = read(done[0][1])
    held_out = load_photographs(None, held_out=True).crops(len(reference), generator=torch.Generator().manual_seed(1))
    train = load_photographs(None).crops(len(reference), generator=torch.Generator().manual_seed(2))
    wasserstein = SlicedWasserstein(held_out)
    sets = {"full": reference, "photos": held_out}
    known = {n: (radial_rows(x), wasserstein.rows(x), natural_rows(x)) for n, x in sets.items()}
    surroundings = {"samples": len(reference), "precision": precision, **environment()}

    def distances(x: Tensor) -> dict[str, str]:
        radial, sliced, natural = radial_rows(x), wasserstein.rows(x), natural_rows(x)
        out: dict[str, str] = {}
        for name, (radial0, sliced0, natural0) in known.items():
            out |= columns(f"spectrum_{name}", interval(partial(spectrum_distance, reference=radial0), radial))
            out |= columns(f"worst_bin_{name}", interval(partial(worst_bin, reference=radial0), radial))
            measure = partial(wasserstein.distance, reference=sliced0)
            out |= columns(f"wasserstein_{name}", interval(measure, sliced, draws=8))
            out |= columns(f"natural_{name}", interval(partial(natural_distance, reference=natural0), natural))
        return out

    flops, seconds, growth = costs
    full = sum(n * seconds[side] for side, n in done[0][0].calls)
    rows = []
    for entry, paths in tqdm(done, desc="metrics", mininterval=5):
        x, plan = read(paths), entry.plan
        grown = sum(growth[s.shape[0]] for s in plan.stages[1:])
        cpu = sum(n * seconds[side] for side, n in entry.calls) + grown
        row: dict[str, Any] = {
            "curve": entry.curve,
            "delta": "" if plan.delta is None or len(plan.stages) == 1 else f"{plan.delta:g}",
            "split": "+".join(map(str, plan.split)),
            "gflops": f"{sum(n * flops[side] for side, n in entry.calls):.3f}",
            "seconds": f"{cpu:.4f}",
            "speedup": f"{full / cpu:.3f}",
        }
        row |= columns("psnr", interval(lambda r: float(np.median(r)), psnr(x, reference).numpy()), digits=2)
        row |= columns("ssim", interval(lambda r: float(r.mean()), ssim(x, reference)))
        rows.append(row | distances(x) | surroundings)
    blank = dict.fromkeys(rows[0], "")
    yardstick = {"curve": "training crops (yardstick)", **distances(train), **surroundings}
    return [*rows, blank | yardstick]


def columns(name: str, values: tuple[float, float, float], *, digits: int = 4) -> dict[str, str]:
    """Three columns: value, low, high."""
    return {name + end: f"{value:.{digits}f}" for end, value in zip(("", "_low", "_high"), values, strict=True)}


PANELS = {
    "psnr": "PSNR to the same seed's full run (dB)",
    "spectrum_full": "spectrum: log RMS to the full runs",
    "wasserstein_full": "sliced Wasserstein to the full runs",
    "natural_photos": "naturalness: distance to held-out crops",
}
COMBINATIONS = [f"{clock} clock, {coupling}" for clock in ("full", "stage") for coupling in ("coupled", "fresh")]
TWO, THREE = (f"S={count}, {COMBINATIONS[0]}" for count in (2, 3))
QUESTIONS = {
    "clock and coupling, two stages": [f"S=2, {name}" for name in COMBINATIONS],
    "clock and coupling, three stages": [f"S=3, {name}" for name in COMBINATIONS],
    "basis": [TWO, "S=2, haar", "S=2, fourier", THREE, "S=3, haar", "S=3, fourier"],
    "upsampling instead": [TWO, "nearest, noised again", "bilinear, noised again"],
    "fine-tuning": [TWO, "S=2, control", "S=2, fine-tuned", THREE, "S=3, control", "S=3, fine-tuned"],
}
"""Columns of the figure: the curves that answer a question, beside fewer full-resolution steps."""


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Metrics over measured speedup, a row a metric and a column a question."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    present = {row["curve"] for row in rows}
    questions = {q: [c for c in curves if c in present] for q, curves in QUESTIONS.items()}
    size = (4.2 * len(questions), 3.1 * len(PANELS))
    figure, axes = plt.subplots(
        len(PANELS), len(questions), figsize=size, layout="constrained", sharex=True, sharey="row"
    )
    for column, (question, curves) in zip(axes.T, questions.items(), strict=True):
        for ax, name in zip(column, PANELS, strict=True):
            for i, curve in enumerate(("full resolution, fewer steps", *curves)):
                points = [r for r in rows if r["curve"] == curve and np.isfinite(float(r[name]))]
                x, y, low, high = (
                    np.array([float(r[column]) for r in points])
                    for column in ("speedup", name, name + "_low", name + "_high")
                )
                style = {"color": f"C{i - 1}" if i else "black", "marker": "os^Dv*X"[i], "ms": 5, "lw": 1.2}
                ax.errorbar(x, y, yerr=(y - low, high - y), label=curve, capsize=2, **style)
        column[0].set_title(question)
        column[0].legend(frameon=False, fontsize=7)
        column[-1].set_xlabel("measured speedup")
    for ax, label in zip(axes[:, 0], PANELS.values(), strict=True):
        ax.set_ylabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
