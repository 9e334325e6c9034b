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

class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    const size_t page = size_t{1} << (floats >= int64_t{1} << 20 ? 21 : 6);  // whole huge pages for megabytes
    bytes_ = (static_cast<size_t>(floats) * sizeof(float) + page - 1) / page * page;
    data_ = static_cast<float*>(std::aligned_alloc(page, bytes_ ? bytes_ : page));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (page > 64) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
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

// This thread's buffer, at least that large; what it held is gone.
inline float* thread_scratch(int64_t floats) {
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
