"""Optimal plans: what choosing sizes, transitions and times for a budget gains, on the bench and on a nonlinear denoiser.

One CSV each, and one figure:

    optimal_plans_flux.csv       the FLUX.1 latent spectrum, counted cost of a step: error at equal cost, rule by rule
    optimal_plans_front.csv      Pareto fronts of predicted error against cost
    optimal_plans_interplay.csv  the delta that the best transitions amount to, by budget, stages, solver and grid
    optimal_plans_nonlinear.csv  the exact posterior mean over photograph crops: Gaussian prediction against what happens
    optimal_plans_transformer.csv  the small trained transformer of benchmarks/tiny_dit (some minutes)
    optimal_plans_latent.csv     with --model latent that of benchmarks/latent_dit, measured on the pictures that TAEF1 decodes

    python benchmarks/optimal_plans.py [flux front interplay nonlinear transformer figure] [--model latent --vae TAEF1]
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from environment import environment
from networks import LATENT_TRANSFORMER, TRANSFORMER, Network, Velocity, decoder, in_bfloat16, latent_arguments
from torch import Tensor

from spectral_pd import (
    DCT,
    PRESETS,
    FiniteDataset,
    GaussianField,
    Plan,
    fit_spectrum,
    make_plan,
    optimise_plan,
    plan_front,
    predict,
    sample,
    shift_times,
    token_cost,
    velocity_error,
)
from spectral_pd.measuring.demo import halved, photographs, psnr, random_crops, spectrum_error

RESULTS = Path(__file__).parent / "results"
FLUX, GRID = PRESETS["flux"], (128, 128)
COST = token_cost(GRID, patch=2, text_tokens=512, attention=14.872 / 74.385)
"""FLUX.1-dev's counted FLOPs: 1, 0.289 and 0.139 full-size steps at 1024, 512 and 256 pixels (results/cost.csv)."""
MU = math.exp(1.15)
SCALES = (1 / 4, 1 / 2)
SHIFTS = tuple(np.geomspace(1, 16, 25).round(3).tolist())


def write(name: str, rows: list[dict[str, object]]) -> None:
    with (RESULTS / f"optimal_plans_{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *environment()])
        writer.writeheader()
        writer.writerows({**row, **environment()} for row in rows)
    for row in rows:
        print("  ".join(map(str, row.values())), flush=True)


def ruled(law, shape, cost, budget: float, *, scales, delta: float, shift: float) -> Plan | None:
    """The delta rule with as many steps of a shifted grid as the budget pays for."""
    best = None
    for steps in range(1, 120):
        try:
            plan = make_plan(shift_times(steps, shift=shift), law, shape, scales=scales, delta=delta)
        except ValueError:
            continue
        if min(plan.split) > 0 and plan.cost(cost) <= budget * (1 + 1e-9):
            best = plan
    return best


def full(law, shape, steps: int, shift: float) -> Plan:
    return make_plan(shift_times(steps, shift=shift), law, shape, scales=(1,))


def described(plan: Plan, cost) -> dict[str, object]:
    return {
        "split": "+".join(map(str, plan.split)),
        "sizes": " ".join("x".join(map(str, s)) for s in plan.shapes),
        "transitions": " ".join(f"{t:.3f}" for t in plan.transition_times) or "-",
        "cost": f"{plan.cost(cost):.3f}",
    }


def flux() -> None:
    """Equal cost, rule by rule."""
    field = GaussianField(FLUX, GRID)
    rows: list[dict[str, object]] = []

    def add(budget: float, name: str, plan: Plan, seconds: float = 0.0) -> None:
        p = predict(plan, field)
        rows.append(
            {
                "budget": budget,
                "rule": name,
                **described(plan, COST),
                "relative_w2": f"{p.relative_w2:.4f}",
                "log_power_error": f"{p.log_power_error:.3f}",
                "cpu_seconds": f"{seconds:.1f}" if seconds else "-",
            }
        )

    def timed(budget: float, name: str, **options) -> None:
        start = time.process_time()
        plan = optimise_plan(FLUX, GRID, COST, budget=budget, multiple_of=2, **options)
        add(budget, name, plan, time.process_time() - start)

    for budget in (5, 7, 10, 20):
        add(budget, "full size, shift of the model", full(FLUX, GRID, budget, MU))
        for scales in ((1 / 2, 1), (1 / 4, 1 / 2, 1)):
            plan = ruled(FLUX, GRID, COST, budget, scales=scales, delta=0.01, shift=MU)
            if plan is not None:
                add(budget, f"delta rule 0.01, {len(scales)} stages, shift of the model", plan)
        timed(budget, "full size, best shift", stages=1, shifts=SHIFTS)
        timed(budget, "full size, free grid", stages=1)
        for stages in (2, 3):
            timed(budget, f"{stages} stages, best shift and transitions", scales=SCALES, stages=stages, shifts=SHIFTS)
            timed(budget, f"{stages} stages, free grid", scales=SCALES, stages=stages)
        timed(budget, "3 stages, free grid and sizes")
        timed(budget, "3 stages, free grid and sizes, delta 0.01", delta=0.01)
    write("flux", rows)


def front() -> None:
    rows: list[dict[str, object]] = []
    budgets = (2, 3, 4, 5, 7, 10, 14, 20, 28)
    for name, options in (
        ("full size, shift of the model", None),
        ("full size, free grid", {"stages": 1}),
        ("2 stages", {"stages": 2, "scales": SCALES}),
        ("3 stages", {"stages": 3, "scales": SCALES}),
        ("3 stages, no later than delta 0.01", {"stages": 3, "scales": SCALES, "delta": 0.01}),
    ):
        if options is None:
            field = GaussianField(FLUX, GRID)
            points = [(b, predict(p, field).relative_w2, p) for b in budgets for p in (full(FLUX, GRID, b, MU),)]
        else:
            result = plan_front(FLUX, GRID, COST, budgets=budgets, **options)
            points = [(p.cost, p.error, p.plan) for p in result.points]
        for _, error, plan in points:
            rows.append({"rule": name, **described(plan, COST), "relative_w2": f"{error:.5f}"})
    write("front", rows)


def interplay() -> None:
    """Which delta the best transitions amount to (velocity error at the cut when the stage is left)."""
    rows: list[dict[str, object]] = []
    field = GaussianField(FLUX, GRID)
    for solver in ("euler", "heun", "dpmpp_2m"):
        for grid, shifts in (("shifted", SHIFTS), ("free", None)):
            for stages in (2, 3):
                for budget in (4, 8, 16, 32, 64):
                    if grid == "free" and solver != "euler":
                        continue
                    plan = optimise_plan(
                        FLUX,
                        GRID,
                        COST,
                        budget=budget,
                        solver=solver,
                        scales=SCALES if stages == 3 else SCALES[1:],
                        stages=stages,
                        shifts=shifts,
                    )
                    implied = [
                        velocity_error(plan.times[s.stop], float(FLUX(64 * s.shape[0] / 128))) for s in plan.stages[:-1]
                    ]
                    rule = ruled(FLUX, GRID, COST, budget, scales=(1 / 2, 1), delta=0.01, shift=MU)
                    error = predict(plan, field, solver).relative_w2
                    rows.append(
                        {
                            "solver": solver,
                            "grid": grid,
                            "stages": stages,
                            "budget": budget,
                            **described(plan, COST),
                            "deltas": " ".join(f"{d:.3g}" for d in implied) or "-",
                            "relative_w2": f"{error:.4f}",
                            "delta_over_error": f"{implied[-1] / error:.1f}" if implied else "-",
                            "delta_rule": "-" if rule is None else f"{predict(rule, field, solver).relative_w2:.4f}",
                        }
                    )
    write("interplay", rows)


def quantiles(x: Tensor, directions: Tensor, count: int) -> Tensor:
    q = (torch.arange(count, dtype=x.dtype) + 0.5) / count
    return torch.quantile(x.flatten(1) @ directions, q, dim=0)


def nonlinear(samples: int = 256) -> None:
    """Real pictures' exact posterior mean: does what the Gaussian prediction chose hold up?"""
    generator = torch.Generator().manual_seed(0)
    pictures = list(photographs().values())
    crops = halved(random_crops(pictures, 3000, 64, generator=generator)).mean(1, keepdim=True)
    model, shape = FiniteDataset(crops, 0.1), (32, 32)
    fitted = fit_spectrum(crops)

    def law(omega):
        return fitted(omega) + model.bandwidth**2

    def cost(grid: tuple[int, ...]) -> float:
        return math.prod(grid) / 1024

    field = GaussianField(law, shape)
    noise = torch.randn(samples, 1, *shape, generator=generator)
    exact = sample(model.velocity, noise, full(law, shape, 100, 3.0), solver="heun")
    draws = crops[torch.randint(len(crops), (16000,), generator=generator)]
    draws = draws + model.bandwidth * torch.randn(draws.shape, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(1024, 200, generator=generator), dim=0)
    weight = field.power().rsqrt().float()

    def distance(x: Tensor, *, white: bool) -> float:
        a, b = (DCT.forward(v) * weight if white else v for v in (x, draws))
        wanted = quantiles(b, directions, samples)
        return float(((quantiles(a, directions, samples) - wanted).square().mean() / wanted.square().mean()).sqrt())

    rows: list[dict[str, object]] = []

    def add(solver: str, budget: object, name: str, plan: Plan | None) -> None:
        if plan is None:
            return
        x = sample(model.velocity, noise, plan, solver=solver)
        error = (x - exact).square().mean() / exact.square().mean()
        rows.append(
            {
                "solver": solver,
                "budget": budget,
                "rule": name,
                **described(plan, cost),
                "predicted_w2": f"{predict(plan, field, solver).relative_w2:.4f}",
                "distance_to_exact": f"{float(error.sqrt()):.3f}",
                "same_picture": f"{float((psnr(x, exact) > 30).double().mean()):.3f}",
                "spectrum_error": f"{spectrum_error(x, exact):.3f}",
                "sliced_w2": f"{distance(x, white=False):.3f}",
                "sliced_w2_white": f"{distance(x, white=True):.3f}",
            }
        )
        print(" ".join(map(str, rows[-1].values())), flush=True)

    add("heun", "-", "converged (floor of the sliced distances)", full(law, shape, 100, 3.0))
    for solver in ("euler", "dpmpp_2m"):
        for budget in (5, 10, 20):
            for shift in (2.0, 3.0, 5.0):
                add(solver, budget, f"full size, shift {shift:g}", full(law, shape, budget, shift))
            for delta in (0.001, 0.01, 0.1):
                for shift in (3.0, 5.0):
                    plan = ruled(law, shape, cost, budget, scales=(1 / 2, 1), delta=delta, shift=shift)
                    add(solver, budget, f"delta rule {delta:g}, shift {shift:g}", plan)
            for shifts, grid in ((None, "free grid"), ((2.0, 3.0, 4.0, 5.0), "shift 2 to 5")):
                for delta in (None, 0.01, 0.001):
                    plan = optimise_plan(
                        law, shape, cost, budget=budget, scales=SCALES, solver=solver, delta=delta, shifts=shifts
                    )
                    add(solver, budget, f"optimal, {grid}" + (f", delta {delta:g}" if delta else ""), plan)
    write("nonlinear", rows)


Rule = tuple[str, Plan | None]


def rules(network: Network, cost: Callable[[tuple[int, ...]], float], budget: float, solver: str) -> Iterator[Rule]:
    """Plans of a trained transformer for a budget, by how they are chosen."""
    shape, law, patch = (network.side,) * 2, network.law, network.transformer().config.patch
    for shift in (1.0, 2.0, 3.0):
        yield f"full size, shift {shift:g}", full(law, shape, int(budget), shift)
    for delta in (0.01, 0.03, 0.1):
        plan = ruled(law, shape, cost, budget, scales=(1 / 2, 1), delta=delta, shift=2.0)
        yield f"delta rule {delta:g}, shift 2", plan
    for scales, shifts, bound in (
        (SCALES, None, None),
        (SCALES, None, 0.01),
        (SCALES, (1.0, 1.5, 2.0, 3.0), 0.1),
        (SCALES[1:], None, 0.1),
        (SCALES[1:], (1.0, 1.5, 2.0, 3.0), 0.1),
        (SCALES[1:], (1.0, 1.5, 2.0, 3.0), 0.01),
    ):
        options = {"solver": solver, "scales": scales, "delta": bound, "shifts": shifts, "multiple_of": patch}
        plan = optimise_plan(law, shape, cost, budget=budget, **options)
        yield (
            f"optimal, {'shift 1 to 3' if shifts else 'free grid'}" + (f", delta {bound:g}" if bound else ""),
            plan,
        )


def counted(network: Network) -> Callable[[tuple[int, ...]], float]:
    """Counted FLOPs of a call over a full-size one's."""
    from cost import count
    from tiny_dit.model import TinyDiT

    config = network.transformer().config
    with torch.device("meta"):
        module = TinyDiT(config)
    states = {
        n: torch.empty(1, config.channels, n, n, device="meta")
        for n in range(config.patch, network.side + 1, config.patch)
    }
    flops = {n: count(module, {"x": x, "t": 0.5}).total for n, x in states.items()}
    return lambda grid: flops[grid[0]] / flops[network.side]


def sweep(
    network: Network,
    velocity: Velocity,
    budgets: Sequence[tuple[str, Sequence[float]]],
    items: int,
    measures: Callable[[Tensor], Callable[[Tensor], dict[str, str]]],
) -> list[dict[str, object]]:
    """Every rule at every budget, measured by ``measures(reference)(x)`` against 40 full-size steps from the same noise."""
    shape, law, cost = (network.side,) * 2, network.law, counted(network)
    field = GaussianField(law, shape)
    noise = torch.randn(items, network.channels, *shape, generator=torch.Generator().manual_seed(0))
    measure = measures(sample(velocity, noise, full(law, shape, 40, network.shift), solver="dpmpp_2m"))
    rows: list[dict[str, object]] = []
    for solver, several in budgets:
        for budget in several:
            for name, plan in rules(network, cost, budget, solver):
                if plan is None:
                    continue
                x = sample(velocity, noise, plan, solver=solver)
                predicted = f"{predict(plan, field, solver).relative_w2:.4f}"
                facts = {"solver": solver, "budget": budget, "rule": name, **described(plan, cost)}
                rows.append(facts | {"predicted_w2": predicted} | measure(x) | {"samples": items})
                print(" ".join(map(str, rows[-1].values())), flush=True)
    return rows


def transformer() -> None:
    """The small trained transformer."""
    from metrics import SlicedWasserstein, radial_rows, spectrum_distance

    def measures(reference: Tensor) -> Callable[[Tensor], dict[str, str]]:
        wasserstein = SlicedWasserstein(reference)
        return lambda x: {
            "psnr_median": f"{float(psnr(x, reference).median()):.2f}",
            "spectrum_error": f"{spectrum_distance(radial_rows(x), radial_rows(reference)):.3f}",
            "wasserstein": f"{wasserstein.distance(wasserstein.rows(x), wasserstein.rows(reference)):.4f}",
        }

    budgets = (("euler", (6, 12)), ("dpmpp_2m", (4, 8)))
    write("transformer", sweep(TRANSFORMER, TRANSFORMER.velocity("cpu"), budgets, 16, measures))


def latent(vae: Path | None, items: int = 16) -> None:
    """The latent transformer, on decoded pictures."""
    from metrics import Decoded

    decode = in_bfloat16(decoder(vae))

    def measures(reference: Tensor) -> Callable[[Tensor], dict[str, str]]:
        decoded = Decoded(decode(reference))
        return lambda x: decoded.columns(decode(x))

    network = LATENT_TRANSFORMER
    rows = sweep(network, in_bfloat16(network.velocity("cpu")), (("dpmpp_2m", (8,)),), items, measures)
    write("latent", [row | {"precision": "bfloat16"} for row in rows])


KINDS = (
    ("full size", "full size", "0.45", "o"),
    ("delta rule", "delta rule", "tab:blue", "s"),
    ("optimal, free", "optimal, free grid", "tab:red", "^"),
    ("optimal, shift", "optimal, shifted grids", "tab:orange", "v"),
)


def scatter(ax, rows: list[dict[str, str]], x: str, y: str) -> None:
    """A point for each row, by kind of rule; Euler filled, DPM-Solver++(2M) open, larger for larger budgets."""
    for prefix, label, colour, marker in KINDS:
        for solver, face in (("euler", colour), ("dpmpp_2m", "none")):
            chosen = [r for r in rows if r["rule"].startswith(prefix) and r["solver"] == solver]
            size = [9 * float(r["budget"]) ** 0.7 for r in chosen]
            points = ([float(r[column]) for r in chosen] for column in (x, y))
            ax.scatter(*points, s=size, facecolor=face, edgecolor=colour, marker=marker, alpha=0.75)
        ax.scatter([], [], color=colour, marker=marker, label=label)
    ax.legend(frameon=False, fontsize=8)
    ax.grid(alpha=0.25)


def figure() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def read(name: str) -> list[dict[str, str]]:
        with (RESULTS / f"optimal_plans_{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def ticks(axis, values: tuple[float, ...]) -> None:
        axis.set_ticks(values, [f"{v:g}" for v in values])
        axis.set_ticks([], minor=True)

    fig, ((front, balance), (crops, network)) = plt.subplots(2, 2, figsize=(11.5, 9), layout="constrained")
    rows = read("front")
    for name in dict.fromkeys(row["rule"] for row in rows):
        chosen = [row for row in rows if row["rule"] == name]
        points = ([float(r[column]) for r in chosen] for column in ("cost", "relative_w2"))
        front.loglog(*points, "o-", ms=3, label=name)
    front.set(xlabel="cost (full-size steps)", ylabel="relative W2, predicted", title="FLUX.1 latents, Euler")
    ticks(front.xaxis, (2, 5, 10, 20))
    ticks(front.yaxis, (0.05, 0.1, 0.2, 0.4, 0.7))
    front.legend(frameon=False, fontsize=8)
    front.grid(alpha=0.25)

    rows = [r for r in read("interplay") if (r["grid"], r["stages"]) == ("shifted", "2") and r["deltas"] != "-"]
    for solver, label, style in (
        ("euler", "Euler", "o-"),
        ("heun", "Heun", "s-"),
        ("dpmpp_2m", "DPM-Solver++(2M)", "^-"),
    ):
        chosen = [r for r in rows if r["solver"] == solver]
        x, y = ([float(r[column]) for r in chosen] for column in ("relative_w2", "deltas"))
        balance.loglog(x, y, style, ms=5, lw=1, label=label)
        for row, point in zip(chosen, zip(x, y, strict=True), strict=True):
            balance.annotate(row["budget"], point, xytext=(5, -9), textcoords="offset points", fontsize=7, color="0.3")
    line = np.array([min(float(r["relative_w2"]) for r in rows), max(float(r["relative_w2"]) for r in rows)])
    balance.loglog(line, 3 * line, color="0.5", lw=1, ls=":", label="delta = 3 x error")
    balance.set(
        xlabel="relative W2 of the best plan (numbers: budget)",
        ylabel="delta its transition amounts to",
        title="FLUX.1 latents, two stages: the right delta follows the error",
    )
    balance.legend(frameon=False, fontsize=8)
    balance.grid(alpha=0.25)

    scatter(crops, [r for r in read("nonlinear") if r["budget"] == "10"], "distance_to_exact", "sliced_w2_white")
    crops.set(
        xlabel="distance to the exact solution, same noise",
        ylabel="sliced W2 to the data, whitened",
        title="Photograph crops, posterior mean, budget 10\n(filled: Euler, open: DPM-Solver++(2M))",
    )
    scatter(network, read("transformer"), "psnr_median", "wasserstein")
    network.set(
        xlabel="PSNR to the converged picture, same noise (dB)",
        ylabel="sliced Wasserstein to the converged pictures",
        title="Small trained transformer, Euler 6 and 12 steps' cost (filled),\nDPM-Solver++(2M) 4 and 8 (open)",
    )
    fig.savefig(RESULTS.parent.parent / "docs" / "figures" / "optimal_plans.png", dpi=110)
    plt.close(fig)


PARTS = {
    "flux": flux,
    "front": front,
    "interplay": interplay,
    "nonlinear": nonlinear,
    "transformer": transformer,
    "figure": figure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"which of {list(PARTS)}; default all")
    latent_arguments(parser)
    args = parser.parse_args()
    parts = PARTS | ({"transformer": partial(latent, args.vae)} if args.model == "latent" else {})
    for part in args.parts:
        parts[part]()


if __name__ == "__main__":
    main()
