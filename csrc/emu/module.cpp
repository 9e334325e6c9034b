// Python module `_emu` (tests only, never installed): the CUDA kernels and their launch code under the emulator, on numpy
// arrays.
#define SPD_EMULATE
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../cuda_launch.cuh"
#include "faults.h"

namespace py = pybind11;

namespace spd {
namespace {

using Keys = py::array_t<int64_t, py::array::c_style>;

Storage storage_of(const std::string& name) {
  if (name == "float32") return Storage::kFloat32;
  return name == "bfloat16" ? Storage::kBfloat16 : Storage::kFloat16;
}

// Planes in storage: float32, or the bits of a 16-bit type.
py::array new_planes(Storage storage, int64_t planes, int rows, int columns) {
  const std::vector<py::ssize_t> shape{planes, rows, columns};
  py::array out =
      storage == Storage::kFloat32 ? py::array(py::dtype::of<float>(), shape) : py::array(py::dtype::of<uint16_t>(), shape);
  std::memset(out.mutable_data(), 0xff, static_cast<size_t>(out.nbytes()));  // NaN: what is not written shows
  return out;
}

// Device memory between launches, exact in size and full of NaN.
class Workspace {
 public:
  void* operator()(size_t bytes) const {
    memory_.emplace_back(new unsigned char[bytes]);
    std::memset(memory_.back().get(), 0xff, bytes);
    return memory_.back().get();
  }

 private:
  mutable std::vector<std::unique_ptr<unsigned char[]>> memory_;
};

Device device(int multiprocessors, uint64_t seed, size_t shared_bytes) {
  emu::options().seed = seed;
  return {multiprocessors, shared_bytes, nullptr};
}

GridCall call_for(const std::string& storage, int64_t planes, int h, int w, int H, int W, double t, double scale) {
  GridCall call{};
  call.coarse[0] = h, call.coarse[1] = w, call.fine[0] = H, call.fine[1] = W;
  call.planes = planes;
  call.storage = storage_of(storage);
  call.t = t;
  call.scale = scale;
  return call;
}

void set_noise(GridCall& call, const Keys& keys, uint32_t first_plane, uint32_t transition) {
  call.noise = {keys.data(), call.planes / keys.size(), first_plane, transition};
  call.draw = true;
}

py::array expand(py::object x, py::object white, py::object keys, int64_t planes, std::pair<int, int> coarse,
                 std::pair<int, int> fine, double t, double scale, bool haar, uint32_t first_plane, uint32_t transition,
                 const std::string& storage, int multiprocessors, uint64_t seed, size_t shared_bytes) {
  GridCall call = call_for(storage, planes, coarse.first, coarse.second, fine.first, fine.second, t, scale);
  if (!x.is_none()) call.x = x.cast<py::array>().data();
  if (!white.is_none()) call.white = white.cast<py::array>().data();
  if (!keys.is_none()) set_noise(call, keys.cast<Keys>(), first_plane, transition);
  py::array out = new_planes(call.storage, planes, fine.first, fine.second);
  call.out = out.mutable_data();
  const Device d = device(multiprocessors, seed, shared_bytes);
  if (haar)
    cuda_expand_haar(call, d);
  else
    cuda_expand_dct(call, d, Workspace());
  return out;
}

py::array restrict(py::array x, std::pair<int, int> coarse, double scale, bool haar, const std::string& storage,
                   int multiprocessors, uint64_t seed, size_t shared_bytes) {
  GridCall call = call_for(storage, x.shape(0), coarse.first, coarse.second, static_cast<int>(x.shape(1)),
                           static_cast<int>(x.shape(2)), 0.0, scale);
  call.white = x.data();
  py::array out = new_planes(call.storage, call.planes, coarse.first, coarse.second);
  call.out = out.mutable_data();
  const Device d = device(multiprocessors, seed, shared_bytes);
  if (haar)
    cuda_restrict_haar(call, d);
  else
    cuda_restrict_dct(call, d, Workspace());
  return out;
}

py::array power_map(py::array x, int maps, const std::string& storage, int multiprocessors, uint64_t seed,
                    size_t shared_bytes) {
  const int rows = static_cast<int>(x.shape(1)), columns = static_cast<int>(x.shape(2));
  GridCall call = call_for(storage, x.shape(0), 0, 0, rows, columns, 0.0, 1.0);
  call.white = x.data();
  py::array_t<double> out({maps, rows, columns});
  std::memset(out.mutable_data(), 0xff, static_cast<size_t>(out.nbytes()));
  call.out = out.mutable_data();
  cuda_power_map(call, maps, device(multiprocessors, seed, shared_bytes), Workspace());
  return std::move(out);
}

py::array normals(const Keys& keys, int64_t planes, std::pair<int, int> fine, uint32_t first_plane, uint32_t transition,
                  uint64_t seed) {
  GridCall call = call_for("float32", planes * keys.size(), 0, 0, fine.first, fine.second, 1.0, 1.0);
  set_noise(call, keys, first_plane, transition);
  py::array out = new_planes(call.storage, call.planes, fine.first, fine.second);
  call.out = out.mutable_data();
  cuda_normals(call, device(1, seed, emu::kSharedLimit));
  return out;
}

py::array fault(const std::string& name, uint64_t seed) {
  emu::options().seed = seed;
  py::array_t<float> out(kThreads);
  std::memset(out.mutable_data(), 0xff, static_cast<size_t>(out.nbytes()));
  run_fault(fault_named(name), out.mutable_data());
  return std::move(out);
}

}  // namespace
}  // namespace spd

PYBIND11_MODULE(_emu, m) {
  py::register_exception<emu::Error>(m, "EmulationError", PyExc_RuntimeError);
  m.def("expand", &spd::expand);
  m.def("restrict", &spd::restrict);
  m.def("power_map", &spd::power_map);
  m.def("normals", &spd::normals);
  m.def("fault", &spd::fault);
}
