// A small kernel with one planted mistake at a time: what the emulator and the sanitizers must find (tests/test_emulation.py).
//
// Without a mistake every thread t of a block of 256 writes out[t] = 256 + ((t ^ 1) + 37) mod 256.
#pragma once
#include <cstring>
#include <string>

#include "cuda_portable.cuh"

namespace spd {

enum class Fault {
  kNone,
  kNoBarrierAfterFill,
  kNoBarrierBetweenPasses,
  kNoWarpBarrier,
  kReadPastTheEnd,
  kUnwritten,
  kBarrierInABranch,
  kTwoBarriers,
  kWarpOperationAfterExit,
  kShuffleOutsideTheMask,
};

struct FaultArgs {
  Fault fault;
  float* out;
};

static __global__ void faulty_kernel(FaultArgs a) {
  SPD_SHARED_MEMORY(shared);
  float *filled = shared, *reversed = shared + kThreads, *rotated = shared + 2 * kThreads;
  const int t = static_cast<int>(threadIdx.x);
  if (a.fault == Fault::kWarpOperationAfterExit && t == 5) return;
  if (a.fault != Fault::kUnwritten || t != 7) filled[t] = static_cast<float>(kThreads + t);
  if (a.fault == Fault::kBarrierInABranch && t < kThreads / 2) return;
  if (a.fault == Fault::kTwoBarriers && t < kThreads / 2)
    __syncthreads();
  else if (a.fault != Fault::kNoBarrierAfterFill && a.fault != Fault::kWarpOperationAfterExit)
    __syncthreads();
  reversed[t] = filled[kThreads - 1 - t];
  if (a.fault != Fault::kNoBarrierBetweenPasses && a.fault != Fault::kWarpOperationAfterExit) __syncthreads();
  float value = reversed[kThreads - 1 - (t + 37) % kThreads];
  if (a.fault == Fault::kReadPastTheEnd) value += 0.0f * shared[3 * kThreads + t];
  rotated[t] = value;
  if (a.fault != Fault::kNoWarpBarrier) __syncwarp();
  value = rotated[t ^ 1];
  if (a.fault == Fault::kShuffleOutsideTheMask && t < 16) value = __shfl_sync(0xffffu, value, 16 + t);
  a.out[t] = value;
}

inline void run_fault(Fault fault, float* out) {
  const FaultArgs args{fault, out};
  launch(faulty_kernel, 1, 3 * kThreads * sizeof(float), nullptr, args);
}

inline Fault fault_named(const std::string& name) {
  constexpr const char* kNames[] = {"none",
                                    "no barrier after fill",
                                    "no barrier between passes",
                                    "no warp barrier",
                                    "read past the end",
                                    "unwritten",
                                    "barrier in a branch",
                                    "two barriers",
                                    "warp operation after exit",
                                    "shuffle outside the mask"};
  for (int i = 0; i < 10; ++i)
    if (name == kNames[i]) return static_cast<Fault>(i);
  throw emu::Error("no fault named " + name);
}

}  // namespace spd
