// The CPU kernels of one instruction set (-DSPD_ISA=...) without torch, on awkward sizes with buffers of exactly the size they
// ask for, to be run under sanitizers. Prints a hash of all results, a line a storage type.
#include "cpu_kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

using namespace spd;

namespace {

struct Buffer {  // exact size, so that one element too far is found
  float* data;
  int64_t floats;
  explicit Buffer(int64_t count) : data(nullptr), floats(count) {
    if (posix_memalign(reinterpret_cast<void**>(&data), 64, static_cast<size_t>(floats > 0 ? floats : 1) * sizeof(float)))
      std::abort();
    for (int64_t i = 0; i < floats; ++i) data[i] = 0.5f;
  }
  ~Buffer() { std::free(data); }
  Lines lines(int64_t missing = 0) const { return {data, floats - missing}; }
};

uint64_t mix(uint64_t hash, const void* bytes, size_t count) {  // FNV-1a
  for (size_t i = 0; i < count; ++i) hash = (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001b3u;
  return hash;
}

int largest(int a, int b) { return a > b ? a : b; }
int blocks(int n, int lanes) { return (n + lanes - 1) / lanes; }

template <class T>
uint64_t run(const Kernels& k, Storage storage, int missing, int missing_lines) {
  uint64_t hash = 0xcbf29ce484222325u;
  const int grids[][4] = {{1, 1, 1, 1},   {1, 1, 3, 5},     {3, 2, 7, 11},    {8, 8, 16, 16},    {16, 15, 17, 33},
                          {5, 9, 20, 36}, {13, 45, 67, 53}, {32, 40, 64, 90}, {128, 20, 260, 70}};
  const int64_t keys[] = {7, -3};
  const int planes = 4;
  for (const auto& g : grids) {
    const int h = g[0], w = g[1], H = g[2], W = g[3];
    const DctPlan ph(h), pw(w), pH(H), pW(W);
    std::vector<T> x(size_t(planes) * h * w), white(size_t(planes) * H * W), out(white.size());
    std::memset(x.data(), 0x3c, x.size() * sizeof(T));
    std::memset(white.data(), 0x3d, white.size() * sizeof(T));
    const Buffer coarse(k.tile_floats(h, w)), fine(k.tile_floats(H, W)), columns(k.tile_floats(H, W) - missing);
    const Buffer memory(k.line_floats(largest(H, W)));
    const Lines lines = memory.lines(missing_lines);
    const Tiles tiles{coarse.data, fine.data, columns.data};
    for (int mode = 0; mode < 4; ++mode) {  // field, white field, embed, whole field
      GridTask task{{h, w},
                    {H, W},
                    {&ph, &pw},
                    {&pH, &pW},
                    storage,
                    mode < 3 ? x.data() : nullptr,
                    mode == 1 ? white.data() : nullptr,
                    out.data(),
                    0.7,
                    1.2,
                    mode % 3 == 0,
                    {keys, planes / 2, 9}};
      const int strips = largest(task.on_coarse ? k.strips(h, w) : 0, task.on_fine ? k.strips(H, W) : 0);
      for (int p = 0; p < planes; ++p) {
        for (int s = 0; s < strips; ++s) k.expand_columns_in(task, p, s, tiles, lines);
        for (int b = 0; b < blocks(task.draw ? H : h, k.lanes); ++b) k.expand_rows(task, p, b, tiles, lines);
        for (int s = 0; s < k.strips(H, W); ++s) k.expand_columns_out(task, p, s, tiles, lines);
      }
      hash = mix(hash, out.data(), out.size() * sizeof(T));
    }
    GridTask down{{h, w}, {H, W}, {&ph, &pw}, {&pH, &pW}, storage, nullptr, white.data(), x.data(), 0.0, 1.0, false, {}};
    PowerTask power{{H, W}, {&pH, &pW}, storage, white.data(), 1};
    std::vector<double> map(size_t(H) * W);
    const Buffer squares(planes * k.tile_floats(H, W));  // two sums of doubles
    double* sums = reinterpret_cast<double*>(squares.data);
    for (int p = 0; p < planes; ++p) {
      for (int s = 0; s < k.strips(H, W); ++s) k.restrict_columns_in(down, p, s, tiles, lines);
      for (int b = 0; b < blocks(h, k.lanes); ++b) k.restrict_rows(down, p, b, tiles, lines);
      for (int s = 0; s < k.strips(h, w); ++s) k.restrict_columns_out(down, p, s, tiles, lines);
      k.power_plane(power, p, tiles, lines, p % 2 == 0, sums + p / 2 * k.tile_floats(H, W));
    }
    k.power_unpack(power, sums, planes / 2, map.data());
    hash = mix(hash, map.data(), map.size() * sizeof(double));
    const Buffer noise(int64_t(H) * W), noise_memory(k.noise_line_floats(W));
    k.noise_plane({keys, planes / 2, 1}, 3, H, W, noise.data, noise_memory.lines());
    hash = mix(hash, noise.data, sizeof(float) * H * W);
  }
  const int haar[][3] = {{1, 1, 2}, {2, 3, 8}, {5, 67, 2}, {33, 16, 4}, {3, 160, 2}};
  for (const auto& g : haar) {
    const int h = g[0], w = g[1], H = h * g[2], W = w * g[2];
    std::vector<T> x(size_t(planes) * h * w), white(size_t(planes) * H * W), out(white.size());
    for (int mode = 0; mode < 3; ++mode) {
      GridTask task{{h, w},
                    {H, W},
                    {},
                    {},
                    storage,
                    x.data(),
                    mode == 1 ? white.data() : nullptr,
                    out.data(),
                    0.7,
                    1.2,
                    mode == 0,
                    {keys, planes / 2, 0}};
      const Buffer memory(k.haar_line_floats(task, h));
      const Lines lines = memory.lines();
      for (int p = 0; p < planes; ++p) k.haar_expand(task, p, 0, h, lines);
      hash = mix(hash, out.data(), out.size() * sizeof(T));
    }
    GridTask down{{h, w}, {H, W}, {}, {}, storage, nullptr, white.data(), x.data(), 0.0, 1.0, false, {}};
    const Buffer memory(k.haar_line_floats(down, h));
    const Lines lines = memory.lines();
    for (int p = 0; p < planes; ++p) k.haar_restrict(down, p, 0, h, lines);
  }
  return hash;
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels& k = kKernels;
  // "tiles": 16 floats too few of a tile set, which a sanitizer must find; "lines": one float too few of the lines, which an
  // assertion must.
  const std::string_view fault = argc > 1 ? argv[1] : "";
  const int tiles = fault == "tiles" ? 16 : 0, lines = fault == "lines" ? 1 : 0;
  std::printf("%016llx\n", static_cast<unsigned long long>(run<float>(k, Storage::kFloat32, tiles, lines)));
  std::printf("%016llx\n", static_cast<unsigned long long>(run<uint16_t>(k, Storage::kBfloat16, tiles, lines)));
  std::printf("%016llx\n", static_cast<unsigned long long>(run<uint16_t>(k, Storage::kFloat16, tiles, lines)));
  return 0;
}
