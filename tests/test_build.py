"""Installing where there is no compiler, and switches of the build that must not be ignored in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spectral_pd import ops

ROOT = Path(__file__).parent.parent
USE = """
import torch, spectral_pd
from spectral_pd import ops
assert not ops.has_native() and list(ops.build_info()) == ["missing"], ops.build_info()
x, t = spectral_pd.expand_aligned(torch.ones(1, 2, 5, 4), (9, 8), 0.7, noise=spectral_pd.NoiseField(1))
assert x.shape == (1, 2, 9, 8) and x.isfinite().all()
print(spectral_pd.__file__)
"""


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``setup.py build`` into `folder`, with no program on PATH."""
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(folder),
        "--build-lib",
        str(folder / "lib"),
    ]
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("SPECTRAL_PD_", "CUDA_")) and k not in ("CC", "CXX")
    }
    variables = {
        **kept,
        "PATH": str(folder),
        "CXX": str(folder / "no-compiler"),
        "CUDA_HOME": str(folder),
        **environment,
    }
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_without_a_compiler_the_torch_library_installs_and_says_so(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "spectral_pd: native operations not built" in done.stderr
    # -S: an editable install of this checkout would lend its extension.
    path = os.pathsep.join([str(tmp_path / "lib"), str(Path(torch.__file__).parent.parent)])
    use = [sys.executable, "-S", "-c", USE]
    used = subprocess.run(use, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert str(tmp_path) in used.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SPECTRAL_PD_REQUIRE_EXT": "1"}, "no-compiler"),
        (
            {"SPECTRAL_PD_CUDA": "1"},
            "SPECTRAL_PD_CUDA=1, but the CUDA kernels cannot be built: no nvcc on PATH or in CUDA_HOME",
        ),
        ({"SPECTRAL_PD_CUDA": "yes"}, "SPECTRAL_PD_CUDA = 'yes' must be auto, 0 or 1"),
    ],
)
def test_what_was_asked_for_and_cannot_be_built_fails_the_install(tmp_path, variables, message):
    done = build(tmp_path, **variables)
    assert done.returncode != 0
    assert message in done.stderr


# -- an extension that is not that of the sources ---------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """What a checkout needs to build and to test, the extension included; its sources can be changed."""
    for name in ("csrc", "build_tools", "spectral_pd"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    return tmp_path


@pytest.mark.skipif(not ops.has_native(), reason="the extension is not built")
@pytest.mark.parametrize("name", ["csrc/dct.h", "csrc/cuda_dct.cuh", "csrc/ops.cpp", "setup.py"])
def test_the_tests_refuse_an_extension_of_other_sources(checkout, name):
    def run():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)

    healthy = run()
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    with (checkout / name).open("a") as file:
        file.write("\n#error\n")
    refused = run()
    assert refused.returncode != 0
    assert "built from other sources" in refused.stderr
    assert "python setup.py build_ext --inplace" in refused.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_builds_again_when_a_source_has_changed(checkout):
    def planned():
        command = ["make", "-n", "test"]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout

    (checkout / ".venv").mkdir()
    for age, stamp in ((20, ".ready"), (10, ".built")):
        (checkout / ".venv" / stamp).touch()
        os.utime(checkout / ".venv" / stamp, (time.time() - age,) * 2)
    for path in [*(checkout / "csrc").iterdir(), *checkout.glob("*.*"), *(checkout / "build_tools").iterdir()]:
        os.utime(path, (time.time() - 30,) * 2)
    assert "build_ext" not in planned()
    (checkout / "csrc" / "simd.h").touch()
    assert "setup.py -q build_ext --inplace" in planned()
    assert "pytest" in planned()
