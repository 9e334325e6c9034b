"""Public functions with hostile tensors in hostile surroundings: the answer of a float64 reference, or a ValueError or
TypeError that names the argument; nothing else.

Shapes of no axis, no element, one element, odd and prime sizes; strided, reversed and expanded layouts; every type, integers,
complex and float8 among them; sparse and meta tensors, no tensors at all; autocast, inference mode, other default types and
devices, func transforms.
"""

import contextlib
import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectral_pd import (
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    activation_time,
    align_time,
    expand_aligned,
    fit_spectrum,
    make_plan,
    plan_at,
    power_spectrum,
    restrict_signal,
    sample,
    shift_times,
    snr,
    stage_sample,
)
from spectral_pd.bases import BASES

LAW = PowerLaw(40.0, 2.0, shape=(8, 8))
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 13)
REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STRANGE = (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8)
DIGITS = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@st.composite
def tensors(draw):
    """A tensor, most often an honest one."""
    leading = draw(st.lists(st.sampled_from((0, 1, 2, 3)), max_size=2))
    shape = (*leading, *draw(st.lists(st.sampled_from(SIZES), max_size=3)))
    dtype = draw(st.sampled_from(REAL * 4 + STRANGE))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))), dtype=torch.float64)
    x = (8 * x).to(dtype) if dtype in STRANGE else x.to(dtype)
    layout = draw(
        st.sampled_from(("plain",) * 5 + ("strided", "transposed", "expanded", "sparse", "meta", "list", "grad"))
    )
    if layout == "strided" and x.ndim:
        return x.repeat_interleave(2, -1)[..., ::2]
    if layout == "transposed" and x.ndim > 1:
        return x.transpose(-1, -2)
    if layout == "expanded" and x.ndim > 1 and x.shape[0]:
        return x[:1].expand(x.shape)
    if layout == "sparse" and dtype not in STRANGE:
        return x.to_sparse()
    if layout == "meta":
        return x.to("meta")
    if layout == "list":
        return x.double().tolist() if dtype.is_floating_point else [1, 2]
    if layout == "grad" and dtype in REAL:
        return x.requires_grad_()
    return x


grids = st.lists(st.sampled_from((*SIZES, -1, 16, 2.5, "8")), min_size=1, max_size=3).map(tuple)
numbers = st.sampled_from((0.5, 0.9, 1.0, 0.0, 1, 0, -0.1, 1.5, math.nan, math.inf, "0.5", None, True, [0.5]))
surroundings = st.sampled_from(("none", "none", "autocast", "inference", "float64", "float16", "meta", "vmap"))


@contextlib.contextmanager
def surrounded(name):
    with contextlib.ExitStack() as stack:
        if name == "autocast":
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        elif name == "inference":
            stack.enter_context(torch.inference_mode())
        elif name == "meta":
            stack.enter_context(torch.device("meta"))
        elif name in ("float64", "float16"):
            torch.set_default_dtype(getattr(torch, name))
            stack.callback(torch.set_default_dtype, torch.float32)
        yield


def linear(x, t):
    return 0.3 * x


CALLS = {
    "forward": lambda x, grid, t, b: b.forward(x, dims=len(grid)),
    "embed": lambda x, grid, t, b: b.embed(x, grid),
    "restrict": lambda x, grid, t, b: b.restrict(x, grid),
    "restrict_signal": lambda x, grid, t, b: restrict_signal(x, grid, basis=b),
    "expand_aligned": lambda x, grid, t, b: expand_aligned(x, grid, t, seed=1, basis=b)[0],
    "sample": lambda x, grid, t, b: sample(linear, x, plan_at((1.0, 0.8, 0.4, 0.0), (), grid, scales=(1,), basis=b)),
    "field": lambda x, grid, t, b: GaussianField(LAW, grid, b).velocity(x, t),
    "solve": lambda x, grid, t, b: GaussianField(LAW, grid, b).solve(x, t),
    "data set": lambda x, grid, t, b: FiniteDataset(x, 0.1, basis=b).velocity(x, t),
    "stage_sample": lambda x, grid, t, b: (
        stage_sample(x, x, t, plan_at((1.0, 0.6, 0.0), (), grid, scales=(1,), basis=b), stage=0).x
    ),
    "align_time": lambda x, grid, t, b: align_time(x, 2.0),
    "snr": lambda x, grid, t, b: snr(t, x),
}


def named(error, arguments):
    """The message speaks of one of the arguments."""
    assert re.search(arguments, str(error)), error


def dense(x):
    return x.to_dense() if isinstance(x, torch.Tensor) and x.layout != torch.strided else x


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(x=tensors(), grid=grids, t=numbers, name=st.sampled_from(sorted(CALLS)), where=surroundings, data=st.data())
def test_an_answer_or_an_error_that_names_the_argument(x, grid, t, name, where, data):
    basis = data.draw(st.sampled_from(list(BASES.values())))
    if isinstance(x, torch.Tensor) and x.ndim and name != "stage_sample" and data.draw(st.booleans()):
        grid = tuple(x.shape[-min(len(grid), x.ndim) :])  # one that fits
    call = CALLS[name]
    try:
        with surrounded(where):
            if where == "vmap" and isinstance(x, torch.Tensor) and x.ndim and x.shape[0] and x.layout == torch.strided:
                got = torch.func.vmap(lambda one: call(one, grid, t, basis))(x)
                x = x.detach()
                expected = torch.stack([call(one.double(), grid, t, basis) for one in x])
            else:
                got = call(x, grid, t, basis)
                expected = None
    except (ValueError, TypeError) as error:
        named(error, r"\b(x|x1|c|t|noise|shape|samples|x0|dims|basis|power|axis|image|grid|size|sizes)\b")
        return
    assert isinstance(x, torch.Tensor), f"{name} took {type(x).__name__}"
    assert x.dtype in REAL, f"{name} took {x.dtype}"
    if x.is_meta or got.is_meta:
        return
    if expected is None:
        expected = call(dense(x.detach()).double().contiguous(), grid, t, basis)
    assert got.shape == expected.shape
    assert got.dtype == x.dtype
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    finite = expected.isfinite()
    assert torch.allclose(dense(got).double()[finite], expected[finite], atol=DIGITS[x.dtype] * scale, rtol=0)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(x=tensors(), where=surroundings)
def test_spectra_of_anything(x, where):
    try:
        with surrounded(where):
            got = power_spectrum(x)
    except (ValueError, TypeError) as error:
        named(error, r"\b(x|batch|shape|latents)\b")
        return
    assert isinstance(x, torch.Tensor)
    assert x.dtype in REAL
    expected = power_spectrum(dense(x.detach()).double().contiguous())
    assert torch.allclose(
        *(torch.as_tensor(s.power.copy()) for s in (got, expected)), rtol=10 * DIGITS[x.dtype], atol=1e-9
    )
    with contextlib.suppress(ValueError):
        fit_spectrum(x)


@settings(max_examples=40)
@given(t=numbers, power=numbers, delta=numbers, scale=st.sampled_from((0.5, 0.25, 0.0, 2, "half", None, math.nan)))
def test_numbers_of_any_kind(t, power, delta, scale):
    for call in (
        lambda: snr(t, power),
        lambda: activation_time(power, delta),
        lambda: make_plan(shift_times(6), LAW, (8, 8), scales=(scale, 1), delta=delta),
        lambda: NoiseField(t).on((1, 4, 4)),
    ):
        try:
            call()
        except (ValueError, TypeError) as error:
            named(error, r"\b(t|power|delta|scales?|noise source|t\*)")


def test_the_check_sees_a_wrong_answer(monkeypatch):
    """Negative control: a transform that loses digits under autocast fails, and so does an error without a name."""
    from spectral_pd import bases

    monkeypatch.setattr(bases, "apply_matrix", lambda m, x, axis: (x.movedim(axis, -1) @ m.to(x).T).movedim(-1, axis))
    x = torch.randn(2, 16, 13)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = BASES["fourier"].forward(x)
    assert not torch.allclose(got.double(), BASES["fourier"].forward(x.double()), atol=DIGITS[torch.float32])
    with pytest.raises(AssertionError):
        named(ValueError("something failed"), r"\b(x|t)\b")
