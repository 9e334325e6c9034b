"""Shared settings: reproducible Hypothesis runs in continuous integration, one torch thread per worker."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=25, **_common)
settings.register_profile("ci", max_examples=25, derandomize=True, print_blob=True, **_common)
settings.register_profile("long", max_examples=400, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "build_tools"))


def pytest_configure(config):
    torch.set_num_threads(1)
    _refuse_a_stale_extension()


def _refuse_a_stale_extension():
    """Tests of kernels that are not those of csrc would say nothing, whatever they said."""
    from backend import source_hash

    from spectral_pd import ops

    if ops.has_native() and ops.build_info().get("sources") != source_hash(ROOT):
        raise pytest.UsageError(
            "spectral_pd._C was built from other sources than csrc/ and setup.py hold: run make, or "
            "python setup.py build_ext --inplace"
        )


@pytest.fixture
def rng():
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(20260518)
