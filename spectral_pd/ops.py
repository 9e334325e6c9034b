r"""Typed faces of the native operations; they are an accelerator, everything also runs without them.

With ``U`` the isometry of a basis from a coarse grid to a fine one, ``w`` white noise on the fine grid and ``kappa`` a factor,

====================  ======================================================================  =====================
:func:`expand_field`  ``kappa (U x + t (w - U U^T w))``, ``w`` a noise field made on the fly  in x: embed, restrict
:func:`expand_white`  the same with ``w`` given as a tensor                                   in both
:func:`embed`         ``kappa U x``                                                           embed, restrict
:func:`restrict`      ``kappa U^T x``                                                         restrict, embed
:func:`render`        a noise field on a grid                                                 no inputs to derive
:func:`normals`       the coefficients of a noise field                                       no inputs to derive
:func:`power_map`     squared DCT coefficients of centred planes, summed in float64           refused: not linear
====================  ======================================================================  =====================

The last column: the derivatives, forward and reverse; every linear operation's are operations again, of any order.
The basis is ``"dct"`` or ``"haar"``. The last two axes are spectral; arithmetic is float32 whatever the storage
(float32, bfloat16, float16). Below the faces, ``torch.ops.spectral_pd.*`` have fake kernels, derivatives in both modes and
vmap, so they compile, export, batch and take torch.func; autocast leaves them alone, since they never compute in less than
float32. The contract of each operation is csrc/ops.h, the addressing of the noise csrc/noise.h.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

try:
    import spectral_pd._C as _C  # type: ignore[import-not-found]  # importing it registers torch.ops.spectral_pd

    _missing = ""
except ImportError as error:
    _C = None
    _missing = str(error)

STORAGE = (torch.float32, torch.bfloat16, torch.float16)
"""Types the native operations store; everything else takes the torch path."""

LARGEST_ODD_CORE = 1024
"""A DCT size is halved until it is odd; that odd part is a dense matrix, native up to this size."""


def has_native() -> bool:
    """Whether the compiled operations are there. Without them the library runs on plain torch, with the same results.

    Examples
    --------
    >>> has_native() == ("missing" not in build_info())
    True
    """
    return _C is not None


def build_info() -> dict[str, str]:
    """What was compiled.

    Keys ``sources`` (hash of csrc and setup.py), ``compiler``, ``torch`` (built against), ``cpu`` (instruction set in use),
    ``cuda`` (architectures, empty without); or ``missing``, the reason why there is no extension.

    Examples
    --------
    >>> sorted(build_info())
    ['compiler', 'cpu', 'cuda', 'sources', 'torch']
    """
    return dict(_C.build_info()) if _C is not None else {"missing": _missing}


def usable(name: str, *tensors: Tensor, basis: str = "dct", grids: Sequence[Sequence[int]] = ()) -> bool:
    """Whether the native operation `name` takes these tensors and grids; where not, the torch path computes the same.

    Native are two spectral axes, the DCT and Haar, real storage up to 32 bits, devices the extension was built for, and for
    the DCT sizes whose odd part is at most :data:`LARGEST_ODD_CORE` and, on a GPU, whose lines fit in a block's shared memory.

    Parameters
    ----------
    name
        One of the operations of this module.
    tensors
        Its inputs.
    basis
        Name of the basis.
    grids
        Every grid involved, (height, width) each.

    Examples
    --------
    >>> x = torch.ones(1, 8, 8)
    >>> usable("embed", x, grids=[(8, 8), (16, 16)]), usable("embed", x.double(), grids=[(8, 8), (16, 16)])
    (True, False)
    """
    if _C is None or basis not in ("dct", "haar") or any(len(grid) != 2 or max(grid) >= 2**16 for grid in grids):
        return False
    sizes = [n for grid in grids for n in grid] if basis == "dct" and name != "normals" else []
    if any(n // (n & -n) > LARGEST_ODD_CORE or any(n > _largest(x.device) for x in tensors) for n in sizes):
        return False
    return all(
        (x.dtype in STORAGE or x.dtype == torch.int64) and x.numel() > 0 and _has_kernel(name, x.device.type)
        for x in tensors
    )


def _largest(device: torch.device) -> int:
    """Longest axis of the native DCT: two lines on both grids, tables and buffers in a block (csrc/cuda_launch.cuh)."""
    if device.type != "cuda":
        return 2**16 - 1
    properties = torch.cuda.get_device_properties(device)
    return int((properties.shared_memory_per_block_optin - 96) // 48)  # type: ignore[attr-defined]  # not in torch's stubs


def _has_kernel(name: str, device: str) -> bool:
    if device == "cuda":
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"spectral_pd::{name}", "CUDA"))
    return device == "cpu"


def expand_field(
    x: Tensor,
    key: Tensor,
    shape: Sequence[int],
    *,
    t: float,
    kappa: float = 1.0,
    transition: int = 0,
    basis: str = "dct",
    out: Tensor | None = None,
) -> Tensor:
    """Grow planes to the grid `shape`, the new band filled from a noise field: ``kappa (U x + t (w - U U^T w))``.

    Parameters
    ----------
    x
        Planes (..., h, w), float32, bfloat16 or float16.
    key
        int64 (B,) on x's device: 64-bit key of each item; B divides the number of planes.
    shape
        Fine grid (height, width).
    t, kappa
        Noise level of the new band, and factor of everything.
    transition
        Address in the field: which transition's field (0: the coupled one).
    basis
        ``"dct"``, or ``"haar"``; every axis must then grow by the same power of 2.
    out
        Where to write: contiguous, shape (..., *shape), x's type; an input or a part of one too. Not differentiable.

    Raises
    ------
    RuntimeError
        Shapes, types or addresses outside the above (the message says which).

    Examples
    --------
    >>> keys = torch.tensor([7])
    >>> expand_field(torch.randn(1, 4, 8, 8), keys, (16, 16), t=0.5).shape
    torch.Size([1, 4, 16, 16])
    """
    args = (x, key, shape[0], shape[1], t, kappa, transition, basis)
    return torch.ops.spectral_pd.expand_field(*args) if out is None else _write("expand_field_out", *args, out)


def expand_white(
    x: Tensor, white: Tensor, *, t: float, kappa: float = 1.0, basis: str = "dct", out: Tensor | None = None
) -> Tensor:
    """Grow planes, the new band filled from a given white field: ``kappa (U x + t (w - U U^T w))``.

    Parameters
    ----------
    x
        Planes (..., h, w), float32, bfloat16 or float16.
    white
        White noise (..., H, W) with x's leading axes and type. Differentiable in both.
    t, kappa, basis, out
        As :func:`expand_field`, which also says what is refused.

    Examples
    --------
    >>> grown = expand_white(torch.ones(1, 8, 8), torch.zeros(1, 16, 16), t=0.5, kappa=2.0)
    >>> torch.allclose(grown, torch.tensor(1.0))  # a constant keeps its value when scaled by r
    True
    """
    args = (x, white, t, kappa, basis)
    return torch.ops.spectral_pd.expand_white(*args) if out is None else _write("expand_white_out", *args, out)


def _write(name: str, *args: Any) -> Tensor:
    getattr(torch.ops.spectral_pd, name)(*args)
    return args[-1]


def embed(x: Tensor, shape: Sequence[int], *, kappa: float = 1.0, basis: str = "dct") -> Tensor:
    """``kappa U x``: planes (..., h, w) carried into the grid `shape`, zeros in the new band.

    `basis`, types and errors as :func:`expand_field`.

    Examples
    --------
    >>> embed(torch.ones(1, 8, 8), (16, 16)).square().sum().round().item()  # the energy stays
    64.0
    """
    return torch.ops.spectral_pd.embed(x, shape[0], shape[1], kappa, basis)


def restrict(x: Tensor, shape: Sequence[int], *, kappa: float = 1.0, basis: str = "dct") -> Tensor:
    """``kappa U^T x``: the low band of planes (..., H, W) on the grid `shape`.

    `basis`, types and errors as :func:`expand_field`.

    Examples
    --------
    >>> x = torch.randn(1, 8, 8)
    >>> torch.allclose(restrict(embed(x, (16, 16)), (8, 8)), x, atol=1e-5)
    True
    """
    return torch.ops.spectral_pd.restrict(x, shape[0], shape[1], kappa, basis)


def render(key: Tensor, planes: int, shape: Sequence[int], *, transition: int = 0, basis: str = "dct") -> Tensor:
    """The noise field on the grid `shape`: white noise of unit variance, float32 (B, planes, *shape).

    `key`, `transition`, `basis` and errors as :func:`expand_field`.

    Examples
    --------
    >>> fine, coarse = (render(torch.tensor([7]), 1, shape) for shape in ((16, 16), (8, 8)))
    >>> torch.allclose(restrict(fine, (8, 8)), coarse, atol=1e-5)
    True
    """
    return torch.ops.spectral_pd.render(key, planes, shape[0], shape[1], transition, basis)


def normals(key: Tensor, planes: int, shape: Sequence[int], *, transition: int = 0) -> Tensor:
    """The coefficients of the noise field in any basis: independent standard normals, float32 (B, planes, *shape).

    `key`, `transition` and errors as :func:`expand_field`.

    Examples
    --------
    >>> fine, coarse = (normals(torch.tensor([7]), 1, shape) for shape in ((16, 16), (8, 8)))
    >>> torch.equal(fine[..., :8, :8], coarse)  # bit for bit
    True
    """
    return torch.ops.spectral_pd.normals(key, planes, shape[0], shape[1], transition)


def power_map(x: Tensor, maps: int = 1) -> Tensor:
    """Squared orthonormal DCT coefficients, each plane's mean removed, summed over planes: float64 (maps, h, w).

    Parameters
    ----------
    x
        Planes (..., h, w), float32, bfloat16 or float16.
    maps
        Plane p adds to map p mod `maps`: 1 for one map of all, the number of channels for one map a channel.

    Raises
    ------
    RuntimeError
        Another type, fewer than 2 axes, planes that are no multiple of `maps`; NotImplementedError where it is derived.

    Examples
    --------
    >>> power_map(torch.ones(2, 3, 8, 8), 3).abs().max().item()  # constants have no power
    0.0
    """
    return torch.ops.spectral_pd.power_map(x, maps)


# ---- what the dispatcher needs beyond kernels ------------------------------------------------------------------------


def _register_fakes() -> None:
    def grown(x: Tensor, *grid: Any) -> Tensor:
        return x.new_empty((*x.shape[:-2], *grid[:2]))

    def field(key: Tensor, planes: int, *grid: Any) -> Tensor:
        return key.new_empty((key.shape[0], planes, *grid[:2]), dtype=torch.float32)

    fakes: dict[str, Callable[..., Any]] = {
        "expand_field": lambda x, key, *grid: grown(x, *grid),
        "expand_white": lambda x, white, *_: x.new_empty(white.shape),
        "embed": grown,
        "restrict": grown,
        "render": field,
        "normals": field,
        "power_map": lambda x, maps: x.new_empty((maps, *x.shape[-2:]), dtype=torch.float64),
        "expand_field_out": lambda *_: None,
        "expand_white_out": lambda *_: None,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"spectral_pd::{name}", fake)


def _register_batching() -> None:
    def batch_first(x: Any, dim: int | None, size: int) -> Any:
        """The vmapped axis in front; a tensor without one is repeated (as a view)."""
        if not isinstance(x, Tensor):
            return x
        return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)

    def rule(op: Any) -> Callable[..., tuple[Tensor, int]]:
        names = [argument.name for argument in op.default._schema.arguments]

        def apply(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
            moved = [batch_first(x, dim, info.batch_size) for x, dim in zip(args, in_dims, strict=True)]
            if "key" not in names:  # any leading axes are planes
                return op(*moved), 0
            at = names.index("key")
            items, moved[at] = moved[at].shape, moved[at].flatten()
            return (op(*moved) if at else op(*moved).unflatten(0, items)), 0

        return apply

    def power(info: Any, in_dims: tuple[int | None, ...], x: Tensor, maps: int) -> tuple[Tensor, int]:
        # One map for each vmapped index: behind the other leading axes, plane p belongs to map p mod (maps * size).
        planes = batch_first(x, in_dims[0], info.batch_size)
        planes = planes.reshape(info.batch_size, -1, maps, *planes.shape[-2:]).movedim(0, 1)
        return power_map(planes, info.batch_size * maps).unflatten(0, (info.batch_size, maps)), 0

    op = torch.ops.spectral_pd
    for name in ("expand_field", "expand_white", "embed", "restrict", "render", "normals"):
        torch.library.register_vmap(f"spectral_pd::{name}", rule(getattr(op, name)))
    torch.library.register_vmap("spectral_pd::power_map", power)


def _register_derivatives(library: torch.library.Library) -> None:
    """Forward and reverse derivatives, as kernels of the Autograd key.

    ``torch.library.register_autograd`` has no forward mode (tangents would silently be lost) and refuses torch.func. The
    kernel runs at one level of torch.func at a time, as torch's own do, hence a Function of a single level; nesting,
    vmap and compilation are the dispatcher's.
    """
    op = torch.ops.spectral_pd

    def derive(name: str, tangent: Callable[..., Tensor], cotangent: Callable[..., Any]) -> None:
        kernel = getattr(op, name).default

        class Derivative(_SingleLevelFunction):
            @staticmethod
            def forward(ctx: Any, keys: Any, modes: tuple[bool, bool], *args: Any) -> Tensor:
                ctx.shape, ctx.options = args[0].shape, [a for a in args if not isinstance(a, Tensor)]
                # torch switches modes off around a Function's methods, and back after them; the levels below need them.
                torch._C._set_grad_enabled(modes[0])
                torch._C._set_fwd_grad_enabled(modes[1])
                ctx.forward_mode = modes[1]
                with torch._C._AutoDispatchBelowAutograd():
                    return kernel.redispatch(keys & torch._C._after_autograd_keyset, *args)

            @staticmethod
            def jvp(ctx: Any, _keys: None, _modes: None, *tangents: Any) -> Tensor:
                torch._C._set_fwd_grad_enabled(ctx.forward_mode)
                return tangent(*tangents[: len(tangents) - len(ctx.options)], *ctx.options)

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
                needed = ctx.needs_input_grad[2:]
                of_tensors = cotangent(grad, ctx.shape, needed, *ctx.options)
                return None, None, *of_tensors, *(None,) * (len(needed) - len(of_tensors))

        def autograd(keys: Any, *args: Any) -> Tensor:
            modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
            if not torch._C._are_functorch_transforms_active():
                return Derivative.apply(keys, modes, *args)  # type: ignore[attr-defined]
            with enable_single_level_autograd_function():
                return Derivative.apply(keys, modes, *args)  # type: ignore[attr-defined]

        library.impl(name, autograd, "Autograd", with_keyset=True)

    def of_white(grad: Tensor, shape: Any, needed: Any, t: float, kappa: float, basis: str) -> Any:
        of_x = op.restrict(grad, *shape[-2:], kappa, basis) if needed[0] else None
        # t (1 - U U^T) is its own transpose.
        return of_x, op.expand_white(grad.new_zeros(shape), grad, t, kappa, basis) if needed[1] else None

    def refuse(*_: Any) -> Any:
        raise NotImplementedError("power_map cannot be differentiated; use basis.forward(x - mean).square() instead")

    derive(
        "expand_field",
        lambda x, key, height, width, t, kappa, transition, basis: op.embed(x, height, width, kappa, basis),
        lambda grad, shape, _, *options: (op.restrict(grad, *shape[-2:], options[3], options[5]),),
    )
    derive("expand_white", op.expand_white, of_white)
    derive("embed", op.embed, lambda grad, shape, _, *options: (op.restrict(grad, *shape[-2:], *options[2:]),))
    derive("restrict", op.restrict, lambda grad, shape, _, *options: (op.embed(grad, *shape[-2:], *options[2:]),))
    derive("power_map", refuse, refuse)


def _register_writing(library: torch.library.Library) -> None:
    """What torch does for operations that write: no derivatives through them, and memory that knows it was changed."""

    def write(name: str) -> None:
        kernel = getattr(torch.ops.spectral_pd, name).default

        def autograd(keys: Any, *args: Any) -> None:
            if (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)) or _any_tangent(args):
                raise RuntimeError(
                    f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of "
                    f"the arguments requires grad"
                )
            with torch._C._AutoDispatchBelowAutograd():
                kernel.redispatch(keys & torch._C._after_autograd_keyset, *args)

        def bump(keys: Any, *args: Any) -> None:
            kernel.redispatch(keys & torch._C._after_ADInplaceOrView_keyset, *args)
            torch.autograd.graph.increment_version(args[-1])

        library.impl(name, autograd, "Autograd", with_keyset=True)
        library.impl(name, bump, "ADInplaceOrView", with_keyset=True)

    write("expand_field_out")
    write("expand_white_out")


def _any_tangent(args: Sequence[Any]) -> bool:
    if forward_ad._current_level < 0 and not (
        torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
    ):
        return False  # asking costs more than a small operation
    tensors = (a for a in args if isinstance(a, Tensor) and a.is_floating_point())
    return any(torch._VF._unpack_dual(a, level=0).tangent is not None for a in tensors)


def _check_instruction_set() -> None:
    """csrc/cpu_dispatch.cpp takes the best instruction set where the one asked for cannot run; never in silence."""
    forced, used = os.environ.get("SPECTRAL_PD_CPU"), build_info()["cpu"]
    if forced and forced != used:
        warnings.warn(
            f"SPECTRAL_PD_CPU = {forced!r} cannot run here; allowed are 'baseline', 'avx2' and 'avx512' as far as the "
            f"processor has them; using {used!r}",
            RuntimeWarning,
            stacklevel=2,
        )


if has_native():
    _library = torch.library.Library("spectral_pd", "IMPL")
    _register_fakes()
    _register_batching()
    _register_derivatives(_library)
    _register_writing(_library)
    _check_instruction_set()
