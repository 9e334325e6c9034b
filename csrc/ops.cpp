// Registration, argument checks and the CPU launchers, through the LibTorch stable ABI only: one binary for every
// torch >= 2.11 and Python >= 3.10. The operations' contract is in ops.h, the kernels' in cpu.h.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "checks.h"
#include "cpu.h"
#include "scratch.h"

namespace spd {
namespace {

// ---- shapes and checks ------------------------------------------------------------------------------------------------

const DctPlan* plan_for(int n) {
  static std::mutex lock;
  static std::unordered_map<int, std::unique_ptr<DctPlan>> plans;  // tables of a size are small and never change
  const std::lock_guard<std::mutex> guard(lock);
  std::unique_ptr<DctPlan>& plan = plans[n];
  if (!plan) plan = std::make_unique<DctPlan>(n);
  return plan.get();
}

NoiseSource noise_source(const Tensor& key, int64_t planes, int64_t transition) {
  return {static_cast<const int64_t*>(key.const_data_ptr()), planes / key.size(0), static_cast<uint32_t>(transition)};
}

GridTask grid_task(Basis basis, int h, int w, int H, int W, Storage storage, double t, double kappa) {
  check_pair(basis, h, H);
  check_pair(basis, w, W);
  GridTask task{};
  task.coarse[0] = h, task.coarse[1] = w, task.fine[0] = H, task.fine[1] = W;
  if (basis == Basis::kDct)
    for (int axis = 0; axis < 2; ++axis) {
      task.coarse_plan[axis] = plan_for(task.coarse[axis]);
      task.fine_plan[axis] = plan_for(task.fine[axis]);
    }
  task.storage = storage;
  task.t = t;
  task.kappa = kappa;
  return task;
}

// ---- launchers --------------------------------------------------------------------------------------------------------

// Below about 0.1 ms of work a second thread costs more than it brings.
constexpr int64_t kSamplesPerTask = int64_t{1} << 16;
constexpr int64_t kSharedTileFloats = int64_t{1} << 23;

template <class Body>
void parallel(int64_t count, int64_t samples_each, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kSamplesPerTask / std::max<int64_t>(1, samples_each));
  if (count <= grain) return body(0, count);
  torch::stable::parallel_for(0, count, grain, body);
}

int blocks(int n, int lanes) { return (n + lanes - 1) / lanes; }

using Step = void (*)(const GridTask&, int64_t, int, const Tiles&, const Lines&);

// The three steps of a DCT task, how many pieces each has, and the grid that comes out.
struct Steps {
  Step columns_in, rows, columns_out;
  int in_strips, row_blocks, out_strips;
  const int* out;  // rows, columns
};

// The three steps of a DCT task over all planes. With planes enough, a thread takes whole planes and everything it touches
// stays in its cache; otherwise strips of a few planes are shared out, with a barrier after each step.
void run_dct(const GridTask& task, int64_t planes, const Steps& s) {
  const Kernels& k = kernels();
  const auto [h, w] = task.coarse;
  const auto [H, W] = task.fine;
  const int64_t coarse_floats = task.on_coarse ? k.tile_floats(h, w) : 0, fine_floats = task.on_fine ? k.tile_floats(h, W) : 0;
  const int64_t tile_floats = coarse_floats + fine_floats + k.tile_floats(s.out[0], s.out[1]);
  const int64_t line_floats = k.line_floats(std::max(H, W)), samples = int64_t{H} * W;
  const auto tiles_at = [&](float* p) { return Tiles{p, p + coarse_floats, p + coarse_floats + fine_floats}; };
  const int64_t threads = torch::stable::get_num_threads();

  if (threads == 1 || planes >= 2 * threads || planes * samples <= kSamplesPerTask) {
    parallel(planes, samples, [&](int64_t first, int64_t last) {
      float* buffer = thread_scratch(tile_floats + line_floats);
      const Tiles tiles = tiles_at(buffer);
      const Lines lines{buffer + tile_floats, line_floats};
      for (int64_t p = first; p < last; ++p) {
        for (int i = 0; i < s.in_strips; ++i) s.columns_in(task, p, i, tiles, lines);
        for (int i = 0; i < s.row_blocks; ++i) s.rows(task, p, i, tiles, lines);
        for (int i = 0; i < s.out_strips; ++i) s.columns_out(task, p, i, tiles, lines);
      }
    });
    return;
  }
  const int64_t group = 4;
  const Scratch shared(group * tile_floats);
  for (int64_t start = 0; start < planes; start += group) {
    const int64_t count = std::min(group, planes - start);
    const auto each = [&](Step step, int pieces) {
      parallel(count * pieces, samples / pieces, [&](int64_t first, int64_t last) {
        const Lines lines{thread_scratch(line_floats), line_floats};
        for (int64_t i = first; i < last; ++i)
          step(task, start + i / pieces, static_cast<int>(i % pieces), tiles_at(shared.data() + i / pieces * tile_floats),
               lines);
      });
    };
    if (s.in_strips) each(s.columns_in, s.in_strips);
    each(s.rows, s.row_blocks);
    each(s.columns_out, s.out_strips);
  }
}

void run_haar(const GridTask& task, int64_t planes, void (*kernel)(const GridTask&, int64_t, int, int, const Lines&)) {
  const Kernels& k = kernels();
  const int h = task.coarse[0];
  const int64_t per_row = int64_t{task.fine[0]} / h * task.fine[1];
  const int rows = static_cast<int>(std::clamp<int64_t>(kSamplesPerTask / per_row, 1, h));
  const int64_t pieces = blocks(h, rows);
  parallel(planes * pieces, rows * per_row, [&](int64_t first, int64_t last) {
    const int64_t line_floats = k.haar_line_floats(task, rows);
    const Lines lines{thread_scratch(line_floats), line_floats};
    for (int64_t i = first; i < last; ++i) {
      const int start = static_cast<int>(i % pieces) * rows;
      kernel(task, i / pieces, start, std::min(start + rows, h), lines);
    }
  });
}

void run_expand(Basis basis, const GridTask& task, int64_t planes) {
  if (planes == 0) return;
  const Kernels& k = kernels();
  if (basis == Basis::kHaar) return run_haar(task, planes, k.haar_expand);
  const int of_x = task.on_coarse ? k.strips(task.coarse[0], task.coarse[1]) : 0;
  const int of_white = task.on_fine ? k.strips(task.fine[0], task.fine[1]) : 0;
  run_dct(task, planes,
          {k.expand_columns_in, k.expand_rows, k.expand_columns_out, std::max(of_x, of_white),
           blocks(task.draw ? task.fine[0] : task.coarse[0], k.lanes), k.strips(task.fine[0], task.fine[1]), task.fine});
}

// ---- operations -------------------------------------------------------------------------------------------------------

void expand_field_into(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                       int64_t transition, Basis basis, Tensor& out) {
  const Grid coarse = grid_of(x, "x");
  check_key(key, coarse.planes);
  check_transition(transition);
  STD_TORCH_CHECK(basis == Basis::kDct || height * coarse.columns == width * coarse.rows,
                  "haar basis: coefficients are nested only if every axis grows by the same factor");
  GridTask task = grid_task(basis, coarse.rows, coarse.columns, static_cast<int>(height), static_cast<int>(width),
                            storage_of(x, "x"), t, kappa);
  const Tensor planes = readable(x, out), keys = readable(key, out);
  task.on_coarse = planes.const_data_ptr();
  task.out = out.mutable_data_ptr();
  task.noise = noise_source(keys, coarse.planes, transition);
  task.draw = height > coarse.rows || width > coarse.columns;
  run_expand(basis, task, coarse.planes);
}

// A tensor like x on another grid, to be written as a whole.
Tensor new_planes(const Tensor& x, int64_t rows, int64_t columns) {
  Tensor out = torch::stable::new_empty(x, with_grid(x, rows, columns));
  prefer_huge_pages(out.mutable_data_ptr(), static_cast<size_t>(out.numel()) * out.element_size());
  return out;
}

Tensor expand_field(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                    int64_t transition, std::string basis) {
  grid_of(x, "x");
  Tensor out = new_planes(x, height, width);
  expand_field_into(x, key, height, width, t, kappa, transition, basis_named(basis), out);
  return out;
}

void expand_field_out(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                      int64_t transition, std::string basis, Tensor out) {
  grid_of(x, "x");
  check_out(out, x, with_grid(x, height, width));
  expand_field_into(x, key, height, width, t, kappa, transition, basis_named(basis), out);
}

void expand_white_into(const Tensor& x, const Tensor& white, double t, double kappa, Basis basis, Tensor& out) {
  const Grid coarse = grid_of(x, "x"), fine = grid_of(white, "white");
  STD_TORCH_CHECK(x.scalar_type() == white.scalar_type(), "white must have the type of x");
  STD_TORCH_CHECK(coarse.planes == fine.planes && x.dim() == white.dim(), "white must have x's leading axes");
  GridTask task = grid_task(basis, coarse.rows, coarse.columns, fine.rows, fine.columns, storage_of(x, "x"), t, kappa);
  const Tensor planes = readable(x, out), field = readable(white, out);
  task.on_coarse = planes.const_data_ptr();
  task.on_fine = field.const_data_ptr();
  task.out = out.mutable_data_ptr();
  run_expand(basis, task, coarse.planes);
}

Tensor expand_white(const Tensor& x, const Tensor& white, double t, double kappa, std::string basis) {
  const Grid fine = grid_of(white, "white");
  Tensor out = new_planes(white, fine.rows, fine.columns);
  expand_white_into(x, white, t, kappa, basis_named(basis), out);
  return out;
}

void expand_white_out(const Tensor& x, const Tensor& white, double t, double kappa, std::string basis, Tensor out) {
  const Grid fine = grid_of(white, "white");
  check_out(out, x, with_grid(x, fine.rows, fine.columns));
  expand_white_into(x, white, t, kappa, basis_named(basis), out);
}

Tensor embed(const Tensor& x, int64_t height, int64_t width, double kappa, std::string name) {
  const Basis basis = basis_named(name);
  const Grid coarse = grid_of(x, "x");
  GridTask task = grid_task(basis, coarse.rows, coarse.columns, static_cast<int>(height), static_cast<int>(width),
                            storage_of(x, "x"), 0.0, kappa);
  Tensor out = new_planes(x, height, width);
  const Tensor planes = torch::stable::contiguous(x);
  task.on_coarse = planes.const_data_ptr();
  task.out = out.mutable_data_ptr();
  run_expand(basis, task, coarse.planes);
  return out;
}

Tensor restrict(const Tensor& x, int64_t height, int64_t width, double kappa, std::string name) {
  const Basis basis = basis_named(name);
  const Grid fine = grid_of(x, "x");
  GridTask task = grid_task(basis, static_cast<int>(height), static_cast<int>(width), fine.rows, fine.columns,
                            storage_of(x, "x"), 0.0, kappa);
  Tensor out = new_planes(x, height, width);
  if (fine.planes == 0) return out;
  const Tensor planes = torch::stable::contiguous(x);
  task.on_fine = planes.const_data_ptr();
  task.out = out.mutable_data_ptr();
  const Kernels& k = kernels();
  if (basis == Basis::kHaar) {
    run_haar(task, fine.planes, k.haar_restrict);
  } else {
    run_dct(task, fine.planes,
            {k.restrict_columns_in, k.restrict_rows, k.restrict_columns_out, k.strips(fine.rows, fine.columns),
             blocks(task.coarse[0], k.lanes), k.strips(task.coarse[0], task.coarse[1]), task.coarse});
  }
  return out;
}

void draw_normals(const NoiseSource& noise, int64_t planes, int rows, int columns, float* out) {
  const Kernels& k = kernels();
  const int64_t samples = int64_t{rows} * columns;
  parallel(planes, samples, [&](int64_t first, int64_t last) {
    const int64_t line_floats = k.noise_line_floats(columns);
    const Lines lines{thread_scratch(line_floats), line_floats};
    for (int64_t p = first; p < last; ++p) k.noise_plane(noise, p, rows, columns, out + p * samples, lines);
  });
}

Tensor normals(const Tensor& key, int64_t planes, int64_t height, int64_t width, int64_t transition) {
  Tensor out = new_field(key, planes, height, width, transition);
  const Tensor keys = torch::stable::contiguous(key);
  const int64_t all = planes * key.size(0);
  draw_normals(noise_source(keys, all, transition), all, static_cast<int>(height), static_cast<int>(width),
               static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

Tensor render(const Tensor& key, int64_t planes, int64_t height, int64_t width, int64_t transition, std::string name) {
  const Basis basis = basis_named(name);
  Tensor out = new_field(key, planes, height, width, transition);
  const Tensor keys = torch::stable::contiguous(key);
  const int64_t all = planes * key.size(0);
  int rows = static_cast<int>(height), columns = static_cast<int>(width);
  if (basis == Basis::kHaar)
    while (rows % 2 == 0 && columns % 2 == 0) rows /= 2, columns /= 2;
  GridTask task =
      grid_task(basis, rows, columns, static_cast<int>(height), static_cast<int>(width), Storage::kFloat32, 1.0, 1.0);
  task.noise = noise_source(keys, all, transition);
  task.out = out.mutable_data_ptr();
  task.draw = true;
  if (basis == Basis::kDct) {
    run_expand(basis, task, all);
  } else if (rows == height) {  // no level at all: the coefficients are the picture
    draw_normals(task.noise, all, rows, columns, static_cast<float*>(task.out));
  } else {
    const Scratch coarsest(all * rows * columns);
    draw_normals(task.noise, all, rows, columns, coarsest.data());
    task.on_coarse = coarsest.data();
    run_expand(basis, task, all);
  }
  return out;
}

Tensor power_map(const Tensor& x, int64_t maps) {
  const Grid grid = grid_of(x, "x");
  STD_TORCH_CHECK(maps >= 1 && grid.planes % maps == 0, "maps = ", maps, " must divide the ", grid.planes, " planes of x");
  check_pair(Basis::kDct, grid.rows, grid.rows);
  check_pair(Basis::kDct, grid.columns, grid.columns);
  const Tensor planes = torch::stable::contiguous(x);
  const PowerTask task{{grid.rows, grid.columns},
                       {plan_for(grid.rows), plan_for(grid.columns)},
                       storage_of(x, "x"),
                       planes.const_data_ptr(),
                       maps};
  Tensor out = torch::stable::new_empty(x, {maps, grid.rows, grid.columns}, ScalarType::Double);
  double* sums = static_cast<double*>(out.mutable_data_ptr());
  const Kernels& k = kernels();
  const int64_t tile_floats = k.tile_floats(grid.rows, grid.columns);
  const int64_t line_floats = k.line_floats(std::max(grid.rows, grid.columns));
  const int64_t samples = int64_t{grid.rows} * grid.columns, each = grid.planes / maps;
  // Every map is a fixed number of partial sums, added in order: the result does not depend on the number of threads. Eight
  // sums in all keep threads busy, of six planes at least, since a sum is written and read once more than it would be alone;
  // as many maps at once as fit in 64 MB.
  const int64_t parts = std::clamp<int64_t>(std::min(each / 6, 8 / maps), 1, 8);
  const int64_t together = std::clamp<int64_t>((int64_t{1} << 23) / (tile_floats * parts), 1, maps);
  double* squares = reinterpret_cast<double*>(thread_scratch<Kind::kShared>(2 * tile_floats * parts * together));
  for (int64_t first_map = 0; first_map < maps; first_map += together) {
    const int64_t count = std::min(together, maps - first_map);
    parallel(count * parts, each * samples / parts, [&](int64_t first, int64_t last) {
      float* buffer = thread_scratch(tile_floats + line_floats);
      const Lines lines{buffer + tile_floats, line_floats};
      for (int64_t sum = first; sum < last; ++sum) {
        const int64_t map = first_map + sum / parts, part = sum % parts;
        const int64_t begin = each * part / parts, end = each * (part + 1) / parts;
        for (int64_t i = begin; i < end; ++i)
          k.power_plane(task, i * maps + map, Tiles{nullptr, buffer, nullptr}, lines, i == begin, squares + sum * tile_floats);
      }
    });
    for (int64_t map = 0; map < count; ++map)
      k.power_unpack(task, squares + map * parts * tile_floats, static_cast<int>(parts), sums + (first_map + map) * samples);
  }
  return out;
}

}  // namespace
}  // namespace spd

STABLE_TORCH_LIBRARY(spectral_pd, m) {
  for (const char* schema : spd::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(spectral_pd, CPU, m) {
  m.impl("expand_field", TORCH_BOX(&spd::expand_field));
  m.impl("expand_field_out", TORCH_BOX(&spd::expand_field_out));
  m.impl("expand_white", TORCH_BOX(&spd::expand_white));
  m.impl("expand_white_out", TORCH_BOX(&spd::expand_white_out));
  m.impl("embed", TORCH_BOX(&spd::embed));
  m.impl("restrict", TORCH_BOX(&spd::restrict));
  m.impl("render", TORCH_BOX(&spd::render));
  m.impl("normals", TORCH_BOX(&spd::normals));
  m.impl("power_map", TORCH_BOX(&spd::power_map));
}

// ---- the Python module: importing it registers the operations ---------------------------------------------------------

namespace {

PyObject* build_info(PyObject*, PyObject*) {
#if defined(SPECTRAL_PD_CUDA)
  const char* cuda = SPECTRAL_PD_CUDA;  // architectures
#else
  const char* cuda = "";
#endif
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s}", "sources", SPECTRAL_PD_SOURCES, "compiler", __VERSION__, "torch", TORCH_VERSION,
                       "cpu", spd::kernels().name, "cuda", cuda);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS,
     "Hash of the sources, compiler, torch built against, CPU instruction set in use, CUDA architectures."},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) { return PyModule_Create(&module); }
