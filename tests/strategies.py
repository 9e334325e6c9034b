"""Hypothesis strategies for the things the library takes: grids, pairs of grids, times, powers, tolerances."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from spectral_pd import DCT, FOURIER, HAAR

INTERESTING = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17)
"""Axis sizes: one, even, odd, prime, powers of two and their neighbours."""

sizes = st.sampled_from(INTERESTING)
times = st.floats(0.0, 1.0)
inner_times = st.floats(1e-3, 1 - 1e-3)
ratios = st.floats(0.05, 20.0)
powers = st.floats(-6, 6).map(lambda e: 10.0**e)
deltas = st.floats(-5, -0.05).map(lambda e: 10.0**e)
seeds = st.integers(-(2**63), 2**64 - 1)
bases = st.sampled_from((DCT, HAAR, FOURIER))
dtypes = st.sampled_from((torch.float64, torch.float32))


def float32(value):
    """A number as a float32 tensor without axes."""
    return torch.tensor(value, dtype=torch.float32)


kinds = st.sampled_from((float, float32))
"""What a closed form is given: Python floats (float64) or float32 tensors."""


@st.composite
def grids(draw, min_dims=1, max_dims=3):
    """A grid of 1 to 3 axes; three axes are kept small."""
    dims = draw(st.integers(min_dims, max_dims))
    axis = st.sampled_from([n for n in INTERESTING if dims < 3 or n <= 8])
    return tuple(draw(axis) for _ in range(dims))


@st.composite
def grid_pairs(draw, basis, min_dims=1, max_dims=3):
    """(coarse, fine) that `basis` can connect and is nested on; equal grids included."""
    coarse = draw(grids(min_dims, max_dims))
    if basis is HAAR:
        factor = 2 ** draw(st.integers(0, 2 if len(coarse) < 3 else 1))
        return coarse, tuple(n * factor for n in coarse)
    most = 20 if len(coarse) < 3 else 9
    return coarse, tuple(draw(st.integers(n, max(n, most))) for n in coarse)


@st.composite
def basis_pairs(draw, min_dims=1, max_dims=3):
    """(basis, coarse, fine)."""
    basis = draw(bases)
    return (basis, *draw(grid_pairs(basis, min_dims, max_dims)))


def randn(*shape, seed=0, dtype=torch.float64):
    """Standard normals from a seed, drawn in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def within(plan, basis):
    """The same plan in another basis."""
    return replace(plan, basis=basis)
