"""The CPU kernels touch only the memory they ask for: a program under the address and undefined behaviour sanitizers.

The emulated CUDA kernels' sanitizer runs are in test_emulation.py.
"""

from __future__ import annotations

import platform

import pytest
from compiled import SANITIZERS, build, run_sanitized


@pytest.fixture(scope="module")
def program():
    """AVX2 where it can be, since there the vectors are wider than any alignment malloc gives."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    isa = ["-DSPD_ISA=avx2", "-mavx2", "-mfma", "-mf16c"] if x86 else ["-DSPD_ISA=baseline"]
    return build("cpu-kernels", ["tests/cpu_kernels.cpp"], ["-O1", "-DSPD_FEW_SIZES", *isa, *SANITIZERS["address"]])


def test_kernels_touch_only_their_memory(program):
    status, said = run_sanitized(program)
    assert status == 0, said[-3000:]
    assert len(set(said.split())) == 3  # a hash of the results for each storage type


def test_a_buffer_too_short_is_found(program):
    status, said = run_sanitized(program, "tiles")
    assert status != 0
    assert "AddressSanitizer: heap-buffer-overflow" in said


def test_lines_too_short_for_a_step_are_found(program):
    """What a step takes of its thread's lines is asserted, so that a size that was forgotten shows on the first call."""
    status, said = run_sanitized(program, "lines")
    assert status != 0
    assert "Assertion" in said
    assert "lines_.floats" in said
