"""Native operations: against the float64 reference, on every instruction set, and as citizens of the dispatcher."""

import os
import subprocess
import sys

import pytest
import torch
from torch import func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from spectral_pd import DCT, HAAR, NoiseField, SpectrumMeter, expand, expand_aligned, ops
from spectral_pd.bases import corner

native = pytest.mark.skipif(
    not ops.has_native(), reason="the extension is not built; pip install . needs a C++ compiler"
)
pytestmark = native

BOUND = 5e-7  # relative l2 error of float32 results against float64
DCT_GRIDS = [
    ((1, 1), (1, 1)),
    ((1, 1), (3, 5)),
    ((4, 4), (8, 8)),
    ((5, 7), (11, 13)),
    ((7, 20), (7, 31)),
    ((8, 8), (8, 8)),
    ((16, 16), (32, 32)),
    ((17, 33), (34, 66)),
    ((30, 14), (48, 72)),
    ((45, 53), (67, 67)),
    ((45, 80), (90, 160)),
    ((60, 106), (90, 160)),
    ((64, 64), (128, 128)),
    ((64, 33), (250, 257)),
]
HAAR_GRIDS = [
    ((1, 1), (2, 2)),
    ((2, 2), (64, 64)),
    ((3, 67), (24, 536)),
    ((5, 7), (10, 14)),
    ((16, 16), (64, 64)),
    ((45, 80), (90, 160)),
    ((64, 64), (128, 128)),
    ((6, 4), (6, 4)),
]
BASES = [pytest.param(DCT, id="dct"), pytest.param(HAAR, id="haar")]
CASES = [pytest.param(DCT, *grids, id=f"dct-{grids}") for grids in DCT_GRIDS] + [
    pytest.param(HAAR, *grids, id=f"haar-{grids}") for grids in HAAR_GRIDS
]


def relative_error(actual, expected):
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).norm() / expected.norm())


def field_reference(x, field, shape, t, kappa):
    """Exact expansion with a noise field: coefficients in float64."""
    c = field.coefficients((*x.shape[:-2], *shape), dtype=torch.float64) * (t * kappa)
    c[corner(x.shape[-2:])] = field.basis.forward(x.double()) * kappa
    return field.basis.inverse(c)


def white_reference(basis, x, white, t, kappa):
    x, white = x.double(), white.double()
    low = basis.embed(x - t * basis.restrict(white, x.shape[-2:]), white.shape[-2:])
    return kappa * (low + t * white)


@pytest.mark.parametrize(("basis", "coarse", "fine"), CASES)
@pytest.mark.parametrize("leading", [(1, 1), (2, 3)])
def test_every_operation_matches_float64(basis, coarse, fine, leading, rng):
    t, kappa = 0.7, 1.3
    x = torch.randn(*leading, *coarse, generator=rng)
    white = torch.randn(*leading, *fine, generator=rng)
    field = NoiseField(5, basis)
    key = field.key_tensor(leading[0])
    grown = ops.expand_field(x, key, fine, t=t, kappa=kappa, basis=basis.name)
    assert relative_error(grown, field_reference(x, field, fine, t, kappa)) < BOUND
    blended = ops.expand_white(x, white, t=t, kappa=kappa, basis=basis.name)
    assert relative_error(blended, white_reference(basis, x, white, t, kappa)) < BOUND
    embedded = ops.embed(x, fine, kappa=kappa, basis=basis.name)
    assert relative_error(embedded, kappa * basis.embed(x.double(), fine)) < BOUND
    rendered = ops.render(key, leading[1], fine, basis=basis.name)
    assert relative_error(rendered, field.on((*leading, *fine), dtype=torch.float64)) < BOUND
    # Restricting cancels most of the energy: measured against what went in.
    restricted = ops.restrict(white, coarse, kappa=kappa, basis=basis.name)
    exact = kappa * basis.restrict(white.double(), coarse)
    assert float((restricted - exact).norm() / white.double().norm()) < BOUND


def test_the_reference_would_notice_a_wrong_factor(rng):
    x, field = torch.randn(1, 2, 8, 8, generator=rng), NoiseField(5)
    grown = ops.expand_field(x, field.key_tensor(1), (16, 16), t=0.7, kappa=1.3)
    for wrong in (
        field_reference(x, field, (16, 16), 0.7, 1.3001),
        field_reference(x, field, (16, 16), 0.7001, 1.3),
        field_reference(x, NoiseField(6), (16, 16), 0.7, 1.3),
        field_reference(x, field.fresh(1), (16, 16), 0.7, 1.3),
    ):
        assert relative_error(grown, wrong) > 10 * BOUND


@pytest.mark.parametrize("size", [*range(1, 41), 45, 53, 60, 67, 90, 106, 120, 127, 192, 243, 320, 509, 1000, 1022])
def test_every_size_of_the_transform(size, rng):
    white = torch.randn(1, 1, size, size + 1 if size < 100 else 3, generator=rng)
    low = (max(1, size // 2), white.shape[-1] // 2 + 1)
    for exact, result in (
        (DCT.restrict(white.double(), low), ops.restrict(white, low)),
        (DCT.embed(white.double(), (size + 2, white.shape[-1] + 3)), ops.embed(white, (size + 2, white.shape[-1] + 3))),
    ):
        assert float((result - exact).norm() / white.double().norm()) < BOUND


@pytest.mark.parametrize("grid", [(2, 2), (5, 7), (32, 32), (45, 53), (90, 160), (128, 128)])
def test_power_map_matches_float64_with_a_large_mean(grid, rng):
    x = torch.randn(4, 3, *grid, generator=rng) * 1.7 + 30
    exact = x.double() - x.double().mean((-2, -1), keepdim=True)
    exact = DCT.forward(exact).square()
    exact[..., 0, 0] = 0
    assert relative_error(ops.power_map(x, 3), exact.sum(0)) < BOUND * 10
    assert relative_error(ops.power_map(x), exact.sum((0, 1))[None]) < BOUND * 10
    uncentred = DCT.forward(x.double()).square().sum((0, 1))[None]
    assert relative_error(ops.power_map(x), uncentred) > 0.5


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_float32_result_rounded_once(basis, dtype, rng):
    x, white = (torch.randn(2, 3, *g, generator=rng).to(dtype) for g in ((20, 12), (40, 24)))
    key = torch.tensor([1, 2])
    for call in (
        lambda x, w: ops.expand_field(x, key, (40, 24), t=0.6, kappa=1.1, basis=basis.name),
        lambda x, w: ops.expand_white(x, w, t=0.6, kappa=1.1, basis=basis.name),
        lambda x, w: ops.embed(x, (40, 24), basis=basis.name),
        lambda x, w: ops.restrict(w, (20, 12), basis=basis.name),
    ):
        assert torch.equal(call(x, white), call(x.float(), white.float()).to(dtype))
    special = torch.tensor([0.0, -0.0, 1e-7, 6e-5, 65504.0, float("inf"), float("nan"), -3.3]).to(dtype).reshape(2, 4)
    assert torch.equal(ops.embed(special, (2, 4), basis="haar").nan_to_num(7), special.nan_to_num(7))
    assert ops.power_map(x[..., :12]).dtype == torch.float64


# -- the noise --------------------------------------------------------------------------------------------------------


def test_normals_are_those_of_the_reference_at_every_address():
    field = NoiseField([7, -(2**63), 2**63 - 1], transition=65535)
    key = field.key_tensor(3)
    exact = field.coefficients((3, 5, 9, 21), dtype=torch.float64)
    normals = ops.normals(key, 5, (9, 21), transition=65535)
    assert float((normals - exact).abs().max()) < 1e-6
    assert torch.equal(ops.normals(key, 2, (9, 21), transition=65535), normals[:, :2])
    assert torch.equal(ops.normals(key[1:], 5, (4, 6), transition=65535), normals[1:, :, :4, :6])
    assert not torch.equal(ops.normals(key, 5, (9, 21)), normals)


@pytest.mark.parametrize("basis", BASES)
def test_same_bits_for_any_batch_split_chunk_or_thread_count(basis, rng):
    x, key = torch.randn(3, 4, 16, 24, generator=rng), torch.tensor([3, 1, 4])

    def grow(x, key):
        return ops.expand_field(x, key, (32, 48), t=0.8, kappa=1.2, basis=basis.name)

    whole = grow(x, key)
    assert torch.equal(whole[1:2], grow(x[1:2], key[1:2]))
    assert torch.equal(whole[:, :3], grow(x[:, :3].contiguous(), key))
    threads = torch.get_num_threads()
    try:
        for n in (2, 3):
            torch.set_num_threads(n)
            assert torch.equal(whole, grow(x, key))
            assert torch.equal(whole[:1, :1], grow(x[:1, :1], key[:1]))
    finally:
        torch.set_num_threads(threads)


def test_few_large_planes_on_many_threads_give_the_same_bits(rng):
    x, white = torch.randn(1, 1, 200, 210, generator=rng), torch.randn(1, 1, 400, 420, generator=rng)
    key = torch.tensor([3])

    def results():
        return [
            ops.expand_field(x, key, (400, 420), t=0.8),
            ops.expand_field(x, key, (400, 420), t=0.8, basis="haar"),
            ops.expand_white(x, white, t=0.8),
            ops.embed(x, (400, 420)),
            ops.restrict(white, (200, 210)),
            ops.render(key, 1, (400, 420)),
            ops.power_map(white.expand(9, 1, 400, 420)),
        ]

    one = results()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, results(), strict=True))
    finally:
        torch.set_num_threads(threads)


_HASH = """
import hashlib, torch
from spectral_pd import ops
digest = hashlib.sha256()
normals = ops.normals(torch.arange(4) * 2**40 - 5, 1024, (64, 64), transition=3).numpy()
for planes in range(0, 1024, 64):
    digest.update(normals[:, planes : planes + 64].tobytes())
print(ops.build_info()["cpu"], digest.hexdigest())
"""
NORMALS = "f2b0a9119eafa99b7f490d97220a98eb6daef50d668c09b7abec63b97227b56e"
"""What :data:`_HASH` prints: 2^24 normals are the same bits for ever."""


def test_same_noise_bits_on_every_instruction_set():
    lines = []
    for name in ("baseline", "avx2", "avx512"):
        environment = {**os.environ, "SPECTRAL_PD_CPU": name, "OMP_NUM_THREADS": "1"}
        run = subprocess.run([sys.executable, "-c", _HASH], env=environment, capture_output=True, text=True, check=True)
        lines.append(run.stdout.split())
    assert lines[0][0] == "baseline"
    assert {digest for _, digest in lines} == {NORMALS}, lines


@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_every_instruction_set_is_accurate(name):
    """This file's own comparisons with float64, in a process that is kept from the best instruction set."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k"]
    environment = {**os.environ, "SPECTRAL_PD_CPU": name, "OMP_NUM_THREADS": "1"}
    chosen = "matches_float64 or every_size or rounded_once"
    run = subprocess.run([*tests, chosen], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]


def test_an_instruction_set_that_cannot_run_is_named():
    use = [sys.executable, "-c", "from spectral_pd import ops; print(ops.build_info()['cpu'])"]
    run = subprocess.run(use, env={**os.environ, "SPECTRAL_PD_CPU": "avx3"}, capture_output=True, text=True, check=True)
    assert "SPECTRAL_PD_CPU = 'avx3' cannot run here" in run.stderr
    assert f"using {run.stdout.strip()!r}" in run.stderr


# -- calling conventions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES)
def test_any_leading_axes_strides_and_out(basis, rng):
    x = torch.randn(2, 3, 4, 8, 12, generator=rng)
    key = torch.tensor([1, 2])
    expected = ops.expand_field(x, key, (16, 24), t=0.5, basis=basis.name)
    assert expected.shape == (2, 3, 4, 16, 24)
    assert torch.equal(
        ops.expand_field(x.flatten(1, 2), key, (16, 24), t=0.5, basis=basis.name), expected.flatten(1, 2)
    )
    strided = x.permute(0, 4, 3, 2, 1).contiguous().permute(0, 4, 3, 2, 1)
    assert not strided.is_contiguous()
    assert torch.equal(ops.expand_field(strided, key, (16, 24), t=0.5, basis=basis.name), expected)
    channels_last = x[:, :, 0].to(memory_format=torch.channels_last)
    assert torch.equal(
        ops.restrict(channels_last, (4, 6), basis=basis.name), ops.restrict(x[:, :, 0], (4, 6), basis=basis.name)
    )
    out = torch.full_like(expected, float("nan"))
    assert ops.expand_field(x, key, (16, 24), t=0.5, basis=basis.name, out=out) is out
    assert torch.equal(out, expected)
    plane = ops.expand_field(x[0, 0, 0], key[:1], (16, 24), t=0.5, basis=basis.name)
    assert torch.equal(plane, expected[0, 0, 0])
    assert ops.embed(x[:0], (16, 24), basis=basis.name).shape == (0, 3, 4, 16, 24)
    assert ops.restrict(x[:0], (4, 6), basis=basis.name).shape == (0, 3, 4, 4, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: ops.expand_field(x.double(), k, (16, 16), t=0.5), "float32, bfloat16 or float16"),
        (lambda x, k: ops.expand_field(x[0, 0, 0], k, (16, 16), t=0.5), "at least 2 axes"),
        (lambda x, k: ops.expand_field(x, k, (4, 16), t=0.5), "an axis of 8 cannot grow to 4"),
        (lambda x, k: ops.expand_field(x, k, (24, 24), t=0.5, basis="haar"), "power of 2"),
        (lambda x, k: ops.expand_field(x, k, (16, 32), t=0.5, basis="haar"), "same factor"),
        (lambda x, k: ops.expand_field(x, k.int(), (16, 16), t=0.5), "int64"),
        (lambda x, k: ops.expand_field(x, torch.arange(5), (16, 16), t=0.5), "do not divide"),
        (lambda x, k: ops.expand_field(x, k, (16, 16), t=0.5, transition=65536), "transition = 65536"),
        (
            lambda x, k: ops.expand_field(x, k, (16, 16), t=0.5, basis="fourier"),
            "basis = 'fourier' must be 'dct' or 'haar'",
        ),
        (lambda x, k: ops.restrict(x, (8, 8), basis=""), "basis = '' must be 'dct' or 'haar'"),
        (
            lambda x, k: ops.expand_field(x, k, (16, 16), t=0.5, out=torch.empty(2, 3, 16, 15)),
            "leading axes and the fine",
        ),
        (lambda x, k: ops.expand_field(x, k, (16, 16), t=0.5, out=torch.empty(2, 3, 16, 16).half()), "type of x"),
        (lambda x, k: ops.expand_field(x, k, (16, 16), t=0.5, out=torch.empty(2, 3, 16, 16).mT), "contiguous"),
        (lambda x, k: ops.expand_field(x, k, (2053, 16), t=0.5), "odd part"),
        (lambda x, k: ops.expand_white(x, torch.zeros(2, 4, 16, 16), t=0.5), "leading axes"),
        (lambda x, k: ops.expand_white(x, torch.zeros(2, 3, 16, 16).half(), t=0.5), "type of x"),
        (lambda x, k: ops.restrict(x, (9, 8)), "an axis of 9 cannot grow to 8"),
        (lambda x, k: ops.embed(x, (0, 8)), "an axis of 8 cannot grow to 0"),
        (lambda x, k: ops.render(k, 1, (0, 8)), "between 1 and 65535"),
        (lambda x, k: ops.power_map(x, 4), "maps = 4 must divide"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]))


# -- autograd, compile, export, vmap ----------------------------------------------------------------------------------

OP = torch.ops.spectral_pd


def _samples(basis, grad):
    x = torch.randn(2, 3, 6, 8, requires_grad=grad)
    white = torch.randn(2, 3, 12, 16, requires_grad=grad)
    key = torch.tensor([1, 2])
    yield OP.expand_field.default, (x, key, 12, 16, 0.7, 1.2, 0, basis)
    yield OP.expand_field.default, (x, key, 6, 8, 0.7, 1.2, 0, basis)
    yield OP.expand_white.default, (x, white, 0.7, 1.2, basis)
    yield OP.embed.default, (x, 12, 16, 1.2, basis)
    yield OP.restrict.default, (white, 6, 8, 1.2, basis)
    if not grad:
        yield OP.expand_field_out.default, (x, key, 12, 16, 0.7, 1.2, 0, basis, torch.empty(2, 3, 12, 16))
        yield OP.expand_white_out.default, (x, white, 0.7, 1.2, basis, torch.empty(2, 3, 12, 16))
        yield OP.render.default, (key, 3, 12, 16, 0, basis)
        yield OP.normals.default, (key, 3, 12, 16, 0)
        yield OP.power_map.default, (white, 3)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("basis", BASES)
def test_opcheck(basis, grad):
    for op, args in _samples(basis.name, grad):
        torch.library.opcheck(op, args)


@pytest.mark.parametrize("basis", BASES)
def test_gradients_are_transposes(basis, rng):
    """<op(x), y> is linear in x, so its derivative is exact: compared with the float64 reference's transpose."""
    t, kappa = 0.7, 1.2
    x = torch.randn(2, 3, 6, 10, generator=rng, requires_grad=True)
    white = torch.randn(2, 3, 12, 20, generator=rng, requires_grad=True)
    y = torch.randn(2, 3, 12, 20, generator=rng)
    low = torch.randn(2, 3, 6, 10, generator=rng)
    transposed = kappa * basis.restrict(y.double(), (6, 10))
    key = torch.tensor([1, 2])
    for result in (
        ops.expand_field(x, key, (12, 20), t=t, kappa=kappa, basis=basis.name),
        ops.embed(x, (12, 20), kappa=kappa, basis=basis.name),
    ):
        (gradient,) = torch.autograd.grad(result, x, y)
        assert relative_error(gradient, transposed) < 4 * BOUND
    of_x, of_white = torch.autograd.grad(ops.expand_white(x, white, t=t, kappa=kappa, basis=basis.name), (x, white), y)
    assert relative_error(of_x, transposed) < 4 * BOUND
    assert relative_error(of_white, white_reference(basis, torch.zeros(2, 3, 6, 10), y, t, kappa)) < BOUND
    (gradient,) = torch.autograd.grad(ops.restrict(white, (6, 10), kappa=kappa, basis=basis.name), white, low)
    assert relative_error(gradient, kappa * basis.embed(low.double(), (12, 20))) < BOUND


# -- derivatives: every transform, against the same in float64 --------------------------------------------------------

GROWN, LOW = (4, 8), (2, 4)
DERIVED = ["expand_field", "expand_white", "embed", "restrict"]


def derived(name, basis, kappa=1.3):
    """(native operation, the same in float64, inputs), as functions of tensors alone."""
    t, key = 0.7, torch.tensor([5])
    generator = torch.Generator().manual_seed(1)
    x, white = (torch.randn(1, *grid, generator=generator) for grid in (LOW, GROWN))
    field = field_reference(torch.zeros(1, 1, *LOW), NoiseField(5, basis), GROWN, t, kappa)[0]
    return {
        "expand_field": (
            lambda x: ops.expand_field(x, key, GROWN, t=t, kappa=kappa, basis=basis.name),
            lambda x: field + kappa * basis.embed(x, GROWN),
            (x,),
        ),
        "expand_white": (
            lambda x, white: ops.expand_white(x, white, t=t, kappa=kappa, basis=basis.name),
            lambda x, white: white_reference(basis, x, white, t, kappa),
            (x, white),
        ),
        "embed": (
            lambda x: ops.embed(x, GROWN, kappa=kappa, basis=basis.name),
            lambda x: kappa * basis.embed(x, GROWN),
            (x,),
        ),
        "restrict": (
            lambda x: ops.restrict(x, LOW, kappa=kappa, basis=basis.name),
            lambda x: kappa * basis.restrict(x, LOW),
            (white,),
        ),
    }[name]


def cubed(f):
    """A scalar with derivatives of every order."""
    return lambda *inputs: f(*inputs).pow(3).sum()


def by_hand(f, *inputs):
    """Forward over reverse without torch.func."""
    inputs = [v.clone().requires_grad_() for v in inputs]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(v, v.detach() + 1) for v in inputs]
        value = f(*duals)
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        tangents = [forward_ad.unpack_dual(v).tangent for v in (value, *gradients)]
    return tangents, torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), inputs)


def every(inputs):
    return tuple(range(len(inputs)))


def along(f, *inputs):
    return func.jvp(f, inputs, tuple(v + 1 for v in inputs))


TRANSFORMS = {
    "jvp": lambda f: lambda *v: along(f, *v),
    "vjp": lambda f: lambda *v: func.vjp(f, *v)[1](f(*v)),
    "grad": lambda f: lambda *v: func.grad(cubed(f), every(v))(*v),
    "jacrev": lambda f: lambda *v: func.jacrev(f, every(v))(*v),
    "jacfwd": lambda f: lambda *v: func.jacfwd(f, every(v))(*v),
    "hessian": lambda f: lambda *v: func.hessian(cubed(f), every(v))(*v),
    "jvp of jvp": lambda f: lambda *v: along(lambda *u: along(cubed(f), *u)[1], *v),
    "jvp of grad": lambda f: lambda *v: along(func.grad(cubed(f), every(v)), *v),
    "grad of jvp": lambda f: lambda *v: func.grad(lambda *u: along(cubed(f), *u)[1], every(v))(*v),
    "grad of grad": lambda f: lambda *v: func.grad(lambda *u: func.grad(cubed(f))(*u).pow(2).sum(), every(v))(*v),
    "vmap of grad": lambda f: (
        lambda *v: torch.vmap(func.grad(cubed(f), every(v)))(*(torch.stack((a, a + 1, a * 2)) for a in v))
    ),
    "grad of vmap": lambda f: (
        lambda *v: func.grad(lambda *u: torch.vmap(f)(*u).pow(3).sum(), every(v))(
            *(torch.stack((a, a + 1, a * 2)) for a in v)
        )
    ),
    "jvp of vmap": lambda f: lambda *v: along(torch.vmap(f), *(torch.stack((a, a + 1, a * 2)) for a in v)),
    "linearize": lambda f: lambda *v: func.linearize(f, *v)[1](*v),
    "by hand": lambda f: lambda *v: by_hand(cubed(f), *v),
}


def leaves(tree):
    return torch.cat([leaf.detach().flatten().double() for leaf in torch.utils._pytree.tree_leaves(tree)])


@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_derivatives_in_every_mode(transform, name, basis):
    native, exact, inputs = derived(name, basis)
    transformed = TRANSFORMS[transform]
    expected = leaves(transformed(exact)(*(v.double() for v in inputs)))
    assert relative_error(leaves(transformed(native)(*inputs)), expected) < 1e-5
    # A factor that is off by a thousandth shows.
    wrong = transformed(derived(name, basis, kappa=1.3013)[0])
    assert relative_error(leaves(wrong(*inputs)), expected) > 1e-4


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", DERIVED)
def test_an_input_alone_can_be_derived(name, basis):
    """expand_white has two: the derivative in one leaves the other's out, in both modes."""
    native, exact, inputs = derived(name, basis)
    for i in range(len(inputs)):
        for transform in (lambda f, i=i: func.jacfwd(f, i), lambda f, i=i: func.jacrev(f, i)):
            expected = transform(exact)(*(v.double() for v in inputs))
            assert relative_error(transform(native)(*inputs), expected) < 1e-5


@pytest.mark.parametrize("transform", ["jvp", "grad", "hessian", "grad of jvp", "vmap of grad"])
def test_derivatives_compile_whole(transform):
    """One graph, through the dispatcher's own operations, not the faces."""
    torch._dynamo.reset()
    x = torch.randn(1, 2, 3)

    def native(x):
        return OP.restrict(OP.embed(x, 4, 6, 1.3, "dct"), 3, 5, 0.7, "dct")

    def exact(x):
        return 0.91 * DCT.restrict(DCT.embed(x.double(), (4, 6)), (3, 5))

    compiled = torch.compile(TRANSFORMS[transform](native), fullgraph=True, backend="aot_eager")
    assert relative_error(leaves(compiled(x)), leaves(TRANSFORMS[transform](exact)(x.double()))) < 1e-5
    torch._dynamo.reset()


def test_no_grad_is_obeyed_at_every_level():
    x = torch.randn(1, 2, 4)

    def stopped(x):
        with torch.no_grad():
            return ops.embed(x, GROWN)

    assert not stopped(x.clone().requires_grad_()).requires_grad
    assert torch.equal(func.grad(lambda x: stopped(x).sum() + x.sum())(x), torch.ones_like(x))
    assert torch.equal(
        func.grad(lambda x: func.grad(lambda y: (x * stopped(y)[..., :2, :4] * y).sum())(x).sum())(x),
        stopped(x)[..., :2, :4],
    )


def test_power_is_not_derived_in_silence():
    x = torch.randn(1, 4, 8)
    plain = ops.power_map(x)
    assert torch.equal(ops.power_map(x.clone().requires_grad_()).detach(), plain)
    refused = [
        lambda: ops.power_map(x.clone().requires_grad_()).sum().backward(),
        lambda: func.grad(lambda x: ops.power_map(x).sum())(x),
        lambda: func.jvp(ops.power_map, (x,), (x,)),
        lambda: func.jacfwd(ops.power_map)(x),
    ]
    for call in refused:
        with pytest.raises(NotImplementedError, match="power_map cannot be differentiated"):
            call()


# -- out= -------------------------------------------------------------------------------------------------------------


def writing(basis, x, white, key, out):
    """The operations that write, as functions of nothing."""
    fine = tuple(white.shape[-2:])
    return {
        "expand_field_out": lambda: ops.expand_field(x, key, fine, t=0.7, kappa=1.2, basis=basis.name, out=out),
        "expand_white_out": lambda: ops.expand_white(x, white, t=0.7, kappa=1.2, basis=basis.name, out=out),
    }


WRITING = ["expand_field_out", "expand_white_out"]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", WRITING)
def test_autograd_knows_that_out_was_written(name, basis, rng):
    x, white = torch.randn(2, 3, 4, 6, generator=rng), torch.randn(2, 3, 8, 12, generator=rng)
    out, factor = torch.ones(2, 3, 8, 12), torch.ones(2, 3, 8, 12, requires_grad=True)
    write = writing(basis, x, white, torch.tensor([1, 2]), out)[name]
    (factor * out).sum().backward()
    assert torch.equal(factor.grad, torch.ones_like(out))  # nothing was written in between
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        pending = (factor * out).sum()
        with mode():
            write()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            pending.backward()
    assert (x._version, white._version) == (0, 0)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("derived", ["x", "white", "out"])
def test_out_and_a_derivative_exclude_each_other(derived, name, basis, rng):
    if (name, derived) == ("expand_field_out", "white"):
        pytest.skip("has no white")
    tensors = {
        "x": torch.randn(2, 3, 4, 6, generator=rng),
        "white": torch.randn(2, 3, 8, 12, generator=rng),
        "key": torch.tensor([1, 2]),
        "out": torch.zeros(2, 3, 8, 12),
    }
    expected = writing(basis, **tensors)[name]().clone()
    tensors["out"].zero_()

    def call(v, **others):
        return writing(basis, **{**tensors, derived: v})[name]()

    watched = tensors[derived].clone().requires_grad_()
    message = "functions with out=... arguments don't support automatic differentiation"
    with pytest.raises(RuntimeError, match=message):
        call(watched)
    with pytest.raises(RuntimeError, match=message):
        func.jvp(call, (tensors[derived],), (tensors[derived],))
    with pytest.raises(RuntimeError, match=message):
        func.grad(lambda v: call(v).sum())(tensors[derived])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        call(forward_ad.make_dual(tensors[derived], tensors[derived]))
    assert not tensors["out"].any()
    with torch.no_grad():  # nothing to derive
        assert torch.equal(call(watched), expected)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", ops.STORAGE)
def test_out_may_be_an_input_or_a_part_of_one(dtype, basis, rng):
    x, white = torch.randn(2, 3, 4, 6, generator=rng).to(dtype), torch.randn(2, 3, 8, 12, generator=rng).to(dtype)
    key, samples = torch.tensor([1, 2]), white.numel()
    expected = {name: f().clone() for name, f in writing(basis, x, white, key, torch.empty_like(white)).items()}

    def inside(tensor, memory, first):
        """The tensor's samples, held in `memory` from `first` on."""
        return memory[first : first + tensor.numel()].view(tensor.shape).copy_(tensor)

    for first in (0, 1, 40, samples // 2, samples - 1, samples):  # of the input, in the memory of out
        memory = torch.zeros(2 * samples, dtype=dtype)
        out = memory[:samples].view_as(white)
        given = writing(basis, x, inside(white, memory, first), key, out)["expand_white_out"]
        assert torch.equal(given(), expected["expand_white_out"])
        for name in WRITING:
            given = writing(basis, inside(x, memory, first), white, key, out)[name]
            assert torch.equal(given(), expected[name])
        # out before and after the input: the other side
        after = memory[samples - first : 2 * samples - first].view_as(white)
        given = writing(basis, x, inside(white, memory, samples), key, after)["expand_white_out"]
        assert torch.equal(given(), expected["expand_white_out"])
    # A strided input within out, and a key whose numbers are out's memory.
    memory = torch.zeros(2 * samples, dtype=dtype)
    out = memory[:samples].view_as(white)
    strided = out[..., :4, ::2].copy_(x)
    assert torch.equal(writing(basis, strided, white, key, out)["expand_field_out"](), expected["expand_field_out"])
    keys = memory[:8].view(torch.int64)[:2].copy_(key)
    assert torch.equal(writing(basis, x, white, keys, out)["expand_field_out"](), expected["expand_field_out"])


@pytest.mark.filterwarnings("ignore:.*double precision:UserWarning")
@pytest.mark.parametrize("basis", BASES)
def test_gradcheck(basis):
    """Linear operations: a large step makes finite differences exact up to float32 rounding. Second derivatives too."""
    options = {"eps": 0.5, "atol": 1e-4, "rtol": 1e-4, "nondet_tol": 0.0}
    x, white = torch.randn(1, 1, 2, 4, requires_grad=True), torch.randn(1, 1, 4, 8, requires_grad=True)
    key = torch.tensor([1])

    for f, inputs in (
        (lambda x: ops.expand_field(x, key, (4, 8), t=0.5, kappa=1.2, basis=basis.name), (x,)),
        (lambda x, w: ops.expand_white(x, w, t=0.5, kappa=1.2, basis=basis.name), (x, white)),
        (lambda x: ops.embed(x, (4, 8), basis=basis.name), (x,)),
        (lambda w: ops.restrict(w, (2, 4), basis=basis.name), (white,)),
    ):
        assert torch.autograd.gradcheck(f, inputs, **options)
        assert torch.autograd.gradgradcheck(f, inputs, **options)


def test_compile_with_dynamic_shapes():
    torch._dynamo.reset()

    def f(x, key, white):
        grown = ops.expand_field(x, key, white.shape[-2:], t=0.5, kappa=1.1) + ops.expand_white(x, white, t=0.5)
        return ops.restrict(grown, x.shape[-2:]) * 2

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, m in ((6, 12), (7, 15)):
        args = torch.randn(2, 3, n, n), torch.tensor([1, 2]), torch.randn(2, 3, m, m)
        assert torch.equal(compiled(*args), f(*args))
    torch._dynamo.reset()


@pytest.mark.parametrize("basis", BASES)
def test_the_bases_compile_whole(basis, rng):
    x = torch.randn(1, 2, 8, 8, generator=rng)

    def up_and_down(x):
        return basis.restrict(basis.embed(x, (16, 16)), (8, 8))

    torch.testing.assert_close(torch.compile(up_and_down, fullgraph=True)(x), x, rtol=0, atol=1e-5)


def test_export():
    class Grow(torch.nn.Module):
        def forward(self, x, key):
            return ops.embed(ops.expand_field(x, key, (16, 16), t=0.5), (16, 20))

    args = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    program = torch.export.export(Grow(), args)
    assert torch.equal(program.module()(*args), Grow()(*args))


@pytest.mark.parametrize("basis", BASES)
def test_vmap(basis, rng):
    x, white = torch.randn(4, 3, 6, 8, generator=rng), torch.randn(3, 4, 12, 16, generator=rng)
    key = torch.arange(4)

    def grow(x, key):
        return ops.expand_field(x, key[None], (12, 16), t=0.5, basis=basis.name)

    assert torch.equal(torch.vmap(grow)(x, key), ops.expand_field(x, key, (12, 16), t=0.5, basis=basis.name))
    for f, in_dims, args in (
        (grow, (None, 0), (x[0], key)),
        (grow, (0, None), (x, key[2])),
        (lambda x, w: ops.expand_white(x, w, t=0.5, basis=basis.name), (0, 1), (x, white)),
        (lambda x: ops.embed(x, (12, 16), basis=basis.name), (0,), (x,)),
        (lambda w: ops.restrict(w, (6, 8), basis=basis.name), (1,), (white,)),
        (lambda k: ops.render(k[None], 2, (6, 8), basis=basis.name), (0,), (key,)),
        (lambda k: ops.normals(k[None], 2, (6, 8)), (0,), (key,)),
        (lambda w: ops.power_map(w, 3), (1,), (white,)),
    ):
        singles = [
            f(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True))) for i in range(4)
        ]
        torch.testing.assert_close(torch.vmap(f, in_dims)(*args), torch.stack(singles), rtol=1e-12, atol=1e-12)


def test_autocast_changes_nothing(rng):
    x = torch.randn(2, 3, 8, 8, generator=rng)
    outside = expand(x, (16, 16), 0.5, noise=NoiseField(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(expand(x, (16, 16), 0.5, noise=NoiseField(3)), outside)


# -- the library takes them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", BASES)
def test_the_library_gives_the_same_with_and_without_them(basis, rng, monkeypatch):
    x, white = torch.randn(2, 3, 8, 12, generator=rng), torch.randn(2, 3, 16, 24, generator=rng)
    calls = []
    for name in ("expand_field", "expand_white", "embed", "restrict", "render", "normals", "power_map"):
        kernel = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, _n=name, _k=kernel, **k: (calls.append(_n), _k(*a, **k))[1])

    def results():
        field = NoiseField(9, basis)
        yield expand_aligned(x, (16, 24), 0.7, noise=field, basis=basis)[0]
        yield expand_aligned(x, (16, 24), 0.7, noise=field, basis=basis, out=torch.empty(2, 3, 16, 24))[0]
        yield expand_aligned(x, (16, 24), 0.7, noise=white, basis=basis)[0]
        yield basis.embed(x, (16, 24))
        yield basis.restrict(white, (8, 12))
        yield field.on((2, 3, 16, 24))
        yield field.on((16, 24))
        yield field.coefficients((2, 3, 16, 24))
        yield torch.tensor(SpectrumMeter((16, 24), basis=DCT).update(white).result().power)

    fast = list(results())
    assert set(calls) == {"expand_field", "expand_white", "embed", "restrict", "render", "normals", "power_map"}
    monkeypatch.setattr(ops, "usable", lambda *a, **k: False)
    calls.clear()
    slow = list(results())
    assert not calls
    for a, b in zip(fast, slow, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < 1e-6


def test_float64_and_other_grids_take_the_torch_path():
    x = torch.zeros(1, 1, 8, 8)
    assert ops.usable("embed", x, grids=((8, 8),))
    assert not ops.usable("embed", x.double(), grids=((8, 8),))
    assert not ops.usable("embed", x, grids=((8,),))
    assert not ops.usable("embed", x, grids=((2, 2 * 1031),))
    assert ops.usable("embed", x, basis="haar", grids=((2, 2 * 1031),))
    assert not ops.usable("embed", x, basis="fourier", grids=((8, 8),))
    assert ops.usable("normals", torch.tensor([1]), grids=((2, 2 * 1031),))
    assert not ops.usable("embed", x.to("meta"), grids=((8, 8),))
    assert DCT.embed(torch.ones(3, 2062), (3, 2063)).shape == (3, 2063)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_devices_without_kernels_take_the_torch_path(device):
    with FakeTensorMode():
        x, here = torch.empty(1, 8, 8, device=device), torch.empty(1, 8, 8, device="cpu")
        key = torch.empty(1, dtype=torch.int64, device=device)
        for name in ("expand_field", "expand_white", "embed", "restrict", "power_map"):
            assert not ops.usable(name, x, grids=((8, 8),))
            assert ops.usable(name, here, grids=((8, 8),))
        assert not ops.usable("render", key, grids=((8, 8),))
        assert not ops.usable("expand_white", here, x, grids=((8, 8),))


def test_build_info_says_what_was_built():
    info = ops.build_info()
    assert set(info) == {"sources", "compiler", "torch", "cpu", "cuda"}
    assert info["cpu"] in ("avx512", "avx2", "baseline")
