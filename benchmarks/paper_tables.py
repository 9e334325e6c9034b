r"""The paper's step splits and FLOP totals, recomputed from fits, shifts and real configurations.

Every row is computed: transition times from the published power-law fits, the time grid from the model's shift, the cost of
a step by counting the real transformer on the meta device (:mod:`cost`). Printed numbers are those of the package's tables
(``spectral_pd/comparing/tables``, which ``spectral-pd compare --table`` runs), to be compared with.

Two totals a row. "linear": products with weights only, guidance passes included, plus text encoders and autoencoder once;
what the paper counts for FLUX, Z-Image and PixelGen. "full": attention included, transformer only; what the paper counts for
WAN, and what a step costs. Speedups are over the longest full-size run.

    python benchmarks/paper_tables.py            # writes benchmarks/results/paper_tables.csv and docs/paper_tables.md
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cost import MODELS, RESULTS, counted_cost, once_flops

from spectral_pd import PRESETS, Plan, make_plan, shift_times
from spectral_pd.comparing.settings import load_table

TERA = 1e12


@dataclass(frozen=True)
class Case:
    """One model at one size, as the paper runs it.

    Attributes
    ----------
    label
        For the table.
    preset
        Spectrum, by name.
    grid
        Full grid in latents (pixels for PixelGen).
    shift
        Of the time grid.
    multiple_of
        Patch in grid points.
    counted
        Name in :data:`cost.MODELS`.
    convention
        Which count the paper prints: ``"linear"``, with text encoders and autoencoder once, or ``"full"``.
    table
        Name of the package's table that holds what the paper prints.
    rows
        (steps, scales, delta) of every row.
    """

    label: str
    preset: str
    grid: tuple[int, int]
    shift: float
    multiple_of: int
    counted: str
    convention: Literal["linear", "full"]
    table: str
    rows: tuple[tuple[int, tuple[float, ...], float], ...]


def _rows(
    steps: Sequence[int], scales: Sequence[tuple[float, ...]], deltas: Sequence[float] = (0.01,)
) -> tuple[tuple[int, tuple[float, ...], float], ...]:
    return tuple((n, s, d) for n in steps for d in deltas for s in scales)


ONE, HALF, QUARTER = (1.0,), (1 / 2, 1.0), (1 / 4, 1 / 2, 1.0)

CASES = (
    Case(
        "FLUX.1-dev 1024x1024",
        "flux",
        (128, 128),
        math.exp(1.15),
        2,
        "flux",
        "linear",
        "fluxtable5",
        _rows((50, 7), (ONE,)) + _rows((50, 40, 12, 10, 7), (HALF, QUARTER)),
    ),
    Case(
        "Z-Image 1024x1024",
        "z-image",
        (128, 128),
        6.0,
        2,
        "z-image",
        "linear",
        "zimage6",
        _rows((50, 10, 7), (ONE,)) + _rows((50, 16, 11), (HALF, QUARTER), (0.01, 0.05)),
    ),
    Case(
        "PixelGen 512x512",
        "pixels",
        (512, 512),
        3.0,
        16,
        "pixelgen",
        "linear",
        "pixelgen7",
        _rows((25, 13, 8), (ONE,)) + _rows((25, 15), (HALF,)),
    ),
    Case(
        "Wan2.1-1.3B 1248x720x81",
        "wan",
        (90, 156),
        5.0,
        2,
        "wan",
        "full",
        "wan3",
        _rows((50, 25), (ONE,)) + _rows((50,), ((2 / 3, 1.0), (1 / 3, 2 / 3, 1.0))),
    ),
)


@dataclass(frozen=True)
class Published:
    """What the paper prints for a row: TFLOP, wall-clock speedup; for FLUX.1-dev the steps a stage that its totals imply."""

    tflop: float
    speedup: float | None = None
    split: tuple[int, ...] | None = None


def published(case: Case) -> dict[tuple[int, tuple[float, ...], float], Published]:
    """What the paper prints for a model: (steps, scales, delta) -> numbers; delta is 0.01 where there is one stage."""
    return {
        (s.steps or 0, s.scales, s.delta): Published(
            **{**s.printed, "split": tuple(s.printed.get("split", ())) or None}
        )
        for s in load_table(case.table).settings
    }


PUBLISHED = {(case.counted, *row): printed for case in CASES for row, printed in published(case).items()}

HALF_A_DIGIT = {"linear": 0.005, "full": 0.5}
"""How far a printed total may be from the counted one by rounding alone, in TFLOP."""

NOTES = {
    "counter": "printed totals are larger by a fixed amount a picture and a step, whatever the step's size, by less than "
    "0.05 %: the counters differ in what is no product with a token (the paper's is not named)",
    "coarse": "progressive FLUX rows: the printed totals imply fewer FLOP a coarse step than the same linear-only count of "
    "the real configuration gives, about as if the text tokens were left out there, so ours are higher",
    "split": "40-step FLUX rows: the printed totals fit one full-size step more than the published formula and fit give, as "
    "they would with the fit evaluated half a bin lower",
}


@dataclass(frozen=True)
class Row:
    """One line of the table; totals in TFLOP."""

    case: Case
    plan: Plan
    delta: float
    linear: float
    full: float
    speedup_linear: float
    speedup_full: float
    published: Published | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys of :data:`NOTES` that explain how this row differs from the printed one."""
        if self.published is None:
            return ()
        keys = []
        if self.published.split not in (None, self.plan.split):
            keys.append("split")
        gap = self.published.tflop - self.counted
        if abs(gap) > 0.01 * self.published.tflop:
            keys.append("coarse")
        elif abs(gap) > HALF_A_DIGIT[self.case.convention]:
            keys.append("counter")
        return tuple(keys)

    @property
    def counted(self) -> float:
        """The total by the paper's convention, in TFLOP."""
        return self.linear if self.case.convention == "linear" else self.full


def make_case_plan(case: Case, steps: int, scales: tuple[float, ...], delta: float, *, bins_below: float = 0.0) -> Plan:
    """The plan of a row; with `bins_below`, the fit is evaluated that many bins under each stage's highest frequency."""
    # The paper uses a fit's amplitude on whatever grid it samples: no rescaling, so no grid is given.
    law = replace(PRESETS[case.preset], shape=None)
    return make_plan(
        shift_times(steps, shift=case.shift),
        # The lowest frequencies keep their own value: power falls with frequency, so they do not decide t*.
        (lambda omega: law(np.maximum(omega - bins_below, 0.5))) if bins_below else law,
        case.grid,
        scales=scales,
        delta=delta,
        multiple_of=case.multiple_of,
    )


def compute(case: Case, steps: int, scales: tuple[float, ...], delta: float) -> Row:
    """Plan and price one row."""
    plan = make_case_plan(case, steps, scales, delta)
    linear, full = (counted_cost(case.counted, linear=only) for only in (True, False))
    once = once_flops(case.counted) if case.convention == "linear" else 0.0
    baseline = {fn: max(row[0] for row in case.rows) * fn(case.grid) for fn in (linear, full)}
    return Row(
        case,
        plan,
        delta,
        (plan.cost(linear) + once) / TERA,
        plan.cost(full) / TERA,
        (baseline[linear] + once) / (plan.cost(linear) + once),
        baseline[full] / plan.cost(full),
        PUBLISHED.get((case.counted, steps, scales, delta)),
    )


def all_rows() -> list[Row]:
    """Every row of every case, in order."""
    return [compute(case, *row) for case in CASES for row in case.rows]


def _scales(scales: Sequence[float]) -> str:
    names = {1.0: "1", 0.5: "1/2", 0.25: "1/4", 2 / 3: "2/3", 1 / 3: "1/3"}
    return " ".join(names[s] for s in scales)


COLUMNS: dict[str, Callable[[Row], Any]] = {
    "model": lambda r: r.case.label,
    "steps": lambda r: r.plan.nfe,
    "stages": lambda r: len(r.plan.stages),
    "scales": lambda r: _scales([s.scale for s in r.plan.stages]),
    "delta": lambda r: f"{r.delta:g}" if len(r.plan.stages) > 1 else "-",
    "transitions": lambda r: " ".join(f"{t:.4f}" for t in r.plan.transition_times) or "-",
    "split": lambda r: "+".join(map(str, r.plan.split)),
    "printed split": lambda r: "+".join(map(str, r.published.split)) if r.published and r.published.split else "-",
    "linear TFLOP": lambda r: _number(r.linear),
    "printed TFLOP": lambda r: f"{r.published.tflop:.8g}" if r.published else "-",
    "full TFLOP": lambda r: _number(r.full),
    "speedup, linear": lambda r: _number(r.speedup_linear),
    "speedup, full": lambda r: _number(r.speedup_full),
    "printed speedup": lambda r: _number(r.published.speedup if r.published else None),
    "differs": lambda r: " ".join(r.notes) or "-",
}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def per_step() -> list[tuple[str, ...]]:
    """FLUX.1-dev, TFLOP of one step at each size: latent, linear, linear of the image tokens alone, implied by the printed
    totals, full."""
    p = {row[:2]: printed.tflop for row, printed in published(CASES[0]).items()}
    full = (p[50, ONE] - p[7, ONE]) / 43
    once = p[7, ONE] - 7 * full
    half = (p[10, HALF] - once - 6 * full) / 4
    quarter = (p[10, QUARTER] - once - 6 * full - 2 * half) / 2
    linear, counted = counted_cost("flux", linear=True), counted_cost("flux")
    table: list[tuple[str, ...]] = []
    for size, implied in ((128, full), (64, half), (32, quarter)):
        grid, image = (size, size), (size // 2) ** 2
        # Products with weights are the same for every token, of the picture or of the text.
        alone = linear(grid) * image / (image + MODELS["flux"].text_tokens)
        costs = (linear(grid) / TERA, alone / TERA, implied, counted(grid) / TERA)
        table.append((f"{size}x{size}", *(f"{cost:.3f}" for cost in costs)))
    table.append(("once a picture", f"{once_flops('flux') / TERA:.3f}", "-", f"{once:.3f}", "-"))
    return table


def half_a_bin_lower() -> list[tuple[str, ...]]:
    """Every printed FLUX.1-dev split beside two computed ones: steps, scales, printed, ours, ours with the fit evaluated
    half a bin lower."""
    case = CASES[0]
    table: list[tuple[str, ...]] = []
    for (steps, scales, delta), printed in published(case).items():
        if len(scales) == 1:
            continue
        plans = [make_case_plan(case, steps, scales, delta, bins_below=bins) for bins in (0.0, 0.5)]
        splits = ["+".join(map(str, split)) for split in (printed.split, *(plan.split for plan in plans))]
        table.append((str(steps), _scales(scales), *splits))
    return table


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def gaps(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Printed minus counted totals that are not `coarse`, as ``once + steps * step``: model, rows, both amounts by least
    squares, largest rest."""
    table = []
    for case in CASES:
        found = [r for r in rows if r.case is case and r.published and "coarse" not in r.notes]
        gap = np.array([r.published.tflop - r.counted for r in found])
        steps = np.array([[1.0, r.plan.nfe] for r in found])
        amounts = np.linalg.lstsq(steps, gap, rcond=None)[0]
        rest = np.abs(gap - steps @ amounts).max()
        table.append((case.label, str(len(found)), *(f"{amount:.4f}" for amount in (*amounts, rest))))
    return table


def page(rows: Sequence[Row]) -> str:
    """The docs page."""
    plain, lower = (make_case_plan(CASES[0], 40, HALF, 0.01, bins_below=bins) for bins in (0.0, 0.5))
    step_above = plain.times[plain.split[0] - 1]
    parts = [
        "# The paper's tables, recomputed",
        "Written by `python benchmarks/paper_tables.py`; edit that script, not this page. Step splits come from the published "
        "power-law fits and each model's shift, costs from counting the real transformers on the meta device "
        "(`benchmarks/cost.py`), 2 FLOP a multiply-accumulate.",
        "**linear TFLOP**: products with weights, guidance passes included; but for WAN plus text encoders and autoencoder "
        "once. This is the paper's convention for FLUX (512 text tokens), Z-Image (256) and PixelGen (128, no autoencoder). "
        "**full TFLOP**: attention included, transformer only, the paper's convention for WAN. Speedups are predicted by each "
        "count, over the model's longest full-size run; printed speedups are the paper's wall-clock ones. PixelGen is not in "
        "diffusers: its transformer is counted from its authors' configuration (`benchmarks/pixelgen.py`). Printed values are "
        "those of the tables that `compare --table` of the command line runs (1 and 5 FLUX, 2 and 6 Z-Image, 3 WAN, "
        "7 PixelGen); rows without one stand alone. `-` in the last column beside a printed total: equal to its last digit.",
        _markdown(list(COLUMNS), [[column(row) for column in COLUMNS.values()] for row in rows]),
        "## Why rows differ",
        "\n".join(f"- `{key}`: {text}." for key, text in NOTES.items()),
        "`counter`. Printed minus counted total as a fixed amount a picture and one a step, by least squares, in TFLOP, "
        "`coarse` rows left out; what is left is rounding: the tables print two decimals, WAN's none.",
        _markdown(["model", "rows", "once", "a step", "largest rest"], gaps(rows)),
        "`coarse`. FLUX.1-dev, TFLOP of one step: counted, and as implied by the printed totals. At the full size both agree. "
        "512 text tokens pass through the same layers at every size, so a quarter of the image tokens cannot cost less than a "
        "quarter of the full step, yet the implied numbers do: they are close to what the image tokens alone cost.",
        _markdown(
            ["latent", "linear, counted", "linear, image tokens alone", "linear, implied by print", "full, counted"],
            per_step(),
        ),
        "`split`. The first stage ends at the first grid time not above t*. With 40 steps one grid time, "
        f"{step_above:.4f}, lies just above t* = {plain.transition_times[0]:.4f}, the activation time at "
        f"`s omega_max` = 32. Half a bin lower, at 31.5, t* is {lower.transition_times[0]:.4f}, and every printed split "
        "follows. That the authors do so is a guess; a whole bin lower does not fit.",
        _markdown(["steps", "scales", "printed", "computed", "computed, half a bin lower"], half_a_bin_lower()),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Recompute the paper's step splits and FLOP totals.")
    parser.add_argument("--out", type=Path, default=RESULTS / "paper_tables.csv")
    parser.add_argument("--page", type=Path, default=RESULTS.parent.parent / "docs" / "paper_tables.md")
    arguments = parser.parse_args()
    rows = all_rows()
    for path in (arguments.out, arguments.page):
        path.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([column(row) for column in COLUMNS.values()] for row in rows)
    arguments.page.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
