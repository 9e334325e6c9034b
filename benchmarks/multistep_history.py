"""Should DPM-Solver++(2M) carry its history over a transition of the full clock, or drop it? Measured on the bench.

Closed-form prediction for a Gaussian field with the FLUX.1 latent spectrum, 64x64, shift exp(1.15): relative Wasserstein-2
distance to the field's distribution, carrying (the library's default), dropping, and at full resolution throughout. Rows go
to results/multistep_history.csv.

    python benchmarks/multistep_history.py
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from environment import environment
from torch import Tensor

from spectral_pd import PRESETS, GaussianField, make_plan, predict, shift_times
from spectral_pd.solvers import SOLVERS, History


def dropping() -> object:
    """DPM-Solver++(2M) that forgets its history whenever the grid has changed."""
    solver, shape = SOLVERS["dpmpp_2m"], torch.Size()

    def step(velocity, x: Tensor, t: float, t_next: float, history: History | None) -> tuple[Tensor, History | None]:
        nonlocal shape
        history, shape = (history if x.shape == shape else None), x.shape
        return solver(velocity, x, t, t_next, history)

    return step


def main() -> None:
    law, shape = PRESETS["flux"], (64, 64)
    field = GaussianField(law, shape)
    rows = []
    for steps in (10, 20, 50, 100):
        times = shift_times(steps, shift=math.exp(1.15))
        full = predict(make_plan(times, law, shape, scales=(1,)), field, "dpmpp_2m").relative_w2
        for scales in ((1 / 2, 1), (1 / 4, 1 / 2, 1)):
            plan = make_plan(times, law, shape, scales=scales)
            rows.append(
                {
                    "steps": steps,
                    "split": "+".join(map(str, plan.split)),
                    "carried": f"{predict(plan, field, 'dpmpp_2m').relative_w2:.5f}",
                    "dropped": f"{predict(plan, field, dropping()).relative_w2:.5f}",
                    "full_resolution": f"{full:.5f}",
                    **environment(),
                }
            )
    with (Path(__file__).parent / "results" / "multistep_history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['steps']:>4}  {row['split']:>9}  carried {row['carried']}  dropped {row['dropped']}")


if __name__ == "__main__":
    main()
