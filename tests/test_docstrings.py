"""Every public name says what it takes, where it fails and how it is used.

Public is what the package itself holds; the modules whose functions guides and notebooks send their readers to; what a notebook
or a page imports from another module; every function that the table of equations names; and the values these hand out.
"""

import ast
import csv
import inspect
import json
import pkgutil
import re
from pathlib import Path

import pytest

import spectral_pd
from spectral_pd import ops, parametrisation, plotting, solvers, spacetime, training
from spectral_pd.measuring import diagnostics

ROOT = Path(__file__).parent.parent


def own(module):
    """Classes and functions of a module, by name: its own ones, what its `__all__` names, or what the package gathers."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name in getattr(module, "__all__", [name])
        and (inspect.isclass(value) or inspect.isfunction(value))
        and (module is spectral_pd or value.__module__ == module.__name__)
    }


def imported_by_readers():
    """Names that code of a notebook or a page imports from a module of the package; adapters' code runs on its page."""
    sources = []
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for path in (ROOT / "docs").glob("*.md"):
        sources += re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and re.match(r"spectral_pd\.(?!adapters)", node.module or ""):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named_by_equations():
    """Functions and classes of the table of equations."""
    with (ROOT / "docs" / "equations.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield "spectral_pd." + ".".join(row["function"].split(".")[:2])


PUBLIC = own(spectral_pd)
# Values the library hands out: their docstrings list attributes, and an example belongs to what makes them.
RESULTS = {"ideal.Prediction", "optimise.Front", "optimise.FrontPoint", "expansion.Grow", "plan.Stage", "plan.Step"}
RESULTS |= {"sampling.StepInfo", "solvers.History", "training.StageSample"}
RESULTS |= {
    f"measuring.diagnostics.{name}" for name in ("BrokenPowerLaw", "Confidence", "Curvature", "Estimate", "NoiseFloor")
}
SECTIONS = (diagnostics, ops, parametrisation, plotting, solvers, spacetime, training)
_names = {f"{module.__name__}.{name}" for module in SECTIONS for name in own(module)}
_names |= {f"spectral_pd.{name}" for name in ("bases.verify_basis", "passthrough.activation_map", *RESULTS)}
for _name in sorted({*_names, *imported_by_readers(), *named_by_equations()}):
    _value = pkgutil.resolve_name(_name)
    if _value not in PUBLIC.values():
        PUBLIC[_name.removeprefix("spectral_pd.")] = _value
RESULTS |= {"Plan"}


def undocumented(function, doc):
    """Parameters of a signature that a docstring neither names nor takes over from another function."""
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]
    taken_over = re.search(r"^\s*(Parameters|[\w, ]+\n\s+As) .*:(func|meth):", doc, re.MULTILINE) is not None
    return [] if taken_over else [name for name in names if not re.search(rf"\b{name}\b", doc)]


def can_fail(function):
    """Whether it raises anything itself; what its door refuses is what the ranges of its parameters leave out."""
    return re.search(r"\braise\b", inspect.getsource(function)) is not None


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_complete(name):
    value, doc = PUBLIC[name], inspect.getdoc(PUBLIC[name]) or ""
    first = doc.partition("\n")[0]
    assert first.endswith((".", ":")), f"{name}: the first line is a sentence: {first!r}"
    assert not undocumented(value, doc)
    if name not in RESULTS:
        assert ">>>" in doc, f"{name} has no example"
    if inspect.isfunction(value) and can_fail(value):
        assert re.search(r"^Raises\n-+$|errors as|Errors as", doc, re.MULTILINE), f"{name} does not say when it fails"


@pytest.mark.parametrize("name", sorted(name for name, value in PUBLIC.items() if inspect.isclass(value)))
def test_public_methods_have_docstrings(name):
    for method, value in vars(PUBLIC[name]).items():
        if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, (property, classmethod))):
            assert inspect.getdoc(getattr(PUBLIC[name], method)), f"{name}.{method} has no docstring"


def test_the_rules_notice():
    """Negative controls: a missing parameter and an unannounced error are found."""

    def made_up(x, threshold):
        """Do something to x."""
        if threshold < 0:
            raise ValueError("threshold")
        return x

    assert undocumented(made_up, inspect.getdoc(made_up)) == ["threshold"]
    assert can_fail(made_up)
    assert not can_fail(inspect.getdoc)
