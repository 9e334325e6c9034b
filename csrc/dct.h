// One-dimensional DCT-II, DCT-III and DCT-IV of kLanes independent lines at once, lane = line.
//
// Unnormalised, as defined in dct_plan.h. Even sizes split orthogonally (Plonka and Tasche, 2005: numerically stable, about
// 2 log2 n operations per sample and no division by small cosines):
//
//   DCT-II(n):  sums x_j + x_{n-1-j} -> DCT-II(n/2), the even frequencies;  differences -> DCT-IV(n/2), the odd ones
//   DCT-IV(n):  plane rotations -> two DCT-II(n/2) -> one butterfly
//
// and the inverse is the transposed graph. Sizes up to kRegisterSize are expanded at compile time and live in registers; larger
// ones recurse at run time over line buffers; odd ones end in dense matrices of half the size.
#pragma once
#include "dct_plan.h"
#include "simd.h"

namespace spd {
inline namespace SPD_ISA {

constexpr int kFixedSize = 128;    // largest size expanded at compile time
constexpr int kRegisterSize = 32;  // up to here into one piece of straight-line code

// Scratch a transform of size n needs, in registers.
constexpr int dct_scratch(int n) { return 4 * n + 16; }

// ---- odd sizes --------------------------------------------------------------------------------------------------------
// Sums and differences of mirrored samples, then two dense matrices of half the size. `fixed` is the size, or 0 where it is
// only known at run time; small fixed ones unroll completely and stay in registers.

// y_r = sum_c matrix[r, c] x_c for `rows` of the n rows of a square matrix; `matrix` points to the first of them, [r, 0].
template <int rows>
SPD_HD void dense_rows(const float* matrix, int n, const F* x, F* y, int stride) {
  F sum[rows];
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) sum[r] = matrix[r] * x[0];
#pragma GCC unroll 8
  for (int c = 1; c < n; ++c) {
    const F v = x[c];
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) sum[r] = mad(v, matrix[c * n + r], sum[r]);
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) y[r * stride] = sum[r];
}

// The same for a number of rows known at run time. Groups of equal size, up to 12 sums in registers: a small rest would wait
// for the latency of every product.
constexpr int kDenseRows = 12;
static void dense_group(const float* matrix, int rows, int n, const F* x, F* y, int stride) {
  switch (rows) {
#define CASE(count) \
  case count:       \
    return dense_rows<count>(matrix, n, x, y, stride);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
  }
}

template <int fixed>
SPD_HD void dense(const float* matrix, int n, const F* x, F* y, int stride) {
  if constexpr (fixed > 0 && fixed <= 8) {
    dense_rows<fixed>(matrix, fixed, x, y, stride);
  } else if constexpr (fixed == 0) {
    const int groups = (n + kDenseRows - 1) / kDenseRows;
    for (int g = 0; g < groups; ++g) {
      const int first = n * g / groups, count = n * (g + 1) / groups - first;
      dense_group(matrix + first, count, n, x, y + first * stride, stride);
    }
  }
}

template <int fixed>
SPD_HD void dct2_odd(const DctLevel& l, const F* in, F* out, int out_stride, F* scratch) {
  constexpr int half_size = fixed / 2;
  const int n = fixed ? fixed : l.size, half = n / 2;
  F local[fixed ? fixed : 1];
  F *even = fixed ? local : scratch, *odd = even + half + 1;
#pragma GCC unroll 8
  for (int j = 0; j < half; ++j) {
    even[j] = in[j] + in[n - 1 - j];
    odd[j] = in[j] - in[n - 1 - j];
  }
  even[half] = in[half];
  dense<fixed ? half_size + 1 : 0>(l.even2, half + 1, even, out, 2 * out_stride);
  if (n > 1) dense<half_size>(l.odd2, half, odd, out + out_stride, 2 * out_stride);
}

template <int fixed>
SPD_HD void dct3_odd(const DctLevel& l, const F* in, int in_stride, F* out, F* scratch) {
  constexpr int half_size = fixed / 2;
  const int n = fixed ? fixed : l.size, half = n / 2;
  F local[fixed ? 2 * fixed : 1];
  F *coefficient = fixed ? local : scratch, *even = coefficient + n, *odd = even + half + 1;
#pragma GCC unroll 8
  for (int k = 0; k <= half; ++k) coefficient[k] = in[2 * k * in_stride];
  dense<fixed ? half_size + 1 : 0>(l.even3, half + 1, coefficient, even, 1);
#pragma GCC unroll 8
  for (int k = 0; k < half; ++k) coefficient[k] = in[(2 * k + 1) * in_stride];
  if (n > 1) dense<half_size>(l.odd3, half, coefficient, odd, 1);
#pragma GCC unroll 8
  for (int j = 0; j < half; ++j) {
    out[j] = even[j] + odd[j];
    out[n - 1 - j] = even[j] - odd[j];
  }
  out[half] = even[half];
}

template <int fixed>
SPD_HD void dct4_odd(const DctLevel& l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  constexpr int half_size = fixed / 2;
  const int n = fixed ? fixed : l.size, half = n / 2;
  F local[fixed ? 2 * fixed : 1];
  F *even = fixed ? local : scratch, *odd = even + half + 1, *p = even + n, *q = p + half + 1;
  float sign = l.parity;
#pragma GCC unroll 8
  for (int j = 0; j < half; ++j, sign = -sign) {
    const F a = in[j * in_stride], b = sign * in[(n - 1 - j) * in_stride];
    even[j] = a + b;
    odd[j] = a - b;
  }
  even[half] = in[half * in_stride];
  dense<fixed ? half_size + 1 : 0>(l.even4, half + 1, even, p, 1);
  if (n > 1) dense<half_size>(l.odd4, half, odd, q, 1);
  sign = l.parity;
#pragma GCC unroll 8
  for (int k = 0; k < half; ++k, sign = -sign) {
    out[k * out_stride] = p[k] + q[k];
    out[(n - 1 - k) * out_stride] = sign * (p[k] - q[k]);
  }
  out[half * out_stride] = p[half];
}

// ---- sizes in registers -----------------------------------------------------------------------------------------------
// `l` walks down the halvings n, n/2, ... of the plan.

template <int n>
SPD_HD void dct2_part(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch);
template <int n>
SPD_HD void dct3_part(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch);
template <int n>
SPD_HD void dct4_part(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch);
template <int n>
SPD_HD void dct2_small(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch);
template <int n>
SPD_HD void dct3_small(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch);

template <int n>
void dct2_fixed(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch);
template <int n>
void dct3_fixed(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch);
template <int n>
void dct4_fixed(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch);

template <int n>
SPD_HD void dct4_small(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  if constexpr (n == 1) {
    out[0] = in[0] * 0.70710678f;
  } else if constexpr (n % 2) {
    dct4_odd<n>(*l, in, in_stride, out, out_stride, scratch);
  } else {
    constexpr int half = n / 2;
    F a[half], b[half], p[half], q[half];
#pragma GCC unroll 16
    for (int j = 0; j < half; ++j) {
      const F x = in[j * in_stride], y = in[(n - 1 - j) * in_stride];
      const float c = l->cosine[j], s = l->sine[j];
      a[j] = mad(x, c, y * s);
      b[j] = j % 2 ? mad(x, s, y * -c) : mad(y, c, x * -s);
    }
    dct2_part<half>(l + 1, a, p, 1, scratch);
    dct2_part<half>(l + 1, b, q, 1, scratch);
    out[0] = p[0];
    out[(n - 1) * out_stride] = -q[0];
#pragma GCC unroll 16
    for (int k = 1; k < half; ++k) {
      out[2 * k * out_stride] = p[k] + q[half - k];
      out[(2 * k - 1) * out_stride] = p[k] - q[half - k];
    }
  }
}

template <int n>
SPD_HD void dct2_small(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch) {
  if constexpr (n == 1) {
    out[0] = in[0];
  } else if constexpr (n % 2) {
    dct2_odd<n>(*l, in, out, out_stride, scratch);
  } else {
    constexpr int half = n / 2;
    F sum[half], difference[half];
#pragma GCC unroll 16
    for (int j = 0; j < half; ++j) {
      sum[j] = in[j] + in[n - 1 - j];
      difference[j] = in[j] - in[n - 1 - j];
    }
    dct2_part<half>(l + 1, sum, out, 2 * out_stride, scratch);
    dct4_part<half>(l + 1, difference, 1, out + out_stride, 2 * out_stride, scratch);
  }
}

template <int n>
SPD_HD void dct3_small(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch) {
  if constexpr (n == 1) {
    out[0] = in[0];
  } else if constexpr (n % 2) {
    dct3_odd<n>(*l, in, in_stride, out, scratch);
  } else {
    constexpr int half = n / 2;
    F even[half], odd[half];
    dct3_part<half>(l + 1, in, 2 * in_stride, even, scratch);
    dct4_part<half>(l + 1, in + in_stride, 2 * in_stride, odd, 1, scratch);
#pragma GCC unroll 16
    for (int j = 0; j < half; ++j) {
      out[j] = even[j] + odd[j];
      out[n - 1 - j] = even[j] - odd[j];
    }
  }
}

template <int n>
SPD_HD void dct2_part(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch) {
  n <= kRegisterSize ? dct2_small<n>(l, in, out, out_stride, scratch) : dct2_fixed<n>(l, in, out, out_stride, scratch);
}
template <int n>
SPD_HD void dct3_part(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch) {
  n <= kRegisterSize ? dct3_small<n>(l, in, in_stride, out, scratch) : dct3_fixed<n>(l, in, in_stride, out, scratch);
}
template <int n>
SPD_HD void dct4_part(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  n <= kRegisterSize ? dct4_small<n>(l, in, in_stride, out, out_stride, scratch)
                     : dct4_fixed<n>(l, in, in_stride, out, out_stride, scratch);
}

// Out of line once per size, so that the recursion below stays small.
template <int n>
__attribute__((noinline)) void dct2_fixed(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch) {
  dct2_small<n>(l, in, out, out_stride, scratch);
}
template <int n>
__attribute__((noinline)) void dct3_fixed(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch) {
  dct3_small<n>(l, in, in_stride, out, scratch);
}
template <int n>
__attribute__((noinline)) void dct4_fixed(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  dct4_small<n>(l, in, in_stride, out, out_stride, scratch);
}

// ---- any size ---------------------------------------------------------------------------------------------------------

// clang-format off
#if defined(SPD_FEW_SIZES)  // for compilers that take long: the other sizes recurse
#define SPD_EVERY_EVEN_REGISTER_SIZE(CASE) CASE(2) CASE(8) CASE(10)
#else
#define SPD_EVERY_EVEN_REGISTER_SIZE(CASE)                                                    \
  CASE(2) CASE(4) CASE(6) CASE(8) CASE(10) CASE(12) CASE(14) CASE(16) CASE(20) CASE(24)       \
  CASE(28) CASE(32) CASE(40) CASE(48) CASE(64) CASE(80) CASE(96) CASE(128)
#endif
// clang-format on

static void dct4(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch);

// in: contiguous, kept; out: n values out_stride apart.
static void dct2(const DctLevel* l, const F* in, F* out, int out_stride, F* scratch) {
  const int n = l->size, half = n / 2;
  switch (n <= kFixedSize ? n : 0) {
#define CASE(size) \
  case size:       \
    return dct2_fixed<size>(l, in, out, out_stride, scratch);
    SPD_EVERY_EVEN_REGISTER_SIZE(CASE)
#undef CASE
    default:
      break;
  }
  if (n % 2) return dct2_odd<0>(*l, in, out, out_stride, scratch);
  F *sum = scratch, *difference = scratch + half;
#pragma GCC unroll 4
  for (int j = 0; j < half; ++j) {
    sum[j] = in[j] + in[n - 1 - j];
    difference[j] = in[j] - in[n - 1 - j];
  }
  dct2(l + 1, sum, out, 2 * out_stride, scratch + n);
  dct4(l + 1, difference, 1, out + out_stride, 2 * out_stride, scratch + n);
}

// in: n values in_stride apart, kept; out: contiguous.
static void dct3(const DctLevel* l, const F* in, int in_stride, F* out, F* scratch) {
  const int n = l->size, half = n / 2;
  switch (n <= kFixedSize ? n : 0) {
#define CASE(size) \
  case size:       \
    return dct3_fixed<size>(l, in, in_stride, out, scratch);
    SPD_EVERY_EVEN_REGISTER_SIZE(CASE)
#undef CASE
    default:
      break;
  }
  if (n % 2) return dct3_odd<0>(*l, in, in_stride, out, scratch);
  F *even = scratch, *odd = scratch + half;
  dct3(l + 1, in, 2 * in_stride, even, scratch + n);
  dct4(l + 1, in + in_stride, 2 * in_stride, odd, 1, scratch + n);
#pragma GCC unroll 4
  for (int j = 0; j < half; ++j) {
    out[j] = even[j] + odd[j];
    out[n - 1 - j] = even[j] - odd[j];
  }
}

static void dct4(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  const int n = l->size, half = n / 2;
  switch (n <= kFixedSize ? n : 0) {
#define CASE(size) \
  case size:       \
    return dct4_fixed<size>(l, in, in_stride, out, out_stride, scratch);
    SPD_EVERY_EVEN_REGISTER_SIZE(CASE)
#undef CASE
    default:
      break;
  }
  if (n % 2) return dct4_odd<0>(*l, in, in_stride, out, out_stride, scratch);
  F *a = scratch, *b = a + half, *p = b + half, *q = p + half;
#pragma GCC unroll 4
  for (int j = 0; j < half; ++j) {
    const F x = in[j * in_stride], y = in[(n - 1 - j) * in_stride];
    const float c = l->cosine[j], s = l->sine[j], sign = j % 2 ? -1.0f : 1.0f;
    a[j] = mad(x, c, y * s);
    b[j] = mad(y, sign * c, x * (-sign * s));
  }
  dct2(l + 1, a, p, 1, scratch + 2 * n);
  dct2(l + 1, b, q, 1, scratch + 2 * n);
  out[0] = p[0];
  out[(n - 1) * out_stride] = -q[0];
#pragma GCC unroll 4
  for (int k = 1; k < half; ++k) {
    out[2 * k * out_stride] = p[k] + q[half - k];
    out[(2 * k - 1) * out_stride] = p[k] - q[half - k];
  }
}

#undef SPD_EVERY_EVEN_REGISTER_SIZE

}  // namespace SPD_ISA
}  // namespace spd
