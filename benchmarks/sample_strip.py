"""The strip of pictures in README, from the committed weights: ``python benchmarks/sample_strip.py`` (half a minute).

The small transformer of tiny_dit, the same noise twice: every step at full size, and progressively at the usual delta. The
speedup is counted from the network's FLOPs, as everywhere.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from cost import count
from tiny_dit.model import TinyDiT, load

from spectral_pd import PowerLaw, make_plan, sample, shift_times
from spectral_pd.plotting import plot_strips

ROOT = Path(__file__).parent.parent
PICTURES, STEPS, SHIFT, DELTA = 8, 20, 2.0, 0.01


def flops(grid: tuple[int, ...]) -> float:
    """Of one call of the network on a grid."""
    with torch.device("meta"):
        return count(TinyDiT(), {"x": torch.empty(1, 3, *grid), "t": 0.5}).total


def main() -> None:
    torch.set_num_threads(1)
    law = PowerLaw.load(ROOT / "benchmarks" / "tiny_dit" / "spectrum.json")
    noise = torch.randn(PICTURES, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    velocity = load().velocity
    times = shift_times(STEPS, shift=SHIFT)
    plans = [make_plan(times, law, 64, scales=scales, delta=DELTA, cost=flops) for scales in ((1,), (1 / 2, 1))]
    labels = [f"full size\n{STEPS} steps", f"progressive\n{'+'.join(map(str, plans[1].split))} steps"]
    figure, ax = plt.subplots(figsize=(10, 3.1), layout="constrained")
    plot_strips([(label, sample(velocity, noise, plan)) for label, plan in zip(labels, plans, strict=True)], ax=ax)
    ax.set_xlabel(f"the same noise, {plans[1].speedup():.2f} times fewer FLOPs below", fontsize=12)
    figure.savefig(ROOT / "docs" / "figures" / "samples.png", dpi=100)


if __name__ == "__main__":
    main()
