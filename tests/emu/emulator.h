// A CUDA block on one CPU thread: the source of the kernels, compiled by g++, runs as one fiber per CUDA thread.
//
// The point is to find mistakes without a GPU, so the emulator is as unkind as the CUDA model allows:
//   schedule        random warp priorities: the first warp that can move runs until it blocks, lanes in random order, and is
//                   sometimes demoted. A missing barrier then shows as wrong numbers for most seeds.
//   shared memory   an exact-size heap block filled with NaN: unwritten reads spoil the result, overruns show under ASan.
//   barriers        __syncthreads() that only part of a block reaches, or threads at different ones; warp operations whose
//   lanes
//                   left, or that read outside their mask: an exception in the caller (emu::Error), never an abort.
//   TSan, ASan      are told about fibers. With TSan only barriers and warp operations order threads, which makes it a
//                   happens-before race detector for kernels.
// Blocks run one after another in random order. Not modelled: caches, bank conflicts, occupancy, memory order between blocks.
#pragma once
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

#define __global__
#define __device__
#define __grid_constant__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
using cudaStream_t = void*;

inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(M_PI * x));
  *cosine = static_cast<float>(std::cos(M_PI * x));
}

namespace emu {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kMostThreads = 1024;

struct Options {
  uint64_t seed = 0;
  // A __syncthreads() or __syncwarp() that is to do nothing, as a planted mistake: source file (without folder) and line.
  std::string dropped_file;
  int dropped_line = 0;
};
inline Options& options() {
  static Options o;
  return o;
}

enum class State { kReady, kAtBarrier, kAtWarp, kDone };

// The scheduler's own fields are no data of the kernel: relaxed atomics, so that TSan neither reports nor orders by them.
template <class T>
T relaxed(const T& x) {
  T r;
  __atomic_load(&x, &r, __ATOMIC_RELAXED);
  return r;
}
template <class T>
void set_relaxed(T& x, T v) {
  __atomic_store(&x, &v, __ATOMIC_RELAXED);
}
inline void acquire([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(tag);
#endif
}
inline void release([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(tag);
#endif
}

// Where a fiber stands. swapcontext() asks the kernel for the signal mask each time, so it only serves the sanitizers, which
// know it; otherwise it starts a fiber and jumps do the rest.
struct Context {
  ucontext_t start;
  jmp_buf place;
  bool saved = false;
};
inline void switch_context(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  swapcontext(&from.start, &to.start);
#else
  from.saved = true;
  if (_setjmp(from.place)) return;
  if (to.saved) _longjmp(to.place, 1);
  setcontext(&to.start);
#endif
}

struct Thread {
  Context context;
  char* stack = nullptr;
  dim3 index;
  unsigned lane = 0, warp = 0;
  State state = State::kReady;
  unsigned mask = 0;  // of the warp operation it waits at
  int line = 0;       // of the barrier it waits at
  void* asan_stack = nullptr;
  void* tsan_fiber = nullptr;
};

// Order that a barrier or warp operation makes: threads release `arrived`, the last one of them hands everything on through
// `passed`. One tag would not do: a thread that is slow to leave would acquire what a fast one does next.
struct Tags {
  char arrived = 0, passed = 0;
};

struct Warp {
  alignas(16) unsigned char slot[32][16];  // what each lane contributes to a shuffle
  Tags tags;
};

struct Block {
  dim3 index, size, grid;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;
  std::function<void()> body;
  std::mt19937_64 random;
  std::string error;
  Thread* current = nullptr;
  Context scheduler;
  Tags tags;
  char start_tag = 0, exit_tag = 0;  // released, and acquired, by the scheduler alone: threads stay unordered
  unsigned at_barrier = 0;           // threads that wait there
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  void* scheduler_fiber = nullptr;
};

inline Block*& block_slot() {
  static Block* b = nullptr;
  return b;
}
inline Block& block() { return *relaxed(block_slot()); }
inline Thread& self() { return *relaxed(block().current); }

inline void switch_to_scheduler() {
  Block& b = block();
  Thread& me = self();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(me.state == State::kDone ? nullptr : &me.asan_stack, b.scheduler_stack,
                                 b.scheduler_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  void* const scheduler = b.scheduler_fiber;
  release(&b.exit_tag);
  __tsan_switch_to_fiber(scheduler, 1);  // 1: a switch orders nothing
#endif
  switch_context(me.context, b.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me.asan_stack, &b.scheduler_stack, &b.scheduler_stack_bytes);
#endif
}

inline void resume(Thread& thread) {
  Block& b = block();
  set_relaxed(b.current, &thread);
#if defined(__SANITIZE_ADDRESS__)
  void* saved;
  __sanitizer_start_switch_fiber(&saved, thread.stack, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(thread.tsan_fiber, 1);
#endif
  switch_context(b.scheduler, thread.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
}

// The kernel broke a rule: note it and stop; the launch throws it. Does not return (the fiber is abandoned).
inline void fail(const std::string& what) {
  block().error = what;
  switch_to_scheduler();
}

inline void thread_entry() {
  Block& b = block();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
#endif
  acquire(&b.start_tag);
  b.body();
  set_relaxed(self().state, State::kDone);
  switch_to_scheduler();
}

inline void wait(Tags& tags, bool last) {
  release(&tags.arrived);
  if (last) {
    acquire(&tags.arrived);
    release(&tags.passed);
  }
  switch_to_scheduler();
  acquire(&tags.passed);
}

// A place in the source where threads wait.
struct Site {
  const char* file;
  int line;
  bool dropped() const { return line == options().dropped_line && options().dropped_file == file; }
};

inline void barrier(const Site& site) {
  if (site.dropped()) return;
  Block& b = block();
  set_relaxed(self().state, State::kAtBarrier);
  set_relaxed(self().line, site.line);
  set_relaxed(b.at_barrier, relaxed(b.at_barrier) + 1);
  wait(b.tags, relaxed(b.at_barrier) == b.size.x);
}

inline void warp_barrier(unsigned mask) {
  Block& b = block();
  Thread& me = self();
  if (!(mask >> me.lane & 1)) fail("a lane takes part in a warp operation whose mask leaves it out");
  set_relaxed(me.state, State::kAtWarp);
  set_relaxed(me.mask, mask);
  bool last = true;
  for (unsigned lane = 0; lane < 32 && 32 * me.warp + lane < b.size.x; ++lane)
    if (mask >> lane & 1) last = last && relaxed(b.threads[32 * me.warp + lane].state) == State::kAtWarp;
  wait(b.warps[me.warp].tags, last);
}
inline void warp_barrier(const Site& site) {
  if (!site.dropped()) warp_barrier(0xffffffffu);
}

template <class T>
T shuffle(T value, unsigned source, unsigned mask) {
  static_assert(sizeof(T) <= sizeof(Warp::slot[0]));
  Thread& me = self();
  Warp& warp = block().warps[me.warp];
  std::memcpy(warp.slot[me.lane], &value, sizeof value);
  warp_barrier(mask);
  if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask");
  std::memcpy(&value, warp.slot[source], sizeof value);
  warp_barrier(mask);
  return value;
}

class Scheduler {
 public:
  explicit Scheduler(Block& b) : b_(b), count_(static_cast<unsigned>(b.threads.size())) {}

  void run() {
    start();
    std::vector<unsigned> priority((count_ + 31) / 32), lanes(32);
    for (unsigned i = 0; i < priority.size(); ++i) priority[i] = i;
    for (unsigned i = 0; i < 32; ++i) lanes[i] = i;
    std::shuffle(priority.begin(), priority.end(), b_.random);
    while (b_.error.empty()) {
      bool moved = false;
      for (size_t i = 0; i < priority.size() && !moved && b_.error.empty(); ++i) {
        const unsigned warp = priority[i];
        std::shuffle(lanes.begin(), lanes.end(), b_.random);
        for (const unsigned lane : lanes)
          if (exists(warp, lane) && state(warp, lane) == State::kReady && b_.error.empty()) {
            resume(b_.threads[warp * 32 + lane]);
            moved = true;
          }
        if (b_.error.empty() && release_warp(warp)) moved = true;
        if (moved && b_.random() % 64 == 0) {  // demoted
          priority.erase(priority.begin() + static_cast<long>(i));
          priority.push_back(warp);
        }
      }
      if (moved || !b_.error.empty()) continue;
      if (finished()) break;
      release_barrier();
      std::shuffle(priority.begin(), priority.end(), b_.random);
    }
    acquire(&b_.exit_tag);
  }

 private:
  bool exists(unsigned warp, unsigned lane) const { return warp * 32 + lane < count_; }
  State state(unsigned warp, unsigned lane) const { return relaxed(b_.threads[warp * 32 + lane].state); }
  unsigned waiting(State s) const {
    unsigned n = 0;
    for (const Thread& t : b_.threads) n += relaxed(t.state) == s;
    return n;
  }
  bool finished() const { return waiting(State::kDone) == count_; }

  void start() {
    for (unsigned i = 0; i < count_; ++i) {
      Thread& t = b_.threads[i];
      t.index = {i % b_.size.x, i / b_.size.x % b_.size.y, i / (b_.size.x * b_.size.y)};
      t.lane = i % 32;
      t.warp = i / 32;
      set_relaxed(t.state, State::kReady);
      t.asan_stack = nullptr;
      t.context.saved = false;
      ucontext_t& start = t.context.start;
      getcontext(&start);
      start.uc_stack.ss_sp = t.stack;
      start.uc_stack.ss_size = kStackBytes;
      start.uc_link = nullptr;
      makecontext(&start, thread_entry, 0);
#if defined(__SANITIZE_THREAD__)
      static std::vector<void*> fibers;  // kept: TSan takes its time to make one
      if (i == fibers.size()) fibers.push_back(__tsan_create_fiber(0));
      t.tsan_fiber = fibers[i];
#endif
    }
#if defined(__SANITIZE_THREAD__)
    b_.scheduler_fiber = __tsan_get_current_fiber();
#endif
    set_relaxed(b_.at_barrier, 0u);
    release(&b_.start_tag);
  }

  // Lets every group of lanes go on whose whole mask has arrived with that mask.
  bool release_warp(unsigned warp) {
    bool released = false;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!exists(warp, lane) || state(warp, lane) != State::kAtWarp) continue;
      const unsigned mask = relaxed(b_.threads[warp * 32 + lane].mask);
      bool complete = true;
      for (unsigned k = 0; k < 32; ++k) {
        if (!(mask >> k & 1) || !exists(warp, k)) continue;
        if (state(warp, k) == State::kDone) {
          b_.error = "a warp operation waits for a lane that has exited";
          return false;
        }
        complete = complete && state(warp, k) == State::kAtWarp && relaxed(b_.threads[warp * 32 + k].mask) == mask;
      }
      if (!complete) continue;
      released = true;
      for (unsigned k = 0; k < 32; ++k)
        if ((mask >> k & 1) && exists(warp, k)) set_relaxed(b_.threads[warp * 32 + k].state, State::kReady);
    }
    return released;
  }

  void release_barrier() {
    const unsigned at_barrier = waiting(State::kAtBarrier);
    if (waiting(State::kAtWarp))
      b_.error = "deadlock: a warp operation that part of its lanes never reach";
    else if (at_barrier != count_)
      b_.error = "__syncthreads() reached by only part of the block; the others have exited";
    set_relaxed(b_.at_barrier, 0u);
    const int line = relaxed(b_.threads[0].line);
    for (Thread& t : b_.threads) {
      if (!b_.error.empty()) return;
      if (relaxed(t.line) != line)
        b_.error = "threads wait at different __syncthreads(): lines " + std::to_string(line) + " and " +
                   std::to_string(relaxed(t.line));
      set_relaxed(t.state, State::kReady);
    }
  }

  Block& b_;
  unsigned count_;
};

// Stack of the i-th thread of every block, kept between launches.
inline char* stack(unsigned i) {
  static char* const stacks = static_cast<char*>(
      mmap(nullptr, kStackBytes * kMostThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (stacks == MAP_FAILED) throw Error("no memory for stacks");
  return stacks + kStackBytes * i;
}

constexpr size_t kSharedLimit = 227 * 1024;

template <class Kernel, class... Args>
void launch(Kernel kernel, unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t, Args... args) {
  if (threads == 0 || threads > kMostThreads) throw Error("a block has 1 to 1024 threads, not " + std::to_string(threads));
  if (blocks == 0) throw Error("an empty grid");
  if (shared_bytes > kSharedLimit) throw Error("dynamic shared memory over 227 KiB: " + std::to_string(shared_bytes));
  Block b;
  b.size.x = threads;
  b.grid.x = blocks;
  b.threads.resize(threads);
  b.warps.resize((threads + 31) / 32);
  b.random.seed(options().seed);
  b.body = [&] { kernel(args...); };
  for (unsigned i = 0; i < threads; ++i) b.threads[i].stack = stack(i);
  std::vector<unsigned> order(blocks);
  for (unsigned i = 0; i < blocks; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), b.random);
  set_relaxed(block_slot(), &b);
  for (const unsigned i : order) {
    b.index.x = i;
    b.shared.reset(new unsigned char[shared_bytes]);
    std::memset(b.shared.get(), 0xff, shared_bytes);  // NaN as float and as double
    Scheduler(b).run();
    if (!b.error.empty()) break;
  }
  set_relaxed(block_slot(), static_cast<Block*>(nullptr));
  if (!b.error.empty()) throw Error(b.error);
}

}  // namespace emu

#define threadIdx (emu::self().index)
#define blockIdx (emu::block().index)
#define blockDim (emu::block().size)
#define gridDim (emu::block().grid)
#define __syncthreads() emu::barrier({__FILE_NAME__, __LINE__})
#define __syncwarp() emu::warp_barrier({__FILE_NAME__, __LINE__})

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emu::shuffle(value, static_cast<unsigned>(source) & 31u, mask);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emu::shuffle(value, emu::self().lane ^ static_cast<unsigned>(bits), mask);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const unsigned lane = emu::self().lane;
  return emu::shuffle(value, lane + distance < 32 ? lane + distance : lane, mask);
}

#define SPD_SHARED_MEMORY(name) float* name = reinterpret_cast<float*>(emu::block().shared.get())
