"""A network nobody here trained: a pretrained denoiser of grey faces, progressively from within and from above its noise.

    python benchmarks/face_denoiser.py WEIGHTS [--seeds 24]

WEIGHTS is celeba_gray_rf43 of local-probability-models-of-images (LabForComputationalVision, MIT) as safetensors: blind,
convolutional, for any grid, trained on noise up to that of pictures' own range, t = 2/3 for values that span 2. It was never
shown a small grid. For each tolerance delta the run at half and full size against the full-size run of the same seed: median
PSNR with its 95 % interval over seeds, pictures' standard deviation over that of the full run, spectrum distance. The law is
fitted to its own full runs. Started within the noise it knows, and from far above, where every run, the full one too, loses
contrast: its standard deviation is in the rows.
"""

from __future__ import annotations

import argparse
import csv
from functools import partial
from pathlib import Path

import numpy as np
import torch
from environment import environment
from metrics import interval, radial_rows, spectrum_distance
from torch import Tensor
from tqdm import tqdm
from two_grids import Network

from spectral_pd import fit_spectrum, make_plan, plan_at, sample
from spectral_pd.measuring.demo import psnr

STEPS, SIDE, TOGETHER = 20, 64, 32
STARTS = {"within its noise": 2 / 3, "far above": 0.98}
DELTAS = (0.01, 0.03, 0.1, 0.3)


@torch.no_grad()
def measured(weights: Path, start: str, seeds: int, bar: tqdm) -> list[dict[str, object]]:
    """The rows of one start."""
    network = Network("face denoiser", 1, 1.0, first=STARTS[start], weights=weights)
    velocity, times, x = network.velocity("cpu"), network.grid(STEPS, 1.0), network.start(seeds, 0, "cpu")

    def pictures(plan) -> Tensor:
        parts = []
        for state in x.split(TOGETHER):
            parts.append(sample(velocity, state / network.first, plan, start=state, solver="dpmpp_2m"))
            bar.update(len(state))
        return torch.cat(parts)

    reference = pictures(plan_at(times, (), (SIDE, SIDE), scales=(1,)))
    law, spectra, rows = fit_spectrum(reference), radial_rows(reference), []
    for delta in DELTAS:
        plan = make_plan(times, law, (SIDE, SIDE), scales=(1 / 2, 1), delta=delta, unreached="force")
        found = pictures(plan)
        distance = psnr(found, reference).numpy()
        row: dict[str, object] = {
            "start": start,
            "first": f"{network.first:.4f}",
            "delta": delta,
            "split": "+".join(map(str, plan.split)),
            "t_star": f"{plan.transition_times[0]:.4f}",
            "speedup": f"{plan.speedup():.3f}",
        }
        values = {
            "psnr": (interval(lambda rows: float(np.median(rows)), distance), 2),
            "contrast": (interval(lambda rows: float(np.mean(rows)), contrast(found, reference)), 4),
            "spectrum": (interval(partial(spectrum_distance, reference=spectra), radial_rows(found)), 4),
        }
        for name, (three, digits) in values.items():
            row |= {name + end: f"{v:.{digits}f}" for end, v in zip(("", "_low", "_high"), three, strict=True)}
        row |= {"std": f"{float(found.std()):.4f}", "std_full": f"{float(reference.std()):.4f}"}
        row |= {"amplitude": f"{law.amplitude:.2f}", "exponent": f"{law.exponent:.3f}", "seeds": seeds}
        rows.append(row | environment())
    return rows


def contrast(found: Tensor, reference: Tensor) -> np.ndarray:
    """Standard deviation of each picture over that of its reference."""
    return (found.flatten(1).std(1) / reference.flatten(1).std(1)).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "face_denoiser.csv")
    args = parser.parse_args()
    if not args.weights.exists():
        raise SystemExit(f"{args.weights} is not there; the page says where it comes from: --help")
    torch.set_num_threads(1)
    with tqdm(total=args.seeds * len(STARTS) * (1 + len(DELTAS)), unit="picture") as bar:
        rows = [row for start in STARTS for row in measured(args.weights, start, args.seeds, bar)]
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row["start"], row["delta"], row["split"], row["psnr"], row["contrast"], row["std"], row["std_full"])


if __name__ == "__main__":
    main()
