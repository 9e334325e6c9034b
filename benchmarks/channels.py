"""What averaging a spectrum over channels costs, on photographs in three colour spaces.

Each channel of 64x64 crops of the packaged photographs has its own power law, and so its own transition time. Three plans of
one model (50 steps, shift 3, 32 -> 64 pixels, delta 0.01) are compared: from the mean power over channels, from the
strongest channel at each frequency, and from the channel itself (what no single grid can do for all channels at once).
For each channel and plan: the velocity error of Eq. 19 at the cut when the plan grows, and the distance of the
progressive result to the full-resolution one from the same noise, in closed form on the Gaussian field with the
channel's law, over the root power. Rows go to results/channels.csv, the figure to docs/figures/channels.png.

    python benchmarks/channels.py
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from environment import environment
from torch import Tensor

from spectral_pd import (
    GaussianField,
    PowerLaw,
    SpectrumMeter,
    fit_power_law,
    make_plan,
    max_frequency,
    plan_at,
    predict,
    shift_times,
    velocity_error,
)
from spectral_pd.measuring.demo import photographs, random_crops

ROOT = Path(__file__).parent
SHAPE, SCALES, DELTA = (64, 64), (1 / 2, 1), 0.01
ROTATIONS: dict[str, tuple[tuple[str, ...], Tensor]] = {
    "RGB": (("red", "green", "blue"), torch.eye(3)),
    # Orthonormal: the same pictures, seen in almost uncorrelated channels.
    "opponent": (
        ("grey", "red - blue", "green - magenta"),
        torch.tensor(
            [
                [1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)],
                [1 / math.sqrt(2), 0, -1 / math.sqrt(2)],
                [-1 / math.sqrt(6), 2 / math.sqrt(6), -1 / math.sqrt(6)],
            ]
        ),
    ),
}


def measured_laws(pictures: Tensor) -> tuple[list[PowerLaw], PowerLaw, PowerLaw]:
    """(law of each channel, law of the mean, law of the strongest channel at each frequency)."""
    meter = SpectrumMeter(SHAPE).update(pictures)
    laws = [fit_power_law(table) for table in meter.channel_results()]
    return laws, fit_power_law(meter.result()), fit_power_law(meter.result(channels="max"))


def main() -> None:
    import matplotlib.pyplot as plt

    generator = torch.Generator().manual_seed(0)
    halves = [torch.nn.functional.avg_pool2d(picture, 2) for picture in photographs().values()]
    crops = random_crops(halves, 2000, SHAPE[0], generator=generator)
    times = shift_times(50, shift=3.0)
    full = plan_at(times, (), SHAPE, scales=(1,))
    cut = SCALES[0] * max_frequency(SHAPE)

    rows, panels = [], {}
    for space, (names, rotation) in ROTATIONS.items():
        laws, mean, strongest = measured_laws(torch.einsum("ij,bjhw->bihw", rotation, crops))
        panels[space] = (names, laws, mean)
        for name, law in zip(names, laws, strict=True):
            field = GaussianField(law, SHAPE)
            reference = predict(full, field)
            for made_from, spectrum in (("mean", mean), ("max", strongest), ("own", law)):
                plan = make_plan(times, spectrum, SHAPE, scales=SCALES, delta=DELTA)
                wanted = plan.transition_times[0]
                difference = predict(plan, field).gain - reference.gain
                rows.append(
                    {
                        "space": space,
                        "channel": name,
                        "amplitude": f"{law.amplitude:.4g}",
                        "exponent": f"{law.exponent:.3f}",
                        "plan_from": made_from,
                        "transition": f"{wanted:.4f}",
                        "split": "+".join(map(str, plan.split)),
                        "velocity_error": f"{velocity_error(wanted, law(cut)):.4f}",
                        "same_seed_error": f"{float((difference.square().sum() / field.power().sum()).sqrt()):.2e}",
                        **environment(),
                    }
                )
    with (ROOT / "results" / "channels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.4), sharey=True, layout="constrained")
    omega = torch.logspace(0, math.log10(max_frequency(SHAPE)), 50, dtype=torch.float64).numpy()
    for ax, (space, (names, laws, mean)) in zip(axes, panels.items(), strict=True):
        for name, law in zip(names, laws, strict=True):
            ax.loglog(omega, law(omega), label=name)
        ax.loglog(omega, mean(omega), "k--", label="mean over channels")
        ax.axvline(cut, color="0.7", lw=1)
        ax.set_title(f"{space} channels of the same photographs")
        ax.set_xlabel(r"frequency $\omega$ (cycles per shorter side)")
        ax.legend(frameon=False)
    axes[0].set_ylabel(r"power $P(\omega)$, orthonormal")
    axes[0].annotate(
        "cut of the 32x32 stage",
        (0.94 * cut, 0.8 * axes[0].get_ylim()[1]),
        rotation=90,
        va="top",
        ha="right",
        fontsize=8,
    )
    figure.savefig(ROOT.parent / "docs" / "figures" / "channels.png", dpi=110)


if __name__ == "__main__":
    main()
