"""Programs the tests compile from csrc with g++: built once for a state of the sources, shared by all test processes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
}
FOLDER = Path(tempfile.gettempdir()) / f"spectral_pd-tests-{os.getuid()}"


def build(name: str, sources: list[str], flags: list[str]) -> Path:
    """The compiled program or library `name`; a missing compiler skips, unless the native extension is required."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        if os.environ.get("SPECTRAL_PD_REQUIRE_EXT") == "1":
            pytest.fail("no C++ compiler, although the native extension is required")
        pytest.skip("no C++ compiler")
    digest = hashlib.sha256(" ".join([sys.version, compiler, *sources, *flags]).encode())
    for path in sorted([*ROOT.glob("csrc/*"), *ROOT.glob("tests/*.cpp"), *ROOT.glob("tests/emu/*")]):
        if path.is_file():
            digest.update(path.read_bytes())
    target = FOLDER / digest.hexdigest()[:16] / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{name}.{os.getpid()}")
        command = [
            compiler,
            "-std=c++17",
            "-ffp-contract=off",
            "-I",
            str(ROOT / "csrc"),
            "-I",
            str(ROOT / "tests"),
            *flags,
            *sources,
            "-o",
            str(part),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        os.replace(part, target)
    return target


def emulator() -> ModuleType:
    """The CUDA kernels as a Python module that runs them on the CPU (tests/emu)."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed: pip install pybind11")
    includes = ["-I", pybind11.get_include(), "-I", sysconfig.get_paths()["include"]]
    name = "_emu" + sysconfig.get_config_var("EXT_SUFFIX")
    path = build(
        name,
        ["tests/emu/module.cpp"],
        ["-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror", *includes],
    )
    spec = importlib.util.spec_from_file_location("_emu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sanitized(kind: str, *arguments: object) -> tuple[int, str]:
    """Run tests/emu/sanitize.cpp under a sanitizer of :data:`SANITIZERS`: (exit status, what it wrote)."""
    return run_sanitized(
        build(f"sanitize-{kind}", ["tests/emu/sanitize.cpp"], ["-O1", "-g", *SANITIZERS[kind]]), *arguments
    )


def run_sanitized(program: Path, *arguments: object) -> tuple[int, str]:
    """Run a program compiled with a sanitizer: (exit status, what it wrote)."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0", "TSAN_OPTIONS": "exitcode=66"},
    )
    return done.returncode, done.stdout + done.stderr
