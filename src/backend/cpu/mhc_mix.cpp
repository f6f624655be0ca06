#include "backend/cpu/mhc_mix.h"

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

template <int kBytes>
DSV4_INLINE void mhc_collapse_wide(const float* v, const float* weights, int hc_mult, int dim, Bf16* x) {
  for (int k = 0; k < dim; ++k) {
    float sum = 0.0f;
    for (int h = 0; h < hc_mult; ++h) sum += weights[h] * v[h * dim + k];
    x[k] = to_bf16(sum);
  }
}

}  // namespace

DSV4_LEAF(mhc_collapse, (const float* v, const float* weights, int hc_mult, int dim, Bf16* x), (v, weights, hc_mult, dim, x))

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

}  // namespace dsv4::cpu
