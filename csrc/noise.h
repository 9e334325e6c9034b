// The white field, addressed by coefficient: host and device, one source, one set of bits.
//
// Coefficient (a, u, v) of plane p of a batch item with 64-bit key K is a standard normal that depends on nothing else:
//
//   counter = (v >> 2,  u | a << 16,  p,  transition | kNoiseLayout << 24)
//   (x, y, z, w) = Philox4x32-10(counter, K)                                     Salmon et al., SC 2011
//   lane v & 3 of  R(x) cos(y), R(x) sin(y), R(z) cos(w), R(z) sin(w)            Box and Muller, 1958
//   R(x) = sqrt(-2 ln((x + 1/2) / 2^32)),  angles 2 pi y / 2^32
//
// u, v: row and column of the coefficient in the basis' packed layout (1-D grids have u = 0); a: index on a third spectral
// axis from the end, else 0; p: flattened index of the axes between batch and grid; transition: 0 for the coupled field, k for
// the independent field of the k-th transition. Any thread count, chunk, batch split or device sees the same numbers.
#pragma once
#include "portable.h"

namespace spd {
inline namespace SPD_ISA {

constexpr uint32_t kNoiseLayout = 1;  // part of what "same seed" means; spectral_pd/noise.py holds the same number

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // round multipliers
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // key increments

struct Words {
  uint32_t x, y, z, w;
};

// Philox4x32-10: ten bijective rounds on a 128-bit counter.
SPD_HD Words philox(Words c, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = multiply_high(kPhiloxM0, c.x), low0 = kPhiloxM0 * c.x;
    const uint32_t high1 = multiply_high(kPhiloxM1, c.z), low1 = kPhiloxM1 * c.z;
    c = Words{high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0};
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c;
}

// -2 ln(u), u = (x + 1/2) / 2^32, to 4e-7 relative. The signed distance s to the nearer end of (0, 1) is what is rounded, not
// u, so that the radius stays accurate where u is close to 1 and the radius close to 0.
template <class L>
SPD_HD typename L::F minus_two_log(typename L::U x) {
  using F = typename L::F;
  using U = typename L::U;
  const F s = L::fma(L::from_int(x), 0x1p-32f, 0x1p-33f);  // u, or u - 1 in the upper half
  const F u = L::if_negative(x, L::add(s, 1.0f), s);
  // u = m 2^e with m in [3/4, 3/2); f = m - 1 is exact, and exactly s where u >= 3/4.
  const U offset = L::bits(u) - 0x3f400000u;
  const F e = L::from_int(L::shift_signed(offset, 23));
  const F f = L::if_negative(offset, L::sub(L::mantissa(u), 1.0f), s);
  // -2 ln(1 + f) / f on [-1/4, 1/2): minimax, relative error 2.7e-8.
  F p = L::fma(f, -0.10822207f, 0.241532982f);
  p = L::fma(f, p, -0.299889725f);
  p = L::fma(f, p, 0.336486388f);
  p = L::fma(f, p, -0.399518291f);
  p = L::fma(f, p, 0.499864363f);
  p = L::fma(f, p, -0.666671841f);
  p = L::fma(f, p, 1.00000133f);
  p = L::fma(f, p, -2.0f);
  return L::fma(e, -1.38629436f, L::mul(f, p));  // - 2 e ln 2
}

// cos and sin of 2 pi y / 2^32, to 1.2e-7: nearest quarter turn in integers, minimax polynomials on [-pi/4, pi/4].
template <class L>
SPD_HD void cos_sin(typename L::U y, typename L::F& cosine, typename L::F& sine) {
  using F = typename L::F;
  using U = typename L::U;
  const U quarter = y + 0x20000000u;                         // its two top bits count quarter turns
  const F a = L::mul(L::from_int(y << 2), 0x1.921fb6p-32f);  // pi / 2^33
  const F q = L::mul(a, a);
  F s = L::fma(q, -1.95172979e-4f, 8.33217814e-3f);
  s = L::fma(q, s, -0.166666549f);
  s = L::fma(L::mul(a, q), s, a);
  F c = L::fma(q, 2.44384497e-5f, -1.38873675e-3f);
  c = L::fma(q, c, 0.0416666469f);
  c = L::fma(q, c, -0.5f);
  c = L::fma(q, c, 1.0f);
  // Odd quarters swap the two; the sine is negative in quarters 2 and 3, the cosine in 1 and 2: a sine one quarter on.
  cosine = L::flip_sign(L::if_bit(quarter, 0x40000000u, s, c), quarter + 0x40000000u);
  sine = L::flip_sign(L::if_bit(quarter, 0x40000000u, c, s), quarter);
}

// Two independent normals of standard deviation sigma from two words.
template <class L>
SPD_HD void box_muller(typename L::U x, typename L::U y, typename L::F sigma, typename L::F& n0, typename L::F& n1) {
  typename L::F cosine, sine;
  cos_sin<L>(y, cosine, sine);
  const typename L::F radius = L::mul(sigma, L::sqrt(minus_two_log<L>(x)));
  n0 = L::mul(radius, cosine);
  n1 = L::mul(radius, sine);
}

// Where a field is: everything of a coefficient's address that is the same for a whole plane.
struct FieldPlane {
  uint64_t key;         // of the batch item
  uint32_t plane;       // p
  uint32_t transition;  // 0: coupled field
};

struct Quad {
  float n[4];
};

// Coefficients (a, u, 4 quad .. 4 quad + 3), times sigma.
SPD_HD Quad noise_quad(const FieldPlane& at, uint32_t a, uint32_t u, uint32_t quad, float sigma) {
  const Words r = philox(Words{quad, u | a << 16, at.plane, at.transition | kNoiseLayout << 24}, at.key);
  Quad q;
  box_muller<Scalar>(r.x, r.y, sigma, q.n[0], q.n[1]);
  box_muller<Scalar>(r.z, r.w, sigma, q.n[2], q.n[3]);
  return q;
}

}  // namespace SPD_ISA
}  // namespace spd
