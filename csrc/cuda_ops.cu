// The CUDA side of the operations in ops.h, through the LibTorch stable ABI: checks, memory, stream, registration. Kernels and
// how they are launched are in cuda_launch.cuh.
//
// Everything runs on the current stream of x's device, takes memory from torch only, never synchronises and uploads nothing, so
// every operation can be captured in a CUDA graph.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "checks.h"
#include "cuda_launch.cuh"

// Lives in libtorch_cuda. Weak, so that the same binary imports beside a CPU-only torch, where no CUDA tensor can reach us.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace spd {
namespace {

// Selects a tensor's device for the duration of a call.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()), like_(x) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "spectral_pd: this torch was built without CUDA");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    int multiprocessors = 0, shared = 0;
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, x.get_device_index());
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, x.get_device_index());
    device_ = {multiprocessors, static_cast<size_t>(shared), static_cast<cudaStream_t>(stream)};
  }
  const Device& device() const { return device_; }

  // Freed by the destructor, which torch's allocator orders behind what the stream still has to do.
  void* operator()(size_t bytes) const {
    memory_ = torch::stable::new_empty(like_, {static_cast<int64_t>(bytes + 7) / 8}, ScalarType::Double);
    return memory_.mutable_data_ptr();
  }

  void check_launch(const char* operation) const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "spectral_pd ", operation, ": ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  const Tensor& like_;
  Device device_;
  mutable Tensor memory_;
};

void check_same_device(const Tensor& x, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(other.is_cuda() && other.get_device_index() == x.get_device_index(), name,
                  " must be on x's device, cuda:", x.get_device_index());
}

GridCall grid_call(const OnDevice& on, Basis basis, int64_t h, int64_t w, int64_t H, int64_t W, int64_t planes, Storage storage,
                   double t, double kappa) {
  check_pair(basis, h, H);
  check_pair(basis, w, W);
  const int largest = largest_size(on.device());
  STD_TORCH_CHECK(basis == Basis::kHaar || (H <= largest && W <= largest), "dct basis: a grid of ", H, " x ", W,
                  " has an axis over ", largest, ", the largest on this device; use the torch path");
  GridCall call{};
  call.coarse[0] = static_cast<int>(h), call.coarse[1] = static_cast<int>(w);
  call.fine[0] = static_cast<int>(H), call.fine[1] = static_cast<int>(W);
  call.planes = planes;
  call.storage = storage;
  call.t = t;
  call.kappa = kappa;
  return call;
}

void set_noise(GridCall& call, const Tensor& keys, int64_t transition) {
  call.noise = {static_cast<const int64_t*>(keys.const_data_ptr()), call.planes / keys.size(0),
                static_cast<uint32_t>(transition)};
}

void run_expand(Basis basis, const GridCall& call, const OnDevice& on, const char* operation) {
  if (call.planes == 0) return;
  if (basis == Basis::kHaar)
    cuda_expand_haar(call, on.device());
  else
    cuda_expand_dct(call, on.device(), on);
  on.check_launch(operation);
}

// ---- operations -------------------------------------------------------------------------------------------------------

void expand_field_into(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                       int64_t transition, Basis basis, Tensor& out) {
  const Grid coarse = grid_of(x, "x");
  check_key(key, coarse.planes);
  check_transition(transition);
  check_same_device(x, key, "key");
  STD_TORCH_CHECK(basis == Basis::kDct || height * coarse.columns == width * coarse.rows,
                  "haar basis: coefficients are nested only if every axis grows by the same factor");
  const OnDevice on(x);
  GridCall call = grid_call(on, basis, coarse.rows, coarse.columns, height, width, coarse.planes, storage_of(x, "x"), t, kappa);
  const Tensor planes = readable(x, out), keys = readable(key, out);
  call.on_coarse = planes.const_data_ptr();
  call.out = out.mutable_data_ptr();
  call.draw = height > coarse.rows || width > coarse.columns;
  set_noise(call, keys, transition);
  run_expand(basis, call, on, "expand_field");
}

Tensor expand_field(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                    int64_t transition, std::string basis) {
  grid_of(x, "x");
  Tensor out = torch::stable::new_empty(x, with_grid(x, height, width));
  expand_field_into(x, key, height, width, t, kappa, transition, basis_named(basis), out);
  return out;
}

void expand_field_out(const Tensor& x, const Tensor& key, int64_t height, int64_t width, double t, double kappa,
                      int64_t transition, std::string basis, Tensor out) {
  grid_of(x, "x");
  check_out(out, x, with_grid(x, height, width));
  check_same_device(x, out, "out");
  expand_field_into(x, key, height, width, t, kappa, transition, basis_named(basis), out);
}

void expand_white_into(const Tensor& x, const Tensor& white, double t, double kappa, Basis basis, Tensor& out) {
  const Grid coarse = grid_of(x, "x"), fine = grid_of(white, "white");
  STD_TORCH_CHECK(x.scalar_type() == white.scalar_type(), "white must have the type of x");
  STD_TORCH_CHECK(coarse.planes == fine.planes && x.dim() == white.dim(), "white must have x's leading axes");
  check_same_device(x, white, "white");
  const OnDevice on(x);
  GridCall call =
      grid_call(on, basis, coarse.rows, coarse.columns, fine.rows, fine.columns, coarse.planes, storage_of(x, "x"), t, kappa);
  const Tensor planes = readable(x, out), field = readable(white, out);
  call.on_coarse = planes.const_data_ptr();
  call.on_fine = field.const_data_ptr();
  call.out = out.mutable_data_ptr();
  run_expand(basis, call, on, "expand_white");
}

Tensor expand_white(const Tensor& x, const Tensor& white, double t, double kappa, std::string basis) {
  const Grid fine = grid_of(white, "white");
  Tensor out = torch::stable::new_empty(white, with_grid(white, fine.rows, fine.columns));
  expand_white_into(x, white, t, kappa, basis_named(basis), out);
  return out;
}

void expand_white_out(const Tensor& x, const Tensor& white, double t, double kappa, std::string basis, Tensor out) {
  const Grid fine = grid_of(white, "white");
  check_out(out, x, with_grid(x, fine.rows, fine.columns));
  check_same_device(x, out, "out");
  expand_white_into(x, white, t, kappa, basis_named(basis), out);
}

Tensor embed(const Tensor& x, int64_t height, int64_t width, double kappa, std::string name) {
  const Basis basis = basis_named(name);
  const Grid coarse = grid_of(x, "x");
  const OnDevice on(x);
  GridCall call =
      grid_call(on, basis, coarse.rows, coarse.columns, height, width, coarse.planes, storage_of(x, "x"), 0.0, kappa);
  Tensor out = torch::stable::new_empty(x, with_grid(x, height, width));
  const Tensor planes = torch::stable::contiguous(x);
  call.on_coarse = planes.const_data_ptr();
  call.out = out.mutable_data_ptr();
  run_expand(basis, call, on, "embed");
  return out;
}

Tensor restrict(const Tensor& x, int64_t height, int64_t width, double kappa, std::string name) {
  const Basis basis = basis_named(name);
  const Grid fine = grid_of(x, "x");
  const OnDevice on(x);
  GridCall call = grid_call(on, basis, height, width, fine.rows, fine.columns, fine.planes, storage_of(x, "x"), 0.0, kappa);
  Tensor out = torch::stable::new_empty(x, with_grid(x, height, width));
  if (call.planes == 0) return out;
  const Tensor planes = torch::stable::contiguous(x);
  call.on_fine = planes.const_data_ptr();
  call.out = out.mutable_data_ptr();
  if (basis == Basis::kHaar)
    cuda_restrict_haar(call, on.device());
  else
    cuda_restrict_dct(call, on.device(), on);
  on.check_launch("restrict");
  return out;
}

// The field on a grid: in the Haar basis it grows from the coarsest grid that halving reaches.
Tensor render(const Tensor& key, int64_t planes, int64_t height, int64_t width, int64_t transition, std::string name) {
  const Basis basis = basis_named(name);
  Tensor out = new_field(key, planes, height, width, transition);
  const int64_t all = planes * key.size(0);
  if (all == 0) return out;
  const OnDevice on(key);
  const Tensor keys = torch::stable::contiguous(key);
  int64_t rows = height, columns = width;
  if (basis == Basis::kHaar)
    while (rows % 2 == 0 && columns % 2 == 0) rows /= 2, columns /= 2;
  GridCall call = grid_call(on, basis, rows, columns, height, width, all, Storage::kFloat32, 1.0, 1.0);
  if (basis == Basis::kDct) call.coarse[0] = call.coarse[1] = 0;
  call.out = out.mutable_data_ptr();
  call.draw = true;
  set_noise(call, keys, transition);
  if (basis == Basis::kHaar && rows == height) {  // no level at all: the coefficients are the picture
    cuda_normals(call, on.device());
    on.check_launch("render");
  } else {
    run_expand(basis, call, on, "render");
  }
  return out;
}

Tensor normals(const Tensor& key, int64_t planes, int64_t height, int64_t width, int64_t transition) {
  Tensor out = new_field(key, planes, height, width, transition);
  const int64_t all = planes * key.size(0);
  if (all == 0) return out;
  const OnDevice on(key);
  const Tensor keys = torch::stable::contiguous(key);
  GridCall call = grid_call(on, Basis::kHaar, height, width, height, width, all, Storage::kFloat32, 1.0, 1.0);
  call.out = out.mutable_data_ptr();
  set_noise(call, keys, transition);
  cuda_normals(call, on.device());
  on.check_launch("normals");
  return out;
}

Tensor power_map(const Tensor& x, int64_t maps) {
  const Grid grid = grid_of(x, "x");
  STD_TORCH_CHECK(maps >= 1 && grid.planes % maps == 0, "maps = ", maps, " must divide the ", grid.planes, " planes of x");
  const OnDevice on(x);
  GridCall call =
      grid_call(on, Basis::kDct, grid.rows, grid.columns, grid.rows, grid.columns, grid.planes, storage_of(x, "x"), 0.0, 1.0);
  call.coarse[0] = call.coarse[1] = 0;
  const Tensor planes = torch::stable::contiguous(x);
  if (grid.planes == 0) return torch::stable::new_zeros(x, {maps, grid.rows, grid.columns}, ScalarType::Double);
  Tensor out = torch::stable::new_empty(x, {maps, grid.rows, grid.columns}, ScalarType::Double);
  call.on_fine = planes.const_data_ptr();
  call.out = out.mutable_data_ptr();
  cuda_power_map(call, static_cast<int>(maps), on.device(), on);
  on.check_launch("power_map");
  return out;
}

}  // namespace
}  // namespace spd

STABLE_TORCH_LIBRARY_IMPL(spectral_pd, CUDA, m) {
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
