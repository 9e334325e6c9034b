"""Same seed, same picture? Progressive against full-resolution sampling with an exact nonlinear denoiser.

The model is the posterior mean over 3000 grey 32x32 crops of the two photographs in scikit-learn (bandwidth 0.1), the run is
16 -> 32 pixels, Euler, shift 3. PSNR of every sample to the full-resolution result from the same noise, for every clock and
coupling: against the transition time with 20 steps (results/same_seed.csv), and against the number of steps for a transition
at 0.90 (results/same_seed_steps.csv), where the two clocks and the two couplings part for good.

    python benchmarks/same_seed.py [--samples 256]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from environment import environment
from torch import Tensor
from tqdm import tqdm

from spectral_pd import FiniteDataset, plan_at, sample, shift_times
from spectral_pd.measuring.demo import photographs, psnr, random_crops

BANDWIDTH = 0.1
TRANSITIONS = (0.96, 0.93, 0.90, 0.85, 0.80, 0.70, 0.60)
STEPS = (20, 80, 320)
VARIANTS = (("full", "coupled"), ("stage", "coupled"), ("full", "fresh"), ("stage", "fresh"))


def compare(model: FiniteDataset, noise: Tensor, steps: int, transitions: Sequence[float], bar: tqdm) -> list[dict]:
    """One row for each transition time and variant: how close the samples are to full resolution from the same noise."""
    times = shift_times(steps, shift=3.0)
    reference = sample(model.velocity, noise, plan_at(times, (), (32, 32), scales=(1,)))
    rows = []
    for time, (clock, coupling) in [(t, v) for t in transitions for v in VARIANTS]:
        plan = plan_at(times, (time,), (32, 32), scales=(1 / 2, 1), clock=clock)
        fresh = torch.Generator().manual_seed(1) if coupling == "fresh" else None
        distance = psnr(sample(model.velocity, noise, plan, coupling=coupling, seed=fresh), reference)
        low, median, high = torch.quantile(distance, torch.tensor([0.1, 0.5, 0.9], dtype=distance.dtype)).tolist()
        rows.append(
            {
                "transition": time,
                "clock": clock,
                "coupling": coupling,
                "split": "+".join(map(str, plan.split)),
                "samples": len(noise),
                "bandwidth": model.bandwidth,
                "psnr_p10": f"{low:.1f}",
                "psnr_median": f"{median:.1f}",
                "psnr_p90": f"{high:.1f}",
                "same_picture": f"{(distance > 30).double().mean():.3f}",
                **environment(),
            }
        )
        bar.update()
    return rows


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"T {row['transition']:.2f}  {row['split']:>7}  {row['clock']:5}  {row['coupling']:7}  "
            f"{row['psnr_median']:>6} dB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    pictures = photographs()
    crops = random_crops([pictures["china"], pictures["flower"]], 3000, 32, generator=generator).mean(1, keepdim=True)
    model = FiniteDataset(crops, BANDWIDTH)
    noise = torch.randn(args.samples, 1, 32, 32, generator=generator)
    with tqdm(total=(len(TRANSITIONS) + len(STEPS)) * len(VARIANTS), desc="same seed", unit="run") as bar:
        by_transition = compare(model, noise, 20, TRANSITIONS, bar)
        by_steps = [row for steps in STEPS for row in compare(model, noise[:64], steps, (0.90,), bar)]
    write(args.out / "same_seed.csv", by_transition)
    write(args.out / "same_seed_steps.csv", by_steps)


if __name__ == "__main__":
    main()
