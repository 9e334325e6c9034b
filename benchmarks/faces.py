"""A network nobody here trained: a pretrained, blind denoiser of grey faces, sampled progressively from the same seeds.

    python benchmarks/faces.py --weights WEIGHTS --folder RUNS [--seeds 64] [--side 64]

The full run is 20 steps of DPM-Solver++(2M) at full size, of values that span 2. Runs start within the noise the denoiser was
trained for, at t = 2/3, from the state of a Gaussian field that has the power law of photographs; and, as a negative control,
from far above it, at t = 0.98. Against the full run of the same seed:

    progressive    half size, then full, over delta; the law of make_plan is that of other seeds' full runs, in the same units
    fewer steps    full size at about the same costs, on the full run's own, uniform kind of grid
    float32        the full run once more: every other one calls the network in bfloat16, and this is what its rounding costs
    exact          the Gaussian field of that law with the same plans and the same starts: the control of the method itself

A row has the median PSNR, the contrast (mean over pictures of the standard deviation over the full run's), the log RMS and the
worst relative deviation of the spectrum's bins, with 95 % intervals (bootstrap over seeds, of both sets at once); `std` is that
of the pictures, `std_full` of the full runs', in units of pictures in [0, 1]. A convolution's cost is exactly that of its
pixels. Pictures are kept in RUNS, so that a stopped run goes on; rows of other sides stay; the figure is of those at 64.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from metrics import columns, interval, radial_rows, spectrum_distance, worst_bin
from networks import FACES, STEPS, Network, Velocity, face_denoiser
from torch import Tensor
from tqdm import tqdm

from spectral_pd import GaussianField, Plan, PowerLaw, fit_spectrum, make_plan, plan_at, sample
from spectral_pd.measuring.demo import psnr

RESULTS = Path(__file__).parent / "results" / "faces.csv"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "faces.png"
STARTS = {"within its noise": FACES.first, "far above": 0.98}
DELTAS, FAR = (0.05, 0.01, 0.2, 0.02, 0.1), (0.05,)
FEWER, FEW = (11, 8, 16), 32
OTHERS, OTHER_SEEDS, TOGETHER = 10**6, 16, 16


def pictures(
    network: Network, velocity: Velocity, plan: Plan, seeds: range, folder: Path, *, kind: str = "bfloat16"
) -> Tensor:
    """Of one plan, each batch made once."""
    parts = []
    for batch in (seeds[i : i + TOGETHER] for i in range(0, len(seeds), TOGETHER)):
        split = "+".join(map(str, plan.split))
        name = f"{network.first:.4f}_{network.side}_{split}_{plan.times[1]:.6f}_{kind}_{batch[0]}_{len(batch)}.npy"
        if not (folder / name).exists():
            noise, start = (make(len(batch), batch[0], "cpu") for make in (network.noise, network.start))
            found = sample(velocity, noise, plan, start=start, solver="dpmpp_2m")
            with (folder / "part").open("wb") as file:
                np.save(file, found.numpy())
            (folder / "part").rename(folder / name)
        parts.append(torch.from_numpy(np.load(folder / name)))
    return torch.cat(parts)


@dataclass(frozen=True)
class Runs:
    """The runs of one start and one size."""

    network: Network
    start: str
    seeds: int
    folder: Path
    law: PowerLaw
    deltas: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.network.side, self.network.side

    def whole(self, times: Sequence[float]) -> Plan:
        return plan_at(times, (), self.size, scales=(1,))

    def pictures(self, velocity: Velocity, plan: Plan, *, kind: str = "bfloat16") -> Tensor:
        return pictures(self.network, velocity, plan, range(self.seeds), self.folder, kind=kind)

    def progressive(self, delta: float) -> Plan:
        return make_plan(self.network.times, self.law, self.size, scales=(1 / 2, 1), delta=delta)

    def rows(self, velocity: Velocity) -> Iterator[dict[str, Any]]:
        network, field = self.network, GaussianField(self.law, self.size).velocity
        full = self.pictures(velocity, self.whole(network.times))
        exact = self.pictures(field, self.whole(network.times), kind="exact")
        yield self.row("full run", self.whole(network.times), full, full)
        for delta in self.deltas:
            plan = self.progressive(delta)
            yield self.row("progressive", plan, self.pictures(velocity, plan), full)
            yield self.row("exact", plan, self.pictures(field, plan, kind="exact"), exact)

    def fewer(self, velocity: Velocity) -> Iterator[dict[str, Any]]:
        full = self.pictures(velocity, self.whole(self.network.times))
        for steps in FEWER:
            plan = self.whole(self.network.grid(steps, self.network.shift))
            yield self.row("fewer steps", plan, self.pictures(velocity, plan), full)

    def rounding(self, velocity: Velocity, precise: Velocity) -> Iterator[dict[str, Any]]:
        plan = self.whole(self.network.times)
        full = self.pictures(velocity, plan)
        yield self.row("full run, float32", plan, self.pictures(precise, plan, kind="float32"), full)

    def row(self, way: str, plan: Plan, found: Tensor, full: Tensor) -> dict[str, Any]:
        out: dict[str, Any] = {
            "start": self.start,
            "first": f"{self.network.first:.4f}",
            "side": self.network.side,
            "way": way,
            "delta": "" if plan.delta is None else plan.delta,
            "split": "+".join(map(str, plan.split)),
            "t_star": "".join(f"{t:.4f}" for t in plan.transition_times),
            "speedup": f"{plan.speedup() * STEPS / plan.nfe:.3f}",
        }
        contrast = found.flatten(1).std(1) / full.flatten(1).std(1)
        both = np.stack([radial_rows(found), radial_rows(full)], 1)
        distance = psnr(found, full).numpy()
        values = {
            "psnr": interval(lambda rows: float(np.median(rows)), distance),
            "contrast": interval(lambda rows: float(rows.mean()), contrast.double().numpy()),
            "spectrum": interval(lambda rows: spectrum_distance(rows[:, 0], rows[:, 1]), both),
            "worst_bin": interval(lambda rows: worst_bin(rows[:, 0], rows[:, 1]), both),
        }
        for name, three in values.items():
            out |= columns(name, three)
        stds = {name: float(x.flatten(1).std(1).mean()) / 2 for name, x in (("std", found), ("std_full", full))}
        out |= {name: f"{value:.4f}" for name, value in stds.items()}
        law = self.law
        out |= {"amplitude": f"{law.amplitude:.3f}", "exponent": f"{law.exponent:.3f}", "r2": f"{law.r2:.4f}"}
        return out | {"seeds": len(found), "precision": "bfloat16"} | environment()


def draw(within: Runs, above: Runs, velocity: Velocity, count: int = 8) -> None:
    """The first seeds: full, progressive at two delta, and both from far above the denoiser's noise."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from spectral_pd.plotting import plot_strips

    strips = []
    for runs, deltas in ((within, (0.01, 0.2)), (above, FAR)):
        plans = [("full size", runs.whole(runs.network.times))]
        for plan in map(runs.progressive, deltas):
            plans.append((f"{'+'.join(map(str, plan.split))} steps, {plan.speedup():.2f}x", plan))
        origin = f"from t = {runs.network.first:.2f}"
        strips += [(f"{label}\n{origin}", runs.pictures(velocity, plan)[:count]) for label, plan in plans]
    figure, ax = plt.subplots(figsize=(10, 5.6), layout="constrained")
    plot_strips(strips, ax=ax)
    figure.savefig(FIGURE, dpi=100, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where pictures are kept between runs")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument(
        "--side", type=int, default=FACES.side, help="grid of the full run: even, the denoiser takes any"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    near, far = (face_denoiser(args.weights, first=first, side=args.side) for first in STARTS.values())
    precise = torch.no_grad()(near.velocity("cpu"))
    velocity = torch.autocast("cpu", dtype=torch.bfloat16)(precise)
    whole = plan_at(near.times, (), (args.side,) * 2, scales=(1,))
    law = fit_spectrum(pictures(near, velocity, whole, range(OTHERS, OTHERS + OTHER_SEEDS), args.folder))
    within, above = (
        Runs(network, start, seeds, args.folder, law, deltas)
        for network, start, seeds, deltas in zip(
            (near, far), STARTS, (args.seeds, min(args.seeds, FEW)), (DELTAS, FAR), strict=True
        )
    )
    kept = list(csv.DictReader(RESULTS.open(newline=""))) if RESULTS.exists() else []
    found = [row for row in kept if row["side"] != str(args.side)]
    rounding = replace(within, seeds=above.seeds).rounding(velocity, precise)
    jobs = (within.rows(velocity), above.rows(velocity), within.fewer(velocity), rounding)
    for row in tqdm(chain(*jobs), unit="row"):
        found.append(row)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    if args.side == FACES.side:
        draw(within, above, velocity)


if __name__ == "__main__":
    main()
