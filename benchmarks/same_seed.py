"""Same seed, same picture? Progressive against full-resolution sampling with an exact nonlinear denoiser.

The model is the posterior mean over 3000 grey 32x32 crops of the two photographs in scikit-learn (bandwidth 0.1), the run is
16 -> 32 pixels, 20 Euler steps, shift 3. For each transition time, clock and coupling: PSNR of every sample to the
full-resolution result from the same noise. Rows go to results/same_seed.csv.

    python benchmarks/same_seed.py [--samples 256]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from environment import environment
from tqdm import tqdm

from spectral_pd import FiniteDataset, make_plan, sample, shift_times
from spectral_pd.demo import photographs, psnr, random_crops

TRANSITIONS = (0.96, 0.93, 0.90, 0.85, 0.80, 0.70, 0.60)
VARIANTS = (("full", "coupled"), ("stage", "coupled"), ("full", "fresh"), ("stage", "fresh"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "same_seed.csv")
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    pictures = photographs()
    crops = random_crops([pictures["china"], pictures["flower"]], 3000, 32, generator=generator).mean(1, keepdim=True)
    model = FiniteDataset(crops, 0.1)
    noise = torch.randn(args.samples, 1, 32, 32, generator=generator)
    times = shift_times(20, shift=3.0)
    reference = sample(model.velocity, noise, make_plan(times, None, (32, 32), scales=(1,), transition_times=()))

    rows = []
    for time, (clock, coupling) in tqdm([(t, v) for t in TRANSITIONS for v in VARIANTS], desc="same seed", unit="run"):
        plan = make_plan(times, None, (32, 32), scales=(1 / 2, 1), transition_times=(time,), clock=clock)
        fresh = torch.Generator().manual_seed(1) if coupling == "fresh" else None
        distance = psnr(sample(model.velocity, noise, plan, coupling=coupling, generator=fresh), reference)
        low, median, high = torch.quantile(distance, torch.tensor([0.1, 0.5, 0.9], dtype=distance.dtype)).tolist()
        rows.append(
            {
                "transition": time,
                "clock": clock,
                "coupling": coupling,
                "split": "+".join(map(str, plan.split)),
                "samples": args.samples,
                "psnr_p10": f"{low:.1f}",
                "psnr_median": f"{median:.1f}",
                "psnr_p90": f"{high:.1f}",
                "same_picture": f"{(distance > 30).double().mean():.3f}",
                **environment(),
            }
        )
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['transition']:.2f}  {row['clock']:5}  {row['coupling']:7}  {row['psnr_median']:>6} dB")


if __name__ == "__main__":
    main()
