// One planted mistake for each tool of compute-sanitizer, which must find it (build_tools/gpu.py):
//
//     nvcc -o faults sanitizer_faults.cu && compute-sanitizer --tool racecheck --error-exitcode 9 ./faults racecheck
//
// A tool that finds nothing here would also find nothing in the kernels.
#include <cstdio>
#include <cstring>

constexpr int kThreads = 64;

// memcheck: the last thread writes one float past the end.
__global__ void past_the_end(float* out) { out[threadIdx.x + 1] = 1.0f; }

// initcheck: memory that nothing has written.
__global__ void never_written(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }

// racecheck: no barrier between the writes and reads of other warps.
__global__ void no_barrier(float* out) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

// synccheck: a barrier that half a warp does not reach.
__global__ void barrier_in_a_branch(float* out) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

int main(int count, char** names) {
  const char* tool = count > 1 ? names[1] : "";
  float *in = nullptr, *out = nullptr;
  cudaMalloc(&in, kThreads * sizeof(float));
  cudaMalloc(&out, kThreads * sizeof(float));
  if (!std::strcmp(tool, "memcheck"))
    past_the_end<<<1, kThreads>>>(out);
  else if (!std::strcmp(tool, "initcheck"))
    never_written<<<1, kThreads>>>(in, out);
  else if (!std::strcmp(tool, "racecheck"))
    no_barrier<<<1, kThreads>>>(out);
  else if (!std::strcmp(tool, "synccheck"))
    barrier_in_a_branch<<<1, kThreads>>>(out);
  else
    return std::fprintf(stderr, "which tool? memcheck, initcheck, racecheck or synccheck\n"), 1;
  cudaDeviceSynchronize();
  return 0;
}
