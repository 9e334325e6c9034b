// DCT kernels: the three steps of cpu.h for expansion, restriction and radial power. Compiled once per instruction set.
//
// Scaling. Transforms are unnormalised; the orthonormal weights are sqrt(2/n) for k > 0 and sqrt(1/n) for k = 0. The sqrt(2/n)
// of all axes are folded into two numbers, one for coefficients that come from a forward transform and one for noise. What is
// left, sqrt(1/2) at k = 0, multiplies one register per transform: the first output of a forward, the first input of an
// inverse.
#pragma once
#include <cassert>

#include "cpu.h"
#include "dct.h"

namespace spd {
inline namespace SPD_ISA {

static int blocks(int n) { return (n + kLanes - 1) / kLanes; }
static int lanes_of(int n, int block) { return n - block * kLanes < kLanes ? n - block * kLanes : kLanes; }

// sqrt(2/rows) sqrt(2/columns)
static double norm(int rows, int columns) { return 2.0 / __builtin_sqrt(static_cast<double>(rows) * columns); }

// Columns are loaded and stored a strip at a time. Of tall planes a strip is several registers wide: a row of it then is
// several whole cache lines, and rows, a large power of two apart in memory, do not evict one another before they are used.
constexpr int kTall = 256, kTallColumns = 64;
// No processor guesses a walk down a strip, so that it is fetched early: of tall planes some rows ahead, of others (which stay
// in cache) the same place of the next plane.
constexpr int kRowsAhead = 8;
static int strip_width(int rows) { return rows >= kTall ? kTallColumns / kLanes : 1; }  // in registers
static int strips(int rows, int columns) { return (blocks(columns) + strip_width(rows) - 1) / strip_width(rows); }

// Row tiles: coefficient column v of rows block * kLanes + lane is register block * width + v.
// Column tiles: row u of columns strip * kLanes + lane is register strip * height + u. Both sizes padded to whole blocks.
static int64_t tile_floats(int rows, int columns) { return int64_t{blocks(rows)} * blocks(columns) * kLanes * kLanes; }

// ---- a thread's lines -------------------------------------------------------------------------------------------------

// Hands out a thread's lines, in whole registers one after the other. Every step takes its buffers here and nowhere else;
// without memory it only counts, which is how a step's size is known.
class LineLayout {
 public:
  explicit LineLayout(const Lines& lines) : lines_(lines) {}
  template <class T>
  T* take(int64_t count) {
    static_assert(sizeof(T) % sizeof(float) == 0);
    const int64_t at = taken_, floats = count * static_cast<int64_t>(sizeof(T) / sizeof(float));
    taken_ += (floats + kLanes - 1) / kLanes * kLanes;
    assert(!lines_.data || taken_ <= lines_.floats);
    return lines_.data ? reinterpret_cast<T*>(lines_.data + at) : nullptr;
  }
  int64_t taken() const { return taken_; }

 private:
  Lines lines_;
  int64_t taken_ = 0;
};

// Of a step that walks down columns of `rows` samples.
struct ColumnLines {
  LineLayout layout;
  F *strip, *line;  // the columns of a strip, Strip::step registers apart; one more
  F* scratch;       // of a transform

  ColumnLines(const Lines& lines, int rows)
      : layout(lines),
        strip(layout.take<F>(int64_t{strip_width(rows)} * blocks(rows) * kLanes)),
        line(layout.take<F>(int64_t{blocks(rows)} * kLanes)),
        scratch(layout.take<F>(dct_scratch(rows))) {}
};

// Of a step that walks along rows of `columns` samples.
struct RowLines {
  LineLayout layout;
  F *coefficient, *out;  // coefficients, of which whole quads are drawn; what they become
  F* scratch;            // of a transform
  uint32_t* quads;       // the table of draw_rows
  F* field;              // coefficients of an explicit white field

  RowLines(const Lines& lines, int columns)
      : layout(lines),
        coefficient(layout.take<F>(int64_t{blocks(columns + 3)} * kLanes)),
        out(layout.take<F>(int64_t{blocks(columns)} * kLanes)),
        scratch(layout.take<F>(dct_scratch(columns))),
        quads(layout.take<uint32_t>(int64_t{4} * ((columns + 3) / 4))),
        field(layout.take<F>(int64_t{blocks(columns)} * kLanes)) {}
};

// What every step on grids of at most `longest` rows and columns finds enough.
static int64_t line_floats(int longest) {
  const int64_t columns = ColumnLines({}, longest).layout.taken(), rows = RowLines({}, longest).layout.taken();
  return columns > rows ? columns : rows;
}

// kLanes x n registers: n lines of lanes become, block by block, registers of the other axis. `line` has room for whole blocks;
// what the last one lacks becomes zero.
static void transpose_out(F* line, int n, F* tiles, int64_t tile_step) {
  for (int i = n; i < blocks(n) * kLanes; ++i) line[i] = F{};
  for (int block = 0; block < blocks(n); ++block) {
    F r[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) r[i] = line[block * kLanes + i];
    transpose(r);
    F* tile = tiles + block * tile_step;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = r[i];
  }
}

// The registers of a strip.
struct Strip {
  int first, count, step;  // first register, how many, and their distance in the line buffer
};
static Strip strip_at(int rows, int columns, int strip) {
  const int width = strip_width(rows), first = strip * width;
  return {first, blocks(columns) - first < width ? blocks(columns) - first : width, blocks(rows) * kLanes};
}

template <class T>
SPD_HD void load_strip(const void* planes, int64_t plane, int rows, int columns, const Strip& s, float level, F* lines) {
  const T* p = static_cast<const T*>(planes) + plane * rows * columns + s.first * kLanes;
  const int last = lanes_of(columns, s.first + s.count - 1);
  const int64_t ahead = int64_t{rows >= kTall ? kRowsAhead : rows} * columns;
  for (int u = 0; u < rows; ++u, p += columns) {
    for (int i = 0; i < s.count; ++i) __builtin_prefetch(p + ahead + i * kLanes);
    for (int i = 0; i < s.count - 1; ++i) lines[i * s.step + u] = load(p + i * kLanes) - level;
    lines[(s.count - 1) * s.step + u] = load_some(p + (s.count - 1) * kLanes, last) - level;
  }
}
// Columns of a strip, less `level`, of which lanes beyond the plane hold nothing of use.
static void load_strip(Storage storage, const void* planes, int64_t plane, int rows, int columns, const Strip& s, float level,
                       F* lines) {
  switch (storage) {
    case Storage::kFloat32:
      return load_strip<float>(planes, plane, rows, columns, s, level, lines);
    case Storage::kBfloat16:
      return load_strip<Bfloat16>(planes, plane, rows, columns, s, level, lines);
    case Storage::kFloat16:
      return load_strip<Float16>(planes, plane, rows, columns, s, level, lines);
  }
}

template <class T>
SPD_HD void store_strip(void* planes, int64_t plane, int rows, int columns, const Strip& s, const F* lines) {
  T* p = static_cast<T*>(planes) + plane * rows * columns + s.first * kLanes;
  const int last = lanes_of(columns, s.first + s.count - 1);
  for (int u = 0; u < rows; ++u, p += columns) {
    for (int i = 0; i < s.count - 1; ++i) store(p + i * kLanes, lines[i * s.step + u]);
    store_some(p + (s.count - 1) * kLanes, lines[(s.count - 1) * s.step + u], last);
  }
}
static void store_strip(Storage storage, void* planes, int64_t plane, int rows, int columns, const Strip& s, const F* lines) {
  switch (storage) {
    case Storage::kFloat32:
      return store_strip<float>(planes, plane, rows, columns, s, lines);
    case Storage::kBfloat16:
      return store_strip<Bfloat16>(planes, plane, rows, columns, s, lines);
    case Storage::kFloat16:
      return store_strip<Float16>(planes, plane, rows, columns, s, lines);
  }
}

// ---- step 1: columns in -----------------------------------------------------------------------------------------------

// Forward columns of a strip of `planes` (rows x columns); the lowest `kept` rows of coefficients go to row tiles.
static void forward_columns(const DctPlan& plan, Storage storage, const void* planes, int64_t plane, int columns, int strip,
                            int kept, float* tiles, const Lines& lines) {
  const int rows = plan.size(), width = blocks(columns) * kLanes;
  const Strip s = strip_at(rows, columns, strip);
  const ColumnLines at(lines, rows);
  load_strip(storage, planes, plane, rows, columns, s, 0.0f, at.strip);
  for (int i = 0; i < s.count; ++i) {
    dct2(plan.top(), at.strip + i * s.step, at.line, at.scratch);
    at.line[0] *= kSqrtHalf;
    transpose_out(at.line, kept, reinterpret_cast<F*>(tiles) + (s.first + i) * kLanes, width);
  }
}

static void expand_columns_in(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  if (task.on_coarse && strip < strips(h, w))
    forward_columns(*task.coarse_plan[0], task.storage, task.on_coarse, plane, w, strip, h, tiles.coarse_rows, lines);
  if (task.on_fine && strip < strips(H, W))
    forward_columns(*task.fine_plan[0], task.storage, task.on_fine, plane, W, strip, h, tiles.fine_rows, lines);
}

// ---- step 2: rows -----------------------------------------------------------------------------------------------------

static FieldPlane field_plane(const NoiseSource& noise, int64_t plane) {
  return {static_cast<uint64_t>(noise.keys[plane / noise.planes]), static_cast<uint32_t>(plane % noise.planes),
          noise.transition};
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
  const auto lanes = [&](int q) { return QuadLanes{row_z, row_w, state.z[q], state.y[q], state.high[q], state.low[q]}; };
  int q = first_quad;
  for (; q + 2 <= quads; q += 2) noise_block<2>(at.key, {lanes(q), lanes(q + 1)}, splat(sigma), line + 4 * q);
  if (q < quads) noise_block<1>(at.key, {lanes(q)}, splat(sigma), line + 4 * q);
}

static void expand_rows(const GridTask& task, int64_t plane, int block, const Tiles& tiles, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const RowLines at(lines, W);
  F *coefficient = at.coefficient, *out = at.out;
  const int old_rows = task.on_coarse || task.on_fine ? h - block * kLanes : 0;  // rows of this block below h
  const int old_columns = old_rows > 0 ? w : 0;
  const double fine_norm = norm(H, W);

  if (task.draw) {
    const bool mixed = old_rows > 0 && old_rows < kLanes && block * kLanes + old_rows < H;
    draw_rows(field_plane(task.noise, plane), block, mixed ? 0 : old_columns / 4, W,
              static_cast<float>(task.t * task.kappa * fine_norm), coefficient, at.quads);
  } else {
    for (int v = old_columns; v < W; ++v) coefficient[v] = F{};
    if (old_rows > 0 && old_rows < kLanes)
      for (int v = 0; v < old_columns; ++v) coefficient[v] = F{};
  }

  if (old_rows > 0) {
    // Coefficients of U x - t U U^T w on the coarse grid.
    F* low = out;
    if (task.on_coarse) {
      const F* in = reinterpret_cast<const F*>(tiles.coarse_rows) + int64_t{block} * blocks(w) * kLanes;
      dct2(task.coarse_plan[1]->top(), in, low, at.scratch);
      const float weight = static_cast<float>(task.kappa * norm(h, w) * fine_norm);
      for (int v = 0; v < w; ++v) low[v] *= weight;
    } else {
      for (int v = 0; v < w; ++v) low[v] = F{};
    }
    if (task.on_fine) {
      const F* in = reinterpret_cast<const F*>(tiles.fine_rows) + int64_t{block} * blocks(W) * kLanes;
      dct2(task.fine_plan[1]->top(), in, at.field, at.scratch);
      const float weight = static_cast<float>(-task.t * task.kappa * fine_norm * fine_norm);
      for (int v = 0; v < w; ++v) low[v] = mad(at.field[v], weight, low[v]);
    }
    low[0] *= kSqrtHalf;
    I lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int v = 0; v < w; ++v) coefficient[v] = lane < old_rows ? low[v] : coefficient[v];
  }
  coefficient[0] *= kSqrtHalf;
  dct3(task.fine_plan[1]->top(), coefficient, out, at.scratch);
  const int64_t height = blocks(H) * kLanes;
  transpose_out(out, W, reinterpret_cast<F*>(tiles.columns) + block * kLanes, height);
}

// ---- step 3: columns out ----------------------------------------------------------------------------------------------

// Inverse columns of a strip of column tiles, of which rows from `filled` on are zero; then store_strip.
static void inverse_columns(const DctPlan& plan, float* tiles, int filled, const Strip& s, const ColumnLines& at) {
  const int rows = plan.size();
  for (int i = 0; i < s.count; ++i) {
    F* in = reinterpret_cast<F*>(tiles) + int64_t{s.first + i} * s.step;
    for (int u = filled; u < rows; ++u) in[u] = F{};
    in[0] *= kSqrtHalf;
    dct3(plan.top(), in, at.strip + i * s.step, at.scratch);
  }
}

static void expand_columns_out(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, const Lines& lines) {
  const auto [H, W] = task.fine;
  const Strip s = strip_at(H, W, strip);
  const ColumnLines at(lines, H);
  inverse_columns(*task.fine_plan[0], tiles.columns, task.draw ? H : blocks(task.coarse[0]) * kLanes, s, at);
  if (task.on_fine) {
    const float weight = static_cast<float>(task.t * task.kappa);
    for (int i = 0; i < s.count; ++i) {
      load_strip(task.storage, task.on_fine, plane, H, W, {s.first + i, 1, s.step}, 0.0f, at.line);
      for (int u = 0; u < H; ++u) at.strip[i * s.step + u] = mad(at.line[u], weight, at.strip[i * s.step + u]);
    }
  }
  store_strip(task.storage, task.out, plane, H, W, s, at.strip);
}

// ---- restriction ------------------------------------------------------------------------------------------------------

static void restrict_columns_in(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, const Lines& lines) {
  forward_columns(*task.fine_plan[0], task.storage, task.on_fine, plane, task.fine[1], strip, task.coarse[0], tiles.fine_rows,
                  lines);
}

static void restrict_rows(const GridTask& task, int64_t, int block, const Tiles& tiles, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const RowLines at(lines, W);
  F* coefficient = at.coefficient;
  const F* in = reinterpret_cast<const F*>(tiles.fine_rows) + int64_t{block} * blocks(W) * kLanes;
  dct2(task.fine_plan[1]->top(), in, coefficient, at.scratch);
  const float weight = static_cast<float>(task.kappa * norm(H, W) * norm(h, w));
  for (int v = 0; v < w; ++v) coefficient[v] *= weight;
  coefficient[0] *= 0.5f;  // forward and inverse weight of k = 0
  dct3(task.coarse_plan[1]->top(), coefficient, at.out, at.scratch);
  transpose_out(at.out, w, reinterpret_cast<F*>(tiles.columns) + block * kLanes, blocks(h) * kLanes);
}

static void restrict_columns_out(const GridTask& task, int64_t plane, int strip, const Tiles& tiles, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const Strip s = strip_at(h, w, strip);
  const ColumnLines at(lines, h);
  inverse_columns(*task.coarse_plan[0], tiles.columns, h, s, at);
  store_strip(task.storage, task.out, plane, h, w, s, at.strip);
}

// ---- radial power -----------------------------------------------------------------------------------------------------

// Column transforms of a plane into row tiles. A constant is subtracted first: the mean of the first strip. It moves nothing
// but the coefficient (0, 0), which is not wanted, and without it the rounding of a large mean would cover small coefficients.
static void power_columns(const PowerTask& task, int64_t plane, const Tiles& tiles, const Lines& lines) {
  const auto [H, W] = task.size;
  const ColumnLines at(lines, H);
  F* in = at.strip;
  const int width = blocks(W) * kLanes;
  float level = 0;
  for (int strip = 0; strip < strips(H, W); ++strip) {
    const Strip s = strip_at(H, W, strip);
    load_strip(task.storage, task.x, plane, H, W, s, level, in);
    if (strip == 0) {
      F sum{};
      for (int i = 0; i < s.count; ++i)
        for (int u = 0; u < H; ++u) sum += in[i * s.step + u];  // lanes beyond the plane hold 0
      float total = 0;
      for (int i = 0; i < kLanes; ++i) total += sum[i];
      const int columns = W < s.count * kLanes ? W : s.count * kLanes;
      level = total / (static_cast<float>(H) * columns);
      for (int i = 0; i < s.count; ++i)
        for (int u = 0; u < H; ++u) in[i * s.step + u] -= level;
    }
    for (int i = 0; i < s.count; ++i) {
      dct2(task.plan[0]->top(), in + i * s.step, at.line, at.scratch);
      transpose_out(at.line, H, reinterpret_cast<F*>(tiles.fine_rows) + (s.first + i) * kLanes, width);
    }
  }
}

// Row transforms of a block of a plane; their squares become (`first`) or are added to the block of `squares`, laid out like
// row tiles. Meanwhile the same block of the map's next plane is fetched, of planes that the second cache level holds: memory
// would have nothing else to do.
constexpr int64_t kFetchedBytes = int64_t{1} << 20;
static void power_rows(const PowerTask& task, int64_t plane, int block, const Tiles& tiles, const Lines& lines, bool first,
                       double* squares) {
  typedef double D __attribute__((vector_size(4 * kLanes), may_alias));
  typedef float Half __attribute__((vector_size(2 * kLanes), may_alias));
  const auto [H, W] = task.size;
  const int width = blocks(W) * kLanes;
  const RowLines at(lines, W);
  F* out = at.out;
  dct2(task.plan[1]->top(), reinterpret_cast<const F*>(tiles.fine_rows) + int64_t{block} * width, out, at.scratch);
  D* sum = reinterpret_cast<D*>(squares) + int64_t{block} * width * 2;
  const int bytes = task.storage == Storage::kFloat32 ? 4 : 2;
  const bool fetch = int64_t{H} * W * bytes <= kFetchedBytes;
  const char* ahead = static_cast<const char*>(task.x) + ((plane + task.maps) * H + int64_t{block} * kLanes) * W * bytes;
  for (int v = 0; v < W; ++v) {
    if (fetch) __builtin_prefetch(ahead + v * kLanes * bytes, 0, 2);
    Half parts[2];
    std::memcpy(parts, out + v, sizeof parts);
    const D low = __builtin_convertvector(parts[0], D), high = __builtin_convertvector(parts[1], D);
    sum[2 * v] = first ? low * low : sum[2 * v] + low * low;
    sum[2 * v + 1] = first ? high * high : sum[2 * v + 1] + high * high;
  }
}

static void power_plane(const PowerTask& task, int64_t plane, const Tiles& tiles, const Lines& lines, bool first,
                        double* squares) {
  power_columns(task, plane, tiles, lines);
  for (int block = 0; block < blocks(task.size[0]); ++block) power_rows(task, plane, block, tiles, lines, first, squares);
}

static void power_unpack(const PowerTask& task, double* squares, int parts, double* map) {
  const auto [H, W] = task.size;
  const double weight = norm(H, W) * norm(H, W);
  const int64_t width = blocks(W) * kLanes, floats = tile_floats(H, W);
  constexpr int kLine = 8;  // doubles of a cache line, written together
  for (int block = 0; block < blocks(H); ++block) {
    double* sum = squares + int64_t{block} * width * kLanes;
    for (int part = 1; part < parts; ++part)
      for (int64_t i = 0; i < width * kLanes; ++i) sum[i] += sum[part * floats + i];
    for (int v = 0; v < W; v += kLine)
      for (int i = 0; i < lanes_of(H, block); ++i) {
        const int u = block * kLanes + i;
        for (int column = v; column < v + kLine && column < W; ++column)
          map[int64_t{u} * W + column] = weight * (u ? 1.0 : 0.5) * (column ? 1.0 : 0.5) * sum[column * kLanes + i];
      }
  }
  // The mean is not signal.
  map[0] = 0.0;
}

}  // namespace SPD_ISA
}  // namespace spd
