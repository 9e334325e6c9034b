// One-dimensional cosine transforms of lines in shared memory, of any length n, two lines at a time.
//
//   DCT-II   X_k = sum_j x_j cos(pi (2j+1) k / 2n)
//   DCT-III  y_j = X_0 + 2 sum_{k>0} X_k cos(pi (2j+1) k / 2n)
//
// Makhoul (1980): with v the even samples of x followed by the odd ones backwards and V its discrete Fourier transform,
// X_k = Re(e^{-i pi k/2n} V_k). Two real lines are the real and imaginary part of one complex transform, so that n need not be
// even and no length is special; conjugate symmetry tells the two apart again.
//
// The complex transform is Stockham's: passes of radix 2, 3, 4, 5, 8 in registers, and any other prime by its definition,
// folded (cosines see x_j + x_{p-j}, sines x_j - x_{p-j}). A pass reads one buffer and writes another. A team of threads (a
// power of 2 within a warp, or the whole block for long lines) owns a pair of lines and two buffers; only it waits for its
// passes. The first pass reads the lines themselves, the last one of a DCT-III writes them.
#pragma once
#include "cuda_portable.cuh"

namespace spd {

constexpr int kMaxPasses = 12;
constexpr int kBlockTeamFrom = 512;  // lines as long as this get the whole block

struct FftPass {
  int radix;
  int stride;      // product of the radices before
  int step;        // size / (radix * stride): what one step of the pass turns, in units of 2 pi / size
  uint32_t magic;  // b / stride = high word of b * magic, for b, stride < 2^16
};

struct FftPlan {
  int size, passes;
  FftPass pass[kMaxPasses];

  FftPlan() : size(0), passes(0) {}
  explicit FftPlan(int n) : size(n), passes(0) {
    int radices[kMaxPasses], count = 0, rest = n, twos = 0;
    for (; rest % 2 == 0; rest /= 2) ++twos;
    int odd[kMaxPasses], odds = 0;
    for (int p = 3; rest > 1; p += 2) {
      if (p * p > rest) p = rest;
      for (; rest % p == 0; rest /= p) odd[odds++] = p;
    }
    // Large primes first: the first pass has no rotations, and theirs would be repeated for every output.
    while (odds > 0) radices[count++] = odd[--odds];
    for (; twos > 4 || twos == 3; twos -= 3) radices[count++] = 8;
    for (; twos > 1; twos -= 2) radices[count++] = 4;
    if (twos) radices[count++] = 2;
    // The first pass reads each line once and must not write what it reads: a copy where it would.
    int stride = 1;
    if (count < 2 || !in_registers(radices[0])) append(1, stride);
    if (n == 1) append(1, stride);
    for (int i = 0; i < count; ++i) append(radices[i], stride);
  }

  static bool in_registers(int radix) { return radix <= 5 || radix == 8; }

 private:
  void append(int radix, int& stride) {
    const uint32_t magic = stride == 1 ? 0 : static_cast<uint32_t>((uint64_t{1} << 32) / stride + 1);
    pass[passes++] = {radix, stride, size / (radix * stride), magic};
    stride *= radix;
  }
};

SPD_HD int team_size(int n) {
  if (n >= kBlockTeamFrom) return kThreads;
  int size = 1;
  while (size < 32 && 4 * size < n) size *= 2;
  return size;
}

// float2 values: two buffers a team; an odd distance between teams keeps them in different banks.
SPD_HD int64_t scratch_pairs(int n) { return int64_t{kThreads} / team_size(n) * (2 * n + 1); }

struct Team {
  int worker, size, index, count;
  float2* scratch;

  __device__ Team(int n, float2* buffers) {
    size = team_size(n);
    const int thread = static_cast<int>(threadIdx.x);
    worker = thread & (size - 1);
    index = thread / size;
    count = kThreads / size;
    scratch = buffers + index * (2 * n + 1);
  }
  __device__ void sync() const {
    if (size > 32)
      __syncthreads();
    else
      __syncwarp();
  }
};

// cos and sin of pi k / 2n, k < n, computed by the block. No table ever leaves the kernel: nothing to upload or to cache.
__device__ inline void quarter_wave(int n, float2* table) {
  for (int k = static_cast<int>(threadIdx.x); k < n; k += kThreads) {
    const bool upper = 2 * k > n;  // from the nearer end, where the angle is at most pi/4
    float s, c;
    sincospif(static_cast<float>(upper ? n - k : k) / static_cast<float>(2 * n), &s, &c);
    table[k] = upper ? make_float2(s, c) : make_float2(c, s);
  }
}

// Pairs of neighbouring lines in a tile: sample j of line l is data[l * across + j * along].
struct Lines {
  float* data;
  int along, across;
};

__device__ inline float2 add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ inline float2 subtract(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ inline float2 multiply(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
__device__ inline float2 times_minus_i(float2 a) { return make_float2(a.y, -a.x); }

struct Fft {
  int n;
  const float2* table;

  // e^{-2 pi i e / n}, 0 <= e < n, from the quarter wave.
  __device__ float2 root(int e) const {
    int r = 4 * e, quarter = 0;
    while (r >= n) r -= n, ++quarter;
    const float2 t = table[r];
    switch (quarter) {
      case 0:
        return make_float2(t.x, -t.y);
      case 1:
        return make_float2(-t.y, -t.x);
      case 2:
        return make_float2(-t.x, t.y);
      default:
        return make_float2(t.y, t.x);
    }
  }
};

// Place of sample j of x in Makhoul's order.
__device__ inline int makhoul(int j, int n) { return 2 * j < n ? 2 * j : 2 * (n - 1 - j) + 1; }

struct LoadBuffer {
  const float2* from;
  __device__ float2 operator()(int j) const { return from[j]; }
};
struct StoreBuffer {
  float2* to;
  __device__ void operator()(int j, float2 z) const { to[j] = z; }
};
struct LoadSamples {  // DCT-II: the two lines, reordered
  const float *a, *b;
  int along, n;
  __device__ float2 operator()(int j) const {
    const int i = makhoul(j, n) * along;
    return make_float2(a[i], b[i]);
  }
};
// DCT-III: V_k = e^{i pi k/2n} (X_k - i X_{n-k}) of both lines, in one. Real and imaginary part are exchanged here and at the
// store, which turns the forward transform between them into the inverse one.
struct LoadCoefficients {
  const float *a, *b;
  int along, n;
  const float2* table;
  __device__ float2 operator()(int k) const {
    const float2 w = table[k];
    const int i = k * along, mirror = (n - k) * along;
    const float a0 = a[i], b0 = b[i], a1 = k ? a[mirror] : 0.0f, b1 = k ? b[mirror] : 0.0f;
    const float a_re = w.x * a0 + w.y * a1, a_im = w.y * a0 - w.x * a1;
    const float b_re = w.x * b0 + w.y * b1, b_im = w.y * b0 - w.x * b1;
    return make_float2(a_im + b_re, a_re - b_im);
  }
};
struct StoreSamples {
  float *a, *b;
  int along, n;
  __device__ void operator()(int j, float2 z) const {
    const int i = makhoul(j, n) * along;
    a[i] = z.y;
    b[i] = z.x;
  }
};

// Discrete Fourier transform of R values in registers.
template <int R>
__device__ inline void butterfly(float2 (&z)[R]) {
  if constexpr (R == 2) {
    const float2 a = z[0];
    z[0] = add(a, z[1]);
    z[1] = subtract(a, z[1]);
  } else if constexpr (R == 3) {
    constexpr float kSin = 0.866025404f;  // sin(2 pi / 3)
    const float2 s = add(z[1], z[2]), d = subtract(z[1], z[2]), e = make_float2(z[0].x - 0.5f * s.x, z[0].y - 0.5f * s.y);
    const float2 turned = make_float2(kSin * d.y, -kSin * d.x);
    z[0] = add(z[0], s);
    z[1] = add(e, turned);
    z[2] = subtract(e, turned);
  } else if constexpr (R == 4) {
    const float2 a = add(z[0], z[2]), b = subtract(z[0], z[2]), c = add(z[1], z[3]), d = times_minus_i(subtract(z[1], z[3]));
    z[0] = add(a, c);
    z[1] = add(b, d);
    z[2] = subtract(a, c);
    z[3] = subtract(b, d);
  } else if constexpr (R == 5) {
    constexpr float kCos1 = 0.309016994f, kSin1 = 0.951056516f, kCos2 = -0.809016994f, kSin2 = 0.587785252f;
    const float2 s1 = add(z[1], z[4]), d1 = subtract(z[1], z[4]), s2 = add(z[2], z[3]), d2 = subtract(z[2], z[3]);
    const float2 e1 = make_float2(z[0].x + kCos1 * s1.x + kCos2 * s2.x, z[0].y + kCos1 * s1.y + kCos2 * s2.y);
    const float2 e2 = make_float2(z[0].x + kCos2 * s1.x + kCos1 * s2.x, z[0].y + kCos2 * s1.y + kCos1 * s2.y);
    const float2 o1 = times_minus_i(make_float2(kSin1 * d1.x + kSin2 * d2.x, kSin1 * d1.y + kSin2 * d2.y));
    const float2 o2 = times_minus_i(make_float2(kSin2 * d1.x - kSin1 * d2.x, kSin2 * d1.y - kSin1 * d2.y));
    z[0] = add(z[0], add(s1, s2));
    z[1] = add(e1, o1);
    z[4] = subtract(e1, o1);
    z[2] = add(e2, o2);
    z[3] = subtract(e2, o2);
  } else if constexpr (R == 8) {
    constexpr float kRootHalf = 0.707106781f;
    float2 even[4] = {z[0], z[2], z[4], z[6]}, odd[4] = {z[1], z[3], z[5], z[7]};
    butterfly<4>(even);
    butterfly<4>(odd);
    odd[1] = make_float2(kRootHalf * (odd[1].x + odd[1].y), kRootHalf * (odd[1].y - odd[1].x));
    odd[2] = times_minus_i(odd[2]);
    odd[3] = make_float2(kRootHalf * (odd[3].y - odd[3].x), -kRootHalf * (odd[3].x + odd[3].y));
    SPD_UNROLL
    for (int q = 0; q < 4; ++q) {
      z[q] = add(even[q], odd[q]);
      z[q + 4] = subtract(even[q], odd[q]);
    }
  }
}

// One Stockham pass: butterfly b = block * stride + k reads b, b + n/R, ... and writes block * stride * R + k, + stride, ...
template <int R, class Load, class Store>
__device__ inline void register_pass(const Fft& fft, const FftPass& pass, int worker, int team, Load load, Store store) {
  const int count = fft.n / R;
  for (int b = worker; b < count; b += team) {
    float2 z[R];
    SPD_UNROLL
    for (int q = 0; q < R; ++q) z[q] = load(b + q * count);
    int k = 0;
    if (pass.stride > 1) {
      k = b - pass.stride * static_cast<int>(multiply_high(static_cast<uint32_t>(b), pass.magic));
      SPD_UNROLL
      for (int q = 1; q < R; ++q) z[q] = multiply(z[q], fft.root(k * q * pass.step));
    }
    butterfly<R>(z);
    const int to = (b - k) * R + k;
    SPD_UNROLL
    for (int q = 0; q < R; ++q) store(to + q * pass.stride, z[q]);
  }
}

// A pass of prime radix p; one thread makes outputs q and p - q of a butterfly.
template <class Load, class Store>
__device__ inline void prime_pass(const Fft& fft, const FftPass& pass, int worker, int team, Load load, Store store) {
  const int p = pass.radix, half = p / 2, count = fft.n / p;
  for (int item = worker; item < count * (half + 1); item += team) {
    const int q = item / count, b = item - q * count;
    const int k =
        pass.stride == 1 ? 0 : b - pass.stride * static_cast<int>(multiply_high(static_cast<uint32_t>(b), pass.magic));
    const float2 first = load(b);
    float2 e = first, o = make_float2(0.0f, 0.0f);
    int turn = 0;  // j q mod p
    for (int j = 1; j <= half; ++j) {
      float2 x = load(b + j * count), y = load(b + (p - j) * count);
      if (pass.stride > 1) {
        x = multiply(x, fft.root(k * j * pass.step));
        y = multiply(y, fft.root(k * (p - j) * pass.step));
      }
      turn += q;
      if (turn >= p) turn -= p;
      const float2 w = fft.root(turn * count), s = add(x, y), d = subtract(x, y);
      e = make_float2(e.x + w.x * s.x, e.y + w.x * s.y);
      o = make_float2(o.x - w.y * d.y, o.y + w.y * d.x);  // i sin * d, w.y = -sin
    }
    const int to = (b - k) * p + k;
    store(to + q * pass.stride, add(e, o));
    if (q) store(to + (p - q) * pass.stride, subtract(e, o));
  }
}

template <class Load, class Store>
__device__ inline void run_pass(const Fft& fft, const FftPass& pass, int worker, int team, Load load, Store store) {
  switch (pass.radix) {
    case 1:
      return register_pass<1>(fft, pass, worker, team, load, store);
    case 2:
      return register_pass<2>(fft, pass, worker, team, load, store);
    case 3:
      return register_pass<3>(fft, pass, worker, team, load, store);
    case 4:
      return register_pass<4>(fft, pass, worker, team, load, store);
    case 5:
      return register_pass<5>(fft, pass, worker, team, load, store);
    case 8:
      return register_pass<8>(fft, pass, worker, team, load, store);
    default:
      return prime_pass(fft, pass, worker, team, load, store);
  }
}

// The two spectra Z_k holds in one: A_k = (Z_k + conj Z_{n-k}) / 2, B_k = (Z_k - conj Z_{n-k}) / 2i; then
// X_k = Re(e^{-i pi k/2n} A_k) and X_{n-k} = -Im of the same.
__device__ inline void store_spectra(const Fft& fft, const float2* z, float* a, float* b, int along, int worker, int team) {
  const int n = fft.n;
  for (int k = worker; 2 * k <= n; k += team) {
    const float2 w = fft.table[k], u = z[k], v = z[k ? n - k : 0];
    const float a_re = 0.5f * (u.x + v.x), a_im = 0.5f * (u.y - v.y);
    const float b_re = 0.5f * (u.y + v.y), b_im = 0.5f * (v.x - u.x);
    a[k * along] = w.x * a_re + w.y * a_im;
    b[k * along] = w.x * b_re + w.y * b_im;
    if (k) {
      a[(n - k) * along] = w.y * a_re - w.x * a_im;
      b[(n - k) * along] = w.y * b_re - w.x * b_im;
    }
  }
}

// DCT-II (forward) or DCT-III of `pairs` pairs of lines, in place. The whole block calls it, and waits before and after.
template <bool kForward>
__device__ __noinline__ void transform(const FftPlan& plan, const float2* table, Lines lines, int pairs, float2* scratch) {
  const Fft fft{plan.size, table};
  const Team team(plan.size, scratch);
  const int n = plan.size, along = lines.along;
  for (int base = 0; base < pairs; base += team.count) {
    const int pair = base + team.index;
    const int worker = pair < pairs ? team.worker : 2 * kThreads * n;  // a team without a pair only keeps step
    float *a = lines.data + static_cast<int64_t>(2 * pair) * lines.across, *b = a + lines.across;
    float2 *from = team.scratch, *to = from + n;
    for (int i = 0; i < plan.passes; ++i) {
      const FftPass& pass = plan.pass[i];
      if (i == 0) {
        if constexpr (kForward)
          run_pass(fft, pass, worker, team.size, LoadSamples{a, b, along, n}, StoreBuffer{to});
        else
          run_pass(fft, pass, worker, team.size, LoadCoefficients{a, b, along, n, table}, StoreBuffer{to});
      } else if (!kForward && i == plan.passes - 1) {
        run_pass(fft, pass, worker, team.size, LoadBuffer{from}, StoreSamples{a, b, along, n});
      } else {
        run_pass(fft, pass, worker, team.size, LoadBuffer{from}, StoreBuffer{to});
      }
      team.sync();
      float2* const written = to;
      to = from;
      from = written;
    }
    if constexpr (kForward) {
      store_spectra(fft, from, a, b, along, worker, team.size);
      team.sync();
    }
  }
}

}  // namespace spd
