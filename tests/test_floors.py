"""The layout of the package: a module imports lower floors only."""

import ast
from pathlib import Path

import pytest

import spectral_pd

PACKAGE = Path(spectral_pd.__file__).parent

FLOORS = {
    "_C": -1,
    "inputs": 0,
    "ops": 0,
    "philox": 0,
    "theory": 1,
    "bases": 1,
    "solvers": 1,
    "pretrained": 1,
    "autoencoders": 1,
    "parametrisation": 2,
    "unipc": 2,
    "noise": 2,
    "power": 2,
    "spacetime": 3,
    "expansion": 3,
    "restriction": 2,
    "meter": 3,
    "stage_lora": 3,
    "plan": 4,
    "fit": 4,
    "schedule": 5,
    "sampling": 6,
    "training": 6,
    "ideal": 6,
    "plotting": 6,
    "two_grids": 6,
    "optimise": 7,
    "editing": 7,
    "passthrough": 7,
    "calibrate": 7,
    "agreement": 7,
    "stepwise": 7,
    "__init__": 7,
    "adapters": 8,
    "measuring": 8,
    "comparing": 9,
    "comfyui": 9,
    "pipeline_commands": 9,
    "__main__": 10,
}
"""Floor of each module; a package (adapters) counts as one module.

`__init__`, the public names, gathers floors 0 to 7; `_C` is the compiled extension.
"""


def modules():
    """(name, file) of every module of the package but `__init__`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path


def imported(source, package="spectral_pd"):
    """Names of the package's own modules that a source text imports, wherever in the text; relative imports included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module.split(".") if node.module else []
            full = [package, *origin] if node.level else origin
            parts = [full] if len(full) > 1 else [[*full, alias.name] for alias in node.names]
        else:
            continue
        # A name taken from the package itself is a module or, like a version number, a public name of `__init__`.
        names |= {
            part[1] if len(part) > 1 and part[1] in FLOORS else "__init__" for part in parts if part[0] == package
        }
    return names


def too_high(name, source):
    """Imports of a module that lie on its own floor or above (its own package excepted)."""
    return {other for other in imported(source) - {name} if FLOORS[other] >= FLOORS[name]}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_go_down(name, path):
    assert name in FLOORS, f"{path.name} has no floor yet: say where it belongs"
    assert too_high(name, path.read_text()) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from spectral_pd.sampling import sample", {"sampling"}),
        ("import spectral_pd.schedule as s", {"schedule"}),
        ("def f():\n    from spectral_pd import expansion", {"expansion"}),
        ("from .noise import NoiseField", {"noise"}),
        ("from spectral_pd.power import Spectrum", {"power"}),
        ("import spectral_pd", {"__init__"}),
        ("from spectral_pd import NoiseField", {"__init__"}),
    ],
)
def test_an_import_of_the_same_floor_or_above_is_found(source, found):
    """Negative control: the same check finds each form of import that must not stand in `power`'s neighbour."""
    assert imported(source) == found
    assert too_high("noise", source) == found - {"noise"}


def test_imports_of_lower_floors_and_others_are_allowed():
    assert (
        too_high("noise", "import torch\nfrom spectral_pd.bases import DCT\nfrom spectral_pd.theory import snr")
        == set()
    )
