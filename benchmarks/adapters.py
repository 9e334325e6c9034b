"""What the tests of every pipeline say, as rows: ``python benchmarks/adapters.py [CALL ...]``.

Runs ``tests/test_adapters_families.py`` and writes one row for each way a pipeline is called there: whether one scale is the
stock result bit for bit, whether several scales gave a finite result of the full size, whether an item of a batch is a batch
of one ("" where diffusers makes no such batch), and whether a LoRA counts as in the stock call ("" where diffusers' network
takes none). Names of calls, as the rows have them, try only these again. docs/adapters.md shows results/adapters.csv.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

CHECKS = {
    "one_scale": "test_one_scale_is_the_stock_pipeline",
    "several_scales": "test_several_scales_give_a_full_size_result",
    "batch": "test_an_item_of_a_batch_is_a_batch_of_one",
    "lora": "test_a_lora_is_the_stock_ones_at_one_scale_and_counts_at_several",
}
TEST = re.compile(r"::(\w+)\[(?:plain-|guided-)?(.*)\]$")
FILE = ROOT / "benchmarks" / "results" / "adapters.csv"


class Outcomes:
    """Outcome of every test by function and family, collected by pytest; of these families only, where some are named."""

    def __init__(self, only: Collection[str]) -> None:
        self.only = only
        self.by_family: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.only:
            items[:] = [item for item in items if (found := TEST.search(item.nodeid)) and found[2] in self.only]

    def pytest_runtest_logreport(self, report: Any) -> None:
        found = TEST.search(report.nodeid)
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

    outcomes, before = Outcomes(sys.argv[1:]), dict[str, dict[str, str]]()
    if outcomes.only:
        with FILE.open(newline="") as file:
            before = {row["call"]: row for row in csv.DictReader(file)}
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
        if outcomes.only and family.name not in outcomes.only:
            rows.append(before[family.name])
            continue
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
    with FILE.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row[check] == "no" for row in rows for check in CHECKS))


if __name__ == "__main__":
    sys.exit(main())
