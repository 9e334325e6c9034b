// DCT kernels: expansion, restriction, power of planes.
//
//   *_plane    one block does a whole plane in shared memory: HBM sees the input once and the output once.
//   columns_in, *_rows, columns_out    the same in three launches for planes that do not fit, or are too few to fill the
//              device: strips of columns, groups of rows, strips of columns; float32 in between.
//
// Scaling. The orthonormal weights sqrt(2/n), k > 0, and sqrt(1/n), k = 0, of forward and inverse combine to one factor for
// what went through both, (h w H W)^{-1/2} from grid to grid (cuda_fft.cuh's DCT-III doubles k > 0). Noise enters between them
// with 1 / 2 sqrt(H W), times sqrt 2 in row 0 and again in column 0.
//
// A tile holds an even number of rows and columns, since lines are transformed in pairs; the surplus ones are zero. Its pitch
// is odd, so that neither rows nor columns meet bank conflicts.
#pragma once
#include "cuda_fft.cuh"

namespace spd {

SPD_HD int even(int n) { return n + (n & 1); }
SPD_HD int pitch_of(int columns) { return even(columns) + 1; }

// Where things are in shared memory, in floats.
struct SharedMap {
  int fine, low;  // tiles; low == fine where the coarse grid lives in the fine one's corner
  int coarse_table[2], fine_table[2];
  int scratch;
  int sums;  // doubles, one a thread
};

struct DctArgs {
  FftPlan coarse_plan[2], fine_plan[2];
  int coarse[2], fine[2];  // rows, columns; coarse is 0 x 0 where nothing is on it
  SharedMap at;
  Storage storage;        // of all planes
  const void* on_coarse;  // planes, or null
  const void* on_fine;    // planes, or null: an explicit white field, or the input of restriction or of power
  void* out;
  float signal, field, sigma;  // factors of the input's coefficients, of an explicit white field's, of drawn noise
  bool draw;
  FieldArgs noise;
  int64_t first_plane;  // of this launch
  // Three launches:
  const float *coarse_columns, *fine_columns;  // h x w and h x W (restriction: h x W), columns transformed
  float* rows;                                 // both axes
  int rows_per_block;
};

struct Tile {
  float* data;
  int pitch;
  __device__ float& operator()(int u, int v) const { return data[u * pitch + v]; }
  __device__ Lines rows() const { return {data, 1, pitch}; }
  __device__ Lines columns() const { return {data, pitch, 1}; }
};

// body(row, column) once for each, neighbouring threads on neighbouring columns.
template <class Body>
__device__ inline void for_each(int rows, int columns, Body body) {
  int span = 1;
  while (span < 32 && span < columns) span *= 2;
  const int thread = static_cast<int>(threadIdx.x);
  for (int u = thread / span; u < rows; u += kThreads / span)
    for (int v = thread & (span - 1); v < columns; v += span) body(u, v);
}

// Tile <- rows x columns samples, `step` apart from row to row; zeros around them up to padded_rows, padded_columns.
// Storage is a run-time choice, the same for a whole block: one branch a tile, and a third of the kernels to compile.
__device__ inline void load(const Tile& tile, Storage storage, const void* planes, int64_t first, int64_t step, int rows,
                            int columns, int padded_rows, int padded_columns) {
  with_storage(storage, [&](auto type) {
    const auto* from = static_cast<const decltype(type)*>(planes) + first;
    for_each(padded_rows, padded_columns,
             [&](int u, int v) { tile(u, v) = u < rows && v < columns ? to_float(from[u * step + v]) : 0.0f; });
  });
}
__device__ inline void store(const Tile& tile, Storage storage, void* planes, int64_t first, int64_t step, int rows,
                             int columns) {
  with_storage(storage, [&](auto type) {
    auto* to = static_cast<decltype(type)*>(planes) + first;
    for_each(rows, columns, [&](int u, int v) { from_float(tile(u, v), to[u * step + v]); });
  });
}

template <bool kForward>
__device__ inline void transform_plane(const FftPlan (&plan)[2], const Tile& tile, const float2* row_table,
                                       const float2* column_table, float2* scratch) {
  transform<kForward>(plan[0], row_table, tile.columns(), even(plan[1].size) / 2, scratch);
  __syncthreads();
  transform<kForward>(plan[1], column_table, tile.rows(), even(plan[0].size) / 2, scratch);
  __syncthreads();
}

struct Tables {
  const float2 *coarse[2], *fine[2];
  float2* scratch;
};
__device__ inline Tables build_tables(const DctArgs& a, float* shared, int first_axis) {
  Tables t{};
  for (int axis = first_axis; axis < 2; ++axis) {
    float2* coarse = reinterpret_cast<float2*>(shared + a.at.coarse_table[axis]);
    float2* fine = reinterpret_cast<float2*>(shared + a.at.fine_table[axis]);
    quarter_wave(a.coarse[axis], coarse);
    quarter_wave(a.fine[axis], fine);
    t.coarse[axis] = coarse;
    t.fine[axis] = fine;
  }
  t.scratch = reinterpret_cast<float2*>(shared + a.at.scratch);
  return t;
}

// Rows first_row .. of the fine grid's coefficients: x's in the low corner, elsewhere those of a white field, given or drawn,
// or 0.
__device__ inline void combine(const DctArgs& a, int64_t plane, const Tile& fine, const Tile& low, int first_row, int rows) {
  constexpr float kRootTwo = 1.41421356f;
  const int h = a.coarse[0], w = a.coarse[1], H = a.fine[0], W = a.fine[1];
  FieldPlane field{};
  if (a.draw) field = field_plane(a.noise, plane);
  for_each(rows, (even(W) + 3) / 4, [&](int r, int quad) {
    const int u = first_row + r;
    Quad n{};
    if (a.draw && u < H && (u >= h || 4 * quad + 3 >= w))
      n = noise_quad(field, 0, static_cast<uint32_t>(u), static_cast<uint32_t>(quad), u ? a.sigma : kRootTwo * a.sigma);
    if (quad == 0) n.n[0] *= kRootTwo;
    for (int i = 0; i < 4; ++i) {
      const int v = 4 * quad + i;
      if (v >= even(W)) break;
      float c = 0.0f;
      if (u < h && v < w)
        c = a.signal * low(r, v);
      else if (u < H && v < W)
        c = a.on_fine ? a.field * fine(r, v) : n.n[i];
      fine(r, v) = c;
    }
  });
}

// The low corner of a tile, scaled, with zeros in the surplus row and column.
__device__ inline void scale_corner(const Tile& tile, float factor, int rows, int columns) {
  for_each(even(rows), even(columns), [&](int u, int v) { tile(u, v) = u < rows && v < columns ? factor * tile(u, v) : 0.0f; });
}

// ---- a plane a block --------------------------------------------------------------------------------------------------

// out = kappa (U x + t (w - U U^T w))
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) expand_plane(const __grid_constant__ DctArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int h = a.coarse[0], w = a.coarse[1], H = a.fine[0], W = a.fine[1];
  const Tile fine{shared + a.at.fine, pitch_of(W)};
  const Tile low{shared + a.at.low, a.at.low == a.at.fine ? fine.pitch : pitch_of(w)};
  const int64_t plane = blockIdx.x;
  const Tables t = build_tables(a, shared, 0);
  if (a.on_coarse) load(low, a.storage, a.on_coarse, plane * h * w, w, h, w, even(h), even(w));
  if (a.on_fine) load(fine, a.storage, a.on_fine, plane * H * W, W, H, W, even(H), even(W));
  __syncthreads();
  if (a.on_coarse) transform_plane<true>(a.coarse_plan, low, t.coarse[0], t.coarse[1], t.scratch);
  if (a.on_fine) transform_plane<true>(a.fine_plan, fine, t.fine[0], t.fine[1], t.scratch);
  combine(a, plane, fine, low, 0, even(H));
  __syncthreads();
  transform_plane<false>(a.fine_plan, fine, t.fine[0], t.fine[1], t.scratch);
  store(fine, a.storage, a.out, plane * H * W, W, H, W);
}

// out = kappa U^T w: only the columns that are kept are transformed.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) restrict_plane(const __grid_constant__ DctArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int h = a.coarse[0], w = a.coarse[1], H = a.fine[0], W = a.fine[1];
  const Tile tile{shared + a.at.fine, pitch_of(W)};
  const int64_t plane = blockIdx.x;
  const Tables t = build_tables(a, shared, 0);
  load(tile, a.storage, a.on_fine, plane * H * W, W, H, W, even(H), even(W));
  __syncthreads();
  transform<true>(a.fine_plan[1], t.fine[1], tile.rows(), even(H) / 2, t.scratch);
  __syncthreads();
  transform<true>(a.fine_plan[0], t.fine[0], tile.columns(), even(w) / 2, t.scratch);
  __syncthreads();
  scale_corner(tile, a.signal, h, w);
  __syncthreads();
  transform_plane<false>(a.coarse_plan, tile, t.coarse[0], t.coarse[1], t.scratch);
  store(tile, a.storage, a.out, plane * h * w, w, h, w);
}

// ---- three launches ---------------------------------------------------------------------------------------------------

struct ColumnsArgs {
  FftPlan plan;
  int rows, columns, kept;  // of each plane; rows of coefficients that are stored (in) or samples (out: all)
  int strip;                // columns a block, even
  int table, scratch;       // in shared memory, in floats; the tile comes first
  Storage storage;          // of the planes: `from` (in) or `to` (out); the coefficients are float32
  const void* from;
  const double* means;  // in: subtracted, one a plane; or null
  void* to;
};

// The columns of a plane that are this block's, and where it keeps them.
struct ColumnStrip {
  int64_t plane;
  int first, count;
  Tile tile;
  float2 *table, *scratch;
};
__device__ inline ColumnStrip column_strip(const ColumnsArgs& a, float* shared) {
  const int strips = (a.columns + a.strip - 1) / a.strip, first = static_cast<int>(blockIdx.x % strips) * a.strip;
  float2* table = reinterpret_cast<float2*>(shared + a.table);
  quarter_wave(a.rows, table);
  return {blockIdx.x / strips,   first, a.columns - first < a.strip ? a.columns - first : a.strip,
          {shared, a.strip + 1}, table, reinterpret_cast<float2*>(shared + a.scratch)};
}

// Forward columns: planes of T -> float32 coefficients of the lowest `kept` rows.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) columns_in(const __grid_constant__ ColumnsArgs a) {
  SPD_SHARED_MEMORY(shared);
  const ColumnStrip s = column_strip(a, shared);
  load(s.tile, a.storage, a.from, s.plane * a.rows * a.columns + s.first, a.columns, a.rows, s.count, a.rows, a.strip);
  if (a.means) {
    __syncthreads();
    const double mean = a.means[s.plane];
    for_each(a.rows, s.count, [&](int u, int v) { s.tile(u, v) = static_cast<float>(s.tile(u, v) - mean); });
  }
  __syncthreads();
  transform<true>(a.plan, s.table, s.tile.columns(), a.strip / 2, s.scratch);
  __syncthreads();
  store(s.tile, Storage::kFloat32, a.to, s.plane * a.kept * a.columns + s.first, a.columns, a.kept, s.count);
}

// Inverse columns: float32 coefficients -> planes of T. Where the strip lies is computed twice: kept, it would spill on sm_80.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) columns_out(const __grid_constant__ ColumnsArgs a) {
  SPD_SHARED_MEMORY(shared);
  const ColumnStrip s = column_strip(a, shared);
  load(s.tile, Storage::kFloat32, a.from, s.plane * a.rows * a.columns + s.first, a.columns, a.rows, s.count, a.rows, a.strip);
  __syncthreads();
  transform<false>(a.plan, s.table, s.tile.columns(), a.strip / 2, s.scratch);
  __syncthreads();
  store(s.tile, a.storage, a.to, s.plane * a.rows * a.columns + s.first, a.columns, a.rows, s.count);
}

// A group of rows of a plane: how many there are from first on, and the even number that is transformed.
struct RowGroup {
  int64_t plane;
  int first, count;
};
__device__ inline RowGroup row_group(int rows, int each) {
  const int groups = (rows + each - 1) / each, first = static_cast<int>(blockIdx.x % groups) * each;
  return {blockIdx.x / groups, first, rows - first < each ? rows - first : each};
}

// Forward rows of what columns_in left, new coefficients, inverse rows of the fine grid.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) expand_rows(const __grid_constant__ DctArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int h = a.coarse[0], w = a.coarse[1], H = a.fine[0], W = a.fine[1];
  const RowGroup g = row_group(H, a.rows_per_block);
  const int old = h - g.first < g.count ? h - g.first : g.count, rows = even(g.count);
  const Tile fine{shared + a.at.fine, pitch_of(W)}, low{shared + a.at.low, pitch_of(w)};
  const Tables t = build_tables(a, shared, 1);
  if (a.on_coarse && old > 0)
    load(low, Storage::kFloat32, a.coarse_columns, (g.plane * h + g.first) * w, w, old, w, even(old), even(w));
  if (a.on_fine) load(fine, Storage::kFloat32, a.fine_columns, (g.plane * H + g.first) * W, W, g.count, W, rows, even(W));
  __syncthreads();
  if (a.on_coarse && old > 0) transform<true>(a.coarse_plan[1], t.coarse[1], low.rows(), even(old) / 2, t.scratch);
  __syncthreads();
  if (a.on_fine) transform<true>(a.fine_plan[1], t.fine[1], fine.rows(), rows / 2, t.scratch);
  __syncthreads();
  combine(a, a.first_plane + g.plane, fine, low, g.first, rows);
  __syncthreads();
  transform<false>(a.fine_plan[1], t.fine[1], fine.rows(), rows / 2, t.scratch);
  __syncthreads();
  store(fine, Storage::kFloat32, a.rows, (g.plane * H + g.first) * W, W, g.count, W);
}

// Forward rows of the fine grid, their lowest coefficients, inverse rows of the coarse one.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) restrict_rows(const __grid_constant__ DctArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int h = a.coarse[0], w = a.coarse[1], W = a.fine[1];
  const RowGroup g = row_group(h, a.rows_per_block);
  const Tile tile{shared + a.at.fine, pitch_of(W)};
  const Tables t = build_tables(a, shared, 1);
  load(tile, Storage::kFloat32, a.fine_columns, (g.plane * h + g.first) * W, W, g.count, W, even(g.count), even(W));
  __syncthreads();
  transform<true>(a.fine_plan[1], t.fine[1], tile.rows(), even(g.count) / 2, t.scratch);
  __syncthreads();
  scale_corner(tile, a.signal, g.count, w);
  __syncthreads();
  transform<false>(a.coarse_plan[1], t.coarse[1], tile.rows(), even(g.count) / 2, t.scratch);
  __syncthreads();
  store(tile, Storage::kFloat32, a.rows, (g.plane * h + g.first) * w, w, g.count, w);
}

// ---- power ------------------------------------------------------------------------------------------------------------

// Sum of the block's values, the same in every thread; always added in the same order. The block must wait before it uses
// `sums` again.
__device__ inline double block_sum(double value, double* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = value;
  __syncthreads();
  for (int half = kThreads / 2; half; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  return sums[0];
}

// Plane p adds to map p mod maps. Each block takes every `parts`-th plane of one map and owns its partial sums, so that
// nothing depends on the order in which blocks run.
struct PowerArgs {
  DctArgs dct;     // the planes are on its fine grid
  int64_t planes;  // of this launch
  int maps, parts;
  double* partial;            // parts x maps x rows x columns
  double* out;                // maps x rows x columns
  const float* coefficients;  // unscaled, of planes too large for a block
  bool add;                   // to what partial holds
};

static __global__ void __launch_bounds__(kThreads, kResidentBlocks) power_plane(const __grid_constant__ PowerArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int H = a.dct.fine[0], W = a.dct.fine[1], map = static_cast<int>(blockIdx.x % a.maps);
  const int64_t part = blockIdx.x / a.maps, samples = int64_t{H} * W;
  const Tile tile{shared + a.dct.at.fine, pitch_of(W)};
  double* sums = reinterpret_cast<double*>(shared + a.dct.at.sums);
  double* own = a.partial + blockIdx.x * samples;
  const Tables t = build_tables(a.dct, shared, 0);
  for (int64_t i = part; i * a.maps < a.planes; i += a.parts) {
    load(tile, a.dct.storage, a.dct.on_fine, (i * a.maps + map) * samples, W, H, W, even(H), even(W));
    __syncthreads();
    double sum = 0;
    for_each(H, W, [&](int u, int v) { sum += tile(u, v); });
    const double mean = block_sum(sum, sums) / static_cast<double>(samples);
    for_each(H, W, [&](int u, int v) { tile(u, v) = static_cast<float>(tile(u, v) - mean); });
    __syncthreads();
    transform_plane<true>(a.dct.fine_plan, tile, t.fine[0], t.fine[1], t.scratch);
    for_each(H, W, [&](int u, int v) {
      const double square = static_cast<double>(tile(u, v)) * tile(u, v);
      double& sum_of = own[int64_t{u} * W + v];
      sum_of = i == part ? square : sum_of + square;
    });
    __syncthreads();
  }
}

static __global__ void __launch_bounds__(kThreads, kResidentBlocks) plane_means(const __grid_constant__ PowerArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int64_t samples = int64_t{a.dct.fine[0]} * a.dct.fine[1];
  double sum = 0;
  with_storage(a.dct.storage, [&](auto type) {
    const auto* from = static_cast<const decltype(type)*>(a.dct.on_fine) + blockIdx.x * samples;
    for (int64_t i = threadIdx.x; i < samples; i += kThreads) sum += to_float(from[i]);
  });
  const double total = block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) a.partial[blockIdx.x] = total / static_cast<double>(samples);
}

// Forward rows in place, of what columns_in left.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) power_rows(const __grid_constant__ DctArgs a) {
  SPD_SHARED_MEMORY(shared);
  const int H = a.fine[0], W = a.fine[1];
  const RowGroup g = row_group(H, a.rows_per_block);
  const Tile tile{shared + a.at.fine, pitch_of(W)};
  const Tables t = build_tables(a, shared, 1);
  const int64_t first = (g.plane * H + g.first) * W;
  load(tile, Storage::kFloat32, a.rows, first, W, g.count, W, even(g.count), even(W));
  __syncthreads();
  transform<true>(a.fine_plan[1], t.fine[1], tile.rows(), even(g.count) / 2, t.scratch);
  __syncthreads();
  store(tile, Storage::kFloat32, a.rows, first, W, g.count, W);
}

// A sample of a map a thread: sums squares over the planes of this launch, in order.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) power_accumulate(const __grid_constant__ PowerArgs a) {
  const int64_t samples = int64_t{a.dct.fine[0]} * a.dct.fine[1], i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= samples * a.maps) return;
  double sum = a.add ? a.partial[i] : 0.0;
  for (int64_t first = 0; first < a.planes; first += a.maps) {
    const double c = a.coefficients[first * samples + i];
    sum += c * c;
  }
  a.partial[i] = sum;
}

// Adds the parts in order and gives each coefficient its orthonormal weight; the mean's own is exactly 0.
static __global__ void __launch_bounds__(kThreads, kResidentBlocks) power_finish(const __grid_constant__ PowerArgs a) {
  const int H = a.dct.fine[0], W = a.dct.fine[1];
  const int64_t samples = int64_t{H} * W, i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= samples * a.maps) return;
  double sum = 0;
  for (int part = 0; part < a.parts; ++part) sum += a.partial[part * samples * a.maps + i];
  const int64_t sample = i % samples;
  const double weight = 4.0 / (static_cast<double>(H) * W) * (sample < W ? 0.5 : 1.0) * (sample % W ? 1.0 : 0.5);
  a.out[i] = sample ? weight * sum : 0.0;
}

}  // namespace spd
