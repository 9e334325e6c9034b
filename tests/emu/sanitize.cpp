// The emulated kernels as a program of their own, for -fsanitize=address,undefined and -fsanitize=thread.
//
//   sanitize kernels SEED        every kernel on small shapes; fails on an unwritten result
//   sanitize fault NAME SEED     one planted mistake of faults.h, which the sanitizer must report
#define SPD_EMULATE
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "cuda_launch.cuh"
#include "faults.h"

namespace {

using namespace spd;

struct Memory {
  std::vector<std::unique_ptr<double[]>> blocks;
  void* operator()(size_t bytes) {
    blocks.emplace_back(new double[(bytes + 7) / 8]);
    return blocks.back().get();
  }
};

std::vector<float> numbers(int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 2654435761u % 1000) - 500) / 300.0f;
  return x;
}

template <class T>
void require_written(const std::vector<T>& values, const char* what) {
  for (const T v : values)
    if (v != v) {
      std::fprintf(stderr, "%s left a result unwritten or made of unwritten values\n", what);
      std::exit(3);
    }
}

void run_grid(Basis basis, int h, int w, int H, int W, size_t shared_bytes) {
  const int64_t planes = 2, coarse = planes * h * w, fine = planes * H * W;
  const std::vector<float> x = numbers(coarse), white = numbers(fine);
  const int64_t keys[] = {5, -7};
  const Device device{1, shared_bytes, nullptr};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> out(static_cast<size_t>(fine)), low(static_cast<size_t>(coarse));
  GridCall call{};
  call.coarse[0] = h, call.coarse[1] = w, call.fine[0] = H, call.fine[1] = W;
  call.planes = planes;
  call.storage = Storage::kFloat32;
  call.t = 0.7, call.kappa = 1.3;
  call.noise = {keys, 1, 0};
  call.on_coarse = x.data();
  Memory memory;
  const auto workspace = [&](size_t bytes) { return memory(bytes); };
  const auto expand = [&](const char* what) {
    std::fill(out.begin(), out.end(), nan);
    call.out = out.data();
    if (basis == Basis::kHaar)
      cuda_expand_haar(call, device);
    else
      cuda_expand_dct(call, device, workspace);
    require_written(out, what);
  };
  expand("embed");
  call.draw = true;
  expand("expand_field");
  call.draw = false;
  call.on_fine = white.data();
  expand("expand_white");
  std::fill(low.begin(), low.end(), nan);
  call.out = low.data();
  if (basis == Basis::kHaar)
    cuda_restrict_haar(call, device);
  else
    cuda_restrict_dct(call, device, workspace);
  require_written(low, "restrict");
  call.out = out.data();
  call.draw = true;
  cuda_normals(call, device);
  if (basis == Basis::kDct) {
    std::vector<double> power(static_cast<size_t>(H) * W, nan);
    call.out = power.data();
    cuda_power_map(call, 1, device, workspace);
    require_written(power, "power_map");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  try {
    emu::options().seed = std::strtoull(argv[argc - 1], nullptr, 10);
    if (mode == "fault" && argc == 4) {
      std::vector<float> out(kThreads);
      run_fault(fault_named(argv[2]), out.data());
    } else if (mode == "kernels" && argc == 3) {
      run_grid(Basis::kDct, 5, 6, 9, 14, emu::kSharedLimit);
      run_grid(Basis::kDct, 5, 6, 9, 14, 0);  // planes that do not fit: three launches
      run_grid(Basis::kHaar, 2, 3, 8, 12, emu::kSharedLimit);
    } else {
      std::fprintf(stderr, "usage: sanitize kernels SEED | sanitize fault NAME SEED\n");
      return 2;
    }
  } catch (const emu::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
  }
  return 0;
}
