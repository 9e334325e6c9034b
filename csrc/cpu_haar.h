// Haar kernels: any number of levels in one pass over the output. Compiled once per instruction set.
//
// One level turns the low band a (n rows) and the details at packed rows r, n + r and columns n + c, c into a 2 x 2 block:
//
//   p = a + l,  q = a - l,  y = h + d,  z = h - d          l at (r, n+c),  h at (n+r, c),  d at (n+r, n+c)
//   out = | p + y   q + z |
//         | p - y   q - z |                                all times 1/2, folded into a's factor and the noise level
//
// A group of rows is drawn at a time: the quads of its details, row after row, form one flat list with no lane idle.
#pragma once
#include "cpu_dct.h"

namespace spd {
inline namespace SPD_ISA {

// A flat list of quads, in blocks of kLanes. Within a block, lane 4g + k takes entry k * kLanes/4 + g: a transpose inside
// groups of four lanes then puts all normals in order.
struct QuadList {
  uint32_t* words;  // the four arrays of QuadState
  int capacity;

  QuadState quads() const { return {words, words + capacity, words + 2 * capacity, words + 3 * capacity}; }
  static int slot(int entry) {
    const int block = entry / kLanes, i = entry % kLanes;
    return block * kLanes + 4 * (i % (kLanes / 4)) + i / (kLanes / 4);
  }
  template <size_t... lane>
  static I entries(std::index_sequence<lane...>) {  // of each lane of a block
    return I{static_cast<int32_t>(lane % 4 * (kLanes / 4) + lane / 4)...};
  }
};

static int list_capacity(int entries) { return blocks(entries) * kLanes; }

SPD_HD void append_quads(const QuadList& list, const FieldPlane& at, int first, int count, int& entry) {
  for (int i = 0; i < count; ++i) quad_state(at, first + i, list.quads(), QuadList::slot(entry++));
}
static void pad_list(const QuadList& list, int entries) {
  for (int i = entries; i < list_capacity(entries); ++i) {
    const int slot = QuadList::slot(i);
    for (int a = 0; a < 4; ++a) list.words[a * list.capacity + slot] = 0;
  }
}

// The rows along a flat list: `rows(i)` is the i-th run, a row and its number of entries. Most blocks lie in one run.
struct Run {
  uint32_t row;
  int entries;
};
template <class Rows>
struct RowWalk {
  const FieldPlane& at;
  const Rows& rows;
  int run = 0, left = 0;
  RowState state{};

  SPD_HD void advance() {
    while (left == 0) {
      const Run next = rows(run++);
      state = row_state(at, next.row);
      left = next.entries;
    }
  }
  // Row states of the next kLanes entries.
  SPD_HD void block(Halves& z, Halves& w) {
    advance();
    if (left >= kLanes) {
      left -= kLanes;
      z = Halves(state.z);
      w = Halves(state.w);
      return;
    }
    U mixed_z = state.z + U{}, mixed_w = state.w + U{};
    const I entry = QuadList::entries(Lane{});
    int filled = left;
    while (filled < kLanes) {
      left = 0;
      advance();
      mixed_z = entry >= filled ? state.z + U{} : mixed_z;
      mixed_w = entry >= filled ? state.w + U{} : mixed_w;
      filled += left;
    }
    left = filled - kLanes;
    z = Halves(mixed_z);
    w = Halves(mixed_w);
  }
};

// Normals of the list, four an entry, in order. `rows` must go on beyond the last entry, to fill the last block.
template <class Rows>
SPD_HD void draw_list(const QuadList& list, const FieldPlane& at, const Rows& rows, int entries, float sigma, float* out) {
  const QuadState quads = list.quads();
  RowWalk<Rows> walk{at, rows};
  const auto lanes = [&](int block) __attribute__((always_inline)) {
    const auto word = [&](const uint32_t* p) __attribute__((always_inline)) {
      return Halves((U)load(reinterpret_cast<const float*>(p + block * kLanes)));
    };
    QuadLanes a{0u, 0u, word(quads.z), word(quads.y), word(quads.high), word(quads.low)};
    walk.block(a.row_z, a.row_w);
    return a;
  };
  const auto put = [&](int block, F* n) __attribute__((always_inline)) {
    transpose_groups(n[0], n[1], n[2], n[3]);
    for (int k = 0; k < 4; ++k) store(out + 4 * block * kLanes + k * kLanes, n[k]);
  };
  int b = 0;
  for (; b + 2 <= blocks(entries); b += 2) {
    F n[8];
    noise_block<2>(at.key, {lanes(b), lanes(b + 1)}, splat(sigma), n);
    put(b, n);
    put(b + 1, n + 4);
  }
  if (b < blocks(entries)) {
    F n[4];
    noise_block<1>(at.key, {lanes(b)}, splat(sigma), n);
    put(b, n);
  }
}

// Of a step that draws `entries` quads; one register more, which the last load may touch.
struct DrawLines {
  LineLayout layout;
  float* drawn;
  QuadList list;

  DrawLines(const Lines& lines, int entries)
      : layout(lines),
        drawn(layout.take<float>(int64_t{4} * list_capacity(entries))),
        list{layout.take<uint32_t>(int64_t{4} * list_capacity(entries)), list_capacity(entries)} {
    layout.take<float>(kLanes);
  }
};

static int64_t noise_line_floats(int columns) { return DrawLines({}, (columns + 3) / 4).layout.taken(); }

static void noise_plane(const NoiseSource& noise, int64_t plane, int rows, int columns, float* out, const Lines& lines) {
  const FieldPlane at = field_plane(noise, plane);
  const int count = (columns + 3) / 4;
  const auto [layout, drawn, list] = DrawLines(lines, count);
  int entry = 0;
  append_quads(list, at, 0, count, entry);
  pad_list(list, count);
  for (int u = 0; u < rows; ++u) {
    const auto run = [&](int) { return Run{static_cast<uint32_t>(u), list_capacity(count)}; };
    draw_list(list, at, run, count, 1.0f, drawn);
    std::memcpy(out + int64_t{u} * columns, drawn, sizeof(float) * columns);
  }
}

// ---- one level --------------------------------------------------------------------------------------------------------

// The details of one level: which quads a group of `rows` low rows of `width` samples needs.
struct Details {
  int width, first_quad, upper, whole, rows;  // first_quad, upper: of columns [width, 2 width); whole: of [0, 2 width)

  explicit Details(int n)
      : width(n), first_quad(n / 4), upper((2 * n + 3) / 4 - n / 4), whole((2 * n + 3) / 4), rows(n >= 256 ? 1 : 256 / n) {}
  int entries(int group) const { return group * (upper + whole); }
  int64_t floats() const { return DrawLines({}, entries(rows)).layout.taken(); }
};

template <class In, class Out>
SPD_HD void haar_row(const In* low, float weight, const float* l, const float* h, const float* d, int n, Out* even, Out* odd) {
  int c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    const F a = load(low + c) * weight, along = load(l + c), across = load(h + c), both = load(d + c);
    const F p = a + along, q = a - along, y = across + both, z = across - both;
    const F a0 = p + y, a1 = q + z, b0 = p - y, b1 = q - z;
    store(even + 2 * c, zip_low(a0, a1, Lane{}));
    store(even + 2 * c + kLanes, zip_high(a0, a1, Lane{}));
    store(odd + 2 * c, zip_low(b0, b1, Lane{}));
    store(odd + 2 * c + kLanes, zip_high(b0, b1, Lane{}));
  }
  if (c < n) {
    const int m = n - c;
    const F a = load_some(low + c, m) * weight, along = load_some(l + c, m), across = load_some(h + c, m),
            both = load_some(d + c, m);
    const F p = a + along, q = a - along, y = across + both, z = across - both;
    const F a0 = p + y, a1 = q + z, b0 = p - y, b1 = q - z;
    const int first = 2 * m < kLanes ? 2 * m : kLanes;
    store_some(even + 2 * c, zip_low(a0, a1, Lane{}), first);
    store_some(odd + 2 * c, zip_low(b0, b1, Lane{}), first);
    if (2 * m > kLanes) {
      store_some(even + 2 * c + kLanes, zip_high(a0, a1, Lane{}), 2 * m - kLanes);
      store_some(odd + 2 * c + kLanes, zip_high(b0, b1, Lane{}), 2 * m - kLanes);
    }
  }
}

// Rows [first, first + rows) of the low band (height x width), at `low`, become rows of twice the width at `out`.
template <class In, class Out>
static void haar_level(const FieldPlane& at, int height, int width, int first, int rows, const In* low, float weight,
                       float sigma, Out* out, const Lines& lines) {
  const Details details(width);
  const int group = rows < details.rows ? rows : details.rows;
  const auto [layout, drawn, list] = DrawLines(lines, details.entries(group));
  // All upper runs of the group, then all whole ones.
  int entry = 0;
  for (int i = 0; i < group; ++i) append_quads(list, at, details.first_quad, details.upper, entry);
  for (int i = 0; i < group; ++i) append_quads(list, at, 0, details.whole, entry);
  pad_list(list, entry);
  for (int r = 0; r < rows; r += group) {
    const auto run = [&](int i) {
      const int row = first + r + i % group;
      return i < group ? Run{static_cast<uint32_t>(row), details.upper}
                       : Run{static_cast<uint32_t>(height + row), details.whole};
    };
    draw_list(list, at, run, entry, sigma, drawn);
    const float* wholes = drawn + 4 * group * details.upper;
    for (int i = 0; i < group && r + i < rows; ++i) {
      const float* l = drawn + 4 * i * details.upper + width - 4 * details.first_quad;
      const float* h = wholes + 4 * i * details.whole;
      Out* even = out + int64_t{2} * (r + i) * 2 * width;
      haar_row(low + int64_t{r + i} * width, weight, l, h, h + width, width, even, even + 2 * width);
    }
  }
}

// Of growing `rows` coarse rows: what drawing takes at any level, and two buffers for the levels in between.
struct GrowLines {
  LineLayout layout;
  Lines draw;
  float* buffer[2];

  GrowLines(const Lines& lines, const GridTask& task, int rows) : layout(lines) {
    const int64_t floats = Details(task.fine[1] / 2).floats() + Details(task.coarse[1]).floats();
    draw = {layout.take<float>(floats), floats};
    const int64_t samples = int64_t{rows} * (task.fine[0] / task.coarse[0]) * task.fine[1] / 4;
    for (float*& level : buffer) level = layout.take<float>(samples);
  }
};

template <class T>
SPD_HD void haar_grow(const GridTask& task, int64_t plane, int first, int last, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const FieldPlane at = field_plane(task.noise, plane);
  const T* low = static_cast<const T*>(task.on_coarse) + (plane * h + first) * w;
  T* out = static_cast<T*>(task.out) + (plane * H + int64_t{first} * (H / h)) * W;
  const float sigma = static_cast<float>(0.5 * task.t * task.kappa), weight = static_cast<float>(0.5 * task.kappa);
  const GrowLines grow(lines, task, last - first);
  const auto& buffer = grow.buffer;
  if (H == 2 * h) return haar_level(at, h, w, first, last - first, low, weight, sigma, out, grow.draw);
  haar_level(at, h, w, first, last - first, low, weight, sigma, buffer[0], grow.draw);
  int height = 2 * h, width = 2 * w, start = 2 * first, rows = 2 * (last - first), from = 0;
  for (; 2 * height < H; height *= 2, width *= 2, start *= 2, rows *= 2, from ^= 1)
    haar_level(at, height, width, start, rows, buffer[from], 0.5f, sigma, buffer[from ^ 1], grow.draw);
  haar_level(at, height, width, start, rows, buffer[from], 0.5f, sigma, out, grow.draw);
}

// ---- explicit fields: block sums --------------------------------------------------------------------------------------

// sum[c] over a block of `tall` rows and `wide` columns each.
template <class T>
SPD_HD void block_sums(const T* in, int tall, int wide, int columns, float* sum) {
  for (int v = 0; v < columns; v += kLanes) {
    const int valid = lanes_of(columns, v / kLanes);
    F total{};
    for (int u = 0; u < tall; ++u) total += load_some(in + int64_t{u} * columns + v, valid);
    store_some(sum + v, total, valid);
  }
  for (; wide > 1; wide /= 2) {
    columns /= 2;
    for (int v = 0; v < columns; ++v) sum[v] = sum[2 * v] + sum[2 * v + 1];
  }
}

// Of a step on explicit fields: sums of the columns of blocks, and a row.
struct BlockLines {
  LineLayout layout;
  float *sum, *row;

  BlockLines(const Lines& lines, int columns)
      : layout(lines),
        sum(layout.take<float>(int64_t{blocks(columns)} * kLanes)),
        row(layout.take<float>(int64_t{blocks(columns)} * kLanes)) {}
};

template <class T>
SPD_HD void haar_blend(const GridTask& task, int64_t plane, int first, int last, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const int tall = H / h, wide = W / w;
  const double root = 1.0 / __builtin_sqrt(static_cast<double>(tall) * wide);
  const float of_x = static_cast<float>(task.kappa * root), of_mean = static_cast<float>(-task.t * task.kappa * root * root),
              of_white = static_cast<float>(task.t * task.kappa);
  const auto [layout, sum, line] = BlockLines(lines, W);
  for (int r = first; r < last; ++r) {
    const T* white = task.on_fine ? static_cast<const T*>(task.on_fine) + (plane * H + int64_t{r} * tall) * W : nullptr;
    T* out = static_cast<T*>(task.out) + (plane * H + int64_t{r} * tall) * W;
    if (white) block_sums(white, tall, wide, W, sum);
    for (int c = 0; c < w; c += kLanes) {
      const int valid = lanes_of(w, c / kLanes);
      F value{};
      if (task.on_coarse) value = load_some(static_cast<const T*>(task.on_coarse) + (plane * h + r) * w + c, valid) * of_x;
      if (white) value = mad(load_some(sum + c, valid), of_mean, value);
      store_some(sum + c, value, valid);
    }
    for (int c = 0; c < w; ++c)
      for (int j = 0; j < wide; ++j) line[c * wide + j] = sum[c];
    for (int u = 0; u < tall; ++u)
      for (int v = 0; v < W; v += kLanes) {
        const int valid = lanes_of(W, v / kLanes);
        F value = load_some(line + v, valid);
        if (white) value = mad(load_some(white + int64_t{u} * W + v, valid), of_white, value);
        store_some(out + int64_t{u} * W + v, value, valid);
      }
  }
}

template <class T>
SPD_HD void haar_reduce(const GridTask& task, int64_t plane, int first, int last, const Lines& lines) {
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const int tall = H / h, wide = W / w;
  const float weight = static_cast<float>(task.kappa / __builtin_sqrt(static_cast<double>(tall) * wide));
  float* sum = BlockLines(lines, W).sum;
  for (int r = first; r < last; ++r) {
    block_sums(static_cast<const T*>(task.on_fine) + (plane * H + int64_t{r} * tall) * W, tall, wide, W, sum);
    for (int c = 0; c < w; c += kLanes) {
      const int valid = lanes_of(w, c / kLanes);
      store_some(static_cast<T*>(task.out) + (plane * h + r) * w + c, load_some(sum + c, valid) * weight, valid);
    }
  }
}

// ---- entry points -----------------------------------------------------------------------------------------------------

static int64_t haar_line_floats(const GridTask& task, int rows) {
  return task.draw ? GrowLines({}, task, rows).layout.taken() : BlockLines({}, task.fine[1]).layout.taken();
}

static void haar_expand(const GridTask& task, int64_t plane, int first, int last, const Lines& lines) {
  switch (task.storage) {
    case Storage::kFloat32:
      return task.draw ? haar_grow<float>(task, plane, first, last, lines) : haar_blend<float>(task, plane, first, last, lines);
    case Storage::kBfloat16:
      return task.draw ? haar_grow<Bfloat16>(task, plane, first, last, lines)
                       : haar_blend<Bfloat16>(task, plane, first, last, lines);
    case Storage::kFloat16:
      return task.draw ? haar_grow<Float16>(task, plane, first, last, lines)
                       : haar_blend<Float16>(task, plane, first, last, lines);
  }
}

static void haar_restrict(const GridTask& task, int64_t plane, int first, int last, const Lines& lines) {
  switch (task.storage) {
    case Storage::kFloat32:
      return haar_reduce<float>(task, plane, first, last, lines);
    case Storage::kBfloat16:
      return haar_reduce<Bfloat16>(task, plane, first, last, lines);
    case Storage::kFloat16:
      return haar_reduce<Float16>(task, plane, first, last, lines);
  }
}

}  // namespace SPD_ISA
}  // namespace spd
