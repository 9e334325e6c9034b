"""Every public name says what it takes, where it fails and how it is used."""

import inspect
import re

import pytest

import spectral_pd

PUBLIC = {
    name: value
    for name, value in vars(spectral_pd).items()
    if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
}
# Values the library hands out: their docstrings list attributes, and an example belongs to what makes them.
RESULTS = {"Front", "FrontPoint", "History", "Plan", "Prediction", "Stage", "StageSample", "StepInfo"}


def undocumented(function, doc):
    """Parameters of a signature that a docstring neither names nor takes over from another function."""
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]
    taken_over = re.search(r"^\s*(Parameters|[\w, ]+\n\s+As) .*:func:", doc, re.MULTILINE) is not None
    return [] if taken_over else [name for name in names if not re.search(rf"\b{name}\b", doc)]


def can_fail(function):
    """Whether the body checks anything itself."""
    return re.search(r"\braise\b|\bcheck_\w+\(|_check_\w+\(", inspect.getsource(function)) is not None


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
