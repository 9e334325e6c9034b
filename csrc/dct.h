// One-dimensional DCT-II, DCT-III and DCT-IV of kLanes independent lines at once, lane = line.
//
// Unnormalised, as defined in dct_plan.h. Even sizes split orthogonally (Plonka and Tasche, 2005: numerically stable, about
// 2 log2 n operations per sample and no division by small cosines):
//
//   DCT-II(n):  sums x_j + x_{n-1-j} -> DCT-II(n/2), the even frequencies;  differences -> DCT-IV(n/2), the odd ones
//   DCT-IV(n):  plane rotations -> two DCT-II(n/2) -> one butterfly
//
// and the inverse is the transposed graph. Sizes up to kRegisterSize are straight-line code and live in registers, a few up to
// 128 are compiled as such parts, all others recurse at run time over line buffers; odd ones end in dense matrices of half the
// size.
#pragma once
#include "dct_plan.h"
#include "simd.h"

namespace spd {
inline namespace SPD_ISA {

constexpr int kRegisterSize = 32;  // largest size that becomes one piece of straight-line code

// Scratch a transform of size n needs, in registers.
constexpr int dct_scratch(int n) { return 4 * n + 16; }

constexpr float kSqrtHalf = 0.70710678f;

// ---- dense matrices ---------------------------------------------------------------------------------------------------

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

// ---- the three transforms ---------------------------------------------------------------------------------------------
// Each is a type, so that one ladder of sizes serves all. `odd`: sums and differences of mirrored samples, then two dense
// matrices of half the size. `even`: the halves; a size divisible by four goes down two levels in one pass, because moving a
// line costs more than computing with it. `one`: size 1.
//
// `l` walks down the halvings n, n/2, ... of the plan. `fixed` is the size, or 0 where it is only known at run time; small
// fixed ones unroll completely and stay in registers. `in` is kept. A DCT-II reads and a DCT-III writes without gaps: that
// stride is 1.

struct Dct2;
struct Dct3;
struct Dct4;
template <class Transform, int fixed>
SPD_HD void part(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch);

// `work`: room for `count` registers, on the stack where the size is fixed, so that it can live in registers. `rest`: the
// scratch that is left.
#define SPD_WORK(count)                    \
  F local[fixed ? (count) : 1];            \
  F* const work = fixed ? local : scratch; \
  F* const rest = fixed ? scratch : scratch + (count)

// The plane rotation j of a DCT-IV(n), x and y its samples j and n - 1 - j.
SPD_HD void rotate(const DctLevel& l, int j, F x, F y, F& a, F& b) {
  const float c = l.cosine[j], s = l.sine[j], sign = j % 2 ? -1.0f : 1.0f;
  a = mad(x, c, y * s);
  b = mad(y, sign * c, x * (-sign * s));
}
// Its butterfly: p and q are the DCT-II of both halves of the rotated samples.
SPD_HD void join_halves(int n, const F* p, const F* q, F* out, int out_stride) {
  const int half = n / 2;
  out[0] = p[0];
  out[(n - 1) * out_stride] = -q[0];
#pragma GCC unroll 16
  for (int k = 1; k < half; ++k) {
    out[2 * k * out_stride] = p[k] + q[half - k];
    out[(2 * k - 1) * out_stride] = p[k] - q[half - k];
  }
}

struct Dct2 {
  SPD_HD static F one(F x) { return x; }

  template <int fixed>
  SPD_HD static void odd(const DctLevel* l, const F* in, int, F* out, int out_stride, F* scratch) {
    constexpr int half_size = fixed / 2;
    const int n = fixed ? fixed : l->size, half = n / 2;
    F local[fixed ? fixed : 1];
    F *even = fixed ? local : scratch, *odd = even + half + 1;
#pragma GCC unroll 8
    for (int j = 0; j < half; ++j) {
      even[j] = in[j] + in[n - 1 - j];
      odd[j] = in[j] - in[n - 1 - j];
    }
    even[half] = in[half];
    dense<fixed ? half_size + 1 : 0>(l->even2, half + 1, even, out, 2 * out_stride);
    if (n > 1) dense<half_size>(l->odd2, half, odd, out + out_stride, 2 * out_stride);
  }

  template <int fixed>
  SPD_HD static void even(const DctLevel* l, const F* in, int, F* out, int out_stride, F* scratch) {
    const int n = fixed ? fixed : l->size, half = n / 2, quarter = n / 4;
    SPD_WORK(3 * n / 2);
    F *sum = work, *difference = work + half;
    if constexpr (fixed % 4 == 0) {
      if (n % 4 == 0) {
        F *sum_of_sums = sum, *difference_of_sums = sum + quarter;
        F *a = difference, *b = a + quarter, *p = b + quarter, *q = p + quarter;
#pragma GCC unroll 8
        for (int j = 0; j < quarter; ++j) {
          const int k = half - 1 - j;
          const F s0 = in[j] + in[n - 1 - j], s1 = in[k] + in[n - 1 - k];
          const F d0 = in[j] - in[n - 1 - j], d1 = in[k] - in[n - 1 - k];
          sum_of_sums[j] = s0 + s1;
          difference_of_sums[j] = s0 - s1;
          rotate(l[1], j, d0, d1, a[j], b[j]);
        }
        part<Dct2, fixed / 4>(l + 2, sum_of_sums, 1, out, 4 * out_stride, rest);
        part<Dct4, fixed / 4>(l + 2, difference_of_sums, 1, out + 2 * out_stride, 4 * out_stride, rest);
        part<Dct2, fixed / 4>(l + 2, a, 1, p, 1, rest);
        part<Dct2, fixed / 4>(l + 2, b, 1, q, 1, rest);
        join_halves(half, p, q, out + out_stride, 2 * out_stride);
      }
    }
    if constexpr (fixed % 4 || fixed == 0) {
      if (n % 4) {
#pragma GCC unroll 16
        for (int j = 0; j < half; ++j) {
          sum[j] = in[j] + in[n - 1 - j];
          difference[j] = in[j] - in[n - 1 - j];
        }
        part<Dct2, fixed / 2>(l + 1, sum, 1, out, 2 * out_stride, rest);
        part<Dct4, fixed / 2>(l + 1, difference, 1, out + out_stride, 2 * out_stride, rest);
      }
    }
  }
};

struct Dct3 {
  SPD_HD static F one(F x) { return x; }

  template <int fixed>
  SPD_HD static void odd(const DctLevel* l, const F* in, int in_stride, F* out, int, F* scratch) {
    constexpr int half_size = fixed / 2;
    const int n = fixed ? fixed : l->size, half = n / 2;
    F local[fixed ? 2 * fixed : 1];
    F *coefficient = fixed ? local : scratch, *even = coefficient + n, *odd = even + half + 1;
#pragma GCC unroll 8
    for (int k = 0; k <= half; ++k) coefficient[k] = in[2 * k * in_stride];
    dense<fixed ? half_size + 1 : 0>(l->even3, half + 1, coefficient, even, 1);
#pragma GCC unroll 8
    for (int k = 0; k < half; ++k) coefficient[k] = in[(2 * k + 1) * in_stride];
    if (n > 1) dense<half_size>(l->odd3, half, coefficient, odd, 1);
#pragma GCC unroll 8
    for (int j = 0; j < half; ++j) {
      out[j] = even[j] + odd[j];
      out[n - 1 - j] = even[j] - odd[j];
    }
    out[half] = even[half];
  }

  template <int fixed>
  SPD_HD static void even(const DctLevel* l, const F* in, int in_stride, F* out, int, F* scratch) {
    const int n = fixed ? fixed : l->size, half = n / 2, quarter = n / 4;
    SPD_WORK(n);
    F *even = work, *odd = work + half;
    part<Dct4, fixed / 2>(l + 1, in + in_stride, 2 * in_stride, odd, 1, rest);
    if constexpr (fixed % 4 == 0) {
      if (n % 4 == 0) {
        F *even_of_even = even, *odd_of_even = even + quarter;
        part<Dct3, fixed / 4>(l + 2, in, 4 * in_stride, even_of_even, 1, rest);
        part<Dct4, fixed / 4>(l + 2, in + 2 * in_stride, 4 * in_stride, odd_of_even, 1, rest);
#pragma GCC unroll 8
        for (int j = 0; j < quarter; ++j) {
          const int k = half - 1 - j;
          const F a = even_of_even[j] + odd_of_even[j], b = even_of_even[j] - odd_of_even[j];
          out[j] = a + odd[j];
          out[n - 1 - j] = a - odd[j];
          out[k] = b + odd[k];
          out[n - 1 - k] = b - odd[k];
        }
      }
    }
    if constexpr (fixed % 4 || fixed == 0) {
      if (n % 4) {
        part<Dct3, fixed / 2>(l + 1, in, 2 * in_stride, even, 1, rest);
#pragma GCC unroll 16
        for (int j = 0; j < half; ++j) {
          out[j] = even[j] + odd[j];
          out[n - 1 - j] = even[j] - odd[j];
        }
      }
    }
  }
};

struct Dct4 {
  SPD_HD static F one(F x) { return x * kSqrtHalf; }

  template <int fixed>
  SPD_HD static void odd(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
    constexpr int half_size = fixed / 2;
    const int n = fixed ? fixed : l->size, half = n / 2;
    F local[fixed ? 2 * fixed : 1];
    F *even = fixed ? local : scratch, *odd = even + half + 1, *p = even + n, *q = p + half + 1;
    float sign = l->parity;
#pragma GCC unroll 8
    for (int j = 0; j < half; ++j, sign = -sign) {
      const F a = in[j * in_stride], b = sign * in[(n - 1 - j) * in_stride];
      even[j] = a + b;
      odd[j] = a - b;
    }
    even[half] = in[half * in_stride];
    dense<fixed ? half_size + 1 : 0>(l->even4, half + 1, even, p, 1);
    if (n > 1) dense<half_size>(l->odd4, half, odd, q, 1);
    sign = l->parity;
#pragma GCC unroll 8
    for (int k = 0; k < half; ++k, sign = -sign) {
      out[k * out_stride] = p[k] + q[k];
      out[(n - 1 - k) * out_stride] = sign * (p[k] - q[k]);
    }
    out[half * out_stride] = p[half];
  }

  template <int fixed>
  SPD_HD static void even(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
    const int n = fixed ? fixed : l->size, half = n / 2, quarter = n / 4;
    SPD_WORK(2 * n);
    F *a = work, *b = a + half, *p = b + half, *q = p + half;
    const auto at = [&](int j, F& first, F& second) {
      rotate(*l, j, in[j * in_stride], in[(n - 1 - j) * in_stride], first, second);
    };
    if constexpr (fixed % 4 == 0) {
      if (n % 4 == 0) {
#pragma GCC unroll 8
        for (int j = 0; j < quarter; ++j) {
          F a0, a1, b0, b1;
          at(j, a0, b0);
          at(half - 1 - j, a1, b1);
          a[j] = a0 + a1;
          a[quarter + j] = a0 - a1;
          b[j] = b0 + b1;
          b[quarter + j] = b0 - b1;
        }
        part<Dct2, fixed / 4>(l + 2, a, 1, p, 2, rest);
        part<Dct4, fixed / 4>(l + 2, a + quarter, 1, p + 1, 2, rest);
        part<Dct2, fixed / 4>(l + 2, b, 1, q, 2, rest);
        part<Dct4, fixed / 4>(l + 2, b + quarter, 1, q + 1, 2, rest);
      }
    }
    if constexpr (fixed % 4 || fixed == 0) {
      if (n % 4) {
#pragma GCC unroll 16
        for (int j = 0; j < half; ++j) at(j, a[j], b[j]);
        part<Dct2, fixed / 2>(l + 1, a, 1, p, 1, rest);
        part<Dct2, fixed / 2>(l + 1, b, 1, q, 1, rest);
      }
    }
    join_halves(n, p, q, out, out_stride);
  }
};
#undef SPD_WORK

// ---- any size ---------------------------------------------------------------------------------------------------------

// clang-format off
#if defined(SPD_FEW_SIZES)  // for compilers that take long: the other sizes recurse
#define SPD_EVERY_FIXED_SIZE(CASE) CASE(2) CASE(8) CASE(10)
#else
#define SPD_EVERY_FIXED_SIZE(CASE)                                                            \
  CASE(2) CASE(4) CASE(6) CASE(8) CASE(10) CASE(12) CASE(14) CASE(16) CASE(20) CASE(24)       \
  CASE(28) CASE(32) CASE(40) CASE(48) CASE(64) CASE(80) CASE(96) CASE(128)
#endif
// clang-format on

// Out of line, once per size: so the code of larger sizes stays small.
template <class Transform, int fixed>
__attribute__((noinline)) void compiled(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  Transform::template even<fixed>(l, in, in_stride, out, out_stride, scratch);
}

template <class Transform>
static void any_size(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  switch (l->size) {
#define CASE(size) \
  case size:       \
    return compiled<Transform, size>(l, in, in_stride, out, out_stride, scratch);
    SPD_EVERY_FIXED_SIZE(CASE)
#undef CASE
    default:
      return l->size % 2 ? Transform::template odd<0>(l, in, in_stride, out, out_stride, scratch)
                         : Transform::template even<0>(l, in, in_stride, out, out_stride, scratch);
  }
}
#undef SPD_EVERY_FIXED_SIZE

template <class Transform, int fixed>
SPD_HD void part(const DctLevel* l, const F* in, int in_stride, F* out, int out_stride, F* scratch) {
  if constexpr (fixed == 0)
    any_size<Transform>(l, in, in_stride, out, out_stride, scratch);
  else if constexpr (fixed == 1)
    out[0] = Transform::one(in[0]);
  else if constexpr (fixed % 2)
    Transform::template odd<fixed>(l, in, in_stride, out, out_stride, scratch);
  else if constexpr (fixed <= kRegisterSize)
    Transform::template even<fixed>(l, in, in_stride, out, out_stride, scratch);
  else
    compiled<Transform, fixed>(l, in, in_stride, out, out_stride, scratch);
}

// A line, without gaps on either side.
static void dct2(const DctLevel* l, const F* in, F* out, F* scratch) { any_size<Dct2>(l, in, 1, out, 1, scratch); }
static void dct3(const DctLevel* l, const F* in, F* out, F* scratch) { any_size<Dct3>(l, in, 1, out, 1, scratch); }

}  // namespace SPD_ISA
}  // namespace spd
