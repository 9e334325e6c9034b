"""The figure at the top of README, from committed rows and closed forms: ``python benchmarks/overview_figure.py``.

Left: activation times of FLUX.1's latents (the published fit, Eq. 9) and the plan they lead to. Middle: how close the
progressive result of an exact denoiser stays to the full-resolution one from the same noise (rows of results/same_seed.csv).
Right: the same for a trained network, whose sizes disagree, by every way of calling it less (rows of results/two_grids.csv and,
of two stages with repaired coarse calls, results/agreement.csv).
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from write_docs import rows

from spectral_pd import PRESETS, make_plan, shift_times
from spectral_pd.plotting import plot_activation

ROOT = Path(__file__).parent.parent
LABELS = {
    ("full", "coupled"): "full clock, coupled noise (default)",
    ("stage", "coupled"): "stage clock, coupled noise",
    ("full", "fresh"): "full clock, fresh noise",
    ("stage", "fresh"): "stage clock, fresh noise (the paper's)",
}
WAYS = {
    "chosen": "two grids: calls chosen by calibration",
    "fewer steps, best grid": "fewer steps, on their best grid",
    "held": "two grids, no calibration",
    "progressive": "progressive",
}


def main() -> None:
    plt.style.use(ROOT / "notebooks" / "style.mplstyle")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 3.8))
    flux = PRESETS["flux"]
    plan = make_plan(shift_times(50, shift=math.exp(1.15)), flux, (128, 128), scales=(1 / 4, 1 / 2, 1))
    plot_activation(flux, plan, ax=left)
    left.set_ylim(0.4, 1.0)
    left.set_title("FLUX.1, 50 steps: a stage ends before what it lacks activates")

    data = rows("same_seed")
    for (variant, label), style in zip(LABELS.items(), ("o-", "s-", "o--", "s--"), strict=True):
        chosen = [row for row in data if (row["clock"], row["coupling"]) == variant]
        x, y = ([float(row[name]) for row in chosen] for name in ("transition", "psnr_median"))
        middle.plot(x, y, style, ms=4, label=label)
    middle.invert_xaxis()
    middle.set(
        xlabel="transition time T, 16 to 32 pixels (1 noise, 0 data)",
        ylabel="PSNR to the full-resolution run (dB)",
        title="Exact denoiser: the same noise, the same picture",
        ylim=(0, 125),
    )
    middle.legend(loc="upper right", fontsize=9)

    network = [row for row in rows("two_grids") if row["network"] == "small transformer"]
    for (way, label), style in zip(WAYS.items(), ("o-", "s--", "^:", "v:"), strict=True):
        x, y = zip(*sorted((float(r["speedup"]), float(r["psnr"])) for r in network if r["way"] == way), strict=True)
        right.plot(x, y, style, ms=4, label=label)
    informed = [r for r in rows("agreement") if r["way"] == "progressive, informed" and r["split"].count("+") == 1]
    x, y = zip(*sorted((float(r["speedup"]), float(r["psnr"])) for r in informed), strict=True)
    right.plot(x, y, "D:", ms=4, label="progressive, coarse calls repaired")
    right.set(
        xlabel="speedup, by cost of the calls",
        ylabel="PSNR to the full run (dB)",
        title="Trained transformer: 20 steps for less",
    )
    right.legend(loc="upper right", fontsize=9)
    figure.savefig(ROOT / "docs" / "figures" / "overview.png", dpi=110)


if __name__ == "__main__":
    main()
