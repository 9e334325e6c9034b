// Chooses the kernels for the processor at run time.
#include <cstdlib>
#include <cstring>

#include "cpu.h"

namespace spd {
namespace baseline {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

const Kernels* kernels_named(const char* name) {
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return &avx512::kKernels;
  if (!std::strcmp(name, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return &avx2::kKernels;
#endif
  return std::strcmp(name, "baseline") ? nullptr : &baseline::kKernels;
}

const Kernels& kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    if (const char* forced = std::getenv("SPECTRAL_PD_CPU"))
      if (const Kernels* k = kernels_named(forced)) return *k;
    for (const char* name : {"avx512", "avx2"})
      if (const Kernels* k = kernels_named(name)) return *k;
    return baseline::kKernels;
  }();
  return chosen;
}

}  // namespace spd
