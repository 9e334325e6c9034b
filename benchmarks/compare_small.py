"""The paper's kind of evaluation on the small transformer: what ``spectral-pd compare`` says, beside the rows of pareto.py.

    spectral-pd compare benchmarks/compare_small.py:pixel --table benchmarks/compare_small.json --metrics psnr --out RUN
    python benchmarks/compare_small.py --folder RUN    # results/compare_small.csv and docs/figures/compare_small.png

pareto.py draws its noise 64 seeds at a time and measures states as they are; here every seed has a field of its own and
metrics see what eight bits leave, so the two agree as two samples do. Which is why pareto.py is not written on top of this:
its committed rows are worth their 512 seeds, its batches of 64 and its seconds of one CPU thread suit a small network, and
this command's single pictures and wall clock suit a large one.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from metrics import interval, ssim
from pareto import SHIFT, SIZE, STEPS
from tiny_dit.model import SPECTRUM, TinyDiT, load

from spectral_pd import PowerLaw, shift_times
from spectral_pd.comparing import NetworkSampler, compare, load_table
from spectral_pd.comparing.environment import environment
from spectral_pd.comparing.flops import Flops, count
from spectral_pd.comparing.storage import read_picture

HERE = Path(__file__).parent
TABLE = HERE / "compare_small.json"
RESULTS, FIGURE = HERE / "results" / "compare_small.csv", HERE.parent / "docs" / "figures" / "compare_small.png"
SEEDS, METRICS = 32, ("psnr", "ssim", "spectrum")


@lru_cache(maxsize=8)
def cost(grid: tuple[int, ...]) -> Flops:
    """FLOPs of one call."""
    with torch.device("meta"):
        return count(TinyDiT(), {"x": torch.empty(1, 3, *grid), "t": 0.5})


def pixel() -> NetworkSampler:
    """The small transformer as pareto.py samples it."""
    times = partial(shift_times, shift=SHIFT)
    options = {"times": times, "spectrum": PowerLaw.load(SPECTRUM), "steps": STEPS, "solver": "dpmpp_2m"}
    return NetworkSampler(load().velocity, (3, *SIZE), cost=cost, **options)


def rows(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """One row a setting and metric: what the comparison says, and what pareto.py's row says."""
    found = compare(pixel(), [""], load_table(TABLE), out=folder, metrics=METRICS, seeds=seeds, progress=True)
    assert found is not None
    with (HERE / "results" / "pareto.csv").open(newline="") as file:
        committed = {(row["curve"], row["delta"], row["split"]): row for row in csv.DictReader(file)}
    full = found.record["reference"]
    splits = {row["setting"]: row["split"] for row in found.folder.rows("costs.csv")}
    table = []
    for name, setting in found.settings.items():
        delta = f"{setting['delta']:g}" if len(setting["scales"]) > 1 else ""
        other = committed[setting["family"], delta, splits[name]]
        speed = found.speedup(name)
        for metric, column in zip(METRICS, ("psnr", "ssim", "spectrum_full"), strict=True):
            if (said := found.estimates[name, metric]) is None:
                continue
            values = {"value": said.value, "low": said.low, "high": said.high}
            if metric == "ssim":  # as pareto.py measures it: of values in [-1, 1], not in [0, 1]
                pairs = (
                    torch.cat([read_picture(found.folder.picture(n, *p)) for p in found.pairs]) for n in (name, full)
                )
                values = dict(
                    zip(values, interval(lambda r: float(r.mean()), ssim(*(2 * x - 1 for x in pairs))), strict=True)
                )
            theirs = {f"pareto{end}": float(other[column + end]) for end in ("", "_low", "_high")}
            table.append(
                {
                    "setting": name,
                    "family": setting["family"],
                    "metric": metric,
                    **{key: f"{value:.4f}" for key, value in {**values, **theirs}.items()},
                    "gflops": f"{found.flops[name][1] / 1e9:.3f}",
                    "pareto_gflops": other["gflops"],
                    "speedup": f"{speed.value:.3f}" if speed else "",
                    "pareto_speedup": other["speedup"],
                    "samples": seeds,
                    "pareto_samples": other["samples"],
                    **environment(),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where pictures are kept between runs")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = rows(args.folder, args.seeds)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    shutil.copyfile(args.folder / "figure.png", args.figure)


if __name__ == "__main__":
    main()
