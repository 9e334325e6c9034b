"""Whatever the caller has set, done to a value, or reuses: the numbers stay right, or the error names the argument."""

import copy
import io
import math
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from strategies import randn
from tolerances import assert_close

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    PRESETS,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    expand_aligned,
    make_plan,
    optimise_plan,
    plan_at,
    power_spectrum,
    sample,
    shift_times,
    token_cost,
)
from spectral_pd import optimise as optimise_module
from spectral_pd.bases import BASES
from spectral_pd.solvers import SOLVERS

LAW = PowerLaw(50.0, 2.0, shape=(16, 16))
FIELDS = {name: GaussianField(LAW, (16, 16), basis) for name, basis in BASES.items()}
PLAN = make_plan(shift_times(8, shift=2.0), LAW, (16, 16), scales=(0.5, 1))
X = randn(2, 3, 16, 16, seed=1, dtype=torch.float32)
CLIP = randn(1, 2, 4, 8, 8, seed=2, dtype=torch.float32)


def outputs(basis):
    """Everything that multiplies matrices, from float32."""
    plan = replace(PLAN, basis=basis)
    return {
        "forward": basis.forward(X),
        "three axes": basis.forward(CLIP, dims=3),
        "embed": basis.embed(X, (32, 32)),
        "restrict 3d": basis.restrict(CLIP, (2, 4, 4)),
        "field": FIELDS[basis.name].velocity(X, 0.5),
        "noise": NoiseField(1, basis).on((2, 3, 16, 16)),
        "video noise": NoiseField(1, basis).on((1, 2, 4, 8, 8), dims=3),
        "grown": expand_aligned(X, (32, 32), 0.7, seed=0, basis=basis)[0],
        "sample": sample(FIELDS[basis.name].velocity, X, plan),
        "spectrum": torch.from_numpy(power_spectrum(X, basis=basis).power.astype("float32")),
        "data set": FiniteDataset(X, 0.1, basis=basis).velocity(X, 0.5),
    }


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without_extension", [False, True])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_autocast_leaves_the_numbers_alone(basis, without_extension, monkeypatch):
    if without_extension:
        monkeypatch.setattr("spectral_pd.ops._C", None)
    plain = outputs(basis)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Negative control: a product of one's own does lose its digits here.
        assert (X @ X.mT - (X.double() @ X.double().mT)).abs().max() > 1e-2
        cast = outputs(basis)
    for name, value in plain.items():
        assert cast[name].dtype == value.dtype, name
        assert_close(cast[name], value, factor=10)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_lowered_matmul_precision_leaves_the_numbers_alone(basis, monkeypatch):
    plain = outputs(basis)
    asked = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked.append(1) or "medium")
    lowered = outputs(basis)
    assert asked or basis == HAAR  # Haar multiplies nothing
    for name, value in plain.items():
        assert_close(lowered[name], value, factor=10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_default_dtype_changes_nothing(basis, dtype):
    plain = outputs(basis)
    try:
        torch.set_default_dtype(dtype)
        other = outputs(basis)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in plain.items():
        assert other[name].dtype == value.dtype, name
        assert torch.equal(other[name], value), name


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_default_device_changes_nothing_for_tensors_that_have_one(basis):
    plain = outputs(basis)
    with torch.device("meta"):
        assert torch.zeros(1).is_meta  # negative control
        other = {
            "forward": basis.forward(X),
            "three axes": basis.forward(CLIP, dims=3),
            "field": GaussianField(LAW, (16, 16), basis).velocity(X, 0.5),
            "grown": expand_aligned(X, (32, 32), 0.7, seed=0, basis=basis)[0],
            "sample": sample(FIELDS[basis.name].velocity, X, replace(PLAN, basis=basis)),
            "spectrum": torch.from_numpy(power_spectrum(X, basis=basis).power.astype("float32")),
        }
        optimise_plan(LAW, (16, 16), lambda g: math.prod(g) / 256, budget=3, scales=(0.5,), stages=2)
    for name, value in other.items():
        assert torch.equal(value, plain[name]), name


# -- reused buffers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_model_may_return_one_buffer_at_every_call(solver):
    """And may use its input for scratch memory of the next call, as a compiled graph does."""
    buffers = {}

    def reusing(x, t):
        buffer = buffers.setdefault(x.shape, torch.empty_like(x))
        return buffer.copy_(x * t - torch.tanh(2 * x) * (1 - t))

    def fresh(x, t):
        return x * t - torch.tanh(2 * x) * (1 - t)

    assert torch.equal(sample(reusing, X, PLAN, solver=solver), sample(fresh, X, PLAN, solver=solver))


def test_the_check_sees_a_kept_buffer():
    """Negative control: Heun itself, without the sampler's copy, is wrong with such a model."""
    buffer = torch.empty_like(X)
    wrong, _ = SOLVERS["heun"](lambda x, t: buffer.copy_(x * t), X, 0.9, 0.5)
    right, _ = SOLVERS["heun"](lambda x, t: x * t, X, 0.9, 0.5)
    assert not torch.allclose(wrong, right, atol=1e-2)


class WithoutFloat64(torch.utils._python_dispatch.TorchDispatchMode):
    """The meta device as one that, like MPS, has no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError(f"{function} makes float64 on a device that has none")
        return result


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_devices_without_float64_are_never_asked_for_it(basis):
    x = X.to("meta")
    with WithoutFloat64():
        assert basis.embed(x, (32, 32)).shape == (2, 3, 32, 32)
        assert basis.restrict(basis.forward(x), (8, 8)).is_meta
        assert expand_aligned(x, (32, 32), 0.7, seed=0, basis=basis)[0].shape == (2, 3, 32, 32)
        assert FIELDS[basis.name].velocity(x, 0.5).is_meta
        with pytest.raises(TypeError, match="makes float64"):  # negative control
            x.double()


# -- writing into a tensor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_out_is_known_to_be_changed(basis, dtype):
    """``a * o`` keeps o for its backward; writing into o afterwards is an error there, not a wrong gradient."""
    x, out = X[..., :8, :8].to(dtype), torch.ones(2, 3, 16, 16, dtype=dtype)
    a = torch.ones_like(out, requires_grad=True)
    y = (a * out).sum()
    expand_aligned(x, (16, 16), 0.7, seed=0, basis=basis, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_out_refuses_a_graph_as_torch_does(basis, dtype):
    x = X[..., :8, :8].to(dtype).requires_grad_()
    with pytest.raises(RuntimeError, match=r"out=\.\.\. arguments don't support automatic differentiation"):
        expand_aligned(x, (16, 16), 0.7, seed=0, basis=basis, out=torch.empty(2, 3, 16, 16, dtype=dtype))
    with torch.no_grad():
        state, _ = expand_aligned(x, (16, 16), 0.7, seed=0, basis=basis, out=torch.empty(2, 3, 16, 16, dtype=dtype))
    assert torch.equal(state, expand_aligned(x, (16, 16), 0.7, seed=0, basis=basis)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_out_may_lie_in_its_inputs_memory(basis, dtype):
    memory = torch.zeros(2 * 3 * 16 * 16, dtype=dtype)
    out = memory.view(2, 3, 16, 16)
    for place in (memory[: 2 * 3 * 8 * 8].view(2, 3, 8, 8), memory[-2 * 3 * 8 * 8 :].view(2, 3, 8, 8)):
        place.copy_(X[..., :8, :8])
        expected, _ = expand_aligned(place.clone(), (16, 16), 0.7, seed=0, basis=basis)
        assert torch.equal(expand_aligned(place, (16, 16), 0.7, seed=0, basis=basis, out=out)[0], expected)


# -- copies -----------------------------------------------------------------------------------------------------------


def saved(value):
    memory = io.BytesIO()
    torch.save(value, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "save": saved,
}
VALUES = {
    "DCT": DCT,
    "HAAR": HAAR,
    "FOURIER": FOURIER,
    "field": NoiseField([3, 4], HAAR, transition=2),
    "law": PRESETS["wan"],
    "spectrum": power_spectrum(X),
    "plan": make_plan(
        shift_times(6), LAW, (16, 16), scales=(0.5, 1), cost=token_cost((16, 16), patch=2, attention=0.3), multiple_of=2
    ),
    "lambda cost": make_plan(shift_times(6), LAW, (16, 16), scales=(0.5, 1), cost=lambda g: math.prod(g)),
    "cost": token_cost((16, 16), patch=2, text_tokens=3),
    "gaussian": FIELDS["dct"],
    "data set": FiniteDataset(X, 0.1),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", VALUES)
def test_values_survive_copies(name, how):
    value = VALUES[name]
    other = COPIES[how](value)
    if name == "field":
        assert other == value
        assert torch.equal(other.on((2, 1, 8, 8)), value.on((2, 1, 8, 8)))
        assert torch.equal(*(expand_aligned(X, (32, 32), 0.7, noise=v, basis=HAAR)[0] for v in (other, value)))
    elif name in ("gaussian", "data set"):
        assert torch.equal(other.velocity(X, 0.5), value.velocity(X, 0.5))
        assert torch.equal(other.velocity(X[..., :8, :8], 0.5), value.velocity(X[..., :8, :8], 0.5))
    elif name == "spectrum":
        assert (other.power == value.power).all()
        assert other.binning == value.binning
        assert not other.power.flags.writeable
    else:
        assert other == value
        assert hash(other) == hash(value)
        assert str(other) == str(value)


def test_a_spawned_process_makes_the_same_bits():
    field = NoiseField(5)
    code = "import pickle, sys, hashlib, torch; f = pickle.loads(sys.stdin.buffer.read()); x = f.on((1, 2, 16, 24))\n"
    code += "print(hashlib.sha256(x.numpy().tobytes()).hexdigest(), f.basis)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(field), capture_output=True, check=True)
    import hashlib

    here = hashlib.sha256(field.on((1, 2, 16, 24)).numpy().tobytes()).hexdigest()
    assert done.stdout.decode().split() == [here, "DCT"]


def test_other_bases_stay_other():
    """Negative control of equality by value."""
    assert DCT != FOURIER
    assert NoiseField(3) != NoiseField(3, HAAR)
    assert copy.deepcopy(DCT) == DCT


# -- sizes of work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "options"), [(10, {}), (1e9, {}), (1e9, {"solver": "dpmpp_2m", "stages": 2})])
def test_a_search_is_bounded_by_its_work(budget, options, monkeypatch):
    """Every legal size of a 16x16 grid, and a budget that pays for any number of steps."""
    monkeypatch.setattr(optimise_module, "MOST_WORK", 4e6)
    spent = []
    solve = optimise_module._solve
    monkeypatch.setattr(optimise_module, "_solve", lambda bench, *a: (solve(bench, *a), spent.append(bench.work))[0])
    optimise_plan(LAW, (16, 16), lambda g: math.prod(g) / 256, budget=budget, **options)
    assert spent[0] < 2.5 * 4e6


# -- numbers of other kinds -------------------------------------------------------------------------------------------


def test_numbers_of_other_libraries_are_numbers():
    import numpy as np

    reference = make_plan(shift_times(8, shift=2.0), LAW, (16, 16), scales=(0.5, 1), delta=0.01, multiple_of=2)
    times = torch.tensor(shift_times(8, shift=2.0), dtype=torch.float64)
    other = make_plan(
        times,
        LAW,
        np.array([16, 16]),
        scales=(np.float32(0.5), 1),
        delta=torch.tensor(0.01, dtype=torch.float64),
        multiple_of=np.int64(2),
    )
    assert other == reference
    assert plan_at(np.linspace(1, 0, 5), np.array([0.6]), (8, 8), scales=(0.5, 1)).split == (2, 2)
