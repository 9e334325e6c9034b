// DCT kernels: the three steps of cpu.h for expansion, restriction and radial power. Compiled once per instruction set.
//
// Scaling. Transforms are unnormalised; the orthonormal weights are sqrt(2/n) for k > 0 and sqrt(1/n) for k = 0. The sqrt(2/n)
// of all axes are folded into two numbers, one for coefficients that come from a forward transform and one for noise. What is
// left, sqrt(1/2) at k = 0, multiplies one register per transform: the first output of a forward, the first input of an inverse.
#pragma once
#include "cpu.h"
#include "dct.h"

namespace spd {
inline namespace SPD_ISA {

constexpr float kSqrtHalf = 0.70710678f;

static int blocks(int n) { return (n + kLanes - 1) / kLanes; }
static int lanes_of(int n, int block) { return n - block * kLanes < kLanes ? n - block * kLanes : kLanes; }

// sqrt(2/rows) sqrt(2/columns)
static double norm(int rows, int columns) { return 2.0 / __builtin_sqrt(static_cast<double>(rows) * columns); }

// Row tiles: coefficient column v of rows block * kLanes + lane is register block * width + v.
// Column tiles: row u of columns strip * kLanes + lane is register strip * height + u. Both sizes padded to whole blocks.
static int64_t tile_floats(int rows, int columns) { return int64_t{blocks(rows)} * blocks(columns) * kLanes * kLanes; }
static int64_t line_floats(int longest) {
  return int64_t{kLanes} * (4 * blocks(longest) * kLanes + dct_scratch(longest)) + 8 * int64_t{longest} + 64;
}

// kLanes x n registers: n lines of lanes become, block by block, registers of the other axis.
static void transpose_out(const F* line, int n, F* tiles, int64_t tile_step) {
  for (int block = 0; block < blocks(n); ++block) {
    const int valid = lanes_of(n, block);
    F r[kLanes];
    if (valid == kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) r[i] = line[block * kLanes + i];
    } else {
      for (int i = 0; i < kLanes; ++i) r[i] = i < valid ? line[block * kLanes + i] : F{};
    }
    transpose(r);
    F* tile = tiles + block * tile_step;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = r[i];
  }
}

template <class T>
SPD_HD void load_strip(const void* plane, int64_t offset, int rows, int pitch, int valid, F* line) {
  const T* p = static_cast<const T*>(plane) + offset;
  if (valid == kLanes) {
    for (int u = 0; u < rows; ++u) line[u] = load(p + int64_t{u} * pitch);
  } else {
    for (int u = 0; u < rows; ++u) line[u] = load_some(p + int64_t{u} * pitch, valid);
  }
}
static void load_strip(Storage storage, const void* planes, int64_t plane, int rows, int columns, int strip, F* line) {
  const int64_t offset = plane * rows * columns + strip * kLanes;
  const int valid = lanes_of(columns, strip);
  switch (storage) {
    case Storage::kFloat32:
      return load_strip<float>(planes, offset, rows, columns, valid, line);
    case Storage::kBfloat16:
      return load_strip<Bfloat16>(planes, offset, rows, columns, valid, line);
    case Storage::kFloat16:
      return load_strip<Float16>(planes, offset, rows, columns, valid, line);
  }
}

template <class T>
SPD_HD void store_strip(void* plane, int64_t offset, int rows, int pitch, int valid, const F* line) {
  T* p = static_cast<T*>(plane) + offset;
  if (valid == kLanes) {
    for (int u = 0; u < rows; ++u) store(p + int64_t{u} * pitch, line[u]);
  } else {
    for (int u = 0; u < rows; ++u) store_some(p + int64_t{u} * pitch, line[u], valid);
  }
}
static void store_strip(Storage storage, void* planes, int64_t plane, int rows, int columns, int strip, const F* line) {
  const int64_t offset = plane * rows * columns + strip * kLanes;
  const int valid = lanes_of(columns, strip);
  switch (storage) {
    case Storage::kFloat32:
      return store_strip<float>(planes, offset, rows, columns, valid, line);
    case Storage::kBfloat16:
      return store_strip<Bfloat16>(planes, offset, rows, columns, valid, line);
    case Storage::kFloat16:
      return store_strip<Float16>(planes, offset, rows, columns, valid, line);
  }
}

// ---- step 1: columns in -----------------------------------------------------------------------------------------------

// Forward columns of a strip of `in` (rows x columns); the lowest `kept` rows of coefficients go to row tiles.
static void forward_columns(const DctPlan& plan, F* in, int rows, int kept, int columns, int strip, F* tiles, F* lines) {
  F *out = lines, *scratch = lines + blocks(rows) * kLanes;
  dct2(plan.top(), in, out, 1, scratch);
  out[0] *= kSqrtHalf;
  const int width = blocks(columns) * kLanes;
  transpose_out(out, kept, tiles + strip * kLanes, width);
}

static void expand_columns_in(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, float* lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  F* in = reinterpret_cast<F*>(lines);
  if (task.x && strip < blocks(w)) {
    load_strip(task.storage, task.x, plane, h, w, strip, in);
    forward_columns(*task.coarse_plan[0], in, h, h, w, strip, reinterpret_cast<F*>(tiles.coarse_rows),
                    in + blocks(h) * kLanes);
  }
  if (task.white && strip < blocks(W)) {
    load_strip(task.storage, task.white, plane, H, W, strip, in);
    forward_columns(*task.fine_plan[0], in, H, h, W, strip, reinterpret_cast<F*>(tiles.fine_rows),
                    in + blocks(H) * kLanes);
  }
}

// ---- step 2: rows -----------------------------------------------------------------------------------------------------

static FieldPlane field_plane(const NoiseSource& noise, int64_t plane) {
  return {static_cast<uint64_t>(noise.keys[plane / noise.planes]),
          noise.first_plane + static_cast<uint32_t>(plane % noise.planes), noise.transition};
}

// New coefficients of rows block * kLanes + lane, columns [first quad * 4, columns): lane = row, register = column.
static void draw_rows(const FieldPlane& at, int block, int first_quad, int columns, float sigma, F* line, uint32_t* table) {
  const int quads = (columns + 3) / 4;
  const QuadState state{table, table + quads, table + 2 * quads, table + 3 * quads};
  for (int q = first_quad; q < quads; ++q) quad_state(at, q, state, q);
  U z, w;
  for (int i = 0; i < kLanes; ++i) {
    const RowState r = row_state(at, block * kLanes + i);
    z[i] = r.z;
    w[i] = r.w;
  }
  const Halves row_z(z), row_w(w);
  const auto lanes = [&](int q) {
    return QuadLanes{row_z, row_w, state.z[q], state.y[q], state.high[q], state.low[q]};
  };
  int q = first_quad;
  for (; q + 2 <= quads; q += 2) noise_block<2>(at.key, {lanes(q), lanes(q + 1)}, splat(sigma), line + 4 * q);
  if (q < quads) noise_block<1>(at.key, {lanes(q)}, splat(sigma), line + 4 * q);
}

static void expand_rows(const GridTask& task, int64_t plane, int block, const Tiles& tiles, float* lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  F* coefficient = reinterpret_cast<F*>(lines);
  F* out = coefficient + blocks(W + 3) * kLanes;
  F* scratch = out + blocks(W) * kLanes;
  uint32_t* table = reinterpret_cast<uint32_t*>(scratch + dct_scratch(W));
  const int old_rows = task.x || task.white ? h - block * kLanes : 0;  // rows of this block below h
  const int old_columns = old_rows > 0 ? w : 0;
  const double fine_norm = norm(H, W);

  if (task.draw) {
    const bool mixed = old_rows > 0 && old_rows < kLanes && block * kLanes + old_rows < H;
    draw_rows(field_plane(task.noise, plane), block, mixed ? 0 : old_columns / 4, W,
              static_cast<float>(task.t * task.scale * fine_norm), coefficient, table);
  } else {
    for (int v = old_columns; v < W; ++v) coefficient[v] = F{};
    if (old_rows > 0 && old_rows < kLanes)
      for (int v = 0; v < old_columns; ++v) coefficient[v] = F{};
  }

  if (old_rows > 0) {
    // Coefficients of U x - t U U^T w on the coarse grid.
    F* low = out;
    if (task.x) {
      const F* in = reinterpret_cast<const F*>(tiles.coarse_rows) + int64_t{block} * blocks(w) * kLanes;
      dct2(task.coarse_plan[1]->top(), in, low, 1, scratch);
      const float weight = static_cast<float>(task.scale * norm(h, w) * fine_norm);
      for (int v = 0; v < w; ++v) low[v] *= weight;
    } else {
      for (int v = 0; v < w; ++v) low[v] = F{};
    }
    if (task.white) {
      F* field = scratch;
      const F* in = reinterpret_cast<const F*>(tiles.fine_rows) + int64_t{block} * blocks(W) * kLanes;
      dct2(task.fine_plan[1]->top(), in, field, 1, scratch + blocks(W) * kLanes);
      const float weight = static_cast<float>(-task.t * task.scale * fine_norm * fine_norm);
      for (int v = 0; v < w; ++v) low[v] = mad(field[v], weight, low[v]);
    }
    low[0] *= kSqrtHalf;
    I lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int v = 0; v < w; ++v) coefficient[v] = lane < old_rows ? low[v] : coefficient[v];
  }
  coefficient[0] *= kSqrtHalf;
  dct3(task.fine_plan[1]->top(), coefficient, 1, out, scratch);
  const int64_t height = blocks(H) * kLanes;
  transpose_out(out, W, reinterpret_cast<F*>(tiles.columns) + block * kLanes, height);
}

// ---- step 3: columns out ----------------------------------------------------------------------------------------------

static void expand_columns_out(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, float* lines) {
  const auto [H, W] = task.fine;
  F *out = reinterpret_cast<F*>(lines), *scratch = out + blocks(H) * kLanes;
  F* in = reinterpret_cast<F*>(tiles.columns) + int64_t{strip} * blocks(H) * kLanes;
  if (!task.draw)  // rows above the coarse ones are zero
    for (int u = blocks(task.coarse[0]) * kLanes; u < H; ++u) in[u] = F{};
  in[0] *= kSqrtHalf;
  dct3(task.fine_plan[0]->top(), in, 1, out, scratch);
  if (task.white) {
    F* white = scratch;
    const float weight = static_cast<float>(task.t * task.scale);
    load_strip(task.storage, task.white, plane, H, W, strip, white);
    for (int u = 0; u < H; ++u) out[u] = mad(white[u], weight, out[u]);
  }
  store_strip(task.storage, task.out, plane, H, W, strip, out);
}

// ---- restriction ------------------------------------------------------------------------------------------------------

static void restrict_columns_in(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, float* lines) {
  const auto [H, W] = task.fine;
  F* in = reinterpret_cast<F*>(lines);
  load_strip(task.storage, task.white, plane, H, W, strip, in);
  forward_columns(*task.fine_plan[0], in, H, task.coarse[0], W, strip, reinterpret_cast<F*>(tiles.fine_rows),
                  in + blocks(H) * kLanes);
}

static void restrict_rows(const GridTask& task, int64_t, int block, const Tiles& tiles, float* lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  F* coefficient = reinterpret_cast<F*>(lines);
  F* out = coefficient + blocks(W) * kLanes;
  F* scratch = out + blocks(w) * kLanes;
  const F* in = reinterpret_cast<const F*>(tiles.fine_rows) + int64_t{block} * blocks(W) * kLanes;
  dct2(task.fine_plan[1]->top(), in, coefficient, 1, scratch);
  const float weight = static_cast<float>(task.scale * norm(H, W) * norm(h, w));
  for (int v = 0; v < w; ++v) coefficient[v] *= weight;
  coefficient[0] *= 0.5f;  // forward and inverse weight of k = 0
  dct3(task.coarse_plan[1]->top(), coefficient, 1, out, scratch);
  transpose_out(out, w, reinterpret_cast<F*>(tiles.columns) + block * kLanes, blocks(h) * kLanes);
}

static void restrict_columns_out(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, float* lines) {
  const auto [h, w] = task.coarse;
  F *out = reinterpret_cast<F*>(lines), *scratch = out + blocks(h) * kLanes;
  F* in = reinterpret_cast<F*>(tiles.columns) + int64_t{strip} * blocks(h) * kLanes;
  in[0] *= kSqrtHalf;
  dct3(task.coarse_plan[0]->top(), in, 1, out, scratch);
  store_strip(task.storage, task.out, plane, h, w, strip, out);
}

// ---- radial power -----------------------------------------------------------------------------------------------------

template <class T>
SPD_HD double plane_sum(const void* planes, int64_t plane, int64_t count) {
  const T* p = static_cast<const T*>(planes) + plane * count;
  double total = 0;
  for (int64_t i = 0; i < count;) {  // float sums of short runs, double sum of the runs
    const int64_t end = count - i < 64 * kLanes ? count : i + 64 * kLanes;
    F sum0{}, sum1{};
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      sum0 += load(p + i);
      sum1 += load(p + i + kLanes);
    }
    sum0 += sum1;
    for (; i < end; i += kLanes) sum0 += load_some(p + i, end - i < kLanes ? static_cast<int>(end - i) : kLanes);
    i = end;
    float lanes = 0;
    for (int j = 0; j < kLanes; ++j) lanes += sum0[j];
    total += lanes;
  }
  return total;
}
static double plane_sum(Storage storage, const void* planes, int64_t plane, int64_t count) {
  switch (storage) {
    case Storage::kFloat32:
      return plane_sum<float>(planes, plane, count);
    case Storage::kBfloat16:
      return plane_sum<Bfloat16>(planes, plane, count);
    case Storage::kFloat16:
      return plane_sum<Float16>(planes, plane, count);
  }
  return 0;
}

static void power_plane(const PowerTask& task, int64_t plane, const Tiles& tiles, float* lines, double* squares) {
  const auto [H, W] = task.size;
  // The transform sees a small mean, or the rounding of the largest coefficient would cover the smallest ones.
  const double count = static_cast<double>(H) * W;
  const float mean = static_cast<float>(plane_sum(task.storage, task.x, plane, int64_t{H} * W) / count);
  F* rows = reinterpret_cast<F*>(tiles.fine_rows);
  F* in = reinterpret_cast<F*>(lines);
  const int width = blocks(W) * kLanes;
  for (int strip = 0; strip < blocks(W); ++strip) {
    load_strip(task.storage, task.x, plane, H, W, strip, in);
    for (int u = 0; u < H; ++u) in[u] -= mean;
    F* out = in + blocks(H) * kLanes;
    dct2(task.plan[0]->top(), in, out, 1, out + blocks(H) * kLanes);
    transpose_out(out, H, rows + strip * kLanes, width);
  }
  typedef double D __attribute__((vector_size(4 * kLanes), may_alias));
  typedef float Half __attribute__((vector_size(2 * kLanes), may_alias));
  for (int block = 0; block < blocks(H); ++block) {
    F* out = in;
    dct2(task.plan[1]->top(), rows + int64_t{block} * width, out, 1, out + blocks(W) * kLanes);
    D* sum = reinterpret_cast<D*>(squares) + int64_t{block} * width * 2;
    for (int v = 0; v < W; ++v) {
      Half parts[2];
      std::memcpy(parts, out + v, sizeof parts);
      const D low = __builtin_convertvector(parts[0], D), high = __builtin_convertvector(parts[1], D);
      sum[2 * v] += low * low;
      sum[2 * v + 1] += high * high;
    }
  }
}

static void power_unpack(const PowerTask& task, const double* squares, double* map) {
  const auto [H, W] = task.size;
  const double weight = norm(H, W) * norm(H, W);
  const int64_t width = blocks(W) * kLanes;
  for (int u = 0; u < H; ++u)
    for (int v = 0; v < W; ++v)
      map[int64_t{u} * W + v] += weight * (u ? 1.0 : 0.5) * (v ? 1.0 : 0.5) *
                                 squares[((u / kLanes) * width + v) * kLanes + u % kLanes];
  // The plane's mean was removed: what rounding left of the constant is not signal.
  map[0] = 0.0;
}

}  // namespace SPD_ISA
}  // namespace spd
