"""README and docs say what is true: snippets run, generated blocks are fresh, names in the equation table exist."""

from __future__ import annotations

import ast
import csv
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EQUATIONS = list(csv.DictReader((ROOT / "docs" / "equations.csv").open(newline="")))


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_readme_snippet_runs():
    (snippet,) = python_blocks((ROOT / "README.md").read_text())
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    scope: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), scope)
    assert scope["picture"].shape == (4, 16, 64, 64)
    assert len(scope["plan"].stages) == 2
    assert min(scope["plan"].split) > 0


def test_generated_blocks_are_up_to_date(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "write_docs.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_stale_block_is_noticed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    write_docs = importlib.import_module("write_docs")
    text = (ROOT / "README.md").read_text()
    assert write_docs.render(text) == text
    tampered = re.sub(r"(\| 0\.96 \| )\d+", r"\g<1>999", text)
    assert tampered != text
    assert write_docs.render(tampered) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row["equation"])
def test_equation_table_names_existing_functions_and_tests(row):
    module, _, attribute = row["function"].partition(".")
    value = importlib.import_module(f"spectral_pd.{module}")
    for part in attribute.split("."):
        value = getattr(value, part)
    file, _, test = row["test"].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert test in names, f"{file} has no test named {test}"


def test_every_numbered_equation_of_the_paper_is_in_the_table():
    numbers = {n for row in EQUATIONS for n in re.findall(r"\d+", row["equation"])}
    assert {str(n) for n in (1, 2, 3, 4, 5, 6, 9, 10, 15, 16, 19, 23, 24, 26, 35)} <= numbers
