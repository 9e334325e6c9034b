"""README and docs say what is true: snippets run, generated blocks are fresh, names in the equation table exist."""

from __future__ import annotations

import ast
import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EQUATIONS = list(csv.DictReader((ROOT / "docs" / "equations.csv").open(newline="")))


# Snippets that need trained or stand-in networks are run by the test named here.
RUN_ELSEWHERE = {"adapters.md": "test_adapters_docs.py"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def tables(monkeypatch):
    """The module that makes the equation table."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("equation_table")


def test_readme_snippet_runs():
    (snippet,) = blocks((ROOT / "README.md").read_text(), "python")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    scope: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), scope)
    assert scope["picture"].shape == (4, 16, 64, 64)
    assert len(scope["plan"].stages) == 2
    assert min(scope["plan"].split) > 0


PYTHON_PAGES = [page for page in PAGES if blocks(page.read_text(), "python") and page.name not in RUN_ELSEWHERE]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_on_a_page_runs_as_pasted(page, tmp_path, monkeypatch):
    """All of a page's Python, top to bottom in one session, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for snippet in blocks(page.read_text(), "python"):
        exec(compile(snippet, page.name, "exec"), scope)


def test_pages_run_elsewhere_are():
    for page, test in RUN_ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader's folder holds when the pages speak of it: a few photographs."""
    demo = pytest.importorskip("spectral_pd.demo")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("reader")
    (path / "photos").mkdir()
    for name, picture in list(demo.photographs().items())[:3]:
        array = ((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        image.fromarray(array).save(path / "photos" / f"{name}.png")
    return path


def commands() -> list[str]:
    """Every call of the command line tool in a shell block or in inline code, once; the demonstration has its own test."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("spectral-pd ")]
        lines += re.findall(r"`(spectral-pd \w+ [^`]+)`", text)
        found += [line.partition("  #")[0].strip() for line in lines]
    return sorted({command for command in found if not command.startswith("spectral-pd demo") and "..." not in command})


@pytest.mark.parametrize("command", commands())
def test_command_on_a_page_runs_as_pasted(command, folder):
    arguments = [sys.executable, "-m", "spectral_pd", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row["equation"])
def test_every_equation_has_a_notebook_cell(row, tables):
    """Coverage of the paper's numbered equations, and of what is named besides: function, test and a cell that checks it."""
    assert tables.row_notebooks(row, tables.notebook_checks()), (
        f"no cell begins with '# Checks: ...' and {row['what']!r}"
    )


def test_notebooks_claim_only_what_the_table_knows(tables):
    known = {label for row in tables.equation_rows() for label in [*tables.row_labels(row), row["what"]]}
    assert not set(tables.notebook_checks()) - known


def test_a_missing_cell_is_noticed(tables):
    """Negative control: without the notebooks, or with one of two equations checked, a row counts as not covered."""
    row = {"equation": "11, 13", "what": "end of a stage"}
    assert not tables.row_notebooks(row, {})
    assert not tables.row_notebooks(row, {"Eq. 11": ["6.ipynb"]})
    assert tables.row_notebooks(row, {"Eq. 11": ["6.ipynb"], "Eq. 13": ["6.ipynb"]}) == ["6.ipynb"]


def test_every_numbered_equation_of_the_paper_is_in_the_table():
    numbers = {n for row in EQUATIONS for n in re.findall(r"\d+", row["equation"])}
    assert {str(n) for n in (1, 2, 3, 4, 5, 6, 9, 10, 15, 16, 19, 23, 24, 26, 35)} <= numbers


def test_the_page_states_every_numbered_equation():
    text = (ROOT / "docs" / "theory.md").read_text()
    stated = {n for group in re.findall(r"\\quad \(([\d, ]+)\)", text) for n in re.findall(r"\d+", group)}
    numbered = {n for row in EQUATIONS if row["equation"][0].isdigit() for n in re.findall(r"\d+", row["equation"])}
    assert stated == numbered
