"""What a training run gave: loss curve, sample sheet, and the samples' distance to the photographs.

    python benchmarks/tiny_dit/report.py --photographs FOLDER --folder RUN

reads RUN/log.csv and weights.safetensors; writes loss.csv (means over 100 steps), loss.png and samples.png beside the weights
and rows to benchmarks/results/tiny_dit.csv: for each picture size, sampled with the steps used everywhere else and with so many
that the solver's error is gone, radial spectrum and sliced Wasserstein distance of 512 samples to training and to held-out
crops, and those of as many other training crops to the same as the yardstick. What the two rows of a size differ in is the
solver's share; the rest is the network's. Some twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from data import at_size, load_photographs
from model import WEIGHTS, TinyDiT, load
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from spectral_pd import plan_at, sample, shift_times
from spectral_pd.plotting import plot_strips

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from environment import environment  # noqa: E402
from metrics import SlicedWasserstein, radial_rows, spectrum_distance, worst_bin  # noqa: E402

SIZES, STEPS, SHIFT, SAMPLES = (64, 32, 16), (20, 64), 2.0, 512
REFERENCES = 16 * SAMPLES
"""Crops that samples are compared with: enough that their own noise does not count."""


def draw_samples(model: TinyDiT, size: int, steps: int, count: int) -> Tensor:
    """`count` full-resolution samples from the seed 0."""
    plan = plan_at(shift_times(steps, shift=SHIFT), (), (size, size), scales=(1,))
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    parts = tqdm(noise.split(32), desc=f"{size} pixels, {steps} steps")
    return torch.cat([sample(model.velocity, part, plan, solver="dpmpp_2m") for part in parts])


def compare(pictures: dict[str, Tensor], crops: Tensor) -> dict[str, dict[str, float]]:
    """Distances of every set of pictures to the same crops."""
    wasserstein = SlicedWasserstein(crops, levels=2 if crops.shape[-1] == 16 else 3)
    patches, radial = wasserstein.rows(crops), radial_rows(crops)
    return {
        name: {
            "wasserstein": wasserstein.distance(wasserstein.rows(x), patches),
            "spectrum": spectrum_distance(mine, radial),
            "worst_bin": worst_bin(mine, radial),
        }
        for name, x, mine in ((name, x, radial_rows(x)) for name, x in pictures.items())
    }


def summarise(log: Path, every: int = 100) -> list[dict[str, str]]:
    """Mean loss of each size over blocks of steps."""
    blocks: dict[tuple[int, int], list[float]] = defaultdict(list)
    with log.open(newline="") as file:
        for step, size, loss, _ in csv.reader(file):
            blocks[int(step) // every * every, int(size)].append(float(loss))
    return [
        {"first_step": str(step), "size": str(size), "loss": f"{np.mean(losses):.5f}", "steps": str(len(losses))}
        for (step, size), losses in sorted(blocks.items())
    ]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder with the unpacked Debian packages")
    parser.add_argument("--folder", type=Path, help="the training's folder; without it the committed loss.csv is drawn")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if args.folder:
        write(HERE / "loss.csv", summarise(args.folder / "log.csv"))
    with (HERE / "loss.csv").open(newline="") as file:
        losses = list(csv.DictReader(file))
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for size in SIZES:
        mine = [row for row in losses if row["size"] == str(size)]
        ax.semilogy([int(r["first_step"]) for r in mine], [float(r["loss"]) for r in mine], label=f"{size} pixels")
    ax.set_xlabel("step")
    ax.set_ylabel("flow-matching loss, mean over 100 steps")
    ax.legend(frameon=False)
    figure.savefig(HERE / "loss.png", dpi=100)

    model = load()
    with safe_open(WEIGHTS, "pt") as file:
        trained = json.loads(file.metadata()["training"])["steps"]
    train, held_out = (load_photographs(args.photographs, held_out=h) for h in (False, True))
    rows, strips = [], []
    for size in SIZES:
        sets = {
            "training": at_size(train.crops(REFERENCES, generator=torch.Generator().manual_seed(1)), size),
            "held_out": at_size(held_out.crops(REFERENCES, generator=torch.Generator().manual_seed(2)), size),
        }
        others = at_size(train.crops(SAMPLES, generator=torch.Generator().manual_seed(3)), size)
        pictures = {steps: draw_samples(model, size, steps, SAMPLES) for steps in STEPS}
        facts = {"size": str(size), "training_steps": str(trained), "samples": str(SAMPLES)}
        measured = {steps: facts | {"steps": str(steps)} for steps in STEPS}
        for name, crops in sets.items():
            found = compare({"crops": others, **{str(k): x for k, x in pictures.items()}}, crops)
            for steps, row in measured.items():
                for who, values in (("samples", found[str(steps)]), ("crops", found["crops"])):
                    row |= {f"{what}_{who}_{name}": f"{value:.4f}" for what, value in values.items()}
        rows += [row | environment() for row in measured.values()]
        sheet = pictures[STEPS[0]].repeat_interleave(64 // size, -1).repeat_interleave(64 // size, -2)
        strips += [(f"{size} pixels", sheet[k : k + 16]) for k in ((0, 16, 32) if size == 64 else (0,))]
    strips.append(("held-out crops", held_out.crops(16, generator=torch.Generator().manual_seed(0))))
    write(HERE.parent / "results" / "tiny_dit.csv", rows)
    figure, ax = plt.subplots(figsize=(14, 5.6), layout="constrained")
    plot_strips(strips, ax=ax)
    figure.savefig(HERE / "samples.png", dpi=90)


if __name__ == "__main__":
    main()
