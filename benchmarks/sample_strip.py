"""The strip of pictures in README, from the committed weights: ``python benchmarks/sample_strip.py`` (half a minute).

The small transformer of tiny_dit, the same noise twice: every step at full size, and progressively at the usual delta. The
speedup is the row's of results/pareto.csv, whose plan this is.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from tiny_dit.model import load
from write_docs import rows

from spectral_pd import PowerLaw, make_plan, sample, shift_times
from spectral_pd.plotting import plot_strips

ROOT = Path(__file__).parent.parent
PICTURES, STEPS, SHIFT, DELTA = 8, 20, 2.0, 0.01


def main() -> None:
    torch.set_num_threads(1)
    law = PowerLaw.load(ROOT / "benchmarks" / "tiny_dit" / "spectrum.json")
    noise = torch.randn(PICTURES, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    velocity = load().velocity
    times = shift_times(STEPS, shift=SHIFT)
    plans = [make_plan(times, law, 64, scales=scales, delta=DELTA) for scales in ((1,), (1 / 2, 1))]
    split = "+".join(map(str, plans[1].split))
    kind = ("S=2, full clock, coupled", f"{DELTA:g}", split)
    (row,) = [row for row in rows("pareto") if (row["curve"], row["delta"], row["split"]) == kind]
    labels = [f"full size\n{STEPS} steps", f"progressive\n{split} steps"]
    figure, ax = plt.subplots(figsize=(10, 2.8), layout="constrained")
    plot_strips([(label, sample(velocity, noise, plan)) for label, plan in zip(labels, plans, strict=True)], ax=ax)
    ax.set_xlabel(f"the same noise; {float(row['speedup']):.2f} times as fast below", fontsize=12)
    figure.savefig(ROOT / "docs" / "figures" / "samples.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
