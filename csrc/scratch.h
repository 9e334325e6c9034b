// Working memory of the CPU launchers: aligned, and kept by each thread between calls so that pages are touched once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace spd {

// Memory that was never touched costs several times what the kernels do with it: a fault for each small page. So megabytes
// ask for huge ones.
constexpr size_t kHugePage = size_t{1} << 21;
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = reinterpret_cast<uintptr_t>(data) / kPage * kPage;
  if (bytes >= 2 * kHugePage) madvise(reinterpret_cast<void*>(first), bytes / kPage * kPage, MADV_HUGEPAGE);  // only a hint
#endif
}

class Scratch {
 public:
  // On whole pages: where buffers lie to one another within a page would otherwise depend on what was allocated before, and
  // with it whether the lines of two that are walked together evict one another.
  explicit Scratch(int64_t floats) {
    const size_t page = floats >= int64_t{1} << 20 ? kHugePage : 4096;
    bytes_ = (static_cast<size_t>(floats) * sizeof(float) + page - 1) / page * page;
    data_ = static_cast<float*>(std::aligned_alloc(page, bytes_ ? bytes_ : page));
    if (!data_) throw std::bad_alloc();
    prefer_huge_pages(data_, bytes_);
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }
  int64_t floats() const { return static_cast<int64_t>(bytes_ / sizeof(float)); }

 private:
  float* data_;
  size_t bytes_;
};

// This thread's buffer of a kind, at least that large; what it held is gone. A thread that shares out work keeps `kShared`
// for all and takes `kOwn` for its part.
enum class Kind { kOwn, kShared };
template <Kind kind = Kind::kOwn>
float* thread_scratch(int64_t floats) {
  thread_local Scratch* kept = nullptr;
  thread_local struct Owner {
    ~Owner() { delete kept; }
  } owner;
  (void)owner;
  if (!kept || kept->floats() < floats) {
    delete kept;
    kept = nullptr;
    kept = new Scratch(floats);
  }
  return kept->data();
}

}  // namespace spd
