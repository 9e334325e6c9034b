// Correctly rounded float32 arithmetic, the same on host and device.
//
// Everything that must give the same bits on every machine (the noise) is written once, as a template over a policy `L`
// ("lanes"): a float type L::F, a 32-bit unsigned type L::U and the operations below. `Scalar` is one lane, for CUDA
// threads and plain C++; simd.h has the policy of a whole CPU register. Each operation is a single IEEE 754 round-to-nearest
// operation or an integer one, so no compiler, libm or GPU intrinsic is left to differ. Host sources are compiled with
// -ffp-contract=off and nothing ever with fast-math flags, which would break the promise.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SPD_HD __host__ __device__ __forceinline__
#else
#define SPD_HD inline __attribute__((always_inline))
#endif

// Sources that are compiled once per instruction set define SPD_ISA, so that no inline function compiled for AVX-512 can be
// merged by the linker with its namesake for an older CPU.
#if !defined(SPD_ISA)
#define SPD_ISA baseline
#endif

namespace spd {
inline namespace SPD_ISA {

struct Scalar {
  using F = float;
  using U = uint32_t;

  SPD_HD static float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
  }
  SPD_HD static float mul(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
  }
  SPD_HD static float add(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
  }
  SPD_HD static float sub(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fsub_rn(a, b);
#else
    return a - b;
#endif
  }
  SPD_HD static float sqrt(float a) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(a);
#else
    return __builtin_sqrtf(a);
#endif
  }
  // The signed integer in x, rounded to the nearest float.
  SPD_HD static float from_int(uint32_t x) {
#if defined(__CUDA_ARCH__)
    return __int2float_rn(static_cast<int32_t>(x));
#else
    return static_cast<float>(static_cast<int32_t>(x));
#endif
  }
  SPD_HD static uint32_t bits(float a) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(a);
#else
    uint32_t x;
    std::memcpy(&x, &a, sizeof x);
    return x;
#endif
  }
  SPD_HD static float from_bits(uint32_t x) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(x);
#else
    float a;
    std::memcpy(&a, &x, sizeof a);
    return a;
#endif
  }
  // m of a = m 2^e, m in [3/4, 3/2); a positive and normal.
  SPD_HD static float mantissa(float a) { return from_bits(((bits(a) - 0x3f400000u) & 0x007fffffu) + 0x3f400000u); }
  // a, its sign flipped where the sign bit of s is set.
  SPD_HD static float flip_sign(float a, uint32_t s) { return from_bits(bits(a) ^ (s & 0x80000000u)); }
  // x >> n with the sign bit copied in.
  SPD_HD static uint32_t shift_signed(uint32_t x, int n) { return static_cast<uint32_t>(static_cast<int32_t>(x) >> n); }
  // a where the sign bit of s is set, b where it is not.
  SPD_HD static float if_negative(uint32_t s, float a, float b) { return static_cast<int32_t>(s) < 0 ? a : b; }
  // a where the given bit of s is set.
  SPD_HD static float if_bit(uint32_t s, uint32_t bit, float a, float b) { return s & bit ? a : b; }
};

SPD_HD uint32_t multiply_high(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
#endif
}

}  // namespace SPD_ISA
}  // namespace spd
