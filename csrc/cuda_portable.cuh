// What the CUDA kernels stand on: compiled by nvcc for the GPU, and by g++ with SPD_EMULATE under tests/emu/emulator.h.
//
// The language of the kernels is CUDA less a few things, so that one source serves both: shared memory through
// SPD_SHARED_MEMORY, launches through launch(), one-dimensional blocks and grids, no __syncthreads() in divergent code, no
// warp-synchronous code without __syncwarp(), nothing between blocks. Torch-free.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(SPD_EMULATE)
#include "emu/emulator.h"
#define SPD_UNROLL
#else
#include <cuda_runtime.h>
#define SPD_UNROLL _Pragma("unroll")
#define SPD_SHARED_MEMORY(name) extern __shared__ __align__(16) float name[]
#endif

#include "noise.h"
#include "ops.h"

namespace spd {

constexpr int kThreads = 256;       // of every block
constexpr int kResidentBlocks = 4;  // a multiprocessor should hold: leaves 64 registers a thread, which nothing exceeds

// Launches of one stream run in order: each sees what those before it wrote.
template <class Kernel, class Args>
void launch(Kernel kernel, int64_t blocks, size_t shared_bytes, cudaStream_t stream, const Args& args) {
  const unsigned grid = blocks < int64_t{1} << 31 ? static_cast<unsigned>(blocks) : 0;  // 0: an error, which the caller reports
#if defined(SPD_EMULATE)
  emu::launch(kernel, grid, kThreads, shared_bytes, stream, args);
#else
  if (shared_bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  // clang-format off
  kernel<<<grid, kThreads, shared_bytes, stream>>>(args);
  // clang-format on
#endif
}

// ---- storage ----------------------------------------------------------------------------------------------------------

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

SPD_HD float to_float(float x) { return x; }
SPD_HD float to_float(Bfloat16 x) { return Scalar::from_bits(static_cast<uint32_t>(x.bits) << 16); }
SPD_HD float to_float(Float16 x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  _Float16 y;
  std::memcpy(&y, &x, sizeof y);
  return static_cast<float>(y);
#endif
}

// Round to nearest, ties to even; a NaN stays one.
SPD_HD void from_float(float x, float& out) { out = x; }
SPD_HD void from_float(float x, Bfloat16& out) {
  const uint32_t b = Scalar::bits(x);
  const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
  out.bits = static_cast<uint16_t>(nan ? (b >> 16) | 0x40u : (b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}
SPD_HD void from_float(float x, Float16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const _Float16 y = static_cast<_Float16>(x);
  std::memcpy(&out, &y, sizeof y);
#endif
}

// body(T{}) for the type T of a storage.
template <class Body>
__device__ inline void with_storage(Storage storage, const Body& body) {
  switch (storage) {
    case Storage::kFloat32:
      return body(float{});
    case Storage::kBfloat16:
      return body(Bfloat16{});
    case Storage::kFloat16:
      return body(Float16{});
  }
}

// ---- the field --------------------------------------------------------------------------------------------------------

struct FieldArgs {
  const int64_t* keys;  // one an item, on the device
  int64_t planes;       // planes an item
  uint32_t transition;
};

__device__ inline FieldPlane field_plane(const FieldArgs& field, int64_t plane) {
  return {static_cast<uint64_t>(field.keys[plane / field.planes]), static_cast<uint32_t>(plane % field.planes),
          field.transition};
}

// q.n[i] without an array in memory.
__device__ inline float pick(const Quad& q, uint32_t i) {
  const float low = i & 1 ? q.n[1] : q.n[0], high = i & 1 ? q.n[3] : q.n[2];
  return i & 2 ? high : low;
}

// Four neighbouring normals of row u from column v on, wherever v is.
__device__ inline Quad normals_from(const FieldPlane& at, uint32_t u, uint32_t v, float sigma) {
  const Quad low = noise_quad(at, 0, u, v / 4, sigma);
  const uint32_t shift = v % 4;
  if (shift == 0) return low;
  const Quad high = noise_quad(at, 0, u, v / 4 + 1, sigma);
  Quad q;
  SPD_UNROLL
  for (uint32_t i = 0; i < 4; ++i) q.n[i] = shift + i < 4 ? pick(low, shift + i) : pick(high, shift + i);
  return q;
}

}  // namespace spd
