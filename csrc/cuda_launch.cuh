// Which kernels an operation of ops.h runs, and how they are launched. Torch-free: cuda_ops.cu calls it with torch's streams
// and memory, the emulator with its own, so that grids, shared memory and the choice of kernels are tested without a GPU.
#pragma once
#include <algorithm>

#include "cuda_dct.cuh"
#include "cuda_haar.cuh"
#include "ops.h"

namespace spd {

struct Device {
  int multiprocessors;
  size_t shared_bytes;  // most a block may ask for
  cudaStream_t stream;
  int64_t between_floats = 6 << 20;  // kept between launches (24 MB): they stay in the L2 cache
};

// Longest line of the DCT. A block of two lines holds them on both grids, the tables and the buffers: 48 bytes a sample.
// spectral_pd/ops.py takes the torch path beyond.
inline int largest_size(const Device& device) { return static_cast<int>((device.shared_bytes - 96) / 48); }

// One call, as GridTask of cpu.h. Coarse grid 0 x 0 and nothing on it: the white field itself.
struct GridCall {
  int coarse[2], fine[2];
  int64_t planes;
  Storage storage;
  const void *on_coarse, *on_fine;
  void* out;
  double t, kappa;
  bool draw;
  FieldArgs noise;
};

inline int64_t blocks_for(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

// Gives out shared memory, 16 bytes at a time.
class SharedPlan {
 public:
  int take(int64_t floats) {
    const int64_t at = floats_;
    floats_ += (floats + 3) / 4 * 4;
    return static_cast<int>(at);
  }
  size_t bytes() const { return static_cast<size_t>(floats_) * sizeof(float); }

 private:
  int64_t floats_ = 0;
};

inline int64_t tile_floats(int rows, int columns) { return int64_t{even(rows)} * pitch_of(columns); }

inline DctArgs dct_args(const GridCall& call) {
  DctArgs a;
  for (int axis = 0; axis < 2; ++axis) {
    a.coarse[axis] = call.coarse[axis];
    a.fine[axis] = call.fine[axis];
    if (a.coarse[axis]) a.coarse_plan[axis] = FftPlan(a.coarse[axis]);
    a.fine_plan[axis] = FftPlan(a.fine[axis]);
  }
  const double fine = static_cast<double>(a.fine[0]) * a.fine[1], coarse = static_cast<double>(a.coarse[0]) * a.coarse[1];
  a.storage = call.storage;
  a.on_coarse = call.on_coarse;
  a.on_fine = call.on_fine;
  a.out = call.out;
  a.signal = coarse > 0 ? static_cast<float>(call.kappa / std::sqrt(coarse * fine)) : 0.0f;
  a.field = static_cast<float>(call.kappa * call.t / fine);
  a.sigma = static_cast<float>(call.kappa * call.t / (2.0 * std::sqrt(fine)));
  a.draw = call.draw;
  a.noise = call.noise;
  a.first_plane = 0;
  a.coarse_columns = a.fine_columns = nullptr;
  a.rows = nullptr;
  a.rows_per_block = 0;
  return a;
}

// Shared memory of a block with `fine_rows` and `low_rows` rows of the two grids; first_axis 1: only rows are transformed.
inline size_t place(DctArgs& a, int fine_rows, int low_rows, bool sums, int first_axis) {
  SharedPlan plan;
  a.at.sums = sums ? plan.take(2 * kThreads) : 0;
  a.at.fine = plan.take(tile_floats(fine_rows, a.fine[1]));
  a.at.low = low_rows ? plan.take(tile_floats(low_rows, a.coarse[1])) : a.at.fine;
  int64_t pairs = 0;
  for (int axis = 0; axis < 2; ++axis) {
    a.at.coarse_table[axis] = a.at.fine_table[axis] = 0;
    if (axis < first_axis) continue;
    a.at.coarse_table[axis] = plan.take(2 * a.coarse[axis]);
    a.at.fine_table[axis] = plan.take(2 * a.fine[axis]);
    pairs = std::max(pairs, scratch_pairs(a.fine[axis]));
    if (a.coarse[axis]) pairs = std::max(pairs, scratch_pairs(a.coarse[axis]));
  }
  a.at.scratch = plan.take(2 * pairs);
  return plan.bytes();
}

// Lines a block takes so that all its teams have a pair, or fewer where they do not fit.
inline int lines_per_block(int n, int lines) { return std::min(even(lines), 2 * std::max(4, kThreads / team_size(n))); }

inline size_t place(ColumnsArgs& a, const Device& device) {
  for (a.strip = lines_per_block(a.rows, a.columns);; a.strip = even(a.strip / 2)) {
    SharedPlan plan;
    plan.take(int64_t{a.rows} * (a.strip + 1));
    a.table = plan.take(2 * a.rows);
    a.scratch = plan.take(2 * scratch_pairs(a.rows));
    if (plan.bytes() <= device.shared_bytes || a.strip == 2) return plan.bytes();
  }
}

inline size_t place_rows(DctArgs& a, int rows, bool low, const Device& device) {
  for (a.rows_per_block = lines_per_block(a.fine[1], rows);; a.rows_per_block = even(a.rows_per_block / 2)) {
    const size_t bytes = place(a, a.rows_per_block, low ? a.rows_per_block : 0, false, 1);
    if (bytes <= device.shared_bytes || a.rows_per_block == 2) return bytes;
  }
}

// Whether a block takes a whole plane: it must fit, and there must be planes enough to fill the device or little to do.
inline bool plane_a_block(const Device& device, size_t bytes, int64_t planes, int64_t samples) {
  return bytes <= device.shared_bytes && (2 * planes >= device.multiprocessors || samples <= 64 * 64);
}

inline void forward_columns(Storage storage, const void* from, const double* means, int rows, int columns, int kept,
                            int64_t planes, const Device& device, float* to) {
  ColumnsArgs a{FftPlan(rows), rows, columns, kept, 0, 0, 0, storage, from, means, to};
  const size_t bytes = place(a, device);
  const int64_t blocks = planes * ((columns + a.strip - 1) / a.strip);
  launch(columns_in, blocks, bytes, device.stream, a);
}
inline void inverse_columns(Storage storage, const float* from, int rows, int columns, int64_t planes, const Device& device,
                            void* to) {
  ColumnsArgs a{FftPlan(rows), rows, columns, rows, 0, 0, 0, storage, from, nullptr, to};
  const size_t bytes = place(a, device);
  const int64_t blocks = planes * ((columns + a.strip - 1) / a.strip);
  launch(columns_out, blocks, bytes, device.stream, a);
}

inline size_t storage_bytes(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }
inline const void* advance(const void* p, Storage storage, int64_t samples) {
  return p ? static_cast<const char*>(p) + samples * static_cast<int64_t>(storage_bytes(storage)) : nullptr;
}

// kappa (U x + t (w - U U^T w)). workspace(bytes) gives device memory that lives until the stream has passed this call.
template <class Workspace>
void cuda_expand_dct(const GridCall& call, const Device& device, const Workspace& workspace) {
  const int h = call.coarse[0], w = call.coarse[1], H = call.fine[0], W = call.fine[1];
  const int64_t samples = int64_t{H} * W, coarse = int64_t{h} * w;
  DctArgs a = dct_args(call);
  const size_t whole = place(a, H, call.on_fine && call.on_coarse ? h : 0, false, 0);
  if (plane_a_block(device, whole, call.planes, samples)) {
    launch(expand_plane, call.planes, whole, device.stream, a);
    return;
  }
  const size_t bytes = place_rows(a, H, call.on_coarse != nullptr, device);
  const int64_t each = (call.on_fine ? 2 : 1) * samples + coarse;  // floats between launches, a plane
  const int64_t group = std::min(call.planes, std::max<int64_t>(1, device.between_floats / each));
  a.rows = static_cast<float*>(workspace(static_cast<size_t>(group * each) * sizeof(float)));
  float* of_x = a.rows + group * samples;
  float* of_white = of_x + group * coarse;
  a.coarse_columns = of_x;
  a.fine_columns = of_white;
  for (a.first_plane = 0; a.first_plane < call.planes; a.first_plane += group) {
    const int64_t count = std::min(group, call.planes - a.first_plane);
    if (call.on_coarse)
      forward_columns(call.storage, advance(call.on_coarse, call.storage, a.first_plane * coarse), nullptr, h, w, h, count,
                      device, of_x);
    if (call.on_fine)
      forward_columns(call.storage, advance(call.on_fine, call.storage, a.first_plane * samples), nullptr, H, W, H, count,
                      device, of_white);
    launch(expand_rows, count * ((H + a.rows_per_block - 1) / a.rows_per_block), bytes, device.stream, a);
    inverse_columns(call.storage, a.rows, H, W, count, device,
                    const_cast<void*>(advance(call.out, call.storage, a.first_plane * samples)));
  }
}

// kappa U^T w
template <class Workspace>
void cuda_restrict_dct(const GridCall& call, const Device& device, const Workspace& workspace) {
  const int h = call.coarse[0], w = call.coarse[1], H = call.fine[0], W = call.fine[1];
  const int64_t samples = int64_t{H} * W, coarse = int64_t{h} * w;
  DctArgs a = dct_args(call);
  const size_t whole = place(a, H, 0, false, 0);
  if (plane_a_block(device, whole, call.planes, samples)) {
    launch(restrict_plane, call.planes, whole, device.stream, a);
    return;
  }
  const size_t bytes = place_rows(a, h, false, device);
  const int64_t each = int64_t{h} * W + coarse;
  const int64_t group = std::min(call.planes, std::max<int64_t>(1, device.between_floats / each));
  a.rows = static_cast<float*>(workspace(static_cast<size_t>(group * each) * sizeof(float)));
  float* columns = a.rows + group * coarse;
  a.fine_columns = columns;
  for (int64_t first = 0; first < call.planes; first += group) {
    const int64_t count = std::min(group, call.planes - first);
    forward_columns(call.storage, advance(call.on_fine, call.storage, first * samples), nullptr, H, W, h, count, device,
                    columns);
    launch(restrict_rows, count * ((h + a.rows_per_block - 1) / a.rows_per_block), bytes, device.stream, a);
    inverse_columns(call.storage, a.rows, h, w, count, device,
                    const_cast<void*>(advance(call.out, call.storage, first * coarse)));
  }
}

// Squared coefficients of centred planes, summed: out is float64 (maps, rows, columns). The planes are on the fine grid.
template <class Workspace>
void cuda_power_map(const GridCall& call, int maps, const Device& device, const Workspace& workspace) {
  const int H = call.fine[0], W = call.fine[1];
  const int64_t samples = int64_t{H} * W, each = call.planes / maps;
  PowerArgs a{dct_args(call), call.planes, maps, 1, nullptr, static_cast<double*>(call.out), nullptr, false};
  const size_t whole = place(a.dct, H, 0, true, 0);
  if (plane_a_block(device, whole, call.planes, samples)) {
    a.parts = static_cast<int>(std::clamp<int64_t>(2 * device.multiprocessors / maps, 1, each));
    a.partial = static_cast<double*>(workspace(static_cast<size_t>(a.parts * maps * samples) * sizeof(double)));
    launch(power_plane, int64_t{a.parts} * maps, whole, device.stream, a);
  } else {
    const size_t bytes = place_rows(a.dct, H, false, device);
    const int64_t group = maps * std::min(each, std::max<int64_t>(1, device.between_floats / (maps * samples)));
    // Memory: the sums, the planes' means, then coefficients.
    const int64_t doubles = maps * samples + call.planes;
    char* memory = static_cast<char*>(workspace(static_cast<size_t>(doubles * 8 + group * samples * 4)));
    double* sums = reinterpret_cast<double*>(memory);
    double* means = sums + maps * samples;
    float* coefficients = reinterpret_cast<float*>(means + call.planes);
    a.partial = means;
    launch(plane_means, call.planes, kThreads * sizeof(double), device.stream, a);
    a.partial = sums;
    a.coefficients = a.dct.rows = coefficients;
    for (int64_t first = 0; first < call.planes; first += group) {
      a.planes = std::min(group, call.planes - first);
      forward_columns(call.storage, advance(call.on_fine, call.storage, first * samples), means + first, H, W, H, a.planes,
                      device, coefficients);
      launch(power_rows, a.planes * ((H + a.dct.rows_per_block - 1) / a.dct.rows_per_block), bytes, device.stream, a.dct);
      launch(power_accumulate, blocks_for(maps * samples), 0, device.stream, a);
      a.add = true;
    }
  }
  launch(power_finish, blocks_for(maps * samples), 0, device.stream, a);
}

inline HaarArgs haar_args(const GridCall& call) {
  int levels = 0;
  while (call.coarse[0] && call.coarse[0] << levels < call.fine[0]) ++levels;
  const bool packs = call.fine[1] % 8 == 0 && reinterpret_cast<uintptr_t>(call.out) % 16 == 0;
  return {{call.coarse[0], call.coarse[1]},
          {call.fine[0], call.fine[1]},
          levels,
          packs,
          call.storage,
          call.on_coarse,
          call.on_fine,
          call.out,
          static_cast<float>(call.kappa),
          static_cast<float>(call.t),
          static_cast<float>(call.kappa * call.t),
          call.noise,
          call.planes};
}

inline void cuda_expand_haar(const GridCall& call, const Device& device) {
  const HaarArgs a = haar_args(call);
  const int64_t coarse = call.planes * call.coarse[0] * call.coarse[1];
  if (call.draw && a.levels)
    launch(haar_expand_field, blocks_for(call.planes * (call.fine[0] / 2) * ((call.fine[1] / 2 + 3) / 4)), 0, device.stream, a);
  else
    launch(haar_expand_white, blocks_for(coarse), 0, device.stream, a);
}

inline void cuda_restrict_haar(const GridCall& call, const Device& device) {
  const int64_t coarse = call.planes * call.coarse[0] * call.coarse[1];
  launch(haar_restrict, blocks_for(coarse), 0, device.stream, haar_args(call));
}

inline void cuda_normals(const GridCall& call, const Device& device) {
  launch(field_normals, blocks_for(call.planes * call.fine[0] * ((call.fine[1] + 3) / 4)), 0, device.stream, haar_args(call));
}

}  // namespace spd
