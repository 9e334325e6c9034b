"""Noise passthrough: what does delta cost, on a Gaussian field and on a denoiser that is not linear?

Two exact denoisers of grey 32x32 photographs in [-1, 1]: the Gaussian field with their power law, and the posterior mean over
3000 crops (bandwidth 0.05). Measured: (1) the error ``E|v* - eps|^2`` of taking a coefficient for noise, by frequency and time,
beside Eq. 19; (2) plain sampling against sampling with every frequency held at the initial noise until its activation
time, for delta from 1e-4 to 0.3. For the Gaussian field the power lost has a closed form, ``delta / (1 + P)``. Rows go to
results/passthrough_error.csv and results/passthrough.csv, the figure to docs/figures/passthrough.png.

With --transformer the same sweep on the small trained transformer of benchmarks/tiny_dit instead, to
results/passthrough_transformer.csv (a minute or two); with --model latent and --vae on that of benchmarks/latent_dit, to
results/passthrough_latent.csv: power and RMS change of the latents, all else of the pictures they decode to (metrics.py).

    python benchmarks/passthrough.py [--samples 128] [--transformer [--model latent --vae TAEF1]]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from environment import environment
from networks import LATENT_TRANSFORMER, decoder, in_bfloat16, latent_arguments
from torch import Tensor
from tqdm import tqdm

from spectral_pd import (
    DCT,
    FiniteDataset,
    GaussianField,
    PowerLaw,
    fit_power_law,
    passthrough,
    plan_at,
    power_spectrum,
    sample,
    shift_times,
    velocity_error,
)
from spectral_pd.measuring.demo import halved, photographs, psnr, random_crops, small_transformer
from spectral_pd.passthrough import activation_map, noise_prediction_error
from spectral_pd.power import radial_bins
from spectral_pd.solvers import SolverName, Velocity

SHAPE = (32, 32)
DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LEVELS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
SHOWN_DELTAS = (1e-4, 1e-3, 1e-2, 1e-1, 3e-1)
STEPS, BANDWIDTH, CROPS = 400, 0.05, 3000


def error_rows(model: str, velocity: Velocity, data: Tensor, power: Tensor, rng: torch.Generator) -> list[dict]:
    """Measured and closed-form velocity error, one row for each time and frequency."""
    rows = []
    noise = torch.randn(data.shape, generator=rng, dtype=data.dtype)
    frequency = DCT.frequency(SHAPE)
    for t in tqdm(LEVELS, desc=f"velocity error, {model}", unit="time"):
        k, measured = noise_prediction_error(velocity, data, t, noise=noise)
        _, closed, _ = radial_bins(velocity_error(t, power), frequency)
        rows += [
            {
                "model": model,
                "t": t,
                "omega": int(omega),
                "measured": f"{m:.6g}",
                "equation_19": f"{c:.6g}",
                "samples": len(data),
            }
            for omega, m, c in zip(k, measured, closed, strict=True)
        ]
    return rows


def held_share(law: PowerLaw, shape: tuple[int, int], times: tuple[float, ...], delta: float) -> float:
    """Share of the coefficients, over all steps, that the passthrough replaces."""
    active = activation_map(law, shape, delta)
    return float(np.mean([float((active < t).double().mean()) for t in times[1:]]))


def sweep(
    model: str,
    velocity: Velocity,
    noise: Tensor,
    law: PowerLaw,
    *,
    steps: int = STEPS,
    shift: float = 3.0,
    solver: SolverName = "euler",
    deltas: Sequence[float] = DELTAS,
) -> tuple[list[dict], dict[float, Tensor]]:
    """One row for each delta, and the pictures; delta 0 stands for plain sampling."""
    shape = (noise.shape[-2], noise.shape[-1])
    times = shift_times(steps, shift=shift)
    whole = plan_at(times, (), shape, scales=(1,))
    plain = sample(velocity, noise, whole, solver=solver)
    frequency = DCT.frequency(shape)
    top = (frequency > min(shape) / 4) & (frequency <= min(shape) / 2)
    power = law(frequency[top])
    rows, pictures = [], {0.0: plain}
    for delta in tqdm(deltas, desc=f"delta, {model}", unit="run"):
        x = passthrough(velocity, noise, whole, law, delta, solver=solver)
        pictures[delta] = x
        band = [float(DCT.forward(v.double())[..., top].square().sum()) for v in (x, plain)]
        distance = psnr(x, plain)
        rows.append(
            {
                "model": model,
                "delta": f"{delta:g}",
                "steps": steps,
                "held": f"{held_share(law, shape, times, delta):.3f}",
                "top_octave_power_lost": f"{1 - band[0] / band[1]:.5g}",
                "delta_over_1_plus_p": f"{float((power * delta / (1 + power)).sum() / power.sum()):.5g}",
                "relative_rms": f"{float((x - plain).double().norm() / plain.double().norm()):.5g}",
                "psnr_median": f"{float(distance.median()):.1f}",
                "same_picture": f"{float((distance > 30).double().mean()):.3f}",
                "samples": len(noise),
            }
        )
    return rows, pictures


def draw(path: Path, errors: list[dict], rows: list[dict], pictures: dict[float, Tensor]) -> None:
    """Left: velocity error against Eq. 19. Right: what delta costs. Below: the same noise at several delta."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from spectral_pd.plotting import plot_strips

    figure = plt.figure(figsize=(12.5, 8.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
    left, right = (figure.add_subplot(grid[0, i]) for i in range(2))
    for i, omega in enumerate((1, 4, 16)):
        for model, marker, line in (("Gaussian field", "o", "-"), ("photograph crops", "x", "--")):
            chosen = [row for row in errors if (row["model"], row["omega"]) == (model, omega)]
            t = [row["t"] for row in chosen]
            left.semilogy(t, [float(row["measured"]) for row in chosen], marker, color=f"C{i}", ms=5)
            left.semilogy(t, [float(row["equation_19"]) for row in chosen], line, color=f"C{i}", lw=1.1)
        left.plot([], [], "-", color=f"C{i}", label=rf"$\omega$ = {omega} cycles")
    left.plot([], [], "o-", color="0.3", ms=5, lw=1.1, label="Gaussian field: measured, Eq. 19")
    left.plot([], [], "x--", color="0.3", ms=5, lw=1.1, label="photograph crops: measured, Eq. 19 at their power")
    left.axhline(0.01, color="0.6", lw=1, ls=":")
    left.annotate(r"$\delta$ = 0.01", (0.11, 0.0115), fontsize=8, color="0.4")
    left.set_xlabel("time $t$ (1 noise, 0 data)")
    left.set_ylabel(r"$E|v^* - \epsilon|^2$ of a coefficient")
    left.set_title("How wrong is it to take a frequency for noise?")
    left.legend(frameon=False, fontsize=8, loc="lower left")

    deltas = {model: [row for row in rows if row["model"] == model] for model in ("Gaussian field", "photograph crops")}
    gaussian, crops = deltas.values()
    x = [float(row["delta"]) for row in gaussian]
    right.loglog(
        x, [float(row["delta_over_1_plus_p"]) for row in gaussian], "-", color="C0", label=r"$\delta / (1 + P)$"
    )
    lost = [float(row["top_octave_power_lost"]) for row in gaussian]
    right.loglog(x, lost, "o", color="C0", ms=5, label="Gaussian field: power lost, top octave")
    right.loglog(
        x, [float(row["relative_rms"]) for row in gaussian], "s--", color="C2", ms=5, label="Gaussian field: RMS change"
    )
    right.loglog(
        x, [float(row["relative_rms"]) for row in crops], "x--", color="C3", ms=6, label="photograph crops: RMS change"
    )
    right.set_xlabel(r"$\delta$")
    right.set_ylabel("relative to plain sampling")
    right.set_title("What holding the noise until activation costs")
    right.legend(frameon=False, fontsize=8)
    right.grid(alpha=0.25)

    bottom = figure.add_subplot(grid[1, :])
    contrast = pictures[0.0].flatten(1).std(1)
    shown = contrast.argsort(descending=True)[:16].sort().values
    strips = [("plain sampling", pictures[0.0][shown])]
    strips += [(rf"$\delta$ = {delta:g}", pictures[delta][shown]) for delta in SHOWN_DELTAS]
    which = f"photograph crops (the 16 of most contrast of {len(contrast)})"
    title = f"Same noise, {which}: every frequency held until its activation time"
    plot_strips(strips, ax=bottom).set_title(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, {**rows[0], **environment()})
        writer.writeheader()
        writer.writerows({**row, **environment()} for row in rows)


def run_transformer(out: Path, samples: int = 16) -> None:
    """The sweep on the trained network, from its own noise and over the times it is usually sampled with."""
    found = small_transformer()
    if found is None:
        raise FileNotFoundError("benchmarks/tiny_dit has no weights.safetensors: train it first")
    velocity, law = found
    noise = torch.randn(samples, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    rows, _ = sweep("small transformer", velocity, noise, law, steps=32, shift=2.0, solver="dpmpp_2m")
    write(out / "passthrough_transformer.csv", rows)
    for row in rows:
        print("  ".join(map(str, row.values())))


def run_latent(out: Path, vae: Path | None, samples: int = 32) -> None:
    """The sweep on the latent network, from its own noise, over the times of its full run."""
    from metrics import Decoded, columns, interval

    network, decode = LATENT_TRANSFORMER, in_bfloat16(decoder(vae))
    velocity, noise = in_bfloat16(network.velocity("cpu")), network.start(samples, 1, "cpu")
    options = {"steps": len(network.times) - 1, "shift": network.shift, "solver": "dpmpp_2m"}
    rows, latents = sweep(network.name, velocity, noise, network.law, deltas=SHOWN_DELTAS[1:], **options)
    reference = decode(latents[0.0])
    decoded = Decoded(reference)
    for row in rows:
        pictures = decode(latents[float(row["delta"])])
        same = interval(lambda r: float(r.mean()), (psnr(pictures, reference) > 30).double().numpy())
        row |= decoded.columns(pictures) | columns("same_picture", same, digits=3)
        row["precision"] = "bfloat16"
        del row["psnr_median"]
        print("  ".join(map(str, row.values())), flush=True)
    write(out / "passthrough_latent.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--figure", type=Path, default=Path(__file__).parent.parent / "docs" / "figures" / "passthrough.png"
    )
    parser.add_argument("--transformer", action="store_true", help="only the small trained transformer's sweep")
    latent_arguments(parser)
    args = parser.parse_args()
    if args.transformer:
        if args.model == "latent":
            run_latent(args.out, args.vae)
        else:
            run_transformer(args.out)
        return

    rng = torch.Generator().manual_seed(0)
    crops = random_crops(list(photographs().values()), CROPS, 64, generator=rng)
    crops = halved(crops).mean(1, keepdim=True)
    law = fit_power_law(power_spectrum(crops))
    field, dataset = GaussianField(law, SHAPE), FiniteDataset(crops, BANDWIDTH)

    chosen = torch.randperm(CROPS, generator=rng)[:1000]
    drawn = crops[chosen] + BANDWIDTH * torch.randn(1000, 1, *SHAPE, generator=rng)
    measured = DCT.forward(drawn.double()).square().mean((0, 1))
    errors = error_rows("Gaussian field", field.velocity, field.sample((16000, 1), generator=rng), field.power(), rng)
    errors += error_rows("photograph crops", dataset.velocity, drawn, measured, rng)

    noise = torch.randn(args.samples, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    rows, _ = sweep("Gaussian field", field.velocity, noise, law)
    more, pictures = sweep("photograph crops", dataset.velocity, noise, law)
    rows += more
    write(args.out / "passthrough_error.csv", errors)
    write(args.out / "passthrough.csv", rows)
    draw(args.figure, errors, rows, pictures)
    for row in rows:
        print(
            f"{row['model']:16} delta {row['delta']:>6}  held {row['held']}  lost {row['top_octave_power_lost']:>9} "
            f"(closed form {row['delta_over_1_plus_p']:>9})  RMS {row['relative_rms']:>9}  {row['psnr_median']:>6} dB "
            f"same picture {row['same_picture']}"
        )


if __name__ == "__main__":
    main()
