// Haar kernels, any number of levels in one pass, and the field's normals themselves.
//
// One level turns the low band a (n rows, m columns) and the details at packed places into 2 x 2 blocks:
//
//   out(2r + i, 2c + j) = (a + s_j l + s_i h + s_i s_j d) / 2,   s_0 = 1, s_1 = -1
//   l at (r, m + c),  h at (n + r, c),  d at (n + r, m + c)
#pragma once
#include "cuda_portable.cuh"

namespace spd {

struct HaarArgs {
  int coarse[2], fine[2];  // rows, columns
  int levels;
  bool packs;             // rows of `out` are whole, aligned groups of eight samples
  Storage storage;        // of all planes
  const void* on_coarse;  // planes; null: the field's own lowest coefficients
  const void* on_fine;    // planes, or null
  void* out;
  float kappa, t, sigma;  // sigma = kappa * t
  FieldArgs noise;
  int64_t planes;
};

// Eight neighbouring samples, 16 bytes at a time.
template <class T>
struct alignas(16) Pack {
  T sample[16 / sizeof(T)];
};
template <class T>
__device__ inline void store_packs(const float (&samples)[8], T* to) {
  constexpr int kEach = 16 / sizeof(T);
  SPD_UNROLL
  for (int first = 0; first < 8; first += kEach) {
    Pack<T> pack;
    SPD_UNROLL
    for (int i = 0; i < kEach; ++i) from_float(samples[first + i], pack.sample[i]);
    *reinterpret_cast<Pack<T>*>(to + first) = pack;
  }
}

template <class T>
__device__ inline void expand_field_samples(const HaarArgs& a) {
  const int w = a.coarse[1], H = a.fine[0], W = a.fine[1], rows = H / 2, columns = W / 2, groups = (columns + 3) / 4;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.planes * rows * groups) return;
  const int64_t plane = i / (int64_t{rows} * groups);
  const int within = static_cast<int>(i % (int64_t{rows} * groups)), u = within / groups, v = within % groups * 4;
  const FieldPlane at = field_plane(a.noise, plane);
  const int top = a.levels - 1;  // u, v are on the grid of this level

  float low[4], upper[8], lower[8];
  const int u0 = u >> top, v0 = v >> top;
  Quad lowest{};
  if (!a.on_coarse) lowest = normals_from(at, static_cast<uint32_t>(u0), static_cast<uint32_t>(v0), a.sigma);
  SPD_UNROLL
  for (int k = 0; k < 4; ++k) {
    const int c = (v + k) >> top;
    if (!a.on_coarse)
      low[k] = pick(lowest, static_cast<uint32_t>(c - v0));
    else if (c < w)
      low[k] = a.kappa * to_float(static_cast<const T*>(a.on_coarse)[(plane * a.coarse[0] + u0) * w + c]);
    else
      low[k] = 0.0f;
  }
  for (int level = 0; level < a.levels; ++level) {
    const int shift = top - level, n = a.coarse[0] << level, m = w << level, r = u >> shift, c0 = v >> shift;
    const Quad l = normals_from(at, static_cast<uint32_t>(r), static_cast<uint32_t>(m + c0), a.sigma);
    const Quad h = normals_from(at, static_cast<uint32_t>(n + r), static_cast<uint32_t>(c0), a.sigma);
    const Quad d = normals_from(at, static_cast<uint32_t>(n + r), static_cast<uint32_t>(m + c0), a.sigma);
    SPD_UNROLL
    for (int k = 0; k < 4; ++k) {
      const uint32_t j = static_cast<uint32_t>(((v + k) >> shift) - c0);
      const float lj = pick(l, j), hj = pick(h, j), dj = pick(d, j);
      if (level < top) {  // the one of four that leads to (u, v + k)
        const float si = u >> (shift - 1) & 1 ? -1.0f : 1.0f, sj = (v + k) >> (shift - 1) & 1 ? -1.0f : 1.0f;
        low[k] = 0.5f * (low[k] + sj * lj + si * (hj + sj * dj));
      } else {
        const float p = low[k] + lj, q = low[k] - lj, y = hj + dj, z = hj - dj;
        upper[2 * k] = 0.5f * (p + y);
        upper[2 * k + 1] = 0.5f * (q + z);
        lower[2 * k] = 0.5f * (p - y);
        lower[2 * k + 1] = 0.5f * (q - z);
      }
    }
  }
  T* out = static_cast<T*>(a.out) + (plane * H + 2 * u) * W + 2 * v;
  if (a.packs) {
    store_packs(upper, out);
    store_packs(lower, out + W);
  } else {
    SPD_UNROLL
    for (int k = 0; k < 8; ++k) {
      if (2 * v + k >= W) break;
      from_float(upper[k], out[k]);
      from_float(lower[k], out[W + k]);
    }
  }
}

// kappa (U x + t (w - U U^T w)), w a noise field. A thread makes 2 x 8 samples: four low values of the finest level, which it
// carries down all coarser levels in registers, and three quads of details a level.
static __global__ void __launch_bounds__(kThreads) haar_expand_field(const __grid_constant__ HaarArgs a) {
  with_storage(a.storage, [&](auto type) { expand_field_samples<decltype(type)>(a); });
}

// One coarse sample a thread and the block of the fine grid that belongs to it, on which U x is constant and U U^T w the mean.
struct HaarBlock {
  int64_t coarse, fine;  // index of the sample, of the block's first one
  int rows, columns;
  float norm;  // (rows * columns)^{-1/2}
};
__device__ inline bool haar_block(const HaarArgs& a, HaarBlock& b) {
  b.coarse = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t samples = int64_t{a.coarse[0]} * a.coarse[1];
  if (b.coarse >= a.planes * samples) return false;
  const int64_t plane = b.coarse / samples;
  const int within = static_cast<int>(b.coarse % samples), u = within / a.coarse[1], v = within % a.coarse[1];
  b.rows = a.fine[0] / a.coarse[0];
  b.columns = a.fine[1] / a.coarse[1];
  b.fine = (plane * a.fine[0] + int64_t{u} * b.rows) * a.fine[1] + int64_t{v} * b.columns;
  b.norm = sqrtf(1.0f / static_cast<float>(b.rows * b.columns));
  return true;
}
template <class T>
__device__ inline float block_total(const HaarArgs& a, const HaarBlock& b) {
  const T* fine = static_cast<const T*>(a.on_fine) + b.fine;
  float total = 0.0f;
  for (int i = 0; i < b.rows; ++i) {
    float row = 0.0f;
    for (int j = 0; j < b.columns; ++j) row += to_float(fine[int64_t{i} * a.fine[1] + j]);
    total += row;
  }
  return total;
}

template <class T>
__device__ inline void expand_white_block(const HaarArgs& a, const HaarBlock& b) {
  const float mean = a.on_fine ? b.norm * b.norm * block_total<T>(a, b) : 0.0f;
  const float level = a.kappa * b.norm * to_float(static_cast<const T*>(a.on_coarse)[b.coarse]);
  for (int i = 0; i < b.rows; ++i)
    for (int j = 0; j < b.columns; ++j) {
      const int64_t at = b.fine + int64_t{i} * a.fine[1] + j;
      const float noise = a.on_fine ? a.sigma * (to_float(static_cast<const T*>(a.on_fine)[at]) - mean) : 0.0f;
      from_float(level + noise, static_cast<T*>(a.out)[at]);
    }
}

static __global__ void __launch_bounds__(kThreads) haar_expand_white(const __grid_constant__ HaarArgs a) {
  HaarBlock b;
  if (haar_block(a, b)) with_storage(a.storage, [&](auto type) { expand_white_block<decltype(type)>(a, b); });
}

static __global__ void __launch_bounds__(kThreads) haar_restrict(const __grid_constant__ HaarArgs a) {
  HaarBlock b;
  if (!haar_block(a, b)) return;
  with_storage(a.storage, [&](auto type) {
    using T = decltype(type);
    from_float(a.kappa * b.norm * block_total<T>(a, b), static_cast<T*>(a.out)[b.coarse]);
  });
}

// The field's coefficients, four a thread.
static __global__ void __launch_bounds__(kThreads) field_normals(const __grid_constant__ HaarArgs a) {
  const int H = a.fine[0], W = a.fine[1], quads = (W + 3) / 4;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.planes * H * quads) return;
  const int64_t row = i / quads, plane = row / H;
  const uint32_t quad = static_cast<uint32_t>(i % quads);
  const Quad n = noise_quad(field_plane(a.noise, plane), 0, static_cast<uint32_t>(row % H), quad, 1.0f);
  float* out = static_cast<float*>(a.out) + row * W + 4 * quad;
  for (uint32_t k = 0; k < 4 && 4 * quad + k < static_cast<uint32_t>(W); ++k) out[k] = n.n[k];
}

}  // namespace spd
