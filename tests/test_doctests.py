"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import spectral_pd

MODULES = ["spectral_pd"] + [
    info.name
    for info in pkgutil.walk_packages(spectral_pd.__path__, "spectral_pd.")
    if not info.name.startswith("spectral_pd.adapters") and not info.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} needs {error.name}")
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_there_are_examples():
    """Negative control: the modules that promise examples have them, so that nothing passes by being empty."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {
        name: sum(len(test.examples) for test in finder.find(importlib.import_module(f"spectral_pd.{name}")))
        for name in ("theory", "noise", "spectrum", "expansion", "schedule", "sampling")
    }
    assert all(counts.values()), counts
