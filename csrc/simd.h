// One CPU register of float32 lanes, and the two things done with whole registers: transposes and blocks of noise.
//
// Written with GCC/Clang vector types, so one source serves every width; the including file's flags choose it: 16 lanes with
// AVX-512, 8 with AVX2 + FMA, 4 elsewhere. `Simd` is the policy of portable.h, hence the same noise bits at any width.
#pragma once
#include <cstddef>
#include <utility>

#include "noise.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace spd {
inline namespace SPD_ISA {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SPD_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SPD_LANES 8
#else
#define SPD_LANES 4
#endif
constexpr int kLanes = SPD_LANES;

typedef float F __attribute__((vector_size(4 * kLanes), may_alias));
typedef uint32_t U __attribute__((vector_size(4 * kLanes), may_alias));
typedef int32_t I __attribute__((vector_size(4 * kLanes), may_alias));
typedef uint64_t U64 __attribute__((vector_size(4 * kLanes), may_alias));
typedef uint16_t U16 __attribute__((vector_size(2 * kLanes), may_alias));

SPD_HD F splat(float a) { return a - F{}; }

// a b + c, fused where the machine can; for transforms, whose rounding is not part of the noise contract.
SPD_HD F mad(F a, F b, F c) {
#if SPD_LANES == 16
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif SPD_LANES == 8
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
SPD_HD F mad(F a, float b, F c) { return mad(a, splat(b), c); }

struct Simd {
  using F = spd::SPD_ISA::F;
  using U = spd::SPD_ISA::U;
  struct Operand {  // a register, or one number for all lanes
    F v;
    SPD_HD Operand(F a) : v(a) {}
    SPD_HD Operand(float a) : v(splat(a)) {}
  };

  SPD_HD static F fma(Operand a, Operand b, Operand c) {
#if SPD_LANES > 4
    return mad(a.v, b.v, c.v);
#else
    F r;
    for (int i = 0; i < kLanes; ++i) r[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return r;
#endif
  }
  SPD_HD static F mul(Operand a, Operand b) { return a.v * b.v; }
  SPD_HD static F add(Operand a, Operand b) { return a.v + b.v; }
  SPD_HD static F sub(Operand a, Operand b) { return a.v - b.v; }
  SPD_HD static F sqrt(F a) {
#if SPD_LANES == 16
    return (F)_mm512_sqrt_ps((__m512)a);
#elif SPD_LANES == 8
    return (F)_mm256_sqrt_ps((__m256)a);
#else
    F r;
    for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(a[i]);
    return r;
#endif
  }
  SPD_HD static F from_int(U x) { return __builtin_convertvector((I)x, F); }
  SPD_HD static U bits(F a) { return (U)a; }
  SPD_HD static F from_bits(U x) { return (F)x; }
  SPD_HD static F mantissa(F a) {
#if SPD_LANES == 16
    return (F)_mm512_getmant_ps((__m512)a, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
#else
    return (F)((((U)a - 0x3f400000u) & 0x007fffffu) + 0x3f400000u);
#endif
  }
  SPD_HD static F flip_sign(F a, U s) { return (F)((U)a ^ (s & 0x80000000u)); }
  SPD_HD static U shift_signed(U x, int n) { return (U)((I)x >> n); }
  SPD_HD static F if_negative(U s, Operand a, Operand b) { return (I)s < 0 ? a.v : b.v; }
  SPD_HD static F if_bit(U s, uint32_t bit, F a, F b) {
#if SPD_LANES == 16
    return (F)_mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)s, _mm512_set1_epi32(bit)), (__m512)b, (__m512)a);
#else
    return (s & bit) != 0 ? a : b;
#endif
  }
};

// ---- storage types ----------------------------------------------------------------------------------------------------
// Float32 is computed and accumulated everywhere; bfloat16 and float16 are widened at the load, rounded once at the store.

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

SPD_HD F load(const float* p) {
  F a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
SPD_HD F load(const Bfloat16* p) {
  U16 a;
  std::memcpy(&a, p, sizeof a);
  return (F)(__builtin_convertvector(a, U) << 16);
}
SPD_HD F load(const Float16* p) {
#if SPD_LANES == 16
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif SPD_LANES == 8
  return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  F a;
  for (int i = 0; i < kLanes; ++i) {
    // Shift exponent and mantissa into place; multiplying by 2^112 mends the bias, subnormals included.
    const uint32_t h = p[i].bits, magnitude = (h & 0x7fffu) << 13;
    float f = Scalar::from_bits(magnitude) * 0x1p112f;
    if ((h & 0x7c00u) == 0x7c00u) f = Scalar::from_bits(magnitude | 0x7f800000u);
    a[i] = Scalar::from_bits(Scalar::bits(f) | (h & 0x8000u) << 16);
  }
  return a;
#endif
}

SPD_HD void store(float* p, F a) { std::memcpy(p, &a, sizeof a); }
SPD_HD void store(Bfloat16* p, F a) {
  const U x = (U)a;
  const U rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const U16 r = __builtin_convertvector(a == a ? rounded : (x >> 16 | 0x40u), U16);
  std::memcpy(p, &r, sizeof r);
}
SPD_HD void store(Float16* p, F a) {
#if SPD_LANES == 16
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
#elif SPD_LANES == 8
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t x = Scalar::bits(a[i]), sign = x >> 16 & 0x8000u, magnitude = x & 0x7fffffffu;
    uint32_t h;
    if (magnitude > 0x7f800000u) {
      h = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      h = 0x7c00u;  // rounds to infinity
    } else if (magnitude < 0x38800000u) {
      // Subnormal or zero: adding 1/2 puts the last kept bit at the end of the mantissa and rounds there.
      h = Scalar::bits(Scalar::from_bits(magnitude) + 0.5f) - 0x3f000000u;
    } else {
      h = (magnitude - 0x38000000u + 0x0fffu + (magnitude >> 13 & 1u)) >> 13;
    }
    p[i].bits = static_cast<uint16_t>(h | sign);
  }
#endif
}

// The first n lanes (0 < n <= kLanes); the others read 0, or are not written.
template <class T>
SPD_HD F load_some(const T* p, int n) {
  if (n == kLanes) return load(p);
  T padded[kLanes] = {};
  std::memcpy(padded, p, static_cast<size_t>(n) * sizeof(T));
  return load(padded);
}
template <class T>
SPD_HD void store_some(T* p, F a, int n) {
  if (n == kLanes) return store(p, a);
  T padded[kLanes];
  store(padded, a);
  std::memcpy(p, padded, static_cast<size_t>(n) * sizeof(T));
}
#if SPD_LANES == 16
SPD_HD F load_some(const float* p, int n) { return (F)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
SPD_HD void store_some(float* p, F a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a); }
#endif

// ---- transposes -------------------------------------------------------------------------------------------------------

template <size_t... p>
SPD_HD F unpack_low(F a, F b, std::index_sequence<p...>) {  // a0 b0 a1 b1 of each group of four
  return __builtin_shufflevector(a, b, ((p & ~size_t{3}) + (p >> 1 & 1) + (p & 1) * kLanes)...);
}
template <size_t... p>
SPD_HD F unpack_high(F a, F b, std::index_sequence<p...>) {  // a2 b2 a3 b3
  return __builtin_shufflevector(a, b, ((p & ~size_t{3}) + 2 + (p >> 1 & 1) + (p & 1) * kLanes)...);
}
template <size_t... p>
SPD_HD F pair_low(F a, F b, std::index_sequence<p...>) {  // a0 a1 b0 b1
  return __builtin_shufflevector(a, b, ((p & ~size_t{3}) + (p & 1) + (p >> 1 & 1) * kLanes)...);
}
template <size_t... p>
SPD_HD F pair_high(F a, F b, std::index_sequence<p...>) {  // a2 a3 b2 b3
  return __builtin_shufflevector(a, b, ((p & ~size_t{3}) + 2 + (p & 1) + (p >> 1 & 1) * kLanes)...);
}
template <size_t s, size_t... p>
SPD_HD F exchange_low(F a, F b, std::index_sequence<p...>) {  // blocks of s: even ones of a and b, interleaved
  return __builtin_shufflevector(a, b, ((p & s) ? kLanes + p - s : p)...);
}
template <size_t s, size_t... p>
SPD_HD F exchange_high(F a, F b, std::index_sequence<p...>) {  // odd ones
  return __builtin_shufflevector(a, b, ((p & s) ? kLanes + p : p + s)...);
}
template <size_t... p>
SPD_HD F zip_low(F a, F b, std::index_sequence<p...>) {  // a0 b0 a1 b1 ... of the lower halves
  return __builtin_shufflevector(a, b, ((p >> 1) + (p & 1) * kLanes)...);
}
template <size_t... p>
SPD_HD F zip_high(F a, F b, std::index_sequence<p...>) {
  return __builtin_shufflevector(a, b, (kLanes / 2 + (p >> 1) + (p & 1) * kLanes)...);
}
using Lane = std::make_index_sequence<kLanes>;

// Every group of four lanes: r[i] lane j <-> r[j] lane i.
SPD_HD void transpose_groups(F& r0, F& r1, F& r2, F& r3) {
  const F a = unpack_low(r0, r1, Lane{}), b = unpack_high(r0, r1, Lane{});
  const F c = unpack_low(r2, r3, Lane{}), d = unpack_high(r2, r3, Lane{});
  r0 = pair_low(a, c, Lane{});
  r1 = pair_high(a, c, Lane{});
  r2 = pair_low(b, d, Lane{});
  r3 = pair_high(b, d, Lane{});
}

template <size_t s>
SPD_HD void exchange(F* r) {
  if constexpr (s < size_t{kLanes}) {
#pragma GCC unroll 16
    for (size_t i = 0; i < size_t{kLanes}; ++i) {
      if (i & s) continue;
      const F a = r[i], b = r[i + s];
      r[i] = exchange_low<s>(a, b, Lane{});
      r[i + s] = exchange_high<s>(a, b, Lane{});
    }
    exchange<2 * s>(r);
  }
}

// kLanes x kLanes: r[i] lane j <-> r[j] lane i.
SPD_HD void transpose(F* r) {
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) transpose_groups(r[i], r[i + 1], r[i + 2], r[i + 3]);
  exchange<4>(r);
}

// ---- noise ------------------------------------------------------------------------------------------------------------
// A coefficient's counter is (quad, row, plane, transition). The first rounds of Philox keep quad and row apart: after two of
// them the state is
//     x = X(quad),  y = Y(quad),  z = Z(row) ^ Z'(quad),  w = W(row),
// and the third round's product with x is a function of the quad alone. So these are computed once per row and once per quad
// of a plane, and 15 of the 20 multiplications of a counter remain.

struct RowState {  // functions of the row
  uint32_t z, w;
};
struct QuadState {  // functions of the quad, each an array over quads
  uint32_t *z, *y, *high, *low;
};

SPD_HD RowState row_state(const FieldPlane& at, uint32_t row) {
  const uint32_t x = multiply_high(kPhiloxM1, at.plane) ^ row ^ static_cast<uint32_t>(at.key);
  return {multiply_high(kPhiloxM0, x), kPhiloxM0 * x};
}

SPD_HD void quad_state(const FieldPlane& at, uint32_t quad, QuadState out, int at_index) {
  const uint32_t k0 = static_cast<uint32_t>(at.key), k1 = static_cast<uint32_t>(at.key >> 32);
  const uint32_t z = multiply_high(kPhiloxM0, quad) ^ (at.transition | kNoiseLayout << 24) ^ k1, w = kPhiloxM0 * quad;
  const uint32_t x = multiply_high(kPhiloxM1, z) ^ (kPhiloxM1 * at.plane) ^ (k0 + kPhiloxW0), y = kPhiloxM1 * z;
  out.z[at_index] = w ^ (k1 + kPhiloxW1);
  out.y[at_index] = y ^ (k0 + 2 * kPhiloxW0);
  out.high[at_index] = multiply_high(kPhiloxM0, x) ^ (k1 + 2 * kPhiloxW1);
  out.low[at_index] = kPhiloxM0 * x;
}

// Products of the even 32-bit lanes.
SPD_HD U64 multiply_even(U64 a, uint32_t b) {
#if SPD_LANES == 16
  return (U64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif SPD_LANES == 8
  return (U64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * b;
#endif
}

// Rounds 3 to 10 of every other lane; only the lower half of each 64-bit lane means anything.
struct PhiloxHalf {
  U64 x, y, z, w;

  SPD_HD void start(U64 row_z, U64 row_w, U64 quad_z, U64 quad_y, U64 quad_high, U64 quad_low) {
    const U64 p = multiply_even(row_z ^ quad_z, kPhiloxM1);
    x = (p >> 32) ^ quad_y;
    y = p;
    z = row_w ^ quad_high;
    w = quad_low;
  }
  SPD_HD void round(uint32_t k0, uint32_t k1) {
    const U64 p = multiply_even(x, kPhiloxM0), q = multiply_even(z, kPhiloxM1);
    x = (q >> 32) ^ y ^ (U64)(k0 + U{});
    y = q;
    z = (p >> 32) ^ w ^ (U64)(k1 + U{});
    w = p;
  }
};

SPD_HD U join_halves(U64 even, U64 odd) {
#if SPD_LANES == 16
  return (U)_mm512_mask_shuffle_epi32((__m512i)even, 0xAAAA, (__m512i)odd, _MM_PERM_CCAA);
#elif SPD_LANES == 8
  return (U)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xAA);
#else
  return (U)((even & 0xffffffffu) | (odd << 32));
#endif
}

// Where the quads of all lanes are; every state split into the even lanes and (moved down) the odd ones.
struct Halves {
  U64 even, odd;
  SPD_HD Halves(uint32_t a) : even((U64)(a + U{})), odd(even) {}
  SPD_HD Halves(U a) : even((U64)a), odd((U64)a >> 32) {}
};
struct QuadLanes {
  Halves row_z, row_w, quad_z, quad_y, quad_high, quad_low;
};

// The four normals of `groups` times kLanes quads: n[4 g + l] holds normal l of each lane's quad in group g. Two groups at a
// time hide the latency of one another's multiplications.
template <int groups>
SPD_HD void noise_block(uint64_t key, const QuadLanes (&at)[groups], F sigma, F* n) {
  PhiloxHalf even[groups], odd[groups];
#pragma GCC unroll 2
  for (int g = 0; g < groups; ++g) {
    const QuadLanes& a = at[g];
    even[g].start(a.row_z.even, a.row_w.even, a.quad_z.even, a.quad_y.even, a.quad_high.even, a.quad_low.even);
    odd[g].start(a.row_z.odd, a.row_w.odd, a.quad_z.odd, a.quad_y.odd, a.quad_high.odd, a.quad_low.odd);
  }
  uint32_t k0 = static_cast<uint32_t>(key) + 3 * kPhiloxW0, k1 = static_cast<uint32_t>(key >> 32) + 3 * kPhiloxW1;
#pragma GCC unroll 7
  for (int round = 3; round < 10; ++round) {
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) {
      even[g].round(k0, k1);
      odd[g].round(k0, k1);
    }
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
#pragma GCC unroll 2
  for (int g = 0; g < groups; ++g) {
    box_muller<Simd>(join_halves(even[g].x, odd[g].x), join_halves(even[g].y, odd[g].y), sigma, n[4 * g], n[4 * g + 1]);
    box_muller<Simd>(join_halves(even[g].z, odd[g].z), join_halves(even[g].w, odd[g].w), sigma, n[4 * g + 2], n[4 * g + 3]);
  }
}

}  // namespace SPD_ISA
}  // namespace spd
