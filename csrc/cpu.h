// The CPU half: what the launcher (ops.cpp) asks, and the table of kernels it gets for the machine it runs on.
//
// A task describes one call; a kernel does one strip or block of one plane of it. Which thread runs which strip does not
// change any number. Torch-free: sanitizers and other programs can drive it directly.
//
// DCT tasks walk a plane in three steps, a few registers of columns (a "strip") or one register of rows (a "block") at a time:
//
//   columns_in     load a strip of the input, transform its columns, transpose into row tiles       (input read once)
//   rows           forward rows; new coefficients from noise; inverse rows; transpose into column tiles
//   columns_out    inverse columns of a strip, store it                                             (output written once)
//
// so coefficients never exist in memory as a plane, noise is never stored, and every sample is transposed once each way.
#pragma once
#include <cstdint>

#include "dct_plan.h"
#include "ops.h"

namespace spd {

struct NoiseSource {
  const int64_t* keys;  // one an item
  int64_t planes;       // planes an item
  uint32_t transition;
};

// Between two grids; sizes are (rows, columns).
//
//   expansion     out, on the fine grid, = kappa (U x + t (w - U U^T w)): x is `on_coarse`, w a noise field (`draw`) or
//   `on_fine`;
//                 what is absent costs nothing
//   restriction   out, on the coarse grid, = kappa U^T y: y is `on_fine`
struct GridTask {
  int coarse[2], fine[2];
  const DctPlan *coarse_plan[2], *fine_plan[2];  // DCT only
  Storage storage;
  const void* on_coarse;  // planes, or null
  const void* on_fine;    // planes, or null
  void* out;
  double t, kappa;
  bool draw;  // fill new coefficients from `noise`
  NoiseSource noise;
};

struct PowerTask {
  int size[2];
  const DctPlan* plan[2];
  Storage storage;
  const void* x;
  int64_t maps;  // planes of one map lie so many planes apart
};

// Tiles of one plane, in floats; a kernel of the same instruction set made and reads them.
struct Tiles {
  float* coarse_rows;  // coefficients of x, after the column transform
  float* fine_rows;    // of the planes on the fine grid
  float* columns;      // after the inverse row transform
};

// A thread's working memory, for which kernels say the size.
struct Lines {
  float* data;
  int64_t floats;
};

struct Kernels {
  const char* name;
  int lanes;

  int (*strips)(int rows, int columns);  // strips that the columns of a plane are walked in

  // Floats needed: of each tile set of a plane, and of a thread's lines.
  int64_t (*tile_floats)(int rows, int columns);
  int64_t (*line_floats)(int longest);

  void (*expand_columns_in)(const GridTask&, int64_t plane, int strip, const Tiles&, const Lines&);
  void (*expand_rows)(const GridTask&, int64_t plane, int block, const Tiles&, const Lines&);
  void (*expand_columns_out)(const GridTask&, int64_t plane, int strip, const Tiles&, const Lines&);

  void (*restrict_columns_in)(const GridTask&, int64_t plane, int strip, const Tiles&, const Lines&);
  void (*restrict_rows)(const GridTask&, int64_t plane, int block, const Tiles&, const Lines&);
  void (*restrict_columns_out)(const GridTask&, int64_t plane, int strip, const Tiles&, const Lines&);

  // Squares of a plane, a constant near its mean removed first: they become (`first`) or are added to a map of row tiles.
  void (*power_plane)(const PowerTask&, int64_t plane, const Tiles&, const Lines&, bool first, double* squares);
  // map = weight of each coefficient * sum of `parts` maps of squares, one after the other in memory; the first takes the sum
  void (*power_unpack)(const PowerTask&, double* squares, int parts, double* map);

  // Haar: coarse rows [first, last) of a plane and everything that grows from them.
  int64_t (*haar_line_floats)(const GridTask&, int rows);
  void (*haar_expand)(const GridTask&, int64_t plane, int first, int last, const Lines&);
  void (*haar_restrict)(const GridTask&, int64_t plane, int first, int last, const Lines&);

  // The field's normals themselves, rows x columns of a plane.
  int64_t (*noise_line_floats)(int columns);
  void (*noise_plane)(const NoiseSource&, int64_t plane, int rows, int columns, float* out, const Lines&);
};

const Kernels& kernels();                   // the best for this machine
const Kernels* kernels_named(const char*);  // "avx512", "avx2", "baseline"; null where it cannot run

}  // namespace spd
