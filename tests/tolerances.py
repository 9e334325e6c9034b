"""The one dtype table: how far a result may be from the exact answer, relative to the size of the answer.

Errors are measured against the largest magnitude of the expected array (orthonormal transforms spread rounding errors over
all entries, so an entry near zero carries the rounding of its neighbours).
"""

import math

import numpy as np
import torch

TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 2e-3,  # two units in the last place: computed in float32, rounded once
    torch.bfloat16: 1.6e-2,
}


def assert_close(actual, expected, dtype=None, *, factor=1.0):
    """Assert equal shapes and ``max |actual - expected| <= factor * TOLERANCE[dtype] * max(1, max |expected|)``.

    ``dtype`` defaults to that of `actual`; numbers and numpy arrays count as float64.
    """
    if dtype is None:
        dtype = actual.dtype if isinstance(actual, torch.Tensor) else torch.float64
    a, e = (v if isinstance(v, torch.Tensor) else torch.tensor(np.asarray(v)) for v in (actual, expected))
    assert a.shape == e.shape, f"shape {tuple(a.shape)}, expected {tuple(e.shape)}"
    a, e = a.to(torch.float64), e.to(torch.float64)
    assert bool(torch.isfinite(a).all()), "not finite"
    if not e.numel():
        return
    error, size = float((a - e).abs().max()), max(1.0, float(e.abs().max()))
    allowed = factor * TOLERANCE[dtype] * size
    assert error <= allowed, f"largest error {error:.3g}, allowed {allowed:.3g} ({dtype})"


def z_score(sample_mean, mean, variance, count):
    """How many standard errors a mean of `count` independent values lies from its expectation."""
    return (float(sample_mean) - mean) / math.sqrt(variance / count)
