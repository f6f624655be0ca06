#include "backend/cpu/mhc_mix.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/dot.h"
#include "backend/cpu/leaf.h"

namespace dsv4::cpu {

void mhc_mixes(const float* v, const float* fn, int num_mixes, int width, float norm_eps, float* m) {
  const float mean = dot(v, v, width) / static_cast<float>(width);
  const float factor = 1.0f / std::sqrt(mean + norm_eps);
  for (int j = 0; j < num_mixes; ++j) m[j] = dot(fn + static_cast<int64_t>(j) * width, v, width) * factor;
}

namespace {

inline constexpr int kChunk = 64;  // elements whose sums stay in registers

template <int kBytes>
DSV4_INLINE void mhc_collapse_wide(const float* v, const float* weights, int hc_mult, int dim, Bf16* x) {
  for (int begin = 0; begin < dim; begin += kChunk) {
    const int count = std::min(kChunk, dim - begin);
    float sum[kChunk] = {};
    for (int h = 0; h < hc_mult; ++h) {
      const float* stream = v + h * dim + begin;
      for (int k = 0; k < count; ++k) sum[k] += weights[h] * stream[k];
    }
    for (int k = 0; k < count; ++k) x[begin + k] = to_bf16(sum[k]);
  }
}

}  // namespace

DSV4_LEAF(mhc_collapse, (const float* v, const float* weights, int hc_mult, int dim, Bf16* x), (v, weights, hc_mult, dim, x))

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

}  // namespace dsv4::cpu
