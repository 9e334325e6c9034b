// Shapes and argument checks of the native operations, the same on every device: a bad call fails with the same words.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ops.h"

namespace spd {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int odd_part(int64_t n) {
  while (n % 2 == 0) n /= 2;
  return static_cast<int>(n);
}

inline Storage storage_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Storage::kFloat32;
    case ScalarType::BFloat16:
      return Storage::kBfloat16;
    case ScalarType::Half:
      return Storage::kFloat16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16 for the native operations");
  }
  return Storage::kFloat32;
}

inline Basis basis_named(const std::string& name) {
  for (const Basis basis : {Basis::kDct, Basis::kHaar})
    if (name == kBases[static_cast<int>(basis)]) return basis;
  STD_TORCH_CHECK(false, "basis = '", name, "' must be 'dct' or 'haar' for the native operations");
  return Basis::kDct;
}

struct Grid {
  int64_t planes;
  int rows, columns;
};

inline Grid grid_of(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() >= 2, name, " must have at least 2 axes, the last two spectral; it has ", x.dim());
  const int64_t rows = x.size(x.dim() - 2), columns = x.size(x.dim() - 1);
  STD_TORCH_CHECK(rows >= 1 && columns >= 1 && rows < 65536 && columns < 65536, name, " has a grid of ", rows, " x ", columns,
                  "; each axis must have between 1 and 65535 samples");
  int64_t planes = 1;
  for (int64_t i = 0; i < x.dim() - 2; ++i) planes *= x.size(i);
  return {planes, static_cast<int>(rows), static_cast<int>(columns)};
}

inline void check_pair(Basis basis, int64_t coarse, int64_t fine) {
  if (basis == Basis::kHaar) {
    const int64_t factor = coarse > 0 ? fine / coarse : 0;
    STD_TORCH_CHECK(factor >= 1 && factor * coarse == fine && (factor & (factor - 1)) == 0, "haar basis: an axis of ", coarse,
                    " cannot grow to ", fine, "; the ratio must be a power of 2");
  } else {
    STD_TORCH_CHECK(coarse >= 1 && coarse <= fine && fine < 65536, "dct basis: an axis of ", coarse, " cannot grow to ", fine,
                    "; sizes must not decrease");
    STD_TORCH_CHECK(odd_part(coarse) <= kLargestOddCore && odd_part(fine) <= kLargestOddCore,
                    "dct basis: the odd part of the sizes ", coarse, ", ", fine, " must not exceed ", kLargestOddCore,
                    "; use the torch path");
  }
}

inline void check_key(const Tensor& key, int64_t planes) {
  STD_TORCH_CHECK(key.dim() == 1 && key.scalar_type() == ScalarType::Long, "key must be a one-dimensional int64 tensor");
  STD_TORCH_CHECK(key.size(0) >= 1 && planes % key.size(0) == 0, "key has ", key.size(0), " items, but x has ", planes,
                  " planes, which they do not divide");
}

inline void check_transition(int64_t transition) {
  STD_TORCH_CHECK(transition >= 0 && transition < 65536, "transition = ", transition, " must be in [0, 65535]");
}

inline std::vector<int64_t> with_grid(const Tensor& x, int64_t rows, int64_t columns) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < x.dim() - 2; ++i) shape.push_back(x.size(i));
  shape.push_back(rows);
  shape.push_back(columns);
  return shape;
}

inline void check_out(const Tensor& out, const Tensor& x, const std::vector<int64_t>& shape) {
  bool same = out.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = out.size(static_cast<int64_t>(i)) == shape[i];
  STD_TORCH_CHECK(same, "out must have x's leading axes and the fine grid");
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type(), "out must have the type of x");
  STD_TORCH_CHECK(out.is_contiguous(), "out must be contiguous");
}

// The samples of an input, contiguous, in memory that writing `out` leaves alone: a copy of those that are not, so that `out`
// may be an input or a part of one.
inline Tensor readable(const Tensor& input, const Tensor& out) {
  const Tensor dense = torch::stable::contiguous(input);
  const auto begin = [](const Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()); };
  const auto bytes = [](const Tensor& x) { return static_cast<uintptr_t>(x.numel()) * x.element_size(); };
  const bool apart = begin(dense) + bytes(dense) <= begin(out) || begin(out) + bytes(out) <= begin(dense);
  return apart ? dense : torch::stable::clone(dense);
}

inline Tensor new_field(const Tensor& key, int64_t planes, int64_t rows, int64_t columns, int64_t transition) {
  check_key(key, planes * std::max<int64_t>(1, key.numel()));
  check_transition(transition);
  STD_TORCH_CHECK(planes >= 0 && rows >= 1 && columns >= 1 && rows < 65536 && columns < 65536, "planes = ", planes,
                  ", grid = ", rows, " x ", columns, ": each grid axis must have between 1 and 65535 samples");
  return torch::stable::new_empty(key, {key.size(0), planes, rows, columns}, ScalarType::Float);
}

}  // namespace spd
