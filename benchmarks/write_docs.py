"""Rewrite the generated blocks of README and docs from committed rows: ``python benchmarks/write_docs.py [--check]``.

A block lies between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a function below. With --check nothing is
written and the exit status is 1 when a block is out of date.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(name: str) -> list[dict[str, str]]:
    """Committed result rows of one benchmark."""
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]) + "\n"


def same_seed() -> str:
    """Median PSNR by transition time and variant."""
    data = rows("same_seed")
    variants = list(dict.fromkeys((row["clock"], row["coupling"]) for row in data))
    times = list(dict.fromkeys(row["transition"] for row in data))
    value = {(row["transition"], row["clock"], row["coupling"]): row["psnr_median"] for row in data}
    header = ["T", *(f"{clock} clock, {coupling} noise" for clock, coupling in variants)]
    table = markdown(header, [[f"{float(t):.2f}", *(value[(t, *variant)] for variant in variants)] for t in times])
    first = data[0]
    return f"{table}\n{first['samples']} samples; torch {first['torch']}, commit {first['commit']}.\n"


def multistep_history() -> str:
    """Relative W2 error of DPM-Solver++(2M) with its history carried or dropped at transitions."""
    names = ["steps", "split", "carried", "dropped", "full_resolution"]
    header = ["steps", "split", "history carried", "history dropped", "full resolution"]
    return markdown(header, [[row[name] for name in names] for row in rows("multistep_history")])


def channels() -> str:
    """Transition, velocity error and same-seed error of every channel under three plans."""
    data = rows("channels")
    header = [
        "channels",
        "channel",
        "A",
        "beta",
        "plan from",
        "transition",
        "steps",
        "velocity error at the cut",
        "same-seed error",
    ]
    names = [
        "space",
        "channel",
        "amplitude",
        "exponent",
        "plan_from",
        "transition",
        "split",
        "velocity_error",
        "same_seed_error",
    ]
    return markdown(header, [[row[name] for name in names] for row in data])


def same_seed_share() -> str:
    """Share of samples above 30 dB by transition time and variant."""
    data = rows("same_seed")
    variants = list(dict.fromkeys((row["clock"], row["coupling"]) for row in data))
    value = {(row["transition"], row["clock"], row["coupling"]): float(row["same_picture"]) for row in data}
    header = ["T", *(f"{clock} clock, {coupling} noise" for clock, coupling in variants)]
    times = list(dict.fromkeys(row["transition"] for row in data))
    return markdown(header, [[f"{float(t):.2f}", *(f"{value[(t, *v)]:.0%}" for v in variants)] for t in times])


def cost() -> str:
    """TFLOP of one step of the real transformers."""
    header = ["model", "latent", "text tokens", "guidance passes", "products with weights", "attention", "both"]
    names = ["model", "latent", "text_tokens", "passes", "linear_tflop", "attention_tflop", "total_tflop"]
    return markdown(header, [[row[name] for name in names] for row in rows("cost")])


def equation_rows() -> list[dict[str, str]]:
    """docs/equations.csv: every equation with its function and its test."""
    with (ROOT / "docs" / "equations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def notebook_checks() -> dict[str, list[str]]:
    """Label of a check -> notebooks with a cell that begins with ``# Checks:`` and names it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            first = "".join(cell["source"]).partition("\n")[0]
            if cell["cell_type"] == "code" and first.startswith("# Checks: "):
                for label in first.removeprefix("# Checks: ").split("; "):
                    if path.name not in found.setdefault(label, []):
                        found[label].append(path.name)
    return found


def row_labels(row: dict[str, str]) -> list[str]:
    """What a notebook must check for a row: each of its equation numbers, or the thing itself when it has none."""
    numbers = [part.strip() for part in row["equation"].split(",")]
    return [f"Eq. {n}" for n in numbers] if all(n.isdigit() for n in numbers) else [row["what"]]


def row_notebooks(row: dict[str, str], checks: dict[str, list[str]]) -> list[str]:
    """Notebooks that check a row: those of its numbers, where every number has one, and those that name the thing itself."""
    by_label = [checks.get(label, []) for label in row_labels(row)]
    named = checks.get(row["what"], [])
    return sorted({name for names in [*by_label, named] for name in names}) if all(by_label) else []


def equations() -> str:
    """The table equation -> function -> test -> notebook of docs/theory.md."""
    checks = notebook_checks()

    def links(row: dict[str, str]) -> str:
        return ", ".join(f"[{name.partition('_')[0]}](../notebooks/{name})" for name in row_notebooks(row, checks))

    return markdown(
        ["equation", "what", "function", "test", "notebook"],
        [
            [row["equation"], row["what"], f"`{row['function']}`", f"`{row['test']}`", links(row) or "-"]
            for row in equation_rows()
        ],
    )


GENERATORS: dict[str, Callable[[], str]] = {
    "same_seed": same_seed,
    "multistep_history": multistep_history,
    "channels": channels,
    "equations": equations,
    "same_seed_share": same_seed_share,
    "cost": cost,
}


def render(text: str) -> str:
    """`text` with every generated block made anew."""
    return BLOCK.sub(lambda match: match[1] + GENERATORS[match[2]]() + match[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a block is out of date")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        fresh = render(text)
        if fresh != text:
            stale.append(path)
            if not check:
                path.write_text(fresh)
    print(
        "\n".join(f"{'out of date' if check else 'rewritten'}: {path.relative_to(ROOT)}" for path in stale)
        or "up to date"
    )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
