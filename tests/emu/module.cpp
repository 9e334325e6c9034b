// Python module `_emu` (tests only, never installed): the CUDA kernels and their launch code under the emulator, on numpy
// arrays.
#define SPD_EMULATE
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda_launch.cuh"
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

GridCall call_for(const std::string& storage, int64_t planes, int h, int w, int H, int W, double t, double kappa) {
  GridCall call{};
  call.coarse[0] = h, call.coarse[1] = w, call.fine[0] = H, call.fine[1] = W;
  call.planes = planes;
  call.storage = storage_of(storage);
  call.t = t;
  call.kappa = kappa;
  return call;
}

void set_noise(GridCall& call, const Keys& keys, uint32_t transition) {
  call.noise = {keys.data(), call.planes / keys.size(), transition};
  call.draw = true;
}

// What a test varies: the schedule, and the device that the choice of kernels sees.
struct Machine {
  uint64_t seed;
  size_t shared_bytes;
  int multiprocessors;
  int64_t between_floats;
  std::string dropped_file;  // a barrier that does nothing, as in emu::Options
  int dropped_line;
  Device device() const {
    emu::options().seed = seed;
    emu::options().dropped_file = dropped_file;
    emu::options().dropped_line = dropped_line;
    return {multiprocessors, shared_bytes, nullptr, between_floats};
  }
};

const void* data(const py::object& planes) { return planes.is_none() ? nullptr : planes.cast<py::array>().data(); }

py::array expand(const py::object& x, std::pair<int, int> coarse, std::pair<int, int> fine, int64_t planes,
                 const py::object& white, const py::object& keys, double t, double kappa, const std::string& basis,
                 uint32_t transition, const std::string& storage, const Machine& machine) {
  GridCall call = call_for(storage, planes, coarse.first, coarse.second, fine.first, fine.second, t, kappa);
  call.on_coarse = data(x);
  call.on_fine = data(white);
  if (!keys.is_none()) set_noise(call, keys.cast<Keys>(), transition);
  py::array out = new_planes(call.storage, planes, fine.first, fine.second);
  call.out = out.mutable_data();
  if (basis == "haar")
    cuda_expand_haar(call, machine.device());
  else
    cuda_expand_dct(call, machine.device(), Workspace());
  return out;
}

py::array restrict(const py::array& x, std::pair<int, int> coarse, double kappa, const std::string& basis,
                   const std::string& storage, const Machine& machine) {
  GridCall call = call_for(storage, x.shape(0), coarse.first, coarse.second, static_cast<int>(x.shape(1)),
                           static_cast<int>(x.shape(2)), 0.0, kappa);
  call.on_fine = x.data();
  py::array out = new_planes(call.storage, call.planes, coarse.first, coarse.second);
  call.out = out.mutable_data();
  if (basis == "haar")
    cuda_restrict_haar(call, machine.device());
  else
    cuda_restrict_dct(call, machine.device(), Workspace());
  return out;
}

py::array power_map(const py::array& x, int maps, const std::string& storage, const Machine& machine) {
  const int rows = static_cast<int>(x.shape(1)), columns = static_cast<int>(x.shape(2));
  GridCall call = call_for(storage, x.shape(0), 0, 0, rows, columns, 0.0, 1.0);
  call.on_fine = x.data();
  py::array_t<double> out({maps, rows, columns});
  std::memset(out.mutable_data(), 0xff, static_cast<size_t>(out.nbytes()));
  call.out = out.mutable_data();
  cuda_power_map(call, maps, machine.device(), Workspace());
  return std::move(out);
}

py::array normals(const Keys& keys, int64_t planes, std::pair<int, int> fine, uint32_t transition, const Machine& machine) {
  GridCall call = call_for("float32", planes * keys.size(), 0, 0, fine.first, fine.second, 1.0, 1.0);
  set_noise(call, keys, transition);
  py::array out = new_planes(call.storage, call.planes, fine.first, fine.second);
  call.out = out.mutable_data();
  cuda_normals(call, machine.device());
  return out;
}

py::array fault(const std::string& name, uint64_t seed) {
  emu::options().seed = seed;
  emu::options().dropped_line = 0;
  py::array_t<float> out(kThreads);
  std::memset(out.mutable_data(), 0xff, static_cast<size_t>(out.nbytes()));
  run_fault(fault_named(name), out.mutable_data());
  return std::move(out);
}

}  // namespace
}  // namespace spd

PYBIND11_MODULE(_emu, m) {
  py::register_exception<emu::Error>(m, "EmulationError", PyExc_RuntimeError);
  using spd::Machine;
  py::class_<Machine>(m, "Machine")
      .def(py::init([](uint64_t seed, size_t shared_bytes, int multiprocessors, int64_t between_floats,
                       const std::pair<std::string, int>& dropped) {
             return Machine{seed, shared_bytes, multiprocessors, between_floats, dropped.first, dropped.second};
           }),
           py::arg("seed") = 0, py::arg("shared_bytes") = emu::kSharedLimit, py::arg("multiprocessors") = 1,
           py::arg("between_floats") = spd::Device{}.between_floats, py::arg("dropped") = std::pair<std::string, int>("", 0));
  const Machine usual{0, emu::kSharedLimit, 1, spd::Device{}.between_floats, "", 0};
  m.def("expand", &spd::expand, py::arg("x"), py::arg("coarse"), py::arg("fine"), py::arg("planes"), py::kw_only(),
        py::arg("white") = py::none(), py::arg("keys") = py::none(), py::arg("t") = 0.0, py::arg("kappa") = 1.0,
        py::arg("basis") = "dct", py::arg("transition") = 0, py::arg("storage") = "float32", py::arg("machine") = usual);
  m.def("restrict", &spd::restrict, py::arg("x"), py::arg("coarse"), py::kw_only(), py::arg("kappa") = 1.0,
        py::arg("basis") = "dct", py::arg("storage") = "float32", py::arg("machine") = usual);
  m.def("power_map", &spd::power_map, py::arg("x"), py::arg("maps"), py::kw_only(), py::arg("storage") = "float32",
        py::arg("machine") = usual);
  m.def("normals", &spd::normals, py::arg("keys"), py::arg("planes"), py::arg("fine"), py::kw_only(), py::arg("transition") = 0,
        py::arg("machine") = usual);
  m.def("largest_size", [](size_t shared_bytes) { return spd::largest_size({1, shared_bytes, nullptr}); });
  m.def("fault", &spd::fault, py::arg("name"), py::arg("seed"));
}
