// Tables of the one-dimensional cosine transforms of one size; the algorithm itself is in dct.h.
//
//   DCT-II  X_k = sum_j x_j cos(pi (2j+1) k / 2n)             DCT-III: its transpose
//   DCT-IV  X_k = sum_j x_j cos(pi (2j+1) (2k+1) / 4n)        its own transpose
//
// n is halved until it is odd (n = m 2^q): an even size needs the plane rotations of its DCT-IV, the odd one two pairs of small
// dense matrices. All entries are computed in double and rounded once.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace spd {

struct DctLevel {
  int size;
  const float *cosine, *sine;  // even size m: cos, sin of pi (2j+1) / 4m, j < m/2
  // Odd size, matrices by columns (all that multiplies one input lies together):
  const float *even2, *odd2;  // halves of the DCT-II for the even and odd part of the input
  const float *even3, *odd3;  // their transposes
  const float *even4, *odd4;  // halves of the DCT-IV, symmetric
  float parity;               // (-1)^((m-1)/2)
};

class DctPlan {
 public:
  explicit DctPlan(int n) {
    for (int m = n;; m /= 2) {
      sizes_.push_back(m);
      if (m % 2) break;
    }
    levels_.resize(sizes_.size());
    tables_.resize(sizes_.size() * 6);
    for (size_t i = 0; i < sizes_.size(); ++i) (sizes_[i] % 2 ? odd_core(i) : rotations(i));
  }
  DctPlan(const DctPlan&) = delete;
  DctPlan& operator=(const DctPlan&) = delete;
  int size() const { return sizes_[0]; }
  const DctLevel* top() const { return levels_.data(); }

 private:
  static constexpr double kPi = 3.14159265358979323846;

  const float* keep(size_t level, int slot, std::vector<float> values) {
    tables_[level * 6 + slot] = std::move(values);
    return tables_[level * 6 + slot].data();
  }

  void rotations(size_t i) {
    const int m = sizes_[i];
    std::vector<float> c(m / 2), s(m / 2);
    for (int j = 0; j < m / 2; ++j) {
      const double angle = kPi * (2 * j + 1) / (4.0 * m);
      c[j] = static_cast<float>(std::cos(angle));
      s[j] = static_cast<float>(std::sin(angle));
    }
    levels_[i] = DctLevel{m, keep(i, 0, std::move(c)), keep(i, 1, std::move(s)), {}, {}, {}, {}, {}, {}, 0.0f};
  }

  // DCT-II: even frequencies see x_j + x_{m-1-j}, odd ones x_j - x_{m-1-j}.
  // DCT-IV: with a = 2j+1, b = 2k+1 and 1/8m = alpha/8 + beta/m (mod 1),
  //   sqrt(2) cos(2 pi ab/8m) = chi1(alpha ab) cos(2 pi beta ab/m) - chi2(alpha ab) sin(2 pi beta ab/m),
  // chi1, chi2 the characters mod 8 that are +1 on {1, 7} and {1, 3}. Being multiplicative they leave the transform as a real
  // DFT of odd length, which folds like the DCT-II: a -> -a is j -> m-1-j, with sign (-1)^(j + (m-1)/2).
  void odd_core(size_t i) {
    const int m = sizes_[i], half = m / 2, more = half + 1;
    std::vector<float> even2(more * more), odd2(half * half), even3(more * more), odd3(half * half);
    for (int k = 0; k < more; ++k)
      for (int j = 0; j < more; ++j)
        even2[j * more + k] = even3[k * more + j] = cosine_of(int64_t{2} * j + 1, int64_t{2} * k, 4 * m);
    for (int k = 0; k < half; ++k)
      for (int j = 0; j < half; ++j)
        odd2[j * half + k] = odd3[k * half + j] = cosine_of(int64_t{2} * j + 1, int64_t{2} * k + 1, 4 * m);

    const auto chi1 = [](int64_t a) { return a % 8 == 1 || a % 8 == 7 ? 1.0 : -1.0; };
    const auto chi2 = [](int64_t a) { return a % 8 == 1 || a % 8 == 3 ? 1.0 : -1.0; };
    int64_t beta = 0;
    while (8 * beta % m != 1 % m) ++beta;
    std::vector<float> even4(more * more), odd4(half * half);
    for (int k = 0; k < more; ++k)
      for (int j = 0; j < more; ++j) {
        const int64_t a = 2 * j + 1, b = 2 * k + 1, ab = (m % 8) * (a % 8) * (b % 8);  // alpha = m mod 8
        const double angle = 2 * kPi * static_cast<double>(beta * a % m * b % m) / m;
        even4[k * more + j] = static_cast<float>(std::sqrt(0.5) * chi1(ab) * std::cos(angle));
        if (k < half && j < half) odd4[k * half + j] = static_cast<float>(-std::sqrt(0.5) * chi2(ab) * std::sin(angle));
      }
    levels_[i] = DctLevel{m,
                          nullptr,
                          nullptr,
                          keep(i, 0, std::move(even2)),
                          keep(i, 1, std::move(odd2)),
                          keep(i, 2, std::move(even3)),
                          keep(i, 3, std::move(odd3)),
                          keep(i, 4, std::move(even4)),
                          keep(i, 5, std::move(odd4)),
                          half % 2 ? -1.0f : 1.0f};
  }

  // cos(2 pi a b / period), the product reduced in integers first.
  static float cosine_of(int64_t a, int64_t b, int64_t period) {
    return static_cast<float>(std::cos(2 * kPi * static_cast<double>(a * b % period) / static_cast<double>(period)));
  }

  std::vector<int> sizes_;
  std::vector<DctLevel> levels_;
  std::vector<std::vector<float>> tables_;
};

}  // namespace spd
