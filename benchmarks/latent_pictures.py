"""The same pictures for less in real latents, decoded: ways of calling the latent transformer at about half the cost.

    python benchmarks/latent_pictures.py --vae TAEF1 --folder FOLDER [--seeds 32] [--speedup 2]

FOLDER is that of ``two_grids.py --only latent`` with the same --runs and --search: what it chose is taken from there, or made.
From the same noise: the full run, 20 steps of DPM-Solver++(2M); two grids, the calls chosen by calibration; fewer steps on
their best grid; progressive sampling over two and three sizes, with the delta of those tried whose plan comes closest to the
speedup without exceeding the cost. Speedup is by counted FLOPs. Rows, of all seeds, go to results/latent_pictures.csv
(metrics.py, on the pictures that TAEF1 decodes, in bfloat16), the first seeds to docs/figures/latent_pictures.jpg.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import torch
from environment import environment
from metrics import Decoded
from networks import LATENT_TRANSFORMER, STEPS, decoder, in_bfloat16
from optimal_plans import counted
from torch import Tensor
from two_grids import Task, best_grid, calibrated, choices, ran, reference_pictures, solved, text, velocity_on

from spectral_pd import Plan, make_plan, sample
from spectral_pd.measuring.demo import psnr

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "benchmarks" / "results" / "latent_pictures.csv"
DELTAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SHOWN = 5


def progressive(task: Task, scales: tuple[float, ...], budget: float) -> Plan:
    """The plan of the smallest delta that costs no more than so many full-size calls."""
    law, side, cost = task.network.law, task.network.side, counted(task.network)
    for delta in DELTAS:
        plan = make_plan(task.network.times, law, side, scales=scales, delta=delta, multiple_of=2)
        if plan.cost(cost) <= budget:
            return plan
    raise SystemExit(f"no delta of {DELTAS} makes {scales} cost at most {budget} full-size calls")


def ways(task: Task, speedup: float) -> dict[str, tuple[Tensor, float, str]]:
    """Way -> latents, cost in full-size calls, what was called."""
    velocity, cost = velocity_on(task.network, task.device), counted(task.network)
    start = task.network.start(task.seeds, 0, task.device)
    steps = math.ceil(STEPS / speedup - 0.2)
    choice, (_, grid) = choices(task, speedup)["chosen"], best_grid(task, steps)
    found = {
        "full run": (reference_pictures(task, task.seeds), float(STEPS), "F" * STEPS),
        "two grids": (ran(task, choice.predictor, start), choice.pattern.cost(cost), text(choice.pattern)),
        "fewer steps, best grid": (solved(velocity, start, grid), float(steps), "F" * steps),
    }
    for scales in ((1 / 2, 1.0), (1 / 4, 1 / 2, 1.0)):
        plan = progressive(task, scales, STEPS / speedup)
        x = sample(velocity, start, plan, solver="dpmpp_2m")
        called = f"{'+'.join(map(str, plan.split))}, delta {plan.delta:g}"
        found[f"progressive, S={len(scales)}"] = (x, plan.cost(cost), called)
    return found


def draw(path: Path, pictures: dict[str, Tensor], rows: list[dict[str, str]]) -> None:
    """The first seeds, a row a way."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 1, figsize=(8.6, 1.72 * len(rows)), layout="constrained")
    for ax, row in zip(axes, rows, strict=True):
        strip = torch.cat(list(pictures[row["way"]][:SHOWN]), -1)
        ax.imshow(((strip + 1) / 2).permute(1, 2, 0).numpy(), interpolation="none", aspect="equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        facts = f"{float(row['speedup']):.2f}x, by counted FLOPs"
        if row["way"] != "full run":
            facts += f"; median PSNR to the full run {float(row['psnr']):.1f} dB"
        ax.set_ylabel(row["way"].replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=10)
        ax.set_xlabel(facts, fontsize=9, labelpad=2)
    figure.savefig(path, dpi=140, bbox_inches="tight", pil_kwargs={"quality": 80})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="TAEF1's folder: madebyollin/taef1 (MIT)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/two_grids"), help="as of two_grids.py")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--search", type=int, default=8, help="as of two_grids.py")
    parser.add_argument("--runs", type=int, default=16, help="as of two_grids.py")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    decode = in_bfloat16(decoder(args.vae))
    args.folder.mkdir(parents=True, exist_ok=True)

    network = LATENT_TRANSFORMER
    task = Task(network, calibrated(network, args), args.seeds, args.search, args.device, args.folder)
    found = ways(task, args.speedup)
    pictures = {way: decode(latents) for way, (latents, _, _) in found.items()}
    decoded, full = Decoded(pictures["full run"]), found["full run"][0]
    rows = []
    for way, (latents, cost, calls) in found.items():
        facts = {"way": way, "speedup": f"{STEPS / cost:.3f}", "calls": calls}
        facts |= {"latent_psnr": f"{float(psnr(latents, full).median()):.2f}"}
        rows.append(facts | decoded.columns(pictures[way]) | {"samples": str(args.seeds), **environment()})
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(ROOT / "docs" / "figures" / "latent_pictures.jpg", pictures, rows)


if __name__ == "__main__":
    main()
