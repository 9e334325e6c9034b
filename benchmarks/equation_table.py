"""Which function computes an equation, which test judges it, which notebook shows it: the table of docs/theory.md.

``docs/equations.csv`` names function and test. A notebook cell says what it checks in its first lines, ``# Checks: Eq. 9;
coupled noise``: equation numbers, or the ``what`` of a row.
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def equation_rows() -> list[dict[str, str]]:
    """docs/equations.csv: every equation with its function and its test."""
    with (ROOT / "docs" / "equations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checking_cells() -> list[tuple[str, list[str], str]]:
    """(notebook, labels, code) of every cell that begins with ``# Checks:``."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            code = "".join(cell["source"])
            lines = itertools.takewhile(lambda line: line.startswith("# Checks: "), code.splitlines())
            labels = [label for line in lines for label in line.removeprefix("# Checks: ").split("; ")]
            if cell["cell_type"] == "code" and labels:
                found.append((path.name, labels, code))
    return found


def notebook_checks() -> dict[str, list[str]]:
    """Label of a check -> notebooks with a cell that names it."""
    found: dict[str, list[str]] = {}
    for name, labels, _ in checking_cells():
        for label in labels:
            if name not in found.setdefault(label, []):
                found[label].append(name)
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

    lines = ["| equation | what | function | test | notebook |", "| --- | --- | --- | --- | --- |"]
    for row in equation_rows():
        lines.append(
            f"| {row['equation']} | {row['what']} | `{row['function']}` | `{row['test']}` | {links(row) or '-'} |"
        )
    return "\n".join(lines) + "\n"
