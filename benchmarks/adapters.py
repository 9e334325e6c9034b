"""What the tests of every pipeline say, as rows: ``python benchmarks/adapters.py``.

Runs ``tests/test_adapters_families.py`` and writes one row for each way a pipeline is called there: whether one scale is the
stock result bit for bit, whether several scales gave a finite result of the full size, and whether an item of a batch is a
batch of one ("" where diffusers makes no such batch). docs/adapters.md shows results/adapters.csv.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

CHECKS = {
    "one_scale": "test_one_scale_is_the_stock_pipeline",
    "several_scales": "test_several_scales_give_a_full_size_result",
    "batch": "test_an_item_of_a_batch_is_a_batch_of_one",
}


class Outcomes:
    """Outcome of every test by function and family, collected by pytest."""

    def __init__(self) -> None:
        self.by_family: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def pytest_runtest_logreport(self, report: Any) -> None:
        found = re.search(r"::(\w+)\[(?:plain-|guided-)?(.*)\]$", report.nodeid)
        if report.when == "call" and found:
            self.by_family[found[2]][found[1]].add(report.outcome)

    def verdict(self, family: str, check: str) -> str:
        outcomes = self.by_family[family][CHECKS[check]]
        return "" if not outcomes else "yes" if outcomes == {"passed"} else "no"


def main() -> int:
    import diffusers
    import pytest
    from environment import environment
    from tiny_pipelines import FAMILIES

    from spectral_pd.adapters import LAYOUTS

    outcomes = Outcomes()
    pytest.main(
        [
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "-k",
            " or ".join(CHECKS.values()),
            str(ROOT / "tests" / "test_adapters_families.py"),
        ],
        plugins=[outcomes],
    )
    rows = []
    for family in FAMILIES:
        pipeline = type(family.pipe).__name__
        rows.append(
            {
                "pipeline": pipeline,
                "call": family.name,
                **{check: outcomes.verdict(family.name, check) for check in CHECKS},
                "spectrum": LAYOUTS[pipeline].spectrum.kind,
                "diffusers": diffusers.__version__,
                **environment(),
            }
        )
    with (ROOT / "benchmarks" / "results" / "adapters.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row[check] == "no" for row in rows for check in CHECKS))


if __name__ == "__main__":
    sys.exit(main())
