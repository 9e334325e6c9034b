"""Every example in a docstring runs."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import spectral_pd
from spectral_pd import ops

FOLDER = Path(spectral_pd.__file__).parent
MODULES = sorted(  # by their text: importing every adapter to find that it has no example takes seconds
    ".".join(("spectral_pd", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__")
    for path in FOLDER.rglob("*.py")
    if ">>>" in path.read_text()
)


NEEDS = {"spectral_pd.measuring.demo": ("skimage", "sklearn"), "spectral_pd.plotting": ("matplotlib",)}


@pytest.fixture(autouse=True)
def _no_windows(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name == "spectral_pd.ops" and not ops.has_native():
        pytest.skip("the native operations are not built")
    for extra in NEEDS.get(name, ()):
        pytest.importorskip(extra)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} needs {error.name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_there_are_examples():
    """Negative control: the modules that promise examples have them, so that nothing passes by being empty."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {
        name: sum(len(test.examples) for test in finder.find(importlib.import_module(f"spectral_pd.{name}")))
        for name in (
            "theory",
            "noise",
            "power",
            "meter",
            "fit",
            "expansion",
            "schedule",
            "sampling",
            "parametrisation",
            "passthrough",
            "ops",
            "measuring.diagnostics",
            "plotting",
            "solvers",
        )
    }
    assert all(counts.values()), counts
