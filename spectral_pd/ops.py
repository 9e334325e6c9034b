r"""Typed faces of the native operations; they are an accelerator, everything also runs without them.

With ``U`` the isometry of a basis from a coarse grid to a fine one, ``w`` white noise on the fine grid and ``kappa`` a scale,

====================  ======================================================================  =====================
:func:`expand_field`  ``kappa (U x + t (w - U U^T w))``, ``w`` a noise field made on the fly  backward: ``kappa U^T``
:func:`expand_white`  the same with ``w`` given as a tensor                                   backward: both inputs
:func:`embed`         ``kappa U x``                                                           backward: restrict
:func:`restrict`      ``kappa U^T x``                                                         backward: embed
:func:`render`        a noise field on a grid                                                 no inputs to derive
:func:`normals`       the coefficients of a noise field                                       no inputs to derive
:func:`power_map`     squared DCT coefficients of centred planes, summed in float64           not differentiable
====================  ======================================================================  =====================

The basis is the DCT or, with ``haar=True``, Haar. The last two axes are spectral; arithmetic is float32 whatever the storage
(float32, bfloat16, float16). Below the faces, ``torch.ops.spectral_pd.*`` have fake kernels, autograd and vmap, so they
compile, export and batch; autocast leaves them alone, since they never compute in less than float32. The contract of each
operation is csrc/ops.h, the addressing of the noise csrc/noise.h.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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

    Keys ``compiler``, ``torch`` (built against), ``cpu`` (instruction set in use), ``cuda`` (architectures, empty without);
    or ``missing``, the reason why there is no extension.

    Examples
    --------
    >>> sorted(build_info())
    ['compiler', 'cpu', 'cuda', 'torch']
    """
    return dict(_C.build_info()) if _C is not None else {"missing": _missing}


def usable(name: str, *tensors: Tensor, haar: bool = False, grids: Sequence[Sequence[int]] = ()) -> bool:
    """Whether the native operation `name` takes these tensors and grids; where not, the torch path computes the same.

    Native are two spectral axes, real storage up to 32 bits, devices the extension was built for, and for the DCT sizes
    whose odd part is at most :data:`LARGEST_ODD_CORE` and, on a GPU, whose lines fit in a block's shared memory.

    Parameters
    ----------
    name
        One of the operations of this module.
    tensors
        Its inputs.
    haar
        Haar instead of DCT.
    grids
        Every grid involved, (height, width) each.

    Examples
    --------
    >>> x = torch.ones(1, 8, 8)
    >>> usable("embed", x, grids=[(8, 8), (16, 16)]), usable("embed", x.double(), grids=[(8, 8), (16, 16)])
    (True, False)
    """
    if _C is None or any(len(grid) != 2 or max(grid) >= 2**16 for grid in grids):
        return False
    sizes = [] if haar else [n for grid in grids for n in grid]
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
    scale: float = 1.0,
    transition: int = 0,
    first_plane: int = 0,
    haar: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Grow planes to the grid `shape`, the new band filled from a noise field: ``scale (U x + t (w - U U^T w))``.

    Parameters
    ----------
    x
        Planes (..., h, w), float32, bfloat16 or float16.
    key
        int64 (B,) on x's device: 64-bit key of each item; B divides the number of planes.
    shape
        Fine grid (height, width).
    t, scale
        Noise level of the new band, and factor of everything.
    transition, first_plane
        Address in the field: which transition's field (0: the coupled one), and the number of an item's first plane.
    haar
        Haar instead of DCT; every axis must then grow by the same power of 2.
    out
        Where to write: contiguous, shape (..., *shape), x's type. Not differentiable.

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
    op = torch.ops.spectral_pd
    address = (shape[0], shape[1], t, scale, transition, first_plane, haar)
    if out is None:
        return op.expand_field(x, key, *address)
    op.expand_field_out(x, key, *address, out)
    return out


def expand_white(
    x: Tensor, white: Tensor, *, t: float, scale: float = 1.0, haar: bool = False, out: Tensor | None = None
) -> Tensor:
    """Grow planes, the new band filled from a given white field: ``scale (U x + t (w - U U^T w))``.

    Parameters
    ----------
    x
        Planes (..., h, w), float32, bfloat16 or float16.
    white
        White noise (..., H, W) with x's leading axes and type. Differentiable in both.
    t, scale, haar, out
        As :func:`expand_field`, which also says what is refused.

    Examples
    --------
    >>> grown = expand_white(torch.ones(1, 8, 8), torch.zeros(1, 16, 16), t=0.5, scale=2.0)
    >>> torch.allclose(grown, torch.tensor(1.0))  # a constant keeps its value when scaled by r
    True
    """
    op = torch.ops.spectral_pd
    if out is None:
        return op.expand_white(x, white, t, scale, haar)
    op.expand_white_out(x, white, t, scale, haar, out)
    return out


def embed(x: Tensor, shape: Sequence[int], *, scale: float = 1.0, haar: bool = False) -> Tensor:
    """``scale U x``: planes (..., h, w) carried into the grid `shape`, zeros in the new band.

    `haar`, types and errors as :func:`expand_field`.

    Examples
    --------
    >>> embed(torch.ones(1, 8, 8), (16, 16)).square().sum().round().item()  # the energy stays
    64.0
    """
    return torch.ops.spectral_pd.embed(x, shape[0], shape[1], scale, haar)


def restrict(x: Tensor, shape: Sequence[int], *, scale: float = 1.0, haar: bool = False) -> Tensor:
    """``scale U^T x``: the low band of planes (..., H, W) on the grid `shape`.

    `haar`, types and errors as :func:`expand_field`.

    Examples
    --------
    >>> x = torch.randn(1, 8, 8)
    >>> torch.allclose(restrict(embed(x, (16, 16)), (8, 8)), x, atol=1e-5)
    True
    """
    return torch.ops.spectral_pd.restrict(x, shape[0], shape[1], scale, haar)


def render(
    key: Tensor, planes: int, shape: Sequence[int], *, transition: int = 0, first_plane: int = 0, haar: bool = False
) -> Tensor:
    """The noise field on the grid `shape`: white noise of unit variance, float32 (B, planes, *shape).

    `key`, `transition`, `first_plane`, `haar` and errors as :func:`expand_field`.

    Examples
    --------
    >>> fine, coarse = (render(torch.tensor([7]), 1, shape) for shape in ((16, 16), (8, 8)))
    >>> torch.allclose(restrict(fine, (8, 8)), coarse, atol=1e-5)
    True
    """
    return torch.ops.spectral_pd.render(key, planes, shape[0], shape[1], transition, first_plane, haar)


def normals(key: Tensor, planes: int, shape: Sequence[int], *, transition: int = 0, first_plane: int = 0) -> Tensor:
    """The coefficients of the noise field in any basis: independent standard normals, float32 (B, planes, *shape).

    `key`, `transition`, `first_plane` and errors as :func:`expand_field`.

    Examples
    --------
    >>> fine, coarse = (normals(torch.tensor([7]), 1, shape) for shape in ((16, 16), (8, 8)))
    >>> torch.equal(fine[..., :8, :8], coarse)  # bit for bit
    True
    """
    return torch.ops.spectral_pd.normals(key, planes, shape[0], shape[1], transition, first_plane)


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
        Another type, fewer than 2 axes, planes that are no multiple of `maps`.

    Examples
    --------
    >>> power_map(torch.ones(2, 3, 8, 8), 3).abs().max().item()  # constants have no power
    0.0
    """
    return torch.ops.spectral_pd.power_map(x, maps)


# ---- what the dispatcher needs beyond kernels ------------------------------------------------------------------------


def _grown(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((*x.shape[:-2], height, width))


def _expand_field_fake(
    x: Tensor,
    key: Tensor,
    height: int,
    width: int,
    t: float,
    scale: float,
    transition: int,
    first_plane: int,
    haar: bool,
) -> Tensor:
    return _grown(x, height, width)


def _expand_white_fake(x: Tensor, white: Tensor, t: float, scale: float, haar: bool) -> Tensor:
    return x.new_empty(white.shape)


def _resize_fake(x: Tensor, height: int, width: int, scale: float, haar: bool) -> Tensor:
    return _grown(x, height, width)


def _render_fake(
    key: Tensor, planes: int, height: int, width: int, transition: int, first_plane: int, haar: bool = False
) -> Tensor:
    return key.new_empty((key.shape[0], planes, height, width), dtype=torch.float32)


def _power_map_fake(x: Tensor, maps: int) -> Tensor:
    return x.new_empty((maps, *x.shape[-2:]), dtype=torch.float64)


def _no_result(*_: Any) -> None:
    return None


def _save_field(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.grid, ctx.scale, ctx.haar = inputs[0].shape[-2:], inputs[5], inputs[8]


def _expand_field_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return restrict(grad, ctx.grid, scale=ctx.scale, haar=ctx.haar), *(None,) * 8


def _save_white(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, ctx.t, ctx.scale, ctx.haar = inputs
    ctx.shape = x.shape


def _expand_white_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x = of_white = None
    if ctx.needs_input_grad[0]:
        of_x = restrict(grad, ctx.shape[-2:], scale=ctx.scale, haar=ctx.haar)
    if ctx.needs_input_grad[1]:  # t (1 - U U^T) is its own transpose
        of_white = expand_white(grad.new_zeros(ctx.shape), grad, t=ctx.t, scale=ctx.scale, haar=ctx.haar)
    return of_x, of_white, None, None, None


def _save_resize(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, _, ctx.scale, ctx.haar = inputs
    ctx.grid = x.shape[-2:]


def _embed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return restrict(grad, ctx.grid, scale=ctx.scale, haar=ctx.haar), None, None, None, None


def _restrict_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return embed(grad, ctx.grid, scale=ctx.scale, haar=ctx.haar), None, None, None, None


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    """The vmapped axis in front; a tensor without one is repeated (as a view)."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _expand_field_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, key: Tensor, *args: Any
) -> tuple[Tensor, int]:
    x = _batch_first(x, in_dims[0], info.batch_size)
    key = _batch_first(key, in_dims[1], info.batch_size).reshape(-1)
    return torch.ops.spectral_pd.expand_field(x, key, *args), 0


def _expand_white_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, white: Tensor, *args: Any
) -> tuple[Tensor, int]:
    x, white = (_batch_first(v, d, info.batch_size) for v, d in zip((x, white), in_dims[:2], strict=True))
    return torch.ops.spectral_pd.expand_white(x, white, *args), 0


def _embed_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *args: Any) -> tuple[Tensor, int]:
    return torch.ops.spectral_pd.embed(_batch_first(x, in_dims[0], info.batch_size), *args), 0


def _restrict_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *args: Any) -> tuple[Tensor, int]:
    return torch.ops.spectral_pd.restrict(_batch_first(x, in_dims[0], info.batch_size), *args), 0


def _render_vmap(info: Any, in_dims: tuple[int | None, ...], key: Tensor, *args: Any) -> tuple[Tensor, int]:
    key = _batch_first(key, in_dims[0], info.batch_size)
    return torch.ops.spectral_pd.render(key.reshape(-1), *args).unflatten(0, tuple(key.shape)), 0


def _normals_vmap(info: Any, in_dims: tuple[int | None, ...], key: Tensor, *args: Any) -> tuple[Tensor, int]:
    key = _batch_first(key, in_dims[0], info.batch_size)
    return torch.ops.spectral_pd.normals(key.reshape(-1), *args).unflatten(0, tuple(key.shape)), 0


def _power_map_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, maps: int) -> tuple[Tensor, int]:
    # One map for each vmapped index: with it behind the other leading axes, plane p belongs to map p mod (maps * size).
    x = _batch_first(x, in_dims[0], info.batch_size)
    planes = x.reshape(info.batch_size, -1, maps, *x.shape[-2:]).movedim(0, 1)
    return torch.ops.spectral_pd.power_map(planes, info.batch_size * maps).unflatten(0, (info.batch_size, maps)), 0


def _register() -> None:
    library = torch.library
    fakes: dict[str, Callable[..., Any]] = {
        "expand_field": _expand_field_fake,
        "expand_field_out": _no_result,
        "expand_white": _expand_white_fake,
        "expand_white_out": _no_result,
        "embed": _resize_fake,
        "restrict": _resize_fake,
        "render": _render_fake,
        "normals": _render_fake,
        "power_map": _power_map_fake,
    }
    for name, fake in fakes.items():
        library.register_fake(f"spectral_pd::{name}", fake)
    backwards = {
        "expand_field": (_expand_field_backward, _save_field),
        "expand_white": (_expand_white_backward, _save_white),
        "embed": (_embed_backward, _save_resize),
        "restrict": (_restrict_backward, _save_resize),
    }
    for name, (backward, save) in backwards.items():
        library.register_autograd(f"spectral_pd::{name}", backward, setup_context=save)
    batched: dict[str, Callable[..., Any]] = {
        "expand_field": _expand_field_vmap,
        "expand_white": _expand_white_vmap,
        "embed": _embed_vmap,
        "restrict": _restrict_vmap,
        "render": _render_vmap,
        "normals": _normals_vmap,
        "power_map": _power_map_vmap,
    }
    for name, rule in batched.items():
        library.register_vmap(f"spectral_pd::{name}", rule)


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
    _register()
    _check_instruction_set()
