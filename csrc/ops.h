// The contract of the native operations, shared by ops.cpp (schemas, checks, CPU) and the CUDA launcher.
//
// Every operation works on planes: x of shape (..., h, w) is a stack of h x w grids, the last two axes spectral. Storage is
// float32, bfloat16 or float16; all arithmetic and accumulation is float32, squares are summed in float64, results are rounded
// once. The basis is "dct" or "haar" (spectral_pd/bases.py). U is the isometry of the basis from the coarse grid to the fine
// one, w white noise on the fine grid, kappa a factor.
//
//   expand_field      kappa (U x + t (w - U U^T w)), w the noise field of noise.h: only its new coefficients are generated.
//                     key: int64[B], one an item; B divides the planes of x.
//   expand_white      the same with w given as a tensor on the fine grid.
//   embed             kappa U x: no noise at all.
//   restrict          kappa U^T x; embed and restrict are each other's backward.
//   render            the noise field on a grid, float32 (B, planes, h, w): white noise of unit variance.
//   normals           its coefficients themselves, float32 (B, planes, h, w).
//   power_map         sums over planes of squared DCT coefficients of each plane, mean removed: float64 (maps, h, w), plane p
//                     in map p mod maps.
//
// *_out variants write into a contiguous `out` of the result's shape and type, which may overlap any input, and return nothing.
// All but power_map are linear in their planes, so that each derivative is one of them: of expand_* in x, forward kappa U v =
// embed and backward kappa U^T g = restrict; in w, both expand_white(0, ., t, kappa), the projector being its own transpose.
// Derivatives, fake kernels and vmap are registered from Python (spectral_pd/ops.py).
#pragma once
#include <string_view>

namespace spd {

constexpr const char* kSchemas[] = {
    "expand_field(Tensor x, Tensor key, int height, int width, float t, float kappa, int transition, str basis) -> Tensor",
    "expand_field_out(Tensor x, Tensor key, int height, int width, float t, float kappa, int transition, str basis, "
    "Tensor(a!) out) -> ()",
    "expand_white(Tensor x, Tensor white, float t, float kappa, str basis) -> Tensor",
    "expand_white_out(Tensor x, Tensor white, float t, float kappa, str basis, Tensor(a!) out) -> ()",
    "embed(Tensor x, int height, int width, float kappa, str basis) -> Tensor",
    "restrict(Tensor x, int height, int width, float kappa, str basis) -> Tensor",
    "render(Tensor key, int planes, int height, int width, int transition, str basis) -> Tensor",
    "normals(Tensor key, int planes, int height, int width, int transition) -> Tensor",
    "power_map(Tensor x, int maps) -> Tensor",
};

enum class Basis : int { kDct, kHaar };
constexpr std::string_view kBases[] = {"dct", "haar"};  // in the order of the enum

enum class Storage : int { kFloat32, kBfloat16, kFloat16 };

constexpr int kLargestOddCore = 1024;  // odd part of a size, beyond which dense matrices stop making sense

}  // namespace spd
