"""What nvcc makes of the CUDA kernels: the table of registers belongs to these sources; the noise is rounded to nearest."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "build_tools"))

import cuda_table

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
