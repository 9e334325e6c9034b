"""The notebooks: stored with outputs, ending in asserted numbers, and the script that runs them sees what it should.

``make notebooks`` executes them; here is everything about them that needs no long run.
"""

import ast
import copy
import importlib
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks need the docs extra")
ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "build_tools"))
notebooks = importlib.import_module("notebooks")


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_as_it_ran(path):
    """Run from top to bottom in one go, no error, no warning, checks at the end with a negative control among them."""
    notebook = read(path)
    nbformat.validate(notebook)
    cells = list(notebooks.code_cells(notebook))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    trees = [ast.parse("\n".join(line for line in cell.source.splitlines() if line[:1] != "%")) for cell in cells]
    asserts = [sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) for tree in trees]
    *_, checked, own = cells
    assert asserts[-2] > 0
    assert sum(asserts) >= 8
    assert checked.source.endswith('print("all checks passed")')
    assert notebooks.printed(checked).endswith("all checks passed\n")
    assert notebooks.printed(own)
    assert "egative control" in "".join(cell.source for cell in notebook.cells)
    for cell, count in zip(cells, asserts, strict=True):
        if cell.source.startswith("# Checks:"):
            assert count, f"a cell says it checks something but asserts nothing: {cell.source.splitlines()[0]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_begins_with_a_question_and_ends_with_the_readers_own(path):
    """The question stands below the title; the last cell names what of its own a reader puts in, and uses it."""
    notebook = read(path)
    title, question, *_ = notebook.cells[0].source.split("\n\n")
    assert title.startswith("# ")
    assert question.startswith("*")
    assert question.endswith("?*")
    own = notebook.cells[-1].source
    first = own.partition("\n")[0]
    assert first.startswith("# Try your own: replace `")
    names = {node.id for node in ast.walk(ast.parse(own)) if isinstance(node, ast.Name)}
    replaced = {name for name in re.findall(r"`(\w+)`", "".join(line for line in own.splitlines() if line[:1] == "#"))}
    assert replaced
    assert replaced <= names


def test_code_fits_the_page():
    for path in NOTEBOOKS:
        for cell in notebooks.code_cells(read(path)):
            assert max(map(len, cell.source.splitlines())) <= 88, (path.name, cell.source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_have_labels(path):
    """Every cell that draws names its axes (pictures have none) and says its message in a title."""
    for cell in notebooks.code_cells(read(path)):
        if notebooks.figures(cell):
            assert "title" in cell.source
            assert "xlabel" in cell.source or "imshow" in cell.source or "plot_strips" in cell.source


def test_notebooks_are_small():
    assert len(NOTEBOOKS) >= 7
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3e6


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ("beta 2.49", "beta 2.49", True),
        ("beta 2.49", "beta 2.50", True),  # one unit of the last digit
        ("beta 2.49", "beta 2.52", False),
        ("split (18, 32)", "split (18, 32)", True),
        ("split (18, 32)", "split (19, 31)", False),  # counts are exact
        ("error 2e-07", "error 3e-07", True),
        ("error 2e-07", "error 2e-06", False),
        ("agrees: True", "agrees: False", False),
        ("A = 106.98", "A  =  107.01", True),
        ("A = 106.98", "B = 106.98", False),
        ("-0.0249", "0.0249", False),
    ],
)
def test_comparison(stored, fresh, same):
    assert (notebooks.difference(stored, fresh) is None) is same


def test_a_changed_output_fails():
    """Negative control: a number, a warning and a missing figure are each noticed; times in timing cells are not."""
    stored = read(NOTEBOOKS[0])
    assert notebooks.problems(stored, copy.deepcopy(stored)) == []
    fresh = copy.deepcopy(stored)
    cell = next(c for c in notebooks.code_cells(fresh) if "." in notebooks.printed(c))
    text = next(o for o in cell.outputs if o.output_type == "stream")
    text.text = text.text.replace("1", "7")
    assert notebooks.problems(stored, fresh)
    marked, timed = copy.deepcopy(stored), copy.deepcopy(fresh)
    for notebook in (marked, timed):
        for c in notebooks.code_cells(notebook):
            c.metadata["tags"] = ["timing"]
    assert notebooks.problems(marked, timed) == []
    warned = copy.deepcopy(stored)
    warning = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look out")
    next(notebooks.code_cells(warned)).outputs.append(warning)
    assert any("look out" in problem for problem in notebooks.problems(stored, warned))
    drawn = next(i for i, c in enumerate(notebooks.code_cells(stored)) if notebooks.figures(c))
    blank = copy.deepcopy(stored)
    list(notebooks.code_cells(blank))[drawn].outputs.clear()
    assert any("figures" in problem for problem in notebooks.problems(stored, blank))


def test_a_failing_notebook_fails(tmp_path):
    """A kernel is started: an assertion that does not hold is reported with its message."""
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3, 'no sum'")])
    path = tmp_path / "wrong.ipynb"
    nbformat.write(notebook, path)
    name, _, found = notebooks.execute(path, False)
    assert name == "wrong.ipynb"
    assert "no sum" in found[0]


def test_a_slow_notebook_fails(tmp_path, monkeypatch):
    """The kernel's CPU time counts, though it is another process."""
    pytest.importorskip("ipykernel")
    monkeypatch.setattr(notebooks, "LONGEST", 0.05)
    path = tmp_path / "slow.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), path)
    _, seconds, found = notebooks.execute(path, True)
    assert 0.05 < seconds < 60
    assert "of CPU time" in found[0]
