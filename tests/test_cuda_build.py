"""What nvcc makes of the CUDA kernels: the table of registers belongs to these sources; the noise is rounded to nearest.

And ``make gpu`` itself: what its sanitizers look at, and that it calls nothing passed that is not.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "build_tools"))

import cuda_table
import gpu

with_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


@pytest.fixture(scope="module")
def table():
    with cuda_table.TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_of_these_sources(table):
    assert {row["sources"] for row in table} == {cuda_table.sources()}, "run python build_tools/cuda_table.py"


def test_a_changed_kernel_changes_the_hash(tmp_path, monkeypatch):
    copy = tmp_path / "csrc"
    shutil.copytree(cuda_table.ROOT / "csrc", copy)
    monkeypatch.setattr(cuda_table, "ROOT", tmp_path)
    before = cuda_table.sources()
    with (copy / "cuda_dct.cuh").open("a") as file:
        file.write("// another kernel\n")
    assert cuda_table.sources() != before


def test_every_kernel_fits_every_architecture_without_spilling(table):
    kernels = {row["kernel"] for row in table}
    assert {"expand_plane", "haar_expand_field", "power_plane", "field_normals"} <= kernels
    expected = {(kernel, f"sm_{arch}") for kernel in kernels for arch in cuda_table.ARCHITECTURES}
    assert {(row["kernel"], row["architecture"]) for row in table} == expected
    assert all(row["spill_stores"] == row["spill_loads"] == "0" for row in table)


@with_nvcc
def test_the_noise_has_only_operations_rounded_to_nearest():
    entries = cuda_table.entries()
    noise = entries["field_normals"]
    assert "mul.rn.f32" in noise
    assert cuda_table.inexact(noise) == []
    # A transform may be contracted, and is: the same search finds it.
    assert cuda_table.inexact(entries["expand_plane"])


@pytest.mark.parametrize(
    "line", ["mul.f32 %f1, %f2, %f3;", "sqrt.approx.f32 %f1, %f2;", "add.rn.ftz.f32 %f1, %f2, %f3;"]
)
def test_what_is_not_rounded_to_nearest_is_found(line):
    assert cuda_table.inexact(f"  fma.rn.f32 %f1, %f2, %f3, %f4;\n  {line}")
    assert not cuda_table.inexact("  mul.rn.f32 %f1, %f2, %f3;\n  mul.lo.s32 %r1, %r2, %r3;\n  sqrt.rn.f32 %f1, %f2;")


# ---- make gpu ---------------------------------------------------------------------------------------------------------


def test_the_sanitizers_run_small_cases_of_every_kind():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "--collect-only", "-q"]
    chosen, everything = (
        subprocess.run(
            [*command, "tests/test_cuda.py", *options], cwd=gpu.ROOT, capture_output=True, text=True, check=True
        ).stdout
        for options in (["-k", gpu.CHECKED], [])
    )
    assert {"512x400", "7x1024", "2x300"} <= set(re.findall(r"\d+x\d+", everything))
    assert not {"512x400", "512x512", "7x1024", "14x2048", "2x300"} & set(re.findall(r"\d+x\d+", chosen))
    for test in ("operations_match", "power_maps_match", "every_call", "short_types"):
        assert test in chosen


def outcome(tmp_path, monkeypatch, program, **options):
    monkeypatch.setattr(gpu, "LOGS", tmp_path)
    return gpu.run(gpu.Stage("stage", gpu.python("-c", program), **{"limit": 60, **options}))


def test_a_stage_says_what_it_came_to(tmp_path, monkeypatch):
    passed = outcome(tmp_path, monkeypatch, "print('said')")
    assert (passed.verdict, passed.output) == ("passed", "said\n")
    assert outcome(tmp_path, monkeypatch, "raise SystemExit(3)").verdict == "FAILED (3)"
    assert gpu.run(gpu.Stage("stage", ("no-such-tool",), 60)).verdict == "FAILED (no no-such-tool on PATH)"


def test_a_planted_mistake_that_is_not_found_fails(tmp_path, monkeypatch):
    assert outcome(tmp_path, monkeypatch, "raise SystemExit(9)", expected=gpu.FOUND).verdict == "passed"
    assert outcome(tmp_path, monkeypatch, "", expected=gpu.FOUND).verdict == "FAILED (0)"


def test_a_stage_over_its_time_ends_with_all_it_has_started(tmp_path, monkeypatch):
    program = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '1000'])"
    late = outcome(tmp_path, monkeypatch, program, limit=2)
    assert (late.verdict, late.output) == ("FAILED (over 2 s)", "begun\n")
    assert late.seconds < 30


def test_nothing_runs_after_a_failed_build(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LOGS", tmp_path)
    build, late = (gpu.Stage(name, gpu.python("-c", "raise SystemExit(1)"), 60) for name in ("build", "tests"))
    assert [outcome.stage.name for outcome in gpu.run_all([build, late], rehearse=False)] == ["build"]
    assert [outcome.stage.name for outcome in gpu.run_all([late, late], rehearse=False)] == ["tests", "tests"]
