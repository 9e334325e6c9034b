"""Shared settings: reproducible Hypothesis runs in continuous integration, one torch thread per worker."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=25, **_common)
settings.register_profile("ci", max_examples=25, derandomize=True, print_blob=True, **_common)
settings.register_profile("long", max_examples=400, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture
def rng():
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(20260518)
